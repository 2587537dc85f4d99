// Text of the fake engine: bytes are tokens, messages are lines.
#include "engine/engine_fake_text.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/engine_fake_impl.h"
#include "engine/engine_fake_script.h"
#include "engine/fake.h"

#include <string.h>

// ---- text ---------------------------------------------------------------------------------------

int fake_tokenize(struct engine *g, const char *text, size_t n, bool special, bool add_bos,
                  int32_t **tokens, size_t *n_tokens, struct err *e)
{
    (void)g;
    (void)special;
    if (n > (1u << 26))
        return err_set(e, ERR_RANGE, "a text of %zu bytes", n);
    int32_t *out = mem_alloc((n + 1) * sizeof *out);
    size_t k = 0;
    if (add_bos)
        out[k++] = FAKE_TOKEN_BEGIN;
    for (size_t i = 0; i < n; i++)
        out[k++] = (uint8_t)text[i];
    *tokens = out;
    *n_tokens = k;
    return 0;
}

size_t fake_piece(struct engine *g, int32_t token, char *out, size_t cap)
{
    (void)g;
    if (token < 0 || token == FAKE_TOKEN_BEGIN || token == FAKE_TOKEN_END || cap == 0)
        return 0;
    out[0] = token < 256 ? (char)token : '?';
    return 1;
}

bool fake_is_end(struct engine *g, int32_t token)
{
    (void)g;
    return token == FAKE_TOKEN_END;
}

// "content" is a text, a list of {"type":"text","text":..} parts, or nothing: null or absent, as in the
// messages of an assistant that only called a tool.
static int content_put(struct buf *b, const json_t *content, struct err *e)
{
    size_t i;
    const json_t *part;
    if (content == NULL || json_is_null(content))
        return 0;
    if (json_is_string(content))
        return buf_puts(b, json_string_value(content));
    if (!json_is_array(content))
        return err_set(e, ERR_INVALID, "a message's content must be a text or a list of parts");
    json_array_foreach(content, i, part)
    {
        const char *text = json_string_value(json_object_get(part, "text"));
        if (text == NULL)
            return err_set(e, ERR_INVALID, "part %zu of a message's content has no text", i);
        int rc = buf_puts(b, text);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static bool continues(const json_t *request)
{
    const json_t *final = json_object_get(request, "continue_final_message");
    return final != NULL && !json_is_false(final) && !json_is_null(final);
}

// A final message that is to be continued stays open: nothing follows its text.
static int messages_put(struct buf *b, const json_t *request, struct err *e)
{
    size_t i;
    const json_t *messages = json_object_get(request, "messages"), *m;
    bool open = continues(request);
    int rc = 0;
    json_array_foreach(messages, i, m)
    {
        const char *role = json_string_value(json_object_get(m, "role"));
        bool ends = !open || i + 1 < json_array_size(messages);
        if (role == NULL)
            return err_set(e, ERR_INVALID, "message %zu has no role", i);
        if ((rc = buf_printf(b, "%s: ", role)) != 0 ||
            (rc = content_put(b, json_object_get(m, "content"), e)) != 0 ||
            (rc = buf_puts(b, ends ? "\n" : "")) != 0)
            return rc;
    }
    return open || json_is_false(json_object_get(request, "add_generation_prompt"))
               ? 0
               : buf_puts(b, "assistant: ");
}

static int prompt_put(struct buf *b, const json_t *request, struct err *e)
{
    const json_t *messages = json_object_get(request, "messages");
    const json_t *prompt = json_object_get(request, "prompt");
    const json_t *grammar = json_object_get(request, "grammar");
    if (json_string_length(grammar) > 0)
        return err_set(e, ERR_INVALID, "the fake engine has no grammars");
    if (messages == NULL && json_is_string(prompt))
        return buf_put(b, json_string_value(prompt), json_string_length(prompt));
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return err_set(e, ERR_INVALID, "\"messages\" must be a list with at least one message");
    return messages_put(b, request, e);
}

// What sampler_new and parser_new of this engine need to know of the request; fake.h says when.
static json_t *syntax_of(const struct fake *f, const json_t *request)
{
    const char *answer = fake_script_answer(f->script, request);
    const char *format = json_string_value(json_object_get(request, "reasoning_format"));
    bool chat = json_object_get(request, "messages") != NULL;
    if (answer == NULL)
        return json_null();
    json_t *o = json_object();
    json_put(o, "answer", json_string(answer));
    json_put(o, "reasoning", json_boolean(chat && (format == NULL || strcmp(format, "none") != 0)));
    json_put(o, "tools", json_boolean(chat && fake_script_tool_offered(request, NULL)));
    return o;
}

int fake_render(struct engine *g, const json_t *request, json_t **rendered, struct err *e)
{
    const struct fake *f = (const struct fake *)g;
    struct buf b;
    buf_init(&b, 64u << 20);
    int rc = prompt_put(&b, request, e);
    if (rc == 0) {
        json_t *o = json_object();
        json_put(o, "prompt", json_stringn(b.len > 0 ? (const char *)b.data : "", b.len));
        json_put(o, "stop", json_array());
        json_put(o, "syntax", syntax_of(f, request));
        *rendered = o;
    }
    buf_fini(&b);
    return rc;
}
