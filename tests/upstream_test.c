// What goes to upstream servers and what comes from them, without a server: bodies, streams cut at every byte, lists,
// reasons, and the words behind --upstream.
#include "base/chan.h"
#include "base/json.h"
#include "cli/serve.h"
#include "gateway/answer.h"
#include "gateway/upstream_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- streams --------------------------------------------------------------------------------------------

// All that was told, as text: one line for each TOKEN, the last one for DONE.
struct told {
    struct buf text;
};

static void hear(void *ctx, enum wire_type type, json_t *head)
{
    struct told *t = ctx;
    json_t *deltas = json_object_get(head, "delta");
    char *line = json_text(deltas);

    if (type == WIRE_TOKEN) {
        buf_printf(&t->text, "%s%s\n", json_object_get(head, "logprob") ? "p" : "", line);
    } else {
        long long cached = json_integer_value(json_object_get(head, "tokens_cached"));

        buf_printf(&t->text, "%s %lld+%lld", json_string_value(json_object_get(head, "finish")),
                   (long long)json_integer_value(json_object_get(head, "prompt_tokens")),
                   (long long)json_integer_value(json_object_get(head, "gen_tokens")));
        if (cached != 0)
            buf_printf(&t->text, " cached %lld", cached);
        buf_puts(&t->text, "\n");
    }
    free(line);
    json_decref(head);
}

// In pieces of `step` bytes. Returns the text that was told, or the error's; the caller frees.
static char *play(const char *in, size_t step, bool stream)
{
    struct told t;
    struct upstream_answer a;
    struct err e = {0};
    size_t n = strlen(in);
    int rc = 0;

    buf_init(&t.text, 1u << 20);
    upstream_answer_init(&a, hear, &t, 1);
    a.stream = stream;
    a.secret = "sesame";
    for (size_t at = 0; rc == 0 && at < n; at += step)
        rc = upstream_answer_take(&a, in + at, n - at < step ? n - at : step, 2, &e);
    if (rc == 0)
        rc = upstream_answer_end(&a, 3, &e);
    if (rc != 0)
        buf_printf(&t.text, "%s: %s", err_name(rc), e.message);
    upstream_answer_fini(&a);
    return buf_take(&t.text);
}

#define CHUNK(delta) "data: {\"choices\":[{\"index\":0,\"delta\":" delta "}]}\n\n"
#define END(reason)                                                                                \
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"" reason "\"}],"                        \
    "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n"
#define DONE "data: [DONE]\n\n"

static const struct {
    const char *in, *out;
} streams[] = {
    {CHUNK("{\"content\":\"a\"}") END("stop") DONE, "[{\"content\":\"a\"}]\nstop 5+2\n"},
    {CHUNK("{\"content\":\"a\"}") END("length"), "[{\"content\":\"a\"}]\nlength 5+2\n"},
    {": hi\r\n\r\nevent: x\r\ndata:{\"choices\":[{\"text\":\"a\"}]}\r\n\r\ndata: [DONE]\r\n\r\n",
     "[{\"content\":\"a\"}]\nstop 0+1\n"},
    {"data: {\"choices\":\ndata: [{\"text\":\"a\"}]}\n\n" DONE,
     "[{\"content\":\"a\"}]\nstop 0+1\n"},
    {CHUNK("{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}") DONE,
     "[{\"content\":\"a\"}]\nstop 0+1\n"},
    {CHUNK("{\"content\":null,\"reasoning\":\"r\"}") DONE, "[{\"reasoning\":\"r\"}]\nstop 0+1\n"},
    // The last line without its end; what comes after the answer's end.
    {CHUNK("{\"content\":\"a\"}") "data: [DONE]", "[{\"content\":\"a\"}]\nstop 0+1\n"},
    {END("stop") CHUNK("{\"content\":\"late\"}") DONE, "stop 5+2\n"},
    {DONE "data: no json\n\n", "stop 0+0\n"},
    {CHUNK("{\"tool_calls\":[{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}")
         CHUNK("{\"tool_calls\":[{\"function\":{\"arguments\":\"}\"}}]}") DONE,
     "[{\"tool\":0,\"id\":\"x\",\"name\":\"f\",\"arguments\":\"{\"}]\n"
     "[{\"tool\":0,\"arguments\":\"}\"}]\nstop 0+2\n"},
    {"data: {\"choices\":[{\"delta\":{\"content\":\"ab\"},\"logprobs\":{\"content\":["
     "{\"token\":\"a\",\"logprob\":-1},{\"token\":\"b\",\"logprob\":-2}]}}]}\n\n" DONE,
     "p[]\np[{\"content\":\"ab\"}]\nstop 0+2\n"},
    {"data: {\"choices\":[{\"text\":\"ab\",\"logprobs\":{\"tokens\":[\"a\",\"b\"],"
     "\"token_logprobs\":[null,-2],\"top_logprobs\":[null,{\"b\":-2}]}}]}\n\n" DONE,
     "p[{\"content\":\"ab\"}]\nstop 0+1\n"},
    // Numbers that no answer has.
    {"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":-4,\"completion_tokens\":1e99}}\n\n" DONE,
     "stop 0+0\n"},
    {"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":99999999999}}\n\n" DONE,
     "stop 2147483647+0\n"},
    {"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"prompt_tokens_details\":{"
     "\"cached_tokens\":9}}}\n\n" DONE,
     "stop 5+0 cached 5\n"},
    // Failures.
    {"", "closed: its answer ended in the middle, after 0 pieces"},
    {CHUNK("{\"content\":\"a\"}"),
     "[{\"content\":\"a\"}]\nclosed: its answer ended in the middle, after 1 pieces"},
    {"data: [1]\n\n", "corrupt: what it sent is no JSON object"},
    {"data: {\"error\":{\"message\":\"out of sesame\\u0007memory\"}}\n\n",
     "engine: it says: out of ****** memory"},
    {"error: {\"message\":\"old\",\"object\":\"error\"}\n\n", "engine: it says: old"},
    {CHUNK("{\"tool_calls\":[{\"function\":{\"arguments\":\"{}\"}}]}"),
     "corrupt: it sent a tool call without a name"},
};

static void stream_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        size_t n = strlen(streams[i].in);

        for (size_t step = 1; step <= n + 1; step += step < 9 ? 1 : 50) {
            char *out = play(streams[i].in, step, true);

            assert_string_equal(out, streams[i].out);
            free(out);
        }
    }
}

static void stream_not_json(void **state)
{
    char *out = play("data: {\"choices\"\n\n", 1000, true);

    (void)state;
    assert_non_null(strstr(out, "corrupt: what it sent is no JSON"));
    free(out);
}

static void whole_answer(void **state)
{
    char *out = play("{\"choices\":[{\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],"
                     "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}",
                     7, false);

    (void)state;
    assert_string_equal(out, "[{\"content\":\"a\"}]\nstop 5+2\n");
    free(out);
}

static void stream_limits(void **state)
{
    struct told t;
    struct upstream_answer a;
    struct err e = {0};
    size_t n = UPSTREAM_EVENT_MAX + 16;
    char *long_line = malloc(n);

    (void)state;
    buf_init(&t.text, 1u << 20);
    memset(long_line, 'x', n);
    memcpy(long_line, "data: ", 6);
    upstream_answer_init(&a, hear, &t, 1);
    assert_int_equal(upstream_answer_take(&a, long_line, n, 2, &e), ERR_RANGE);
    upstream_answer_fini(&a);
    // Many lines of one event.
    upstream_answer_init(&a, hear, &t, 1);
    long_line[n / 2] = '\n';
    assert_int_equal(upstream_answer_take(&a, long_line, n / 2 + 1, 2, &e), 0);
    assert_int_equal(upstream_answer_take(&a, long_line, n / 2 + 1, 2, &e), ERR_RANGE);
    upstream_answer_fini(&a);
    // Comments for ever.
    upstream_answer_init(&a, hear, &t, 1);
    a.bytes = UPSTREAM_ANSWER_MAX;
    assert_int_equal(upstream_answer_take(&a, ":\n", 2, 2, &e), ERR_RANGE);
    upstream_answer_fini(&a);
    buf_fini(&t.text);
    free(long_line);
}

static void calls_limit(void **state)
{
    struct told t;
    struct upstream_answer a;
    struct err e = {0};
    int rc = 0;

    (void)state;
    buf_init(&t.text, 1u << 20);
    upstream_answer_init(&a, hear, &t, 1);
    for (int i = 0; i <= ANSWER_TOOLS_MAX; i++) {
        char text[200];

        assert_int_equal(rc, 0);
        snprintf(text, sizeof(text),
                 CHUNK("{\"tool_calls\":[{\"index\":%d,\"function\":{\"name\":\"f\"}}]}"), i);
        rc = upstream_answer_take(&a, text, strlen(text), 2, &e);
    }
    assert_int_equal(rc, ERR_RANGE);
    upstream_answer_fini(&a);
    buf_fini(&t.text);
}

// ---- lists and reasons ------------------------------------------------------------------------------------

static void list_read(void **state)
{
    static const char text[] =
        "{\"data\":[{\"id\":\"a\",\"max_model_len\":4096},{\"id\":\"a\"},{\"id\":\"\"},7,"
        "{\"id\":\"b\",\"meta\":{\"n_ctx_train\":2048}},{\"id\":\"c\",\"context_length\":-1}]}";
    struct upstream_listed *all;
    size_t n, left;
    struct err e = {0};

    (void)state;
    assert_int_equal(upstream_list_parse(text, sizeof(text) - 1, &all, &n, &left, &e), 0);
    assert_int_equal(n, 3);
    assert_int_equal(left, 0);
    assert_string_equal(all[1].id, "b");
    assert_int_equal(all[0].n_ctx, 4096);
    assert_int_equal(all[1].n_ctx, 2048);
    assert_int_equal(all[2].n_ctx, 0);
    free(all);
    for (const char *const *bad = (const char *const[]){"", "5", "{}", "{\"data\":{}}", "[", NULL};
         *bad; bad++) {
        assert_int_equal(upstream_list_parse(*bad, strlen(*bad), &all, &n, &left, &e), ERR_CORRUPT);
        free(all);
    }
}

static void reasons(void **state)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"{\"error\":{\"message\":\"m\"}}", "m"},
        {"{\"error\":\"m\"}", "m"},
        {"{\"message\":\"m\"}", "m"},
        {"{\"detail\":\"m\"}", "m"},
        {"<h1>\nno</h1>", "<h1> no</h1>"},
        {"", "(no reason)"},
        {"{\"error\":{\"message\":\"key abc and abc\"}}", "key *** and ***"},
    };
    char out[UPSTREAM_REASON_BYTES], text[400];

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        upstream_reason(rows[i].in, strlen(rows[i].in), "abc", out);
        assert_string_equal(out, rows[i].out);
    }
    // A key across the place where the text is cut.
    memset(text, 'x', sizeof(text));
    memcpy(text + UPSTREAM_REASON_BYTES - 3, "abc", 3);
    upstream_reason(text, sizeof(text), "abc", out);
    assert_int_equal(strlen(out), UPSTREAM_REASON_BYTES - 1);
    assert_null(strchr(out, 'a'));
}

// ---- what is asked ------------------------------------------------------------------------------------------

static void body_is(const struct dialect *d, const char *in, size_t at, const char *out)
{
    struct parse_request r;
    struct parse_fault fault;
    json_t *body, *wanted = json_loads(out, 0, NULL);
    char *text;

    assert_non_null(wanted);
    if (parse_request(d, in, strlen(in), &r, &fault) != 0)
        fail_msg("%s", fault.e.message);
    body = upstream_body(&r, at, "theirs");
    json_object_del(body, "stream");
    json_object_del(body, "stream_options");
    text = json_text(body);
    if (!json_equal(body, wanted))
        fail_msg("%s\nbecame\n%s", in, text);
    free(text);
    json_decref(body);
    json_decref(wanted);
    parse_request_fini(&r);
}

static void bodies(void **state)
{
    (void)state;
    body_is(&dialect_chat,
            "{\"model\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"user\":\"u\","
            "\"metadata\":{},\"tandem\":{\"plan\":\"remote\"},\"store\":true,\"temperature\":null,"
            "\"max_completion_tokens\":7,\"reasoning_effort\":\"low\"}",
            0,
            "{\"model\":\"theirs\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
            "\"max_tokens\":7,\"reasoning_effort\":\"low\"}");
    body_is(&dialect_chat,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"n\":2,\"seed\":3,"
            "\"max_tokens\":-1,\"json_schema\":{\"type\":\"object\"}}",
            1,
            "{\"model\":\"theirs\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"seed\":4,"
            "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
            "\"schema\":{\"type\":\"object\"}}}}");
    body_is(&dialect_text, "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"logprobs\":2,\"echo\":false}", 2,
            "{\"model\":\"theirs\",\"prompt\":\"b\",\"logprobs\":2}");
    body_is(&dialect_text, "{\"prompt\":[5,6],\"top_p\":0.5}", 0,
            "{\"model\":\"theirs\",\"prompt\":[5,6],\"top_p\":0.5}");
    body_is(&dialect_text,
            "{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"},\"stop\":\"x\"}", 0,
            "{\"model\":\"theirs\",\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"},"
            "\"stop\":\"x\"}");
}

// ---- --upstream -----------------------------------------------------------------------------------------------

static void specs(void **state)
{
    struct gateway_upstream u;
    struct err e = {0};
    static const struct {
        const char *in, *name, *url;
    } rows[] = {
        {"a=http://h", "a", "http://h/v1"},
        {"a=http://h:1/", "a", "http://h:1/v1"},
        {"  a=https://h/api/v1/  ", "a", "https://h/api/v1"},
        {"http://h:8000", "h:8000", "http://h:8000/v1"},
        {"http://[::1]:8/v1", "[::1]:8", "http://[::1]:8/v1"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (serve_upstream_parse(rows[i].in, &u, &e) != 0)
            fail_msg("%s: %s", rows[i].in, e.message);
        assert_string_equal(u.name, rows[i].name);
        assert_string_equal(u.url, rows[i].url);
    }
    assert_int_equal(serve_upstream_parse("a=http://h model=llama3.2:1b as=small model=org/b "
                                          "key-file=/k ca-file=/c stall=9 plain-key=yes",
                                          &u, &e),
                     0);
    assert_int_equal(u.n_models, 2);
    assert_string_equal(u.models[0].theirs, "llama3.2:1b");
    assert_string_equal(u.models[0].ours, "small");
    assert_null(u.models[1].ours);
    assert_string_equal(u.key_file, "/k");
    assert_string_equal(u.ca_file, "/c");
    assert_int_equal(u.stall_s, 9);
    assert_true(u.plain_key && !u.priced);
    assert_int_equal(serve_upstream_parse("a=http://h price-in=0.25 price-out=1e1", &u, &e), 0);
    assert_true(u.priced && u.price_in == 0.25 && u.price_out == 10);
    assert_int_equal(serve_upstream_parse("a=http://h price-out=0", &u, &e), 0);
    assert_true(u.priced && u.price_in == 0 && u.price_out == 0);
    for (const char *const *bad =
             (const char *const[]){"", "a", "a=b", "a=ftp://h", "=http://h", "a=http://h stall=x",
                                   "a=http://h stall", "a=http://h plain-key=maybe",
                                   "a=http://h price-in=-1",
                                   "a=http://h price-in=", "a=http://h price-out=nan",
                                   "a=http://h price-out=1$", "a=http://h price-out=1e7",
                                   "a=http://h as=x", "a=http://u:p@h", "a=http://h/?q", NULL};
         *bad; bad++)
        assert_int_equal(serve_upstream_parse(*bad, &u, &e), ERR_INVALID);
}

// ---- checks -----------------------------------------------------------------------------------------------

static void checks_back_off(void **state)
{
    static const int64_t waits_ms[] = {500, 1000, 2000, 4000, 8000, 10000, 10000};
    struct upstream_check c = {0};

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof(waits_ms) / sizeof(waits_ms[0]); i++) {
            upstream_check_done(&c, false, 7);
            assert_int_equal(c.due_ns, 7 + waits_ms[i] * NS_PER_MS);
        }
        upstream_check_done(&c, true, 7); // from the beginning, next time
        assert_int_equal(c.due_ns, 7 + 5 * NS_PER_S);
    }
}

static void lists_that_are_missing(void **state)
{
    const struct gateway_upstream named = {.n_models = 1}, open = {0};

    (void)state;
    for (long status = 200; status < 600; status++) {
        bool none = status == 404 || status == 405 || status == 501;

        assert_int_equal(upstream_list_is_missing(&named, status), none);
        assert_false(upstream_list_is_missing(&open, status));
    }
}

// ---- the thread --------------------------------------------------------------------------------------------

// Holds the thread at its first word, which is a report.
struct held {
    struct chan *reached, *go; // of char
    bool waited;
    size_t n_frames;
};

static void held_say(void *ctx, struct upstream_word *w)
{
    struct held *h = ctx;
    char c = 0;

    if (!w->report) {
        h->n_frames++;
        wire_frame_fini(&w->frame);
        return;
    }
    free(w->report->models);
    free(w->report);
    chan_send(h->reached, &c, CHAN_FOREVER);
    if (!h->waited)
        chan_recv(h->go, &c, CHAN_FOREVER);
    h->waited = true;
}

// Nobody takes orders while the core is busy; what is cancelled meanwhile is never asked for all the same.
static void cancels_have_room(void **state)
{
    const struct gateway_upstream server = {.name = "s", .url = "http://127.0.0.1:1", .stall_s = 5};
    struct held h = {.reached = chan_new(1, 16), .go = chan_new(1, 1)};
    const struct upstream_thread_options o = {
        .servers = &server, .n = 1, .say = held_say, .ctx = &h};
    struct upstream_thread *t = NULL;
    struct err e = {0};
    uint64_t n = 0;
    char c = 0;

    (void)state;
    assert_int_equal(upstream_thread_start(&o, &t, &e), 0);
    assert_int_equal(chan_recv(h.reached, &c, 20 * NS_PER_S), 0);
    while (upstream_thread_ask(t, 0, n + 1, true, mem_strdup("{}")) == 0)
        n++;
    assert_true(n > 100);
    for (uint64_t id = 1; id <= n; id++)
        upstream_thread_cancel(t, 0, id);
    chan_send(h.go, &c, CHAN_FOREVER);
    assert_int_equal(chan_recv(h.reached, &c, 20 * NS_PER_S), 0); // the next check's
    upstream_thread_stop(t);
    assert_int_equal(h.n_frames, 0);
    chan_free(h.reached);
    chan_free(h.go);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stream_every_cut),
        cmocka_unit_test(stream_not_json),
        cmocka_unit_test(whole_answer),
        cmocka_unit_test(stream_limits),
        cmocka_unit_test(calls_limit),
        cmocka_unit_test(list_read),
        cmocka_unit_test(reasons),
        cmocka_unit_test(bodies),
        cmocka_unit_test(specs),
        cmocka_unit_test(checks_back_off),
        cmocka_unit_test(cancels_have_room),
        cmocka_unit_test(lists_that_are_missing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
