// How much of a prompt may be read between two tokens of running answers. Pure: it is told what steps
// took and says how many prompt rows the next one may carry.
//
// A prompt row that goes along in a decode step makes that step longer; a chunk of its own makes the
// next one late. With a bound B on the time from one token to the next, and a quiet decode step of q,
// both must fit into B - q. Chunks of 64 rows and more are the faster way to read, so they go apart
// where one fits; else rows go along, as many as fit, at least one, so that no prompt waits for ever.
// All rows of a mixed step stay below 64: from there on another attention kernel rounds the decode rows
// differently, and an answer would depend on who else is served.
//
// Where answers live apart from the prompt none of this is needed: a chunk is computed in parts (layers),
// and between two of them a decode step may run. Its rows are then so many that a part fits into
// half of B - q, and that the chunk keeps the worker from other things no longer than PACE_CHUNK_S.
//
// The same holds for an answer behind a long prompt, of which a token takes longer than the others' wait may be:
// it is computed in parts as well. It gets a third of B - q only, as do the segments of a hand-off: whoever waits for
// them waits little longer, and everybody else would notice.
//
// Owner: the engine thread.
#ifndef NODE_PACE_H
#define NODE_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define PACE_ROWS 256 // decode rows that are told apart
#define PACE_APART 64 // a chunk of its own has at least so many rows
#define PACE_CHUNK_S 0.25
#define PACE_AUTO 1.75 // the bound, in quiet steps, when none is given: leaves room below twice
#define PACE_TRY_AGAIN                                                                             \
    16 // mixed steps until what was too many is tried once more; doubled each time that
#define PACE_TRY_RARELY 1024 // it was so again, up to this
#define PACE_SURE 3          // a number of rows was too many when it was so often in a row
#define PACE_LOOK_AGAIN 32   // every so many steps one is quiet, to see what quiet is

struct pace {
    double bound_s;                  // between two tokens; 0: none; < 0: PACE_AUTO quiet steps
    double quiet_s[PACE_ROWS + 1];   // a decode step of so many rows; 0: not yet seen
    double mixed_row_s, chunk_row_s; // what a prompt row takes, going along and apart; 0: unknown
    // The last mixed step: its prompt rows and what they took in all.
    uint32_t rows;
    double over_s;
    // So many rows were too many (0: not known), how many mixed steps ago, and when to try them again.
    uint32_t too_many, too_many_age, too_many_wait;
    uint32_t late, late_rows; // how often steps of so many rows took longer than the bound
    uint32_t since;           // steps since the last quiet one
};

struct pace_share {
    uint32_t rows; // 0: none this time
    bool apart;    // in a step of their own, after the decode step
};

void pace_init(struct pace *p, double bound_s);
// With n answers running. `row_s`: what a prompt row takes in full chunks, as far as is known.
struct pace_share pace_share_get(const struct pace *p, uint32_t n, double row_s);
// Rows of a chunk that is computed in so many parts, with n answers running in between.
uint32_t pace_chunk_rows(const struct pace *p, uint32_t n, uint32_t parts, double row_s);
// Seconds that other work may take between two decode steps of n rows; a large number without a bound.
double pace_spare_s(const struct pace *p, uint32_t n);
// What of it is for work that is no reading.
double pace_calm_spare_s(const struct pace *p, uint32_t n);
// Would the row of one more answer, whose step takes so long by itself, make the step of n late? What it takes
// beyond one quiet row is its depth's, which no batch shares.
bool pace_is_slow(const struct pace *p, uint32_t n, double step_s);
// What was seen: a decode step of n rows with `rows` prompt rows (0: quiet), and a chunk apart.
void pace_learn_step(struct pace *p, uint32_t n, uint32_t rows, double seconds);
void pace_learn_chunk(struct pace *p, uint32_t rows, double seconds);

#endif
