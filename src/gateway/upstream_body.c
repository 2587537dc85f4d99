// What a server is asked: the request as OpenAI's API has it, less what is this server's own business. Only
// members that are known are sent on, so that nothing that a client tells tandem alone reaches others.
#include "base/base64.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/upstream_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_URL_MAX (64u << 20) // bytes of a data: URL; images are limited before (parse_media.h)

static void member_copy(json_t *to, const json_t *from, const char *member)
{
    if (json_member(from, member))
        json_object_set(to, member, json_object_get(from, member));
}

int upstream_body_check(const struct parse_request *in, const char **param, struct err *e)
{
    const json_t *chat = json_object_get(in->render, "chat");

    *param = NULL;
    if (in->kind != PARSE_CHAT && in->kind != PARSE_TEXT)
        return err_set(e, ERR_UNSUPPORTED,
                       "only an upstream server has this model, and those are asked for chats and "
                       "completions alone; send this to the server itself");
    *param = "grammar";
    if (json_object_get(in->generate.syntax, "grammar") || json_member(chat, "grammar"))
        return err_set(e, ERR_UNSUPPORTED,
                       "'grammar' is taken by this machine's own models alone; an upstream server "
                       "is sent \"response_format\"");
    *param = NULL;
    return 0;
}

// ---- messages -----------------------------------------------------------------------------------------

static const char *image_type(const struct parse_image *image)
{
    static const struct {
        const char *head, *type;
    } types[] = {{"\x89PNG", "image/png"}, {"\xff\xd8", "image/jpeg"}, {"GIF8", "image/gif"}};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        size_t n = strlen(types[i].head);

        if (image->len >= n && memcmp(image->data, types[i].head, n) == 0)
            return types[i].type;
    }
    return "image/bmp";
}

// The part that the client sent.
static json_t *image_part(const struct parse_image *image)
{
    json_t *url, *part = json_object(), *member = json_object();
    struct buf text;

    buf_init(&text, IMAGE_URL_MAX);
    buf_printf(&text, "data:%s;base64,", image_type(image));
    base64_put(&text, image->data, image->len);
    url = json_stringn((const char *)text.data, text.len);
    buf_fini(&text);
    json_put(member, "url", url);
    json_put(part, "type", json_string("image_url"));
    json_put(part, "image_url", member);
    return part;
}

// A content with its images back in their places; *next counts them. A new reference.
static json_t *content_of(const struct parse_request *in, const json_t *content, size_t *next)
{
    json_t *parts = json_array(), *part;
    size_t i;

    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        bool image = type && strcmp(type, "image") == 0 && *next < in->n_images;

        json_array_append_new(parts,
                              image ? image_part(&in->images[(*next)++]) : json_incref(part));
    }
    return parts;
}

static json_t *messages_of(const struct parse_request *in, json_t *messages)
{
    json_t *list = json_array(), *m;
    size_t i, next = 0;

    json_array_foreach(messages, i, m)
    {
        const json_t *content = json_object_get(m, "content");
        json_t *copy;

        if (!json_is_array(content)) {
            json_array_append(list, m);
            continue;
        }
        copy = json_copy(m);
        json_put(copy, "content", content_of(in, content, &next));
        json_array_append_new(list, copy);
    }
    return list;
}

// ---- members ------------------------------------------------------------------------------------------

// As the client sent them, where it did: what it left out is the server's to choose.
static const char *const passed[] = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "ignore_eos",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
};

static void seed_put(const struct parse_request *in, const json_t *asked, size_t at, json_t *o)
{
    json_int_t seed = json_integer_value(json_object_get(asked, "seed"));

    // -1 is a random one, as none is.
    if (json_is_integer(json_object_get(asked, "seed")) && seed >= 0)
        json_put(o, "seed", json_integer(in->generate.sampling.seed + (json_int_t)(at % in->n)));
}

static void biases_put(const struct message_generate *g, json_t *o)
{
    json_t *biases;

    if (g->sampling.n_biases == 0)
        return;
    biases = json_object();
    for (size_t i = 0; i < g->sampling.n_biases; i++) {
        const struct engine_bias *b = &g->biases[i];
        char *token = mem_format("%d", (int)b->token);

        json_put(biases, token, json_real(isfinite(b->bias) ? (double)b->bias : -100));
        free(token);
    }
    json_put(o, "logit_bias", biases);
}

// llama.cpp's own form of a schema, in OpenAI's.
static void schema_put(const json_t *asked, json_t *o)
{
    json_t *format, *schema = json_object_get(asked, "json_schema");

    if (!json_member(asked, "json_schema"))
        return;
    format = json_pack("{s:s,s:{s:s,s:O}}", "type", "json_schema", "json_schema", "name", "answer",
                       "schema", schema);
    json_put(o, "response_format", format);
}

static void members_put(const struct parse_request *in, const json_t *asked, size_t at, json_t *o)
{
    for (size_t i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
        member_copy(o, asked, passed[i]);
    if (json_member(asked, "repeat_penalty")) // what other servers call it
        json_object_set(o, "repetition_penalty", json_object_get(asked, "repeat_penalty"));
    if (in->max_tokens > 0 && in->max_tokens < UINT32_MAX)
        json_put(o, "max_tokens", json_integer(in->max_tokens));
    seed_put(in, asked, at, o);
    biases_put(&in->generate, o);
    schema_put(asked, o);
}

json_t *upstream_body(const struct parse_request *in, size_t at, const char *model)
{
    size_t input = at / in->n;
    const json_t *head = input == 0 ? in->render : json_array_get(in->more, input - 1);
    json_t *chat = json_object_get(head, "chat"), *o = json_object();
    json_t *ids = json_object_get(head, "tokens"), *text = json_object_get(head, "prompt");
    json_t *options = json_object();

    json_put(o, "model", answer_string(model));
    if (in->kind == PARSE_CHAT)
        json_put(o, "messages", messages_of(in, json_object_get(chat, "messages")));
    else
        json_put(o, "prompt",
                 json_incref(ids    ? ids
                             : text ? text
                                    : json_object_get(chat, "prompt")));
    members_put(in, in->kind == PARSE_CHAT ? chat : in->asked, at, o);
    json_put(o, "stream", json_true());
    json_put(options, "include_usage", json_true());
    json_put(o, "stream_options", options);
    return o;
}
