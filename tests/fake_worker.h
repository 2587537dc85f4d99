// For the gateway's tests: workers that are threads.
//
// A fake worker answers frames by itself as a well-behaved one would, or only notes them ("hold") so
// that a test says every word. Everything a test waits for it waits for by name, never by time; the
// limit of a wait only turns a hang into a failure.
#ifndef TESTS_FAKE_WORKER_H
#define TESTS_FAKE_WORKER_H

#include "base/log.h"
#include "gateway/start.h"
#include "gateway_web.h"
#include "node/message.h"
#include "wire/wire.h"

#include <pthread.h>

#define FAKE_FRAMES 512
#define FAKE_LINKS 32

struct fake_frame {
    unsigned type;
    uint64_t id;
    json_t *head;
    size_t n_tokens;
};

struct fake {
    // Set before it starts.
    const char *name, *model, *weights, *node_id;
    _Atomic int64_t pid;
    uint32_t n_ctx;
    uint64_t weights_hash;
    enum engine_handoff handoff;
    const char *refusal; // answers HELLO with REFUSED "mismatch"
    bool mute;           // never answers HELLO
    // Noted, not answered; any time.
    _Atomic bool hold_render, hold_prefill, hold_generate, hold_status;
    uint32_t gen_tokens; // of an answer it makes by itself, at most
    uint32_t n_embd;     // of an embedding: each number is a count of tokens or 0
    bool ranks;
    double kv_token_bytes;
    bool probes;   // its links can be measured: MEASURE_LINK is noted, the test answers
    bool adapters; // takes them: ADAPTER frames are noted, the test answers
    uint32_t role; // PLACE_READER, PLACE_WRITER
    bool paced;    // it emulates another machine
    bool priced;
    double dollars_per_hour;
    struct net_key key;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    // Guarded by the lock.
    struct fake_frame seen[FAKE_FRAMES];
    size_t n_seen;
    unsigned answering;                  // frames being answered, not yet among the seen
    struct wire_link *links[FAKE_LINKS]; // all there ever were; the last is the one in use
    size_t n_links;
    bool stop;

    // A node listens; a local worker is a socketpair whose other end goes to the gateway.
    int listen_fd;
    uint16_t port;
    pthread_t acceptor;
    bool accepting;
    pthread_t greeters[FAKE_LINKS];
    size_t n_greeters;
    const struct node_supervisor_ops *ops;
    void *ops_ctx;
    bool late;      // the local one starts by fake_up alone
    bool hold_rest; // it is told to rest and does not say that it has
    _Atomic unsigned rests, wakes;
};

static struct fake fake_make(const char *name)
{
    return (struct fake){.name = name,
                         .model = "fake-model",
                         .weights = "F32",
                         .pid = 1,
                         .n_ctx = 4096,
                         .weights_hash = 1,
                         .handoff = ENGINE_HANDOFF_RANGES,
                         .gen_tokens = 4,
                         .n_embd = 4,
                         .listen_fd = -1,
                         .lock = PTHREAD_MUTEX_INITIALIZER,
                         .changed = PTHREAD_COND_INITIALIZER};
}

// ---- what it says of itself ---------------------------------------------------------------------------

static json_t *fake_welcome(const struct fake *f)
{
    struct message_welcome w = {.version = WIRE_VERSION,
                                // A node reads faster, and writes slower.
                                .prefill_tokens_per_s = f->ops ? 1e4 : 4e4,
                                .decode_tokens_per_s = f->ops ? 2000 : 1000,
                                .facts = {.cores = 2},
                                .measures = true,
                                .links = f->probes,
                                .adapters = f->adapters,
                                .role = f->role,
                                .paced = f->paced,
                                .priced = f->priced,
                                .dollars_per_hour = f->dollars_per_hour,
                                .pid = f->pid};

    snprintf(w.node_id, sizeof(w.node_id), "%s", f->node_id ? f->node_id : "");
    snprintf(w.name, sizeof(w.name), "%s", f->name);
    snprintf(w.build, sizeof(w.build), "tandem test");
    snprintf(w.model, sizeof(w.model), "%s", f->model);
    snprintf(w.identity.engine, sizeof(w.identity.engine), "fake");
    snprintf(w.identity.build, sizeof(w.identity.build), "1");
    snprintf(w.identity.arch, sizeof(w.identity.arch), "fake");
    snprintf(w.identity.model, sizeof(w.identity.model), "%s", f->model);
    snprintf(w.identity.weights, sizeof(w.identity.weights), "%s", f->weights);
    snprintf(w.identity.type_k, sizeof(w.identity.type_k), "f16");
    snprintf(w.identity.type_v, sizeof(w.identity.type_v), "f16");
    w.identity.weights_hash = f->weights_hash;
    w.identity.n_vocab = 300;
    w.identity.n_embd = f->n_embd;
    w.limits.ranks = f->ranks;
    w.limits.n_ctx = f->n_ctx;
    w.limits.n_seq = 4;
    w.limits.n_batch = 512;
    w.limits.handoff = f->handoff;
    w.limits.kv_bytes_per_token = f->kv_token_bytes;
    return message_welcome_json(&w);
}

// ---- answering ------------------------------------------------------------------------------------------

static struct wire_link *fake_link(struct fake *f)
{
    struct wire_link *l;

    pthread_mutex_lock(&f->lock);
    l = f->n_links > 0 ? f->links[f->n_links - 1] : NULL;
    pthread_mutex_unlock(&f->lock);
    return l;
}

static void fake_send(struct fake *f, struct wire_frame frame)
{
    struct wire_link *l = fake_link(f);

    if (l)
        wire_link_send(l, frame, CHAN_FOREVER);
    else
        wire_frame_fini(&frame);
}

// Head as JSON text, so that a test can be read.
static UNUSED void fake_say(struct fake *f, enum wire_type type, uint64_t id, const char *head)
{
    json_t *v = json_loads(head, 0, NULL);

    assert_non_null(v);
    fake_send(f, wire_frame_json(type, id, v));
}

static void fake_token(struct fake *f, uint64_t id, uint32_t i, const char *text)
{
    json_t *o = json_object();

    json_put(o, "id", json_integer(i));
    json_put(o, "text", json_string(text));
    json_put(o, "index", json_integer(i));
    fake_send(f, wire_frame_json(WIRE_TOKEN, id, o));
}

static void fake_done(struct fake *f, uint64_t id, uint32_t prompt, uint32_t gen, bool handoff)
{
    json_t *o =
        json_pack("{s:s,s:n,s:i,s:i,s:s,s:i,s:i,s:f,s:f,s:i,s:n,s:i,s:f}", "finish", "length",
                  "stop", "prompt_tokens", (int)prompt, "gen_tokens", (int)gen, "text", "",
                  "tokens_read", handoff ? 1 : (int)prompt, "tokens_imported",
                  handoff ? (int)prompt - 1 : 0, "prefill_s", 1.5, "decode_s", 0.5, "kv_bytes",
                  handoff ? 1000 : 0, "fallback", "overruns", 0, "worst_ratio", 0.5);

    json_put(o, "handoff_end_s", handoff ? json_real(2.0) : json_null());
    fake_send(f, wire_frame_json(WIRE_DONE, id, o));
}

static void fake_generate(struct fake *f, const struct fake_frame *q)
{
    uint32_t max = (uint32_t)json_integer_value(json_object_get(q->head, "max_tokens"));
    uint32_t n = max < f->gen_tokens ? max : f->gen_tokens;
    char text[16];

    for (uint32_t i = 0; i < n; i++) {
        snprintf(text, sizeof(text), "t%u ", i);
        fake_token(f, q->id, i, text);
    }
    fake_done(f, q->id, (uint32_t)q->n_tokens, n,
              json_is_object(json_object_get(q->head, "handoff")));
}

// One token per byte of text, or as many as the ids that were given; a prompt's are its bytes.
static void fake_render(struct fake *f, const struct fake_frame *q)
{
    const json_t *ids = json_object_get(q->head, "tokens");
    json_t *text = json_object_get(q->head, "prompt"), *head;
    const json_t *plain = json_object_get(q->head, "text");
    const json_t *messages = json_object_get(json_object_get(q->head, "chat"), "messages");
    size_t n = json_array_size(ids) + json_string_length(text) + json_string_length(plain);
    int32_t *tokens;

    for (size_t i = 0; i < json_array_size(messages); i++)
        n += json_string_length(json_object_get(json_array_get(messages, i), "content"));
    tokens = mem_alloc((n + 1) * sizeof(*tokens));
    for (size_t i = 0; i < n; i++)
        tokens[i] =
            i < json_string_length(text) ? (uint8_t)json_string_value(text)[i] : (int32_t)(i % 256);
    head = json_pack("{s:[],s:n}", "stop", "syntax");
    if (json_object_get(q->head, "want_prompt"))
        json_put(head, "prompt", json_string("<rendered>"));
    if (json_object_get(q->head, "want_pieces"))
        json_put(head, "pieces", json_pack("[s,s]", "p0", "p1"));
    if (json_object_get(q->head, "detokenize"))
        json_put(head, "text", json_string("words"));
    fake_send(f, wire_frame_tokens(WIRE_RENDERED, q->id, head, tokens, n));
    free(tokens);
}

// {n, 0, 0, ..}: what a test can tell one text from another by. A score is the number of tokens.
static void fake_embed(struct fake *f, const struct fake_frame *q)
{
    uint32_t n = f->ranks ? 1 : f->n_embd;
    float *values = mem_alloc(n * sizeof(*values));
    struct wire_body body = {.data = values, .len = n * sizeof(*values)};
    struct wire_frame frame = wire_frame_json(WIRE_EMBEDDED, q->id, NULL);

    values[0] = (float)q->n_tokens;
    frame.body = body;
    fake_send(f, frame);
}

static void fake_prefill(struct fake *f, const struct fake_frame *q)
{
    fake_say(f, WIRE_ACCEPTED, q->id, "{}");
    fake_say(f, WIRE_PROGRESS, q->id, "{\"phase\":\"prefill\",\"done\":10,\"total\":20}");
    fake_say(f, WIRE_PREFILLED, q->id,
             "{\"tokens\":20,\"compute_s\":1.0,\"export_s\":0.1,\"wait_s\":0,\"done_s\":1.9,"
             "\"sent_s\":1.95,\"kv_bytes\":1000,\"segments\":3,\"overruns\":1,\"worst_ratio\":0.7,"
             "\"link_bytes_per_s\":5e8,"
             "\"timeline\":[{\"what\":\"compute\",\"t0\":0,\"t1\":1.9,\"p0\":0,\"p1\":20}]}");
}

static void fake_answer(struct fake *f, const struct fake_frame *q)
{
    if (q->type == WIRE_RENDER && !f->hold_render)
        fake_render(f, q);
    else if (q->type == WIRE_GENERATE && !f->hold_generate)
        fake_generate(f, q);
    else if (q->type == WIRE_EMBED && !f->hold_generate)
        fake_embed(f, q);
    else if (q->type == WIRE_PREFILL && !f->hold_prefill)
        fake_prefill(f, q);
    else if (q->type == WIRE_CANCEL)
        fake_send(f, wire_frame_failed(WIRE_FAILED, q->id, ERR_CANCELLED, "cancelled"));
    else if (q->type == WIRE_STATUS && !f->hold_status)
        fake_say(f, WIRE_STATUS_IS, q->id, "{\"requests\":0,\"cells_used\":7}");
    else if (q->type == WIRE_FORGET)
        fake_say(f, WIRE_FORGOTTEN, q->id, "{\"sequences\":3}");
}

static int fake_on_frame(void *ctx, struct wire_frame *in, struct err *e)
{
    struct fake *f = ctx;
    struct fake_frame q = {.type = in->type, .id = in->id, .n_tokens = in->body.len / 4};

    q.head = wire_frame_parse(in, e);
    wire_frame_fini(in);
    if (!q.head)
        return e->code;
    // Answered before it is seen: who waits for a frame may rely on the answer being under way.
    pthread_mutex_lock(&f->lock);
    f->answering++;
    pthread_mutex_unlock(&f->lock);
    fake_answer(f, &q);
    pthread_mutex_lock(&f->lock);
    f->answering--;
    if (f->n_seen < FAKE_FRAMES)
        f->seen[f->n_seen++] = q;
    else
        json_decref(q.head);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static void fake_on_close(void *ctx, const struct err *why)
{
    (void)ctx;
    (void)why;
}

static const struct wire_link_ops fake_link_ops = {.on_frame = fake_on_frame,
                                                   .on_close = fake_on_close};

// ---- greeting ---------------------------------------------------------------------------------------------

struct fake_greeting {
    struct fake *fake;
    struct net_conn *conn;
    int fd; // when there is no conn yet: an accepted socket
};

static bool fake_greet(struct fake *f, struct net_conn *conn)
{
    struct wire_frame in = {0}, out;
    struct err e;
    int rc = wire_frame_read(conn, &in, clock_now_ns() + WEB_LIMIT_NS, &e);

    wire_frame_fini(&in);
    if (rc != 0 || f->mute)
        return false;
    out = f->refusal ? wire_frame_failed(WIRE_REFUSED, 0, ERR_MISMATCH, f->refusal)
                     : wire_frame_json(WIRE_WELCOME, 0, fake_welcome(f));
    rc = wire_frame_write(conn, &out, clock_now_ns() + WEB_LIMIT_NS, &e);
    wire_frame_fini(&out);
    return rc == 0 && !f->refusal;
}

static void *fake_greeter(void *ctx)
{
    struct fake_greeting *g = ctx;
    struct fake *f = g->fake;
    struct wire_link_options o;
    struct wire_link *l;
    struct err e;

    if (!g->conn &&
        net_conn_accept_tls(g->fd, &f->key, clock_now_ns() + WEB_LIMIT_NS, &g->conn, &e) != 0)
        goto out;
    if (!fake_greet(f, g->conn)) {
        char byte;

        // A mute one keeps the connection until the other side gives up.
        if (f->mute)
            net_conn_read(g->conn, &byte, 1, clock_now_ns() + WEB_LIMIT_NS, &e);
        net_conn_free(g->conn);
        goto out;
    }
    wire_link_options_default(&o);
    l = wire_link_new(g->conn, &fake_link_ops, f, &o);
    pthread_mutex_lock(&f->lock);
    f->links[f->n_links++] = l;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    wire_link_run(l);
out:
    free(g);
    return NULL;
}

static void fake_greeter_start(struct fake *f, struct net_conn *conn, int fd)
{
    struct fake_greeting *g = mem_alloc(sizeof(*g));

    *g = (struct fake_greeting){f, conn, fd};
    assert_true(f->n_greeters < FAKE_LINKS);
    assert_int_equal(pthread_create(&f->greeters[f->n_greeters++], NULL, fake_greeter, g), 0);
}

// ---- a node ---------------------------------------------------------------------------------------------

static void *fake_acceptor(void *ctx)
{
    struct fake *f = ctx;
    char peer[64];
    struct err e;
    int fd;

    for (;;) {
        pthread_mutex_lock(&f->lock);
        bool stop = f->stop || f->n_greeters == FAKE_LINKS;
        pthread_mutex_unlock(&f->lock);
        if (stop)
            return NULL;
        fd = net_accept(f->listen_fd, clock_now_ns() + 20 * NS_PER_MS, peer, sizeof(peer), &e);
        if (fd >= 0)
            fake_greeter_start(f, NULL, fd);
    }
}

// Listens on f->port (0: a free one).
static UNUSED void fake_listen(struct fake *f)
{
    struct net_addr a = {.host = "127.0.0.1", .port = f->port};
    struct err e = {0};

    f->stop = false;
    f->listen_fd = net_listen(&a, &f->key, &e);
    if (f->listen_fd < 0)
        fail_msg("%s", e.message);
    f->port = a.port;
    assert_int_equal(pthread_create(&f->acceptor, NULL, fake_acceptor, f), 0);
    f->accepting = true;
}

// ---- a local worker -----------------------------------------------------------------------------------------

static void fake_up(struct fake *f)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    fake_greeter_start(f, net_conn_wrap(pair[1]), -1);
    f->ops->on_up(f->ops_ctx, net_conn_wrap(pair[0]));
}

// The source's context is an array of such workers, one for each model.
static struct fake *fake_of_model(void *ctx, size_t model)
{
    return (struct fake *)ctx + model;
}

static int fake_source_start(void *ctx, const struct core_start *start, struct err *e)
{
    struct fake *f = fake_of_model(ctx, start->model);

    (void)e;
    f->ops = start->ops;
    f->ops_ctx = start->ops_ctx;
    if (!f->late && !start->worker->asleep)
        fake_up(f);
    return 0;
}

static void fake_source_stop(void *ctx, size_t model)
{
    struct wire_link *l = fake_link(fake_of_model(ctx, model));

    if (l)
        wire_link_close(l);
}

static int64_t fake_source_pid(void *ctx, size_t model)
{
    (void)ctx;
    (void)model;
    return -1;
}

// On the core's thread, as a supervisor would do it on its own: what it is told goes through the inbox.
static void fake_source_rest(void *ctx, size_t model)
{
    struct fake *f = fake_of_model(ctx, model);

    fake_source_stop(ctx, model);
    f->rests++;
    if (!f->hold_rest)
        f->ops->on_rest(f->ops_ctx);
}

static void fake_source_wake(void *ctx, size_t model)
{
    struct fake *f = fake_of_model(ctx, model);

    f->wakes++;
    if (!f->late)
        fake_up(f);
}

#define FAKE_SOURCE(fakes)                                                                         \
    {                                                                                              \
        fake_source_start, fake_source_stop, fake_source_pid, fake_source_rest, fake_source_wake,  \
            fakes                                                                                  \
    }

// Ends the connection as a killed process would.
static UNUSED void fake_hang_up(struct fake *f)
{
    struct wire_link *l = fake_link(f);

    assert_non_null(l);
    wire_link_close(l);
}

// ---- waiting and looking --------------------------------------------------------------------------------------

static void fake_wait_some(struct fake *f)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WEB_LIMIT_NS / NS_PER_S;
    if (pthread_cond_timedwait(&f->changed, &f->lock, &until) == ETIMEDOUT) {
        pthread_mutex_unlock(&f->lock);
        fail_msg("%s: nothing came in time", f->name);
    }
}

// The n-th (from 1) frame of a type; borrowed. Waits for it.
static UNUSED struct fake_frame *fake_expect(struct fake *f, unsigned type, size_t nth)
{
    pthread_mutex_lock(&f->lock);
    for (;;) {
        size_t found = 0;

        for (size_t i = 0; i < f->n_seen; i++) {
            if (f->seen[i].type == type && ++found == nth) {
                pthread_mutex_unlock(&f->lock);
                return &f->seen[i];
            }
        }
        fake_wait_some(f);
    }
}

// What was answered counts, also where the answer overtook the note of it.
static UNUSED size_t fake_count(struct fake *f, unsigned type)
{
    size_t n = 0;

    pthread_mutex_lock(&f->lock);
    while (f->answering > 0)
        fake_wait_some(f);
    for (size_t i = 0; i < f->n_seen; i++)
        n += f->seen[i].type == type;
    pthread_mutex_unlock(&f->lock);
    return n;
}

static UNUSED void fake_links_wait(struct fake *f, size_t n)
{
    pthread_mutex_lock(&f->lock);
    while (f->n_links < n)
        fake_wait_some(f);
    pthread_mutex_unlock(&f->lock);
}

static void fake_stop(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    if (f->accepting) {
        pthread_join(f->acceptor, NULL);
        close(f->listen_fd);
        f->accepting = false;
    }
    for (size_t i = 0; i < f->n_greeters; i++)
        pthread_join(f->greeters[i], NULL);
    for (size_t i = 0; i < f->n_links; i++)
        wire_link_free(f->links[i]);
    for (size_t i = 0; i < f->n_seen; i++)
        json_decref(f->seen[i].head);
    f->n_greeters = f->n_links = f->n_seen = 0;
}

#endif
