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

static enum MHD_Result refuse_fault(struct exchange *x, const struct parse_fault *f)
{
    const char *code = f->status == 404 ? "model_not_found" : err_name(f->e.code);

    return refuse(x, (unsigned)f->status, code, f->param, f->e.message);
}

static enum MHD_Result no_model(struct exchange *x)
{
    http_body_drop(x);
    return refuse(x, 404, "model_not_found", "model",
                  "this server draws no pictures: start it with --image-model FILE or "
                  "--image-upstream NAME=URL");
}

// How the client called this server, for addresses that lead back here. What could not stand in one is not
// repeated.
static void base_set(const struct exchange *x, char out[IMAGES_HOST_BYTES])
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
    int rc;

    reply_waiting_set(reply, REPLY_BODY_MAX);
    t->ask = *ask; // taken
    t->pick = pick;
    memcpy(t->owner, x->key ? x->key->owner : "", x->key ? sizeof(t->owner) : 1);
    base_set(x, t->base);
    rc = pick ? image_upstreams_send(x->image_upstreams, t) : images_send(x->images, t);
    if (rc != 0)
        images_task_free(t);
    return http_await(x, reply, rc);
}

// ---- who draws ------------------------------------------------------------------------------------------

static int nobody(struct exchange *x, const char *name, struct parse_fault *fault)
{
    char known[800] = "";

    if (x->images)
        snprintf(known, sizeof(known), "\"%.100s\"", images_known(x->images)->name);
    image_upstreams_names(x->image_upstreams, known, sizeof(known));
    if (!known[0])
        parse_fault_set(fault, ERR_BUSY, "model",
                        "no server that draws has told its models yet; try again later");
    else
        parse_fault_set(fault, ERR_NOT_FOUND, "model",
                        "there is no image model \"%.100s\" here; this server has %.300s", name,
                        known);
    fault->status = known[0] ? 404 : 503;
    return fault->e.code;
}

// What the request leaves open is what the model here likes best, also there.
static bool is_sooner_there(struct exchange *x, struct images_ask *ask,
                            const struct image_upstream_pick *pick)
{
    struct image_request r = ask->request;
    struct parse_fault fault = {0};
    bool sooner;

    if (r.n_loras > 0 || (ask->edit && !pick->model.edits) ||
        image_upstream_ask_check(pick, ask, &fault) != 0)
        return false;
    if (r.width == 0)
        r.width = r.height = images_known(x->images)->model->side;
    sooner =
        image_upstreams_is_sooner(x->image_upstreams, pick, &r, images_estimate_s(x->images, &r));
    if (sooner && !ask->edit && pick->takes & IMAGE_TAKES_SIZE)
        ask->request = r;
    return sooner;
}

// Takes the body. *pick: the server that draws, NULL: this machine. A model that both have is held against what this
// machine's own can, and goes to whoever is done sooner.
static int ask_parse(struct exchange *x, json_t *body, struct images_ask *ask,
                     struct image_upstream_pick **pick, struct parse_fault *fault)
{
    const char *given = json_string_value(json_object_get(body, "model"));
    const char *name = given ? given : "";
    bool edit = x->route->run == run_images_edit;
    bool here = x->images && (!name[0] || images_goes_by(images_known(x->images), name));
    struct image_upstream_pick *there = NULL;
    int rc;

    if (name[0] || !here)
        there = image_upstreams_find(x->image_upstreams, name);
    if (!here && !there) {
        ask->body = body;
        return nobody(x, name, fault);
    }
    rc = images_ask_parse(body, edit, here ? images_known(x->images) : &there->known, ask, fault);
    if (rc == 0 && !here)
        rc = image_upstream_ask_check(there, ask, fault);
    if (rc != 0 || (here && there && !is_sooner_there(x, ask, there))) {
        free(there);
        there = NULL;
    }
    *pick = there;
    return rc;
}

// Takes the body, which may be NULL with *fault saying why.
static enum MHD_Result body_draw(struct exchange *x, json_t *body, struct images_ask *ask,
                                 struct parse_fault *fault)
{
    struct image_upstream_pick *pick = NULL;
    int rc = body ? ask_parse(x, body, ask, &pick, fault) : fault->e.code;

    http_body_drop(x);
    if (rc == 0)
        return draw(x, ask, pick);
    images_ask_fini(ask);
    return refuse_fault(x, fault);
}

enum MHD_Result run_images_create(struct exchange *x)
{
    struct parse_fault fault = {.status = 400};
    struct images_ask ask = {0};
    size_t n;
    const char *text = http_body(x, &n);

    if (!x->images && !x->image_upstreams)
        return no_model(x);
    return body_draw(x, json_parse(text, n, &fault.e), &ask, &fault);
}

static bool is_json(const struct exchange *x)
{
    const char *type = http_header(x, MHD_HTTP_HEADER_CONTENT_TYPE);

    return type && strncasecmp(type, "application/json", 16) == 0;
}

enum MHD_Result run_images_edit(struct exchange *x)
{
    struct parse_fault fault = {.status = 400};
    struct images_ask ask = {0};
    size_t n;
    const char *form = http_body(x, &n);
    json_t *body = NULL;

    if (!x->images && !x->image_upstreams)
        return no_model(x);
    if (is_json(x)) {
        body = json_parse(form, n, &fault.e);
        if (body && images_urls_take(body, &ask, &fault) != 0) {
            json_decref(body);
            body = NULL;
        }
    } else {
        images_form_parse(x->connection, form, n, &body, &ask, &fault);
    }
    return body_draw(x, body, &ask, &fault);
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
