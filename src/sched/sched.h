// Placement: which machine reads a prompt and which one writes the answer.
//
// A pure rule over facts that the caller gathered; no threads, no clock, no I/O, no state. The rule
// of this release is simple: hybrid when a prefill node is up and more than a threshold of uncached
// tokens are to be read, local otherwise; a request may override it. Every choice says why in words
// that end up in the answer's timings, and what it had to give up is never silent.
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sched_plan {
    SCHED_AUTO,   // as a wish only: the rule decides
    SCHED_LOCAL,  // the decode node reads and writes
    SCHED_REMOTE, // the prefill node reads and writes
    SCHED_SERIAL, // the prefill node reads, then hands everything over at once
    SCHED_HYBRID, // the prefill node reads, the KV cache streams over meanwhile
};

const char *sched_plan_name(enum sched_plan p);              // "hybrid"
bool sched_plan_parse(const char *name, enum sched_plan *p); // "auto" is a name too

// What is known of one prefill node.
struct sched_node {
    const char *name;
    bool up;
    const char *why;             // when not up: in words
    uint32_t n_ctx;              // tokens it can hold
    bool hands_off;              // its model's KV can cross (engine_handoff is not none)
    uint32_t requests;           // that it works on now
    uint32_t cached_tokens;      // of the prompt, probably held by it
    double prefill_tokens_per_s; // 0: not known
};

struct sched_facts {
    enum sched_plan wish;
    uint32_t prompt_tokens;
    uint32_t cached_tokens;    // of the prompt, already held by the decode node
    uint32_t threshold_tokens; // hybrid needs more uncached tokens than this
    bool local_hands_off;      // the decode node's model can import
    const struct sched_node *nodes;
    size_t n_nodes;
};

#define SCHED_TEXT_BYTES 256
#define SCHED_NO_NODE SIZE_MAX

struct sched_choice {
    enum sched_plan plan; // never SCHED_AUTO
    size_t node;          // index into facts.nodes, SCHED_NO_NODE for local
    char reason[SCHED_TEXT_BYTES];
    char fallback[SCHED_TEXT_BYTES]; // "" unless a wish could not be granted
};

// Returns true and the choice. False: the wish was `remote` and no node is up; reason says why.
bool sched_choose(const struct sched_facts *f, struct sched_choice *out);

#endif
