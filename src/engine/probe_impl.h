// What the probe's files share: the work that both the short probe at load and the full check do.
// Private to engine/probe*.c.
//
// Processes: `probe` runs everything in one child, one sequence in one engine, its memory zeroed between
// writing and reading. `check` runs a prefill and a decode child that share nothing but a pipe.
#ifndef ENGINE_PROBE_IMPL_H
#define ENGINE_PROBE_IMPL_H

#include "engine/probe.h"

#include <jansson.h>

#define PROBE_RANGES 4
// No range is shorter: kernels may compute small batches differently, which is not the hand-off's doing.
#define PROBE_RANGE_TOKENS 64
#define CHECK_RANGE_TOKENS 200
#define PROBE_RANGE_TOKENS_MAX 1024
#define PROBE_BLOB_BYTES_MAX ((size_t)16 << 30)

enum { PROBE_REPORT_FD = 3, PROBE_DATA_FD = 4 };

// PROBE_RANGES ranges of range_tokens each and one token after them.
struct probe_plan {
    uint32_t range_tokens;
    int32_t *tokens; // PROBE_RANGES * range_tokens + 1, owned
};
void probe_plan_init(struct probe_plan *p, uint32_t range_tokens, uint32_t n_vocab);
void probe_plan_fini(struct probe_plan *p);

static inline uint32_t probe_plan_end(const struct probe_plan *p)
{
    return PROBE_RANGES * p->range_tokens;
}

// The KV of a range as bytes. `early`: the state one range before the end, for a control run.
struct probe_blob {
    uint32_t p0, p1;
    bool last, early;
    size_t len;
    void *data; // owned
};
#define PROBE_BLOBS_MAX (PROBE_RANGES + 1)
struct probe_blobs {
    struct probe_blob items[PROBE_BLOBS_MAX];
    size_t n;
};
void probe_blobs_free(struct probe_blobs *b);

// Computes [0, end) of sequence 0 range by range and gives each exported range to `put` (NULL: the un-split
// run). The engine's mode decides what a range is.
typedef int probe_put(void *ctx, struct probe_blob *blob, struct err *e);
int probe_prefill(struct engine *g, const struct probe_plan *p, probe_put *put, void *ctx,
                  struct err *e);
// Computes the token after what the sequence holds, and copies its logits (n_vocab floats).
int probe_last_token(struct engine *g, const struct probe_plan *p, uint32_t pos, float *logits,
                     struct err *e);
// One comparison with the un-split run.
struct probe_compare {
    struct engine *g;
    const struct probe_plan *plan;
    const struct probe_blobs *blobs;
    const float *ref; // logits of the un-split run
    double diff;      // out: the largest difference
    const char *note; // out, of a control: what was left out
};
// Clears the engine, imports all ranges, computes the last token and compares.
int probe_decode(struct probe_compare *c, struct err *e);
// The same with something left out: a middle range, or where that changes nothing the last one.
int probe_control(struct probe_compare *c, struct err *e);

// Largest difference; 0 only for the same bits, NaNs included.
double probe_diff(const float *a, const float *b, size_t n);

// ---- options and reports of the children ----------------------------------------------------------

struct probe_args {
    struct engine_options engine;
    const char *role; // "find", "prefill", "decode"
    unsigned skip;    // bit per enum engine_handoff: modes not to try
    uint32_t range_tokens;
    bool json;
};
int probe_args_parse(int argc, char **argv, struct probe_args *a, struct err *e);

#define PROBE_ARGV_MAX 32
struct probe_child {
    pid_t pid;
    int report; // what the child writes to PROBE_REPORT_FD
};
// Starts `tandem-worker probe --role ROLE ...`. data_fd >= 0 becomes PROBE_DATA_FD in the child.
int probe_child_start(const struct probe_args *a, int data_fd, struct probe_child *c,
                      struct err *e);
// Reads one report (a line of JSON). NULL: the child closed, or timed out (then it was killed).
json_t *probe_child_read(struct probe_child *c);
// Closes, reaps, and says in words how it ended.
void probe_child_end(struct probe_child *c, char *how, size_t cap);

void probe_report(json_t *report); // writes one line to PROBE_REPORT_FD; takes the reference
json_t *probe_report_error(const struct err *e);
// 0, or the error that a report carries.
int probe_report_check(const json_t *report, struct err *e);

void probe_result_read(const json_t *object, struct probe_result *out);
// Adds a sentence to the reason, cut to what fits.
void probe_reason_add(struct probe_result *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// An engine of one sequence, wide enough for PROBE_RANGES ranges of range_tokens and the last token.
int probe_engine_open(const struct probe_args *a, uint32_t range_tokens, struct engine **g,
                      struct err *e);

// ---- entry points ----------------------------------------------------------------------------------

int probe_find_child(const struct probe_args *a);    // role find
int probe_prefill_child(const struct probe_args *a); // role prefill
int probe_decode_child(const struct probe_args *a);  // role decode
int probe_check(const struct probe_args *a);         // `check`: exit code
// Finds the best mode with child processes, without the cache.
int probe_find(const struct probe_args *a, struct probe_result *out, struct err *e);

#endif
