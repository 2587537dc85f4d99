// What may start is started; what should run and does not is started again.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "jobs/jobs_impl.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ACTIVE_MAX 64
#define REMOTE_MAX 16   // jobs on other machines at the same time
#define STARTING_S 10   // after which a runner that does not lock its folder is given up
#define STARTS_MAX 5    // runners in a row that did not get to work
#define RUNNER_WORDS 16 // of the command that starts one

struct active {
    char id[JOBS_ID_BYTES];
    enum jobs_state state;
    bool local;
    int64_t starts, start_unix;
};

// ---- runners -------------------------------------------------------------------------------------

static void children_reap(struct jobs *j)
{
    size_t kept = 0;
    for (size_t i = 0; i < j->n_children; i++) {
        pid_t got = waitpid(j->children[i], NULL, WNOHANG);
        if (got == 0)
            j->children[kept++] = j->children[i];
    }
    j->n_children = kept;
}

static int runner_command(const struct jobs *j, const char *id, const char *words[RUNNER_WORDS + 2],
                          char *program, size_t program_bytes, struct err *e)
{
    char dir[JOBS_PATH_BYTES];
    size_t n = 0;
    if (j->options.runner) {
        while (n < RUNNER_WORDS && j->options.runner[n]) {
            words[n] = j->options.runner[n];
            n++;
        }
    } else {
        int rc = os_self_dir(dir, sizeof dir, e);
        if (rc != 0)
            return rc;
        snprintf(program, program_bytes, "%s/tandem", dir);
        words[n++] = program;
        words[n++] = "train";
        words[n++] = "run";
    }
    words[n++] = id;
    words[n] = NULL;
    return 0;
}

static int runner_start(struct jobs *j, const char *id, struct err *e)
{
    const char *words[RUNNER_WORDS + 2];
    char program[JOBS_PATH_BYTES + 16], *path = jobs_path(j, id, "log");
    pid_t pid = 0;
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int rc = log < 0 ? err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno)) : 0;
    free(path);
    if (rc == 0)
        rc = runner_command(j, id, words, program, sizeof program, e);
    if (rc == 0) {
        struct os_spawn s = {
            .argv = words, .stdout_fd = log, .stderr_fd = log, .new_session = true};
        rc = os_spawn(&s, &pid, e);
    }
    if (log >= 0)
        close(log);
    // One child more than there is room for is reaped by the system once we end.
    if (rc == 0 && j->n_children < JOBS_CHILDREN_MAX)
        j->children[j->n_children++] = pid;
    return rc;
}

static bool runner_lives(const struct jobs *j, const char *id)
{
    char *path = jobs_path(j, id, "runner.lock");
    struct os_process holder;
    bool lives = os_lock_holder(path, &holder);
    free(path);
    return lives;
}

static void job_fail(struct jobs *j, const char *id, const struct err *why)
{
    struct jobs_error error;
    struct err e;
    snprintf(error.code, sizeof error.code, "%s", err_name(why->code));
    snprintf(error.message, sizeof error.message, "%s", why->message);
    const struct jobs_change c = {1u << JOBS_QUEUED | 1u << JOBS_RUNNING | 1u << JOBS_CANCELLING,
                                  JOBS_FAILED, &error, NULL};
    if (jobs_row_change(j, id, &c, &e) != 0)
        log_error("jobs", "job %s failed (%s) and cannot be written: %s", id, why->message,
                  e.message);
}

// Notes the start first, so that nobody else starts one as well.
static void runner_ensure(struct jobs *j, struct active *a)
{
    struct db_statement *s = NULL;
    struct err e = {0};
    if (a->starts >= STARTS_MAX) {
        char *path = jobs_path(j, a->id, "log");
        err_set(&e, ERR_IO, "its runner ended %d times before it got to work; %s says more",
                STARTS_MAX, path);
        free(path);
        job_fail(j, a->id, &e);
        return;
    }
    int rc = db_prepare(j->db,
                        "UPDATE jobs SET starts=starts+1, start_unix=?2 WHERE id=?1 AND starts=?3 "
                        "AND start_unix=?4",
                        &s, &e);
    if (rc == 0) {
        db_bind_text(s, 1, a->id);
        db_bind_i64(s, 2, clock_unix_s());
        db_bind_i64(s, 3, a->starts);
        db_bind_i64(s, 4, a->start_unix);
    }
    rc = db_run(s, rc, &e);
    if (rc == 0 && db_changed_rows(j->db) == 0)
        return; // somebody was faster
    if (rc == 0)
        rc = runner_start(j, a->id, &e);
    if (rc == ERR_BUSY)
        return; // the database: the next tick
    if (rc != 0)
        job_fail(j, a->id, &e);
}

// ---- the list ------------------------------------------------------------------------------------

static int active_read(struct jobs *j, const char *where, struct active *out, size_t max, size_t *n,
                       struct err *e)
{
    struct db_statement *s = NULL;
    char *sql = mem_format("SELECT id, state, executor, starts, start_unix FROM jobs WHERE %s "
                           "ORDER BY number LIMIT %zu",
                           where, max);
    int rc = db_prepare(j->db, sql, &s, e);
    free(sql);
    if (rc != 0)
        return rc;
    for (*n = 0; *n < max && (rc = db_step(s, e)) == 1; ++*n) {
        struct active *a = &out[*n];
        snprintf(a->id, sizeof a->id, "%s", db_column_text(s, 0));
        a->state = (enum jobs_state)db_column_i64(s, 1);
        a->local = strcmp(db_column_text(s, 2), "local") == 0;
        a->starts = db_column_i64(s, 3);
        a->start_unix = db_column_i64(s, 4);
    }
    db_finish(s);
    return rc < 0 ? rc : 0;
}

// ---- the host ------------------------------------------------------------------------------------

// Whether another process makes room for jobs on this machine.
static int host_elsewhere(struct jobs *j, bool *elsewhere, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db, "SELECT pid, beat FROM host", &s, e);
    *elsewhere = false;
    if (rc == 0 && (rc = db_step(s, e)) == 1) {
        int64_t age = clock_unix_s() - db_column_i64(s, 1);
        *elsewhere = db_column_i64(s, 0) != getpid() && age >= -JOBS_HOST_STALE_S &&
                     age <= JOBS_HOST_STALE_S;
    }
    db_finish(s);
    return rc < 0 ? rc : 0;
}

static int host_beat(struct jobs *j, struct err *e)
{
    struct db_statement *s = NULL;
    int rc =
        db_prepare(j->db, "INSERT OR REPLACE INTO host(one, pid, beat) VALUES(1, ?1, ?2)", &s, e);
    if (rc == 0) {
        db_bind_i64(s, 1, getpid());
        db_bind_i64(s, 2, clock_unix_s());
    }
    return db_run(s, rc, e);
}

static int room_make(struct jobs *j, const char *id, struct err *e)
{
    const struct jobs_hooks *h = j->options.hooks;
    struct jobs_job job;
    if (!h || !h->make_room)
        return 0;
    int rc = jobs_row_get(j, id, &job, e);
    if (rc != 0)
        return rc;
    j->room_made = true; // also when it did not succeed: what was freed comes back
    rc = h->make_room(h->ctx, &job, e);
    jobs_job_fini(&job);
    return rc;
}

static void room_give_back(struct jobs *j)
{
    if (j->room_made && j->options.hooks->give_back)
        j->options.hooks->give_back(j->options.hooks->ctx);
    j->room_made = false;
}

// ---- the tick ------------------------------------------------------------------------------------

static void queued_start(struct jobs *j, struct active *a, size_t *local_running)
{
    static const struct jobs_change run = {.from = 1u << JOBS_QUEUED, .to = JOBS_RUNNING};
    struct err e = {0};
    int rc = a->local ? room_make(j, a->id, &e) : 0;
    if (rc == ERR_BUSY || (rc == 0 && (rc = jobs_row_change(j, a->id, &run, &e)) == ERR_MISMATCH)) {
        log_debug("jobs", "job %s waits: %s", a->id, e.message);
        return;
    }
    if (rc != 0) {
        job_fail(j, a->id, &e);
        return;
    }
    *local_running += a->local;
    runner_ensure(j, a);
}

static int queued_starts(struct jobs *j, size_t *local_running, size_t remote_running,
                         struct err *e)
{
    struct active waiting[ACTIVE_MAX];
    size_t n = 0;
    int rc = active_read(j, "state=0", waiting, ACTIVE_MAX, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (waiting[i].local ? *local_running >= j->options.parallel
                             : remote_running++ >= REMOTE_MAX)
            continue;
        queued_start(j, &waiting[i], local_running);
    }
    return rc;
}

static int tick(struct jobs *j, size_t *running, struct err *e)
{
    struct active active[ACTIVE_MAX];
    size_t n = 0, local = 0;
    bool elsewhere = false;
    children_reap(j);
    int rc = j->options.hooks ? host_beat(j, e) : host_elsewhere(j, &elsewhere, e);
    if (rc == 0)
        rc = active_read(j, "state IN (1, 2)", active, ACTIVE_MAX, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        bool lives = runner_lives(j, active[i].id);
        bool starting = clock_unix_s() < active[i].start_unix + STARTING_S && active[i].starts > 0;
        *running += lives;
        local += active[i].local;
        if (!lives && !starting)
            runner_ensure(j, &active[i]);
    }
    if (rc == 0 && !elsewhere)
        rc = queued_starts(j, &local, n - local, e);
    if (rc == 0 && local == 0)
        room_give_back(j);
    return rc;
}

int jobs_tick(struct jobs *j, size_t *running, struct err *e)
{
    size_t count = 0;
    pthread_mutex_lock(&j->lock);
    int rc = tick(j, &count, e);
    pthread_mutex_unlock(&j->lock);
    if (running)
        *running = count;
    return rc;
}
