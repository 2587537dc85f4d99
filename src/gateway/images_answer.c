// What a client of the images API is told, in OpenAI's shapes. Pictures are megabytes, so their base64 goes
// straight into the text and not through a JSON library.
#include "gateway/images_impl.h"

#include "base/base64.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/image_upstream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what all answers say -------------------------------------------------------------------------------

static void size_put(json_t *o, const struct image_request *r)
{
    char size[32];

    snprintf(size, sizeof(size), "%ux%u", r->width, r->height);
    json_put(o, "size", json_string(size));
}

static void common_put(json_t *o, const struct images_ask *a)
{
    size_put(o, &a->request);
    json_put(o, "quality", json_string(a->quality));
    json_put(o, "background", json_string(a->background));
    json_put(o, "output_format", json_string(image_format_name(a->format)));
}

// Pictures are not made of tokens; OpenAI's clients want the member all the same.
static json_t *usage_json(void)
{
    json_t *o = json_object(), *details = json_object();

    json_put(details, "text_tokens", json_integer(0));
    json_put(details, "image_tokens", json_integer(0));
    json_put(o, "total_tokens", json_integer(0));
    json_put(o, "input_tokens", json_integer(0));
    json_put(o, "output_tokens", json_integer(0));
    json_put(o, "input_tokens_details", details);
    return o;
}

// {"b64_json": ... or "url": ..., without the closing brace.
static void picture_begin(struct buf *out, const struct images_picture_told *p)
{
    if (p->url) {
        buf_printf(out, "{\"url\":\"%s\"", p->url);
        return;
    }
    buf_puts(out, "{\"b64_json\":\"");
    base64_put(out, p->file, p->len);
    buf_puts(out, "\"");
}

// The members of an object, behind those that stand there already. Takes it.
static void members_put(struct buf *out, json_t *o)
{
    char *text = json_line(o);

    text[0] = ',';
    buf_puts(out, text);
    free(text);
    json_decref(o);
}

void images_entry_put(struct buf *out, const struct images_picture_told *p)
{
    if (out->len > 0)
        buf_puts(out, ",");
    picture_begin(out, p);
    if (p->event->seed >= 0)
        buf_printf(out, ",\"seed\":%" PRId64, p->event->seed);
    buf_puts(out, "}");
}

// ---- streams --------------------------------------------------------------------------------------------

static void event_put(struct buf *out, const struct images_picture_told *p, const char *word,
                      json_t *o)
{
    const char *kind = p->ask->edit ? "image_edit" : "image_generation";
    char *type = mem_format("%s.%s", kind, word);

    buf_printf(out, "event: %s\ndata: ", type);
    picture_begin(out, p);
    json_put(o, "type", json_string(type));
    json_put(o, "created_at", json_integer(clock_unix_s()));
    common_put(o, p->ask);
    members_put(out, o);
    buf_puts(out, "\n\n");
    free(type);
}

void images_completed_put(struct buf *out, const struct images_picture_told *p)
{
    json_t *o = json_object();

    json_put(o, "usage", usage_json());
    json_put(o, "index", json_integer(p->event->index));
    if (p->event->seed >= 0)
        json_put(o, "seed", json_integer(p->event->seed));
    if (p->node)
        json_put(o, "node", answer_string(p->node));
    event_put(out, p, "completed", o);
}

void images_partial_put(struct buf *out, const struct images_picture_told *p, uint32_t index)
{
    json_t *o = json_object();

    json_put(o, "partial_image_index", json_integer(index));
    json_put(o, "index", json_integer(p->event->index));
    json_put(o, "step", json_integer(p->event->step));
    event_put(out, p, "partial_image", o);
}

void images_progress_put(struct buf *out, const struct images_ask *ask,
                         const struct image_event *ev, double eta_s)
{
    json_t *o = json_object();
    const char *type = ask->edit ? "image_edit.progress" : "image_generation.progress";

    json_put(o, "type", json_string(type));
    json_put(o, "index", json_integer(ev->index));
    json_put(o, "n", json_integer(ask->request.count));
    json_put(o, "step", json_integer(ev->step));
    json_put(o, "steps", json_integer(ev->steps));
    json_put(o, "step_s", json_real(ev->step_s));
    json_put(o, "eta_s", json_real(eta_s));
    answer_event_put(out, type, o);
}

void images_error_put(struct buf *out, const struct err *e, unsigned status)
{
    char *text = answer_error(status, e->message, err_name(e->code), NULL);

    // With a type too, as other events of these streams have: {"error":{...}} becomes {"type":"error","error":..}.
    buf_printf(out, "event: error\ndata: {\"type\":\"error\",%s\n\n", text + 1);
    free(text);
}

// ---- whole answers --------------------------------------------------------------------------------------

// What another server did by its own defaults is not known, and left out.
static json_t *timings_json(const struct images_request *r, double draw_s)
{
    json_t *o = json_object();
    const struct image_request *q = &r->task->ask.request;
    uint32_t steps = q->steps * q->count;

    if (steps > 0)
        json_put(o, "steps", json_integer(q->steps));
    if (q->cfg >= 0)
        json_put(o, "cfg", json_real(q->cfg));
    json_put(o, "queue_s", json_real(r->begun_ns > 0 ? ns_to_s(r->begun_ns - r->received_ns) : 0));
    json_put(o, "draw_s", json_real(draw_s));
    if (steps > 0)
        json_put(o, "step_s", json_real(draw_s / steps));
    if (r->task->pick)
        json_put(o, "node", answer_string(r->task->pick->node));
    return o;
}

char *images_answer(const struct images_request *r, double draw_s)
{
    struct buf out;
    json_t *o = json_object();

    buf_init(&out, REPLY_BODY_MAX);
    buf_printf(&out, "{\"created\":%" PRId64 ",\"data\":[", clock_unix_s());
    buf_put(&out, r->data.data, r->data.len);
    buf_puts(&out, "]");
    common_put(o, &r->task->ask);
    json_put(o, "usage", usage_json());
    json_put(o, "timings", timings_json(r, draw_s));
    members_put(&out, o);
    return buf_take(&out);
}
