// The simulator against what is known without one: closed forms of queues, sums that must agree, formulas of
// sched/cost.h step by step, and what must hold whatever the load is.
#include "base/random.h"
#include "plan/sim.h"
#include "plan/sim_find.h"
#include "tests/sim_rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NEAR(a, b, share) near_check(a, b, share, __LINE__)

static void near_check(double a, double b, double share, int line)
{
    if (!(fabs(a - b) <= share * fabs(b) + 1e-9))
        fail_msg("line %d: %.9g is not within %g of %.9g", line, a, share, b);
}

// ---- helpers -------------------------------------------------------------------------------------------

static double uniform(uint64_t *random)
{
    return ((double)(random_next(random) >> 11) + 0.5) * 0x1p-53;
}

static void fleet_add(struct sim_fleet *f, struct sim_member m)
{
    struct err e = {0};
    int rc = sim_fleet_add(f, m.link != NULL || m.machine != NULL ? catalogue : NULL, &m, &e);
    if (rc != 0)
        fprintf(stderr, "%s\n", e.message);
    assert_int_equal(rc, 0);
}

static struct sim_result run(const struct sim_fleet *f, const struct sim_load *l,
                             const struct sim_options *o)
{
    struct sim_options usual;
    struct sim_result r;
    struct err e = {0};
    sim_options_defaults(&usual);
    int rc = sim_run(f, l, o != NULL ? o : &usual, &r, &e);
    if (rc != 0)
        fprintf(stderr, "%s\n", e.message);
    assert_int_equal(rc, 0);
    assert_int_equal(r.arrived, r.completed + r.refused);
    return r;
}

static struct sim_result run_rows(const struct sim_fleet *f, struct trace_row *rows, size_t n)
{
    struct trace t = {.rows = rows, .n = n};
    struct sim_load l;
    for (size_t i = 0; i < n; i++)
        if (rows[i].session != TRACE_NO_SESSION && rows[i].session >= t.sessions)
            t.sessions = rows[i].session + 1;
    sim_load_defaults(&l);
    l.trace = &t;
    struct sim_result r = run(f, &l, NULL);
    assert_int_equal(r.arrived, n);
    return r;
}

// ---- queues with a closed form ---------------------------------------------------------------------------

#define QUEUE_ROWS 200000u
#define QUEUE_TOKENS 100000.0 // a mean prompt; long ones, so that whole tokens do not matter

// One node that reads; prompts arrive as a Poisson process. Returns the mean time from arrival to end, in units of the
// mean service time.
static double sojourn(double load, bool exponential, uint32_t slots)
{
    struct sim_fleet f;
    struct trace_row *rows = calloc(QUEUE_ROWS, sizeof *rows);
    uint64_t random = 11;
    double at = 0;
    for (uint32_t i = 0; i < QUEUE_ROWS; i++) {
        double length = exponential ? -QUEUE_TOKENS * log(uniform(&random)) : QUEUE_TOKENS;
        at -= log(uniform(&random)) / load;
        rows[i] = (struct trace_row){at, (uint32_t)fmax(length, 1), 1, TRACE_NO_SESSION};
    }
    sim_fleet_init(&f, NULL, NULL);
    fleet_add(&f, (struct sim_member){.read_tokens_per_s = QUEUE_TOKENS,
                                      .write_tokens_per_s = 1e9,
                                      .slots = slots,
                                      .count = 1});
    f.kinds[0].in_turns = true; // the order that there is a form for
    struct sim_result r = run_rows(&f, rows, QUEUE_ROWS);
    assert_int_equal(r.completed, QUEUE_ROWS);
    double mean = r.total.mean;
    NEAR(r.kinds[0].read_share, load, 0.01);
    sim_result_fini(&r);
    sim_fleet_fini(&f);
    free(rows);
    return mean;
}

// M/M/1, in turns or one after the other: 1 / (1 - load). M/D/1 in turns: the same, whatever the lengths are
// distributed like; one after the other: 1 + load / (2 (1 - load)) (Pollaczek and Khinchine).
static void queue_forms(void **state)
{
    (void)state;
    for (int i = 3; i <= 8; i += 5) {
        double load = i / 10.0;
        NEAR(sojourn(load, true, SIM_SLOTS_MAX), 1 / (1 - load), 0.05);
        NEAR(sojourn(load, false, SIM_SLOTS_MAX), 1 / (1 - load), 0.05);
        NEAR(sojourn(load, true, 1), 1 / (1 - load), 0.05);
        NEAR(sojourn(load, false, 1), 1 + load / (2 * (1 - load)), 0.03);
    }
}

// ---- whose chunk is read ---------------------------------------------------------------------------------

// Prompts of 24 and 48 chunks that come together, a second each. Returns the mean time until they are read.
static double two_prompts(bool in_turns)
{
    struct trace_row rows[] = {{0, 24 * 512, 1, TRACE_NO_SESSION},
                               {0, 48 * 512, 1, TRACE_NO_SESSION}};
    struct sim_fleet f;
    sim_fleet_init(&f, NULL, NULL);
    fleet_add(&f, (struct sim_member){
                      .read_tokens_per_s = 512, .write_tokens_per_s = 1e9, .slots = 2, .count = 1});
    f.kinds[0].chunk_tokens = 512;
    f.kinds[0].in_turns = in_turns;
    struct sim_result r = run_rows(&f, rows, 2);
    double mean = r.total.mean;
    sim_result_fini(&r);
    sim_fleet_fini(&f);
    return mean;
}

// The one with the least left goes first, but the other one has a chunk after every four: the short one takes 29 s. In
// turns it takes 48.
static void least_left_first(void **state)
{
    (void)state;
    NEAR(two_prompts(false), (29 + 72) / 2.0, 0.015);
    NEAR(two_prompts(true), (48 + 72) / 2.0, 0.015);
}

// ---- batches -----------------------------------------------------------------------------------------------

static struct sim_fleet writer_of(double tokens_per_s, uint32_t slots)
{
    struct sim_fleet f;
    sim_fleet_init(&f, NULL, NULL);
    fleet_add(&f, (struct sim_member){.read_tokens_per_s = 1e9,
                                      .write_tokens_per_s = tokens_per_s,
                                      .slots = slots,
                                      .count = 1});
    return f;
}

// Answers of 100 tokens at 50 tokens/s take 2 s, however many there are, up to the number of slots.
static void batch_waves(void **state)
{
    struct trace_row rows[10];
    struct sim_fleet f = writer_of(50, 4);
    (void)state;
    for (size_t i = 0; i < 10; i++)
        rows[i] = (struct trace_row){1, 10, 100, TRACE_NO_SESSION};
    for (size_t n = 1; n <= 10; n++) {
        struct sim_result r = run_rows(&f, rows, n);
        double waves = ceil((double)n / 4);
        NEAR(r.end_s, 1 + 2 * waves, 1e-4);
        NEAR(r.tpot.p50, 0.02, 1e-3);
        NEAR(r.answer_tokens, 100.0 * (double)n, 1e-9);
        NEAR(r.kinds[0].written_tokens, 100.0 * (double)n, 1e-6);
        sim_result_fini(&r);
    }
    sim_fleet_fini(&f);
}

// A machine of the catalogue, answers that come and go: the analytic clock against a loop over every token.
static void batch_steps(void **state)
{
    struct sim_fleet f;
    struct trace_row rows[] = {{0, 2000, 900, TRACE_NO_SESSION},
                               {5, 500, 300, TRACE_NO_SESSION},
                               {9, 8000, 500, TRACE_NO_SESSION}};
    (void)state;
    sim_fleet_init(&f, "llama-3.1-8b", "Q8_0");
    fleet_add(&f, (struct sim_member){.machine = "dgx-spark", .count = 1});
    const struct sim_kind *k = &f.kinds[0];
    struct sim_result r = run_rows(&f, rows, 3);
    struct {
        double read_left, depth;
        uint32_t left;
        bool started;
    } q[3];
    for (size_t i = 0; i < 3; i++) {
        struct cost_work w = {rows[i].prompt_tokens, 0, 1, k->chunk_tokens};
        q[i].read_left = cost_prefill(&k->model, &k->read, &w).total_s;
        q[i].depth = rows[i].prompt_tokens;
        q[i].left = rows[i].answer_tokens;
    }
    // Time goes in pieces of a hundredth of a step; who reads takes its part, who writes the other.
    double t = 0, part = 0;
    const double dt = 2e-4;
    while (q[0].left + q[1].left + q[2].left > 0) {
        size_t reading = 3;
        double batch = 0, depth = 0;
        for (size_t i = 3; i-- > 0;) {
            if (t >= rows[i].arrival_s && q[i].read_left > 0)
                reading = i;
            if (q[i].read_left <= 0 && q[i].left > 0) {
                batch++;
                depth += q[i].depth;
            }
        }
        if (reading < 3)
            q[reading].read_left -= dt * (batch > 0 ? (PLACE_PACE - 1) / PLACE_PACE : 1);
        if (batch > 0) {
            struct cost_work w = {1, depth / batch, batch, 1};
            part += dt * (reading < 3 ? 1 / PLACE_PACE : 1) /
                    cost_decode(&k->model, &k->write, &w).total_s;
        }
        for (; part >= 1; part--)
            for (size_t i = 0; i < 3; i++)
                if (q[i].read_left <= 0 && q[i].left > 0) {
                    q[i].left--;
                    q[i].depth++;
                }
        t += dt;
    }
    NEAR(r.end_s, t, 2e-3);
    NEAR(r.kinds[0].busy_share, 1.0, 0.5);
    sim_result_fini(&r);
    sim_fleet_fini(&f);
}

// ---- hand-offs ---------------------------------------------------------------------------------------------

#define KV_BYTES 131072.0

static struct sim_fleet pair_of(double read_tokens_per_s, uint32_t readers)
{
    struct sim_fleet f;
    sim_fleet_init(&f, NULL, NULL);
    fleet_add(&f, (struct sim_member){.name = "reader",
                                      .read_tokens_per_s = read_tokens_per_s,
                                      .write_tokens_per_s = 1,
                                      .kv_token_bytes = KV_BYTES,
                                      .link = "10gbe",
                                      .roles = PLACE_READS,
                                      .count = readers});
    fleet_add(&f, (struct sim_member){.name = "writer",
                                      .read_tokens_per_s = 1,
                                      .write_tokens_per_s = 100,
                                      .kv_token_bytes = KV_BYTES,
                                      .link = "10gbe",
                                      .roles = PLACE_WRITES,
                                      .count = 1});
    return f;
}

// One transfer, limited by computing and by the link, is what cost_handoff says.
static void handoff_form(void **state)
{
    static const double rates[] = {500, 5573, 9000, 30000, 100000};
    (void)state;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        struct sim_fleet f = pair_of(rates[i], 1);
        struct trace_row row = {0, 8193, 32, TRACE_NO_SESSION};
        struct sim_result r = run_rows(&f, &row, 1);
        struct cost_handoff h = {.tokens = 8192,
                                 .chunk_tokens = 512,
                                 .last_tokens = 64,
                                 .prefill_s = 8192 / rates[i],
                                 .kv_bytes = 8192 * KV_BYTES,
                                 .link = f.kinds[0].link};
        assert_int_equal(r.plans[PLACE_HYBRID], 1);
        NEAR(r.ttft.p50, cost_handoff(&h).overlapped_s + 0.01, 1e-3);
        NEAR(r.tail.p50, cost_handoff(&h).tail_s, 0.02);
        NEAR(r.total.p50, cost_handoff(&h).overlapped_s + 0.32, 1e-3);
        sim_result_fini(&r);
        sim_fleet_fini(&f);
    }
}

// Four at once that are bound by the link take four times as long; four that are bound by computing do not notice.
static void handoff_contention(void **state)
{
    struct trace_row rows[4];
    (void)state;
    for (size_t i = 0; i < 4; i++)
        rows[i] = (struct trace_row){0, 8193, 2, TRACE_NO_SESSION};
    struct sim_fleet fast = pair_of(1e6, 4), slow = pair_of(1000, 4);
    struct sim_result one = run_rows(&fast, rows, 1), four = run_rows(&fast, rows, 4);
    NEAR(four.total.most, 4 * one.total.most, 0.03);
    sim_result_fini(&one);
    sim_result_fini(&four);
    one = run_rows(&slow, rows, 1);
    four = run_rows(&slow, rows, 4);
    // But for the last pieces, which all leave at the same moment.
    NEAR(four.total.most, one.total.most, 0.004);
    sim_result_fini(&one);
    sim_result_fini(&four);
    sim_fleet_fini(&fast);
    sim_fleet_fini(&slow);
}

// ---- prefixes ------------------------------------------------------------------------------------------------

static void prefixes(void **state)
{
    struct sim_fleet f;
    // A conversation of two turns, and a stranger that needs all the room in between in the second run.
    struct trace_row rows[] = {{0, 1000, 100, 0}, {100, 1200, 100, 0}},
                     between[] = {
                         {0, 1000, 100, 0}, {50, 9000, 500, TRACE_NO_SESSION}, {200, 1200, 100, 0}};
    (void)state;
    sim_fleet_init(&f, NULL, NULL);
    fleet_add(
        &f, (struct sim_member){.read_tokens_per_s = 100, .write_tokens_per_s = 1000, .count = 1});
    f.kinds[0].cells = 10000;
    struct sim_result r = run_rows(&f, rows, 2);
    NEAR(r.held_tokens, 1100, 1e-9);
    NEAR(r.ttft.p50, 1.0, 0.01); // 100 tokens are new
    sim_result_fini(&r);
    r = run_rows(&f, between, 3);
    NEAR(r.held_tokens, 0, 0);
    NEAR(r.ttft.p50, 12.0, 0.01);
    sim_result_fini(&r);
    // What no node can hold is refused, in words.
    between[1].prompt_tokens = 20000;
    f.kinds[0].context = f.kinds[0].profile.n_ctx = 10000;
    r = run_rows(&f, between, 3);
    assert_int_equal(r.refused, 1);
    assert_true(r.refusal[0] != '\0');
    sim_result_fini(&r);
    sim_fleet_fini(&f);
}

// ---- whatever the load is ------------------------------------------------------------------------------------

static struct sim_fleet mixed(uint32_t nodes)
{
    struct sim_fleet f;
    struct err e = {0};
    sim_fleet_init(&f, "llama-3.1-8b", "Q8_0");
    assert_int_equal(sim_fleet_mixed(&f, catalogue, nodes, 0, &e), 0);
    assert_int_equal(f.n, nodes);
    return f;
}

static struct sim_load synthetic(uint64_t requests, double rate, uint64_t seed)
{
    struct sim_load l;
    sim_load_defaults(&l);
    l.requests = requests;
    l.rate = rate;
    l.seed = seed;
    return l;
}

// Arrivals equal completions and refusals (in run), Little's law holds, all tokens were written, parts of time
// add up, quantiles are in order: for every policy, under light and too heavy load, calm and bursty.
static void invariants(void **state)
{
    static const double rates[] = {0.2, 4, 40};
    (void)state;
    for (int policy = PLACE_LATENCY; policy <= PLACE_SLO; policy++)
        for (size_t i = 0; i < 6; i++) {
            struct sim_fleet f = mixed(i < 3 ? 5 : 21);
            struct sim_load l = synthetic(2000, rates[i % 3], 7 + i);
            struct sim_options o;
            l.burst = i % 2 ? 8 : 1;
            sim_options_defaults(&o);
            o.policy = (enum place_policy)policy;
            struct sim_result r = run(&f, &l, &o);
            double written = 0;
            assert_int_equal(r.arrived, 2000);
            assert_int_equal(r.refused, 0);
            NEAR(r.in_system_mean * r.end_s, r.total_sum_s, 1e-6);
            for (size_t k = 0; k < r.n_kinds; k++) {
                written += r.kinds[k].written_tokens;
                NEAR(r.kinds[k].busy_share, r.kinds[k].read_share + r.kinds[k].write_share, 1e-9);
                assert_true(r.kinds[k].busy_share <= 1 + 1e-9);
                assert_true(isfinite(r.kinds[k].joules) && isfinite(r.kinds[k].dollars));
            }
            NEAR(written, r.answer_tokens, 1e-6);
            assert_true(r.ttft.p50 <= r.ttft.p90 && r.ttft.p90 <= r.ttft.p95 &&
                        r.ttft.p95 <= r.ttft.p99 && r.ttft.p99 <= r.ttft.most);
            assert_true(r.ttft.p50 > 0 && r.tpot.p50 > 0 && r.total.p50 >= r.ttft.p50);
            assert_true(r.held_tokens < r.prompt_tokens && r.good <= r.completed);
            sim_result_fini(&r);
            sim_fleet_fini(&f);
        }
}

static void same_seed_same_result(void **state)
{
    struct sim_fleet f = mixed(30);
    uint64_t digests[3];
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct sim_load l = synthetic(5000, 20, i == 2 ? 4 : 3);
        struct sim_result r = run(&f, &l, NULL);
        digests[i] = r.digest;
        sim_result_fini(&r);
    }
    assert_true(digests[0] == digests[1] && digests[0] != digests[2]);
    sim_fleet_fini(&f);
}

// More nodes never make the median materially worse. Placement chooses by what is quickest, not by what is
// fair, so that a tenth is allowed.
static void more_is_not_worse(void **state)
{
    double before = INFINITY, before_total = INFINITY;
    (void)state;
    for (uint32_t n = 5; n <= 80; n *= 2) {
        struct sim_fleet f = mixed(n);
        struct sim_load l = synthetic(6000, 6, 9);
        struct sim_result r = run(&f, &l, NULL);
        assert_true(r.ttft.p50 <= before * 1.1 && r.total.p50 <= before_total * 1.1);
        before = r.ttft.p50;
        before_total = r.total.p50;
        sim_result_fini(&r);
        sim_fleet_fini(&f);
    }
}

// The people do not depend on the fleet: what they ask is the same whoever answers.
static void same_people(void **state)
{
    struct sim_fleet small = mixed(5), large = mixed(40);
    struct sim_load l = synthetic(3000, 3, 5);
    struct sim_result a, b;
    (void)state;
    l.turns = 1;
    a = run(&small, &l, NULL);
    b = run(&large, &l, NULL);
    assert_true(a.prompt_tokens == b.prompt_tokens && a.answer_tokens == b.answer_tokens &&
                a.arrivals_s == b.arrivals_s);
    // And they are as many and ask as much as they were told to: a log-normal's mean is median e^(sigma^2 / 2).
    NEAR(3000 / a.arrivals_s, 3, 0.1);
    NEAR(a.prompt_tokens / 3000, 1020 * exp(0.5), 0.1);
    NEAR(a.answer_tokens / 3000, 129 * exp(0.32), 0.1);
    sim_result_fini(&a);
    sim_result_fini(&b);
    sim_fleet_fini(&small);
    sim_fleet_fini(&large);
}

// ---- failures ------------------------------------------------------------------------------------------------

static void failures(void **state)
{
    struct sim_event events[] = {{20, 0, SIM_LEAVE},  {25, 2, SIM_LEAVE},  {40, 4, SIM_DRAIN},
                                 {60, 0, SIM_RETURN}, {70, 2, SIM_RETURN}, {90, 4, SIM_RETURN},
                                 {100, 1, SIM_LEAVE}, {100, 1, SIM_LEAVE}, {101, 1, SIM_RETURN}};
    uint64_t replanned = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct sim_fleet f = mixed(seed % 2 ? 5 : 12);
        struct sim_load l = synthetic(1500, 6, seed);
        f.events = events;
        f.n_events = sizeof events / sizeof *events;
        struct sim_result r = run(&f, &l, NULL);
        f.events = NULL;
        f.n_events = 0;
        assert_int_equal(r.completed, 1500);
        replanned += r.replanned;
        NEAR(r.in_system_mean * r.end_s, r.total_sum_s, 1e-6);
        sim_result_fini(&r);
        sim_fleet_fini(&f);
    }
    assert_true(replanned > 8);
}

// With nobody left everything is refused, and said to be.
static void all_gone(void **state)
{
    struct sim_event gone = {0, 0, SIM_LEAVE};
    struct trace_row rows[] = {{1, 10, 10, TRACE_NO_SESSION}, {2, 10, 10, TRACE_NO_SESSION}};
    struct sim_fleet f = writer_of(50, 4);
    (void)state;
    f.events = &gone;
    f.n_events = 1;
    struct sim_result r = run_rows(&f, rows, 2);
    assert_int_equal(r.refused, 2);
    assert_true(r.refusal[0] != '\0');
    sim_result_fini(&r);
    f.events = NULL;
    sim_fleet_fini(&f);
}

// ---- capacity ------------------------------------------------------------------------------------------------

// A node that only reads for a while can take one over the mean time of reading; the pilot finds that.
static void capacity_form(void **state)
{
    struct sim_fleet f;
    struct sim_load l;
    struct sim_options o;
    double rate = 0;
    struct err e = {0};
    (void)state;
    sim_fleet_init(&f, NULL, NULL);
    fleet_add(&f, (struct sim_member){.read_tokens_per_s = 2000,
                                      .write_tokens_per_s = 1e8,
                                      .slots = SIM_SLOTS_MAX,
                                      .count = 3});
    sim_load_defaults(&l);
    sim_options_defaults(&o);
    l.requests = 1;
    l.turns = 1;
    l.first = (struct sim_lengths){1000, 0.5, 32768};
    assert_int_equal(sim_capacity(&f, &l, &o, &rate, &e), 0);
    NEAR(rate, 3 * 2000 / (1000 * exp(0.125)), 0.1);
    sim_fleet_fini(&f);
}

static void team(void **state)
{
    const char *machines[] = {"rtx-3090", "strix-halo"};
    struct sim_load l = synthetic(1500, 2, 3);
    struct sim_options o;
    struct sim_found found[3];
    struct err e = {0};
    size_t n = 0;
    (void)state;
    sim_options_defaults(&o);
    struct sim_find f = {.catalogue = catalogue,
                         .model = "llama-3.1-8b",
                         .quant = "Q8_0",
                         .load = &l,
                         .options = &o,
                         .good_share = 0.95,
                         .machines = machines,
                         .n = 2};
    assert_int_equal(sim_find(&f, found, &n, &e), 0);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++)
        if (found[i].counts[0] > 0) {
            assert_true(found[i].good_share >= 0.95 && found[i].why[0] != '\0');
            assert_true(i == 0 || found[i - 1].price_usd <= found[i].price_usd);
        }
    assert_true(found[0].counts[0] > 0);
    // One fewer of the last kind is not enough.
    struct sim_fleet fleet;
    sim_fleet_init(&fleet, "llama-3.1-8b", "Q8_0");
    for (size_t i = 0; i < 2 && found[0].machines[i] != NULL; i++) {
        bool last = i == 1 || found[0].machines[1] == NULL;
        fleet_add(&fleet, (struct sim_member){.machine = found[0].machines[i],
                                              .count = found[0].counts[i] - last});
    }
    if (fleet.n > 0) {
        struct sim_result r = run(&fleet, &l, &o);
        assert_true((double)r.good / (double)r.arrived < 0.95);
        sim_result_fini(&r);
    }
    sim_fleet_fini(&fleet);
}

// ---- bad input -------------------------------------------------------------------------------------------------

static void loads_bad(void **state)
{
    struct sim_fleet f = writer_of(50, 4), empty;
    struct sim_options o;
    (void)state;
    sim_options_defaults(&o);
    sim_fleet_init(&empty, NULL, NULL);
    for (int i = 0; i < 9; i++) {
        struct sim_load l = synthetic(10, 1, 1);
        struct sim_result r;
        struct err e = {0};
        double *const wrong[] = {&l.rate,         &l.burst,        &l.turns, &l.think_s,
                                 &l.first.median, &l.answer.sigma, &l.share};
        if (i < 7)
            *wrong[i] = i == 6 ? -1 : NAN;
        l.rate = i == 6 ? 0 : i == 0 ? 1e300 : l.rate;
        l.requests = i == 7 ? 0 : 10;
        assert_int_equal(sim_run(i == 8 ? &empty : &f, &l, &o, &r, &e), ERR_INVALID);
        assert_true(e.message[0] != '\0');
    }
    sim_fleet_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queue_forms),
        cmocka_unit_test(least_left_first),
        cmocka_unit_test(batch_waves),
        cmocka_unit_test(batch_steps),
        cmocka_unit_test(handoff_form),
        cmocka_unit_test(handoff_contention),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(invariants),
        cmocka_unit_test(same_seed_same_result),
        cmocka_unit_test(more_is_not_worse),
        cmocka_unit_test(same_people),
        cmocka_unit_test(failures),
        cmocka_unit_test(all_gone),
        cmocka_unit_test(capacity_form),
        cmocka_unit_test(team),
        cmocka_unit_test(loads_bad),
    };
    return cmocka_run_group_tests(tests, catalogue_setup, catalogue_teardown);
}
