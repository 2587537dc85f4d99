#include "node/message_read.h"

#include "base/json.h"

struct message_reader message_reader_of(const json_t *object, const char *what, struct err *e)
{
    struct message_reader r = {.object = object, .e = e};
    if (!json_is_object(object))
        r.rc = err_set(e, ERR_INVALID, "%s must be a JSON object", what);
    return r;
}

void message_need(struct message_reader *r, const char *member)
{
    if (r->rc == 0 && json_member(r->object, member) == NULL)
        r->rc = err_set(r->e, ERR_INVALID, "member \"%s\" is missing", member);
}

void message_read_bool(struct message_reader *r, const char *member, bool *out)
{
    if (r->rc == 0)
        r->rc = json_get_bool(r->object, member, out, r->e);
}

void message_read_u32(struct message_reader *r, const char *member, uint32_t max, uint32_t *out)
{
    int64_t v = *out;
    if (r->rc == 0)
        r->rc = json_get_i64(r->object, member, 0, max, &v, r->e);
    if (r->rc == 0)
        *out = (uint32_t)v;
}

void message_read_i32(struct message_reader *r, const char *member, int32_t min, int32_t max,
                      int32_t *out)
{
    int64_t v = *out;
    if (r->rc == 0)
        r->rc = json_get_i64(r->object, member, min, max, &v, r->e);
    if (r->rc == 0)
        *out = (int32_t)v;
}

void message_read_u64(struct message_reader *r, const char *member, uint64_t *out)
{
    int64_t v = (int64_t)*out;
    if (r->rc == 0)
        r->rc = json_get_i64(r->object, member, 0, INT64_MAX, &v, r->e);
    if (r->rc == 0)
        *out = (uint64_t)v;
}

void message_read_f64(struct message_reader *r, const char *member, double min, double max,
                      double *out)
{
    if (r->rc == 0)
        r->rc = json_get_f64(r->object, member, min, max, out, r->e);
}

void message_read_f32(struct message_reader *r, const char *member, double min, double max,
                      float *out)
{
    double v = (double)*out;
    message_read_f64(r, member, min, max, &v);
    if (r->rc == 0)
        *out = (float)v;
}

void message_read_text(struct message_reader *r, const char *member, char *out, size_t out_bytes)
{
    if (r->rc == 0)
        r->rc = json_copy_string(r->object, member, out, out_bytes, r->e);
}

struct message_reader message_read_object(struct message_reader *r, const char *member)
{
    json_t *o = NULL;
    if (r->rc == 0)
        r->rc = json_get_object(r->object, member, &o, r->e);
    return (struct message_reader){.object = o, .e = r->e, .rc = r->rc};
}

bool message_present(const struct message_reader *r)
{
    return r->rc == 0 && r->object != NULL;
}

void message_fail_into(struct message_reader *r, const struct message_reader *nested,
                       const char *where)
{
    if (r->rc == 0 && nested->rc != 0) {
        r->rc = nested->rc;
        err_wrap(r->e, "%s", where);
    }
}
