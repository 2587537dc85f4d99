// Pictures that a running server draws: the request, and its stream of events.
#include "cli/image.h"

#include "base/base64.h"
#include "base/json.h"
#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what is asked -------------------------------------------------------------------------------

json_t *image_body_make(const struct image_command *m)
{
    const struct image_request *r = &m->request;
    json_t *o = json_object();
    json_put_text(o, "prompt", m->prompt);
    json_put_text(o, "model", m->server_model);
    json_put_text(o, "negative_prompt", r->negative);
    json_put_text(o, "size", m->size);
    json_put_text(o, "sampler", r->sampler);
    json_put_text(o, "scheduler", r->scheduler);
    json_put_text(o, "output_format", image_format_name(m->as));
    json_put(o, "n", json_integer(r->count));
    if (r->steps > 0)
        json_put(o, "steps", json_integer(r->steps));
    if (r->cfg >= 0)
        json_put(o, "cfg", json_real(r->cfg));
    if (m->seed >= 0)
        json_put(o, "seed", json_integer(m->seed));
    if (m->quality > 0)
        json_put(o, "output_compression", json_integer(m->quality));
    json_put(o, "partial_images", json_integer(r->previews));
    json_put(o, "stream", json_true());
    json_put(o, "progress", json_true());
    return o;
}

// A file as {"image_url": "data:..."}; the server finds out what it is.
static int file_add(json_t *body, const char *member, const char *path, struct err *e)
{
    struct buf url;
    char *data = NULL;
    size_t len = 0;
    int rc = os_file_read(path, IMAGE_INPUT_MAX_BYTES, &data, &len, e);
    if (rc != 0)
        return err_wrap(e, "'%.200s'", path);
    json_t *part = json_object();
    buf_init(&url, 2 * (size_t)IMAGE_INPUT_MAX_BYTES);
    buf_puts(&url, "data:application/octet-stream;base64,");
    base64_put(&url, data, len);
    json_put(part, "image_url", json_string((const char *)url.data));
    json_put(body, member, part);
    buf_fini(&url);
    free(data);
    return 0;
}

int image_body_files(const struct image_command *m, json_t *body, struct err *e)
{
    int rc = m->initial != NULL ? file_add(body, "image", m->initial, e) : 0;
    if (rc == 0 && m->mask != NULL)
        rc = file_add(body, "mask", m->mask, e);
    json_put(body, "strength", json_real(m->request.strength));
    return rc;
}

// ---- what is told --------------------------------------------------------------------------------

static void on_progress(struct image_command *m, const json_t *event)
{
    struct image_event ev = {.kind = IMAGE_PROGRESS,
                             .index = json_u32(event, "index"),
                             .step = json_u32(event, "step"),
                             .steps = json_u32(event, "steps"),
                             .step_s = json_number_value(json_object_get(event, "step_s"))};
    m->request.steps = ev.steps;
    m->draw_s += ev.step_s;
    image_progress_show(m, &ev);
}

int image_event_picture(struct image_command *m, const json_t *event,
                        const struct image_event_file *f, struct err *e)
{
    struct image_event ev = {.index = json_u32(event, "index"),
                             .seed = json_integer_value(json_object_get(event, "seed"))};
    int rc = image_decode(f->data, f->len, &ev.picture, e);
    if (rc == 0 && f->whole)
        rc = image_file_put(m, &ev, f->data, f->len, e);
    else if (rc == 0)
        image_preview_show(m, &ev.picture);
    image_picture_fini(&ev.picture);
    return rc;
}

static int on_picture(struct image_command *m, const json_t *event, bool whole, struct err *e)
{
    const json_t *text = json_object_get(event, "b64_json");
    size_t n = json_string_length(text), len = 0, bad = 0;
    uint8_t *data = mem_alloc(n / 4 * 3 + 4);
    int rc = 0;
    if (n == 0 || !base64_decode(json_string_value(text), n, data, &len, &bad))
        rc = err_set(e, ERR_CORRUPT, "the server sent a picture that is no base64");
    if (rc == 0)
        rc = image_event_picture(m, event, &(struct image_event_file){data, len, whole}, e);
    free(data);
    return rc;
}

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

int image_event_show(void *ctx, const json_t *event, struct err *e)
{
    struct image_command *m = ctx;
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *message =
        json_string_value(json_object_get(json_object_get(event, "error"), "message"));
    if (message != NULL)
        return err_set(e, ERR_ENGINE, "%s", message);
    if (type == NULL)
        return 0;
    if (ends_in(type, ".progress"))
        on_progress(m, event);
    else if (ends_in(type, ".partial_image"))
        return on_picture(m, event, false, e);
    else if (ends_in(type, ".completed"))
        return on_picture(m, event, true, e);
    return 0;
}

// What a server says while nothing is drawn yet.
void image_comment_show(void *ctx, const char *text)
{
    image_line_show(ctx, text[0] == ' ' ? text + 1 : text);
}

static void result_print(const struct image_command *m)
{
    json_t *o = json_object();
    json_put(o, "files", json_incref(m->files));
    json_put(o, "server", json_string(m->client.server));
    json_put(o, "steps", json_integer(m->request.steps));
    json_put(o, "draw_s", json_real(m->draw_s));
    char *text = json_line(o);
    printf("%s\n", text);
    free(text);
    json_decref(o);
}

// ---- the whole -----------------------------------------------------------------------------------

int image_server_draw(struct image_command *m, struct err *e)
{
    json_t *body = image_body_make(m);
    bool edit = m->initial != NULL || m->mask != NULL;
    const struct client_stream s = {.path = edit ? "/v1/images/edits" : "/v1/images/generations",
                                    .body = body,
                                    .on_event = image_event_show,
                                    .on_comment = image_comment_show,
                                    .ctx = m,
                                    .stop = m->stop};
    int rc = edit ? image_body_files(m, body, e) : 0;
    image_line_show(m, "asking the server");
    if (rc == 0)
        rc = client_stream(&m->client, &s, e);
    image_line_end(m);
    if (rc == 0 && json_array_size(m->files) < m->request.count)
        rc = err_set(e, ERR_CLOSED, "the server's answer ended after %zu of %u pictures",
                     json_array_size(m->files), m->request.count);
    if (rc == 0 && m->json)
        result_print(m);
    json_decref(body);
    return rc;
}
