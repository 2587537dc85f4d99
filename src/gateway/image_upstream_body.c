// What servers that draw are told, and what is read out of their answers.
#include "gateway/image_upstream_impl.h"

#include "base/base64.h"
#include "base/json.h"
#include "gateway/image_markup.h"
#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BOUNDARY_BYTES 16
#define FIELDS_MAX (128u << 10) // bytes of a form beside its files

// ---- what is asked -------------------------------------------------------------------------------------

char *image_upstream_prompt(const struct image_upstream_order *o)
{
    return image_markup_strip(o->request->prompt);
}

char *image_upstream_negative(const struct image_upstream_order *o)
{
    return o->request->negative ? image_markup_strip(o->request->negative) : NULL;
}

// Takes the text.
static void text_put(json_t *o, const char *member, char *text)
{
    if (text)
        json_put(o, member, json_string(text));
    free(text);
}

// ---- OpenAI's ------------------------------------------------------------------------------------------

// OpenAI's own models since 2025 send no urls, and refuse the member that asks for none.
static bool wants_format(const char *model)
{
    return strncasecmp(model, "gpt-image", 9) != 0 && strncasecmp(model, "chatgpt-image", 13) != 0;
}

// Members that OpenAI's API does not have, under the names that other servers of its shape give them: only those that
// the client asked for itself. A server that does not know one says so.
static void more_put(json_t *out, const struct image_upstream_order *o)
{
    const struct image_request *r = o->request;

    text_put(out, "negative_prompt", image_upstream_negative(o));
    if (json_member(o->body, "seed") && o->seed >= 0)
        json_put(out, "seed", json_integer(o->seed));
    if (json_member(o->body, "steps"))
        json_put(out, "num_inference_steps", json_integer(r->steps));
    if ((json_member(o->body, "cfg") || json_member(o->body, "cfg_scale")) && r->cfg >= 0)
        json_put(out, "guidance_scale", json_real(r->cfg));
}

json_t *image_upstream_openai_body(const struct image_upstream_order *o)
{
    static const char *const as_sent[] = {"quality", "style", "background", "moderation"};
    const struct image_request *r = o->request;
    json_t *out = json_object();

    json_put(out, "model", json_string(o->model));
    text_put(out, "prompt", image_upstream_prompt(o));
    json_put(out, "n", json_integer(o->count));
    if (wants_format(o->model))
        json_put(out, "response_format", json_string("b64_json"));
    if (r->width > 0)
        text_put(out, "size", mem_format("%ux%u", r->width, r->height));
    for (size_t i = 0; i < sizeof(as_sent) / sizeof(as_sent[0]); i++)
        if (json_is_string(json_object_get(o->body, as_sent[i])))
            json_put(out, as_sent[i],
                     json_string(json_string_value(json_object_get(o->body, as_sent[i]))));
    more_put(out, o);
    return out;
}

static const char *type_of(const struct images_part *p)
{
    if (p->len > 3 && memcmp(p->data, "\xff\xd8\xff", 3) == 0)
        return "image/jpeg";
    return p->len > 4 && memcmp(p->data, "RIFF", 4) == 0 ? "image/webp" : "image/png";
}

static void file_put(struct buf *out, const char *boundary, const char *name,
                     const struct images_part *p)
{
    const char *type = type_of(p);

    if (!p->data)
        return;
    buf_printf(out,
               "--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s.%s\"\r\n"
               "Content-Type: %s\r\n\r\n",
               boundary, name, name, strchr(type, '/') + 1, type);
    buf_put(out, p->data, p->len);
    buf_puts(out, "\r\n");
}

static void field_put(struct buf *out, const char *boundary, const char *name, const json_t *value)
{
    buf_printf(out, "--%s\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n", boundary, name);
    if (json_is_string(value))
        buf_puts(out, json_string_value(value));
    else if (json_is_integer(value))
        buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else
        buf_printf(out, "%g", json_real_value(value));
    buf_puts(out, "\r\n");
}

// A boundary that nobody can have known stands in no prompt and in no file.
char *image_upstream_openai_form(const struct image_upstream_order *o, size_t *len,
                                 char type[IMAGE_UPSTREAM_TYPE_BYTES])
{
    json_t *fields = image_upstream_openai_body(o), *value;
    uint8_t random[BOUNDARY_BYTES];
    char boundary[2 * BOUNDARY_BYTES + 1];
    const char *name;
    struct buf out;

    os_random(random, sizeof(random));
    hex_encode(random, sizeof(random), boundary);
    snprintf(type, IMAGE_UPSTREAM_TYPE_BYTES, "multipart/form-data; boundary=%s", boundary);
    buf_init(&out, o->image->len + o->mask->len + FIELDS_MAX);
    json_object_foreach(fields, name, value)
    {
        field_put(&out, boundary, name, value);
    }
    file_put(&out, boundary, "image", o->image);
    file_put(&out, boundary, "mask", o->mask);
    buf_printf(&out, "--%s--\r\n", boundary);
    json_decref(fields);
    *len = out.len;
    return buf_take(&out);
}

// ---- sd-server's ---------------------------------------------------------------------------------------

static json_t *base64_json(const void *data, size_t n)
{
    struct buf b;
    json_t *v;

    buf_init(&b, BASE64_BYTES(n) + 1);
    base64_put(&b, data, n);
    v = json_stringn((const char *)b.data, b.len);
    buf_fini(&b);
    return v;
}

// White is what may change there, as in our own masks.
static int mask_put(json_t *out, const struct images_part *mask, struct err *e)
{
    const struct image_encode_options png = {.format = IMAGE_PNG};
    struct image_picture p = {0};
    uint8_t *file = NULL;
    size_t n = 0;
    int rc = image_decode_mask(mask->data, mask->len, &p, e);

    if (rc == 0)
        rc = image_encode(&p, &png, &file, &n, e);
    if (rc == 0)
        json_put(out, "mask", base64_json(file, n));
    image_picture_fini(&p);
    free(file);
    return rc;
}

static int edit_put(json_t *out, const struct image_upstream_order *o, struct err *e)
{
    json_t *images = json_array();

    json_array_append_new(images, base64_json(o->image->data, o->image->len));
    json_put(out, "init_images", images);
    json_put(out, "denoising_strength", json_real(o->request->strength));
    return o->mask->data ? mask_put(out, o->mask, e) : 0;
}

json_t *image_upstream_sd_body(const struct image_upstream_order *o, struct err *e)
{
    const struct image_request *r = o->request;
    json_t *out = json_object();

    text_put(out, "prompt", image_upstream_prompt(o));
    text_put(out, "negative_prompt", image_upstream_negative(o));
    json_put(out, "batch_size", json_integer(o->count));
    json_put(out, "seed", json_integer(o->seed));
    if (r->width > 0) {
        json_put(out, "width", json_integer(r->width));
        json_put(out, "height", json_integer(r->height));
    }
    if (r->steps > 0)
        json_put(out, "steps", json_integer(r->steps));
    if (r->cfg >= 0)
        json_put(out, "cfg_scale", json_real(r->cfg));
    if (r->sampler)
        json_put(out, "sampler_name", json_string(r->sampler));
    if (r->scheduler)
        json_put(out, "scheduler", json_string(r->scheduler));
    if (o->image->data && edit_put(out, o, e) != 0) {
        json_decref(out);
        return NULL;
    }
    return out;
}

// ---- answers -------------------------------------------------------------------------------------------

// The base64 of an entry: {"b64_json": ..}, a text, or a data: URL as either. NULL: it leads to another address, or
// nowhere.
static const char *base64_of(const json_t *entry)
{
    const char *text = json_string_value(json_object_get(entry, "b64_json"));

    text = text ? text : json_string_value(json_object_get(entry, "url"));
    text = text ? text : json_string_value(entry);
    if (!text || strncasecmp(text, "data:", 5) == 0) {
        text = text ? strchr(text, ',') : NULL;
        return text ? text + 1 : NULL;
    }
    return strstr(text, "://") ? NULL : text;
}

static int entry_take(const json_t *entry, const struct image_upstream_taker *t, struct err *e)
{
    const char *text = base64_of(entry);
    size_t n = text ? strlen(text) : 0, len = 0, bad;
    uint8_t *data;
    int rc;

    if (!text)
        return err_set(e, ERR_CORRUPT,
                       "sends no picture but an address, which is not followed: it must be able to "
                       "answer with b64_json");
    if (n > IMAGE_UPSTREAM_PICTURE_MAX)
        return err_set(e, ERR_CORRUPT, "sends a picture of %zu bytes; at most %u are taken", n,
                       IMAGE_UPSTREAM_PICTURE_MAX);
    data = mem_alloc(n / 4 * 3 + 4);
    rc = base64_decode(text, n, data, &len, &bad)
             ? t->take(t->ctx, data, len, e)
             : err_set(e, ERR_CORRUPT, "sends a picture that is no base64");
    free(data);
    return rc;
}

int image_upstream_pictures(const void *text, size_t n, const struct image_upstream_taker *t,
                            struct err *e)
{
    json_t *o = json_parse(text, n, e);
    const json_t *list = json_object_get(o, "data"), *entry;
    size_t i;
    int rc = 0;

    list = json_is_array(list) ? list : json_object_get(o, "images");
    if (json_array_size(list) == 0)
        rc = err_set(e, ERR_CORRUPT, "answers without a picture");
    json_array_foreach(list, i, entry)
    {
        if (rc == 0 && i < t->most)
            rc = entry_take(entry, t, e);
    }
    json_decref(o);
    return rc;
}

// ---- models --------------------------------------------------------------------------------------------

static void name_take(json_t *names, const json_t *entry, const char *member)
{
    const char *name = json_string_value(json_object_get(entry, member));

    if (name && name[0] && strlen(name) < PARSE_MODEL_BYTES &&
        json_array_size(names) < IMAGE_UPSTREAM_MODELS_MAX)
        json_array_append_new(names, json_string(name));
}

json_t *image_upstream_list(enum gateway_upstream_kind kind, const void *text, size_t n,
                            struct err *e)
{
    bool sd = kind == GATEWAY_UPSTREAM_SD;
    json_t *o = json_parse(text, n, e), *names = json_array();
    const json_t *list = sd || json_is_array(o) ? o : json_object_get(o, "data"), *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        name_take(names, entry, sd ? "model_name" : "id");
    }
    if (!(kind == GATEWAY_UPSTREAM_COMFY ? json_is_object(o) : json_is_array(list))) {
        json_decref(names);
        names = NULL;
        err_set(e, ERR_CORRUPT, "answers its check with something else; is kind= right?");
    }
    json_decref(o);
    return names;
}
