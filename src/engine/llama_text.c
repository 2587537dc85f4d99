// Text and tokens. These calls read what is immutable after loading (vocabulary, chat templates), so
// one thread beside the engine's may make them.
#include "engine/llama_impl.h"

#include "base/json.h"
#include "engine/llama_chat.h"
#include "engine/schema.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

// A token is at least one byte of text, but for those that the model itself adds.
#define ADDED_TOKENS 16
#define TEXT_BYTES_MAX (256u << 20)

int llama_text_tokenize(struct engine *base, const char *text, size_t n, bool special, bool add_bos,
                        int32_t **tokens, size_t *n_tokens, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    if (!base->limits.has_tokenizer)
        return err_set(e, ERR_UNSUPPORTED, "model '%s' has no tokenizer; send token ids",
                       base->identity.model);
    if (n > TEXT_BYTES_MAX)
        return err_set(e, ERR_RANGE, "a text of %zu bytes; at most %u", n, TEXT_BYTES_MAX);
    int32_t cap = (int32_t)n + ADDED_TOKENS;
    int32_t *out = malloc((size_t)cap * sizeof *out);
    if (!out)
        return err_set(e, ERR_RANGE, "no memory for the tokens of %zu bytes", n);
    int32_t got = llama_tokenize(g->vocab, text, (int32_t)n, out, cap, add_bos, special);
    if (got < 0) {
        free(out);
        return err_set(e, ERR_INVALID, "the text of %zu bytes could not be tokenised (%d)", n,
                       (int)got);
    }
    *tokens = out;
    *n_tokens = (size_t)got;
    return 0;
}

size_t llama_text_piece(struct engine *base, int32_t token, char *out, size_t cap)
{
    struct llama_engine *g = llama_of(base);
    if (!base->limits.has_tokenizer || token < 0 || (uint32_t)token >= base->identity.n_vocab)
        return 0;
    int32_t n = llama_token_to_piece(
        g->vocab, token, out, cap > INT32_MAX ? INT32_MAX : (int32_t)cap, 0, g->shown[token]);
    return n > 0 ? (size_t)n : 0;
}

bool llama_text_is_end(struct engine *base, int32_t token)
{
    struct llama_engine *g = llama_of(base);
    return base->limits.has_tokenizer && token >= 0 && (uint32_t)token < base->identity.n_vocab &&
           llama_vocab_is_eog(g->vocab, token);
}

static bool is_image(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type && strcmp(type, "image") == 0;
}

static json_t *marker_part(const char *marker)
{
    return json_pack("{s:s,s:s}", "type", "media_marker", "text", marker);
}

// A new reference: the message with its images as llama.cpp knows them, or the message itself.
static json_t *message_mark(json_t *message, const char *marker)
{
    json_t *content = json_object_get(message, "content");
    size_t n = json_array_size(content), i = 0;
    while (i < n && !is_image(json_array_get(content, i)))
        i++;
    if (i == n)
        return json_incref(message);
    json_t *parts = json_copy(content), *copy = json_copy(message);
    for (; i < n; i++)
        if (is_image(json_array_get(parts, i)))
            json_array_set_new(parts, i, marker_part(marker));
    json_object_set_new(copy, "content", parts);
    return copy;
}

// A new reference. What is not changed is shared.
static json_t *images_mark(const json_t *request, const char *marker)
{
    const json_t *messages = json_object_get(request, "messages");
    json_t *list = json_array(), *out = json_copy((json_t *)(uintptr_t)request);
    for (size_t i = 0; i < json_array_size(messages); i++)
        json_array_append_new(list, message_mark(json_array_get(messages, i), marker));
    if (json_is_array(messages))
        json_object_set(out, "messages", list);
    json_decref(list);
    return out;
}

int llama_text_render(struct engine *base, const json_t *request, json_t **rendered, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    const char *marker = llama_media_marker(g);
    if (!g->chat)
        return err_set(e, ERR_UNSUPPORTED, "model '%s' has no tokenizer and so no chat",
                       base->identity.model);
    if (schema_weigh(request, e) != 0)
        return err_wrap(e, "the request cannot be rendered");
    json_t *marked = marker ? images_mark(request, marker) : NULL;
    char *text = json_text(marked ? marked : request);
    json_decref(marked);
    llama_log_hush();
    char *answer = llama_chat_render(g->chat, text, e);
    llama_log_speak();
    free(text);
    if (!answer)
        return ERR_INVALID;
    *rendered = json_parse(answer, strlen(answer), e);
    free(answer);
    return *rendered ? 0 : ERR_INVALID;
}
