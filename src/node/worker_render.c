// The text thread: templates, tokenising and its reverse. It reads what is immutable after loading,
// so it never waits behind a chunk; nothing here touches a job.
#include "base/json.h"
#include "node/worker.h"
#include "os/os.h"

#include <pthread.h>
#include <stdlib.h>

#define PIECE_BYTES 512
#define TEXT_BYTES_MAX (64u << 20) // more than a frame takes, so that too much is noticed there

// One RENDER on its way to RENDERED.
struct render {
    struct worker *worker;
    struct engine *engine;
    const struct wire_frame *frame;
    const json_t *head;
    json_t *answer;  // owned
    int32_t *tokens; // owned; the body
    size_t n;
    bool is_prompt; // for GENERATE: neither empty nor longer than the context
};

static int tokens_from_list(struct render *r, const json_t *list, struct err *e)
{
    uint32_t n_vocab = r->engine->identity.n_vocab;

    r->n = json_array_size(list);
    if (r->n > MESSAGE_MAX_TOKENS)
        return err_set(e, ERR_RANGE, "%zu token ids; at most %u", r->n, MESSAGE_MAX_TOKENS);
    r->tokens = mem_alloc((r->n + 1) * sizeof *r->tokens);
    for (size_t i = 0; i < r->n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v))
            return err_set(e, ERR_INVALID, "token number %zu is not an integer", i);
        if (json_integer_value(v) < 0 || json_integer_value(v) >= n_vocab)
            return err_set(e, ERR_INVALID, "token number %zu is %lld; this vocabulary has 0..%u", i,
                           (long long)json_integer_value(v), n_vocab - 1);
        r->tokens[i] = (int32_t)json_integer_value(v);
    }
    return 0;
}

static int text_tokenize(struct render *r, const char *text, bool special, bool bos, struct err *e)
{
    return r->engine->ops->tokenize(r->engine, text, strlen(text), special, bos, &r->tokens, &r->n,
                                    e);
}

// The prompt with its images, where the request has some.
static int chat_tokenize(struct render *r, const char *prompt, struct err *e)
{
    struct worker_media_text text = {.prompt = prompt, .pieces = json_array()};
    json_t *media = NULL;
    int rc = json_get_array(r->head, "media", &media, e);

    if (rc == 0 && json_array_size(media) == 0)
        rc = text_tokenize(r, prompt, true, true, e);
    else if (rc == 0 && (rc = worker_media_render(r->worker, r->frame, media, &text, e)) == 0) {
        r->tokens = text.tokens;
        r->n = text.n_tokens;
        json_put(r->answer, "media", json_incref(text.pieces));
    }
    json_decref(text.pieces);
    return rc;
}

static int chat_render(struct render *r, const json_t *chat, struct err *e)
{
    const char *prompt = NULL;
    bool want_prompt = false;
    int rc = json_get_bool(r->head, "want_prompt", &want_prompt, e);

    json_decref(r->answer);
    r->answer = NULL;
    if (rc == 0)
        rc = r->engine->ops->render(r->engine, chat, &r->answer, e);
    if (rc == 0)
        rc = json_get_string(r->answer, "prompt", &prompt, e);
    if (rc == 0)
        rc = chat_tokenize(r, prompt != NULL ? prompt : "", e);
    if (rc == 0 && !want_prompt)
        json_object_del(r->answer, "prompt");
    return rc;
}

// A token's bytes: a text where they are one, else a list of numbers.
static json_t *piece_json(struct engine *g, int32_t token)
{
    char piece[PIECE_BYTES];
    size_t n = g->ops->piece(g, token, piece, sizeof piece);
    json_t *v = json_stringn(piece, n);

    if (v != NULL)
        return v;
    v = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(v, json_integer((uint8_t)piece[i]));
    return v;
}

// As /tokenize has it: a user's words, of any length that a frame takes.
static int words_tokenize(struct render *r, const char *text, struct err *e)
{
    bool special = false, bos = false, want_pieces = false;
    int rc = json_get_bool(r->head, "special", &special, e);

    if (rc == 0)
        rc = json_get_bool(r->head, "bos", &bos, e);
    if (rc == 0)
        rc = json_get_bool(r->head, "want_pieces", &want_pieces, e);
    if (rc == 0)
        rc = text_tokenize(r, text, special, bos, e);
    if (rc != 0 || !want_pieces)
        return rc;
    json_t *pieces = json_array();
    for (size_t i = 0; i < r->n; i++)
        json_array_append_new(pieces, piece_json(r->engine, r->tokens[i]));
    json_put(r->answer, "pieces", pieces);
    return 0;
}

static int detokenize(struct render *r, const json_t *list, struct err *e)
{
    struct text_stream stream;
    struct buf text;
    char piece[PIECE_BYTES];
    int rc = tokens_from_list(r, list, e);

    if (rc != 0)
        return rc;
    text_stream_init(&stream, NULL, 0);
    buf_init(&text, TEXT_BYTES_MAX);
    for (size_t i = 0; i < r->n; i++) {
        size_t n = r->engine->ops->piece(r->engine, r->tokens[i], piece, sizeof piece);
        text_stream_put(&stream, piece, n, &text);
    }
    text_stream_end(&stream, &text);
    json_put(r->answer, "text", json_stringn(text.len > 0 ? (char *)text.data : "", text.len));
    text_stream_fini(&stream);
    buf_fini(&text);
    r->n = 0; // the ids came from whoever asks
    return 0;
}

static int render_forms(struct render *r, struct err *e)
{
    json_t *chat = NULL, *list = NULL, *back = NULL;
    const char *prompt = NULL, *text = NULL;
    int rc = json_get_object(r->head, "chat", &chat, e);

    if (rc == 0)
        rc = json_get_array(r->head, "tokens", &list, e);
    if (rc == 0)
        rc = json_get_array(r->head, "detokenize", &back, e);
    if (rc == 0)
        rc = json_get_string(r->head, "prompt", &prompt, e);
    if (rc == 0)
        rc = json_get_string(r->head, "text", &text, e);
    if (rc != 0)
        return rc;
    if (text != NULL)
        return words_tokenize(r, text, e);
    if (back != NULL)
        return detokenize(r, back, e);
    r->is_prompt = true;
    if (chat != NULL)
        return chat_render(r, chat, e);
    if (prompt != NULL)
        return text_tokenize(r, prompt, true, true, e);
    if (list != NULL)
        return tokens_from_list(r, list, e);
    return err_set(e, ERR_INVALID,
                   "nothing to render; send \"chat\", \"prompt\", \"tokens\", \"text\" or "
                   "\"detokenize\"");
}

static int prompt_check(const struct render *r, struct err *e)
{
    uint32_t n_ctx = r->engine->limits.n_ctx;

    if (!r->is_prompt)
        return 0;
    if (r->n == 0)
        return err_set(e, ERR_INVALID, "the prompt is empty; send at least one token");
    if (r->n >= n_ctx) // checked here, for the frame has its own limit
        return err_set(e, ERR_RANGE,
                       "the prompt has %zu tokens; the context holds %u with the answer", r->n,
                       n_ctx);
    return 0;
}

static void render_answer(struct worker *w, struct worker_link *l, struct wire_frame *f)
{
    struct err e = {0};
    json_t *head = wire_frame_parse(f, &e);
    struct render r = {
        .worker = w, .engine = w->engine, .frame = f, .head = head, .answer = json_object()};
    int rc = head == NULL ? e.code : render_forms(&r, &e);

    if (rc == 0)
        rc = prompt_check(&r, &e);
    if (rc == 0) {
        rc = worker_link_send(
            l, wire_frame_tokens(WIRE_RENDERED, f->id, json_incref(r.answer), r.tokens, r.n));
        if (rc == ERR_RANGE)
            err_set(&e, rc, "what was rendered is longer than one frame can be (%zu tokens)", r.n);
    }
    if (rc != 0)
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
    json_decref(r.answer);
    json_decref(head);
    free(r.tokens);
    wire_frame_fini(f);
}

static void *text_thread(void *arg)
{
    struct worker *w = arg;
    struct worker_event ev;

    os_thread_name("text");
    while (chan_recv(w->text_inbox, &ev, CHAN_FOREVER) == 0) {
        if (ev.kind == WORKER_EVENT_FRAME && ev.frame.type == WIRE_ADAPTER) {
            worker_adapter_frame(w, ev.link, &ev.frame);
            continue;
        }
        if (ev.kind == WORKER_EVENT_FRAME) {
            render_answer(w, ev.link, &ev.frame);
            continue;
        }
        uint32_t serial = ev.link->serial;
        worker_post(w, &ev);
        if (atomic_load(&w->running_link) == serial)
            w->engine->ops->interrupt(w->engine, true);
    }
    return NULL;
}

int worker_text_start(struct worker *w, struct err *e)
{
    if (pthread_create(&w->text_thread, NULL, text_thread, w) != 0)
        return err_set(e, ERR_IO, "cannot start the text thread");
    return 0;
}
