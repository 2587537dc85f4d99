// The bytes on the wire. These tables are the format: a change here breaks every machine that has not
// been updated, and needs a new WIRE_VERSION. docs/wire.md explains each byte.
#include "base/buf.h"
#include "kv/kv.h"
#include "wire/wire.h"

#include <setjmp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void hex_check(const void *data, size_t n, const char *wanted)
{
    char *hex = mem_alloc(2 * n + 1);
    hex_encode(data, n, hex);
    assert_string_equal(hex, wanted);
    free(hex);
}

static void test_header(void **state)
{
    (void)state;
    struct wire_header h = {.type = WIRE_SEGMENT,
                            .flags = 0,
                            .id = 0x1122334455667788u,
                            .head_bytes = 64,
                            .body_bytes = 0x0badcafe};
    uint8_t bytes[WIRE_HEADER_BYTES];
    wire_header_encode(&h, bytes);
    hex_check(bytes, sizeof bytes,
              "54444d31"         // magic, "TDM1"
              "4100"             // type 65
              "0000"             // flags
              "8877665544332211" // id
              "40000000"         // head
              "fecaad0b");       // body
}

static void test_segment(void **state)
{
    (void)state;
    struct kv_segment s = {.transfer = 0x0102030405060708u,
                           .epoch = 0x11121314,
                           .index = 0x21222324,
                           .p0 = 0x31323334,
                           .p1 = 0x41424344,
                           .layer = KV_ALL_LAYERS,
                           .codec = KV_CODEC_RAW,
                           .mode = 3,
                           .flags = KV_SEGMENT_LAST,
                           .raw_bytes = 0x12345678,
                           .hash = 0xa1a2a3a4a5a6a7a8u,
                           .tokens_hash = 0xb1b2b3b4b5b6b7b8u};
    uint8_t bytes[KV_SEGMENT_BYTES];
    kv_segment_encode(&s, bytes);
    hex_check(bytes, sizeof bytes,
              "0807060504030201" // transfer
              "14131211"         // epoch
              "24232221"         // index
              "34333231"         // p0
              "44434241"         // p1
              "ffffffff"         // layer: all
              "00"               // codec
              "03"               // mode
              "0100"             // flags: last
              "7856341200000000" // raw_bytes
              "a8a7a6a5a4a3a2a1" // hash
              "b8b7b6b5b4b3b2b1" // tokens_hash
              "0000000000000000");
}

static void test_end(void **state)
{
    (void)state;
    struct kv_end m = {.transfer = 0x0102030405060708u,
                       .epoch = 0x11121314,
                       .segments = 0x21222324,
                       .tokens = 0x31323334,
                       .bytes = 0xc1c2c3c4c5c6c7c8u,
                       .digest = 0xd1d2d3d4d5d6d7d8u};
    uint8_t bytes[KV_END_BYTES];
    kv_end_encode(&m, bytes);
    hex_check(bytes, sizeof bytes,
              "0807060504030201" // transfer
              "14131211"         // epoch
              "24232221"         // segments
              "34333231"         // tokens
              "00000000"         // reserved
              "c8c7c6c5c4c3c2c1" // bytes
              "d8d7d6d5d4d3d2d1");
}

static void test_ack(void **state)
{
    (void)state;
    struct kv_ack a = {.transfer = 0x0102030405060708u,
                       .epoch = 0x11121314,
                       .index = 0x21222324,
                       .tokens = 0x31323334,
                       .complete = 1};
    uint8_t bytes[KV_ACK_BYTES];
    kv_ack_encode(&a, bytes);
    hex_check(bytes, sizeof bytes,
              "0807060504030201" // transfer
              "14131211"         // epoch
              "24232221"         // index
              "34333231"         // tokens
              "01000000");       // complete
}

// The hashes are part of the format too. Reference values from xxHash's own XXH3_64bits.
static void test_hashes(void **state)
{
    (void)state;
    static const int32_t tokens[] = {1, 2, 3, -1, 49151};
    static const uint8_t bytes[] = {0, 0, 0, 0, 0, 0,    0, 0,    1,    0,    0,
                                    0, 2, 0, 0, 0, 0xff, 0, 0xfe, 0x80, 0x7f, 9};
    assert_true(kv_hash("", 0) == 0x2d06800538d394c2u);
    assert_true(kv_hash(bytes, sizeof bytes) == 0xd4971b4a433a25adu);
    assert_true(kv_tokens_hash(tokens, 5) == 0x504c056568b86379u);
    assert_true(kv_hash("\x01\0\0\0\x02\0\0\0\x03\0\0\0\xff\xff\xff\xff\xff\xbf\0\0", 20) ==
                kv_tokens_hash(tokens, 5));
}

// A transfer of two segments as its sender makes it: the end marker's digest.
static void test_transfer(void **state)
{
    (void)state;
    struct kv_send send;
    struct kv_segment s = {.p0 = 0, .p1 = 1, .layer = KV_ALL_LAYERS};
    kv_send_init(&send, 1, 1);
    kv_send_segment(&send, &s, "first", 5);
    assert_true(s.index == 0 && s.hash == kv_hash("first", 5) && s.raw_bytes == 5);
    kv_send_segment(&send, &s, "second", 6);
    struct kv_end end = kv_send_end(&send, 2);
    uint8_t bytes[KV_END_BYTES];
    kv_end_encode(&end, bytes);
    hex_check(bytes, sizeof bytes,
              "0100000000000000010000000200000002000000000000000b00000000000000"
              "a9597496e7a3968e");
    kv_send_fini(&send);
}

// Whole frames as they leave a connection without TLS.
static void test_frames(void **state)
{
    (void)state;
    static const int32_t tokens[] = {7, -2};
    struct kv_ack a = {.transfer = 5, .epoch = 1, .index = 2, .tokens = 512};
    uint8_t ack[KV_ACK_BYTES];
    kv_ack_encode(&a, ack);
    json_t *head = json_pack("{s:s}", "ticket", "00");
    const struct {
        struct wire_frame frame;
        const char *hex;
    } cases[] = {
        {{.type = WIRE_PING, .id = 3},
         "54444d31"
         "0400"
         "0000"
         "0300000000000000"
         "00000000"
         "00000000"},
        {wire_frame_json(WIRE_PULL, 5, head), "54444d31"
                                              "4000"
                                              "0000"
                                              "0500000000000000"
                                              "0f000000"
                                              "00000000"
                                              "7b227469636b6574223a223030227d"}, // {"ticket":"00"}
        {wire_frame_tokens(WIRE_RENDERED, 9, NULL, tokens, 2), "54444d31"
                                                               "2000"
                                                               "0000"
                                                               "0900000000000000"
                                                               "02000000"
                                                               "08000000"
                                                               "7b7d"
                                                               "07000000feffffff"},
        {wire_frame_tokens(WIRE_EMBED, 6, NULL, tokens, 2), "54444d31"
                                                            "1600"
                                                            "0000"
                                                            "0600000000000000"
                                                            "02000000"
                                                            "08000000"
                                                            "7b7d"
                                                            "07000000feffffff"},
        {wire_frame_json(WIRE_FORGET, 7, json_pack("{s:n}", "owner")),
         "54444d31"
         "1700"
         "0000"
         "0700000000000000"
         "0e000000"
         "00000000"
         "7b226f776e6572223a6e756c6c7d"},
        {wire_frame_struct(WIRE_ACK, 5, ack, sizeof ack, (struct wire_body){0}), "54444d31"
                                                                                 "4300"
                                                                                 "0000"
                                                                                 "0500000000000000"
                                                                                 "18000000"
                                                                                 "00000000"
                                                                                 "0500000000000000"
                                                                                 "01000000"
                                                                                 "02000000"
                                                                                 "00020000"
                                                                                 "00000000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        struct net_conn *c = net_conn_wrap(fds[0]);
        struct wire_frame f = cases[i].frame;
        assert_int_equal(wire_frame_write(c, &f, NET_NEVER, NULL), 0);
        uint8_t bytes[256];
        ssize_t n = read(fds[1], bytes, sizeof bytes);
        assert_true(n > 0);
        hex_check(bytes, (size_t)n, cases[i].hex);
        wire_frame_fini(&f);
        net_conn_free(c);
        close(fds[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header), cmocka_unit_test(test_segment),
        cmocka_unit_test(test_end),    cmocka_unit_test(test_ack),
        cmocka_unit_test(test_hashes), cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
