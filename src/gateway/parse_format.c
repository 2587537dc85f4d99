// Tools and the forms of an answer: checked here, acted on by the worker that renders.
#include "base/json.h"
#include "gateway/parse_impl.h"

#include <string.h>

#define TOOLS_MAX 1024

// ---- what is left out ---------------------------------------------------------------------------------

json_t *parser_plain(json_t *object)
{
    json_t *plain = json_object(), *v;
    const char *key;

    json_object_foreach(object, key, v)
    {
        if (!json_is_null(v))
            json_put(plain, key, json_incref(v));
    }
    return plain;
}

json_t *parser_plain_function(json_t *tool)
{
    json_t *plain = parser_plain(tool), *function = json_object_get(plain, "function");

    if (!json_object_get(plain, "type"))
        json_put(plain, "type", json_string("function"));
    json_put(plain, "function", parser_plain(function));
    return plain;
}

// ---- tools --------------------------------------------------------------------------------------------

static int check_tool(struct parser *p, const json_t *tool, size_t i)
{
    const json_t *type = json_object_get(tool, "type"),
                 *function = json_object_get(tool, "function");
    const json_t *parameters = json_object_get(function, "parameters");
    const json_t *words = json_object_get(function, "description");

    if (!json_is_object(tool))
        return FAULT(p, "tools", "'tools[%zu]' must be an object", i);
    if (type && !json_is_null(type) &&
        (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0))
        return FAULT(p, "tools", "'tools[%zu].type' must be \"function\", the one kind served", i);
    if (!json_is_string(json_object_get(function, "name")) ||
        json_string_length(json_object_get(function, "name")) == 0)
        return FAULT(p, "tools", "'tools[%zu].function' must be an object with a string 'name'", i);
    if (parameters && !json_is_null(parameters) && !json_is_object(parameters))
        return FAULT(p, "tools",
                     "'tools[%zu].function.parameters' must be a JSON schema, an object", i);
    if (words && !json_is_null(words) && !json_is_string(words))
        return FAULT(p, "tools", "'tools[%zu].function.description' must be a string", i);
    return 0;
}

static bool tool_exists(const json_t *tools, const char *name)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");

        if (strcmp(json_string_value(json_object_get(function, "name")), name) == 0)
            return true;
    }
    return false;
}

static int check_choice_name(struct parser *p, const json_t *v, const json_t *tools)
{
    const char *name = json_string_value(json_object_get(json_object_get(v, "function"), "name"));

    if (!name)
        return parse_fault_value(p->fault, "tool_choice",
                                 "\"auto\", \"none\", \"required\" or {\"type\": \"function\", "
                                 "\"function\": {\"name\": ..}}",
                                 v);
    if (!tool_exists(tools, name))
        return FAULT(p, "tool_choice", "'tool_choice' names \"%.80s\", which is none of 'tools'",
                     name);
    return 0;
}

static int check_choice(struct parser *p, const json_t *tools)
{
    const json_t *v = json_object_get(p->body, "tool_choice");
    const char *word = json_string_value(v);

    if (!v || json_is_null(v))
        return 0;
    if (!word)
        return check_choice_name(p, v, tools);
    if (strcmp(word, "auto") == 0 || strcmp(word, "none") == 0)
        return 0;
    if (strcmp(word, "required") != 0)
        return parse_fault_value(p->fault, "tool_choice",
                                 "\"auto\", \"none\", \"required\" or an object naming a function",
                                 v);
    if (json_array_size(tools) == 0)
        return FAULT(p, "tool_choice", "'tool_choice' is \"required\", but there are no 'tools'");
    return 0;
}

int parser_tools(struct parser *p)
{
    json_t *tools = NULL;
    bool parallel;

    if (p->kind != PARSE_CHAT)
        return 0;
    if (json_get_array(p->body, "tools", &tools, &p->fault->e) != 0)
        return parser_fault_member(p, p->body, "tools");
    if (json_array_size(tools) > TOOLS_MAX)
        return FAULT(p, "tools", "'tools' has %zu entries, at most %d are taken",
                     json_array_size(tools), TOOLS_MAX);
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (check_tool(p, json_array_get(tools, i), i) != 0)
            return p->fault->e.code;
    if (parser_flag(p, p->body, "parallel_tool_calls", &parallel) != 0)
        return p->fault->e.code;
    if (json_array_size(tools) > 0 && json_member(p->body, "grammar"))
        return FAULT(p, "grammar", "'grammar' and 'tools' exclude each other");
    return check_choice(p, tools);
}

// ---- forms ----------------------------------------------------------------------------------------------

static int check_schema(struct parser *p, const json_t *format)
{
    const json_t *schema = json_object_get(format, "json_schema");

    if (!json_is_object(schema))
        return FAULT(p, "response_format", "'response_format.json_schema' must be an object");
    if (!json_is_object(json_object_get(schema, "schema")))
        return FAULT(p, "response_format",
                     "'response_format.json_schema.schema' must be a JSON schema, an object");
    return 0;
}

static int check_response_format(struct parser *p)
{
    json_t *format = NULL;
    const char *type;

    if (json_get_object(p->body, "response_format", &format, &p->fault->e) != 0)
        return parser_fault_member(p, p->body, "response_format");
    if (!format)
        return 0;
    type = json_string_value(json_object_get(format, "type"));
    if (type && strcmp(type, "json_schema") == 0)
        return check_schema(p, format);
    if (!type || (strcmp(type, "text") != 0 && strcmp(type, "json_object") != 0))
        return parse_fault_value(p->fault, "response_format.type",
                                 "\"text\", \"json_object\" or \"json_schema\"",
                                 json_object_get(format, "type"));
    // llama.cpp's server takes a schema here as well.
    if (json_member(format, "schema") && !json_is_object(json_object_get(format, "schema")))
        return FAULT(p, "response_format", "'response_format.schema' must be an object");
    return 0;
}

static int check_strings(struct parser *p)
{
    static const char *const members[] = {"reasoning_effort", "reasoning_format"};

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        const char *text = NULL;

        if (json_get_string(p->body, members[i], &text, &p->fault->e) != 0)
            return parser_fault_member(p, p->body, members[i]);
    }
    return 0;
}

int parser_format(struct parser *p)
{
    static const char *const members[] = {"json_schema", "chat_template_kwargs"};
    json_t *object = NULL;

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (json_get_object(p->body, members[i], &object, &p->fault->e) != 0)
            return parser_fault_member(p, p->body, members[i]);
    if (json_member(p->body, "json_schema") && json_member(p->body, "response_format"))
        return FAULT(p, "json_schema", "'json_schema' and 'response_format' exclude each other");
    return check_strings(p) != 0 ? p->fault->e.code : check_response_format(p);
}
