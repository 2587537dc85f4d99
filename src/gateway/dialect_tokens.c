// llama-server's /tokenize, /detokenize and /apply-template: what a worker's rendering says is the answer.
#include "base/json.h"
#include "gateway/answer.h"

static int flag(const json_t *body, const char *member, bool *out, struct parse_fault *fault)
{
    if (json_get_bool(body, member, out, &fault->e) != 0)
        return parse_fault_value(fault, member, "true or false", json_object_get(body, member));
    return 0;
}

static void result_put(struct answer *a, const char *member, json_t *value, struct buf *out)
{
    json_t *o = json_object();

    (void)a;
    json_put(o, member, value);
    answer_json_put(out, o);
    json_decref(o);
}

// ---- /tokenize ----------------------------------------------------------------------------------------

static int tokenize_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    json_t *content = json_object_get(body, "content");
    bool bos = false, special = true, pieces = false;

    out->kind = PARSE_RENDER;
    if (parse_model(body, out, fault) != 0)
        return fault->e.code;
    if (!json_is_string(content))
        return parse_fault_value(fault, "content", "a string", content);
    if (flag(body, "add_special", &bos, fault) != 0 ||
        flag(body, "parse_special", &special, fault) != 0 ||
        flag(body, "with_pieces", &pieces, fault) != 0)
        return fault->e.code;
    out->render = json_pack("{s:O,s:b,s:b}", "text", content, "special", special, "bos", bos);
    if (pieces)
        json_put(out->render, "want_pieces", json_true());
    return parse_size_check(out, "content", fault);
}

static void tokenize_whole(struct answer *a, struct buf *out)
{
    json_t *tokens = json_object_get(a->result, "tokens");
    const json_t *pieces = json_object_get(a->result, "pieces");
    json_t *list;

    if (!json_is_true(json_object_get(a->in->render, "want_pieces"))) {
        result_put(a, "tokens", json_incref(tokens), out);
        return;
    }
    list = json_array();
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        json_t *o = json_object(), *piece = json_array_get(pieces, i);

        json_put(o, "id", json_incref(json_array_get(tokens, i)));
        json_put(o, "piece", piece ? json_incref(piece) : json_string(""));
        json_array_append_new(list, o);
    }
    result_put(a, "tokens", list, out);
}

const struct dialect dialect_tokenize = {
    .name = "tokenize",
    .id_prefix = "tok-",
    .parse = tokenize_parse,
    .whole = tokenize_whole,
    .refusal = answer_openai_refusal,
};

// ---- /detokenize --------------------------------------------------------------------------------------

static int detokenize_parse(const json_t *body, struct parse_request *out,
                            struct parse_fault *fault)
{
    json_t *tokens = json_object_get(body, "tokens");

    out->kind = PARSE_RENDER;
    if (parse_model(body, out, fault) != 0)
        return fault->e.code;
    if (!json_is_array(tokens) || json_array_size(tokens) > MESSAGE_MAX_TOKENS)
        return parse_fault_value(fault, "tokens", "an array of token ids", tokens);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *v = json_array_get(tokens, i);

        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return parse_fault_set(fault, ERR_INVALID, "tokens",
                                   "'tokens[%zu]' must be a token id between 0 and %d", i,
                                   INT32_MAX);
    }
    out->render = json_pack("{s:O}", "detokenize", tokens);
    return parse_size_check(out, "tokens", fault);
}

static void detokenize_whole(struct answer *a, struct buf *out)
{
    json_t *text = json_object_get(a->result, "text");

    result_put(a, "content", json_is_string(text) ? json_incref(text) : json_string(""), out);
}

const struct dialect dialect_detokenize = {
    .name = "detokenize",
    .id_prefix = "detok-",
    .parse = detokenize_parse,
    .whole = detokenize_whole,
    .refusal = answer_openai_refusal,
};

// ---- /apply-template ----------------------------------------------------------------------------------

static int template_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    int rc = parse_openai(body, PARSE_CHAT, out, fault);

    if (rc != 0)
        return rc;
    out->kind = PARSE_RENDER;
    out->stream = false;
    json_put(out->render, "want_prompt", json_true());
    return 0;
}

static void template_whole(struct answer *a, struct buf *out)
{
    json_t *prompt = json_object_get(a->result, "prompt");

    result_put(a, "prompt", json_is_string(prompt) ? json_incref(prompt) : json_string(""), out);
}

const struct dialect dialect_template = {
    .name = "template",
    .id_prefix = "tmpl-",
    .parse = template_parse,
    .whole = template_whole,
    .refusal = answer_openai_refusal,
};
