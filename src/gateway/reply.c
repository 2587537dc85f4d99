#include "gateway/reply.h"

#include "base/buf.h"
#include "base/err.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BLOCK_BYTES 16384

enum reply_state { REPLY_UNDECIDED, REPLY_STREAM, REPLY_WHOLE };

struct reply {
    // Set once, before the core knows of the reply.
    int fd;
    const char *type; // NULL: the usual one
    size_t waiting_max;
    void (*wake)(void *ctx); // of a local one; NULL: it has a connection
    void *wake_ctx;
    pthread_mutex_t lock;
    // All below is guarded by the lock.
    int refs;
    struct MHD_Connection *connection; // NULL once detached, and of a local one
    enum reply_state state;
    bool suspended, ended, broken, detached, left;
    int file; // of a whole answer; -1: none
    uint64_t file_bytes;
    struct buf out;
    size_t taken; // bytes of `out` that libmicrohttpd has; cut off when it has all
    unsigned status, retry_after_s;
};

static int socket_copy(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    return info ? fcntl(info->connect_fd, F_DUPFD_CLOEXEC, 3) : -1;
}

void reply_waiting_set(struct reply *r, size_t bytes)
{
    r->waiting_max = bytes;
    r->out.max = bytes;
}

static struct reply *reply_make(void)
{
    struct reply *r = mem_alloc(sizeof(*r));

    pthread_mutex_init(&r->lock, NULL);
    r->refs = 2;
    r->fd = r->file = -1;
    buf_init(&r->out, 0);
    reply_waiting_set(r, REPLY_WAITING_MAX);
    return r;
}

struct reply *reply_new(struct MHD_Connection *connection)
{
    struct reply *r = reply_make();

    r->connection = connection;
    r->fd = socket_copy(connection);
    return r;
}

struct reply *reply_new_local(void (*wake)(void *ctx), void *ctx)
{
    struct reply *r = reply_make();

    r->wake = wake;
    r->wake_ctx = ctx;
    return r;
}

void reply_type_set(struct reply *r, const char *type)
{
    r->type = type;
}

static void reply_free(struct reply *r)
{
    if (r->fd >= 0)
        close(r->fd);
    if (r->file >= 0)
        close(r->file);
    buf_fini(&r->out);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void reply_drop(struct reply *r)
{
    bool last;

    pthread_mutex_lock(&r->lock);
    last = --r->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (last)
        reply_free(r);
}

int reply_fd(const struct reply *r)
{
    return r->fd;
}

bool reply_left(struct reply *r)
{
    char byte;
    bool left;

    pthread_mutex_lock(&r->lock);
    left = r->left;
    pthread_mutex_unlock(&r->lock);
    return left || (r->fd >= 0 && recv(r->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0);
}

// With the lock held: there is something new to see for the other side.
static void reply_wake(struct reply *r)
{
    if (r->wake)
        r->wake(r->wake_ctx);
    if (!r->suspended)
        return;
    r->suspended = false;
    MHD_resume_connection(r->connection);
}

void reply_begin(struct reply *r)
{
    pthread_mutex_lock(&r->lock);
    if (r->state == REPLY_UNDECIDED) {
        r->state = REPLY_STREAM;
        r->status = MHD_HTTP_OK;
        reply_wake(r);
    }
    pthread_mutex_unlock(&r->lock);
}

int reply_write(struct reply *r, const void *data, size_t n)
{
    int rc = 0;

    pthread_mutex_lock(&r->lock);
    if (r->detached)
        rc = ERR_CLOSED;
    else if (r->out.len - r->taken + n > r->waiting_max)
        rc = ERR_RANGE;
    if (rc == 0) {
        buf_consume(&r->out, r->taken);
        r->taken = 0;
        rc = buf_put(&r->out, data, n);
        reply_wake(r);
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void reply_end(struct reply *r)
{
    pthread_mutex_lock(&r->lock);
    r->ended = true;
    reply_wake(r);
    pthread_mutex_unlock(&r->lock);
}

void reply_abort(struct reply *r)
{
    pthread_mutex_lock(&r->lock);
    r->broken = r->ended = true;
    if (!r->wake) // what a local client was told may name files that are there
        buf_clear(&r->out);
    r->taken = 0;
    // An answer that never began has no connection state of its own yet: it becomes an empty stream.
    if (r->state == REPLY_UNDECIDED) {
        r->state = REPLY_STREAM;
        r->status = MHD_HTTP_OK;
    }
    reply_wake(r);
    pthread_mutex_unlock(&r->lock);
}

void reply_finish(struct reply *r, unsigned status, char *body, unsigned retry_after_s)
{
    pthread_mutex_lock(&r->lock);
    if (r->state == REPLY_UNDECIDED) {
        r->state = REPLY_WHOLE;
        r->status = status;
        r->retry_after_s = retry_after_s;
        r->out.max = REPLY_BODY_MAX;
        buf_puts(&r->out, body);
    }
    r->ended = true;
    reply_wake(r);
    pthread_mutex_unlock(&r->lock);
    free(body);
}

void reply_finish_file(struct reply *r, int fd, uint64_t bytes, const char *type)
{
    pthread_mutex_lock(&r->lock);
    r->file = fd;
    r->file_bytes = bytes;
    r->type = type;
    r->state = REPLY_WHOLE;
    r->status = MHD_HTTP_OK;
    r->ended = true;
    reply_wake(r);
    pthread_mutex_unlock(&r->lock);
}

unsigned reply_detach(struct reply *r)
{
    unsigned status;

    pthread_mutex_lock(&r->lock);
    r->detached = true;
    r->connection = NULL;
    r->suspended = false;
    status = r->broken ? 0 : r->status;
    pthread_mutex_unlock(&r->lock);
    return status;
}

// ---- a local client -----------------------------------------------------------------------------------

struct reply_told reply_take(struct reply *r, struct buf *out)
{
    struct reply_told told;

    pthread_mutex_lock(&r->lock);
    buf_put(out, r->out.data, r->out.len);
    buf_clear(&r->out);
    told = (struct reply_told){r->status, r->state == REPLY_WHOLE, r->ended, r->retry_after_s};
    pthread_mutex_unlock(&r->lock);
    return told;
}

void reply_leave(struct reply *r)
{
    pthread_mutex_lock(&r->lock);
    r->left = true;
    pthread_mutex_unlock(&r->lock);
}

// ---- libmicrohttpd's callbacks ------------------------------------------------------------------------

// Copies what waits; with nothing to copy, suspends the connection until the core wakes it.
static ssize_t stream_read(void *ctx, uint64_t pos, char *out, size_t max)
{
    struct reply *r = ctx;
    ssize_t n = 0;

    (void)pos;
    pthread_mutex_lock(&r->lock);
    if (r->broken) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (r->taken < r->out.len) {
        size_t left = r->out.len - r->taken;

        n = (ssize_t)(left < max ? left : max);
        memcpy(out, r->out.data + r->taken, (size_t)n);
        r->taken += (size_t)n;
    } else if (r->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (r->connection) {
        r->suspended = true;
        MHD_suspend_connection(r->connection);
    }
    pthread_mutex_unlock(&r->lock);
    return n;
}

// The response's own reference.
static void stream_free(void *ctx)
{
    reply_drop(ctx);
}

static struct MHD_Response *response_stream(struct reply *r)
{
    struct MHD_Response *response;

    r->refs++;
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, READ_BLOCK_BYTES, stream_read, r,
                                                 stream_free);
    if (!response) {
        r->refs--;
        return NULL;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            r->type ? r->type : "text/event-stream");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    return response;
}

static struct MHD_Response *response_body(struct reply *r)
{
    size_t n = r->out.len;
    char *body = buf_take(&r->out);
    struct MHD_Response *response = MHD_create_response_from_buffer(n, body, MHD_RESPMEM_MUST_FREE);

    if (!response)
        free(body);
    return response;
}

static struct MHD_Response *response_file(struct reply *r)
{
    struct MHD_Response *response = MHD_create_response_from_fd64(r->file_bytes, r->file);

    if (response)
        r->file = -1; // it closes it
    return response;
}

static struct MHD_Response *response_whole(struct reply *r)
{
    struct MHD_Response *response = r->file >= 0 ? response_file(r) : response_body(r);
    char seconds[16];

    if (!response)
        return NULL;
    // An error is JSON, also where the answer would have been a stream.
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            r->type && r->status == MHD_HTTP_OK ? r->type : "application/json");
    if (r->retry_after_s > 0) {
        snprintf(seconds, sizeof(seconds), "%u", r->retry_after_s);
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    return response;
}

enum MHD_Result reply_serve(struct reply *r, void (*decorate)(void *ctx, struct MHD_Response *),
                            void *ctx)
{
    struct MHD_Connection *connection;
    struct MHD_Response *response = NULL;
    enum MHD_Result result;
    unsigned status;

    pthread_mutex_lock(&r->lock);
    if (r->state == REPLY_UNDECIDED) {
        r->suspended = true;
        MHD_suspend_connection(r->connection);
        pthread_mutex_unlock(&r->lock);
        return MHD_YES;
    }
    connection = r->connection;
    status = r->status;
    response = r->state == REPLY_STREAM ? response_stream(r) : response_whole(r);
    pthread_mutex_unlock(&r->lock);
    if (!response)
        return MHD_NO;
    decorate(ctx, response);
    result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}
