#include "gateway/image_upstream_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TASKS 32
#define WORKFLOW_MAX (1u << 20) // bytes
#define MULTIPLE 8 // of the sides of pictures, where a server says nothing and cannot do all

// ---- names ---------------------------------------------------------------------------------------------

static struct image_upstream_model *model_called(const struct image_upstream_server *s,
                                                 const char *name)
{
    for (size_t i = 0; i < s->n_models; i++)
        if (strcasecmp(name, s->models[i].ours) == 0 || strcasecmp(name, s->models[i].theirs) == 0)
            return &s->models[i];
    return NULL;
}

struct image_upstream_model *image_upstream_model_of(const struct image_upstream_server *s,
                                                     const char *name)
{
    struct image_upstream_model *m = model_called(s, name);
    size_t n = strlen(s->options->name);

    if (!m && strncasecmp(name, s->options->name, n) == 0 && name[n] == '/')
        m = model_called(s, name + n + 1);
    return m;
}

// ---- choosing ------------------------------------------------------------------------------------------

double image_upstream_units(const struct image_upstream_server *s, const struct image_request *r)
{
    return s->kind->by_picture ? 1 : r->steps > 0 ? r->steps : IMAGE_UPSTREAM_STEPS;
}

bool image_upstream_edits(const struct image_upstream_server *s)
{
    return s->node ? s->node->now.canvas.like.edits : s->kind->edits;
}

// What is known of a server's model is little, of a node's everything.
static void pick_model_set(struct image_upstream_pick *p, const struct image_upstream_server *s)
{
    p->model = (struct image_model){.multiple = s->kind->by_picture ? 1 : MULTIPLE,
                                    .side = IMAGE_UPSTREAM_SIDE,
                                    .steps = IMAGE_UPSTREAM_STEPS,
                                    .cfg = IMAGE_UPSTREAM_CFG,
                                    .edits = s->kind->edits};
    snprintf(p->model.layout, sizeof(p->model.layout), "%s", s->kind->name);
    p->of_fleet = s->node != NULL;
    if (s->node) {
        p->model = s->node->now.canvas.like;
        snprintf(p->file, sizeof(p->file), "%s", s->node->now.canvas.file);
    }
    p->known = (struct images_known){&p->model, p->ours, s->node ? p->file : NULL, true};
}

struct image_upstream_pick *image_upstream_pick_new(const struct image_upstream_server *s,
                                                    const struct image_upstream_model *m)
{
    struct image_upstream_pick *p = mem_alloc(sizeof(*p));

    p->server = s->index;
    p->takes = s->takes;
    p->seeds = s->takes & IMAGE_TAKES_SEED && !s->kind->by_picture;
    p->local = s->all->local && images_goes_by(images_known(s->all->local), m->ours);
    snprintf(p->node, sizeof(p->node), "%s", s->options->name);
    snprintf(p->theirs, sizeof(p->theirs), "%s", m->theirs);
    snprintf(p->ours, sizeof(p->ours), "%s", m->ours);
    pick_model_set(p, s);
    return p;
}

static bool is_left_alone(const struct image_upstream_server *s)
{
    return s->busy_until_ns > clock_now_ns();
}

// Less is better: servers that are up, then those that nobody knows anything of; and the least work before it.
static double rank(const struct image_upstream_server *s)
{
    double state = s->state == IMAGE_UPSTREAM_DOWN ? 4e9 : s->state == IMAGE_UPSTREAM_NEW ? 1e9 : 0;

    return state + (is_left_alone(s) ? 2e9 : 0) + s->left_s + s->waiting + s->drawing;
}

struct image_upstream_pick *image_upstreams_find(struct image_upstreams *u, const char *name)
{
    const struct image_upstream_server *best = NULL;
    const struct image_upstream_model *model = NULL;
    struct image_upstream_pick *p;

    if (!u)
        return NULL;
    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->n; i++) {
        const struct image_upstream_server *s = &u->servers[i];
        const struct image_upstream_model *m = name[0]           ? image_upstream_model_of(s, name)
                                               : s->n_models > 0 ? s->models
                                                                 : NULL;

        if (m && (!best || (name[0] && rank(s) < rank(best)))) {
            best = s;
            model = m;
        }
    }
    p = best ? image_upstream_pick_new(best, model) : NULL;
    if (p && name[0] && !model_called(best, name))
        p->fixed = true;
    if (p && p->fixed)
        p->local = false;
    pthread_mutex_unlock(&u->lock);
    return p;
}

// ---- what a server can be asked ------------------------------------------------------------------------

static bool is_given(const struct images_ask *a, const char *member)
{
    const json_t *v = json_member(a->body, member);

    return v && !(json_is_string(v) && !json_string_value(v)[0]);
}

int image_upstream_ask_check(const struct image_upstream_pick *p, const struct images_ask *a,
                             struct parse_fault *fault)
{
    static const struct {
        const char *member;
        unsigned bit;
    } members[] = {
        {"negative_prompt", IMAGE_TAKES_NEGATIVE},
        {"steps", IMAGE_TAKES_STEPS},
        {"cfg", IMAGE_TAKES_CFG},
        {"cfg_scale", IMAGE_TAKES_CFG},
        {"sampler", IMAGE_TAKES_SAMPLER},
        {"scheduler", IMAGE_TAKES_SAMPLER},
        {"seed", IMAGE_TAKES_SEED},
    };

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (is_given(a, members[i].member) && !(p->takes & members[i].bit))
            return parse_fault_set(
                fault, ERR_UNSUPPORTED, members[i].member,
                "'%s' is not possible: server %.60s, which draws \"%.100s\", takes "
                "none",
                members[i].member, p->node, p->ours);
    // What was taken out of a prompt for others is left in it for those that hear texts alone, and the other way round.
    if (a->request.n_loras > 0 && !(p->takes & IMAGE_TAKES_LORAS))
        return parse_fault_set(
            fault, ERR_UNSUPPORTED, "prompt",
            "LoRAs are not possible: server %.60s, which draws \"%.100s\", takes "
            "none",
            p->node, p->ours);
    if (p->of_fleet && a->request.prompt && strstr(a->request.prompt, "<lora:"))
        return parse_fault_set(fault, ERR_UNSUPPORTED, "prompt",
                               "a LoRA stands in a prompt for servers of other kinds");
    if (a->request.width > 0 && !(p->takes & IMAGE_TAKES_SIZE))
        return parse_fault_set(
            fault, ERR_UNSUPPORTED, "size",
            "'size' is not possible: the workflow of server %.60s has one of its "
            "own; leave it out or say \"auto\"",
            p->node);
    return 0;
}

// ---- who is done soonest ---------------------------------------------------------------------------------

// Seconds until it would be done, behind what it has. One of whose speed nothing is known gets one request: it would
// never be found out otherwise.
static double done_s(const struct image_upstream_server *s, const struct image_upstream_model *m,
                     const struct image_request *r)
{
    double unit_s = images_speeds_step_s(&m->speeds, r);

    if (unit_s > 0)
        return s->left_s + unit_s * image_upstream_units(s, r) * r->count;
    return s->waiting + s->drawing == 0 ? 0 : INFINITY;
}

// The lock is held. NULL: it is not one that could draw this.
static const struct image_upstream_model *rival(const struct image_upstream_server *s,
                                                const struct image_upstream_pick *p,
                                                const struct images_ask *a)
{
    const struct image_upstream_model *m = s->index == p->server
                                               ? image_upstream_model_of(s, p->theirs)
                                           : p->fixed ? NULL
                                                      : model_called(s, p->ours);
    struct image_upstream_pick *own;
    struct parse_fault fault = {0};
    bool can;

    if (!m || s->state != IMAGE_UPSTREAM_UP || is_left_alone(s) ||
        (a->edit && !image_upstream_edits(s)))
        return NULL;
    own = image_upstream_pick_new(s, m);
    can = image_upstream_ask_check(own, a, &fault) == 0;
    free(own);
    return can ? m : NULL;
}

struct image_upstream_pick *image_upstreams_soonest(struct image_upstreams *u,
                                                    const struct image_upstream_pick *p,
                                                    const struct images_ask *a,
                                                    const struct image_request *r, double local_s)
{
    struct image_upstream_pick *best = NULL;
    double best_s = local_s;

    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->n; i++) {
        const struct image_upstream_server *s = &u->servers[i];
        const struct image_upstream_model *m = rival(s, p, a);
        double s_there = m ? done_s(s, m, r) : INFINITY;

        if (s_there >= best_s)
            continue;
        free(best);
        best = image_upstream_pick_new(s, m);
        best->fixed = p->fixed;
        best->local = best->local && !p->fixed;
        best_s = s_there;
    }
    pthread_mutex_unlock(&u->lock);
    return best;
}

bool image_upstreams_is_empty(struct image_upstreams *u)
{
    bool empty = true;

    if (!u)
        return true;
    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->n; i++)
        empty = empty && image_upstream_is_free(&u->servers[i]);
    pthread_mutex_unlock(&u->lock);
    return empty;
}

// ---- sending -------------------------------------------------------------------------------------------

int image_upstreams_send(struct image_upstreams *u, struct images_task *t)
{
    int rc = chan_send(u->inbox, &t, 0);

    net_http_pool_wake(u->pool);
    return rc;
}

void image_upstreams_drain(struct image_upstreams *u)
{
    struct images_task *t = images_task_new(IMAGES_DRAIN, NULL);

    if (chan_send(u->inbox, &t, CHAN_FOREVER) != 0)
        images_task_free(t);
    net_http_pool_wake(u->pool);
}

// ---- starting and stopping -----------------------------------------------------------------------------

static const struct image_upstream_kind *const kinds[] = {
    [GATEWAY_UPSTREAM_OPENAI] = &image_upstream_openai,
    [GATEWAY_UPSTREAM_SD] = &image_upstream_sd,
    [GATEWAY_UPSTREAM_COMFY] = &image_upstream_comfy,
};

static int workflow_read(struct image_upstream_server *s, struct err *e)
{
    const struct gateway_upstream *o = s->options;
    char *text = NULL;
    size_t n = 0;
    int rc = os_file_read(o->workflow, WORKFLOW_MAX, &text, &n, e);

    if (rc == 0) {
        s->workflow = image_workflow_parse(text, n, &s->takes, e);
        rc = s->workflow ? 0 : err_wrap(e, "%.200s", o->workflow);
    }
    free(text);
    return rc ? err_wrap(e, "image server %s", o->name) : 0;
}

static int server_init(struct image_upstreams *u, size_t i, struct err *e)
{
    struct image_upstream_server *s = &u->servers[i];
    const struct gateway_upstream *o = &u->options->image_upstreams[i];
    json_t *names = json_array();
    int rc;

    *s = (struct image_upstream_server){.all = u,
                                        .options = o,
                                        .kind = kinds[o->kind],
                                        .index = i,
                                        .takes = kinds[o->kind]->takes,
                                        .why = "it has not been asked yet"};
    buf_init(&s->list, IMAGE_UPSTREAM_WORD_MAX);
    rc = upstream_key_take(o, &s->key, e);
    if (rc == 0 && o->workflow)
        rc = workflow_read(s, e);
    image_upstream_models_set(s, names);
    json_decref(names);
    return rc;
}

int image_upstreams_start(const struct gateway_options *o, struct images *local,
                          const struct images_hooks *hooks, struct image_upstreams **out,
                          struct err *e)
{
    struct image_upstreams *u = mem_alloc(sizeof(*u));
    int rc = 0;

    u->options = o;
    u->local = local;
    u->hooks = *hooks;
    u->inbox = chan_new(sizeof(struct images_task *), TASKS);
    pthread_mutex_init(&u->lock, NULL);
    for (; rc == 0 && u->n < o->n_image_upstreams; u->n++)
        rc = server_init(u, u->n, e);
    image_nodes_init(u);
    if (rc == 0)
        rc = net_http_pool_open(&u->pool, e);
    if (rc == 0 && pthread_create(&u->thread, NULL, image_upstream_main, u) != 0)
        rc = err_set(e, ERR_IO, "cannot start a thread");
    u->started = rc == 0;
    if (rc == 0)
        *out = u;
    else
        image_upstreams_free(u);
    return rc;
}

void image_upstreams_stop(struct image_upstreams *u)
{
    if (!u || !u->started)
        return;
    chan_close(u->inbox);
    chan_close(u->frames);
    net_http_pool_wake(u->pool);
    pthread_join(u->thread, NULL);
    u->started = false;
}

static void server_fini(struct image_upstream_server *s)
{
    upstream_key_free(s->key);
    json_decref(s->workflow);
    free(s->models);
    buf_fini(&s->list);
}

void image_upstreams_free(struct image_upstreams *u)
{
    static const char text[] = "the server is stopping";
    struct images_task *t;

    if (!u)
        return;
    chan_close(u->inbox);
    while (chan_recv(u->inbox, &t, 0) == 0) {
        if (t->reply)
            reply_finish(t->reply, 503, answer_error(503, text, "closed", NULL), 0);
        images_task_free(t);
    }
    net_http_pool_close(u->pool);
    for (size_t i = 0; i < u->n; i++)
        server_fini(&u->servers[i]);
    image_nodes_fini(u);
    chan_free(u->inbox);
    pthread_mutex_destroy(&u->lock);
    free(u);
}
