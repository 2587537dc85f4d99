// Reports: what the planner found as one JSON document, and that document as text for a terminal or as one HTML
// page that needs nothing else. Documents are made here alone; whoever draws them only reads them, so text,
// page and JSON cannot say different things. docs/planner.md describes the members, which stay what they are.
//
// A document has a "kind": "advice", "comparison", "platforms"; each may hold
//     options      machines and pairs in order (advice)
//     pair         a comparison of two machines, as `tandem plan compare --json` prints it
//     curves       how its gain changes with answer, link, warm prefix and prompt
//     platforms    which machine is good for what
//     timeline     series over time; a simulation adds it (plan_report_timeline)
// Predicted figures are {"value", "low", "high"}: four measurements in five lie in between. Published ones have
// null for both.
//
// Pure; any thread; documents belong to the caller.
#ifndef PLAN_REPORT_H
#define PLAN_REPORT_H

#include "base/buf.h"
#include "base/err.h"
#include "plan/advise.h"
#include "plan/compare.h"

#include <jansson.h>
#include <stdbool.h>

#define PLAN_REPORT_MAX_BYTES (8u << 20)
#define PLAN_REPORT_VERSION 1

// ---- documents -----------------------------------------------------------------------------------------

// A number, or null for NAN and infinities.
json_t *plan_report_number(double x);
// {"value", "low", "high"}
json_t *plan_report_figure(double value, struct plan_range range);
// A comparison's members; `other`: the same with the other's rates, or NULL.
json_t *plan_report_comparison(const struct plan_comparison *r);

struct plan_report_pair {
    struct plan_pair pair;
    const struct plan_comparison *found, *other; // other may be NULL
};
// Of kind "comparison", with its curves.
int plan_report_pair(const struct plan_catalogue *c, const struct plan_report_pair *p, json_t **out,
                     struct err *e);
// Of kind "advice"; the pair is the best one, else one that was asked for, else the known one. `show`: how many
// options; 0: all.
int plan_report_advice(const struct plan_catalogue *c, const struct plan_question *q,
                       const struct plan_advice *a, size_t show, json_t **out, struct err *e);
// Of kind "platforms": what is which of the machines good for, and what is said of them against the figures here.
int plan_report_platforms(const struct plan_catalogue *c, const char *const *machines, size_t n,
                          json_t **out, struct err *e);
// Those that people choose between: NULL-terminated.
extern const char *const plan_report_usual[];
// For the curves: adds "curves" to a document.
int plan_report_curves(const struct plan_catalogue *c, const struct plan_report_pair *p,
                       json_t *document, struct err *e);

// One series of a timeline: n values of [0, 1] or any unit, at even steps of `step_s`.
struct plan_report_series {
    const char *name, *unit;
    const double *values;
    size_t n;
    double step_s;
};
// Adds a chart over time to a document of any kind, which may be an empty object with a "kind" and a "title".
void plan_report_timeline(json_t *document, const char *title,
                          const struct plan_report_series *series, size_t n);

// ---- pictures ------------------------------------------------------------------------------------------

struct plan_report_style {
    int width; // columns
    bool utf8, color;
};
void plan_report_text(const json_t *document, const struct plan_report_style *style,
                      struct buf *out);
void plan_report_html(const json_t *document, struct buf *out);

#endif
