// Envelopes of any bytes: refused with words, or decoded to what encodes to the same bytes. And no
// segment or end marker of any bytes is accepted by a transfer that expects something else.
#include "base/buf.h"
#include "kv/kv.h"

#include <stdio.h>
#include <stdlib.h>

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_kv: %s\n", what);
    abort();
}

static const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};

// A transfer of the tokens above accepts exactly what carries the right hashes.
static void receive(const struct kv_segment *s, const uint8_t *payload, size_t n)
{
    struct kv_receive r;
    struct err e = {0};
    kv_receive_init(&r, 7, 1, tokens, 0, 8, 2);
    int rc = kv_receive_segment(&r, s, payload, n, &e);
    if (rc == 0)
        check(s->transfer == 7 && s->epoch == 1 && s->index == 0 && s->p0 == 0 && s->p1 <= 8 &&
                  s->raw_bytes == n && s->hash == kv_hash(payload, n) &&
                  s->tokens_hash == kv_tokens_hash(tokens, s->p1),
              "a wrong segment was accepted");
    else
        check(e.message[0] && r.next_index == 0 && r.next_p0 == 0, "a refused segment left traces");
    kv_receive_fini(&r);
}

static void segment(const uint8_t *data, size_t n)
{
    struct kv_segment s;
    struct err e = {0};
    uint8_t out[KV_SEGMENT_BYTES];
    size_t head = n < KV_SEGMENT_BYTES ? n : KV_SEGMENT_BYTES;
    if (kv_segment_decode(data, head, &s, &e)) {
        check(e.message[0], "no words");
        return;
    }
    kv_segment_encode(&s, out);
    check(memcmp(out, data, sizeof out) == 0, "another segment");
    receive(&s, data + head, n - head);
    s.hash = kv_hash(data + head, n - head); // past the hashes, the rest is judged
    s.tokens_hash = kv_tokens_hash(tokens, s.p1 < 8 ? s.p1 : 8);
    receive(&s, data + head, n - head);
}

static void end(const uint8_t *data, size_t n)
{
    struct kv_end m;
    struct kv_receive r;
    struct err e = {0};
    uint8_t out[KV_END_BYTES];
    if (kv_end_decode(data, n, &m, &e)) {
        check(e.message[0], "no words");
        return;
    }
    kv_end_encode(&m, out);
    check(memcmp(out, data, sizeof out) == 0, "another end marker");
    kv_receive_init(&r, 7, 1, tokens, 0, 8, 2);
    check(kv_receive_end(&r, &m, &e) != 0 && e.message[0], "an early end was accepted");
    kv_receive_fini(&r);
}

static void ack(const uint8_t *data, size_t n)
{
    struct kv_ack a;
    struct err e = {0};
    uint8_t out[KV_ACK_BYTES];
    if (kv_ack_decode(data, n, &a, &e)) {
        check(e.message[0], "no words");
        return;
    }
    kv_ack_encode(&a, out);
    check(memcmp(out, data, sizeof out) == 0, "another acknowledgement");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

// The first byte says what the rest is.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (!n)
        return 0;
    if (data[0] % 3 == 0)
        segment(data + 1, n - 1);
    else if (data[0] % 3 == 1)
        end(data + 1, n - 1);
    else
        ack(data + 1, n - 1);
    return 0;
}
