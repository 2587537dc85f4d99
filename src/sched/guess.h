// A guess of how much of a prompt a worker still holds, from what was sent to it before.
//
// The prompt is cut into blocks of GUESS_BLOCK_TOKENS; each block's hash covers all tokens before it
// as well, so that two prompts share a block only where they are equal from the start. What is kept is
// a bounded number of such hashes, the ones used longest ago going first. It is a guess for a choice
// between plans, never more: the worker's own prefix memory decides what is really there.
//
// No threads, no clock, no I/O. Owner: whoever made it.
#ifndef SCHED_GUESS_H
#define SCHED_GUESS_H

#include <stddef.h>
#include <stdint.h>

#define GUESS_BLOCK_TOKENS 64u
#define GUESS_TOKENS_MAX                                                                           \
    (1u << 22) // that are kept at most, whatever room a worker says that it has

struct guess;

// Room for so many tokens, at least one block, at most GUESS_TOKENS_MAX.
struct guess *guess_new(size_t tokens);
void guess_free(struct guess *g);
void guess_clear(struct guess *g);
// `owner`: prompts of different owners share nothing.
void guess_put(struct guess *g, const char *owner, const int32_t *tokens, size_t n);
// What was put and never came to be: blocks of this prompt behind its first `from` tokens are not held.
void guess_drop(struct guess *g, const char *owner, const int32_t *tokens, size_t n, size_t from);
// Tokens at the beginning that are probably held: a multiple of the block, at most n. Counts as a use.
uint32_t guess_find(struct guess *g, const char *owner, const int32_t *tokens, size_t n);

#endif
