// ComfyUI: a workflow is put into its queue, its history is asked until the pictures are there, and they are fetched.
//
//   POST /prompt {"prompt": workflow, "prompt_id"}  -> {"prompt_id"}
//   GET /history/ID                                 -> {}, and at the end {ID: {"outputs": .., "status": ..}}
//   GET /view?filename=..&subfolder=..&type=..      -> a picture's file
//
// Its core reads no markup out of texts but "embedding:" (image_markup.h); wildcards like {a|b} are expanded by its
// web page, before it sends a workflow, and not by the server.
//
// A request that is given up is taken out of the queue, or interrupted where it runs: that is looked up first, because
// releases that know no "prompt_id" there interrupt whatever runs. One that is done is taken out of the history.
#include "gateway/image_upstream_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_NS (200 * NS_PER_MS)
#define WORD_S 10 // that an answer without a picture may take
#define ID_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// ---- words that nobody waits for -------------------------------------------------------------------------

enum word_what { WORD_FORGET, WORD_DELETE, WORD_LOOK, WORD_INTERRUPT };

struct image_upstream_word {
    struct image_upstream_word *next;
    struct image_upstream_server *server;
    struct net_http_transfer *transfer;
    enum word_what what;
    struct buf in;
    char id[IMAGE_UPSTREAM_ID_BYTES];
};

static void word_free(struct image_upstream_word *w)
{
    struct image_upstream_word **at = &w->server->all->words;

    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    buf_fini(&w->in);
    free(w);
}

void image_upstream_words_drop(struct image_upstreams *u)
{
    while (u->words) {
        net_http_pool_cancel(u->pool, u->words->transfer);
        word_free(u->words);
    }
}

// {"queue_running": [[number, id, ..], ..], ..}
static bool is_running(const struct buf *text, const char *id)
{
    struct err e = {0};
    json_t *o = json_parse(text->data, text->len, &e), *entry;
    size_t i;
    bool found = false;

    json_array_foreach(json_object_get(o, "queue_running"), i, entry)
    {
        const char *theirs = json_string_value(json_array_get(entry, 1));

        found = found || (theirs && strcmp(theirs, id) == 0);
    }
    json_decref(o);
    return found;
}

static void word_send(struct image_upstream_word *w);

static int word_on_data(void *ctx, const struct net_http_reply *r, const void *data, size_t n,
                        struct err *e)
{
    struct image_upstream_word *w = ctx;

    (void)r;
    return buf_put(&w->in, data, n) == 0 ? 0 : err_set(e, ERR_RANGE, "too long an answer");
}

static void word_on_end(void *ctx, const struct net_http_reply *r, int rc, const struct err *e)
{
    struct image_upstream_word *w = ctx;
    bool good = rc == 0 && r->status == 200;

    (void)e;
    if (good && w->what == WORD_DELETE)
        w->what = WORD_LOOK;
    else if (good && w->what == WORD_LOOK && is_running(&w->in, w->id))
        w->what = WORD_INTERRUPT;
    else {
        word_free(w);
        return;
    }
    word_send(w);
}

static const struct net_http_ops word_ops = {word_on_data, word_on_end};

static char *word_body(const struct image_upstream_word *w)
{
    if (w->what == WORD_LOOK)
        return NULL;
    if (w->what == WORD_INTERRUPT)
        return mem_format("{\"prompt_id\":\"%s\"}", w->id);
    return mem_format("{\"delete\":[\"%s\"]}", w->id);
}

static void word_send(struct image_upstream_word *w)
{
    static const char *const paths[] = {[WORD_FORGET] = "/history",
                                        [WORD_DELETE] = "/queue",
                                        [WORD_LOOK] = "/queue",
                                        [WORD_INTERRUPT] = "/interrupt"};
    const struct gateway_upstream *o = w->server->options;
    char *url = mem_format("%s%s", o->url, paths[w->what]), *body = word_body(w);
    const struct net_http_request q = {.url = url,
                                       .token = w->server->key,
                                       .ca_file = o->ca_file,
                                       .body = body,
                                       .body_bytes = body ? strlen(body) : 0,
                                       .total_s = WORD_S,
                                       .ops = &word_ops,
                                       .ctx = w};
    struct err e = {0};

    buf_clear(&w->in);
    if (net_http_pool_start(w->server->all->pool, &q, &w->transfer, &e) != 0)
        word_free(w);
    free(url);
}

static void word_say(struct image_upstream_job *j, enum word_what what)
{
    struct image_upstream_word *w = mem_alloc(sizeof(*w));

    w->server = j->server;
    w->what = what;
    buf_init(&w->in, IMAGE_UPSTREAM_WORD_MAX);
    snprintf(w->id, sizeof(w->id), "%s", j->id);
    w->next = j->server->all->words;
    j->server->all->words = w;
    word_send(w);
}

static void job_clear(struct image_upstream_job *j)
{
    j->id[0] = '\0';
    json_decref(j->files);
    j->files = NULL;
}

static void leave(struct image_upstream_job *j)
{
    if (j->id[0])
        word_say(j, WORD_DELETE);
    job_clear(j);
}

// ---- asking ----------------------------------------------------------------------------------------------

// Releases that do not take a name for what they are asked say their own.
static void id_make(char id[IMAGE_UPSTREAM_ID_BYTES])
{
    uint8_t random[16];
    char hex[2 * sizeof(random) + 1];

    os_random(random, sizeof(random));
    hex_encode(random, sizeof(random), hex);
    snprintf(id, IMAGE_UPSTREAM_ID_BYTES, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12,
             hex + 16, hex + 20);
}

static int begin(struct image_upstream_job *j, struct err *e)
{
    struct image_upstream_call c = {
        .path = "/prompt", .max = IMAGE_UPSTREAM_WORD_MAX, .total_s = WORD_S};
    struct image_upstream_order o;
    json_t *body = json_object();

    image_upstream_round(j);
    job_clear(j);
    id_make(j->id);
    j->deadline_ns = j->sent_ns + j->server->options->stall_s * NS_PER_S;
    j->poll_ns = 0;
    o = image_upstream_order(j);
    json_put(body, "prompt", image_workflow_fill(j->server->workflow, &o));
    json_put(body, "prompt_id", json_string(j->id));
    c.body = json_line(body);
    c.len = strlen(c.body);
    json_decref(body);
    return image_upstream_call(j, &c, e);
}

static int on_queued(struct image_upstream_job *j, const json_t *o, struct err *e)
{
    const char *id = json_string_value(json_object_get(o, "prompt_id"));

    if (!id || !id[0] || strlen(id) >= sizeof(j->id) || strspn(id, ID_CHARACTERS) != strlen(id))
        return err_set(e, ERR_CORRUPT, "answers without a prompt_id");
    snprintf(j->id, sizeof(j->id), "%s", id);
    j->poll_ns = clock_now_ns() + POLL_NS;
    return 0;
}

// ---- waiting ---------------------------------------------------------------------------------------------

static void on_tick(struct image_upstream_job *j, int64_t now_ns)
{
    struct image_upstream_call c = {.max = IMAGE_UPSTREAM_WORD_MAX, .total_s = WORD_S};
    struct err e = {0};
    char *path;
    int rc = 0;

    if (j->files || j->poll_ns == 0 || j->transfer)
        return;
    if (now_ns >= j->deadline_ns) {
        rc = err_set(
            &e, ERR_TIMEOUT,
            "has not drawn it within %u s; stall=SECONDS behind its address gives it longer",
            j->server->options->stall_s);
    } else if (now_ns >= j->poll_ns) {
        path = mem_format("/history/%s", j->id);
        c.path = path;
        rc = image_upstream_call(j, &c, &e);
        free(path);
    }
    if (rc != 0)
        image_upstream_fail(j, NULL, &e);
}

// What its status says; 0: nothing bad.
static int status_check(const json_t *status, struct err *e)
{
    const char *word = json_string_value(json_object_get(status, "status_str")), *why = NULL;
    const json_t *message;
    size_t i;

    if (!word || strcmp(word, "error") != 0)
        return 0;
    json_array_foreach(json_object_get(status, "messages"), i, message)
    {
        const char *text =
            json_string_value(json_object_get(json_array_get(message, 1), "exception_message"));

        why = text ? text : why;
    }
    return err_set(e, ERR_ENGINE, "failed: %.300s", why ? why : "its workflow was interrupted");
}

// Appends {"filename", "subfolder", "type"} of all pictures of a kind.
static void files_find(const json_t *outputs, const char *type, json_t *files)
{
    const char *node;
    json_t *output, *file;
    size_t i;

    json_object_foreach((json_t *)(uintptr_t)outputs, node, output)
    {
        json_array_foreach(json_object_get(output, "images"), i, file)
        {
            const char *theirs = json_string_value(json_object_get(file, "type"));

            if (theirs && strcmp(theirs, type) == 0 &&
                json_is_string(json_object_get(file, "filename")))
                json_array_append(files, file);
        }
    }
}

// Everything but letters, digits and "-._~" as %XX.
static void escaped_put(struct buf *out, const char *name, const char *text)
{
    buf_printf(out, "%s=", name);
    for (const unsigned char *c = (const unsigned char *)(text ? text : ""); *c; c++) {
        bool plain = strchr(ID_CHARACTERS ".~", *c) != NULL;

        buf_printf(out, plain ? "%c" : "%%%02X", *c);
    }
}

static int fetch(struct image_upstream_job *j, struct err *e)
{
    const json_t *file = json_array_get(j->files, 0);
    struct image_upstream_call c = {.max = IMAGE_UPSTREAM_PICTURE_MAX};
    struct buf path;
    int rc;

    buf_init(&path, IMAGE_UPSTREAM_WORD_MAX);
    escaped_put(&path, "/view?filename", json_string_value(json_object_get(file, "filename")));
    escaped_put(&path, "&subfolder", json_string_value(json_object_get(file, "subfolder")));
    escaped_put(&path, "&type", json_string_value(json_object_get(file, "type")));
    c.path = (const char *)path.data;
    rc = image_upstream_call(j, &c, e);
    buf_fini(&path);
    return rc;
}

static int on_history(struct image_upstream_job *j, const json_t *o, struct err *e)
{
    const json_t *entry = json_object_get(o, j->id), *outputs = json_object_get(entry, "outputs");
    int rc;

    j->poll_ns = clock_now_ns() + POLL_NS;
    if (!entry)
        return 0;
    rc = status_check(json_object_get(entry, "status"), e);
    if (rc != 0) {
        word_say(j, WORD_FORGET); // it is over: there is nothing to interrupt
        job_clear(j);
        return rc;
    }
    j->files = json_array();
    files_find(outputs, "output", j->files);
    if (json_array_size(j->files) == 0)
        files_find(outputs, "temp", j->files);
    if (json_array_size(j->files) == 0)
        return err_set(e, ERR_CORRUPT,
                       "made no picture: its workflow needs a SaveImage or a PreviewImage");
    return fetch(j, e);
}

// One picture of each workflow is what was asked for; what it makes beside that is left there.
static int on_file(struct image_upstream_job *j, struct err *e)
{
    int rc = image_upstream_picture(j, j->in.data, j->in.len, e);

    if (rc != 0)
        return rc;
    word_say(j, WORD_FORGET);
    job_clear(j);
    return image_upstream_next(j, e);
}

static int on_answer(struct image_upstream_job *j, struct err *e)
{
    json_t *o;
    int rc;

    if (j->files)
        return on_file(j, e);
    o = json_parse(j->in.data, j->in.len, e);
    if (!json_is_object(o))
        rc = err_set(e, ERR_CORRUPT, "answers with something that is not ComfyUI's");
    else
        rc = j->poll_ns == 0 ? on_queued(j, o, e) : on_history(j, o, e);
    json_decref(o);
    return rc;
}

const struct image_upstream_kind image_upstream_comfy = {
    .name = "comfyui",
    .check_path = "/system_stats",
    .at_once = 1,
    .pictures = 1,
    .takes = 0, // as its workflow says
    .begin = begin,
    .on_answer = on_answer,
    .on_tick = on_tick,
    .leave = leave,
};
