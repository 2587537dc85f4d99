// A Messages answer: its blocks, its stream, its errors.
//
// The blocks of an answer follow one another, each opened and closed: thinking, text, tool_use.
// `block` says what is open, `blocks` how many there were.
#include "gateway/messages.h"

#include "base/json.h"

#include <string.h>

// Clients send thinking back with its signature, and leave out what has none. Nothing here checks
// it.
#define SIGNATURE "tandem"

enum block { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL };

static const char *text_of(const struct buf *b)
{
    return b->data ? (const char *)b->data : "";
}

static json_t *typed(const char *type)
{
    json_t *o = json_object();

    json_put(o, "type", json_string(type));
    return o;
}

// ---- the parts of an answer ---------------------------------------------------------------------

// What was found in prefix memory is counted apart from what was read.
static json_t *usage_json(const struct answer_usage *u)
{
    uint32_t cached = u->cached_tokens < u->prompt_tokens ? u->cached_tokens : u->prompt_tokens;
    json_t *o = json_object();

    json_put(o, "input_tokens", json_integer(u->prompt_tokens - cached));
    json_put(o, "cache_creation_input_tokens", json_integer(0));
    json_put(o, "cache_read_input_tokens", json_integer(cached));
    json_put(o, "output_tokens", json_integer(u->gen_tokens));
    return o;
}

// A stop string of the model's template is no stop sequence of the client's.
static bool own_stop(const struct answer *a, const struct answer_choice *c)
{
    const json_t *stops = json_object_get(a->in->echo, "stop_sequences");

    for (size_t i = 0; c->stop && i < json_array_size(stops); i++)
        if (strcmp(json_string_value(json_array_get(stops, i)), c->stop) == 0)
            return true;
    return false;
}

static void stop_put(const struct answer *a, const struct answer_choice *c, json_t *o)
{
    bool own = own_stop(a, c);
    const char *reason = "end_turn";

    if (strcmp(c->finish, "length") == 0)
        reason = "max_tokens";
    else if (strcmp(c->finish, "tool_calls") == 0)
        reason = "tool_use";
    else if (own)
        reason = "stop_sequence";
    json_put(o, "stop_reason", json_string(reason));
    json_put(o, "stop_sequence", own ? answer_string(c->stop) : json_null());
}

static json_t *message_json(const struct answer *a, json_t *content)
{
    json_t *o = json_object();

    json_put(o, "id", json_string(a->id));
    json_put(o, "type", json_string("message"));
    json_put(o, "role", json_string("assistant"));
    json_put(o, "model", answer_string(a->model));
    json_put(o, "content", content);
    return o;
}

static json_t *thinking_json(const char *text, const char *signature)
{
    json_t *o = typed("thinking");

    json_put(o, "thinking", answer_string(text));
    json_put(o, "signature", json_string(signature));
    return o;
}

static json_t *text_json(const char *text)
{
    json_t *o = typed("text");

    json_put(o, "text", answer_string(text));
    return o;
}

static json_t *tool_json(const struct answer_tool *t, json_t *input)
{
    json_t *o = typed("tool_use");

    json_put(o, "id", answer_string(t->id ? t->id : ""));
    json_put(o, "name", answer_string(t->name ? t->name : ""));
    json_put(o, "input", input);
    return o;
}

// ---- sent whole ---------------------------------------------------------------------------------

static json_t *content_json(const struct answer_choice *c)
{
    json_t *content = json_array();

    if (c->reasoning.len > 0)
        json_array_append_new(content, thinking_json(text_of(&c->reasoning), SIGNATURE));
    // Clients look for a first text block where nothing was called.
    if (c->text.len > 0 || c->n_tools == 0)
        json_array_append_new(content, text_json(text_of(&c->text)));
    for (size_t i = 0; i < c->n_tools; i++)
        json_array_append_new(content, tool_json(&c->tools[i], answer_arguments(&c->tools[i])));
    return content;
}

static void whole(struct answer *a, struct buf *out)
{
    const struct answer_choice *c = &a->choices[0];
    json_t *o = message_json(a, content_json(c));

    stop_put(a, c, o);
    json_put(o, "usage", usage_json(&a->usage));
    if (a->timings)
        json_put(o, "timings", json_incref(a->timings));
    answer_line_put(out, o);
}

static void whole_count(struct answer *a, struct buf *out)
{
    json_t *o = json_object();

    json_put(o, "input_tokens", json_integer(a->usage.prompt_tokens));
    answer_line_put(out, o);
}

// ---- errors -------------------------------------------------------------------------------------

static const char *error_type(unsigned status)
{
    static const struct {
        unsigned status;
        const char *type;
    } rows[] = {
        {401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},
        {413, "request_too_large"},    {429, "rate_limit_error"}, {503, "overloaded_error"},
        {504, "timeout_error"},        {529, "overloaded_error"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].status == status)
            return rows[i].type;
    return status < 500 ? "invalid_request_error" : "api_error";
}

// Clients that shorten a conversation by themselves know when to by these words.
static void words_put(const struct answer_fault *f, struct buf *b)
{
    if (f->code && strcmp(f->code, "context_length_exceeded") == 0)
        buf_puts(b, "prompt is too long: ");
    buf_puts(b, f->message);
}

static json_t *error_json(const struct answer_fault *f)
{
    json_t *o = typed("error"), *error = typed(error_type(f->status));
    struct buf words;

    buf_init(&words, (size_t)2 * ERR_MESSAGE_BYTES);
    words_put(f, &words);
    json_put(error, "message", answer_string(text_of(&words)));
    json_put(o, "error", error);
    buf_fini(&words);
    return o;
}

static void refusal(const struct answer_fault *f, struct buf *out)
{
    answer_line_put(out, error_json(f));
}

// ---- the stream ---------------------------------------------------------------------------------

static void event_put(struct answer *a, struct buf *out, json_t *event)
{
    a->sequence++;
    // The name is borrowed from the event, which answer_event_put frees only after it is written.
    answer_event_put(out, json_string_value(json_object_get(event, "type")), event);
}

static void begin(struct answer *a, struct buf *out)
{
    json_t *o = typed("message_start"), *message = message_json(a, json_array());

    json_put(message, "stop_reason", json_null());
    json_put(message, "stop_sequence", json_null());
    json_put(message, "usage", usage_json(&a->usage));
    json_put(o, "message", message);
    event_put(a, out, o);
    event_put(a, out, typed("ping"));
}

// The first event must be message_start; before it, a comment.
static void beat(struct answer *a, struct buf *out)
{
    if (a->sequence == 0)
        buf_puts(out, ": tandem\n\n");
    else
        event_put(a, out, typed("ping"));
}

// An event about the open block.
static json_t *block_event(const struct answer_choice *c, const char *type)
{
    json_t *o = typed(type);

    json_put(o, "index", json_integer(c->blocks - 1));
    return o;
}

static void delta_put(struct answer *a, const struct answer_choice *c, const char *type,
                      const char *member, const char *text, struct buf *out)
{
    json_t *o = block_event(c, "content_block_delta"), *d = typed(type);

    json_put(d, member, answer_string(text));
    json_put(o, "delta", d);
    event_put(a, out, o);
}

static void block_close(struct answer *a, struct answer_choice *c, struct buf *out)
{
    if (c->block == BLOCK_NONE)
        return;
    if (c->block == BLOCK_THINKING)
        delta_put(a, c, "signature_delta", "signature", SIGNATURE, out);
    event_put(a, out, block_event(c, "content_block_stop"));
    c->block = BLOCK_NONE;
}

// Steals the block.
static void block_open(struct answer *a, struct answer_choice *c, enum block kind, json_t *block,
                       struct buf *out)
{
    json_t *o;

    block_close(a, c, out);
    c->block = kind;
    c->blocks++;
    o = block_event(c, "content_block_start");
    json_put(o, "content_block", block);
    event_put(a, out, o);
}

static void text_put(struct answer *a, struct answer_choice *c, const char *text, struct buf *out)
{
    if (c->block != BLOCK_TEXT)
        block_open(a, c, BLOCK_TEXT, text_json(""), out);
    if (text[0])
        delta_put(a, c, "text_delta", "text", text, out);
}

static void thinking_put(struct answer *a, struct answer_choice *c, const char *text,
                         struct buf *out)
{
    if (c->block != BLOCK_THINKING)
        block_open(a, c, BLOCK_THINKING, thinking_json("", ""), out);
    delta_put(a, c, "thinking_delta", "thinking", text, out);
}

// A call's own "id" comes once, with its first part: that is where a block begins.
static void tool_put(struct answer *a, struct answer_choice *c, const json_t *call, struct buf *out)
{
    size_t index = (size_t)json_integer_value(json_object_get(call, "tool"));
    const char *arguments = json_string_value(json_object_get(call, "arguments"));
    bool first = json_object_get(call, "name") != NULL;

    if (index >= c->n_tools)
        return;
    if (c->block != BLOCK_TOOL || first)
        block_open(a, c, BLOCK_TOOL, tool_json(&c->tools[index], json_object()), out);
    if (arguments && arguments[0])
        delta_put(a, c, "input_json_delta", "partial_json", arguments, out);
}

static void delta(struct answer *a, struct answer_choice *c, const json_t *d,
                  const json_t *logprobs, struct buf *out)
{
    const char *text = json_string_value(json_object_get(d, "content"));
    const char *thought = json_string_value(json_object_get(d, "reasoning"));

    (void)logprobs;
    if (thought && thought[0])
        thinking_put(a, c, thought, out);
    else if (text && text[0])
        text_put(a, c, text, out);
    else if (json_object_get(d, "tool"))
        tool_put(a, c, d, out);
}

static void choice_end(struct answer *a, struct answer_choice *c, struct buf *out)
{
    if (c->text.len == 0 && c->n_tools == 0)
        text_put(a, c, "", out);
    block_close(a, c, out);
}

static void end(struct answer *a, struct buf *out)
{
    json_t *o = typed("message_delta"), *d = json_object();

    stop_put(a, &a->choices[0], d);
    json_put(o, "delta", d);
    json_put(o, "usage", usage_json(&a->usage));
    if (a->timings)
        json_put(o, "timings", json_incref(a->timings));
    event_put(a, out, o);
    event_put(a, out, typed("message_stop"));
}

static void error(struct answer *a, const struct answer_fault *f, struct buf *out)
{
    event_put(a, out, error_json(f));
}

#define MESSAGES_DIALECT(its_name, its_parse, its_whole)                                           \
    {                                                                                              \
        .name = (its_name), .id_prefix = "msg_", .content_type = "text/event-stream",              \
        .parse = (its_parse), .begin = begin, .beat = beat, .delta = delta,                        \
        .choice_end = choice_end, .end = end, .error = error, .whole = (its_whole),                \
        .refusal = refusal                                                                         \
    }

const struct dialect dialect_messages = MESSAGES_DIALECT("messages", messages_parse, whole);
const struct dialect dialect_messages_verbatim =
    MESSAGES_DIALECT("messages", messages_parse_verbatim, whole);
const struct dialect dialect_count =
    MESSAGES_DIALECT("count_tokens", messages_parse_count, whole_count);
const struct dialect dialect_count_verbatim =
    MESSAGES_DIALECT("count_tokens", messages_parse_count_verbatim, whole_count);

const struct dialect *messages_verbatim(const struct dialect *d)
{
    if (d == &dialect_messages)
        return &dialect_messages_verbatim;
    return d == &dialect_count ? &dialect_count_verbatim : d;
}
