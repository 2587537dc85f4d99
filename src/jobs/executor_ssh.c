// Work on other machines through ssh: one, or several that find each other by torchrun's rendezvous.
//
// What a job needs is copied into FOLDER/ID of each machine (option "folder"), or lies there already, when the
// folder of jobs is a shared file system (no such option). A small shell script, always the same, starts the
// command there in a session of its own; everything that varies reaches it as quoted words. It leaves
// behind remote.run.RANK (process id and start) and at the end remote.end.RANK (exit code), by which the work
// is found again: the handle says no more than where.
//
// Rank 0 is the first machine; it writes progress and result. In the words of a command {rank}, {nodes},
// {master}, {port} and {id} are replaced, for torchrun's --node-rank, --nnodes and --rdzv-endpoint.
#include "jobs/executor_ssh.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "jobs/capture.h"
#include "jobs/executor.h"
#include "jobs/quote.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRESS_PART 200000 // bytes of progress.jsonl that come with one answer

// $1 folder, $2 rank, then the command. `trap :` lets the shell outlive a TERM that is meant for the command.
static const char start_script[] =
    "umask 077; cd \"$1\" || exit 90; r=$2; shift 2; "
    "rm -f remote.end.$r remote.run.$r; [ $r != 0 ] || rm -f result.json; "
    "setsid sh -c 'trap : TERM; r=$1; shift; \"$@\" >>log 2>&1 </dev/null; echo $? "
    ">remote.end.$r.tmp; "
    "mv remote.end.$r.tmp remote.end.$r' sh $r \"$@\" >/dev/null 2>&1 </dev/null & "
    "echo $! $(ps -o lstart= -p $!) >remote.run.$r";
// $1 folder, $2 rank, $3 bytes of progress that are known.
static const char poll_script[] = "cd \"$1\" 2>/dev/null && read -r pid start <remote.run.$2 "
                                  "2>/dev/null || { echo gone; exit 0; }; "
                                  "if [ -e remote.end.$2 ]; then echo ended $(cat remote.end.$2); "
                                  "elif [ \"$(echo $(ps -o lstart= -p $pid))\" = \"$start\" ]; "
                                  "then echo running; else echo gone; fi; "
                                  "[ $2 != 0 ] || [ ! -e progress.jsonl ] || tail -c +$(($3 + 1)) "
                                  "progress.jsonl | head -c 200000";
// $1 folder, $2 rank, $3 signal. Only the session that remote.run tells of.
static const char signal_script[] =
    "cd \"$1\" 2>/dev/null && read -r pid start <remote.run.$2 2>/dev/null || exit 0; "
    "[ \"$(echo $(ps -o lstart= -p $pid))\" = \"$start\" ] || [ $3 = KILL ] || exit 0; "
    "kill -s $3 -- -$pid 2>/dev/null; exit 0";

// ---- scripts ------------------------------------------------------------------------------------------

struct call {
    const struct ssh_options *options;
    size_t host;
    const char *script;
    const char *const *words; // $1, $2, ...
    struct buf *out;          // NULL: not wanted
};

static int remote_run(const struct call *c, struct err *e)
{
    const char *argv[SSH_WORDS_MAX];
    struct jobs_capture capture = {.argv = argv, .timeout_s = SSH_ASK_S, .out = c->out};
    struct buf command;
    buf_init(&command, SSH_COMMAND_MAX);
    int rc = buf_puts(&command, "exec sh -c ");
    if (rc == 0)
        rc = jobs_quote_word(&command, c->script);
    if (rc == 0)
        rc = buf_puts(&command, " sh ");
    if (rc == 0)
        rc = jobs_quote_words(&command, c->words);
    if (rc != 0) {
        err_set(e, rc, "the command has more than %u bytes", SSH_COMMAND_MAX);
    } else {
        ssh_words(c->options, c->host, (const char *)command.data, argv);
        rc = jobs_capture_run(&capture, e);
    }
    buf_fini(&command);
    if (rc == 0 && capture.exit_code == 255)
        return err_set(e, ERR_BUSY, "%s cannot be reached by ssh: %s", c->options->hosts[c->host],
                       capture.said);
    if (rc == 0 && capture.exit_code != 0)
        rc = err_set(e, ERR_IO, "%s: exit code %d: %s", c->options->hosts[c->host],
                     capture.exit_code, capture.said);
    return rc == ERR_TIMEOUT ? ERR_BUSY : rc;
}

// ---- starting -----------------------------------------------------------------------------------------

// The word with its {names} replaced.
static char *word_fill(const struct jobs_task *t, const struct ssh_options *o, size_t rank,
                       const char *word)
{
    char numbers[3][24];
    snprintf(numbers[0], sizeof numbers[0], "%zu", rank);
    snprintf(numbers[1], sizeof numbers[1], "%zu", o->n_hosts);
    snprintf(numbers[2], sizeof numbers[2], "%u", o->rendezvous_port);
    const struct {
        const char *name, *value;
    } known[] = {{"{rank}", numbers[0]},
                 {"{nodes}", numbers[1]},
                 {"{master}", o->master},
                 {"{port}", numbers[2]},
                 {"{id}", t->id}};
    struct buf out;
    buf_init(&out, SSH_COMMAND_MAX);
    buf_puts(&out, "");
    while (*word) {
        size_t i = 0, n = sizeof known / sizeof *known;
        while (i < n && strncmp(word, known[i].name, strlen(known[i].name)) != 0)
            i++;
        buf_put(&out, i < n ? known[i].value : word, i < n ? strlen(known[i].value) : 1);
        word += i < n ? strlen(known[i].name) : 1;
    }
    return buf_take(&out);
}

static int rank_start(const struct jobs_task *t, const struct ssh_options *o, size_t rank,
                      struct err *e)
{
    const char *words[JOBS_WORDS_MAX + 3];
    char *filled[JOBS_WORDS_MAX], *folder = ssh_folder(o, t), number[24];
    size_t n = 0;
    snprintf(number, sizeof number, "%zu", rank);
    words[0] = folder;
    words[1] = number;
    for (; n < JOBS_WORDS_MAX && t->argv[n]; n++) {
        bool is_folder = strcmp(t->argv[n], t->folder) == 0;
        bool is_trainer = n == 0 && o->trainer;
        filled[n] = word_fill(t, o, rank,
                              is_folder    ? folder
                              : is_trainer ? o->trainer
                                           : t->argv[n]);
        words[n + 2] = filled[n];
    }
    words[n + 2] = NULL;
    const struct call c = {o, rank, start_script, words, NULL};
    int rc = remote_run(&c, e);
    while (n > 0)
        free(filled[--n]);
    free(folder);
    return rc;
}

static void ranks_signal(const struct jobs_task *t, const struct ssh_options *o, size_t from,
                         const char *name, struct err *e)
{
    char *folder = ssh_folder(o, t), number[24];
    for (size_t rank = from; rank < o->n_hosts; rank++) {
        snprintf(number, sizeof number, "%zu", rank);
        const char *const words[] = {folder, number, name, NULL};
        const struct call c = {o, rank, signal_script, words, NULL};
        struct err own = {0};
        if (remote_run(&c, &own) != 0)
            *e = own;
    }
    free(folder);
}

static int ssh_submit(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    struct ssh_options o;
    int rc = ssh_options_read(t->options, &o, e);
    for (size_t i = 0; rc == 0 && i < o.n_hosts; i++)
        rc = ssh_push(t, &o, i, e);
    for (size_t i = 0; rc == 0 && i < o.n_hosts; i++)
        rc = rank_start(t, &o, i, e);
    if (rc == 0)
        snprintf(handle, JOBS_HANDLE_BYTES, "%s", o.hosts[0]);
    else if (rc == ERR_BUSY || rc == ERR_IO) { // no half of it stays
        struct err aside = {0};
        ranks_signal(t, &o, 0, "KILL", &aside);
    }
    return rc;
}

// ---- asking -------------------------------------------------------------------------------------------

static int progress_append(const struct jobs_task *t, const char *data, size_t n, struct err *e)
{
    char *path = mem_format("%s/progress.jsonl", t->folder);
    FILE *f = n > 0 ? fopen(path, "ae") : NULL;
    int rc = 0;
    if (n > 0 && (!f || fwrite(data, 1, n, f) != n))
        rc = err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (f && fclose(f) != 0 && rc == 0)
        rc = err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    free(path);
    return rc;
}

static uint64_t progress_bytes(const struct jobs_task *t)
{
    char *path = mem_format("%s/progress.jsonl", t->folder);
    struct stat st;
    uint64_t n = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
    free(path);
    return n;
}

// "running", "gone" or "ended N"; the rest of the answer is progress.
static int answer_take(const struct jobs_task *t, const struct ssh_options *o,
                       const struct buf *out, struct jobs_status *status, struct err *e)
{
    const char *text = out->len > 0 ? (const char *)out->data : "";
    size_t n = strcspn(text, "\n");
    status->work = n == 7 && strncmp(text, "running", n) == 0 ? JOBS_WORK_RUNNING : JOBS_WORK_ENDED;
    if (strncmp(text, "ended ", 6) == 0)
        snprintf(status->how, sizeof status->how, "exit code %.*s on %s", (int)(n - 6), text + 6,
                 o->hosts[0]);
    else if (status->work == JOBS_WORK_ENDED)
        snprintf(status->how, sizeof status->how, "it is gone from %s", o->hosts[0]);
    if (o->folder[0] == '\0' || n + 1 >= out->len)
        return 0;
    return progress_append(t, text + n + 1, out->len - n - 1, e);
}

static int rank_ask(const struct jobs_task *t, const struct ssh_options *o,
                    struct jobs_status *status, size_t *bytes, struct err *e)
{
    char *folder = ssh_folder(o, t), known[32];
    struct buf out;
    // Of a folder that is ours as well nothing needs to come.
    snprintf(known, sizeof known, "%llu",
             o->folder[0] != '\0' ? (unsigned long long)progress_bytes(t) : 1ull << 50);
    const char *const words[] = {folder, "0", known, NULL};
    const struct call c = {o, 0, poll_script, words, &out};
    buf_init(&out, JOBS_CAPTURE_MAX);
    int rc = remote_run(&c, e);
    if (rc == 0)
        rc = answer_take(t, o, &out, status, e);
    *bytes = out.len;
    buf_fini(&out);
    free(folder);
    return rc;
}

static int ssh_poll(const struct jobs_task *t, const char *handle, struct jobs_status *out,
                    struct err *e)
{
    struct ssh_options o;
    struct err aside = {0};
    size_t bytes = 0;
    (void)handle;
    *out = (struct jobs_status){.work = JOBS_WORK_RUNNING};
    int rc = ssh_options_read(t->options, &o, e);
    do {
        if (rc == 0)
            rc = rank_ask(t, &o, out, &bytes, e);
    } while (rc == 0 && out->work == JOBS_WORK_ENDED && bytes >= PROGRESS_PART);
    if (rc != 0 || out->work != JOBS_WORK_ENDED)
        return rc;
    ranks_signal(t, &o, 0, "KILL", &aside); // what the others, or itself, left behind
    return ssh_fetch(t, &o, e);
}

static int ssh_signal(const struct jobs_task *t, const char *handle, int number, struct err *e)
{
    struct ssh_options o;
    struct err own = {0};
    (void)handle;
    int rc = ssh_options_read(t->options, &o, e);
    if (rc == 0)
        ranks_signal(t, &o, 0, number == SIGKILL ? "KILL" : "TERM", &own);
    return rc == 0 && own.code != 0 ? err_set(e, own.code, "%s", own.message) : rc;
}

static int ssh_reattach(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    struct ssh_options o;
    struct jobs_status status = {0};
    struct err aside = {0};
    size_t bytes;
    int rc = ssh_options_read(t->options, &o, e);
    if (rc == 0)
        rc = rank_ask(t, &o, &status, &bytes, e);
    if (rc != 0)
        return rc;
    if (status.work != JOBS_WORK_ENDED) {
        snprintf(handle, JOBS_HANDLE_BYTES, "%s", o.hosts[0]);
        return 0;
    }
    // It may have ended while nobody looked: then its result is what counts.
    ranks_signal(t, &o, 0, "KILL", &aside);
    if (strncmp(status.how, "exit code", 9) == 0 && ssh_fetch(t, &o, &aside) != 0)
        log_warn("job", "%s", aside.message);
    return err_set(e, ERR_NOT_FOUND, "%s", status.how);
}

static int ssh_check(const json_t *options, struct err *e)
{
    char path[4096];
    struct ssh_options o;
    int rc = ssh_options_read(options, &o, e);
    if (rc == 0)
        rc = jobs_program_find("ssh", path, sizeof path, e);
    return rc == 0 && o.folder[0] != '\0' ? jobs_program_find("scp", path, sizeof path, e) : rc;
}

const struct jobs_executor jobs_ssh = {
    .name = "ssh",
    .poll_s = 1,
    .check = ssh_check,
    .submit = ssh_submit,
    .poll = ssh_poll,
    .signal = ssh_signal,
    .reattach = ssh_reattach,
};
