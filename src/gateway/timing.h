// `timings`: what an answer says of itself. Private to gateway/.
//
// One axis for everything: seconds since the gateway had the whole request. A worker's times count
// from its own receipt of a message, so they are shifted by when that message was sent; what the
// message took on the network is left out (well below a millisecond on a local net).
#ifndef GATEWAY_TIMING_H
#define GATEWAY_TIMING_H

#include "sched/place.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct timing {
    const char *plan, *reason;
    const char *prefill_node, *decode_node;
    // As "Q4_0"; NULL: no prefill node took part. They may differ where that was allowed.
    const char *prefill_weights, *decode_weights;
    const char *fallback; // NULL: none
    const char *policy;
    const struct place_plan *predicted;           // when it was placed; NULL: it was not
    double placed_s;                              // when that was
    double answer_tokens;                         // that were expected then
    uint32_t prompt_tokens, gen_tokens;           // of all prompts and answers of the request
    uint32_t lead_prompt_tokens, lead_gen_tokens; // of those that the accounts below are about
    double prefill_sent_s, decode_sent_s; // when PREFILL and GENERATE went out; below 0: never
    double ttft_s;                        // first token; below 0: none
    double total_s;
    double joules;           // that all workers told together; below 0: not known
    const json_t *done;      // head of DONE
    const json_t *prefilled; // head of PREFILLED, or NULL
    bool timeline;
};

json_t *timing_json(const struct timing *t);
uint32_t timing_cached_tokens(const struct timing *t);

#endif
