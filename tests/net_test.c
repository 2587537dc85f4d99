// Connections: addresses, the TLS handshake and everything that can go wrong in it, reading and
// writing with deadlines, and the pacer against its definition.
#include "base/buf.h"
#include "base/clock.h"
#include "net/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const struct net_key key_a = {{1, 2, 3, 4, 5}};
static const struct net_key key_b = {{1, 2, 3, 4, 6}};
static const struct net_key key_none;

static int64_t in_ms(int64_t ms)
{
    return clock_now_ns() + ms * NS_PER_MS;
}

// ---- addresses -------------------------------------------------------------------------------------

static void test_addr_parse(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
        const char *host;
        uint16_t port;
    } cases[] = {
        {"10.0.0.7:81", 0, "10.0.0.7", 81},
        {"spark.local", 0, "spark.local", 7077},
        {":9000", 0, "127.0.0.1", 9000},
        {"", 0, "127.0.0.1", 7077},
        {"[::1]:80", 0, "::1", 80},
        {"[fe80::1%eth0]", 0, "fe80::1%eth0", 7077},
        {"::1", 0, "::1", 7077},
        {"host:0", 0, "host", 0},
        {"host:65535", 0, "host", 65535},
        {"host:65536", ERR_INVALID, "", 0},
        {"host:", ERR_INVALID, "", 0},
        {"host:-1", ERR_INVALID, "", 0},
        {"host:8o", ERR_INVALID, "", 0},
        {"host:99999999999999999999", ERR_INVALID, "", 0},
        {"ho st:80", ERR_INVALID, "", 0},
        {"host\n:80", ERR_INVALID, "", 0},
        {"[::1", ERR_INVALID, "", 0},
        {"[::1]80", ERR_INVALID, "", 0},
        {"http://host:80", ERR_INVALID, "", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net_addr a;
        struct err e = {0};
        assert_int_equal(net_addr_parse(cases[i].text, "127.0.0.1", 7077, &a, &e), cases[i].rc);
        if (cases[i].rc) {
            assert_true(e.message[0]);
            continue;
        }
        assert_string_equal(a.host, cases[i].host);
        assert_int_equal(a.port, cases[i].port);
    }
    char longest[400];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    struct net_addr a;
    assert_int_equal(net_addr_parse(longest, "", 1, &a, NULL), ERR_RANGE);
}

static void test_addr_loopback(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        bool loopback;
    } cases[] = {
        {"127.0.0.1", true}, {"127.9.9.9", true}, {"localhost", true},     {"::1", true},
        {"0.0.0.0", false},  {"::", false},       {"192.168.1.2", false},  {"128.0.0.1", false},
        {"*", false},        {"", false},         {"127.evil.org", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net_addr a = {.port = 1};
        snprintf(a.host, sizeof a.host, "%s", cases[i].host);
        assert_int_equal(net_addr_is_loopback(&a), cases[i].loopback);
    }
}

static void test_public_needs_key(void **state)
{
    (void)state;
    static const char *const hosts[] = {"0.0.0.0", "*", "", "::"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct net_addr a = {0};
        snprintf(a.host, sizeof a.host, "%s", hosts[i]);
        struct err e = {0};
        assert_int_equal(net_listen(&a, &key_none, &e), ERR_AUTH);
        assert_non_null(strstr(e.message, "tandem pair new"));
        assert_non_null(strstr(e.message, "tandem pair join WORDS..."));
    }
    struct net_addr far = {.host = "192.0.2.1", .port = 9};
    struct net_conn *c = NULL;
    struct err e = {0};
    assert_int_equal(net_conn_dial(&far, &key_none, in_ms(100), &c, &e), ERR_AUTH);
    assert_non_null(strstr(e.message, "tandem pair new"));
    assert_non_null(strstr(e.message, "tandem pair join WORDS..."));

    struct net_addr any = {.host = "0.0.0.0"};
    int fd = net_listen(&any, &key_a, &e);
    assert_true(fd >= 0);
    assert_true(any.port != 0);
    struct net_addr taken = any;
    assert_int_equal(net_listen(&taken, &key_a, &e), ERR_BUSY);
    close(fd);
}

// ---- two ends --------------------------------------------------------------------------------------

struct dialler {
    struct net_addr addr;
    const struct net_key *key;
    struct net_conn *conn;
    struct err err;
    int rc;
};

static void *dialler_main(void *arg)
{
    struct dialler *d = arg;
    d->rc = net_conn_dial(&d->addr, d->key, in_ms(5000), &d->conn, &d->err);
    return NULL;
}

static int listen_local(struct net_addr *a)
{
    *a = (struct net_addr){.host = "127.0.0.1"};
    struct err e = {0};
    int fd = net_listen(a, &key_none, &e);
    assert_true(fd >= 0);
    return fd;
}

// Connects both ends; either may be NULL where its key is not the other's.
static void connect_pair(const struct net_key *server_key, const struct net_key *client_key,
                         struct net_conn **server, struct net_conn **client, struct err *e_server,
                         struct err *e_client)
{
    struct dialler d = {.key = client_key};
    int fd = listen_local(&d.addr);
    pthread_t thread;
    pthread_create(&thread, NULL, dialler_main, &d);
    char peer[64];
    int accepted = net_accept(fd, in_ms(5000), peer, sizeof peer, e_server);
    assert_true(accepted >= 0);
    *server = NULL;
    int rc = net_conn_accept_tls(accepted, server_key, in_ms(5000), server, e_server);
    assert_int_equal(rc == 0, *server != NULL);
    pthread_join(thread, NULL);
    close(fd);
    *client = d.conn;
    *e_client = d.err;
    assert_int_equal(d.rc == 0, d.conn != NULL);
}

static void connect_good(struct net_conn **server, struct net_conn **client)
{
    struct err es = {0}, ec = {0};
    connect_pair(&key_a, &key_a, server, client, &es, &ec);
    assert_non_null(*server);
    assert_non_null(*client);
}

static uint8_t pattern_at(size_t i, unsigned seed)
{
    return (uint8_t)((i * 2654435761u + seed * 40503u) >> 13);
}

struct stream {
    struct net_conn *conn;
    size_t total;
    unsigned seed;
    int rc;
};

// Writes in parts of all sizes around those at which the code takes another path.
static void *stream_write(void *arg)
{
    struct stream *s = arg;
    static const size_t sizes[] = {1, 24, 64, 16295, 16296, 16383, 16384, 16385, 300000, 0, 7};
    uint8_t *data = malloc(s->total);
    for (size_t i = 0; i < s->total; i++)
        data[i] = pattern_at(i, s->seed);
    size_t at = 0;
    for (unsigned k = s->seed; s->rc == 0 && at < s->total; k++) {
        struct net_part parts[4];
        for (unsigned p = 0; p < 4; p++) {
            size_t n = sizes[(k * 3 + p * (k % 5 + 1)) % (sizeof sizes / sizeof *sizes)];
            n = n < s->total - at ? n : s->total - at;
            parts[p] = (struct net_part){data + at, n};
            at += n;
        }
        s->rc = net_conn_write_parts(s->conn, parts, 4, in_ms(5000), NULL);
    }
    free(data);
    return NULL;
}

static void *stream_read(void *arg)
{
    struct stream *s = arg;
    static const size_t sizes[] = {24, 1, 64, 65536, 1 << 20, 3};
    uint8_t *data = malloc(1 << 20);
    size_t at = 0;
    for (unsigned k = 0; s->rc == 0 && at < s->total; k++) {
        size_t n = sizes[k % (sizeof sizes / sizeof *sizes)];
        n = n < s->total - at ? n : s->total - at;
        s->rc = net_conn_read(s->conn, data, n, in_ms(5000), NULL);
        for (size_t i = 0; s->rc == 0 && i < n; i++) {
            if (data[i] != pattern_at(at + i, s->seed))
                s->rc = ERR_CORRUPT;
        }
        at += n;
    }
    free(data);
    return NULL;
}

static void run_streams(struct net_conn *a, struct net_conn *b, size_t total)
{
    struct stream streams[4] = {
        {a, total, 1, 0}, {b, total, 1, 0}, {b, total / 2, 2, 0}, {a, total / 2, 2, 0}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, i % 2 ? stream_read : stream_write, &streams[i]);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(streams[i].rc, 0);
    }
}

static void test_both_ways_tls(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    connect_good(&server, &client);
    assert_non_null(strstr(net_conn_peer(server), "127.0.0.1:"));
    run_streams(server, client, 6 << 20);
    net_conn_free(client);
    net_conn_free(server);
}

static void test_both_ways_paced(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    connect_good(&server, &client);
    net_conn_pace(server, 40e6);
    net_conn_pace(client, 3e6);
    run_streams(server, client, 1 << 20);
    net_conn_free(client);
    net_conn_free(server);
}

static void test_both_ways_plain(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    struct net_conn *a = net_conn_wrap(fds[0]), *b = net_conn_wrap(fds[1]);
    run_streams(a, b, 3 << 20);
    net_conn_free(a);
    net_conn_free(b);
}

static void test_no_key_on_loopback(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    struct err es = {0}, ec = {0};
    connect_pair(&key_none, &key_none, &server, &client, &es, &ec);
    assert_non_null(server);
    run_streams(server, client, 1 << 18);
    net_conn_free(client);
    net_conn_free(server);
}

// ---- bad handshakes --------------------------------------------------------------------------------

static void test_wrong_key(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    struct err es = {0}, ec = {0};
    connect_pair(&key_a, &key_b, &server, &client, &es, &ec);
    assert_null(server);
    assert_null(client);
    assert_int_equal(es.code, ERR_AUTH);
    assert_non_null(strstr(es.message, "another cluster key"));
    assert_int_equal(ec.code, ERR_AUTH);
    assert_non_null(strstr(ec.message, "another cluster key"));
}

static void test_client_without_key(void **state)
{
    (void)state;
    struct net_addr a;
    int fd = listen_local(&a);
    struct net_conn *client = NULL, *server = NULL;
    struct err e = {0};
    assert_int_equal(net_conn_dial(&a, &key_none, in_ms(2000), &client, &e), 0);
    assert_int_equal(net_conn_write(client, "TDM1 and so on", 14, in_ms(1000), &e), 0);
    int accepted = net_accept(fd, in_ms(2000), NULL, 0, &e);
    assert_int_equal(net_conn_accept_tls(accepted, &key_a, in_ms(2000), &server, &e), ERR_AUTH);
    assert_non_null(strstr(e.message, "does not speak TLS"));
    net_conn_free(client);
    close(fd);
}

static void test_server_without_key(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    struct dialler d = {.key = &key_a};
    int fd = listen_local(&d.addr);
    pthread_t thread;
    pthread_create(&thread, NULL, dialler_main, &d);
    struct err e = {0};
    int accepted = net_accept(fd, in_ms(2000), NULL, 0, &e);
    assert_int_equal(net_conn_accept_tls(accepted, &key_none, in_ms(2000), &server, &e), 0);
    uint8_t first[3];
    assert_int_equal(net_conn_read(server, first, 3, in_ms(2000), &e), 0);
    assert_int_equal(first[0], 22); // a ClientHello: the wire layer refuses it as a frame
    assert_int_equal(net_conn_write(server, "TDM1", 4, in_ms(2000), &e), 0);
    pthread_join(thread, NULL);
    client = d.conn;
    assert_null(client);
    assert_int_equal(d.err.code, ERR_AUTH);
    assert_non_null(strstr(d.err.message, "does not speak TLS"));
    net_conn_free(server);
    close(fd);
}

static int raw_dial(const struct net_addr *a)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons(a->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

// What peers that hold no key say, and that they never get a byte back.
static void test_garbage_is_not_answered(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        int rc;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", 18, ERR_AUTH},
        {"SSH-2.0-OpenSSH_9.2\r\n", 21, ERR_AUTH},
        {"\x16\x02garbage", 9, ERR_AUTH},
        {"\x16\x03\x01\x00\x05garbage", 12, ERR_AUTH},
        {"\x16\x03\x01\xff\xff....", 9, ERR_AUTH},
        {"\x15\x03\x01\x00\x02\x02\x28", 7, ERR_AUTH}, // an alert
        {"\x16", 1, ERR_AUTH},                         // and then the end
        {"", 0, ERR_CLOSED},                           // a port scanner
    };
    struct net_addr a;
    int fd = listen_local(&a);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int raw = raw_dial(&a);
        assert_int_equal(send(raw, cases[i].bytes, cases[i].n, 0), (ssize_t)cases[i].n);
        shutdown(raw, SHUT_WR);
        struct err e = {0};
        struct net_conn *server = NULL;
        int accepted = net_accept(fd, in_ms(2000), NULL, 0, &e);
        assert_int_equal(net_conn_accept_tls(accepted, &key_a, in_ms(2000), &server, &e),
                         cases[i].rc);
        assert_true(e.message[0]);
        char answer;
        assert_true(recv(raw, &answer, 1, 0) <= 0);
        close(raw);
    }
    close(fd);
}

struct dripper {
    int fd;
    atomic_bool stop;
};

static void *dripper_main(void *arg)
{
    struct dripper *d = arg;
    static const uint8_t hello[] = {22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3};
    for (size_t i = 0; !atomic_load(&d->stop); i++) {
        uint8_t byte = i < sizeof hello ? hello[i] : 0;
        if (send(d->fd, &byte, 1, MSG_NOSIGNAL) < 0)
            break;
        clock_sleep_until(in_ms(20));
    }
    return NULL;
}

// A peer that always makes a little progress is still cut at the deadline.
static void test_slow_peer(void **state)
{
    (void)state;
    struct net_addr a;
    int fd = listen_local(&a);
    struct dripper d = {.fd = raw_dial(&a)};
    pthread_t thread;
    pthread_create(&thread, NULL, dripper_main, &d);
    struct err e = {0};
    struct net_conn *server = NULL;
    int accepted = net_accept(fd, in_ms(2000), NULL, 0, &e);
    assert_int_equal(net_conn_accept_tls(accepted, &key_a, in_ms(200), &server, &e), ERR_TIMEOUT);
    assert_non_null(strstr(e.message, "did not finish"));
    atomic_store(&d.stop, true);
    pthread_join(thread, NULL);
    close(d.fd);
    close(fd);
}

static void test_silent_server(void **state)
{
    (void)state;
    struct net_addr a;
    int fd = listen_local(&a); // the kernel accepts, nobody answers
    struct err e = {0};
    struct net_conn *c = NULL;
    assert_int_equal(net_conn_dial(&a, &key_a, in_ms(100), &c, &e), ERR_TIMEOUT);
    close(fd);
    assert_int_equal(net_conn_dial(&a, &key_a, in_ms(100), &c, &e), ERR_IO);
    assert_non_null(strstr(e.message, "cannot connect"));
}

// ---- a man in the middle ---------------------------------------------------------------------------

struct proxy {
    int client, server;
    size_t flip_at; // byte of what the client sends; SIZE_MAX: none
    size_t cut_at;  // closes both after so many
};

static bool proxy_copy(int from, int to, size_t *done, size_t flip_at, size_t cut_at)
{
    uint8_t data[4096];
    ssize_t n = recv(from, data, sizeof data, 0);
    if (n <= 0)
        return false;
    if (flip_at >= *done && flip_at < *done + (size_t)n)
        data[flip_at - *done] ^= 0x10;
    size_t left = cut_at - *done;
    *done += (size_t)n;
    size_t out = (size_t)n < left ? (size_t)n : left;
    return send(to, data, out, MSG_NOSIGNAL) == n;
}

static void *proxy_main(void *arg)
{
    struct proxy *p = arg;
    size_t up = 0, down = 0;
    struct pollfd fds[2] = {{.fd = p->client, .events = POLLIN},
                            {.fd = p->server, .events = POLLIN}};
    for (bool open = true; open && poll(fds, 2, 5000) > 0;) {
        if (fds[0].revents)
            open = proxy_copy(p->client, p->server, &up, p->flip_at, p->cut_at);
        if (open && fds[1].revents)
            open = proxy_copy(p->server, p->client, &down, SIZE_MAX, SIZE_MAX);
    }
    close(p->client);
    close(p->server);
    return NULL;
}

// The client sends 100 kB through a proxy that does something to it; returns how the server's read
// of them ended.
static int read_through_proxy(size_t flip_at, size_t cut_at, struct err *e)
{
    struct net_addr front, back;
    int front_fd = listen_local(&front), back_fd = listen_local(&back);
    struct dialler d = {.addr = front, .key = &key_a};
    pthread_t dialler, proxy;
    pthread_create(&dialler, NULL, dialler_main, &d);
    int in = accept(front_fd, NULL, NULL);
    if (in < 0 && errno == EAGAIN && net_fd_wait(front_fd, POLLIN, in_ms(2000)) == 0)
        in = accept(front_fd, NULL, NULL);
    assert_true(in >= 0);
    struct proxy p = {in, raw_dial(&back), flip_at, cut_at};
    pthread_create(&proxy, NULL, proxy_main, &p);
    struct net_conn *server = NULL;
    int accepted = net_accept(back_fd, in_ms(2000), NULL, 0, e);
    assert_int_equal(net_conn_accept_tls(accepted, &key_a, in_ms(5000), &server, e), 0);
    pthread_join(dialler, NULL);
    assert_int_equal(d.rc, 0);
    static uint8_t data[100000], got[100000];
    net_conn_write(d.conn, data, sizeof data, in_ms(2000), NULL);
    int rc = net_conn_read(server, got, sizeof got, in_ms(2000), e);
    net_conn_free(d.conn);
    net_conn_free(server);
    pthread_join(proxy, NULL);
    close(front_fd);
    close(back_fd);
    return rc;
}

static void test_tampering(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(read_through_proxy(SIZE_MAX, SIZE_MAX, &e), 0);
    assert_int_equal(read_through_proxy(5000, SIZE_MAX, &e), ERR_CORRUPT);
    assert_int_equal(read_through_proxy(50000, SIZE_MAX, &e), ERR_CORRUPT);
    assert_int_equal(read_through_proxy(SIZE_MAX, 50000, &e), ERR_CLOSED);
    assert_non_null(strstr(e.message, "of 100000 bytes"));
}

// ---- key updates -------------------------------------------------------------------------------------

static void tls_carry(struct net_tls *from, struct net_tls *to)
{
    const uint8_t *data;
    uint8_t *space;
    size_t n = net_tls_out(from, &data);
    assert_true(net_tls_in_space(to, &space) >= n);
    memcpy(space, data, n);
    net_tls_in_add(to, n);
    net_tls_out_drop(from, n);
}

// A key update in the middle of a buffer: what lies behind it in the same buffer is found without
// waiting for more.
static void test_key_update(void **state)
{
    (void)state;
    struct err e = {0};
    struct net_tls *a = net_tls_new(&key_a, false, &e), *b = net_tls_new(&key_a, true, &e);
    int ra, rb;
    do {
        ra = net_tls_handshake(a, "b", &e);
        tls_carry(a, b);
        rb = net_tls_handshake(b, "a", &e);
        tls_carry(b, a);
        assert_true(ra >= 0 && rb >= 0);
    } while (ra || rb);
    uint32_t sent = 0, got = 0;
    for (int round = 0; round < 6; round++) {
        for (int k = 0; k < 40; k++, sent++) {
            assert_int_equal(net_tls_encrypt(a, &sent, sizeof sent, &e), sizeof sent);
            if (k == 7 * round)
                assert_int_equal(net_tls_rekey(a, &e), 0);
        }
        tls_carry(a, b);
        for (uint32_t value; net_tls_decrypt(b, &value, sizeof value, &e) > 0; got++)
            assert_int_equal(value, got);
        assert_int_equal(got, sent);
    }
    assert_int_equal(net_tls_encrypt(b, &sent, sizeof sent, &e), sizeof sent);
    tls_carry(b, a);
    assert_int_equal(net_tls_decrypt(a, &got, sizeof got, &e), sizeof got);
    net_tls_free(a);
    net_tls_free(b);
}

// ---- reading, writing, ending ------------------------------------------------------------------------

static void test_read_ends(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    connect_good(&server, &client);
    struct err e = {0};
    char data[8];
    assert_int_equal(net_conn_read(server, data, 4, in_ms(30), &e), ERR_TIMEOUT);
    assert_int_equal(net_conn_write(client, "abcde", 5, in_ms(1000), &e), 0);
    net_conn_finish(client);
    assert_int_equal(net_conn_read(server, data, 2, in_ms(1000), &e), 0);
    assert_int_equal(net_conn_read(server, data, 8, in_ms(1000), &e), ERR_CLOSED);
    assert_non_null(strstr(e.message, "after 3 of 8 bytes"));
    assert_int_equal(net_conn_write(server, "yes", 3, in_ms(1000), &e), 0);
    assert_int_equal(net_conn_read(client, data, 3, in_ms(1000), &e), 0);
    assert_memory_equal(data, "yes", 3);
    net_conn_free(client);
    net_conn_free(server);
}

// The peer is gone: an error, never a signal.
static void test_write_to_nobody(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    connect_good(&server, &client);
    net_conn_free(client);
    static uint8_t data[1 << 20];
    struct err e = {0};
    int rc = 0;
    for (int i = 0; rc == 0 && i < 100; i++)
        rc = net_conn_write(server, data, sizeof data, in_ms(2000), &e);
    assert_int_equal(rc, ERR_CLOSED);
    net_conn_free(server);
}

static void test_write_to_sleeper(void **state)
{
    (void)state;
    struct net_conn *server, *client;
    connect_good(&server, &client);
    static uint8_t data[1 << 20];
    struct err e = {0};
    int rc = 0;
    for (int i = 0; rc == 0 && i < 1000; i++)
        rc = net_conn_write(server, data, sizeof data, in_ms(50), &e);
    assert_int_equal(rc, ERR_TIMEOUT);
    net_conn_free(client);
    net_conn_free(server);
}

static void *blocked_read(void *arg)
{
    struct stream *s = arg;
    uint8_t byte;
    s->rc = net_conn_read(s->conn, &byte, 1, NET_NEVER, NULL);
    return NULL;
}

static void *blocked_write(void *arg)
{
    struct stream *s = arg;
    static const uint8_t data[1 << 20];
    while (s->rc == 0)
        s->rc = net_conn_write(s->conn, data, sizeof data, NET_NEVER, NULL);
    return NULL;
}

static void shutdown_frees_both(double pace)
{
    struct net_conn *server, *client;
    connect_good(&server, &client);
    net_conn_pace(server, pace);
    struct stream reader = {.conn = server}, writer = {.conn = server};
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, blocked_read, &reader);
    pthread_create(&threads[1], NULL, blocked_write, &writer);
    clock_sleep_until(in_ms(50));
    net_conn_shutdown(server);
    net_conn_shutdown(server);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    assert_int_equal(reader.rc, ERR_CLOSED);
    assert_int_equal(writer.rc, ERR_CLOSED);
    net_conn_free(server);
    net_conn_free(client);
}

static void test_shutdown(void **state)
{
    (void)state;
    shutdown_frees_both(0);
    shutdown_frees_both(2000); // the writer sleeps half a second at a time
}

// ---- pacing ----------------------------------------------------------------------------------------

// A writer that always has more, on a machine that delays it at random: every window of 100 ms
// carries the rate within 1 %, save for one slice at each edge and the delay of its last wake-up.
static void test_pace_windows(void **state)
{
    (void)state;
    static const double rates[] = {50e3, 3e6, 125e6, 1.2e9};
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        struct net_pace p;
        net_pace_init(&p, rates[r]);
        size_t slice = net_pace_slice(&p);
        double sent = 0;
        int64_t now = 1000 * NS_PER_MS, start = now;
        unsigned seed = 7;
        net_pace_begin(&p, now);
        while (now - start < 3000 * NS_PER_MS) {
            int64_t until = net_pace_book(&p, slice, now);
            now = until > now ? until : now;
            seed = seed * 1103515245u + 12345u;
            now += (seed >> 16) % 3 ? 0 : (int64_t)((seed >> 18) % 400) * NS_PER_US;
            sent += (double)slice;
            double due = ns_to_s(now - start + NET_PACE_CREDIT_NS) * rates[r];
            assert_true(sent <= due + 2); // times are whole nanoseconds
            // 400 us is the worst delay above.
            assert_true(sent >= due - 2 * (double)slice - rates[r] * 1.5e-3);
        }
    }
}

// Idle time is not saved up.
static void test_pace_idle(void **state)
{
    (void)state;
    struct net_pace p;
    net_pace_init(&p, 1e6);
    int64_t now = 5000 * NS_PER_MS;
    net_pace_begin(&p, now);
    int64_t first = net_pace_book(&p, 100000, now);
    assert_int_equal(first, now + 100 * NS_PER_MS - NET_PACE_CREDIT_NS);
    now += 2000 * NS_PER_MS;
    net_pace_begin(&p, now);
    assert_int_equal(net_pace_book(&p, 100000, now), now + 100 * NS_PER_MS - NET_PACE_CREDIT_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addr_parse),
        cmocka_unit_test(test_addr_loopback),
        cmocka_unit_test(test_public_needs_key),
        cmocka_unit_test(test_both_ways_tls),
        cmocka_unit_test(test_both_ways_paced),
        cmocka_unit_test(test_both_ways_plain),
        cmocka_unit_test(test_no_key_on_loopback),
        cmocka_unit_test(test_wrong_key),
        cmocka_unit_test(test_client_without_key),
        cmocka_unit_test(test_server_without_key),
        cmocka_unit_test(test_garbage_is_not_answered),
        cmocka_unit_test(test_slow_peer),
        cmocka_unit_test(test_silent_server),
        cmocka_unit_test(test_tampering),
        cmocka_unit_test(test_key_update),
        cmocka_unit_test(test_read_ends),
        cmocka_unit_test(test_write_to_nobody),
        cmocka_unit_test(test_write_to_sleeper),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_pace_windows),
        cmocka_unit_test(test_pace_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
