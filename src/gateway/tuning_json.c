// Jobs, events and checkpoints in OpenAI's shapes.
#include "gateway/tuning.h"

#include "base/json.h"
#include "models/names.h"

#include <stdio.h>
#include <string.h>

static json_t *kept(const struct jobs_job *job, const char *member)
{
    return json_incref(json_object_get(job->meta, member));
}

// A job that is being cancelled still runs; it says so itself when it has ended.
static const char *status_word(enum jobs_state state)
{
    return state == JOBS_CANCELLING ? "running" : jobs_state_name(state);
}

static json_t *hyperparameters_json(const struct jobs_job *job)
{
    static const struct {
        const char *name, *option;
    } rows[] = {{"n_epochs", "epochs"}, {"batch_size", "batch"}};
    json_t *o = json_object(), *given = json_object_get(job->meta, "hyperparameters"), *m;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *v = json_object_get(job->options, rows[i].option);

        json_put(o, rows[i].name, v ? json_incref(v) : json_string("auto"));
    }
    m = json_object_get(given, "learning_rate_multiplier");
    json_put(o, "learning_rate_multiplier", m ? json_incref(m) : json_string("auto"));
    return o;
}

static json_t *error_json(const struct jobs_job *job)
{
    json_t *o;

    if (job->error.code[0] == '\0')
        return json_null();
    o = json_object();
    json_put(o, "code", json_string(job->error.code));
    json_put(o, "message", json_string(job->error.message));
    json_put(o, "param", json_null());
    return o;
}

static json_t *method_json(const struct jobs_job *job)
{
    json_t *o = json_object(), *inner = json_object();

    json_put(inner, "hyperparameters", hyperparameters_json(job));
    json_put(o, "type", json_string("supervised"));
    json_put(o, "supervised", inner);
    return o;
}

static json_t *tuned_name(const struct jobs_job *job)
{
    char name[JOBS_NAME_BYTES + 4];

    if (job->state != JOBS_SUCCEEDED)
        return json_null();
    snprintf(name, sizeof(name), "ft:%s", job->name);
    return json_string(name);
}

json_t *tuning_job_json(const struct jobs_job *job)
{
    json_t *o = json_object(), *model = kept(job, "model");
    bool ended = jobs_state_final(job->state);
    json_t *tokens = json_object_get(job->result, "trained_tokens");

    json_put(o, "id", json_string(job->id));
    json_put(o, "object", json_string("fine_tuning.job"));
    json_put(o, "created_at", json_integer(job->created_unix_s));
    json_put(o, "finished_at", ended ? json_integer(job->ended_unix_s) : json_null());
    json_put(o, "model", model ? model : json_string(models_base_name(job->model)));
    json_put(o, "fine_tuned_model", tuned_name(job));
    json_put(o, "organization_id", json_string("tandem"));
    json_put(o, "status", json_string(status_word(job->state)));
    json_put(o, "training_file", kept(job, "training_file"));
    json_put(o, "validation_file", kept(job, "validation_file"));
    json_put(o, "result_files", json_array());
    json_put(o, "trained_tokens", tokens ? json_incref(tokens) : json_null());
    json_put(o, "hyperparameters", hyperparameters_json(job));
    json_put(o, "method", method_json(job));
    json_put(o, "seed", json_incref(json_object_get(job->options, "seed")));
    json_put(o, "error", error_json(job));
    json_put(o, "estimated_finish", json_null());
    json_put(o, "integrations", json_array());
    json_put(o, "metadata", kept(job, "metadata"));
    json_put(o, "user_provided_suffix", kept(job, "suffix"));
    return o;
}

json_t *tuning_event_json(const json_t *event)
{
    json_t *o = json_object(), *data = json_object_get(event, "data");
    const char *type = json_string_value(json_object_get(event, "type"));
    char id[40];

    snprintf(id, sizeof(id), "ftevent-%lld",
             (long long)json_integer_value(json_object_get(event, "id")));
    json_put(o, "id", json_string(id));
    json_put(o, "object", json_string("fine_tuning.job.event"));
    json_put(o, "created_at", json_incref(json_object_get(event, "unix_s")));
    json_put(o, "level", json_incref(json_object_get(event, "level")));
    json_put(o, "message", json_incref(json_object_get(event, "message")));
    // OpenAI knows two types; a change of state is a message there.
    json_put(o, "type", json_string(type && strcmp(type, "metrics") == 0 ? "metrics" : "message"));
    json_put(o, "data", json_is_object(data) ? json_incref(data) : json_object());
    return o;
}

json_t *tuning_checkpoint_json(const struct jobs_job *job, const json_t *checkpoint)
{
    json_t *o = json_object(), *metrics = json_object();
    long long step = (long long)json_integer_value(json_object_get(checkpoint, "step"));
    char id[JOBS_ID_BYTES + 24];

    snprintf(id, sizeof(id), "ftckpt-%s-%lld", job->id + strcspn(job->id, "-") + 1, step);
    json_put(metrics, "step", json_integer(step));
    json_put(metrics, "train_loss", json_incref(json_object_get(checkpoint, "loss")));
    json_put(metrics, "valid_loss", json_incref(json_object_get(checkpoint, "eval_loss")));
    json_put(o, "id", json_string(id));
    json_put(o, "object", json_string("fine_tuning.job.checkpoint"));
    json_put(o, "created_at", json_incref(json_object_get(checkpoint, "unix_s")));
    json_put(o, "fine_tuning_job_id", json_string(job->id));
    // Only the end is published; a checkpoint is what a job goes on from.
    json_put(o, "fine_tuned_model_checkpoint", tuned_name(job));
    json_put(o, "step_number", json_integer(step));
    json_put(o, "metrics", metrics);
    return o;
}

json_t *tuning_page_json(json_t *data, bool more)
{
    json_t *o = json_object();
    size_t n = json_array_size(data);

    json_put(o, "object", json_string("list"));
    json_put(o, "first_id", json_incref(json_object_get(json_array_get(data, 0), "id")));
    json_put(o, "last_id",
             json_incref(json_object_get(n > 0 ? json_array_get(data, n - 1) : NULL, "id")));
    json_put(o, "has_more", json_boolean(more));
    json_put(o, "data", data);
    return o;
}
