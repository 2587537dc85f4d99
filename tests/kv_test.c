// Envelopes, the bookkeeping of a transfer against a naive oracle, and the chunk schedule against its
// own simulation and against every possible cut of small prompts.
#include "base/buf.h"
#include "kv/kv.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint32_t random_state = 12345;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)random_state * n) >> 32);
}

// ---- hashes ----------------------------------------------------------------------------------------

static void test_tokens_hash(void **state)
{
    (void)state;
    int32_t tokens[3000];
    for (size_t i = 0; i < 3000; i++)
        tokens[i] = (int32_t)random_below(UINT32_MAX);
    struct kv_tokens_hasher *h = kv_tokens_hasher_new();
    assert_int_equal(kv_tokens_hasher_get(h), kv_tokens_hash(tokens, 0));
    for (size_t at = 0; at < 3000;) {
        size_t n = random_below(100);
        n = n < 3000 - at ? n : 3000 - at;
        kv_tokens_hasher_put(h, tokens + at, n);
        at += n;
        assert_int_equal(kv_tokens_hasher_get(h), kv_tokens_hash(tokens, at));
    }
    kv_tokens_hasher_free(h);
}

// ---- envelopes -------------------------------------------------------------------------------------

static const struct kv_segment good_segment = {
    .transfer = 1, .epoch = 2, .index = 3, .p0 = 4, .p1 = 5, .layer = 6, .raw_bytes = 7, .hash = 8};

static void test_segment_decode(void **state)
{
    (void)state;
    static const struct {
        size_t at; // byte that is changed
        uint8_t to;
        int rc;
    } cases[] = {
        {0, 9, 0},
        {15, 9, 0},
        {16, 5, ERR_CORRUPT},     // p0 == p1
        {20, 3, ERR_CORRUPT},     // p0 > p1
        {28, 1, ERR_UNSUPPORTED}, // codec
        {29, 200, 0},             // mode: the engine's to judge
        {30, 1, 0},               // last
        {30, 2, ERR_CORRUPT},     // flags
        {31, 1, ERR_CORRUPT},     // flags
        {32, 0, ERR_RANGE},       // empty
        {36, 1, ERR_RANGE},       // 4 GiB
        {39, 0x80, ERR_RANGE},    // a huge one
        {56, 1, ERR_CORRUPT},     // reserved
        {63, 1, ERR_CORRUPT},
    };
    uint8_t bytes[KV_SEGMENT_BYTES];
    struct kv_segment got;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kv_segment_encode(&good_segment, bytes);
        bytes[cases[i].at] = cases[i].to;
        struct err e = {0};
        assert_int_equal(kv_segment_decode(bytes, sizeof bytes, &got, &e), cases[i].rc);
        assert_int_equal(e.code, cases[i].rc);
    }
    for (size_t n = 0; n < 130; n++) {
        if (n != KV_SEGMENT_BYTES)
            assert_int_equal(kv_segment_decode(bytes, n, &got, NULL), ERR_CORRUPT);
    }
}

// Each byte of an envelope is a byte of exactly one member: decode, encode gives the same bytes.
static void test_envelope_round_trips(void **state)
{
    (void)state;
    uint8_t in[64], out[64];
    int good = 0;
    for (int k = 0; k < 20000; k++) {
        for (size_t i = 0; i < sizeof in; i++)
            in[i] = (uint8_t)random_below(256);
        struct kv_segment s;
        struct kv_end m;
        struct kv_ack a;
        memset(in + 28, 0, 1);
        in[30] &= 1;
        in[31] = 0;
        memset(in + 35, 0, 5);
        memset(in + 56, 0, 8);
        if (kv_segment_decode(in, KV_SEGMENT_BYTES, &s, NULL) == 0) {
            kv_segment_encode(&s, out);
            assert_memory_equal(in, out, KV_SEGMENT_BYTES);
            good++;
        }
        memset(in + 20, 0, 4);
        assert_int_equal(kv_end_decode(in, KV_END_BYTES, &m, NULL), 0);
        kv_end_encode(&m, out);
        assert_memory_equal(in, out, KV_END_BYTES);
        assert_int_equal(kv_ack_decode(in, KV_ACK_BYTES, &a, NULL), 0);
        kv_ack_encode(&a, out);
        assert_memory_equal(in, out, KV_ACK_BYTES);
    }
    assert_true(good > 5000);
    struct kv_end m;
    struct kv_ack a;
    memset(in, 0xff, sizeof in);
    assert_int_equal(kv_end_decode(in, KV_END_BYTES, &m, NULL), ERR_CORRUPT);
    assert_int_equal(kv_ack_decode(in, KV_ACK_BYTES, &a, NULL), ERR_CORRUPT);
    assert_int_equal(kv_end_decode(in, 39, &m, NULL), ERR_CORRUPT);
    assert_int_equal(kv_ack_decode(in, 25, &a, NULL), ERR_CORRUPT);
}

// ---- a transfer --------------------------------------------------------------------------------------

#define MAX_SEGMENTS 64

// A whole transfer as its sender would make it.
struct transfer {
    int32_t tokens[400];
    uint32_t p0, n_tokens, n_layers;
    struct kv_segment segments[MAX_SEGMENTS];
    uint8_t payloads[MAX_SEGMENTS][40];
    size_t lens[MAX_SEGMENTS];
    size_t n;
    struct kv_end end;
};

static void transfer_put(struct transfer *t, struct kv_send *send, uint32_t p0, uint32_t p1,
                         uint32_t layer)
{
    size_t i = t->n++;
    t->lens[i] = 1 + random_below(40);
    for (size_t k = 0; k < t->lens[i]; k++)
        t->payloads[i][k] = (uint8_t)random_below(256);
    t->segments[i] = (struct kv_segment){.p0 = p0,
                                         .p1 = p1,
                                         .layer = layer,
                                         .flags = p1 == t->n_tokens ? KV_SEGMENT_LAST : 0,
                                         .tokens_hash = kv_tokens_hash(t->tokens, p1)};
    kv_send_segment(send, &t->segments[i], t->payloads[i], t->lens[i]);
}

static void transfer_make(struct transfer *t)
{
    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < 400; i++)
        t->tokens[i] = (int32_t)random_below(50000);
    t->n_tokens = 1 + random_below(400);
    t->p0 = random_below(3) ? 0 : random_below(t->n_tokens);
    t->n_layers = 1 + random_below(4);
    struct kv_send send;
    kv_send_init(&send, 77, 5);
    for (uint32_t p0 = t->p0, p1; p0 < t->n_tokens; p0 = p1) {
        p1 = p0 + 1 + random_below(t->n_tokens - p0);
        if (t->n + 2 * t->n_layers >= MAX_SEGMENTS)
            p1 = t->n_tokens;
        if (random_below(3) == 0) {
            for (uint32_t layer = 0; layer < t->n_layers; layer++)
                transfer_put(t, &send, p0, p1, layer);
        } else {
            transfer_put(t, &send, p0, p1, KV_ALL_LAYERS);
        }
    }
    t->end = kv_send_end(&send, t->n_tokens);
    kv_send_fini(&send);
}

static void receive_start(struct kv_receive *r, const struct transfer *t)
{
    kv_receive_init(r, 77, 5, t->tokens, t->p0, t->n_tokens, t->n_layers);
}

static int receive_nth(struct kv_receive *r, const struct transfer *t, size_t i, struct err *e)
{
    return kv_receive_segment(r, &t->segments[i], t->payloads[i], t->lens[i], e);
}

// The naive oracle: segment i may come exactly after i accepted ones. A random walk over segments,
// repeated, skipped and reordered, ends complete exactly when all were accepted.
static void test_receive_random_order(void **state)
{
    (void)state;
    for (int k = 0; k < 500; k++) {
        struct transfer t;
        transfer_make(&t);
        struct kv_receive r;
        receive_start(&r, &t);
        size_t accepted = 0;
        while (accepted < t.n) {
            size_t i = random_below(3) ? accepted : random_below((uint32_t)t.n);
            struct err e = {0};
            int rc = receive_nth(&r, &t, i, &e);
            assert_int_equal(rc, i == accepted ? 0 : ERR_CORRUPT);
            assert_int_equal(rc != 0, e.message[0] != 0);
            accepted += rc == 0;
            if (accepted < t.n || random_below(2)) {
                int end = kv_receive_end(&r, &t.end, NULL);
                assert_int_equal(end, accepted == t.n ? 0 : ERR_CORRUPT);
            }
        }
        if (!r.complete)
            assert_int_equal(kv_receive_end(&r, &t.end, NULL), 0);
        assert_true(r.complete && r.next_p0 == t.n_tokens);
        assert_int_equal(receive_nth(&r, &t, t.n - 1, NULL), ERR_CORRUPT);
        assert_int_equal(kv_receive_end(&r, &t.end, NULL), ERR_CORRUPT);
        kv_receive_fini(&r);
    }
}

// Tokens are committed by whole ranges only.
static void test_receive_commits_ranges(void **state)
{
    (void)state;
    for (int k = 0; k < 200; k++) {
        struct transfer t;
        transfer_make(&t);
        struct kv_receive r;
        receive_start(&r, &t);
        for (size_t i = 0; i < t.n; i++) {
            const struct kv_segment *s = &t.segments[i];
            assert_int_equal(receive_nth(&r, &t, i, NULL), 0);
            bool whole = s->layer == KV_ALL_LAYERS || s->layer + 1 == t.n_layers;
            assert_int_equal(r.next_p0, whole ? s->p1 : s->p0);
        }
        kv_receive_fini(&r);
    }
}

// Changes one thing about a segment; returns the code that must come of it.
static int segment_spoil(struct transfer *t, size_t i, unsigned how)
{
    struct kv_segment *s = &t->segments[i];
    switch (how) {
    case 0:
        s->transfer++;
        return ERR_MISMATCH;
    case 1:
        s->epoch--; // stale
        return ERR_MISMATCH;
    case 2:
        s->epoch++;
        return ERR_MISMATCH;
    case 3:
        s->index += 1 + random_below(5);
        return ERR_CORRUPT;
    case 4:
        s->p0++;
        return ERR_CORRUPT;
    case 5:
        s->p1 = t->n_tokens + 1;
        return ERR_CORRUPT;
    case 6:
        s->p1 = s->p0;
        return ERR_CORRUPT;
    case 7:
        s->layer = s->layer == KV_ALL_LAYERS ? t->n_layers : s->layer + 1;
        return ERR_CORRUPT;
    case 8:
        s->codec = 1;
        return ERR_UNSUPPORTED;
    case 9:
        s->flags ^= KV_SEGMENT_LAST;
        return ERR_CORRUPT;
    case 10:
        s->raw_bytes++;
        return ERR_CORRUPT;
    case 11:
        s->hash ^= 1;
        return ERR_CORRUPT;
    case 12:
        s->tokens_hash ^= 1;
        return ERR_MISMATCH;
    case 13:
        t->payloads[i][random_below((uint32_t)t->lens[i])] ^= (uint8_t)(1 << random_below(8));
        return ERR_CORRUPT;
    default:
        t->lens[i]--; // cut short
        return ERR_CORRUPT;
    }
}
#define SPOILS 15

// A wrong segment is refused with the right code and changes nothing: the right one still passes.
static void test_receive_wrong_segment(void **state)
{
    (void)state;
    for (unsigned how = 0; how < SPOILS; how++) {
        for (int k = 0; k < 60; k++) {
            struct transfer t, bad;
            transfer_make(&t);
            bad = t;
            size_t at = random_below((uint32_t)t.n);
            int code = segment_spoil(&bad, at, how);
            struct kv_receive r;
            receive_start(&r, &t);
            for (size_t i = 0; i < t.n; i++) {
                struct err e = {0};
                if (i == at) {
                    assert_int_equal(receive_nth(&r, &bad, i, &e), code);
                    assert_memory_equal(e.message, "segment: ", 9);
                }
                assert_int_equal(receive_nth(&r, &t, i, NULL), 0);
            }
            assert_int_equal(kv_receive_end(&r, &t.end, NULL), 0);
            kv_receive_fini(&r);
        }
    }
}

static void test_receive_wrong_end(void **state)
{
    (void)state;
    for (unsigned how = 0; how < 6; how++) {
        struct transfer t;
        transfer_make(&t);
        struct kv_receive r;
        receive_start(&r, &t);
        for (size_t i = 0; i < t.n; i++)
            assert_int_equal(receive_nth(&r, &t, i, NULL), 0);
        struct kv_end end = t.end;
        end.transfer += how == 0;
        end.epoch -= how == 1;
        end.segments -= how == 2;
        end.tokens -= how == 3;
        end.bytes ^= how == 4;
        end.digest ^= how == 5;
        struct err e = {0};
        assert_int_equal(kv_receive_end(&r, &end, &e), how < 2 ? ERR_MISMATCH : ERR_CORRUPT);
        assert_memory_equal(e.message, "end marker: ", 12);
        assert_false(r.complete);
        assert_int_equal(kv_receive_end(&r, &t.end, NULL), 0);
        kv_receive_fini(&r);
    }
}

// Nothing to send is a transfer too: the end marker alone completes it.
static void test_receive_nothing(void **state)
{
    (void)state;
    int32_t tokens[3] = {1, 2, 3};
    struct kv_send send;
    kv_send_init(&send, 1, 1);
    struct kv_receive r;
    kv_receive_init(&r, 1, 1, tokens, 3, 3, 2);
    struct kv_end end = kv_send_end(&send, 3);
    assert_int_equal(kv_receive_end(&r, &end, NULL), 0);
    kv_receive_fini(&r);
    kv_send_fini(&send);
}

// ---- the schedule ------------------------------------------------------------------------------------

// r = KV time / compute time of a token; floor in tokens.
static struct kv_schedule_options schedule_options(double r, double floor_tokens)
{
    return (struct kv_schedule_options){.chunk_tokens = 512,
                                        .min_chunk_tokens = 16,
                                        .rates = {.chunk_tokens_per_s = 1000,
                                                  .chunk_floor_s = floor_tokens / 1000,
                                                  .kv_bytes_per_token = 20000,
                                                  .link_bytes_per_s = 20000 * 1000 / r}};
}

static void check_cover(const struct kv_schedule_options *o, uint32_t p0, uint32_t n,
                        const uint32_t *ends, size_t k, size_t max_ends)
{
    assert_in_range(k, 1, max_ends);
    assert_int_equal(ends[k - 1], n);
    for (size_t i = 0; i < k; i++) {
        uint32_t from = i ? ends[i - 1] : p0;
        assert_true(ends[i] > from);
        if (max_ends > n / o->chunk_tokens + 1)
            assert_true(ends[i] - from <= o->chunk_tokens);
    }
}

static const double some_ratios[] = {0.05, 0.3, 0.65, 0.95, 1.05, 1.5, 4, 30};
static const double some_floors[] = {0, 24, 100, 323, 700};

static void test_schedule_covers(void **state)
{
    (void)state;
    static const struct {
        uint32_t p0, n;
    } cases[] = {{0, 1},
                 {0, 15},
                 {0, 16},
                 {0, 17},
                 {0, 511},
                 {0, 512},
                 {0, 513},
                 {511, 512},
                 {511, 513},
                 {100, 101},
                 {0, 2047},
                 {777, 2047},
                 {0, 7167},
                 {2000, 7167},
                 {0, 1 << 20},
                 {1000, 1 << 20},
                 {(1 << 20) - 1, 1 << 20}};
    static uint32_t ends[4096], grid[4096];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (size_t i = 0; i < sizeof some_ratios / sizeof *some_ratios; i++) {
            for (size_t f = 0; f < sizeof some_floors / sizeof *some_floors; f++) {
                struct kv_schedule_options o = schedule_options(some_ratios[i], some_floors[f]);
                uint32_t p0 = cases[c].p0, n = cases[c].n;
                size_t k = kv_schedule_make(&o, p0, n, ends, 4096);
                check_cover(&o, p0, n, ends, k, 4096);
                struct kv_schedule_options whole = o;
                whole.plain = true; // the grid, but for pieces that would be too short
                size_t g = kv_schedule_make(&whole, p0, n, grid, 4096);
                double end = kv_schedule_end_s(&o, p0, ends, k).end_s;
                double plain = kv_schedule_end_s(&o, p0, grid, g).end_s;
                // Fewer pieces are worth half a token's time each.
                double slack = k < g ? (double)(g - k) * 0.0005 : 0;
                if (end > plain * (1 + 1e-9) + slack)
                    fail_msg("[%u, %u) r %g floor %g: %zu chunks end at %.9g, the grid at %.9g", p0,
                             n, some_ratios[i], some_floors[f], k, end, plain);
            }
        }
    }
}

static void test_schedule_edges(void **state)
{
    (void)state;
    struct kv_schedule_options o = schedule_options(0.65, 0);
    uint32_t ends[4096];
    assert_int_equal(kv_schedule_make(&o, 5, 5, ends, 10), 0);
    assert_int_equal(kv_schedule_make(&o, 6, 5, ends, 10), 0);
    assert_int_equal(kv_schedule_make(&o, 0, 0, ends, 10), 0);
    assert_int_equal(kv_schedule_make(&o, 0, 5, ends, 0), 0);
    for (size_t max = 1; max < 60; max++) { // coarser, but complete
        size_t k = kv_schedule_make(&o, 100, 20000, ends, max);
        check_cover(&o, 100, 20000, ends, k, max);
        k = kv_schedule_make(&o, 0, 1 << 20, ends, max);
        check_cover(&o, 0, 1 << 20, ends, k, max);
    }
    struct kv_schedule_options unknown = {0};
    size_t k = kv_schedule_make(&unknown, 0, 2047, ends, 4096);
    unknown.chunk_tokens = 512;
    check_cover(&unknown, 0, 2047, ends, k, 4096);
    assert_true(ends[k - 1] - ends[k - 2] <= 64); // the tail is fine without any figure
    struct kv_schedule_times t = kv_schedule_end_s(&unknown, 0, ends, k);
    assert_true(t.compute_s == 0 && t.end_s == 0);
}

// Full chunks lie on the grid, so that a prefix that two prompts share is cut alike.
static void test_schedule_grid(void **state)
{
    (void)state;
    struct kv_schedule_options o = schedule_options(0.65, 0);
    uint32_t ends[4096];
    size_t k = kv_schedule_make(&o, 700, 20000, ends, 4096);
    size_t on_grid = 0;
    for (size_t i = 0; i < k; i++)
        on_grid += ends[i] % 512 == 0;
    assert_int_equal(ends[0], 1024);
    assert_true(on_grid >= 20000 / 512 - 1 - 5);
}

// What the whole thing is for: the tail where compute is the slower part, the start where the link is.
static void test_schedule_reaches(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {700, 1023, 1400, 2047, 2100, 4000, 7167, 100000};
    static uint32_t ends[4096];
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint32_t n = lengths[i];
        struct kv_schedule_options o = schedule_options(0.65, 0);
        size_t k = kv_schedule_make(&o, 0, n, ends, 4096);
        struct kv_schedule_times t = kv_schedule_end_s(&o, 0, ends, k);
        assert_true(t.end_s - t.compute_s <= 0.040); // 32 tokens and their crossing
        assert_true(k <= n / 512 + 1 + 10);          // a few pieces more than the grid has
        o = schedule_options(1.5, 0);
        k = kv_schedule_make(&o, 0, n, ends, 4096);
        t = kv_schedule_end_s(&o, 0, ends, k);
        assert_true(t.end_s <= n * 0.0015 + 0.040);
    }
}

// A weight-bound machine: 323 tokens' time for any smaller chunk. Fine pieces must not be bought.
static void test_schedule_floor(void **state)
{
    (void)state;
    struct kv_schedule_options o = schedule_options(0.65, 323);
    uint32_t ends[64];
    for (uint32_t n = 600; n < 5000; n += 37) {
        size_t k = kv_schedule_make(&o, 0, n, ends, 64);
        for (size_t i = 0; i + 1 < k; i++)
            assert_true(ends[i] - (i ? ends[i - 1] : 0) >= 160);
    }
}

// The best of all cuts of [0, n) at multiples of 16, tried one by one.
static double best_of_all(const struct kv_schedule_options *o, uint32_t n)
{
    uint32_t units = n / 16, ends[16];
    double best = INFINITY;
    for (uint32_t mask = 0; mask < 1u << (units - 1); mask++) {
        size_t k = 0;
        uint32_t from = 0;
        bool good = true;
        for (uint32_t u = 1; u <= units && good; u++) {
            if (u < units && !(mask >> (u - 1) & 1))
                continue;
            good = u * 16 - from <= o->chunk_tokens;
            ends[k++] = from = u * 16;
        }
        if (good)
            best = fmin(best, kv_schedule_end_s(o, 0, ends, k).end_s);
    }
    return best;
}

// No piece is shorter than the minimum unless the whole range is, and none longer than a full chunk.
static void test_schedule_pieces(void **state)
{
    (void)state;
    uint32_t ends[64];
    for (uint32_t plain = 0; plain < 2; plain++) {
        struct kv_schedule_options o = {
            .chunk_tokens = 512, .min_chunk_tokens = 64, .plain = plain != 0};
        for (uint32_t n = 1; n < 3000; n += n < 1200 ? 1 : 37) {
            uint32_t p0 = n % 3 == 0 ? n / 5 : 0;
            size_t k = kv_schedule_make(&o, p0, n, ends, 64);
            assert_true(k > 0);
            assert_int_equal(ends[k - 1], n);
            for (size_t i = 0; i < k; i++) {
                uint32_t size = ends[i] - (i > 0 ? ends[i - 1] : p0);
                assert_true(size <= 512);
                assert_true(size >= 64 || (k == 1 && n - p0 < 64));
            }
        }
    }
}

static void test_schedule_near_best(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof some_ratios / sizeof *some_ratios; i++) {
        for (size_t f = 0; f < 3; f++) {
            struct kv_schedule_options o = schedule_options(some_ratios[i], some_floors[f] / 2);
            o.chunk_tokens = 64;
            uint32_t ends[64];
            size_t k = kv_schedule_make(&o, 0, 224, ends, 64);
            double end = kv_schedule_end_s(&o, 0, ends, k).end_s, best = best_of_all(&o, 224);
            if (end > best * 1.05)
                fail_msg("r %g floor %g: %g, best %g", some_ratios[i], some_floors[f] / 2, end,
                         best);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_hash),
        cmocka_unit_test(test_segment_decode),
        cmocka_unit_test(test_envelope_round_trips),
        cmocka_unit_test(test_receive_random_order),
        cmocka_unit_test(test_receive_commits_ranges),
        cmocka_unit_test(test_receive_wrong_segment),
        cmocka_unit_test(test_receive_wrong_end),
        cmocka_unit_test(test_receive_nothing),
        cmocka_unit_test(test_schedule_covers),
        cmocka_unit_test(test_schedule_edges),
        cmocka_unit_test(test_schedule_grid),
        cmocka_unit_test(test_schedule_reaches),
        cmocka_unit_test(test_schedule_floor),
        cmocka_unit_test(test_schedule_pieces),
        cmocka_unit_test(test_schedule_near_best),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
