// What a borrower sends, read as the model library reads it: the memory that is granted never exceeds what is lent, and
// no length passes that could not be meant. And the words of a lender, and of who types the options.
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/spread.h"
#include "node/message_spread.h"

#include <stdio.h>
#include <stdlib.h>

#define LENT (1u << 20)

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_spread: %s\n", what);
    abort();
}

// The library grants what it is asked for, if a machine could have it, under the next number.
static void grant(struct spread_guard *g, const uint8_t *body, uint64_t *buffers)
{
    uint8_t answer[24] = {0};
    uint64_t bytes = le_get64(body + 4);
    le_put64(answer, 16);
    if (bytes <= LENT) {
        le_put64(answer + 8, ++*buffers);
        le_put64(answer + 16, bytes);
    }
    spread_guard_wrote(g, answer, 8);
    spread_guard_wrote(g, answer + 8, 16);
}

static void stream(const uint8_t *data, size_t n)
{
    struct spread_guard g;
    struct err e = {0};
    uint64_t buffers = 0;
    spread_guard_init(&g, LENT);
    while (n >= 9) {
        uint8_t head[9], body[64] = {0};
        memcpy(head, data, sizeof head);
        data += sizeof head;
        n -= sizeof head;
        uint64_t bytes = le_get64(head + 1);
        if (spread_guard_read(&g, head, 1, &e) != 0 || spread_guard_read(&g, head + 1, 8, &e) != 0)
            break;
        check(bytes <= LENT + (256u << 20), "a length that is too large passes");
        if (bytes > n || bytes > sizeof body)
            break;
        memcpy(body, data, bytes);
        data += bytes;
        n -= bytes;
        check(spread_guard_read(&g, body, bytes, &e) == 0, "a body is refused");
        if (head[0] == 0 && bytes == 12)
            grant(&g, body, &buffers);
        check(g.used_bytes <= LENT, "more is granted than is lent");
    }
    spread_guard_fini(&g);
}

static void words(const char *text)
{
    struct net_addr a[ENGINE_LENDERS_MAX];
    double shares[3];
    uint64_t bytes = 0;
    struct err e = {0};
    size_t n = 0;
    if (spread_addresses_parse(text, a, &n, &e) == 0)
        check(n >= 1 && n <= ENGINE_LENDERS_MAX, "addresses that are none");
    if (spread_shares_parse(text, 3, shares, &e) == 0)
        check(shares[0] + shares[1] + shares[2] > 0, "shares of nothing");
    if (spread_memory_parse(text, &bytes, &e) == 0)
        check(bytes >= 1u << 20, "memory that is none");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct message_lend m;
    struct err e = {0};
    log_level_set(LOG_LEVEL_ERROR);
    stream(data, n);
    char *text = mem_alloc(n + 1);
    memcpy(text, data, n);
    words(text);
    json_t *v = json_parse(text, n, &e);
    if (v != NULL && message_lend_parse(v, &m, &e) == 0)
        check(m.memory_bytes <= INT64_MAX, "memory below nothing");
    json_decref(v);
    free(text);
    return 0;
}
