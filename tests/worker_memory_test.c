// Prefix memory of whole workers with the fake engine, whose next token depends on every byte of the
// sequence: a warm answer must be the cold one, and the counts must say how it was made.
#include "tests/worker_rig.h"

// Every segment brings a head of its own, and a state where the model has one; how many there are is a
// matter of measured rates.
#define WITH_SEGMENTS 65536

#define N_FIRST 600 // a first turn's prompt
#define N_ANSWER 20
#define N_MORE 300 // what the second turn adds

static struct rig_request request(uint64_t id, const int32_t *tokens, size_t n)
{
    return (struct rig_request){
        .id = id, .tokens = tokens, .n = n, .max_tokens = N_ANSWER, .keep = true, .reuse = true};
}

static void answer_get(struct rig_node *d, const struct rig_request *r, struct rig_answer *a)
{
    rig_generate(d, r);
    rig_answer_read(d, a);
    if (a->type != WIRE_DONE)
        fail_msg("failed: %s", a->message);
    assert_int_equal(a->cached + a->imported + a->read, r->n);
}

// What a worker that remembers nothing says.
static void cold_get(const char *model, const int32_t *tokens, size_t n, struct rig_answer *a)
{
    struct rig_node *d = rig_start(model, ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = request(1, tokens, n);
    answer_get(d, &r, a);
    assert_int_equal(a->cached, 0);
    rig_stop(d);
}

static void assert_same(const struct rig_answer *a, const struct rig_answer *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, a->n * sizeof *a->ids);
    assert_string_equal(a->text, b->text);
}

struct status {
    json_int_t cells_used, cells_kept, sequences_kept, sequences_apart, requests;
};

static struct status status_get(struct rig_node *d)
{
    unsigned type = 0;
    rig_send(d, wire_frame_json(WIRE_STATUS, 9999, NULL));
    json_t *head = rig_recv(d, &type);
    assert_int_equal(type, WIRE_STATUS_IS);
    struct status s = {rig_integer(head, "cells_used"), rig_integer(head, "cells_kept"),
                       rig_integer(head, "sequences_kept"), rig_integer(head, "sequences_apart"),
                       rig_integer(head, "requests")};
    json_decref(head);
    return s;
}

static json_int_t forget(struct rig_node *d, const char *owner)
{
    unsigned type = 0;
    json_t *o = owner != NULL ? json_string(owner) : json_null();
    rig_send(d, wire_frame_json(WIRE_FORGET, 77, json_pack("{s:o}", "owner", o)));
    json_t *head = rig_recv(d, &type);
    assert_int_equal(type, WIRE_FORGOTTEN);
    json_int_t n = rig_integer(head, "sequences");
    json_decref(head);
    return n;
}

// The next turn's prompt: the first one's, its answer, and more. Returns its length.
static size_t second_turn(int32_t *tokens, const struct rig_answer *first)
{
    memcpy(tokens + N_FIRST, first->ids, first->n * sizeof *tokens);
    rig_tokens(tokens + N_FIRST + first->n, N_MORE, 99);
    return N_FIRST + first->n + N_MORE;
}

// ---- one worker ----------------------------------------------------------------------------------

static void turns_run(const char *model)
{
    int32_t tokens[N_FIRST + N_ANSWER + N_MORE];
    struct rig_answer first, second, cold;
    struct rig_node *d = rig_start(model, ENGINE_HANDOFF_RANGES, false, false);

    rig_tokens(tokens, N_FIRST, 5);
    struct rig_request r = request(1, tokens, N_FIRST);
    answer_get(d, &r, &first);
    assert_int_equal(first.cached, 0);
    r = request(2, tokens, second_turn(tokens, &first));
    answer_get(d, &r, &second);
    // The last token of an answer is never computed: it ended with it.
    assert_int_equal(second.cached, N_FIRST + N_ANSWER - 1);
    assert_int_equal(status_get(d).sequences_kept, 1); // in place: it is the same conversation
    assert_int_equal(status_get(d).cells_used, 0);
    rig_stop(d);
    cold_get(model, tokens, r.n, &cold);
    assert_same(&second, &cold);
}

static void test_second_turn(void **state)
{
    (void)state;
    turns_run("fake");
    turns_run("fake:state=1"); // goes on at the end, which needs no way back
}

// The same prompt again, and one that differs near its end: cut back, or to a checkpoint before that.
static void test_cut_back(void **state)
{
    (void)state;
    static const char *const models[] = {"fake", "fake:state=1"};
    for (size_t m = 0; m < 2; m++) {
        int32_t tokens[N_FIRST];
        struct rig_answer first, again, other, cold;
        struct rig_node *d = rig_start(models[m], ENGINE_HANDOFF_RANGES, false, false);

        rig_tokens(tokens, N_FIRST, 6);
        struct rig_request r = request(1, tokens, N_FIRST);
        answer_get(d, &r, &first);
        r.id = 2;
        answer_get(d, &r, &again);
        assert_same(&first, &again);
        assert_int_equal(again.cached, N_FIRST - 1);
        tokens[N_FIRST - 10] ^= 1;
        r.id = 3;
        answer_get(d, &r, &other);
        // What is read again is a whole chunk of 16, though 7 would do. A model that cannot be cut has a
        // checkpoint at the chunk's end before the prompt's last one.
        assert_int_equal(other.cached, m == 0 ? N_FIRST - 1 - 16 : 512);
        rig_stop(d);
        cold_get(models[m], tokens, N_FIRST, &cold);
        assert_same(&other, &cold);
    }
}

// Kept conversations do not stay where prompts are read, but one alone does; each goes on where it is.
static void test_kept_apart(void **state)
{
    (void)state;
    int32_t tokens[3][N_FIRST + N_ANSWER + N_MORE];
    struct rig_answer first[3], second, cold;
    struct rig_node *d = rig_start("fake:apart=1", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r;

    for (int i = 0; i < 3; i++) {
        rig_tokens(tokens[i], N_FIRST, 50 + (uint32_t)i);
        r = request(1 + (uint64_t)i, tokens[i], N_FIRST);
        answer_get(d, &r, &first[i]);
        assert_int_equal(status_get(d).sequences_apart, i == 0 ? 0 : i + 1);
    }
    for (int i = 0; i < 3; i++) {
        r = request(11 + (uint64_t)i, tokens[i], second_turn(tokens[i], &first[i]));
        answer_get(d, &r, &second);
        assert_int_equal(second.cached, N_FIRST + N_ANSWER - 1);
        cold_get("fake", tokens[i], r.n, &cold);
        assert_same(&second, &cold);
    }
    assert_int_equal(status_get(d).sequences_apart, 3);
    rig_stop(d);
}

// Two conversations with one beginning: the second takes it by fork and leaves the first one whole.
static void test_shared_beginning(void **state)
{
    (void)state;
    int32_t a[N_FIRST], b[N_FIRST];
    struct rig_answer one, two, again, cold;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);

    rig_tokens(a, N_FIRST, 7);
    memcpy(b, a, sizeof b);
    rig_tokens(b + 200, N_FIRST - 200, 8);
    struct rig_request r = request(1, a, N_FIRST);
    answer_get(d, &r, &one);
    r = request(2, b, N_FIRST);
    answer_get(d, &r, &two);
    assert_int_equal(two.cached, 200);
    assert_int_equal(status_get(d).sequences_kept, 2);
    r = request(3, a, N_FIRST);
    answer_get(d, &r, &again);
    assert_int_equal(again.cached, N_FIRST - 1);
    assert_same(&again, &one);
    rig_stop(d);
    cold_get("fake", b, N_FIRST, &cold);
    assert_same(&two, &cold);
}

static void test_flags(void **state)
{
    (void)state;
    int32_t tokens[N_FIRST];
    struct rig_answer a;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);

    rig_tokens(tokens, N_FIRST, 9);
    struct rig_request r = request(1, tokens, N_FIRST);
    r.keep = false;
    answer_get(d, &r, &a);
    assert_int_equal(status_get(d).sequences_kept, 0);
    r.keep = true;
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, 0); // nothing was kept of the first
    r.reuse = false;
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, 0);
    r.reuse = true;
    r.owner = "somebody else";
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, 0); // owners never see each other's prefixes
    r.owner = NULL;
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, N_FIRST - 1);
    rig_stop(d);
}

static void test_forget(void **state)
{
    (void)state;
    int32_t tokens[N_FIRST];
    struct rig_answer a;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);

    rig_tokens(tokens, N_FIRST, 10);
    struct rig_request r = request(1, tokens, N_FIRST);
    answer_get(d, &r, &a);
    r.owner = "b";
    answer_get(d, &r, &a);
    assert_int_equal(status_get(d).sequences_kept, 2);
    assert_int_equal(status_get(d).cells_kept, 2 * (N_FIRST + N_ANSWER - 1));
    assert_int_equal(forget(d, "c"), 0);
    assert_int_equal(forget(d, "b"), 1);
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, 0);
    assert_int_equal(forget(d, NULL), 2);
    assert_int_equal(status_get(d).cells_kept, 0);
    assert_int_equal(status_get(d).sequences_kept, 0);
    rig_stop(d);
}

// More conversations than there are sequences: the one that was silent longest is read again.
static void test_oldest_goes(void **state)
{
    (void)state;
    int32_t tokens[6][N_FIRST];
    struct rig_answer a, cold;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);

    for (uint64_t i = 0; i < 5; i++) { // four sequences
        rig_tokens(tokens[i], N_FIRST, 20 + (unsigned)i);
        struct rig_request r = request(i, tokens[i], N_FIRST);
        answer_get(d, &r, &a);
    }
    assert_int_equal(status_get(d).sequences_kept, 4);
    struct rig_request r = request(6, tokens[4], N_FIRST);
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, N_FIRST - 1);
    r = request(7, tokens[0], N_FIRST);
    answer_get(d, &r, &a);
    assert_int_equal(a.cached, 0);
    rig_stop(d);
    cold_get("fake", tokens[0], N_FIRST, &cold);
    assert_same(&a, &cold);
}

// Room for a long prompt is made of what is kept, never of what runs.
static void test_room_is_made(void **state)
{
    (void)state;
    static int32_t many[7000];
    int32_t tokens[N_FIRST];
    struct rig_answer a, cold;
    struct rig_node *d = rig_start("fake:decode_us=500", ENGINE_HANDOFF_RANGES, false, false);

    rig_tokens(tokens, N_FIRST, 30);
    rig_tokens(many, 7000, 31);
    for (uint64_t i = 0; i < 2; i++) {
        tokens[0] ^= 1;
        struct rig_request kept = request(i, tokens, N_FIRST);
        answer_get(d, &kept, &a);
    }
    struct rig_request running = request(5, tokens, N_FIRST);
    running.max_tokens = 200;
    rig_generate(d, &running);
    struct rig_request r = request(6, many, 7000);
    rig_generate(d, &r); // 7,020 + 800 fit into 8,192 cells, but not what is kept beside them
    struct rig_answer first;
    unsigned long done[2] = {0};
    size_t n_done = 0;
    memset(&first, 0, sizeof first);
    while (n_done < 2) {
        struct err e = {0};
        struct wire_frame f = {0};
        assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
        assert_int_not_equal(f.type, WIRE_FAILED);
        json_t *head = wire_frame_parse(&f, &e);
        if (f.type == WIRE_TOKEN && f.id == 6)
            first.ids[first.n++] = (int32_t)rig_integer(head, "id");
        if (f.type == WIRE_DONE)
            done[n_done++] = f.id;
        json_decref(head);
        wire_frame_fini(&f);
    }
    assert_true(done[0] + done[1] == 11);
    rig_stop(d);
    cold_get("fake", many, 7000, &cold);
    assert_int_equal(first.n, cold.n);
    assert_memory_equal(first.ids, cold.ids, cold.n * sizeof *cold.ids);
}

// n answers to one prompt that arrive while it is being read: that happens once, and it is forked as often
// as is needed.
static void test_twins(void **state)
{
    (void)state;
    static const char *const models[] = {"fake:prefill_us=500", "fake:state=1,prefill_us=500"};
    for (size_t m = 0; m < 2; m++) {
        int32_t tokens[N_FIRST];
        struct rig_answer cold;
        json_int_t cached = 0;
        struct rig_node *d = rig_start(models[m], ENGINE_HANDOFF_RANGES, false, false);

        rig_tokens(tokens, N_FIRST, 40);
        for (uint64_t i = 0; i < 4; i++) {
            struct rig_request r = request(i, tokens, N_FIRST);
            rig_generate(d, &r);
        }
        int32_t ids[4][N_ANSWER];
        size_t n[4] = {0};
        for (int ended = 0; ended < 4;) {
            struct err e = {0};
            struct wire_frame f = {0};
            assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
            assert_int_not_equal(f.type, WIRE_FAILED);
            json_t *head = wire_frame_parse(&f, &e);
            if (f.type == WIRE_TOKEN)
                ids[f.id][n[f.id]++] = (int32_t)rig_integer(head, "id");
            if (f.type == WIRE_DONE)
                cached += rig_integer(head, "tokens_cached");
            ended += f.type == WIRE_DONE;
            json_decref(head);
            wire_frame_fini(&f);
        }
        assert_int_equal(cached, 3 * (N_FIRST - 1));
        rig_stop(d);
        cold_get(models[m], tokens, N_FIRST, &cold);
        for (int i = 0; i < 4; i++)
            assert_memory_equal(ids[i], cold.ids, sizeof ids[i]);
    }
}

// ---- two workers ---------------------------------------------------------------------------------

enum { WARM_D = 1, WARM_P = 2 };

struct pair {
    struct rig_node *p, *d;
};

static struct pair pair_start(const char *model, enum engine_handoff mode, bool tiles)
{
    return (struct pair){rig_start(model, mode, true, tiles), rig_start(model, mode, false, false)};
}

static void pair_stop(const struct pair *x)
{
    rig_stop(x->d);
    rig_stop(x->p);
}

// One hybrid answer; *prefilled is what P says of it.
static void hybrid_get(const struct pair *x, const struct rig_request *r, struct rig_answer *a,
                       json_t **prefilled)
{
    struct rig_request h = *r;
    unsigned type = 0;

    h.port = x->p->port;
    h.transfer = 500 + r->id;
    h.stall_s = 10;
    rig_prefill(x->p, &h);
    json_decref(rig_recv(x->p, &type));
    assert_int_equal(type, WIRE_ACCEPTED);
    answer_get(x->d, &h, a);
    assert_string_equal(a->fallback, "");
    *prefilled = rig_recv(x->p, &type);
    assert_int_equal(type, WIRE_PREFILLED);
}

// P reads the first part of a prompt, D the rest of it: the same answer as D's alone.
static void split_run(const char *model, enum engine_handoff mode, uint32_t upto, uint32_t warm)
{
    int32_t tokens[1000];
    struct rig_answer a, cold;
    json_t *prefilled = NULL;
    struct pair x = pair_start(model, mode, true);
    struct rig_request r;

    rig_tokens(tokens, 1000, 60);
    if (warm > 0) {
        r = request(900, tokens, warm);
        r.max_tokens = 1;
        answer_get(x.d, &r, &a);
    }
    r = request(4, tokens, 1000);
    r.upto = upto;
    hybrid_get(&x, &r, &a, &prefilled);
    assert_int_equal(a.cached, warm > 0 ? warm : 0);
    assert_int_equal(a.imported, upto - a.cached);
    assert_int_equal(a.read, 1000 - upto);
    assert_int_equal(rig_integer(prefilled, "tokens"), upto);
    json_decref(prefilled);
    pair_stop(&x);
    cold_get(model, tokens, 1000, &cold);
    assert_same(&a, &cold);
}

static void test_split(void **state)
{
    (void)state;
    split_run("fake", ENGINE_HANDOFF_RANGES, 700, 0);
    split_run("fake", ENGINE_HANDOFF_RANGES, 64, 0);
    split_run("fake", ENGINE_HANDOFF_RANGES, 700, 300);
    split_run("fake:state=1", ENGINE_HANDOFF_LATE_STATE, 700, 0);
    split_run("fake:state=1", ENGINE_HANDOFF_WHOLE, 700, 0);
}

// Makes one side, or both, remember the first `n` tokens.
static void warm(const struct pair *x, unsigned sides, const int32_t *tokens, size_t n)
{
    struct rig_request r = request(900, tokens, n);
    struct rig_answer a;
    r.max_tokens = 1;
    if (sides & WARM_D)
        answer_get(x->d, &r, &a);
    if (sides & WARM_P)
        answer_get(x->p, &r, &a);
}

// `p_tokens`: what P remembers when it is warm, which may be less or more than D's 1000.
static void warm_run(const char *model, enum engine_handoff mode, bool tiles, unsigned sides,
                     uint32_t p_tokens)
{
    static int32_t tokens[1500];
    struct rig_answer a, cold;
    json_t *prefilled = NULL;
    struct pair x = pair_start(model, mode, tiles);
    // Where a transfer cannot begin in the middle, D takes all; P's own memory serves it still.
    bool partial = mode == ENGINE_HANDOFF_RANGES && strstr(model, "state") == NULL;
    json_int_t d_has = sides & WARM_D && partial ? 1000 : 0;
    json_int_t p_has = sides & WARM_P ? p_tokens : 0;

    rig_tokens(tokens, 1500, 50);
    if (sides & WARM_D)
        warm(&x, WARM_D, tokens, 1000);
    if (sides & WARM_P)
        warm(&x, WARM_P, tokens, p_tokens);
    struct rig_request r = request(3, tokens, 1500);
    hybrid_get(&x, &r, &a, &prefilled);
    print_message("%s mode %d sides %u: D had %lld, got %lld (%lld bytes); P had %lld\n", model,
                  mode, sides, (long long)a.cached, (long long)a.imported, (long long)a.kv_bytes,
                  (long long)rig_integer(prefilled, "tokens_cached"));
    assert_int_equal(a.cached, d_has);
    assert_int_equal(a.imported, 1499 - d_has);
    assert_int_equal(a.read, 1);
    assert_int_equal(rig_integer(prefilled, "from"), d_has);
    assert_int_equal(rig_integer(prefilled, "tokens_cached"), p_has);
    assert_int_equal(rig_integer(prefilled, "tokens"), 1499 - p_has);
    assert_int_equal(rig_integer(prefilled, "kv_bytes"), a.kv_bytes);
    // Only what D lacked crossed: 4 layers of 64 bytes a token, and a little for each segment.
    assert_true(a.kv_bytes >= (1499 - d_has) * 256 &&
                a.kv_bytes < (1499 - d_has) * 256 + WITH_SEGMENTS);
    json_decref(prefilled);
    pair_stop(&x);
    cold_get(model, tokens, 1500, &cold);
    assert_same(&a, &cold);
}

static void test_warm_sides(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        enum engine_handoff mode;
        bool tiles;
    } ways[] = {{"fake", ENGINE_HANDOFF_RANGES, false},
                {"fake", ENGINE_HANDOFF_RANGES, true},
                {"fake", ENGINE_HANDOFF_WHOLE, false},
                {"fake:state=1", ENGINE_HANDOFF_RANGES, false},
                {"fake:state=1", ENGINE_HANDOFF_LATE_STATE, false},
                {"fake:state=1", ENGINE_HANDOFF_WHOLE, false}};
    static const uint32_t p_tokens[] = {800, 1300, 1499};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        for (unsigned sides = 0; sides < 4; sides++)
            for (size_t k = 0; k < (sides & WARM_P ? 3 : 1); k++)
                warm_run(ways[i].model, ways[i].mode, ways[i].tiles, sides, p_tokens[k]);
}

// A conversation of three hybrid turns: each side keeps its own copy, P reads D's answers as part of
// the next prompt, and only what D lacks crosses.
static void test_hybrid_turns(void **state)
{
    (void)state;
    static int32_t tokens[2000];
    size_t n = 700;
    struct pair x = pair_start("fake", ENGINE_HANDOFF_RANGES, true);

    rig_tokens(tokens, n, 60);
    for (uint64_t turn = 0; turn < 3; turn++) {
        struct rig_answer a, cold;
        json_t *prefilled = NULL;
        struct rig_request r = request(turn, tokens, n);
        hybrid_get(&x, &r, &a, &prefilled);
        cold_get("fake", tokens, n, &cold);
        assert_same(&a, &cold);
        // D has the last prompt and answer but its last token; P the last prompt but its last token.
        assert_int_equal(a.cached, turn == 0 ? 0 : n - 301);
        assert_int_equal(rig_integer(prefilled, "tokens_cached"),
                         turn == 0 ? 0 : n - 301 - N_ANSWER);
        json_decref(prefilled);
        memcpy(tokens + n, a.ids, a.n * sizeof *tokens);
        rig_tokens(tokens + n + a.n, 300, 70 + (unsigned)turn);
        n += a.n + 300;
    }
    pair_stop(&x);
}

// D holds all but the last token: nothing needs to cross, and it waits for nobody.
static void test_nothing_to_hand_over(void **state)
{
    (void)state;
    int32_t tokens[N_FIRST];
    struct rig_answer a;
    struct pair x = pair_start("fake:prefill_us=2000", ENGINE_HANDOFF_RANGES, false);
    struct rig_request r = request(1, tokens, N_FIRST);
    unsigned type = 0;

    rig_tokens(tokens, N_FIRST, 80);
    answer_get(x.d, &r, &a);
    r.id = 2;
    r.port = x.p->port;
    rig_prefill(x.p, &r);
    json_decref(rig_recv(x.p, &type));
    answer_get(x.d, &r, &a);
    assert_int_equal(a.cached, N_FIRST - 1);
    assert_int_equal(a.imported, 0);
    assert_string_equal(a.fallback, "");
    rig_send(x.p, wire_frame_json(WIRE_CANCEL, 2, NULL));
    json_decref(rig_recv(x.p, &type));
    assert_int_equal(type, WIRE_FAILED);
    pair_stop(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_turn),
        cmocka_unit_test(test_cut_back),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_kept_apart),
        cmocka_unit_test(test_shared_beginning),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_forget),
        cmocka_unit_test(test_oldest_goes),
        cmocka_unit_test(test_room_is_made),
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_warm_sides),
        cmocka_unit_test(test_hybrid_turns),
        cmocka_unit_test(test_nothing_to_hand_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
