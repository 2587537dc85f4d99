// What the fake engine does with a sequence beside computing it: forks and checkpoints. And embeddings.
#include "engine/engine_fake_impl.h"

#include "base/buf.h"
#include "engine/fake.h"

#include <math.h>
#include <string.h>

#define CHECKPOINT_HEAD_BYTES 8      // magic u32, tokens u32
#define CHECKPOINT_MAGIC 0x4b504843u // "CHPK"

static struct fake *fake_of(struct engine *g)
{
    return (struct fake *)g;
}

static int seq_check(const struct fake *f, uint32_t seq, struct err *e)
{
    if (seq >= f->base.limits.n_seq)
        return err_set(e, ERR_INVALID, "sequence %u, there are %u", seq, f->base.limits.n_seq);
    return 0;
}

// ---- forks --------------------------------------------------------------------------------------

static int fork_check(const struct fake *f, uint32_t src, uint32_t dst, uint32_t p1, struct err *e)
{
    int rc = seq_check(f, src, e);
    if (rc != 0 || (rc = seq_check(f, dst, e)) != 0)
        return rc;
    const struct fake_seq *from = &f->seqs[src];
    if (src == dst || f->seqs[dst].n != 0)
        return err_set(e, ERR_INVALID, "fork of sequence %u into %u, which is not empty", src, dst);
    if (p1 > from->n)
        return err_set(e, ERR_INVALID, "fork of [0, %u): sequence %u holds %u tokens", p1, src,
                       from->n);
    if (f->o.state != 0 && p1 != 0 && p1 != from->n)
        return err_set(e, ERR_UNSUPPORTED,
                       "the model is recurrent: its state after %u tokens is not that after %u",
                       from->n, p1);
    return fake_cells_check(f, p1, e);
}

int fake_fork(struct engine *g, uint32_t src, uint32_t dst, uint32_t p1, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = fork_check(f, src, dst, p1, e);
    if (rc != 0 || p1 == 0)
        return rc;
    const struct fake_seq *from = &f->seqs[src];
    struct fake_seq *to = &f->seqs[dst];
    fake_seq_reserve(f, to, p1);
    memcpy(to->kv, from->kv, p1 * fake_token_bytes(f));
    memcpy(to->running, from->running, p1 * sizeof *to->running);
    if (f->o.state != 0)
        memcpy(to->state, from->state, fake_state_bytes(f));
    to->n = p1;
    to->staged = 0;
    return 0;
}

// ---- living apart ---------------------------------------------------------------------------------

int fake_settle(struct engine *g, uint32_t seq, uint32_t upto, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = seq_check(f, seq, e);
    if (rc == 0 && f->seqs[seq].n <= upto)
        f->seqs[seq].settled = true;
    return rc;
}

int fake_rejoin(struct engine *g, uint32_t seq, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = seq_check(f, seq, e);
    if (rc == 0)
        f->seqs[seq].settled = false;
    return rc;
}

bool fake_settled(const struct engine *g, uint32_t seq)
{
    return seq < g->limits.n_seq && ((const struct fake *)g)->seqs[seq].settled;
}

// ---- checkpoints --------------------------------------------------------------------------------

size_t fake_checkpoint_bytes(struct engine *g, uint32_t seq)
{
    struct fake *f = fake_of(g);
    if (seq >= g->limits.n_seq || f->o.state == 0)
        return 0;
    return CHECKPOINT_HEAD_BYTES + fake_state_bytes(f);
}

int fake_checkpoint_save(struct engine *g, uint32_t seq, void *buf, size_t cap, size_t *len,
                         struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = seq_check(f, seq, e);
    size_t bytes = fake_checkpoint_bytes(g, seq);
    if (rc != 0)
        return rc;
    if (cap < bytes)
        return err_set(e, ERR_RANGE, "a checkpoint of %zu bytes into a buffer of %zu", bytes, cap);
    *len = bytes;
    if (bytes == 0)
        return 0;
    uint8_t *out = buf;
    le_put32(out, CHECKPOINT_MAGIC);
    le_put32(out + 4, f->seqs[seq].n);
    memcpy(out + CHECKPOINT_HEAD_BYTES, f->seqs[seq].state, fake_state_bytes(f));
    return 0;
}

int fake_checkpoint_restore(struct engine *g, uint32_t seq, uint32_t p, const void *data,
                            size_t len, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = seq_check(f, seq, e);
    if (rc != 0)
        return rc;
    struct fake_seq *s = &f->seqs[seq];
    if (p == 0 || p > s->n)
        return err_set(e, ERR_INVALID, "a checkpoint at %u: sequence %u holds %u tokens", p, seq,
                       s->n);
    if (f->o.state == 0)
        return g->ops->remove(g, seq, p, UINT32_MAX, e);
    const uint8_t *in = data;
    if (len != fake_checkpoint_bytes(g, seq) || le_get32(in) != CHECKPOINT_MAGIC ||
        le_get32(in + 4) != p)
        return err_set(e, ERR_INVALID, "%zu bytes that are no checkpoint at %u", len, p);
    memcpy(s->state, in + CHECKPOINT_HEAD_BYTES, fake_state_bytes(f));
    s->n = p;
    s->staged = 0;
    return 0;
}

// ---- embeddings ---------------------------------------------------------------------------------

// Every pair of neighbours adds its own direction, so that texts that share words are near each other.
static void direction_add(const struct fake *f, int32_t before, int32_t token, float *out)
{
    uint64_t key = fake_mix((uint64_t)f->o.seed ^ ((uint64_t)(uint32_t)before << 32) ^
                            (uint64_t)(uint32_t)token);
    for (uint32_t i = 0; i < f->base.identity.n_embd; i++)
        out[i] += (float)(int32_t)(uint32_t)fake_mix(key + i) / 2147483648.0f;
}

static void normalise(float *v, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    for (uint32_t i = 0; i < n && sum > 0; i++)
        v[i] = (float)((double)v[i] / sqrt(sum));
}

static float score(const struct fake *f, const int32_t *tokens, size_t n)
{
    uint64_t h = fake_mix((uint64_t)f->o.seed);
    for (size_t i = 0; i < n; i++)
        h = fake_mix(h ^ (uint64_t)(uint32_t)tokens[i]);
    return (float)(h >> 40) / 16777216.0f;
}

static int embed_check(const struct fake *f, const int32_t *tokens, size_t n, struct err *e)
{
    if (f->o.embed == 0)
        return err_set(e, ERR_UNSUPPORTED, "model '%s' makes no embeddings", f->o.name);
    if (n == 0 || n > (uint64_t)f->o.embed)
        return err_set(e, ERR_INVALID, "an embedding of %zu tokens; 1 to %lld are possible", n,
                       (long long)f->o.embed);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= f->o.vocab)
            return err_set(e, ERR_INVALID, "token %d at %zu, there are %lld", tokens[i], i,
                           (long long)f->o.vocab);
    return 0;
}

int fake_embed(struct engine *g, const int32_t *tokens, size_t n, float *out, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = embed_check(f, tokens, n, e);
    if (rc != 0 || (rc = fake_work(f, (int64_t)n * f->o.prefill_us, e)) != 0)
        return rc;
    if (g->limits.ranks) {
        *out = score(f, tokens, n);
        return 0;
    }
    memset(out, 0, g->identity.n_embd * sizeof *out);
    for (size_t i = 0; i < n; i++)
        direction_add(f, i > 0 ? tokens[i - 1] : FAKE_TOKEN_BEGIN, tokens[i], out);
    normalise(out, g->identity.n_embd);
    return 0;
}
