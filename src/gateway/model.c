#include "gateway/model.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/core.h"
#include "gateway/ship.h"
#include "models/names.h"
#include "os/os.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define GIB 1073741824.0
#define ROOM_RETRY_NS (NS_PER_S / 2) // memory that a worker left is not free at once

void model_init(struct model *m, struct core *c, size_t index)
{
    const struct gateway_options *o = &c->options;

    *m = (struct model){.index = index, .options = &o->models[index], .worker = o->worker};
    m->worker.engine.model = m->options->path;
    if (index > 0 || !m->worker.engine.projector) // what the command line says is the first one's
        m->worker.engine.projector = m->options->projector;
    m->on_demand = m->options->on_demand;
    m->worker.asleep = m->on_demand;
    m->peer = &c->peers[index];
    m->peer->model = m;
    m->ship = ship_new(m->options->path);
}

// ---- names ------------------------------------------------------------------------------------------

void model_stem(const struct model *m, char *out, size_t out_bytes)
{
    const char *path = m->options->path, *slash = path ? strrchr(path, '/') : NULL;
    char *dot;

    snprintf(out, out_bytes, "%s", slash ? slash + 1 : path ? path : "");
    dot = strrchr(out, '.');
    if (dot && strcmp(dot, ".gguf") == 0)
        *dot = '\0';
}

const char *model_name(const struct model *m)
{
    if (m->options->name)
        return m->options->name;
    return m->peer->known ? m->peer->welcome.model : m->options->path;
}

static bool goes_by(const struct model *m, const char *name)
{
    char stem[PARSE_MODEL_BYTES];

    if (strcasecmp(name, model_name(m)) == 0 ||
        (m->peer->known && strcasecmp(name, m->peer->welcome.model) == 0))
        return true;
    for (size_t i = 0; i < m->options->n_aliases; i++)
        if (strcasecmp(name, m->options->aliases[i]) == 0)
            return true;
    model_stem(m, stem, sizeof(stem));
    return strcasecmp(name, stem) == 0;
}

// By a part of its name in the store: without the owner, or the quantisation.
static bool goes_by_part(const struct model *m, const struct models_id *wanted)
{
    struct models_id id;
    struct err e = {0};

    return m->options->id && models_name_parse(m->options->id, &id, &e) == 0 &&
           models_name_matches(wanted, &id);
}

struct model *model_find(struct core *c, const char *name)
{
    struct models_id wanted;
    struct err e = {0};

    if (!name[0])
        return c->n_models > 0 ? &c->models[0] : NULL;
    for (size_t i = 0; i < c->n_models; i++)
        if (goes_by(&c->models[i], name))
            return &c->models[i];
    if (models_name_parse(name, &wanted, &e) != 0)
        return NULL;
    for (size_t i = 0; i < c->n_models; i++)
        if (goes_by_part(&c->models[i], &wanted))
            return &c->models[i];
    return NULL;
}

void model_list(struct core *c, char *out, size_t out_bytes)
{
    char stem[PARSE_MODEL_BYTES];
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < c->n_models && len < out_bytes; i++) {
        const struct model *m = &c->models[i];
        const char *name = m->options->name || m->peer->known ? model_name(m) : NULL;

        model_stem(m, stem, sizeof(stem));
        len += (size_t)snprintf(out + len, out_bytes - len, "%s\"%s\"", i > 0 ? ", " : "",
                                name ? name : stem);
        if (name && !m->options->name && strcmp(name, stem) != 0 && len < out_bytes)
            len += (size_t)snprintf(out + len, out_bytes - len, " (also called \"%s\")", stem);
    }
    if (upstream_names(c, out, out_bytes, len) == 0)
        snprintf(out, out_bytes, "none");
}

const char *model_state(const struct model *m)
{
    if (m->peer->state == PEER_UP && !m->resting)
        return "loaded";
    if (m->peer->state == PEER_RESTING && !m->waits)
        return "unloaded";
    return m->peer->state == PEER_DEAD ? "failed" : "loading";
}

bool model_is_loaded(const struct model *m)
{
    return m->peer->state == PEER_UP && !m->resting;
}

bool model_kept_loaded(const struct core *c)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (!c->models[i].on_demand && !model_is_loaded(&c->models[i]))
            return false;
    return true;
}

bool model_all_failed(const struct core *c)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (c->models[i].peer->state != PEER_DEAD)
            return false;
    return true;
}

// ---- room -------------------------------------------------------------------------------------------

static bool is_idle(const struct core *c, const struct model *m)
{
    return model_is_loaded(m) && request_count(c, m->peer) == 0;
}

// Of those that have nothing to do, and `kept` ones too or not, the one that was used longest ago; NULL: there
// is none.
static struct model *oldest_idle(struct core *c, bool kept)
{
    struct model *oldest = NULL;

    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = &c->models[i];

        if ((m->on_demand || kept) && is_idle(c, m) && (!oldest || m->used_ns < oldest->used_ns))
            oldest = m;
    }
    return oldest;
}

static size_t loaded_count(const struct core *c)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n_models; i++)
        n += c->models[i].peer->state != PEER_RESTING;
    return n;
}

static bool some_rest(const struct core *c)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (c->models[i].resting)
            return true;
    return false;
}

// What keeps it from being loaded now, in words; false: nothing does.
static bool room_missing(const struct core *c, const struct model *m, struct err *e)
{
    uint64_t free_bytes = os_memory_available(), need = m->options->need_bytes;

    if (c->options.models_max > 0 && loaded_count(c) >= c->options.models_max) {
        err_set(e, ERR_BUSY, "%zu models are loaded, and no more may be (--models-max %u)",
                loaded_count(c), c->options.models_max);
        return true;
    }
    if (need == 0 || free_bytes == 0 || need <= free_bytes)
        return false;
    err_set(e, ERR_BUSY, "model \"%.100s\" needs %.1f GiB, and %.1f GiB are free", model_name(m),
            (double)need / GIB, (double)free_bytes / GIB);
    return true;
}

static void rest(struct core *c, struct model *m, const char *why)
{
    log_info("gateway", "unloading a model: name=\"%s\" why=\"%s\"", model_name(m), why);
    m->resting = true;
    c->source.rest(c->source.ctx, m->index);
}

static void load(struct core *c, struct model *m)
{
    m->waits = false;
    peer_wake(m->peer);
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (c->peers[i].model == m && c->peers[i].state == PEER_RESTING)
            peer_wake(&c->peers[i]);
    c->source.wake(c->source.ctx, m->index);
}

// Loads it, or makes room for it. ERR_BUSY: there is nothing that could go.
static int load_or_wait(struct core *c, struct model *m, struct err *e)
{
    struct model *victim;
    struct err why = {0};

    if (!room_missing(c, m, &why)) {
        load(c, m);
        return 0;
    }
    victim = some_rest(c) ? NULL : oldest_idle(c, false);
    if (victim)
        rest(c, victim, "another model needs its room");
    m->waits = victim || some_rest(c);
    if (!m->waits)
        return err_set(e, ERR_BUSY, "%.300s; unload one that is not in use, or try again later",
                       why.message);
    return 0;
}

int model_wake(struct core *c, struct model *m, struct err *e)
{
    if (m->peer->state != PEER_RESTING || m->waits)
        return 0;
    return load_or_wait(c, m, e);
}

int model_unload(struct core *c, struct model *m, struct err *e)
{
    uint32_t n = request_count(c, m->peer);

    if (n > 0)
        return err_set(e, ERR_BUSY,
                       "%u requests run on model \"%.100s\"; try again when they have ended", n,
                       model_name(m));
    m->waits = false;
    // It was asked for: from now on it comes back when somebody needs it.
    m->on_demand = true;
    if (!m->resting && m->peer->state != PEER_RESTING)
        rest(c, m, "asked for");
    return 0;
}

static void lent_return(struct core *c)
{
    struct err e = {0};

    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = &c->models[i];

        if (!m->lent)
            continue;
        m->lent = false;
        if (!m->on_demand && model_wake(c, m, &e) != 0)
            log_warn("gateway", "not loaded again: %s", e.message);
    }
}

int model_room(struct core *c, uint64_t bytes)
{
    uint64_t free_bytes = os_memory_available();
    struct model *m;

    if (bytes == 0) {
        lent_return(c);
        return 0;
    }
    if (some_rest(c))
        return ERR_BUSY;
    m = free_bytes > 0 && free_bytes < bytes ? oldest_idle(c, true) : NULL;
    if (!m)
        return 0;
    m->lent = true;
    rest(c, m, "a training job needs its room");
    return ERR_BUSY;
}

void model_used(struct model *m)
{
    m->used_ns = clock_now_ns();
}

void model_on_rest(struct core *c, struct model *m)
{
    m->resting = false;
    for (size_t i = 0; i < c->n_peers; i++)
        if (c->peers[i].model == m)
            peer_rest(&c->peers[i]);
    // Who came meanwhile wants it back.
    for (struct request *r = c->requests; r; r = r->next)
        m->waits = m->waits || (!m->lent && !r->over && r->phase == REQUEST_WAIT && r->model == m);
}

// ---- time -------------------------------------------------------------------------------------------

static int64_t room_tick(struct core *c, struct model *m, int64_t now_ns)
{
    struct err e = {0};

    if (!m->waits || m->resting)
        return INT64_MAX;
    if (some_rest(c))
        return now_ns + ROOM_RETRY_NS;
    m->waits = false;
    if (load_or_wait(c, m, &e) != 0)
        request_on_no_room(c, m, &e);
    return m->waits ? now_ns + ROOM_RETRY_NS : INT64_MAX;
}

static int64_t idle_tick(struct core *c, struct model *m, int64_t now_ns)
{
    int64_t due = m->used_ns + c->options.models_idle_ns;

    if (!m->on_demand || c->options.models_idle_ns == 0 || !model_is_loaded(m))
        return INT64_MAX;
    if (now_ns < due)
        return due;
    if (!is_idle(c, m)) // the end of a request sets a new time
        return INT64_MAX;
    rest(c, m, "not used for a while");
    return INT64_MAX;
}

int64_t model_tick(struct core *c, struct model *m, int64_t now_ns)
{
    int64_t a = room_tick(c, m, now_ns), b = idle_tick(c, m, now_ns);

    return a < b ? a : b;
}
