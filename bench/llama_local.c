// The engine as a worker drives it, in the terms of llama-bench: pp = prompt tokens per second from an empty
// cache in one sequence, tg = tokens per second of greedy decoding, each token sampled and fed back.
//
//   llama_local MODEL [THREADS [PROMPT [GENERATE [RUNS]]]]      prints one line of JSON
//
// bench/local.sh runs it and llama-bench in turns and compares.
#include "base/clock.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>

static void must(int rc, const struct err *e)
{
    if (rc == 0)
        return;
    fprintf(stderr, "llama_local: %s\n", e->message);
    exit(1);
}

static unsigned number(int argc, char **argv, int i, unsigned otherwise)
{
    return argc > i ? (unsigned)strtoul(argv[i], NULL, 10) : otherwise;
}

static double prompt_run(struct engine *g, uint32_t n)
{
    struct err e = {0};
    struct engine_row *rows = calloc(g->limits.n_batch, sizeof *rows);
    must(g->ops->remove(g, 0, 0, UINT32_MAX, &e), &e);
    int64_t began = clock_now_ns();
    for (uint32_t p = 0; p < n; p += g->limits.n_batch) {
        uint32_t piece = n - p < g->limits.n_batch ? n - p : g->limits.n_batch;
        for (uint32_t i = 0; i < piece; i++)
            rows[i] = (struct engine_row){.token = (int32_t)((p + i) * 7919u % g->identity.n_vocab),
                                          .pos = p + i,
                                          .want_logits = p + i + 1 == n};
        must(g->ops->step(g, rows, piece, &e), &e);
    }
    double seconds = ns_to_s(clock_now_ns() - began);
    free(rows);
    return n / seconds;
}

static double generate_run(struct engine *g, uint32_t n)
{
    struct err e = {0};
    struct engine_sampling s;
    struct engine_sampler *sampler = NULL;
    struct engine_row row = {.token = 1, .want_logits = true};
    engine_sampling_default(&s);
    s.temperature = 0;
    must(g->ops->sampler_new(g, &s, &sampler, &e), &e);
    must(g->ops->remove(g, 0, 0, UINT32_MAX, &e), &e);
    int64_t began = clock_now_ns();
    for (row.pos = 0; row.pos < n; row.pos++) {
        must(g->ops->step(g, &row, 1, &e), &e);
        row.token = g->ops->sample(g, sampler, 0);
    }
    double seconds = ns_to_s(clock_now_ns() - began);
    g->ops->sampler_free(g, sampler);
    return n / seconds;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
    qsort(values, n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

#define RUNS_MAX 64

int main(int argc, char **argv)
{
    struct engine_options o;
    struct engine *g = NULL;
    struct err e = {0};
    double pp[RUNS_MAX], tg[RUNS_MAX];
    if (argc < 2) {
        fprintf(stderr, "usage: llama_local MODEL [THREADS [PROMPT [GENERATE [RUNS]]]]\n");
        return 2;
    }
    engine_options_default(&o);
    o.model = argv[1];
    o.n_threads = (int)number(argc, argv, 2, 1);
    unsigned prompt = number(argc, argv, 3, 512), generate = number(argc, argv, 4, 64);
    unsigned runs = number(argc, argv, 5, 3);
    if (runs < 1 || runs > RUNS_MAX || prompt < 1 || generate < 1)
        return 2;
    o.n_ctx = (prompt > generate ? prompt : generate) + 64;
    must(engine_open(&o, &g, &e), &e);
    prompt_run(g,
               prompt); // the first touch of weights and buffers is not measured, as in llama-bench
    for (unsigned i = 0; i < runs; i++)
        pp[i] = prompt_run(g, prompt);
    generate_run(g, 4);
    for (unsigned i = 0; i < runs; i++)
        tg[i] = generate_run(g, generate);
    printf("{\"pp\": %.3f, \"tg\": %.3f}\n", median(pp, runs), median(tg, runs));
    g->ops->free(g);
    return 0;
}
