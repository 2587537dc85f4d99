// What clients and operators are told of servers that draw. Any thread.
#include "gateway/image_upstream_impl.h"

#include "base/json.h"
#include "gateway/answer.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *state_name(enum image_upstream_state state)
{
    return state == IMAGE_UPSTREAM_UP ? "up" : state == IMAGE_UPSTREAM_NEW ? "new" : "down";
}

// This machine's own, or another server's before it in the list.
static bool is_told(const struct image_upstreams *u, size_t server, const char *ours)
{
    if (u->local && images_goes_by(images_known(u->local), ours))
        return true;
    for (size_t i = 0; i < server; i++)
        for (size_t k = 0; k < u->servers[i].n_models; k++)
            if (strcasecmp(u->servers[i].models[k].ours, ours) == 0)
                return true;
    return false;
}

// As this machine's own is told of.
static void canvas_put(json_t *meta, const struct message_canvas *c)
{
    json_put(meta, "arch", answer_string(c->like.layout));
    json_put(meta, "side", json_integer(c->like.side));
    json_put(meta, "multiple", json_integer(c->like.multiple));
    json_put(meta, "square", json_boolean(c->like.square));
    json_put(meta, "steps", json_integer(c->like.steps));
    json_put(meta, "cfg", json_real(c->like.cfg));
}

static json_t *model_json(const struct image_upstream_server *s,
                          const struct image_upstream_model *m)
{
    json_t *o = json_object(), *meta = json_object(), *status = json_object();
    const char *value = s->state == IMAGE_UPSTREAM_UP    ? "loaded"
                        : s->state == IMAGE_UPSTREAM_NEW ? "loading"
                                                         : "failed";

    json_put(o, "id", answer_string(m->ours));
    json_put(o, "object", json_string("model"));
    json_put(o, "created", json_integer(0));
    json_put(o, "owned_by", answer_string(s->options->name));
    json_put(status, "value", json_string(value));
    json_put(o, "status", status);
    json_put(meta, "kind", json_string("image"));
    json_put(meta, "server", json_string(s->kind->name));
    json_put(meta, "edits", json_boolean(image_upstream_edits(s)));
    if (s->node)
        canvas_put(meta, &s->node->now.canvas);
    json_put(o, "meta", meta);
    return o;
}

static void server_models(struct image_upstreams *u, size_t i, const char *name, json_t *list)
{
    const struct image_upstream_server *s = &u->servers[i];

    for (size_t k = 0; k < s->n_models; k++)
        if (name ? image_upstream_model_of(s, name) == &s->models[k]
                 : !is_told(u, i, s->models[k].ours))
            json_array_append_new(list, model_json(s, &s->models[k]));
}

json_t *image_upstreams_models(struct image_upstreams *u, const char *name)
{
    json_t *list = json_array();

    if (!u)
        return list;
    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->n; i++)
        server_models(u, i, name, list);
    pthread_mutex_unlock(&u->lock);
    return list;
}

void image_upstreams_names(struct image_upstreams *u, char *out, size_t out_bytes)
{
    json_t *list = image_upstreams_models(u, NULL), *m;
    size_t i;

    json_array_foreach(list, i, m)
    {
        size_t n = strlen(out);

        snprintf(out + n, out_bytes - n, "%s\"%.100s\"", n > 0 ? ", " : "",
                 json_string_value(json_object_get(m, "id")));
    }
    json_decref(list);
}

// ---- an operator's view ----------------------------------------------------------------------------------

static json_t *models_json(const struct image_upstream_server *s)
{
    json_t *list = json_array();

    for (size_t k = 0; k < s->n_models; k++) {
        json_t *o = json_object();

        json_put(o, "model", answer_string(s->models[k].ours));
        json_put(o, "theirs", answer_string(s->models[k].theirs));
        json_put(o, "speeds", images_speeds_json(&s->models[k].speeds));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *server_json(const struct image_upstream_server *s)
{
    json_t *o = json_object();

    json_put(o, "name", answer_string(s->options->name));
    json_put(o, "address", answer_string(s->options->url));
    json_put(o, "kind", json_string(s->kind->name));
    json_put(o, "state", json_string(state_name(s->state)));
    json_put(o, "why", s->why[0] ? answer_string(s->why) : json_null());
    json_put(o, "speeds_of", json_string(s->kind->by_picture ? "picture" : "step"));
    json_put(o, "models", models_json(s));
    json_put(o, "waiting", json_integer(s->waiting));
    json_put(o, "drawing", json_integer(s->drawing));
    json_put(o, "left_s", json_real(s->left_s));
    json_put(o, "pictures", json_integer((json_int_t)s->pictures));
    json_put(o, "done", json_integer((json_int_t)s->done));
    json_put(o, "failed", json_integer((json_int_t)s->failed));
    json_put(o, "cancelled", json_integer((json_int_t)s->cancelled));
    return o;
}

json_t *image_upstreams_status(struct image_upstreams *u)
{
    json_t *list = json_array();

    if (!u)
        return list;
    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->n; i++)
        if (!image_upstream_is_free(&u->servers[i]))
            json_array_append_new(list, server_json(&u->servers[i]));
    pthread_mutex_unlock(&u->lock);
    return list;
}

static void gauges_put(struct image_upstreams *u, struct buf *out)
{
    static const char up[] = "tandem_image_node_up", running[] = "tandem_image_node_requests";

    metric_family(out, up, "gauge", "1: another server that draws is up.");
    for (size_t i = 0; i < u->n; i++) {
        if (image_upstream_is_free(&u->servers[i]))
            continue;
        const struct metric_label labels[] = {{"node", u->servers[i].options->name}};

        metric_sample(out, up, labels, 1, u->servers[i].state == IMAGE_UPSTREAM_UP);
    }
    metric_family(out, running, "gauge",
                  "Requests for pictures that wait for a server or run on it.");
    for (size_t i = 0; i < u->n; i++) {
        if (image_upstream_is_free(&u->servers[i]))
            continue;
        const struct metric_label labels[] = {{"node", u->servers[i].options->name}};

        metric_sample(out, running, labels, 1, u->servers[i].waiting + u->servers[i].drawing);
    }
}

static void ends_put(const struct image_upstream_server *s, struct buf *out)
{
    const struct {
        const char *end;
        uint64_t n;
    } rows[] = {{"done", s->done}, {"cancelled", s->cancelled}, {"failed", s->failed}};

    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        const struct metric_label labels[] = {{"node", s->options->name}, {"end", rows[k].end}};

        metric_sample(out, "tandem_image_node_total", labels, 2, (double)rows[k].n);
    }
}

void image_upstreams_metrics_put(struct image_upstreams *u, struct buf *out)
{
    if (image_upstreams_is_empty(u))
        return;
    pthread_mutex_lock(&u->lock);
    gauges_put(u, out);
    metric_family(out, "tandem_image_node_total", "counter",
                  "Requests for pictures by the server that drew them, and their end.");
    for (size_t i = 0; i < u->n; i++)
        if (!image_upstream_is_free(&u->servers[i]))
            ends_put(&u->servers[i], out);
    pthread_mutex_unlock(&u->lock);
}
