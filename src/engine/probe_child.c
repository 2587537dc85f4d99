// Child processes of the probe: how they are started, what they are told and what they report.
//
// A report is one line of JSON on descriptor PROBE_REPORT_FD: {"trying": MODE} before anything that may
// abort the process, then {"result": {...}} or {"error": {"code", "message"}}.
#include "engine/probe_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SILENCE_MS (15 * 60 * 1000) // a large model may load from a slow disk
#define REPORT_BYTES_MAX 65536

// ---- the command line --------------------------------------------------------------------------------

struct argv {
    const char *items[PROBE_ARGV_MAX];
    char *owned[PROBE_ARGV_MAX];
    size_t n;
};

static void argv_add(struct argv *v, const char *name, char *value)
{
    v->items[v->n] = name;
    v->owned[v->n++] = NULL;
    v->items[v->n] = value;
    v->owned[v->n++] = value;
}

static void argv_fill(struct argv *v, const struct probe_args *a)
{
    const struct engine_options *o = &a->engine;
    argv_add(v, "--role", mem_strdup(a->role));
    argv_add(v, "-m", mem_strdup(o->model));
    argv_add(v, "--handoff", mem_strdup(engine_handoff_name(o->handoff)));
    argv_add(v, "--kv-type",
             mem_format("%s,%s", o->type_k ? o->type_k : "f16", o->type_v ? o->type_v : "f16"));
    argv_add(v, "--threads", mem_format("%d", o->n_threads));
    argv_add(v, "--gpu-layers", mem_format("%d", o->n_gpu_layers));
    argv_add(v, "--skip", mem_format("%u", a->skip));
    argv_add(v, "--range-tokens", mem_format("%u", a->range_tokens));
}

static void argv_free(struct argv *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->owned[i]);
}

static int number_parse(const char *name, const char *text, long min, long max, long *out,
                        struct err *e)
{
    char *end = NULL;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno || end == text || *end || n < min || n > max)
        return err_set(e, ERR_INVALID, "%s takes a number from %ld to %ld, not '%s'", name, min,
                       max, text);
    *out = n;
    return 0;
}

// "TYPE" or "K,V".
static void kv_type_set(struct engine_options *o, char *text)
{
    char *comma = strchr(text, ',');
    if (comma)
        *comma = 0;
    o->type_k = text;
    o->type_v = comma ? comma + 1 : text;
}

static int arg_set(struct probe_args *a, const char *name, char *value, struct err *e)
{
    long n = 0;
    int rc = 0;
    if (strcmp(name, "-m") == 0)
        a->engine.model = value;
    else if (strcmp(name, "--role") == 0)
        a->role = value;
    else if (strcmp(name, "--kv-type") == 0)
        kv_type_set(&a->engine, value);
    else if (strcmp(name, "--handoff") == 0)
        rc = engine_handoff_parse(value, &a->engine.handoff);
    else if (strcmp(name, "--threads") == 0 &&
             (rc = number_parse(name, value, 0, 4096, &n, e)) == 0)
        a->engine.n_threads = (int)n;
    else if (strcmp(name, "--gpu-layers") == 0 &&
             (rc = number_parse(name, value, -1, 100000, &n, e)) == 0)
        a->engine.n_gpu_layers = (int)n;
    else if (strcmp(name, "--skip") == 0 && (rc = number_parse(name, value, 0, 15, &n, e)) == 0)
        a->skip = (unsigned)n;
    else if (strcmp(name, "--range-tokens") == 0 &&
             (rc = number_parse(name, value, 0, PROBE_RANGE_TOKENS_MAX, &n, e)) == 0)
        a->range_tokens = (uint32_t)n;
    else if (rc == 0)
        rc = err_set(e, ERR_INVALID, "unknown option '%s'", name);
    return rc;
}

int probe_args_parse(int argc, char **argv, struct probe_args *a, struct err *e)
{
    *a = (struct probe_args){0};
    engine_options_default(&a->engine);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            a->json = true;
            continue;
        }
        if (i + 1 == argc)
            return err_set(e, ERR_INVALID, "option '%s' needs a value", argv[i]);
        int rc = arg_set(a, argv[i], argv[i + 1], e);
        if (rc != 0)
            return rc;
        i++;
    }
    if (!a->engine.model)
        return err_set(e, ERR_INVALID, "no model given; say -m FILE.gguf");
    return 0;
}

// ---- starting, reading, ending --------------------------------------------------------------------------

int probe_child_start(const struct probe_args *a, int data_fd, struct probe_child *c, struct err *e)
{
    char program[PATH_MAX];
    int report[2];
    int rc = os_self_dir(program, sizeof program - sizeof "/tandem-worker", e);
    if (rc != 0)
        return rc;
    strncat(program, "/tandem-worker", sizeof program - strlen(program) - 1);
    if (pipe(report) != 0)
        return err_set(e, ERR_IO, "no pipe for a probe: %s", strerror(errno));
    struct argv v = {.items = {program, "probe"}, .n = 2};
    argv_fill(&v, a);
    int fds[] = {report[1], data_fd};
    struct os_spawn s = {.argv = v.items,
                         .fds = fds,
                         .n_fds = data_fd >= 0 ? 2 : 1,
                         .stderr_fd = -1,
                         .stdout_fd = -1,
                         .die_with_parent = true};
    rc = os_spawn(&s, &c->pid, e);
    argv_free(&v);
    close(report[1]);
    if (rc != 0) {
        close(report[0]);
        return rc;
    }
    c->report = report[0];
    return 0;
}

// One line into `line`; false: the end, or silence.
static bool line_read(struct probe_child *c, struct buf *line)
{
    for (;;) {
        struct pollfd p = {.fd = c->report, .events = POLLIN};
        char byte;
        int n = poll(&p, 1, SILENCE_MS);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            kill(c->pid, SIGKILL);
        if (n <= 0 || read(c->report, &byte, 1) != 1)
            return false;
        if (byte == '\n')
            return true;
        if (buf_put(line, &byte, 1) != 0)
            return false;
    }
}

json_t *probe_child_read(struct probe_child *c)
{
    struct buf line;
    json_t *report = NULL;
    buf_init(&line, REPORT_BYTES_MAX);
    if (line_read(c, &line))
        report = json_parse(line.data, line.len, NULL);
    buf_fini(&line);
    return report;
}

void probe_child_end(struct probe_child *c, char *how, size_t cap)
{
    int status = 0;
    close(c->report);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        ;
    os_exit_text(status, how, cap);
}

// ---- the child's side ------------------------------------------------------------------------------------

void probe_report(json_t *report)
{
    char *text = json_text(report);
    size_t n = strlen(text), done = 0;
    text[n++] = '\n'; // in the place of the NUL
    while (done < n) {
        ssize_t wrote = write(PROBE_REPORT_FD, text + done, n - done);
        if (wrote < 0 && errno != EINTR)
            break;
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    free(text);
    json_decref(report);
}

json_t *probe_report_error(const struct err *e)
{
    return json_pack("{s:{s:s,s:s}}", "error", "code", err_name(e->code), "message", e->message);
}

int probe_report_check(const json_t *report, struct err *e)
{
    const json_t *error = json_object_get(report, "error");
    if (!error)
        return 0;
    return err_set(e, err_from_name(json_string_or(error, "code", "")), "%s",
                   json_string_or(error, "message", "the probe failed"));
}
