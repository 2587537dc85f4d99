// The worker's process: which program it is, its start, and what its end means.
#include "image/worker_impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKOFF_MIN_NS (250 * NS_PER_MS)
#define BACKOFF_MAX_NS (30 * NS_PER_S)
#define HEALTHY_NS (60 * NS_PER_S) // lived this long: the pause starts anew
#define LOAD_DEATHS_MAX 3u         // in a row, before the model is held to be the cause
#define EXIT_PERMANENT 2           // the worker's exit code: trying again cannot help
#define GRACE_NS (2 * NS_PER_S)
#define SOCKET_BYTES (1 << 20)

#ifndef TANDEM_IMAGE_LIBRARY
#define TANDEM_IMAGE_LIBRARY 0
#endif

static int program_use(const char *path, const char *from, char *out, size_t out_bytes,
                       struct err *e)
{
    if (access(path, X_OK) != 0)
        return err_set(e, ERR_NOT_FOUND, "%s '%.300s' cannot be run: %s", from, path,
                       strerror(errno));
    snprintf(out, out_bytes, "%s", path);
    return 0;
}

int image_worker_find(const struct image_worker_options *o, char *out, size_t out_bytes,
                      struct err *e)
{
    const char *named = getenv("TANDEM_IMAGE_WORKER");
    char path[4096], cache[4000];
    if (o->program != NULL)
        return program_use(o->program, "the image worker", out, out_bytes, e);
    int rc = os_self_dir(cache, sizeof cache, e);
    if (rc != 0)
        return rc;
    // The programs of tests lie one folder below.
    snprintf(path, sizeof path, "%s/tandem-image-worker", cache);
    if (access(path, X_OK) != 0)
        snprintf(path, sizeof path, "%s/../tandem-image-worker", cache);
    if (strncmp(o->model, "fake:", 5) == 0)
        return program_use(path, "the image worker", out, out_bytes, e);
    if (named != NULL && named[0] != '\0')
        return program_use(named, "TANDEM_IMAGE_WORKER", out, out_bytes, e);
    if (TANDEM_IMAGE_LIBRARY && access(path, X_OK) == 0)
        return program_use(path, "the image worker", out, out_bytes, e);
    rc = os_cache_dir(cache, sizeof cache, e);
    if (rc != 0)
        return rc;
    snprintf(path, sizeof path, "%s/image-worker/run", cache);
    if (access(path, X_OK) == 0)
        return program_use(path, "the image worker", out, out_bytes, e);
    return err_set(e, ERR_NOT_FOUND,
                   "nothing here can draw: \"make image-library\" gets a prebuilt library, "
                   "\"make IMAGE=source\" compiles one, --image-worker names a program");
}

// ---- starting ------------------------------------------------------------------------------------

static void state_reset(struct image_worker *w)
{
    buf_fini(&w->in);
    buf_fini(&w->out);
    image_buf_init(&w->in);
    image_buf_init(&w->out);
    w->ready = w->ended = false;
    w->told = (struct err){0};
}

int worker_spawn(struct image_worker *w, struct err *e)
{
    const char *argv[] = {w->program, w->options, NULL};
    int pair[2], size = SOCKET_BYTES;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        fcntl(pair[i], F_SETFD, FD_CLOEXEC);
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    }
    struct os_spawn s = {.argv = argv,
                         .fds = &pair[1],
                         .n_fds = 1,
                         .stderr_fd = -1,
                         .stdout_fd = STDERR_FILENO, // what a library prints is no result of ours
                         .die_with_parent = true};
    int rc = os_spawn(&s, &w->pid, e);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        w->pid = -1;
        return rc;
    }
    state_reset(w);
    w->fd = pair[0];
    w->started_ns = clock_now_ns();
    return 0;
}

// ---- its end -------------------------------------------------------------------------------------

// Waits for the process, with force after a while; its status.
static int process_reap(struct image_worker *w)
{
    int64_t deadline = clock_now_ns() + GRACE_NS;
    int status = 0;
    while (w->pid > 0 && waitpid(w->pid, &status, WNOHANG) == 0) {
        if (clock_now_ns() > deadline)
            kill(w->pid, SIGKILL);
        clock_sleep_until(clock_now_ns() + 2 * NS_PER_MS);
    }
    w->pid = -1;
    return status;
}

void worker_kill(struct image_worker *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    w->ready = w->ended = false;
    if (w->pid > 0)
        kill(w->pid, SIGKILL); // it holds nothing that could be lost
    process_reap(w);
}

static void backoff_next(struct image_worker *w)
{
    int64_t now = clock_now_ns(), next = 2 * w->backoff_ns;
    if (now - w->started_ns > HEALTHY_NS || w->backoff_ns == 0)
        next = BACKOFF_MIN_NS;
    w->backoff_ns = next < BACKOFF_MAX_NS ? next : BACKOFF_MAX_NS;
    w->restart_ns = now + w->backoff_ns;
    w->restarts++;
}

static void all_fail(struct image_worker *w, const struct err *e)
{
    while (w->waiting != NULL) {
        struct image_job *j = w->waiting;
        w->waiting = j->next;
        w->n_waiting--;
        worker_fail(w, j, e->code, e->message);
    }
}

static void down_tell(struct image_worker *w, const char *how)
{
    struct image_event *ev = worker_event(w, IMAGE_DOWN, 0);
    ev->retry_ns = w->dead.code ? -1 : w->backoff_ns;
    if (w->dead.code)
        ev->error = w->dead;
    else
        err_set(&ev->error, ERR_ENGINE, "the image worker ended (%s)", how);
    if (w->dead.code)
        all_fail(w, &w->dead);
}

void worker_unstarted(struct image_worker *w, const struct err *e)
{
    w->started_ns = clock_now_ns();
    w->load_deaths++;
    backoff_next(w);
    log_error("image", "the image worker cannot be started: %s", e->message);
    if (w->load_deaths >= LOAD_DEATHS_MAX)
        err_set(&w->dead, e->code, "the image worker cannot be started: %s", e->message);
    down_tell(w, "it could not be started");
}

void worker_late(struct image_worker *w)
{
    struct err e = {0};
    err_set(
        &e, ERR_BUSY,
        "the image model was not loaded after %.3g s (--image-load-limit); it is loaded anew, so "
        "ask again later",
        ns_to_s(w->load_ns));
    worker_kill(w);
    w->load_deaths++;
    backoff_next(w);
    if (w->load_deaths >= LOAD_DEATHS_MAX)
        err_set(&w->dead, ERR_TIMEOUT,
                "the image model was not loaded after %.3g s, %u times; give it longer "
                "(--image-load-limit), or a smaller one",
                ns_to_s(w->load_ns), w->load_deaths);
    log_error("image", "%s", w->dead.code ? w->dead.message : e.message);
    all_fail(w, w->dead.code ? &w->dead : &e);
    down_tell(w, "it did not load its model in time");
}

void worker_ended(struct image_worker *w)
{
    char how[96];
    bool loading = !w->ready;
    close(w->fd);
    w->fd = -1;
    w->ready = w->ended = false;
    int status = process_reap(w);
    os_exit_text(status, how, sizeof how);
    w->load_deaths += loading;
    if (w->dead.code == 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_PERMANENT)
        err_set(&w->dead, w->told.code ? w->told.code : ERR_ENGINE, "%s",
                w->told.code ? w->told.message : "the image worker refused its options");
    else if (w->dead.code == 0 && w->load_deaths >= LOAD_DEATHS_MAX)
        err_set(&w->dead, ERR_ENGINE,
                "the image worker ended %u times while it loaded the model, the last time with %s",
                w->load_deaths, how);
    backoff_next(w);
    log_error("image", "the image worker ended (%s)%s", how,
              w->dead.code ? " and is not started again" : " and is started again");
    if (w->drawing != NULL) {
        char *why = w->drawing->cancelled
                        ? mem_strdup("cancelled")
                        : mem_format("the image worker ended (%s) while it drew this; it is "
                                     "started again, so ask once more",
                                     how);
        worker_fail(w, w->drawing, w->drawing->cancelled ? ERR_CANCELLED : ERR_ENGINE, why);
        w->drawing = NULL;
        free(why);
    }
    down_tell(w, how);
}
