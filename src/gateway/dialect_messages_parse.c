// A Messages request: its members into a chat request.
#include "gateway/messages.h"

#include "base/json.h"

#include <string.h>

// ---- members that only have another name --------------------------------------------------------

static int step_plain(const struct spot *body, json_t *chat)
{
    static const struct translate_member rows[] = {
        {"model", SPOT_TEXT, "model"},
        {"stream", SPOT_FLAG, "stream"},
        {"temperature", SPOT_NUMBER, "temperature"},
        {"top_p", SPOT_NUMBER, "top_p"},
        {"top_k", SPOT_INTEGER, "top_k"},
        {"seed", SPOT_INTEGER, "seed"},
        {"store", SPOT_FLAG, "store"},
        {"metadata", SPOT_OBJECT, NULL},
        {"service_tier", SPOT_TEXT, NULL},
    };

    return translate_members(body, chat, rows, sizeof(rows) / sizeof(rows[0]));
}

static int step_max_tokens(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "max_tokens");

    if (spot_check(&s, SPOT_INTEGER) != 0)
        return ERR_INVALID;
    if (json_integer_value(s.value) < 1)
        return spot_fault(&s, "must be at least 1");
    json_put(chat, "max_completion_tokens", json_integer(json_integer_value(s.value)));
    return 0;
}

static int step_stops(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "stop_sequences");
    json_t *list;

    if (spot_get(body, "stop_sequences", SPOT_ARRAY, &list) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct spot stop = spot_element(&s, i);

        if (spot_check(&stop, SPOT_TEXT) != 0)
            return ERR_INVALID;
    }
    if (list)
        json_put(chat, "stop", json_incref(list));
    return 0;
}

// ---- tools --------------------------------------------------------------------------------------

// A type other than "custom" is a tool that a hosted service runs or has taught its models: left
// out.
static int tool_add(const struct spot *s, json_t *tools)
{
    json_t *name, *description, *schema;
    const char *type;

    if (spot_type(s, "custom", &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "custom") != 0)
        return 0;
    if (spot_need(s, "name", SPOT_TEXT, &name) != 0 ||
        spot_get(s, "description", SPOT_TEXT, &description) != 0 ||
        spot_need(s, "input_schema", SPOT_OBJECT, &schema) != 0)
        return ERR_INVALID;
    json_array_append_new(
        tools, chat_tool(json_incref(name), json_incref(description), json_incref(schema)));
    return 0;
}

static int step_tools(const struct spot *body, json_t *chat)
{
    return translate_tools(body, chat, tool_add);
}

static int choice_put(const struct spot *s, const char *type, json_t *chat)
{
    static const char *const words[][2] = {{"auto", "auto"}, {"any", "required"}, {"none", "none"}};
    struct spot name = spot_member(s, "name"), t = spot_member(s, "type");

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(type, words[i][0]) != 0)
            continue;
        if (json_object_get(chat, "tools"))
            json_put(chat, "tool_choice", json_string(words[i][1]));
        return 0;
    }
    if (strcmp(type, "tool") != 0)
        return spot_fault(&t, "must be auto, any, tool or none");
    if (spot_check(&name, SPOT_TEXT) != 0)
        return ERR_INVALID;
    if (!chat_tool_known(chat, json_string_value(name.value)))
        return spot_fault(&name, "is not among the tools in 'tools'");
    json_put(chat, "tool_choice", chat_named_choice(json_string(json_string_value(name.value))));
    return 0;
}

static int step_choice(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "tool_choice");
    json_t *serial;
    const char *type;

    if (!s.value || json_is_null(s.value))
        return 0;
    if (spot_type(&s, NULL, &type) != 0 || choice_put(&s, type, chat) != 0 ||
        spot_get(&s, "disable_parallel_tool_use", SPOT_FLAG, &serial) != 0)
        return ERR_INVALID;
    if (json_object_get(chat, "tools"))
        json_put(chat, "parallel_tool_calls", json_boolean(!json_is_true(serial)));
    return 0;
}

// ---- thinking and the shape of the answer -------------------------------------------------------

static int budget_put(const struct spot *s, json_t *chat)
{
    struct spot budget = spot_member(s, "budget_tokens");

    if (spot_check(&budget, SPOT_INTEGER) != 0)
        return ERR_INVALID;
    if (json_integer_value(budget.value) < 1 || json_integer_value(budget.value) > INT32_MAX)
        return spot_fault(&budget, "must be between 1 and %d", INT32_MAX);
    json_put(chat, "thinking_budget_tokens", json_integer(json_integer_value(budget.value)));
    return 0;
}

// As the API has it, a model thinks only when asked to.
static int step_thinking(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "thinking"), t;
    const char *type = "disabled";

    if (s.value && !json_is_null(s.value) && spot_type(&s, NULL, &type) != 0)
        return ERR_INVALID;
    chat_kwarg_put(chat, "enable_thinking", json_boolean(strcmp(type, "disabled") != 0));
    if (strcmp(type, "enabled") == 0)
        return budget_put(&s, chat);
    t = spot_member(&s, "type");
    if (strcmp(type, "disabled") != 0 && strcmp(type, "adaptive") != 0)
        return spot_fault(&t, "must be enabled, disabled or adaptive");
    return 0;
}

static int format_put(const struct spot *s, json_t *chat)
{
    struct spot t = spot_member(s, "type");
    json_t *schema;
    const char *type;

    if (spot_type(s, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "json_schema") != 0)
        return spot_fault(&t, "must be json_schema");
    if (spot_need(s, "schema", SPOT_OBJECT, &schema) != 0)
        return ERR_INVALID;
    json_put(chat, "response_format", chat_schema_format(json_incref(schema)));
    return 0;
}

// "output_config": {"effort", "format"}; the format also stands alone, under its older name.
static int step_output(const struct spot *body, json_t *chat)
{
    struct spot old = spot_member(body, "output_format"),
                config = spot_member(body, "output_config");
    struct spot format = spot_member(&config, "format");
    json_t *object, *effort = NULL;

    if (spot_get(body, "output_config", SPOT_OBJECT, &object) != 0 ||
        (object && spot_get(&config, "effort", SPOT_TEXT, &effort) != 0))
        return ERR_INVALID;
    if (effort)
        json_put(chat, "reasoning_effort", json_incref(effort));
    if (format.value && !json_is_null(format.value))
        return format_put(&format, chat);
    if (old.value && !json_is_null(old.value))
        return format_put(&old, chat);
    return 0;
}

// ---- all of it ----------------------------------------------------------------------------------

static int parse(const struct spot *s, struct parse_request *out, bool count, bool verbatim)
{
    static translate_step *const steps[] = {messages_input, step_plain,    step_stops,  step_tools,
                                            step_choice,    step_thinking, step_output, NULL};
    static const struct translate_name names[] = {
        {"max_completion_tokens", "max_tokens"},
        {"stop", "stop_sequences"},
        {"thinking_budget_tokens", "thinking.budget_tokens"},
        {"reasoning_effort", "output_config.effort"},
        {"response_format", "output_config.format"},
        {NULL, NULL},
    };
    json_t *chat = json_object();

    if (messages_system(s, chat, verbatim) != 0 || translate_steps(s, chat, steps) != 0 ||
        (!count && step_max_tokens(s, chat) != 0)) {
        json_decref(chat);
        return ERR_INVALID;
    }
    if (translate_finish(s, PARSE_CHAT, chat, names, out) != 0)
        return s->fault->e.code;
    if (count)
        out->kind = PARSE_RENDER;
    // For telling the client's own stop strings from those of the model's template.
    out->echo = json_object();
    json_put(out->echo, "stop_sequences", json_incref(json_object_get(s->value, "stop_sequences")));
    return 0;
}

int messages_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    struct spot s = spot_body(body, fault);

    return parse(&s, out, false, false);
}

int messages_parse_count(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    struct spot s = spot_body(body, fault);

    return parse(&s, out, true, false);
}

int messages_parse_verbatim(const json_t *body, struct parse_request *out,
                            struct parse_fault *fault)
{
    struct spot s = spot_body(body, fault);

    return parse(&s, out, false, true);
}

int messages_parse_count_verbatim(const json_t *body, struct parse_request *out,
                                  struct parse_fault *fault)
{
    struct spot s = spot_body(body, fault);

    return parse(&s, out, true, true);
}
