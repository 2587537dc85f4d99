// The shapes of what a client receives: OpenAI's chunks, whole answers and errors, with `timings`.
//
// Pure functions that build text; the caller frees it. Text that comes from elsewhere (a worker, a
// peer, a cut-short message) is made valid UTF-8 on the way, so that building never fails.
#ifndef GATEWAY_ANSWER_H
#define GATEWAY_ANSWER_H

#include "base/err.h"
#include "gateway/parse.h"

#include <jansson.h>
#include <stdint.h>

#define ANSWER_ID_BYTES 48

// What all parts of one answer share.
struct answer_head {
    enum parse_kind kind;
    char id[ANSWER_ID_BYTES]; // "chatcmpl-..." or "cmpl-..."
    const char *model;
    int64_t created; // seconds since 1970
};

struct answer_usage {
    uint32_t prompt_tokens, cached_tokens, gen_tokens;
};

// A JSON string of any bytes.
json_t *answer_string(const char *text);

void answer_id_make(enum parse_kind kind, char out[ANSWER_ID_BYTES]);

// ---- event streams: each is one whole "data: ...\n\n" -------------------------------------------------

char *answer_event_role(const struct answer_head *h); // chat only: the first chunk
char *answer_event_text(const struct answer_head *h, const char *text);
// The chunk with the finish reason. Borrows timings.
char *answer_event_finish(const struct answer_head *h, const char *finish, json_t *timings);
// The chunk without choices that stream_options.include_usage asks for. Borrows timings.
char *answer_event_usage(const struct answer_head *h, const struct answer_usage *u,
                         json_t *timings);
// As answer_error, in a stream that has begun.
char *answer_event_error(unsigned status, const char *message, const char *code, const char *param);
#define ANSWER_EVENT_DONE "data: [DONE]\n\n"
#define ANSWER_EVENT_BEAT ": tandem\n\n"

// ---- whole bodies -----------------------------------------------------------------------------------

struct answer_whole {
    const char *text, *finish;
    struct answer_usage usage;
    json_t *timings; // borrowed
};
char *answer_whole(const struct answer_head *h, const struct answer_whole *w);

// {"error": {message, type, code, param}}; code and param may be NULL.
char *answer_error(unsigned status, const char *message, const char *code, const char *param);
// HTTP status of an error that a worker or the core reported.
unsigned answer_status(int err_code);

#endif
