// The answer to one HTTP request while it is made: the one thing that the HTTP thread and the core
// share, behind one lock.
//
// The core writes (begin, write, end, or finish at once); the HTTP thread reads through
// libmicrohttpd, and its connection is suspended while there is nothing to read. What waits for a
// slow client is bounded: beyond REPLY_WAITING_MAX a write is refused, and the core ends the request.
// Each side holds a reference; the last one to drop it frees.
//
// Where a thread of this program is the client (a picture that is drawn as a job), the reply is local: that thread is
// woken when there is something to see, takes it, and says so when it wants no more.
#ifndef GATEWAY_REPLY_H
#define GATEWAY_REPLY_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

#define REPLY_WAITING_MAX (4u << 20) // bytes of a stream that its client has not read
#define REPLY_BODY_MAX (64u << 20)   // bytes of an answer sent whole

struct reply;

// Two references: one for the HTTP thread, one for the core.
struct reply *reply_new(struct MHD_Connection *connection);
// The same without a connection. wake runs on the core's side, with a lock held: it sends word and returns.
struct reply *reply_new_local(void (*wake)(void *ctx), void *ctx);
void reply_drop(struct reply *r);

// The type of a whole answer or a stream, static text, before the core knows of the reply. By default
// application/json for the one and text/event-stream for the other. Errors sent whole are always JSON.
void reply_type_set(struct reply *r, const char *type);

// How many bytes of a stream may wait for its client (REPLY_WAITING_MAX), before the core knows of the reply.
void reply_waiting_set(struct reply *r, size_t bytes);

// ---- the core's side -------------------------------------------------------------------------------

// A copy of the client's socket, for noticing that it left: libmicrohttpd does not watch suspended
// connections. Owned by the reply; -1 when there is none.
int reply_fd(const struct reply *r);
// The client closed its connection, or wants no more. For whoever looks now and then, and has no watch on reply_fd.
bool reply_left(struct reply *r);
// The answer will be an event stream; status 200. Once.
void reply_begin(struct reply *r);
// 0, ERR_CLOSED when the client is gone, ERR_RANGE when it does not read.
int reply_write(struct reply *r, const void *data, size_t n);
void reply_end(struct reply *r);
// Drops what waits and breaks the connection, so that a cut answer cannot be taken for a whole one.
void reply_abort(struct reply *r);
// A whole answer, or an end of a stream with nothing more. Takes `body`. retry_after_s 0: no header.
void reply_finish(struct reply *r, unsigned status, char *body, unsigned retry_after_s);

// A whole answer that is a file: takes the descriptor. type: static text.
void reply_finish_file(struct reply *r, int fd, uint64_t bytes, const char *type);

// ---- the HTTP thread's side ------------------------------------------------------------------------

// Called from the access handler: queues what is decided, or suspends until something is.
// decorate adds headers that every answer carries.
enum MHD_Result reply_serve(struct reply *r, void (*decorate)(void *ctx, struct MHD_Response *),
                            void *ctx);
// The connection is done with the request; the core's writes fail from here on. Returns the status that
// the client got, 0: none.
unsigned reply_detach(struct reply *r);

// ---- the side of a local reply's client -------------------------------------------------------------

struct reply_told {
    unsigned status; // 0: none yet
    bool whole;      // not a stream
    bool ended;      // nothing more comes
    unsigned retry_after_s;
};
// Appends what has come to `out` (never the half of a write), and says how it stands.
struct reply_told reply_take(struct reply *r, struct buf *out);
// It wants no more: the core sees that as a client that left, and ends it; what it writes until then can be taken.
void reply_leave(struct reply *r);

#endif
