// What is to be answered: messages for the model's template, or prompts as text or token ids.
#include "base/buf.h"
#include "base/json.h"
#include "gateway/parse_impl.h"
#include "gateway/parse_media.h"

#include <string.h>

#define MESSAGE_BYTES_MAX (64u << 20) // of one message's parts, joined; a body is smaller anyway

// ---- the parts of a message ---------------------------------------------------------------------------

// A part without its image, which goes beside the chat.
static int part_take_image(struct parser *p, const json_t *part, size_t i, json_t *parts)
{
    const json_t *image = json_object_get(part, "image_url");
    const json_t *url = json_is_object(image) ? json_object_get(image, "url") : image;
    struct err e = {0};

    if (!json_is_string(url))
        return FAULT(p, "messages", "'messages[%zu].content' has an image without 'image_url.url'",
                     i);
    if (media_add(p->out, json_string_value(url), json_string_length(url), &e) != 0)
        return FAULT(p, "messages", "'messages[%zu].content' %s", i, e.message);
    json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
    return 0;
}

// Appends what a template is to see of one part.
static int part_add(struct parser *p, const json_t *part, size_t i, json_t *parts)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    const char *member = "text";
    json_t *words;

    if (!type)
        return FAULT(p, "messages",
                     "'messages[%zu].content' must hold objects with a string 'type'", i);
    if (strcmp(type, "image_url") == 0)
        return part_take_image(p, part, i, parts);
    if (strcmp(type, "refusal") == 0)
        member = "refusal";
    else if (strcmp(type, "text") != 0)
        return FAULT(p, "messages",
                     "'messages[%zu].content' has a part of type \"%.40s\"; text and image_url are "
                     "taken",
                     i, type);
    words = json_object_get(part, member);
    if (!json_is_string(words))
        return FAULT(p, "messages",
                     "'messages[%zu].content' has a part of type \"%s\" without a string '%s'", i,
                     type, type);
    json_array_append_new(parts, json_pack("{s:s,s:O}", "type", "text", "text", words));
    return 0;
}

// Text alone becomes one text: what every template can render.
static json_t *parts_text(const json_t *parts)
{
    struct buf text;
    json_t *joined;

    buf_init(&text, MESSAGE_BYTES_MAX);
    for (size_t k = 0; k < json_array_size(parts); k++) {
        if (text.len > 0)
            buf_puts(&text, "\n");
        buf_puts(&text, json_string_value(json_object_get(json_array_get(parts, k), "text")));
    }
    joined = json_string(text.data ? (const char *)text.data : "");
    buf_fini(&text);
    return joined;
}

// Joins the parts of the message, or leaves images among them.
static int parts_join(struct parser *p, json_t *m, size_t i)
{
    const json_t *content = json_object_get(m, "content");
    size_t images = p->out->n_images;
    json_t *parts = json_array();
    int rc = 0;

    for (size_t k = 0; rc == 0 && k < json_array_size(content); k++)
        rc = part_add(p, json_array_get(content, k), i, parts);
    if (rc == 0)
        json_put(m, "content", p->out->n_images > images ? json_incref(parts) : parts_text(parts));
    json_decref(parts);
    return rc;
}

// ---- messages -----------------------------------------------------------------------------------------

static int check_call(struct parser *p, const json_t *call, size_t i)
{
    const json_t *function = json_object_get(call, "function");
    const json_t *arguments = json_object_get(function, "arguments");

    if (!json_is_string(json_object_get(function, "name")))
        return FAULT(p, "messages",
                     "'messages[%zu].tool_calls' must hold objects with a string 'function.name'",
                     i);
    if (arguments && !json_is_null(arguments) && !json_is_string(arguments) &&
        !json_is_object(arguments))
        return FAULT(p, "messages",
                     "'messages[%zu].tool_calls' has 'function.arguments' that are no string", i);
    return 0;
}

static int check_calls(struct parser *p, const json_t *m, size_t i)
{
    json_t *calls = NULL;

    if (json_get_array(m, "tool_calls", &calls, &p->fault->e) != 0)
        return FAULT(p, "messages", "'messages[%zu].tool_calls' must be an array", i);
    for (size_t k = 0; k < json_array_size(calls); k++)
        if (check_call(p, json_array_get(calls, k), i) != 0)
            return p->fault->e.code;
    return 0;
}

static bool is_assistant(const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role"));

    return role && strcmp(role, "assistant") == 0;
}

static int check_message(struct parser *p, const json_t *m, size_t i)
{
    const json_t *content = json_object_get(m, "content");
    const json_t *call = json_object_get(m, "tool_call_id");
    bool none = !content || json_is_null(content);

    if (!json_is_object(m) || !json_is_string(json_object_get(m, "role")))
        return FAULT(p, "messages", "'messages[%zu]' must be an object with a string 'role'", i);
    if (!none && !json_is_string(content) && !json_is_array(content))
        return FAULT(p, "messages", "'messages[%zu].content' must be a string or an array", i);
    if (none && !is_assistant(m))
        return FAULT(p, "messages", "'messages[%zu].content' is missing", i);
    if (call && !json_is_null(call) && !json_is_string(call))
        return FAULT(p, "messages", "'messages[%zu].tool_call_id' must be a string", i);
    return check_calls(p, m, i);
}

// The message without what is null, and its calls as the template's reader wants them.
static json_t *message_plain(json_t *m)
{
    json_t *plain = parser_plain(m), *given = json_object_get(plain, "tool_calls"), *calls, *call;
    size_t i;

    if (json_is_null(json_object_get(m, "content")))
        json_put(plain, "content", NULL);
    if (!given)
        return plain;
    calls = json_array();
    json_array_foreach(given, i, call)
    {
        json_t *settled = parser_plain_function(call), *f = json_object_get(settled, "function");

        if (!json_object_get(f, "arguments"))
            json_put(f, "arguments", json_string("{}"));
        json_array_append_new(calls, settled);
    }
    json_put(plain, "tool_calls", calls);
    return plain;
}

// A new reference in *out: the messages, their parts joined.
static int messages_take(struct parser *p, json_t *messages, json_t **out)
{
    json_t *list = json_array(), *m, *plain;
    size_t i;

    json_array_foreach(messages, i, m)
    {
        int rc = check_message(p, m, i);

        plain = rc == 0 ? message_plain(m) : NULL;
        if (rc == 0 && json_is_array(json_object_get(m, "content")))
            rc = parts_join(p, plain, i);
        json_array_append_new(list, plain);
        if (rc != 0) {
            json_decref(list);
            return rc;
        }
    }
    *out = list;
    return 0;
}

// An assistant's message at the end is continued, as llama.cpp's server does it, unless the request
// wants an answer of its own.
static int continuation_put(struct parser *p, const json_t *messages, json_t *chat)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *wish = json_object_get(p->body, "continue_final_message");
    bool generate = true, asked = json_member(p->body, "add_generation_prompt");
    bool continues = json_is_true(wish) || json_is_string(wish);

    if (wish && !json_is_null(wish) && !json_is_boolean(wish) && !json_is_string(wish))
        return parse_fault_value(p->fault, "continue_final_message", "true or false", wish);
    if (parser_flag(p, p->body, "add_generation_prompt", &generate) != 0)
        return p->fault->e.code;
    if (continues && asked && generate)
        return FAULT(p, "continue_final_message",
                     "'continue_final_message' and 'add_generation_prompt' exclude each other");
    if (continues && !is_assistant(last))
        return FAULT(p, "continue_final_message",
                     "'continue_final_message': the last message is not the assistant's");
    if (!continues && !wish && !asked && is_assistant(last) &&
        json_array_size(json_object_get(last, "tool_calls")) == 0)
        json_put(chat, "continue_final_message", json_true());
    if (json_is_string(wish) || json_is_true(json_object_get(chat, "continue_final_message")))
        json_put(chat, "add_generation_prompt", json_false());
    return 0;
}

// How long each image is that follows the head of RENDER.
static void images_list(struct parser *p)
{
    json_t *list = json_array();

    for (size_t i = 0; i < p->out->n_images; i++)
        json_array_append_new(list, json_pack("{s:I}", "bytes", (json_int_t)p->out->images[i].len));
    if (p->out->n_images > 0)
        json_object_set(p->out->render, "media", list);
    json_decref(list);
}

static void tools_put(json_t *chat)
{
    json_t *given = json_object_get(chat, "tools"), *tools, *tool;
    size_t i;

    if (!json_is_array(given))
        return;
    tools = json_array();
    json_array_foreach(given, i, tool)
    {
        json_array_append_new(tools, parser_plain_function(tool));
    }
    json_put(chat, "tools", tools);
}

// The worker's template sees the request as the client sent it, less what is not its business.
static int messages_put(struct parser *p)
{
    static const char *const ours[] = {"tandem", "stream", "stream_options", "logit_bias"};
    json_t *messages = NULL, *taken, *chat;

    if (json_get_array(p->body, "messages", &messages, &p->fault->e) != 0)
        return parser_fault_member(p, p->body, "messages");
    if (!messages || json_array_size(messages) == 0)
        return FAULT(p, "messages", "'messages' must be an array with at least one message");
    if (messages_take(p, messages, &taken) != 0)
        return p->fault->e.code;
    // A shallow copy: the members themselves are shared. json_copy wants a writable reference only
    // to count it.
    chat = json_copy((json_t *)(uintptr_t)p->body);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        json_object_del(chat, ours[i]);
    json_put(chat, "messages", taken);
    tools_put(chat);
    json_put(p->out->render, "chat", chat);
    images_list(p);
    return continuation_put(p, messages, chat);
}

// ---- prompts --------------------------------------------------------------------------------------------

static int check_token_ids(struct parser *p, const json_t *ids)
{
    if (json_array_size(ids) > MESSAGE_MAX_TOKENS)
        return FAULT(p, "prompt", "'prompt' has %zu token ids, at most %u are taken",
                     json_array_size(ids), MESSAGE_MAX_TOKENS);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *v = json_array_get(ids, i);

        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return FAULT(p, "prompt", "'prompt[%zu]' must be a token id between 0 and %d", i,
                         INT32_MAX);
    }
    return 0;
}

// The forms of an answer that a text's rendering knows: a grammar is made of them, no template is used.
static bool form_copy(struct parser *p, json_t *chat)
{
    static const char *const forms[] = {"response_format", "json_schema"};
    bool any = false;

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (!json_member(p->body, forms[i]))
            continue;
        json_put(chat, forms[i], json_incref(json_object_get(p->body, forms[i])));
        any = true;
    }
    return any;
}

static int text_put(struct parser *p, json_t *text, json_t *head)
{
    json_t *chat = json_object();

    if (form_copy(p, chat)) {
        json_put(chat, "prompt", json_incref(text));
        json_put(head, "chat", chat);
        return 0;
    }
    json_decref(chat);
    json_put(head, "prompt", json_incref(text));
    return 0;
}

static int prompt_put(struct parser *p, json_t *v, json_t *head)
{
    if (json_is_string(v))
        return text_put(p, v, head);
    if (!json_is_array(v))
        return FAULT(p, "prompt", "'prompt' must be a string or an array of token ids");
    if (json_array_size(v) == 0)
        return FAULT(p, "prompt", "'prompt' is empty");
    if (json_member(p->body, "response_format") || json_member(p->body, "json_schema"))
        return FAULT(
            p, "prompt",
            "'prompt' as token ids excludes 'response_format' and 'json_schema'; send text");
    json_put(head, "tokens", json_incref(v));
    return check_token_ids(p, v);
}

// A string, token ids, or an array of such.
static int prompts_put(struct parser *p)
{
    json_t *v = json_object_get(p->body, "prompt");
    size_t n = json_array_size(v);

    if (!json_is_array(v) || n == 0 || json_is_number(json_array_get(v, 0)))
        return prompt_put(p, v, p->out->render);
    if (n > PARSE_CHOICES_MAX)
        return FAULT(p, "prompt", "'prompt' has %zu prompts, at most %d are taken", n,
                     PARSE_CHOICES_MAX);
    if (n > 1)
        p->out->more = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *head = i == 0 ? p->out->render : json_object();

        if (i > 0)
            json_array_append_new(p->out->more, head);
        if (prompt_put(p, json_array_get(v, i), head) != 0)
            return p->fault->e.code;
    }
    return 0;
}

int parser_source(struct parser *p)
{
    p->out->render = json_object();
    if (p->kind == PARSE_CHAT)
        return messages_put(p);
    // A chat's members are in its rendering; a prompt's rendering has the prompt alone.
    p->out->asked = json_copy((json_t *)(uintptr_t)p->body);
    json_object_del(p->out->asked, "prompt");
    return prompts_put(p);
}
