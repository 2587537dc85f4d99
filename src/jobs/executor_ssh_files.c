// The ssh executor's options, and files there and back.
#include "base/buf.h"
#include "base/json.h"
#include "jobs/capture.h"
#include "jobs/executor_ssh.h"
#include "jobs/quote.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JOB_MAX (1u << 20)

// ---- options ------------------------------------------------------------------------------------------

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

// Letters, digits and some more; not as an option begins.
static bool is_plain(const char *s, const char *more)
{
    bool good = *s != '\0' && *s != '-';
    for (; good && *s; s++)
        good = strchr(letters, *s) || strchr(more, *s);
    return good;
}

static int hosts_read(const char *text, struct ssh_options *o, struct err *e)
{
    while (text && *text) {
        size_t n = strcspn(text, ",");
        char *host = o->hosts[o->n_hosts];
        if (o->n_hosts == SSH_HOSTS_MAX)
            return err_set(e, ERR_RANGE, "at most %d hosts are taken", SSH_HOSTS_MAX);
        snprintf(host, SSH_HOST_BYTES, "%.*s", (int)(n < SSH_HOST_BYTES ? n : 0), text);
        if (!is_plain(host, ".-_@:"))
            return err_set(e, ERR_INVALID, "\"%.*s\" is no host's name", (int)(n < 60 ? n : 60),
                           text);
        o->n_hosts++;
        text += n + (text[n] == ',');
    }
    if (o->n_hosts == 0)
        return err_set(e, ERR_INVALID,
                       "the ssh executor needs machines: --executor-option hosts=NAME,NAME");
    const char *at = strrchr(o->hosts[0], '@');
    if (o->master[0] == '\0')
        snprintf(o->master, sizeof o->master, "%s", at ? at + 1 : o->hosts[0]);
    return 0;
}

static int port_read(const char *name, const char *text, unsigned *port, struct err *e)
{
    char *end = NULL;
    unsigned long v = text ? strtoul(text, &end, 10) : 0;
    if (text && (*end != '\0' || end == text || v < 1 || v > 65535))
        return err_set(e, ERR_INVALID, "\"%s\" is \"%.20s\", must be 1 to 65535", name, text);
    if (text)
        *port = (unsigned)v;
    return 0;
}

int ssh_options_read(const json_t *options, struct ssh_options *out, struct err *e)
{
    static const char *const known[] = {"hosts",   "port",  "identity",        "config", "folder",
                                        "trainer", "model", "rendezvous_port", "master", NULL};
    const char *hosts = NULL, *port = NULL, *rendezvous = NULL, *folder = NULL;
    unsigned number = 0;
    *out = (struct ssh_options){.rendezvous_port = 29400};
    int rc = jobs_executor_members(options, known, e);
    const struct {
        const char *name, **out;
    } texts[] = {{"hosts", &hosts},
                 {"port", &port},
                 {"identity", &out->identity},
                 {"config", &out->config},
                 {"folder", &folder},
                 {"trainer", &out->trainer},
                 {"model", &out->model},
                 {"rendezvous_port", &rendezvous}};
    for (size_t i = 0; rc == 0 && i < sizeof texts / sizeof *texts; i++)
        rc = json_get_string(options, texts[i].name, texts[i].out, e);
    if (rc == 0)
        rc = json_copy_string(options, "master", out->master, sizeof out->master, e);
    if (rc == 0)
        rc = hosts_read(hosts, out, e);
    if (rc == 0)
        rc = port_read("port", port, &number, e);
    if (rc == 0 && number > 0)
        snprintf(out->port, sizeof out->port, "%u", number);
    if (rc == 0)
        rc = port_read("rendezvous_port", rendezvous, &out->rendezvous_port, e);
    // scp of old versions hands the path to a shell.
    if (rc == 0 && folder && (folder[0] != '/' || !is_plain(folder, "/._-")))
        rc = err_set(e, ERR_INVALID,
                     "\"folder\" is \"%.80s\", must be a whole path of letters, digits and /._-",
                     folder);
    if (rc == 0 && folder)
        rc = json_copy_string(options, "folder", out->folder, sizeof out->folder, e);
    return rc;
}

// ---- words --------------------------------------------------------------------------------------------

static size_t common_words(const struct ssh_options *o, const char *program, const char *port_word,
                           const char **argv)
{
    size_t n = 0;
    argv[n++] = program;
    if (o->config) {
        argv[n++] = "-F";
        argv[n++] = o->config;
    }
    if (o->identity) {
        argv[n++] = "-i";
        argv[n++] = o->identity;
    }
    if (o->port[0] != '\0') {
        argv[n++] = port_word;
        argv[n++] = o->port;
    }
    // Nobody is there to type a password.
    argv[n++] = "-oBatchMode=yes";
    argv[n++] = "-oConnectTimeout=15";
    argv[n++] = "-oServerAliveInterval=10";
    argv[n++] = "-oServerAliveCountMax=3";
    return n;
}

void ssh_words(const struct ssh_options *o, size_t host, const char *command, const char **argv)
{
    size_t n = common_words(o, "ssh", "-p", argv);
    argv[n++] = "-T";
    argv[n++] = o->hosts[host];
    argv[n++] = command;
    argv[n] = NULL;
}

char *ssh_folder(const struct ssh_options *o, const struct jobs_task *t)
{
    return o->folder[0] != '\0' ? mem_format("%s/%s", o->folder, t->id) : mem_strdup(t->folder);
}

// ---- files --------------------------------------------------------------------------------------------

static int copy(const struct ssh_options *o, const char *const *from, size_t n_from, const char *to,
                struct err *e)
{
    const char *argv[SSH_WORDS_MAX];
    struct jobs_capture c = {.argv = argv, .timeout_s = SSH_COPY_S};
    size_t n = common_words(o, "scp", "-P", argv);
    argv[n++] = "-q";
    argv[n++] = "-p";
    for (size_t i = 0; i < n_from; i++)
        argv[n++] = from[i];
    argv[n++] = to;
    argv[n] = NULL;
    int rc = jobs_capture_run(&c, e);
    if (rc == 0 && c.exit_code != 0)
        rc =
            err_set(e, c.exit_code == 255 ? ERR_BUSY : ERR_IO, "scp to or from %s: %s", to, c.said);
    return rc;
}

// job.json with the paths of the other machine, written beside the job's own.
static int job_translate(const struct jobs_task *t, const struct ssh_options *o, const char *there,
                         const char *path, struct err *e)
{
    static const char *const files[][2] = {{"data", "data.jsonl"}, {"eval_data", "eval.jsonl"}};
    char *own = mem_format("%s/job.json", t->folder), *text = NULL;
    size_t n = 0;
    int rc = os_file_read(own, JOB_MAX, &text, &n, e);
    json_t *job = rc == 0 ? json_parse(text, n, e) : NULL;
    free(text);
    text = NULL;
    if (rc == 0 && !job)
        rc = e->code;
    for (size_t i = 0; rc == 0 && i < 2; i++)
        if (json_object_get(job, files[i][0]))
            json_put(job, files[i][0], json_sprintf("%s/%s", there, files[i][1]));
    if (rc == 0 && o->model)
        json_put(job, "model", json_string(o->model));
    if (rc == 0) {
        text = json_text(job);
        rc = os_file_write(path, text, strlen(text), 0600, e);
    }
    free(text);
    json_decref(job);
    free(own);
    return rc;
}

static int folder_make(const struct ssh_options *o, size_t host, const char *folder, struct err *e)
{
    const char *argv[SSH_WORDS_MAX];
    const char *const words[] = {"mkdir", "-p", "-m", "700", folder, NULL};
    struct jobs_capture c = {.argv = argv, .timeout_s = SSH_ASK_S};
    struct buf command;
    buf_init(&command, SSH_COMMAND_MAX);
    jobs_quote_words(&command, words);
    ssh_words(o, host, (const char *)command.data, argv);
    int rc = jobs_capture_run(&c, e);
    buf_fini(&command);
    if (rc == 0 && c.exit_code != 0)
        rc = err_set(e, ERR_IO, "cannot make %s on %s (exit code %d): %s", folder, o->hosts[host],
                     c.exit_code, c.said);
    return rc;
}

int ssh_push(const struct jobs_task *t, const struct ssh_options *o, size_t host, struct err *e)
{
    if (o->folder[0] == '\0')
        return 0;
    char *there = ssh_folder(o, t), *aside = mem_format("%s/remote", t->folder),
         *job = mem_format("%s/remote/job.json", t->folder),
         *data = mem_format("%s/data.jsonl", t->folder),
         *eval = mem_format("%s/eval.jsonl", t->folder),
         *to = mem_format("%s:%s/", o->hosts[host], there);
    const char *const files[] = {job, data, eval};
    int rc = os_mkdirs(aside, e);
    if (rc == 0)
        rc = job_translate(t, o, there, job, e);
    if (rc == 0)
        rc = folder_make(o, host, there, e);
    if (rc == 0)
        rc = copy(o, files, access(eval, F_OK) == 0 ? 3 : 2, to, e);
    free(there);
    free(aside);
    free(job);
    free(data);
    free(eval);
    free(to);
    return rc;
}

int ssh_fetch(const struct jobs_task *t, const struct ssh_options *o, struct err *e)
{
    static const char *const names[] = {"log", "adapter.gguf", "result.json"};
    int rc = 0;
    if (o->folder[0] == '\0')
        return 0;
    char *there = ssh_folder(o, t);
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof *names; i++) {
        struct err own = {0};
        char *from = mem_format("%s:%s/%s", o->hosts[0], there, names[i]);
        char *part = mem_format("%s/%s.part", t->folder, i == 0 ? "log.remote" : names[i]);
        char *to = mem_format("%s/%s", t->folder, i == 0 ? "log.remote" : names[i]);
        int one = copy(o, (const char *const[]){from}, 1, part, &own);
        if (one == 0 && rename(part, to) != 0)
            rc = err_set(e, ERR_IO, "cannot write %s: %s", to, strerror(errno));
        // One that is not there is the result of work that did not come so far.
        else if (one != 0 && !strstr(own.message, "No such file"))
            rc = err_set(e, one, "%s", own.message);
        free(from);
        free(part);
        free(to);
    }
    free(there);
    return rc;
}
