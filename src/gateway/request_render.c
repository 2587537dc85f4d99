// The first half of a request: its inputs become tokens. For embeddings also the second one.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/core.h"
#include "gateway/parse_media.h"

#include <stdlib.h>
#include <string.h>

// ---- rendering ----------------------------------------------------------------------------------------

static json_t *render_head(const struct request *r, size_t at)
{
    return at == 0 ? r->in.render : json_array_get(r->in.more, at - 1);
}

static void render_next(struct request *r)
{
    while (r->asked < r->n_inputs && r->asked - r->rendered < REQUEST_WINDOW) {
        size_t at = r->asked++;

        request_run_open(r, at);
        peer_send(r->decode, media_frame(&r->in, r->id + at, json_incref(render_head(r, at))));
    }
}

// True when the worker that renders reads images, or there are none.
static bool images_check(struct core *c, struct request *r)
{
    const struct message_welcome *w = &request_home(r)->welcome;
    struct err e = {0};

    if (r->in.n_images == 0 || w->limits.media || request_home(r)->state != PEER_UP)
        return true;
    err_set(&e, ERR_UNSUPPORTED,
            "model \"%s\" takes no images here; start the server with --mmproj FILE, the projector "
            "that belongs to the model",
            w->model);
    request_fail_as(c, r, request_prompt_fault(r, "images_unsupported"), &e);
    return false;
}

void request_render(struct core *c, struct request *r)
{
    if (!images_check(c, r))
        return;
    request_ids_take(c, r, r->n_inputs);
    peer_expect(c, r, request_home(r));
    r->decode = request_home(r);
    r->asked = r->rendered = 0;
    r->n_tokens = 0;
    request_phase_set(r, REQUEST_RENDER, REQUEST_RENDER_NS);
    render_next(r);
}

// A prompt may be rendered twice, and clients send what the template has anyway.
static bool stop_known(const struct message_generate *g, const char *stop)
{
    for (size_t i = 0; i < g->n_stops; i++)
        if (strcmp(g->stops[i], stop) == 0)
            return true;
    return false;
}

// The template's own stop strings, and what it says of the answer: that goes back unread, but for
// whether there is more to it than a grammar.
static void syntax_take(struct request *r, const json_t *head)
{
    struct message_generate *g = &r->in.generate;
    const json_t *stops = json_object_get(head, "stop");
    json_t *syntax = json_object_get(head, "syntax"), *media = json_object_get(head, "media");
    size_t plain;

    json_decref(g->media);
    g->media = json_array_size(media) > 0 ? json_incref(media) : NULL;

    for (size_t i = 0; i < json_array_size(stops) && g->n_stops < MESSAGE_STOPS_MAX; i++) {
        const char *stop = json_string_value(json_array_get(stops, i));

        if (stop && stop[0] && strlen(stop) <= MESSAGE_STOP_BYTES && !stop_known(g, stop))
            g->stops[g->n_stops++] = mem_strdup(stop);
    }
    if (!json_is_object(syntax))
        return;
    plain = json_object_get(syntax, "grammar") ? 1 : 0;
    json_decref(g->syntax);
    g->sampling.syntax = g->syntax = json_incref(syntax);
    g->parse = r->in.kind == PARSE_CHAT && json_object_size(syntax) > plain;
}

struct request_fault request_prompt_fault(const struct request *r, const char *code)
{
    static const char *const params[] = {[PARSE_CHAT] = "messages",
                                         [PARSE_TEXT] = "prompt",
                                         [PARSE_EMBED] = "input",
                                         [PARSE_RANK] = "documents",
                                         [PARSE_RENDER] = NULL};

    return (struct request_fault){.status = 400, .code = code, .param = params[r->in.kind]};
}

// True when every input can be worked on.
static bool inputs_check(struct core *c, struct request *r)
{
    uint32_t n_ctx = request_home(r)->welcome.limits.n_ctx;
    bool writes = r->in.kind == PARSE_CHAT || r->in.kind == PARSE_TEXT;
    struct err e = {0};

    for (size_t i = 0; i < r->n_inputs; i++) {
        uint32_t n = r->inputs[i].n_tokens;

        if (n == 0) {
            err_set(&e, ERR_INVALID, "the prompt has no tokens");
            request_fail_as(c, r, request_prompt_fault(r, "empty_prompt"), &e);
            return false;
        }
        if (!writes || n < n_ctx)
            continue;
        err_set(&e, ERR_RANGE,
                "the prompt has %u tokens, the context holds %u and needs room for at least one "
                "more; shorten the prompt or start the server with a larger --ctx",
                n, n_ctx);
        request_fail_as(c, r, request_prompt_fault(r, "context_length_exceeded"), &e);
        return false;
    }
    return true;
}

// What the worker said is the answer.
static void rendering_tell(struct core *c, struct request *r, const json_t *head)
{
    json_t *tokens = json_array();

    for (uint32_t i = 0; i < r->inputs[0].n_tokens; i++)
        json_array_append_new(tokens, json_integer(r->inputs[0].tokens[i]));
    r->answer.result = json_copy((json_t *)(uintptr_t)head);
    json_put(r->answer.result, "tokens", tokens);
    request_finish(c, r);
}

void request_on_rendered(struct core *c, struct request *r, uint32_t at, const json_t *head,
                         const struct wire_frame *f)
{
    struct request_input *in = &r->inputs[at];
    struct err e = {0};
    size_t n = 0;

    if (r->phase != REQUEST_RENDER)
        return;
    request_run_shut(r, at);
    free(in->tokens);
    in->tokens = NULL;
    if (wire_frame_get_tokens(f, &in->tokens, &n, &e) != 0) {
        request_fail(c, r, &e);
        return;
    }
    in->n_tokens = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
    r->n_tokens += in->n_tokens;
    r->answer.usage.prompt_tokens = r->n_tokens;
    if (at == 0)
        syntax_take(r, head);
    if (++r->rendered < r->n_inputs)
        render_next(r);
    else if (r->in.kind == PARSE_RENDER)
        rendering_tell(c, r, head);
    else if (inputs_check(c, r))
        request_go(c, r);
}

// ---- embeddings -----------------------------------------------------------------------------------------

// A reranker reads query and document as one text: the query's last special token also begins the
// document, in place of the document's own first one.
static void pair_make(const struct request *r, size_t at, int32_t **tokens, size_t *n)
{
    const struct request_input *query = &r->inputs[0], *document = &r->inputs[at];

    *n = (size_t)query->n_tokens + document->n_tokens;
    *tokens = mem_alloc(*n * sizeof(**tokens));
    memcpy(*tokens, query->tokens, query->n_tokens * sizeof(**tokens));
    memcpy(*tokens + query->n_tokens, document->tokens, document->n_tokens * sizeof(**tokens));
    (*tokens)[query->n_tokens] = query->tokens[query->n_tokens - 1];
}

static bool scores_pairs(const struct request *r)
{
    return r->in.kind == PARSE_RANK && r->decode->welcome.limits.ranks;
}

static void embed_send(struct request *r, size_t at)
{
    const struct request_input *in = &r->inputs[at];
    int32_t *pair = NULL;
    size_t n = in->n_tokens;

    if (scores_pairs(r))
        pair_make(r, at, &pair, &n);
    request_run_open(r, at);
    peer_send(r->decode,
              wire_frame_tokens(WIRE_EMBED, r->id + at, NULL, pair ? pair : in->tokens, n));
    free(pair);
}

static void embed_next(struct request *r)
{
    while (r->asked < r->n_inputs && r->asked - r->rendered < REQUEST_WINDOW)
        embed_send(r, r->asked++);
}

// What was asked for and cannot be had, told before the work is done.
static bool embed_check(struct core *c, struct request *r)
{
    const struct message_welcome *w = &request_home(r)->welcome;
    json_int_t wanted = json_integer_value(json_object_get(r->in.echo, "dimensions"));
    struct request_fault fault = {.status = 400, .param = "dimensions"};
    size_t bytes = r->n_inputs * w->identity.n_embd * 14;
    struct err e = {0};

    if (wanted > 0 && wanted != (json_int_t)w->identity.n_embd) {
        err_set(&e, ERR_UNSUPPORTED,
                "'dimensions' is %lld; this model's embeddings have %u and are not cut",
                (long long)wanted, w->identity.n_embd);
    } else if (r->in.kind == PARSE_EMBED && bytes > ANSWER_BODY_MAX) {
        fault.param = "input";
        err_set(
            &e, ERR_RANGE,
            "%zu embeddings of %u dimensions are more than one answer holds; send fewer at once",
            r->n_inputs, w->identity.n_embd);
    } else {
        return true;
    }
    request_fail_as(c, r, fault, &e);
    return false;
}

static void embed_begin(struct core *c, struct request *r)
{
    if (!embed_check(c, r))
        return;
    request_ids_take(c, r, r->n_inputs);
    peer_expect(c, r, request_home(r));
    r->decode = request_home(r);
    if (!r->answer.vectors)
        r->answer.vectors = mem_alloc(r->n_inputs * sizeof(*r->answer.vectors));
    r->answer.n_vectors = r->n_inputs;
    // Where pairs are scored the query has no embedding of its own.
    r->asked = r->rendered = scores_pairs(r) ? 1 : 0;
    request_phase_set(r, REQUEST_EMBED, INT64_MAX);
    embed_next(r);
}

void request_go(struct core *c, struct request *r)
{
    r->rendered_all = true;
    if (r->in.kind == PARSE_EMBED || r->in.kind == PARSE_RANK) {
        embed_begin(c, r);
        return;
    }
    request_plan(c, r);
    if (!r->over)
        request_stream_begin(c, r);
}

void request_on_embedded(struct core *c, struct request *r, uint32_t at, const struct wire_frame *f)
{
    struct answer_vector *v = &r->answer.vectors[at];
    uint32_t n = (uint32_t)(f->body.len / 4), n_embd = r->decode->welcome.identity.n_embd;
    struct err e = {0};

    if (r->phase != REQUEST_EMBED)
        return;
    request_run_shut(r, at);
    r->begun = true;
    if (f->body.len % 4 != 0 || (n != n_embd && n != 1)) {
        err_set(&e, ERR_CORRUPT, "the worker sent an embedding of %zu bytes, not of %u numbers",
                f->body.len, n_embd);
        request_fail(c, r, &e);
        return;
    }
    free(v->values);
    v->values = mem_alloc(n * sizeof(*v->values));
    v->n = n;
    v->prompt_tokens = r->inputs[at].n_tokens;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = le_get32((const uint8_t *)f->body.data + (size_t)4 * i);

        memcpy(&v->values[i], &bits, 4);
    }
    if (++r->rendered < r->n_inputs)
        embed_next(r);
    else
        request_finish(c, r);
}
