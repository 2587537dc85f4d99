// Answers of Ollama's /api/chat and /api/generate: lines of JSON, the last one with "done": true.
//
// A tool call is told whole, once its arguments are: `blocks` counts those that were.
#include "gateway/answer.h"
#include "gateway/ollama.h"

#include "base/json.h"

#include <string.h>

#define S_TO_NS 1e9

static const char *text_of(const struct buf *b)
{
    return b->data ? (const char *)b->data : "";
}

static bool is_chat(const struct answer *a)
{
    return a->dialect == &dialect_ollama;
}

static json_t *line_new(const struct answer *a)
{
    char created[OLLAMA_TIME_BYTES];
    json_t *o = json_object();

    ollama_time(a->created, created);
    json_put(o, "model", answer_string(a->model));
    json_put(o, "created_at", json_string(created));
    return o;
}

// What a line says. `thought` and `calls` may be NULL; steals `calls`.
static void words_put(const struct answer *a, json_t *line, const char *text, const char *thought,
                      json_t *calls)
{
    json_t *to = line;

    if (is_chat(a)) {
        to = json_object();
        json_put(to, "role", json_string("assistant"));
        json_put(line, "message", to);
    }
    json_put(to, is_chat(a) ? "content" : "response", answer_string(text));
    if (thought)
        json_put(to, "thinking", answer_string(thought));
    if (calls)
        json_put(to, "tool_calls", calls);
}

static void part_put(json_t *line, struct buf *out)
{
    json_put(line, "done", json_false());
    answer_line_put(out, line);
}

// ---- the end ------------------------------------------------------------------------------------

static json_t *nanoseconds(const struct answer *a, const char *member)
{
    return json_integer((json_int_t)(json_number_or(a->timings, member, 0) * S_TO_NS));
}

// A call ends an answer like any other word; a request that said nothing has no answer.
static const char *reason(const struct answer *a)
{
    if (a->n_choices == 0)
        return "load";
    return strcmp(a->choices[0].finish, "length") == 0 ? "length" : "stop";
}

static void done_put(const struct answer *a, json_t *line)
{
    json_put(line, "done_reason", json_string(reason(a)));
    json_put(line, "done", json_true());
    json_put(line, "total_duration", nanoseconds(a, "total_s"));
    json_put(line, "load_duration", json_integer(0));
    json_put(line, "prompt_eval_count", json_integer(a->usage.prompt_tokens));
    json_put(line, "prompt_eval_duration", nanoseconds(a, "prefill_s"));
    json_put(line, "eval_count", json_integer(a->usage.gen_tokens));
    json_put(line, "eval_duration", nanoseconds(a, "decode_s"));
    if (a->timings)
        json_put(line, "timings", json_incref(a->timings));
}

// ---- calls --------------------------------------------------------------------------------------

static json_t *call_json(const struct answer_tool *t, size_t index)
{
    json_t *o = json_object(), *function = json_object();

    json_put(function, "index", json_integer((json_int_t)index));
    json_put(function, "name", answer_string(t->name ? t->name : ""));
    json_put(function, "arguments", answer_arguments(t));
    json_put(o, "id", answer_string(t->id ? t->id : ""));
    json_put(o, "function", function);
    return o;
}

static json_t *calls_json(const struct answer_choice *c, size_t from, size_t to)
{
    json_t *list = json_array();

    for (size_t i = from; i < to; i++)
        json_array_append_new(list, call_json(&c->tools[i], i));
    return list;
}

// Tells the calls before `upto` that were not told yet.
static void calls_put(struct answer *a, struct answer_choice *c, size_t upto, struct buf *out)
{
    json_t *line;

    if (c->blocks >= upto)
        return;
    line = line_new(a);
    words_put(a, line, "", NULL, calls_json(c, c->blocks, upto));
    part_put(line, out);
    c->blocks = (uint32_t)upto;
}

// ---- the stream ---------------------------------------------------------------------------------

static void begin(struct answer *a, struct buf *out)
{
    (void)a;
    (void)out;
}

// A line that says nothing: there are no comments in lines of JSON.
static void beat(struct answer *a, struct buf *out)
{
    json_t *line = line_new(a);

    words_put(a, line, "", NULL, NULL);
    part_put(line, out);
}

static void delta(struct answer *a, struct answer_choice *c, const json_t *d,
                  const json_t *logprobs, struct buf *out)
{
    const char *text = json_string_or(d, "content", "");
    const char *thought = json_string_value(json_object_get(d, "reasoning"));
    const json_t *tool = json_object_get(d, "tool");
    json_t *line;

    if (tool)
        calls_put(a, c, (size_t)json_integer_value(tool), out);
    if (!(thought && thought[0]) && !text[0] && !json_array_size(logprobs))
        return;
    line = line_new(a);
    words_put(a, line, text, thought, NULL);
    if (logprobs)
        json_put(line, "logprobs", json_copy((json_t *)(uintptr_t)logprobs));
    part_put(line, out);
}

static void choice_end(struct answer *a, struct answer_choice *c, struct buf *out)
{
    calls_put(a, c, c->n_tools, out);
}

static void end(struct answer *a, struct buf *out)
{
    json_t *line = line_new(a);

    words_put(a, line, "", NULL, NULL);
    done_put(a, line);
    answer_line_put(out, line);
}

static void refusal(const struct answer_fault *f, struct buf *out)
{
    answer_line_put(out, ollama_error_json(f->message));
}

static void error(struct answer *a, const struct answer_fault *f, struct buf *out)
{
    (void)a;
    refusal(f, out);
}

// ---- sent whole ---------------------------------------------------------------------------------

static void whole(struct answer *a, struct buf *out)
{
    static const struct answer_choice nothing;
    const struct answer_choice *c = a->n_choices > 0 ? &a->choices[0] : &nothing;
    json_t *o = line_new(a);

    words_put(a, o, text_of(&c->text), c->reasoning.len > 0 ? text_of(&c->reasoning) : NULL,
              c->n_tools > 0 ? calls_json(c, 0, c->n_tools) : NULL);
    done_put(a, o);
    if (c->logprobs)
        json_put(o, "logprobs", json_incref(c->logprobs));
    answer_line_put(out, o);
}

#define OLLAMA_DIALECT(its_name, its_parse)                                                        \
    {                                                                                              \
        .name = (its_name), .id_prefix = "ollama-", .content_type = "application/x-ndjson",        \
        .parse = (its_parse), .begin = begin, .beat = beat, .delta = delta,                        \
        .choice_end = choice_end, .end = end, .error = error, .whole = whole, .refusal = refusal   \
    }

const struct dialect dialect_ollama = OLLAMA_DIALECT("ollama_chat", ollama_parse_chat);
const struct dialect dialect_ollama_generate =
    OLLAMA_DIALECT("ollama_generate", ollama_parse_generate);
