// The queue: what is refused, lists and cursors, the host's room, damage, and files that are to be trained on.
#include "jobs_rig.h"
#include "tests/gguf_make.h"

#include "base/examples.h"
#include "base/json.h"
#include "jobs/capture.h"

// ---- submitting ----------------------------------------------------------------------------------

static void refused(const struct jobs_spec *s, int code, const char *words)
{
    struct jobs_job job;
    struct err e = {0};
    struct jobs_query q;
    struct jobs_list l;
    assert_int_equal(jobs_submit(rig_jobs, s, &job, &e), code);
    if (!strstr(e.message, words))
        fail_msg("\"%s\" does not say \"%s\"", e.message, words);
    jobs_query_default(&q);
    assert_int_equal(jobs_list_read(rig_jobs, &q, &l, &e), 0);
    assert_int_equal(l.n, 0); // and nothing is left of it
    jobs_list_fini(&l);
}

static void bad_jobs_are_refused(void **state)
{
    json_t *command = rig_command("ok"), *executor = json_pack("{s:s}", "kind", "cloud"),
           *odd = json_pack("{s:s}", "colour", "red"), *empty = json_array();
    char *nowhere = rig_path("nowhere.jsonl"), *bad = rig_path("bad.jsonl");
    struct jobs_spec s = rig_spec("../up", command);
    (void)state;
    rig_put("bad.jsonl", RIG_LINE "{\"messages\":[{\"role\":\"bot\",\"content\":\"a\"}]}\n");
    refused(&s, ERR_INVALID, "../up");
    s = rig_spec("fine", command);
    s.data = nowhere;
    refused(&s, ERR_NOT_FOUND, "nowhere.jsonl");
    s.data = bad;
    refused(&s, ERR_INVALID, "line 2");
    s = rig_spec("fine", command);
    s.eval_data = bad;
    refused(&s, ERR_INVALID, "line 2");
    s = rig_spec("fine", command);
    s.executor = executor;
    refused(&s, ERR_INVALID, "cloud");
    s.executor = odd;
    refused(&s, ERR_INVALID, "colour");
    s = rig_spec("fine", empty);
    refused(&s, ERR_INVALID, "1 to");
    s = rig_spec("fine", command);
    s.disk_reserve_bytes = UINT64_MAX / 2;
    refused(&s, ERR_RANGE, "to stay free");
    json_decref(command);
    json_decref(executor);
    json_decref(odd);
    json_decref(empty);
    free(nowhere);
    free(bad);
}

static void a_name_is_trained_once_at_a_time(void **state)
{
    json_t *command = rig_command("ok");
    struct jobs_spec s = rig_spec("same", command);
    struct jobs_job job;
    struct err e = {0};
    (void)state;
    const char *id = rig_submit("same", "ok");
    assert_int_equal(jobs_submit(rig_jobs, &s, &job, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, id));
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0);
    assert_int_equal(jobs_submit(rig_jobs, &s, &job, &e), 0);
    jobs_job_fini(&job);
    json_decref(command);
}

static void the_data_is_the_jobs_own(void **state)
{
    char *text = NULL;
    size_t n;
    struct err e;
    struct stat st;
    (void)state;
    const char *id = rig_submit("copy", "ok");
    rig_put("data.jsonl", "changed");
    char *path = mem_format("%s/jobs/%s/data.jsonl", rig_dir, id);
    assert_int_equal(os_file_read(path, 1 << 20, &text, &n, &e), 0);
    assert_string_equal(text, RIG_LINE RIG_LINE);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    free(text);
    free(path);
}

// ---- lists ---------------------------------------------------------------------------------------

static void lists_have_cursors(void **state)
{
    char ids[5][JOBS_ID_BYTES];
    struct jobs_query q;
    struct jobs_list l;
    struct err e;
    (void)state;
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "job%d", i);
        memcpy(ids[i], rig_submit(name, "ok"), JOBS_ID_BYTES);
    }
    jobs_query_default(&q);
    q.limit = 2;
    assert_int_equal(jobs_list_read(rig_jobs, &q, &l, &e), 0);
    assert_int_equal(l.n, 2);
    assert_true(l.more);
    assert_string_equal(l.items[0].id, ids[4]); // newest first
    jobs_list_fini(&l);
    q.after = ids[3];
    q.limit = 100;
    assert_int_equal(jobs_list_read(rig_jobs, &q, &l, &e), 0);
    assert_int_equal(l.n, 3);
    assert_false(l.more);
    assert_string_equal(l.items[2].id, ids[0]);
    jobs_list_fini(&l);
    q.after = "ftjob-none";
    assert_int_equal(jobs_list_read(rig_jobs, &q, &l, &e), ERR_NOT_FOUND);
    jobs_query_default(&q);
    q.state = JOBS_RUNNING;
    assert_int_equal(jobs_list_read(rig_jobs, &q, &l, &e), 0);
    assert_int_equal(l.n, 0);
    jobs_list_fini(&l);
    jobs_query_default(&q);
    q.owner = "somebody";
    assert_int_equal(jobs_list_read(rig_jobs, &q, &l, &e), 0);
    assert_int_equal(l.n, 0);
    jobs_list_fini(&l);
}

static void jobs_are_found_by_what_people_say(void **state)
{
    struct jobs_job job;
    struct err e = {0};
    char beginning[16];
    (void)state;
    const char *id = rig_submit("facts", "ok");
    snprintf(beginning, sizeof beginning, "%.10s", id + 6);
    const char *const said[] = {id, beginning, "facts", "ft:facts"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        assert_int_equal(jobs_find(rig_jobs, said[i], &job, &e), 0);
        assert_string_equal(job.id, id);
        jobs_job_fini(&job);
    }
    assert_int_equal(jobs_find(rig_jobs, "nothing", &job, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "tandem train ls"));
    rig_submit("others", "ok");
    assert_int_equal(jobs_find(rig_jobs, "ftjob-", &job, &e), ERR_INVALID);
    // The newest of a name.
    assert_int_equal(jobs_cancel(rig_jobs, id, &e), 0);
    const char *again = rig_submit("facts", "ok");
    assert_int_equal(jobs_find(rig_jobs, "facts", &job, &e), 0);
    assert_string_equal(job.id, again);
    jobs_job_fini(&job);
}

static void events_come_after_their_cursor(void **state)
{
    json_t *events = NULL;
    struct err e;
    const json_t *data = NULL;
    (void)state;
    const char *id = rig_submit("events", "ok");
    json_t *object = json_pack("{s:i}", "step", 7);
    const struct jobs_event event = {"info", "metrics", "step 7", object};
    for (int i = 0; i < 3; i++)
        assert_int_equal(jobs_event_add(rig_jobs, id, &event, &e), 0);
    json_decref(object);
    assert_int_equal(jobs_events(rig_jobs, id, 0, 100, &events, &e), 0);
    assert_int_equal(json_array_size(events), 4); // "queued" is the first
    int64_t second = json_integer_value(json_object_get(json_array_get(events, 1), "id"));
    data = json_object_get(json_array_get(events, 3), "data");
    assert_int_equal(json_integer_value(json_object_get(data, "step")), 7);
    json_decref(events);
    assert_int_equal(jobs_events(rig_jobs, id, second, 1, &events, &e), 0);
    assert_int_equal(json_array_size(events), 1);
    assert_true(json_integer_value(json_object_get(json_array_get(events, 0), "id")) > second);
    json_decref(events);
    assert_int_equal(jobs_events(rig_jobs, "ftjob-none", 0, 1, &events, &e), ERR_NOT_FOUND);
}

static void progress_waits_for_whole_lines(void **state)
{
    json_t *lines = NULL;
    uint64_t offset = 0;
    struct err e;
    (void)state;
    const char *id = rig_submit("lines", "ok");
    char *path = mem_format("jobs/%s/progress.jsonl", id);
    rig_put(path, "{\"step\":1}\nnot json\n{\"step\":");
    assert_int_equal(jobs_progress(rig_jobs, id, &offset, &lines, &e), 0);
    assert_int_equal(json_array_size(lines), 1);
    json_decref(lines);
    rig_put(path, "{\"step\":1}\nnot json\n{\"step\":2}\n");
    assert_int_equal(jobs_progress(rig_jobs, id, &offset, &lines, &e), 0);
    assert_int_equal(json_array_size(lines), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(lines, 0), "step")), 2);
    json_decref(lines);
    free(path);
}

// ---- room ----------------------------------------------------------------------------------------

struct room {
    int asked, given_back;
    bool busy;
};

static int room_make(void *ctx, const struct jobs_job *job, struct err *e)
{
    struct room *r = ctx;
    r->asked++;
    assert_int_equal(job->state, JOBS_QUEUED);
    return r->busy ? err_set(e, ERR_BUSY, "an answer is being written") : 0;
}

static void room_give_back(void *ctx)
{
    ((struct room *)ctx)->given_back++;
}

static void a_host_makes_room_and_takes_it_back(void **state)
{
    struct room room = {.busy = true};
    const struct jobs_hooks hooks = {room_make, room_give_back, &room};
    struct jobs *host = rig_open(&hooks);
    (void)state;
    const char *id = rig_submit("room", "slow");
    rig_tick(host);
    assert_int_equal(room.asked, 1);
    assert_int_equal(rig_state(id), JOBS_QUEUED);
    room.busy = false;
    rig_tick(host);
    assert_int_equal(room.asked, 2);
    assert_int_equal(rig_state(id), JOBS_RUNNING);
    rig_tick(host);
    assert_int_equal(room.given_back, 1); // when it was busy, nothing ran
    rig_wait(id, JOBS_SUCCEEDED);
    rig_tick(host);
    assert_int_equal(room.given_back, 2);
    rig_tick(host);
    assert_int_equal(room.given_back, 2);
    assert_int_equal(room.asked, 2);
    jobs_close(host);
}

static void others_leave_the_start_to_the_host(void **state)
{
    struct room room = {0};
    const struct jobs_hooks hooks = {room_make, room_give_back, &room};
    int ready[2];
    char byte;
    (void)state;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) { // another process is the host, ticks once, and stays
        struct jobs *host = rig_open(&hooks);
        struct err e;
        jobs_tick(host, NULL, &e);
        ssize_t n = write(ready[1], "r", 1);
        (void)n;
        sleep(60);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    const char *id = rig_submit("hosted", "ok");
    for (int i = 0; i < 5; i++)
        rig_tick(rig_jobs);
    assert_int_equal(rig_state(id), JOBS_QUEUED);
    struct jobs *host = rig_open(&hooks); // this process takes over
    rig_tick(host);
    assert_int_equal(room.asked, 1);
    rig_wait(id, JOBS_SUCCEEDED);
    jobs_close(host);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
}

// ---- damage --------------------------------------------------------------------------------------

static void jobs_outlive_their_database(void **state)
{
    (void)state;
    char id[JOBS_ID_BYTES], waiting[JOBS_ID_BYTES];
    memcpy(id, rig_submit("kept", "ok"), sizeof id);
    rig_wait(id, JOBS_SUCCEEDED);
    memcpy(waiting, rig_submit("waiting", "ok"), sizeof waiting);
    jobs_close(rig_jobs);
    rig_put("jobs/jobs.db",
            "this is no database, whatever its name says; it is long enough though");
    rig_jobs = rig_open(NULL);
    struct jobs_job job = rig_get(id);
    assert_int_equal(job.state, JOBS_SUCCEEDED);
    assert_string_equal(job.name, "kept");
    assert_int_equal(job.examples, 2);
    jobs_job_fini(&job);
    rig_wait(waiting, JOBS_SUCCEEDED);
}

// ---- files ---------------------------------------------------------------------------------------

static int examples_of(const char *text, struct err *e)
{
    struct examples_facts facts;
    char *path = rig_path("examples.jsonl");
    rig_put("examples.jsonl", text);
    int rc = examples_read(path, NULL, NULL, &facts, e);
    free(path);
    return rc;
}

static void bad_lines_are_named(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "no example"},
        {"\n \n", "no example"},
        {RIG_LINE "{\"messages\":", "line 2"},
        {RIG_LINE "\n\nhello\n", "line 4"},
        {"[]\n", "line 1: must be a JSON object"},
        {"{\"prompt\":\"a\"}\n", "line 1: \"messages\""},
        {"{\"messages\":[]}\n", "at least one"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n", "to be learned"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]}\n",
         "to be learned"},
        {"{\"messages\":[{\"role\":\"bot\",\"content\":\"a\"}]}\n", "role \"bot\""},
        {"{\"messages\":[7]}\n", "role \"(none)\""},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":7}]}\n", "message 1 has no text"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\\u0000\"}]}\n", "line 1"},
        {"\xff\xfe\n", "line 1"},
    };
    struct err e;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(examples_of(cases[i].text, &e), ERR_INVALID);
        if (!strstr(e.message, cases[i].words))
            fail_msg("\"%s\" does not say \"%s\"", e.message, cases[i].words);
    }
    assert_int_equal(examples_of(RIG_LINE RIG_LINE "\n  \n", &e), 0);
    struct examples_facts facts;
    assert_int_equal(examples_read(rig_dir, NULL, NULL, &facts, &e), ERR_INVALID);
    assert_int_equal(examples_read("/nowhere/a", NULL, NULL, &facts, &e), ERR_NOT_FOUND);
}

static void a_line_of_ten_megabytes_is_not_kept(void **state)
{
    struct err e;
    size_t n = 10u << 20;
    char *text = mem_alloc(n + sizeof RIG_LINE + 2);
    (void)state;
    memcpy(text, RIG_LINE, sizeof RIG_LINE - 1);
    memset(text + sizeof RIG_LINE - 1, 'a', n);
    assert_int_equal(examples_of(text, &e), ERR_RANGE);
    assert_non_null(strstr(e.message, "line 2: 10485760 bytes, at most 8388608"));
    free(text);
}

// ---- programs ------------------------------------------------------------------------------------

static int captured(const char *script, double timeout_s, struct jobs_capture *c, struct err *e)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    *c = (struct jobs_capture){.argv = argv, .timeout_s = timeout_s, .out = c->out};
    return jobs_capture_run(c, e);
}

static void programs_are_heard_and_bounded(void **state)
{
    struct buf out;
    struct jobs_capture c = {.out = &out};
    struct err e;
    (void)state;
    buf_init(&out, JOBS_CAPTURE_MAX);
    assert_int_equal(captured("echo word; echo wrong >&2; exit 3", 10, &c, &e), 0);
    assert_int_equal(c.exit_code, 3);
    assert_string_equal(out.data, "word\n");
    assert_string_equal(c.said, "wrong");
    int64_t begun = clock_now_ns();
    assert_int_equal(captured("sleep 600 & sleep 600", 0.2, &c, &e), ERR_TIMEOUT);
    assert_true(clock_now_ns() - begun < 60 * NS_PER_S);
    assert_int_equal(captured("kill -9 $$", 10, &c, &e), 0);
    assert_int_equal(c.exit_code, 137);
    buf_clear(&out);
    assert_int_equal(captured("exec cat /dev/zero", 60, &c, &e), ERR_RANGE);
    buf_fini(&out);
    const char *const nothing[] = {"no-such-program-anywhere", NULL};
    c = (struct jobs_capture){.argv = nothing, .timeout_s = 1};
    assert_int_equal(jobs_capture_run(&c, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "no-such-program-anywhere"));
}

// ---- the rate that a job gets -------------------------------------------------------------------------

static double rate_of(const char *model, json_t *options)
{
    json_t *command = rig_command("ok");
    struct jobs_spec s = rig_spec("rated", command);
    struct jobs_job job;
    struct err e = {0};
    s.model = model;
    s.options = options;
    if (jobs_submit(rig_jobs, &s, &job, &e) != 0)
        fail_msg("%s", e.message);
    double rate = json_number_value(json_object_get(job.options, "learning_rate"));
    assert_null(json_object_get(job.options, JOBS_RATE_FACTOR));
    assert_int_equal(jobs_cancel(rig_jobs, job.id, &e), 0);
    jobs_job_fini(&job);
    json_decref(options);
    json_decref(command);
    return rate;
}

static void the_rate_suits_the_width(void **state)
{
    char *narrow = rig_path("narrow.gguf"), *none = rig_path("model.gguf");
    struct buf head;
    struct err e = {0};
    (void)state;
    buf_init(&head, GGUF_MAKE_MAX);
    make_head(&head, 0, 2);
    make_key_text(&head, "general.architecture", "llama");
    make_key32(&head, "llama.embedding_length", 512);
    assert_int_equal(os_file_write(narrow, (const char *)head.data, head.len, 0600, &e), 0);
    buf_fini(&head);
    assert_float_equal(rate_of(narrow, NULL), 1e-3, 1e-9);
    assert_float_equal(rate_of(none, NULL), 5e-4, 1e-9);
    assert_float_equal(rate_of(narrow, json_pack("{s:f}", JOBS_RATE_FACTOR, 0.5)), 5e-4, 1e-9);
    assert_float_equal(rate_of(narrow, json_pack("{s:f}", "learning_rate", 0.01)), 0.01, 1e-9);
    free(narrow);
    free(none);
}

// ---- the fastest of several machines ---------------------------------------------------------------

// Plays ssh: the host is the word before the last.
static const char fake_ssh[] =
    "#!/bin/sh\n"
    "for word; do host=$last last=$word; done\n"
    "case $host in\n"
    "gone) echo 'no route' >&2; exit 255 ;;\n"
    "small) echo 'tandem-trainer: 3.0 GB are free' >&2; exit 1 ;;\n"
    "odd) echo '{\"gflops\": \"many\"}' ;;\n"
    "fast*) case $last in *\"'/models/there.gguf'\"*) ;; *) exit 3 ;; esac\n"
    "    echo '{\"gflops\": 900.5, \"device\": \"CUDA0\", \"memory_bytes\": 1}' ;;\n"
    "*) echo '{\"gflops\": 80, \"device\": \"CPU\", \"memory_bytes\": 1}' ;;\n"
    "esac\n";

static int submit_to(const char *hosts, struct jobs_job *job, struct err *e)
{
    json_t *command = rig_command("ok");
    json_t *executor = json_pack("{s:s,s:s,s:s,s:s}", "kind", "fastest", "hosts", hosts, "trainer",
                                 "/opt/tandem-trainer", "model", "/models/there.gguf");
    struct jobs_spec s = rig_spec("chosen", command);
    s.executor = executor;
    int rc = jobs_submit(rig_jobs, &s, job, e);
    json_decref(command);
    json_decref(executor);
    return rc;
}

static void the_fastest_machine_is_chosen(void **state)
{
    char *old = mem_strdup(getenv("PATH")), *path = mem_format("%s:%s", rig_dir, old);
    char *ssh = rig_path("ssh");
    struct jobs_job job;
    struct err e = {0};
    json_t *events = NULL;
    (void)state;
    rig_put("ssh", fake_ssh);
    assert_int_equal(chmod(ssh, 0700), 0);
    setenv("PATH", path, 1);
    assert_int_equal(submit_to("gone,slow,fast1,small,odd", &job, &e), 0);
    assert_string_equal(job.executor, "ssh");
    assert_string_equal(json_string_value(json_object_get(job.executor_options, "hosts")), "fast1");
    assert_int_equal(jobs_events(rig_jobs, job.id, 0, 10, &events, &e), 0);
    const char *told = json_string_value(json_object_get(json_array_get(events, 0), "message"));
    for (size_t i = 0; i < 5; i++)
        if (!strstr(told, (const char *[]){"fast1 is the fastest", "slow 80 GFLOP/s", "no route",
                                           "3.0 GB are free", "names no speed"}[i]))
            fail_msg("%s", told);
    json_decref(events);
    assert_int_equal(jobs_cancel(rig_jobs, job.id, &e), 0);
    jobs_job_fini(&job);
    assert_int_equal(submit_to("gone,small", &job, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "no route"));
    assert_int_equal(submit_to("", &job, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "hosts=NAME"));
    setenv("PATH", old, 1);
    free(ssh);
    free(path);
    free(old);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bad_jobs_are_refused, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_name_is_trained_once_at_a_time, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(the_data_is_the_jobs_own, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(lists_have_cursors, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(jobs_are_found_by_what_people_say, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(events_come_after_their_cursor, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(progress_waits_for_whole_lines, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_host_makes_room_and_takes_it_back, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(others_leave_the_start_to_the_host, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(jobs_outlive_their_database, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(the_rate_suits_the_width, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(the_fastest_machine_is_chosen, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(bad_lines_are_named, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_line_of_ten_megabytes_is_not_kept, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(programs_are_heard_and_bounded, rig_setup, rig_teardown),
    };
    if (rig_begin(argc, argv) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
