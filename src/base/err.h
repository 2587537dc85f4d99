// Errors. A function that can fail returns 0 or a negative `enum err_code` and, where the caller can use
// the detail, fills the caller's `struct err`. The message says what happened, the value, and what
// to do. Lower layers return; the boundary (a route, a command, a session) logs once.
//
// Threads: every struct belongs to its caller; nothing here is shared.
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stddef.h>

enum err_code {
    ERR_INVALID = -1,  // a caller's, user's or peer's value is not acceptable
    ERR_RANGE = -2,    // a size or position is outside its named limit
    ERR_IO = -3,       // the operating system refused
    ERR_TIMEOUT = -4,  // a deadline passed
    ERR_CLOSED = -5,   // the other side is gone, or a channel was closed
    ERR_AUTH = -6,     // the key is missing or wrong
    ERR_MISMATCH = -7, // two sides differ in version, model or layout
    ERR_CORRUPT = -8,  // a hash, count or format check failed
    ERR_NOT_FOUND = -9,
    ERR_BUSY = -10, // no room now; trying later may work
    ERR_CANCELLED = -11,
    ERR_ENGINE = -12, // the engine failed or aborted
    ERR_UNSUPPORTED = -13,
};

#define ERR_MESSAGE_BYTES 512

struct err {
    int code; // 0 or an enum err_code
    char message[ERR_MESSAGE_BYTES];
};

// Sets `e` (may be NULL) and returns `code`, so that `return err_set(...)` reads well.
int err_set(struct err *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

// Puts "format: " before the message that is already there; keeps the code and returns it.
int err_wrap(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A short machine-readable name of the code: "invalid", "timeout", ... ("ok" for 0).
const char *err_name(int code);
// The reverse of err_name; ERR_IO for a name that is not known.
int err_from_name(const char *name);

#endif
