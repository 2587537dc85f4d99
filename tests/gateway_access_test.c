// Who may ask what, how much, and what an operator is told.
#include "gateway/access.h"
#include "gateway/admit.h"
#include "gateway_fake.h"

#include <stdatomic.h>
#include <sys/stat.h>

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define MESSAGES "/v1/messages"

// ---- a file of keys -------------------------------------------------------------------------------------

// "sk-hashed", as sha256sum prints it.
#define HASHED "sha256:5f1a3ae8c4d0f1d1ea9d6a9c7be5ff4cbd3c4b1b1e7fd0c7ad1d7e2dd6f0a1b2"

static char keys_path[] = "/tmp/tandem-keys-XXXXXX";

static void keys_write(const char *text, mode_t mode)
{
    FILE *f = fopen(keys_path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(keys_path, mode), 0);
}

static int keys_open(struct access **out, struct err *e)
{
    struct gateway_options o;

    gateway_options_default(&o);
    o.api_key_file = keys_path;
    return access_open(&o, out, e);
}

static void test_key_files(void **state)
{
    static const struct {
        const char *text;
        mode_t mode;
        const char *told; // NULL: it is right
    } cases[] = {
        {"a inference k1\n# c\n\n  b\tadmin,inference   k2\r\n", 0600, NULL},
        {"a admin k1", 0400, NULL},
        {"a admin k1", 0640, "chmod 600"},
        {"", 0600, "has no key"},
        {"a admin", 0600, ":1: a line is"},
        {"\na admin k1 k2", 0600, ":2: a line is"},
        {"a root k1", 0600, "no scope \"root\"; there are inference and admin"},
        {"a admin k\na admin l", 0600, ":2: there are two keys named \"a\""},
        {"a admin k\nb admin k", 0600, ":2: the key of \"b\" is that of \"a\""},
        {"a admin sha256:12", 0600, "64 hexadecimal digits"},
        {"a admin " HASHED, 0600, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct access *a = NULL;
        struct err e = {0};
        int rc;

        keys_write(cases[i].text, cases[i].mode);
        rc = keys_open(&a, &e);
        if ((rc == 0) != (cases[i].told == NULL) ||
            (cases[i].told && !strstr(e.message, cases[i].told)))
            fail_msg("case %zu: %d %s", i, rc, e.message);
        access_free(rc == 0 ? a : NULL);
        unlink(keys_path);
    }
    struct access *a = NULL;
    struct err e = {0};
    assert_int_equal(keys_open(&a, &e), ERR_NOT_FOUND);
}

static void test_keys_are_found(void **state)
{
    struct access *a = NULL;
    struct err e = {0};
    const struct access_key *k;

    (void)state;
    // The same key in both forms has one hash, and so one owner.
    keys_write("a inference abc\n", 0600);
    assert_int_equal(keys_open(&a, &e), 0);
    k = access_find(a, "abc", 3);
    assert_non_null(k);
    assert_string_equal(k->name, "a");
    assert_int_equal(k->scopes, ACCESS_INFERENCE);
    assert_int_equal(strlen(k->owner), 64);
    assert_null(access_find(a, "ab", 2));
    assert_null(access_find(a, "abcd", 4));
    assert_null(access_find(a, "", 0));
    // Some of these share a byte or two of the hash with the key.
    for (int i = 0; i < 5000; i++) {
        char wrong[16];
        assert_null(access_find(a, wrong, (size_t)snprintf(wrong, sizeof(wrong), "%d", i)));
    }
    char owner[MESSAGE_OWNER_BYTES];
    memcpy(owner, k->owner, sizeof(owner));
    access_free(a);
    keys_write("other admin "
               "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n",
               0600);
    assert_int_equal(keys_open(&a, &e), 0);
    k = access_find(a, "abc", 3);
    assert_non_null(k);
    assert_string_equal(k->owner, owner);
    access_free(a);
    unlink(keys_path);
}

// ---- over HTTP --------------------------------------------------------------------------------------------

static struct web_answer ask(struct stage *s, const char *method, const char *path,
                             const char *head, const char *body)
{
    struct web w = web_open(s->port, method, path, head, body);

    return web_finish(&w);
}

static int status_of(struct stage *s, const char *method, const char *path, const char *head,
                     const char *body)
{
    struct web_answer a = ask(s, method, path, head, body);
    int status = a.status;

    web_answer_fini(&a);
    return status;
}

// Until the local worker is up; the status route wants a key here.
static void await_ready(struct stage *s)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    while (status_of(s, "GET", "/readyz", "", NULL) != 200)
        assert_true(clock_now_ns() < limit_ns);
}

#define ALICE "Authorization: Bearer sk-alice\r\n"
#define ALICE_X "x-api-key: sk-alice\r\n"
#define OPS "Authorization: bearer   sk-ops\r\n"
#define PROMPT "{\"prompt\":\"abc\"}"

static void stage_with_keys(struct stage *s)
{
    stage_init(s);
    keys_write("alice inference sk-alice\nops admin sk-ops\n", 0600);
    s->options.api_key_file = keys_path;
    stage_start(s, false);
    unlink(keys_path);
    await_ready(s);
}

static void test_scopes(void **state)
{
    static const struct {
        const char *method, *path, *head, *body;
        int status;
    } cases[] = {
        {"GET", "/v1/models", "", NULL, 401},
        {"GET", "/v1/models", "Authorization: Bearer sk-alic\r\n", NULL, 401},
        {"GET", "/v1/models", "Authorization: Basic sk-alice\r\n", NULL, 401},
        {"GET", "/v1/models", ALICE, NULL, 200},
        {"GET", "/v1/models", ALICE_X, NULL, 200},
        {"GET", "/v1/models", OPS, NULL, 200},
        {"GET", "/v1/models", "Authorization: Bearer none\r\n" ALICE_X, NULL, 200},
        {"GET", "/v1/models", ALICE "x-api-key: none\r\n", NULL, 200},
        {"GET", "/v1/models", "Authorization: Bearer none\r\nx-api-key: none\r\n", NULL, 401},
        {"GET", "/v1/nothing", "", NULL, 401},
        {"GET", "/v1/nothing", ALICE, NULL, 404},
        {"POST", TEXT, ALICE, PROMPT, 200},
        {"POST", TEXT, OPS, PROMPT, 403},
        {"POST", TEXT, ALICE "Content-Encoding: gzip\r\n", PROMPT, 415},
        {"POST", TEXT, ALICE "Content-Encoding: identity\r\n", PROMPT, 200},
        {"POST", TEXT, "", PROMPT, 401},
        {"GET", "/v1/tandem/status", ALICE, NULL, 403},
        {"GET", "/v1/tandem/status", OPS, NULL, 200},
        {"GET", "/metrics", ALICE, NULL, 403},
        {"GET", "/metrics", OPS, NULL, 200},
        {"POST", "/tandem/forget", ALICE, "{}", 403},
        {"POST", "/tandem/forget", OPS, "{}", 200},
        {"GET", "/health", "", NULL, 200},
        {"GET", "/livez", "", NULL, 200},
        {"GET", "/readyz", "Authorization: Bearer wrong\r\n", NULL, 200},
    };
    struct stage s;

    (void)state;
    stage_with_keys(&s);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int status = status_of(&s, cases[i].method, cases[i].path, cases[i].head, cases[i].body);

        if (status != cases[i].status)
            fail_msg("case %zu, %s %s: %d", i, cases[i].method, cases[i].path, status);
    }
    stage_stop(&s);
}

// What a server does is shown to those who may see it, also by way of the health.
static void test_health_hides_details(void **state)
{
    struct stage s;
    struct web_answer a;

    (void)state;
    stage_with_keys(&s);
    a = ask(&s, "GET", "/health?verbose", "", NULL);
    assert_null(strstr(a.body, "nodes"));
    web_answer_fini(&a);
    a = ask(&s, "GET", "/health?verbose=1", OPS, NULL);
    assert_non_null(strstr(a.body, "nodes"));
    web_answer_fini(&a);
    stage_stop(&s);
}

// A key that is refused is refused in the words of the API that was asked.
static void test_refusals_have_the_apis_shape(void **state)
{
    struct stage s;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_with_keys(&s);
    a = ask(&s, "POST", MESSAGES, "x-api-key: wrong\r\n", "{}");
    v = parse(a.body);
    assert_int_equal(a.status, 401);
    assert_string_equal(text_at(v, "type"), "error");
    assert_string_equal(text_at(v, "error.type"), "authentication_error");
    json_decref(v);
    web_answer_fini(&a);
    a = ask(&s, "POST", CHAT, OPS, "{}");
    v = parse(a.body);
    assert_int_equal(a.status, 403);
    assert_string_equal(text_at(v, "error.code"), "insufficient_scope");
    assert_has(text_at(v, "error.message"), "inference");
    json_decref(v);
    web_answer_fini(&a);
    stage_stop(&s);
}

// Workers know whose a request is by a hash; --share-prefixes makes all the same.
static void test_owner(void **state)
{
    struct stage s;
    const char *owner;

    (void)state;
    stage_with_keys(&s);
    assert_int_equal(status_of(&s, "POST", TEXT, ALICE, PROMPT), 200);
    owner = text_at(fake_expect(&s.local, WIRE_GENERATE, 1)->head, "owner");
    assert_int_equal(strlen(owner), 64);
    assert_null(strstr(owner, "alice"));
    stage_stop(&s);
    stage_init(&s);
    s.options.api_key = "secret";
    s.options.share_prefixes = true;
    stage_start(&s, false);
    await_ready(&s);
    assert_int_equal(status_of(&s, "POST", TEXT, "x-api-key: secret\r\n", PROMPT), 200);
    owner = text_at(fake_expect(&s.local, WIRE_GENERATE, 1)->head, "owner");
    assert_true(strlen(owner) != 64);
    stage_stop(&s);
}

static int host_status(struct stage *s, const char *host)
{
    struct web w = {.fd = web_dial(s->port)};
    char *text = mem_format("GET /livez HTTP/1.1\r\n%s%s%sConnection: close\r\n\r\n",
                            host ? "Host: " : "", host ? host : "", host ? "\r\n" : "");
    struct web_answer a;
    int status;

    buf_init(&w.in, 1u << 20);
    web_write(&w, text, strlen(text));
    free(text);
    a = web_finish(&w);
    status = a.status;
    web_answer_fini(&a);
    return status;
}

// A page's name that was made to point at this machine is still not this machine.
static void test_hosts(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.options.allow_hosts[0] = "box.lan";
    s.options.n_allow_hosts = 1;
    stage_start(&s, false);
    assert_int_equal(host_status(&s, "localhost"), 200);
    assert_int_equal(host_status(&s, "LOCALHOST:8080"), 200);
    assert_int_equal(host_status(&s, "127.0.0.1:1"), 200);
    assert_int_equal(host_status(&s, "[::1]:8080"), 200);
    assert_int_equal(host_status(&s, "box.lan:8080"), 200);
    assert_int_equal(host_status(&s, "evil.example"), 403);
    assert_int_equal(host_status(&s, "localhost.evil.example"), 403);
    assert_int_equal(host_status(&s, "127.0.0.1.evil.example:8080"), 403);
    assert_int_equal(host_status(&s, "[::1].evil.example"), 403);
    stage_stop(&s);
}

// ---- limits -----------------------------------------------------------------------------------------------

static unsigned retry_after(const struct web_answer *a)
{
    const char *at = strstr(a->head, "Retry-After: ");

    return at ? (unsigned)strtoul(at + 13, NULL, 10) : 0;
}

static void check_limited(struct stage *s, const char *head, int status, const char *code)
{
    struct web_answer a = ask(s, "POST", TEXT, head, PROMPT);
    json_t *v = parse(a.body);

    assert_int_equal(a.status, status);
    assert_string_equal(text_at(v, "error.code"), code);
    assert_true(retry_after(&a) >= 1 && retry_after(&a) <= 600);
    json_decref(v);
    web_answer_fini(&a);
}

static void test_limits(void **state)
{
    struct stage s;
    struct web first, second;

    (void)state;
    stage_init(&s);
    keys_write("alice inference sk-alice\nbob inference,admin sk-bob\n", 0600);
    s.options.api_key_file = keys_path;
    s.options.max_requests = 2;
    s.options.max_per_key = 1;
    s.local.hold_generate = true;
    stage_start(&s, false);
    unlink(keys_path);
    await_ready(&s);
    first = web_open(s.port, "POST", TEXT, ALICE, PROMPT);
    fake_expect(&s.local, WIRE_GENERATE, 1);
    check_limited(&s, ALICE, 429, "rate_limit_exceeded");
    second = web_open(s.port, "POST", TEXT, "x-api-key: sk-bob\r\n", PROMPT);
    fake_expect(&s.local, WIRE_GENERATE, 2);
    check_limited(&s, ALICE, 503, "queue_full");
    // What ends makes room at once.
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 1));
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 2));
    json_decref(finish_json(&first, 200));
    json_decref(finish_json(&second, 200));
    s.local.hold_generate = false;
    assert_int_equal(status_of(&s, "POST", TEXT, ALICE, PROMPT), 200);
    assert_int_equal(status_of(&s, "POST", TEXT, ALICE, PROMPT), 200);
    stage_stop(&s);
}

static unsigned retry_with(double duration_s, uint32_t limit, uint32_t per_key)
{
    struct core *c = mem_alloc(sizeof(*c));
    struct request *all = mem_alloc(4 * sizeof(*all));
    struct request_fault fault;
    struct err e = {0};
    unsigned told;

    c->options.max_requests = limit;
    c->options.max_per_key = per_key;
    admit_learn(c, duration_s);
    // Three that run, and one that comes.
    for (size_t i = 0; i < 4; i++) {
        all[i].next = c->requests;
        c->requests = &all[i];
        c->n_requests++;
    }
    assert_false(admit(c, &all[3], &fault, &e));
    told = all[3].retry_after_s;
    free(all);
    free(c);
    return told;
}

// Requests end one after the other: with so many running, a place is free after a share of the time
// that one takes.
static void test_retry_after_is_honest(void **state)
{
    struct core *c = mem_alloc(sizeof(*c));

    (void)state;
    assert_int_equal(retry_with(0, 3, 0), 1);
    assert_int_equal(retry_with(0.5, 3, 0), 1);
    assert_int_equal(retry_with(30, 3, 0), 10);
    assert_int_equal(retry_with(31, 3, 0), 11);
    assert_int_equal(retry_with(30, 64, 3), 10);
    assert_int_equal(retry_with(1e9, 3, 0), ADMIT_RETRY_MAX_S);
    // It follows what requests take now, and is not led astray by one.
    for (int i = 0; i < 50; i++)
        admit_learn(c, 10);
    admit_learn(c, 100);
    assert_true(c->duration_s > 10 && c->duration_s < 30);
    free(c);
}

// ---- what an operator is told -----------------------------------------------------------------------------

static double metric(struct stage *s, const char *sample)
{
    struct web_answer a = ask(s, "GET", "/metrics", "", NULL);
    const char *at;
    double v;

    assert_int_equal(a.status, 200);
    assert_has(a.head, "text/plain; version=0.0.4");
    // Its own line, not one that explains it.
    for (at = strstr(a.body, sample); at && at[-1] != '\n'; at = strstr(at + 1, sample))
        ;
    if (!at)
        fail_msg("%s is not in %s", sample, a.body);
    v = strtod(at + strlen(sample), NULL);
    web_answer_fini(&a);
    return v;
}

static void test_metrics_count(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    assert_int_equal((int)metric(&s, "tandem_requests_total{plan=\"local\",status=\"ok\"} "), 0);
    assert_int_equal(status_of(&s, "POST", TEXT, "", PROMPT), 200);
    json_decref(answer_long(&s, "\"tandem\":{\"plan\":\"hybrid\"}", 200));
    assert_int_equal(status_of(&s, "POST", TEXT, "", "{\"prompt\":\"x\",\"model\":\"no\"}"), 404);
    assert_int_equal((int)metric(&s, "tandem_requests_total{plan=\"local\",status=\"ok\"} "), 1);
    assert_int_equal((int)metric(&s, "tandem_requests_total{plan=\"hybrid\",status=\"ok\"} "), 1);
    assert_int_equal((int)metric(&s, "tandem_requests_total{plan=\"none\",status=\"failed\"} "), 1);
    assert_int_equal((int)metric(&s, "tandem_time_to_first_token_seconds_count "), 2);
    assert_int_equal((int)metric(&s, "tandem_time_to_first_token_seconds_bucket{le=\"+Inf\"} "), 2);
    assert_true(metric(&s, "tandem_inter_token_seconds_count ") >= 1);
    assert_true(metric(&s, "tandem_prompt_tokens_total ") >= 3 + LONG_PROMPT_TOKENS);
    assert_true(metric(&s, "tandem_kv_transfer_bytes_total ") > 0);
    assert_int_equal(
        (int)metric(&s, "tandem_node_up{node=\"mac\",address=\"local\",role=\"decode\"} "), 1);
    assert_int_equal(
        (int)metric(&s, "tandem_node_cells_used{node=\"mac\",address=\"local\",role=\"decode\"} "),
        7);
    assert_int_equal(
        (int)metric(&s, "tandem_http_requests_total{route=\"/completions\",status=\"404\"} "), 1);
    assert_true(metric(&s, "tandem_http_connections ") >= 1);
    stage_stop(&s);
}

static void test_forget(void **state)
{
    struct stage s;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.options.api_key = "secret";
    stage_start(&s, true);
    await_ready(&s);
#define SECRET "x-api-key: secret\r\n"
    while (status_of(&s, "GET", "/metrics", SECRET, NULL) != 200 || s.node.n_links == 0)
        ;
    a = ask(&s, "POST", "/v1/tandem/forget", SECRET, "");
    v = parse(a.body);
    assert_int_equal(a.status, 200);
    assert_true(json_integer_value(at(v, "sequences")) >= 3);
    assert_true(json_is_null(at(fake_expect(&s.local, WIRE_FORGET, 1)->head, "owner")));
    json_decref(v);
    web_answer_fini(&a);
    assert_int_equal(status_of(&s, "POST", "/tandem/forget", SECRET, "{\"key\":\"default\"}"), 200);
    assert_int_equal(strlen(text_at(fake_expect(&s.local, WIRE_FORGET, 2)->head, "owner")), 64);
    assert_int_equal(status_of(&s, "POST", "/tandem/forget", SECRET, "{\"key\":\"no\"}"), 404);
    assert_int_equal(status_of(&s, "POST", "/tandem/forget", SECRET, "{\"key\":7}"), 400);
    assert_int_equal(status_of(&s, "POST", "/tandem/forget", SECRET, "[]"), 400);
    assert_int_equal(status_of(&s, "POST", "/tandem/forget", SECRET, "{"), 400);
    stage_stop(&s);
}

static void check_request_id(struct stage *s, const char *given, bool kept)
{
    char *head = mem_format("X-Request-Id: %s\r\n", given);
    char *told = mem_format("X-Request-Id: %s\r\n", given);
    struct web_answer a = ask(s, "GET", "/livez", given[0] ? head : "", NULL);

    assert_has(a.head, "X-Request-Id: ");
    assert_true((strstr(a.head, told) != NULL) == kept);
    web_answer_fini(&a);
    free(head);
    free(told);
}

static void test_request_ids(void **state)
{
    struct stage s;
    char long_id[100] = "";

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    check_request_id(&s, "req_42.a-B:c", true);
    check_request_id(&s, "", false);
    check_request_id(&s, "two words", false);
    memset(long_id, 'a', 65);
    check_request_id(&s, long_id, false);
    long_id[64] = '\0';
    check_request_id(&s, long_id, true);
    // Streams and whole answers of the core carry it too.
    struct web_answer a =
        ask(&s, "POST", TEXT, "X-Request-Id: r1\r\n", "{\"prompt\":\"x\",\"stream\":true}");
    assert_has(a.head, "X-Request-Id: r1");
    web_answer_fini(&a);
    a = ask(&s, "POST", MESSAGES, "X-Request-Id: r2\r\n", "{}");
    assert_has(a.head, "request-id: r2");
    web_answer_fini(&a);
    stage_stop(&s);
}

// ---- draining ---------------------------------------------------------------------------------------------

static void on_event(void *ctx, enum gateway_event event, const char *text)
{
    (void)text;
    if (event == GATEWAY_DRAINED)
        atomic_store((_Atomic int *)ctx, 1);
}

static void test_drain(void **state)
{
    struct stage s;
    struct web w;
    _Atomic int drained = 0;

    (void)state;
    stage_init(&s);
    s.options.on_event = on_event;
    s.options.on_event_ctx = &drained;
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = web_post(s.port, TEXT, PROMPT);
    fake_expect(&s.local, WIRE_GENERATE, 1);
    gateway_drain(s.gateway);
    while (status_of(&s, "GET", "/readyz", "", NULL) != 503)
        ;
    check_limited(&s, "", 503, "stopping");
    assert_int_equal(status_of(&s, "GET", "/livez", "", NULL), 200);
    assert_int_equal(status_of(&s, "GET", "/health", "", NULL), 200);
    assert_int_equal(atomic_load(&drained), 0);
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 1));
    json_decref(finish_json(&w, 200));
    for (int i = 0; i < 3000 && !atomic_load(&drained); i++)
        clock_sleep_until(clock_now_ns() + 10 * NS_PER_MS);
    assert_int_equal(atomic_load(&drained), 1);
    stage_stop(&s);
}

static int keys_path_make(void **state)
{
    int fd = mkstemp(keys_path);

    (void)state;
    close(fd);
    return fd < 0;
}

static int keys_path_remove(void **state)
{
    (void)state;
    unlink(keys_path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_files),
        cmocka_unit_test(test_keys_are_found),
        cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_health_hides_details),
        cmocka_unit_test(test_refusals_have_the_apis_shape),
        cmocka_unit_test(test_owner),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_retry_after_is_honest),
        cmocka_unit_test(test_metrics_count),
        cmocka_unit_test(test_forget),
        cmocka_unit_test(test_request_ids),
        cmocka_unit_test(test_drain),
    };

    return cmocka_run_group_tests(tests, keys_path_make, keys_path_remove);
}
