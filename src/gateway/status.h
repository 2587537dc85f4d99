// What an operator is told: health, the models, the status of nodes and requests, metrics; and what an
// operator orders of workers: to forget. Private to gateway/.
//
// A query that needs workers asks every one of them and is answered when all have told, or after
// STATUS_WAIT_NS (STATUS_FORGET_NS for an order) with what is there.
#ifndef GATEWAY_STATUS_H
#define GATEWAY_STATUS_H

#include "base/buf.h"
#include "gateway/fleet.h"
#include "gateway/parse.h"
#include "gateway/peer.h"
#include "gateway/placing.h"
#include "gateway/reply.h"
#include "node/message.h"

#define STATUS_WAIT_NS (300 * NS_PER_MS)
#define STATUS_FORGET_NS (10 * NS_PER_S)

struct core;

enum query_kind {
    QUERY_HEALTH, // 200 when the first model is loaded, or can be
    QUERY_READY,  // the same, and the server is not draining
    QUERY_MODELS,
    QUERY_MODEL,
    QUERY_LOAD,
    QUERY_UNLOAD,
    QUERY_STATUS,
    QUERY_METRICS,
    QUERY_FORGET,
    QUERY_EXPLAIN,
    QUERY_OLLAMA_TAGS,
    QUERY_OLLAMA_PS,
    QUERY_OLLAMA_SHOW,
    QUERY_NODES, // fleet.h
    QUERY_NODE,
    QUERY_NODE_ADD,
    QUERY_NODE_REMOVE,
    QUERY_NODE_DRAIN,
    QUERY_NODE_RESUME,
    QUERY_NODE_ROLE,
};

struct query {
    struct query *next;
    enum query_kind kind;
    struct reply *reply;
    char model[PARSE_MODEL_BYTES];   // of those that are about one
    struct fleet_order order;        // of those that are about a node
    struct buf page;                 // of QUERY_METRICS: its head, by the HTTP thread
    char owner[MESSAGE_OWNER_BYTES]; // of QUERY_FORGET, with `all` false
    bool all;
    struct err jobs_fault; // of QUERY_FORGET: why image jobs were not forgotten
    json_t *images; // what the images thread says to it, from the HTTP thread; owned; NULL: nothing
    json_t *image_nodes;              // the same of other servers that draw: a list
    json_t *image_jobs;               // the same of image jobs
    struct placing_question question; // of QUERY_EXPLAIN
    uint64_t sequences, nodes;        // forgotten, by so many workers
    size_t asked;
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
bool status_asked(const struct core *c, uint64_t id); // by a query that still waits
int64_t status_tick(struct core *c, int64_t now_ns);
void status_stop(struct core *c);                          // answers what waits
json_t *status_peer(struct core *c, const struct peer *p); // a new reference

// ---- status_ollama.c ----
json_t *status_ollama(struct core *c, struct query *q, unsigned *status); // a new reference

#endif
