#include "gateway/answer.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- text -------------------------------------------------------------------------------------------

// jansson refuses bytes that are no UTF-8; the usual cause is a message cut short in a character.
json_t *answer_string(const char *text)
{
    json_t *v = json_string(text);
    char *copy;

    if (v)
        return v;
    copy = mem_strdup(text);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    v = json_string(copy);
    free(copy);
    return v;
}

// What a byte is written as inside a JSON string; NULL: as itself.
static const char *escape(unsigned char c, char room[8])
{
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    default:
        break;
    }
    if (c >= 0x20)
        return NULL;
    snprintf(room, 8, "\\u%04x", c);
    return room;
}

void answer_quote_put(struct buf *out, const char *text, size_t n)
{
    size_t from = 0;
    char room[8];

    buf_put(out, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const char *e = escape((unsigned char)text[i], room);

        if (!e)
            continue;
        buf_put(out, text + from, i - from);
        buf_puts(out, e);
        from = i + 1;
    }
    buf_put(out, text + from, n - from);
    buf_put(out, "\"", 1);
}

void answer_json_put(struct buf *out, const json_t *value)
{
    char *text = json_line(value);

    buf_puts(out, text);
    free(text);
}

void answer_event_put(struct buf *out, const char *name, json_t *object)
{
    if (name)
        buf_printf(out, "event: %s\n", name);
    buf_puts(out, "data: ");
    answer_json_put(out, object);
    buf_puts(out, "\n\n");
    json_decref(object);
}

void answer_line_put(struct buf *out, json_t *object)
{
    answer_json_put(out, object);
    buf_puts(out, "\n");
    json_decref(object);
}

void answer_id_make(const char *prefix, char out[ANSWER_ID_BYTES])
{
    uint8_t random[12];

    os_random(random, sizeof(random));
    snprintf(out, ANSWER_ID_BYTES - 2 * sizeof(random), "%s", prefix);
    hex_encode(random, sizeof(random), out + strlen(out));
}

json_t *answer_arguments(const struct answer_tool *t)
{
    json_t *v = t->arguments.len > 0
                    ? json_loadb((const char *)t->arguments.data, t->arguments.len, 0, NULL)
                    : NULL;

    if (json_is_object(v))
        return v;
    json_decref(v);
    return json_object();
}

// ---- an answer's life -------------------------------------------------------------------------------

void answer_init(struct answer *a, const struct parse_request *in)
{
    size_t prompts = 1 + json_array_size(in->more);

    memset(a, 0, sizeof(*a));
    a->dialect = in->dialect;
    a->in = in;
    a->created = clock_unix_s();
    a->n_choices = in->kind == PARSE_CHAT || in->kind == PARSE_TEXT ? prompts * in->n : 0;
    answer_id_make(a->dialect->id_prefix, a->id);
    for (size_t i = 0; i < a->n_choices; i++) {
        struct answer_choice *c = &a->choices[i];

        c->index = (uint32_t)i;
        buf_init(&c->text, ANSWER_TEXT_MAX);
        buf_init(&c->reasoning, ANSWER_TEXT_MAX);
        if (in->generate.logprobs >= 0 && !in->stream)
            c->logprobs = json_array();
    }
}

static void choice_fini(struct answer_choice *c)
{
    buf_fini(&c->text);
    buf_fini(&c->reasoning);
    for (size_t i = 0; i < c->n_tools; i++) {
        free(c->tools[i].id);
        free(c->tools[i].name);
        buf_fini(&c->tools[i].arguments);
    }
    free(c->tools);
    free(c->stop);
    json_decref(c->logprobs);
    json_decref(c->own);
}

void answer_fini(struct answer *a)
{
    for (size_t i = 0; i < a->n_choices; i++)
        choice_fini(&a->choices[i]);
    for (size_t i = 0; i < a->n_vectors; i++)
        free(a->vectors[i].values);
    free(a->vectors);
    json_decref(a->timings);
    json_decref(a->result);
}

// ---- deltas -----------------------------------------------------------------------------------------

static int text_take(struct buf *b, const json_t *text)
{
    return buf_put(b, json_string_value(text), json_string_length(text));
}

static void member_take(char **at, const json_t *v)
{
    if (json_is_string(v) && !*at)
        *at = mem_strdup(json_string_value(v));
}

// Calls come in order: the index is one that there is, or the next.
static int tool_take(struct answer_choice *c, const json_t *delta)
{
    json_int_t index = json_integer_value(json_object_get(delta, "tool"));
    const json_t *arguments = json_object_get(delta, "arguments");
    struct answer_tool *t;

    if (index < 0 || (size_t)index > c->n_tools || index >= ANSWER_TOOLS_MAX)
        return ERR_CORRUPT;
    if ((size_t)index == c->n_tools) {
        c->tools = mem_resize(c->tools, (c->n_tools + 1) * sizeof(*c->tools));
        c->tools[c->n_tools] = (struct answer_tool){0};
        buf_init(&c->tools[c->n_tools++].arguments, ANSWER_TEXT_MAX);
    }
    t = &c->tools[index];
    member_take(&t->id, json_object_get(delta, "id"));
    member_take(&t->name, json_object_get(delta, "name"));
    return json_is_string(arguments) ? text_take(&t->arguments, arguments) : 0;
}

int answer_take(struct answer_choice *c, const json_t *delta)
{
    const json_t *content = json_object_get(delta, "content");
    const json_t *reasoning = json_object_get(delta, "reasoning");

    if (json_is_string(content))
        return text_take(&c->text, content);
    if (json_is_string(reasoning))
        return text_take(&c->reasoning, reasoning);
    return json_is_integer(json_object_get(delta, "tool")) ? tool_take(c, delta) : ERR_CORRUPT;
}

// ---- log probabilities ------------------------------------------------------------------------------

// A token's bytes as a JSON string, where they are no text by themselves each as OpenAI writes it.
static json_t *token_string(const uint8_t *bytes, size_t n)
{
    json_t *v = json_stringn((const char *)bytes, n);
    struct buf text;

    if (v)
        return v;
    buf_init(&text, 8 * n + 16);
    buf_puts(&text, "bytes:");
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "\\x%02x", bytes[i]);
    v = json_string((const char *)text.data);
    buf_fini(&text);
    return v;
}

static json_t *token_json(const uint8_t *bytes, size_t n, double logprob)
{
    json_t *o = json_object(), *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(bytes[i]));
    json_put(o, "token", token_string(bytes, n));
    json_put(o, "logprob", json_real(logprob));
    json_put(o, "bytes", list);
    return o;
}

static json_t *top_json(const json_t *top)
{
    json_t *list = json_array();

    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *entry = json_array_get(top, i), *text = json_array_get(entry, 1);
        const json_t *logprob = json_array_get(entry, 2);

        if (json_is_string(text) && json_is_number(logprob))
            json_array_append_new(list,
                                  token_json((const uint8_t *)json_string_value(text),
                                             json_string_length(text), json_number_value(logprob)));
    }
    return list;
}

json_t *answer_logprob(const json_t *token)
{
    const json_t *logprob = json_object_get(token, "logprob");
    const char *hex = json_string_value(json_object_get(token, "bytes"));
    uint8_t bytes[512];
    size_t n = hex ? strlen(hex) / 2 : 0;
    json_t *o;

    if (!json_is_number(logprob))
        return NULL;
    if (n > sizeof(bytes) || (n > 0 && hex_decode(hex, bytes, n) != 0))
        n = 0;
    o = token_json(bytes, n, json_number_value(logprob));
    json_put(o, "top_logprobs", top_json(json_object_get(token, "top")));
    return o;
}

// ---- errors -----------------------------------------------------------------------------------------

static const char *error_type(unsigned status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "unavailable_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static json_t *error_json(const struct answer_fault *f)
{
    json_t *o = json_object(), *error = json_object();

    json_put(error, "message", answer_string(f->message));
    json_put(error, "type", json_string(error_type(f->status)));
    json_put(error, "code", f->code ? json_string(f->code) : json_null());
    json_put(error, "param", f->param && f->param[0] ? answer_string(f->param) : json_null());
    json_put(o, "error", error);
    return o;
}

char *answer_error(unsigned status, const char *message, const char *code, const char *param)
{
    const struct answer_fault f = {status, code, param, message};
    json_t *o = error_json(&f);
    char *text = json_line(o);

    json_decref(o);
    return text;
}

unsigned answer_status(int err_code)
{
    switch (err_code) {
    case ERR_INVALID:
    case ERR_RANGE:
    case ERR_UNSUPPORTED:
        return 400;
    case ERR_NOT_FOUND:
        return 404;
    case ERR_BUSY:
        return 503;
    case ERR_TIMEOUT:
        return 504;
    case ERR_CLOSED:
        return 502;
    default:
        return 500;
    }
}

// ---- OpenAI's ---------------------------------------------------------------------------------------

void answer_openai_refusal(const struct answer_fault *f, struct buf *out)
{
    json_t *o = error_json(f);

    answer_json_put(out, o);
    json_decref(o);
}

void answer_openai_error(struct answer *a, const struct answer_fault *f, struct buf *out)
{
    (void)a;
    answer_event_put(out, NULL, error_json(f));
}

void answer_openai_beat(struct answer *a, struct buf *out)
{
    (void)a;
    buf_puts(out, ": tandem\n\n");
}

json_t *answer_usage_json(const struct answer_usage *u)
{
    json_t *o = json_object(), *prompt = json_object(), *completion = json_object();

    json_put(o, "prompt_tokens", json_integer(u->prompt_tokens));
    json_put(o, "completion_tokens", json_integer(u->gen_tokens));
    json_put(o, "total_tokens", json_integer((json_int_t)u->prompt_tokens + u->gen_tokens));
    json_put(prompt, "cached_tokens", json_integer(u->cached_tokens));
    json_put(o, "prompt_tokens_details", prompt);
    json_put(completion, "reasoning_tokens", json_integer(u->reasoning_tokens));
    json_put(o, "completion_tokens_details", completion);
    return o;
}
