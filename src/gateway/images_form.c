// Pictures that come with /images/edits: in a form, whose fields are texts, or as data: URLs in JSON.
#include "gateway/images.h"

#include "base/base64.h"
#include "base/buf.h"
#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define POST_BUFFER_BYTES 16384
#define FIELD_MAX (1u << 20) // bytes of a field that is no file

enum kind { TEXT, WHOLE, FRACTION, FLAG };

static const struct {
    const char *name;
    enum kind kind;
} fields[] = {
    {"prompt", TEXT},
    {"negative_prompt", TEXT},
    {"model", TEXT},
    {"size", TEXT},
    {"quality", TEXT},
    {"background", TEXT},
    {"style", TEXT},
    {"moderation", TEXT},
    {"sampler", TEXT},
    {"scheduler", TEXT},
    {"output_format", TEXT},
    {"response_format", TEXT},
    {"n", WHOLE},
    {"steps", WHOLE},
    {"seed", WHOLE},
    {"output_compression", WHOLE},
    {"partial_images", WHOLE},
    {"cfg", FRACTION},
    {"cfg_scale", FRACTION},
    {"strength", FRACTION},
    {"stream", FLAG},
    {"progress", FLAG},
    {"store", FLAG},
};
#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

struct form {
    struct buf texts[N_FIELDS];
    bool seen[N_FIELDS];
    struct images_ask *ask;
    struct parse_fault *fault;
    bool failed;
};

// ---- collecting -----------------------------------------------------------------------------------------

static void failed(struct form *f, const char *param, const char *message)
{
    if (!f->failed)
        parse_fault_set(f->fault, ERR_INVALID, param, "%s", message);
    f->failed = true;
}

// A file comes piece by piece, in order; `at` 0 begins one. What is not larger than the whole form needs no
// limit of its own.
static void part_take(struct form *f, struct images_part *p, const char *name, const char *data,
                      uint64_t at, size_t n)
{
    if (at != p->len) {
        failed(f, name, strcmp(name, "image") == 0 ? "one picture at a time" : "one mask");
        return;
    }
    p->data = mem_resize(p->data, p->len + n + 1);
    memcpy(p->data + p->len, data, n);
    p->len += n;
}

static void field_take(struct form *f, size_t i, const char *data, size_t n)
{
    f->seen[i] = true;
    if (buf_put(&f->texts[i], data, n) != 0)
        failed(f, fields[i].name, "the field is larger than 1 MiB");
}

static enum MHD_Result form_part(void *ctx, enum MHD_ValueKind kind, const char *key,
                                 const char *filename, const char *type, const char *encoding,
                                 const char *data, uint64_t at, size_t n)
{
    struct form *f = ctx;

    (void)kind;
    (void)filename;
    (void)type;
    (void)encoding;
    if (!key) // a part without a name is nobody's
        return MHD_YES;
    if (strcmp(key, "image") == 0 || strcmp(key, "image[]") == 0)
        part_take(f, &f->ask->image, "image", data, at, n);
    else if (strcmp(key, "mask") == 0)
        part_take(f, &f->ask->mask, "mask", data, at, n);
    for (size_t i = 0; i < N_FIELDS && !f->failed; i++)
        if (strcmp(key, fields[i].name) == 0)
            field_take(f, i, data, n);
    return f->failed ? MHD_NO : MHD_YES;
}

// ---- values ---------------------------------------------------------------------------------------------

// A value that does not read stays text, and the parser of bodies says what it must be.
static json_t *value_make(enum kind kind, const char *text)
{
    char *end = NULL;
    long long whole = kind == WHOLE ? strtoll(text, &end, 10) : 0;
    double fraction = kind == FRACTION ? strtod(text, &end) : 0;
    bool read = end && end != text && !*end;

    if (kind == WHOLE && read)
        return json_integer(whole);
    if (kind == FRACTION && read && isfinite(fraction))
        return json_real(fraction);
    if (kind == FLAG && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0))
        return json_boolean(text[0] == 't');
    return json_string(text);
}

// False: a text that is not UTF-8, or has a NUL, which a C string would end at.
static bool field_put(const struct form *f, size_t i, json_t *body)
{
    const struct buf *b = &f->texts[i];
    const char *text = b->data ? (const char *)b->data : "";
    json_t *v = strlen(text) == b->len ? value_make(fields[i].kind, text) : NULL;

    if (!v)
        return false;
    json_object_set_new(body, fields[i].name, v);
    return true;
}

static json_t *body_make(struct form *f)
{
    json_t *body = json_object();

    for (size_t i = 0; i < N_FIELDS; i++)
        if (f->seen[i] && !field_put(f, i, body))
            failed(f, fields[i].name, "the field is not UTF-8 text");
    return body;
}

// A part that is a form of its own, as mail has them. No client of ours sends one, and the library forgets to free the
// boundary of one inside of another.
static bool is_nested(const char *form, size_t n)
{
    static const char head[] = "content-type: multipart/mixed";
    const char *end = form + n, *line = form;

    while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL)
        if ((size_t)(end - ++line) >= strlen(head) && strncasecmp(line, head, strlen(head)) == 0)
            return true;
    return false;
}

int images_form_parse(struct MHD_Connection *connection, const char *form, size_t n, json_t **body,
                      struct images_ask *out, struct parse_fault *fault)
{
    struct form *f = mem_alloc(sizeof(*f));
    struct MHD_PostProcessor *post;
    int rc;

    *fault = (struct parse_fault){.status = 400};
    f->ask = out;
    f->fault = fault;
    for (size_t i = 0; i < N_FIELDS; i++)
        buf_init(&f->texts[i], FIELD_MAX);
    post = MHD_create_post_processor(connection, POST_BUFFER_BYTES, form_part, f);
    if (!post) {
        failed(f, NULL, "send multipart/form-data with the fields image and prompt");
        fault->status = 415;
    } else if (is_nested(form, n)) {
        failed(f, NULL, "send the form's fields one beside another, not as multipart/mixed");
    } else if (MHD_post_process(post, form, n) != MHD_YES) {
        failed(f, NULL, "the form does not read");
    }
    if (post && MHD_destroy_post_processor(post) != MHD_YES)
        failed(f, NULL, "the form is cut short");
    *body = f->failed ? NULL : body_make(f);
    rc = f->failed ? ERR_INVALID : 0;
    if (rc != 0) {
        json_decref(*body);
        *body = NULL;
    }
    for (size_t i = 0; i < N_FIELDS; i++)
        buf_fini(&f->texts[i]);
    free(f);
    return rc;
}

// ---- JSON -----------------------------------------------------------------------------------------------

// "data:image/png;base64,...".
static int url_take(const char *url, const char *member, struct images_part *p,
                    struct parse_fault *fault)
{
    const char *comma = strncmp(url, "data:", 5) == 0 ? strchr(url, ',') : NULL;
    size_t n = comma ? strlen(comma + 1) : 0, bad = 0;

    if (!comma || comma - url < 7 || strncmp(comma - 7, ";base64", 7) != 0)
        return parse_fault_set(
            fault, ERR_INVALID, member,
            "'%s' must be a data: URL with base64 (\"data:image/png;base64,...\"); "
            "nothing is fetched from elsewhere",
            member);
    p->data = mem_alloc(n / 4 * 3 + 4);
    if (!base64_decode(comma + 1, n, p->data, &p->len, &bad))
        return parse_fault_set(fault, ERR_INVALID, member, "'%s': byte %zu is no base64", member,
                               bad);
    return 0;
}

// {"image_url": URL}, or the URL alone; absent is fine here.
static int member_take(const json_t *v, const char *member, struct images_part *p,
                       struct parse_fault *fault)
{
    const char *url = json_string_value(json_is_object(v) ? json_object_get(v, "image_url") : v);

    if (!v || json_is_null(v))
        return 0;
    if (!url)
        return parse_fault_set(fault, ERR_INVALID, member,
                               "'%s' must be {\"image_url\": \"data:...\"}", member);
    return url_take(url, member, p, fault);
}

int images_urls_take(json_t *body, struct images_ask *out, struct parse_fault *fault)
{
    const json_t *list = json_object_get(body, "images"), *one = json_object_get(body, "image");
    int rc;

    *fault = (struct parse_fault){.status = 400};
    if (json_array_size(list) > 1)
        return parse_fault_set(fault, ERR_INVALID, "images", "one picture at a time (got %zu)",
                               json_array_size(list));
    rc = member_take(json_is_array(list) ? json_array_get(list, 0) : one, "image", &out->image,
                     fault);
    if (rc == 0)
        rc = member_take(json_object_get(body, "mask"), "mask", &out->mask, fault);
    json_object_del(body, "images"); // the body is kept for its texts, not for these
    json_object_del(body, "image");
    json_object_del(body, "mask");
    return rc;
}
