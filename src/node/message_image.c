#include "node/message_image.h"

#include "base/buf.h"
#include "base/json.h"
#include "node/message_read.h"

#include <stdlib.h>
#include <string.h>

#define SECONDS_MAX 1e9

static const char *const words[] = {"loading", "ready", "failed"};

// ---- the model -------------------------------------------------------------------------------------

static void least(struct message_reader *r, const char *member, uint32_t v, uint32_t min)
{
    if (r->rc == 0 && v < min)
        r->rc =
            err_set(r->e, ERR_INVALID, "member \"%s\" is %u, must be %u or more", member, v, min);
}

int message_canvas_parse(const json_t *draws, struct message_canvas *m, struct err *e)
{
    struct image_model *like = &m->like;
    *m = (struct message_canvas){.like = {.multiple = 1}};
    struct message_reader r = message_reader_of(draws, "\"draws\"", e);
    message_need(&r, "model");
    message_read_text(&r, "model", m->model, sizeof m->model);
    message_read_text(&r, "file", m->file, sizeof m->file);
    message_read_text(&r, "layout", like->layout, sizeof like->layout);
    message_read_u32(&r, "multiple", IMAGE_SIDE_MAX, &like->multiple);
    message_read_bool(&r, "square", &like->square);
    message_read_u32(&r, "side", IMAGE_SIDE_MAX, &like->side);
    message_read_u32(&r, "steps", IMAGE_STEPS_MAX, &like->steps);
    message_read_f64(&r, "cfg", 0, IMAGE_CFG_MAX, &like->cfg);
    message_read_u64(&r, "bytes", &like->bytes);
    message_read_bool(&r, "edits", &like->edits);
    least(&r, "multiple", like->multiple, 1);
    least(&r, "side", like->side, IMAGE_SIDE_MIN);
    least(&r, "steps", like->steps, 1);
    if (r.rc == 0 && m->model[0] == '\0')
        r.rc = err_set(e, ERR_INVALID, "member \"model\" is empty");
    return r.rc;
}

json_t *message_canvas_json(const struct message_canvas *m)
{
    const struct image_model *like = &m->like;
    json_t *o = json_object();
    json_put(o, "model", json_string(m->model));
    json_put(o, "file", json_string(m->file));
    json_put(o, "layout", json_string(like->layout));
    json_put(o, "multiple", json_integer(like->multiple));
    json_put(o, "square", json_boolean(like->square));
    json_put(o, "side", json_integer(like->side));
    json_put(o, "steps", json_integer(like->steps));
    json_put(o, "cfg", json_real(like->cfg));
    json_put(o, "bytes", json_integer((json_int_t)like->bytes));
    json_put(o, "edits", json_boolean(like->edits));
    return o;
}

int message_canvas_state_parse(const json_t *head, struct message_canvas_state *m, struct err *e)
{
    char word[16] = "";
    *m = (struct message_canvas_state){.pid = -1};
    struct message_reader r = message_reader_of(head, "CANVAS", e);
    message_need(&r, "state");
    message_read_text(&r, "state", word, sizeof word);
    message_read_text(&r, "why", m->why, sizeof m->why);
    message_read_text(&r, "library", m->library, sizeof m->library);
    message_read_text(&r, "version", m->version, sizeof m->version);
    message_read_bool(&r, "previews", &m->previews);
    message_read_u32(&r, "restarts", UINT32_MAX, &m->restarts);
    message_read_f64(&r, "load_s", 0, SECONDS_MAX, &m->load_s);
    if (r.rc == 0)
        r.rc = json_get_i64(head, "pid", -1, INT32_MAX, &m->pid, e);
    for (size_t i = 0; r.rc == 0 && i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i]) == 0) {
            m->word = (enum message_canvas_word)i;
            return 0;
        }
    return r.rc ? r.rc
                : err_set(e, ERR_INVALID,
                          "member \"state\" is \"%s\", not loading, ready or failed", word);
}

json_t *message_canvas_state_json(const struct message_canvas_state *m)
{
    json_t *o = json_object();
    json_put(o, "state", json_string(words[m->word]));
    json_put(o, "why", json_string(m->why));
    json_put(o, "library", json_string(m->library));
    json_put(o, "version", json_string(m->version));
    json_put(o, "previews", json_boolean(m->previews));
    json_put(o, "pid", json_integer(m->pid));
    json_put(o, "restarts", json_integer(m->restarts));
    json_put(o, "load_s", json_real(m->load_s));
    return o;
}

// ---- requests --------------------------------------------------------------------------------------

static void lora_read(struct message_reader *r, const json_t *entry, struct image_lora *l)
{
    struct message_reader one = message_reader_of(entry, "a LoRA", r->e);
    if (r->rc != 0)
        return;
    message_need(&one, "name");
    message_read_text(&one, "name", l->name, sizeof l->name);
    message_read_f64(&one, "weight", -IMAGE_LORA_WEIGHT_MAX, IMAGE_LORA_WEIGHT_MAX, &l->weight);
    // It becomes a file's name.
    if (one.rc == 0 && (l->name[0] == '\0' || l->name[0] == '.' || strchr(l->name, '/') != NULL))
        one.rc = err_set(r->e, ERR_INVALID, "\"%.40s\" is no LoRA's name", l->name);
    message_fail_into(r, &one, "loras");
}

static void loras_read(struct message_reader *r, const json_t *head, struct image_request *q)
{
    const json_t *list = json_object_get(head, "loras"), *entry = NULL;
    size_t i = 0;
    if (r->rc == 0 && list != NULL && !json_is_array(list))
        r->rc = err_set(r->e, ERR_INVALID, "member \"loras\" is no array");
    if (r->rc == 0 && json_array_size(list) > IMAGE_LORAS_MAX)
        r->rc = err_set(r->e, ERR_RANGE, "%zu LoRAs; at most %u are taken", json_array_size(list),
                        IMAGE_LORAS_MAX);
    if (r->rc != 0)
        return;
    json_array_foreach(list, i, entry) lora_read(r, entry, &q->loras[i]);
    q->n_loras = (uint32_t)json_array_size(list);
}

static void text_read(struct message_reader *r, const char *member, const char **out)
{
    if (r->rc == 0)
        r->rc = json_get_string(r->object, member, out, r->e);
}

static void pixels_check(struct message_reader *r, const struct message_draw *m)
{
    const struct image_request *q = &m->request;
    if (r->rc == 0 &&
        (q->width < 1 || q->height < 1 || (uint64_t)q->width * q->height > IMAGE_PIXELS_MAX))
        r->rc = err_set(r->e, ERR_RANGE, "a picture of %ux%u; 1 to %u pixels are taken", q->width,
                        q->height, IMAGE_PIXELS_MAX);
    if (r->rc == 0 && m->mask && !m->initial)
        r->rc = err_set(r->e, ERR_INVALID, "a mask without a picture");
}

int message_draw_parse(json_t *head, struct message_draw *m, struct err *e)
{
    struct image_request *q = &m->request;
    *m = (struct message_draw){
        .request = {.count = 1, .cfg = -1, .seed = IMAGE_SEED_NONE, .strength = 0.75}};
    struct message_reader r = message_reader_of(head, "DRAW", e);
    message_need(&r, "prompt");
    text_read(&r, "prompt", &q->prompt);
    text_read(&r, "negative", &q->negative);
    text_read(&r, "sampler", &q->sampler);
    text_read(&r, "scheduler", &q->scheduler);
    message_read_u32(&r, "width", IMAGE_SIDE_MAX, &q->width);
    message_read_u32(&r, "height", IMAGE_SIDE_MAX, &q->height);
    message_read_u32(&r, "count", IMAGE_COUNT_MAX, &q->count);
    message_read_u32(&r, "steps", IMAGE_STEPS_MAX, &q->steps);
    message_read_u32(&r, "previews", IMAGE_PREVIEWS_MAX, &q->previews);
    message_read_f64(&r, "cfg", -1, IMAGE_CFG_MAX, &q->cfg);
    message_read_f64(&r, "strength", 0, 1, &q->strength);
    message_read_bool(&r, "initial", &m->initial);
    message_read_bool(&r, "mask", &m->mask);
    loras_read(&r, head, q);
    if (r.rc == 0)
        r.rc = json_get_i64(head, "seed", 0, INT64_MAX - IMAGE_COUNT_MAX, &q->seed, e);
    pixels_check(&r, m);
    if (r.rc == 0)
        m->head = json_incref(head);
    return r.rc;
}

json_t *message_draw_json(const struct image_request *r)
{
    json_t *o = json_object(), *loras = json_array();
    json_put_text(o, "prompt", r->prompt);
    json_put_text(o, "negative", r->negative);
    json_put_text(o, "sampler", r->sampler);
    json_put_text(o, "scheduler", r->scheduler);
    json_put(o, "width", json_integer(r->width));
    json_put(o, "height", json_integer(r->height));
    json_put(o, "count", json_integer(r->count));
    json_put(o, "steps", json_integer(r->steps));
    json_put(o, "previews", json_integer(r->previews));
    json_put(o, "cfg", json_real(r->cfg));
    json_put(o, "strength", json_real(r->strength));
    if (r->seed != IMAGE_SEED_NONE)
        json_put(o, "seed", json_integer(r->seed));
    json_put(o, "initial", json_boolean(r->initial != NULL));
    json_put(o, "mask", json_boolean(r->mask != NULL));
    for (uint32_t i = 0; i < r->n_loras; i++)
        json_array_append_new(
            loras, json_pack("{s:s,s:f}", "name", r->loras[i].name, "weight", r->loras[i].weight));
    json_put(o, "loras", loras);
    return o;
}

void message_draw_fini(struct message_draw *m)
{
    json_decref(m->head);
    *m = (struct message_draw){0};
}

size_t message_draw_bytes(const struct message_draw *m)
{
    size_t one = (size_t)m->request.width * m->request.height * 3;
    return (m->initial ? one : 0) + (m->mask ? one : 0);
}

// ---- what is drawn ---------------------------------------------------------------------------------

int message_drawing_parse(const json_t *head, struct message_drawing *m, struct err *e)
{
    *m = (struct message_drawing){0};
    struct message_reader r = message_reader_of(head, "DRAWING", e);
    message_read_u32(&r, "index", IMAGE_COUNT_MAX - 1, &m->index);
    message_read_u32(&r, "step", IMAGE_STEPS_MAX, &m->step);
    message_read_u32(&r, "steps", IMAGE_STEPS_MAX, &m->steps);
    message_read_f64(&r, "step_s", 0, SECONDS_MAX, &m->step_s);
    return r.rc;
}

json_t *message_drawing_json(const struct message_drawing *m)
{
    return json_pack("{s:i,s:i,s:i,s:f}", "index", (int)m->index, "step", (int)m->step, "steps",
                     (int)m->steps, "step_s", m->step_s);
}

int message_picture_parse(const json_t *head, struct message_picture *m, struct err *e)
{
    *m = (struct message_picture){0};
    struct message_reader r = message_reader_of(head, "PICTURE", e);
    message_read_u32(&r, "index", IMAGE_COUNT_MAX - 1, &m->index);
    message_read_u32(&r, "step", IMAGE_STEPS_MAX, &m->step);
    message_read_u32(&r, "width", IMAGE_SIDE_MAX, &m->width);
    message_read_u32(&r, "height", IMAGE_SIDE_MAX, &m->height);
    message_read_bool(&r, "preview", &m->preview);
    if (r.rc == 0)
        r.rc = json_get_i64(head, "seed", 0, INT64_MAX, &m->seed, e);
    if (r.rc == 0 &&
        (m->width < 1 || m->height < 1 || (uint64_t)m->width * m->height > IMAGE_PIXELS_MAX))
        r.rc = err_set(e, ERR_RANGE, "a picture of %ux%u; 1 to %u pixels are taken", m->width,
                       m->height, IMAGE_PIXELS_MAX);
    return r.rc;
}

json_t *message_picture_json(const struct message_picture *m)
{
    return json_pack("{s:i,s:i,s:i,s:i,s:I,s:b}", "index", (int)m->index, "step", (int)m->step,
                     "width", (int)m->width, "height", (int)m->height, "seed", (json_int_t)m->seed,
                     "preview", (int)m->preview);
}

int message_drawn_parse(const json_t *head, double *draw_s, struct err *e)
{
    struct message_reader r = message_reader_of(head, "DRAWN", e);
    *draw_s = 0;
    message_read_f64(&r, "draw_s", 0, SECONDS_MAX, draw_s);
    return r.rc;
}

json_t *message_drawn_json(double draw_s)
{
    return json_pack("{s:f}", "draw_s", draw_s);
}

// ---- pixels in pieces ------------------------------------------------------------------------------

void message_pixels_begin(struct message_pixels *p, size_t want)
{
    message_pixels_fini(p);
    *p = (struct message_pixels){.data = mem_alloc(want), .want = want};
}

void message_pixels_fini(struct message_pixels *p)
{
    free(p->data);
    *p = (struct message_pixels){0};
}

int message_pixels_take(struct message_pixels *p, const struct wire_frame *f, struct err *e)
{
    size_t n = f->body.len;
    if (n == 0 || n > p->want - p->got)
        return err_set(e, ERR_CORRUPT, "%zu bytes of a picture came where %zu were to come", n,
                       p->want - p->got);
    memcpy(p->data + p->got, f->body.data, n);
    p->got += n;
    return p->got == p->want;
}

struct wire_frame message_pixels_frame(uint64_t id, const uint8_t *data, size_t n, size_t *at)
{
    size_t left = n - *at, len = left < WIRE_PIXELS_MAX ? left : WIRE_PIXELS_MAX;
    struct wire_frame f = wire_frame_json(WIRE_PIXELS, id, NULL);
    f.body = (struct wire_body){.data = mem_alloc(len), .len = len};
    memcpy(f.body.data, data + *at, len);
    *at += len;
    return f;
}
