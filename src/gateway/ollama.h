// Ollama's API, as far as it reads and answers: /api/chat and /api/generate are dialects
// (dialect_ollama*.c); the bodies of /api/tags, /api/show, /api/ps and /api/version are made here
// (ollama.c).
//
// Pure: no threads, no I/O.
#ifndef GATEWAY_OLLAMA_H
#define GATEWAY_OLLAMA_H

#include "engine/engine.h"
#include "gateway/parse.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The release of Ollama whose shapes these are: clients compare it with what they need.
#define OLLAMA_VERSION "0.12.6"

// A model as it is told of. Everything is borrowed.
struct ollama_model {
    const char *name;
    const struct engine_identity *identity;
    const struct engine_limits *limits;
    bool chats;          // has a chat template
    uint64_t file_bytes; // 0: not known
    int64_t modified_s;  // of the file, since 1970; 0: not known
};

// Bodies; new references.
json_t *ollama_tags_json(const struct ollama_model *models, size_t n); // all that can be loaded
json_t *ollama_ps_json(const struct ollama_model *models, size_t n);   // those that are loaded
json_t *ollama_show_json(const struct ollama_model *model);
json_t *ollama_version_json(void);
json_t *ollama_error_json(const char *message);

// The model that a body of /api/show asks for, without the tag that says nothing (":latest").
int ollama_show_parse(const json_t *body, char model[PARSE_MODEL_BYTES], struct parse_fault *fault);

// "2026-01-31T12:00:00Z" of seconds since 1970.
#define OLLAMA_TIME_BYTES 32
void ollama_time(int64_t s, char out[OLLAMA_TIME_BYTES]);

// ---- the dialects' requests ----
int ollama_parse_chat(const json_t *body, struct parse_request *out, struct parse_fault *fault);
int ollama_parse_generate(const json_t *body, struct parse_request *out, struct parse_fault *fault);

#endif
