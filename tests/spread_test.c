// A model over several machines, without a model: who gets how many layers, what a borrower may do, and what
// the two sides tell each other.
#include "base/buf.h"
#include "base/json.h"
#include "engine/spread.h"
#include "node/message_spread.h"
#include "node/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// ---- layers ------------------------------------------------------------------------------------

static void layers_are(const double *shares, size_t n, uint32_t layers, const uint32_t *wanted)
{
    uint32_t has[ENGINE_LENDERS_MAX + 1], sum = 0;
    engine_spread_layers(shares, n, layers, has);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(has[i], wanted[i]);
        sum += has[i];
    }
    assert_int_equal(sum, layers);
}

static void layers_follow_shares(void **state)
{
    (void)state;
    layers_are((double[]){1, 1}, 2, 30, (uint32_t[]){15, 15});
    layers_are((double[]){2, 1}, 2, 30, (uint32_t[]){20, 10});
    layers_are((double[]){0, 1, 3}, 3, 32, (uint32_t[]){0, 8, 24});
    layers_are((double[]){1, 2}, 2, 31, (uint32_t[]){10, 21});
    // Who lends anything gets something, even if it rounds to nothing.
    layers_are((double[]){1000, 1}, 2, 30, (uint32_t[]){29, 1});
    layers_are((double[]){5, 5, 5}, 3, 2, (uint32_t[]){1, 1, 0});
    layers_are((double[]){0, 0}, 2, 7, (uint32_t[]){7, 0});
}

static void layers_never_get_lost(void **state)
{
    uint32_t has[ENGINE_LENDERS_MAX + 1];
    double shares[ENGINE_LENDERS_MAX + 1];
    (void)state;
    srand(7);
    for (int round = 0; round < 2000; round++) {
        size_t n = 1 + (size_t)rand() % (ENGINE_LENDERS_MAX + 1);
        uint32_t layers = (uint32_t)rand() % 200, sum = 0;
        double all = 0;
        for (size_t i = 0; i < n; i++)
            all += shares[i] = 1 + rand() % 1000;
        engine_spread_layers(shares, n, layers, has);
        for (size_t i = 0; i < n; i++) {
            sum += has[i];
            if (layers >= n)
                assert_true(has[i] >= 1);
            assert_true(has[i] <= shares[i] / all * layers + (double)n + 1);
        }
        assert_int_equal(sum, layers);
    }
}

// ---- the guard ---------------------------------------------------------------------------------

static int message_give(struct spread_guard *g, uint8_t command, void *body, uint64_t bytes)
{
    struct err e = {0};
    uint8_t length[8];
    le_put64(length, bytes);
    int rc = spread_guard_read(g, &command, 1, &e);
    if (rc == 0)
        rc = spread_guard_read(g, length, sizeof length, &e);
    return rc != 0 ? rc : spread_guard_read(g, body, bytes, &e);
}

// What the library would be asked for.
static uint64_t asked(struct spread_guard *g, uint64_t bytes)
{
    uint8_t body[12] = {0};
    le_put64(body + 4, bytes);
    assert_int_equal(message_give(g, 0, body, sizeof body), 0);
    return le_get64(body + 4);
}

static void answer(struct spread_guard *g, uint64_t buffer, uint64_t bytes)
{
    uint8_t length[8], body[16];
    le_put64(length, sizeof body);
    le_put64(body, buffer);
    le_put64(body + 8, bytes);
    spread_guard_wrote(g, length, sizeof length);
    spread_guard_wrote(g, body, sizeof body);
}

static void memory_has_an_end(void **state)
{
    struct spread_guard g;
    uint8_t body[8];
    (void)state;
    spread_guard_init(&g, 1000);
    assert_int_equal(asked(&g, 600), 600);
    answer(&g, 0xa0, 600);
    assert_int_equal(asked(&g, 500), 1ull << 62); // nobody can grant that
    answer(&g, 0, 0);
    assert_int_equal(g.used_bytes, 600);
    assert_int_equal(asked(&g, 400), 400);
    answer(&g, 0xb0, 416); // a little more than was asked for
    assert_int_equal(asked(&g, 1), 1ull << 62);
    answer(&g, 0, 0);
    le_put64(body, 0xa0);
    assert_int_equal(message_give(&g, 4, body, sizeof body), 0);
    assert_int_equal(g.used_bytes, 416);
    le_put64(body, 0xdead); // was never given
    assert_int_equal(message_give(&g, 4, body, sizeof body), 0);
    assert_int_equal(g.used_bytes, 416);
    assert_int_equal(asked(&g, 584), 584);
    spread_guard_fini(&g);
}

static void answers_of_other_commands_grant_nothing(void **state)
{
    struct spread_guard g;
    uint8_t body[24] = {0};
    (void)state;
    spread_guard_init(&g, 1000);
    assert_int_equal(message_give(&g, 11, body, 4),
                     0); // the memory of a device: 16 bytes come back
    answer(&g, 500, 1000);
    assert_int_equal(g.used_bytes, 0);
    assert_int_equal(message_give(&g, 15, NULL, 0), 0); // a message without a body
    assert_int_equal(asked(&g, 1000), 1000);
    spread_guard_fini(&g);
}

static void lengths_have_an_end(void **state)
{
    struct spread_guard g;
    struct err e = {0};
    uint8_t command = 6, length[8];
    (void)state;
    spread_guard_init(&g, 1 << 20);
    assert_int_equal(spread_guard_read(&g, &command, 1, &e), 0);
    le_put64(length, UINT64_MAX);
    assert_int_equal(spread_guard_read(&g, length, sizeof length, &e), ERR_RANGE);
    assert_non_null(strstr(e.message, "18446744073709551615"));
    spread_guard_fini(&g);
    // A library that reads otherwise than this release does is noticed.
    spread_guard_init(&g, 1 << 20);
    assert_int_equal(spread_guard_read(&g, length, 4, &e), ERR_CORRUPT);
    spread_guard_fini(&g);
}

// ---- texts and messages ------------------------------------------------------------------------

static void addresses_and_shares(void **state)
{
    struct net_addr a[ENGINE_LENDERS_MAX];
    double shares[3];
    struct err e = {0};
    size_t n = 0;
    (void)state;
    assert_int_equal(spread_addresses_parse("near,far:9000,[::1]:9001", a, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(a[0].host, "near");
    assert_int_equal(a[0].port, MESSAGE_PORT);
    assert_int_equal(a[1].port, 9000);
    assert_string_equal(a[2].host, "::1");
    assert_int_equal(spread_addresses_parse("", a, &n, &e), ERR_INVALID);
    assert_int_equal(spread_addresses_parse("near,,far", a, &n, &e), ERR_INVALID);
    assert_int_equal(spread_addresses_parse("near:99999", a, &n, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "--spread"));
    assert_int_equal(spread_addresses_parse("a,b,c,d,e,f,g,h,i", a, &n, &e), ERR_RANGE);

    assert_int_equal(spread_shares_parse("2,0.5,0", 3, shares, &e), 0);
    assert_true(shares[0] == 2 && shares[1] == 0.5 && shares[2] == 0);
    const char *bad[] = {"1,1", "1,1,1,1", "1,,1", "1,x,1", "1,-1,1", "0,0,0", "1,nan,1", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(spread_shares_parse(bad[i], 3, shares, &e), ERR_INVALID);
}

static void memory_texts(void **state)
{
    uint64_t bytes = 0;
    struct err e = {0};
    (void)state;
    assert_int_equal(spread_memory_parse("8G", &bytes, &e), 0);
    assert_int_equal(bytes, 8ull << 30);
    assert_int_equal(spread_memory_parse("1.5GiB", &bytes, &e), 0);
    assert_int_equal(bytes, 3ull << 29);
    assert_int_equal(spread_memory_parse("512M", &bytes, &e), 0);
    assert_int_equal(bytes, 512ull << 20);
    assert_int_equal(spread_memory_parse("all", &bytes, &e), 0);
    assert_true(bytes == UINT64_MAX);
    const char *bad[] = {"", "G", "8X", "-1G", "5", "0", "nan", "inf", "1e30G", "all of it"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(spread_memory_parse(bad[i], &bytes, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, "say 8G"));
    }
}

static void lend_round_trip(void **state)
{
    struct message_lend m = {.version = 2,
                             .name = "studio",
                             .build = "tandem 0.1.0",
                             .engine = "llama.cpp 1, rpc 7",
                             .devices = "CPU",
                             .memory_bytes = 5ull << 30};
    struct message_lend back;
    struct err e = {0};
    (void)state;
    json_t *v = message_lend_json(&m);
    assert_int_equal(message_lend_parse(v, &back, &e), 0);
    assert_memory_equal(&m, &back, sizeof m);
    json_object_del(v, "memory_bytes"); // as the WELCOME of a worker that serves
    assert_int_equal(message_lend_parse(v, &back, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "--lend"));
    json_put(v, "memory_bytes", json_integer(-1));
    assert_int_equal(message_lend_parse(v, &back, &e), ERR_INVALID);
    json_put(v, "memory_bytes", json_string("much"));
    assert_int_equal(message_lend_parse(v, &back, &e), ERR_INVALID);
    json_decref(v);
}

static void options_cross_to_the_worker(void **state)
{
    struct node_worker_options o, back;
    struct err e = {0};
    (void)state;
    node_worker_options_default(&o);
    o.lend = true;
    o.lend_bytes = UINT64_MAX;
    o.spread = "near,far:9000";
    o.tensor_split = "1,2,3";
    o.role = "read";
    o.price = 0;
    char *text = node_worker_options_text(&o);
    json_t *v = json_parse(text, strlen(text), &e);
    free(text);
    assert_non_null(v);
    assert_int_equal(node_worker_options_parse(v, &back, &e), 0); // without a model
    assert_true(back.lend && back.lend_bytes == INT64_MAX);
    assert_string_equal(back.spread, o.spread);
    assert_string_equal(back.tensor_split, o.tensor_split);
    assert_string_equal(back.role, "read");
    assert_true(back.price == 0);
    json_put(v, "price", json_null());
    assert_int_equal(node_worker_options_parse(v, &back, &e), 0);
    assert_true(back.price < 0); // not told
    json_put(v, "role", json_string("sing"));
    assert_int_equal(node_worker_options_parse(v, &back, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "read, write or both"));
    json_put(v, "role", json_null());
    json_put(v, "lend", json_false());
    assert_int_equal(node_worker_options_parse(v, &back, &e), ERR_INVALID);
    json_decref(v);
}

static void hello_names_the_engine(void **state)
{
    struct message_hello h = {
        .version = 2, .role = "spread", .name = "mac", .engine = "llama.cpp 1, rpc 7"};
    struct message_hello back;
    struct err e = {0};
    (void)state;
    json_t *v = message_hello_json(&h);
    assert_int_equal(message_hello_parse(v, &back, &e), 0);
    assert_string_equal(back.role, "spread");
    assert_string_equal(back.engine, h.engine);
    json_put(v, "engine", json_integer(3));
    assert_int_equal(message_hello_parse(v, &back, &e), ERR_INVALID);
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_follow_shares),
        cmocka_unit_test(layers_never_get_lost),
        cmocka_unit_test(memory_has_an_end),
        cmocka_unit_test(answers_of_other_commands_grant_nothing),
        cmocka_unit_test(lengths_have_an_end),
        cmocka_unit_test(addresses_and_shares),
        cmocka_unit_test(memory_texts),
        cmocka_unit_test(lend_round_trip),
        cmocka_unit_test(options_cross_to_the_worker),
        cmocka_unit_test(hello_names_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
