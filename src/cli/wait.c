#include "cli/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

void wait_next(struct wait_event *ev)
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
