// The thread that owns connections to servers that draw: tasks, and checks of servers' health.
#include "gateway/image_upstream_impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS (20 * NS_PER_MS) // while something is asked for: clients that leave
#define SWEEP_NS (30 * NS_PER_S) // between two looks at files that have expired
#define FLUSH_NS NS_PER_S
#define SPEEDS_NAME_BYTES (IMAGE_UPSTREAM_NODE_BYTES + PARSE_MODEL_BYTES + 2)

// ---- models --------------------------------------------------------------------------------------------

static void speeds_name(const struct image_upstream_server *s, const struct image_upstream_model *m,
                        char out[SPEEDS_NAME_BYTES])
{
    snprintf(out, SPEEDS_NAME_BYTES, "%s/%s", s->options->name, m->theirs);
}

void image_upstream_speeds_write(const struct image_upstream_server *s)
{
    char name[SPEEDS_NAME_BYTES];

    for (size_t i = 0; i < s->n_models; i++) {
        speeds_name(s, &s->models[i], name);
        images_speeds_write(name, &s->models[i].speeds);
    }
}

static void model_add(struct image_upstream_server *s, struct image_upstream_model *m,
                      const char *theirs, const char *ours)
{
    char name[SPEEDS_NAME_BYTES];

    snprintf(m->theirs, sizeof(m->theirs), "%s", theirs);
    snprintf(m->ours, sizeof(m->ours), "%s", ours ? ours : theirs);
    for (size_t i = 0; i < s->n_models; i++)
        if (strcmp(s->models[i].theirs, theirs) == 0) {
            m->speeds = s->models[i].speeds;
            return;
        }
    speeds_name(s, m, name);
    images_speeds_read(name, &m->speeds);
}

// Those that were named, or all that it lists; what was learned of those that it had before is kept.
void image_upstream_models_set(struct image_upstream_server *s, const json_t *names)
{
    const struct gateway_upstream *o = s->options;
    size_t n = o->n_models > 0 ? o->n_models : json_array_size(names);
    struct image_upstream_model *all = mem_alloc((n + 1) * sizeof(*all)), *before = s->models;

    for (size_t i = 0; i < n; i++)
        model_add(s, &all[i],
                  o->n_models > 0 ? o->models[i].theirs
                                  : json_string_value(json_array_get(names, i)),
                  o->n_models > 0 ? o->models[i].ours : NULL);
    pthread_mutex_lock(&s->all->lock);
    s->models = all;
    s->n_models = n;
    pthread_mutex_unlock(&s->all->lock);
    free(before);
}

// ---- health --------------------------------------------------------------------------------------------

void image_upstream_state_set(struct image_upstream_server *s, enum image_upstream_state state,
                              const char *why)
{
    bool up = state == IMAGE_UPSTREAM_UP;

    if (up && s->state != state)
        log_info("images", "image %s %s is up: address=%s models=%zu", s->node ? "node" : "server",
                 s->options->name, s->options->url, s->n_models);
    else if (state == IMAGE_UPSTREAM_DOWN && strcmp(s->why, why) != 0)
        log_warn("images", "image %s %s is not used: %s", s->node ? "node" : "server",
                 s->options->name, why);
    pthread_mutex_lock(&s->all->lock);
    s->state = state;
    snprintf(s->why, sizeof(s->why), "%s", why);
    pthread_mutex_unlock(&s->all->lock);
    upstream_check_done(&s->checks, up, clock_now_ns());
}

static int check_on_data(void *ctx, const struct net_http_reply *r, const void *data, size_t n,
                         struct err *e)
{
    struct image_upstream_server *s = ctx;

    (void)r;
    if (buf_put(&s->list, data, n) != 0)
        return err_set(e, ERR_RANGE, "answers its check with more than %u bytes",
                       IMAGE_UPSTREAM_WORD_MAX);
    return 0;
}

static void check_take(struct image_upstream_server *s, const struct net_http_reply *r)
{
    const struct gateway_upstream *o = s->options;
    char reason[UPSTREAM_REASON_BYTES];
    struct err e = {0};
    json_t *names = NULL;

    if (r->status == 200)
        names = image_upstream_list(o->kind, s->list.data, s->list.len, &e);
    if (r->status != 200 && !upstream_list_is_missing(o, r->status)) {
        upstream_reason(s->list.data, s->list.len, s->key, reason);
        upstream_status_words(r, reason, &e);
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, e.message);
    } else if (!names && o->n_models == 0) {
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, e.message);
    } else {
        image_upstream_models_set(s, names);
        image_upstream_state_set(s, IMAGE_UPSTREAM_UP, "");
    }
    json_decref(names);
}

static void check_on_end(void *ctx, const struct net_http_reply *r, int rc, const struct err *why)
{
    struct image_upstream_server *s = ctx;

    s->check = NULL;
    if (rc == 0)
        check_take(s, r);
    else if (rc == ERR_TIMEOUT && s->drawing > 0 && s->state == IMAGE_UPSTREAM_UP)
        // It draws, and does nothing beside it.
        s->checks.due_ns = clock_now_ns() + UPSTREAM_CHECK_NS;
    else
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, why->message);
    buf_clear(&s->list);
}

static const struct net_http_ops check_ops = {check_on_data, check_on_end};

static void check_begin(struct image_upstream_server *s)
{
    char *url = mem_format("%s%s", s->options->url, s->kind->check_path);
    const struct net_http_request q = {.url = url,
                                       .token = s->key,
                                       .ca_file = s->options->ca_file,
                                       .connect_s = UPSTREAM_CONNECT_S,
                                       .total_s = UPSTREAM_CHECK_S,
                                       .ops = &check_ops,
                                       .ctx = s};
    struct err e = {0};

    if (net_http_pool_start(s->all->pool, &q, &s->check, &e) != 0)
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, e.message);
    free(url);
}

// Begins what is due; returns how long until the next one is.
static int64_t checks_run(struct image_upstreams *u, int64_t now_ns)
{
    int64_t wait_ns = UPSTREAM_CHECK_LATE_NS;

    for (size_t i = 0; i < u->n; i++) {
        struct image_upstream_server *s = &u->servers[i];

        if (s->node) // it says by itself how it is
            continue;
        if (!s->check && now_ns >= s->checks.due_ns)
            check_begin(s);
        if (!s->check && s->checks.due_ns - now_ns < wait_ns)
            wait_ns = s->checks.due_ns - now_ns;
    }
    return wait_ns < 0 ? 0 : wait_ns;
}

// ---- the thread ----------------------------------------------------------------------------------------

static void tasks_run(struct image_upstreams *u)
{
    struct images_task *t;
    int rc;

    while ((rc = chan_recv(u->inbox, &t, 0)) == 0) {
        if (t->what == IMAGES_DRAW) {
            image_upstream_admit(u, t);
            continue;
        }
        u->draining = true;
        images_task_free(t);
    }
    u->stopping = rc == ERR_CLOSED;
}

static void drained_check(struct image_upstreams *u)
{
    if (!u->draining || u->drained || u->jobs)
        return;
    u->drained = true;
    if (u->hooks.drained)
        u->hooks.drained(u->hooks.ctx);
}

static void sweep(struct image_upstreams *u, int64_t now_ns)
{
    if (now_ns < u->swept_ns)
        return;
    images_store_expire(u->options->images.expiry_s);
    u->swept_ns = now_ns + SWEEP_NS;
}

// What servers are to stop doing is said, if they listen.
static void words_flush(struct image_upstreams *u)
{
    int64_t until_ns = clock_now_ns() + FLUSH_NS, now_ns;

    while (u->words && (now_ns = clock_now_ns()) < until_ns)
        net_http_pool_wait(u->pool, until_ns - now_ns);
    image_upstream_words_drop(u);
}

void *image_upstream_main(void *ctx)
{
    static const struct err stopping = {ERR_CLOSED, "the server is stopping"};
    struct image_upstreams *u = ctx;

    os_thread_name("imageup");
    while (!u->stopping) {
        int64_t now_ns = clock_now_ns(), wait_ns;

        tasks_run(u);
        image_nodes_run(u);
        image_upstream_jobs_run(u, now_ns);
        wait_ns = checks_run(u, now_ns);
        sweep(u, now_ns);
        drained_check(u);
        if (u->jobs && wait_ns > TICK_NS)
            wait_ns = TICK_NS;
        if (!u->stopping)
            net_http_pool_wait(u->pool, wait_ns);
    }
    image_upstream_jobs_fail(u, &stopping);
    words_flush(u);
    for (size_t i = 0; i < u->n; i++)
        image_upstream_speeds_write(&u->servers[i]);
    return NULL;
}
