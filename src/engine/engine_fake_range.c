// How the fake engine hands over: ranges as blobs, single layers as tiles.
#include "engine/engine_fake_impl.h"

#include "base/buf.h"
#include "base/clock.h"

#include <string.h>

#define BLOB_MAGIC 0x454b4146u // "FAKE"
#define BLOB_HEAD_BYTES 32

static struct fake *fake_of(struct engine *g)
{
    return (struct fake *)g;
}

// A blob is a head, for each layer the K rows and then the V rows of the range, and the state where
// the mode wants it. All of it little-endian.

static bool state_goes(const struct fake *f, bool last)
{
    return f->o.state != 0 && (last || f->base.limits.handoff == ENGINE_HANDOFF_RANGES);
}

static size_t blob_bytes(const struct fake *f, uint32_t n_tokens, bool state)
{
    return BLOB_HEAD_BYTES + n_tokens * fake_token_bytes(f) + (state ? fake_state_bytes(f) : 0);
}

static void head_write(const struct fake *f, uint32_t p0, uint32_t p1, bool state, uint8_t *out)
{
    le_put32(out, BLOB_MAGIC);
    le_put32(out + 4, p1 - p0);
    le_put32(out + 8, p0);
    le_put32(out + 12, (uint32_t)f->o.layers);
    le_put32(out + 16, (uint32_t)f->o.kv_bytes);
    le_put32(out + 20, state ? (uint32_t)fake_state_bytes(f) : 0);
    le_put64(out + 24, 0);
}

static void layer_write(const struct fake *f, const struct fake_seq *s, uint32_t p0, uint32_t p1,
                        int64_t layer, uint8_t *out)
{
    size_t half = (size_t)f->o.kv_bytes / 2, n = p1 - p0;
    for (uint32_t p = p0; p < p1; p++) {
        const uint8_t *kv = fake_kv_at(f, s, p, layer);
        memcpy(out + (p - p0) * half, kv, half);
        memcpy(out + (n + p - p0) * half, kv + half, half);
    }
}

static void layer_read(const struct fake *f, struct fake_seq *s, uint32_t p0, uint32_t p1,
                       int64_t layer, const uint8_t *in)
{
    size_t half = (size_t)f->o.kv_bytes / 2, n = p1 - p0;
    for (uint32_t p = p0; p < p1; p++) {
        uint8_t *kv = fake_kv_at(f, s, p, layer);
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

size_t fake_export_bytes(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last)
{
    struct fake *f = fake_of(g);
    (void)seq;
    return p1 > p0 ? blob_bytes(f, p1 - p0, state_goes(f, last)) : 0;
}

int fake_export_start(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
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
        memcpy(f->export.buf + len - fake_state_bytes(f), s->state, fake_state_bytes(f));
    return 0;
}

int fake_export_poll(struct engine *g, size_t *len, struct err *e)
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
    return fake_cells_check(f, p1 - p0, e);
}

static void range_commit(const struct fake *f, struct fake_seq *s, uint32_t p1)
{
    for (uint32_t p = s->n; p < p1; p++)
        fake_running_update(f, s, p);
    s->n = p1;
    s->staged = 0;
}

int fake_import(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
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
    fake_seq_reserve(f, s, p1);
    for (int64_t l = 0; l < f->o.layers; l++)
        layer_read(f, s, p0, p1, l, in + (size_t)l * (p1 - p0) * (size_t)f->o.kv_bytes);
    range_commit(f, s, p1);
    if (state)
        memcpy(s->state, in + (p1 - p0) * fake_token_bytes(f), fake_state_bytes(f));
    return 0;
}

int fake_import_tile(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, uint32_t layer,
                     const void *data, size_t len, struct err *e)
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
    fake_seq_reserve(f, s, p1);
    layer_read(f, s, p0, p1, layer, data);
    s->staged_p1 = p1;
    if (++s->staged == f->o.layers)
        range_commit(f, s, p1);
    return 0;
}
