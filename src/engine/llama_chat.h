// A C face of the parts of llama.cpp that exist in C++ only: chat templates, tool schemas, grammars, the
// parsers of answers and the sampler that knows grammars and reasoning budgets. Three files implement it:
// llama_chat.cpp (a request becomes a prompt and a syntax), llama_answer.cpp (a text becomes deltas) and
// llama_draw.cpp (logits become tokens). Every exception ends there and becomes an error with its text.
//
// The syntax that render makes, and which comes back whole, as one JSON object or null:
//   "grammar": GBNF, absent: none
//   "rules":   what the sampler must know beside it; absent: the grammar is a user's
//     "prompt":   the end of our prompt that the grammar and the reasoning begin with
//     "template": true: the grammar is a template's and begins with that prompt
//     "lazy":     true: the grammar binds once a trigger was seen
//     "triggers": [{"type", "value"}]
//     "think":    {"start": tag, "ends": [tag]}
//   "parser":  what the parser must know; absent: the answer is all content
//     "format", "arena" (saved by llama.cpp), "prompt", "reasoning" (a format's name), "tools",
//     "continues": the answer continues a message, "start", "ends": the tags of reasoning
//
// Threads: a struct llama_chat is immutable; one thread renders at a time. Answers and draws belong to
// the engine thread.
#ifndef ENGINE_LLAMA_CHAT_H
#define ENGINE_LLAMA_CHAT_H

#ifdef __cplusplus
#include <cstddef>
#include <cstdint>
#include <jansson.h>
extern "C" {
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif

#include "base/err.h" // C linkage for the C++ side

struct engine_sampling;
struct llama_answer;
struct llama_chat;
struct llama_context;
struct llama_draw;
struct llama_model;
struct llama_vocab;

// ---- llama_chat.cpp -----------------------------------------------------------------------------

// `source`: a template; "": the model's own, or ChatML where it has none (model may be NULL where there is
// a source). NULL with e set: the template is broken.
struct llama_chat *llama_chat_new(const struct llama_model *model, const char *source,
                                  struct err *e);
void llama_chat_free(struct llama_chat *chat);

// `request`: a request as engine.h's render takes it, as JSON text. Returns the JSON text of
// {"prompt", "stop": [], "syntax": object or null}, which the caller frees; NULL with e set.
char *llama_chat_render(const struct llama_chat *chat, const char *request, struct err *e);

// Calls `mark` for every special token whose text the parsers of this template want to see.
void llama_chat_marks(const struct llama_chat *chat, const struct llama_vocab *vocab,
                      void (*mark)(void *ctx, int32_t token), void *ctx);

// llama.cpp's readers of JSON and grammars call themselves for every bracket, so what comes from outside is
// bounded before they see it. The deepest nesting of brackets and braces in a text, whichever of its quotes
// begin a string and whichever end one.
#define LLAMA_NESTING_MAX 1000
#define LLAMA_GROUPS_MAX 2000 // in a user's grammar: every "(" may lie in the one before
size_t llama_chat_nesting(const char *text, size_t n);

// ---- llama_answer.cpp ---------------------------------------------------------------------------

// `parser`: that member of a syntax as JSON text. `share`: reading an answer again may take one part in so
// many of the time; 0: it is read at every put. NULL with e set: render did not make the parser.
struct llama_answer *llama_answer_new(const char *parser, int share, struct err *e);
void llama_answer_free(struct llama_answer *answer);
// As engine.h's parser_put, the array as JSON text, which the caller frees.
char *llama_answer_put(struct llama_answer *answer, const char *text, size_t n, bool final);

// ---- llama_draw.cpp -----------------------------------------------------------------------------

struct llama_draw_options {
    const struct llama_model *model;
    const struct engine_sampling *sampling;
    uint32_t n_ctx;
    const char *grammar; // NULL: none
    const char *rules;   // as JSON text; NULL: none
};
// NULL with e set: the grammar does not parse, or the rules are none that render made.
struct llama_draw *llama_draw_new(const struct llama_draw_options *o, struct err *e);
void llama_draw_free(struct llama_draw *draw);
// Lets the penalties know a token that came from elsewhere.
void llama_draw_accept(struct llama_draw *draw, int32_t token);
// Draws from the logits of a row of the last batch, and accepts. -1: the grammar has no way on.
int32_t llama_draw_token(struct llama_draw *draw, struct llama_context *ctx, int32_t row);

#ifdef __cplusplus
}
#endif

#endif
