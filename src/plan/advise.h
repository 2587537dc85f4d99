// Advice: which single machine, or which pair over a link that both have, serves a workload best, what it
// costs, and why; and when a pair is not worth its money, with the number that makes it so.
//
// Every machine of the catalogue with a price (or that the user owns) is a candidate, alone and in pairs of two
// different ones. What an hour of the workload keeps busy decides: requests, one after the other or as many at once
// as it takes, the reader of a pair and its writer at the same time; fine-tuning and images of a pair where
// they are soonest done. A candidate that is busy for more than PLAN_BUSY_MOST of the time does
// not keep up.
//
// Money: the price in equal parts over the years, nothing got back, and electricity: load_w while busy, idle_w
// else, all day long. Energy of an answer: load_w of whoever works, idle_w of whoever waits.
//
// Owner of the result: the caller. Names borrow from catalogue and query. Pure but for GGUF headers.
#ifndef PLAN_ADVISE_H
#define PLAN_ADVISE_H

#include "base/err.h"
#include "plan/catalogue.h"
#include "plan/compare.h"
#include "plan/workload.h"

#include <stdbool.h>
#include <stddef.h>

#define PLAN_BUSY_MOST 0.8
#define PLAN_NAMES_MAX 16
#define PLAN_WORTH 1.1 // a gain of a tenth is the least that is called one

enum plan_noise { PLAN_NOISE_QUIET, PLAN_NOISE_AUDIBLE, PLAN_NOISE_LOUD };
extern const char *const plan_noise_names[];

enum plan_order { PLAN_BY_TIME, PLAN_BY_MONEY, PLAN_BY_ENERGY, PLAN_BY_VALUE };

// 0: no such limit.
struct plan_limits {
    double budget_usd, memory_min_gb, power_max_w;
    enum plan_noise noise_most;
    bool only_mac;
    bool cloud; // may be elsewhere than at home
};

struct plan_question {
    struct plan_workload work;
    struct plan_limits limits;
    const char *link;                  // every pair's; NULL: the fastest that both have
    const char *only[PLAN_NAMES_MAX];  // machines to look at; none: all
    const char *owned[PLAN_NAMES_MAX]; // cost nothing
    enum plan_rates rates;
    enum plan_order order;
    double usd_per_kwh, years;
};
void plan_question_defaults(struct plan_question *q);

// What keeps an option from being one.
enum plan_fail {
    PLAN_FAIL_PRICE = 1,      // nobody knows one, and it is not owned
    PLAN_FAIL_CLOUD = 2,      // not at home
    PLAN_FAIL_FIT = 4,        // the model into its memory
    PLAN_FAIL_TRAIN = 8,      // the fine-tune into its memory
    PLAN_FAIL_PUBLISHED = 16, // published rates were asked for, and there are none
    PLAN_FAIL_KEEPS_UP = 32,
    PLAN_FAIL_BUDGET = 64,
    PLAN_FAIL_MEMORY = 128,
    PLAN_FAIL_POWER = 256,
    PLAN_FAIL_NOISE = 512,
    PLAN_FAIL_MAC = 1024,
    PLAN_FAIL_GAIN = 2048, // a pair that is hardly faster than one of its two
};

struct plan_option {
    const char *names[2], *titles[2];
    size_t n; // machines
    const char *link;
    double price_usd;
    const char *price_date;
    const char *sold_until[2];        // when it was last sold new; NULL: it is
    double memory_gb, load_w, idle_w; // memory: of the larger
    struct plan_solo solo[2];         // each alone, at this batch
    struct plan_comparison two;       // of a pair, without break-evens
    double batch;                     // answers at once that it takes to keep up
    double prefill_s, tail_s, decode_s, total_s, ttft_s, tokens_per_s;
    struct plan_range total, ttft, tokens;
    struct plan_task train, image; // of the machine that does it
    double busy;                   // share of an hour
    double work_s; // of an hour's work: answers one after the other, tasks of a pair side by side
    double joules; // per answer
    double kwh_per_year, usd_per_year;
    double gain;    // of a pair: the better of its two alone over both, in seconds of work
    unsigned fails; // bits of enum plan_fail
    enum plan_noise noise;
    bool owned[2];
    bool shares;   // of a pair: both work on one answer; else the better one answers alone
    bool frontier; // nothing that costs less a year is as fast
};

struct plan_advice {
    struct plan_option *options; // in order; those left out last
    size_t n, n_good;
    size_t fastest, cheapest, value, single, pair; // indices of the best; n: none
    double budget_pair_usd; // the least that a pair with a gain costs; 0: there is none
};

// ERR_NOT_FOUND: unknown names; ERR_INVALID: numbers; ERR_RANGE: nothing is within the limits, with what to change.
// *out is filled in for ERR_RANGE too.
int plan_advise(const struct plan_catalogue *c, const struct plan_question *q,
                struct plan_advice *out, struct err *e);
void plan_advice_free(struct plan_advice *a);

// ---- words (advise_words.c) ------------------------------------------------------------------------------

#define PLAN_LINES 8
struct plan_words {
    char lines[PLAN_LINES][320];
    size_t n;
};
void plan_words_add(struct plan_words *w, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// "dgx-spark + mac-studio-m3-ultra"
void plan_option_name(const struct plan_option *o, char *out, size_t out_bytes);
// Why an option is where it is.
void plan_option_why(const struct plan_question *q, const struct plan_advice *a, size_t option,
                     struct plan_words *out);
// Why it is none, from the first thing that fails; "" where nothing does.
void plan_option_left_out(const struct plan_question *q, const struct plan_option *o,
                          struct plan_words *out);
// Whether a pair is worth its money, and every number that speaks against it; `two` has break-evens.
bool plan_pair_worth(const struct plan_question *q, const struct plan_advice *a,
                     const struct plan_option *o, const struct plan_comparison *two,
                     struct plan_words *out);
// What to buy: the fastest, the one of best value, the cheapest, and whether a pair is worth it.
void plan_advice_words(const struct plan_question *q, const struct plan_advice *a,
                       struct plan_words *out);
// The error where nothing is left: what stands in the way, and what to change.
int plan_advice_nothing(const struct plan_question *q, const struct plan_advice *a, struct err *e);

#endif
