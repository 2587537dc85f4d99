// What HTTP clients can get wrong, and who may ask at all.
#include "gateway_fake.h"

struct refusal {
    const char *method, *path, *body;
    int status;
    const char *told;  // must be in the message
    const char *param; // NULL: null
};

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"

static const struct refusal refusals[] = {
    // JSON itself
    {"POST", CHAT, "", 400, "not valid JSON at line 1", NULL},
    {"POST", CHAT, "{\"messages\":\n [}", 400, "line 2, column 3", NULL},
    {"POST", CHAT, "{" MSG "} x", 400, "line 1", NULL},
    {"POST", CHAT, "[1,2]", 400, "must be a JSON object", NULL},
    {"POST", CHAT, "{\"a\":1,\"a\":2}", 400, "duplicate", NULL},
    {"POST", TEXT, "{\"prompt\":\"\xff\xfe\"}", 400, "not valid JSON", NULL},
    {"POST", TEXT, "{\"prompt\":\"a\\u0000b\"}", 400, "not valid JSON", NULL},
    {"POST", TEXT, "{\"prompt\":\"x\",\"seed\":18446744073709551615}", 400,
     "a number that is too large", NULL},
    // types and values
    {"POST", CHAT, "{" MSG ",\"temperature\":\"hot\"}", 400, "(got \"hot\")", "temperature"},
    {"POST", CHAT, "{" MSG ",\"temperature\":-1}", 400, "-1", "temperature"},
    {"POST", CHAT, "{" MSG ",\"top_p\":2}", 400, "outside [0, 1]", "top_p"},
    {"POST", CHAT, "{" MSG ",\"max_tokens\":0}", 400, "at least 1", "max_tokens"},
    {"POST", CHAT, "{" MSG ",\"max_tokens\":1.5}", 400, "integer", "max_tokens"},
    {"POST", CHAT, "{" MSG ",\"stream\":\"yes\"}", 400, "boolean", "stream"},
    {"POST", CHAT, "{" MSG ",\"stream_options\":[]}", 400, "object", "stream_options"},
    {"POST", CHAT, "{" MSG ",\"stop\":5}", 400, "strings of 1 to", "stop"},
    {"POST", CHAT, "{" MSG ",\"stop\":[\"\"]}", 400, "strings of 1 to", "stop"},
    {"POST", CHAT, "{" MSG ",\"model\":7}", 400, "string", "model"},
    {"POST", CHAT, "{" MSG ",\"tandem\":{\"plan\":\"fast\"}}", 400, "\"fast\"", "tandem.plan"},
    {"POST", CHAT, "{" MSG ",\"tandem\":{\"timeline\":1}}", 400, "boolean", "timeline"},
    {"POST", CHAT, "{}", 400, "'messages'", "messages"},
    {"POST", CHAT, "{\"messages\":[]}", 400, "at least one", "messages"},
    {"POST", CHAT, "{\"messages\":\"hi\"}", 400, "array", "messages"},
    {"POST", CHAT, "{\"messages\":[{\"content\":\"x\"}]}", 400, "messages[0]", "messages"},
    {"POST", CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":1}]}", 400, "content",
     "messages"},
    {"POST", TEXT, "{}", 400, "'prompt'", "prompt"},
    {"POST", TEXT, "{\"prompt\":[1,-2]}", 400, "prompt[1]", "prompt"},
    {"POST", TEXT, "{\"prompt\":[1,2.5]}", 400, "prompt[1]", "prompt"},
    {"POST", TEXT, "{\"prompt\":[\"a\",1]}", 400, "'prompt' must be", "prompt"},
    {"POST", TEXT, "{\"prompt\":[]}", 400, "empty", "prompt"},
    // known, but not done here
    {"POST", CHAT, "{" MSG ",\"n\":9}", 400, "outside [1, 8]", "n"},
    {"POST", TEXT, "{\"prompt\":\"x\",\"suffix\":\"y\"}", 400, "middle", "suffix"},
    {"POST", CHAT, "{" MSG ",\"tools\":7}", 400, "array", "tools"},
    {"POST", CHAT, "{" MSG ",\"functions\":[{\"name\":\"f\"}]}", 400, "send \"tools\"",
     "functions"},
    {"POST", CHAT, "{" MSG ",\"grammar\":\"root ::= x\",\"response_format\":{}}", 400, "excludes",
     "grammar"},
    {"POST", "/v1/embeddings", "{}", 400, "'input' must be", "input"},
    {"POST", "/v1/rerank", "{\"query\":\"x\"}", 400, "'documents' must be", "documents"},
    {"POST", "/tokenize", "{}", 400, "'content' must be", "content"},
    {"POST", "/detokenize", "{\"tokens\":\"x\"}", 400, "'tokens' must be", "tokens"},
    {"POST", "/apply-template", "{}", 400, "'messages' must be", "messages"},
    // models and routes
    {"POST", CHAT, "{" MSG ",\"model\":\"gpt-9\"}", 404, "fake-model", "model"},
    {"GET", "/v1/models/gpt-9", NULL, 404, "also called \"stem\"", "model"},
    {"GET", "/v1/nothing", NULL, 404, "POST /v1/chat/completions", NULL},
    {"POST", "/", NULL, 405, "use GET", NULL},
    {"GET", "//", NULL, 404, "GET /v1/models", NULL},
    {"GET", "/v2/models", NULL, 404, "those of /v1 also without it", NULL},
    {"GET", "/v1/models/", NULL, 404, "no route", NULL},
    {"GET", CHAT, NULL, 405, "use POST", NULL},
    {"DELETE", "/v1/models", NULL, 405, "use GET", NULL},
    {"OPTIONS", CHAT, NULL, 405, "use POST", NULL},
};

static void check_refusal(uint16_t port, const struct refusal *r)
{
    struct web w = web_open(port, r->method, r->path, NULL, r->body);
    struct web_answer a = web_finish(&w);
    json_t *v = parse(a.body);

    print_message("%s %s %s\n", r->method, r->path, r->body ? r->body : "");
    assert_int_equal(a.status, r->status);
    if (!strstr(text_at(v, "error.message"), r->told))
        fail_msg("\"%s\" is not in: %s", r->told, a.body);
    assert_true(json_is_string(at(v, "error.type")));
    assert_true(json_is_string(at(v, "error.message")));
    if (r->param)
        assert_string_equal(text_at(v, "error.param"), r->param);
    else
        assert_true(json_is_null(at(v, "error.param")));
    if (r->status == 405)
        assert_non_null(strstr(a.head, "Allow: "));
    json_decref(v);
    web_answer_fini(&a);
}

static void test_refusals(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
        check_refusal(s.port, &refusals[i]);
    // A client that got something wrong does not take the server along.
    struct web_answer a = web_ask(s.port, TEXT, "{\"prompt\":[\"one\"],\"n\":1,\"logprobs\":null}");
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    stage_stop(&s);
}

// HEAD is GET without the body, wherever the answer comes from.
static void test_head(void **state)
{
    static const char *const paths[] = {"/",
                                        "/v1/models",
                                        "/v1/models/stem",
                                        "/v1/models/none",
                                        "/health",
                                        "/livez",
                                        "/readyz",
                                        "/metrics",
                                        "/v1/tandem/status",
                                        "/v1/tandem/nodes",
                                        "/api/tags",
                                        "/api/ps",
                                        "/api/version",
                                        "/v1/files",
                                        "/v1/fine_tuning/jobs",
                                        "/v1/images/jobs",
                                        "/nothing"};
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        struct web w = web_open(s.port, "HEAD", paths[i], NULL, NULL);
        struct web_answer head = web_finish(&w), get = web_get(s.port, paths[i]);

        assert_int_equal(head.status, get.status);
        assert_string_equal(head.body, "");
        assert_true(get.body[0]);
        if (i == 0) {
            assert_int_equal(get.status, 200);
            assert_has(get.body, "\"POST /v1/chat/completions\"");
        }
        web_answer_fini(&head);
        web_answer_fini(&get);
    }
    stage_stop(&s);
}

// Long cookies and tokens of proxies, and a body behind them.
static void test_long_heads(void **state)
{
    static const int rows[][2] = {{4, 8000}, {120, 250}}; // lines, and bytes of each
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf head;
        struct web w;
        struct web_answer a;

        buf_init(&head, 1u << 20);
        for (int k = 0; k < rows[i][0]; k++)
            buf_printf(&head, "X-Long-%03d: %0*d\r\n", k, rows[i][1] - 14, 0);
        w = web_open(s.port, "POST", "/tokenize", (char *)head.data, "{\"content\":\"x\"}");
        a = web_finish(&w);
        assert_int_equal(a.status, 200);
        web_answer_fini(&a);
        buf_fini(&head);
    }
    stage_stop(&s);
}

static void test_models_and_health(void **state)
{
    struct stage s;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    a = web_get(s.port, "/v1/models");
    v = parse(a.body);
    assert_string_equal(text_at(v, "data.0.id"), "fake-model");
    assert_string_equal(text_at(v, "object"), "list");
    json_decref(v);
    web_answer_fini(&a);
    a = web_get(s.port, "/models/stem");
    v = parse(a.body);
    assert_string_equal(text_at(v, "id"), "fake-model");
    json_decref(v);
    web_answer_fini(&a);
    a = web_get(s.port, "/health");
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "{\"status\":\"ok\"}");
    web_answer_fini(&a);
    a = web_get(s.port, "/v1/tandem/status");
    v = parse(a.body);
    assert_string_equal(text_at(v, "nodes.0.role"), "decode");
    assert_string_equal(text_at(v, "nodes.1.name"), "spark");
    assert_int_equal(json_integer_value(at(v, "nodes.1.worker.cells_used")), 7);
    assert_int_equal(json_array_size(at(v, "requests")), 0);
    json_decref(v);
    web_answer_fini(&a);
    stage_stop(&s);
}

// What the list of routes promises: each of them without /v1 as well.
static void test_short_routes(void **state)
{
    static const char *const gets[] = {"/models", "/models/fake-model", "/health",
                                       "/tandem/status"};
    struct stage s;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(gets) / sizeof(gets[0]); i++) {
        a = web_get(s.port, gets[i]);
        assert_int_equal(a.status, 200);
        web_answer_fini(&a);
    }
    a = web_ask(s.port, "/completions", "{\"prompt\":\"x\"}");
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    a = web_ask(s.port, "/chat/completions", "{" MSG "}");
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    stage_stop(&s);
}

// The requests that are running can be seen.
static void test_status_requests(void **state)
{
    struct stage s;
    struct web_answer a;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = web_post(s.port, TEXT, "{\"prompt\":\"abc\"}");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    a = web_get(s.port, "/v1/tandem/status");
    v = parse(a.body);
    assert_string_equal(text_at(v, "requests.0.phase"), "generate");
    assert_string_equal(text_at(v, "requests.0.plan"), "local");
    assert_int_equal(json_integer_value(at(v, "requests.0.prompt_tokens")), 3);
    assert_int_equal(json_integer_value(at(v, "nodes.0.requests")), 1);
    json_decref(v);
    web_answer_fini(&a);
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 1));
    a = web_finish(&w);
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    stage_stop(&s);
}

// ---- bodies -------------------------------------------------------------------------------------------

static void post_large(struct stage *s, size_t bytes, const char *head, int status)
{
    struct web w = {.fd = web_dial(s->port)};
    char *text = mem_format("POST " TEXT " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                            "Content-Length: %zu\r\n%s\r\n",
                            bytes, head);
    char *block = mem_alloc(1u << 20);
    struct web_answer a;

    memset(block, ' ', 1u << 20);
    buf_init(&w.in, 1u << 20);
    web_write(&w, text, strlen(text));
    for (size_t sent = 0; sent < bytes && !head[0]; sent += 1u << 20)
        web_write(&w, block, bytes - sent < 1u << 20 ? bytes - sent : 1u << 20);
    a = web_finish(&w);
    assert_int_equal(a.status, status);
    if (status == 413)
        assert_non_null(strstr(a.body, "33554432"));
    web_answer_fini(&a);
    free(block);
    free(text);
}

static void test_large_bodies(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    post_large(&s, 100u << 20, "", 413);
    post_large(&s, GATEWAY_BODY_MAX + 1, "", 413);
    post_large(&s, GATEWAY_BODY_MAX, "", 400); // 32 MiB of blanks
    // Who asks first is told before a byte of the body is sent.
    post_large(&s, 100u << 20, "Expect: 100-continue\r\n", 413);
    stage_stop(&s);
}

// A prompt that fits the body's limit but not a frame's.
static void test_large_prompt(void **state)
{
    struct stage s;
    size_t n = 9u << 20;
    char *text = mem_alloc(n + 64);
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    size_t used = (size_t)snprintf(text, 64, "{\"prompt\":\"");
    memset(text + used, 'a', n);
    snprintf(text + used + n, 32, "\"}");
    a = web_ask(s.port, TEXT, text);
    assert_int_equal(a.status, 413);
    assert_non_null(strstr(a.body, "8388608"));
    web_answer_fini(&a);
    free(text);
    stage_stop(&s);
}

// A body that never ends its promise is cut without harm to others.
static void test_half_body(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w.fd = web_dial(s.port);
    buf_init(&w.in, 1u << 20);
    static const char half[] =
        "POST " TEXT " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{\"pro";
    web_write(&w, half, strlen(half));
    web_close(&w);
    a = web_ask(s.port, TEXT, "{\"prompt\":\"x\"}");
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    stage_stop(&s);
}

// Two requests on one connection.
static void test_keep_alive(void **state)
{
    static const char ask[] =
        "POST " TEXT " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n%s\r\n"
        "{\"prompt\":\"x\"}";
    struct stage s;
    struct web w;
    char text[256];
    const char *second;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w.fd = web_dial(s.port);
    buf_init(&w.in, 1u << 20);
    snprintf(text, sizeof(text), ask, "");
    web_write(&w, text, strlen(text));
    web_until(&w, "\"timings\"");
    snprintf(text, sizeof(text), ask, "Connection: close\r\n");
    web_write(&w, text, strlen(text));
    while (web_more(&w))
        ;
    second = strstr((char *)w.in.data + 10, "HTTP/1.1 200");
    assert_non_null(second);
    assert_non_null(strstr(second, "\"timings\""));
    web_close(&w);
    stage_stop(&s);
}

// ---- who may ask ------------------------------------------------------------------------------------------

static int status_with(struct stage *s, const char *method, const char *path, const char *head)
{
    struct web w = web_open(s->port, method, path, head, NULL);
    struct web_answer a = web_finish(&w);
    int status = a.status;

    web_answer_fini(&a);
    return status;
}

static void test_api_key(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.options.api_key = "secret";
    stage_start(&s, false);
    assert_int_equal(status_with(&s, "GET", "/v1/models", ""), 401);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Authorization: Bearer secre\r\n"), 401);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Authorization: Bearer secret1\r\n"),
                     401);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Authorization: Basic secret\r\n"), 401);
    assert_int_equal(status_with(&s, "GET", "/v1/nothing", ""), 401);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Authorization: Bearer secret\r\n"), 200);
    assert_int_equal(
        status_with(&s, "GET", "/v1/health?verbose", "Authorization: bearer secret\r\n"), 200);
    assert_true(status_with(&s, "GET", "/health", "") != 401);
    stage_stop(&s);
}

static void test_origin(void **state)
{
    struct stage s;
    struct web_answer a;
    struct web w;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Origin: http://evil.example\r\n"), 403);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Origin: null\r\n"), 403);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Origin: http://127.0.0.1\r\n"), 200);
    stage_stop(&s);
    stage_init(&s);
    s.options.cors = true;
    stage_start(&s, false);
    w = web_open(s.port, "OPTIONS", CHAT, "Origin: http://page.example\r\n", NULL);
    a = web_finish(&w);
    assert_int_equal(a.status, 204);
    assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: *"));
    web_answer_fini(&a);
    assert_int_equal(status_with(&s, "GET", "/v1/models", "Origin: http://page.example\r\n"), 200);
    stage_stop(&s);
}

// A page's name that was made to point at this machine is still not this machine.
static void test_rebinding(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    w.fd = web_dial(s.port);
    buf_init(&w.in, 1u << 20);
    static const char ask[] = "GET /v1/models HTTP/1.1\r\nHost: evil.example:1\r\n"
                              "Origin: http://evil.example:1\r\nConnection: close\r\n\r\n";
    web_write(&w, ask, strlen(ask));
    a = web_finish(&w);
    assert_int_equal(a.status, 403);
    web_answer_fini(&a);
    stage_stop(&s);
}

static void test_public_address(void **state)
{
    struct fake local = fake_make("mac");
    struct core_source source = FAKE_SOURCE(&local);
    struct gateway_options o;
    struct gateway *g = NULL;
    struct err e = {0};
    uint16_t port;

    (void)state;
    gateway_options_default(&o);
    o.listen = (struct net_addr){.host = "0.0.0.0"};
    assert_int_equal(gateway_start_on(&o, &source, &g, &port, &e), ERR_AUTH);
    assert_non_null(strstr(e.message, "--api-key"));
    // A name that is nobody's is called that, whatever else is missing.
    o.listen = (struct net_addr){.host = "no-such-name.invalid"};
    assert_int_equal(gateway_start_on(&o, &source, &g, &port, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "cannot find the host \"no-such-name.invalid\""));
    o.listen = (struct net_addr){.host = "localhost"};
    assert_int_equal(gateway_start_on(&o, &source, &g, &port, &e), 0);
    gateway_free(g);
    fake_stop(&local);
    local = fake_make("mac");
    o.listen = (struct net_addr){.host = "0.0.0.0"};
    o.api_key = "secret";
    assert_int_equal(gateway_start_on(&o, &source, &g, &port, &e), 0);
    gateway_free(g);
    fake_stop(&local);
}

static void test_port_taken(void **state)
{
    struct stage s;
    struct fake other = fake_make("other");
    struct core_source source = FAKE_SOURCE(&other);
    struct gateway_options o;
    struct gateway *g = NULL;
    struct err e = {0};
    uint16_t port;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    o = s.options;
    o.listen.port = s.port;
    assert_true(gateway_start_on(&o, &source, &g, &port, &e) < 0);
    assert_true(strlen(e.message) > 0);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),         cmocka_unit_test(test_long_heads),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_models_and_health),
        cmocka_unit_test(test_short_routes), cmocka_unit_test(test_status_requests),
        cmocka_unit_test(test_large_bodies), cmocka_unit_test(test_large_prompt),
        cmocka_unit_test(test_half_body),    cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_api_key),      cmocka_unit_test(test_origin),
        cmocka_unit_test(test_rebinding),    cmocka_unit_test(test_public_address),
        cmocka_unit_test(test_port_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
