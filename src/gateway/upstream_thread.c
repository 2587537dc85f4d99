// The thread that talks to upstream servers: answers, and checks of their health.
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/upstream_impl.h"
#include "net/http_pool.h"
#include "os/os.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORDERS 1024
#define CANCELS_MAX (64u << 20) // bytes; there are never more than answers under way
#define KEY_MAX 4096            // bytes

struct order {
    bool stop;
    bool chat;
    size_t server;
    uint64_t id;
    char *body; // owned
};

struct cancel {
    size_t server;
    uint64_t id;
};

struct server {
    struct upstream_thread *thread;
    const struct gateway_upstream *options;
    size_t index;
    char *key; // NULL: none
    struct upstream_check checks;
    struct net_http_transfer *check; // that runs; NULL: none
    struct buf list;
    int64_t begun_ns;
    int64_t heard_ns; // the last byte of an answer
};

// One request that is being answered.
struct job {
    struct job *next;
    struct server *server;
    uint64_t id;
    struct upstream_answer answer;
    struct buf refusal;
    struct net_http_transfer *transfer;
};

struct upstream_thread {
    struct upstream_thread_options options;
    struct net_http_pool *pool;
    struct chan *orders;
    // Cancels never wait for room among the orders: an answer that nobody waits for costs money all the same.
    pthread_mutex_t lock;
    struct buf cancels; // of struct cancel; under the lock
    pthread_t thread;
    // The thread's own.
    struct server *servers;
    struct job *jobs;
    bool stop;
};

// ---- words --------------------------------------------------------------------------------------------

static void frame_say(struct server *s, struct wire_frame f)
{
    struct upstream_thread *t = s->thread;
    struct upstream_word w = {.server = s->index, .frame = f, .at_ns = clock_now_ns()};

    t->options.say(t->options.ctx, &w);
}

static void job_tell(void *ctx, enum wire_type type, json_t *head)
{
    struct job *j = ctx;

    frame_say(j->server, wire_frame_json(type, j->id, head));
}

int upstream_status_words(const struct net_http_reply *r, const char *reason, struct err *e)
{
    long status = r->status;

    if (status >= 300 && status < 400)
        return err_set(e, ERR_UNSUPPORTED,
                       "answers with a redirect to %s, which is not followed: give the address "
                       "that it leads to",
                       r->location[0] ? r->location : "another address");
    if (status == 401 || status == 403)
        return err_set(e, ERR_AUTH,
                       "refuses the key (%ld: %s); key-file=FILE behind its address names the one "
                       "to send",
                       status, reason);
    if (status == 404)
        return err_set(e, ERR_NOT_FOUND, "does not have that (404: %s); is its address right?",
                       reason);
    if (status == 429)
        return err_set(e, ERR_BUSY, "has too many requests (429: %s)", reason);
    if (status == 503)
        return err_set(e, ERR_BUSY, "is not ready (503: %s)", reason);
    if (status >= 400 && status < 500)
        return err_set(e, ERR_INVALID, "refuses the request (%ld: %s)", status, reason);
    if (status >= 500)
        return err_set(e, ERR_ENGINE, "failed (%ld: %s)", status, reason);
    return err_set(e, ERR_CORRUPT, "answers with status %ld, which is none of this API", status);
}

void upstream_trouble_words(int rc, struct err *e)
{
    struct err why = *e;

    if (rc == ERR_TIMEOUT)
        err_set(e, rc, "was silent (%.300s); stall=SECONDS behind its address gives it longer",
                why.message);
    else if (rc == ERR_CLOSED && why.message[0])
        err_set(e, rc, "is lost (%.300s)", why.message);
    else
        err_set(e, rc, "cannot be used: %.350s", why.message);
}

// ---- answers ------------------------------------------------------------------------------------------

static void job_unlink(struct job *j)
{
    struct job **at = &j->server->thread->jobs;

    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
}

static void job_free(struct job *j)
{
    upstream_answer_fini(&j->answer);
    buf_fini(&j->refusal);
    free(j);
}

static void job_fail(struct job *j, const struct net_http_reply *r, const struct err *e)
{
    struct server *s = j->server;
    char message[ERR_MESSAGE_BYTES];
    json_t *head = json_object();

    snprintf(message, sizeof(message), "upstream server %.63s %.420s", s->options->name,
             e->message);
    json_put(head, "code", json_string(err_name(e->code)));
    json_put(head, "message", answer_string(message));
    json_put(head, "status", json_integer(r->status == 200 ? 0 : r->status));
    json_put(head, "retry_after_s", json_integer(r->retry_after_s));
    frame_say(s, wire_frame_json(WIRE_FAILED, j->id, head));
    // What is wrong with the server as a whole is found out at once.
    if (r->status != 200 && (r->status < 400 || e->code != ERR_INVALID))
        s->checks.due_ns = 0;
}

static int job_on_data(void *ctx, const struct net_http_reply *r, const void *data, size_t n,
                       struct err *e)
{
    struct job *j = ctx;

    j->server->heard_ns = clock_now_ns();
    if (r->status != 200) {
        size_t room = UPSTREAM_ERROR_MAX - j->refusal.len;

        return buf_put(&j->refusal, data, n < room ? n : room);
    }
    if (j->answer.bytes == 0)
        j->answer.stream = strncmp(r->type, "text/event-stream", 17) == 0;
    return upstream_answer_take(&j->answer, data, n, clock_now_ns(), e);
}

static void job_on_end(void *ctx, const struct net_http_reply *r, int rc, const struct err *why)
{
    struct job *j = ctx;
    char reason[UPSTREAM_REASON_BYTES];
    struct err e = *why;

    if (rc == ERR_CLOSED && j->answer.over) // the last word was said before it broke
        rc = 0;
    if (rc == 0 && r->status == 200)
        rc = upstream_answer_end(&j->answer, clock_now_ns(), &e);
    else if (rc == 0) {
        upstream_reason(j->refusal.data, j->refusal.len, j->server->key, reason);
        rc = upstream_status_words(r, reason, &e);
        job_fail(j, r, &e);
        rc = 0;
    }
    if (rc != 0) {
        upstream_trouble_words(rc, &e);
        job_fail(j, r, &e);
    }
    job_unlink(j);
    job_free(j);
}

static const struct net_http_ops job_ops = {job_on_data, job_on_end};

static void ask(struct upstream_thread *t, struct order *o)
{
    struct server *s = &t->servers[o->server];
    struct job *j = mem_alloc(sizeof(*j));
    char *url = mem_format("%s/%s", s->options->url, o->chat ? "chat/completions" : "completions");
    struct net_http_request q = {.url = url,
                                 .token = s->key,
                                 .ca_file = s->options->ca_file,
                                 .body = o->body,
                                 .body_bytes = strlen(o->body),
                                 .connect_s = UPSTREAM_CONNECT_S,
                                 .stall_s = s->options->stall_s,
                                 .ops = &job_ops,
                                 .ctx = j};
    struct err e = {0};

    j->server = s;
    j->id = o->id;
    upstream_answer_init(&j->answer, job_tell, j, clock_now_ns());
    j->answer.secret = s->key;
    buf_init(&j->refusal, UPSTREAM_ERROR_MAX);
    j->next = t->jobs;
    t->jobs = j;
    if (net_http_pool_start(t->pool, &q, &j->transfer, &e) != 0)
        job_on_end(j, &(struct net_http_reply){0}, e.code, &e);
    free(url);
}

static void cancel(struct upstream_thread *t, const struct cancel *c)
{
    struct job *j = t->jobs;

    while (j && (j->id != c->id || j->server->index != c->server))
        j = j->next;
    if (!j)
        return;
    net_http_pool_cancel(t->pool, j->transfer);
    job_unlink(j);
    job_free(j);
}

// ---- checks -------------------------------------------------------------------------------------------

static void report(struct server *s, struct upstream_report *r)
{
    struct upstream_thread *t = s->thread;
    struct upstream_word w = {.server = s->index, .report = mem_alloc(sizeof(*r))};

    r->server = s->index;
    *w.report = *r;
    upstream_check_done(&s->checks, r->up, clock_now_ns());
    t->options.say(t->options.ctx, &w);
}

static void report_down(struct server *s, bool refused, const char *why)
{
    struct upstream_report r = {.refused = refused};

    snprintf(r.why, sizeof(r.why), "%s", why);
    report(s, &r);
}

// It answers, and its list of models is there, or is not needed.
static void report_list(struct server *s, const struct net_http_reply *reply)
{
    struct upstream_report r = {.up = true};
    struct err e = {0};
    size_t left = 0;

    if (reply->status == 200 &&
        upstream_list_parse(s->list.data, s->list.len, &r.models, &r.n_models, &left, &e) != 0 &&
        s->options->n_models == 0) {
        err_wrap(&e, "name its models with model=NAME behind its address");
        report_down(s, true, e.message);
        return;
    }
    if (left > 0)
        log_warn("gateway", "upstream server %s lists more models than the %d that are taken",
                 s->options->name, UPSTREAM_LIST_MODELS);
    report(s, &r);
}

static int check_on_data(void *ctx, const struct net_http_reply *r, const void *data, size_t n,
                         struct err *e)
{
    struct server *s = ctx;

    (void)r;
    if (buf_put(&s->list, data, n) != 0)
        return err_set(e, ERR_RANGE, "its list of models is longer than %u bytes",
                       UPSTREAM_LIST_MAX);
    return 0;
}

static void check_on_end(void *ctx, const struct net_http_reply *r, int rc, const struct err *why)
{
    struct server *s = ctx;
    char reason[UPSTREAM_REASON_BYTES];
    struct err e = *why;

    s->check = NULL;
    if (rc == 0 && (r->status == 200 || upstream_list_is_missing(s->options, r->status))) {
        report_list(s, r);
    } else if (rc == 0) {
        upstream_reason(s->list.data, s->list.len, s->key, reason);
        upstream_status_words(r, reason, &e);
        report_down(s, e.code != ERR_BUSY && e.code != ERR_ENGINE, e.message);
    } else if (rc == ERR_TIMEOUT && s->heard_ns >= s->begun_ns) {
        // It answers one at a time, and it does answer.
        s->checks.due_ns = clock_now_ns() + UPSTREAM_CHECK_NS;
    } else {
        report_down(s, rc == ERR_AUTH, e.message);
    }
    buf_clear(&s->list);
}

static const struct net_http_ops check_ops = {check_on_data, check_on_end};

static void check_begin(struct server *s, int64_t now_ns)
{
    char *url = mem_format("%s/models", s->options->url);
    struct net_http_request q = {.url = url,
                                 .token = s->key,
                                 .ca_file = s->options->ca_file,
                                 .connect_s = UPSTREAM_CONNECT_S,
                                 .total_s = UPSTREAM_CHECK_S,
                                 .ops = &check_ops,
                                 .ctx = s};
    struct err e = {0};

    s->begun_ns = now_ns;
    if (net_http_pool_start(s->thread->pool, &q, &s->check, &e) != 0)
        report_down(s, false, e.message);
    free(url);
}

// Begins what is due; returns the time of the next one.
static int64_t checks_run(struct upstream_thread *t, int64_t now_ns)
{
    int64_t next_ns = now_ns + UPSTREAM_CHECK_LATE_NS;

    for (size_t i = 0; i < t->options.n; i++) {
        struct server *s = &t->servers[i];

        if (!s->check && now_ns >= s->checks.due_ns)
            check_begin(s, now_ns);
        if (!s->check && s->checks.due_ns < next_ns)
            next_ns = s->checks.due_ns;
    }
    return next_ns;
}

// ---- the thread ---------------------------------------------------------------------------------------

// What is cancelled was ordered before: the cancels are taken first and carried out last.
static void orders_run(struct upstream_thread *t)
{
    struct order o;
    struct buf cancels;
    struct cancel c;

    pthread_mutex_lock(&t->lock);
    cancels = t->cancels;
    buf_init(&t->cancels, CANCELS_MAX);
    pthread_mutex_unlock(&t->lock);
    while (!t->stop && chan_recv(t->orders, &o, 0) == 0) {
        t->stop = o.stop;
        if (!o.stop)
            ask(t, &o);
    }
    for (size_t at = 0; at < cancels.len; at += sizeof(c)) {
        memcpy(&c, cancels.data + at, sizeof(c));
        cancel(t, &c);
    }
    buf_fini(&cancels);
}

static void *thread_main(void *ctx)
{
    struct upstream_thread *t = ctx;

    os_thread_name("upstream");
    while (!t->stop) {
        orders_run(t);
        int64_t now_ns = clock_now_ns(), next_ns = checks_run(t, now_ns);

        if (!t->stop)
            net_http_pool_wait(t->pool, next_ns - now_ns);
    }
    return NULL;
}

// ---- keys ---------------------------------------------------------------------------------------------

static int key_check(const struct gateway_upstream *u, const char *key, struct err *e)
{
    size_t n = strlen(key);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] <= ' ' || (unsigned char)key[i] >= 0x7f)
            return err_set(e, ERR_INVALID, "%.300s holds no key: it is to be one word on one line",
                           u->key_file);
    return n > 0 ? 0
                 : err_set(e, ERR_INVALID, "%.300s, the key of upstream server %s, is empty",
                           u->key_file, u->name);
}

static int key_read(const struct gateway_upstream *u, char **key, struct err *e)
{
    size_t n = 0;
    int rc = u->key_file ? os_file_read_private(u->key_file, KEY_MAX, key, &n, e) : 0;

    if (rc != 0)
        return err_wrap(e, "the key of upstream server %s", u->name);
    while (n > 0 && ((*key)[n - 1] == '\n' || (*key)[n - 1] == '\r'))
        (*key)[--n] = '\0';
    return u->key_file ? key_check(u, *key ? *key : "", e) : 0;
}

// Whether what is sent to it can be read on the way.
static int way_check(const struct gateway_upstream *u, const char *key, struct err *e)
{
    bool secure;
    int rc = net_http_address_check(u->url, &secure, e);

    if (rc != 0)
        return err_wrap(e, "upstream server %s", u->name);
    if (key && !secure && !u->plain_key)
        return err_set(e, ERR_INVALID,
                       "the key of upstream server %s would cross the network readable; use "
                       "https://, or say plain-key=yes behind its address",
                       u->name);
    if (!secure)
        log_warn("gateway",
                 "what is sent to upstream server %s crosses the network unencrypted: "
                 "its address begins with http://",
                 u->name);
    return 0;
}

int upstream_key_take(const struct gateway_upstream *u, char **key, struct err *e)
{
    int rc = key_read(u, key, e);

    return rc == 0 ? way_check(u, *key, e) : rc;
}

void upstream_key_free(char *key)
{
    if (key)
        memset(key, 0, strlen(key));
    free(key);
}

// ---- starting and stopping ------------------------------------------------------------------------------

static void thread_free(struct upstream_thread *t)
{
    struct order o;

    while (chan_recv(t->orders, &o, 0) == 0)
        free(o.body);
    for (size_t i = 0; i < t->options.n; i++) {
        upstream_key_free(t->servers[i].key);
        buf_fini(&t->servers[i].list);
    }
    net_http_pool_close(t->pool);
    while (t->jobs) {
        struct job *j = t->jobs;

        t->jobs = j->next;
        job_free(j);
    }
    chan_free(t->orders);
    buf_fini(&t->cancels);
    pthread_mutex_destroy(&t->lock);
    free(t->servers);
    free(t);
}

static int servers_init(struct upstream_thread *t, struct err *e)
{
    int rc = 0;

    t->servers = mem_alloc(t->options.n * sizeof(*t->servers));
    for (size_t i = 0; i < t->options.n; i++) {
        struct server *s = &t->servers[i];

        *s = (struct server){.thread = t, .options = &t->options.servers[i], .index = i};
        buf_init(&s->list, UPSTREAM_LIST_MAX);
    }
    for (size_t i = 0; rc == 0 && i < t->options.n; i++)
        rc = upstream_key_take(t->servers[i].options, &t->servers[i].key, e);
    return rc;
}

int upstream_thread_start(const struct upstream_thread_options *o, struct upstream_thread **out,
                          struct err *e)
{
    struct upstream_thread *t = mem_alloc(sizeof(*t));
    int rc;

    t->options = *o;
    t->orders = chan_new(sizeof(struct order), ORDERS);
    pthread_mutex_init(&t->lock, NULL);
    buf_init(&t->cancels, CANCELS_MAX);
    rc = servers_init(t, e);
    if (rc == 0)
        rc = net_http_pool_open(&t->pool, e);
    if (rc == 0 && pthread_create(&t->thread, NULL, thread_main, t) != 0)
        rc = err_set(e, ERR_IO, "cannot start a thread");
    if (rc != 0) {
        thread_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void upstream_thread_stop(struct upstream_thread *t)
{
    const struct order o = {.stop = true};

    if (!t)
        return;
    chan_send(t->orders, &o, CHAN_FOREVER);
    net_http_pool_wake(t->pool);
    pthread_join(t->thread, NULL);
    thread_free(t);
}

int upstream_thread_ask(struct upstream_thread *t, size_t server, uint64_t id, bool chat,
                        char *body)
{
    const struct order o = {.chat = chat, .server = server, .id = id, .body = body};
    int rc = chan_send(t->orders, &o, 0);

    if (rc != 0)
        free(body);
    net_http_pool_wake(t->pool);
    return rc == 0 ? 0 : ERR_BUSY;
}

void upstream_thread_cancel(struct upstream_thread *t, size_t server, uint64_t id)
{
    const struct cancel c = {.server = server, .id = id};

    pthread_mutex_lock(&t->lock);
    buf_put(&t->cancels, &c, sizeof(c));
    pthread_mutex_unlock(&t->lock);
    net_http_pool_wake(t->pool);
}
