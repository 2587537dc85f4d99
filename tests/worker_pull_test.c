// The prefill side against a decode side that says what it should not: every PULL is checked.
#include "tests/worker_rig.h"

#define N_PROMPT 700

static int32_t prompt[N_PROMPT];

static int setup(void **state)
{
    (void)state;
    rig_tokens(prompt, N_PROMPT, 1);
    return 0;
}

// Sends a PULL and reads what comes of it, but for BEATs: the type, and the text of an ABORT.
static struct wire_frame pull_try(struct net_conn *c, const char *head)
{
    struct err e = {0};
    struct wire_frame f = wire_frame_json(WIRE_PULL, 77, json_loads(head, 0, NULL));
    assert_int_equal(wire_frame_write(c, &f, RIG_DEADLINE, &e), 0);
    do {
        wire_frame_fini(&f);
        assert_int_equal(wire_frame_read(c, &f, RIG_DEADLINE, &e), 0);
    } while (f.type == WIRE_BEAT);
    return f;
}

#define PULL_FROM(from) "{\"ticket\":\"" RIG_TICKET "\",\"from\":" from "}"

// What a puller says it holds is checked, and a refusal leaves the transfer to one that says it right.
static void test_pull_from(void **state)
{
    (void)state;
    static const struct {
        const char *head, *says;
    } bad[] = {{PULL_FROM("699"), "699"},    {PULL_FROM("100000"), "100000"},
               {PULL_FROM("-1"), "from"},    {PULL_FROM("1.5"), "from"},
               {PULL_FROM("\"0\""), "from"}, {"{\"ticket\":5}", "ticket"},
               {"{\"from\":0}", "ticket"},   {PULL_FROM("4294967296"), "from"}};
    struct err e = {0};
    struct rig_node *p = rig_start("fake", ENGINE_HANDOFF_RANGES, true, false);
    struct rig_request r = {.id = 5, .tokens = prompt, .n = N_PROMPT};
    unsigned type = 0;

    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    struct net_conn *c = rig_link(p, "bulk");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct wire_frame f = pull_try(c, bad[i].head);
        if (f.type != WIRE_ABORT || strstr(f.head, bad[i].says) == NULL)
            fail_msg("%s: %.*s", bad[i].head, (int)f.head_bytes, f.head);
        wire_frame_fini(&f);
    }
    struct wire_frame f = pull_try(c, PULL_FROM("698"));
    struct kv_segment s;
    assert_int_equal(f.type, WIRE_SEGMENT);
    assert_int_equal(kv_segment_decode(f.head, f.head_bytes, &s, &e), 0);
    assert_true(s.p0 == 698 && s.p1 == 699 && s.index == 0 && s.flags == KV_SEGMENT_LAST);
    assert_true(s.tokens_hash == kv_tokens_hash(prompt, 699)); // of all of it
    wire_frame_fini(&f);
    json_t *done = rig_recv(p, &type);
    assert_int_equal(type, WIRE_PREFILLED);
    assert_int_equal(rig_integer(done, "from"), 698);
    json_decref(done);
    net_conn_free(c);
    rig_stop(p);
}

// Where ranges cannot be cut anywhere a transfer begins at token 0.
static void test_pull_from_whole(void **state)
{
    (void)state;
    static const enum engine_handoff modes[] = {ENGINE_HANDOFF_WHOLE, ENGINE_HANDOFF_LATE_STATE,
                                                ENGINE_HANDOFF_RANGES};
    for (size_t i = 0; i < 3; i++) {
        struct rig_node *p = rig_start("fake:state=1", modes[i], true, false);
        struct rig_request r = {.id = 5, .tokens = prompt, .n = N_PROMPT};
        unsigned type = 0;
        rig_prefill(p, &r);
        json_decref(rig_recv(p, &type));
        struct net_conn *c = rig_link(p, "bulk");
        struct wire_frame f = pull_try(c, PULL_FROM("16"));
        assert_int_equal(f.type, WIRE_ABORT);
        assert_non_null(strstr(f.head, engine_handoff_name(modes[i])));
        wire_frame_fini(&f);
        net_conn_free(c);
        rig_stop(p);
    }
}

// A prompt that is one chunk is begun before its puller comes: it leaves layer by layer all the same, the layers
// that were through first at once. To a puller that holds a part of the chunk it leaves whole.
static void test_pull_within_chunk(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        uint32_t from, segments;
        bool tiled;
    } rows[] = {{PULL_FROM("0"), 0, 4, true}, {PULL_FROM("5"), 5, 1, false}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct rig_node *p = rig_start("fake:prefill_us=50000", ENGINE_HANDOFF_RANGES, true, true);
        struct rig_request r = {.id = 5, .tokens = prompt, .n = 31};
        struct net_conn *c = rig_link(p, "bulk");
        unsigned type = 0, n = 0;

        rig_prefill(p, &r);
        json_decref(rig_recv(p, &type)); // ACCEPTED: from here on it computes 1.5 s
        clock_sleep_until(clock_now_ns() + 200 * NS_PER_MS);
        struct wire_frame f = pull_try(c, rows[i].head);
        for (struct kv_segment s; f.type == WIRE_SEGMENT; n++) {
            assert_int_equal(kv_segment_decode(f.head, f.head_bytes, &s, &e), 0);
            assert_int_equal(s.p0, rows[i].from);
            assert_int_equal(s.p1, 30);
            assert_true(s.tokens_hash == kv_tokens_hash(prompt, 30));
            assert_int_equal(s.layer, rows[i].tiled ? n : KV_ALL_LAYERS);
            do {
                wire_frame_fini(&f);
                assert_int_equal(wire_frame_read(c, &f, RIG_DEADLINE, &e), 0);
            } while (f.type == WIRE_BEAT);
        }
        assert_int_equal(f.type, WIRE_END);
        assert_int_equal(n, rows[i].segments);
        wire_frame_fini(&f);
        json_decref(rig_recv(p, &type));
        assert_int_equal(type, WIRE_PREFILLED);
        net_conn_free(c);
        rig_stop(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pull_from),
        cmocka_unit_test(test_pull_from_whole),
        cmocka_unit_test(test_pull_within_chunk),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
