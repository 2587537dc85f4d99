// What reading, writing and handing over cost: seconds from bytes, operations and rates.
//
// Pure functions without state, clock or I/O; any thread. Two callers: placement, with rates that were
// measured on the machine, and the planner, with rates from its catalogue (plan/predict.h). docs/cost-model.md
// derives the formulas and names their sources; in short, with all rates inverse (seconds per unit):
//
//     decode of one token by each of b sequences at depth d (roofline of Williams et al., CACM 52(4), 2009,
//     with the sum in place of the maximum, since the layers of one token cannot overlap):
//         weights  bytes of weights that b tokens touch            x weight_s
//         kv       b x (full x d + window x min(d, window))        x kv_s
//         compute  b x operations per token                        x flop_s
//         layer    number of layers                                x layer_s    (kernel launches)
//
//     prefill of n tokens after depth d, in chunks of u tokens (llama.cpp's ubatch), by each of b sequences:
//         compute    b n x operations per token, without the output matrix    x flop_s
//         attention  4 x heads x head size x layers per pair of tokens        x pair_s x (1 + d / 8192)^deep
//         floor      chunks x bytes of weights that u tokens touch            x floor_s
//         layer      chunks x layers                                          x layer_s
//     and never less than chunks x bytes of weights that u tokens touch x weight_s, plus layers.
//
// A mixture of experts touches fixed + routed x (1 - (1 - share)^(b^0.8)) bytes: a batch chooses its experts
// alike, so that b tokens reach as many as b^0.8 that choose at random.
//
// The hand-off is the pipeline of kv/schedule.c with equal chunks: chunk k is there when both it is computed
// and everything before it has crossed.
//
// Money is placement's (place_predict.c): dollars = hours of work x dollars per hour + kWh x dollars per kWh + tokens x
// dollars per token, of each machine what it has a price for.
#ifndef SCHED_COST_H
#define SCHED_COST_H

#include <stdint.h>

#define COST_ALIKE 0.8
#define COST_DEEP_TOKENS 8192.0

// A model as the formulas see it. Bytes of weights are those of the quantisation as stored.
struct cost_model {
    double layers;
    double weight_bytes;      // all of them, what has to fit
    double fixed_bytes;       // that every token touches
    double routed_bytes;      // of experts; 0: dense
    double routed_share;      // of the experts, that one token touches
    double token_flops;       // of a token's matrices, without attention
    double head_flops;        // the part of them that only tokens with logits need
    double full_kv_bytes;     // per token, of layers that see everything
    double window_kv_bytes;   // per token, of layers that see a window
    double window_tokens;     // 0: there are none
    double full_pair_flops;   // of attention per pair of tokens, of layers that see everything
    double window_pair_flops; // the same of layers that see a window
};

// Inverse rates: seconds per byte, per operation, per layer.
struct cost_rates {
    double weight_s, kv_s, flop_s, pair_s, floor_s; // floor: weights once per chunk of a prompt
    double deep;                                    // exponent of attention's growth with depth
    double layer_s;
    double step_s; // per step or chunk: links between parts of one machine
};

struct cost_time {
    double weights_s, kv_s, compute_s, attention_s, overhead_s;
    double total_s;
};

// What most of a time goes to.
enum cost_bound { COST_COMPUTE, COST_BANDWIDTH, COST_OVERHEAD };
enum cost_bound cost_bound_of(const struct cost_time *t);
const char *cost_bound_name(enum cost_bound b); // "compute"

// Bytes of weights that a batch of so many tokens reads.
double cost_weights_touched(const struct cost_model *m, double tokens);
// Bytes that the KV cache of one sequence of so many tokens takes, as it is sent and as a step reads it.
double cost_kv_bytes(const struct cost_model *m, double tokens);

struct cost_work {
    double tokens; // of each sequence; decode: 1
    double depth;  // tokens that are there already
    double batch;  // sequences
    double chunk;  // tokens per chunk; decode ignores it
};
// One step of all sequences: seconds until each has one token more.
struct cost_time cost_decode(const struct cost_model *m, const struct cost_rates *r,
                             const struct cost_work *w);
struct cost_time cost_prefill(const struct cost_model *m, const struct cost_rates *r,
                              const struct cost_work *w);

struct cost_link {
    double bytes_per_s;
    double latency_s; // once per hand-off, and once for its end marker
};

// A prompt that is read in one place and needed in another.
struct cost_handoff {
    double tokens, chunk_tokens;
    double last_tokens; // of the piece that leaves last: what cannot overlap
    double prefill_s, kv_bytes;
    struct cost_link link;
    // What the sides already hold. All 0: nothing.
    double before_s;    // of reading what the other side has: it does not cross
    double ready_bytes; // of kv_bytes, read earlier: crosses at once
    double first_s;     // of reading the first chunk that crosses; 0: its share of prefill_s
};
struct cost_handoff_time {
    double transfer_s;   // of everything
    double serial_s;     // read, then send
    double overlapped_s; // send while reading
    double tail_s;       // overlapped_s less prefill_s
};
struct cost_handoff_time cost_handoff(const struct cost_handoff *h);

#endif
