// gateway_load: what the gateway costs, seen from a client with very many connections.
//
//   gateway_load PORT PID [requests=N] [streams=N] [tokens=N] [idle=N] [slow=N]
//
// PORT and PID are those of a running `tandem serve`; its model should be the fake one, which costs next to
// nothing. In this order: `idle` connections are opened, each used once and kept; `requests` small requests
// run one after the other on one connection; `streams` streams of `tokens` tokens run at one time, of which
// `slow` read 64 bytes every tenth of a second until the fast ones have ended. Prints one line of JSON: CPU
// time of the gateway per request and per streamed token (its own, without worker and client), its
// memory, and how long the fast streams took.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "os/os.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ARGUMENTS 5
#define READ_BYTES 65536
#define SLOW_BYTES 64
#define SLOW_BUFFER 2048
#define SLOW_NS (NS_PER_S / 10)
#define LIMIT_NS (300 * NS_PER_S)

struct load {
    uint16_t port;
    pid_t pid;
    long requests, streams, tokens, idle, slow;
    int *idle_fds;
};

struct stream {
    int fd;
    bool slow, done;
    uint64_t events; // lines that begin with "data: "
    size_t matched;  // of that beginning, at the end of what was read
    int64_t next_ns, end_ns;
};

static void fail(const char *what)
{
    fprintf(stderr, "gateway_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

// buffer: of what has come and was not read, in bytes; 0: the system's own.
static int dial(const struct load *l, int buffer)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(l->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        fail("socket");
    if (buffer > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
        fail("connect");
    return fd;
}

static void send_all(int fd, const char *text)
{
    size_t n = strlen(text);

    while (n > 0) {
        ssize_t sent = send(fd, text, n, MSG_NOSIGNAL);

        if (sent <= 0)
            fail("send");
        text += sent;
        n -= (size_t)sent;
    }
}

static void post(int fd, const char *body)
{
    char text[1024];

    // In one piece: a second small one would wait for the first one's acknowledgement.
    snprintf(text, sizeof(text),
             "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    send_all(fd, text);
}

// Reads one whole answer with a Content-Length; false when it is not 200.
static bool answer_read(int fd)
{
    static char text[READ_BYTES];
    size_t n = 0, want = 0;
    char *end, *length;

    do {
        ssize_t got = recv(fd, text + n, sizeof(text) - 1 - n, 0);

        if (got <= 0)
            fail("recv");
        n += (size_t)got;
        text[n] = '\0';
        end = strstr(text, "\r\n\r\n");
        length = strstr(text, "Content-Length: ");
        if (end && length)
            want = (size_t)(end + 4 - text) + strtoul(length + 16, NULL, 10);
    } while (want == 0 || n < want);
    return strncmp(text, "HTTP/1.1 200", 12) == 0;
}

// ---- what the gateway used ----------------------------------------------------------------------------

static double cpu_seconds(const struct load *l)
{
    char path[64], *text = NULL, *at;
    unsigned long user = 0, system_time = 0;
    size_t n = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)l->pid);
    FILE *f = fopen(path, "r");
    if (!f)
        fail(path);
    if (getline(&text, &n, f) < 0)
        fail(path);
    fclose(f);
    at = strrchr(text, ')');
    if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                      &system_time) != 2)
        fail(path);
    free(text);
    return (double)(user + system_time) / (double)sysconf(_SC_CLK_TCK);
}

static double memory_mib(const struct load *l, bool peak)
{
    struct os_memory m = {0};

    os_memory_get(l->pid, &m);
    return (double)(peak ? m.peak_bytes : m.resident_bytes) / (1 << 20);
}

// ---- idle connections and single requests -----------------------------------------------------------------

static void idle_open(struct load *l)
{
    l->idle_fds = mem_alloc(((size_t)l->idle + 1) * sizeof(int));
    for (long i = 0; i < l->idle; i++) {
        l->idle_fds[i] = dial(l, 0);
        send_all(l->idle_fds[i], "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
        answer_read(l->idle_fds[i]);
    }
}

// True where an idle connection is still there.
static bool is_open(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void requests_run(struct load *l, json_t *out)
{
    static const char body[] = "{\"prompt\":\"x\",\"max_tokens\":1,\"temperature\":0,"
                               "\"ignore_eos\":true,\"cache_prompt\":false}";
    int fd = dial(l, 0);
    double cpu = cpu_seconds(l);
    int64_t begun_ns = clock_now_ns();

    for (long i = 0; i < l->requests; i++) {
        post(fd, body);
        if (!answer_read(fd))
            fail("a request was refused");
    }
    close(fd);
    if (l->requests == 0)
        return;
    json_put(out, "cpu_ms_per_request",
             json_real((cpu_seconds(l) - cpu) * 1e3 / (double)l->requests));
    json_put(out, "wall_ms_per_request",
             json_real(ns_to_s(clock_now_ns() - begun_ns) * 1e3 / (double)l->requests));
}

// ---- streams ------------------------------------------------------------------------------------------

static void stream_open(struct load *l, struct stream *s, long i)
{
    char body[256];

    *s = (struct stream){.fd = dial(l, i < l->slow ? SLOW_BUFFER : 0), .slow = i < l->slow};
    snprintf(body, sizeof(body),
             "{\"prompt\":\"stream %ld\",\"max_tokens\":%ld,\"temperature\":0,\"stream\":true,"
             "\"ignore_eos\":true,\"cache_prompt\":false}",
             i, l->tokens);
    post(s->fd, body);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
}

// Counts events across the borders of what is read at one time; "[DONE]" ends a stream.
static void stream_take(struct stream *s, const char *data, size_t n)
{
    static const char mark[] = "data: ";

    for (size_t i = 0; i < n; i++) {
        if (s->matched == sizeof(mark) - 1) {
            s->events++;
            s->done = data[i] == '[';
            s->matched = 0;
        }
        s->matched = data[i] == mark[s->matched] ? s->matched + 1 : data[i] == mark[0];
        if (s->done)
            break;
    }
    if (s->done)
        s->end_ns = clock_now_ns();
}

static void stream_read(struct stream *s, int64_t now_ns, bool hurry)
{
    char data[READ_BYTES];
    bool slow = s->slow && !hurry;
    ssize_t n;

    if (slow && now_ns < s->next_ns)
        return;
    s->next_ns = now_ns + SLOW_NS;
    n = recv(s->fd, data, slow ? SLOW_BYTES : sizeof(data), 0);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        fail("a stream was cut");
    if (n > 0)
        stream_take(s, data, (size_t)n);
}

// Until the fast ones have ended (hurry false), or all (true).
static void streams_wait(struct load *l, struct stream *all, bool hurry)
{
    struct pollfd *polls = mem_alloc((size_t)l->streams * sizeof(*polls));
    struct stream **of = mem_alloc((size_t)l->streams * sizeof(*of));
    int64_t limit_ns = clock_now_ns() + LIMIT_NS;

    for (;;) {
        nfds_t n = 0, fast = 0;
        int64_t now_ns = clock_now_ns();

        for (long i = 0; i < l->streams; i++) {
            if (all[i].done)
                continue;
            fast += hurry || !all[i].slow;
            // One that is to be slow is not looked at before its time.
            if (hurry || !all[i].slow || now_ns >= all[i].next_ns) {
                of[n] = &all[i];
                polls[n++] = (struct pollfd){.fd = all[i].fd, .events = POLLIN};
            }
        }
        if (fast == 0)
            break;
        if (now_ns > limit_ns)
            fail("the streams do not end");
        poll(polls, n, 50);
        for (nfds_t i = 0; i < n; i++)
            if (polls[i].revents)
                stream_read(of[i], now_ns, hurry);
    }
    free(polls);
    free(of);
}

static int by_end(const void *a, const void *b)
{
    const struct stream *x = a, *y = b;

    return (x->end_ns > y->end_ns) - (x->end_ns < y->end_ns);
}

static void streams_run(struct load *l, json_t *out)
{
    struct stream *all = mem_alloc(((size_t)l->streams + 1) * sizeof(*all));
    double cpu = cpu_seconds(l);
    int64_t begun_ns = clock_now_ns();
    uint64_t events = 0;
    double fast_s;

    for (long i = 0; i < l->streams; i++)
        stream_open(l, &all[i], i);
    streams_wait(l, all, false);
    fast_s = ns_to_s(clock_now_ns() - begun_ns);
    json_put(out, "streams_memory_mib", json_real(memory_mib(l, false)));
    streams_wait(l, all, true);
    cpu = cpu_seconds(l) - cpu;
    for (long i = 0; i < l->streams; i++) {
        events += all[i].events;
        close(all[i].fd);
    }
    qsort(all, (size_t)l->streams, sizeof(*all), by_end);
    if (l->streams > 0) {
        double tokens = (double)l->streams * (double)l->tokens;

        json_put(out, "cpu_us_per_token", json_real(cpu * 1e6 / tokens));
        json_put(out, "tokens_per_s", json_real(tokens / fast_s));
        json_put(out, "fast_streams_s", json_real(fast_s));
        json_put(out, "median_stream_s", json_real(ns_to_s(all[l->streams / 2].end_ns - begun_ns)));
        json_put(out, "events", json_integer((json_int_t)events));
    }
    free(all);
}

// ---- all of it ------------------------------------------------------------------------------------------

static void argument_read(struct load *l, const char *arg)
{
    const struct {
        const char *name;
        long *value;
    } known[ARGUMENTS] = {{"requests=", &l->requests},
                          {"streams=", &l->streams},
                          {"tokens=", &l->tokens},
                          {"idle=", &l->idle},
                          {"slow=", &l->slow}};

    for (size_t i = 0; i < ARGUMENTS; i++) {
        size_t n = strlen(known[i].name);

        if (strncmp(arg, known[i].name, n) == 0) {
            *known[i].value = strtol(arg + n, NULL, 10);
            return;
        }
    }
    fprintf(stderr, "gateway_load: what is \"%s\"?\n", arg);
    exit(2);
}

int main(int argc, char **argv)
{
    struct load l = {.requests = 1000, .streams = 100, .tokens = 100};
    json_t *out = json_object();
    long still = 0;
    char *line;

    if (argc < 3) {
        fprintf(stderr, "usage: gateway_load PORT PID [requests=N] [streams=N] [tokens=N] [idle=N] "
                        "[slow=N]\n");
        return 2;
    }
    l.port = (uint16_t)strtoul(argv[1], NULL, 10);
    l.pid = (pid_t)strtol(argv[2], NULL, 10);
    for (int i = 3; i < argc; i++)
        argument_read(&l, argv[i]);
    os_files_raise((uint64_t)(l.idle + l.streams) + 64);
    json_put(out, "memory_before_mib", json_real(memory_mib(&l, false)));
    idle_open(&l);
    json_put(out, "idle_memory_mib", json_real(memory_mib(&l, false)));
    requests_run(&l, out);
    streams_run(&l, out);
    for (long i = 0; i < l.idle; i++)
        still += is_open(l.idle_fds[i]);
    json_put(out, "idle", json_integer(l.idle));
    json_put(out, "idle_still_open", json_integer(still));
    json_put(out, "streams", json_integer(l.streams));
    json_put(out, "slow", json_integer(l.slow));
    json_put(out, "peak_memory_mib", json_real(memory_mib(&l, true)));
    line = json_line(out);
    puts(line);
    free(line);
    json_decref(out);
    free(l.idle_fds);
    return 0;
}
