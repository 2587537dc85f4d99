// The fleet that the simulator runs: kinds of machines with their rates, and how many of each.
//
// Kinds come from the catalogue, with the rates of plan/predict.h, or carry rates of their own (two numbers,
// tokens per second). A fleet is made by adding nodes or read from a JSON file:
//
//     {"model": "llama-3.1-8b", "quant": "Q8_0",
//      "nodes": [{"machine": "dgx-spark", "count": 2, "role": "read", "link": "10gbe", "slots": 16},
//                {"name": "lab", "prefill_tokens_per_s": 900, "decode_tokens_per_s": 40}],
//      "events": [{"at_s": 600, "node": 0, "what": "leave"}, {"at_s": 900, "node": 0, "what": "return"}]}
//
// role: read, write or both (the default). A node in events is counted from 0 in the order of the list.
//
// Owner: the caller. Not changed while a simulation runs, so that several may share it.
#ifndef PLAN_SIM_FLEET_H
#define PLAN_SIM_FLEET_H

#include "base/err.h"
#include "plan/catalogue.h"
#include "sched/cost.h"
#include "sched/place.h"

#include <stddef.h>
#include <stdint.h>

#define SIM_KINDS_MAX 32
#define SIM_NODES_MAX 100000u
#define SIM_EVENTS_MAX 100000u
#define SIM_SLOTS_MAX 256u
#define SIM_SLOTS 16u // answers at once on a node, unless said

struct sim_kind {
    char name[PLAN_NAME_BYTES];
    uint32_t roles; // enum place_role
    uint32_t slots;
    struct cost_model model;
    struct cost_rates read, write;
    double chunk_tokens;
    bool in_turns;  // prompts are read in plain turns, not the one with the least left first
    double cells;   // tokens of KV that there is room for
    double context; // tokens of one request
    struct cost_link link;
    double idle_w, load_w;            // NAN: unknown
    double price_usd;                 // NAN: unknown
    struct profile profile;           // what placement believes
    double step_s[SIM_SLOTS_MAX + 1]; // of so many answers, without their depths
};

enum sim_what { SIM_DRAIN, SIM_LEAVE, SIM_RETURN };
struct sim_event {
    double at_s;
    uint32_t node;
    enum sim_what what;
};

struct sim_fleet {
    char model[PLAN_NAME_BYTES], quant[PLAN_NAME_BYTES];
    struct sim_kind *kinds;
    size_t n_kinds;
    uint8_t *nodes; // index of each node's kind
    uint32_t n;
    struct sim_event *events; // in the order of their times
    size_t n_events;
};

struct sim_member {
    const char *machine; // of the catalogue; NULL: the two rates below
    const char *name;    // NULL: the machine's
    double read_tokens_per_s, write_tokens_per_s, kv_token_bytes;
    const char *link; // NULL: 10gbe
    uint32_t roles;   // 0: both
    uint32_t slots;   // 0: SIM_SLOTS
    uint32_t count;
};

// Empty. `model` may be NULL where every member brings rates of its own.
void sim_fleet_init(struct sim_fleet *f, const char *model, const char *quant);
void sim_fleet_fini(struct sim_fleet *f);
// Without a catalogue only members with rates of their own can be added, and links are no limit.
// ERR_NOT_FOUND: an unknown name; ERR_INVALID: it does not fit into the machine, or a limit.
int sim_fleet_add(struct sim_fleet *f, const struct plan_catalogue *c, const struct sim_member *m,
                  struct err *e);
int sim_fleet_parse(struct sim_fleet *f, const struct plan_catalogue *c, const json_t *root,
                    struct err *e);
int sim_fleet_read(struct sim_fleet *f, const struct plan_catalogue *c, const char *path,
                   struct err *e);
// The default mixed fleet: two in five DGX Spark, two in five Mac Studio M3 Ultra (96 GB), one in ten Strix
// Halo, the rest boxes with one RTX 5090. slots 0: SIM_SLOTS.
int sim_fleet_mixed(struct sim_fleet *f, const struct plan_catalogue *c, uint32_t nodes,
                    uint32_t slots, struct err *e);

#endif
