// The nodes of a running server: they join, leave and drain without its being stopped. Private to gateway/;
// the core thread's alone.
//
//   (free slot) --fleet_add--> a node: dialled, judged, used (peer.h) --leaving--> ends what it has --> (free slot)
//                                      ^                    |
//                                      +----- resume -------+ drained: linked, but given nothing new
//
// A node that is removed ends its requests first; removed by force, it is lost as if it had died, and its requests
// are planned again or told. A node may also say itself that it is about to stop (STATUS_IS "draining"): it is given
// nothing new, and when its last request has ended the gateway lets go of it, so that nothing is on the way to
// it when it stops. It is dialled again, as any node that is away.
//
// Nodes that joined at run time are kept in a file, and are there again after a restart; what the command line
// says is the command line's, also where such a node was removed.
//
// A hand-off needs a way from the decode worker to the prefill worker, which the gateway does not go itself. Pairs
// whose dial failed are remembered for a while, longer each time, and not chosen meanwhile.
#ifndef GATEWAY_FLEET_H
#define GATEWAY_FLEET_H

#include "base/clock.h"
#include "base/err.h"
#include "net/net.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLEET_ADDRESS_BYTES 280
#define FLEET_PAIRS 64 // that are remembered; the one that would be forgotten first makes room
#define FLEET_WHY_BYTES 256
#define FLEET_PAIR_MIN_NS (30 * NS_PER_S)
#define FLEET_PAIR_MAX_NS (600 * NS_PER_S)
#define FLEET_FILE_MAX (256u << 10) // bytes

struct core;
struct peer;
struct query;
struct request;

// What is asked of a node.
struct fleet_order {
    char address[FLEET_ADDRESS_BYTES]; // or a node's name
    bool force;                        // its requests are not waited for
    uint32_t role;                     // that it is given: PLACE_READER, PLACE_WRITER or 0
};

// D could not reach P.
struct fleet_pair {
    const struct peer *decode, *prefill; // NULL: unused
    int64_t until_ns, wait_ns;
    char why[FLEET_WHY_BYTES];
};
struct fleet_pairs {
    struct fleet_pair items[FLEET_PAIRS];
};

// The command line's nodes and those that were kept. Before the core's thread runs.
int fleet_begin(struct core *c, struct err *e);
// ERR_INVALID, ERR_BUSY (it is here already, or there is no slot), ERR_AUTH (another machine, and no key).
int fleet_add(struct core *c, const struct net_addr *addr, struct peer **out, struct err *e);
// By address or name; NULL: none.
struct peer *fleet_find(struct core *c, const char *text);
void fleet_remove(struct core *c, struct peer *p, bool force);
void fleet_drain(struct core *c, struct peer *p, bool on);
// A node that was greeted: the image model that its machine has, at a port of its own, joins with it, and leaves and
// drains with it.
void fleet_companion(struct core *c, struct peer *p);
// What it is there for from now on, whatever it says itself. Of a local worker until the server ends.
void fleet_role(struct core *c, struct peer *p, uint32_t role);
// Lets go of nodes that have nothing left to do, and frees slots.
void fleet_tick(struct core *c);

void fleet_on_query(struct core *c, struct query *q);
// What only nodes have in the status.
void fleet_node_put(json_t *o, const struct peer *p);

// ---- fleet_file.c ----
// The kept nodes are added; a file that cannot be read is told of and left alone.
void fleet_load(struct core *c);
void fleet_save(const struct core *c);
// What lies in that file: the nodes of a text are added, a node that cannot be is left out with a word in the log.
int fleet_read(struct core *c, const char *text, size_t n, struct err *e);
char *fleet_text(const struct core *c); // the caller's

// ---- fleet_pair.c ----
// Where `decode` dials `prefill`: as that one advertises itself, or else as it was given to the gateway. For a
// decode worker on the gateway's own machine always the latter.
void fleet_address(const struct peer *decode, const struct peer *prefill, struct net_addr *out);
// Why no KV can pass from `prefill` to `decode` now; NULL: it can.
const char *fleet_pair_why(const struct core *c, const struct peer *decode,
                           const struct peer *prefill);
// A run is done: whether its decode worker reached the prefill worker is learnt from its account.
void fleet_on_done(struct core *c, const struct request *r, uint32_t at, const json_t *head);
// It is another process, or another node: nothing is known of its ways.
void fleet_pairs_forget(struct core *c, const struct peer *p);

#endif
