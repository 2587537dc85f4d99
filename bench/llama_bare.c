// What the engine itself takes: a bare process that loads the model, reads a prompt and writes a few
// tokens, without a server around it. bench/memory.sh subtracts it from what the nodes take.
//
//   build/bench/llama_bare MODEL CTX SEQS PROMPT GEN   -> {"anonymous_bytes":..,"resident_bytes":..}
#include "base/buf.h"
#include "engine/engine.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int rows_step(struct engine *g, uint32_t p0, uint32_t n, bool logits, struct err *e)
{
    struct engine_row *rows = mem_alloc(n * sizeof *rows);
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct engine_row){
            .token = (int32_t)(1000 + (p0 + i) * 37 % 20000), .pos = p0 + i, .want_logits = logits};
    int rc = g->ops->step(g, rows, n, e);
    free(rows);
    return rc;
}

static int work(struct engine *g, uint32_t prompt, uint32_t gen, struct err *e)
{
    uint32_t p0 = 0;
    int rc = 0;
    while (p0 < prompt && rc == 0) {
        uint32_t n = prompt - p0 < g->limits.n_batch ? prompt - p0 : g->limits.n_batch;
        rc = rows_step(g, p0, n, false, e);
        p0 += n;
    }
    for (uint32_t i = 0; i < gen && rc == 0; i++)
        rc = rows_step(g, prompt + i, 1, true, e);
    return rc;
}

int main(int argc, char **argv)
{
    struct engine_options o;
    struct engine *g = NULL;
    struct os_memory m = {0};
    struct err e = {0};
    if (argc != 6) {
        fprintf(stderr, "usage: llama_bare MODEL CTX SEQS PROMPT GEN\n");
        return 2;
    }
    engine_options_default(&o);
    o.model = argv[1];
    o.n_ctx = (uint32_t)strtoul(argv[2], NULL, 10);
    o.n_seq = (uint32_t)strtoul(argv[3], NULL, 10);
    o.n_threads = 1;
    int rc = engine_open(&o, &g, &e);
    if (rc == 0)
        rc =
            work(g, (uint32_t)strtoul(argv[4], NULL, 10), (uint32_t)strtoul(argv[5], NULL, 10), &e);
    if (rc == 0)
        rc = os_memory_get(getpid(), &m);
    if (g != NULL)
        g->ops->free(g);
    if (rc != 0) {
        fprintf(stderr, "llama_bare: %s\n", e.message);
        return 1;
    }
    printf("{\"anonymous_bytes\":%llu,\"resident_bytes\":%llu}\n",
           (unsigned long long)m.anonymous_bytes, (unsigned long long)m.resident_bytes);
    return 0;
}
