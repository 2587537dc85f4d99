#include "kv/kv.h"

#include "base/buf.h"
#include "wire/wire.h"

// The link layer knows these as the head sizes of its SEGMENT, END and ACK frames.
static int size_check(const char *what, size_t n, size_t wanted, struct err *e)
{
    if (n == wanted)
        return 0;
    return err_set(e, ERR_CORRUPT, "%s of %zu bytes; it has %zu", what, n, wanted);
}

void kv_segment_encode(const struct kv_segment *s, uint8_t out[KV_SEGMENT_BYTES])
{
    le_put64(out, s->transfer);
    le_put32(out + 8, s->epoch);
    le_put32(out + 12, s->index);
    le_put32(out + 16, s->p0);
    le_put32(out + 20, s->p1);
    le_put32(out + 24, s->layer);
    out[28] = s->codec;
    out[29] = s->mode;
    le_put16(out + 30, s->flags);
    le_put64(out + 32, s->raw_bytes);
    le_put64(out + 40, s->hash);
    le_put64(out + 48, s->tokens_hash);
    le_put64(out + 56, s->reserved);
}

// What no segment may say, whatever transfer it belongs to.
static int segment_check(const struct kv_segment *s, struct err *e)
{
    if (s->p0 >= s->p1)
        return err_set(e, ERR_CORRUPT, "a segment of positions [%u, %u)", s->p0, s->p1);
    if (s->codec != KV_CODEC_RAW)
        return err_set(e, ERR_UNSUPPORTED, "a segment in codec %u, which is not known", s->codec);
    if (s->flags & ~KV_SEGMENT_LAST)
        return err_set(e, ERR_CORRUPT, "a segment with unknown flags 0x%04x", s->flags);
    if (s->reserved)
        return err_set(e, ERR_CORRUPT, "a segment with %llu in its reserved bytes",
                       (unsigned long long)s->reserved);
    if (!s->raw_bytes || s->raw_bytes > WIRE_SEGMENT_MAX)
        return err_set(e, ERR_RANGE, "a segment of %llu bytes; 1 to %u are allowed",
                       (unsigned long long)s->raw_bytes, WIRE_SEGMENT_MAX);
    return 0;
}

int kv_segment_decode(const void *in, size_t n, struct kv_segment *s, struct err *e)
{
    const uint8_t *b = in;
    int rc = size_check("a segment envelope", n, KV_SEGMENT_BYTES, e);
    if (rc)
        return rc;
    struct kv_segment got = {
        .transfer = le_get64(b),
        .epoch = le_get32(b + 8),
        .index = le_get32(b + 12),
        .p0 = le_get32(b + 16),
        .p1 = le_get32(b + 20),
        .layer = le_get32(b + 24),
        .codec = b[28],
        .mode = b[29],
        .flags = le_get16(b + 30),
        .raw_bytes = le_get64(b + 32),
        .hash = le_get64(b + 40),
        .tokens_hash = le_get64(b + 48),
        .reserved = le_get64(b + 56),
    };
    rc = segment_check(&got, e);
    if (rc == 0)
        *s = got;
    return rc;
}

void kv_end_encode(const struct kv_end *m, uint8_t out[KV_END_BYTES])
{
    le_put64(out, m->transfer);
    le_put32(out + 8, m->epoch);
    le_put32(out + 12, m->segments);
    le_put32(out + 16, m->tokens);
    le_put32(out + 20, m->reserved);
    le_put64(out + 24, m->bytes);
    le_put64(out + 32, m->digest);
}

int kv_end_decode(const void *in, size_t n, struct kv_end *m, struct err *e)
{
    const uint8_t *b = in;
    int rc = size_check("an end marker", n, KV_END_BYTES, e);
    if (rc)
        return rc;
    struct kv_end got = {
        .transfer = le_get64(b),
        .epoch = le_get32(b + 8),
        .segments = le_get32(b + 12),
        .tokens = le_get32(b + 16),
        .reserved = le_get32(b + 20),
        .bytes = le_get64(b + 24),
        .digest = le_get64(b + 32),
    };
    if (got.reserved)
        return err_set(e, ERR_CORRUPT, "an end marker with %u in its reserved bytes", got.reserved);
    *m = got;
    return 0;
}

void kv_ack_encode(const struct kv_ack *a, uint8_t out[KV_ACK_BYTES])
{
    le_put64(out, a->transfer);
    le_put32(out + 8, a->epoch);
    le_put32(out + 12, a->index);
    le_put32(out + 16, a->tokens);
    le_put32(out + 20, a->complete);
}

int kv_ack_decode(const void *in, size_t n, struct kv_ack *a, struct err *e)
{
    const uint8_t *b = in;
    int rc = size_check("an acknowledgement", n, KV_ACK_BYTES, e);
    if (rc)
        return rc;
    struct kv_ack got = {
        .transfer = le_get64(b),
        .epoch = le_get32(b + 8),
        .index = le_get32(b + 12),
        .tokens = le_get32(b + 16),
        .complete = le_get32(b + 20),
    };
    if (got.complete > 1)
        return err_set(e, ERR_CORRUPT, "an acknowledgement that is complete=%u", got.complete);
    *a = got;
    return 0;
}
