// A C face of the parts of llama.cpp that exist in C++ only: chat templates, tool schemas and grammars.
// Every exception ends here and becomes an error with its text.
//
// Threads: a struct llama_chat is immutable; one thread renders at a time.
#ifndef ENGINE_LLAMA_CHAT_H
#define ENGINE_LLAMA_CHAT_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/err.h" // C linkage for the C++ side

struct llama_chat;
struct llama_model;
struct llama_sampler;
struct llama_vocab;

// The model's own template, or ChatML where it has none. NULL with e set: the template is broken.
struct llama_chat *llama_chat_new(const struct llama_model *model, struct err *e);
void llama_chat_free(struct llama_chat *chat);

// `request`: an OpenAI chat request as JSON text. Returns the JSON text of
// {"prompt", "stop": [], "syntax": object or null}, which the caller frees; NULL with e set.
char *llama_chat_render(const struct llama_chat *chat, const char *request, struct err *e);

// NULL with e set: the grammar does not parse.
struct llama_sampler *llama_chat_grammar_new(const struct llama_vocab *vocab, const char *grammar,
                                             struct err *e);
// False: the grammar does not allow the token.
bool llama_chat_grammar_accept(struct llama_sampler *grammar, int token);

#ifdef __cplusplus
}
#endif

#endif
