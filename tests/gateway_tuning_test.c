// Files and fine-tuning jobs over HTTP: forms of every kind, pages, streams of events, and who may.
#include "gateway_fake.h"

#include "jobs/jobs.h"
#include "scratch.h"

#include <sys/stat.h>

#define FORM "Content-Type: multipart/form-data; boundary=xx\r\n"
#define PURPOSE(p) "--xx\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n" p "\r\n"
#define FILE_PART(name, data)                                                                      \
    "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" name "\"\r\n\r\n" data    \
    "\r\n"
#define END "--xx--\r\n"
#define LINE                                                                                       \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"    \
    "\"b\"}]}\n"

static json_t *ask(struct stage *s, const char *method, const char *path, const char *body,
                   int status)
{
    struct web w = web_open(s->port, method, path, NULL, body);

    return finish_json(&w, status);
}

static char *upload(struct stage *s, const char *name)
{
    char *body = mem_format(PURPOSE("fine-tune") FILE_PART("%s", LINE) END, name);
    struct web w = web_open(s->port, "POST", "/v1/files", FORM, body);
    json_t *v = finish_json(&w, 200);
    char *id = mem_strdup(text_at(v, "id"));

    free(body);
    json_decref(v);
    return id;
}

// ---- files ----------------------------------------------------------------------------------------------

static void test_forms(void **state)
{
    static const struct {
        const char *head, *body;
        int status;
        const char *told, *param;
    } bad[] = {
        {"Content-Type: application/json\r\n", "{}", 415, "multipart/form-data", NULL},
        {NULL, "x", 415, "multipart/form-data", NULL},
        {FORM, "", 400, "\"file\" is missing", "file"},
        {FORM, PURPOSE("fine-tune") END, 400, "\"file\" is missing", "file"},
        {FORM, FILE_PART("a", "x") END, 400, "must be fine-tune", "purpose"},
        {FORM, PURPOSE("assistants") FILE_PART("a", "x") END, 400, "must be fine-tune", "purpose"},
        {FORM, PURPOSE("fine-tune-and-much-more-than-that") FILE_PART("a", "x") END, 400,
         "must be fine-tune", "purpose"},
        {FORM, PURPOSE("fine-tune") FILE_PART("a", "x") FILE_PART("b", "y") END, 400, "one file",
         "file"},
    };
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct web w = web_open(s.port, "POST", "/v1/files", bad[i].head, bad[i].body);
        json_t *v = finish_json(&w, bad[i].status);

        print_message("%zu\n", i);
        assert_has(text_at(v, "error.message"), bad[i].told);
        assert_string_equal(text_at(v, "error.param"), bad[i].param ? bad[i].param : "(none)");
        json_decref(v);
    }
    json_t *v = ask(&s, "GET", "/v1/files", NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 0); // nothing of them was kept
    json_decref(v);
    stage_stop(&s);
}

static void test_files(void **state)
{
    static const char *const names[] = {"a.jsonl", "../../etc/passwd", "b\xff\xfe.jsonl"};
    static const char *const shown[] = {"a.jsonl", "passwd", "b__.jsonl"};
    struct stage s;
    struct stat st;
    char *ids[3], *path;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    for (size_t i = 0; i < 3; i++) {
        ids[i] = upload(&s, names[i]);
        path = mem_format("/v1/files/%s", ids[i]);
        json_t *v = ask(&s, "GET", path, NULL, 200);
        assert_string_equal(text_at(v, "filename"), shown[i]);
        assert_string_equal(text_at(v, "object"), "file");
        assert_int_equal(json_integer_value(at(v, "bytes")), strlen(LINE));
        json_decref(v);
        free(path);
    }
    path = mem_format("%s/files/%s", scratch_home, ids[0]);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    free(path);
    path = mem_format("/v1/files/%s/content", ids[1]);
    struct web_answer a = web_get(s.port, path);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, LINE);
    web_answer_fini(&a);
    free(path);
    json_t *v = ask(&s, "GET", "/v1/files?limit=2", NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 2);
    assert_true(json_is_true(at(v, "has_more")));
    path = mem_format("/v1/files?after=%s", text_at(v, "last_id"));
    json_decref(v);
    v = ask(&s, "GET", path, NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 1);
    assert_false(json_is_true(at(v, "has_more")));
    json_decref(v);
    free(path);
    json_decref(ask(&s, "GET", "/v1/files?limit=0", NULL, 400));
    json_decref(ask(&s, "GET", "/v1/files/file-..%2f..%2fx", NULL, 404));
    v = ask(&s, "GET", "/v1/files?purpose=other", NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 0);
    json_decref(v);
    for (size_t i = 0; i < 3; i++) {
        path = mem_format("/v1/files/%s", ids[i]);
        v = ask(&s, "DELETE", path, NULL, 200);
        assert_true(json_is_true(at(v, "deleted")));
        json_decref(v);
        json_decref(ask(&s, "DELETE", path, NULL, 404));
        free(path);
        free(ids[i]);
    }
    stage_stop(&s);
}

// A client that leaves in the middle of an upload leaves nothing.
static void test_upload_cut(void **state)
{
    struct stage s;
    struct web w;
    static const char part[] = PURPOSE("fine-tune") "--xx\r\nContent-Disposition: form-data; "
                                                    "name=\"file\"; filename=\"a\"\r\n\r\nabc";
    char *head = mem_format("POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n" FORM
                            "Content-Length: 1000000\r\n\r\n%s",
                            part);

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    w = (struct web){.fd = web_dial(s.port)};
    buf_init(&w.in, 1 << 20);
    web_write(&w, head, strlen(head));
    web_close(&w);
    free(head);
    stage_stop(&s);
    head = mem_format("%s/files", scratch_home);
    assert_true(rmdir(head) == 0 || errno == ENOENT); // it is empty
    free(head);
}

// ---- jobs -----------------------------------------------------------------------------------------------

static void test_refused_jobs(void **state)
{
    static const struct {
        const char *body; // %s: the file
        int status;
        const char *told, *param;
    } bad[] = {
        {"{", 400, "not valid JSON", "(none)"},
        {"[]", 400, "JSON object", "(none)"},
        {"{\"training_file\":\"%s\"}", 400, "'model' is missing", "model"},
        {"{\"model\":\"stem\"}", 400, "'training_file' is missing", "training_file"},
        {"{\"model\":\"stem\",\"training_file\":\"file-1\"}", 400, "no file", "training_file"},
        {"{\"model\":\"gpt-9\",\"training_file\":\"%s\"}", 400, "gpt-9", "model"},
        {"{\"model\":\"/etc/passwd\",\"training_file\":\"%s\"}", 400, "no model", "model"},
        {"{\"model\":\"ft:x\",\"training_file\":\"%s\"}", 400, "tuned already", "model"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"validation_file\":\"file-2\"}", 400,
         "no file", "validation_file"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"method\":{\"type\":\"dpo\"}}", 400, "dpo",
         "method"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"hyperparameters\":{\"batch_size\":-1}}",
         400, "batch_size", "hyperparameters"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"hyperparameters\":"
         "{\"learning_rate_multiplier\":\"fast\"}}",
         400, "learning_rate_multiplier", "hyperparameters"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"seed\":-1}", 400, "seed", "seed"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"suffix\":\"a/b\"}", 400, "a/b", "suffix"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"integrations\":[{}]}", 400, "integrations",
         "integrations"},
        {"{\"model\":\"stem\",\"training_file\":\"%s\",\"tandem\":{\"data\":\"/x\"}}", 400,
         "not for clients", "tandem"},
    };
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    char *file = upload(&s, "a.jsonl");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *mark = strstr(bad[i].body, "%s");
        char *body =
            mark ? mem_format("%.*s%s%s", (int)(mark - bad[i].body), bad[i].body, file, mark + 2)
                 : mem_strdup(bad[i].body);
        print_message("%s\n", body);
        json_t *v = ask(&s, "POST", "/v1/fine_tuning/jobs", body, bad[i].status);
        assert_has(text_at(v, "error.message"), bad[i].told);
        assert_string_equal(text_at(v, "error.param"), bad[i].param);
        json_decref(v);
        free(body);
    }
    json_t *v = ask(&s, "GET", "/v1/fine_tuning/jobs", NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 0);
    json_decref(v);
    free(file);
    stage_stop(&s);
}

// Queued by hand, for the trainer is no part of this.
static void job_queue(const char *name, char id[JOBS_ID_BYTES])
{
    char *data = mem_format("%s/data.jsonl", scratch_home);
    json_t *command = json_pack("[s]", "/bin/true");
    struct jobs_options o;
    struct jobs_spec spec;
    struct jobs_job job;
    struct jobs *jobs = NULL;
    struct err e = {0};
    FILE *f = fopen(data, "w");

    assert_non_null(f);
    fputs(LINE, f);
    fclose(f);
    jobs_options_default(&o);
    jobs_spec_default(&spec);
    spec.name = name;
    spec.model = "/models/stem.gguf";
    spec.data = data;
    spec.command = command;
    if (jobs_open(&o, &jobs, &e) != 0 || jobs_submit(jobs, &spec, &job, &e) != 0)
        fail_msg("%s", e.message);
    memcpy(id, job.id, JOBS_ID_BYTES);
    jobs_job_fini(&job);
    jobs_close(jobs);
    json_decref(command);
    free(data);
}

static void test_jobs(void **state)
{
    char ids[3][JOBS_ID_BYTES], *path;
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    for (size_t i = 0; i < 3; i++)
        job_queue((const char *[]){"one", "two", "three"}[i], ids[i]);
    json_t *v = ask(&s, "GET", "/v1/fine_tuning/jobs?limit=2", NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 2);
    assert_true(json_is_true(at(v, "has_more")));
    assert_string_equal(text_at(v, "data.0.id"), ids[2]);
    json_decref(v);
    path = mem_format("/v1/fine_tuning/jobs?limit=2&after=%s", ids[1]);
    v = ask(&s, "GET", path, NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 1);
    assert_string_equal(text_at(v, "data.0.id"), ids[0]);
    assert_false(json_is_true(at(v, "has_more")));
    json_decref(v);
    free(path);
    path = mem_format("/v1/fine_tuning/jobs/%s", ids[0]);
    v = ask(&s, "GET", path, NULL, 200);
    assert_string_equal(text_at(v, "status"), "queued");
    assert_string_equal(text_at(v, "object"), "fine_tuning.job");
    assert_true(json_is_null(at(v, "fine_tuned_model")));
    assert_true(json_is_null(at(v, "error")));
    json_decref(v);
    free(path);
    path = mem_format("/v1/fine_tuning/jobs/%s/events", ids[0]);
    v = ask(&s, "GET", path, NULL, 200);
    assert_string_equal(text_at(v, "data.0.object"), "fine_tuning.job.event");
    assert_has(text_at(v, "data.0.message"), "queued");
    assert_true(json_is_object(at(v, "data.0.data")));
    json_decref(v);
    free(path);
    path = mem_format("/v1/fine_tuning/jobs/%s/checkpoints", ids[0]);
    v = ask(&s, "GET", path, NULL, 200);
    assert_int_equal(json_array_size(at(v, "data")), 0);
    json_decref(v);
    free(path);
    json_decref(ask(&s, "GET", "/v1/fine_tuning/jobs/ftjob-x", NULL, 404));
    json_decref(ask(&s, "GET", "/v1/fine_tuning/jobs/ftjob-x/events", NULL, 404));
    json_decref(ask(&s, "GET", "/v1/fine_tuning/jobs/ftjob-x/checkpoints", NULL, 404));
    json_decref(ask(&s, "GET", "/v1/fine_tuning/jobs/ftjob-x/other", NULL, 404));
    json_decref(ask(&s, "POST", "/v1/fine_tuning/jobs/ftjob-x/pause", "", 404));
    json_decref(ask(&s, "POST", "/v1/fine_tuning/jobs/ftjob-x/cancel", "", 404));
    json_decref(ask(&s, "GET", "/v1/fine_tuning/jobs?limit=x", NULL, 400));
    json_decref(ask(&s, "GET", "/v1/fine_tuning/jobs?limit=101", NULL, 400));
    stage_stop(&s);
}

static void test_stream(void **state)
{
    char id[JOBS_ID_BYTES], *path, *cancel;
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    job_queue("streamed", id);
    path = mem_format("/v1/fine_tuning/jobs/%s/events?stream=true", id);
    cancel = mem_format("/v1/fine_tuning/jobs/%s/cancel", id);
    struct web w = web_open(s.port, "GET", path, NULL, NULL);
    struct web gone = web_open(s.port, "GET", path, NULL, NULL);
    web_until(&w, "queued: 1 example");
    assert_has((char *)w.in.data, "text/event-stream");
    web_until(&gone, "queued: 1 example");
    web_close(&gone);
    json_t *v = ask(&s, "POST", cancel, "", 200);
    assert_string_equal(text_at(v, "status"), "cancelled");
    json_decref(v);
    struct web_answer a = web_finish(&w);
    assert_int_equal(a.status, 200);
    assert_false(a.cut);
    assert_has(a.body, "data: {");
    assert_has(a.body, "cancelled");
    assert_has(a.body, "\n\ndata: [DONE]\n\n");
    web_answer_fini(&a);
    json_decref(ask(&s, "POST", cancel, "", 400)); // it has ended
    free(cancel);
    free(path);
    stage_stop(&s);
}

// The server ends although a stream is open, and the stream with it.
static void test_stop(void **state)
{
    char id[JOBS_ID_BYTES], *path;
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    job_queue("open", id);
    path = mem_format("/v1/fine_tuning/jobs/%s/events?stream=true", id);
    struct web w = web_open(s.port, "GET", path, NULL, NULL);
    web_until(&w, "queued: 1 example");
    stage_stop(&s);
    struct web_answer a = web_finish(&w);
    assert_null(strstr(a.body, "[DONE]")); // the job has not
    web_answer_fini(&a);
    free(path);
}

static void test_scopes(void **state)
{
    static const char *const paths[] = {"/v1/files", "/v1/fine_tuning/jobs"};
    char keys[] = "/tmp/tandem-tuning-keys-XXXXXX";
    struct stage s;
    int fd = mkstemp(keys);
    static const char text[] = "user inference k1\nboss admin k2\n";

    (void)state;
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    stage_init(&s);
    s.options.api_key_file = keys;
    stage_start(&s, false);
    for (size_t i = 0; i < 2; i++) {
        struct web w = web_open(s.port, "GET", paths[i], NULL, NULL);
        json_decref(finish_json(&w, 401));
        w = web_open(s.port, "GET", paths[i], "Authorization: Bearer k1\r\n", NULL);
        json_decref(finish_json(&w, 403));
        w = web_open(s.port, "GET", paths[i], "Authorization: Bearer k2\r\n", NULL);
        json_decref(finish_json(&w, 200));
    }
    struct web w = web_open(s.port, "POST", "/v1/files", "Authorization: Bearer k1\r\n" FORM,
                            PURPOSE("fine-tune") FILE_PART("a", "x") END);
    json_decref(finish_json(&w, 403));
    stage_stop(&s);
    unlink(keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_forms),        SCRATCH_TEST(test_files),  SCRATCH_TEST(test_upload_cut),
        SCRATCH_TEST(test_refused_jobs), SCRATCH_TEST(test_jobs),   SCRATCH_TEST(test_stream),
        SCRATCH_TEST(test_stop),         SCRATCH_TEST(test_scopes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
