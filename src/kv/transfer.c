#include "kv/hash.h"

#include "base/buf.h"

#include <stdlib.h>

// ---- receiving -------------------------------------------------------------------------------------

// Seven plain facts of one plan, all known together where this is called.
// NOLINTNEXTLINE(readability-function-size)
void kv_receive_init(struct kv_receive *r, uint64_t transfer, uint32_t epoch, const int32_t *tokens,
                     uint32_t p0, uint32_t n_tokens, uint32_t n_layers)
{
    *r = (struct kv_receive){
        .transfer = transfer,
        .epoch = epoch,
        .next_p0 = p0,
        .n_tokens = n_tokens,
        .n_layers = n_layers,
        .tokens = tokens,
        .hasher = kv_tokens_hasher_new(),
        .hashed = p0,
        .digest_state = kv_digest_new(),
    };
    kv_tokens_hasher_put(r->hasher, tokens, p0);
    r->digest = kv_digest_get(r->digest_state);
}

void kv_receive_fini(struct kv_receive *r)
{
    kv_tokens_hasher_free(r->hasher);
    if (r->digest_state)
        kv_digest_free(r->digest_state);
    *r = (struct kv_receive){0};
}

static int plan_check(const struct kv_receive *r, uint64_t transfer, uint32_t epoch, struct err *e)
{
    if (transfer != r->transfer)
        return err_set(e, ERR_MISMATCH, "for transfer %llu; this one is %llu",
                       (unsigned long long)transfer, (unsigned long long)r->transfer);
    if (epoch != r->epoch)
        return err_set(e, ERR_MISMATCH, "of epoch %u; the plan is at %u", epoch, r->epoch);
    if (r->complete)
        return err_set(e, ERR_CORRUPT, "after the end of its transfer");
    return 0;
}

static int range_check(const struct kv_receive *r, const struct kv_segment *s, struct err *e)
{
    if (s->index != r->next_index)
        return err_set(e, ERR_CORRUPT, "number %u where %u is due", s->index, r->next_index);
    if (s->p0 != r->next_p0 || s->p1 <= s->p0 || s->p1 > r->n_tokens)
        return err_set(e, ERR_CORRUPT, "of [%u, %u) where a part of [%u, %u) from its start is due",
                       s->p0, s->p1, r->next_p0, r->n_tokens);
    uint16_t flags = s->p1 == r->n_tokens ? KV_SEGMENT_LAST : 0;
    if (s->flags != flags)
        return err_set(e, ERR_CORRUPT, "with flags 0x%04x where 0x%04x is due", s->flags, flags);
    return 0;
}

// Whole ranges and tiles may alternate, but a range that tiles have begun is finished by tiles.
static int layer_check(const struct kv_receive *r, const struct kv_segment *s, struct err *e)
{
    if (s->layer == KV_ALL_LAYERS && r->next_layer == 0)
        return 0;
    if (s->layer != r->next_layer || s->layer >= r->n_layers)
        return err_set(e, ERR_CORRUPT, "of layer %u where layer %u of %u is due", s->layer,
                       r->next_layer, r->n_layers);
    if (s->layer > 0 && s->p1 != r->tile_p1)
        return err_set(e, ERR_CORRUPT, "tile to %u in a range that ends at %u", s->p1, r->tile_p1);
    return 0;
}

static int payload_check(const struct kv_segment *s, const void *payload, size_t n, struct err *e)
{
    if (s->codec != KV_CODEC_RAW || s->reserved)
        return err_set(e, ERR_UNSUPPORTED, "in codec %u, which is not known", s->codec);
    if (!n || s->raw_bytes != n)
        return err_set(e, ERR_CORRUPT, "of %zu bytes that says %llu", n,
                       (unsigned long long)s->raw_bytes);
    uint64_t hash = kv_hash(payload, n);
    if (hash != s->hash)
        return err_set(e, ERR_CORRUPT, "whose bytes hash to %016llx instead of %016llx",
                       (unsigned long long)hash, (unsigned long long)s->hash);
    return 0;
}

// The hash of our own token ids up to p1, from the state that has [0, hashed) in it. `moved` gets the
// state at p1, for keeping when the segment is accepted.
static int tokens_check(const struct kv_receive *r, const struct kv_segment *s,
                        struct kv_tokens_hasher *moved, struct err *e)
{
    kv_tokens_hasher_copy(moved, r->hasher);
    kv_tokens_hasher_put(moved, r->tokens + r->hashed, s->p1 - r->hashed);
    uint64_t hash = kv_tokens_hasher_get(moved);
    if (hash != s->tokens_hash)
        return err_set(e, ERR_MISMATCH,
                       "for other tokens: the ids before %u hash to %016llx here, to %016llx there",
                       s->p1, (unsigned long long)hash, (unsigned long long)s->tokens_hash);
    return 0;
}

static void segment_accept(struct kv_receive *r, const struct kv_segment *s,
                           struct kv_tokens_hasher *moved)
{
    r->next_index++;
    r->bytes += s->raw_bytes;
    kv_digest_put(r->digest_state, s->hash);
    r->digest = kv_digest_get(r->digest_state);
    r->tile_p1 = s->p1;
    if (s->layer != KV_ALL_LAYERS && s->layer + 1 < r->n_layers) {
        r->next_layer = s->layer + 1;
        return;
    }
    r->next_layer = 0;
    r->next_p0 = s->p1;
    r->hashed = s->p1;
    kv_tokens_hasher_copy(r->hasher, moved);
}

int kv_receive_segment(struct kv_receive *r, const struct kv_segment *s, const void *payload,
                       size_t n, struct err *e)
{
    struct kv_tokens_hasher *moved = NULL;
    int rc = plan_check(r, s->transfer, s->epoch, e);
    if (rc == 0)
        rc = range_check(r, s, e);
    if (rc == 0)
        rc = layer_check(r, s, e);
    if (rc == 0)
        rc = payload_check(s, payload, n, e);
    if (rc)
        goto out;
    moved = kv_tokens_hasher_new();
    rc = tokens_check(r, s, moved, e);
    if (rc == 0)
        segment_accept(r, s, moved);
out:
    kv_tokens_hasher_free(moved);
    if (rc)
        err_wrap(e, "segment");
    return rc;
}

static int end_check(const struct kv_receive *r, const struct kv_end *m, struct err *e)
{
    if (m->segments != r->next_index)
        return err_set(e, ERR_CORRUPT, "after %u segments; %u came", m->segments, r->next_index);
    if (m->tokens != r->n_tokens || r->next_p0 != r->n_tokens)
        return err_set(e, ERR_CORRUPT, "at token %u; %u of %u are in", m->tokens, r->next_p0,
                       r->n_tokens);
    if (m->bytes != r->bytes)
        return err_set(e, ERR_CORRUPT, "after %llu bytes; %llu came", (unsigned long long)m->bytes,
                       (unsigned long long)r->bytes);
    if (m->digest != r->digest)
        return err_set(e, ERR_CORRUPT, "with digest %016llx; it is %016llx here",
                       (unsigned long long)m->digest, (unsigned long long)r->digest);
    return 0;
}

int kv_receive_end(struct kv_receive *r, const struct kv_end *m, struct err *e)
{
    int rc = plan_check(r, m->transfer, m->epoch, e);
    if (rc == 0)
        rc = end_check(r, m, e);
    if (rc)
        err_wrap(e, "end marker");
    else
        r->complete = true;
    return rc;
}

// ---- sending ---------------------------------------------------------------------------------------

void kv_send_init(struct kv_send *s, uint64_t transfer, uint32_t epoch)
{
    *s = (struct kv_send){.end = {.transfer = transfer, .epoch = epoch},
                          .digest_state = kv_digest_new()};
}

void kv_send_fini(struct kv_send *s)
{
    if (s->digest_state)
        kv_digest_free(s->digest_state);
    *s = (struct kv_send){0};
}

void kv_send_segment(struct kv_send *s, struct kv_segment *seg, const void *payload, size_t n)
{
    seg->transfer = s->end.transfer;
    seg->epoch = s->end.epoch;
    seg->index = s->end.segments++;
    seg->raw_bytes = n;
    seg->hash = kv_hash(payload, n);
    s->end.bytes += n;
    kv_digest_put(s->digest_state, seg->hash);
}

struct kv_end kv_send_end(struct kv_send *s, uint32_t tokens)
{
    s->end.tokens = tokens;
    s->end.digest = kv_digest_get(s->digest_state);
    return s->end;
}
