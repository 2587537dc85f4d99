// Holds a borrower to its limits. A message of ggml's RPC is a command (1 byte), a length (8 bytes) and a body;
// an answer a length and a body. The library reads each of the three with one call, takes memory for the
// second's value without a look at it, and has no notion of how much memory it gave away.
#include "engine/spread.h"

#include "base/buf.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { EXPECTS_COMMAND, EXPECTS_LENGTH, EXPECTS_BODY };

// Of enum rpc_cmd, which the library keeps to itself; engine_lend_version names the protocol's release, and a
// borrower with another one is refused before this.
enum { COMMAND_ALLOC = 0, COMMAND_FREE = 4 };

#define ALLOC_BYTES 12             // u32 device, u64 bytes
#define GRANT_BYTES 16             // u64 buffer, u64 bytes
#define FREE_BYTES 8               // u64 buffer
#define NOT_TO_BE_HAD (1ull << 62) // bytes
#define BUFFERS_MAX 65536
#define GRAPH_BYTES_MAX (256ull << 20)

void spread_guard_init(struct spread_guard *g, uint64_t limit_bytes)
{
    *g = (struct spread_guard){.limit_bytes = limit_bytes, .expects = EXPECTS_COMMAND};
}

void spread_guard_fini(struct spread_guard *g)
{
    free(g->buffers);
    *g = (struct spread_guard){0};
}

static void too_much(struct spread_guard *g, uint64_t bytes)
{
    if (!g->told)
        log_warn("lend",
                 "the borrower wants %" PRIu64 " MiB more; %" PRIu64 " of the %" PRIu64
                 " MiB that are lent are taken",
                 bytes >> 20, g->used_bytes >> 20, g->limit_bytes >> 20);
    g->told = true;
}

static void freed(struct spread_guard *g, uint64_t id)
{
    for (size_t i = 0; i < g->n_buffers; i++) {
        if (g->buffers[i].id != id)
            continue;
        g->used_bytes -= g->buffers[i].bytes;
        g->buffers[i] = g->buffers[--g->n_buffers];
        return;
    }
}

static void granted(struct spread_guard *g, uint64_t id, uint64_t bytes)
{
    if (id == 0)
        return;
    if (g->n_buffers == g->cap_buffers) {
        g->cap_buffers = g->cap_buffers > 0 ? g->cap_buffers * 2 : 64;
        g->buffers = mem_resize(g->buffers, g->cap_buffers * sizeof *g->buffers);
    }
    g->buffers[g->n_buffers++] = (struct spread_buffer){id, bytes};
    g->used_bytes += bytes;
}

static void body_read(struct spread_guard *g, uint8_t *body, size_t n)
{
    if (g->command == COMMAND_ALLOC && n == ALLOC_BYTES) {
        uint64_t bytes = le_get64(body + 4);
        // What was granted may be a little more than what was asked for.
        uint64_t left = g->used_bytes < g->limit_bytes ? g->limit_bytes - g->used_bytes : 0;
        if (bytes <= left && g->n_buffers < BUFFERS_MAX)
            return;
        too_much(g, bytes);
        le_put64(body + 4, NOT_TO_BE_HAD);
    } else if (g->command == COMMAND_FREE && n == FREE_BYTES) {
        freed(g, le_get64(body));
    }
}

static int length_read(struct spread_guard *g, uint64_t bytes, struct err *e)
{
    // A tensor is no longer than the memory it goes to.
    uint64_t most = g->limit_bytes + GRAPH_BYTES_MAX;
    if (bytes > most)
        return err_set(e, ERR_RANGE,
                       "the borrower announces a message of %" PRIu64 " bytes; at most %" PRIu64
                       " are possible here",
                       bytes, most);
    g->body_bytes = bytes;
    return 0;
}

int spread_guard_read(struct spread_guard *g, void *data, size_t n, struct err *e)
{
    size_t wanted = g->expects == EXPECTS_COMMAND  ? 1
                    : g->expects == EXPECTS_LENGTH ? 8
                                                   : (size_t)g->body_bytes;
    if (n != wanted)
        return err_set(e, ERR_CORRUPT,
                       "the borrower's messages cannot be followed (%zu bytes where %zu belong)", n,
                       wanted);
    if (g->expects == EXPECTS_COMMAND) {
        g->command = *(uint8_t *)data;
        g->expects = EXPECTS_LENGTH;
        return 0;
    }
    if (g->expects == EXPECTS_LENGTH) {
        g->expects = EXPECTS_BODY;
        return length_read(g, le_get64(data), e);
    }
    body_read(g, data, n);
    g->expects = EXPECTS_COMMAND;
    return 0;
}

void spread_guard_wrote(struct spread_guard *g, const void *data, size_t n)
{
    const uint8_t *body = data;
    if (g->command == COMMAND_ALLOC && g->expects == EXPECTS_COMMAND && n == GRANT_BYTES)
        granted(g, le_get64(body), le_get64(body + 8));
}
