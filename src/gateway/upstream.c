#include "gateway/upstream.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"
#include "gateway/profiles.h"
#include "gateway/upstream_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TEXT_BYTES_PER_TOKEN 4.0

// ---- models -------------------------------------------------------------------------------------------

// What a model is called that a server calls by its file: the file's name.
static const char *brief_of(const char *theirs)
{
    const char *slash = strrchr(theirs, '/');

    return theirs[0] == '/' && slash[1] ? slash + 1 : theirs;
}

static void model_set(struct upstream_model *m, const char *theirs, const char *ours,
                      uint32_t n_ctx)
{
    char *dot;

    *m = (struct upstream_model){.n_ctx = n_ctx};
    snprintf(m->theirs, sizeof(m->theirs), "%s", theirs);
    snprintf(m->ours, sizeof(m->ours), "%s", ours ? ours : brief_of(theirs));
    dot = strrchr(m->ours, '.');
    if (!ours && dot && strcmp(dot, ".gguf") == 0)
        *dot = '\0';
}

static uint32_t context_listed(const struct upstream_report *r, const char *theirs)
{
    for (size_t i = 0; i < r->n_models; i++)
        if (strcmp(r->models[i].id, theirs) == 0)
            return r->models[i].n_ctx;
    return 0;
}

static void local_find(struct core *c, struct upstream *u)
{
    for (size_t i = 0; c->n_models > 0 && i < u->n_models; i++)
        u->models[i].local = model_find(c, u->models[i].ours);
}

void upstreams_match(struct core *c)
{
    for (size_t i = 0; c->upstreams && i < c->upstreams->n; i++)
        local_find(c, &c->upstreams->all[i]);
}

// Those that were named, or all that it lists. r NULL: nothing was listed yet.
static void models_set(struct core *c, struct upstream *u, const struct upstream_report *r)
{
    const struct gateway_upstream *o = u->options;
    size_t n = o->n_models > 0 ? o->n_models : r ? r->n_models : 0;

    if (o->n_models == 0 && (!r || !r->models))
        return;
    u->models = mem_resize(u->models, (n + 1) * sizeof(*u->models));
    u->n_models = n;
    u->listed = true;
    for (size_t i = 0; i < n; i++) {
        const char *theirs = o->n_models > 0 ? o->models[i].theirs : r->models[i].id;

        model_set(&u->models[i], theirs, o->n_models > 0 ? o->models[i].ours : NULL,
                  r ? context_listed(r, theirs) : 0);
    }
    local_find(c, u);
}

static const struct upstream_model *model_called(const struct upstream *u, const char *name)
{
    for (size_t i = 0; i < u->n_models; i++)
        if (strcasecmp(name, u->models[i].ours) == 0 || strcasecmp(name, u->models[i].theirs) == 0)
            return &u->models[i];
    return NULL;
}

const struct upstream_model *upstream_model_of(const struct upstream *u, const char *name)
{
    const struct upstream_model *m = model_called(u, name);
    size_t n = strlen(u->options->name);

    if (!m && strncasecmp(name, u->options->name, n) == 0 && name[n] == '/')
        m = model_called(u, name + n + 1);
    return m;
}

const struct upstream_model *upstream_wanted(const struct upstream *u, const struct request *r)
{
    if (!r->model)
        return upstream_model_of(u, r->in.model);
    for (size_t i = 0; i < u->n_models; i++)
        if (u->models[i].local == r->model)
            return &u->models[i];
    return NULL;
}

static bool is_local(struct core *c, const char *name)
{
    return c->n_models > 0 && model_find(c, name) != NULL;
}

// ---- peers --------------------------------------------------------------------------------------------

static void say(void *ctx, struct upstream_word *w)
{
    struct core_message m = {.what = CORE_WORD, .word = mem_alloc(sizeof(*w))};

    *m.word = *w;
    core_send(ctx, &m, CHAN_FOREVER);
}

void upstream_word_free(struct upstream_word *w)
{
    if (!w)
        return;
    if (w->report)
        free(w->report->models);
    else
        wire_frame_fini(&w->frame);
    free(w->report);
    free(w);
}

static void peer_init_as(struct core *c, struct upstream *u)
{
    struct peer *p = &c->peers[CORE_PEERS_MAX + u->index];

    *p = (struct peer){.index = CORE_PEERS_MAX + u->index,
                       .upstream = u,
                       .state = PEER_DOWN,
                       .since_ns = clock_now_ns()};
    snprintf(p->address, sizeof(p->address), "%s", u->options->name);
    snprintf(p->why, sizeof(p->why), "it has not been asked yet");
    u->peer = p;
}

int upstreams_start(struct core *c, struct err *e)
{
    struct upstreams *all;
    struct upstream_thread_options o = {
        .servers = c->options.upstreams, .n = c->options.n_upstreams, .say = say, .ctx = c};
    int rc;

    if (o.n == 0)
        return 0;
    all = c->upstreams = mem_alloc(sizeof(*all));
    all->n = o.n;
    for (size_t i = 0; i < o.n; i++) {
        all->all[i] = (struct upstream){
            .options = &o.servers[i], .index = i, .token_bytes = TEXT_BYTES_PER_TOKEN};
        peer_init_as(c, &all->all[i]);
        models_set(c, &all->all[i], NULL);
    }
    profile_defaults(&all->unknown);
    rc = upstream_thread_start(&o, &all->thread, e);
    for (size_t i = 0; i < o.n; i++)
        all->all[i].thread = all->thread;
    return rc;
}

void upstreams_stop(struct core *c)
{
    if (!c->upstreams)
        return;
    upstream_thread_stop(c->upstreams->thread);
    c->upstreams->thread = NULL;
}

void upstreams_free(struct core *c)
{
    if (!c->upstreams)
        return;
    for (size_t i = 0; i < c->upstreams->n; i++) {
        json_decref(c->upstreams->all[i].peer->status);
        free(c->upstreams->all[i].models);
    }
    free(c->upstreams);
    c->upstreams = NULL;
}

static void state_set(struct upstream *u, enum peer_state state, const char *why)
{
    struct peer *p = u->peer;

    if (p->state != state)
        p->since_ns = clock_now_ns();
    if (state == PEER_UP && p->state != state)
        log_info("gateway", "upstream server %s is up: address=%s models=%zu", u->options->name,
                 u->options->url, u->n_models);
    else if (state != PEER_UP && strcmp(p->why, why) != 0)
        log_warn("gateway", "upstream server %s is not used: %s", u->options->name, why);
    p->state = state;
    snprintf(p->why, sizeof(p->why), "%s", why);
}

void upstream_on_word(struct core *c, const struct upstream_word *w)
{
    struct upstream *u = &c->upstreams->all[w->server];
    const struct upstream_report *r = w->report;

    if (!r) {
        request_on_frame(c, u->peer, (struct wire_frame *)(uintptr_t)&w->frame, w->at_ns);
        return;
    }
    if (r->up)
        models_set(c, u, r);
    state_set(u, r->up ? PEER_UP : r->refused ? PEER_REFUSED : PEER_DOWN, r->why);
}

void upstream_send(const struct peer *p, struct wire_frame f)
{
    const struct upstream *u = p->upstream;

    if (f.type == WIRE_CANCEL && u->thread)
        upstream_thread_cancel(u->thread, u->index, f.id);
    wire_frame_fini(&f);
}

// ---- what is told ---------------------------------------------------------------------------------------

bool upstream_any_up(const struct core *c)
{
    for (size_t i = 0; c->upstreams && i < c->upstreams->n; i++)
        if (c->upstreams->all[i].peer->state == PEER_UP)
            return true;
    return false;
}

const char *upstream_why(const struct core *c)
{
    return c->upstreams ? c->upstreams->all[0].peer->why : "";
}

// Of this name before it in the list: another server's.
static bool is_told(const struct core *c, size_t server, const char *ours)
{
    for (size_t i = 0; i < server; i++)
        for (size_t k = 0; k < c->upstreams->all[i].n_models; k++)
            if (strcasecmp(c->upstreams->all[i].models[k].ours, ours) == 0)
                return true;
    return false;
}

static json_t *model_json(const struct upstream *u, const struct upstream_model *m)
{
    json_t *o = json_object(), *status = json_object(), *meta = json_object();

    json_put(o, "id", answer_string(m->ours));
    json_put(o, "object", json_string("model"));
    json_put(o, "created", json_integer(0));
    json_put(o, "owned_by", answer_string(u->options->name));
    json_put(status, "value", json_string(u->peer->state == PEER_UP ? "loaded" : "failed"));
    json_put(o, "status", status);
    if (m->n_ctx > 0)
        json_put(meta, "n_ctx", json_integer(m->n_ctx));
    json_put(o, "meta", meta);
    return o;
}

void upstream_models(struct core *c, json_t *list)
{
    for (size_t i = 0; c->upstreams && i < c->upstreams->n; i++) {
        const struct upstream *u = &c->upstreams->all[i];

        for (size_t k = 0; k < u->n_models; k++)
            if (!is_local(c, u->models[k].ours) && !is_told(c, i, u->models[k].ours))
                json_array_append_new(list, model_json(u, &u->models[k]));
    }
}

json_t *upstream_model(struct core *c, const char *name)
{
    for (size_t i = 0; c->upstreams && i < c->upstreams->n; i++) {
        const struct upstream_model *m = upstream_model_of(&c->upstreams->all[i], name);

        if (m)
            return model_json(&c->upstreams->all[i], m);
    }
    return NULL;
}

size_t upstream_names(struct core *c, char *out, size_t out_bytes, size_t len)
{
    for (size_t i = 0; c->upstreams && i < c->upstreams->n; i++) {
        const struct upstream *u = &c->upstreams->all[i];

        for (size_t k = 0; k < u->n_models && len < out_bytes; k++)
            if (!is_told(c, i, u->models[k].ours))
                len += (size_t)snprintf(out + len, out_bytes - len, "%s\"%s\"", len > 0 ? ", " : "",
                                        u->models[k].ours);
    }
    return len;
}

// Rates as they were seen, of the model that was asked for last.
static json_t *rates_json(struct core *c, const struct upstream *u)
{
    const struct upstream_model *m = u->asked[0] ? upstream_model_of(u, u->asked) : NULL;
    const struct profile_book *b = m ? upstream_book(c, u, m) : NULL;
    json_t *o = json_object(), *rates = json_object();

    if (b && b->read.samples > 0)
        json_put(rates, "prefill_tokens_per_s", json_real(1000 / profile_read_s(&b->p, 1000, 0)));
    if (b && b->step.samples > 0)
        json_put(rates, "decode_tokens_per_s", json_real(1 / profile_step_s(&b->p, 1, 0)));
    json_put(o, "rates", rates);
    return o;
}

void upstream_put(const struct core *c, const struct peer *p, json_t *o)
{
    const struct upstream *u = p->upstream;
    json_t *models = json_array();

    for (size_t i = 0; i < u->n_models; i++)
        json_array_append_new(models, answer_string(u->models[i].ours));
    json_put(o, "role", json_string("upstream"));
    json_put(o, "address", answer_string(u->options->url));
    json_put(o, "models", models);
    json_put(o, "price_in", u->options->priced ? json_real(u->options->price_in) : json_null());
    json_put(o, "price_out", u->options->priced ? json_real(u->options->price_out) : json_null());
    json_put(o, "worker", rates_json((struct core *)(uintptr_t)c, u));
}
