// What it does to an answer when the machine that reads the prompt holds other weights of the model than the one
// that writes: bench/mixed.sh.
//
//   llama_mixed TEXT DECODE.gguf PREFILL.gguf...
//
// Windows of the text: a prompt of PROMPT tokens, then ANSWER positions whose next tokens are the text's own, so that
// every run sees the same. Three runs of each window: D alone, P's KV with D going on from it, and P alone.
// KL divergence is that of the second and third from the first, in nats, of the whole distribution.
#include "base/buf.h"
#include "base/json.h"
#include "engine/engine.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT 256u
#define ANSWER 64u
#define WINDOWS 4u
#define MODELS_MAX 8
#define ROWS 8u // with logits in one step
#define TEXT_MAX (1u << 20)

struct comparison {
    double *kl; // WINDOWS * ANSWER
    size_t n, same_top;
    size_t first_sum; // positions before the first other top token, over windows
};

static void give_up(const struct err *e)
{
    fprintf(stderr, "llama_mixed: %s\n", e->message);
    exit(1);
}

static struct engine *open_model(const char *path)
{
    struct engine_options o;
    struct engine *g = NULL;
    struct err e = {0};
    engine_options_default(&o);
    o.model = path;
    o.n_ctx = 1024;
    o.n_seq = 1;
    o.n_threads = 1;
    o.handoff = ENGINE_HANDOFF_RANGES;
    if (engine_open(&o, &g, &e) != 0)
        give_up(&e);
    return g;
}

static void compute(struct engine *g, const int32_t *tokens, uint32_t p0, uint32_t p1, bool logits)
{
    struct engine_row rows[PROMPT];
    struct err e = {0};
    for (uint32_t p = p0; p < p1; p++)
        rows[p - p0] = (struct engine_row){.token = tokens[p], .pos = p, .want_logits = logits};
    if (g->ops->step(g, rows, p1 - p0, &e) != 0)
        give_up(&e);
}

static void forget(struct engine *g)
{
    struct err e = {0};
    if (g->ops->remove(g, 0, 0, UINT32_MAX, &e) != 0)
        give_up(&e);
}

// Logarithms of the probabilities.
static void normalise(const float *logits, uint32_t n, float *out)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        most = (double)logits[i] > most ? (double)logits[i] : most;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)((double)logits[i] - most - log(sum));
}

// The distributions after the tokens at PROMPT - 1 and the ANSWER - 1 behind it.
static void answer(struct engine *g, const int32_t *tokens, float *out)
{
    uint32_t n_vocab = g->identity.n_vocab;
    for (uint32_t done = 0; done < ANSWER; done += ROWS) {
        compute(g, tokens, PROMPT - 1 + done, PROMPT - 1 + done + ROWS, true);
        for (uint32_t i = 0; i < ROWS; i++)
            normalise(g->ops->logits(g, i), n_vocab, out + (size_t)(done + i) * n_vocab);
    }
}

static void hand_over(struct engine *p, struct engine *d)
{
    struct err e = {0};
    size_t len = 0, cap = p->ops->export_bytes(p, 0, 0, PROMPT - 1, true);
    void *data = mem_alloc(cap);
    int rc = p->ops->export_start(p, 0, 0, PROMPT - 1, true, data, cap, &e);
    if (rc == 0 && p->ops->export_poll(p, &len, &e) != ENGINE_EXPORT_DONE)
        rc = e.code;
    if (rc == 0)
        rc = d->ops->import(d, 0, 0, PROMPT - 1, true, data, len, &e);
    if (rc != 0)
        give_up(&e);
    free(data);
}

static uint32_t top_of(const float *logprobs, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = logprobs[i] > logprobs[best] ? i : best;
    return best;
}

static void compare(struct comparison *c, const float *truth, const float *other, uint32_t n_vocab)
{
    bool apart = false;
    for (uint32_t p = 0; p < ANSWER; p++) {
        const float *t = truth + (size_t)p * n_vocab, *o = other + (size_t)p * n_vocab;
        double kl = 0;
        for (uint32_t i = 0; i < n_vocab; i++)
            kl += exp((double)t[i]) * ((double)t[i] - (double)o[i]);
        c->kl[c->n++] = kl > 0 ? kl : 0;
        bool same = top_of(t, n_vocab) == top_of(o, n_vocab);
        apart = apart || !same;
        c->same_top += same;
        c->first_sum += !apart;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static json_t *comparison_json(struct comparison *c)
{
    double sum = 0;
    for (size_t i = 0; i < c->n; i++)
        sum += c->kl[i];
    qsort(c->kl, c->n, sizeof *c->kl, ascending);
    json_t *o = json_object();
    json_put(o, "positions", json_integer((json_int_t)c->n));
    json_put(o, "kl_mean", json_real(sum / (double)c->n));
    json_put(o, "kl_median", json_real(c->kl[c->n / 2]));
    json_put(o, "kl_p99", json_real(c->kl[c->n * 99 / 100]));
    json_put(o, "kl_max", json_real(c->kl[c->n - 1]));
    json_put(o, "top1_agreement", json_real((double)c->same_top / (double)c->n));
    json_put(o, "mean_tokens_before_first_difference", json_real((double)c->first_sum / WINDOWS));
    free(c->kl);
    return o;
}

// One that reads, and what came of it.
struct reader {
    struct engine *engine;
    struct comparison mixed, alone;
};

static void reader_open(struct reader *r, const char *path)
{
    *r = (struct reader){.engine = open_model(path)};
    r->mixed.kl = mem_alloc(WINDOWS * ANSWER * sizeof(double));
    r->alone.kl = mem_alloc(WINDOWS * ANSWER * sizeof(double));
}

static json_t *reader_json(struct reader *r, const struct engine *d)
{
    json_t *o = json_object();
    json_put(o, "prefill", json_string(r->engine->identity.weights));
    json_put(o, "decode", json_string(d->identity.weights));
    json_put(o, "mixed", comparison_json(&r->mixed));
    json_put(o, "prefill_weights_alone", comparison_json(&r->alone));
    r->engine->ops->free(r->engine);
    return o;
}

static void measure(struct engine *d, struct reader *readers, size_t n, const int32_t *tokens)
{
    size_t bytes = (size_t)ANSWER * d->identity.n_vocab * sizeof(float);
    float *truth = mem_alloc(bytes), *other = mem_alloc(bytes);
    compute(d, tokens, 0, PROMPT - 1, false);
    answer(d, tokens, truth);
    forget(d);
    for (size_t i = 0; i < n; i++) {
        struct engine *p = readers[i].engine;
        compute(p, tokens, 0, PROMPT - 1, false);
        hand_over(p, d);
        answer(d, tokens, other);
        compare(&readers[i].mixed, truth, other, d->identity.n_vocab);
        answer(p, tokens, other);
        compare(&readers[i].alone, truth, other, d->identity.n_vocab);
        forget(d);
        forget(p);
    }
    free(truth);
    free(other);
}

static int32_t *text_tokens(struct engine *g, const char *path)
{
    struct err e = {0};
    char *text = NULL;
    int32_t *tokens = NULL;
    size_t len = 0, n = 0;
    int rc = os_file_read(path, TEXT_MAX, &text, &len, &e);
    if (rc == 0)
        rc = g->ops->tokenize(g, text, len, false, false, &tokens, &n, &e);
    if (rc == 0 && n < WINDOWS * (PROMPT + ANSWER))
        rc = err_set(&e, ERR_RANGE, "%s has %zu tokens; %u are needed", path, n,
                     WINDOWS * (PROMPT + ANSWER));
    if (rc != 0)
        give_up(&e);
    free(text);
    return tokens;
}

int main(int argc, char **argv)
{
    static struct reader readers[MODELS_MAX];
    size_t n = argc > 3 ? (size_t)argc - 3 : 0;
    if (n == 0 || n > MODELS_MAX) {
        fprintf(stderr, "usage: llama_mixed TEXT DECODE.gguf PREFILL.gguf...   (at most %d)\n",
                MODELS_MAX);
        return 2;
    }
    struct engine *d = open_model(argv[2]);
    int32_t *tokens = text_tokens(d, argv[1]);
    json_t *all = json_object(), *rows = json_array();
    for (size_t i = 0; i < n; i++)
        reader_open(&readers[i], argv[3 + i]);
    for (uint32_t w = 0; w < WINDOWS; w++) {
        measure(d, readers, n, tokens + w * (PROMPT + ANSWER));
        fprintf(stderr, "window %u of %u\n", w + 1, WINDOWS);
    }
    for (size_t i = 0; i < n; i++)
        json_array_append_new(rows, reader_json(&readers[i], d));
    json_put(all, "model", json_string(d->identity.model));
    json_put(all, "prompt_tokens", json_integer(PROMPT));
    json_put(all, "windows", json_integer(WINDOWS));
    json_put(all, "rows", rows);
    json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(4));
    puts("");
    json_decref(all);
    free(tokens);
    d->ops->free(d);
    return 0;
}
