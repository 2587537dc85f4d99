// Who draws a request for pictures: this machine, or one of the servers that do it for it.
#include "base/json.h"
#include "gateway/image_upstream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int nobody(const struct images_places *p, const char *name, struct parse_fault *fault)
{
    char known[800] = "";

    if (p->here)
        snprintf(known, sizeof(known), "\"%.100s\"", images_known(p->here)->name);
    image_upstreams_names(p->upstreams, known, sizeof(known));
    if (!known[0])
        parse_fault_set(
            fault, ERR_BUSY, "model",
            "no node and no server that draws has told its models yet; try again later");
    else
        parse_fault_set(fault, ERR_NOT_FOUND, "model",
                        "there is no image model \"%.100s\" here; this server has %.300s", name,
                        known);
    fault->status = known[0] ? 404 : 503;
    return fault->e.code;
}

// Who of those that have the model is done soonest; takes the pick, and gives one. What the request leaves open is what
// the model here likes best, also there.
static struct image_upstream_pick *soonest(const struct images_places *p, bool here,
                                           struct images_ask *ask,
                                           struct image_upstream_pick *there)
{
    const struct image_model *model = here ? images_known(p->here)->model : &there->model;
    struct image_request r = ask->request;
    struct image_upstream_pick *best;
    struct err e = {0};

    image_request_check(&r, model, &e); // which it passed when it was read
    best = image_upstreams_soonest(p->upstreams, there, ask, &r,
                                   here ? images_estimate_s(p->here, &r) : INFINITY);
    if (best && here && !ask->edit && ask->request.width == 0 && best->takes & IMAGE_TAKES_SIZE) {
        ask->request.width = r.width;
        ask->request.height = r.height;
    }
    if (!best && !here)
        return there;
    free(there);
    return best;
}

int images_choose(const struct images_places *p, json_t *body, struct images_ask *ask,
                  struct image_upstream_pick **pick, struct parse_fault *fault)
{
    const char *name = json_string_or(body, "model", "");
    bool here = p->here && (!name[0] || images_goes_by(images_known(p->here), name));
    struct image_upstream_pick *there = NULL;
    int rc;

    if (name[0] || !here)
        there = image_upstreams_find(p->upstreams, name);
    if (!here && !there) {
        ask->body = body;
        return nobody(p, name, fault);
    }
    rc =
        images_ask_parse(body, ask->edit, here ? images_known(p->here) : &there->known, ask, fault);
    if (rc == 0 && !here)
        rc = image_upstream_ask_check(there, ask, fault);
    if (rc == 0 && there) {
        there = soonest(p, here, ask, there);
    } else if (rc != 0) {
        free(there);
        there = NULL;
    }
    *pick = there;
    return rc;
}

bool images_are_drawn(const struct images_places *p)
{
    return p->here || !image_upstreams_is_empty(p->upstreams);
}

int images_dispatch(const struct images_places *p, struct images_task *t)
{
    return t->pick ? image_upstreams_send(p->upstreams, t) : images_send(p->here, t);
}
