// The script of the fake engine: rules that decide an answer; fake.h has their form. Internal to it.
#ifndef ENGINE_ENGINE_FAKE_SCRIPT_H
#define ENGINE_ENGINE_FAKE_SCRIPT_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>

// ERR_NOT_FOUND, or ERR_INVALID for a file that is not a list of rules, naming the place.
int fake_script_load(const char *path, json_t **out, struct err *e);
// The answer of the first rule that fits the request, borrowed from the script; NULL: none fits.
const char *fake_script_answer(const json_t *script, const json_t *request);
// Whether the request offers any tool, or the one of this name.
bool fake_script_tool_offered(const json_t *request, const char *name);

#endif
