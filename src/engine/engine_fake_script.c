// See engine_fake_script.h. A script is a test's own file: it is checked when the engine is opened, so that
// a mistake in it shows there and not as an answer that never comes.
#include "engine/engine_fake_script.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

static bool key_known(const char *key)
{
    static const char *const keys[] = {"tool", "last_role", "contains", "answer"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

static int rule_check(const json_t *rule, size_t i, struct err *e)
{
    const char *key;
    json_t *value;
    if (!json_is_object(rule))
        return err_set(e, ERR_INVALID, "rule %zu of the script is not an object", i);
    json_object_foreach((json_t *)(uintptr_t)rule, key, value)
    {
        if (!key_known(key))
            return err_set(e, ERR_INVALID, "rule %zu of the script has an unknown member \"%s\"", i,
                           key);
        if (!json_is_string(value))
            return err_set(e, ERR_INVALID, "rule %zu of the script: \"%s\" must be a text", i, key);
    }
    if (json_object_get(rule, "answer") == NULL)
        return err_set(e, ERR_INVALID, "rule %zu of the script has no \"answer\"", i);
    return 0;
}

static int rules_check(const json_t *script, const char *path, struct err *e)
{
    size_t i;
    const json_t *rule;
    if (!json_is_array(script))
        return err_set(e, ERR_INVALID, "the script '%s' must be a list of rules", path);
    json_array_foreach(script, i, rule)
    {
        int rc = rule_check(rule, i, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int fake_script_load(const char *path, json_t **out, struct err *e)
{
    json_error_t why;
    if (access(path, R_OK) != 0)
        return err_set(e, ERR_NOT_FOUND, "no script at '%s' that can be read", path);
    json_t *script = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (script == NULL)
        return err_set(e, ERR_INVALID, "the script '%s' is not JSON: %s at line %d", path, why.text,
                       why.line);
    int rc = rules_check(script, path, e);
    if (rc != 0) {
        json_decref(script);
        return rc;
    }
    *out = script;
    return 0;
}

// ---- which rule fits ----------------------------------------------------------------------------

static const char *text_of(const json_t *object, const char *member)
{
    return json_string_value(json_object_get(object, member));
}

bool fake_script_tool_offered(const json_t *request, const char *name)
{
    const json_t *choice = json_object_get(request, "tool_choice"), *tool;
    const char *word = json_string_value(choice);
    const char *only = text_of(json_object_get(choice, "function"), "name");
    size_t i;
    if (word != NULL && strcmp(word, "none") == 0)
        return false;
    json_array_foreach(json_object_get(request, "tools"), i, tool)
    {
        const char *offered = text_of(json_object_get(tool, "function"), "name");
        if (offered == NULL || (only != NULL && strcmp(only, offered) != 0))
            continue;
        if (name == NULL || strcmp(name, offered) == 0)
            return true;
    }
    return false;
}

// A text, or a list of parts with texts.
static bool content_contains(const json_t *content, const char *text)
{
    size_t i;
    const json_t *part;
    const char *whole = json_string_value(content);
    if (whole != NULL)
        return strstr(whole, text) != NULL;
    json_array_foreach(content, i, part)
    {
        const char *piece = text_of(part, "text");
        if (piece != NULL && strstr(piece, text) != NULL)
            return true;
    }
    return false;
}

static bool rule_fits(const json_t *rule, const json_t *request)
{
    const json_t *messages = json_object_get(request, "messages");
    size_t n = json_array_size(messages);
    const json_t *last = n > 0 ? json_array_get(messages, n - 1) : NULL;
    const char *tool = text_of(rule, "tool"), *role = text_of(rule, "last_role");
    const char *contains = text_of(rule, "contains"), *last_role = text_of(last, "role");
    if (tool != NULL && !fake_script_tool_offered(request, tool))
        return false;
    if (role != NULL && (last_role == NULL || strcmp(role, last_role) != 0))
        return false;
    return contains == NULL ||
           content_contains(
               json_object_get(last != NULL ? last : request, last != NULL ? "content" : "prompt"),
               contains);
}

const char *fake_script_answer(const json_t *script, const json_t *request)
{
    size_t i;
    const json_t *rule;
    json_array_foreach(script, i, rule) if (rule_fits(rule, request)) return text_of(rule,
                                                                                     "answer");
    return NULL;
}
