// Nodes that join, leave, drain, flap and are found twice, while the server runs.
#include "gateway_fake.h"
#include "scratch.h"

#include <sys/stat.h>

#define NODES "/v1/tandem/nodes"

// ---- asking ---------------------------------------------------------------------------------------------

static json_t *ask_path(struct stage *s, const char *method, const char *path, const char *body,
                        int status)
{
    struct web w = web_open(s->port, method, path, NULL, body);

    return finish_json(&w, status);
}

// "127.0.0.1:PORT" behind the list's path, and `tail` behind that.
static json_t *ask_node(struct stage *s, const char *method, const struct fake *f, const char *tail,
                        int status)
{
    char path[80];

    snprintf(path, sizeof(path), NODES "/127.0.0.1:%u%s", f->port, tail);
    return ask_path(s, method, path, strcmp(method, "POST") == 0 ? "{}" : NULL, status);
}

static json_t *add_address(struct stage *s, const char *address, int status)
{
    char body[400];

    snprintf(body, sizeof(body), "{\"address\":\"%s\"}", address);
    return ask_path(s, "POST", NODES, body, status);
}

static void add(struct stage *s, const struct fake *f)
{
    char address[32];
    json_t *v;

    snprintf(address, sizeof(address), "127.0.0.1:%u", f->port);
    v = add_address(s, address, 200);
    assert_string_equal(text_at(v, "address"), address);
    assert_true(json_is_true(at(v, "added")));
    json_decref(v);
}

// Waits until the list has so many entries, the local worker among them.
static void await_count(struct stage *s, size_t n)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    for (;;) {
        json_t *v = ask_path(s, "GET", NODES, NULL, 200);
        size_t there = json_array_size(at(v, "data"));

        json_decref(v);
        if (there == n)
            return;
        if (clock_now_ns() > limit_ns)
            fail_msg("there are %zu entries, never %zu", there, n);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

static void refused(struct stage *s, const char *address, int status, const char *words)
{
    json_t *v = add_address(s, address, status);

    assert_has(text_at(v, "error.message"), words);
    json_decref(v);
}

static json_t *answered(struct stage *s, const char *plan)
{
    json_t *v = answer_long(s, "", 200);

    assert_string_equal(text_at(v, "timings.plan"), plan);
    return v;
}

// ---- joining and leaving -----------------------------------------------------------------------------------

static void test_join_and_leave(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    json_decref(answered(&s, "local"));
    fake_listen(&s.node);
    add(&s, &s.node);
    stage_await(&s, 1, "up");
    v = answered(&s, "hybrid");
    assert_string_equal(text_at(v, "timings.prefill_node"), "spark");
    json_decref(v);
    v = ask_node(&s, "DELETE", &s.node, "", 200);
    assert_true(json_is_true(at(v, "leaving")));
    json_decref(v);
    await_count(&s, 1);
    json_decref(answered(&s, "local"));
    json_decref(ask_node(&s, "DELETE", &s.node, "", 404));
    // And again: the slot is used anew.
    add(&s, &s.node);
    stage_await(&s, 1, "up");
    json_decref(answered(&s, "hybrid"));
    json_decref(ask_path(&s, "DELETE", NODES "/spark", NULL, 200)); // by its name
    await_count(&s, 1);
    stage_stop(&s);
}

// A name that two have names neither.
static void test_namesakes(void **state)
{
    struct stage s;
    struct fake other = fake_make("spark");

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    fake_listen(&other);
    add(&s, &other);
    stage_await(&s, 2, "up");
    json_decref(ask_path(&s, "DELETE", NODES "/spark", NULL, 404));
    json_decref(ask_node(&s, "DELETE", &other, "", 200));
    await_count(&s, 2);
    json_decref(ask_path(&s, "DELETE", NODES "/spark", NULL, 200));
    await_count(&s, 1);
    stage_stop(&s);
    fake_stop(&other);
}

static void test_refusals(void **state)
{
    struct stage s;
    char twice[32];
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    snprintf(twice, sizeof(twice), "127.0.0.1:%u", s.node.port);
    refused(&s, twice, 409, "is a node already");
    refused(&s, "127.0.0.1:0", 400, "say HOST:PORT");
    refused(&s, "127.0.0.1:http", 400, "\"http\" is no port");
    refused(&s, "spark:7077", 409, "no cluster key");
    refused(&s, "", 400, "'address' is missing");
    v = ask_path(&s, "POST", NODES, "{\"address\":7077}", 400);
    assert_has(text_at(v, "error.message"), "address");
    json_decref(v);
    v = ask_path(&s, "GET", NODES "/nowhere:1", NULL, 404);
    assert_has(text_at(v, "error.message"), twice);
    json_decref(v);
    json_decref(ask_path(&s, "DELETE", NODES "/local", NULL, 404));
    v = ask_node(&s, "POST", &s.node, "/stop", 404);
    assert_has(text_at(v, "error.message"), "/resume");
    json_decref(v);
    json_decref(ask_path(&s, "PUT", NODES, "{}", 405));
    stage_stop(&s);
}

static void test_full(void **state)
{
    struct stage s;
    char address[32];

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (unsigned i = 0; i < GATEWAY_PREFILL_MAX; i++) {
        snprintf(address, sizeof(address), "127.0.0.2:%u", i + 1);
        json_decref(add_address(&s, address, 200));
    }
    refused(&s, "127.0.0.3:1", 409, "no more may be");
    for (unsigned i = 0; i < GATEWAY_PREFILL_MAX; i++) {
        char path[64];

        snprintf(path, sizeof(path), NODES "/127.0.0.2:%u", i + 1);
        json_decref(ask_path(&s, "DELETE", path, NULL, 200));
    }
    await_count(&s, 1);
    json_decref(add_address(&s, "127.0.0.3:1", 200));
    stage_stop(&s);
}

// A prompt that is being read there, and one that no longer is.
static void test_remove_waits(void **state)
{
    char address[32];
    struct stage s;
    struct web w;
    json_t *v;
    uint64_t id;

    (void)state;
    stage_init(&s);
    id = ask_held(&s, "", &w);
    v = ask_node(&s, "DELETE", &s.node, "", 200);
    assert_string_equal(text_at(v, "state"), "draining");
    assert_int_equal(json_integer_value(at(v, "requests")), 1);
    json_decref(v);
    json_decref(ask_node(&s, "POST", &s.node, "/resume", 409));
    snprintf(address, sizeof(address), "127.0.0.1:%u", s.node.port);
    refused(&s, address, 409, "on its way out");
    json_decref(answered(&s, "local"));
    node_reads(&s, id);
    v = finish_json(&w, 200);
    assert_plan(v, "hybrid");
    assert_string_equal(text_at(v, "timings.prefill_node"), "spark");
    assert_true(json_is_null(at(v, "timings.fallback")));
    json_decref(v);
    await_count(&s, 1);
    stage_stop(&s);
}

static void test_remove_forced(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    ask_held(&s, "", &w);
    json_decref(ask_node(&s, "DELETE", &s.node, "", 200));
    json_decref(ask_node(&s, "DELETE", &s.node, "?force", 200));
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "was removed");
    json_decref(v);
    await_count(&s, 1);
    stage_stop(&s);
}

// One that nobody answers at goes at once, also while it is dialled.
static void test_remove_dead(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.mute = true;
    stage_ready(&s, false);
    fake_listen(&s.node);
    add(&s, &s.node);
    v = ask_node(&s, "DELETE", &s.node, "", 200);
    json_decref(v);
    await_count(&s, 1);
    stage_stop(&s);
}

// ---- one node writes what another one reads ------------------------------------------------------------------

static struct web ask_pair(struct stage *s)
{
    return ask_long(s, "\"tandem\":{\"plan\":\"hybrid\",\"prefill_node\":\"spark\","
                       "\"decode_node\":\"studio\"}");
}

// The node that is to write is lost, or removed, while the other one has not yet said that it reads.
static void test_promised(void **state)
{
    struct stage s;
    struct fake studio = fake_make("studio");
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = true;
    s.options.stall_s = 20;
    stage_ready(&s, true);
    studio.hold_status = true; // what says nothing before it has work does not hang
    fake_listen(&studio);
    add(&s, &studio);
    stage_await(&s, 2, "up");
    w = ask_pair(&s);
    fake_expect(&s.node, WIRE_PREFILL, 1);
    fake_hang_up(&studio);
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "timings.decode_node"), "mac");
    assert_has(text_at(v, "timings.fallback"), "node studio was lost");
    json_decref(v);
    fake_expect(&s.node, WIRE_CANCEL, 1);
    stage_await(&s, 2, "up");
    w = ask_pair(&s);
    fake_expect(&s.node, WIRE_PREFILL, 2);
    v = ask_node(&s, "DELETE", &studio, "", 200);
    assert_string_equal(text_at(v, "state"), "draining");
    assert_int_equal(json_integer_value(at(v, "requests")), 1);
    json_decref(v);
    node_reads(&s, fake_expect(&s.node, WIRE_PREFILL, 2)->id);
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "timings.decode_node"), "studio");
    assert_true(json_is_null(at(v, "timings.fallback")));
    json_decref(v);
    await_count(&s, 2);
    stage_stop(&s);
    fake_stop(&studio);
}

// ---- draining ------------------------------------------------------------------------------------------------

static void test_drain(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    v = ask_node(&s, "POST", &s.node, "/drain", 200);
    assert_string_equal(text_at(v, "state"), "draining");
    assert_has(text_at(v, "why"), "tandem nodes resume");
    json_decref(v);
    json_decref(answered(&s, "local"));
    // It stays drained when its link comes back, and forgets when it is told to.
    fake_hang_up(&s.node);
    fake_links_wait(&s.node, 2);
    stage_await(&s, 1, "draining");
    v = ask_path(&s, "POST", "/v1/tandem/forget", "{}", 200);
    assert_int_equal(json_integer_value(at(v, "nodes")), 2);
    json_decref(v);
    v = ask_node(&s, "POST", &s.node, "/resume", 200);
    assert_string_equal(text_at(v, "state"), "up");
    json_decref(v);
    json_decref(answered(&s, "hybrid"));
    stage_stop(&s);
}

// The node's own word: what runs ends, then the gateway lets go, and finds it again when it is back.
static void test_stops_itself(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;
    uint64_t id;

    (void)state;
    stage_init(&s);
    id = ask_held(&s, "", &w);
    fake_say(&s.node, WIRE_STATUS_IS, 0, "{\"draining\":true}");
    for (bool told = false; !told;) {
        v = ask_node(&s, "GET", &s.node, "", 200);
        told = json_is_true(at(v, "stopping"));
        if (told)
            assert_string_equal(text_at(v, "state"), "draining");
        json_decref(v);
    }
    json_decref(answered(&s, "local"));
    node_reads(&s, id);
    v = finish_json(&w, 200);
    assert_plan(v, "hybrid");
    assert_true(json_is_null(at(v, "timings.fallback")));
    json_decref(v);
    // The gateway closes the link by itself and dials again.
    fake_links_wait(&s.node, 2);
    stage_await(&s, 1, "up");
    s.node.hold_prefill = false;
    json_decref(answered(&s, "hybrid"));
    stage_stop(&s);
}

// ---- one worker under two addresses ------------------------------------------------------------------------

static void test_twins(void **state)
{
    struct stage s;
    char second[32];
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.node_id = "00112233445566778899aabbccddeeff";
    stage_ready(&s, true);
    v = ask_node(&s, "GET", &s.node, "", 200);
    assert_string_equal(text_at(v, "node_id"), s.node.node_id);
    json_decref(v);
    snprintf(second, sizeof(second), "localhost:%u", s.node.port);
    json_decref(add_address(&s, second, 200));
    stage_await(&s, 2, "refused");
    v = ask_path(&s, "GET", NODES, NULL, 200);
    assert_has(text_at(v, "data.2.why"), "00112233445566778899aabbccddeeff");
    assert_has(text_at(v, "data.2.why"), "127.0.0.1:");
    json_decref(v);
    // Without the first one it is taken.
    json_decref(ask_node(&s, "DELETE", &s.node, "", 200));
    await_count(&s, 2);
    stage_await(&s, 1, "up");
    stage_stop(&s);
}

// ---- kept over a restart --------------------------------------------------------------------------------------

static void restart(struct stage *s)
{
    gateway_free(s->gateway);
    fake_stop(&s->local);
    stage_start(s, false);
    stage_await(s, 0, "up");
}

static void file_put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_kept(void **state)
{
    struct stage s;
    char folder[] = "/tmp/tandem-fleet-XXXXXX", path[80];
    struct stat st;
    json_t *v;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/state/nodes.json", folder);
    stage_init(&s);
    s.options.nodes_file = path;
    stage_ready(&s, false);
    fake_listen(&s.node);
    add(&s, &s.node);
    json_decref(ask_node(&s, "POST", &s.node, "/drain", 200));
    json_decref(add_address(&s, "[::1]:7099", 200));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    restart(&s);
    stage_await(&s, 1, "draining");
    v = ask_path(&s, "DELETE", NODES "/%5B::1%5D:7099", NULL, 200);
    assert_string_equal(text_at(v, "address"), "[::1]:7099");
    json_decref(v);
    json_decref(ask_node(&s, "POST", &s.node, "/resume", 200));
    json_decref(ask_path(&s, "POST", NODES "/spark/role", "{\"role\":\"read\"}", 200));
    restart(&s);
    await_count(&s, 2);
    stage_await(&s, 1, "up");
    v = ask_node(&s, "GET", &s.node, "", 200);
    assert_string_equal(text_at(v, "does"), "read");
    json_decref(v);
    // One that the command line names as well is the command line's.
    s.options.prefill[0] = (struct net_addr){.host = "127.0.0.1", .port = s.node.port};
    s.options.n_prefill = 1;
    restart(&s);
    await_count(&s, 2);
    v = ask_node(&s, "GET", &s.node, "", 200);
    assert_true(json_is_false(at(v, "added")));
    json_decref(v);
    // What is not what it should be is left out, and the server starts.
    s.options.n_prefill = 0;
    file_put(path, "{\"nodes\":[{\"address\":\"a b\"},{},7,{\"address\":\"spark:1\"},{\"address\":"
                   "\"127.0.0.1:1\"}]}");
    restart(&s);
    await_count(&s, 2);
    file_put(path, "{\"nodes\":7}");
    restart(&s);
    await_count(&s, 1);
    file_put(path, "nodes");
    restart(&s);
    await_count(&s, 1);
    stage_stop(&s);
    scratch_remove(folder);
}

// ---- pairs -----------------------------------------------------------------------------------------------------

static void test_pairs(void **state)
{
    struct core *c = mem_alloc(sizeof(*c));
    struct peer *local = &c->peers[0], *d = &c->peers[1], *p = &c->peers[2];
    struct request r = {.decode = d, .prefill = p};
    json_t *bad = json_pack("{s:b,s:s}", "unreached", 1, "fallback", "no route to host");
    json_t *good = json_pack("{s:f}", "handoff_end_s", 1.0);
    struct net_addr a;

    (void)state;
    log_level_set(LOG_LEVEL_ERROR);
    local->local = true;
    d->addr = (struct net_addr){"mac", 7077};
    p->addr = (struct net_addr){"spark", 7077};
    snprintf(d->address, sizeof(d->address), "mac:7077");
    assert_null(fleet_pair_why(c, d, p));
    fleet_on_done(c, &r, 1, bad); // of another run than the one that was handed over
    assert_null(fleet_pair_why(c, d, p));
    fleet_on_done(c, &r, 0, bad);
    assert_has(fleet_pair_why(c, d, p), "mac:7077 could not reach it: no route to host");
    assert_null(fleet_pair_why(c, local, p));
    assert_null(fleet_pair_why(c, p, d));
    assert_true(c->pairs.items[0].wait_ns == FLEET_PAIR_MIN_NS);
    fleet_on_done(c, &r, 0, bad); // one that was under way meanwhile
    assert_true(c->pairs.items[0].wait_ns == FLEET_PAIR_MIN_NS);
    for (int i = 0; i < 8; i++) { // again and again, each time after its wait
        c->pairs.items[0].until_ns = 0;
        assert_null(fleet_pair_why(c, d, p));
        fleet_on_done(c, &r, 0, bad);
    }
    assert_true(c->pairs.items[0].wait_ns == FLEET_PAIR_MAX_NS);
    fleet_on_done(c, &r, 0, good);
    assert_null(fleet_pair_why(c, d, p));
    fleet_on_done(c, &r, 0, bad);
    fleet_pairs_forget(c, p);
    assert_null(fleet_pair_why(c, d, p));
    // Where D dials P.
    fleet_address(d, p, &a);
    assert_string_equal(a.host, "spark");
    snprintf(p->welcome.advertise, sizeof(p->welcome.advertise), "10.0.0.7");
    fleet_address(d, p, &a);
    assert_string_equal(a.host, "10.0.0.7");
    assert_int_equal(a.port, 7077);
    fleet_address(local, p, &a);
    assert_string_equal(a.host, "spark");
    snprintf(p->welcome.advertise, sizeof(p->welcome.advertise), "a b:99999");
    fleet_address(d, p, &a);
    assert_string_equal(a.host, "spark");
    // Loopback means another machine on D.
    p->welcome.advertise[0] = '\0';
    p->addr = (struct net_addr){"localhost", 7077};
    assert_has(fleet_pair_why(c, d, p), "--advertise");
    assert_null(fleet_pair_why(c, local, p));
    d->addr = (struct net_addr){"127.0.0.1", 7078};
    assert_null(fleet_pair_why(c, d, p));
    json_decref(bad);
    json_decref(good);
    free(c);
}

// More pairs than are remembered: the one that would be forgotten first makes room.
static void test_pairs_many(void **state)
{
    struct core *c = mem_alloc(sizeof(*c));
    json_t *bad = json_pack("{s:b}", "unreached", 1);
    struct request r = {.decode = &c->peers[0]};

    (void)state;
    log_level_set(LOG_LEVEL_ERROR);
    c->peers[0].local = true;
    for (size_t i = 0; i <= FLEET_PAIRS; i++) {
        r.prefill = &c->peers[1 + i];
        fleet_on_done(c, &r, 0, bad);
    }
    assert_null(fleet_pair_why(c, r.decode, &c->peers[1]));
    assert_non_null(fleet_pair_why(c, r.decode, &c->peers[2]));
    assert_non_null(fleet_pair_why(c, r.decode, r.prefill));
    json_decref(bad);
    free(c);
}

// ---- flapping -----------------------------------------------------------------------------------------------------

static size_t flaps_of(struct stage *s)
{
    json_t *v = ask_node(s, "GET", &s->node, "", 200);
    size_t n = (size_t)json_integer_value(at(v, "flaps"));

    json_decref(v);
    return n;
}

// Links that come and go to one process are tried later and later; what is new is tried at once.
static void test_flaps(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (size_t i = 1; i <= 2; i++) {
        fake_hang_up(&s.node);
        fake_links_wait(&s.node, i + 1);
        stage_await(&s, 1, "up");
        assert_int_equal(flaps_of(&s), i);
    }
    s.node.pid = 2;
    fake_hang_up(&s.node);
    fake_links_wait(&s.node, 4);
    stage_await(&s, 1, "up");
    assert_int_equal(flaps_of(&s), 0);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join_and_leave), cmocka_unit_test(test_namesakes),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_full),
        cmocka_unit_test(test_remove_waits),   cmocka_unit_test(test_remove_forced),
        cmocka_unit_test(test_remove_dead),    cmocka_unit_test(test_drain),
        cmocka_unit_test(test_promised),       cmocka_unit_test(test_stops_itself),
        cmocka_unit_test(test_twins),          cmocka_unit_test(test_kept),
        cmocka_unit_test(test_pairs),          cmocka_unit_test(test_pairs_many),
        cmocka_unit_test(test_flaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
