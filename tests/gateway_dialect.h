// A dialect driven by hand: a request's text in, then what a worker would have said, step by step;
// what the client would have received comes out and is compared with a golden file.
//
// TANDEM_GOLDEN=write renews the golden files.
#ifndef TESTS_GATEWAY_DIALECT_H
#define TESTS_GATEWAY_DIALECT_H

#include "base/buf.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/dialect.h"
#include "gateway/parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

struct rig {
    const struct dialect *dialect;
    struct parse_request in;
    struct answer a;
    struct buf out;
};

static inline json_t *rig_json(const char *text)
{
    struct err e = {0};
    json_t *v = json_parse(text, strlen(text), &e);

    if (!v)
        fail_msg("%s: %s", text, e.message);
    return v;
}

// The parsed request and an answer to it whose id and time are always the same.
static inline void rig_open(struct rig *r, const struct dialect *d, const char *body)
{
    struct parse_fault fault;

    r->dialect = d;
    if (parse_request(d, body, strlen(body), &r->in, &fault) != 0)
        fail_msg("%s: %s", body, fault.e.message);
    answer_init(&r->a, &r->in);
    snprintf(r->a.id, sizeof(r->a.id), "%s0123456789abcdef", d->id_prefix);
    r->a.created = 1767225600;
    r->a.model = "smollm2";
    r->a.usage.prompt_tokens = 12;
    buf_init(&r->out, 1u << 20);
}

static inline void rig_close(struct rig *r)
{
    answer_fini(&r->a);
    parse_request_fini(&r->in);
    buf_fini(&r->out);
}

// One delta of the worker. In a stream, it goes out at once. logprobs: text of an array, or NULL.
static inline void rig_say(struct rig *r, const char *delta, const char *logprobs)
{
    struct answer_choice *c = &r->a.choices[0];
    json_t *d = rig_json(delta), *list = logprobs ? rig_json(logprobs) : NULL;

    assert_int_equal(answer_take(c, d), 0);
    if (c->logprobs && list)
        json_array_extend(c->logprobs, list);
    if (r->in.stream)
        r->dialect->delta(&r->a, c, d, list, &r->out);
    json_decref(d);
    json_decref(list);
}

// The end: why, the stop string or NULL, and the account.
static inline void rig_end(struct rig *r, const char *finish, const char *stop)
{
    struct answer_choice *c = &r->a.choices[0];

    c->finish = finish;
    c->stop = stop ? mem_strdup(stop) : NULL;
    r->a.usage.cached_tokens = 8;
    r->a.usage.gen_tokens = 5;
    r->a.usage.reasoning_tokens = c->reasoning.len > 0 ? 2 : 0;
    r->a.timings =
        rig_json("{\"plan\":\"local\",\"total_s\":1.5,\"prefill_s\":0.5,\"decode_s\":1}");
    if (!r->in.stream) {
        r->dialect->whole(&r->a, &r->out);
        return;
    }
    r->dialect->choice_end(&r->a, c, &r->out);
    r->dialect->end(&r->a, &r->out);
}

// A whole exchange: `say` ends with NULL.
static inline void rig_run(struct rig *r, const char *const *say, const char *finish,
                           const char *stop)
{
    if (r->in.stream)
        r->dialect->begin(&r->a, &r->out);
    for (; *say; say++)
        rig_say(r, *say, NULL);
    rig_end(r, finish, stop);
}

// ---- golden files -------------------------------------------------------------------------------

static inline void rig_golden_path(const char *name, char out[512])
{
    const char *source = getenv("TANDEM_SOURCE");

    snprintf(out, 512, "%s/tests/golden/%s", source ? source : ".", name);
}

static inline void rig_golden(const char *name, const struct buf *got)
{
    const char *mode = getenv("TANDEM_GOLDEN");
    char path[512], *want = test_calloc(1, (1u << 20) + 1);
    size_t n;
    FILE *f;

    rig_golden_path(name, path);
    f = fopen(path, mode && strcmp(mode, "write") == 0 ? "w+" : "r");
    if (!f)
        fail_msg("cannot open %s", path);
    if (mode && strcmp(mode, "write") == 0) {
        fwrite(got->data, 1, got->len, f);
        rewind(f);
    }
    n = fread(want, 1, 1u << 20, f);
    fclose(f);
    if (n != got->len || memcmp(want, got->data, n) != 0)
        fail_msg("%s differs; got:\n%s", name, (char *)got->data);
    test_free(want);
}

// ---- refusals -----------------------------------------------------------------------------------

struct refusal_row {
    const char *body, *param, *words; // words: part of the message
};

static inline void rig_refused(const struct dialect *d, const struct refusal_row *row)
{
    struct parse_request in;
    struct parse_fault fault;

    if (parse_request(d, row->body, strlen(row->body), &in, &fault) == 0)
        fail_msg("%s: was taken", row->body);
    parse_request_fini(&in);
    if (strcmp(fault.param, row->param) != 0)
        fail_msg("%s: blames '%s' (%s)", row->body, fault.param, fault.e.message);
    if (!strstr(fault.e.message, row->words))
        fail_msg("%s: says %s", row->body, fault.e.message);
    if (fault.status != 400)
        fail_msg("%s: status %d", row->body, fault.status);
}

static inline void rig_refused_all(const struct dialect *d, const struct refusal_row *rows,
                                   size_t n)
{
    for (size_t i = 0; i < n; i++)
        rig_refused(d, &rows[i]);
}

// The body with "@" replaced by `depth` arrays in one another, and by numbers that are too large.
// `param` and the status say who is blamed; bodies that cannot be read at all blame nobody.
static inline void rig_absurd(const struct dialect *d, const char *body)
{
    static const char *const numbers[] = {"1e999", "99999999999999999999", "-1e999", "1.5e"};
    size_t before = strcspn(body, "@"), depth = 3000;
    struct buf b;

    buf_init(&b, 65536);
    buf_put(&b, body, before);
    for (size_t i = 0; i < depth; i++)
        buf_puts(&b, "[");
    for (size_t i = 0; i < depth; i++)
        buf_puts(&b, "]");
    buf_puts(&b, body + before + 1);
    rig_refused(d, &(struct refusal_row){(char *)b.data, "", "not valid JSON"});
    for (size_t i = 0; i < COUNT(numbers); i++) {
        buf_clear(&b);
        buf_put(&b, body, before);
        buf_puts(&b, numbers[i]);
        buf_puts(&b, body + before + 1);
        rig_refused(
            d, &(struct refusal_row){(char *)b.data, "", i < 3 ? "too large" : "not valid JSON"});
    }
    buf_fini(&b);
}

// ---- what a request became ----------------------------------------------------------------------

// Compares a member of the chat request with the text of its JSON; NULL: it is absent.
static inline void rig_chat_is(const struct parse_request *in, const char *member, const char *want)
{
    const json_t *chat = json_object_get(in->render, "chat");
    const json_t *v = json_object_get(chat, member);
    char *text = v ? json_line(v) : NULL;

    if (!want && v)
        fail_msg("%s is %s", member, text);
    if (want && (!v || strcmp(text, want) != 0))
        fail_msg("%s is %s, not %s", member, v ? text : "absent", want);
    free(text);
}

struct chat_row {
    const char *body, *member, *want;
};

static inline void rig_chat_all(const struct dialect *d, const struct chat_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct parse_request in;
        struct parse_fault fault;

        if (parse_request(d, rows[i].body, strlen(rows[i].body), &in, &fault) != 0)
            fail_msg("%s: %s", rows[i].body, fault.e.message);
        rig_chat_is(&in, rows[i].member, rows[i].want);
        parse_request_fini(&in);
    }
}

#endif
