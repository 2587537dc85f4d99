// `tandem bench --grid`: does the gateway choose the plan that is fastest?
//
// A cell is a prompt, an answer, a link, and who holds the prompt's beginning already. In each cell
// every plan is asked for by name and the gateway is let choose (`auto`), in turns, on real
// processes and real links. What it chose is then judged by what that plan took when measured:
//
//   regret   median of the chosen plan / median of the best plan - 1. All runs of a plan count for it,
//            asked for or chosen, so that a right choice has a regret of 0, not of noise.
//   error    |predicted total - measured total| / measured total, of each choice alone.
//
// Most cells are the fake engine's, paced at a tenth of the catalogue's times; a few are those of
// the caller's model, slowed down as `tandem bench` does. Each link has a pair of its own; its first
// request is predicted from what the nodes measured of themselves, then ten teach it.
//
// bench_grid.c has the order of work and the cells, bench_grid_judge.c regret, errors and the JSON,
// bench_grid_draw.c the table and the picture.
#ifndef CLI_BENCH_GRID_H
#define CLI_BENCH_GRID_H

#include "base/buf.h"
#include "cli/bench.h"

#define BENCH_GRID_ROWS 48
#define BENCH_GRID_PAIRS 8

enum bench_held { BENCH_COLD, BENCH_HELD_DECODE, BENCH_HELD_PREFILL };

struct bench_cell {
    uint32_t prompt_tokens, gen_tokens;
    double link_ratio;    // KV time / prefill time of the prefill machine; 0: not slowed down
    enum bench_held held; // the node that holds the first three quarters of the prompt
    bool real;            // the caller's model, not the fake engine
};

struct bench_choice {
    enum bench_plan plan;
    double total_s, predicted_s; // predicted 0: the gateway told none
};

struct bench_row {
    struct bench_cell cell;
    size_t n[BENCH_PLANS];
    double totals_s[BENCH_PLANS][BENCH_SAMPLES_MAX]; // asked for or chosen
    size_t n_choices;
    struct bench_choice choices[BENCH_RUNS_MAX];
    double cached_tokens; // most that any run began with
};

struct bench_grid {
    struct bench_row rows[BENCH_GRID_ROWS];
    size_t n_rows;
    struct bench_choice firsts[BENCH_GRID_PAIRS]; // each pair's first request
    size_t n_firsts;
    double time_scale; // of the cells of the caller's model; 0: there are none
    double overruns;   // steps of theirs that took longer than their slots
    size_t unmeasured; // pairs whose nodes did not get to measure themselves
    size_t strays;     // runs that went another way than asked and were made again
    double seconds;    // all of it took
};

struct bench_verdict {
    enum bench_plan chosen, best; // chosen: what it chose most often
    double chosen_s, best_s, predicted_s;
    double regret; // the mean over choices
    double error;  // the same; NAN: nothing was predicted
};

int bench_grid_run(const struct bench_options *o, json_t **result, struct err *e);
// The row has a measurement of some plan, and a choice.
void bench_row_judge(const struct bench_row *r, struct bench_verdict *v);
json_t *bench_grid_json(const struct bench_options *o, const struct bench_grid *g);
void bench_grid_text(const json_t *result, struct buf *out);
void bench_grid_svg(const json_t *result, struct buf *out);

#endif
