// OpenAI's /images: what is asked, and the way to the thread that draws (images.h).
#include "gateway/route.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/image_upstream.h"
#include "gateway/images.h"
#include "gateway/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *code,
                              const char *param, const char *message)
{
    return http_answer(x, status, route_error(x, status, code, param, message));
}

enum MHD_Result route_images_fault(struct exchange *x, const struct parse_fault *f)
{
    const char *code = f->status == 404 ? "model_not_found" : err_name(f->e.code);

    return refuse(x, (unsigned)f->status, code, f->param, f->e.message);
}

enum MHD_Result route_images_none(struct exchange *x)
{
    http_body_drop(x);
    return refuse(x, 404, "model_not_found", "model",
                  "this server draws no pictures: start it with --image-model FILE or "
                  "--image-upstream NAME=URL, or give it a node that does (tandem node "
                  "--image-model FILE)");
}

// How the client called this server, for addresses that lead back here. What could not stand in one is not
// repeated.
void route_images_base(const struct exchange *x, char out[IMAGES_HOST_BYTES])
{
    static const char good[] =
        "0123456789-_.:[]ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const char *host = http_header(x, MHD_HTTP_HEADER_HOST);
    const char *proto = http_header(x, "X-Forwarded-Proto");
    bool secure = proto && strcasecmp(proto, "https") == 0;

    if (!host || !host[0] || strlen(host) > 250 || strspn(host, good) != strlen(host))
        host = "127.0.0.1";
    snprintf(out, IMAGES_HOST_BYTES, "%s://%s", secure ? "https" : "http", host);
}

// Takes the pick, NULL: this machine draws.
static enum MHD_Result draw(struct exchange *x, struct images_ask *ask,
                            struct image_upstream_pick *pick)
{
    struct reply *reply = reply_new(x->connection);
    struct images_task *t = images_task_new(IMAGES_DRAW, reply);
    const struct images_places places = {x->images, x->image_upstreams};
    int rc;

    reply_waiting_set(reply, REPLY_BODY_MAX);
    t->ask = *ask; // taken
    t->pick = pick;
    memcpy(t->owner, x->key ? x->key->owner : "", x->key ? sizeof(t->owner) : 1);
    route_images_base(x, t->base);
    rc = images_dispatch(&places, t);
    if (rc != 0)
        images_task_free(t);
    return http_await(x, reply, rc);
}

// Takes the body, which may be NULL with *fault saying why.
static enum MHD_Result body_draw(struct exchange *x, json_t *body, struct images_ask *ask,
                                 struct parse_fault *fault)
{
    const struct images_places places = {x->images, x->image_upstreams};
    struct image_upstream_pick *pick = NULL;
    int rc = fault->e.code;

    ask->edit = x->route->run == run_images_edit;
    if (body)
        rc = images_choose(&places, body, ask, &pick, fault);
    http_body_drop(x);
    if (rc == 0)
        return draw(x, ask, pick);
    images_ask_fini(ask);
    return route_images_fault(x, fault);
}

enum MHD_Result run_images_create(struct exchange *x)
{
    struct parse_fault fault = {.status = 400};
    struct images_ask ask = {0};
    size_t n;
    const char *text = http_body(x, &n);
    const struct images_places places = {x->images, x->image_upstreams};

    if (!images_are_drawn(&places))
        return route_images_none(x);
    return body_draw(x, json_parse(text, n, &fault.e), &ask, &fault);
}

static bool is_typed(const struct exchange *x, const char *wanted)
{
    const char *type = http_header(x, MHD_HTTP_HEADER_CONTENT_TYPE);

    return type && strncasecmp(type, wanted, strlen(wanted)) == 0;
}

static json_t *form_read(struct exchange *x, struct images_ask *ask, struct parse_fault *fault)
{
    size_t n;
    const char *form = http_body(x, &n);
    json_t *body = NULL;

    images_form_parse(x->connection, form, n, &body, ask, fault);
    return body;
}

// The files of a body of JSON, which may be NULL, become the request's. Takes it.
static json_t *files_take(json_t *body, struct images_ask *ask, struct parse_fault *fault)
{
    if (!body || images_urls_take(body, ask, fault) == 0)
        return body;
    json_decref(body);
    return NULL;
}

enum MHD_Result run_images_edit(struct exchange *x)
{
    struct parse_fault fault = {.status = 400};
    struct images_ask ask = {0};
    size_t n;
    const char *text = http_body(x, &n);
    const struct images_places places = {x->images, x->image_upstreams};
    json_t *body;

    if (!images_are_drawn(&places))
        return route_images_none(x);
    body = is_typed(x, "application/json") ? files_take(json_parse(text, n, &fault.e), &ask, &fault)
                                           : form_read(x, &ask, &fault);
    return body_draw(x, body, &ask, &fault);
}

json_t *route_images_body(struct exchange *x, struct images_ask *ask, struct parse_fault *fault)
{
    size_t n;
    const char *text = http_body(x, &n);
    json_t *body;

    ask->edit = is_typed(x, "multipart/form-data");
    if (ask->edit)
        return form_read(x, ask, fault);
    body = json_parse(text, n, &fault->e);
    ask->edit = json_object_get(body, "images") || json_object_get(body, "image") ||
                json_object_get(body, "mask");
    return ask->edit ? files_take(body, ask, fault) : body;
}

// ---- pictures by url ------------------------------------------------------------------------------------

enum MHD_Result run_images_file(struct exchange *x)
{
    enum image_format format = IMAGE_PNG;
    uint64_t bytes = 0;
    struct err e = {0};
    int fd;

    if (images_store_open(x->rest, x->options->images.expiry_s, &fd, &bytes, &format, &e) != 0)
        return refuse(x, 404, "not_found", NULL, e.message);
    return http_answer_file(x, fd, bytes, image_format_mime(format));
}
