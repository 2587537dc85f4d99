#include "cli/wait.h"

#include "base/clock.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAME_SIGNAL_NS (300 * NS_PER_MS)

// Set once before threads start; a signal handler has no other way to find it.
static int pipe_fds[2] = {-1, -1};

static void event_write(const struct wait_event *ev)
{
    int saved = errno;

    // Smaller than PIPE_BUF: written whole or not at all.
    if (write(pipe_fds[1], ev, sizeof(*ev)) < 0)
        errno = saved;
    errno = saved;
}

static void on_signal(int number)
{
    static const struct wait_event ev = {.kind = WAIT_SIGNAL};

    (void)number;
    event_write(&ev);
}

void wait_init(void)
{
    struct sigaction a = {.sa_handler = on_signal};

    if (pipe(pipe_fds) != 0) {
        perror("tandem: pipe");
        exit(1);
    }
    for (int i = 0; i < 2; i++)
        fcntl(pipe_fds[i], F_SETFD, FD_CLOEXEC);
    fcntl(pipe_fds[1], F_SETFL, O_NONBLOCK);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

void wait_post(enum wait_kind kind, const char *text)
{
    struct wait_event ev = {.kind = kind};

    snprintf(ev.text, sizeof(ev.text), "%s", text);
    event_write(&ev);
}

// Blocks.
static void event_next(struct wait_event *ev)
{
    char *at = (char *)ev;
    size_t have = 0;

    while (have < sizeof(*ev)) {
        ssize_t n = read(pipe_fds[0], at + have, sizeof(*ev) - have);

        if (n > 0)
            have += (size_t)n;
        else if (n == 0 || errno != EINTR)
            break;
    }
    if (have < sizeof(*ev))
        ev->kind = WAIT_SIGNAL;
}

bool wait_drained(double seconds)
{
    int64_t begun_ns = clock_now_ns(), end_ns = begun_ns + (int64_t)(seconds * 1e9), left_ns;
    struct pollfd p = {.fd = pipe_fds[0], .events = POLLIN};
    struct wait_event ev;

    while ((left_ns = end_ns - clock_now_ns()) > 0) {
        if (poll(&p, 1, (int)(left_ns / NS_PER_MS) + 1) <= 0)
            continue;
        event_next(&ev);
        // What signals a process and then its group means one signal.
        if (ev.kind == WAIT_SIGNAL && clock_now_ns() < begun_ns + SAME_SIGNAL_NS)
            continue;
        if (ev.kind == WAIT_DRAINED || ev.kind == WAIT_SIGNAL)
            return ev.kind == WAIT_DRAINED;
    }
    return false;
}

static void ready_print(const struct wait_ready *r, const char *model)
{
    bool v6 = strchr(r->host, ':') != NULL;
    char address[300];
    json_t *line;
    char *text;

    snprintf(address, sizeof(address), "%s%s%s%s:%u", r->scheme, v6 ? "[" : "", r->host,
             v6 ? "]" : "", r->port);
    fprintf(stderr, "tandem: %s %s (model %s)\n", r->what, address, model);
    if (!r->json)
        return;
    line = json_object();
    json_put(line, "listening", json_string(address));
    json_put(line, "port", json_integer(r->port));
    json_put(line, "model", json_string(model));
    text = json_line(line);
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(line);
}

int wait_until_stopped(const struct wait_ready *r)
{
    struct wait_event ev;
    bool announced = false;

    for (;;) {
        event_next(&ev);
        if (ev.kind == WAIT_SIGNAL)
            return 0;
        if (ev.kind == WAIT_FAILED) {
            fprintf(stderr, "tandem %s: the model could not be served: %s\n", r->command, ev.text);
            return 1;
        }
        if (ev.kind == WAIT_READY && !announced)
            ready_print(r, ev.text);
        announced = announced || ev.kind == WAIT_READY;
    }
}
