// What an answer says: each token's text, deltas and log probabilities on their way to the gateway,
// and the account that ends it.
//
//   sampled token -> piece -> stop strings (text.h) -> [parser: reasoning, content, tool calls] -> TOKEN
//
// Stop strings are looked for in the text as the model wrote it, before it is taken apart.
#include "base/json.h"
#include "node/worker.h"

#include <math.h>
#include <stdlib.h>

#define PIECE_BYTES 512
#define TEXT_BYTES_MAX (8u << 20)
#define LOGPROB_LEAST (-9999.0) // for what cannot happen: JSON has no infinities

int worker_answer_begin(struct worker *w, struct worker_job *j, struct err *e)
{
    const struct engine_ops *ops = w->engine->ops;
    const struct message_generate *m = &j->generate;

    text_stream_init(&j->text, m->stops, m->n_stops);
    int rc = ops->sampler_new(w->engine, &m->sampling, &j->sampler, e);
    if (rc != 0 || !m->parse || m->syntax == NULL)
        return rc;
    if (ops->parser_new == NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "the %s engine cannot take answers apart; ask without \"parse\"", ops->name);
    return ops->parser_new(w->engine, m->syntax, &j->parser, e);
}

void worker_answer_fini(struct worker *w, struct worker_job *j)
{
    if (j->sampler != NULL)
        w->engine->ops->sampler_free(w->engine, j->sampler);
    if (j->parser != NULL)
        w->engine->ops->parser_free(w->engine, j->parser);
    text_stream_fini(&j->text);
}

// ---- text and deltas -----------------------------------------------------------------------------

static const char *text_of(const struct buf *b)
{
    return b->len == 0 ? "" : (const char *)b->data;
}

// Any bytes as JSON text; what is no UTF-8 becomes U+FFFD.
static json_t *text_json(const char *bytes, size_t n)
{
    struct text_stream clean;
    struct buf out;

    text_stream_init(&clean, NULL, 0);
    buf_init(&out, TEXT_BYTES_MAX);
    text_stream_put(&clean, bytes, n, &out);
    text_stream_end(&clean, &out);
    json_t *v = json_stringn(text_of(&out), out.len);
    buf_fini(&out);
    text_stream_fini(&clean);
    return v;
}

static json_t *text_or_null(const char *s)
{
    // A peer's reason, perhaps cut short: not always whole UTF-8.
    return s == NULL || s[0] == 0 ? json_null() : text_json(s, strlen(s));
}

// Tokens whose text became certain just now were reasoning in the proportion of the bytes.
static void deltas_count(struct worker_job *j, const json_t *deltas)
{
    size_t reasoning = 0, other = 0, i;
    const json_t *d;

    json_array_foreach(deltas, i, d)
    {
        reasoning += json_string_length(json_object_get(d, "reasoning"));
        other += json_string_length(json_object_get(d, "content"));
        other += json_string_length(json_object_get(d, "arguments"));
        other += json_string_length(json_object_get(d, "name"));
        j->called = j->called || json_object_get(d, "tool") != NULL;
    }
    if (reasoning + other == 0)
        return;
    j->reasoning_tokens += (uint32_t)(j->pending_tokens * reasoning / (reasoning + other));
    j->pending_tokens = 0;
}

static json_t *deltas_make(struct worker *w, struct worker_job *j, const struct buf *text,
                           bool final)
{
    json_t *deltas = NULL;

    if (j->parser != NULL)
        deltas = w->engine->ops->parser_put(w->engine, j->parser, text_of(text), text->len, final);
    else if (text->len > 0)
        deltas = json_pack("[{s:o}]", "content", json_stringn(text_of(text), text->len));
    if (deltas == NULL)
        deltas = json_array();
    deltas_count(j, deltas);
    return deltas;
}

// ---- log probabilities ---------------------------------------------------------------------------

static double logprob_value(float x)
{
    return isfinite(x) ? (double)x : LOGPROB_LEAST;
}

static json_t *top_json(struct worker *w, const struct engine_logprob *top, size_t k)
{
    char piece[PIECE_BYTES];
    json_t *list = json_array();

    for (size_t i = 0; i < k; i++) {
        size_t n = w->engine->ops->piece(w->engine, top[i].token, piece, sizeof piece);
        json_array_append_new(list, json_pack("[i,o,f]", (int)top[i].token, text_json(piece, n),
                                              logprob_value(top[i].logprob)));
    }
    return list;
}

static void logprobs_put(struct worker *w, const struct worker_job *j, json_t *head, int32_t token,
                         size_t row)
{
    struct engine_logprob top[ENGINE_LOGPROBS_MAX];
    char piece[PIECE_BYTES], hex[2 * PIECE_BYTES + 1];
    uint32_t n_vocab = w->engine->identity.n_vocab;
    size_t k = (size_t)j->generate.logprobs < n_vocab ? (size_t)j->generate.logprobs : n_vocab;
    const float *logits = w->engine->ops->logits(w->engine, row);
    float x = engine_logprobs(logits, n_vocab, token, k, top);
    size_t n = w->engine->ops->piece(w->engine, token, piece, sizeof piece);

    hex_encode(piece, n, hex);
    json_put(head, "logprob", json_real(logprob_value(x)));
    json_put(head, "top", top_json(w, top, k));
    json_put(head, "bytes", json_string(hex));
}

// ---- the end -------------------------------------------------------------------------------------

static json_t *seconds(int64_t ns)
{
    return json_real(ns_to_s(ns));
}

static void tokens_put(const struct worker_job *j, json_t *head)
{
    json_put(head, "prompt_tokens", json_integer(j->n_tokens));
    json_put(head, "gen_tokens", json_integer(j->generated));
    json_put(head, "reasoning_tokens", json_integer(j->reasoning_tokens));
    json_put(head, "tokens_cached", json_integer(j->cached));
    // The last token of the prompt is always read here, in the first decode step.
    json_put(head, "tokens_read", json_integer((json_int_t)j->tokens_read + 1));
    json_put(head, "tokens_imported", json_integer(j->imported));
}

static void times_put(struct worker *w, const struct worker_job *j, json_t *head)
{
    struct engine_pace_counts pace = engine_pace_get(w->engine);
    struct message_moved crossed = worker_handoff_crossed(j);
    int64_t end = j->handoff_end_ns;

    json_put(head, "queue_s", seconds(j->admitted_ns - j->received_ns));
    json_put(head, "prefill_s", seconds(j->decode_start_ns - j->received_ns));
    json_put(head, "decode_s", seconds(j->last_token_ns - j->decode_start_ns));
    json_put(head, "handoff_end_s", end != 0 ? seconds(end - j->received_ns) : json_null());
    json_put(head, "kv_bytes", json_integer((json_int_t)j->received_bytes));
    json_put(head, "link", message_moved_json(&crossed));
    json_put(head, "fallback", text_or_null(j->fallback));
    if (j->unreached)
        json_put(head, "unreached", json_true());
    json_put(head, "overruns", json_integer((json_int_t)pace.overruns));
    json_put(head, "worst_ratio", json_real(pace.worst_ratio));
    json_put(head, "cost", worker_cost_json(&j->cost));
    worker_joules_put(w, j, head);
    json_put(head, "timeline", worker_timeline_json(&j->timeline));
}

static void answer_end(struct worker *w, struct worker_job *j, const char *finish)
{
    struct buf rest;
    json_t *head = json_object();

    buf_init(&rest, TEXT_BYTES_MAX);
    text_stream_end(&j->text, &rest);
    if (j->generate.parse)
        json_put(head, "delta", deltas_make(w, j, &rest, true));
    else
        json_put(head, "text", json_stringn(text_of(&rest), rest.len));
    if (j->called && strcmp(finish, "stop") == 0 && j->text.stopped == NULL)
        finish = "tool_calls";
    json_put(head, "finish", json_string(finish));
    json_put(head, "stop", text_or_null(j->text.stopped));
    tokens_put(j, head);
    times_put(w, j, head);
    worker_link_send(j->link, wire_frame_json(WIRE_DONE, j->id, head));
    buf_fini(&rest);
    worker_job_finish(w, j);
}

// ---- one token -----------------------------------------------------------------------------------

static void token_send(struct worker *w, struct worker_job *j, int32_t token, size_t row,
                       const struct buf *text)
{
    json_t *head = json_object();

    json_put(head, "id", json_integer(token));
    json_put(head, "index", json_integer((json_int_t)j->generated - 1));
    if (j->generate.parse)
        json_put(head, "delta", deltas_make(w, j, text, false));
    else
        json_put(head, "text", json_stringn(text_of(text), text->len));
    if (j->generate.logprobs >= 0)
        logprobs_put(w, j, head, token, row);
    worker_link_send(j->link, wire_frame_json(WIRE_TOKEN, j->id, head));
}

void worker_answer_token(struct worker *w, struct worker_job *j, int32_t token, size_t row)
{
    const struct engine_ops *ops = w->engine->ops;
    char piece[PIECE_BYTES];
    struct buf text;

    j->last_token_ns = clock_now_ns();
    if (ops->is_end(w->engine, token) && !j->generate.ignore_eos) {
        answer_end(w, j, "stop");
        return;
    }
    buf_init(&text, TEXT_BYTES_MAX);
    j->generated++;
    j->pending_tokens++;
    size_t n = ops->piece(w->engine, token, piece, sizeof piece);
    bool stopped = text_stream_put(&j->text, piece, n, &text);
    token_send(w, j, token, row, &text);
    buf_fini(&text);
    if (stopped)
        answer_end(w, j, "stop");
    else if (j->generated >= j->generate.max_tokens)
        answer_end(w, j, "length");
}
