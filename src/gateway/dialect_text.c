// OpenAI's /completions: one text, no roles, no reasoning told apart, and log probabilities in a shape of
// its own.
#include "base/json.h"
#include "gateway/answer.h"

#include <inttypes.h>

static int text_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    return parse_openai(body, PARSE_TEXT, out, fault);
}

// ---- log probabilities ------------------------------------------------------------------------------

// {"a": -0.1, "b": -2.3} of an entry's top_logprobs.
static json_t *top_object(const json_t *entry)
{
    const json_t *top = json_object_get(entry, "top_logprobs");
    json_t *o = json_object();

    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *t = json_array_get(top, i);

        json_put(o, json_string_value(json_object_get(t, "token")),
                 json_incref(json_object_get(t, "logprob")));
    }
    return o;
}

static uint32_t characters(const json_t *token)
{
    const char *text = json_string_value(token);
    uint32_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

// NULL entries: null. *offset: characters of the text so far; advanced.
static json_t *logprobs_json(const json_t *entries, uint32_t *offset)
{
    json_t *tokens = json_array(), *probs = json_array(), *tops = json_array(),
           *offsets = json_array();

    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);
        json_t *token = json_object_get(entry, "token");

        json_array_append(tokens, token);
        json_array_append(probs, json_object_get(entry, "logprob"));
        json_array_append_new(tops, top_object(entry));
        json_array_append_new(offsets, json_integer(*offset));
        *offset += characters(token);
    }
    return json_pack("{s:o,s:o,s:o,s:o}", "tokens", tokens, "token_logprobs", probs, "top_logprobs",
                     tops, "text_offset", offsets);
}

// ---- chunks -----------------------------------------------------------------------------------------

static void head_put(const struct answer *a, struct buf *out)
{
    buf_printf(out,
               "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%" PRId64 ",\"model\":",
               a->id, a->created);
    answer_quote_put(out, a->model, strlen(a->model));
    buf_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", a->fingerprint);
}

struct piece {
    const char *text;
    size_t n;
    const json_t *logprobs; // entries, or NULL
    const char *finish;     // or NULL
};

static void choice_put(struct answer_choice *c, const struct piece *piece, struct buf *out)
{
    buf_printf(out, "{\"index\":%u,\"text\":", c->index);
    answer_quote_put(out, piece->text, piece->n);
    buf_puts(out, ",\"logprobs\":");
    if (piece->logprobs) {
        json_t *o = logprobs_json(piece->logprobs, &c->block);

        answer_json_put(out, o);
        json_decref(o);
    } else {
        buf_puts(out, "null");
    }
    if (piece->finish)
        buf_printf(out, ",\"finish_reason\":\"%s\"}", piece->finish);
    else
        buf_puts(out, ",\"finish_reason\":null}");
}

static void text_begin(struct answer *a, struct buf *out)
{
    answer_openai_beat(a, out);
}

static void text_delta(struct answer *a, struct answer_choice *c, const json_t *delta,
                       const json_t *logprobs, struct buf *out)
{
    const json_t *content = json_object_get(delta, "content");
    const json_t *text = content ? content : json_object_get(delta, "reasoning");

    if (!text)
        return;
    buf_puts(out, "data: ");
    head_put(a, out);
    choice_put(
        c, &(struct piece){json_string_value(text), json_string_length(text), logprobs, NULL}, out);
    buf_puts(out, "]}\n\n");
}

static void text_choice_end(struct answer *a, struct answer_choice *c, struct buf *out)
{
    buf_puts(out, "data: ");
    head_put(a, out);
    choice_put(c, &(struct piece){"", 0, NULL, c->finish}, out);
    buf_puts(out, "]");
    if (a->timings) {
        buf_puts(out, ",\"timings\":");
        answer_json_put(out, a->timings);
    }
    buf_puts(out, "}\n\n");
}

// After the choices of `head_put`.
static void tail_put(const struct answer *a, struct buf *out)
{
    json_t *usage = answer_usage_json(&a->usage);

    buf_puts(out, "],\"usage\":");
    answer_json_put(out, usage);
    buf_puts(out, ",\"timings\":");
    answer_json_put(out, a->timings);
    buf_puts(out, "}");
    json_decref(usage);
}

static void text_end(struct answer *a, struct buf *out)
{
    if (a->in->include_usage) {
        buf_puts(out, "data: ");
        head_put(a, out);
        tail_put(a, out);
        buf_puts(out, "\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
}

static void text_whole(struct answer *a, struct buf *out)
{
    head_put(a, out);
    for (size_t i = 0; i < a->n_choices; i++) {
        struct answer_choice *c = &a->choices[i];
        const char *text = c->text.data ? (const char *)c->text.data : "";

        if (i > 0)
            buf_puts(out, ",");
        choice_put(c, &(struct piece){text, c->text.len, c->logprobs, c->finish}, out);
    }
    tail_put(a, out);
}

const struct dialect dialect_text = {
    .name = "text",
    .id_prefix = "cmpl-",
    .content_type = "text/event-stream",
    .parse = text_parse,
    .begin = text_begin,
    .beat = answer_openai_beat,
    .delta = text_delta,
    .choice_end = text_choice_end,
    .end = text_end,
    .error = answer_openai_error,
    .whole = text_whole,
    .refusal = answer_openai_refusal,
};
