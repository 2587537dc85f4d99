// Two machines and a link against each of them alone: what the hand-off of the KV cache would give for a
// prompt and an answer, where it begins to pay, and where the gain fades.
//
// Pure, as predict.h. The rates are either predicted for llama.cpp or those that somebody published for this
// very model (the member "rates" of a machine); published rates stand for one prompt length, and are taken as
// constant. The one who reads is chosen by the prompt, the one who writes is the other, whichever way is faster.
#ifndef PLAN_COMPARE_H
#define PLAN_COMPARE_H

#include "base/err.h"
#include "plan/catalogue.h"

#include <stdbool.h>
#include <stddef.h>

// Four in five lie between; NAN, NAN: published, whoever did it gave no interval.
struct plan_range {
    double low, high;
};

struct plan_model;

enum plan_rates { PLAN_RATES_AUTO, PLAN_RATES_LLAMA, PLAN_RATES_PUBLISHED };

struct plan_pair {
    const char *machines[2], *link, *model, *quant;
    double prompt, gen; // tokens
    double warm;        // share of the prompt that everybody's cache holds already, below 1
    double batch;       // answers that are written at the same time; 0: one
    enum plan_rates rates;
    bool brief; // without break-evens
    // What plan_model_get gave for model and quant; NULL: it is called.
    const struct plan_model *read;
};

struct plan_solo {
    const char *name; // the machine's
    bool fits;
    double need_bytes, have_bytes;
    double prefill_s, decode_s, total_s;
    struct plan_range prefill, decode, total; // of these
    const char *source;                       // of published rates, else NULL
};
struct plan_both {
    double prefill_s, transfer_s, tail_s, decode_s, total_s;
    struct plan_range total;
};

struct plan_comparison {
    bool published; // whose rates
    struct plan_solo solo[2];
    size_t reader, writer;           // indices into solo
    bool possible;                   // the model fits into both
    struct plan_both hybrid, serial; // as far as possible
    double best_solo_s;
    double gain; // best solo over hybrid
    struct plan_range gain_range;
    double kv_bytes, link_bytes_per_s;
    // From where the hybrid beats the best single machine, the other two as asked; NAN: nowhere.
    double even_prompt, even_gen, even_gbps;
    double fade_gen;  // the longest answer with at least a tenth gained; INFINITY: any, NAN: none
    double fade_warm; // the largest warm share with at least a tenth gained; NAN: none
};

// The fastest link from a to b, or NULL: where links of theirs are of one family, they meet at the slower one.
const char *plan_link_between(const struct plan_catalogue *c, const char *a, const char *b);
// Whether somebody published rates of both machines for this model.
bool plan_published(const struct plan_catalogue *c, const struct plan_pair *p);
// ERR_NOT_FOUND: unknown names, or no published rates where they were asked for; ERR_INVALID: numbers.
int plan_compare(const struct plan_catalogue *c, const struct plan_pair *p,
                 struct plan_comparison *out, struct err *e);
// The same of machines[0] alone; link and machines[1] may be NULL.
int plan_alone(const struct plan_catalogue *c, const struct plan_pair *p, struct plan_solo *out,
               struct err *e);

// One point of a curve: the gain where one figure of a pair is another.
enum plan_axis { PLAN_AXIS_PROMPT, PLAN_AXIS_GEN, PLAN_AXIS_GBPS, PLAN_AXIS_WARM };
struct plan_point {
    double x;
    double over_reader, over_writer; // over each of them alone; 0: it does not fit
    double gain;                     // over the better
    struct plan_range range;
};
struct plan_points {
    enum plan_axis axis;
    size_t n;
    struct plan_point *at;
};
// Fills in all but x; reader and writer are those of `as`, what plan_compare gave. Points that cannot be get NAN.
int plan_curve(const struct plan_catalogue *c, const struct plan_pair *p,
               const struct plan_comparison *as, struct plan_points *points, struct err *e);

#endif
