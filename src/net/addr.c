#include "net/conn.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LISTEN_BACKLOG 64

bool net_key_is_set(const struct net_key *k)
{
    uint8_t any = 0;
    for (size_t i = 0; i < NET_KEY_BYTES; i++)
        any |= k->bytes[i];
    return any != 0;
}

// ---- text ------------------------------------------------------------------------------------------

static bool host_char_ok(char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
           strchr(".-_:%*", ch) != NULL;
}

static int host_set(struct net_addr *out, const char *host, size_t n, struct err *e)
{
    if (n >= sizeof out->host)
        return err_set(e, ERR_RANGE, "a host name of %zu bytes; at most %zu are allowed", n,
                       sizeof out->host - 1);
    for (size_t i = 0; i < n; i++) {
        if (!host[i] || !host_char_ok(host[i]))
            return err_set(e, ERR_INVALID, "byte 0x%02x is not allowed in a host name",
                           (unsigned char)host[i]);
    }
    memcpy(out->host, host, n);
    out->host[n] = 0;
    return 0;
}

static int port_set(struct net_addr *out, const char *port, struct err *e)
{
    unsigned long value = 0;
    size_t n = strlen(port);
    bool good = n >= 1 && n <= 5 && strspn(port, "0123456789") == n;
    if (good)
        value = strtoul(port, NULL, 10);
    if (!good || value > UINT16_MAX)
        return err_set(e, ERR_INVALID, "\"%.32s\" is no port; give a number from 0 to 65535", port);
    out->port = (uint16_t)value;
    return 0;
}

int net_addr_parse(const char *text, const char *default_host, uint16_t default_port,
                   struct net_addr *out, struct err *e)
{
    *out = (struct net_addr){.port = default_port};
    const char *host = text, *port = NULL;
    size_t n = strlen(text);
    const char *colon = strchr(text, ':');
    if (text[0] == '[') {
        const char *close = strchr(text, ']');
        if (!close || (close[1] && close[1] != ':'))
            return err_set(e, ERR_INVALID, "\"%.64s\": write an IPv6 address as [ADDRESS]:PORT",
                           text);
        host = text + 1;
        n = (size_t)(close - host);
        port = close[1] ? close + 2 : NULL;
    } else if (colon && !strchr(colon + 1, ':')) { // two colons: a bare IPv6 address
        n = (size_t)(colon - text);
        port = colon + 1;
    }
    int rc = n ? host_set(out, host, n, e) : host_set(out, default_host, strlen(default_host), e);
    if (rc == 0 && port)
        rc = port_set(out, port, e);
    return rc;
}

bool net_addr_is_loopback(const struct net_addr *a)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcasecmp(a->host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, a->host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, a->host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

void net_peer_text(const struct sockaddr *sa, socklen_t len, char *out, size_t out_bytes)
{
    char host[256], port[16];
    if (sa->sa_family != AF_INET && sa->sa_family != AF_INET6)
        snprintf(out, out_bytes, "a local process");
    else if (getnameinfo(sa, len, host, sizeof host, port, sizeof port,
                         NI_NUMERICHOST | NI_NUMERICSERV))
        snprintf(out, out_bytes, "an unknown address");
    else
        snprintf(out, out_bytes, sa->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static bool sockaddr_is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 in6;
    memcpy(&in6, sa, sizeof in6);
    return sa->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
}

// ---- descriptors -----------------------------------------------------------------------------------

// Socket buffers are left to the kernel: a fixed size turns off its tuning, which is slower on
// loopback and on long links alike.
void net_fd_prepare(int fd)
{
    int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); // fails on socketpairs: no matter
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    net_fd_no_sigpipe(fd);
}

// macOS has another name for the first of them.
#ifndef TCP_KEEPIDLE
#define TCP_KEEPIDLE TCP_KEEPALIVE
#endif

void net_conn_keep_alive(struct net_conn *c, int idle_s)
{
    int fd = net_conn_fd(c), between_s = idle_s > 4 ? idle_s / 4 : 1, probes = 8;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s); // fails on socketpairs
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between_s, sizeof between_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

int net_fd_wait(int fd, short events, int64_t deadline_ns)
{
    for (;;) {
        int ms = -1;
        if (deadline_ns != NET_NEVER) {
            int64_t left = deadline_ns - clock_now_ns();
            if (left <= 0)
                return ERR_TIMEOUT;
            ms = left > 60 * NS_PER_S ? 60000 : (int)((left + NS_PER_MS - 1) / NS_PER_MS);
        }
        struct pollfd p = {.fd = fd, .events = events};
        if (poll(&p, 1, ms) > 0)
            return 0;
    }
}

// ---- listening -------------------------------------------------------------------------------------

static int addr_resolve(const struct net_addr *a, bool passive, struct addrinfo **list,
                        struct err *e)
{
    char port[8];
    snprintf(port, sizeof port, "%u", a->port);
    bool any = passive && (!a->host[0] || strcmp(a->host, "*") == 0);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_family = any ? AF_INET : AF_UNSPEC,
                             .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
    int rc = getaddrinfo(any ? NULL : a->host, port, &hints, list);
    if (rc)
        return err_set(e, ERR_NOT_FOUND, "cannot find the host \"%s\": %s", a->host,
                       gai_strerror(rc));
    return 0;
}

static int listen_on(const struct addrinfo *ai, struct net_addr *a, struct err *e)
{
    int one = 1;
    int fd = socket(ai->ai_family, SOCK_STREAM, 0);
    if (fd < 0)
        return err_set(e, ERR_IO, "cannot make a socket: %s", strerror(errno));
    net_fd_prepare(fd);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, LISTEN_BACKLOG) ||
        getsockname(fd, (struct sockaddr *)&sa, &len)) {
        int number = errno;
        close(fd);
        return err_set(e, number == EADDRINUSE ? ERR_BUSY : ERR_IO,
                       "cannot listen on %s port %u: %s", a->host, a->port, strerror(number));
    }
    char text[NET_PEER_BYTES];
    net_peer_text((struct sockaddr *)&sa, len, text, sizeof text);
    a->port = (uint16_t)strtoul(strrchr(text, ':') + 1, NULL, 10);
    return fd;
}

int net_listen(struct net_addr *a, const struct net_key *key, struct err *e)
{
    struct addrinfo *list;
    int rc = addr_resolve(a, true, &list, e);
    if (rc)
        return rc;
    if (!sockaddr_is_loopback(list->ai_addr) && !net_key_is_set(key))
        rc = err_set(
            e, ERR_AUTH,
            "%s can be reached from other machines, and there is no cluster key; " NET_KEY_ADVICE
            ", or listen on 127.0.0.1",
            a->host[0] ? a->host : "*");
    else
        rc = listen_on(list, a, e);
    freeaddrinfo(list);
    return rc;
}

int net_accept(int listen_fd, int64_t deadline_ns, char *peer, size_t peer_bytes, struct err *e)
{
    for (;;) {
        struct sockaddr_storage sa = {0};
        socklen_t len = sizeof sa;
        int fd = accept(listen_fd, (struct sockaddr *)&sa, &len);
        if (fd >= 0) {
            net_fd_prepare(fd);
            if (peer_bytes)
                net_peer_text((struct sockaddr *)&sa, len, peer, peer_bytes);
            return fd;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return err_set(e, ERR_IO, "cannot accept a connection: %s", strerror(errno));
        if (net_fd_wait(listen_fd, POLLIN, deadline_ns))
            return err_set(e, ERR_TIMEOUT, "no connection came in time");
    }
}

// ---- dialling --------------------------------------------------------------------------------------

static int connect_wait(int fd, const struct addrinfo *ai, int64_t deadline_ns)
{
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
        return 0;
    if (errno != EINPROGRESS && errno != EINTR)
        return errno;
    if (net_fd_wait(fd, POLLOUT, deadline_ns))
        return ETIMEDOUT;
    int number = 0;
    socklen_t len = sizeof number;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &len);
    return number;
}

static int dial_one(const struct addrinfo *ai, int64_t deadline_ns, struct err *e)
{
    char peer[NET_PEER_BYTES];
    net_peer_text(ai->ai_addr, ai->ai_addrlen, peer, sizeof peer);
    int fd = socket(ai->ai_family, SOCK_STREAM, 0);
    if (fd < 0)
        return err_set(e, ERR_IO, "cannot make a socket: %s", strerror(errno));
    net_fd_prepare(fd);
    int number = connect_wait(fd, ai, deadline_ns);
    if (number == 0)
        return fd;
    close(fd);
    return err_set(e, number == ETIMEDOUT ? ERR_TIMEOUT : ERR_IO, "cannot connect to %s: %s", peer,
                   strerror(number));
}

static int addrinfo_count(const struct addrinfo *list)
{
    int n = 0;
    for (; list; list = list->ai_next)
        n++;
    return n;
}

int net_tcp_dial(const struct net_addr *a, bool has_key, int64_t deadline_ns,
                 char peer[NET_PEER_BYTES], struct err *e)
{
    struct addrinfo *list;
    int fd = addr_resolve(a, false, &list, e);
    if (fd)
        return fd;
    fd = ERR_NOT_FOUND;
    for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        if (!has_key && !sockaddr_is_loopback(ai->ai_addr)) {
            fd = err_set(e, ERR_AUTH,
                         "%s is another machine, and there is no cluster key; " NET_KEY_ADVICE,
                         a->host);
            continue;
        }
        // Each address gets its share of the time, so that a dead one does not use it all.
        int64_t now = clock_now_ns(), until = deadline_ns;
        if (deadline_ns != NET_NEVER)
            until = now + (deadline_ns - now) / addrinfo_count(ai);
        fd = dial_one(ai, until, e);
        if (fd >= 0)
            net_peer_text(ai->ai_addr, ai->ai_addrlen, peer, NET_PEER_BYTES);
    }
    freeaddrinfo(list);
    return fd;
}
