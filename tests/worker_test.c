// Whole workers with the fake engine: local answers, hand-offs in every mode, and a prefill peer that
// lies, cuts, dies or stalls. The answer must always be the one of the decode worker alone.
#include "tests/worker_rig.h"

#define N_PROMPT 700
#define N_ANSWER 12

static int32_t prompt[N_PROMPT];
static struct rig_answer reference;

static int setup(void **state)
{
    (void)state;
    rig_tokens(prompt, N_PROMPT, 1);
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = {.id = 1, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER};
    rig_generate(d, &r);
    rig_answer_read(d, &reference);
    rig_stop(d);
    return reference.type == WIRE_DONE && reference.n == N_ANSWER ? 0 : -1;
}

static void assert_answer(const struct rig_answer *a)
{
    if (a->type != WIRE_DONE)
        fail_msg("failed: %s", a->message);
    assert_int_equal(a->n, reference.n);
    assert_memory_equal(a->ids, reference.ids, a->n * sizeof *a->ids);
    assert_string_equal(a->text, reference.text);
}

// ---- the good ways -------------------------------------------------------------------------------

static void handoff_run(const char *model, enum engine_handoff mode, bool serial, bool tiles)
{
    struct rig_node *p = rig_start(model, mode, true, tiles);
    struct rig_node *d = rig_start(model, mode, false, false);
    struct rig_request r = {.id = 5,
                            .tokens = prompt,
                            .n = N_PROMPT,
                            .max_tokens = N_ANSWER,
                            .port = p->port,
                            .serial = serial};
    struct rig_answer a;
    unsigned type = 0;

    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    assert_int_equal(type, WIRE_ACCEPTED);
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    if (a.type != WIRE_DONE)
        fail_msg("%s", a.message);
    assert_string_equal(a.fallback, "");
    assert_int_equal(a.imported, N_PROMPT - 1);
    assert_int_equal(a.read, 1);
    if (strcmp(model, "fake") == 0)
        assert_answer(&a);
    json_t *done = rig_recv(p, &type);
    assert_int_equal(type, WIRE_PREFILLED);
    assert_int_equal(json_integer_value(json_object_get(done, "tokens")), N_PROMPT - 1);
    json_decref(done);
    rig_stop(d);
    rig_stop(p);
}

static void test_handoff_modes(void **state)
{
    (void)state;
    handoff_run("fake", ENGINE_HANDOFF_RANGES, false, false);
    handoff_run("fake", ENGINE_HANDOFF_RANGES, true, false);
    handoff_run("fake", ENGINE_HANDOFF_RANGES, false, true);
    handoff_run("fake", ENGINE_HANDOFF_WHOLE, false, false);
    handoff_run("fake:state=1", ENGINE_HANDOFF_LATE_STATE, false, false);
    handoff_run("fake:state=1", ENGINE_HANDOFF_WHOLE, false, false);
    // Chunks of several segments; and those that must not be cut, for they end in a state.
    handoff_run("fake:kv_bytes=65536", ENGINE_HANDOFF_RANGES, false, false);
    handoff_run("fake:kv_bytes=65536", ENGINE_HANDOFF_RANGES, false, true);
    handoff_run("fake:state=1,kv_bytes=65536", ENGINE_HANDOFF_RANGES, false, false);
}

static void test_short_prompts(void **state)
{
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    for (size_t n = 1; n < 5; n++) {
        struct rig_request r = {.id = n, .tokens = prompt, .n = n, .max_tokens = 3};
        struct rig_answer a;
        rig_generate(d, &r);
        rig_answer_read(d, &a);
        assert_int_equal(a.type, WIRE_DONE);
        assert_int_equal(a.n, 3);
    }
    rig_stop(d);
}

// Several answers at once: each as if it were alone.
static void test_batch(void **state)
{
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    size_t got[6] = {0};
    int ended = 0;

    for (uint64_t id = 0; id < 6; id++) { // more than there are sequences: two wait
        struct rig_request r = {.id = id, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER};
        rig_generate(d, &r);
    }
    while (ended < 6) {
        struct err e = {0};
        struct wire_frame f = {0};
        assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
        json_t *head = wire_frame_parse(&f, &e);
        if (f.type == WIRE_TOKEN) {
            json_int_t id = json_integer_value(json_object_get(head, "id"));
            assert_int_equal(id, reference.ids[got[f.id]]);
            got[f.id]++;
        }
        assert_int_not_equal(f.type, WIRE_FAILED);
        ended += f.type == WIRE_DONE;
        json_decref(head);
        wire_frame_fini(&f);
    }
    for (int i = 0; i < 6; i++)
        assert_int_equal(got[i], N_ANSWER);
    rig_stop(d);
}

// ---- refusals ------------------------------------------------------------------------------------

static void test_refusals(void **state)
{
    (void)state;
    static int32_t many[9000];
    int32_t bad[3] = {1, 100000, 2};
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_answer a;
    struct rig_request r = {.id = 1, .tokens = many, .n = 9000, .max_tokens = 1};

    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_FAILED);
    assert_non_null(strstr(a.message, "9000"));
    assert_non_null(strstr(a.message, "8192"));
    r = (struct rig_request){.id = 2, .tokens = bad, .n = 3, .max_tokens = 1};
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_FAILED);
    assert_non_null(strstr(a.message, "100000"));
    r = (struct rig_request){.id = 3, .tokens = bad, .n = 0, .max_tokens = 1};
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_FAILED);
    rig_send(d, wire_frame_json(WIRE_GENERATE, 4, json_pack("{s:s}", "max_tokens", "many")));
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_FAILED);
    assert_non_null(strstr(a.message, "max_tokens"));
    rig_stop(d);
}

static void test_cancel(void **state)
{
    (void)state;
    struct rig_node *d = rig_start("fake:prefill_us=20000", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = {.id = 9, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER};
    struct rig_answer a;

    rig_generate(d, &r); // 700 tokens would take 14 s
    rig_send(d, wire_frame_json(WIRE_CANCEL, 9, NULL));
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_FAILED);
    assert_string_equal(a.message, "cancelled");
    rig_stop(d);
}

// ---- a prefill peer that is not what it should be ----------------------------------------------------

enum fault {
    FAULT_NONE,
    FAULT_FLIP_PAYLOAD,
    FAULT_FLIP_PAYLOAD_REHASHED, // wrong bytes in a well-formed envelope: only lengths can be checked
    FAULT_TRUNCATED_PAYLOAD,
    FAULT_WRONG_TRANSFER,
    FAULT_STALE_EPOCH,
    FAULT_REPEATED,
    FAULT_SKIPPED,
    FAULT_OTHER_TOKENS,
    FAULT_OTHER_MODE,
    FAULT_BEHIND_PROMPT,
    FAULT_EXTRA_LAYER,
    FAULT_DRIP,
    FAULT_NO_END,
    FAULT_END_COUNTS,
    FAULT_END_DIGEST,
    FAULT_ABORT,
    FAULT_CLOSE,
    FAULT_SILENT,
    FAULT_NOT_PULLED,
    FAULT_GARBAGE,
    FAULT_REFUSED,
    FAULT_OTHER_MODEL,
    FAULT_FROM_IGNORED, // sends from token 0 what D holds already
    FAULT_OTHER_KEY,
    FAULT_NO_TLS,
    FAULT_COUNT,
};

static const char *const fault_names[FAULT_COUNT] = {"none",
                                                     "flipped bit",
                                                     "flipped bit, hash redone",
                                                     "truncated payload",
                                                     "wrong transfer",
                                                     "stale epoch",
                                                     "repeated segment",
                                                     "skipped segment",
                                                     "other tokens",
                                                     "other mode",
                                                     "range behind the prompt",
                                                     "tile of a layer that is not there",
                                                     "bytes that drip",
                                                     "end marker missing",
                                                     "end marker with wrong counts",
                                                     "end marker with wrong digest",
                                                     "abort",
                                                     "close in the middle",
                                                     "silence",
                                                     "no answer to pull",
                                                     "garbage bytes",
                                                     "refused",
                                                     "other model",
                                                     "from ignored",
                                                     "other key",
                                                     "no TLS"};

#define N_WARM 250

struct liar {
    enum fault fault;
    uint32_t from; // as PULL says
    int listen_fd;
    uint16_t port;
    pthread_t thread;
    _Atomic bool stop;
};

static void liar_write(struct net_conn *c, struct wire_frame f)
{
    struct err e = {0};
    wire_frame_write(c, &f, RIG_DEADLINE, &e);
    wire_frame_fini(&f);
}

static void liar_segment(struct liar *l, struct net_conn *c, struct kv_send *send, struct engine *g,
                         uint32_t p0, uint32_t p1)
{
    struct err e = {0};
    uint8_t head[KV_SEGMENT_BYTES];
    static uint8_t buf[1 << 20];
    size_t len = 0;
    bool last = p1 == N_PROMPT - 1;
    int32_t other[N_PROMPT];

    assert_int_equal(g->ops->export_start(g, 0, p0, p1, last, buf, sizeof buf, &e), 0);
    while (g->ops->export_poll(g, &len, &e) == ENGINE_EXPORT_BUSY)
        ;
    memcpy(other, prompt, sizeof other);
    other[p0] ^= l->fault == FAULT_OTHER_TOKENS;
    struct kv_segment s = {.p0 = p0,
                           .p1 = p1,
                           .layer = KV_ALL_LAYERS,
                           .mode = ENGINE_HANDOFF_RANGES,
                           .flags = last ? KV_SEGMENT_LAST : 0,
                           .tokens_hash = kv_tokens_hash(other, p1)};
    if (l->fault == FAULT_TRUNCATED_PAYLOAD)
        len -= 8;
    if (l->fault == FAULT_FLIP_PAYLOAD_REHASHED)
        buf[len / 2] ^= 4;
    if (l->fault == FAULT_BEHIND_PROMPT)
        s.p1 = N_PROMPT + 5;
    if (l->fault == FAULT_OTHER_MODE)
        s.mode = ENGINE_HANDOFF_WHOLE;
    if (l->fault == FAULT_EXTRA_LAYER)
        s.layer = 99;
    kv_send_segment(send, &s, buf, len);
    if (l->fault == FAULT_FLIP_PAYLOAD)
        buf[len / 2] ^= 4;
    if (l->fault == FAULT_WRONG_TRANSFER)
        s.transfer ^= 1;
    if (l->fault == FAULT_STALE_EPOCH)
        s.epoch = 0;
    kv_segment_encode(&s, head);
    struct wire_body body = {.data = mem_alloc(len), .len = len};
    memcpy(body.data, buf, len);
    liar_write(c, wire_frame_struct(WIRE_SEGMENT, 77, head, sizeof head, body));
}

static void liar_end(struct liar *l, struct net_conn *c, struct kv_send *send)
{
    uint8_t head[KV_END_BYTES];
    struct kv_end end = kv_send_end(send, N_PROMPT - 1);
    if (l->fault == FAULT_END_COUNTS)
        end.segments++;
    if (l->fault == FAULT_END_DIGEST)
        end.digest ^= 1;
    kv_end_encode(&end, head);
    if (l->fault != FAULT_NO_END)
        liar_write(c, wire_frame_struct(WIRE_END, 77, head, sizeof head, (struct wire_body){0}));
}

// A segment's header and head, then its body byte by byte.
static void liar_drip(struct liar *l, struct net_conn *c)
{
    struct err e = {0};
    uint8_t header[WIRE_HEADER_BYTES];
    uint8_t head[KV_SEGMENT_BYTES] = {0};
    struct wire_header h = {
        .type = WIRE_SEGMENT, .id = 77, .head_bytes = sizeof head, .body_bytes = 1000};
    wire_header_encode(&h, header);
    net_conn_write(c, header, sizeof header, RIG_DEADLINE, &e);
    net_conn_write(c, head, sizeof head, RIG_DEADLINE, &e);
    while (!atomic_load(&l->stop) && net_conn_write(c, "", 1, RIG_DEADLINE, &e) == 0)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
}

// The segments, with this liar's fault in the third one.
static void liar_transfer(struct liar *l, struct net_conn *c)
{
    struct err e = {0};
    struct engine *g = rig_engine("fake", ENGINE_HANDOFF_RANGES);
    struct kv_send send;
    struct engine_row row;
    enum fault fault = l->fault;

    kv_send_init(&send, 77, 1);
    for (uint32_t i = 0; i < N_PROMPT - 1; i++) {
        row = (struct engine_row){.token = prompt[i], .pos = i};
        assert_int_equal(g->ops->step(g, &row, 1, &e), 0);
    }
    uint32_t index = 0, p0 = fault == FAULT_FROM_IGNORED ? 0 : l->from;
    for (; p0 < N_PROMPT - 1; p0 += 100, index++) {
        uint32_t p1 = p0 + 100 < N_PROMPT - 1 ? p0 + 100 : N_PROMPT - 1;
        bool here = index == 2;
        if (here && fault == FAULT_SKIPPED)
            continue;
        if (here && fault == FAULT_ABORT)
            liar_write(c, wire_frame_failed(WIRE_ABORT, 77, ERR_ENGINE, "the engine failed"));
        if (here && (fault == FAULT_CLOSE || fault == FAULT_SILENT || fault == FAULT_ABORT))
            break;
        if (here && fault == FAULT_GARBAGE) {
            net_conn_write(c, "not a frame at all, sorry", 25, RIG_DEADLINE, &e);
            break;
        }
        if (here && fault == FAULT_DRIP) {
            liar_drip(l, c);
            break;
        }
        l->fault = here ? fault : FAULT_NONE;
        liar_segment(l, c, &send, g, p0, p1);
        if (here && fault == FAULT_REPEATED)
            liar_segment(l, c, &send, g, p0, p1);
    }
    l->fault = fault;
    if (p0 >= N_PROMPT - 1)
        liar_end(l, c, &send);
    kv_send_fini(&send);
    g->ops->free(g);
}

// HELLO -> WELCOME, then PULL; false when the story ends here.
static bool liar_hello(struct liar *l, struct net_conn *c)
{
    struct err e = {0};
    struct wire_frame f = {0};
    struct engine *g = rig_engine("fake", ENGINE_HANDOFF_RANGES);
    struct message_welcome m = {
        .version = WIRE_VERSION, .identity = g->identity, .limits = g->limits};
    bool ok = wire_frame_read(c, &f, RIG_DEADLINE, &e) == 0;

    g->ops->free(g);
    wire_frame_fini(&f);
    if (!ok)
        return false;
    if (l->fault == FAULT_REFUSED || l->fault == FAULT_OTHER_MODEL) {
        liar_write(c, wire_frame_failed(WIRE_REFUSED, 0, ERR_MISMATCH, "layers: 4 here, 8 there"));
        return false;
    }
    liar_write(c, wire_frame_json(WIRE_WELCOME, 0, message_welcome_json(&m)));
    ok = wire_frame_read(c, &f, RIG_DEADLINE, &e) == 0 && f.type == WIRE_PULL;
    json_t *head = ok ? wire_frame_parse(&f, &e) : NULL;
    l->from = (uint32_t)rig_integer(head, "from");
    json_decref(head);
    wire_frame_fini(&f);
    return ok;
}

static void *liar_thread(void *arg)
{
    struct liar *l = arg;
    struct err e = {0};
    struct net_conn *c = NULL;
    struct net_key key = rig_key;
    char peer[128];
    int fd = net_accept(l->listen_fd, RIG_DEADLINE, peer, sizeof peer, &e);

    if (fd < 0)
        return NULL;
    if (l->fault == FAULT_NO_TLS) {
        if (write(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28) < 0)
            print_message("peer gone\n");
        close(fd);
        return NULL;
    }
    key.bytes[0] ^= l->fault == FAULT_OTHER_KEY;
    if (net_conn_accept_tls(fd, &key, RIG_DEADLINE, &c, &e) != 0)
        return NULL;
    if (liar_hello(l, c) && l->fault != FAULT_NOT_PULLED)
        liar_transfer(l, c);
    // Keeps the connection open where the fault is that nothing more comes.
    bool stay = l->fault != FAULT_CLOSE && l->fault != FAULT_REFUSED;
    while (stay && !atomic_load(&l->stop))
        clock_sleep_until(clock_now_ns() + NS_PER_MS);
    net_conn_free(c);
    return NULL;
}

// With `warm`, D holds the first N_WARM tokens before.
static void fault_run(enum fault fault, bool warm)
{
    struct err e = {0};
    struct net_addr a = {.host = "127.0.0.1"};
    struct liar l = {.fault = fault};
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_answer answer;

    print_message("%s%s\n", fault_names[fault], warm ? ", warm" : "");
    l.listen_fd = net_listen(&a, &rig_key, &e);
    assert_true(l.listen_fd >= 0);
    assert_int_equal(pthread_create(&l.thread, NULL, liar_thread, &l), 0);
    struct rig_request r = {.id = 3,
                            .tokens = prompt,
                            .n = N_PROMPT,
                            .max_tokens = N_ANSWER,
                            .port = a.port,
                            .stall_s = 0.2,
                            .reuse = true};
    if (warm) {
        struct rig_request first = {
            .id = 2, .tokens = prompt, .n = N_WARM, .max_tokens = 1, .keep = true};
        rig_generate(d, &first);
        rig_answer_read(d, &answer);
    }
    rig_generate(d, &r);
    rig_answer_read(d, &answer);
    print_message("  -> %s\n", answer.fallback);
    if (fault == FAULT_FLIP_PAYLOAD_REHASHED) {
        // A peer with the key that lies consistently cannot be seen through; the fake engine's
        // answer shows that the wrong byte really went in, so this test can fail.
        assert_int_equal(answer.type, WIRE_DONE);
        assert_memory_not_equal(answer.ids, reference.ids, answer.n * sizeof *answer.ids);
    } else {
        bool good = fault == FAULT_NONE || (fault == FAULT_FROM_IGNORED && !warm);
        assert_answer(&answer);
        assert_int_equal(answer.fallback[0] == 0, good);
        assert_int_equal(answer.cached, warm ? N_WARM : 0);
        assert_int_equal(answer.cached + answer.imported + answer.read, N_PROMPT);
    }
    atomic_store(&l.stop, true);
    rig_stop(d);
    pthread_join(l.thread, NULL);
    close(l.listen_fd);
}

static void test_faults(void **state)
{
    (void)state;
    for (int f = 0; f < FAULT_COUNT; f++) {
        fault_run((enum fault)f, false);
        fault_run((enum fault)f, true);
    }
}

// Nobody listens where the prefill worker should be.
static void test_unreachable(void **state)
{
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = {
        .id = 3, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER, .port = 1};
    struct rig_answer a;
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_answer(&a);
    assert_int_not_equal(a.fallback[0], 0);
    rig_stop(d);
}

// Two requests at one prefill node: the second waits far longer than a stall, and is not given up.
static void test_busy_is_not_stuck(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake:prefill_us=2000", ENGINE_HANDOFF_RANGES, true, false);
    struct rig_node *d = rig_start("fake:prefill_us=2000", ENGINE_HANDOFF_RANGES, false, false);
    unsigned type = 0;
    for (uint64_t i = 0; i < 2; i++) {
        struct rig_request r = {.id = i,
                                .tokens = prompt,
                                .n = N_PROMPT,
                                .max_tokens = N_ANSWER,
                                .port = p->port,
                                .stall_s = 0.15,
                                .transfer = 100 + i};
        rig_prefill(p, &r);
        json_decref(rig_recv(p, &type)); // as the gateway does: GENERATE only after ACCEPTED
        assert_int_equal(type, WIRE_ACCEPTED);
        rig_generate(d, &r);
    }
    for (int i = 0; i < 2; i++) {
        struct rig_answer a;
        rig_answer_read(d, &a);
        assert_int_equal(a.type, WIRE_DONE);
        assert_string_equal(a.fallback, "");
        assert_int_equal(a.imported, N_PROMPT - 1);
    }
    rig_stop(d);
    rig_stop(p);
}

// A request that waits for room begins when the one before it ends, not at the next tick of a timer.
static void test_room_is_taken(void **state)
{
    (void)state;
    static int32_t many[5000];
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    int64_t start = clock_now_ns();
    for (uint64_t i = 0; i < 8; i++) {
        struct rig_request r = {.id = i, .tokens = many, .n = 5000, .max_tokens = 1};
        rig_generate(d, &r);
    }
    for (int i = 0; i < 8; i++) {
        struct rig_answer a;
        rig_answer_read(d, &a);
        assert_int_equal(a.type, WIRE_DONE);
    }
    print_message("8 in turn took %.3f s\n", ns_to_s(clock_now_ns() - start));
    rig_stop(d);
}

// A cancel of one request does not touch the chunk of another, tiles included.
static void test_cancel_spares_others(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake:prefill_us=300", ENGINE_HANDOFF_RANGES, true, true);
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = {
        .id = 5, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER, .port = p->port};
    unsigned type = 0;
    struct rig_answer a;

    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    assert_int_equal(type, WIRE_ACCEPTED);
    rig_generate(d, &r);
    for (int i = 0; i < 20; i++) {
        rig_send(p, wire_frame_json(WIRE_CANCEL, 999, NULL));
        clock_sleep_until(clock_now_ns() + 10 * NS_PER_MS);
    }
    rig_answer_read(d, &a);
    assert_answer(&a);
    assert_string_equal(a.fallback, "");
    rig_stop(d);
    rig_stop(p);
}

// ---- the prefill side's own refusals -----------------------------------------------------------------

static void test_pull_needs_ticket(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake:prefill_us=200", ENGINE_HANDOFF_RANGES, true, false);
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = {
        .id = 5, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER, .port = p->port};
    struct rig_answer a;
    unsigned type = 0;
    struct message_prefill m = {.epoch = 1,
                                .transfer = 77,
                                .upto = N_PROMPT - 1,
                                .ticket = "ffffffffffffffffffffffffffffffff"};

    rig_send(p, wire_frame_tokens(WIRE_PREFILL, 5, message_prefill_json(&m), prompt, N_PROMPT));
    json_decref(rig_recv(p, &type));
    assert_int_equal(type, WIRE_ACCEPTED);
    rig_generate(d, &r); // knows another ticket
    rig_answer_read(d, &a);
    assert_answer(&a);
    assert_non_null(strstr(a.fallback, "ticket"));
    rig_stop(d);
    rig_stop(p);
}

// The decode worker refuses to be P's peer when the model differs, and says both values.
static void test_other_model(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake:layers=8", ENGINE_HANDOFF_RANGES, true, false);
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_request r = {
        .id = 5, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER, .port = p->port};
    struct rig_answer a;
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_answer(&a);
    assert_non_null(strstr(a.fallback, "4"));
    assert_non_null(strstr(a.fallback, "8"));
    rig_stop(d);
    rig_stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_prompts),
        cmocka_unit_test(test_handoff_modes),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_busy_is_not_stuck),
        cmocka_unit_test(test_room_is_taken),
        cmocka_unit_test(test_cancel_spares_others),
        cmocka_unit_test(test_pull_needs_ticket),
        cmocka_unit_test(test_other_model),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
