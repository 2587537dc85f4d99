// What a server answers: events (or one text) of OpenAI's shape in, what a worker would have said out.
#include "base/clock.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/upstream_impl.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOGPROB_BYTES 128 // of one token
#define TOP_MAX 20

void upstream_answer_init(struct upstream_answer *a, upstream_tell *tell, void *ctx,
                          int64_t sent_ns)
{
    *a = (struct upstream_answer){.tell = tell, .ctx = ctx, .stream = true, .sent_ns = sent_ns};
    buf_init(&a->line, UPSTREAM_EVENT_MAX);
    buf_init(&a->event, UPSTREAM_EVENT_MAX);
}

void upstream_answer_fini(struct upstream_answer *a)
{
    buf_fini(&a->line);
    buf_fini(&a->event);
    for (size_t i = 0; i < a->n_calls; i++)
        free(a->calls[i].id);
    free(a->calls);
}

// ---- text and calls ---------------------------------------------------------------------------------

static void delta_put(json_t *deltas, const char *member, const json_t *text)
{
    json_t *o;

    if (json_string_length(text) == 0)
        return;
    o = json_object();
    json_object_set(o, member, (json_t *)(uintptr_t)text);
    json_array_append_new(deltas, o);
}

// A content is a text, or (some servers) parts of texts.
static void content_take(json_t *deltas, const char *member, const json_t *content)
{
    if (!json_is_array(content)) {
        delta_put(deltas, member, content);
        return;
    }
    for (size_t i = 0; i < json_array_size(content); i++)
        delta_put(deltas, member, json_object_get(json_array_get(content, i), "text"));
}

static bool id_is(const struct upstream_call *c, const char *id)
{
    return c->id && strcmp(c->id, id) == 0;
}

// Which of its calls a server goes on with. By the id where it says one (not all count their calls), by the
// index else; n_calls: a new one.
static size_t call_find(const struct upstream_answer *a, const char *id, const json_t *index,
                        bool named)
{
    for (size_t i = a->n_calls; id && id[0] && i-- > 0;)
        if (id_is(&a->calls[i], id))
            return i;
    if (id && id[0])
        return a->n_calls;
    for (size_t i = a->n_calls; json_is_integer(index) && i-- > 0;)
        if (a->calls[i].index == json_integer_value(index))
            return i;
    return json_is_integer(index) || named || a->n_calls == 0 ? a->n_calls : a->n_calls - 1;
}

static void call_add(struct upstream_answer *a, const char *id, const json_t *index)
{
    struct upstream_call *c;
    uint8_t random[12];
    char made[40] = "call_";

    if (!id || !id[0]) {
        os_random(random, sizeof(random));
        hex_encode(random, sizeof(random), made + strlen(made));
        id = made;
    }
    a->calls = mem_resize(a->calls, (a->n_calls + 1) * sizeof(*a->calls));
    c = &a->calls[a->n_calls];
    c->id = mem_strdup(id);
    c->index = json_is_integer(index) ? json_integer_value(index) : (json_int_t)a->n_calls;
    a->n_calls++;
}

// Arguments are the text of an object; some servers send the object.
static json_t *arguments_of(const json_t *function)
{
    json_t *v = json_object_get(function, "arguments"), *text;
    char *line;

    if (json_is_string(v))
        return json_incref(v);
    if (!json_is_object(v))
        return json_string("");
    line = json_text(v);
    text = json_string(line);
    free(line);
    return text;
}

static int call_take(struct upstream_answer *a, json_t *deltas, const json_t *call, struct err *e)
{
    const json_t *function = json_object_get(call, "function"),
                 *index = json_object_get(call, "index");
    const char *id = json_string_value(json_object_get(call, "id"));
    const char *name = json_string_value(json_object_get(function, "name"));
    bool named = name && name[0];
    size_t at = call_find(a, id, index, named);
    json_t *o;

    if (at == a->n_calls && !named)
        return err_set(e, ERR_CORRUPT, "it sent a tool call without a name");
    if (at == a->n_calls && at == ANSWER_TOOLS_MAX)
        return err_set(e, ERR_RANGE, "its answer has more than %d tool calls", ANSWER_TOOLS_MAX);
    o = json_object();
    json_put(o, "tool", json_integer((json_int_t)at));
    if (at == a->n_calls) {
        call_add(a, id, index);
        json_put(o, "id", json_string(a->calls[at].id));
        json_put(o, "name", json_string(name));
    }
    json_put(o, "arguments", arguments_of(function));
    json_array_append_new(deltas, o);
    return 0;
}

// The delta of a stream, or the message of a whole answer.
static int delta_take(struct upstream_answer *a, json_t *deltas, const json_t *delta, struct err *e)
{
    const json_t *calls = json_object_get(delta, "tool_calls");
    const json_t *thought = json_object_get(delta, "reasoning_content");
    int rc = 0;

    content_take(deltas, "reasoning", thought ? thought : json_object_get(delta, "reasoning"));
    content_take(deltas, "content", json_object_get(delta, "content"));
    delta_put(deltas, "content", json_object_get(delta, "refusal"));
    for (size_t i = 0; rc == 0 && i < json_array_size(calls); i++)
        rc = call_take(a, deltas, json_array_get(calls, i), e);
    return rc;
}

// ---- log probabilities ------------------------------------------------------------------------------

static void top_put(json_t *top, const char *text, const json_t *logprob)
{
    if (text && json_is_number(logprob) && json_array_size(top) < TOP_MAX)
        json_array_append_new(top, json_pack("[i,s,f]", 0, text, json_number_value(logprob)));
}

static json_t *hex_of(const json_t *entry, const char *text)
{
    const json_t *list = json_object_get(entry, "bytes");
    size_t n = json_array_size(list), length = strlen(text);
    uint8_t bytes[LOGPROB_BYTES];
    char hex[2 * LOGPROB_BYTES + 1];

    if (n > 0 && n <= LOGPROB_BYTES) {
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)json_integer_value(json_array_get(list, i));
    } else {
        n = length < LOGPROB_BYTES ? length : LOGPROB_BYTES;
        memcpy(bytes, text, n);
    }
    hex_encode(bytes, n, hex);
    return json_string(hex);
}

// An entry of a chat's "content"; NULL: it is none.
static json_t *entry_token(const json_t *entry)
{
    const json_t *logprob = json_object_get(entry, "logprob"),
                 *others = json_object_get(entry, "top_logprobs");
    const char *text = json_string_value(json_object_get(entry, "token"));
    json_t *o, *top;

    if (!text || !json_is_number(logprob))
        return NULL;
    o = json_object();
    top = json_array();
    for (size_t i = 0; i < json_array_size(others); i++) {
        const json_t *other = json_array_get(others, i);

        top_put(top, json_string_value(json_object_get(other, "token")),
                json_object_get(other, "logprob"));
    }
    json_put(o, "logprob", json_real(json_number_value(logprob)));
    json_put(o, "bytes", hex_of(entry, text));
    json_put(o, "top", top);
    return o;
}

// Entry i of the older form, lists side by side; NULL: it is none.
static json_t *column_token(const json_t *logprobs, size_t i)
{
    const json_t *logprob = json_array_get(json_object_get(logprobs, "token_logprobs"), i);
    const char *text = json_string_value(json_array_get(json_object_get(logprobs, "tokens"), i));
    json_t *others = json_array_get(json_object_get(logprobs, "top_logprobs"), i), *o, *top, *v;
    const char *other;

    if (!text || !json_is_number(logprob))
        return NULL;
    o = json_object();
    top = json_array();
    json_object_foreach(others, other, v) top_put(top, other, v);
    json_put(o, "logprob", json_real(json_number_value(logprob)));
    json_put(o, "bytes", hex_of(NULL, text));
    json_put(o, "top", top);
    return o;
}

// ---- chunks -------------------------------------------------------------------------------------------

// Steals both; `token` NULL: without a log probability.
static void token_tell(struct upstream_answer *a, json_t *token, json_t *deltas, int64_t at_ns)
{
    json_t *o = token ? token : json_object();

    if (a->first_ns == 0)
        a->first_ns = at_ns;
    a->last_ns = at_ns;
    json_put(o, "index", json_integer(a->n_told++));
    json_put(o, "delta", deltas);
    a->tell(a->ctx, WIRE_TOKEN, o);
}

// Log probabilities are told token by token, the text with the last one of a chunk.
static void deltas_tell(struct upstream_answer *a, const json_t *logprobs, json_t *deltas,
                        int64_t at_ns)
{
    const json_t *content = json_object_get(logprobs, "content"),
                 *columns = json_object_get(logprobs, "tokens");
    size_t n = json_array_size(content ? content : columns);
    json_t *token = NULL;

    for (size_t i = 0; i < n; i++) {
        if (token)
            token_tell(a, token, json_array(), at_ns);
        token = content ? entry_token(json_array_get(content, i)) : column_token(logprobs, i);
    }
    if (token || json_array_size(deltas) > 0)
        token_tell(a, token, deltas, at_ns);
    else
        json_decref(deltas);
}

static uint32_t count_of(const json_t *o, const char *member)
{
    json_int_t n = json_integer_value(json_object_get(o, member));

    return n < 0 ? 0 : n > INT32_MAX ? INT32_MAX : (uint32_t)n;
}

static void usage_take(struct upstream_answer *a, const json_t *usage)
{
    if (!json_is_object(usage))
        return;
    a->has_usage = true;
    a->prompt_tokens = count_of(usage, "prompt_tokens");
    a->gen_tokens = count_of(usage, "completion_tokens");
    a->cached_tokens = count_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
    a->reasoning_tokens =
        count_of(json_object_get(usage, "completion_tokens_details"), "reasoning_tokens");
    if (a->cached_tokens > a->prompt_tokens)
        a->cached_tokens = a->prompt_tokens;
}

static int choice_take(struct upstream_answer *a, const json_t *choice, int64_t at_ns,
                       struct err *e)
{
    const json_t *delta = json_object_get(choice, "delta"), *text = json_object_get(choice, "text");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    json_t *deltas = json_array();
    int rc = delta_take(a, deltas, delta ? delta : json_object_get(choice, "message"), e);

    delta_put(deltas, "content", text);
    if (rc != 0) {
        json_decref(deltas);
        return rc;
    }
    deltas_tell(a, json_object_get(choice, "logprobs"), deltas, at_ns);
    if (finish && finish[0]) {
        a->finished = true;
        a->cut = strcmp(finish, "length") == 0;
    }
    return 0;
}

// An error in the place of an answer, in the shapes that there are.
static int error_take(const struct upstream_answer *a, const json_t *o, const char *text, size_t n,
                      struct err *e)
{
    const json_t *error = json_object_get(o, "error");
    const char *object = json_string_value(json_object_get(o, "object"));
    char why[UPSTREAM_REASON_BYTES];

    if ((!error || json_is_null(error)) && !(object && strcmp(object, "error") == 0))
        return 0;
    upstream_reason(text, n, a->secret, why);
    return err_set(e, ERR_ENGINE, "it says: %s", why);
}

static int chunk_take(struct upstream_answer *a, const char *text, size_t n, int64_t at_ns,
                      struct err *e)
{
    json_t *o = json_parse(text, n, e), *choice;
    int rc;

    if (!o) {
        err_wrap(e, "what it sent is no JSON");
        return ERR_CORRUPT;
    }
    if (!json_is_object(o)) {
        json_decref(o);
        return err_set(e, ERR_CORRUPT, "what it sent is no JSON object");
    }
    rc = error_take(a, o, text, n, e);
    choice = json_array_get(json_object_get(o, "choices"), 0);
    usage_take(a, json_object_get(o, "usage"));
    // One answer was asked for; what comes after its end is none of it.
    if (rc == 0 && json_is_object(choice) && !a->finished)
        rc = choice_take(a, choice, at_ns, e);
    json_decref(o);
    return rc;
}

// ---- events -------------------------------------------------------------------------------------------

static int event_end(struct upstream_answer *a, int64_t at_ns, struct err *e)
{
    const char *text = (const char *)a->event.data;
    size_t n = a->event.len;
    int rc = 0;

    if (n == 0)
        return 0;
    if (n == 6 && memcmp(text, "[DONE]", 6) == 0)
        a->over = true;
    else if (!a->over)
        rc = chunk_take(a, text, n, at_ns, e);
    buf_clear(&a->event);
    return rc;
}

// A line of the stream without its end: a field, a comment, or the blank one that ends an event. An older
// llama-server tells errors in a field of that name.
static int line_take(struct upstream_answer *a, int64_t at_ns, struct err *e)
{
    const char *text = (const char *)a->line.data;
    size_t n = a->line.len, skip;

    if (n > 0 && text[n - 1] == '\r')
        n--;
    if (n == 0)
        return event_end(a, at_ns, e);
    skip = strncmp(text, "data:", 5) == 0 ? 5 : strncmp(text, "error:", 6) == 0 ? 6 : 0;
    if (skip == 0)
        return 0;
    skip += skip < n && text[skip] == ' ';
    if ((a->event.len > 0 && buf_put(&a->event, "\n", 1) != 0) ||
        buf_put(&a->event, text + skip, n - skip) != 0)
        return err_set(e, ERR_RANGE, "an event of its stream is longer than %u bytes",
                       UPSTREAM_EVENT_MAX);
    return 0;
}

static int lines_take(struct upstream_answer *a, const char *data, size_t n, int64_t at_ns,
                      struct err *e)
{
    int rc = 0;

    while (rc == 0 && n > 0) {
        const char *end = memchr(data, '\n', n);
        size_t part = end ? (size_t)(end - data) : n;

        if (buf_put(&a->line, data, part) != 0)
            return err_set(e, ERR_RANGE, "a line of its stream is longer than %u bytes",
                           UPSTREAM_EVENT_MAX);
        if (end) {
            rc = line_take(a, at_ns, e);
            buf_clear(&a->line);
        }
        part += end != NULL;
        data += part;
        n -= part;
    }
    return rc;
}

int upstream_answer_take(struct upstream_answer *a, const void *data, size_t n, int64_t at_ns,
                         struct err *e)
{
    a->bytes += n;
    if (a->bytes > UPSTREAM_ANSWER_MAX)
        return err_set(e, ERR_RANGE, "its answer is longer than %u bytes", UPSTREAM_ANSWER_MAX);
    if (a->stream)
        return lines_take(a, data, n, at_ns, e);
    a->event.max = UPSTREAM_ANSWER_MAX;
    return buf_put(&a->event, data, n);
}

// ---- the end ------------------------------------------------------------------------------------------

static double seconds(int64_t from_ns, int64_t to_ns)
{
    return from_ns == 0 || to_ns < from_ns ? 0 : ns_to_s(to_ns - from_ns);
}

static void done_tell(struct upstream_answer *a, int64_t at_ns)
{
    uint32_t gen = a->has_usage ? a->gen_tokens : a->n_told;
    int64_t first_ns = a->first_ns ? a->first_ns : at_ns;
    json_t *o = json_object();

    json_put(o, "finish", json_string(a->cut ? "length" : "stop"));
    json_put(o, "stop", json_null());
    json_put(o, "prompt_tokens", json_integer(a->prompt_tokens));
    json_put(o, "gen_tokens", json_integer(gen));
    json_put(o, "reasoning_tokens", json_integer(a->reasoning_tokens));
    json_put(o, "delta", json_array());
    json_put(o, "tokens_cached", json_integer(a->cached_tokens));
    json_put(o, "tokens_read", json_integer((json_int_t)a->prompt_tokens - a->cached_tokens));
    json_put(o, "tokens_imported", json_integer(0));
    json_put(o, "prefill_s", json_real(seconds(a->sent_ns, first_ns)));
    json_put(o, "decode_s", json_real(seconds(first_ns, a->last_ns)));
    json_put(o, "fallback", json_null());
    a->tell(a->ctx, WIRE_DONE, o);
}

int upstream_answer_end(struct upstream_answer *a, int64_t at_ns, struct err *e)
{
    int rc = 0;

    if (a->stream && a->line.len > 0)
        rc = line_take(a, at_ns, e);
    if (rc == 0)
        rc = event_end(a, at_ns, e);
    if (rc != 0)
        return rc;
    if (!a->finished && !a->over)
        return err_set(e, ERR_CLOSED, "its answer ended in the middle, after %u pieces", a->n_told);
    done_tell(a, at_ns);
    return 0;
}
