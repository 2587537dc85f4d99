#include "node/message_cost.h"

#include "base/json.h"
#include "node/message_read.h"

#define SECONDS_LEAST 1e-9
#define SECONDS_MOST 1e6
#define TOKENS_MOST 1e7
#define BYTES_MOST 1e18
#define BUDGET_LEAST_S 0.01

// A number that must be there.
struct number {
    const char *member;
    double min, max;
    double *out;
};

static int numbers_read(const json_t *o, const char *what, const struct number *list, size_t n,
                        struct err *e)
{
    struct message_reader r = message_reader_of(o, what, e);
    if (r.rc != 0)
        return r.rc;
    for (size_t i = 0; i < n; i++) {
        message_need(&r, list[i].member);
        message_read_f64(&r, list[i].member, list[i].min, list[i].max, list[i].out);
    }
    if (r.rc != 0)
        err_wrap(e, "%s", what);
    return r.rc;
}

#define N(list) (sizeof(list) / sizeof((list)[0]))

static int read_parse(const json_t *o, struct profile_read *r, struct err *e)
{
    const struct number list[] = {
        {"tokens", 1, TOKENS_MOST, &r->tokens},
        {"depth", 0, TOKENS_MOST, &r->depth},
        {"chunk_tokens", 0, TOKENS_MOST, &r->chunk_tokens},
        {"seconds", SECONDS_LEAST, SECONDS_MOST, &r->seconds},
    };
    return numbers_read(o, "read", list, N(list), e);
}

static json_t *read_json(const struct profile_read *r)
{
    return json_pack("{s:f,s:f,s:f,s:f}", "tokens", r->tokens, "depth", r->depth, "chunk_tokens",
                     r->chunk_tokens, "seconds", r->seconds);
}

static int steps_parse(const json_t *o, struct profile_steps *s, struct err *e)
{
    const struct number list[] = {
        {"steps", 1, TOKENS_MOST, &s->steps},
        {"rows", 1, TOKENS_MOST, &s->rows},
        {"depth_sum", 0, TOKENS_MOST * TOKENS_MOST, &s->depth_sum},
        {"seconds", SECONDS_LEAST, SECONDS_MOST, &s->seconds},
    };
    return numbers_read(o, "steps", list, N(list), e);
}

static json_t *steps_json(const struct profile_steps *s)
{
    return json_pack("{s:f,s:f,s:f,s:f}", "steps", s->steps, "rows", s->rows, "depth_sum",
                     s->depth_sum, "seconds", s->seconds);
}

int message_moved_parse(const json_t *top, const char *name, struct message_moved *m, struct err *e)
{
    const json_t *o = json_member(top, name);
    const struct number list[] = {
        {"bytes", 1, BYTES_MOST, &m->bytes},
        {"seconds", SECONDS_LEAST, SECONDS_MOST, &m->seconds},
    };
    return o == NULL ? 0 : numbers_read(o, name, list, N(list), e);
}

json_t *message_moved_json(const struct message_moved *m)
{
    if (!(m->bytes > 0 && m->seconds > 0))
        return json_null();
    return json_pack("{s:f,s:f}", "bytes", m->bytes, "seconds", m->seconds);
}

static int list_get(const json_t *top, const char *name, size_t most, json_t **list, struct err *e)
{
    *list = NULL;
    int rc = json_get_array(top, name, list, e);
    if (rc == 0 && json_array_size(*list) > most)
        rc = err_set(e, ERR_RANGE, "member \"%s\" has %zu entries, at most %zu are taken", name,
                     json_array_size(*list), most);
    return rc;
}

static int reads_parse(const json_t *top, const char *name, size_t most, struct profile_read *out,
                       size_t *n, struct err *e)
{
    json_t *list = NULL;
    int rc = list_get(top, name, most, &list, e);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
        rc = read_parse(json_array_get(list, i), &out[i], e);
    *n = rc == 0 ? json_array_size(list) : 0;
    return rc;
}

static json_t *reads_json(const struct profile_read *r, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, read_json(&r[i]));
    return list;
}

// ---- what a request took -------------------------------------------------------------------------

int message_cost_parse(const json_t *head, struct message_cost *c, struct err *e)
{
    *c = (struct message_cost){0};
    const json_t *o = json_member(head, "cost");
    if (o == NULL)
        return 0;
    if (!json_is_object(o))
        return err_set(e, ERR_INVALID, "member \"cost\" must be an object");
    int rc = reads_parse(o, "read", MESSAGE_COST_READS, c->reads, &c->n_reads, e);
    if (rc == 0 && json_member(o, "steps") != NULL)
        rc = steps_parse(json_member(o, "steps"), &c->steps, e);
    if (rc == 0)
        rc = message_moved_parse(o, "export", &c->export, e);
    if (rc == 0)
        rc = message_moved_parse(o, "import", &c->import, e);
    if (rc != 0)
        *c = (struct message_cost){0};
    return rc;
}

json_t *message_cost_json(const struct message_cost *c)
{
    json_t *o = json_object();
    json_put(o, "read", reads_json(c->reads, c->n_reads));
    json_put(o, "steps", c->steps.steps > 0 ? steps_json(&c->steps) : json_null());
    json_put(o, "export", message_moved_json(&c->export));
    json_put(o, "import", message_moved_json(&c->import));
    return o;
}

// ---- what a node measured ------------------------------------------------------------------------

static int measured_steps_parse(const json_t *head, struct message_measured *m, struct err *e)
{
    json_t *list = NULL;
    int rc = list_get(head, "steps", PROFILE_MEASURES, &list, e);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
        rc = steps_parse(json_array_get(list, i), &m->steps[i], e);
    m->n_steps = rc == 0 ? json_array_size(list) : 0;
    return rc;
}

int message_measured_parse(const json_t *head, struct message_measured *m, struct err *e)
{
    *m = (struct message_measured){0};
    int rc = json_is_object(head) ? 0 : err_set(e, ERR_INVALID, "MEASURED must be a JSON object");
    if (rc == 0)
        rc = reads_parse(head, "reads", PROFILE_MEASURES, m->reads, &m->n_reads, e);
    if (rc == 0)
        rc = measured_steps_parse(head, m, e);
    if (rc == 0)
        rc = message_moved_parse(head, "export", &m->export, e);
    if (rc == 0)
        rc = message_moved_parse(head, "import", &m->import, e);
    if (rc == 0)
        rc = json_get_f64(head, "load_s", 0, SECONDS_MOST, &m->load_s, e);
    if (rc == 0)
        rc = json_get_f64(head, "memory_left_bytes", 0, BYTES_MOST, &m->memory_left_bytes, e);
    if (rc == 0)
        rc = json_get_bool(head, "complete", &m->complete, e);
    if (rc != 0)
        *m = (struct message_measured){0};
    return rc;
}

json_t *message_measured_json(const struct message_measured *m)
{
    json_t *o = json_object(), *steps = json_array();
    for (size_t i = 0; i < m->n_steps; i++)
        json_array_append_new(steps, steps_json(&m->steps[i]));
    json_put(o, "reads", reads_json(m->reads, m->n_reads));
    json_put(o, "steps", steps);
    json_put(o, "export", message_moved_json(&m->export));
    json_put(o, "import", message_moved_json(&m->import));
    json_put(o, "load_s", json_real(m->load_s));
    json_put(o, "memory_left_bytes", json_real(m->memory_left_bytes));
    json_put(o, "complete", json_boolean(m->complete));
    return o;
}

int message_measure_parse(const json_t *head, double *budget_s, struct err *e)
{
    *budget_s = PROFILE_MEASURE_S;
    if (!json_is_object(head))
        return err_set(e, ERR_INVALID, "MEASURE must be a JSON object");
    return json_get_f64(head, "budget_s", BUDGET_LEAST_S, MESSAGE_BUDGET_MAX_S, budget_s, e);
}

json_t *message_measure_json(double budget_s)
{
    return json_pack("{s:f}", "budget_s", budget_s);
}
