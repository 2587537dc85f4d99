// What passes between a machine that borrows (`--spread`) and one that lends (`tandem node --lend`) before
// ggml's own protocol begins, and the texts of the two options:
//
//   HELLO   {"version":2,"role":"spread","name":"..","build":"..","engine":"llama.cpp 0.5.0, rpc 7.0.0"}
//   WELCOME {"version":2,"name":"..","build":"..","engine":"..","memory_bytes":n,"devices":"CPU"}
//   REFUSED {"code":"busy","message":"lent to studio already"}
//
// After WELCOME the connection carries no frames any more.
#ifndef NODE_MESSAGE_SPREAD_H
#define NODE_MESSAGE_SPREAD_H

#include "base/err.h"
#include "engine/spread.h"
#include "net/net.h"
#include "node/message.h"

#include <jansson.h>
#include <stdint.h>

struct message_lend {
    uint32_t version;
    char name[128], build[64], engine[64], devices[128];
    uint64_t memory_bytes;
};
int message_lend_parse(const json_t *head, struct message_lend *m, struct err *e);
json_t *message_lend_json(const struct message_lend *m);

// "HOST[:PORT],HOST[:PORT]" of --spread, at most ENGINE_LENDERS_MAX of them.
int spread_addresses_parse(const char *text, struct net_addr out[ENGINE_LENDERS_MAX], size_t *n,
                           struct err *e);
// "2,1,1" of --tensor-split: `n` shares, of this machine first.
int spread_shares_parse(const char *text, size_t n, double *out, struct err *e);
// "8G", "512M" or "all" (UINT64_MAX) of --lend.
int spread_memory_parse(const char *text, uint64_t *bytes, struct err *e);

#endif
