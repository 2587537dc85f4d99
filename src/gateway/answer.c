#include "gateway/answer.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void answer_id_make(enum parse_kind kind, char out[ANSWER_ID_BYTES])
{
    const char *prefix = kind == PARSE_CHAT ? "chatcmpl-" : "cmpl-";
    uint8_t random[12];

    os_random(random, sizeof(random));
    snprintf(out, ANSWER_ID_BYTES, "%s", prefix);
    hex_encode(random, sizeof(random), out + strlen(prefix));
}

// ---- event streams --------------------------------------------------------------------------------

// Steals the object.
static char *event_take(json_t *o)
{
    char *text = json_line(o), *event = mem_format("data: %s\n\n", text);

    free(text);
    json_decref(o);
    return event;
}

static json_t *head_json(const struct answer_head *h, const char *object)
{
    json_t *o = json_object();

    json_put(o, "id", json_string(h->id));
    json_put(o, "object", json_string(object));
    json_put(o, "created", json_integer(h->created));
    json_put(o, "model", answer_string(h->model));
    return o;
}

static json_t *chunk_json(const struct answer_head *h)
{
    return head_json(h, h->kind == PARSE_CHAT ? "chat.completion.chunk" : "text_completion");
}

// {"index": 0, MEMBER: value, "logprobs": null, "finish_reason": ...} as the only choice. Steals value.
static void choice_put(json_t *chunk, const char *member, json_t *value, const char *finish)
{
    json_t *choice = json_object(), *choices = json_array();

    json_put(choice, "index", json_integer(0));
    json_put(choice, member, value);
    json_put(choice, "logprobs", json_null());
    json_put(choice, "finish_reason", finish ? json_string(finish) : json_null());
    json_array_append_new(choices, choice);
    json_put(chunk, "choices", choices);
}

// What one chunk adds: a text for completions, a delta for chats. text NULL: nothing.
static void delta_put(json_t *chunk, const struct answer_head *h, const char *text,
                      const char *finish)
{
    json_t *delta;

    if (h->kind == PARSE_TEXT) {
        choice_put(chunk, "text", answer_string(text ? text : ""), finish);
        return;
    }
    delta = json_object();
    if (text)
        json_put(delta, "content", answer_string(text));
    choice_put(chunk, "delta", delta, finish);
}

char *answer_event_role(const struct answer_head *h)
{
    json_t *chunk = chunk_json(h), *delta = json_object();

    json_put(delta, "role", json_string("assistant"));
    json_put(delta, "content", json_string(""));
    choice_put(chunk, "delta", delta, NULL);
    return event_take(chunk);
}

char *answer_event_text(const struct answer_head *h, const char *text)
{
    json_t *chunk = chunk_json(h);

    delta_put(chunk, h, text, NULL);
    return event_take(chunk);
}

char *answer_event_finish(const struct answer_head *h, const char *finish, json_t *timings)
{
    json_t *chunk = chunk_json(h);

    delta_put(chunk, h, NULL, finish);
    json_put(chunk, "timings", json_incref(timings));
    return event_take(chunk);
}

static json_t *usage_json(const struct answer_usage *u)
{
    json_t *o = json_object(), *details = json_object();

    json_put(o, "prompt_tokens", json_integer(u->prompt_tokens));
    json_put(o, "completion_tokens", json_integer(u->gen_tokens));
    json_put(o, "total_tokens", json_integer((json_int_t)u->prompt_tokens + u->gen_tokens));
    json_put(details, "cached_tokens", json_integer(u->cached_tokens));
    json_put(o, "prompt_tokens_details", details);
    return o;
}

char *answer_event_usage(const struct answer_head *h, const struct answer_usage *u, json_t *timings)
{
    json_t *chunk = chunk_json(h);

    json_put(chunk, "choices", json_array());
    json_put(chunk, "usage", usage_json(u));
    json_put(chunk, "timings", json_incref(timings));
    return event_take(chunk);
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
    case 503:
        return "unavailable_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static json_t *error_json(unsigned status, const char *message, const char *code, const char *param)
{
    json_t *o = json_object(), *error = json_object();

    json_put(error, "message", answer_string(message));
    json_put(error, "type", json_string(error_type(status)));
    json_put(error, "code", code ? json_string(code) : json_null());
    json_put(error, "param", param && param[0] ? answer_string(param) : json_null());
    json_put(o, "error", error);
    return o;
}

char *answer_error(unsigned status, const char *message, const char *code, const char *param)
{
    json_t *o = error_json(status, message, code, param);
    char *text = json_line(o);

    json_decref(o);
    return text;
}

char *answer_event_error(unsigned status, const char *message, const char *code, const char *param)
{
    return event_take(error_json(status, message, code, param));
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

// ---- whole bodies -------------------------------------------------------------------------------------

static json_t *message_json(const char *text)
{
    json_t *o = json_object();

    json_put(o, "role", json_string("assistant"));
    json_put(o, "content", answer_string(text));
    return o;
}

char *answer_whole(const struct answer_head *h, const struct answer_whole *w)
{
    bool chat = h->kind == PARSE_CHAT;
    json_t *o = head_json(h, chat ? "chat.completion" : "text_completion");
    char *text;

    if (chat)
        choice_put(o, "message", message_json(w->text), w->finish);
    else
        choice_put(o, "text", answer_string(w->text), w->finish);
    json_put(o, "usage", usage_json(&w->usage));
    json_put(o, "timings", json_incref(w->timings));
    text = json_line(o);
    json_decref(o);
    return text;
}
