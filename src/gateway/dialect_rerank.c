// Jina's and llama-server's /rerank: documents in the order of what they have to do with a query. A
// reranking model scores each pair; any other model that makes embeddings gives the cosine of the angle
// between query and document. The first input is the query.
#include "base/json.h"
#include "gateway/answer.h"

#include <math.h>
#include <stdlib.h>

// ---- the request --------------------------------------------------------------------------------------

static json_t *text_head(const json_t *text)
{
    return json_pack("{s:s,s:b,s:b}", "text", json_string_value(text), "special", 0, "bos", 1);
}

// A document: a string, or an object with a "text".
static const json_t *document_text(const json_t *v)
{
    return json_is_object(v) ? json_object_get(v, "text") : v;
}

static int documents_take(const json_t *documents, struct parse_request *out,
                          struct parse_fault *fault)
{
    size_t n = json_array_size(documents);

    if (n == 0)
        return parse_fault_value(fault, "documents", "an array with at least one string",
                                 documents);
    if (n >= PARSE_INPUTS_MAX)
        return parse_fault_set(fault, ERR_INVALID, "documents",
                               "'documents' has %zu entries, at most %d are taken", n,
                               PARSE_INPUTS_MAX - 1);
    out->more = json_array();
    for (size_t i = 0; i < n; i++) {
        const json_t *text = document_text(json_array_get(documents, i));

        if (json_string_length(text) == 0)
            return parse_fault_set(fault, ERR_INVALID, "documents",
                                   "'documents[%zu]' must be a string that is not empty", i);
        json_array_append_new(out->more, text_head(text));
    }
    return 0;
}

static int echo_take(const json_t *body, json_t *documents, struct parse_request *out,
                     struct parse_fault *fault)
{
    int64_t top_n = (int64_t)json_array_size(documents);
    bool texts = false;

    if (json_get_i64(body, "top_n", 1, INT32_MAX, &top_n, &fault->e) != 0)
        return parse_fault_value(fault, "top_n", "an integer, at least 1",
                                 json_object_get(body, "top_n"));
    if (json_get_bool(body, "return_documents", &texts, &fault->e) != 0)
        return parse_fault_value(fault, "return_documents", "true or false",
                                 json_object_get(body, "return_documents"));
    out->echo = json_pack("{s:I}", "top_n", (json_int_t)top_n);
    if (texts)
        json_put(out->echo, "documents", json_incref(documents));
    return 0;
}

static int rerank_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    const json_t *query = json_object_get(body, "query");
    json_t *documents = json_object_get(body, "documents");

    out->kind = PARSE_RANK;
    if (parse_model(body, out, fault) != 0)
        return fault->e.code;
    if (json_string_length(query) == 0)
        return parse_fault_value(fault, "query", "a string that is not empty", query);
    out->render = text_head(query);
    if (documents_take(documents, out, fault) != 0 || echo_take(body, documents, out, fault) != 0)
        return fault->e.code;
    return parse_size_check(out, "documents", fault);
}

// ---- the answer ---------------------------------------------------------------------------------------

struct score {
    size_t index;
    double value;
};

static double score_of(const struct answer *a, size_t document)
{
    const struct answer_vector *q = &a->vectors[0], *d = &a->vectors[1 + document];
    double sum = 0;

    if (q->n == 0)
        return d->n > 0 ? (double)d->values[0] : 0;
    for (size_t i = 0; i < q->n && i < d->n; i++)
        sum += (double)q->values[i] * (double)d->values[i];
    return sum;
}

// Best first; of equals the earlier document.
static int score_compare(const void *x, const void *y)
{
    const struct score *a = x, *b = y;

    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static json_t *result_json(const struct answer *a, const struct score *s)
{
    const json_t *documents = json_object_get(a->in->echo, "documents");
    json_t *o = json_object();

    json_put(o, "index", json_integer((json_int_t)s->index));
    json_put(o, "relevance_score", json_real(isfinite(s->value) ? s->value : 0));
    if (documents)
        json_put(o, "document",
                 json_pack("{s:O}", "text", document_text(json_array_get(documents, s->index))));
    return o;
}

static void rerank_whole(struct answer *a, struct buf *out)
{
    size_t n = a->n_vectors - 1;
    json_int_t top_n = json_integer_value(json_object_get(a->in->echo, "top_n"));
    struct score *scores = mem_alloc(n * sizeof(*scores));
    json_t *o = json_object(), *results = json_array();

    for (size_t i = 0; i < n; i++)
        scores[i] = (struct score){i, score_of(a, i)};
    qsort(scores, n, sizeof(*scores), score_compare);
    for (size_t i = 0; i < n && (json_int_t)i < top_n; i++)
        json_array_append_new(results, result_json(a, &scores[i]));
    json_put(o, "id", json_string(a->id));
    json_put(o, "object", json_string("list"));
    json_put(o, "model", answer_string(a->model));
    json_put(o, "usage",
             json_pack("{s:I,s:I}", "prompt_tokens", (json_int_t)a->usage.prompt_tokens,
                       "total_tokens", (json_int_t)a->usage.prompt_tokens));
    json_put(o, "results", results);
    answer_json_put(out, o);
    json_decref(o);
    free(scores);
}

const struct dialect dialect_rerank = {
    .name = "rerank",
    .id_prefix = "rerank-",
    .parse = rerank_parse,
    .whole = rerank_whole,
    .refusal = answer_openai_refusal,
};
