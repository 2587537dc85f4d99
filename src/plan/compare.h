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

enum plan_rates { PLAN_RATES_AUTO, PLAN_RATES_LLAMA, PLAN_RATES_PUBLISHED };

struct plan_pair {
    const char *machines[2], *link, *model, *quant;
    double prompt, gen; // tokens
    enum plan_rates rates;
};

struct plan_solo {
    const char *name; // the machine's
    bool fits;
    double need_bytes, have_bytes;
    double prefill_s, decode_s, total_s;
    const char *source; // of published rates, else NULL
};
struct plan_both {
    double prefill_s, transfer_s, tail_s, decode_s, total_s;
};

struct plan_comparison {
    bool published; // whose rates
    struct plan_solo solo[2];
    size_t reader, writer;           // indices into solo
    bool possible;                   // the model fits into both
    struct plan_both hybrid, serial; // as far as possible
    double best_solo_s;
    double gain; // best solo over hybrid
    double kv_bytes, link_bytes_per_s;
    // From where the hybrid beats the best single machine, the other two as asked; NAN: nowhere.
    double even_prompt, even_gen, even_gbps;
    double fade_gen; // the longest answer with at least a tenth gained; INFINITY: any, NAN: none
};

// Whether somebody published rates of both machines for this model.
bool plan_published(const struct plan_catalogue *c, const struct plan_pair *p);
// ERR_NOT_FOUND: unknown names, or no published rates where they were asked for; ERR_INVALID: numbers.
int plan_compare(const struct plan_catalogue *c, const struct plan_pair *p,
                 struct plan_comparison *out, struct err *e);

#endif
