// Training files: JSONL of chats, each line {"messages": [{"role", "content"}, ...]} as OpenAI's fine-tuning takes
// it. This reads the lines and checks their form, without a model: the command line and the API refuse a
// bad file with it before a job is made, and the trainer (train/dataset.h) goes through the same gate.
//
// Owner: nobody; one call reads one file. Any thread. Memory: one line at a time, of EXAMPLES_LINE_MAX bytes.
#ifndef BASE_EXAMPLES_H
#define BASE_EXAMPLES_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define EXAMPLES_LINE_MAX (8u << 20) // bytes
#define EXAMPLES_MAX (1u << 20)      // lines

struct examples_facts {
    uint64_t n, bytes;
    uint64_t hash; // XXH64 of the file's bytes
};

// One example that passed the checks. An error ends the reading; the line's number is put before it.
typedef int examples_each(void *ctx, const json_t *example, struct err *e);

// ERR_NOT_FOUND, ERR_IO; ERR_INVALID and ERR_RANGE say which line and what of it. `each` may be NULL.
int examples_read(const char *path, examples_each *each, void *ctx, struct examples_facts *facts,
                  struct err *e);

// Whether a message of a checked example is to be learned: the assistant's, unless "weight" is 0.
bool examples_learned(const json_t *message);

#endif
