// Two nodes on this machine, as a user would start them: `tandem node` (prefill) and `tandem serve`
// (gateway and decode), each worker on one thread of a core of its own, with a throw-away key.
//
// The children find the key through a configuration folder of their own, so that neither the user's
// key nor tandem.ini is touched or read; their state is there, too. Their messages go to a file there;
// its end is shown when one of them fails.
#include "cli/bench.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ; // POSIX wants it declared by who uses it

#define READY_NS (300 * NS_PER_S) // loading and probing a large model
#define WARM_NS (30 * NS_PER_S)   // both are up; only their link may be missing
#define STOP_NS (10 * NS_PER_S)
#define LINE_MAX_BYTES 65536
#define ARGS_MAX 48
#define ARG_BYTES 128

struct bench_pair {
    char dir[256];
    char log[288];
    pid_t pids[2];
    int outs[2]; // the children's stdout
    char url[64];
};

const char *bench_pair_url(const struct bench_pair *p)
{
    return p->url;
}

// ---- command lines ------------------------------------------------------------------------------

struct args {
    const char *v[ARGS_MAX];
    char text[ARGS_MAX][ARG_BYTES]; // of the values made here
    size_t n;
};

static void arg(struct args *a, const char *s)
{
    a->v[a->n++] = s;
}

static void arg_text(struct args *a, const char *name, const char *value)
{
    arg(a, name);
    snprintf(a->text[a->n], ARG_BYTES, "%s", value);
    arg(a, a->text[a->n]);
}

static void arg_number(struct args *a, const char *name, double value)
{
    if (value <= 0)
        return;
    arg(a, name);
    snprintf(a->text[a->n], ARG_BYTES, "%.9g", value);
    arg(a, a->text[a->n]);
}

// A list of one core that this process may use, the `which`-th of them; pinning tells which exist.
struct core_search {
    size_t which;
    char list[16]; // "" when there is none, or pinning is not supported
};

static void *core_search_main(void *ctx)
{
    struct core_search *s = ctx;
    size_t found = 0;
    for (int i = 0; i < 1024; i++) {
        snprintf(s->list, sizeof s->list, "%d", i);
        if (os_cpu_pin(s->list, NULL) == 0 && found++ == s->which)
            return NULL;
    }
    s->list[0] = '\0';
    return NULL;
}

// On a thread of its own, for pinning is for good. One core for both would measure nothing.
static void core_find(size_t which, char out[16])
{
    struct core_search s = {.which = which};
    pthread_t thread;
    out[0] = '\0';
    if (os_cpu_count() < 2 || pthread_create(&thread, NULL, core_search_main, &s) != 0)
        return;
    pthread_join(thread, NULL);
    snprintf(out, 16, "%s", s.list);
}

static void args_worker(struct args *a, const struct bench_pair_options *o, size_t i)
{
    const struct bench_machine *m = &o->machines[i];
    char cores[16];
    arg(a, "-m");
    arg(a, o->model);
    arg_text(a, "--name", m->name);
    arg_text(a, "--threads", "1");
    arg_number(a, "--ctx", o->ctx);
    core_find(i, cores);
    if (cores[0] != '\0')
        arg_text(a, "--cpus", cores);
    arg_number(a, "--pace-prefill", m->prefill_tokens_per_s);
    arg_number(a, "--pace-decode", m->decode_tokens_per_s);
    arg_number(a, "--link-rate", o->link_bytes_per_s);
    arg_number(a, "--min-chunk", o->min_chunk_tokens);
    if (o->no_tiles)
        arg(a, "--no-tiles");
    arg(a, "--json");
}

// ---- processes ----------------------------------------------------------------------------------

static int program_path(char *out, size_t out_bytes, struct err *e)
{
    int rc = os_self_dir(out, out_bytes - 8, e);
    if (rc == 0)
        strncat(out, "/tandem", 8);
    return rc;
}

// Starts a child with its stdout on a pipe and its stderr at the end of the log.
static int child_start(struct bench_pair *p, struct args *a, pid_t *pid, int *out, struct err *e)
{
    int pipe_fds[2], log = open(p->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return err_set(e, ERR_IO, "%s: %s", p->log, strerror(errno));
    int rc = os_pipe(pipe_fds, e);
    if (rc != 0) {
        close(log);
        return rc;
    }
    a->v[a->n] = NULL;
    struct os_spawn s = {.argv = a->v,
                         .stderr_fd = log,
                         .stdout_fd = pipe_fds[1],
                         .die_with_parent = true,
                         .new_group = true};
    rc = os_spawn(&s, pid, e);
    close(log);
    close(pipe_fds[1]);
    if (rc == 0)
        *out = pipe_fds[0];
    else
        close(pipe_fds[0]);
    return rc;
}

// Reads one line; ERR_CLOSED when the child ends before, ERR_TIMEOUT, ERR_CANCELLED.
static int line_read(int fd, char *line, size_t bytes, struct err *e)
{
    int64_t deadline = clock_now_ns() + READY_NS;
    size_t n = 0;
    while (clock_now_ns() < deadline && n + 1 < bytes) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (bench_signal_seen())
            return err_set(e, ERR_CANCELLED, "interrupted");
        if (poll(&p, 1, 200) <= 0)
            continue;
        ssize_t got = read(fd, line + n, 1);
        if (got == 0)
            return err_set(e, ERR_CLOSED, "it ended before it was ready");
        if (got == 1 && line[n] == '\n') {
            line[n] = '\0';
            return 0;
        }
        n += got == 1;
    }
    return err_set(e, ERR_TIMEOUT, "it did not say that it is ready");
}

// The end of the children's messages, to go under an error.
static void log_tail(const struct bench_pair *p, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    if (os_file_read(p->log, 16u << 20, &text, &n, NULL) != 0)
        return;
    const char *from = n > 300 ? text + n - 300 : text;
    struct err before = *e;
    while (n > 0 && text[n - 1] == '\n')
        text[--n] = '\0';
    if (*from != '\0')
        err_set(e, before.code, "%.180s; its last messages:\n%s", before.message, from);
    free(text);
}

// The ready line of a child: its "port".
static int port_read(int fd, int64_t *port, struct err *e)
{
    char line[LINE_MAX_BYTES];
    int rc = line_read(fd, line, sizeof line, e);
    if (rc != 0)
        return rc;
    json_t *o = json_parse(line, strlen(line), e);
    if (o == NULL)
        return e->code;
    *port = 0;
    rc = json_get_i64(o, "port", 1, 65535, port, e);
    if (rc == 0 && *port == 0)
        rc = err_set(e, ERR_INVALID, "its ready line names no port: %.200s", line);
    json_decref(o);
    return rc;
}

static int key_make(struct bench_pair *p, struct err *e)
{
    char program[4096];
    struct args *a = mem_alloc(sizeof *a);
    pid_t pid;
    int out, status = 0;
    int rc = program_path(program, sizeof program, e);
    if (rc == 0) {
        arg(a, program);
        arg(a, "pair");
        arg(a, "new");
        rc = child_start(p, a, &pid, &out, e);
    }
    free(a);
    if (rc != 0)
        return rc;
    waitpid(pid, &status, 0); // its words fit the pipe; nobody needs them
    close(out);
    if (status != 0) {
        err_set(e, ERR_IO, "cannot make a key for the pair");
        log_tail(p, e);
        return e->code;
    }
    return 0;
}

static int node_start(struct bench_pair *p, const struct bench_pair_options *o, int64_t *port,
                      struct err *e)
{
    char program[4096];
    struct args *a = mem_alloc(sizeof *a);
    int rc = program_path(program, sizeof program, e);
    if (rc == 0) {
        arg(a, program);
        arg(a, "node");
        arg_text(a, "--listen", "127.0.0.1:0");
        args_worker(a, o, 0);
        rc = child_start(p, a, &p->pids[0], &p->outs[0], e);
    }
    if (rc == 0)
        rc = port_read(p->outs[0], port, e);
    free(a);
    return rc;
}

static int gateway_start(struct bench_pair *p, const struct bench_pair_options *o,
                         int64_t node_port, struct err *e)
{
    char program[4096], prefill[64];
    int64_t port = 0;
    struct args *a = mem_alloc(sizeof *a);
    int rc = program_path(program, sizeof program, e);
    if (rc == 0) {
        snprintf(prefill, sizeof prefill, "127.0.0.1:%lld", (long long)node_port);
        arg(a, program);
        arg(a, "serve");
        arg_text(a, "--listen", "127.0.0.1:0");
        arg_text(a, "--prefill", prefill);
        args_worker(a, o, 1);
        rc = child_start(p, a, &p->pids[1], &p->outs[1], e);
    }
    if (rc == 0)
        rc = port_read(p->outs[1], &port, e);
    if (rc == 0)
        snprintf(p->url, sizeof p->url, "http://127.0.0.1:%lld", (long long)port);
    free(a);
    return rc;
}

// Small hybrid requests until one goes through: then both workers are up and linked.
static int pair_warm(const struct bench_pair *p, struct err *e)
{
    int32_t tokens[128];
    int64_t deadline = clock_now_ns() + WARM_NS;
    int rc;
    for (size_t i = 0; i < 128; i++)
        tokens[i] = (int32_t)(97 + i % 26);
    do {
        struct bench_request q = {.url = p->url,
                                  .plan = BENCH_HYBRID,
                                  .tokens = tokens,
                                  .n_tokens = 128,
                                  .gen_tokens = 2};
        struct bench_answer a;
        rc = bench_request_run(&q, &a, e);
        bench_answer_fini(&a);
        if (rc == 0 || rc == ERR_CANCELLED)
            return rc;
        clock_sleep_until(clock_now_ns() + 300 * NS_PER_MS);
    } while (clock_now_ns() < deadline && waitpid(p->pids[0], NULL, WNOHANG) == 0);
    return rc;
}

// What the user's environment says to these commands must not change what is measured; where the
// caches are may.
static void environment_clean(void)
{
    static const char *const kept[] = {"TANDEM_CACHE=", "TANDEM_LOG=", "TANDEM_SHARE="};
    for (char **v = environ; *v != NULL;) {
        bool keep = strncmp(*v, "TANDEM_", 7) != 0;
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            keep = keep || strncmp(*v, kept[i], strlen(kept[i])) == 0;
        if (keep) {
            v++;
            continue;
        }
        char *name = mem_strdup(*v);
        name[strcspn(name, "=")] = '\0';
        unsetenv(name); // closes the gap: the next one is at v now
        free(name);
    }
}

int bench_pair_start(const struct bench_pair_options *o, struct bench_pair **out, struct err *e)
{
    struct bench_pair *p = mem_alloc(sizeof *p);
    const char *tmp = getenv("TMPDIR");
    int64_t port = 0;
    int rc = 0;
    p->outs[0] = p->outs[1] = -1;
    snprintf(p->dir, sizeof p->dir, "%s/tandem-bench-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(p->dir) == NULL) {
        rc = err_set(e, ERR_IO, "%s: %s", p->dir, strerror(errno));
        p->dir[0] = '\0';
        goto out;
    }
    snprintf(p->log, sizeof p->log, "%s/log", p->dir);
    environment_clean();
    // Of this process and so of its children. What is learned of emulated machines ends with them.
    setenv("TANDEM_CONFIG", p->dir, 1);
    setenv("TANDEM_STATE", p->dir, 1);
    if ((rc = key_make(p, e)) != 0)
        goto out;
    if ((rc = node_start(p, o, &port, e)) != 0) {
        err_wrap(e, "the prefill node");
        goto out;
    }
    if ((rc = gateway_start(p, o, port, e)) != 0) {
        err_wrap(e, "the gateway");
        goto out;
    }
    rc = pair_warm(p, e);
out:
    if (rc != 0 && rc != ERR_CANCELLED && p->dir[0] != '\0')
        log_tail(p, e);
    if (rc == 0)
        *out = p;
    else
        bench_pair_free(p);
    return rc;
}

// ---- the end ------------------------------------------------------------------------------------

static void child_stop(pid_t pid)
{
    int64_t deadline = clock_now_ns() + STOP_NS;
    if (pid <= 0)
        return;
    kill(pid, SIGTERM);
    while (clock_now_ns() < deadline) {
        if (waitpid(pid, NULL, WNOHANG) != 0)
            return;
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    }
    kill(-pid, SIGKILL); // the group: the worker as well
    waitpid(pid, NULL, 0);
}

static int entry_remove(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

void bench_pair_free(struct bench_pair *p)
{
    if (p == NULL)
        return;
    for (int i = 1; i >= 0; i--) {
        child_stop(p->pids[i]);
        if (p->outs[i] >= 0)
            close(p->outs[i]);
    }
    if (p->dir[0] != '\0')
        nftw(p->dir, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
    unsetenv("TANDEM_CONFIG");
    unsetenv("TANDEM_STATE");
    free(p);
}
