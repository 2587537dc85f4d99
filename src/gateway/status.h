// What an operator is told: health, the models, and the status of nodes and requests. Private to
// gateway/.
//
// A status query asks every worker for its own figures and is answered when all have told, or
// after STATUS_WAIT_NS with what is there.
#ifndef GATEWAY_STATUS_H
#define GATEWAY_STATUS_H

#include "gateway/parse.h"
#include "gateway/peer.h"
#include "gateway/reply.h"

#define STATUS_WAIT_NS (300 * NS_PER_MS)

struct core;

enum query_kind { QUERY_HEALTH, QUERY_MODELS, QUERY_MODEL, QUERY_STATUS };

struct query {
    struct query *next;
    enum query_kind kind;
    struct reply *reply;
    char model[PARSE_MODEL_BYTES]; // of QUERY_MODEL
    uint64_t id;
    size_t waiting; // workers that have not told yet
    int64_t deadline_ns;
};

// Any thread.
struct query *query_new(enum query_kind kind, struct reply *reply, const char *model);
void query_free(struct query *q);

// Core thread.
void status_on_query(struct core *c, struct query *q); // takes it
void status_on_frame(struct core *c, struct peer *p, const struct wire_frame *f);
int64_t status_tick(struct core *c, int64_t now_ns);
void status_stop(struct core *c); // answers what waits
// True when `name` is one the local worker's model goes by; known: its list, for messages.
bool status_model_known(struct core *c, const char *name);
void status_models_list(struct core *c, char *out, size_t out_bytes);

#endif
