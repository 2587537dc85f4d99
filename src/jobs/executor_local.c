// Work as a process of this machine, in a group of its own.
//
// Handle: "PID START", as os_process_start tells it. A trainer holds FOLDER/trainer.lock while it lives, which is
// how one is found whose start was not written down any more, and why two never work in one folder.
#include "base/buf.h"
#include "jobs/capture.h"
#include "jobs/executor.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int local_check(const json_t *options, struct err *e)
{
    static const char *const none[] = {NULL};
    return jobs_executor_members(options, none, e);
}

static bool handle_read(const char *handle, struct os_process *p)
{
    int pid = 0;
    uint64_t start = 0;
    bool good = sscanf(handle, "%d %" SCNu64, &pid, &start) == 2 && pid > 1;
    *p = (struct os_process){.pid = good ? (pid_t)pid : 0, .start = start};
    return good;
}

static void handle_write(const struct os_process *p, char handle[JOBS_HANDLE_BYTES])
{
    snprintf(handle, JOBS_HANDLE_BYTES, "%d %" PRIu64, (int)p->pid, p->start);
}

static int local_submit(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    const char *words[JOBS_WORDS_MAX + 1];
    char program[4096], *path = mem_format("%s/log", t->folder);
    struct os_process p = {0};
    size_t n = 0;
    for (; n < JOBS_WORDS_MAX && t->argv[n]; n++)
        words[n] = t->argv[n];
    words[n] = NULL;
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int rc = log < 0 ? err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno)) : 0;
    if (rc == 0)
        rc = jobs_program_find(t->argv[0], program, sizeof program, e);
    words[0] = program;
    if (rc == 0) {
        struct os_spawn s = {.argv = words, .stdout_fd = log, .stderr_fd = log, .new_group = true};
        rc = os_spawn(&s, &p.pid, e);
    }
    // One that has ended already has no start: its end is told by its exit.
    if (rc == 0 && os_process_start(p.pid, &p.start) != 0)
        p.start = 0;
    if (rc == 0)
        handle_write(&p, handle);
    if (log >= 0)
        close(log);
    free(path);
    return rc;
}

static int local_poll(const struct jobs_task *t, const char *handle, struct jobs_status *out,
                      struct err *e)
{
    struct os_process p;
    struct os_memory m;
    int status = 0;
    (void)t;
    *out = (struct jobs_status){.work = JOBS_WORK_ENDED};
    if (!handle_read(handle, &p))
        return err_set(e, ERR_CORRUPT, "\"%.60s\" names no process", handle);
    if (waitpid(p.pid, &status, WNOHANG) == p.pid) {
        os_exit_text(status, out->how, sizeof out->how);
        kill(-p.pid, SIGKILL); // what it may have left behind
        return 0;
    }
    if (!os_process_lives(&p))
        return 0;
    out->work = JOBS_WORK_RUNNING;
    if (os_memory_get(p.pid, &m) == 0)
        out->memory_bytes = m.resident_bytes;
    return 0;
}

static int local_signal(const struct jobs_task *t, const char *handle, int number, struct err *e)
{
    struct os_process p;
    (void)t;
    if (!handle_read(handle, &p))
        return err_set(e, ERR_CORRUPT, "\"%.60s\" names no process", handle);
    if (!os_process_lives(&p) || kill(-p.pid, number) == 0 || errno == ESRCH)
        return 0;
    return err_set(e, ERR_IO, "cannot signal process group %d: %s", (int)p.pid, strerror(errno));
}

static int local_reattach(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    struct os_process p;
    if (handle_read(handle, &p) && os_process_lives(&p))
        return 0;
    char *path = mem_format("%s/trainer.lock", t->folder);
    bool held = os_lock_holder(path, &p);
    free(path);
    if (!held || !os_process_lives(&p))
        return err_set(e, ERR_NOT_FOUND, "no process works on job %s", t->id);
    handle_write(&p, handle);
    return 0;
}

const struct jobs_executor jobs_local = {
    .name = "local",
    .check = local_check,
    .submit = local_submit,
    .poll = local_poll,
    .signal = local_signal,
    .reattach = local_reattach,
};
