// A request's body in, a checked `struct parse_request` out, whatever the API.
//
// Pure: no threads, no I/O. Everything a client can get wrong is refused here or by the worker that
// renders, with the member named; nothing is corrected silently. A member that is not known is
// ignored, as OpenAI's clients expect; one that is known and not supported is refused unless it
// says what happens anyway ("echo": false).
//
// parse_request reads the JSON and hands it to the dialect, whose `parse` translates it into an OpenAI
// chat request and calls parse_openai with that; what is then left to the dialect are its own members
// (`echo`, `stream` where its default differs). Embeddings and the like are dialects too; they fill
// `kind`, `render` and `more` themselves.
#ifndef GATEWAY_PARSE_H
#define GATEWAY_PARSE_H

#include "base/err.h"
#include "node/message.h"
#include "sched/place.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PARSE_MODEL_BYTES 256
#define PARSE_PARAM_BYTES 64
#define PARSE_NODE_BYTES 280         // a node's name or address
#define PARSE_GRAMMAR_MAX (1u << 20) // bytes of a request's own grammar
#define PARSE_STOPS_MAX 16           // of a client
#define PARSE_CHOICES_MAX 8          // answers to one request: n times its prompts
#define PARSE_INPUTS_MAX 2048        // texts of one embeddings request, documents of one ranking

struct dialect;

// What is to be done with the rendered tokens.
enum parse_kind {
    PARSE_CHAT,   // an answer to a conversation
    PARSE_TEXT,   // an answer to a text
    PARSE_EMBED,  // an embedding of each input
    PARSE_RANK,   // a score of each input
    PARSE_RENDER, // nothing: what the worker's rendering said is the answer
};

// An image of a chat: a file's bytes.
struct parse_image {
    uint8_t *data; // owned
    size_t len;
    uint32_t width, height; // as its head says
};

struct parse_request {
    enum parse_kind kind;
    const struct dialect *dialect; // how it is answered; immutable
    json_t *echo;   // members of the request that the dialect's answer repeats; owned; NULL: none
    json_t *render; // head of the RENDER message; owned
    json_t *
        more; // heads of further RENDERs, for several prompts or inputs, in an array; owned; NULL: none
    json_t *asked; // of PARSE_TEXT: the members as they were sent, less the prompt; owned
    struct parse_image *images; // of `render`, in order; owned
    size_t n_images;
    char model[PARSE_MODEL_BYTES]; // "" when the request names none
    uint32_t n;                    // answers to each prompt, at least 1
    uint32_t max_tokens;           // 0: not given; UINT32_MAX: as many as fit
    bool stream, include_usage;
    enum place_kind plan; // PLACE_AUTO: the server's choice
    bool has_policy;
    enum place_policy policy;
    double slo_ttft_s, slo_token_s;                                     // 0: the server's
    char decode_node[PARSE_NODE_BYTES], prefill_node[PARSE_NODE_BYTES]; // "": any
    // Sampling, stops, logprobs, keep ("store"), reuse ("cache_prompt"), ignore_eos and timeline; the rest
    // is filled in when the plan is known. sampling.seed is the first answer's, the others count on.
    struct message_generate generate;
};

// What the client is told.
struct parse_fault {
    struct err e;
    int status;                    // 400 or 413
    char param[PARSE_PARAM_BYTES]; // member at fault, "" when it is the body as a whole
};

// 0, or an error with *fault filled; `out` needs parse_request_fini in both cases.
int parse_request(const struct dialect *dialect, const void *body, size_t n,
                  struct parse_request *out, struct parse_fault *fault);
void parse_request_fini(struct parse_request *r);

// ---- for dialects ---------------------------------------------------------------------------------------

// Checks an OpenAI request (PARSE_CHAT: "messages"; PARSE_TEXT: "prompt") into *out, which parse_request
// has prepared. The request is only read, and what *out keeps of it is shared: do not change it after.
int parse_openai(const json_t *body, enum parse_kind kind, struct parse_request *out,
                 struct parse_fault *fault);
// Fills *fault with a 400 and returns `code`. param NULL: the body as a whole.
int parse_fault_set(struct parse_fault *fault, int code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// The same for a member of the wrong kind: "'input' must be a string (got 5)". `v` NULL: absent.
int parse_fault_value(struct parse_fault *fault, const char *param, const char *wanted,
                      const json_t *v);
// "model" of any body.
int parse_model(const json_t *body, struct parse_request *out, struct parse_fault *fault);
// Refuses a request whose RENDER heads would not fit a frame, with 413 and `param`.
int parse_size_check(const struct parse_request *out, const char *param, struct parse_fault *fault);

#endif
