// OpenAI's /embeddings.
#include "base/base64.h"
#include "base/json.h"
#include "gateway/answer.h"

#include <math.h>
#include <stdlib.h>

#define EMBED_PARAM "input"

// ---- the request --------------------------------------------------------------------------------------

static int head_of_text(const json_t *v, json_t **head, struct parse_fault *fault)
{
    if (json_string_length(v) == 0)
        return parse_fault_set(fault, ERR_INVALID, EMBED_PARAM, "'input' has an empty string");
    *head = json_pack("{s:s,s:b,s:b}", "text", json_string_value(v), "special", 0, "bos", 1);
    return 0;
}

static int head_of_tokens(json_t *v, json_t **head, struct parse_fault *fault)
{
    if (json_array_size(v) == 0 || json_array_size(v) > MESSAGE_MAX_TOKENS)
        return parse_fault_set(fault, ERR_INVALID, EMBED_PARAM,
                               "'input' has %zu token ids; 1 to %u are taken", json_array_size(v),
                               MESSAGE_MAX_TOKENS);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *id = json_array_get(v, i);

        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return parse_fault_value(fault, EMBED_PARAM, "text or token ids", id);
    }
    *head = json_object();
    json_put(*head, "tokens", json_incref(v));
    return 0;
}

// A new reference in *head.
static int head_make(json_t *v, json_t **head, struct parse_fault *fault)
{
    if (json_is_string(v))
        return head_of_text(v, head, fault);
    if (json_is_array(v))
        return head_of_tokens(v, head, fault);
    return parse_fault_value(fault, EMBED_PARAM,
                             "a string, an array of token ids, or an array of such", v);
}

static int inputs_take(json_t *v, struct parse_request *out, struct parse_fault *fault)
{
    size_t n = json_array_size(v);
    bool one = !json_is_array(v) || n == 0 || json_is_number(json_array_get(v, 0));

    if (one)
        return head_make(v, &out->render, fault);
    if (n > PARSE_INPUTS_MAX)
        return parse_fault_set(fault, ERR_INVALID, EMBED_PARAM,
                               "'input' has %zu entries, at most %d are taken", n,
                               PARSE_INPUTS_MAX);
    out->more = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *head = NULL;

        if (head_make(json_array_get(v, i), &head, fault) != 0)
            return fault->e.code;
        if (i == 0)
            out->render = head;
        else
            json_array_append_new(out->more, head);
    }
    return 0;
}

static int embed_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    const json_t *format = json_object_get(body, "encoding_format");
    const json_t *dimensions = json_object_get(body, "dimensions");
    const char *word = json_string_value(format);
    bool floats = !format || json_is_null(format) || (word && strcmp(word, "float") == 0);

    out->kind = PARSE_EMBED;
    if (parse_model(body, out, fault) != 0)
        return fault->e.code;
    if (!floats && (!word || strcmp(word, "base64") != 0))
        return parse_fault_value(fault, "encoding_format", "\"float\" or \"base64\"", format);
    if (dimensions && !json_is_null(dimensions) &&
        (!json_is_integer(dimensions) || json_integer_value(dimensions) < 1))
        return parse_fault_value(fault, "dimensions", "an integer, at least 1", dimensions);
    // What `whole` and the core's check need to know.
    out->echo =
        json_pack("{s:b,s:I}", "base64", !floats, "dimensions", json_integer_value(dimensions));
    if (inputs_take(json_object_get(body, "input"), out, fault) != 0)
        return fault->e.code;
    return parse_size_check(out, EMBED_PARAM, fault);
}

// ---- the answer ---------------------------------------------------------------------------------------

static void values_put_base64(const struct answer_vector *v, struct buf *out)
{
    uint8_t *bytes = mem_alloc((size_t)v->n * 4 + 1);

    for (size_t i = 0; i < v->n; i++) {
        uint32_t bits;

        memcpy(&bits, &v->values[i], 4);
        le_put32(bytes + 4 * i, bits);
    }
    buf_puts(out, "\"");
    base64_put(out, bytes, (size_t)v->n * 4);
    buf_puts(out, "\"");
    free(bytes);
}

#define DIGITS 10 // after the point: finer than a float between SMALLEST and 1
#define SMALLEST 1e-3

// printf takes ten times as long, and an answer may hold millions of these.
static void value_put(double v, struct buf *out)
{
    char text[DIGITS + 3];
    uint64_t digits;
    size_t at = sizeof(text);

    if (!isfinite(v))
        v = 0;
    if (fabs(v) < SMALLEST || fabs(v) > 0.9999999999) {
        buf_printf(out, "%.9g", v);
        return;
    }
    digits = (uint64_t)(fabs(v) * 1e10 + 0.5);
    for (int i = 0; i < DIGITS; i++, digits /= 10)
        text[--at] = (char)('0' + digits % 10);
    text[--at] = '.';
    text[--at] = '0';
    if (v < 0)
        text[--at] = '-';
    buf_put(out, text + at, sizeof(text) - at);
}

static void values_put(const struct answer_vector *v, struct buf *out)
{
    buf_puts(out, "[");
    for (size_t i = 0; i < v->n; i++) {
        if (i > 0)
            buf_puts(out, ",");
        value_put((double)v->values[i], out);
    }
    buf_puts(out, "]");
}

static void embed_whole(struct answer *a, struct buf *out)
{
    bool base64 = json_is_true(json_object_get(a->in->echo, "base64"));

    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < a->n_vectors; i++) {
        buf_printf(out,
                   "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i > 0 ? "," : "", i);
        if (base64)
            values_put_base64(&a->vectors[i], out);
        else
            values_put(&a->vectors[i], out);
        buf_puts(out, "}");
    }
    buf_puts(out, "],\"model\":");
    answer_quote_put(out, a->model, strlen(a->model));
    buf_printf(out, ",\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u}}",
               a->usage.prompt_tokens, a->usage.prompt_tokens);
}

const struct dialect dialect_embeddings = {
    .name = "embeddings",
    .id_prefix = "embd-",
    .parse = embed_parse,
    .whole = embed_whole,
    .refusal = answer_openai_refusal,
};
