// The conversation of a Responses request: items in, chat messages out.
//
// A turn of the assistant arrives as several items (its reasoning, its words, its calls), and one
// chat message is made of them, as chat templates want it.
#include "gateway/responses.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

struct conversation {
    json_t *messages;
    json_t *leading; // texts for the system before the first message; owned
    json_t *turn;    // the assistant's message that further items join, borrowed; NULL: none
};

static bool has(const json_t *message, const char *member)
{
    const json_t *v = json_object_get(message, member);

    return v && (!json_is_string(v) || json_string_length(v) > 0);
}

// The assistant's message that goes on, or a new one.
static json_t *turn_get(struct conversation *c)
{
    if (!c->turn) {
        c->turn = chat_message("assistant", json_string(""));
        json_array_append_new(c->messages, c->turn);
    }
    return c->turn;
}

// Steals the content. What the system says in the middle of a conversation is put into the user's
// mouth.
static void message_add(struct conversation *c, const char *role, json_t *content)
{
    if (strcmp(role, "assistant") == 0) {
        if (c->turn && (has(c->turn, "content") || has(c->turn, "tool_calls")))
            c->turn = NULL;
        json_put(turn_get(c), "content", content);
        return;
    }
    c->turn = NULL;
    if (strcmp(role, "system") == 0 && json_array_size(c->messages) == 0 && json_is_string(content))
        json_array_append_new(c->leading, content);
    else
        chat_user_put(c->messages, content);
}

// ---- content ------------------------------------------------------------------------------------

static int part_image(const struct spot *s, json_t *texts)
{
    struct spot url = spot_member(s, "image_url");

    if (!url.value || json_is_null(url.value))
        return spot_fault(s, "has no 'image_url'; files that were uploaded before are not kept "
                             "here, send the image as a data: URL");
    return chat_image_put(&url, url.value, texts);
}

static int part_text(const struct spot *s, json_t *texts)
{
    static const struct {
        const char *type, *member; // member NULL: refused
    } kinds[] = {
        {"input_text", "text"},   {"output_text", "text"}, {"text", "text"},
        {"summary_text", "text"}, {"refusal", "refusal"},  {"reasoning_text", "text"},
        {"input_file", NULL},     {"input_audio", NULL},
    };
    const char *type;
    json_t *text;

    if (spot_type(s, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "input_image") == 0 || strcmp(type, "computer_screenshot") == 0)
        return part_image(s, texts);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        if (!kinds[i].member)
            return spot_fault(
                s, "is of type \"%s\": text and images are taken, no other files and no sound",
                type);
        if (spot_need(s, kinds[i].member, SPOT_TEXT, &text) != 0)
            return ERR_INVALID;
        json_array_append(texts, text);
        return 0;
    }
    return spot_fault(s,
                      "is of a type that is not known here, \"%.40s\"; it can be input_text, "
                      "output_text or refusal",
                      type);
}

// A string, or an array of parts; *out is new.
static int content_text(const struct spot *s, json_t **out)
{
    json_t *texts;
    int rc = 0;

    if (json_is_string(s->value)) {
        *out = json_string(json_string_value(s->value));
        return 0;
    }
    if (!json_is_array(s->value))
        return spot_fault(s, "must be a string or an array of parts");
    texts = json_array();
    for (size_t i = 0; rc == 0 && i < json_array_size(s->value); i++) {
        struct spot part = spot_element(s, i);

        rc = part_text(&part, texts);
    }
    if (rc == 0)
        *out = chat_content(texts, "\n");
    json_decref(texts);
    return rc;
}

// ---- items --------------------------------------------------------------------------------------

static int item_message(const struct spot *s, struct conversation *c)
{
    static const char *const roles[][2] = {{"user", "user"},
                                           {"assistant", "assistant"},
                                           {"system", "system"},
                                           {"developer", "system"}};
    struct spot role = spot_member(s, "role"), content = spot_member(s, "content");
    json_t *text = NULL;

    if (spot_check(&role, SPOT_TEXT) != 0 || content_text(&content, &text) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(json_string_value(role.value), roles[i][0]) != 0)
            continue;
        message_add(c, roles[i][1], text);
        return 0;
    }
    json_decref(text);
    return spot_fault(&role, "must be user, assistant, system or developer");
}

static int item_call(const struct spot *s, struct conversation *c)
{
    json_t *id, *name, *arguments, *space;

    if (spot_need(s, "call_id", SPOT_TEXT, &id) != 0 ||
        spot_need(s, "name", SPOT_TEXT, &name) != 0 ||
        spot_get(s, "namespace", SPOT_TEXT, &space) != 0 ||
        spot_need(s, "arguments", SPOT_TEXT, &arguments) != 0)
        return ERR_INVALID;
    chat_call_put(turn_get(c), chat_call(json_incref(id), responses_flat_name(space, name),
                                         json_incref(arguments)));
    return 0;
}

static int item_output(const struct spot *s, struct conversation *c)
{
    struct spot output = spot_member(s, "output");
    json_t *id, *text, *message;

    if (spot_need(s, "call_id", SPOT_TEXT, &id) != 0 || content_text(&output, &text) != 0)
        return ERR_INVALID;
    c->turn = NULL;
    message = chat_message("tool", text);
    json_put(message, "tool_call_id", json_incref(id));
    json_array_append_new(c->messages, message);
    return 0;
}

// The text in full where it is there, else the summary.
static int item_reasoning(const struct spot *s, struct conversation *c)
{
    static const char *const members[] = {"content", "summary"};

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        struct spot m = spot_member(s, members[i]);
        json_t *text;

        if (!m.value || json_is_null(m.value) || json_array_size(m.value) == 0)
            continue;
        if (content_text(&m, &text) != 0)
            return ERR_INVALID;
        if (!json_is_string(text)) {
            json_decref(text);
            return spot_fault(&m, "must hold text alone");
        }
        c->turn = NULL;
        json_put(turn_get(c), "reasoning_content", text);
        return 0;
    }
    return 0;
}

static int item_reference(const struct spot *s, struct conversation *c)
{
    (void)c;
    return spot_fault(s, "refers to an item of an earlier response: " RESPONSES_KEEPS_NOTHING);
}

// Items of a type that is not here are skipped: they belong to tools that a server runs itself.
static int item_add(const struct spot *s, struct conversation *c)
{
    static const struct {
        const char *type;
        int (*add)(const struct spot *s, struct conversation *c);
    } items[] = {
        {"message", item_message},
        {"function_call", item_call},
        {"function_call_output", item_output},
        {"reasoning", item_reasoning},
        {"item_reference", item_reference},
    };
    const char *type;

    if (spot_type(s, "message", &type) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++)
        if (strcmp(type, items[i].type) == 0)
            return items[i].add(s, c);
    return 0;
}

static int items_add(const struct spot *input, struct conversation *c)
{
    if (json_is_string(input->value)) {
        message_add(c, "user", json_string(json_string_value(input->value)));
        return 0;
    }
    if (!json_is_array(input->value) || json_array_size(input->value) == 0)
        return spot_fault(input, "must be a string or an array with at least one item");
    for (size_t i = 0; i < json_array_size(input->value); i++) {
        struct spot item = spot_element(input, i);

        if (item_add(&item, c) != 0)
            return ERR_INVALID;
    }
    return 0;
}

int responses_input(const struct spot *body, json_t *chat)
{
    struct conversation c = {.messages = json_array(), .leading = json_array()};
    struct spot input = spot_member(body, "input");
    json_t *instructions;
    int rc = spot_get(body, "instructions", SPOT_TEXT, &instructions);

    json_put(chat, "messages", c.messages);
    // An answer is a message of its own here, also after one of the assistant's.
    json_put(chat, "continue_final_message", json_false());
    if (rc == 0 && instructions && json_string_length(instructions) > 0)
        json_array_append(c.leading, instructions);
    if (rc == 0)
        rc = items_add(&input, &c);
    // Many templates want one system message and want it first: those at the start become one.
    if (rc == 0 && json_array_size(c.leading) > 0)
        json_array_insert_new(c.messages, 0, chat_message("system", chat_join(c.leading, "\n\n")));
    json_decref(c.leading);
    if (rc == 0 && json_array_size(c.messages) == 0)
        rc = spot_fault(&input, "holds no message");
    return rc;
}
