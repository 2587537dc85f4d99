// A new job: checked, written to its folder, queued.
#include "base/buf.h"
#include "base/clock.h"
#include "base/examples.h"
#include "base/json.h"
#include "jobs/capture.h"
#include "jobs/choose.h"
#include "jobs/executor.h"
#include "jobs/jobs_impl.h"
#include "models/adapters.h"
#include "models/gguf.h"
#include "os/os.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHECK_S 60.0
#define ID_RANDOM_BYTES 12

void jobs_spec_default(struct jobs_spec *s)
{
    *s = (struct jobs_spec){.owner = ""};
}

// ---- what is asked for ---------------------------------------------------------------------------

static int command_check(const json_t *command, struct err *e)
{
    size_t i;
    const json_t *word;
    if (!command || json_is_null(command))
        return 0;
    if (!json_is_array(command) || json_array_size(command) == 0 ||
        json_array_size(command) > JOBS_WORDS_MAX - 2)
        return err_set(e, ERR_INVALID, "the command must be a list of 1 to %d words",
                       JOBS_WORDS_MAX - 2);
    json_array_foreach(command, i, word)
    {
        if (!json_is_string(word))
            return err_set(e, ERR_INVALID, "word %zu of the command is no text", i + 1);
    }
    return 0;
}

static int data_check(const char *path, struct examples_facts *facts, struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0 && st.st_size > (off_t)JOBS_DATA_MAX)
        return err_set(e, ERR_RANGE, "%s has %lld bytes, at most %llu are taken", path,
                       (long long)st.st_size, JOBS_DATA_MAX);
    return examples_read(path, NULL, NULL, facts, e);
}

static int published_check(const char *name, struct err *e)
{
    struct adapters_entry *there = mem_alloc(sizeof *there);
    struct err aside;
    int rc = adapters_find(name, there, &aside);
    free(there);
    return rc != 0
               ? 0
               : err_set(e, ERR_BUSY,
                         "there is an adapter \"%s\"; choose another name, or say that it may be "
                         "replaced (--replace)",
                         name);
}

static int spec_check(const struct jobs_spec *s, struct examples_facts *facts, struct err *e)
{
    const struct jobs_executor *executor = NULL;
    struct examples_facts eval;
    if (!s->name || !s->model || !s->data)
        return err_set(e, ERR_INVALID, "a job needs a name, a model and data");
    int rc = adapters_name_check(s->name, e);
    if (rc == 0 && !s->replace)
        rc = published_check(s->name, e);
    if (rc == 0 && strlen(s->model) >= JOBS_PATH_BYTES)
        rc = err_set(e, ERR_RANGE, "the model's path is longer than %d bytes", JOBS_PATH_BYTES - 1);
    if (rc == 0 && s->options && !json_is_object(s->options))
        rc = err_set(e, ERR_INVALID, "the options must be a JSON object");
    if (rc == 0)
        rc = command_check(s->command, e);
    if (rc == 0)
        rc = jobs_executor_find(s->executor, &executor, e);
    if (rc == 0)
        rc = executor->check(s->executor, e);
    if (rc == 0)
        rc = data_check(s->data, facts, e);
    if (rc == 0 && s->eval_data)
        rc = data_check(s->eval_data, &eval, e);
    return rc;
}

// ---- the folder ----------------------------------------------------------------------------------

static json_t *object_copy(const json_t *o)
{
    return o && !json_is_null(o) ? json_deep_copy(o) : json_object();
}

// A rate that suits a base of width 2048; wider ones bear less, as the root of the width. With it 60 steps teach
// SmolLM2-135M (width 576) eighty chats; with a fifth of it they do not.
#define RATE 5e-4
#define RATE_WIDTH 2048.0

// Kept with two digits, so that a job says a number that people can repeat.
static void rate_fill(struct jobs_job *job)
{
    struct models_gguf *head = mem_alloc(sizeof *head);
    const json_t *factor = json_object_get(job->options, JOBS_RATE_FACTOR);
    double rate = RATE * (factor ? json_number_value(factor) : 1);
    char text[16];
    struct err aside;
    if (!json_object_get(job->options, "learning_rate")) {
        int rc = models_gguf_read(job->model, head, &aside);
        if (rc == 0 && head->n_embd > 0)
            rate *= sqrt(RATE_WIDTH / head->n_embd);
        if (rc == 0)
            models_gguf_fini(head);
        snprintf(text, sizeof text, "%.1e", rate < 1 ? rate : 1);
        json_put(job->options, "learning_rate", json_real(strtod(text, NULL)));
    }
    json_object_del(job->options, JOBS_RATE_FACTOR);
    free(head);
}

static void job_fill(struct jobs *j, const struct jobs_spec *s, const struct examples_facts *facts,
                     struct jobs_job *job)
{
    uint8_t bytes[ID_RANDOM_BYTES];
    const char *kind = json_string_or(s->executor, "kind", "local");
    memset(job, 0, sizeof *job);
    os_random(bytes, sizeof bytes);
    snprintf(job->id, sizeof job->id, "ftjob-");
    hex_encode(bytes, sizeof bytes, job->id + strlen(job->id));
    snprintf(job->name, sizeof job->name, "%s", s->name);
    // The runner may be started from anywhere.
    char *model = realpath(s->model, NULL);
    snprintf(job->model, sizeof job->model, "%.*s", (int)sizeof job->model - 1,
             model ? model : s->model);
    free(model);
    snprintf(job->owner, sizeof job->owner, "%s", s->owner ? s->owner : "");
    snprintf(job->executor, sizeof job->executor, "%s", kind);
    snprintf(job->folder, sizeof job->folder, "%.*s/%s",
             (int)(sizeof job->folder - sizeof job->id - 2), j->dir, job->id);
    job->state = JOBS_QUEUED;
    job->created_unix_s = clock_unix_s();
    job->examples = facts->n;
    job->data_bytes = facts->bytes;
    job->limit_time_s = s->limit_time_s;
    job->limit_memory_bytes = s->limit_memory_bytes;
    job->disk_reserve_bytes = s->disk_reserve_bytes > 0 ? s->disk_reserve_bytes : JOBS_DISK_RESERVE;
    job->options = object_copy(s->options);
    rate_fill(job);
    job->executor_options = object_copy(s->executor);
    job->meta = object_copy(s->meta);
    job->command = s->command ? json_deep_copy(s->command) : json_null();
    job->result = json_null();
}

static int job_json_write(const struct jobs_job *job, bool has_eval, struct err *e)
{
    json_t *o = json_deep_copy(job->options);
    char *path = mem_format("%s/job.json", job->folder);
    char *data = mem_format("%s/data.jsonl", job->folder);
    char *eval = mem_format("%s/eval.jsonl", job->folder);
    json_put(o, "model", json_string(job->model));
    json_put(o, "data", json_string(data));
    if (has_eval)
        json_put(o, "eval_data", json_string(eval));
    if (job->limit_memory_bytes > 0 && !json_object_get(o, "memory_bytes"))
        json_put(o, "memory_bytes", json_integer((json_int_t)job->limit_memory_bytes));
    int rc = jobs_json_write(path, o, e);
    json_decref(o);
    free(path);
    free(data);
    free(eval);
    return rc;
}

static int disk_check(const struct jobs *j, const struct jobs_job *job, uint64_t need,
                      struct err *e)
{
    uint64_t there = 0;
    int rc = jobs_disk_free(j->dir, &there, e);
    if (rc == 0 && there < need + job->disk_reserve_bytes)
        rc = err_set(e, ERR_RANGE,
                     "the job needs %.1f MB on the disk of %s, where %.1f MB are free and %.1f MB "
                     "are to stay free; make room, or set TANDEM_STATE to another disk",
                     (double)need / 1e6, j->dir, (double)there / 1e6,
                     (double)job->disk_reserve_bytes / 1e6);
    return rc;
}

static int files_put(const struct jobs_spec *s, const struct jobs_job *job, struct err *e)
{
    char *data = mem_format("%s/data.jsonl", job->folder);
    char *eval = mem_format("%s/eval.jsonl", job->folder);
    int rc = os_mkdirs(job->folder, e);
    if (rc == 0)
        rc = jobs_file_copy(s->data, data, e);
    if (rc == 0 && s->eval_data)
        rc = jobs_file_copy(s->eval_data, eval, e);
    if (rc == 0)
        rc = job_json_write(job, s->eval_data != NULL, e);
    if (rc == 0)
        rc = jobs_record_write(job, e);
    free(data);
    free(eval);
    return rc;
}

// ---- the trainer's word --------------------------------------------------------------------------

// The native trainer knows its options and which models it can train. It tells what the job will need as a
// JSON object.
static int trainer_ask(const struct jobs_job *job, json_t **facts, struct err *e)
{
    char dir[JOBS_PATH_BYTES], program[JOBS_PATH_BYTES + 32];
    struct buf out;
    int rc = os_self_dir(dir, sizeof dir, e);
    if (rc != 0)
        return rc;
    snprintf(program, sizeof program, "%s/tandem-trainer", dir);
    const char *const argv[] = {program, "--check", job->folder,
                                strcmp(job->executor, "local") == 0 ? NULL : "elsewhere", NULL};
    struct jobs_capture c = {.argv = argv, .timeout_s = CHECK_S, .out = &out};
    buf_init(&out, JOBS_CAPTURE_MAX);
    rc = jobs_capture_run(&c, e);
    if (rc == ERR_NOT_FOUND)
        rc = err_set(e, ERR_NOT_FOUND, "%s is not there; build it, or put it beside this program",
                     program);
    if (rc == 0 && c.exit_code != 0)
        rc = err_set(e, ERR_INVALID, "%s",
                     strncmp(c.said, "tandem-trainer: ", 16) == 0 ? c.said + 16 : c.said);
    if (rc == 0 && !(*facts = json_parse(out.data, out.len, e)))
        rc = e->code;
    buf_fini(&out);
    return rc;
}

static uint64_t fact(const json_t *facts, const char *name)
{
    json_int_t v = json_integer_value(json_object_get(facts, name));
    return v > 0 ? (uint64_t)v : 0;
}

// Here: the trainer of another machine may be another one.
static int trainer_check(struct jobs *j, const struct jobs_job *job, struct err *e)
{
    json_t *facts = NULL;
    if (!json_is_null(job->command))
        return 0;
    int rc = trainer_ask(job, &facts, e);
    // Two checkpoints are kept while a third is written.
    if (rc == 0)
        rc = disk_check(j, job, 3 * fact(facts, "checkpoint_bytes") + fact(facts, "adapter_bytes"),
                        e);
    json_decref(facts);
    return rc;
}

// ---- queueing ------------------------------------------------------------------------------------

static int name_free(struct jobs *j, const char *name, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db, "SELECT id FROM jobs WHERE name=?1 AND state<3", &s, e);
    if (rc != 0)
        return rc;
    db_bind_text(s, 1, name);
    rc = db_step(s, e);
    if (rc == 1)
        rc = err_set(e, ERR_BUSY, "job %s trains \"%s\" already; choose another name, or cancel it",
                     db_column_text(s, 0), name);
    db_finish(s);
    return rc;
}

static int job_queue(struct jobs *j, const struct jobs_job *job, const char *why, struct err *e)
{
    char *text = mem_format("queued: %" PRIu64 " examples%s%s", job->examples, why ? "; " : "",
                            why ? why : "");
    struct jobs_event event = {"info", "state", text, NULL};
    int rc = db_begin(j->db, e);
    if (rc == 0) {
        rc = name_free(j, job->name, e);
        if (rc == 0)
            rc = jobs_row_insert(j, job, e);
        if (rc == 0)
            rc = jobs_event_insert(j, job->id, &event, e);
        rc = db_end(j->db, rc, e);
    }
    free(text);
    return rc;
}

static int chosen_submit(struct jobs *j, const struct jobs_spec *spec, const char *why,
                         struct jobs_job *out, struct err *e)
{
    struct examples_facts facts;
    struct err aside;
    int rc = spec_check(spec, &facts, e);
    if (rc != 0)
        return rc;
    job_fill(j, spec, &facts, out);
    pthread_mutex_lock(&j->lock);
    rc = name_free(j, out->name, e);
    pthread_mutex_unlock(&j->lock);
    if (rc == 0)
        rc = disk_check(j, out, out->data_bytes, e);
    if (rc == 0)
        rc = files_put(spec, out, e);
    if (rc == 0)
        rc = trainer_check(j, out, e);
    pthread_mutex_lock(&j->lock);
    if (rc == 0)
        rc = job_queue(j, out, why, e);
    pthread_mutex_unlock(&j->lock);
    if (rc == 0)
        return 0;
    jobs_folder_remove(out->folder, &aside);
    jobs_job_fini(out);
    return rc;
}

int jobs_submit(struct jobs *j, const struct jobs_spec *spec, struct jobs_job *out, struct err *e)
{
    const char *kind = json_string_or(spec->executor, "kind", "local");
    struct jobs_question question = {spec->executor, spec->model,
                                     json_is_true(json_object_get(spec->options, "gpu"))};
    struct jobs_spec own = *spec;
    json_t *chosen = NULL;
    char *why = NULL;
    int rc = 0;
    if (strcmp(kind, "fastest") == 0) {
        rc = spec->model ? jobs_choose(&question, &chosen, &why, e)
                         : err_set(e, ERR_INVALID, "a job needs a name, a model and data");
        own.executor = chosen;
    }
    if (rc == 0)
        rc = chosen_submit(j, &own, why, out, e);
    json_decref(chosen);
    free(why);
    return rc;
}
