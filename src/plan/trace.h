// A trace: when requests came, how long their prompts and answers were, and which belong together.
//
// A CSV file whose first line names the columns, "arrival,prompt,answer" or "arrival,prompt,answer,session":
// seconds since the beginning (never going back), tokens, tokens, and any name of the conversation, which may
// be empty. Numbers are plain decimals; nothing is quoted. Whatever else is there is an error that names its line.
//
// Owner: the caller. No threads, and no I/O but for trace_read.
#ifndef PLAN_TRACE_H
#define PLAN_TRACE_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define TRACE_ROWS_MAX 20000000u
#define TRACE_BYTES_MAX (1u << 30)
#define TRACE_TOKENS_MAX 10000000u
#define TRACE_SECONDS_MAX 1e9
#define TRACE_NAME_MAX 128u // bytes of a session's name
#define TRACE_NO_SESSION UINT32_MAX

struct trace_row {
    double arrival_s;
    uint32_t prompt_tokens, answer_tokens; // at least one each
    uint32_t session;                      // counted from 0 in order of appearance
};
struct trace {
    struct trace_row *rows;
    size_t n;
    uint32_t sessions;
};

// 0, ERR_INVALID with the line, or ERR_RANGE.
int trace_parse(const char *text, size_t n, struct trace *out, struct err *e);
int trace_read(const char *path, struct trace *out, struct err *e);
void trace_fini(struct trace *t);

#endif
