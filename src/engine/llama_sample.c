// Drawing tokens: llama.cpp's samplers in their usual order (penalties, top-k, top-p, min-p, temperature,
// draw), and its grammars.
//
// A grammar is asked about the drawn token first and applied to the whole vocabulary only when it
// refuses that one: on most steps the answer already fits, and walking the grammar for every token
// costs more than the step's own draw.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "engine/llama_chat.h"

#include <math.h>
#include <stdlib.h>

#define PENALTY_TOKENS 64 // how far back penalties look

struct engine_sampler {
    struct llama_sampler *chain;
    struct llama_sampler *grammar; // NULL: none
    bool plain_greedy;             // nothing but the largest logit is wanted
    llama_token_data *candidates;  // n_vocab
    int32_t n_vocab;
};

static bool penalties_on(const struct engine_sampling *s)
{
    return s->repeat_penalty != 1.0f || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

static int sampling_check(const struct engine_sampling *s, struct err *e)
{
    if (!isfinite(s->temperature) || !isfinite(s->top_p) || !isfinite(s->min_p))
        return err_set(e, ERR_INVALID, "temperature, top_p and min_p must be finite");
    if (!isfinite(s->repeat_penalty) || s->repeat_penalty <= 0)
        return err_set(e, ERR_INVALID, "repeat_penalty is %g; it must be above 0 (1 is off)",
                       (double)s->repeat_penalty);
    if (!isfinite(s->frequency_penalty) || !isfinite(s->presence_penalty))
        return err_set(e, ERR_INVALID, "frequency_penalty and presence_penalty must be finite");
    return 0;
}

// llama.cpp takes one seed value to mean a random one; here every seed is a seed.
static uint32_t seed_of(uint32_t seed)
{
    return seed == LLAMA_DEFAULT_SEED ? LLAMA_DEFAULT_SEED - 1 : seed;
}

static struct llama_sampler *chain_make(const struct engine_sampling *s, int32_t n_vocab)
{
    struct llama_sampler *chain =
        llama_sampler_chain_init((struct llama_sampler_chain_params){.no_perf = true});
    if (penalties_on(s))
        llama_sampler_chain_add(
            chain, llama_sampler_init_penalties(n_vocab, PENALTY_TOKENS, s->repeat_penalty,
                                                s->frequency_penalty, s->presence_penalty));
    if (s->temperature <= 0) {
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
        return chain;
    }
    if (s->top_k > 0)
        llama_sampler_chain_add(chain, llama_sampler_init_top_k(s->top_k));
    if (s->top_p < 1)
        llama_sampler_chain_add(chain, llama_sampler_init_top_p(s->top_p, 1));
    if (s->min_p > 0)
        llama_sampler_chain_add(chain, llama_sampler_init_min_p(s->min_p, 1));
    llama_sampler_chain_add(chain, llama_sampler_init_temp(s->temperature));
    llama_sampler_chain_add(chain, llama_sampler_init_dist(seed_of(s->seed)));
    return chain;
}

int llama_sample_new(struct engine *base, const struct engine_sampling *s,
                     struct engine_sampler **out, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    const char *text = json_string_value(json_object_get(s->syntax, "grammar"));
    bool constrained = text && text[0];
    int rc = sampling_check(s, e);
    if (rc != 0)
        return rc;
    struct llama_sampler *grammar = NULL;
    if (constrained) {
        if (!base->limits.has_tokenizer)
            return err_set(e, ERR_UNSUPPORTED, "a grammar needs a model with a tokenizer");
        grammar = llama_chat_grammar_new(g->vocab, text, e);
        if (!grammar)
            return ERR_INVALID;
    }
    struct engine_sampler *sampler = mem_alloc(sizeof *sampler);
    sampler->grammar = grammar;
    sampler->n_vocab = (int32_t)base->identity.n_vocab;
    sampler->plain_greedy = s->temperature <= 0 && !penalties_on(s) && !constrained;
    sampler->chain = chain_make(s, sampler->n_vocab);
    if (!sampler->plain_greedy)
        sampler->candidates = mem_alloc((size_t)sampler->n_vocab * sizeof *sampler->candidates);
    *out = sampler;
    return 0;
}

void llama_sample_free(struct engine *g, struct engine_sampler *sampler)
{
    (void)g;
    if (!sampler)
        return;
    llama_sampler_free(sampler->chain);
    if (sampler->grammar)
        llama_sampler_free(sampler->grammar);
    free(sampler->candidates);
    free(sampler);
}

void llama_sample_accept(struct engine *g, struct engine_sampler *sampler, int32_t token)
{
    if (token >= 0 && (uint32_t)token < g->identity.n_vocab)
        llama_sampler_accept(sampler->chain, token);
}

// The first of the largest; NaN never wins.
static int32_t largest(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = i;
    return best;
}

static llama_token_data_array candidates_fill(struct engine_sampler *sampler, const float *logits)
{
    for (int32_t i = 0; i < sampler->n_vocab; i++)
        sampler->candidates[i] =
            (llama_token_data){.id = i, .logit = isnan(logits[i]) ? -INFINITY : logits[i]};
    return (llama_token_data_array){
        .data = sampler->candidates, .size = (size_t)sampler->n_vocab, .selected = -1};
}

static llama_token chosen(const llama_token_data_array *a)
{
    return a->selected >= 0 && (size_t)a->selected < a->size ? a->data[a->selected].id
                                                             : a->data[0].id;
}

static bool grammar_allows(struct engine_sampler *sampler, llama_token token)
{
    llama_token_data one = {.id = token, .logit = 1};
    llama_token_data_array a = {.data = &one, .size = 1, .selected = -1};
    llama_sampler_apply(sampler->grammar, &a);
    return one.logit > -INFINITY;
}

static llama_token draw(struct engine_sampler *sampler, const float *logits)
{
    llama_token_data_array a = candidates_fill(sampler, logits);
    llama_sampler_apply(sampler->chain, &a);
    llama_token token = chosen(&a);
    if (!sampler->grammar || grammar_allows(sampler, token))
        return token;
    a = candidates_fill(sampler, logits);
    llama_sampler_apply(sampler->grammar, &a);
    llama_sampler_apply(sampler->chain, &a);
    return chosen(&a);
}

int32_t llama_sample_draw(struct engine *base, struct engine_sampler *sampler, size_t row)
{
    const float *logits = llama_step_logits(base, row);
    if (!logits)
        return -1;
    if (sampler->plain_greedy)
        return largest(logits, sampler->n_vocab);
    llama_token token = draw(sampler, logits);
    llama_sampler_accept(sampler->chain, token);
    if (sampler->grammar && !llama_chat_grammar_accept(sampler->grammar, token)) {
        llama_sampler_free(sampler->grammar); // it has no way on: nothing more can be constrained
        sampler->grammar = NULL;
        return llama_vocab_eos(llama_of(base)->vocab);
    }
    return token;
}
