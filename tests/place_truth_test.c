// Placement against machines that are not what its formulas say: times come from the catalogue's cost model with
// its floors and mixtures, hand-offs from the worker's own chunk schedule, with a setup and with noise. A node measures
// itself, ten requests are learned from, and then every cell of a grid of prompts, answers, links and
// prefixes is decided and compared with the best that could have been done.
#include "base/random.h"
#include "kv/kv.h"
#include "sched/place.h"
#include "sched/profile_measure.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NONE PLACE_NO_NODE
#define SETUP_S 0.012
#define RTT_S 4e-4

// Llama-3.1-8B in 8 bits, and a mixture of its size.
static const struct cost_model models[] = {
    {.layers = 32,
     .fixed_bytes = 8e9,
     .routed_share = 1,
     .token_flops = 15e9,
     .head_flops = 1e9,
     .full_kv_bytes = 131072,
     .full_pair_flops = 524288},
    {.layers = 32,
     .fixed_bytes = 1.5e9,
     .routed_bytes = 6.5e9,
     .routed_share = 0.12,
     .token_flops = 4e9,
     .head_flops = 0.5e9,
     .full_kv_bytes = 65536,
     .full_pair_flops = 262144},
};

// One that computes and one that reads memory fast.
static const struct cost_rates rates[] = {
    {.weight_s = 1 / 640e9,
     .kv_s = 1 / 500e9,
     .flop_s = 1 / 22e12,
     .pair_s = 1 / 12e12,
     .floor_s = 1 / 1500e9,
     .deep = 0.1,
     .layer_s = 8e-6},
    {.weight_s = 1 / 230e9,
     .kv_s = 1 / 200e9,
     .flop_s = 1 / 75e12,
     .pair_s = 1 / 40e12,
     .floor_s = 1 / 500e9,
     .deep = 0.05,
     .layer_s = 12e-6},
};

struct pair {
    const struct cost_model *model;
    double link_bytes_per_s;
    struct profile_book books[2];
    struct profile_link_book links[2]; // up: from i to the other
    struct place_node nodes[2];
    uint64_t random;
    double noise;
};

static double noisy(struct pair *t, double seconds)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += (double)(random_next(&t->random) >> 11) * 0x1p-53;
    return seconds * exp(t->noise * sum);
}

static double true_read_s(const struct pair *t, size_t node, double tokens, double depth)
{
    const struct cost_work w = {.tokens = tokens, .depth = depth, .batch = 1, .chunk = 512};

    return tokens > 0 ? cost_prefill(t->model, &rates[node], &w).total_s : 0;
}

static double true_step_s(const struct pair *t, size_t node, double rows, double depth)
{
    const struct cost_work w = {.tokens = 1, .depth = depth, .batch = rows};

    return cost_decode(t->model, &rates[node], &w).total_s;
}

// What the worker's schedule makes of it: until the last byte is in.
static double true_handoff_s(const struct pair *t, size_t p, uint32_t held_p, uint32_t upto)
{
    uint32_t ends[256];
    double read_s = true_read_s(t, p, upto - held_p, held_p);
    struct kv_schedule_options o = {
        .chunk_tokens = 512,
        .min_chunk_tokens = 64,
        .tile_layers = 32,
        .rates = {.chunk_tokens_per_s = read_s > 0 ? (upto - held_p) / read_s : 1e9,
                  .chunk_floor_s = true_read_s(t, p, 1, 0),
                  .link_bytes_per_s = t->link_bytes_per_s,
                  .kv_bytes_per_token = t->model->full_kv_bytes}};
    size_t n = kv_schedule_make(&o, held_p, upto, ends, 256);
    double held_s = held_p * t->model->full_kv_bytes / t->link_bytes_per_s;
    double end_s = n > 0 ? kv_schedule_end_s(&o, held_p, ends, n).end_s : 0;
    double all_s = upto * t->model->full_kv_bytes / t->link_bytes_per_s;

    // What P holds goes first, while it reads.
    return fmax(fmax(end_s, SETUP_S + all_s), held_s) + RTT_S;
}

struct cell {
    uint32_t prompt, answer, held_d,
        held_p; // held by the node that writes, and that reads elsewhere
};

struct outcome {
    double read_s, handed_s, arrived_s, answer_s, total_s;
};

// What really happens; node 0 is D of the only pair that matters, but any plan can be asked for.
static struct outcome happen(const struct pair *t, const struct cell *c, size_t d, size_t p,
                             uint32_t upto)
{
    uint32_t last = c->prompt - 1;
    uint32_t held_d = d == 0 ? c->held_d : c->held_p, held_p = d == 0 ? c->held_p : c->held_d;
    struct outcome o = {0};

    if (p == NONE) {
        o.read_s = true_read_s(t, d, last - held_d, held_d);
        o.arrived_s = o.read_s;
    } else {
        o.read_s = true_read_s(t, p, upto - held_p, held_p);
        o.handed_s = true_handoff_s(t, p, held_p, upto);
        o.arrived_s = o.handed_s + true_read_s(t, d, last - upto, upto);
    }
    for (uint32_t i = 0; i < c->answer; i++)
        o.answer_s += true_step_s(t, d, 1, c->prompt + i);
    o.total_s = o.arrived_s + o.answer_s;
    return o;
}

static struct place_link link_between(void *ctx, size_t from, size_t to)
{
    const struct pair *t = ctx;
    const struct profile_link *l = &t->links[from].link;

    (void)to;
    return (struct place_link){
        .rtt_s = l->rtt_s, .bytes_per_s = l->up_bytes_per_s, .setup_s = l->setup_s};
}

static void node_measure(struct pair *t, size_t i)
{
    struct profile_measure m;
    struct profile_measurement w;
    double spent = 0;

    profile_measure_begin(&m, &t->books[i], PROFILE_MEASURE_S);
    while (profile_measure_next(&m, &t->books[i], &w)) {
        double s = w.reads ? true_read_s(t, i, w.tokens, w.depth)
                           : w.steps * true_step_s(t, i, w.rows, w.depth + w.steps / 2);
        spent += s;
        profile_measure_took(&m, &t->books[i], noisy(t, s));
    }
    assert_true(spent < PROFILE_MEASURE_S);
}

static void pair_init(struct pair *t, const struct cost_model *model, double link_ratio)
{
    memset(t, 0, sizeof(*t));
    t->model = model;
    t->random = 42;
    t->noise = 0.02;
    // So that KV takes so many times as long to cross as P takes to read.
    t->link_bytes_per_s = 4096 * model->full_kv_bytes / (link_ratio * true_read_s(t, 1, 4096, 0));
    for (size_t i = 0; i < 2; i++) {
        const struct profile_link guess = {.rtt_s = RTT_S,
                                           .up_bytes_per_s = noisy(t, t->link_bytes_per_s),
                                           .down_bytes_per_s = t->link_bytes_per_s};
        struct profile p;
        profile_defaults(&p);
        p.kv_token_bytes = model->full_kv_bytes;
        p.export_byte_s = p.import_byte_s = 1e-12;
        p.n_ctx = 32768;
        p.n_seq = 8;
        p.last_tokens = 2;
        profile_book_init(&t->books[i], &p, PROFILE_TRUST_NONE);
        profile_link_init(&t->links[i], &guess, PROFILE_TRUST_MEASURED);
        node_measure(t, i);
        t->nodes[i] = (struct place_node){.name = i ? "spark" : "mac",
                                          .id = i,
                                          .profile = &t->books[i].p,
                                          .up = true,
                                          .roles = PLACE_READS | PLACE_WRITES,
                                          .group = 1,
                                          .streams = true,
                                          .splits = true,
                                          .free_seqs = 8,
                                          .free_cells = 32768};
    }
}

static struct place_plan decide(struct pair *t, const struct cell *c)
{
    const struct place_nodes nodes = {
        .nodes = t->nodes, .n = 2, .link = link_between, .link_ctx = t, .home = 0};
    const struct place_held held[] = {{0, c->held_d}, {1, c->held_p}};
    struct place_scratch scratch[2];
    struct place_plan plans[PLACE_ROWS];
    struct place_table table = {.plans = plans, .max = PLACE_ROWS};
    struct place_request r;

    place_request_defaults(&r);
    r.prompt_tokens = c->prompt;
    r.answer_tokens = c->answer;
    r.held = held;
    r.n_held = 2;
    assert_int_equal(place_choose(&nodes, &r, scratch, &table), 0);
    return plans[0];
}

// As the gateway does when a request is over.
static void learn(struct pair *t, const struct cell *c, const struct place_plan *p,
                  const struct outcome *o)
{
    size_t reader = p->prefill == NONE ? p->decode : p->prefill;
    double held = p->prefill == NONE ? p->held_decode : p->held_prefill;
    double upto = p->prefill == NONE ? c->prompt - 1 : p->upto;
    const struct profile_read r = {
        .tokens = upto - held, .depth = held, .seconds = noisy(t, o->read_s)};
    const struct profile_steps s = {.steps = c->answer,
                                    .rows = 1,
                                    .depth_sum = c->prompt + c->answer / 2.0,
                                    .seconds = noisy(t, o->answer_s)};

    if (upto > held)
        profile_learn_read(&t->books[reader], &r);
    profile_learn_steps(&t->books[p->decode], &s);
    if (p->prefill != NONE)
        profile_learn_handoff(&t->links[reader], o->handed_s, o->read_s, p->transfer_s);
}

static double best_s(const struct pair *t, const struct cell *c)
{
    double best = INFINITY;

    for (size_t d = 0; d < 2; d++) {
        best = fmin(best, happen(t, c, d, NONE, 0).total_s);
        best = fmin(best, happen(t, c, d, 1 - d, c->prompt - 1).total_s);
    }
    return best;
}

struct result {
    double regret_sum, regret_max, error_sum, first_error;
    size_t cells, hybrids, alone;
};

static void cell_run(struct pair *t, const struct cell *c, struct result *res)
{
    struct place_plan p = decide(t, c);
    struct outcome o = happen(t, c, p.decode, p.prefill, p.upto);
    double regret = o.total_s / fmin(best_s(t, c), o.total_s) - 1;

    res->regret_sum += regret;
    res->regret_max = fmax(res->regret_max, regret);
    res->error_sum += fabs(p.total_s / o.total_s - 1);
    res->cells++;
    res->hybrids += p.prefill != NONE;
    res->alone += p.prefill == NONE;
}

static void grid_run(struct pair *t, struct result *res)
{
    static const uint32_t prompts[] = {32, 128, 512, 2048, 8192}, answers[] = {1, 32, 512};

    for (size_t i = 0; i < 5; i++)
        for (size_t k = 0; k < 3; k++)
            for (int warm = 0; warm < 3; warm++) {
                uint32_t held = prompts[i] * 3 / 4;
                struct cell c = {prompts[i], answers[k], warm == 1 ? held : 0,
                                 warm == 2 ? held : 0};
                cell_run(t, &c, res);
            }
}

static void learn_ten(struct pair *t, struct result *res)
{
    static const struct cell seen[] = {
        {900, 40, 0, 0}, {60, 120, 0, 0},  {3000, 20, 0, 0},  {200, 8, 0, 0},   {5000, 90, 0, 0},
        {32, 300, 0, 0}, {1500, 60, 0, 0}, {700, 30, 0, 640}, {7000, 10, 0, 0}, {400, 200, 0, 0}};

    for (size_t i = 0; i < 10; i++) {
        struct place_plan p = decide(t, &seen[i]);
        struct outcome o = happen(t, &seen[i], p.decode, p.prefill, p.upto);
        if (i == 0)
            res->first_error = fmax(res->first_error, fabs(p.total_s / o.total_s - 1));
        learn(t, &seen[i], &p, &o);
    }
}

static void test_grid(void **state)
{
    static const double ratios[] = {0.05, 0.3, 1, 3};
    struct result res = {0};

    (void)state;
    for (size_t m = 0; m < 2; m++)
        for (size_t i = 0; i < 4; i++) {
            static struct pair t;
            pair_init(&t, &models[m], ratios[i]);
            learn_ten(&t, &res);
            grid_run(&t, &res);
        }
    double regret = res.regret_sum / (double)res.cells, mape = res.error_sum / (double)res.cells;
    print_message("%zu cells, %zu hybrid: regret %.2f %%, at worst %.1f %%; error %.1f %%, of the "
                  "first request %.1f %%\n",
                  res.cells, res.hybrids, 100 * regret, 100 * res.regret_max, 100 * mape,
                  100 * res.first_error);
    assert_true(regret < 0.03 && res.regret_max < 0.15);
    assert_true(mape < 0.08 && res.first_error < 0.2);
    // Both kinds are right in some cells: a rule that always says the same would not pass.
    assert_true(res.hybrids * 5 > res.cells && res.alone * 5 > res.cells);
}

// The measuring keeps within its budget on machines of all speeds, and within the node.
static void test_measuring(void **state)
{
    (void)state;
    for (double slow = 1e-3; slow < 1e4; slow *= 3)
        for (double n_ctx = 256; n_ctx < 40000; n_ctx *= 4) {
            struct profile p;
            struct profile_book b;
            struct profile_measure m;
            struct profile_measurement w;
            double spent = 0;
            size_t n = 0;
            profile_defaults(&p);
            p.n_ctx = n_ctx;
            p.n_seq = 2;
            profile_book_init(&b, &p, PROFILE_TRUST_NONE);
            profile_measure_begin(&m, &b, 15);
            for (; profile_measure_next(&m, &b, &w); n++) {
                double s =
                    slow * (w.reads ? profile_read_s(&p, w.tokens, w.depth)
                                    : w.steps * profile_step_s(&p, w.rows, w.rows * w.depth));
                assert_true(w.depth + w.tokens + w.steps <= n_ctx && w.rows <= 2);
                assert_true(n < PROFILE_MEASURES);
                spent += n >= 2 ? s : 0; // the first two are made at any price
                profile_measure_took(&m, &b, n == 4 ? NAN : s);
            }
            assert_true(n >= 2 && spent < 20);
            assert_true(fabs(log(b.p.read_token_s / p.read_token_s / slow)) < 0.7);
            assert_false(profile_measure_next(&m, &b, &w));
            profile_measure_took(&m, &b, 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_grid),
                                       cmocka_unit_test(test_measuring)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
