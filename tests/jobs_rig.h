// A queue in a folder of its own, and a trainer that is a shell script: what the tests of jobs/ share.
#ifndef TESTS_JOBS_RIG_H
#define TESTS_JOBS_RIG_H

#include "base/buf.h"
#include "base/clock.h"
#include "jobs/jobs.h"
#include "jobs/runner.h"
#include "os/os.h"
#include "tests/scratch.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char rig_dir[64], rig_self[4096];
static struct jobs *rig_jobs;

#define RIG_LINE                                                                                   \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"    \
    "\"b\"}]}\n"

// MODE FOLDER. Steps are told, and go on where they were, as the real one does it.
static const char rig_trainer[] =
    "mode=$1; folder=$2; cd \"$folder\" || exit 9\n"
    "say() { printf '{\"step\":%d,\"steps\":4,\"loss\":%d.5,\"lr\":1e-3,\"tokens_per_s\":9,"
    "\"eta_s\":1}\\n' \"$1\" \"$((5 - $1))\" >>progress.jsonl; }\n"
    "result() { printf '%s' \"$1\" >result.tmp; mv result.tmp result.json; }\n"
    "done=$(cat done 2>/dev/null || echo 0)\n"
    "case $mode in\n"
    "fail) result '{\"status\":\"failed\",\"code\":\"range\",\"error\":\"it is too large\"}'; exit "
    "1 ;;\n"
    "gone) echo 'no such thing' >&2; exit 7 ;;\n"
    "stubborn) trap '' TERM; say 1; sleep 600 & echo $! >grandchild; while :; do sleep 1; done ;;\n"
    "polite) trap 'kill $!; result \"{\\\"status\\\":\\\"cancelled\\\"}\"; exit 3' TERM; say 1\n"
    "    while :; do sleep 600 & wait $!; done ;;\n"
    "slow) pause=0.4 ;;\n"
    "once) [ -e killed ] || { touch killed; say 1; echo 1 >done; kill -9 $$; }; pause=0 ;;\n"
    "*) pause=0 ;;\n"
    "esac\n"
    "while [ \"$done\" -lt 4 ]; do\n"
    "    sleep $pause; done=$((done + 1)); say $done\n"
    "    mkdir -p checkpoints/step-$done; echo x >checkpoints/step-$done/state\n"
    "    touch checkpoints/step-$done/COMPLETE; echo $done >done\n"
    "done\n"
    "echo adapter >adapter.gguf\n"
    "result '{\"status\":\"succeeded\",\"loss\":1.5,\"adapter\":\"adapter.gguf\"}'\n";

static char *rig_path(const char *name)
{
    return mem_format("%s/%s", rig_dir, name);
}

static void rig_put(const char *name, const char *text)
{
    struct err e = {0};
    char *path = rig_path(name);
    if (os_file_write(path, text, strlen(text), 0600, &e) != 0)
        fail_msg("%s", e.message);
    free(path);
}

// The queue again, as another program would open it.
static struct jobs *rig_open(const struct jobs_hooks *hooks)
{
    static char dir[80];
    static const char *runner[4];
    struct jobs_options o;
    struct jobs *j = NULL;
    struct err e = {0};
    snprintf(dir, sizeof dir, "%s/jobs", rig_dir);
    jobs_options_default(&o);
    runner[0] = rig_self;
    runner[1] = "--runner";
    runner[2] = dir;
    runner[3] = NULL;
    o.dir = dir;
    o.runner = runner;
    o.hooks = hooks;
    if (jobs_open(&o, &j, &e) != 0)
        fail_msg("%s", e.message);
    return j;
}

static int rig_setup(void **state)
{
    (void)state;
    snprintf(rig_dir, sizeof rig_dir, "/tmp/tandem-jobs-XXXXXX");
    if (!mkdtemp(rig_dir))
        return -1;
    setenv("TANDEM_DATA", rig_dir, 1);
    rig_put("trainer.sh", rig_trainer);
    rig_put("data.jsonl", RIG_LINE RIG_LINE);
    rig_put("model.gguf", "not looked into");
    rig_jobs = rig_open(NULL);
    return 0;
}

static struct jobs_job rig_get(const char *id)
{
    struct jobs_job job;
    struct err e = {0};
    if (jobs_get(rig_jobs, id, &job, &e) != 0)
        fail_msg("%s", e.message);
    return job;
}

static enum jobs_state rig_state(const char *id)
{
    struct jobs_job job = rig_get(id);
    enum jobs_state s = job.state;
    jobs_job_fini(&job);
    return s;
}

static void rig_tick(struct jobs *j)
{
    struct err e = {0};
    if (jobs_tick(j, NULL, &e) != 0)
        fail_msg("%s", e.message);
}

// Ticks until the job is in that state.
static void rig_wait(const char *id, enum jobs_state state)
{
    int64_t deadline = clock_now_ns() + 60 * NS_PER_S;
    while (rig_state(id) != state) {
        if (clock_now_ns() > deadline ||
            (jobs_state_final(rig_state(id)) && rig_state(id) != state)) {
            struct jobs_job job = rig_get(id);
            fail_msg("job is %s (%s), not %s", jobs_state_name(job.state), job.error.message,
                     jobs_state_name(state));
        }
        rig_tick(rig_jobs);
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    }
}

static struct jobs_spec rig_spec(const char *name, json_t *command)
{
    static char model[128], data[128];
    struct jobs_spec s;
    jobs_spec_default(&s);
    snprintf(model, sizeof model, "%s/model.gguf", rig_dir);
    snprintf(data, sizeof data, "%s/data.jsonl", rig_dir);
    s.name = name;
    s.model = model;
    s.data = data;
    s.command = command;
    s.disk_reserve_bytes = 1;
    return s;
}

static json_t *rig_command(const char *mode)
{
    char *script = rig_path("trainer.sh");
    json_t *list = json_pack("[s,s,s]", "/bin/sh", script, mode);
    free(script);
    return list;
}

// A job whose trainer behaves so; its id lives until the next call but three.
static const char *rig_submit(const char *name, const char *mode)
{
    static char ids[4][JOBS_ID_BYTES];
    static int next;
    json_t *command = rig_command(mode);
    struct jobs_spec s = rig_spec(name, command);
    struct jobs_job job;
    struct err e = {0};
    if (jobs_submit(rig_jobs, &s, &job, &e) != 0)
        fail_msg("%s", e.message);
    char *id = ids[next++ % 4];
    snprintf(id, JOBS_ID_BYTES, "%s", job.id);
    jobs_job_fini(&job);
    json_decref(command);
    return id;
}

// Who holds a lock of the job's folder; waits for somebody to do so.
static inline struct os_process rig_holder(const char *id, const char *lock)
{
    char *path = mem_format("%s/jobs/%s/%s", rig_dir, id, lock);
    struct os_process p = {0};
    for (int i = 0; i < 1500 && !os_lock_holder(path, &p); i++)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    free(path);
    if (p.pid <= 1)
        fail_msg("nobody holds %s", lock);
    return p;
}

// The process that does the work, from the handle.
static inline struct os_process rig_worker(const char *id)
{
    char handle[256] = "";
    int pid = 0;
    unsigned long long start = 0;
    struct err e;
    for (int i = 0; i < 1500 && sscanf(handle, "%d %llu", &pid, &start) != 2; i++) {
        assert_int_equal(jobs_handle_get(rig_jobs, id, handle, sizeof handle, &e), 0);
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    }
    return (struct os_process){.pid = (pid_t)pid, .start = start};
}

// Waits until the trainer has told a step: from then on it handles signals.
static inline void rig_step_wait(const char *id)
{
    char *path = mem_format("%s/jobs/%s/progress.jsonl", rig_dir, id);
    struct stat st = {0};
    for (int i = 0; i < 1500 && (stat(path, &st) != 0 || st.st_size == 0); i++)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    free(path);
}

static int rig_teardown(void **state)
{
    struct jobs_query q;
    struct jobs_list l;
    struct err e;
    (void)state;
    jobs_query_default(&q);
    // A test that failed leaves nothing running.
    if (jobs_list_read(rig_jobs, &q, &l, &e) == 0) {
        for (size_t i = 0; i < l.n; i++)
            if (!jobs_state_final(l.items[i].state)) {
                jobs_cancel(rig_jobs, l.items[i].id, &e);
                for (int k = 0; k < 500 && !jobs_state_final(rig_state(l.items[i].id)); k++) {
                    jobs_tick(rig_jobs, NULL, &e);
                    clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
                }
            }
        jobs_list_fini(&l);
    }
    jobs_close(rig_jobs);
    scratch_remove(rig_dir);
    return 0;
}

// What jobs_tick starts: this test, as a runner.
static int rig_runner(int argc, char **argv)
{
    struct jobs_options o;
    struct jobs_runner_options r;
    struct jobs *j = NULL;
    struct err e = {0};
    if (argc != 4)
        return 2;
    jobs_options_default(&o);
    jobs_runner_options_default(&r);
    const char *const runner[] = {argv[0], "--runner", argv[2], NULL};
    o.dir = argv[2];
    o.runner = runner;
    r.grace_s = 1;
    r.poll_s = 0.02;
    r.publish = false;
    int rc = jobs_open(&o, &j, &e);
    if (rc == 0)
        rc = jobs_runner_run(j, argv[3], &r, &e);
    if (rc == 0)
        rc = jobs_tick(j, NULL, &e);
    jobs_close(j);
    if (rc != 0)
        fprintf(stderr, "runner: %s\n", e.message);
    return rc != 0;
}

static int rig_begin(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--runner") == 0)
        exit(rig_runner(argc, argv));
    if (getenv("TANDEM_EMULATED")) {
        printf("skipped: an emulated program cannot start others\n");
        exit(0);
    }
    return realpath(argv[0], rig_self) ? 0 : -1;
}

#endif
