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

// What a user gave for -m, for a worker with these options; their projector, where there is one, goes
// before the model's own. Unless `any_memory`, ERR_BUSY for a model that
// needs more memory than the machine has free. What cannot be read here is passed on: the engine says
// what is wrong with it.
int cli_model_find(const char *name, const struct engine_options *o, bool any_memory,
                   struct models_found *out, struct err *e);
// Bytes of memory that o->model, a path, needs; 0: not known.
uint64_t cli_model_need(const struct engine_options *o);
// The path alone, without a look at memory, for commands that load a model for themselves.
int cli_model_path(const char **model, struct err *e);
// The option --no-memory-check of commands that call cli_model_find.
struct cli_option cli_model_room_option(bool *value);

#endif
