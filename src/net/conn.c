#include "net/conn.h"

#include "base/buf.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGE_BYTES 16384 // one full TLS record
#define PLAIN_PIECE_BYTES (1 << 20)
#define PACE_NAP_NS (20 * NS_PER_MS) // a paced writer looks up this often

struct net_conn {
    int fd;
    atomic_bool down;    // set by net_conn_shutdown; relaxed: shutdown(2) does the waking
    struct net_tls *tls; // NULL: plain
    bool server;
    struct net_pace pace;
    uint8_t *stage; // writing thread: small parts are put together here
    char peer[NET_PEER_BYTES];
};

static struct net_conn *conn_new(int fd, const char *peer)
{
    struct net_conn *c = mem_alloc(sizeof *c);
    c->fd = fd;
    atomic_init(&c->down, false);
    c->stage = mem_resize(NULL, STAGE_BYTES);
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    return c;
}

static void conn_drop(struct net_conn *c)
{
    net_tls_free(c->tls);
    close(c->fd);
    free(c->stage);
    free(c);
}

static int conn_closed(struct net_conn *c, struct err *e)
{
    if (atomic_load_explicit(&c->down, memory_order_relaxed))
        return err_set(e, ERR_CLOSED, "the connection to %s was closed by this side", c->peer);
    return err_set(e, ERR_CLOSED, "the connection to %s broke off", c->peer);
}

// ---- sending ---------------------------------------------------------------------------------------

static int64_t deadline_after(int64_t stall_ns)
{
    return stall_ns == NET_NEVER ? NET_NEVER : clock_now_ns() + stall_ns;
}

static int64_t stall_until(int64_t deadline_ns)
{
    return deadline_ns == NET_NEVER ? NET_NEVER : deadline_ns - clock_now_ns();
}

static bool errno_is_gone(int number)
{
    return number == EPIPE || number == ECONNRESET || number == ENOTCONN || number == ECONNABORTED;
}

// Bytes the socket took, 0 when it is full, or an error.
static int64_t conn_send_some(struct net_conn *c, const void *data, size_t n, struct err *e)
{
    ssize_t sent;
    do
        sent = send(c->fd, data, n, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
        return 0;
    if (errno_is_gone(errno))
        return conn_closed(c, e);
    return err_set(e, ERR_IO, "cannot send to %s: %s", c->peer, strerror(errno));
}

static int conn_send(struct net_conn *c, const uint8_t *data, size_t n, int64_t stall_ns,
                     struct err *e)
{
    int64_t deadline = deadline_after(stall_ns);
    while (n > 0) {
        int64_t sent = conn_send_some(c, data, n, e);
        if (sent < 0)
            return (int)sent;
        if (sent > 0) {
            data += sent;
            n -= (size_t)sent;
            deadline = deadline_after(stall_ns);
            continue;
        }
        if (net_fd_wait(c->fd, POLLOUT, deadline))
            return err_set(e, ERR_TIMEOUT, "%s took no byte for %.1f s", c->peer,
                           ns_to_s(stall_ns));
    }
    return 0;
}

// Sends what the TLS filter holds.
static int conn_flush(struct net_conn *c, int64_t stall_ns, struct err *e)
{
    const uint8_t *data;
    size_t n = net_tls_out(c->tls, &data);
    int rc = conn_send(c, data, n, stall_ns, e);
    if (rc == 0)
        net_tls_out_drop(c->tls, n);
    return rc;
}

static int pace_wait(struct net_conn *c, size_t n, struct err *e)
{
    int64_t until = net_pace_book(&c->pace, n, clock_now_ns());
    for (int64_t now = clock_now_ns(); now < until; now = clock_now_ns()) {
        if (atomic_load_explicit(&c->down, memory_order_relaxed))
            return conn_closed(c, e);
        clock_sleep_until(until - now > PACE_NAP_NS ? now + PACE_NAP_NS : until);
    }
    return 0;
}

// A place in a list of parts.
struct cursor {
    const struct net_part *parts;
    size_t n_parts;
    size_t done; // bytes of parts[0]
};

static void cursor_skip(struct cursor *at, size_t n)
{
    at->done += n;
    while (at->n_parts && at->done == at->parts->n) {
        at->parts++;
        at->n_parts--;
        at->done = 0;
    }
}

static bool cursor_is_last(const struct cursor *at)
{
    for (size_t i = 1; i < at->n_parts; i++) {
        if (at->parts[i].n)
            return false;
    }
    return true;
}

// The next piece, at most max bytes: in place when it is long or the last, else put together in the
// stage.
static struct net_part piece_take(struct net_conn *c, struct cursor *at, size_t max)
{
    size_t left = at->parts->n - at->done;
    if (left >= max || left >= STAGE_BYTES || cursor_is_last(at)) {
        size_t n = left < max ? left : max;
        struct net_part direct = {(const uint8_t *)at->parts->data + at->done, n};
        cursor_skip(at, n);
        return direct;
    }
    struct net_part staged = {c->stage, 0};
    size_t room = max < STAGE_BYTES ? max : STAGE_BYTES;
    while (at->n_parts && staged.n < room) {
        left = at->parts->n - at->done;
        size_t n = left < room - staged.n ? left : room - staged.n;
        memcpy(c->stage + staged.n, (const uint8_t *)at->parts->data + at->done, n);
        staged.n += n;
        cursor_skip(at, n);
    }
    return staged;
}

// Puts a piece through the filter; sends when enough has gathered.
static int conn_encrypt(struct net_conn *c, struct net_part piece, int64_t stall_ns, struct err *e)
{
    const uint8_t *data = piece.data;
    while (piece.n > 0) {
        int64_t taken = net_tls_encrypt(c->tls, data, piece.n, e);
        if (taken < 0) {
            err_wrap(e, "%s", c->peer);
            return (int)taken;
        }
        data += taken;
        piece.n -= (size_t)taken;
        int rc = net_tls_out_full(c->tls) ? conn_flush(c, stall_ns, e) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

static int conn_write_piece(struct net_conn *c, struct net_part piece, int64_t stall_ns,
                            struct err *e)
{
    bool paced = c->pace.bytes_per_s > 0;
    int rc = paced ? pace_wait(c, piece.n, e) : 0;
    if (rc)
        return rc;
    if (!c->tls)
        return conn_send(c, piece.data, piece.n, stall_ns, e);
    rc = conn_encrypt(c, piece, stall_ns, e);
    return rc == 0 && paced ? conn_flush(c, stall_ns, e) : rc;
}

int net_conn_write_parts(struct net_conn *c, const struct net_part *parts, size_t n_parts,
                         int64_t deadline_ns, struct err *e)
{
    if (atomic_load_explicit(&c->down, memory_order_relaxed))
        return conn_closed(c, e);
    int64_t stall_ns = stall_until(deadline_ns);
    bool paced = c->pace.bytes_per_s > 0;
    size_t max = paced ? net_pace_slice(&c->pace) : PLAIN_PIECE_BYTES;
    if (paced)
        net_pace_begin(&c->pace, clock_now_ns());
    struct cursor at = {parts, n_parts, 0};
    int rc = 0;
    for (cursor_skip(&at, 0); rc == 0 && at.n_parts;)
        rc = conn_write_piece(c, piece_take(c, &at, max), stall_ns, e);
    return rc == 0 && c->tls ? conn_flush(c, stall_ns, e) : rc;
}

int net_conn_write(struct net_conn *c, const void *data, size_t n, int64_t deadline_ns,
                   struct err *e)
{
    struct net_part part = {data, n};
    return net_conn_write_parts(c, &part, 1, deadline_ns, e);
}

void net_conn_pace(struct net_conn *c, double bytes_per_s)
{
    net_pace_init(&c->pace, bytes_per_s);
}

void net_conn_finish(struct net_conn *c)
{
    if (c->tls && !atomic_load_explicit(&c->down, memory_order_relaxed)) {
        net_tls_bye(c->tls);
        conn_flush(c, 0, NULL); // what does not fit into the socket now is not waited for
    }
    shutdown(c->fd, SHUT_WR);
}

// ---- receiving -------------------------------------------------------------------------------------

// Waits for bytes and receives them: 1..n, or an error. ERR_CLOSED at the end.
static int64_t conn_recv(struct net_conn *c, void *data, size_t n, int64_t deadline_ns,
                         struct err *e)
{
    for (;;) {
        ssize_t got = recv(c->fd, data, n, 0);
        if (got > 0)
            return got;
        if (got == 0)
            return conn_closed(c, e);
        if (errno == EINTR)
            continue;
        if (errno_is_gone(errno))
            return conn_closed(c, e);
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return err_set(e, ERR_IO, "cannot receive from %s: %s", c->peer, strerror(errno));
        if (net_fd_wait(c->fd, POLLIN, deadline_ns))
            return err_set(e, ERR_TIMEOUT, "nothing came from %s in time", c->peer);
    }
}

// Brings more ciphertext to the filter.
static int conn_fill(struct net_conn *c, int64_t deadline_ns, struct err *e)
{
    uint8_t *space;
    size_t room = net_tls_in_space(c->tls, &space);
    int64_t got = conn_recv(c, space, room, deadline_ns, e);
    if (got < 0)
        return (int)got;
    net_tls_in_add(c->tls, (size_t)got);
    return 0;
}

int64_t net_conn_read_some(struct net_conn *c, void *data, size_t n, int64_t deadline_ns,
                           struct err *e)
{
    if (!c->tls)
        return conn_recv(c, data, n, deadline_ns, e);
    for (;;) {
        if (atomic_load_explicit(&c->down, memory_order_relaxed))
            return conn_closed(c, e);
        int64_t got = net_tls_decrypt(c->tls, data, n, e);
        if (got < 0) {
            err_wrap(e, "%s", c->peer);
            return got;
        }
        if (got > 0)
            return got;
        int rc = conn_fill(c, deadline_ns, e);
        if (rc)
            return rc;
    }
}

int net_conn_read(struct net_conn *c, void *data, size_t n, int64_t deadline_ns, struct err *e)
{
    uint8_t *to = data;
    for (size_t done = 0; done < n;) {
        int64_t got = net_conn_read_some(c, to + done, n - done, deadline_ns, e);
        if (got < 0) {
            err_wrap(e, "after %zu of %zu bytes", done, n);
            return (int)got;
        }
        done += (size_t)got;
    }
    return 0;
}

// ---- making and ending -----------------------------------------------------------------------------

// Why the other side of an unfinished handshake went silent or away.
static int handshake_error(struct net_conn *c, int rc, struct err *e)
{
    size_t came = net_tls_in_total(c->tls);
    if (rc == ERR_TIMEOUT)
        return err_set(e, ERR_TIMEOUT,
                       "%s did not finish the TLS handshake in time (%zu bytes came)", c->peer,
                       came);
    if (rc == ERR_CLOSED && !came && c->server)
        return err_set(e, ERR_CLOSED, "%s connected and left without a word", c->peer);
    if (rc == ERR_CLOSED && !came)
        return err_set(e, ERR_AUTH,
                       "%s closed the connection during the TLS handshake; most likely it has "
                       "another cluster key or none (`tandem pair show` on both machines)",
                       c->peer);
    if (rc == ERR_CLOSED)
        return err_set(e, ERR_AUTH, "%s closed the connection in the middle of the TLS handshake",
                       c->peer);
    return rc;
}

static int conn_handshake(struct net_conn *c, int64_t deadline_ns, struct err *e)
{
    for (;;) {
        int rc = net_tls_handshake(c->tls, c->peer, e);
        if (rc < 0)
            return rc; // nothing of what TLS would answer leaves: the peer learns nothing
        int sent = conn_flush(c, stall_until(deadline_ns), e);
        if (sent)
            return handshake_error(c, sent, e);
        if (rc == NET_TLS_DONE)
            return 0;
        rc = conn_fill(c, deadline_ns, e);
        if (rc)
            return handshake_error(c, rc, e);
    }
}

// Takes the connection: it lands in *out or is dropped.
static int conn_secure(struct net_conn *c, const struct net_key *key, int64_t deadline_ns,
                       struct net_conn **out, struct err *e)
{
    int rc = 0;
    if (net_key_is_set(key)) {
        c->tls = net_tls_new(key, c->server, e);
        rc = c->tls ? conn_handshake(c, deadline_ns, e) : ERR_UNSUPPORTED;
    }
    if (rc)
        conn_drop(c);
    else
        *out = c;
    return rc;
}

int net_conn_accept_tls(int fd, const struct net_key *key, int64_t deadline_ns,
                        struct net_conn **out, struct err *e)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    char peer[NET_PEER_BYTES] = "a peer";
    if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0)
        net_peer_text((struct sockaddr *)&sa, len, peer, sizeof peer);
    net_fd_prepare(fd);
    struct net_conn *c = conn_new(fd, peer);
    c->server = true;
    return conn_secure(c, key, deadline_ns, out, e);
}

int net_conn_dial(const struct net_addr *a, const struct net_key *key, int64_t deadline_ns,
                  struct net_conn **out, struct err *e)
{
    char peer[NET_PEER_BYTES];
    int fd = net_tcp_dial(a, net_key_is_set(key), deadline_ns, peer, e);
    return fd < 0 ? fd : conn_secure(conn_new(fd, peer), key, deadline_ns, out, e);
}

struct net_conn *net_conn_wrap(int fd)
{
    net_fd_prepare(fd);
    return conn_new(fd, "a local process");
}

void net_conn_shutdown(struct net_conn *c)
{
    atomic_store_explicit(&c->down, true, memory_order_relaxed);
    shutdown(c->fd, SHUT_RDWR);
}

void net_conn_free(struct net_conn *c)
{
    if (!c)
        return;
    if (!atomic_load_explicit(&c->down, memory_order_relaxed))
        net_conn_finish(c);
    conn_drop(c);
}

const char *net_conn_peer(const struct net_conn *c)
{
    return c->peer;
}

int net_conn_fd(const struct net_conn *c)
{
    return c->fd;
}
