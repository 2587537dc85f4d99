#include "sched/profile_json.h"

#include "base/json.h"
#include "sched/profile_fit.h"

#define NUMBER_MOST 1e18

struct field {
    const char *name;
    size_t at;
};
#define FIELD(name)                                                                                \
    {                                                                                              \
#name, offsetof(struct profile, name)                                                      \
    }

static const struct field fields[] = {
    FIELD(read_request_s),
    FIELD(read_chunk_s),
    FIELD(read_token_s),
    FIELD(read_pair_s),
    FIELD(read_floor_s),
    FIELD(step_s),
    FIELD(row_s),
    FIELD(row_depth_s),
    FIELD(export_byte_s),
    FIELD(import_byte_s),
    FIELD(dispatch_s),
    FIELD(load_s),
    FIELD(kv_token_bytes),
    FIELD(kv_window_bytes),
    FIELD(kv_window_tokens),
    FIELD(state_bytes),
    FIELD(chunk_tokens),
    FIELD(last_tokens),
    FIELD(n_ctx),
    FIELD(n_seq),
    FIELD(memory_left_bytes),
    FIELD(watts_idle),
    FIELD(watts_prefill),
    FIELD(watts_decode),
    FIELD(dollars_per_hour),
    FIELD(read_error),
    FIELD(step_error),
    FIELD(samples),
};
#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

json_t *profile_json(const struct profile *p)
{
    json_t *o = json_object();

    for (size_t i = 0; i < N_FIELDS; i++)
        json_put(o, fields[i].name, json_real(*(const double *)((const char *)p + fields[i].at)));
    return o;
}

int profile_parse(const json_t *object, struct profile *p, struct err *e)
{
    struct profile out = *p;

    for (size_t i = 0; i < N_FIELDS; i++) {
        double *to = (double *)((char *)&out + fields[i].at);
        int rc = json_get_f64(object, fields[i].name, 0, NUMBER_MOST, to, e);
        if (rc != 0)
            return rc;
    }
    if (!profile_sane(&out))
        return err_set(e, ERR_INVALID,
                       "a profile cannot be so: chunk_tokens %g, read_token_s %g, step_s %g",
                       out.chunk_tokens, out.read_token_s, out.step_s);
    *p = out;
    return 0;
}

// ---- filters ---------------------------------------------------------------------------------------------

// Costs themselves, not their logarithms: a person may look at it.
static json_t *fit_json(const struct profile_fit *f)
{
    json_t *o = json_object(), *costs = json_array(), *cov = json_array();

    for (size_t i = 0; i < f->n_terms; i++) {
        json_array_append_new(costs, json_real(profile_fit_cost(f, i)));
        for (size_t k = 0; k <= i; k++)
            json_array_append_new(cov, json_real(f->cov[i][k]));
    }
    json_put(o, "costs", costs);
    json_put(o, "covariance", cov); // the lower triangle, by rows
    json_put(o, "noise", json_real(f->noise));
    json_put(o, "samples", json_real(f->samples));
    return o;
}

static double number_at(const json_t *array, size_t i)
{
    return json_number_value(json_array_get(array, i));
}

static int fit_parse(const json_t *object, const char *name, size_t n_terms, struct profile_fit *f,
                     struct err *e)
{
    const json_t *o = json_object_get(object, name);
    const json_t *costs = json_object_get(o, "costs"), *cov = json_object_get(o, "covariance");
    double values[PROFILE_TERMS];
    struct profile_fit out;
    size_t at = 0;

    if (json_array_size(costs) != n_terms || json_array_size(cov) != n_terms * (n_terms + 1) / 2)
        return err_set(e, ERR_INVALID,
                       "\"%s\" of a profile lacks its %zu costs or their covariance", name,
                       n_terms);
    for (size_t i = 0; i < n_terms; i++)
        values[i] = number_at(costs, i);
    profile_fit_init(&out, values, n_terms, PROFILE_TRUST_NONE);
    for (size_t i = 0; i < n_terms; i++)
        for (size_t k = 0; k <= i; k++)
            out.cov[i][k] = out.cov[k][i] = number_at(cov, at++);
    out.noise = json_number_value(json_object_get(o, "noise"));
    out.samples = json_number_value(json_object_get(o, "samples"));
    if (!profile_fit_sane(&out, n_terms))
        return err_set(e, ERR_INVALID, "\"%s\" of a profile has numbers that cannot be", name);
    *f = out;
    return 0;
}

json_t *profile_book_json(const struct profile_book *b)
{
    json_t *o = json_object();

    json_put(o, "profile", profile_json(&b->p));
    json_put(o, "read", fit_json(&b->read));
    json_put(o, "step", fit_json(&b->step));
    json_put(o, "export", fit_json(&b->export));
    json_put(o, "import", fit_json(&b->import));
    json_put(o, "load", fit_json(&b->load));
    json_put(o, "dispatch", fit_json(&b->dispatch));
    return o;
}

int profile_book_parse(const json_t *object, struct profile_book *b, struct err *e)
{
    struct profile_book out = *b;
    int rc = profile_parse(json_object_get(object, "profile"), &out.p, e);

    rc = rc ? rc : fit_parse(object, "read", READ_TERMS, &out.read, e);
    rc = rc ? rc : fit_parse(object, "step", PROFILE_STEP_TERMS, &out.step, e);
    rc = rc ? rc : fit_parse(object, "export", 1, &out.export, e);
    rc = rc ? rc : fit_parse(object, "import", 1, &out.import, e);
    rc = rc ? rc : fit_parse(object, "load", 1, &out.load, e);
    if (rc == 0 && json_object_get(object, "dispatch")) // what was kept earlier may lack it
        rc = fit_parse(object, "dispatch", 1, &out.dispatch, e);
    if (rc == 0)
        *b = out;
    return rc;
}

json_t *profile_link_json(const struct profile_link *l)
{
    json_t *o = json_object();

    json_put(o, "rtt_s", json_real(l->rtt_s));
    json_put(o, "up_bytes_per_s", json_real(l->up_bytes_per_s));
    json_put(o, "down_bytes_per_s", json_real(l->down_bytes_per_s));
    json_put(o, "setup_s", json_real(l->setup_s));
    return o;
}

json_t *profile_link_book_json(const struct profile_link_book *b)
{
    json_t *o = profile_link_json(&b->link);

    json_put(o, "rtt", fit_json(&b->rtt));
    json_put(o, "up", fit_json(&b->up));
    json_put(o, "down", fit_json(&b->down));
    json_put(o, "setup", fit_json(&b->setup));
    return o;
}

int profile_link_book_parse(const json_t *object, struct profile_link_book *b, struct err *e)
{
    struct profile_link_book out = *b;
    int rc = fit_parse(object, "rtt", 1, &out.rtt, e);

    rc = rc ? rc : fit_parse(object, "up", 1, &out.up, e);
    rc = rc ? rc : fit_parse(object, "down", 1, &out.down, e);
    rc = rc ? rc : fit_parse(object, "setup", 1, &out.setup, e);
    if (rc != 0)
        return rc;
    out.link = (struct profile_link){.rtt_s = profile_fit_cost(&out.rtt, 0),
                                     .up_bytes_per_s = 1 / profile_fit_cost(&out.up, 0),
                                     .down_bytes_per_s = 1 / profile_fit_cost(&out.down, 0),
                                     .setup_s = profile_fit_cost(&out.setup, 0)};
    *b = out;
    return 0;
}
