#include "base/json.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static int type_error(const char *member, const char *wanted, const json_t *got, struct err *e)
{
    return err_set(e, ERR_INVALID, "'%s' must be %s, not %s", member, wanted, type_name(got));
}

json_t *json_member(const json_t *object, const char *member)
{
    json_t *v = json_object_get(object, member);
    return json_is_null(v) ? NULL : v;
}

int json_get_bool(const json_t *object, const char *member, bool *out, struct err *e)
{
    const json_t *v = json_member(object, member);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return type_error(member, "a boolean", v, e);
    *out = json_is_true(v);
    return 0;
}

int json_get_i64(const json_t *object, const char *member, int64_t min, int64_t max, int64_t *out,
                 struct err *e)
{
    const json_t *v = json_member(object, member);
    if (!v)
        return 0;
    if (!json_is_integer(v))
        return type_error(member, "an integer", v, e);
    int64_t value = json_integer_value(v);
    if (value < min || value > max)
        return err_set(e, ERR_INVALID, "'%s' is %lld, outside [%lld, %lld]", member,
                       (long long)value, (long long)min, (long long)max);
    *out = value;
    return 0;
}

int json_get_f64(const json_t *object, const char *member, double min, double max, double *out,
                 struct err *e)
{
    const json_t *v = json_member(object, member);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return type_error(member, "a number", v, e);
    double value = json_number_value(v);
    if (!(value >= min && value <= max))
        return err_set(e, ERR_INVALID, "'%s' is %g, outside [%g, %g]", member, value, min, max);
    *out = value;
    return 0;
}

int json_get_string(const json_t *object, const char *member, const char **out, struct err *e)
{
    const json_t *v = json_member(object, member);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return type_error(member, "a string", v, e);
    *out = json_string_value(v);
    return 0;
}

int json_copy_string(const json_t *object, const char *member, char *out, size_t out_bytes,
                     struct err *e)
{
    const char *text = NULL;
    int rc = json_get_string(object, member, &text, e);
    if (rc || !text)
        return rc;
    size_t n = strlen(text);
    if (n >= out_bytes)
        return err_set(e, ERR_RANGE, "'%s' has %zu bytes, at most %zu are allowed", member, n,
                       out_bytes - 1);
    memcpy(out, text, n + 1);
    return 0;
}

int json_get_object(const json_t *object, const char *member, json_t **out, struct err *e)
{
    json_t *v = json_member(object, member);
    if (!v)
        return 0;
    if (!json_is_object(v))
        return type_error(member, "an object", v, e);
    *out = v;
    return 0;
}

int json_get_array(const json_t *object, const char *member, json_t **out, struct err *e)
{
    json_t *v = json_member(object, member);
    if (!v)
        return 0;
    if (!json_is_array(v))
        return type_error(member, "an array", v, e);
    *out = v;
    return 0;
}

const char *json_string_or(const json_t *object, const char *member, const char *none)
{
    const char *s = json_string_value(json_object_get(object, member));
    return s && s[0] ? s : none;
}

double json_number_or(const json_t *object, const char *member, double none)
{
    const json_t *v = json_object_get(object, member);
    return json_is_number(v) ? json_number_value(v) : none;
}

uint32_t json_u32(const json_t *object, const char *member)
{
    json_int_t v = json_integer_value(json_object_get(object, member));
    return v > 0 && v <= UINT32_MAX ? (uint32_t)v : 0;
}

json_t *json_parse(const void *text, size_t n, struct err *e)
{
    json_error_t at;
    json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
    if (!v) {
        enum json_error_code code = json_error_code(&at);
        bool nul = code == json_error_null_character || code == json_error_null_byte_in_key;
        bool large = code == json_error_numeric_overflow;
        // The library's words for a NUL name a flag of its own; a large number is valid JSON.
        err_set(e, ERR_INVALID, "%s at line %d, column %d: %s",
                large ? "a number that is too large to be taken" : "not valid JSON", at.line,
                at.column, nul ? "a NUL character (\\u0000) cannot be taken" : at.text);
    }
    return v;
}

static char *dump(const json_t *value, size_t flags)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | flags);
    if (!text) {
        fputs("tandem: cannot write a JSON value: out of memory\n", stderr);
        abort();
    }
    return text;
}

char *json_text(const json_t *value)
{
    return dump(value, 0);
}

char *json_line(const json_t *value)
{
    return dump(value, JSON_REAL_PRECISION(9));
}

void json_put(json_t *object, const char *member, json_t *value)
{
    if (!value)
        value = json_null();
    if (json_object_set_new(object, member, value)) {
        fprintf(stderr, "tandem: cannot set JSON member '%s'\n", member);
        abort();
    }
}

void json_put_text(json_t *object, const char *member, const char *text)
{
    if (text)
        json_put(object, member, json_string(text));
}
