// Requests of Ollama's /api/chat and /api/generate, into chat requests.
#include "gateway/ollama.h"

#include "base/json.h"
#include "gateway/translate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what both have -----------------------------------------------------------------------------

static int step_plain(const struct spot *body, json_t *chat)
{
    static const struct translate_member rows[] = {
        {"stream", SPOT_FLAG, "stream"},
        {"logprobs", SPOT_FLAG, "logprobs"},
        {"top_logprobs", SPOT_INTEGER, "top_logprobs"},
        {"store", SPOT_FLAG, "store"},
    };
    char model[PARSE_MODEL_BYTES];
    json_t *name;

    if (translate_members(body, chat, rows, sizeof(rows) / sizeof(rows[0])) != 0)
        return ERR_INVALID;
    if (spot_get(body, "model", SPOT_TEXT, &name) != 0)
        return ERR_INVALID;
    if (!name || ollama_show_parse(body->value, model, body->fault) != 0)
        return name ? ERR_INVALID : 0;
    json_put(chat, "model", json_string(model));
    return 0;
}

// The members of "options" that say how to draw; what says how a model is to be loaded is not for a
// request to decide.
static int step_options(const struct spot *body, json_t *chat)
{
    static const struct translate_member rows[] = {
        {"temperature", SPOT_NUMBER, "temperature"},
        {"top_k", SPOT_INTEGER, "top_k"},
        {"top_p", SPOT_NUMBER, "top_p"},
        {"min_p", SPOT_NUMBER, "min_p"},
        {"typical_p", SPOT_NUMBER, "typical_p"},
        {"seed", SPOT_INTEGER, "seed"},
        {"repeat_penalty", SPOT_NUMBER, "repeat_penalty"},
        {"repeat_last_n", SPOT_INTEGER, "repeat_last_n"},
        {"frequency_penalty", SPOT_NUMBER, "frequency_penalty"},
        {"presence_penalty", SPOT_NUMBER, "presence_penalty"},
        {"num_predict", SPOT_INTEGER, "max_completion_tokens"},
    };
    struct spot s = spot_member(body, "options"), stop;
    json_t *options;

    if (spot_get(body, "options", SPOT_OBJECT, &options) != 0)
        return ERR_INVALID;
    if (options && translate_members(&s, chat, rows, sizeof(rows) / sizeof(rows[0])) != 0)
        return ERR_INVALID;
    // -2: until the context is full, which is as many as fit.
    if (json_integer_value(json_object_get(chat, "max_completion_tokens")) == -2)
        json_put(chat, "max_completion_tokens", json_integer(-1));
    stop = spot_member(&s, "stop");
    if (stop.value && !json_is_null(stop.value) && !json_is_string(stop.value) &&
        spot_check(&stop, SPOT_ARRAY) != 0)
        return ERR_INVALID;
    if (stop.value)
        json_put(chat, "stop", json_incref(json_object_get(options, "stop")));
    return 0;
}

static int step_format(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "format");
    const char *word = json_string_value(s.value);
    json_t *format;

    if (!s.value || json_is_null(s.value) || (word && word[0] == '\0'))
        return 0;
    if (json_is_object(s.value)) {
        json_put(chat, "response_format",
                 chat_schema_format(json_incref(json_object_get(body->value, "format"))));
        return 0;
    }
    if (!word || strcmp(word, "json") != 0)
        return spot_fault(&s, "must be \"json\" or a JSON schema, an object");
    format = json_object();
    json_put(format, "type", json_string("json_object"));
    json_put(chat, "response_format", format);
    return 0;
}

// true, false, or how much.
static int step_think(const struct spot *body, json_t *chat)
{
    struct spot s = spot_member(body, "think");
    const char *effort = json_string_value(s.value);

    if (!s.value || json_is_null(s.value))
        return 0;
    if (!effort && !json_is_boolean(s.value))
        return spot_fault(&s, "must be true, false, \"low\", \"medium\" or \"high\"");
    chat_kwarg_put(chat, "enable_thinking", json_boolean(!json_is_false(s.value)));
    json_put_text(chat, "reasoning_effort", effort);
    return 0;
}

// What is said with the images that come with it; *out is new. They stand before the words.
static int images_take(const struct spot *s, json_t *words, json_t **out)
{
    struct spot images = spot_member(s, "images");
    json_t *said, *list;
    int rc = spot_get(s, "images", SPOT_ARRAY, &list);

    if (rc != 0)
        return ERR_INVALID;
    said = json_array();
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        struct spot image = spot_element(&images, i);

        rc = chat_image_data_put(&image, "image/*", image.value, said);
    }
    if (words)
        json_array_append(said, words);
    if (rc == 0)
        *out = chat_content(said, "\n");
    json_decref(said);
    return rc;
}

// ---- messages -----------------------------------------------------------------------------------

// Ollama's calls have no ids: they are numbered through, and results come in the order of the
// calls.
struct calls {
    unsigned made, answered;
};

// Nine letters and digits: some templates take no other id.
static json_t *call_id(unsigned n)
{
    char id[24];

    snprintf(id, sizeof(id), "call%05u", n);
    return json_string(id);
}

static int call_add(const struct spot *s, struct calls *calls, json_t *message)
{
    struct spot function = spot_member(s, "function");
    json_t *given, *name, *arguments;
    char *text;

    if (spot_check(s, SPOT_OBJECT) != 0 || spot_check(&function, SPOT_OBJECT) != 0 ||
        spot_get(s, "id", SPOT_TEXT, &given) != 0 ||
        spot_need(&function, "name", SPOT_TEXT, &name) != 0 ||
        spot_need(&function, "arguments", SPOT_OBJECT, &arguments) != 0)
        return ERR_INVALID;
    text = json_text(arguments);
    chat_call_put(message, chat_call(given ? json_incref(given) : call_id(calls->made),
                                     json_incref(name), json_string(text)));
    calls->made++;
    free(text);
    return 0;
}

static int calls_add(const struct spot *s, struct calls *calls, json_t *message)
{
    struct spot list = spot_member(s, "tool_calls");
    json_t *array;

    if (spot_get(s, "tool_calls", SPOT_ARRAY, &array) != 0)
        return ERR_INVALID;
    // What was not answered before a new turn stays so.
    if (json_array_size(array) > 0)
        calls->answered = calls->made;
    for (size_t i = 0; i < json_array_size(array); i++) {
        struct spot call = spot_element(&list, i);

        if (call_add(&call, calls, message) != 0)
            return ERR_INVALID;
    }
    return 0;
}

static int result_put(const struct spot *s, struct calls *calls, json_t *message)
{
    json_t *id, *name;

    if (spot_get(s, "tool_call_id", SPOT_TEXT, &id) != 0 ||
        spot_get(s, "tool_name", SPOT_TEXT, &name) != 0)
        return ERR_INVALID;
    json_put(message, "tool_call_id", id ? json_incref(id) : call_id(calls->answered++));
    if (name)
        json_put(message, "name", json_incref(name));
    return 0;
}

static int message_add(const struct spot *s, struct calls *calls, json_t *messages)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    struct spot role = spot_member(s, "role");
    json_t *content, *said, *message;
    size_t i = 0;

    if (spot_check(s, SPOT_OBJECT) != 0 || spot_check(&role, SPOT_TEXT) != 0 ||
        spot_get(s, "content", SPOT_TEXT, &content) != 0)
        return ERR_INVALID;
    while (i < 4 && strcmp(json_string_value(role.value), roles[i]) != 0)
        i++;
    if (i == 4)
        return spot_fault(&role, "must be system, user, assistant or tool");
    if (images_take(s, content, &said) != 0)
        return ERR_INVALID;
    message = chat_message(roles[i], said);
    json_array_append_new(messages, message);
    if (strcmp(roles[i], "tool") == 0)
        return result_put(s, calls, message);
    if (strcmp(roles[i], "assistant") != 0)
        return 0;
    return spot_copy(s, "thinking", SPOT_TEXT, message, "reasoning_content") != 0
               ? ERR_INVALID
               : calls_add(s, calls, message);
}

static int step_messages(const struct spot *body, json_t *chat)
{
    struct spot list = spot_member(body, "messages");
    struct calls calls = {0, 0};
    json_t *messages = json_array();

    json_put(chat, "messages", messages);
    if (spot_check(&list, SPOT_ARRAY) != 0)
        return ERR_INVALID;
    if (json_array_size(list.value) == 0)
        return spot_fault(&list, "must hold a message; with none, 'model' says which one to load");
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        struct spot message = spot_element(&list, i);

        if (message_add(&message, &calls, messages) != 0)
            return ERR_INVALID;
    }
    return 0;
}

// ---- tools --------------------------------------------------------------------------------------

static int tool_add(const struct spot *s, json_t *tools)
{
    struct spot function = spot_member(s, "function");
    json_t *name, *description, *parameters;

    if (spot_check(s, SPOT_OBJECT) != 0 || spot_check(&function, SPOT_OBJECT) != 0 ||
        spot_need(&function, "name", SPOT_TEXT, &name) != 0 ||
        spot_get(&function, "description", SPOT_TEXT, &description) != 0 ||
        spot_get(&function, "parameters", SPOT_OBJECT, &parameters) != 0)
        return ERR_INVALID;
    json_array_append_new(tools, chat_tool(json_incref(name), json_incref(description),
                                           parameters ? json_incref(parameters) : json_object()));
    return 0;
}

static int step_tools(const struct spot *body, json_t *chat)
{
    return translate_tools(body, chat, tool_add);
}

// ---- generate -----------------------------------------------------------------------------------

// Members that would change the prompt in ways that are not here; empty ones change nothing.
static int step_refused(const struct spot *body, json_t *chat)
{
    static const struct {
        const char *member, *why;
    } rows[] = {
        {"suffix", "cannot be taken: filling in the middle is not supported"},
        {"template", "cannot be taken: the model's own template is used; \"raw\" uses none"},
        {"context", "cannot be taken: send the whole conversation to /api/chat"},
    };

    (void)chat;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct spot s = spot_member(body, rows[i].member);

        if (s.value && !json_is_null(s.value) && json_string_length(s.value) == 0 &&
            json_is_string(s.value))
            continue;
        if (s.value && !json_is_null(s.value) &&
            !(json_is_array(s.value) && json_array_size(s.value) == 0))
            return spot_fault(&s, "%s", rows[i].why);
    }
    return 0;
}

static int step_prompt(const struct spot *body, json_t *chat)
{
    json_t *system, *prompt, *raw, *messages, *said;
    struct spot s = spot_member(body, "prompt"), images = spot_member(body, "images");

    if (spot_need(body, "prompt", SPOT_TEXT, &prompt) != 0 ||
        spot_get(body, "system", SPOT_TEXT, &system) != 0 ||
        spot_get(body, "raw", SPOT_FLAG, &raw) != 0)
        return ERR_INVALID;
    if (json_string_length(prompt) == 0)
        return spot_fault(&s, "must not be empty; with none, 'model' says which one to load");
    if (json_is_true(raw) && json_array_size(images.value) > 0)
        return spot_fault(&images,
                          "cannot be taken with \"raw\": the model's template places them");
    if (images_take(body, prompt, &said) != 0)
        return ERR_INVALID;
    if (json_is_true(raw)) {
        json_decref(said);
        json_put(chat, "prompt", json_incref(prompt));
        return 0;
    }
    messages = json_array();
    json_put(chat, "messages", messages);
    if (system && json_string_length(system) > 0)
        json_array_append_new(messages, chat_message("system", json_incref(system)));
    json_array_append_new(messages, chat_message("user", said));
    return 0;
}

// ---- all of it ----------------------------------------------------------------------------------

// A request that says nothing has its model loaded: clients send it before the first words come.
static bool says_nothing(const json_t *body, const char *member)
{
    const json_t *v = json_member(body, member);
    bool none = !v || (json_is_array(v) && json_array_size(v) == 0) ||
                (json_is_string(v) && json_string_length(v) == 0);

    return none && json_is_string(json_object_get(body, "model"));
}

// Rendering nothing takes a model that is loaded; the answer says that it is.
static int parse_load(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    out->kind = PARSE_RENDER;
    out->render = json_pack("{s:s,s:b,s:b}", "text", "", "special", 0, "bos", 0);
    return ollama_show_parse(body, out->model, fault);
}

static int parse(const json_t *body, translate_step *const *steps, struct parse_request *out,
                 struct parse_fault *fault)
{
    static const struct translate_name names[] = {
        {"max_completion_tokens", "options.num_predict"},
        {"temperature", "options.temperature"},
        {"top_k", "options.top_k"},
        {"top_p", "options.top_p"},
        {"min_p", "options.min_p"},
        {"typical_p", "options.typical_p"},
        {"seed", "options.seed"},
        {"stop", "options.stop"},
        {"repeat_penalty", "options.repeat_penalty"},
        {"repeat_last_n", "options.repeat_last_n"},
        {"frequency_penalty", "options.frequency_penalty"},
        {"presence_penalty", "options.presence_penalty"},
        {"response_format", "format"},
        {"reasoning_effort", "think"},
        {NULL, NULL},
    };
    struct spot s = spot_body(body, fault);
    json_t *chat = json_object();
    bool raw;

    if (translate_steps(&s, chat, steps) != 0) {
        json_decref(chat);
        return ERR_INVALID;
    }
    raw = json_object_get(chat, "prompt") != NULL;
    if (translate_finish(&s, raw ? PARSE_TEXT : PARSE_CHAT, chat, names, out) != 0)
        return fault->e.code;
    // Streams are what a request without a word on it gets.
    if (!json_is_boolean(json_object_get(body, "stream")))
        out->stream = true;
    return 0;
}

int ollama_parse_chat(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    static translate_step *const steps[] = {step_plain, step_options,  step_format, step_think,
                                            step_tools, step_messages, NULL};

    return says_nothing(body, "messages") ? parse_load(body, out, fault)
                                          : parse(body, steps, out, fault);
}

int ollama_parse_generate(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    static translate_step *const steps[] = {step_plain,   step_options, step_format, step_think,
                                            step_refused, step_prompt,  NULL};

    return says_nothing(body, "prompt") ? parse_load(body, out, fault)
                                        : parse(body, steps, out, fault);
}
