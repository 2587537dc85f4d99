// A fleet with its links, its queues and one request, for tests of placement.
#ifndef TESTS_PLACE_RIG_H
#define TESTS_PLACE_RIG_H

#include "sched/place_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NODES 40
#define NONE PLACE_NO_NODE

// A fleet with its links, and what a call needs.
struct fleet {
    struct profile profiles[NODES];
    struct place_node nodes[NODES];
    struct place_link links[NODES][NODES];
    struct place_held held[NODES];
    struct place_nodes view;
    struct place_request r;
    struct place_scratch scratch[NODES];
    struct place_plan plans[64];
    struct place_table table;
    char names[NODES][24];
};

static inline struct place_link link_between(void *ctx, size_t from, size_t to)
{
    const struct fleet *f = ctx;
    return f->links[from][to];
}

// One that reads `read` and writes `write` tokens per second, whatever the depth.
static inline struct profile machine(double read, double write)
{
    struct profile p;
    profile_defaults(&p);
    p.read_request_s = p.read_chunk_s = p.read_pair_s = p.row_depth_s = 0;
    p.row_s = 0.1 / write;
    p.step_s = 0.9 / write;
    p.read_token_s = 1 / read;
    p.export_byte_s = p.import_byte_s = 0;
    p.n_ctx = 32768;
    return p;
}

static inline void fleet_init(struct fleet *f, size_t n)
{
    memset(f, 0, sizeof(*f));
    for (size_t i = 0; i < n; i++) {
        snprintf(f->names[i], sizeof(f->names[i]), "n%zu", i);
        f->profiles[i] = machine(1000, 50);
        f->nodes[i] = (struct place_node){.name = f->names[i],
                                          .id = 1000 + i,
                                          .profile = &f->profiles[i],
                                          .up = true,
                                          .roles = PLACE_READS | PLACE_WRITES,
                                          .group = 1,
                                          .streams = true,
                                          .splits = true,
                                          .free_seqs = 4,
                                          .free_cells = 32768};
        for (size_t k = 0; k < n; k++)
            f->links[i][k] = (struct place_link){1e-4, 1.25e9, 0};
    }
    f->view = (struct place_nodes){
        .nodes = f->nodes, .n = n, .link = link_between, .link_ctx = f, .home = 0};
    place_request_defaults(&f->r);
    f->r.prompt_tokens = 4096;
    f->r.answer_tokens = 64;
    f->r.held = f->held;
    f->table.plans = f->plans;
    f->table.max = sizeof(f->plans) / sizeof(f->plans[0]);
}

// The pair of the well-known demonstration: n0 the Mac, n1 the Spark; Llama-3.1-8B F16.
static inline void pair_init(struct fleet *f)
{
    fleet_init(f, 2);
    f->profiles[0] = machine(8192 / 5.57, 32 / 0.85);
    f->profiles[1] = machine(8192 / 1.47, 32 / 2.87);
    f->names[0][0] = 'm';
    f->names[1][0] = 's';
    f->r.prompt_tokens = 8192;
    f->r.answer_tokens = 32;
}

static inline const struct place_plan *choose(struct fleet *f)
{
    int rc = place_choose(&f->view, &f->r, f->scratch, &f->table);
    if (rc != 0)
        fail_msg("refused: %s", f->table.refusal);
    return &f->table.plans[0];
}

static inline void near(double got, double wanted, double within)
{
    if (!(fabs(got - wanted) <= within * fabs(wanted)))
        fail_msg("%.6g, not %.6g", got, wanted);
}

static inline const struct place_plan *plan_find(const struct fleet *f, enum place_kind kind,
                                                 size_t d)
{
    for (size_t i = 0; i < f->table.n; i++)
        if (f->table.plans[i].kind == kind && f->table.plans[i].decode == d)
            return &f->table.plans[i];
    fail_msg("no %s on %zu", place_kind_name(kind), d);
    return NULL;
}

#endif
