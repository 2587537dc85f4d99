// Text and tokens. These calls read what is immutable after loading (vocabulary, chat templates), so
// one thread beside the engine's may make them.
#include "engine/llama_impl.h"

#include "base/json.h"
#include "engine/llama_chat.h"

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

int llama_text_render(struct engine *base, const json_t *request, json_t **rendered, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    if (!g->chat)
        return err_set(e, ERR_UNSUPPORTED, "model '%s' has no tokenizer and so no chat",
                       base->identity.model);
    char *text = json_text(request);
    char *answer = llama_chat_render(g->chat, text, e);
    free(text);
    if (!answer)
        return ERR_INVALID;
    *rendered = json_parse(answer, strlen(answer), e);
    free(answer);
    return *rendered ? 0 : ERR_INVALID;
}
