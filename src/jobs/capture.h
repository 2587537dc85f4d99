// Runs a program to its end and keeps what it said: squeue, ssh, the trainer's check. Words, never a shell.
//
// Owner: the caller; any thread. A program that takes longer than its time, or says too much, is ended with
// its whole group.
#ifndef JOBS_CAPTURE_H
#define JOBS_CAPTURE_H

#include "base/buf.h"
#include "base/err.h"

#define JOBS_CAPTURE_MAX (256u << 10)

struct jobs_capture {
    const char *const *argv; // argv[0]: a path, or a name that is looked for in PATH
    double timeout_s;
    struct buf *out; // standard output, initialised by the caller; NULL: thrown away
    int exit_code;   // result; 128 + n after signal n
    char said[256];  // result: the beginning of what it said on standard error, one line
};
// 0 whenever the program ran to its end. ERR_NOT_FOUND, ERR_TIMEOUT, ERR_RANGE, ERR_IO.
int jobs_capture_run(struct jobs_capture *c, struct err *e);
// The path of a program: itself when it holds a slash, else from PATH. ERR_NOT_FOUND.
int jobs_program_find(const char *name, char *out, size_t out_bytes, struct err *e);

#endif
