#include "train/dataset.h"

#include "base/buf.h"
#include "base/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

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

static bool is_learned(const json_t *message)
{
    const json_t *weight = json_object_get(message, "weight");
    const char *role = json_string_value(json_object_get(message, "role"));
    return strcmp(role, "assistant") == 0 &&
           !(json_is_number(weight) && json_number_value(weight) == 0);
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

static int messages_check(const json_t *messages, struct err *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    size_t i, learned = 0;
    const json_t *m;
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return err_set(e, ERR_INVALID, "\"messages\" must be a list with at least one message");
    json_array_foreach(messages, i, m)
    {
        const char *role = json_string_value(json_object_get(m, "role"));
        bool known = false;
        for (size_t k = 0; role && k < sizeof roles / sizeof *roles; k++)
            known = known || strcmp(role, roles[k]) == 0;
        if (!known)
            return err_set(
                e, ERR_INVALID,
                "message %zu has role \"%.40s\"; system, developer, user, assistant and tool "
                "are known",
                i + 1, role ? role : "(none)");
        const json_t *content = json_object_get(m, "content");
        bool calls = json_is_array(json_object_get(m, "tool_calls"));
        if (!json_is_string(content) && !(calls && (!content || json_is_null(content))))
            return err_set(e, ERR_INVALID, "message %zu has no text as \"content\"", i + 1);
        learned += is_learned(m);
    }
    if (learned == 0)
        return err_set(e, ERR_INVALID, "no message of the assistant is to be learned");
    return 0;
}

static int example_read(struct engine *g, const json_t *line, uint32_t max_tokens,
                        struct graph_sample *out, struct err *e)
{
    const json_t *messages = json_object_get(line, "messages");
    struct text whole = {0};
    bool *supervised = NULL;
    int rc = messages_check(messages, e);
    if (rc == 0)
        rc = messages_tokenize(g, messages, json_array_size(messages), false, &whole, e);
    if (rc == 0 && whole.n > max_tokens)
        rc = err_set(e, ERR_RANGE,
                     "%zu tokens, at most %" PRIu32 " are taken; shorten it, or raise the limit",
                     whole.n, max_tokens);
    if (rc == 0)
        supervised = mem_alloc((whole.n + 1) * sizeof *supervised);
    for (size_t k = 0; rc == 0 && k < json_array_size(messages); k++)
        if (is_learned(json_array_get(messages, k)))
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

static int line_read(struct dataset *d, struct engine *g, const char *text, size_t n,
                     uint32_t max_tokens, struct err *e)
{
    struct graph_sample s;
    if (n > DATASET_LINE_MAX)
        return err_set(e, ERR_RANGE, "%zu bytes, at most %u are taken", n, DATASET_LINE_MAX);
    json_t *line = json_parse(text, n, e);
    if (!line)
        return e->code;
    int rc = json_is_object(line) ? example_read(g, line, max_tokens, &s, e)
                                  : err_set(e, ERR_INVALID, "must be a JSON object");
    json_decref(line);
    if (rc == 0)
        sample_add(d, &s);
    return rc;
}

static int lines_read(struct dataset *d, struct engine *g, FILE *f, uint32_t max_tokens,
                      struct err *e)
{
    XXH64_state_t *hash = XXH64_createState();
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    int rc = 0;
    XXH64_reset(hash, 0);
    while (rc == 0 && (n = getline(&line, &cap, f)) >= 0) {
        number++;
        XXH64_update(hash, line, (size_t)n);
        while (n > 0 && strchr(" \t\r\n", line[n - 1]))
            n--;
        if (n == 0)
            continue; // an empty line, as editors leave at the end
        rc = d->n < DATASET_EXAMPLES_MAX
                 ? line_read(d, g, line, (size_t)n, max_tokens, e)
                 : err_set(e, ERR_RANGE, "at most %u examples are taken", DATASET_EXAMPLES_MAX);
        if (rc != 0)
            err_wrap(e, "line %zu", number);
    }
    d->hash = XXH64_digest(hash);
    XXH64_freeState(hash);
    free(line);
    if (rc == 0 && ferror(f))
        rc = err_set(e, ERR_IO, "%s", strerror(errno));
    return rc;
}

int dataset_load(const char *path, struct engine *engine, uint32_t max_tokens, struct dataset **out,
                 struct err *e)
{
    struct dataset *d = mem_alloc(sizeof *d);
    FILE *f = fopen(path, "r");
    int rc = 0;
    if (!f)
        rc = err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s", strerror(errno));
    else if (!engine->limits.has_chat_template)
        rc = err_set(e, ERR_UNSUPPORTED, "the model has no chat template to write them in");
    else
        rc = lines_read(d, engine, f, max_tokens, e);
    if (f)
        fclose(f);
    if (rc == 0 && d->n == 0)
        rc = err_set(e, ERR_INVALID, "there is no example in it; one JSON object a line is wanted");
    if (rc == 0) {
        *out = d;
        return 0;
    }
    err_wrap(e, "'%s'", path);
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
