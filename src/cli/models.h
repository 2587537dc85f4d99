// What the commands about models share. Private to cli/.
#ifndef CLI_MODELS_H
#define CLI_MODELS_H

#include "cli/cli.h"
#include "models/memory.h"
#include "models/store.h"

#include <jansson.h>

// New reference: name, quant, bytes, context, path, ...
json_t *models_entry_json(const struct models_entry *m, const char *name);
// One line on stdout.
void models_json_print(const json_t *v);
// "3 days", "just now".
void models_age_format(int64_t unix_s, char out[32]);

// Replaces *model, what a user gave for -m, by the path it means; the text lives as long as the process.
// NULL stays NULL. What is no name of the store stays as it is, for the engine to judge.
int cli_model_find(const char **model, struct err *e);
// Refuses (ERR_BUSY) a model that needs more memory than the machine has free. Without an opinion on what it
// cannot read: then 0, and the engine says what is wrong with it.
int cli_model_room(const struct engine_options *o, const char *name, struct err *e);

#endif
