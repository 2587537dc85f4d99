#include "gateway/translate.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/parse_media.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 256
#define SHOWN_BYTES 80 // of a value in a message

// ---- spots --------------------------------------------------------------------------------------

struct spot spot_body(const json_t *body, struct parse_fault *fault)
{
    return (struct spot){.value = body, .fault = fault};
}

struct spot spot_member(const struct spot *up, const char *member)
{
    return (struct spot){up, member, 0, json_object_get(up->value, member), up->fault};
}

struct spot spot_element(const struct spot *up, size_t index)
{
    return (struct spot){up, NULL, index, json_array_get(up->value, index), up->fault};
}

// Recursion as deep as a translator looks, which is five steps at most.
static void path_put(const struct spot *s, struct buf *b)
{
    if (!s->up)
        return;
    path_put(s->up, b);
    if (!s->member)
        buf_printf(b, "[%zu]", s->index);
    else
        buf_printf(b, "%s%s", b->len > 0 ? "." : "", s->member);
}

// What was sent: small values as they are, of large ones only the kind.
static void shown_put(const json_t *v, struct buf *b)
{
    bool empty = json_array_size(v) + json_object_size(v) == 0;
    char *text;

    if (!v) {
        buf_puts(b, " (it is absent)");
    } else if (!empty) {
        buf_puts(b, json_is_object(v) ? " (got an object)" : " (got an array)");
    } else {
        text = json_line(v);
        buf_printf(b, " (got %.*s%s)", SHOWN_BYTES, text, strlen(text) > SHOWN_BYTES ? "..." : "");
        free(text);
    }
}

int spot_fault(const struct spot *s, const char *format, ...)
{
    char words[ERR_MESSAGE_BYTES];
    struct buf path, shown;
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof(words), format, args);
    va_end(args);
    buf_init(&path, PATH_BYTES);
    buf_init(&shown, PATH_BYTES);
    path_put(s, &path);
    shown_put(s->value, &shown);
    parse_fault_set(s->fault, ERR_INVALID, path.data ? (char *)path.data : NULL, "'%s' %s%s",
                    path.data ? (char *)path.data : "the body", words,
                    shown.data ? (char *)shown.data : "");
    buf_fini(&path);
    buf_fini(&shown);
    return ERR_INVALID;
}

static bool is_kind(const json_t *v, enum spot_kind kind)
{
    switch (kind) {
    case SPOT_TEXT:
        return json_is_string(v);
    case SPOT_FLAG:
        return json_is_boolean(v);
    case SPOT_INTEGER:
        return json_is_integer(v);
    case SPOT_NUMBER:
        return json_is_number(v);
    case SPOT_OBJECT:
        return json_is_object(v);
    case SPOT_ARRAY:
        return json_is_array(v);
    }
    return false;
}

int spot_check(const struct spot *s, enum spot_kind kind)
{
    static const char *const words[] = {"a string", "a boolean", "an integer",
                                        "a number", "an object", "an array"};

    return is_kind(s->value, kind) ? 0 : spot_fault(s, "must be %s", words[kind]);
}

int spot_need(const struct spot *s, const char *member, enum spot_kind kind, json_t **out)
{
    struct spot m = spot_member(s, member);

    *out = json_object_get(s->value, member);
    return spot_check(&m, kind);
}

int spot_get(const struct spot *s, const char *member, enum spot_kind kind, json_t **out)
{
    *out = json_object_get(s->value, member);
    if (*out && !json_is_null(*out))
        return spot_need(s, member, kind, out);
    *out = NULL;
    return 0;
}

int spot_copy(const struct spot *s, const char *member, enum spot_kind kind, json_t *to,
              const char *as)
{
    json_t *v;

    if (spot_get(s, member, kind, &v) != 0)
        return ERR_INVALID;
    if (v)
        json_put(to, as, json_incref(v));
    return 0;
}

int translate_members(const struct spot *s, json_t *to, const struct translate_member *rows,
                      size_t n)
{
    json_t *v;

    for (size_t i = 0; i < n; i++) {
        int rc = rows[i].as ? spot_copy(s, rows[i].member, rows[i].kind, to, rows[i].as)
                            : spot_get(s, rows[i].member, rows[i].kind, &v);

        if (rc != 0)
            return rc;
    }
    return 0;
}

int spot_type(const struct spot *s, const char *otherwise, const char **out)
{
    json_t *v;

    if (spot_check(s, SPOT_OBJECT) != 0)
        return ERR_INVALID;
    if ((otherwise ? spot_get : spot_need)(s, "type", SPOT_TEXT, &v) != 0)
        return ERR_INVALID;
    *out = v ? json_string_value(v) : otherwise;
    return 0;
}

// ---- the request as a whole ---------------------------------------------------------------------

int translate_steps(const struct spot *body, json_t *chat, translate_step *const *steps)
{
    for (; *steps; steps++)
        if ((*steps)(body, chat) != 0)
            return ERR_INVALID;
    return 0;
}

int translate_tools(const struct spot *body, json_t *chat, translate_tool *add)
{
    struct spot s = spot_member(body, "tools");
    json_t *given, *tools;
    int rc = 0;

    if (spot_get(body, "tools", SPOT_ARRAY, &given) != 0)
        return ERR_INVALID;
    if (json_array_size(given) > TRANSLATE_TOOLS_MAX)
        return spot_fault(&s, "has %zu entries, at most %d are taken", json_array_size(given),
                          TRANSLATE_TOOLS_MAX);
    tools = json_array();
    for (size_t i = 0; rc == 0 && i < json_array_size(given); i++) {
        struct spot tool = spot_element(&s, i);

        rc = add(&tool, tools);
    }
    // One entry may have become several.
    if (rc == 0 && json_array_size(tools) > TRANSLATE_TOOLS_MAX)
        rc = spot_fault(&s, "holds %zu tools, at most %d are taken", json_array_size(tools),
                        TRANSLATE_TOOLS_MAX);
    if (rc == 0 && json_array_size(tools) > 0)
        json_put(chat, "tools", json_incref(tools));
    json_decref(tools);
    return rc;
}

// 'OPENAI' in a message, followed by what can follow a name there, becomes 'CLIENT'.
static void message_rename(char *message, size_t bytes, const struct translate_name *name)
{
    size_t n = strlen(name->openai);
    struct buf b;

    buf_init(&b, bytes - 1);
    for (const char *at = message; *at;) {
        bool hit = at[0] == '\'' && strncmp(at + 1, name->openai, n) == 0 &&
                   strchr("'.[", at[1 + n]) && at[1 + n] != '\0';

        if ((hit ? buf_printf(&b, "'%s", name->client) : buf_put(&b, at, 1)) != 0)
            break;
        at += hit ? 1 + n : 1;
    }
    snprintf(message, bytes, "%s", b.data ? (char *)b.data : "");
    buf_fini(&b);
}

static void fault_rename(struct parse_fault *f, const struct translate_name *names)
{
    for (; names->openai; names++) {
        size_t n = strlen(names->openai);
        char rest[PARSE_PARAM_BYTES];

        message_rename(f->e.message, sizeof(f->e.message), names);
        if (strncmp(f->param, names->openai, n) != 0 || !strchr(".[", f->param[n]))
            continue;
        snprintf(rest, sizeof(rest), "%s", f->param + n);
        snprintf(f->param, sizeof(f->param), "%.40s%.20s", names->client, rest);
        return;
    }
}

int translate_finish(const struct spot *body, enum parse_kind kind, json_t *chat,
                     const struct translate_name *names, struct parse_request *out)
{
    json_t *tandem = json_object_get(body->value, "tandem");
    int rc;

    if (tandem)
        json_put(chat, "tandem", json_incref(tandem));
    rc = parse_openai(chat, kind, out, body->fault);
    if (rc != 0)
        fault_rename(body->fault, names);
    json_decref(chat);
    return rc;
}

// ---- parts of a chat request --------------------------------------------------------------------

json_t *chat_message(const char *role, json_t *content)
{
    json_t *o = json_object();

    json_put(o, "role", json_string(role));
    json_put(o, "content", content);
    return o;
}

static json_t *text_part(json_t *text)
{
    json_t *o = json_object();

    json_put(o, "type", json_string("text"));
    json_put(o, "text", text);
    return o;
}

// As parts, which parse_openai joins: joining here would copy what came before once for each
// message.
void chat_user_put(json_t *messages, json_t *content)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1), *parts;
    const char *role = json_string_value(json_object_get(last, "role"));

    if (!role || strcmp(role, "user") != 0) {
        json_array_append_new(messages, chat_message("user", content));
        return;
    }
    parts = json_object_get(last, "content");
    if (json_is_string(parts)) {
        json_t *first = text_part(json_incref(parts));

        parts = json_array();
        json_array_append_new(parts, first);
        json_put(last, "content", parts);
    }
    if (json_is_array(content)) {
        json_array_extend(parts, content);
        json_decref(content);
    } else {
        json_array_append_new(parts, text_part(content));
    }
}

// ---- images -------------------------------------------------------------------------------------

int chat_image_put(const struct spot *s, const json_t *url, json_t *said)
{
    struct parse_image image;
    struct err e = {0};

    if (!json_is_string(url))
        return spot_fault(s, "must be a string, the image as a data: URL");
    if (media_read(json_string_value(url), json_string_length(url), &image, &e) != 0)
        return spot_fault(s, "%s", e.message);
    free(image.data);
    json_array_append_new(said, media_part(json_string(json_string_value(url))));
    return 0;
}

int chat_image_data_put(const struct spot *s, const char *type, const json_t *data, json_t *said)
{
    struct parse_image image;
    struct err e = {0};

    if (!json_is_string(data))
        return spot_fault(s, "must be a string, the image as base64");
    if (media_read_base64(json_string_value(data), json_string_length(data), &image, &e) != 0)
        return spot_fault(s, "%s", e.message);
    free(image.data);
    json_array_append_new(
        said, media_part(json_sprintf("data:%s;base64,%s", type, json_string_value(data))));
    return 0;
}

json_t *chat_content(const json_t *said, const char *between)
{
    size_t n = json_array_size(said), i = 0;
    json_t *parts;

    while (i < n && json_is_string(json_array_get(said, i)))
        i++;
    if (i == n)
        return chat_join(said, between);
    parts = json_array();
    for (i = 0; i < n; i++) {
        json_t *v = json_array_get(said, i);

        json_array_append_new(parts,
                              json_is_string(v) ? text_part(json_incref(v)) : json_incref(v));
    }
    return parts;
}

json_t *chat_call(json_t *id, json_t *name, json_t *arguments)
{
    json_t *o = json_object(), *function = json_object();

    json_put(function, "name", name);
    json_put(function, "arguments", arguments);
    json_put(o, "id", id);
    json_put(o, "type", json_string("function"));
    json_put(o, "function", function);
    return o;
}

json_t *chat_tool(json_t *name, json_t *description, json_t *parameters)
{
    json_t *o = json_object(), *function = json_object();

    json_put(function, "name", name);
    if (description)
        json_put(function, "description", description);
    json_put(function, "parameters", parameters);
    json_put(o, "type", json_string("function"));
    json_put(o, "function", function);
    return o;
}

json_t *chat_named_choice(json_t *name)
{
    json_t *o = json_object(), *function = json_object();

    json_put(function, "name", name);
    json_put(o, "type", json_string("function"));
    json_put(o, "function", function);
    return o;
}

json_t *chat_schema_format(json_t *schema)
{
    json_t *o = json_object(), *format = json_object();

    json_put(format, "name", json_string("answer"));
    json_put(format, "schema", schema);
    json_put(o, "type", json_string("json_schema"));
    json_put(o, "json_schema", format);
    return o;
}

void chat_kwarg_put(json_t *chat, const char *name, json_t *value)
{
    json_t *kwargs = json_object_get(chat, "chat_template_kwargs");

    if (!kwargs) {
        kwargs = json_object();
        json_put(chat, "chat_template_kwargs", kwargs);
    }
    json_put(kwargs, name, value);
}

void chat_call_put(json_t *message, json_t *call)
{
    json_t *calls = json_object_get(message, "tool_calls");

    if (!calls) {
        calls = json_array();
        json_put(message, "tool_calls", calls);
    }
    json_array_append_new(calls, call);
}

bool chat_tool_known(const json_t *chat, const char *name)
{
    const json_t *tools = json_object_get(chat, "tools");

    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        const char *known = json_string_value(json_object_get(function, "name"));

        if (known && strcmp(known, name) == 0)
            return true;
    }
    return false;
}

json_t *chat_join(const json_t *texts, const char *between)
{
    json_t *joined;
    struct buf b;

    if (json_array_size(texts) == 1)
        return json_incref(json_array_get(texts, 0));
    // The texts came in one body, which had a limit; with what stands between them they take no
    // more than twice that.
    buf_init(&b, SIZE_MAX / 4);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        if (i > 0)
            buf_puts(&b, between);
        buf_puts(&b, json_string_value(json_array_get(texts, i)));
    }
    joined = json_string(b.data ? (char *)b.data : "");
    buf_fini(&b);
    return joined;
}
