// The objects of a Responses answer, and the answer sent whole.
#include "gateway/answer.h"
#include "gateway/responses.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

static const char *text_of(const struct buf *b)
{
    return b->data ? (const char *)b->data : "";
}

void responses_item_id(const struct answer *a, const char *prefix, uint32_t index,
                       char out[RESPONSES_ITEM_ID_BYTES])
{
    const char *own = strchr(a->id, '_');

    snprintf(out, RESPONSES_ITEM_ID_BYTES, "%s_%s%02u", prefix, own ? own + 1 : a->id, index);
}

bool responses_summary(const struct answer *a)
{
    const json_t *reasoning = json_object_get(a->in->echo, "reasoning");

    return json_is_string(json_object_get(reasoning, "summary"));
}

// ---- items --------------------------------------------------------------------------------------

json_t *responses_text_part(const char *text, const json_t *logprobs)
{
    json_t *o = json_object();

    json_put(o, "type", json_string("output_text"));
    json_put(o, "text", answer_string(text));
    json_put(o, "annotations", json_array());
    json_put(o, "logprobs", logprobs ? json_copy((json_t *)(uintptr_t)logprobs) : json_array());
    return o;
}

static json_t *item(const char *id, const char *type, const char *status)
{
    json_t *o = json_object();

    json_put(o, "id", json_string(id));
    json_put(o, "type", json_string(type));
    json_put(o, "status", json_string(status));
    return o;
}

json_t *responses_message(const char *id, const char *status, const char *text,
                          const json_t *logprobs)
{
    json_t *o = item(id, "message", status), *content = json_array();

    if (text)
        json_array_append_new(content, responses_text_part(text, logprobs));
    json_put(o, "role", json_string("assistant"));
    json_put(o, "content", content);
    return o;
}

json_t *responses_reasoning(const struct answer *a, const char *id, const char *status,
                            const char *text)
{
    bool summary = responses_summary(a);
    json_t *o = item(id, "reasoning", status), *lists[2] = {json_array(), json_array()};

    if (text) {
        json_t *part = json_object();

        json_put(part, "type", json_string(summary ? "summary_text" : "reasoning_text"));
        json_put(part, "text", answer_string(text));
        json_array_append_new(lists[summary ? 0 : 1], part);
    }
    json_put(o, "summary", lists[0]);
    json_put(o, "content", lists[1]);
    json_put(o, "encrypted_content", json_null());
    return o;
}

// The function of a namespace that the model knows as `flat`; NULL: none.
static const char *namespace_find(const json_t *space, const char *flat)
{
    const json_t *list = json_object_get(space, "tools"), *name;
    const char *found = NULL;

    for (size_t i = 0; !found && i < json_array_size(list); i++) {
        json_t *known;

        name = json_object_get(json_array_get(list, i), "name");
        if (!json_is_string(name))
            continue;
        known = responses_flat_name(json_object_get(space, "name"), name);
        if (strcmp(json_string_value(known), flat) == 0)
            found = json_string_value(name);
        json_decref(known);
    }
    return found;
}

const char *responses_plain_name(const struct answer *a, const struct answer_tool *t,
                                 const char **space)
{
    const json_t *tools = json_object_get(a->in->echo, "tools");
    const char *flat = t->name ? t->name : "";

    *space = NULL;
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        const char *type = json_string_value(json_object_get(tool, "type"));
        const char *plain = strcmp(type, "namespace") == 0 ? namespace_find(tool, flat) : NULL;

        if (!plain)
            continue;
        *space = json_string_value(json_object_get(tool, "name"));
        return plain;
    }
    return flat;
}

json_t *responses_call(const struct answer *a, const char *id, const char *status,
                       const struct answer_tool *t, const char *arguments)
{
    json_t *o = item(id, "function_call", status);
    const char *space, *name = responses_plain_name(a, t, &space);

    json_put(o, "call_id", answer_string(t->id ? t->id : ""));
    json_put(o, "name", answer_string(name));
    json_put_text(o, "namespace", space);
    json_put(o, "arguments", answer_string(arguments));
    return o;
}

// ---- the response -------------------------------------------------------------------------------

static bool cut_short(const struct answer *a)
{
    const char *finish = a->choices[0].finish;

    return finish && strcmp(finish, "length") == 0;
}

const char *responses_status(const struct answer *a)
{
    return cut_short(a) ? "incomplete" : "completed";
}

// What is kept of a prompt costs nothing here: no tokens are counted as written to a cache.
static json_t *input_details_json(const struct answer_usage *u)
{
    json_t *o = json_object();

    json_put(o, "cached_tokens", json_integer(u->cached_tokens));
    json_put(o, "cache_write_tokens", json_integer(0));
    return o;
}

static json_t *output_details_json(const struct answer_usage *u)
{
    json_t *o = json_object();

    json_put(o, "reasoning_tokens", json_integer(u->reasoning_tokens));
    return o;
}

static json_t *usage_json(const struct answer_usage *u)
{
    json_t *o = json_object();

    json_put(o, "input_tokens", json_integer(u->prompt_tokens));
    json_put(o, "input_tokens_details", input_details_json(u));
    json_put(o, "output_tokens", json_integer(u->gen_tokens));
    json_put(o, "output_tokens_details", output_details_json(u));
    json_put(o, "total_tokens", json_integer((json_int_t)u->prompt_tokens + u->gen_tokens));
    return o;
}

static json_t *incomplete_json(const char *status)
{
    json_t *o;

    if (strcmp(status, "incomplete") != 0)
        return json_null();
    o = json_object();
    json_put(o, "reason", json_string("max_output_tokens"));
    return o;
}

json_t *responses_object(const struct answer *a, const char *status, json_t *output)
{
    bool over = strcmp(status, "completed") == 0 || strcmp(status, "incomplete") == 0;
    json_t *o = json_object();

    json_put(o, "id", json_string(a->id));
    json_put(o, "object", json_string("response"));
    json_put(o, "created_at", json_integer(a->created));
    json_put(o, "status", json_string(status));
    json_put(o, "error", json_null());
    json_put(o, "incomplete_details", incomplete_json(status));
    json_put(o, "model", answer_string(a->model));
    json_put(o, "output", output);
    json_put(o, "usage", over ? usage_json(&a->usage) : json_null());
    if (a->in->echo)
        json_object_update(o, a->in->echo);
    if (a->timings)
        json_put(o, "timings", json_incref(a->timings));
    return o;
}

struct answer_fault responses_named(const struct answer_fault *f)
{
    struct answer_fault named = *f;

    if (f->param && strcmp(f->param, "messages") == 0)
        named.param = "input";
    return named;
}

json_t *responses_fault(const struct answer_fault *f)
{
    const char *code = f->code ? f->code : f->status < 500 ? "invalid_prompt" : "server_error";
    json_t *o = json_object();

    json_put(o, "code", answer_string(code));
    json_put(o, "message", answer_string(f->message));
    return o;
}

// ---- sent whole ---------------------------------------------------------------------------------

static json_t *output_json(const struct answer *a, const struct answer_choice *c)
{
    json_t *output = json_array();
    const char *status = responses_status(a);
    char id[RESPONSES_ITEM_ID_BYTES];
    uint32_t n = 0;

    if (c->reasoning.len > 0) {
        responses_item_id(a, "rs", n++, id);
        json_array_append_new(output,
                              responses_reasoning(a, id, "completed", text_of(&c->reasoning)));
    }
    // An answer that ended and says nothing is a message without words.
    if (c->text.len > 0 || (c->n_tools == 0 && !cut_short(a))) {
        responses_item_id(a, "msg", n++, id);
        json_array_append_new(output, responses_message(id, c->n_tools ? "completed" : status,
                                                        text_of(&c->text), c->logprobs));
    }
    for (size_t i = 0; i < c->n_tools; i++) {
        const struct answer_tool *t = &c->tools[i];

        responses_item_id(a, "fc", n++, id);
        json_array_append_new(output,
                              responses_call(a, id, i + 1 < c->n_tools ? "completed" : status, t,
                                             text_of(&t->arguments)));
    }
    return output;
}

static void whole(struct answer *a, struct buf *out)
{
    answer_line_put(out, responses_object(a, responses_status(a), output_json(a, &a->choices[0])));
}

static void refusal(const struct answer_fault *f, struct buf *out)
{
    const struct answer_fault named = responses_named(f);

    answer_openai_refusal(&named, out);
}

const struct dialect dialect_responses = {
    .name = "responses",
    .id_prefix = "resp_",
    .content_type = "text/event-stream",
    .parse = responses_parse,
    .begin = responses_begin,
    .beat = responses_beat,
    .delta = responses_delta,
    .choice_end = responses_choice_end,
    .end = responses_end,
    .error = responses_error,
    .whole = whole,
    .refusal = refusal,
};
