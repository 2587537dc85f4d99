#include "train/dataset.h"

#include "base/buf.h"
#include "base/examples.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// ---- one example -----------------------------------------------------------------------------------

struct text {
    int32_t *tokens;
    size_t n;
};

// The first n messages through template and tokenizer. `ask`: up to where the assistant would begin.
static int messages_tokenize(struct engine *g, const json_t *messages, size_t n, bool ask,
                             struct text *out, struct err *e)
{
    json_t *some = json_array(), *request = json_object(), *rendered = NULL;
    const char *prompt = NULL;
    for (size_t i = 0; i < n; i++)
        json_array_append(some, json_array_get(messages, i));
    json_put(request, "messages", some);
    json_put(request, "add_generation_prompt", json_boolean(ask));
    *out = (struct text){0};
    int rc = g->ops->render(g, request, &rendered, e);
    if (rc == 0)
        rc = json_get_string(rendered, "prompt", &prompt, e);
    if (rc == 0)
        rc = g->ops->tokenize(g, prompt, strlen(prompt), true, true, &out->tokens, &out->n, e);
    json_decref(rendered);
    json_decref(request);
    return rc;
}

static bool begins_with(const struct text *whole, const struct text *part)
{
    return part->n <= whole->n &&
           memcmp(whole->tokens, part->tokens, part->n * sizeof *part->tokens) == 0;
}

// Some templates end a message with a line break of their own, which no answer ever holds: what follows the
// last end token is no target. Without end tokens in the template all of it counts.
static size_t answer_end(struct engine *g, const struct text *whole, size_t from, size_t to)
{
    for (size_t i = to; i > from; i--)
        if (g->ops->is_end(g, whole->tokens[i - 1]))
            return i;
    return to;
}

// Marks what message k adds behind the place where the assistant begins.
static int message_mark(struct engine *g, const json_t *messages, size_t k,
                        const struct text *whole, bool *supervised, struct err *e)
{
    struct text before = {0}, after = {0};
    int rc = messages_tokenize(g, messages, k, true, &before, e);
    if (rc == 0)
        rc = messages_tokenize(g, messages, k + 1, false, &after, e);
    if (rc == 0 && (!begins_with(whole, &before) || !begins_with(&after, &before)))
        rc = err_set(e, ERR_UNSUPPORTED,
                     "the chat template writes what stands before message %zu in another way once "
                     "it is answered; split the chat there",
                     k + 1);
    size_t end = after.n < whole->n ? after.n : whole->n;
    if (rc == 0)
        end = answer_end(g, whole, before.n, end);
    for (size_t i = before.n; rc == 0 && i < end; i++)
        supervised[i] = true;
    free(before.tokens);
    free(after.tokens);
    return rc;
}

static int example_read(struct engine *g, const json_t *line, uint32_t max_tokens,
                        struct graph_sample *out, struct err *e)
{
    const json_t *messages = json_object_get(line, "messages");
    struct text whole = {0};
    bool *supervised = NULL;
    int rc = messages_tokenize(g, messages, json_array_size(messages), false, &whole, e);
    if (rc == 0 && whole.n > max_tokens)
        rc = err_set(e, ERR_RANGE,
                     "%zu tokens, at most %" PRIu32 " are taken; shorten it, or raise the limit",
                     whole.n, max_tokens);
    if (rc == 0)
        supervised = mem_alloc((whole.n + 1) * sizeof *supervised);
    for (size_t k = 0; rc == 0 && k < json_array_size(messages); k++)
        if (examples_learned(json_array_get(messages, k)))
            rc = message_mark(g, messages, k, &whole, supervised, e);
    if (rc == 0) {
        *out = (struct graph_sample){whole.tokens, supervised, (uint32_t)whole.n};
        if (whole.n < 2 || graph_targets(out) == 0)
            rc = err_set(e, ERR_INVALID, "nothing in it is to be learned: the answers are empty");
    }
    if (rc == 0)
        return 0;
    free(whole.tokens);
    free(supervised);
    return rc;
}

// ---- the file ------------------------------------------------------------------------------------------

static void sample_add(struct dataset *d, const struct graph_sample *s)
{
    if ((d->n & (d->n - 1)) == 0) // 1, 2, 4, ...: room for as many again
        d->samples = mem_resize(d->samples, (d->n == 0 ? 1 : 2 * d->n) * sizeof *d->samples);
    d->samples[d->n++] = *s;
    d->n_tokens += s->n;
    d->n_targets += graph_targets(s);
}

struct loading {
    struct dataset *data;
    struct engine *engine;
    uint32_t max_tokens;
};

static int example_take(void *ctx, const json_t *example, struct err *e)
{
    struct loading *l = ctx;
    struct graph_sample s;
    int rc = example_read(l->engine, example, l->max_tokens, &s, e);
    if (rc == 0)
        sample_add(l->data, &s);
    return rc;
}

int dataset_load(const char *path, struct engine *engine, uint32_t max_tokens, struct dataset **out,
                 struct err *e)
{
    struct dataset *d = mem_alloc(sizeof *d);
    struct loading l = {d, engine, max_tokens};
    struct examples_facts facts;
    int rc =
        engine->limits.has_chat_template
            ? examples_read(path, example_take, &l, &facts, e)
            : err_set(e, ERR_UNSUPPORTED, "the model has no chat template to write '%s' in", path);
    if (rc == 0) {
        d->hash = facts.hash;
        *out = d;
        return 0;
    }
    dataset_free(d);
    return rc;
}

void dataset_free(struct dataset *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n; i++) {
        free((void *)(uintptr_t)d->samples[i].tokens);
        free((void *)(uintptr_t)d->samples[i].supervised);
    }
    free(d->samples);
    free(d);
}
