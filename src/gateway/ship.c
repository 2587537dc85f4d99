#include "gateway/ship.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"
#include "models/adapters.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUSY_NS NS_PER_S // a worker that takes another file just now

// What is known of one adapter at one worker.
struct mark {
    char sha256[MESSAGE_ADAPTER_BYTES];
    bool ready;
    int64_t again_ns; // not asked before
    char why[ERR_MESSAGE_BYTES];
};

struct ship_peer {
    uint64_t turn; // of the greeting that the marks belong to
    struct mark *marks;
    size_t n_marks;
    uint64_t id; // of the frame that is to be answered; 0: none
    struct mark *active;
    uint64_t at; // that was sent last
};

struct ship {
    char *model;
    bool based; // base is known, or cannot be
    struct adapters_base base;
    struct adapters_list list; // those that fit
    uint64_t version;
    int64_t scan_ns;
    struct ship_peer peers[CORE_PEERS_MAX]; // by the peer's index
};

// Where what is known of this worker stands; NULL: it serves no model of ours.
static struct ship_peer *of_peer(const struct peer *p)
{
    return p->model ? &p->model->ship->peers[p->index] : NULL;
}

struct ship *ship_new(const char *model)
{
    struct ship *s = mem_alloc(sizeof(*s));

    s->model = mem_strdup(model ? model : "");
    return s;
}

void ship_free(struct ship *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < CORE_PEERS_MAX; i++)
        free(s->peers[i].marks);
    adapters_list_fini(&s->list);
    free(s->model);
    free(s);
}

// ---- the store ------------------------------------------------------------------------------------------

static const struct adapters_entry *entry_of(const struct ship *s, const char *sha256)
{
    for (size_t i = 0; i < s->list.n; i++)
        if (strcmp(s->list.items[i].sha256, sha256) == 0)
            return &s->list.items[i];
    return NULL;
}

static const struct adapters_entry *entry_named(const struct ship *s, const char *model)
{
    const char *name = model + strlen(ADAPTERS_PREFIX);

    for (size_t i = 0; i < s->list.n; i++)
        if (strcmp(s->list.items[i].name, name) == 0)
            return &s->list.items[i];
    return NULL;
}

// Keeps those of the list that fit the served model.
static void list_filter(const struct ship *s, struct adapters_list *l)
{
    size_t n = 0;
    struct err e = {0};

    for (size_t i = 0; i < l->n; i++) {
        if (adapters_base_match(&l->items[i].base, &s->base, &e) == 0)
            l->items[n++] = l->items[i];
        else if (!entry_of(s, l->items[i].sha256))
            log_debug("ship", "not served: name=%s: %s", l->items[i].name, e.message);
    }
    l->n = n;
}

static void base_learn(struct ship *s)
{
    struct err e = {0};

    if (s->based)
        return;
    s->based = true;
    if (adapters_base_read(s->model, &s->base, &e) != 0)
        log_debug("ship", "no adapters with this model: %s", e.message);
}

static void scan(struct ship *s)
{
    uint64_t version = adapters_version();
    struct adapters_list l;
    struct err e = {0};

    if (version == s->version)
        return;
    s->version = version;
    base_learn(s);
    if (adapters_list_read(&l, &e) != 0) {
        log_warn("ship", "the store of adapters does not read: %s", e.message);
        return;
    }
    list_filter(s, &l);
    for (size_t i = 0; i < l.n; i++)
        if (!entry_of(s, l.items[i].sha256))
            log_info("ship", "adapter: model=" ADAPTERS_PREFIX "%s bytes=%" PRIu64, l.items[i].name,
                     l.items[i].bytes);
    adapters_list_fini(&s->list);
    s->list = l;
}

// ---- what a worker has ----------------------------------------------------------------------------------

static struct mark *mark_find(const struct ship_peer *sp, const char *sha256)
{
    for (size_t i = 0; i < sp->n_marks; i++)
        if (strcmp(sp->marks[i].sha256, sha256) == 0)
            return &sp->marks[i];
    return NULL;
}

// Only while nothing is on the way: the marks may move.
static struct mark *mark_get(struct ship_peer *sp, const char *sha256)
{
    struct mark *m = mark_find(sp, sha256);

    if (m)
        return m;
    sp->marks = mem_resize(sp->marks, (sp->n_marks + 1) * sizeof(*sp->marks));
    m = &sp->marks[sp->n_marks++];
    *m = (struct mark){0};
    snprintf(m->sha256, sizeof(m->sha256), "%s", sha256);
    return m;
}

static void refused(struct peer *p, struct ship_peer *sp, int64_t again_ns, const char *why)
{
    struct mark *m = sp->active;

    m->ready = false;
    m->again_ns = clock_now_ns() + again_ns;
    if (strcmp(m->why, why) != 0 && again_ns != BUSY_NS)
        log_warn("ship", "adapter not taken: node=%s: %s", peer_name(p), why);
    snprintf(m->why, sizeof(m->why), "%s", why);
    sp->active = NULL;
}

// ---- sending --------------------------------------------------------------------------------------------

static json_t *head_json(const struct adapters_entry *a, uint64_t at)
{
    json_t *o = json_object();

    json_put(o, "name", json_string(a->name));
    json_put(o, "sha256", json_string(a->sha256));
    json_put(o, "bytes", json_integer((json_int_t)a->bytes));
    json_put(o, "at", json_integer((json_int_t)at));
    json_put(o, "base", adapters_base_json(&a->base));
    return o;
}

static void frame_send(struct peer *p, struct wire_frame f)
{
    of_peer(p)->id = f.id;
    peer_send(p, f);
}

static void ask(struct core *c, struct peer *p, const struct adapters_entry *a)
{
    struct ship_peer *sp = of_peer(p);

    sp->active = mark_get(sp, a->sha256);
    sp->at = 0;
    frame_send(p, wire_frame_json(WIRE_ADAPTER, c->next_id++, head_json(a, 0)));
}

static int piece_read(const struct adapters_entry *a, uint64_t at, struct wire_body *body,
                      struct err *e)
{
    size_t n = a->bytes - at < SHIP_PIECE_BYTES ? (size_t)(a->bytes - at) : SHIP_PIECE_BYTES;
    int fd = open(a->path, O_RDONLY | O_CLOEXEC);
    ssize_t got;

    *body = (struct wire_body){.data = mem_alloc(n), .len = n};
    got = fd >= 0 ? pread(fd, body->data, n, (off_t)at) : -1;
    if (fd >= 0)
        close(fd);
    if (got == (ssize_t)n)
        return 0;
    free(body->data);
    return err_set(e, ERR_IO, "%.300s cannot be read: %s", a->path,
                   got < 0 ? strerror(errno) : "it became shorter");
}

static void piece_send(struct core *c, struct peer *p, const struct adapters_entry *a, uint64_t at)
{
    struct ship_peer *sp = of_peer(p);
    struct wire_frame f = wire_frame_json(WIRE_ADAPTER, c->next_id++, head_json(a, at));
    struct err e = {0};

    sp->at = at;
    if (piece_read(a, at, &f.body, &e) != 0) {
        f.body = (struct wire_body){0};
        wire_frame_fini(&f);
        refused(p, sp, SHIP_REFUSED_NS, e.message);
        return;
    }
    frame_send(p, f);
}

// ---- answers --------------------------------------------------------------------------------------------

bool ship_asked(const struct peer *p, uint64_t id)
{
    const struct ship_peer *sp = of_peer(p);

    return id != 0 && sp && sp->id == id;
}

static void on_failed(struct peer *p, struct ship_peer *sp, const json_t *head)
{
    bool busy = err_from_name(json_string_or(head, "code", "")) == ERR_BUSY;

    refused(p, sp, busy ? BUSY_NS : SHIP_REFUSED_NS,
            json_string_or(head, "message", "no reason given"));
}

static void on_ready(struct peer *p, struct ship_peer *sp, const struct adapters_entry *a)
{
    if (!sp->active->ready)
        log_info("ship", "adapter is there: model=" ADAPTERS_PREFIX "%s node=%s", a->name,
                 peer_name(p));
    sp->active->ready = true;
    sp->active->why[0] = '\0';
    sp->active->again_ns = clock_now_ns() + SHIP_AGAIN_NS;
    sp->active = NULL;
}

void ship_on_frame(struct core *c, struct peer *p, const struct wire_frame *f)
{
    struct ship_peer *sp = of_peer(p);
    const struct adapters_entry *a =
        sp->active ? entry_of(p->model->ship, sp->active->sha256) : NULL;
    struct err e = {0};
    json_t *head = wire_frame_parse(f, &e);
    int64_t at = -1;

    sp->id = 0;
    if (!sp->active || !head) {
        sp->active = NULL;
    } else if (!a) { // it was removed meanwhile
        sp->active = NULL;
    } else if (f->type == WIRE_FAILED) {
        on_failed(p, sp, head);
    } else if (json_is_true(json_object_get(head, "ready"))) {
        on_ready(p, sp, a);
    } else if (json_get_i64(head, "at", 0, INT64_MAX, &at, &e) != 0 || at < 0 ||
               (uint64_t)at >= a->bytes || (at > 0 && (uint64_t)at <= sp->at)) {
        refused(p, sp, SHIP_REFUSED_NS, "it does not say how much of the adapter it has");
    } else {
        piece_send(c, p, a, (uint64_t)at);
    }
    json_decref(head);
}

// ---- timers ---------------------------------------------------------------------------------------------

// The first adapter that this worker may be asked about now.
static const struct adapters_entry *next_for(const struct ship *s, const struct ship_peer *sp,
                                             int64_t now_ns)
{
    for (size_t i = 0; i < s->list.n; i++) {
        const struct mark *m = mark_find(sp, s->list.items[i].sha256);

        if (!m || m->again_ns <= now_ns)
            return &s->list.items[i];
    }
    return NULL;
}

static void peer_serve(struct core *c, struct peer *p, int64_t now_ns)
{
    struct ship_peer *sp = of_peer(p);
    const struct adapters_entry *a;

    if (p->state != PEER_UP || !p->welcome.adapters)
        return;
    if (sp->turn != p->turn) { // another link, perhaps another process
        free(sp->marks);
        *sp = (struct ship_peer){.turn = p->turn};
    }
    a = sp->active ? NULL : next_for(p->model->ship, sp, now_ns);
    if (a)
        ask(c, p, a);
}

int64_t ship_tick(struct core *c, const struct model *m, int64_t now_ns)
{
    struct ship *s = m->ship;

    if (now_ns >= s->scan_ns) {
        s->scan_ns = now_ns + SHIP_SCAN_NS;
        scan(s);
    }
    for (size_t i = 0; s->list.n > 0 && i < c->n_peers; i++)
        if (c->peers[i].model == m)
            peer_serve(c, &c->peers[i], now_ns);
    return s->scan_ns;
}

// ---- for requests ---------------------------------------------------------------------------------------

bool ship_named(const char *model)
{
    return strncmp(model, ADAPTERS_PREFIX, strlen(ADAPTERS_PREFIX)) == 0;
}

bool ship_ready(const struct peer *p, const struct message_adapter *a)
{
    const struct ship_peer *sp = of_peer(p);
    const struct mark *m = sp ? mark_find(sp, a->sha256) : NULL;

    return a->sha256[0] == '\0' || (m && m->ready && sp->turn == p->turn);
}

struct model *ship_base(struct core *c, const char *model)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (entry_named(c->models[i].ship, model))
            return &c->models[i];
    for (size_t i = 0; i < c->n_models; i++) { // perhaps it was published this moment
        scan(c->models[i].ship);
        if (entry_named(c->models[i].ship, model))
            return &c->models[i];
    }
    return NULL;
}

void ship_unknown(const struct core *c, const char *model, struct request_fault *fault,
                  struct err *e)
{
    char known[300] = "none: train one with tandem train";
    size_t n = 0;

    *fault = (struct request_fault){.status = 404, .code = "model_not_found", .param = "model"};
    for (size_t i = 0; i < c->n_models; i++) {
        const struct adapters_list *l = &c->models[i].ship->list;

        for (size_t k = 0; k < l->n && n + ADAPTERS_NAME_BYTES + 8 < sizeof(known); k++)
            n += (size_t)snprintf(known + n, sizeof(known) - n, "%s" ADAPTERS_PREFIX "%s",
                                  n ? ", " : "", l->items[k].name);
    }
    err_set(e, ERR_NOT_FOUND,
            "there is no tuned model \"%.80s\" of this server's base; there are %s", model, known);
}

bool ship_pick(struct core *c, struct request *r, struct request_fault *fault, struct err *e)
{
    const struct adapters_entry *a = entry_named(r->model->ship, r->in.model);
    struct message_adapter *out = &r->in.generate.adapter;
    const struct mark *m;

    if (!a) { // it was removed meanwhile
        ship_unknown(c, r->in.model, fault, e);
        return false;
    }
    if (r->in.kind == PARSE_EMBED || r->in.kind == PARSE_RANK) {
        *fault = (struct request_fault){.status = 400, .param = "model"};
        err_set(e, ERR_UNSUPPORTED, "%.80s makes no embeddings; ask its base", r->in.model);
        return false;
    }
    snprintf(out->name, sizeof(out->name), "%s", a->name);
    snprintf(out->sha256, sizeof(out->sha256), "%s", a->sha256);
    if (ship_ready(request_home(r), out))
        return true;
    m = mark_find(of_peer(request_home(r)), a->sha256);
    *fault = (struct request_fault){.status = 503, .code = "loading"};
    r->retry_after_s = 2;
    err_set(e, ERR_BUSY, "%.80s is not at the local worker yet%s%.200s", r->in.model,
            m && m->why[0] ? ": " : "", m ? m->why : "");
    return false;
}

void ship_space(const struct message_generate *g, char out[SHIP_SPACE_BYTES])
{
    snprintf(out, SHIP_SPACE_BYTES, "%s%s%s", g->owner, g->adapter.sha256[0] ? "/" : "",
             g->adapter.sha256);
}

// ---- the list of models ---------------------------------------------------------------------------------

static json_t *model_json(const struct model *base, const struct adapters_entry *a)
{
    json_t *o = json_object(), *meta = json_object();
    char id[ADAPTERS_NAME_BYTES + 8];

    snprintf(id, sizeof(id), ADAPTERS_PREFIX "%s", a->name);
    json_put(o, "id", json_string(id));
    json_put(o, "object", json_string("model"));
    json_put(o, "created", json_integer(a->created_unix_s));
    json_put(o, "owned_by", json_string("tandem"));
    json_put(o, "root", answer_string(model_name(base)));
    json_put(o, "parent", answer_string(model_name(base)));
    json_put(meta, "rank", json_integer(a->rank));
    json_put(meta, "bytes", json_integer((json_int_t)a->bytes));
    json_put(meta, "sha256", json_string(a->sha256));
    json_put(meta, "job", a->job[0] ? json_string(a->job) : json_null());
    json_put(o, "meta", meta);
    return o;
}

void ship_models(const struct core *c, json_t *list)
{
    for (size_t i = 0; i < c->n_models; i++) {
        const struct adapters_list *l = &c->models[i].ship->list;

        for (size_t k = 0; k < l->n; k++)
            json_array_append_new(list, model_json(&c->models[i], &l->items[k]));
    }
}

json_t *ship_model(struct core *c, const char *model)
{
    const struct model *base = ship_base(c, model);

    return base ? model_json(base, entry_named(base->ship, model)) : NULL;
}
