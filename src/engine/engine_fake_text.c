// Text and sampling of the fake engine: bytes are tokens, messages are lines. The sampler is a
// plain reading of the usual definitions, for a vocabulary of a few hundred tokens.
#include "engine/engine_fake_text.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/fake.h"

#include <math.h>
#include <stdlib.h>

// ---- text ---------------------------------------------------------------------------------------

int fake_tokenize(struct engine *g, const char *text, size_t n, bool special, bool add_bos,
                  int32_t **tokens, size_t *n_tokens, struct err *e)
{
    (void)g;
    (void)special;
    if (n > (1u << 26))
        return err_set(e, ERR_RANGE, "a text of %zu bytes", n);
    int32_t *out = mem_alloc((n + 1) * sizeof *out);
    size_t k = 0;
    if (add_bos)
        out[k++] = FAKE_TOKEN_BEGIN;
    for (size_t i = 0; i < n; i++)
        out[k++] = (uint8_t)text[i];
    *tokens = out;
    *n_tokens = k;
    return 0;
}

size_t fake_piece(struct engine *g, int32_t token, char *out, size_t cap)
{
    (void)g;
    if (token < 0 || token == FAKE_TOKEN_BEGIN || token == FAKE_TOKEN_END || cap == 0)
        return 0;
    out[0] = token < 256 ? (char)token : '?';
    return 1;
}

bool fake_is_end(struct engine *g, int32_t token)
{
    (void)g;
    return token == FAKE_TOKEN_END;
}

// "content" is a text, a list of {"type":"text","text":..} parts, or nothing: null or absent, as in the
// messages of an assistant that only called a tool.
static int content_put(struct buf *b, const json_t *content, struct err *e)
{
    size_t i;
    const json_t *part;
    if (content == NULL || json_is_null(content))
        return 0;
    if (json_is_string(content))
        return buf_puts(b, json_string_value(content));
    if (!json_is_array(content))
        return err_set(e, ERR_INVALID, "a message's content must be a text or a list of parts");
    json_array_foreach(content, i, part)
    {
        const char *text = json_string_value(json_object_get(part, "text"));
        if (text == NULL)
            return err_set(e, ERR_INVALID, "part %zu of a message's content has no text", i);
        int rc = buf_puts(b, text);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int messages_put(struct buf *b, const json_t *messages, struct err *e)
{
    size_t i;
    const json_t *m;
    int rc = 0;
    json_array_foreach(messages, i, m)
    {
        const char *role = json_string_value(json_object_get(m, "role"));
        if (role == NULL)
            return err_set(e, ERR_INVALID, "message %zu has no role", i);
        if ((rc = buf_printf(b, "%s: ", role)) != 0 ||
            (rc = content_put(b, json_object_get(m, "content"), e)) != 0 ||
            (rc = buf_puts(b, "\n")) != 0)
            return rc;
    }
    return buf_puts(b, "assistant: ");
}

int fake_render(struct engine *g, const json_t *request, json_t **rendered, struct err *e)
{
    (void)g;
    struct buf b;
    const json_t *messages = json_object_get(request, "messages");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return err_set(e, ERR_INVALID, "\"messages\" must be a list with at least one message");
    buf_init(&b, 64u << 20);
    int rc = messages_put(&b, messages, e);
    if (rc == 0) {
        json_t *o = json_object();
        json_put(o, "prompt", json_stringn((const char *)b.data, b.len));
        json_put(o, "stop", json_array());
        json_put(o, "grammar", json_null());
        *rendered = o;
    }
    buf_fini(&b);
    return rc;
}

// ---- sampling -----------------------------------------------------------------------------------

struct candidate {
    int32_t token;
    float logit;
    double p;
};

struct engine_sampler {
    struct engine_sampling s;
    uint64_t random; // state of the generator
    uint32_t n_vocab;
    uint32_t *counts;    // [n_vocab]: how often each token was seen
    struct candidate *c; // [n_vocab]
};

int fake_sampler_new(struct engine *g, const struct engine_sampling *s, struct engine_sampler **out,
                     struct err *e)
{
    if (s->grammar != NULL)
        return err_set(e, ERR_UNSUPPORTED, "the fake engine has no grammars");
    struct engine_sampler *p = mem_alloc(sizeof *p);
    p->s = *s;
    p->random = s->seed;
    p->n_vocab = g->identity.n_vocab;
    p->counts = mem_alloc(p->n_vocab * sizeof *p->counts);
    p->c = mem_alloc(p->n_vocab * sizeof *p->c);
    *out = p;
    return 0;
}

void fake_sampler_free(struct engine *g, struct engine_sampler *p)
{
    (void)g;
    if (p == NULL)
        return;
    free(p->counts);
    free(p->c);
    free(p);
}

void fake_sampler_accept(struct engine *g, struct engine_sampler *p, int32_t token)
{
    (void)g;
    if (token >= 0 && (uint32_t)token < p->n_vocab)
        p->counts[token]++;
}

static float penalised(const struct engine_sampler *p, uint32_t token, float logit)
{
    float n = (float)p->counts[token];
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

int32_t fake_sample(struct engine *g, struct engine_sampler *p, size_t row)
{
    const float *logits = g->ops->logits(g, row);
    for (uint32_t i = 0; i < p->n_vocab; i++)
        p->c[i] = (struct candidate){.token = (int32_t)i, .logit = penalised(p, i, logits[i])};
    qsort(p->c, p->n_vocab, sizeof *p->c, candidate_order);
    int32_t token = p->s.temperature > 0 ? draw(p) : p->c[0].token;
    fake_sampler_accept(g, p, token);
    return token;
}
