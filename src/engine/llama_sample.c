// Drawing tokens. Plain greedy decoding, which most measuring and many agents use, is one walk over the logits
// here; everything else is llama.cpp's common sampler behind its C face (llama_draw.cpp).
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/llama_chat.h"

#include <math.h>
#include <stdlib.h>

struct engine_sampler {
    struct llama_draw *draw; // NULL: nothing but the largest logit is wanted
};

// ---- what is asked ------------------------------------------------------------------------------

static int biases_check(const struct llama_engine *g, const struct engine_sampling *s,
                        struct err *e)
{
    if (s->n_biases > ENGINE_BIAS_MAX)
        return err_set(e, ERR_INVALID, "%zu logit biases; at most %d are possible", s->n_biases,
                       ENGINE_BIAS_MAX);
    for (size_t i = 0; i < s->n_biases; i++) {
        const struct engine_bias *b = &s->biases[i];
        if (b->token < 0 || (uint32_t)b->token >= g->base.identity.n_vocab)
            return err_set(e, ERR_INVALID,
                           "a logit bias for token %d, which is outside the vocabulary of %u",
                           b->token, g->base.identity.n_vocab);
        if (isnan(b->bias) || b->bias == INFINITY)
            return err_set(e, ERR_INVALID, "the logit bias of token %d must be finite or -infinity",
                           b->token);
    }
    return 0;
}

static int sampling_check(const struct llama_engine *g, const struct engine_sampling *s,
                          struct err *e)
{
    if (!isfinite(s->temperature) || !isfinite(s->top_p) || !isfinite(s->min_p) ||
        !isfinite(s->typical_p))
        return err_set(e, ERR_INVALID, "temperature, top_p, min_p and typical_p must be finite");
    // A penalty so near to 0 divides by it to infinity.
    if (!isfinite(s->repeat_penalty) || s->repeat_penalty <= 0 ||
        !isfinite(1.0f / s->repeat_penalty))
        return err_set(e, ERR_INVALID, "repeat_penalty is %g; it must be above 0 (1 is off)",
                       (double)s->repeat_penalty);
    if (!isfinite(s->frequency_penalty) || !isfinite(s->presence_penalty))
        return err_set(e, ERR_INVALID, "frequency_penalty and presence_penalty must be finite");
    return biases_check(g, s, e);
}

static bool penalties_on(const struct engine_sampling *s)
{
    return s->repeat_last_n != 0 &&
           (s->repeat_penalty != 1.0f || s->frequency_penalty != 0 || s->presence_penalty != 0);
}

static bool is_constrained(const struct engine_sampling *s)
{
    const json_t *rules = json_object_get(s->syntax, "rules");
    return json_string_length(json_object_get(s->syntax, "grammar")) > 0 ||
           (s->reasoning_budget >= 0 && json_object_get(rules, "think") != NULL);
}

// Some models name tokens that they must never say.
static bool is_plain_greedy(const struct llama_engine *g, const struct engine_sampling *s)
{
    int32_t suppressed = 0;
    llama_vocab_get_suppress_tokens(g->vocab, &suppressed);
    return s->temperature <= 0 && !penalties_on(s) && s->n_biases == 0 && suppressed == 0 &&
           !is_constrained(s);
}

// ---- samplers -----------------------------------------------------------------------------------

static int draw_make(struct llama_engine *g, const struct engine_sampling *s,
                     struct llama_draw **out, struct err *e)
{
    const json_t *grammar = json_object_get(s->syntax, "grammar");
    const json_t *rules = json_object_get(s->syntax, "rules");
    if (is_constrained(s) && !g->base.limits.has_tokenizer)
        return err_set(e, ERR_UNSUPPORTED, "a grammar needs a model with a tokenizer");
    if (grammar != NULL && !json_is_null(grammar) && !json_is_string(grammar))
        return err_set(e, ERR_INVALID, "the grammar must be a text");
    char *text = json_is_object(rules) ? json_text(rules) : NULL;
    struct llama_draw_options o = {.model = g->model,
                                   .sampling = s,
                                   .n_ctx = g->base.limits.n_ctx,
                                   .grammar = json_string_value(grammar),
                                   .rules = text};
    if (o.grammar)
        llama_log_hush();
    *out = llama_draw_new(&o, e);
    if (o.grammar)
        llama_log_speak();
    free(text);
    return *out != NULL ? 0 : ERR_INVALID;
}

int llama_sample_new(struct engine *base, const struct engine_sampling *s,
                     struct engine_sampler **out, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    struct llama_draw *draw = NULL;
    int rc = sampling_check(g, s, e);
    if (rc == 0 && !is_plain_greedy(g, s))
        rc = draw_make(g, s, &draw, e);
    if (rc != 0)
        return rc;
    *out = mem_alloc(sizeof **out);
    (*out)->draw = draw;
    return 0;
}

void llama_sample_free(struct engine *g, struct engine_sampler *sampler)
{
    (void)g;
    if (!sampler)
        return;
    llama_draw_free(sampler->draw);
    free(sampler);
}

void llama_sample_accept(struct engine *g, struct engine_sampler *sampler, int32_t token)
{
    if (sampler->draw && token >= 0 && (uint32_t)token < g->identity.n_vocab)
        llama_draw_accept(sampler->draw, token);
}

// ---- drawing ------------------------------------------------------------------------------------

// The first of the largest; NaN never wins.
static int32_t largest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = i;
    return (int32_t)best;
}

int32_t llama_sample_draw(struct engine *base, struct engine_sampler *sampler, size_t row)
{
    struct llama_engine *g = llama_of(base);
    int32_t index = 0;
    struct llama_context *ctx = llama_step_source(g, row, &index);
    float *logits = ctx ? llama_get_logits_ith(ctx, index) : NULL;
    if (!logits)
        return -1;
    uint32_t n = base->identity.n_vocab;
    if (!sampler->draw)
        return largest(logits, n);
    for (uint32_t i = 0; i < n; i++) // sorting goes wrong over NaN
        if (isnan(logits[i]))
            logits[i] = -INFINITY;
    int32_t token = llama_draw_token(sampler->draw, ctx, index);
    if (token >= 0)
        return token;
    llama_draw_free(sampler->draw); // the grammar has no way on: nothing more can be constrained
    sampler->draw = NULL;
    return llama_vocab_eos(g->vocab);
}
