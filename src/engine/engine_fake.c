// See fake.h for what it is. Layout: keyed functions, sequences, steps, hand-off, opening.
// Text and sampling live in engine_fake_text.c.
#include "engine/fake.h"

#include "base/buf.h"
#include "base/clock.h"
#include "engine/engine_fake_model.h"
#include "engine/engine_fake_text.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOB_MAGIC 0x454b4146u // "FAKE"
#define BLOB_HEAD_BYTES 32
#define STATE_BYTES 64 // per layer

// A sequence: KV bytes layer-major within a token, a running hash per token, and the state.
struct fake_seq {
    uint8_t *kv;       // [n][layer][kv_bytes]
    uint64_t *running; // [n]: hash over all KV bytes of positions 0..i
    uint32_t n, cap;   // tokens
    uint8_t *state;    // [layer][STATE_BYTES] when the model is recurrent
    uint32_t staged;   // layers of the next range that came as tiles
    uint32_t staged_p1;
};

struct fake {
    struct engine base;
    struct fake_options o;
    struct fake_seq *seqs;
    uint64_t stepped; // tokens since loading
    float *logits;    // [row of the last step that wanted them][vocab]
    size_t logits_cap;
    size_t *logits_row; // [n_batch]: index into logits, or SIZE_MAX
    size_t n_rows;
    engine_tile_callback *tile;
    void *tile_ctx;
    uint8_t *tile_buf;
    struct fake_export {
        bool busy;
        uint32_t seq, p0, p1;
        bool state;
        uint8_t *buf;
        size_t len;
        int64_t ready_ns;
    } export;
    atomic_bool interrupted; // a flag alone: orders nothing, relaxed is enough
};

static struct fake *fake_of(struct engine *g)
{
    return (struct fake *)g;
}

// ---- keyed functions --------------------------------------------------------------------------

static uint64_t mix(uint64_t x)
{
    // splitmix64's finaliser (Steele, Lea, Flood 2014)
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill(uint8_t *out, size_t n, uint64_t key)
{
    uint8_t word[8];
    for (size_t i = 0; i < n; i += 8) {
        le_put64(word, mix(key + i));
        memcpy(out + i, word, n - i < 8 ? n - i : 8);
    }
}

static uint64_t fold(uint64_t hash, const uint8_t *data, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        hash = mix(hash ^ le_get64(data + i));
    for (; i < n; i++)
        hash = mix(hash ^ data[i]);
    return hash;
}

// ---- sequences ----------------------------------------------------------------------------------

static size_t token_bytes(const struct fake *f)
{
    return (size_t)f->o.layers * (size_t)f->o.kv_bytes;
}

static size_t state_bytes(const struct fake *f)
{
    return f->o.state != 0 ? (size_t)f->o.layers * STATE_BYTES : 0;
}

static uint8_t *kv_at(const struct fake *f, const struct fake_seq *s, uint32_t pos, int64_t layer)
{
    return s->kv + pos * token_bytes(f) + (size_t)layer * (size_t)f->o.kv_bytes;
}

static void seq_reserve(const struct fake *f, struct fake_seq *s, uint32_t n)
{
    if (n <= s->cap)
        return;
    uint32_t cap = s->cap * 2 > n ? s->cap * 2 : n;
    s->kv = mem_resize(s->kv, cap * token_bytes(f));
    s->running = mem_resize(s->running, cap * sizeof *s->running);
    s->cap = cap;
}

static uint64_t cells_used(const struct fake *f)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < f->base.limits.n_seq; i++)
        used += f->seqs[i].n;
    return used;
}

static int cells_check(const struct fake *f, uint64_t more, struct err *e)
{
    uint64_t used = cells_used(f);
    if (used + more > f->base.limits.n_ctx)
        return err_set(e, ERR_BUSY, "%llu more tokens do not fit: %llu of %u cells are in use",
                       (unsigned long long)more, (unsigned long long)used, f->base.limits.n_ctx);
    return 0;
}

static uint64_t running_before(const struct fake *f, const struct fake_seq *s, uint32_t pos)
{
    return pos == 0 ? mix((uint64_t)f->o.seed) : s->running[pos - 1];
}

// Brings the running hash up to date after the KV bytes of position pos were written.
static void running_update(const struct fake *f, struct fake_seq *s, uint32_t pos)
{
    s->running[pos] = fold(running_before(f, s, pos), kv_at(f, s, pos, 0), token_bytes(f));
}

static void seq_append(struct fake *f, struct fake_seq *s, int32_t token)
{
    uint32_t pos = s->n;
    seq_reserve(f, s, pos + 1);
    uint64_t below = running_before(f, s, pos);
    for (int64_t l = 0; l < f->o.layers; l++) {
        uint64_t key = mix(mix(mix(below ^ (uint64_t)f->o.seed) ^ (uint64_t)(uint32_t)token) ^
                           ((uint64_t)pos << 16) ^ (uint64_t)l);
        fill(kv_at(f, s, pos, l), (size_t)f->o.kv_bytes, key);
    }
    running_update(f, s, pos);
    if (f->o.state != 0)
        fill(s->state, state_bytes(f),
             fold(mix((uint64_t)(uint32_t)token), s->state, state_bytes(f)));
    s->n = pos + 1;
}

static void seq_clear(const struct fake *f, struct fake_seq *s)
{
    s->n = s->staged = 0;
    if (s->state != NULL)
        memset(s->state, 0, state_bytes(f));
}

// ---- steps --------------------------------------------------------------------------------------

// Waits like a machine at work; ERR_CANCELLED within a millisecond of an interrupt.
static int work(struct fake *f, int64_t us, struct err *e)
{
    int64_t until = clock_now_ns() + us * NS_PER_US;
    for (;;) {
        if (atomic_load_explicit(&f->interrupted, memory_order_relaxed))
            return err_set(e, ERR_CANCELLED, "the step was interrupted");
        int64_t now = us > 0 ? clock_now_ns() : until;
        if (now >= until)
            return 0;
        clock_sleep_until(until - now > NS_PER_MS ? now + NS_PER_MS : until);
    }
}

static int rows_check(const struct fake *f, const struct engine_row *rows, size_t n, struct err *e)
{
    if (n == 0 || n > f->base.limits.n_batch)
        return err_set(e, ERR_INVALID, "a step of %zu rows, must be 1 to %u", n,
                       f->base.limits.n_batch);
    for (size_t i = 0; i < n; i++) {
        const struct engine_row *r = &rows[i];
        if (r->seq >= f->base.limits.n_seq)
            return err_set(e, ERR_INVALID, "row %zu: sequence %u, there are %u", i, r->seq,
                           f->base.limits.n_seq);
        if (r->token < 0 || r->token >= f->o.vocab)
            return err_set(e, ERR_INVALID, "row %zu: token %d, there are %lld", i, r->token,
                           (long long)f->o.vocab);
        uint32_t next = f->seqs[r->seq].n;
        for (size_t j = 0; j < i; j++)
            next += rows[j].seq == r->seq;
        if (r->pos != next)
            return err_set(e, ERR_INVALID, "row %zu: position %u of sequence %u, next is %u", i,
                           r->pos, r->seq, next);
    }
    return cells_check(f, n, e);
}

static void misbehave(struct fake *f, size_t n)
{
    uint64_t from = f->stepped;
    f->stepped += n;
    if (f->o.crash_after > 0 && from < (uint64_t)f->o.crash_after &&
        f->stepped >= (uint64_t)f->o.crash_after)
        abort();
    while (f->o.hang_after > 0 && f->stepped >= (uint64_t)f->o.hang_after)
        pause();
}

static void logits_make(const struct fake *f, const struct fake_seq *s, float *out)
{
    uint64_t h = fold(running_before(f, s, s->n), s->state, state_bytes(f));
    for (int64_t t = 0; t < f->o.vocab; t++) {
        float unit = (float)(mix(h + (uint64_t)t) >> 40) / 16777216.0f;
        // Letters and blanks are likely, the end is a little less so (it wins about 1 in 200),
        // the rest never wins but at a high temperature.
        if ((t >= 'a' && t <= 'z') || t == ' ')
            unit = 20 + 4 * unit;
        else if (t == FAKE_TOKEN_END)
            unit = 20 + 3.7f * unit;
        out[t] = unit;
    }
}

static void tile_send(struct fake *f, const struct engine_row *rows, size_t n, int64_t layer)
{
    size_t half = (size_t)f->o.kv_bytes / 2;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *kv = kv_at(f, &f->seqs[rows[i].seq], rows[i].pos, layer);
        memcpy(f->tile_buf + i * half, kv, half);
        memcpy(f->tile_buf + (n + i) * half, kv + half, half);
    }
    f->tile(f->tile_ctx, (uint32_t)layer, f->tile_buf, 2 * n * half);
}

// Spends the step's time layer by layer when somebody wants tiles, at once otherwise.
static int step_wait(struct fake *f, const struct engine_row *rows, size_t n, struct err *e)
{
    int64_t us = 0;
    for (size_t i = 0; i < n; i++)
        us += rows[i].want_logits ? f->o.decode_us : f->o.prefill_us;
    if (f->tile == NULL)
        return work(f, us, e);
    for (int64_t l = 0; l < f->o.layers; l++) {
        int rc = work(f, us / f->o.layers, e);
        if (rc != 0)
            return rc;
        tile_send(f, rows, n, l);
    }
    return 0;
}

static void rows_append(struct fake *f, const struct engine_row *rows, size_t n)
{
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++)
        wanted += rows[i].want_logits;
    if (wanted > f->logits_cap) {
        f->logits = mem_resize(f->logits, wanted * (size_t)f->o.vocab * sizeof *f->logits);
        f->logits_cap = wanted;
    }
    wanted = 0;
    for (size_t i = 0; i < n; i++) {
        struct fake_seq *s = &f->seqs[rows[i].seq];
        seq_append(f, s, rows[i].token);
        f->logits_row[i] = rows[i].want_logits ? wanted : SIZE_MAX;
        if (rows[i].want_logits)
            logits_make(f, s, f->logits + wanted++ * (size_t)f->o.vocab);
    }
    f->n_rows = n;
}

// What a step that was interrupted half-way must not leave behind.
struct undo {
    uint32_t *n;    // [n_seq]
    uint8_t *state; // [n_seq][state_bytes]
};

static struct undo undo_new(const struct fake *f)
{
    struct undo u = {.n = mem_alloc(f->base.limits.n_seq * sizeof *u.n),
                     .state = mem_alloc(f->base.limits.n_seq * state_bytes(f) + 1)};
    for (uint32_t i = 0; i < f->base.limits.n_seq; i++) {
        u.n[i] = f->seqs[i].n;
        if (f->o.state != 0)
            memcpy(u.state + i * state_bytes(f), f->seqs[i].state, state_bytes(f));
    }
    return u;
}

static void undo_apply(struct fake *f, const struct undo *u)
{
    for (uint32_t i = 0; i < f->base.limits.n_seq; i++) {
        f->seqs[i].n = u->n[i];
        if (f->o.state != 0)
            memcpy(f->seqs[i].state, u->state + i * state_bytes(f), state_bytes(f));
    }
}

static int fake_step(struct engine *g, const struct engine_row *rows, size_t n, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = rows_check(f, rows, n, e);
    if (rc != 0)
        return rc;
    misbehave(f, n);
    struct undo u = undo_new(f);
    rows_append(f, rows, n);
    rc = step_wait(f, rows, n, e);
    if (rc != 0) {
        undo_apply(f, &u);
        f->n_rows = 0;
    }
    free(u.n);
    free(u.state);
    return rc;
}

static const float *fake_logits(struct engine *g, size_t row)
{
    struct fake *f = fake_of(g);
    if (row >= f->n_rows || f->logits_row[row] == SIZE_MAX)
        abort(); // a caller's mistake that a real engine would answer with garbage
    return f->logits + f->logits_row[row] * (size_t)f->o.vocab;
}

static int fake_remove(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e)
{
    struct fake *f = fake_of(g);
    if (seq >= g->limits.n_seq)
        return err_set(e, ERR_INVALID, "sequence %u, there are %u", seq, g->limits.n_seq);
    struct fake_seq *s = &f->seqs[seq];
    if (p0 >= s->n && p0 != 0)
        return 0;
    if (p1 < s->n)
        return err_set(e, ERR_UNSUPPORTED, "removing [%u, %u) of %u tokens would leave a gap", p0,
                       p1, s->n);
    if (f->o.state != 0 && p0 != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "the model is recurrent: its state cannot go back to token %u", p0);
    if (f->export.busy && f->export.seq == seq && f->export.p1 > p0)
        return err_set(e, ERR_BUSY, "tokens [%u, %u) are being exported", f->export.p0,
                       f->export.p1);
    s->n = p0;
    s->staged = 0;
    if (p0 == 0)
        seq_clear(f, s);
    return 0;
}

// ---- hand-off -----------------------------------------------------------------------------------
// A blob is a head, for each layer the K rows and then the V rows of the range, and the state where
// the mode wants it. All of it little-endian.

static bool state_goes(const struct fake *f, bool last)
{
    return f->o.state != 0 && (last || f->base.limits.handoff == ENGINE_HANDOFF_RANGES);
}

static size_t blob_bytes(const struct fake *f, uint32_t n_tokens, bool state)
{
    return BLOB_HEAD_BYTES + n_tokens * token_bytes(f) + (state ? state_bytes(f) : 0);
}

static void head_write(const struct fake *f, uint32_t p0, uint32_t p1, bool state, uint8_t *out)
{
    le_put32(out, BLOB_MAGIC);
    le_put32(out + 4, p1 - p0);
    le_put32(out + 8, p0);
    le_put32(out + 12, (uint32_t)f->o.layers);
    le_put32(out + 16, (uint32_t)f->o.kv_bytes);
    le_put32(out + 20, state ? (uint32_t)state_bytes(f) : 0);
    le_put64(out + 24, 0);
}

static void layer_write(const struct fake *f, const struct fake_seq *s, uint32_t p0, uint32_t p1,
                        int64_t layer, uint8_t *out)
{
    size_t half = (size_t)f->o.kv_bytes / 2, n = p1 - p0;
    for (uint32_t p = p0; p < p1; p++) {
        const uint8_t *kv = kv_at(f, s, p, layer);
        memcpy(out + (p - p0) * half, kv, half);
        memcpy(out + (n + p - p0) * half, kv + half, half);
    }
}

static void layer_read(const struct fake *f, struct fake_seq *s, uint32_t p0, uint32_t p1,
                       int64_t layer, const uint8_t *in)
{
    size_t half = (size_t)f->o.kv_bytes / 2, n = p1 - p0;
    for (uint32_t p = p0; p < p1; p++) {
        uint8_t *kv = kv_at(f, s, p, layer);
        memcpy(kv, in + (p - p0) * half, half);
        memcpy(kv + half, in + (n + p - p0) * half, half);
    }
}

static int range_check(const struct fake *f, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                       struct err *e)
{
    const struct engine_limits *l = &f->base.limits;
    if (l->handoff == ENGINE_HANDOFF_NONE)
        return err_set(e, ERR_UNSUPPORTED, "hand-off is turned off for this model");
    if (seq >= l->n_seq || p0 >= p1 || p1 > l->n_ctx)
        return err_set(e, ERR_INVALID, "no range: [%u, %u) of sequence %u", p0, p1, seq);
    if (l->handoff == ENGINE_HANDOFF_WHOLE && (p0 != 0 || !last))
        return err_set(e, ERR_UNSUPPORTED, "only the whole state can be handed over, not [%u, %u)",
                       p0, p1);
    return 0;
}

static size_t fake_export_bytes(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last)
{
    struct fake *f = fake_of(g);
    (void)seq;
    return p1 > p0 ? blob_bytes(f, p1 - p0, state_goes(f, last)) : 0;
}

static int fake_export_start(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                             void *buf, size_t cap, struct err *e)
{
    struct fake *f = fake_of(g);
    bool state = state_goes(f, last);
    int rc = range_check(f, seq, p0, p1, last, e);
    if (rc != 0)
        return rc;
    if (f->export.busy)
        return err_set(e, ERR_BUSY, "an export is in progress");
    const struct fake_seq *s = &f->seqs[seq];
    if (p1 > s->n || (state && p1 != s->n))
        return err_set(e, ERR_INVALID, "cannot export [%u, %u): the sequence holds %u tokens", p0,
                       p1, s->n);
    size_t len = blob_bytes(f, p1 - p0, state);
    if (cap < len)
        return err_set(e, ERR_RANGE, "export of %zu bytes into a buffer of %zu", len, cap);
    f->export = (struct fake_export){.busy = true,
                                     .seq = seq,
                                     .p0 = p0,
                                     .p1 = p1,
                                     .state = state,
                                     .buf = buf,
                                     .len = len,
                                     .ready_ns = clock_now_ns() + f->o.export_us * NS_PER_US};
    memset(buf, 0xee, len); // a reader that does not wait for DONE shall notice
    if (state)              // the state moves on with the next step; the KV of the range does not
        memcpy(f->export.buf + len - state_bytes(f), s->state, state_bytes(f));
    return 0;
}

static int fake_export_poll(struct engine *g, size_t *len, struct err *e)
{
    struct fake *f = fake_of(g);
    struct fake_export *x = &f->export;
    if (!x->busy)
        return err_set(e, ERR_INVALID, "no export is in progress");
    if (clock_now_ns() < x->ready_ns)
        return ENGINE_EXPORT_BUSY;
    const struct fake_seq *s = &f->seqs[x->seq];
    head_write(f, x->p0, x->p1, x->state, x->buf);
    size_t layer_bytes = (x->p1 - x->p0) * (size_t)f->o.kv_bytes;
    for (int64_t l = 0; l < f->o.layers; l++)
        layer_write(f, s, x->p0, x->p1, l, x->buf + BLOB_HEAD_BYTES + (size_t)l * layer_bytes);
    *len = x->len;
    x->busy = false;
    return ENGINE_EXPORT_DONE;
}

static int head_check(const struct fake *f, uint32_t p0, uint32_t p1, bool state, const uint8_t *in,
                      struct err *e)
{
    static const char *const names[] = {"magic",  "tokens",   "position",
                                        "layers", "kv_bytes", "state_bytes"};
    uint8_t want[BLOB_HEAD_BYTES];
    head_write(f, p0, p1, state, want);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint32_t got = le_get32(in + 4 * i), expected = le_get32(want + 4 * i);
        if (got != expected)
            return err_set(e, i == 3 || i == 4 ? ERR_MISMATCH : ERR_CORRUPT,
                           "segment says %s %u, expected %u", names[i], got, expected);
    }
    if (le_get64(in + 24) != 0)
        return err_set(e, ERR_CORRUPT, "segment has reserved bytes set");
    return 0;
}

static int append_check(const struct fake *f, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e)
{
    const struct fake_seq *s = &f->seqs[seq];
    if (s->n != p0)
        return err_set(e, ERR_INVALID, "import of [%u, %u): the sequence holds %u tokens", p0, p1,
                       s->n);
    return cells_check(f, p1 - p0, e);
}

static void range_commit(const struct fake *f, struct fake_seq *s, uint32_t p1)
{
    for (uint32_t p = s->n; p < p1; p++)
        running_update(f, s, p);
    s->n = p1;
    s->staged = 0;
}

static int fake_import(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                       const void *data, size_t len, struct err *e)
{
    struct fake *f = fake_of(g);
    bool state = state_goes(f, last);
    int rc = range_check(f, seq, p0, p1, last, e);
    if (rc != 0 || (rc = append_check(f, seq, p0, p1, e)) != 0)
        return rc;
    size_t want = blob_bytes(f, p1 - p0, state);
    if (len != want)
        return err_set(e, ERR_CORRUPT, "segment of %zu bytes, [%u, %u) takes %zu", len, p0, p1,
                       want);
    if ((rc = head_check(f, p0, p1, state, data, e)) != 0)
        return rc;
    struct fake_seq *s = &f->seqs[seq];
    const uint8_t *in = (const uint8_t *)data + BLOB_HEAD_BYTES;
    seq_reserve(f, s, p1);
    for (int64_t l = 0; l < f->o.layers; l++)
        layer_read(f, s, p0, p1, l, in + (size_t)l * (p1 - p0) * (size_t)f->o.kv_bytes);
    range_commit(f, s, p1);
    if (state)
        memcpy(s->state, in + (p1 - p0) * token_bytes(f), state_bytes(f));
    return 0;
}

static int fake_tiles_set(struct engine *g, engine_tile_callback *callback, void *ctx)
{
    struct fake *f = fake_of(g);
    if (f->o.state != 0)
        return ERR_UNSUPPORTED;
    f->tile = callback;
    f->tile_ctx = ctx;
    return 0;
}

static int fake_import_tile(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1,
                            uint32_t layer, const void *data, size_t len, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = range_check(f, seq, p0, p1, false, e);
    if (rc != 0 || (rc = append_check(f, seq, p0, p1, e)) != 0)
        return rc;
    struct fake_seq *s = &f->seqs[seq];
    if (layer != s->staged || layer >= f->o.layers || (layer > 0 && p1 != s->staged_p1))
        return err_set(e, ERR_CORRUPT, "tile of layer %u up to %u, expected layer %u", layer, p1,
                       s->staged);
    if (len != (p1 - p0) * (size_t)f->o.kv_bytes)
        return err_set(e, ERR_CORRUPT, "tile of %zu bytes, [%u, %u) takes %zu", len, p0, p1,
                       (p1 - p0) * (size_t)f->o.kv_bytes);
    seq_reserve(f, s, p1);
    layer_read(f, s, p0, p1, layer, data);
    s->staged_p1 = p1;
    if (++s->staged == f->o.layers)
        range_commit(f, s, p1);
    return 0;
}

// ---- control ------------------------------------------------------------------------------------

static void fake_interrupt(struct engine *g, bool on)
{
    atomic_store_explicit(&fake_of(g)->interrupted, on, memory_order_relaxed);
}

static void fake_free(struct engine *g)
{
    struct fake *f = fake_of(g);
    for (uint32_t i = 0; i < g->limits.n_seq; i++) {
        free(f->seqs[i].kv);
        free(f->seqs[i].running);
        free(f->seqs[i].state);
    }
    free(f->seqs);
    free(f->logits);
    free(f->logits_row);
    free(f->tile_buf);
    free(f);
}

static const struct engine_ops fake_ops = {
    .name = "fake",
    .free = fake_free,
    .step = fake_step,
    .logits = fake_logits,
    .remove = fake_remove,
    .export_bytes = fake_export_bytes,
    .export_start = fake_export_start,
    .export_poll = fake_export_poll,
    .import = fake_import,
    .tiles_set = fake_tiles_set,
    .import_tile = fake_import_tile,
    .tokenize = fake_tokenize,
    .piece = fake_piece,
    .is_end = fake_is_end,
    .render = fake_render,
    .sampler_new = fake_sampler_new,
    .sampler_free = fake_sampler_free,
    .sampler_accept = fake_sampler_accept,
    .sample = fake_sample,
    .interrupt = fake_interrupt,
};

// ---- opening ------------------------------------------------------------------------------------

static void identity_fill(const struct fake *f, const struct engine_options *o,
                          struct engine_identity *id)
{
    *id = (struct engine_identity){
        .engine = "fake",
        .build = "fake 1",
        .arch = "fake",
        .n_vocab = (uint32_t)f->o.vocab,
        .n_layer = (uint32_t)f->o.layers,
        .n_embd = (uint32_t)f->o.kv_bytes,
        .n_head = 1,
        .n_head_kv = 1,
        .n_ctx_train = 1u << 20,
        .tokenizer_hash = mix((uint64_t)f->o.vocab),
        .attention_layout = f->o.state != 0 ? 1u | 2u : 1u,
    };
    snprintf(id->model, sizeof id->model, "%s", f->o.name);
    snprintf(id->weights, sizeof id->weights, "seed-%lld", (long long)f->o.seed);
    id->weights_hash =
        fold(mix((uint64_t)f->o.seed), (const uint8_t *)id->model, strlen(id->model));
    snprintf(id->type_k, sizeof id->type_k, "%s", o->type_k != NULL ? o->type_k : "f16");
    snprintf(id->type_v, sizeof id->type_v, "%s", o->type_v != NULL ? o->type_v : "f16");
}

static void limits_fill(const struct fake *f, const struct engine_options *o,
                        struct engine_limits *l)
{
    *l = (struct engine_limits){
        .n_ctx = o->n_ctx != 0 ? o->n_ctx : 8192,
        .n_seq = o->n_seq != 0 ? o->n_seq : 1,
        .n_batch = o->n_batch != 0 ? o->n_batch : 512,
        .handoff = o->handoff,
        .kv_bytes_per_token = (double)token_bytes(f),
        .state_bytes = state_bytes(f),
        .has_tokenizer = true,
        .has_chat_template = true,
    };
}

int engine_fake_open(const struct engine_options *o, struct engine **out, struct err *e)
{
    struct fake *f = mem_alloc(sizeof *f);
    int rc = fake_model_parse(o->model, &f->o, e);
    if (rc != 0) {
        free(f);
        return rc;
    }
    f->base.ops = &fake_ops;
    identity_fill(f, o, &f->base.identity);
    limits_fill(f, o, &f->base.limits);
    const struct engine_limits *l = &f->base.limits;
    f->seqs = mem_alloc(l->n_seq * sizeof *f->seqs);
    f->logits_row = mem_alloc(l->n_batch * sizeof *f->logits_row);
    f->tile_buf = mem_alloc(l->n_batch * (size_t)f->o.kv_bytes);
    for (uint32_t i = 0; i < l->n_seq; i++)
        f->seqs[i].state = f->o.state != 0 ? mem_alloc(state_bytes(f)) : NULL;
    if (o->progress != NULL)
        o->progress(o->progress_ctx, 1.0);
    *out = &f->base;
    return 0;
}
