// Jobs from their start to their end: success, failure, cancellation, limits, and being killed at every joint.
#include "jobs_rig.h"

#include <fcntl.h>

static bool lives(pid_t pid)
{
    uint64_t start;
    return os_process_start(pid, &start) == 0;
}

static void wait_gone(pid_t pid)
{
    for (int i = 0; i < 500 && lives(pid); i++)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    if (lives(pid))
        fail_msg("process %d is still there", (int)pid);
}

// Everything that was told, as one text.
static char *events_text(const char *id)
{
    json_t *events = NULL;
    const json_t *event;
    size_t i;
    struct err e;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(jobs_events(rig_jobs, id, 0, 1000, &events, &e), 0);
    json_array_foreach(events, i, event)
        buf_printf(&b, "%s\n", json_string_value(json_object_get(event, "message")));
    json_decref(events);
    return buf_take(&b);
}

static void assert_told(const char *id, const char *words)
{
    char *text = events_text(id);
    if (!strstr(text, words))
        fail_msg("\"%s\" is not told in:\n%s", words, text);
    free(text);
}

// ---- to the end ----------------------------------------------------------------------------------

static void a_job_succeeds(void **state)
{
    json_t *list = NULL;
    uint64_t offset = 0;
    struct err e;
    struct stat st;
    (void)state;
    const char *id = rig_submit("one", "ok");
    assert_int_equal(rig_state(id), JOBS_QUEUED);
    rig_wait(id, JOBS_SUCCEEDED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 1);
    assert_int_equal(job.examples, 2);
    assert_true(job.started_unix_s >= job.created_unix_s && job.ended_unix_s >= job.started_unix_s);
    assert_string_equal(json_string_value(json_object_get(job.result, "status")), "succeeded");
    assert_int_equal(stat(job.folder, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    jobs_job_fini(&job);
    assert_told(id, "started (local");
    assert_told(id, "step 4/4: loss 1.5");
    assert_int_equal(jobs_progress(rig_jobs, id, &offset, &list, &e), 0);
    assert_int_equal(json_array_size(list), 4);
    json_decref(list);
    assert_int_equal(jobs_progress(rig_jobs, id, &offset, &list, &e), 0);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    assert_int_equal(jobs_checkpoints(rig_jobs, id, &list, &e), 0);
    assert_int_equal(json_array_size(list), 4);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "step")), 4);
    assert_true(json_number_value(json_object_get(json_array_get(list, 0), "loss")) == 1.5);
    json_decref(list);
}

static void one_at_a_time_and_the_next_by_itself(void **state)
{
    struct err e;
    (void)state;
    const char *first = rig_submit("first", "slow"), *second = rig_submit("second", "ok");
    rig_tick(rig_jobs);
    assert_int_equal(rig_state(first), JOBS_RUNNING);
    assert_int_equal(rig_state(second), JOBS_QUEUED);
    // Nobody ticks but the runner of the first, at its end.
    for (int i = 0; i < 1500 && !jobs_state_final(rig_state(second)); i++)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    assert_int_equal(rig_state(first), JOBS_SUCCEEDED);
    assert_int_equal(rig_state(second), JOBS_SUCCEEDED);
    assert_int_equal(jobs_remove(rig_jobs, first, &e), 0);
    assert_int_equal(jobs_remove(rig_jobs, first, &e), ERR_NOT_FOUND);
}

static void a_job_says_why_it_failed(void **state)
{
    (void)state;
    const char *id = rig_submit("bad", "fail");
    rig_wait(id, JOBS_FAILED);
    struct jobs_job job = rig_get(id);
    assert_string_equal(job.error.code, "range");
    assert_string_equal(job.error.message, "it is too large");
    assert_int_equal(job.attempts, 1);
    jobs_job_fini(&job);
}

static void work_that_ends_without_a_word_fails_with_its_log(void **state)
{
    (void)state;
    const char *id = rig_submit("mute", "gone");
    rig_wait(id, JOBS_FAILED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 3);
    assert_non_null(strstr(job.error.message, "exit code 7"));
    assert_non_null(strstr(job.error.message, "no such thing"));
    jobs_job_fini(&job);
}

static void a_program_that_is_not_there_is_named(void **state)
{
    json_t *command = json_pack("[s]", "/nowhere/trainer");
    struct jobs_spec s = rig_spec("absent", command);
    struct jobs_job job;
    struct err e = {0};
    (void)state;
    assert_int_equal(jobs_submit(rig_jobs, &s, &job, &e), 0);
    char id[JOBS_ID_BYTES];
    memcpy(id, job.id, sizeof id);
    jobs_job_fini(&job);
    json_decref(command);
    rig_wait(id, JOBS_FAILED);
    job = rig_get(id);
    assert_non_null(strstr(job.error.message, "/nowhere/trainer"));
    jobs_job_fini(&job);
}

// ---- cancelling ----------------------------------------------------------------------------------

static void a_waiting_job_is_cancelled_at_once(void **state)
{
    struct err e;
    (void)state;
    const char *id = rig_submit("waits", "ok");
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0);
    assert_int_equal(rig_state(id), JOBS_CANCELLED);
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "has ended"));
    rig_tick(rig_jobs);
    assert_int_equal(rig_state(id), JOBS_CANCELLED);
}

static void a_running_job_ends_politely(void **state)
{
    struct err e;
    (void)state;
    const char *id = rig_submit("polite", "polite");
    rig_tick(rig_jobs);
    pid_t worker = rig_worker(id).pid;
    rig_step_wait(id);
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0);
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0); // twice is once
    assert_int_equal(jobs_remove(rig_jobs, id, &e), ERR_BUSY);
    rig_wait(id, JOBS_CANCELLED);
    assert_false(lives(worker));
}

static pid_t grandchild_of(const char *id)
{
    char *path = mem_format("%s/jobs/%s/grandchild", rig_dir, id), *text = NULL;
    size_t n = 0;
    struct err e;
    int rc = -1;
    for (int i = 0; i < 500 && (rc != 0 || n == 0); i++) {
        free(text);
        text = NULL;
        rc = os_file_read(path, 64, &text, &n, &e);
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    }
    assert_int_equal(rc, 0);
    pid_t pid = (pid_t)strtol(text, NULL, 10);
    free(text);
    free(path);
    return pid;
}

static void a_stubborn_job_is_killed_with_all_it_started(void **state)
{
    struct err e;
    (void)state;
    const char *id = rig_submit("stubborn", "stubborn");
    rig_tick(rig_jobs);
    pid_t worker = rig_worker(id).pid, grandchild = grandchild_of(id);
    assert_true(lives(worker) && lives(grandchild));
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0);
    rig_wait(id, JOBS_CANCELLED);
    wait_gone(worker);
    wait_gone(grandchild);
    assert_told(id, "is killed");
}

static void a_job_is_cancelled_though_its_runner_was_killed(void **state)
{
    struct err e;
    (void)state;
    const char *id = rig_submit("orphan", "stubborn");
    rig_tick(rig_jobs);
    pid_t worker = rig_worker(id).pid;
    rig_step_wait(id);
    kill(rig_holder(id, "runner.lock").pid, SIGKILL);
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0);
    assert_int_equal(rig_state(id), JOBS_CANCELLING);
    rig_wait(id, JOBS_CANCELLED);
    wait_gone(worker);
}

// ---- killing -------------------------------------------------------------------------------------

static void work_goes_on_without_its_runner(void **state)
{
    (void)state;
    const char *id = rig_submit("attached", "slow");
    rig_tick(rig_jobs);
    struct os_process worker = rig_worker(id);
    kill(rig_holder(id, "runner.lock").pid, SIGKILL);
    rig_wait(id, JOBS_SUCCEEDED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 1); // the same work
    jobs_job_fini(&job);
    assert_told(id, "re-attached");
    assert_false(os_process_lives(&worker));
}

static void a_result_is_found_by_the_next_runner(void **state)
{
    (void)state;
    const char *id = rig_submit("finished", "slow");
    rig_tick(rig_jobs);
    struct os_process worker = rig_worker(id);
    kill(rig_holder(id, "runner.lock").pid, SIGKILL);
    for (int i = 0; i < 500 && os_process_lives(&worker); i++)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    assert_int_equal(rig_state(id), JOBS_RUNNING);
    rig_wait(id, JOBS_SUCCEEDED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 1);
    jobs_job_fini(&job);
}

static void killed_work_goes_on(void **state)
{
    (void)state;
    const char *id = rig_submit("killed", "once");
    rig_wait(id, JOBS_SUCCEEDED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 2);
    jobs_job_fini(&job);
    assert_told(id, "signal 9");
    assert_told(id, "started again");
}

static void killed_together_they_go_on(void **state)
{
    (void)state;
    const char *id = rig_submit("both", "slow");
    rig_tick(rig_jobs);
    struct os_process worker = rig_worker(id);
    rig_step_wait(id);
    kill(rig_holder(id, "runner.lock").pid, SIGKILL);
    kill(-worker.pid, SIGKILL);
    rig_wait(id, JOBS_SUCCEEDED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 2);
    jobs_job_fini(&job);
}

static void a_process_id_that_was_given_away_is_not_mistaken(void **state)
{
    char handle[64];
    struct err e;
    (void)state;
    const char *id = rig_submit("reused", "slow");
    rig_tick(rig_jobs);
    struct os_process worker = rig_worker(id);
    rig_step_wait(id);
    kill(rig_holder(id, "runner.lock").pid, SIGKILL);
    kill(-worker.pid, SIGKILL);
    // This test's own id, which lives, with another start.
    snprintf(handle, sizeof handle, "%d 1", (int)getpid());
    assert_int_equal(jobs_handle_set(rig_jobs, id, handle, &e), 0);
    rig_wait(id, JOBS_SUCCEEDED);
}

static void two_runners_do_not_meet(void **state)
{
    char *dir = rig_path("jobs");
    (void)state;
    const char *id = rig_submit("twice", "slow");
    rig_tick(rig_jobs);
    rig_holder(id, "runner.lock");
    const char *const argv[] = {rig_self, "--runner", dir, id, NULL};
    struct os_spawn s = {.argv = argv, .stdout_fd = -1, .stderr_fd = -1};
    pid_t pid;
    int status;
    struct err e;
    assert_int_equal(os_spawn(&s, &pid, &e), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    rig_wait(id, JOBS_SUCCEEDED);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.attempts, 1);
    jobs_job_fini(&job);
    free(dir);
}

// ---- limits --------------------------------------------------------------------------------------

static void limit_hit(const char *name, uint64_t time_s, uint64_t memory, const char *code,
                      const char *words)
{
    json_t *command = rig_command("polite");
    struct jobs_spec s = rig_spec(name, command);
    struct jobs_job job;
    struct err e = {0};
    char id[JOBS_ID_BYTES];
    s.limit_time_s = time_s;
    s.limit_memory_bytes = memory;
    assert_int_equal(jobs_submit(rig_jobs, &s, &job, &e), 0);
    memcpy(id, job.id, sizeof id);
    jobs_job_fini(&job);
    json_decref(command);
    rig_tick(rig_jobs);
    pid_t worker = rig_worker(id).pid;
    rig_wait(id, JOBS_FAILED);
    job = rig_get(id);
    assert_string_equal(job.error.code, code);
    if (!strstr(job.error.message, words))
        fail_msg("\"%s\" does not say \"%s\"", job.error.message, words);
    jobs_job_fini(&job);
    wait_gone(worker);
}

static void limits_end_a_job(void **state)
{
    (void)state;
    limit_hit("long", 1, 0, "timeout", "limit of 1 s");
    limit_hit("wide", 0, 1000, "range", "of memory");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_job_succeeds, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(one_at_a_time_and_the_next_by_itself, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_job_says_why_it_failed, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(work_that_ends_without_a_word_fails_with_its_log, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_program_that_is_not_there_is_named, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_waiting_job_is_cancelled_at_once, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_running_job_ends_politely, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_stubborn_job_is_killed_with_all_it_started, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_job_is_cancelled_though_its_runner_was_killed, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(work_goes_on_without_its_runner, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_result_is_found_by_the_next_runner, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(killed_work_goes_on, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(killed_together_they_go_on, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_process_id_that_was_given_away_is_not_mistaken, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(two_runners_do_not_meet, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(limits_end_a_job, rig_setup, rig_teardown),
    };
    if (rig_begin(argc, argv) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
