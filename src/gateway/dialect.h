// A dialect: one API's shapes, in and out. The core knows one kind of request (parse.h) and one kind
// of answer (below); OpenAI's four APIs, Anthropic's and Ollama's are tables of functions over them.
//
// Pure: no threads, no I/O. Every function that writes appends to `out`, and what it appends is whole
// (an event with its blank line, a line of JSON with its newline), so that bytes can be sent at any time.
// Text is valid UTF-8 already; what comes from elsewhere (an error's words) goes through answer_string.
#ifndef GATEWAY_DIALECT_H
#define GATEWAY_DIALECT_H

#include "base/buf.h"
#include "gateway/parse.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANSWER_ID_BYTES 64
#define ANSWER_CHOICES_MAX PARSE_CHOICES_MAX
#define ANSWER_FINGERPRINT_BYTES 24
#define ANSWER_TOOLS_MAX 128 // calls in one choice; more become text

struct answer_tool {
    char *id, *name; // owned
    struct buf arguments;
};

// One of the n answers to a request.
struct answer_choice {
    uint32_t index;
    struct buf text, reasoning; // all of it so far
    struct answer_tool *tools;  // n_tools calls, in order
    size_t n_tools;
    // OpenAI's entries ({"token","logprob","bytes","top_logprobs"}); NULL: not asked for, or a stream
    json_t *logprobs;
    const char *finish; // NULL: goes on; "stop", "length" or "tool_calls"
    char *stop;         // owned: the stop string that ended it, NULL: none
    uint32_t gen_tokens, reasoning_tokens;
    // The dialect's own, zero at the start: which block is open, how many there were.
    uint32_t block, blocks;
    bool begun;
    json_t *own; // owned (whoever frees the choice drops it), NULL at the start
};

struct answer_usage {
    uint32_t prompt_tokens, cached_tokens, gen_tokens, reasoning_tokens;
};

// An embedding, or a score (n = 1).
struct answer_vector {
    float *values; // owned
    uint32_t n, prompt_tokens;
};

struct answer {
    const struct dialect *dialect;
    const struct parse_request *in; // borrowed
    char id[ANSWER_ID_BYTES];
    const char *model;                          // borrowed: the name that the answer carries
    int64_t created;                            // seconds since 1970
    char fingerprint[ANSWER_FINGERPRINT_BYTES]; // of the model's weights: "fp_0123456789abcdef"
    struct answer_choice choices[ANSWER_CHOICES_MAX];
    size_t n_choices;
    struct answer_usage usage; // final once every choice has finished; prompt_tokens from the start
    json_t *timings;           // owned; NULL until the end, and where nothing was generated
    // What was not generated. PARSE_RENDER: the head of RENDERED with "tokens", the ids; owned.
    json_t *result;
    struct answer_vector
        *vectors; // PARSE_EMBED and PARSE_RANK: n_vectors of them, one of each input
    size_t n_vectors;
    uint32_t sequence; // the dialect's own: events so far
};

// A failure as a client is told.
struct answer_fault {
    unsigned status;   // HTTP's
    const char *code;  // "context_length_exceeded", ...; NULL: none
    const char *param; // the member at fault; NULL: none
    const char *message;
};

struct dialect {
    const char *name;
    const char *id_prefix;    // "chatcmpl-"
    const char *content_type; // of a stream: "text/event-stream" or "application/x-ndjson"

    // A request's body (an object) into *out, which parse_request has prepared. 0, or an error with *fault
    // filled. The text goes out as `render`: an OpenAI chat request, whatever the dialect (parse_openai).
    int (*parse)(const json_t *body, struct parse_request *out, struct parse_fault *fault);

    // ---- a stream (NULL: there is none) ----
    // Once, when the prompt has been tokenised and before the first delta of any choice. Comes after a
    // `beat` where tokenising took long.
    void (*begin)(struct answer *a, struct buf *out);
    // While nothing else is to be said: a comment, a ping.
    void (*beat)(struct answer *a, struct buf *out);
    // Something came for a choice (already appended to it): {"content": text}, {"reasoning": text} or
    // {"tool": index, "id"?, "name"?, "arguments": text}; `logprobs`: the entries of just these tokens, or
    // NULL. A content may be empty where only logprobs are left to tell.
    void (*delta)(struct answer *a, struct answer_choice *c, const json_t *delta,
                  const json_t *logprobs, struct buf *out);
    void (*choice_end)(struct answer *a, struct answer_choice *c, struct buf *out); // finish is set
    void (*end)(struct answer *a, struct buf *out); // every choice ended; usage and timings are set
    void (*error)(struct answer *a, const struct answer_fault *f,
                  struct buf *out); // ends the stream

    // ---- a whole body ----
    void (*whole)(struct answer *a, struct buf *out);
    // The body of an error answer; used before there is an answer, hence without one.
    void (*refusal)(const struct answer_fault *f, struct buf *out);
};

extern const struct dialect dialect_chat;      // OpenAI /chat/completions
extern const struct dialect dialect_text;      // OpenAI /completions
extern const struct dialect dialect_responses; // OpenAI /responses
extern const struct dialect dialect_messages;  // Anthropic /messages
// Anthropic /messages/count_tokens: kind PARSE_RENDER; `whole` tells usage.prompt_tokens.
extern const struct dialect dialect_count;
// The same two, with the system block that Claude Code changes in every request left in its place.
extern const struct dialect dialect_messages_verbatim, dialect_count_verbatim;
extern const struct dialect dialect_ollama;          // Ollama /api/chat
extern const struct dialect dialect_ollama_generate; // Ollama /api/generate
// What generates nothing, hence has no stream.
extern const struct dialect dialect_embeddings; // OpenAI /embeddings
extern const struct dialect dialect_rerank;     // Jina's and llama-server's /rerank
extern const struct dialect dialect_tokenize, dialect_detokenize,
    dialect_template; // llama-server's

// ---- what dialects share: answer.c ----
// Appends text (valid UTF-8) as a JSON string, quotes included: for what is written per token, where a
// tree of JSON values would cost more than all the rest.
void answer_quote_put(struct buf *out, const char *text, size_t n);
void answer_json_put(struct buf *out,
                     const json_t *value); // compact, fractions as json_line has them
// A JSON string of any bytes.
json_t *answer_string(const char *text);
// "data: JSON\n\n", with "event: NAME\n" before it when name is given. Steals the object.
void answer_event_put(struct buf *out, const char *name, json_t *object);
void answer_line_put(struct buf *out, json_t *object); // "JSON\n". Steals the object
void answer_id_make(const char *prefix, char out[ANSWER_ID_BYTES]);
// The JSON value of a choice's tool arguments: the object they are, or {} when they do not parse.
json_t *answer_arguments(const struct answer_tool *t);

#endif
