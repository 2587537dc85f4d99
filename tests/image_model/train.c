// Adam on two threads, and a check of the gradients.
#include "tests/image_model/train.h"

#include "base/buf.h"
#include "base/clock.h"
#include "tests/image_model/data.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 2
#define WARM_UP 100 // steps
#define BETA1 0.9f
#define BETA2 0.99f
#define REPORT_NS (10 * NS_PER_S)
#define PI 3.14159265358979

struct share {
    const struct network *n;
    struct work *work;
    const struct data_words *words;
    struct sample sample;
    uint64_t state;
    int samples; // of each step
    float *grad;
    double error;
};

static void *share_run(void *arg)
{
    struct share *s = arg;
    s->error = 0;
    memset(s->grad, 0, (size_t)s->n->n_values * sizeof *s->grad);
    for (int i = 0; i < s->samples; i++) {
        data_sample(&s->sample, s->words, &s->state);
        s->error += network_run(s->n, s->work, &s->sample, s->grad);
    }
    return NULL;
}

struct adam {
    float *mean, *square;
    long step;
};

static void adam_step(struct network *n, struct adam *a, const float *grad, float rate)
{
    double length = 0;
    for (int i = 0; i < n->n_values; i++)
        length += (double)(grad[i] * grad[i]);
    float clip = length > 1 ? (float)(1 / sqrt(length)) : 1;
    a->step++;
    float c1 = 1 - powf(BETA1, (float)a->step), c2 = 1 - powf(BETA2, (float)a->step);
    for (int i = 0; i < n->n_values; i++) {
        float g = grad[i] * clip;
        a->mean[i] = BETA1 * a->mean[i] + (1 - BETA1) * g;
        a->square[i] = BETA2 * a->square[i] + (1 - BETA2) * g * g;
        n->values[i] -= rate * (a->mean[i] / c1) / (sqrtf(a->square[i] / c2) + 1e-8f);
    }
}

// Runs both shares and leaves the mean gradient in the first; returns the mean error.
static double batch_run(struct share shares[THREADS], int batch)
{
    pthread_t thread;
    int n = shares[0].n->n_values;
    bool apart = pthread_create(&thread, NULL, share_run, &shares[1]) == 0;
    share_run(&shares[0]);
    if (apart)
        pthread_join(thread, NULL);
    else
        share_run(&shares[1]);
    for (int i = 0; i < n; i++)
        shares[0].grad[i] = (shares[0].grad[i] + shares[1].grad[i]) / (float)batch;
    return (shares[0].error + shares[1].error) / batch;
}

static float rate_at(const struct train_run *r, long step)
{
    double warm = step < WARM_UP ? (double)step / WARM_UP : 1;
    return r->rate * (float)(warm * (0.5 * (1 + cos(PI * (double)step / (double)r->steps)) + 0.01));
}

static void shares_init(struct share shares[THREADS], const struct network *n,
                        const struct data_words *words, const struct train_run *r)
{
    for (int i = 0; i < THREADS; i++) {
        shares[i].n = n;
        shares[i].words = words;
        shares[i].work = work_new();
        shares[i].grad = mem_alloc((size_t)n->n_values * sizeof(float));
        shares[i].state = r->seed + 1 + ((uint64_t)i << 40);
        shares[i].samples = (r->batch + i) / THREADS;
    }
}

void train_network(struct network *n, const struct train_run *r)
{
    struct share *shares = mem_alloc(THREADS * sizeof *shares);
    struct data_words words;
    size_t bytes = (size_t)n->n_values * sizeof(float);
    struct adam a = {mem_alloc(bytes), mem_alloc(bytes), 0};
    int64_t begun = clock_now_ns(), told = begun;
    double error = 1;
    data_words_fill(&words);
    shares_init(shares, n, &words, r);
    for (long step = 1; step <= r->steps; step++) {
        error = 0.98 * error + 0.02 * batch_run(shares, r->batch);
        adam_step(n, &a, shares[0].grad, rate_at(r, step));
        if (step == r->steps || clock_now_ns() - told > REPORT_NS) {
            told = clock_now_ns();
            fprintf(stderr, "step %ld of %ld  error %.4f  %.0f s\n", step, r->steps, error,
                    ns_to_s(told - begun));
        }
    }
    for (int i = 0; i < THREADS; i++) {
        work_free(shares[i].work);
        free(shares[i].grad);
    }
    free(a.mean);
    free(a.square);
    free(shares);
}

// ---- the check -----------------------------------------------------------------------------------

// The value with the largest gradient of each tensor: small ones drown in the rounding of 32-bit floats.
static int steepest(const struct network_tensor *t, const float *grad)
{
    int best = t->offset;
    for (int i = t->offset; i < t->offset + t->count; i++)
        best = fabsf(grad[i]) > fabsf(grad[best]) ? i : best;
    return best;
}

static bool gradient_check(struct network *n, struct work *w, struct sample *s, int at, float grad)
{
    float old = n->values[at], h = 4e-3f;
    n->values[at] = old + h;
    double up = network_run(n, w, s, NULL);
    n->values[at] = old - h;
    double down = network_run(n, w, s, NULL);
    n->values[at] = old;
    double wanted = s->weight * (up - down) / (2 * h);
    return fabs(grad - wanted) <= 0.03 * fabs(wanted) + 2e-4;
}

bool train_gradients_check(void)
{
    struct network n;
    struct data_words words;
    struct sample *s = mem_alloc(sizeof *s);
    struct work *w = work_new();
    uint64_t state = 77;
    bool good = true;
    network_init(&n, 5);
    data_words_fill(&words);
    for (int wanted = 0; wanted <= CAPTION_TOKENS; wanted += CAPTION_TOKENS) {
        float *grad = mem_alloc((size_t)n.n_values * sizeof *grad);
        do
            data_sample(s, &words, &state);
        while (s->n_context != wanted);
        network_run(&n, w, s, grad);
        for (int i = 0; i < n.n_tensors; i++) {
            int at = steepest(&n.tensors[i], grad);
            bool right = gradient_check(&n, w, s, at, grad[at]);
            if (!right)
                fprintf(stderr, "wrong gradient: %s\n", n.tensors[i].name);
            good &= right;
        }
        free(grad);
    }
    network_fini(&n);
    work_free(w);
    free(s);
    return good;
}
