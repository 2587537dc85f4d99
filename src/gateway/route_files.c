// OpenAI's /files: uploads go to the disk piece by piece while they come in;
// the rest is answered at once.
#include "gateway/route.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POST_BUFFER_BYTES 16384
#define LIST_MAX 10000

// A form that is being read.
struct http_form {
    struct MHD_PostProcessor *post; // NULL: not a form
    struct files_upload *file;      // NULL: its part has not begun
    char name[FILES_NAME_BYTES], purpose[FILES_PURPOSE_BYTES];
    bool many; // more than one file
    struct err e;
};

void route_form_free(struct http_form *form)
{
    if (!form)
        return;
    if (form->post)
        MHD_destroy_post_processor(form->post);
    files_upload_free(form->file);
    free(form);
}

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *param,
                              const char *message)
{
    return http_answer(x, status, route_error(x, status, NULL, param, message));
}

static unsigned status_of(int rc)
{
    return rc == ERR_NOT_FOUND ? 404 : rc == ERR_RANGE ? 413 : rc == ERR_INVALID ? 400 : 507;
}

static enum MHD_Result answer_json(struct exchange *x, json_t *o)
{
    char *text = json_line(o);

    json_decref(o);
    return http_answer(x, 200, text);
}

// ---- uploading
// ------------------------------------------------------------------------------------------

// What is shown and stored: the last part of the name, valid UTF-8, without
// control characters.
static void name_take(struct http_form *form, const char *name)
{
    const char *slash = strrchr(name, '/');
    json_t *text;

    snprintf(form->name, sizeof(form->name), "%s", slash ? slash + 1 : name);
    for (char *at = form->name; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '_';
    text = json_string(form->name);
    for (char *at = form->name; !text && *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '_';
    json_decref(text);
}

static int file_take(struct http_form *form, const char *name, const char *data, uint64_t at,
                     size_t n)
{
    int rc = 0;

    if (at == 0 && form->file && n > 0)
        form->many = true;
    if (!form->file) {
        name_take(form, name ? name : "");
        rc = files_upload_new(&form->file, &form->e);
    }
    return rc ? rc : files_upload_put(form->file, data, n, &form->e);
}

static enum MHD_Result form_part(void *ctx, enum MHD_ValueKind kind, const char *key,
                                 const char *filename, const char *type, const char *encoding,
                                 const char *data, uint64_t at, size_t n)
{
    struct http_form *form = ctx;

    (void)kind;
    (void)type;
    (void)encoding;
    if (!key) // a part without a name is nobody's
        return MHD_YES;
    if (strcmp(key, "file") == 0)
        return file_take(form, filename, data, at, n) == 0 ? MHD_YES : MHD_NO;
    if (strcmp(key, "purpose") == 0 && at + n < sizeof(form->purpose))
        memcpy(form->purpose + at, data, n);
    return MHD_YES;
}

void run_files_take(struct exchange *x, const char *data, size_t n)
{
    if (!x->form) {
        x->form = mem_alloc(sizeof(*x->form));
        x->form->post =
            MHD_create_post_processor(x->connection, POST_BUFFER_BYTES, form_part, x->form);
    }
    if (!x->form->post)
        http_refuse(x, 415, "invalid_content_type",
                    "send the file as multipart/form-data with the fields purpose "
                    "and file");
    else if (MHD_post_process(x->form->post, data, n) != MHD_YES)
        http_refuse(x, x->form->e.code ? status_of(x->form->e.code) : 400, "invalid_form",
                    x->form->e.code ? x->form->e.message : "the form does not read");
}

enum MHD_Result run_files_create(struct exchange *x)
{
    struct http_form *form = x->form;
    struct files_entry f;
    struct err e = {0};
    int rc;

    if (!form || !form->file)
        return refuse(x, 400, "file", "the field \"file\" is missing from the form");
    if (form->many)
        return refuse(x, 400, "file", "one file at a time");
    if (strcmp(form->purpose, "fine-tune") != 0)
        return refuse(x, 400, "purpose",
                      "the field \"purpose\" must be fine-tune: files serve "
                      "nothing else here");
    rc = files_upload_end(form->file, form->name, form->purpose, &f, &e);
    return rc == 0 ? answer_json(x, files_json(&f)) : refuse(x, status_of(rc), NULL, e.message);
}

// ---- asking
// ---------------------------------------------------------------------------------------------

// Those behind `after`, at most `limit`, of one purpose: OpenAI's page.
static json_t *page(const struct files_list *l, const char *after, const char *purpose, long limit,
                    bool ascending)
{
    json_t *o = json_object(), *data = json_array();
    bool on = after == NULL, more = false;

    for (size_t i = 0; i < l->n; i++) {
        const struct files_entry *f = &l->items[ascending ? l->n - 1 - i : i];

        if (on && (!purpose || strcmp(purpose, f->purpose) == 0)) {
            more = (long)json_array_size(data) >= limit;
            if (more)
                break;
            json_array_append_new(data, files_json(f));
        }
        on = on || strcmp(f->id, after) == 0;
    }
    json_put(o, "object", json_string("list"));
    json_put(o, "data", data);
    json_put(o, "first_id", json_incref(json_object_get(json_array_get(data, 0), "id")));
    json_put(o, "last_id",
             json_incref(json_object_get(json_array_get(data, json_array_size(data) - 1), "id")));
    json_put(o, "has_more", json_boolean(more));
    return o;
}

enum MHD_Result run_files(struct exchange *x)
{
    const char *order = http_argument(x, "order");
    int64_t limit = LIST_MAX;
    struct files_list l;
    struct err e = {0};
    enum MHD_Result result;

    if (http_argument_number(x, "limit", 1, LIST_MAX, &limit, &e) != 0)
        return refuse(x, 400, "limit", e.message);
    if (files_list_read(&l, &e) != 0)
        return refuse(x, 500, NULL, e.message);
    result = answer_json(x, page(&l, http_argument(x, "after"), http_argument(x, "purpose"),
                                 (long)limit, order && strcmp(order, "asc") == 0));
    files_list_fini(&l);
    return result;
}

static enum MHD_Result content_answer(struct exchange *x, const char *id)
{
    char path[FILES_PATH_BYTES];
    struct files_entry f;
    struct err e = {0};
    int fd, rc = files_find(id, &f, &e);

    if (rc == 0)
        rc = files_path(id, path, &e);
    if (rc != 0)
        return refuse(x, status_of(rc), "file_id", e.message);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return refuse(x, 500, NULL, strerror(errno));
    return http_answer_file(x, fd, f.bytes, "application/octet-stream");
}

enum MHD_Result run_file(struct exchange *x)
{
    char id[FILES_ID_BYTES];
    struct files_entry f;
    struct err e = {0};
    size_t n = strcspn(x->rest, "/");
    int rc;

    snprintf(id, sizeof(id), "%.*s", n < sizeof(id) ? (int)n : 0, x->rest);
    if (strcmp(x->rest + n, "/content") == 0)
        return content_answer(x, id);
    rc = files_find(x->rest[n] ? "" : id, &f, &e);
    return rc == 0 ? answer_json(x, files_json(&f))
                   : refuse(x, status_of(rc), "file_id", e.message);
}

enum MHD_Result run_file_delete(struct exchange *x)
{
    struct err e = {0};
    json_t *o;
    int rc = files_remove(x->rest, &e);

    if (rc != 0)
        return refuse(x, status_of(rc), "file_id", e.message);
    o = json_object();
    json_put(o, "id", json_string(x->rest));
    json_put(o, "object", json_string("file"));
    json_put(o, "deleted", json_true());
    return answer_json(x, o);
}
