// What work took on one node, as its worker tells the gateway: the answer to MEASURE, and the "cost" of every
// finished request in DONE and PREFILLED. node/message.h shows both.
//
// All times are the engine's own: no queues, nothing of other requests in between. What could not be told apart
// is left out, so every number can be learned from (sched/profile.h). They come from a peer all the same:
// parsing refuses what is not finite and positive, or larger than the limits below.
//
// Plain numbers in the caller's memory; any thread.
#ifndef NODE_MESSAGE_COST_H
#define NODE_MESSAGE_COST_H

#include "base/err.h"
#include "sched/profile_measure.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define MESSAGE_COST_READS 8
#define MESSAGE_BUDGET_MAX_S 60.0

// KV out of the engine or into it, with its hash.
struct message_moved {
    double bytes; // 0: none was
    double seconds;
};

// The member `name` of an object; all zero, and null, where there is nothing. New references.
int message_moved_parse(const json_t *top, const char *name, struct message_moved *m,
                        struct err *e);
json_t *message_moved_json(const struct message_moved *m);

struct message_cost {
    // Runs of chunks of about the same size, one behind the other; images are not among them.
    struct profile_read reads[MESSAGE_COST_READS];
    size_t n_reads;
    struct profile_steps steps;          // that this answer had a row in; steps 0: none
    struct message_moved export, import; // of this request
};

struct message_measured {
    struct profile_read reads[PROFILE_MEASURES];
    struct profile_steps steps[PROFILE_MEASURES];
    size_t n_reads, n_steps;
    struct message_moved export, import;
    double load_s;            // from the worker's start until the model was ready; 0: unknown
    double memory_left_bytes; // of the machine, while the model was loaded; 0: unknown
    bool complete;            // false: a request came in between, or something failed
};

// The member "cost" of a DONE or PREFILLED head; all zero where it is absent. New references.
int message_cost_parse(const json_t *head, struct message_cost *c, struct err *e);
json_t *message_cost_json(const struct message_cost *c);

int message_measured_parse(const json_t *head, struct message_measured *m, struct err *e);
json_t *message_measured_json(const struct message_measured *m);

// MEASURE: how many seconds may be spent. Absent: PROFILE_MEASURE_S.
int message_measure_parse(const json_t *head, double *budget_s, struct err *e);
json_t *message_measure_json(double budget_s);

#endif
