// Sampling of the fake engine: a plain reading of the usual definitions, for a vocabulary of a few hundred
// tokens. An answer that the script decided is said byte for byte instead.
#include "engine/engine_fake_text.h"

#include "base/buf.h"
#include "engine/fake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    int32_t token;
    float logit;
    double p;
};

struct engine_sampler {
    struct engine_sampling s;
    char *answer;    // what the script says; NULL: nothing, tokens are drawn
    size_t answered; // bytes of it that were said
    uint64_t random; // state of the generator
    uint32_t n_vocab;
    int32_t *seen; // what was accepted, for the penalties
    size_t n_seen, cap_seen;
    uint32_t *counts;    // [n_vocab]: how often each token was among the last repeat_last_n
    float *bias;         // [n_vocab]
    struct candidate *c; // [n_vocab]
};

static int sampling_check(const struct engine *g, const struct engine_sampling *s, struct err *e)
{
    if (json_object_get(s->syntax, "grammar") != NULL)
        return err_set(e, ERR_UNSUPPORTED, "the fake engine has no grammars");
    if (s->n_biases > ENGINE_BIAS_MAX)
        return err_set(e, ERR_INVALID, "%zu logit biases, at most %d are possible", s->n_biases,
                       ENGINE_BIAS_MAX);
    for (size_t i = 0; i < s->n_biases; i++)
        if (s->biases[i].token < 0 || (uint32_t)s->biases[i].token >= g->identity.n_vocab)
            return err_set(e, ERR_INVALID, "a logit bias for token %d, there are %u",
                           s->biases[i].token, g->identity.n_vocab);
    return 0;
}

// The script's answer, its reasoning cut after `budget` bytes (-1: none), at a whole character.
static char *answer_of(const json_t *syntax, int32_t budget)
{
    const char *text = json_string_value(json_object_get(syntax, "answer"));
    char *answer = text != NULL ? mem_strdup(text) : NULL;
    char *from = answer != NULL && budget >= 0 ? strstr(answer, "<think>") : NULL;
    char *end = from != NULL ? strstr(from, "</think>") : NULL;
    if (end == NULL)
        return answer;
    from += strlen("<think>");
    if (end - from > budget) {
        from += budget;
        while (((unsigned char)*from & 0xc0) == 0x80)
            from--;
        memmove(from, end, strlen(end) + 1);
    }
    return answer;
}

int fake_sampler_new(struct engine *g, const struct engine_sampling *s, struct engine_sampler **out,
                     struct err *e)
{
    int rc = sampling_check(g, s, e);
    if (rc != 0)
        return rc;
    struct engine_sampler *p = mem_alloc(sizeof *p);
    p->s = *s;
    p->answer = answer_of(s->syntax, s->reasoning_budget);
    p->random = s->seed;
    p->n_vocab = g->identity.n_vocab;
    p->counts = mem_alloc(p->n_vocab * sizeof *p->counts);
    p->bias = mem_alloc(p->n_vocab * sizeof *p->bias);
    p->c = mem_alloc(p->n_vocab * sizeof *p->c);
    for (size_t i = 0; i < s->n_biases; i++)
        p->bias[s->biases[i].token] += s->biases[i].bias;
    p->s.biases = NULL; // borrowed for this call only
    p->s.syntax = NULL;
    *out = p;
    return 0;
}

void fake_sampler_free(struct engine *g, struct engine_sampler *p)
{
    (void)g;
    if (p == NULL)
        return;
    free(p->answer);
    free(p->seen);
    free(p->counts);
    free(p->bias);
    free(p->c);
    free(p);
}

void fake_sampler_accept(struct engine *g, struct engine_sampler *p, int32_t token)
{
    (void)g;
    if (token < 0 || (uint32_t)token >= p->n_vocab || p->s.repeat_last_n == 0)
        return;
    if (p->n_seen == p->cap_seen) {
        p->cap_seen = p->cap_seen > 0 ? p->cap_seen * 2 : 64;
        p->seen = mem_resize(p->seen, p->cap_seen * sizeof *p->seen);
    }
    p->seen[p->n_seen++] = token;
    p->counts[token]++;
    if (p->s.repeat_last_n > 0 && p->n_seen > (size_t)p->s.repeat_last_n)
        p->counts[p->seen[p->n_seen - 1 - (size_t)p->s.repeat_last_n]]--;
}

static float penalised(const struct engine_sampler *p, uint32_t token, float logit)
{
    float n = (float)p->counts[token];
    logit += p->bias[token];
    if (n == 0)
        return logit;
    logit = logit > 0 ? logit / p->s.repeat_penalty : logit * p->s.repeat_penalty;
    return logit - n * p->s.frequency_penalty - p->s.presence_penalty;
}

// Best first; equal logits by token id, so that the order never depends on the sort.
static int candidate_order(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

// How many of the best candidates stay; fills in their probabilities.
static uint32_t candidates_keep(struct engine_sampler *p)
{
    uint32_t n = p->n_vocab, kept = 0;
    double sum = 0, mass = 0;
    if (p->s.top_k > 0 && (uint32_t)p->s.top_k < n)
        n = (uint32_t)p->s.top_k;
    for (uint32_t i = 0; i < n; i++)
        sum += p->c[i].p = exp((double)((p->c[i].logit - p->c[0].logit) / p->s.temperature));
    while (kept < n && (kept == 0 || (mass < (double)p->s.top_p * sum &&
                                      p->c[kept].p >= (double)p->s.min_p * p->c[0].p)))
        mass += p->c[kept++].p;
    return kept;
}

static double random_unit(struct engine_sampler *p)
{
    // xorshift64* (Vigna 2014) over a state that is never zero
    uint64_t x = p->random != 0 ? p->random : 0x9e3779b97f4a7c15u;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    p->random = x;
    return (double)((x * 0x2545f4914f6cdd1du) >> 11) / 9007199254740992.0;
}

static int32_t draw(struct engine_sampler *p)
{
    uint32_t kept = candidates_keep(p);
    double mass = 0;
    for (uint32_t i = 0; i < kept; i++)
        mass += p->c[i].p;
    double at = random_unit(p) * mass;
    for (uint32_t i = 0; i < kept; i++)
        if ((at -= p->c[i].p) < 0)
            return p->c[i].token;
    return p->c[kept - 1].token;
}

static int32_t answer_say(struct engine_sampler *p)
{
    unsigned char byte = (unsigned char)p->answer[p->answered];
    if (byte == '\0')
        return FAKE_TOKEN_END;
    p->answered++;
    return byte;
}

int32_t fake_sample(struct engine *g, struct engine_sampler *p, size_t row)
{
    const float *logits = g->ops->logits(g, row);
    if (p->answer != NULL)
        return answer_say(p);
    for (uint32_t i = 0; i < p->n_vocab; i++)
        p->c[i] = (struct candidate){.token = (int32_t)i, .logit = penalised(p, i, logits[i])};
    qsort(p->c, p->n_vocab, sizeof *p->c, candidate_order);
    int32_t token = p->s.temperature > 0 ? draw(p) : p->c[0].token;
    fake_sampler_accept(g, p, token);
    return token;
}
