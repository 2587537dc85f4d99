// Adapters on their way from this machine's store (models/adapters.h) to every worker that serves the base:
// the local one and the prefill nodes. Each local model has its own. Private to gateway/; the core thread's alone.
//
// The store is looked at every SHIP_SCAN_NS. What fits the model is offered to each worker that is
// up and takes adapters; one that has the file says so, the others get it in pieces, one piece on the way
// at a time, so that it never holds up a token for long. A worker that is greeted again is asked
// again. A request for "ft:NAME" is admitted when the local worker has it; a prefill node that has it
// not yet is not used for it.
#ifndef GATEWAY_SHIP_H
#define GATEWAY_SHIP_H

#include "base/err.h"
#include "node/message.h"
#include "wire/wire.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIP_SCAN_NS (2 * NS_PER_S)
#define SHIP_PIECE_BYTES (256u << 10)
#define SHIP_REFUSED_NS (60 * NS_PER_S) // until a worker that refused one is asked again
#define SHIP_AGAIN_NS (600 * NS_PER_S) // until one that has it is: its folder may have been emptied

struct core;
struct model;
struct peer;
struct request;
struct request_fault;
struct ship;

struct ship *ship_new(const char *model); // path of the served model
void ship_free(struct ship *s);
int64_t ship_tick(struct core *c, const struct model *m,
                  int64_t now_ns); // the time of the next one
bool ship_asked(const struct peer *p, uint64_t id);
void ship_on_frame(struct core *c, struct peer *p, const struct wire_frame *f);

bool ship_named(const char *model); // "ft:..."
// The model that the adapter of this name is for; NULL: there is none, as ship_unknown says.
struct model *ship_base(struct core *c, const char *model);
void ship_unknown(const struct core *c, const char *model, struct request_fault *fault,
                  struct err *e);
// Gives the request, which has its base, the adapter that it names. False: why not.
bool ship_pick(struct core *c, struct request *r, struct request_fault *fault, struct err *e);
// Does that worker have it? True without an adapter.
bool ship_ready(const struct peer *p, const struct message_adapter *a);
// Whose prefixes a request may share: its owner's, made with the same adapter.
#define SHIP_SPACE_BYTES (MESSAGE_OWNER_BYTES + MESSAGE_ADAPTER_BYTES)
void ship_space(const struct message_generate *g, char out[SHIP_SPACE_BYTES]);

// The adapters as OpenAI's model objects: appended to a list; one of them ("ft:NAME"), a new reference or NULL.
void ship_models(const struct core *c, json_t *list);
json_t *ship_model(struct core *c, const char *model);

#endif
