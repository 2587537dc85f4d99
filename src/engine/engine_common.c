// What every engine and every reader of an engine's identity shares: names, defaults and the
// identity as JSON. No implementation is named here, so the gateway can link this file alone.
#include "engine/engine.h"

#include "base/buf.h"
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const handoff_names[] = {"none", "whole", "ranges", "ranges-late-state"};

const char *engine_handoff_name(enum engine_handoff h)
{
    size_t i = (size_t)h;
    return i < sizeof handoff_names / sizeof *handoff_names ? handoff_names[i] : "unknown";
}

int engine_handoff_parse(const char *name, enum engine_handoff *out)
{
    for (size_t i = 0; i < sizeof handoff_names / sizeof *handoff_names; i++) {
        if (strcmp(name, handoff_names[i]) == 0) {
            *out = (enum engine_handoff)i;
            return 0;
        }
    }
    return ERR_INVALID;
}

void engine_sampling_default(struct engine_sampling *s)
{
    *s = (struct engine_sampling){
        .temperature = 0.8f,
        .top_p = 0.95f,
        .top_k = 40,
        .min_p = 0.05f,
        .typical_p = 1.0f,
        .repeat_penalty = 1.0f,
        .repeat_last_n = 64,
        .reasoning_budget = -1,
    };
}

void engine_options_default(struct engine_options *o)
{
    *o = (struct engine_options){
        .n_seq = 4,
        .n_batch = 512,
        .n_gpu_layers = -1,
        .type_k = "f16",
        .type_v = "f16",
        .handoff = ENGINE_HANDOFF_NONE,
    };
}

void engine_prompt_fini(struct engine *g, struct engine_prompt *p)
{
    for (size_t i = 0; i < p->n_pieces; i++)
        g->ops->media_free(g, p->pieces[i].media);
    free(p->pieces);
    free(p->tokens);
    *p = (struct engine_prompt){0};
}

// ---- log probabilities ----------------------------------------------------------------------

// Puts a candidate into the list of the k best, most likely first; equals stay in order of token id.
static void best_insert(struct engine_logprob *top, size_t k, int32_t token, float logit)
{
    size_t at = k;
    while (at > 0 && logit > top[at - 1].logprob)
        at--;
    if (at == k)
        return;
    memmove(&top[at + 1], &top[at], (k - at - 1) * sizeof *top);
    top[at] = (struct engine_logprob){.token = token, .logprob = logit};
}

static float logprob_of(float logit, double log_sum)
{
    double p = (double)logit - log_sum;
    return p > ENGINE_LOGPROB_MIN ? (float)p : ENGINE_LOGPROB_MIN; // NaN and -INFINITY as well
}

float engine_logprobs(const float *logits, uint32_t n_vocab, int32_t token, size_t k,
                      struct engine_logprob *top)
{
    float max = -INFINITY;
    double sum = 0;
    for (size_t i = 0; i < k; i++)
        top[i] = (struct engine_logprob){.token = -1, .logprob = -INFINITY};
    for (uint32_t i = 0; i < n_vocab; i++) {
        max = logits[i] > max ? logits[i] : max;
        best_insert(top, k, (int32_t)i, logits[i]);
    }
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY) // false for NaN
            sum += (double)expf(logits[i] - max);
    double log_sum = (double)max + log(sum);
    for (size_t i = 0; i < k; i++)
        top[i].logprob = logprob_of(top[i].logprob, log_sum);
    return token >= 0 && (uint32_t)token < n_vocab ? logprob_of(logits[token], log_sum)
                                                   : ENGINE_LOGPROB_MIN;
}

// ---- identity -------------------------------------------------------------------------------
// One table drives comparing, writing and reading, so that a new member cannot be forgotten in one.

enum member_kind { MEMBER_TEXT, MEMBER_U32, MEMBER_HASH };

struct member {
    const char *name;
    enum member_kind kind;
    size_t offset;
    size_t bytes;
    bool weights; // may differ between machines when the user allows it
};

#define MEMBER(k, m, w)                                                                            \
    {                                                                                              \
#m, k, offsetof(struct engine_identity, m), sizeof(((struct engine_identity *)0)->m), w    \
    }

// In the order in which a difference is reported: what explains the others comes first.
static const struct member members[] = {
    MEMBER(MEMBER_TEXT, engine, false),         MEMBER(MEMBER_TEXT, build, false),
    MEMBER(MEMBER_TEXT, arch, false),           MEMBER(MEMBER_U32, n_layer, false),
    MEMBER(MEMBER_U32, n_embd, false),          MEMBER(MEMBER_U32, n_head, false),
    MEMBER(MEMBER_U32, n_head_kv, false),       MEMBER(MEMBER_U32, n_swa, false),
    MEMBER(MEMBER_U32, n_vocab, false),         MEMBER(MEMBER_U32, n_ctx_train, false),
    MEMBER(MEMBER_HASH, tokenizer_hash, false), MEMBER(MEMBER_TEXT, type_k, false),
    MEMBER(MEMBER_TEXT, type_v, false),         MEMBER(MEMBER_U32, attention_layout, false),
    MEMBER(MEMBER_TEXT, model, true),           MEMBER(MEMBER_TEXT, weights, true),
    MEMBER(MEMBER_HASH, weights_hash, true),
};
#define N_MEMBERS (sizeof members / sizeof *members)

static const char *member_text(const struct engine_identity *id, const struct member *m)
{
    return (const char *)id + m->offset;
}

static uint64_t member_number(const struct engine_identity *id, const struct member *m)
{
    uint32_t u32;
    uint64_t u64;
    if (m->kind == MEMBER_U32) {
        memcpy(&u32, (const char *)id + m->offset, sizeof u32);
        return u32;
    }
    memcpy(&u64, (const char *)id + m->offset, sizeof u64);
    return u64;
}

static void member_show(const struct engine_identity *id, const struct member *m, char *out,
                        size_t out_bytes)
{
    if (m->kind == MEMBER_TEXT)
        snprintf(out, out_bytes, "\"%s\"", member_text(id, m));
    else
        snprintf(out, out_bytes, m->kind == MEMBER_HASH ? "%016" PRIx64 : "%" PRIu64,
                 member_number(id, m));
}

static bool member_equal(const struct engine_identity *a, const struct engine_identity *b,
                         const struct member *m)
{
    if (m->kind == MEMBER_TEXT)
        return strcmp(member_text(a, m), member_text(b, m)) == 0;
    return member_number(a, m) == member_number(b, m);
}

int engine_identity_compare(const struct engine_identity *a, const struct engine_identity *b,
                            bool same_weights, struct err *e)
{
    // The same bytes under another name are the same model: a name alone decides nothing.
    bool check_weights = same_weights && a->weights_hash != b->weights_hash;
    for (size_t i = 0; i < N_MEMBERS; i++) {
        const struct member *m = &members[i];
        if ((m->weights && !check_weights) || member_equal(a, b, m))
            continue;
        char va[ENGINE_NAME_BYTES + 3], vb[ENGINE_NAME_BYTES + 3];
        member_show(a, m, va, sizeof va);
        member_show(b, m, vb, sizeof vb);
        return err_set(e, ERR_MISMATCH, "the two models differ in %s: %s here, %s there", m->name,
                       va, vb);
    }
    return 0;
}

json_t *engine_identity_json(const struct engine_identity *id)
{
    json_t *o = json_object();
    for (size_t i = 0; i < N_MEMBERS; i++) {
        const struct member *m = &members[i];
        char hex[17];
        switch (m->kind) {
        case MEMBER_TEXT:
            json_put(o, m->name, json_string(member_text(id, m)));
            break;
        case MEMBER_U32:
            json_put(o, m->name, json_integer((json_int_t)member_number(id, m)));
            break;
        case MEMBER_HASH: // as text: a JSON number cannot hold 64 unsigned bits everywhere
            snprintf(hex, sizeof hex, "%016" PRIx64, member_number(id, m));
            json_put(o, m->name, json_string(hex));
            break;
        }
    }
    return o;
}

static int hash_parse(const json_t *object, const char *name, uint64_t *out, struct err *e)
{
    const char *hex = NULL;
    uint8_t bytes[8];
    int rc = json_get_string(object, name, &hex, e);
    if (rc != 0)
        return rc;
    if (hex == NULL || hex_decode(hex, bytes, sizeof bytes) != 0)
        return err_set(e, ERR_INVALID, "member \"%s\" must be 16 hex digits", name);
    *out = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        *out = *out << 8 | bytes[i];
    return 0;
}

static int member_parse(const json_t *object, const struct member *m, struct engine_identity *id,
                        struct err *e)
{
    char *at = (char *)id + m->offset;
    int64_t number = 0;
    int rc;
    if (m->kind == MEMBER_TEXT)
        return json_copy_string(object, m->name, at, m->bytes, e);
    if (m->kind == MEMBER_HASH) {
        uint64_t hash = 0;
        if ((rc = hash_parse(object, m->name, &hash, e)) == 0)
            memcpy(at, &hash, sizeof hash);
        return rc;
    }
    if ((rc = json_get_i64(object, m->name, 0, UINT32_MAX, &number, e)) == 0) {
        uint32_t u32 = (uint32_t)number;
        memcpy(at, &u32, sizeof u32);
    }
    return rc;
}

int engine_identity_parse(const json_t *object, struct engine_identity *id, struct err *e)
{
    *id = (struct engine_identity){0};
    if (!json_is_object(object))
        return err_set(e, ERR_INVALID, "\"identity\" must be an object");
    for (size_t i = 0; i < N_MEMBERS; i++) {
        if (json_member(object, members[i].name) == NULL)
            return err_set(e, ERR_INVALID, "identity lacks member \"%s\"", members[i].name);
        int rc = member_parse(object, &members[i], id, e);
        if (rc != 0) {
            err_wrap(e, "identity");
            return rc;
        }
    }
    return 0;
}
