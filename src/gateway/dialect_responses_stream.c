// The events of a Responses stream.
//
// The items of an answer follow one another: its reasoning, its words, its calls, each opened and
// closed. What is closed is kept in the choice's `own`, because the last event repeats the whole
// output:
//   {"items": [items that are closed],
//    "from": where the open text began in the choice's, "tool": which call is open,
//    "logprobs": entries of the open text, where they were asked for}
// `block` says what is open, `blocks` how many items there were.
#include "gateway/answer.h"
#include "gateway/responses.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum block { BLOCK_NONE, BLOCK_REASONING, BLOCK_TEXT, BLOCK_CALL };

static json_t *event_new(struct answer *a, const char *type)
{
    json_t *o = json_object();

    json_put(o, "type", json_string(type));
    json_put(o, "sequence_number", json_integer(a->sequence++));
    return o;
}

static uint32_t open_index(const struct answer_choice *c)
{
    return c->blocks - 1;
}

static void open_id(const struct answer *a, const struct answer_choice *c,
                    char id[RESPONSES_ITEM_ID_BYTES])
{
    static const char *const prefixes[] = {"", "rs", "msg", "fc"};

    responses_item_id(a, prefixes[c->block], open_index(c), id);
}

// Whether reasoning goes out as a summary, which has events of its own.
static bool as_summary(const struct answer *a, const struct answer_choice *c)
{
    return c->block == BLOCK_REASONING && responses_summary(a);
}

// An event about the open item's content.
static json_t *part_event(struct answer *a, const struct answer_choice *c, const char *type)
{
    json_t *o = event_new(a, type);
    char id[RESPONSES_ITEM_ID_BYTES];

    open_id(a, c, id);
    json_put(o, "item_id", json_string(id));
    json_put(o, "output_index", json_integer(open_index(c)));
    if (c->block != BLOCK_CALL)
        json_put(o, as_summary(a, c) ? "summary_index" : "content_index", json_integer(0));
    return o;
}

static void event_put(struct buf *out, json_t *event)
{
    // The name is borrowed from the event, which answer_event_put frees only after it is written.
    answer_event_put(out, json_string_value(json_object_get(event, "type")), event);
}

static void item_event(struct answer *a, const struct answer_choice *c, const char *type,
                       json_t *item, struct buf *out)
{
    json_t *o = event_new(a, type);

    json_put(o, "output_index", json_integer(open_index(c)));
    json_put(o, "item", item);
    event_put(out, o);
}

// ---- opening and closing ------------------------------------------------------------------------

static const struct buf *open_text(const struct answer_choice *c)
{
    return c->block == BLOCK_REASONING ? &c->reasoning : &c->text;
}

static size_t own_number(const struct answer_choice *c, const char *member)
{
    return (size_t)json_integer_value(json_object_get(c->own, member));
}

static const json_t *own_logprobs(const struct answer_choice *c)
{
    return json_object_get(c->own, "logprobs");
}

static const struct answer_tool *open_call(const struct answer_choice *c)
{
    return &c->tools[own_number(c, "tool")];
}

// What the open item holds so far.
static const char *content_of(const struct answer_choice *c)
{
    const struct buf *b = c->block == BLOCK_CALL ? &open_call(c)->arguments : open_text(c);
    size_t from = c->block == BLOCK_CALL ? 0 : own_number(c, "from");

    return b->data && from <= b->len ? (const char *)b->data + from : "";
}

// text NULL: it has just been opened.
static json_t *open_item(const struct answer *a, const struct answer_choice *c, const char *status,
                         const char *text)
{
    char id[RESPONSES_ITEM_ID_BYTES];

    open_id(a, c, id);
    if (c->block == BLOCK_REASONING)
        return responses_reasoning(a, id, status, text);
    if (c->block == BLOCK_TEXT)
        return responses_message(id, status, text, text ? own_logprobs(c) : NULL);
    return responses_call(a, id, status, open_call(c), text ? text : "");
}

static json_t *part_json(const struct answer *a, const struct answer_choice *c, const char *text,
                         const json_t *logprobs)
{
    json_t *part;

    if (c->block == BLOCK_TEXT)
        return responses_text_part(text, logprobs);
    part = json_object();
    json_put(part, "type", json_string(as_summary(a, c) ? "summary_text" : "reasoning_text"));
    json_put(part, "text", answer_string(text));
    return part;
}

static const char *part_type(const struct answer *a, const struct answer_choice *c, bool added)
{
    if (as_summary(a, c))
        return added ? "response.reasoning_summary_part.added"
                     : "response.reasoning_summary_part.done";
    return added ? "response.content_part.added" : "response.content_part.done";
}

static void part_put(struct answer *a, const struct answer_choice *c, bool added, const char *text,
                     struct buf *out)
{
    json_t *o = part_event(a, c, part_type(a, c, added));

    json_put(o, "part", part_json(a, c, text, added ? NULL : own_logprobs(c)));
    event_put(out, o);
}

static void own_begin(struct answer_choice *c)
{
    if (c->own)
        return;
    c->own = json_object();
    json_put(c->own, "items", json_array());
}

// `new_bytes`: of the text that came already.
static void block_open(struct answer *a, struct answer_choice *c, enum block kind, size_t new_bytes,
                       struct buf *out)
{
    own_begin(c);
    c->block = kind;
    c->blocks++;
    json_object_del(c->own, "logprobs");
    if (kind != BLOCK_CALL)
        json_put(c->own, "from", json_integer((json_int_t)(open_text(c)->len - new_bytes)));
    item_event(a, c, "response.output_item.added", open_item(a, c, "in_progress", NULL), out);
    if (kind != BLOCK_CALL)
        part_put(a, c, true, "", out);
}

static json_t *logprobs_json(const json_t *entries)
{
    return entries ? json_copy((json_t *)(uintptr_t)entries) : json_array();
}

static const char *content_type(const struct answer *a, const struct answer_choice *c, bool done)
{
    static const char *const types[][2] = {
        {"response.reasoning_text.delta", "response.reasoning_text.done"},
        {"response.output_text.delta", "response.output_text.done"},
        {"response.function_call_arguments.delta", "response.function_call_arguments.done"},
    };

    if (as_summary(a, c))
        return done ? "response.reasoning_summary_text.done"
                    : "response.reasoning_summary_text.delta";
    return types[c->block - BLOCK_REASONING][done];
}

static void content_done(struct answer *a, const struct answer_choice *c, const char *text,
                         struct buf *out)
{
    json_t *o = part_event(a, c, content_type(a, c, true));
    const char *space;

    if (c->block == BLOCK_CALL) {
        json_put(o, "name", answer_string(responses_plain_name(a, open_call(c), &space)));
        json_put(o, "arguments", answer_string(text));
    } else {
        json_put(o, "text", answer_string(text));
    }
    if (c->block == BLOCK_TEXT)
        json_put(o, "logprobs", logprobs_json(own_logprobs(c)));
    event_put(out, o);
}

static void block_close(struct answer *a, struct answer_choice *c, const char *status,
                        struct buf *out)
{
    const char *text;
    json_t *item;

    if (c->block == BLOCK_NONE)
        return;
    text = content_of(c);
    item = open_item(a, c, status, text);
    content_done(a, c, text, out);
    if (c->block != BLOCK_CALL)
        part_put(a, c, false, text, out);
    json_array_append(json_object_get(c->own, "items"), item);
    item_event(a, c, "response.output_item.done", item, out);
    c->block = BLOCK_NONE;
}

// ---- the table's functions ----------------------------------------------------------------------

static void response_event(struct answer *a, const char *type, const char *status, json_t *output,
                           struct buf *out)
{
    json_t *o = event_new(a, type);

    json_put(o, "response", responses_object(a, status, output));
    event_put(out, o);
}

void responses_begin(struct answer *a, struct buf *out)
{
    response_event(a, "response.created", "in_progress", json_array(), out);
    response_event(a, "response.in_progress", "in_progress", json_array(), out);
}

// An event, because clients give a stream without events up; before the first one, which must be
// response.created, a comment.
void responses_beat(struct answer *a, struct buf *out)
{
    if (a->sequence == 0)
        buf_puts(out, ": tandem\n\n");
    else
        event_put(out, event_new(a, "keepalive"));
}

static void content_put(struct answer *a, struct answer_choice *c, const char *text,
                        const json_t *logprobs, struct buf *out)
{
    json_t *o = part_event(a, c, content_type(a, c, false));

    json_put(o, "delta", answer_string(text));
    if (c->block == BLOCK_TEXT)
        json_put(o, "logprobs", logprobs_json(logprobs));
    event_put(out, o);
}

static void logprobs_keep(struct answer_choice *c, const json_t *entries)
{
    json_t *kept = json_object_get(c->own, "logprobs");

    if (!entries)
        return;
    if (kept)
        json_array_extend(kept, (json_t *)(uintptr_t)entries);
    else
        json_put(c->own, "logprobs", logprobs_json(entries));
}

static void words_put(struct answer *a, struct answer_choice *c, const json_t *words,
                      const json_t *logprobs, struct buf *out)
{
    enum block kind = json_object_get(words, "reasoning") ? BLOCK_REASONING : BLOCK_TEXT;
    const json_t *v = json_object_get(words, kind == BLOCK_TEXT ? "content" : "reasoning");

    // Log probabilities without a text go with the text before them; behind a call there is none.
    if (!json_is_string(v) ||
        (json_string_length(v) == 0 && (json_array_size(logprobs) == 0 || c->block == BLOCK_CALL)))
        return;
    if (c->block != kind) {
        block_close(a, c, "completed", out);
        block_open(a, c, kind, json_string_length(v), out);
    }
    if (kind == BLOCK_TEXT)
        logprobs_keep(c, logprobs);
    content_put(a, c, json_string_value(v), logprobs, out);
}

static void call_put(struct answer *a, struct answer_choice *c, const json_t *call, struct buf *out)
{
    size_t index = (size_t)json_integer_value(json_object_get(call, "tool"));
    const char *arguments = json_string_value(json_object_get(call, "arguments"));

    if (index >= c->n_tools)
        return;
    if (c->block != BLOCK_CALL || own_number(c, "tool") != index) {
        block_close(a, c, "completed", out);
        own_begin(c);
        json_put(c->own, "tool", json_integer((json_int_t)index));
        block_open(a, c, BLOCK_CALL, 0, out);
    }
    if (arguments && arguments[0])
        content_put(a, c, arguments, NULL, out);
}

void responses_delta(struct answer *a, struct answer_choice *c, const json_t *delta,
                     const json_t *logprobs, struct buf *out)
{
    if (json_object_get(delta, "tool"))
        call_put(a, c, delta, out);
    else
        words_put(a, c, delta, logprobs, out);
}

void responses_choice_end(struct answer *a, struct answer_choice *c, struct buf *out)
{
    // An answer that ended and says nothing is a message without words.
    if (c->text.len == 0 && c->n_tools == 0 && strcmp(c->finish, "length") != 0) {
        block_close(a, c, "completed", out);
        block_open(a, c, BLOCK_TEXT, 0, out);
    }
    block_close(a, c, responses_status(a), out);
}

static json_t *output_so_far(const struct answer *a)
{
    json_t *items = json_object_get(a->choices[0].own, "items");

    return items ? json_incref(items) : json_array();
}

void responses_end(struct answer *a, struct buf *out)
{
    const char *status = responses_status(a);

    response_event(a,
                   strcmp(status, "completed") == 0 ? "response.completed" : "response.incomplete",
                   status, output_so_far(a), out);
}

// {"message", "type", "code", "param"}, as a refusal has it.
static json_t *error_json(const struct answer_fault *f)
{
    json_t *refusal, *error;
    struct buf b;

    buf_init(&b, ANSWER_BODY_MAX);
    answer_openai_refusal(f, &b);
    refusal = json_loadb((const char *)b.data, b.len, 0, NULL);
    error = json_incref(json_object_get(refusal, "error"));
    json_decref(refusal);
    buf_fini(&b);
    return error;
}

// What failed stands in the event, as the API's pages have it, and once more in its "error", where
// OpenAI's servers put it and its Python client looks for it.
void responses_error(struct answer *a, const struct answer_fault *fault, struct buf *out)
{
    const struct answer_fault named = responses_named(fault), *f = &named;
    bool begun = a->sequence > 0;
    json_t *o = event_new(a, "error"), *response;

    json_put(o, "code", f->code ? answer_string(f->code) : json_null());
    json_put(o, "message", answer_string(f->message));
    json_put(o, "param", f->param && f->param[0] ? answer_string(f->param) : json_null());
    json_put(o, "error", error_json(f));
    event_put(out, o);
    if (!begun)
        return;
    response = responses_object(a, "failed", output_so_far(a));
    json_put(response, "error", responses_fault(f));
    o = event_new(a, "response.failed");
    json_put(o, "response", response);
    event_put(out, o);
}
