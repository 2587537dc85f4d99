// What a server says besides answers: its models, and why it will not.
#include "base/json.h"
#include "gateway/upstream_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- models -------------------------------------------------------------------------------------------

// vLLM, OpenRouter, LM Studio; llama-server tells it one level deeper.
static uint32_t context_of(const json_t *model)
{
    static const char *const members[] = {"max_model_len", "context_length", "max_context_length",
                                          "n_ctx", "n_ctx_train"};
    const json_t *meta = json_object_get(model, "meta");

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        const json_t *v = json_object_get(i < 3 ? model : meta, members[i]);

        if (json_integer_value(v) > 0 && json_integer_value(v) <= INT32_MAX)
            return (uint32_t)json_integer_value(v);
    }
    return 0;
}

static bool listed_before(const struct upstream_listed *all, size_t n, const char *id)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(all[i].id, id) == 0)
            return true;
    return false;
}

static size_t models_take(const json_t *data, struct upstream_listed *out, size_t *left)
{
    size_t n = 0;

    *left = 0;
    for (size_t i = 0; i < json_array_size(data); i++) {
        const json_t *model = json_array_get(data, i);
        const char *id = json_string_value(json_object_get(model, "id"));

        if (!id || !id[0] || strlen(id) >= PARSE_MODEL_BYTES || listed_before(out, n, id))
            continue;
        if (n == UPSTREAM_LIST_MODELS) {
            ++*left;
            continue;
        }
        snprintf(out[n].id, sizeof(out[n].id), "%s", id);
        out[n++].n_ctx = context_of(model);
    }
    return n;
}

int upstream_list_parse(const void *text, size_t n, struct upstream_listed **out, size_t *n_out,
                        size_t *left, struct err *e)
{
    json_t *o = json_parse(text, n, e);
    const json_t *data = json_is_array(o) ? o : json_object_get(o, "data");
    size_t room = json_array_size(data);

    *out = NULL;
    *n_out = *left = 0;
    if (!o || !json_is_array(data)) {
        json_decref(o);
        return err_set(e, ERR_CORRUPT, "its list of models is not one of OpenAI's shape");
    }
    room = room < UPSTREAM_LIST_MODELS ? room : UPSTREAM_LIST_MODELS;
    *out = mem_alloc((room + 1) * sizeof(**out));
    *n_out = models_take(data, *out, left);
    json_decref(o);
    return 0;
}

// ---- reasons ------------------------------------------------------------------------------------------

// {"error":{"message":".."}}, {"error":".."}, {"message":".."}, {"detail":".."}.
static const char *message_of(const json_t *o)
{
    const json_t *error = json_object_get(o, "error");
    const char *text = json_string_value(json_object_get(error, "message"));

    text = text ? text : json_string_value(error);
    text = text ? text : json_string_value(json_object_get(o, "message"));
    return text ? text : json_string_value(json_object_get(o, "detail"));
}

// Replaces what must not be seen by stars: some servers repeat the key that they refuse.
static void secret_hide(char *text, const char *secret)
{
    size_t n = secret ? strlen(secret) : 0;

    for (char *at = text; n > 0 && (at = strstr(at, secret)); at += n)
        memset(at, '*', n);
}

void upstream_reason(const void *text, size_t n, const char *secret,
                     char out[UPSTREAM_REASON_BYTES])
{
    struct err e = {0};
    json_t *o = n > 0 ? json_parse(text, n, &e) : NULL;
    const char *message = message_of(o);
    size_t length = message ? strlen(message) : n;
    // Hidden before it is cut short, so that no part of a key is left at the end.
    char *whole = mem_alloc(length + 1);

    memcpy(whole, message ? message : n > 0 ? (const char *)text : "", length);
    secret_hide(whole, secret);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)whole[i] < ' ' || whole[i] == 0x7f)
            whole[i] = ' ';
    whole[length] = '\0';
    snprintf(out, UPSTREAM_REASON_BYTES, "%s", whole[0] ? whole : "(no reason)");
    free(whole);
    json_decref(o);
}
