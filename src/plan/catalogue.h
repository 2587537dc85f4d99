// The catalogue: machines, models, quantisations, links, fitted efficiencies, and published figures of other
// work than inference (tasks), as data.
//
// It is read from share/catalogue beside the program (TANDEM_SHARE names another share folder), and every
// *.json in the folder catalogue/ of the user's configuration is laid over it: a file holds any of the
// members "machines", "models", "quantisations", "links" and "tasks", lists of objects as in the files that come with
// the program; an entry of a known name replaces the one that was there.
//
// Owner: who opened it; after that it does not change, so any thread may read. It checks that names are there;
// figures are checked where they are used (plan/predict.h), with an error that names entry and member.
#ifndef PLAN_CATALOGUE_H
#define PLAN_CATALOGUE_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum plan_kind { PLAN_MACHINE, PLAN_MODEL, PLAN_QUANT, PLAN_LINK, PLAN_TASK };
#define PLAN_KINDS 5

#define PLAN_NAME_BYTES 128

struct plan_catalogue;

// ERR_NOT_FOUND: no catalogue beside the program; ERR_INVALID: a file is no JSON or not of this form.
int plan_catalogue_open(struct plan_catalogue **out, struct err *e);
void plan_catalogue_free(struct plan_catalogue *c);

// By id or alias, in any case. Borrowed; NULL with ERR_NOT_FOUND and the nearest names.
const json_t *plan_catalogue_find(const struct plan_catalogue *c, enum plan_kind kind,
                                  const char *name, struct err *e);
// The id of an entry.
const char *plan_catalogue_id(enum plan_kind kind, const json_t *entry);
// All entries of a kind, {name or alias in lower case: entry}; borrowed.
const json_t *plan_catalogue_all(const struct plan_catalogue *c, enum plan_kind kind);

// A fitted number (plan_fit.py says which there are); 0 where nothing was fitted.
double plan_catalogue_number(const struct plan_catalogue *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// Whether a run of that machine, family of models, class of quantisation and engine was fitted on; NULL
// stands for any.
bool plan_catalogue_has_run(const struct plan_catalogue *c, const char *machine, const char *family,
                            const char *quant_class, const char *engine);
// The 10th and 90th percentile of the logarithm of actual over predicted time, for things of that kind
// ("row", "run", "machine", "model") that the fit did not see.
void plan_catalogue_spread(const struct plan_catalogue *c, const char *kind, bool prefill,
                           double *low, double *high);

#endif
