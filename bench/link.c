// How fast segments cross a link: two processes, one core each, TLS on loopback, headers, envelopes
// and hashes as between a prefill and a decode worker. Beside it, in the same runs, the same number
// of bytes through a bare GnuTLS session, without frames, hashes or threads.
//
//   build/bench/link [RUNS [MIB_PER_RUN [CORE_A CORE_B]]]
//
// Prints one JSON object: medians of the runs in GB/s of payload, and GB per second of CPU time of
// either side, which a busy machine changes less. A core of its own for each side is assumed.
#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "kv/kv.h"
#include "net/net.h"
#include "os/os.h"
#include "wire/wire.h"

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUFFERS 3
#define SEGMENT_MAX_BYTES (12u << 20)
#define MAX_RUNS 64
#define MAX_SEGMENTS 65536

static const struct net_key key = {{7, 7, 7}};
static const uint32_t segment_mib[] = {1, 12, 3, 8, 2, 5}; // a schedule's chunks, large and small

struct sample {
    double gb_per_s, send_gb_per_cpu_s, recv_gb_per_cpu_s;
};

struct bench {
    int runs;
    size_t bytes; // of one run
    const char *cores[2];
    int32_t *tokens; // MAX_SEGMENTS ids, one per segment
    uint32_t segments;
};

static void must(int rc, const struct err *e)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "bench link: %s\n", e->message);
    exit(1);
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void pin(const struct bench *b, int side)
{
    struct err e = {0};
    if (os_cpu_pin(b->cores[side], &e))
        fprintf(stderr, "bench link: not pinned: %s\n", e.message);
}

static size_t segment_bytes(uint32_t i)
{
    return (size_t)segment_mib[i % (sizeof segment_mib / sizeof *segment_mib)] << 20;
}

// ---- buffers that go round ---------------------------------------------------------------------------

static struct chan *buffers_new(void)
{
    struct chan *c = chan_new(sizeof(void *), BUFFERS);
    for (int i = 0; i < BUFFERS; i++) {
        void *data = mem_alloc(SEGMENT_MAX_BYTES);
        memset(data, 0x40 + i, SEGMENT_MAX_BYTES); // pages in place
        chan_send(c, &data, CHAN_FOREVER);
    }
    return c;
}

static void buffers_free(struct chan *c)
{
    void *data;
    for (int i = 0; i < BUFFERS; i++) {
        chan_recv(c, &data, CHAN_FOREVER);
        free(data);
    }
    chan_free(c);
}

static void buffer_release(void *ctx, void *data)
{
    chan_send(ctx, &data, CHAN_FOREVER);
}

static struct wire_body buffer_get(struct chan *c, size_t n)
{
    struct wire_body b = {.len = n, .release = buffer_release, .ctx = c};
    chan_recv(c, &b.data, CHAN_FOREVER);
    return b;
}

// ---- the link --------------------------------------------------------------------------------------

struct receiver {
    struct chan *buffers, *acks; // acks: uint32_t
    struct kv_receive receive;
};

static int receiver_body_get(void *ctx, const struct wire_frame *f, size_t n,
                             struct wire_body *body, struct err *e)
{
    struct receiver *r = ctx;
    (void)f, (void)e;
    *body = buffer_get(r->buffers, n);
    return 0;
}

static int receiver_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct receiver *r = ctx;
    struct kv_segment s;
    int rc = kv_segment_decode(f->head, f->head_bytes, &s, e);
    if (rc == 0)
        rc = kv_receive_segment(&r->receive, &s, f->body.data, f->body.len, e);
    must(rc, e);
    wire_frame_fini(f);
    return chan_send(r->acks, &s.index, CHAN_FOREVER);
}

static void link_receive(const struct bench *b, struct net_conn *c, struct chan *buffers)
{
    struct receiver r = {.buffers = buffers, .acks = chan_new(sizeof(uint32_t), 64)};
    kv_receive_init(&r.receive, 1, 1, b->tokens, 0, b->segments, 1);
    struct wire_link_ops ops = {.body_get = receiver_body_get, .on_frame = receiver_on_frame};
    struct wire_link_options o;
    wire_link_options_default(&o);
    struct wire_link *l = wire_link_start(c, &ops, &r, &o);
    uint32_t index;
    do {
        chan_recv(r.acks, &index, CHAN_FOREVER);
        struct kv_ack a = {.transfer = 1, .epoch = 1, .index = index, .tokens = index + 1};
        uint8_t bytes[KV_ACK_BYTES];
        kv_ack_encode(&a, bytes);
        struct wire_body none = {0};
        wire_link_send(l, wire_frame_struct(WIRE_ACK, 1, bytes, sizeof bytes, none), CHAN_FOREVER);
    } while (index + 1 < b->segments);
    wire_link_finish(l);
    clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    wire_link_free(l);
    kv_receive_fini(&r.receive);
    chan_free(r.acks);
}

static int sender_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct kv_ack a;
    int rc = kv_ack_decode(f->head, f->head_bytes, &a, e);
    wire_frame_fini(f);
    return rc ? rc : chan_send(ctx, &a.index, CHAN_FOREVER);
}

static struct wire_frame segment_make(const struct bench *b, struct kv_send *send,
                                      struct kv_tokens_hasher *hasher, struct chan *buffers)
{
    uint32_t i = send->end.segments;
    struct wire_body body = buffer_get(buffers, segment_bytes(i));
    kv_tokens_hasher_put(hasher, b->tokens + i, 1);
    struct kv_segment s = {.p0 = i,
                           .p1 = i + 1,
                           .layer = KV_ALL_LAYERS,
                           .flags = i + 1 == b->segments ? KV_SEGMENT_LAST : 0,
                           .tokens_hash = kv_tokens_hasher_get(hasher)};
    kv_send_segment(send, &s, body.data, body.len);
    uint8_t head[KV_SEGMENT_BYTES];
    kv_segment_encode(&s, head);
    return wire_frame_struct(WIRE_SEGMENT, 1, head, sizeof head, body);
}

static void link_send(const struct bench *b, struct net_conn *c, struct chan *buffers)
{
    struct chan *acks = chan_new(sizeof(uint32_t), MAX_SEGMENTS);
    struct kv_tokens_hasher *hasher = kv_tokens_hasher_new();
    struct kv_send send;
    kv_send_init(&send, 1, 1);
    struct wire_link_ops ops = {.on_frame = sender_on_frame};
    struct wire_link_options o;
    wire_link_options_default(&o);
    struct wire_link *l = wire_link_start(c, &ops, acks, &o);
    while (send.end.segments < b->segments)
        wire_link_send(l, segment_make(b, &send, hasher, buffers), CHAN_FOREVER);
    uint32_t index;
    do
        chan_recv(acks, &index, CHAN_FOREVER);
    while (index + 1 < b->segments);
    wire_link_free(l);
    kv_send_fini(&send);
    kv_tokens_hasher_free(hasher);
    chan_free(acks);
}

// ---- GnuTLS alone ------------------------------------------------------------------------------------

static int bare_key(gnutls_session_t session, const char *identity, gnutls_datum_t *out)
{
    (void)session, (void)identity;
    out->data = gnutls_malloc(sizeof key);
    memcpy(out->data, key.bytes, sizeof key);
    out->size = sizeof key;
    return 0;
}

static gnutls_session_t bare_session(int fd, bool server)
{
    static const char priority[] = "NONE:+VERS-TLS1.3:+AES-128-GCM:+AEAD:+ECDHE-PSK:+GROUP-X25519:"
                                   "+SIGN-ALL";
    gnutls_session_t s;
    gnutls_init(&s, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_TICKETS);
    gnutls_priority_set_direct(s, priority, NULL);
    if (server) {
        gnutls_psk_server_credentials_t c;
        gnutls_psk_allocate_server_credentials(&c);
        gnutls_psk_set_server_credentials_function(c, bare_key);
        gnutls_credentials_set(s, GNUTLS_CRD_PSK, c);
    } else {
        gnutls_psk_client_credentials_t c;
        gnutls_datum_t k = {(unsigned char *)(uintptr_t)key.bytes, sizeof key};
        gnutls_psk_allocate_client_credentials(&c);
        gnutls_psk_set_client_credentials(c, "bare", &k, GNUTLS_PSK_KEY_RAW);
        gnutls_credentials_set(s, GNUTLS_CRD_PSK, c);
    }
    gnutls_transport_set_int(s, fd);
    int rc;
    do
        rc = gnutls_handshake(s);
    while (rc < 0 && !gnutls_error_is_fatal(rc));
    struct err e = {0};
    must(rc < 0 ? err_set(&e, ERR_IO, "bare handshake: %s", gnutls_strerror(rc)) : 0, &e);
    return s;
}

// Moves n bytes one way and one byte back.
static void bare_move(gnutls_session_t s, bool sends, size_t n, struct chan *buffers)
{
    struct wire_body body = buffer_get(buffers, SEGMENT_MAX_BYTES);
    char *data = body.data, byte = 1;
    for (size_t done = 0; done < n;) {
        size_t at = done % SEGMENT_MAX_BYTES, left = SEGMENT_MAX_BYTES - at;
        left = left < n - done ? left : n - done;
        ssize_t rc =
            sends ? gnutls_record_send(s, data + at, left) : gnutls_record_recv(s, data + at, left);
        struct err e = {0};
        must(rc <= 0 ? err_set(&e, ERR_IO, "bare: %s", gnutls_strerror((int)rc)) : 0, &e);
        done += (size_t)rc;
    }
    ssize_t rc = sends ? gnutls_record_recv(s, &byte, 1) : gnutls_record_send(s, &byte, 1);
    (void)rc;
    buffer_release(buffers, data);
}

// GnuTLS alone works on a socket that waits.
static int blocking_fd(int fd)
{
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}

// ---- runs ------------------------------------------------------------------------------------------

// The receiving process: its CPU seconds go through the pipe.
static void receiver_run(const struct bench *b, int listen_fd, int pipe_fd, bool bare)
{
    struct err e = {0};
    struct net_conn *c;
    pin(b, 1);
    struct chan *buffers = buffers_new();
    int64_t deadline = clock_now_ns() + 10 * NS_PER_S;
    int fd = net_accept(listen_fd, deadline, NULL, 0, &e);
    must(fd, &e);
    double used = cpu_s();
    if (bare) {
        c = net_conn_wrap(fd);
        must(blocking_fd(fd), &e);
        bare_move(bare_session(fd, true), false, b->bytes, buffers);
        net_conn_free(c);
    } else {
        must(net_conn_accept_tls(fd, &key, deadline, &c, &e), &e);
        link_receive(b, c, buffers);
    }
    used = cpu_s() - used;
    if (write(pipe_fd, &used, sizeof used) != sizeof used)
        exit(1);
    exit(0);
}

static struct sample run(const struct bench *b, bool bare)
{
    struct err e = {0};
    struct net_addr a = {.host = "127.0.0.1"};
    int listen_fd = net_listen(&a, &key, &e), fds[2];
    must(listen_fd, &e);
    must(pipe(fds) ? err_set(&e, ERR_IO, "no pipe") : 0, &e);
    pid_t child = fork();
    if (child == 0)
        receiver_run(b, listen_fd, fds[1], bare);
    struct net_conn *c;
    struct chan *buffers = buffers_new();
    int64_t deadline = clock_now_ns() + 10 * NS_PER_S;
    struct net_key none = {{0}};
    must(net_conn_dial(&a, bare ? &none : &key, deadline, &c, &e), &e);
    double cpu = cpu_s();
    int64_t start = clock_now_ns();
    if (bare) {
        must(blocking_fd(net_conn_fd(c)), &e);
        bare_move(bare_session(net_conn_fd(c), false), true, b->bytes, buffers);
        net_conn_free(c);
    } else {
        link_send(b, c, buffers);
    }
    double wall = ns_to_s(clock_now_ns() - start), gb = (double)b->bytes * 1e-9, used = 0;
    cpu = cpu_s() - cpu;
    int status;
    waitpid(child, &status, 0);
    must(status || read(fds[0], &used, sizeof used) != sizeof used
             ? err_set(&e, ERR_IO, "the receiver failed")
             : 0,
         &e);
    close(fds[0]);
    close(fds[1]);
    close(listen_fd);
    buffers_free(buffers);
    return (struct sample){gb / wall, gb / cpu, gb / used};
}

static int double_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int n)
{
    double sorted[MAX_RUNS];
    memcpy(sorted, values, (size_t)n * sizeof *values);
    qsort(sorted, (size_t)n, sizeof *sorted, double_order);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static json_t *samples_json(const struct sample *s, int n)
{
    double wall[MAX_RUNS], send[MAX_RUNS], recv[MAX_RUNS];
    json_t *o = json_object(), *all = json_array();
    for (int i = 0; i < n; i++) {
        wall[i] = s[i].gb_per_s;
        send[i] = s[i].send_gb_per_cpu_s;
        recv[i] = s[i].recv_gb_per_cpu_s;
        json_array_append_new(all, json_real(wall[i]));
    }
    json_put(o, "gb_per_s", json_real(median(wall, n)));
    json_put(o, "send_gb_per_cpu_s", json_real(median(send, n)));
    json_put(o, "recv_gb_per_cpu_s", json_real(median(recv, n)));
    json_put(o, "runs_gb_per_s", all);
    return o;
}

// As many whole segments as are needed for the wanted bytes.
static void bench_size(struct bench *b, size_t wanted)
{
    b->bytes = 0;
    for (b->segments = 0; b->bytes < wanted && b->segments < MAX_SEGMENTS; b->segments++)
        b->bytes += segment_bytes(b->segments);
    b->tokens = mem_alloc(MAX_SEGMENTS * sizeof *b->tokens);
    for (int32_t i = 0; i < MAX_SEGMENTS; i++)
        b->tokens[i] = i * 7;
}

static long argument(int argc, char **argv, int i, long fallback, long max)
{
    long v = argc > i ? strtol(argv[i], NULL, 10) : fallback;
    return v < 1 ? 1 : v > max ? max : v;
}

int main(int argc, char **argv)
{
    static struct sample link[MAX_RUNS], bare[MAX_RUNS];
    struct bench b = {.runs = (int)argument(argc, argv, 1, 5, MAX_RUNS),
                      .cores = {argc > 4 ? argv[3] : "0", argc > 4 ? argv[4] : "1"}};
    bench_size(&b, (size_t)argument(argc, argv, 2, 2048, 1 << 16) << 20);
    pin(&b, 0);
    for (int i = 0; i < b.runs; i++) {
        link[i] = run(&b, false);
        bare[i] = run(&b, true);
    }
    json_t *o = json_object();
    json_put(o, "bytes", json_integer((json_int_t)b.bytes));
    json_put(o, "segments", json_integer(b.segments));
    json_put(o, "link", samples_json(link, b.runs));
    json_put(o, "bare_gnutls", samples_json(bare, b.runs));
    char *text = json_text(o);
    printf("%s\n", text);
    free(text);
    json_decref(o);
    free(b.tokens);
    return 0;
}
