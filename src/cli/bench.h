// `tandem bench` and `tandem demo`: four lines side by side, each timed end to end at the client.
//
//   remote   the prefill machine alone          serial   handed over only when all is read
//   local    the decode machine alone           hybrid   handed over while it is being read
//
// The parts: bench_catalogue.c (rates of machines), bench_http.c (one request), bench_pair.c (two
// nodes as processes of their own), bench_series.c (runs of the four lines), bench_result.c
// (medians, the JSON), bench.c (the order of it all). Pictures: draw.h. `--grid`: bench_grid.h.
//
// An emulated pair: rates of catalogue machines divided by one time scale s, the smallest at which
// every real step of this machine fits its slot, and a link on which KV time / prefill time is that
// of the original. It shows what the software adds or loses, not what the hardware does.
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_RUNS_MAX 32
#define BENCH_SAMPLES_MAX (2 * BENCH_RUNS_MAX) // of one plan: asked for in each run, and chosen
#define BENCH_NAME_BYTES 128

enum bench_plan { BENCH_REMOTE, BENCH_LOCAL, BENCH_SERIAL, BENCH_HYBRID, BENCH_AUTO };
#define BENCH_PLANS 4 // without BENCH_AUTO, which is the gateway's choice of one of them
const char *bench_plan_name(enum bench_plan p); // as in a request's "tandem.plan"

// ---- machines -----------------------------------------------------------------------------------

struct bench_machine {
    char name[BENCH_NAME_BYTES];
    double prefill_tokens_per_s, decode_tokens_per_s; // 0: native speed
};
// Looks `name` up in share/catalogue/machines.json. ERR_NOT_FOUND names the nearest.
int bench_catalogue_find(const char *name, struct bench_machine *out, struct err *e);

// ---- one request --------------------------------------------------------------------------------

struct bench_sample {
    double total_s;             // the client's wall time
    double prefill_s, decode_s; // as the workers tell
    double tail_s;              // hybrid and serial only
    double compute_s, export_s; // of the prefill worker, hybrid and serial only
    double kv_bytes;
    double predicted_s; // of the total, as the gateway foresaw it; 0: it did not
    double cached_tokens;
};

struct bench_request {
    const char *url; // of the gateway, without a path
    enum bench_plan plan;
    const int32_t *tokens;
    size_t n_tokens;
    uint32_t gen_tokens;
    bool warm; // may begin with what the nodes hold
    bool keep; // nodes keep what they computed
};

struct bench_answer {
    struct bench_sample sample;
    enum bench_plan plan; // that was followed
    char *text;           // owned
    char *model;          // owned
    json_t *timings;      // owned
};
// ERR_MISMATCH when the plan was not followed to the end (a fallback, a warm prefix that was not
// asked for): such an answer measures something else. ERR_CANCELLED after a signal.
int bench_request_run(const struct bench_request *q, struct bench_answer *a, struct err *e);
void bench_answer_fini(struct bench_answer *a);
// What is neither special nor a byte in every vocabulary; letters for the fake engine.
void bench_token_range(const char *model, int32_t range[2]);
// Token ids of a prompt like no other, drawn from [min, max); the caller frees them.
int32_t *bench_prompt_make(size_t n, int32_t min, int32_t max);
// What the gateway says about its nodes: hardware, builds, model, weights. A new reference.
int bench_nodes_get(const char *gateway, json_t **nodes, struct err *e);
// SIGINT and SIGTERM end the running request, so that the caller can clean up.
void bench_signals_catch(void);
bool bench_signal_seen(void);

// ---- a pair of nodes as processes ---------------------------------------------------------------

struct bench_pair;
struct bench_pair_options {
    const char *model;
    uint32_t ctx;
    struct bench_machine machines[2]; // prefill, decode
    double link_bytes_per_s;          // 0: unshaped
    bool no_tiles;
    uint32_t min_chunk_tokens; // 0: the worker's default
};
// Starts `tandem node` and `tandem serve` with a throw-away key, waits until both are up and one
// small hybrid request went through.
int bench_pair_start(const struct bench_pair_options *o, struct bench_pair **out, struct err *e);
const char *bench_pair_url(const struct bench_pair *p);
void bench_pair_free(struct bench_pair *p);

// ---- runs of the four lines ---------------------------------------------------------------------

struct bench_series_options {
    const char *url;
    uint32_t prompt_tokens, gen_tokens;
    size_t runs;
    const char *what;             // for the progress bar
    bool stop_on_overrun;         // an emulated run with an overrun is void: go no further
    int32_t token_min, token_max; // prompt token ids are drawn from [min, max)
};

struct bench_series {
    size_t runs; // complete ones
    struct bench_sample samples[BENCH_PLANS][BENCH_RUNS_MAX];
    char names[2][BENCH_NAME_BYTES]; // prefill, decode node
    char model[BENCH_NAME_BYTES];
    bool identical;       // all four lines of every run gave the same text
    double overruns[2];   // of each node, since it started
    double worst_ratio;   // real time / slot
    double floor_s[2][2]; // [node][prefill, decode]: slowest real seconds per token of any step
    json_t *timelines[BENCH_RUNS_MAX]; // of the hybrid runs
    json_t *nodes;                     // as bench_nodes_get gives them
};
int bench_series_run(const struct bench_series_options *o, struct bench_series *s, struct err *e);
void bench_series_fini(struct bench_series *s);
// Folds the steps of one answer's timeline into floor_s.
void bench_floor_update(struct bench_series *s, enum bench_plan plan, const json_t *timings);
// The smallest time scale at which the slowest steps of the series fit the machines' slots.
double bench_time_scale(const struct bench_series *s, const struct bench_machine machines[2]);

// ---- the result ---------------------------------------------------------------------------------

struct bench_options {
    const char *model;
    const char *emulate; // "PREFILL+DECODE" of the catalogue, or NULL
    const char *nodes;   // "PREFILL,GATEWAY-URL", or NULL
    uint32_t prompt_tokens, gen_tokens, runs;
    uint32_t unpaced_runs; // 0: as many as runs
    double link_ratio;     // KV time / prefill time
    double time_scale;     // 0: found by trying
    bool no_tiles;
    uint32_t min_chunk_tokens;
    bool grid;           // many cells instead of one, bench_grid.h
    uint32_t grid_cells; // of each link, at most; 0: all
    bool json;           // nothing but JSON goes to stdout
};
void bench_options_default(struct bench_options *o);
// The machines of `emulate`.
int bench_machines_find(const char *emulate, struct bench_machine out[2], struct err *e);
// Measures and returns the JSON of the result (new reference).
int bench_run(const struct bench_options *o, json_t **result, struct err *e);

double bench_median(const double *values, size_t n); // of 1 to BENCH_SAMPLES_MAX; else 0
// What a time scale and series give; `unpaced` may be NULL.
struct bench_outcome {
    const struct bench_options *options;
    const struct bench_series *series, *unpaced;
    bool emulated;
    double time_scale, link_bytes_per_s;
};
json_t *bench_result_json(const struct bench_outcome *o);
// "PATH>=NUMBER", "PATH<=NUMBER": 0 when it holds, ERR_MISMATCH with the value, ERR_INVALID.
int bench_require(const json_t *result, const char *bound, struct err *e);

// Table and timeline to stdout, or the JSON.
void bench_print(const json_t *result, bool json);
// Table, timeline and JSON as one text file, to compare or to attach to a bug.
int bench_report_write(const json_t *result, const char *path, struct err *e);
int bench_svg_write(const json_t *result, const char *path, struct err *e);
int bench_json_write(const json_t *result, const char *path, struct err *e);

#endif
