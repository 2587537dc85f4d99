// A Responses request: its members into a chat request, and what the answer repeats of it.
#include "gateway/responses.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

// ---- what would need a memory -------------------------------------------------------------------

static int step_memory(const struct spot *body, json_t *chat)
{
    static const struct {
        const char *member, *why;
    } rows[] = {
        {"previous_response_id", "cannot be taken: " RESPONSES_KEEPS_NOTHING},
        {"conversation", "cannot be taken: " RESPONSES_KEEPS_NOTHING},
        {"prompt", "cannot be taken: this server keeps no prompt templates; send 'instructions' "
                   "and 'input'"},
    };
    json_t *background;

    (void)chat;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct spot s = spot_member(body, rows[i].member);

        if (s.value && !json_is_null(s.value))
            return spot_fault(&s, "%s", rows[i].why);
    }
    if (spot_get(body, "background", SPOT_FLAG, &background) != 0)
        return ERR_INVALID;
    if (json_is_true(background)) {
        struct spot s = spot_member(body, "background");

        return spot_fault(&s, "must be false: this server keeps no responses to be fetched later");
    }
    return 0;
}

// ---- members that only have another name --------------------------------------------------------

static int step_plain(const struct spot *body, json_t *chat)
{
    static const struct translate_member rows[] = {
        {"model", SPOT_TEXT, "model"},
        {"stream", SPOT_FLAG, "stream"},
        {"store", SPOT_FLAG, "store"},
        {"temperature", SPOT_NUMBER, "temperature"},
        {"top_p", SPOT_NUMBER, "top_p"},
        {"top_k", SPOT_INTEGER, "top_k"},
        {"min_p", SPOT_NUMBER, "min_p"},
        {"seed", SPOT_INTEGER, "seed"},
        {"max_output_tokens", SPOT_INTEGER, "max_completion_tokens"},
        {"parallel_tool_calls", SPOT_FLAG, "parallel_tool_calls"},
        {"metadata", SPOT_OBJECT, NULL},
        {"stream_options", SPOT_OBJECT, NULL},
        {"max_tool_calls", SPOT_INTEGER, NULL},
        {"truncation", SPOT_TEXT, NULL},
        {"service_tier", SPOT_TEXT, NULL},
        {"user", SPOT_TEXT, NULL},
        {"safety_identifier", SPOT_TEXT, NULL},
        {"prompt_cache_key", SPOT_TEXT, NULL},
    };

    return translate_members(body, chat, rows, sizeof(rows) / sizeof(rows[0]));
}

// ---- tools --------------------------------------------------------------------------------------

json_t *responses_flat_name(const json_t *space, const json_t *name)
{
    return space ? json_sprintf("%s__%s", json_string_value(space), json_string_value(name))
                 : json_string(json_string_value(name));
}

static int function_add(const struct spot *s, const json_t *space, json_t *tools)
{
    json_t *name, *description, *parameters;

    if (spot_need(s, "name", SPOT_TEXT, &name) != 0 ||
        spot_get(s, "description", SPOT_TEXT, &description) != 0 ||
        spot_get(s, "parameters", SPOT_OBJECT, &parameters) != 0)
        return ERR_INVALID;
    json_array_append_new(tools,
                          chat_tool(responses_flat_name(space, name), json_incref(description),
                                    parameters ? json_incref(parameters) : json_object()));
    return 0;
}

// {"type": "namespace", "name", "tools": [functions]}
static int namespace_add(const struct spot *s, json_t *tools)
{
    struct spot list = spot_member(s, "tools");
    json_t *name, *functions;

    if (spot_need(s, "name", SPOT_TEXT, &name) != 0 ||
        spot_need(s, "tools", SPOT_ARRAY, &functions) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < json_array_size(functions); i++) {
        struct spot function = spot_element(&list, i);
        const char *type;

        if (spot_type(&function, NULL, &type) != 0)
            return ERR_INVALID;
        if (strcmp(type, "function") == 0 && function_add(&function, name, tools) != 0)
            return ERR_INVALID;
    }
    return 0;
}

// Tools that a hosted service would run itself are left out: the model then does without them.
static int tool_add(const struct spot *s, json_t *tools)
{
    const char *type;

    if (spot_type(s, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "namespace") == 0)
        return namespace_add(s, tools);
    return strcmp(type, "function") == 0 ? function_add(s, NULL, tools) : 0;
}

static int step_tools(const struct spot *body, json_t *chat)
{
    return translate_tools(body, chat, tool_add);
}

static int choice_function(const struct spot *s, json_t *chat)
{
    struct spot name = spot_member(s, "name");

    if (spot_check(&name, SPOT_TEXT) != 0)
        return ERR_INVALID;
    if (!chat_tool_known(chat, json_string_value(name.value)))
        return spot_fault(&name, "is not among the functions in 'tools'");
    json_put(chat, "tool_choice", chat_named_choice(json_string(json_string_value(name.value))));
    return 0;
}

static bool among(const json_t *allowed, const json_t *tool)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(tool, "function"), "name"));

    for (size_t i = 0; i < json_array_size(allowed); i++) {
        const char *other = json_string_value(json_object_get(json_array_get(allowed, i), "name"));

        if (name && other && strcmp(name, other) == 0)
            return true;
    }
    return false;
}

// {"type": "allowed_tools", "mode": "auto"|"required", "tools": [{"type", "name"}]}: the others are
// taken out.
static int choice_allowed(const struct spot *s, json_t *chat)
{
    json_t *allowed, *tools = json_object_get(chat, "tools");
    struct spot mode = spot_member(s, "mode");
    const char *word = json_string_value(mode.value);

    if (!word || (strcmp(word, "auto") != 0 && strcmp(word, "required") != 0))
        return spot_fault(&mode, "must be \"auto\" or \"required\"");
    if (spot_need(s, "tools", SPOT_ARRAY, &allowed) != 0)
        return ERR_INVALID;
    if (json_array_size(allowed) > TRANSLATE_TOOLS_MAX)
        return spot_fault(s, "allows %zu tools, at most %d are taken", json_array_size(allowed),
                          TRANSLATE_TOOLS_MAX);
    for (size_t i = json_array_size(tools); i > 0; i--)
        if (!among(allowed, json_array_get(tools, i - 1)))
            json_array_remove(tools, i - 1);
    if (json_array_size(tools) > 0)
        json_put(chat, "tool_choice", json_string(word));
    else
        json_object_del(chat, "tools");
    return 0;
}

static int choice_object(const struct spot *s, json_t *chat)
{
    const char *type;

    if (spot_type(s, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "function") == 0)
        return choice_function(s, chat);
    if (strcmp(type, "allowed_tools") == 0)
        return choice_allowed(s, chat);
    return 0; // a hosted tool, which was left out
}

static int step_choice(const struct spot *body, json_t *chat)
{
    static const char *const words[] = {"none", "auto", "required"};
    struct spot s = spot_member(body, "tool_choice");
    const char *word = json_string_value(s.value);

    if (!s.value || json_is_null(s.value))
        return 0;
    if (json_is_object(s.value))
        return choice_object(&s, chat);
    for (size_t i = 0; word && i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(word, words[i]) != 0)
            continue;
        if (json_object_get(chat, "tools"))
            json_put(chat, "tool_choice", json_string(word));
        return 0;
    }
    return spot_fault(&s,
                      "must be \"none\", \"auto\", \"required\" or an object that names a tool");
}

// ---- the shape of the answer --------------------------------------------------------------------

static int format_put(const struct spot *s, json_t *chat)
{
    json_t *schema, *format;
    const char *type;

    if (spot_type(s, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "text") == 0)
        return 0;
    if (strcmp(type, "json_object") == 0) {
        format = json_object();
        json_put(format, "type", json_string(type));
        json_put(chat, "response_format", format);
        return 0;
    }
    if (strcmp(type, "json_schema") != 0) {
        struct spot t = spot_member(s, "type");

        return spot_fault(&t, "must be text, json_object or json_schema");
    }
    if (spot_need(s, "schema", SPOT_OBJECT, &schema) != 0)
        return ERR_INVALID;
    json_put(chat, "response_format", chat_schema_format(json_incref(schema)));
    return 0;
}

static int step_text(const struct spot *body, json_t *chat)
{
    struct spot text = spot_member(body, "text");
    json_t *object, *format, *verbosity;

    if (spot_get(body, "text", SPOT_OBJECT, &object) != 0)
        return ERR_INVALID;
    if (!object)
        return 0;
    if (spot_get(&text, "verbosity", SPOT_TEXT, &verbosity) != 0 ||
        spot_get(&text, "format", SPOT_OBJECT, &format) != 0)
        return ERR_INVALID;
    if (format) {
        struct spot s = spot_member(&text, "format");

        return format_put(&s, chat);
    }
    return 0;
}

static int step_reasoning(const struct spot *body, json_t *chat)
{
    struct spot reasoning = spot_member(body, "reasoning");
    json_t *object, *effort, *summary;

    if (spot_get(body, "reasoning", SPOT_OBJECT, &object) != 0)
        return ERR_INVALID;
    if (!object)
        return 0;
    if (spot_get(&reasoning, "effort", SPOT_TEXT, &effort) != 0 ||
        spot_get(&reasoning, "summary", SPOT_TEXT, &summary) != 0)
        return ERR_INVALID;
    if (effort)
        json_put(chat, "reasoning_effort", json_incref(effort));
    return 0;
}

// Of what can be included, only the log probabilities exist here.
static int step_include(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "include");
    json_t *list, *top;
    bool logprobs;

    if (spot_get(body, "include", SPOT_ARRAY, &list) != 0 ||
        spot_get(body, "top_logprobs", SPOT_INTEGER, &top) != 0)
        return ERR_INVALID;
    logprobs = top && json_integer_value(top) != 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct spot what = spot_element(&s, i);

        if (spot_check(&what, SPOT_TEXT) != 0)
            return ERR_INVALID;
        if (strcmp(json_string_value(what.value), "message.output_text.logprobs") == 0)
            logprobs = true;
    }
    if (logprobs)
        json_put(chat, "logprobs", json_true());
    if (logprobs && top)
        json_put(chat, "top_logprobs", json_incref(top));
    return 0;
}

// ---- what the answer repeats --------------------------------------------------------------------

static json_t *member_or(const json_t *body, const char *member, json_t *otherwise)
{
    json_t *v = json_member(body, member);

    if (!v)
        return otherwise;
    json_decref(otherwise);
    return json_incref(v);
}

// A float's value with no more digits than it has.
static json_t *number(float v)
{
    return json_real(round((double)v * 1e6) / 1e6);
}

static json_t *reasoning_json(const json_t *body)
{
    static const char *const members[] = {"effort", "summary"};
    const json_t *given = json_object_get(body, "reasoning");
    json_t *o = json_object();

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        json_put(o, members[i], member_or(given, members[i], json_null()));
    return o;
}

static json_t *text_json(const json_t *body)
{
    json_t *text = json_object(), *format = json_object();
    json_t *verbosity = json_object_get(json_object_get(body, "text"), "verbosity");

    json_put(format, "type", json_string("text"));
    json_put(text, "format", member_or(json_object_get(body, "text"), "format", format));
    if (verbosity)
        json_put(text, "verbosity", json_incref(verbosity));
    return text;
}

static json_t *echo_json(const json_t *body, const struct parse_request *r)
{
    static const char *const optional[] = {"max_tool_calls", "prompt_cache_key",
                                           "safety_identifier", "user"};
    json_t *o = json_object();

    json_put(o, "background", json_false());
    json_put(o, "instructions", member_or(body, "instructions", json_null()));
    json_put(o, "max_output_tokens", member_or(body, "max_output_tokens", json_null()));
    json_put(o, "metadata", member_or(body, "metadata", json_object()));
    json_put(o, "parallel_tool_calls", member_or(body, "parallel_tool_calls", json_true()));
    json_put(o, "previous_response_id", json_null());
    json_put(o, "reasoning", reasoning_json(body));
    json_put(o, "service_tier", json_string("default"));
    json_put(o, "store", member_or(body, "store", json_false()));
    json_put(o, "temperature", number(r->generate.sampling.temperature));
    json_put(o, "text", text_json(body));
    json_put(o, "tool_choice", member_or(body, "tool_choice", json_string("auto")));
    json_put(o, "tools", member_or(body, "tools", json_array()));
    json_put(o, "top_logprobs", member_or(body, "top_logprobs", json_integer(0)));
    json_put(o, "top_p", number(r->generate.sampling.top_p));
    json_put(o, "truncation", json_string("disabled"));
    for (size_t i = 0; i < sizeof(optional) / sizeof(optional[0]); i++)
        json_put(o, optional[i], member_or(body, optional[i], json_null()));
    return o;
}

int responses_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    static translate_step *const steps[] = {step_memory,    step_plain,   responses_input,
                                            step_tools,     step_choice,  step_text,
                                            step_reasoning, step_include, NULL};
    static const struct translate_name names[] = {
        {"max_completion_tokens", "max_output_tokens"},
        {"messages", "input"},
        {"reasoning_effort", "reasoning.effort"},
        {"response_format", "text.format"},
        {NULL, NULL},
    };
    struct spot s = spot_body(body, fault);
    json_t *chat = json_object();

    if (translate_steps(&s, chat, steps) != 0) {
        json_decref(chat);
        return ERR_INVALID;
    }
    if (translate_finish(&s, PARSE_CHAT, chat, names, out) != 0)
        return fault->e.code;
    out->echo = echo_json(body, out);
    return 0;
}
