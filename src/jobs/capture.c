#include "jobs/capture.h"

#include "base/clock.h"
#include "os/os.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAX 64
#define POLL_NS (5 * NS_PER_MS)

static bool is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

int jobs_program_find(const char *name, char *out, size_t out_bytes, struct err *e)
{
    const char *path = getenv("PATH");
    if (strchr(name, '/')) {
        snprintf(out, out_bytes, "%s", name);
        return is_program(name) ? 0 : err_set(e, ERR_NOT_FOUND, "there is no program %s", name);
    }
    for (path = path ? path : "/usr/bin:/bin"; *path;) {
        int n = (int)strcspn(path, ":");
        int used = snprintf(out, out_bytes, "%.*s/%s", n, path, name);
        if (n > 0 && used > 0 && (size_t)used < out_bytes && is_program(out))
            return 0;
        path += n + (path[n] == ':');
    }
    return err_set(e, ERR_NOT_FOUND, "there is no program \"%s\" in PATH; install it", name);
}

struct child {
    pid_t pid;
    int out, err; // ends to read from, -1: at their end
    int64_t deadline_ns;
    struct buf said;
};

// False: the stream has ended.
static bool stream_read(int fd, struct buf *to, bool *too_much)
{
    char part[4096];
    ssize_t n = read(fd, part, sizeof part);
    if (n < 0)
        return errno == EINTR;
    if (n > 0 && to && buf_put(to, part, (size_t)n) != 0)
        *too_much = true;
    return n > 0;
}

static int streams_read(struct jobs_capture *c, struct child *ch, struct err *e)
{
    bool too_much = false, ignored = false;
    while (ch->out >= 0 || ch->err >= 0) {
        int64_t left = ch->deadline_ns - clock_now_ns();
        struct pollfd p[2] = {{ch->out, POLLIN, 0}, {ch->err, POLLIN, 0}};
        if (left <= 0)
            return err_set(e, ERR_TIMEOUT, "%s did not end within %.0f s", c->argv[0],
                           c->timeout_s);
        if (poll(p, 2, (int)(left / NS_PER_MS) + 1) <= 0)
            continue;
        if (p[0].revents && !stream_read(ch->out, c->out, &too_much)) {
            close(ch->out);
            ch->out = -1;
        }
        if (p[1].revents && !stream_read(ch->err, &ch->said, &ignored)) {
            close(ch->err);
            ch->err = -1;
        }
        if (too_much)
            return err_set(e, ERR_RANGE, "%s said more than %u bytes", c->argv[0],
                           JOBS_CAPTURE_MAX);
    }
    return 0;
}

static int end_wait(struct jobs_capture *c, struct child *ch, struct err *e)
{
    int status = 0;
    for (;;) {
        pid_t got = waitpid(ch->pid, &status, WNOHANG);
        if (got == ch->pid)
            break;
        if (got < 0 && errno != EINTR)
            return err_set(e, ERR_IO, "cannot wait for %s: %s", c->argv[0], strerror(errno));
        if (clock_now_ns() > ch->deadline_ns)
            return err_set(e, ERR_TIMEOUT, "%s did not end within %.0f s", c->argv[0],
                           c->timeout_s);
        clock_sleep_until(clock_now_ns() + POLL_NS);
    }
    ch->pid = 0;
    c->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return 0;
}

static int child_start(struct jobs_capture *c, struct child *ch, struct err *e)
{
    const char *words[WORDS_MAX + 1];
    char program[4096];
    int out[2] = {-1, -1}, errors[2] = {-1, -1};
    size_t n = 0;
    while (n < WORDS_MAX && c->argv[n]) {
        words[n] = c->argv[n];
        n++;
    }
    words[n] = NULL;
    int rc = jobs_program_find(c->argv[0], program, sizeof program, e);
    words[0] = program;
    if (rc == 0)
        rc = os_pipe(out, e);
    if (rc == 0)
        rc = os_pipe(errors, e);
    if (rc == 0) {
        struct os_spawn s = {
            .argv = words, .stdout_fd = out[1], .stderr_fd = errors[1], .new_group = true};
        rc = os_spawn(&s, &ch->pid, e);
    }
    for (int i = 0; i < 2; i++) {
        int end = i == 0 ? out[1] : errors[1];
        if (end >= 0)
            close(end);
    }
    ch->out = out[0];
    ch->err = errors[0];
    return rc;
}

int jobs_capture_run(struct jobs_capture *c, struct err *e)
{
    struct child ch = {.out = -1, .err = -1};
    ch.deadline_ns = clock_now_ns() + (int64_t)(c->timeout_s * 1e9);
    buf_init(&ch.said, JOBS_CAPTURE_MAX);
    c->exit_code = -1;
    int rc = child_start(c, &ch, e);
    if (rc == 0)
        rc = streams_read(c, &ch, e);
    if (rc == 0)
        rc = end_wait(c, &ch, e);
    if (ch.pid > 0) {
        kill(-ch.pid, SIGKILL);
        waitpid(ch.pid, NULL, 0);
    }
    if (ch.out >= 0)
        close(ch.out);
    if (ch.err >= 0)
        close(ch.err);
    snprintf(c->said, sizeof c->said, "%.*s",
             ch.said.len > 0 ? (int)strcspn((char *)ch.said.data, "\n") : 0,
             ch.said.len > 0 ? (char *)ch.said.data : "");
    buf_fini(&ch.said);
    return rc;
}
