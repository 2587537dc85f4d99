// Fetching one file of a model, as often and as long as it takes: beside its place first, begun again
// where it broke off, tried again after errors that may pass, checked, and only then put into its place.
//
//   PATH.part       what has come so far
//   PATH.part.json  what it is a part of: ETag, SHA-256 and size as the server told them
//   PATH.corrupt    came whole, but with another checksum than announced: kept to look at
//
// A part is gone on with when the same SHA-256 is expected (the end is checked anyway) or the ETag still
// holds (If-Range, the server decides); otherwise it begins anew. Owner: the caller, who holds the model's
// lock. Blocking; `stopped` ends it and leaves the part.
#ifndef MODELS_FETCH_H
#define MODELS_FETCH_H

#include "base/err.h"
#include "models/store.h"
#include "models/sum.h"

#include <stdbool.h>
#include <stdint.h>

// What happens, for whoever shows it. The texts live during the call only.
struct models_event {
    enum {
        MODELS_EVENT_BEGIN,    // of a file: `done` bytes are there already
        MODELS_EVENT_PROGRESS, // often
        MODELS_EVENT_RETRY,    // `text` says why, `wait_s` for how long it waits first
        MODELS_EVENT_RESTART,  // what was there cannot be used: `text` says why
        MODELS_EVENT_CHECK,    // reads what is there, to sum it up
        MODELS_EVENT_END,
    } kind;
    const char *file;
    uint64_t done, bytes; // bytes may be MODELS_SIZE_UNKNOWN
    const char *text;
    double wait_s;
};
struct models_watch {
    void (*event)(void *ctx, const struct models_event *ev); // may be NULL
    bool (*stopped)(void *ctx);                              // may be NULL
    void *ctx;
};
bool models_stopped(const struct models_watch *w); // w may be NULL
// Waits, awake enough to be stopped; false: it was.
bool models_wait(const struct models_watch *w, double seconds);

struct models_fetch {
    const char *url, *token; // token NULL: none
    const char *path;        // where it belongs
    const char *sha256;      // 64 hex digits; NULL: not known
    uint64_t bytes;          // or MODELS_SIZE_UNKNOWN
    uint32_t retries;        // in a row without a byte in between
    double retry_wait_s;     // before the first; doubles, to a minute at most
    uint32_t stall_s;        // silence that counts as broken; 0: the default of net/http_client.h
    const struct models_watch *watch;
};

struct models_fetched {
    uint64_t bytes;
    char sha256[MODELS_SUM_BYTES];
    long status;   // of the last answer, for who explains a refusal; 0: none came
    char code[64]; // its X-Error-Code
    char reason[200];
};
// ERR_AUTH, ERR_NOT_FOUND: the server refuses. ERR_CORRUPT: no GGUF, or another checksum. ERR_MISMATCH:
// another size than announced. ERR_BUSY: the disk has no room. ERR_CLOSED, ERR_TIMEOUT: gave up trying.
// ERR_CANCELLED: stopped.
int models_fetch_run(const struct models_fetch *f, struct models_fetched *out, struct err *e);

// Sums up a file that is there; reports MODELS_EVENT_CHECK.
int models_fetch_sum(const char *path, const struct models_watch *watch, char out[MODELS_SUM_BYTES],
                     struct err *e);

// Whether the disk of a folder has room for so many bytes and a little more; ERR_BUSY with both numbers.
int models_room_check(const char *dir, uint64_t bytes, struct err *e);

// "1.9 GB", "640 MB", "12 kB"; decimal, as downloads are announced.
#define MODELS_SIZE_TEXT 24
void models_size_format(uint64_t bytes, char out[MODELS_SIZE_TEXT]);

#endif
