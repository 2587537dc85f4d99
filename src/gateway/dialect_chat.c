// OpenAI's /chat/completions. A token's chunk is written straight as text: it is the one thing that
// happens thousands of times a second.
#include "base/json.h"
#include "gateway/answer.h"

#include <inttypes.h>

static int chat_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    return parse_openai(body, PARSE_CHAT, out, fault);
}

// ---- chunks -----------------------------------------------------------------------------------------

// Up to where the delta's members follow.
static void chunk_open(const struct answer *a, struct buf *out)
{
    buf_printf(out,
               "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%" PRId64
               ",\"model\":",
               a->id, a->created);
    answer_quote_put(out, a->model, strlen(a->model));
    buf_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", a->fingerprint);
}

static void choice_open(const struct answer *a, const struct answer_choice *c, struct buf *out)
{
    chunk_open(a, out);
    buf_printf(out, "{\"index\":%u,\"delta\":{", c->index);
}

// Steals nothing; logprobs NULL: none.
static void choice_close(const json_t *logprobs, const char *finish, struct buf *out)
{
    buf_puts(out, "},\"logprobs\":");
    if (json_array_size(logprobs) > 0) {
        buf_puts(out, "{\"content\":");
        answer_json_put(out, logprobs);
        buf_puts(out, ",\"refusal\":null}");
    } else {
        buf_puts(out, "null");
    }
    if (finish)
        buf_printf(out, ",\"finish_reason\":\"%s\"}]", finish);
    else
        buf_puts(out, ",\"finish_reason\":null}]");
}

static void chat_begin(struct answer *a, struct buf *out)
{
    answer_openai_beat(a, out);
    for (size_t i = 0; i < a->n_choices; i++) {
        choice_open(a, &a->choices[i], out);
        buf_puts(out, "\"role\":\"assistant\",\"content\":\"\"");
        choice_close(NULL, NULL, out);
        buf_puts(out, "}\n\n");
    }
}

static void text_put(const char *member, const json_t *text, struct buf *out)
{
    buf_printf(out, "\"%s\":", member);
    answer_quote_put(out, json_string_value(text), json_string_length(text));
}

static void tool_put(const json_t *delta, struct buf *out)
{
    const json_t *id = json_object_get(delta, "id"), *name = json_object_get(delta, "name");
    const json_t *arguments = json_object_get(delta, "arguments");

    buf_printf(out, "\"tool_calls\":[{\"index\":%d,",
               (int)json_integer_value(json_object_get(delta, "tool")));
    if (json_is_string(id)) {
        text_put("id", id, out);
        buf_puts(out, ",\"type\":\"function\",");
    }
    buf_puts(out, "\"function\":{");
    if (json_is_string(name)) {
        text_put("name", name, out);
        buf_puts(out, ",");
    }
    if (json_is_string(arguments))
        text_put("arguments", arguments, out);
    else
        buf_puts(out, "\"arguments\":\"\"");
    buf_puts(out, "}}]");
}

static void chat_delta(struct answer *a, struct answer_choice *c, const json_t *delta,
                       const json_t *logprobs, struct buf *out)
{
    const json_t *content = json_object_get(delta, "content");
    const json_t *reasoning = json_object_get(delta, "reasoning");

    choice_open(a, c, out);
    if (content)
        text_put("content", content, out);
    else if (reasoning)
        text_put("reasoning_content", reasoning, out);
    else
        tool_put(delta, out);
    choice_close(logprobs, NULL, out);
    buf_puts(out, "}\n\n");
}

// The last choice's end carries the timings: a client that reads no usage finds them there.
static void chat_choice_end(struct answer *a, struct answer_choice *c, struct buf *out)
{
    choice_open(a, c, out);
    choice_close(NULL, c->finish, out);
    if (a->timings) {
        buf_puts(out, ",\"timings\":");
        answer_json_put(out, a->timings);
    }
    buf_puts(out, "}\n\n");
}

static void chat_end(struct answer *a, struct buf *out)
{
    if (a->in->include_usage) {
        json_t *usage = answer_usage_json(&a->usage);

        chunk_open(a, out);
        buf_puts(out, "],\"usage\":");
        answer_json_put(out, usage);
        buf_puts(out, ",\"timings\":");
        answer_json_put(out, a->timings);
        buf_puts(out, "}\n\n");
        json_decref(usage);
    }
    buf_puts(out, "data: [DONE]\n\n");
}

// ---- whole ------------------------------------------------------------------------------------------

static json_t *buf_string(const struct buf *b)
{
    return answer_string(b->data ? (const char *)b->data : "");
}

static json_t *tools_json(const struct answer_choice *c)
{
    json_t *list = json_array();

    for (size_t i = 0; i < c->n_tools; i++) {
        const struct answer_tool *t = &c->tools[i];
        json_t *call = json_object(), *function = json_object();

        json_put(call, "id", answer_string(t->id ? t->id : ""));
        json_put(call, "type", json_string("function"));
        json_put(function, "name", answer_string(t->name ? t->name : ""));
        json_put(function, "arguments", buf_string(&t->arguments));
        json_put(call, "function", function);
        json_array_append_new(list, call);
    }
    return list;
}

static json_t *message_json(const struct answer_choice *c)
{
    json_t *o = json_object();

    json_put(o, "role", json_string("assistant"));
    json_put(o, "content", c->text.len == 0 && c->n_tools > 0 ? json_null() : buf_string(&c->text));
    json_put(o, "refusal", json_null());
    if (c->reasoning.len > 0)
        json_put(o, "reasoning_content", buf_string(&c->reasoning));
    if (c->n_tools > 0)
        json_put(o, "tool_calls", tools_json(c));
    return o;
}

static json_t *choice_json(const struct answer_choice *c)
{
    json_t *o = json_object(), *logprobs = json_null();

    if (c->logprobs)
        logprobs = json_pack("{s:O,s:n}", "content", c->logprobs, "refusal");
    json_put(o, "index", json_integer(c->index));
    json_put(o, "message", message_json(c));
    json_put(o, "logprobs", logprobs);
    json_put(o, "finish_reason", json_string(c->finish));
    return o;
}

static void chat_whole(struct answer *a, struct buf *out)
{
    json_t *o = json_object(), *choices = json_array();

    for (size_t i = 0; i < a->n_choices; i++)
        json_array_append_new(choices, choice_json(&a->choices[i]));
    json_put(o, "id", json_string(a->id));
    json_put(o, "object", json_string("chat.completion"));
    json_put(o, "created", json_integer(a->created));
    json_put(o, "model", answer_string(a->model));
    json_put(o, "system_fingerprint", json_string(a->fingerprint));
    json_put(o, "choices", choices);
    json_put(o, "usage", answer_usage_json(&a->usage));
    json_put(o, "timings", json_incref(a->timings));
    answer_json_put(out, o);
    json_decref(o);
}

const struct dialect dialect_chat = {
    .name = "chat",
    .id_prefix = "chatcmpl-",
    .content_type = "text/event-stream",
    .parse = chat_parse,
    .begin = chat_begin,
    .beat = answer_openai_beat,
    .delta = chat_delta,
    .choice_end = chat_choice_end,
    .end = chat_end,
    .error = answer_openai_error,
    .whole = chat_whole,
    .refusal = answer_openai_refusal,
};
