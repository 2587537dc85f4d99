// base/json: typed access and messages that name what was wrong.
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char document[] =
    "{\"b\":true,\"i\":42,\"f\":2.5,\"s\":\"text\",\"o\":{\"k\":1},\"a\":[1,2],\"n\":null}";

enum kind { BOOL, I64, F64, STRING, COPY, OBJECT, ARRAY };

static int get(const json_t *doc, enum kind kind, const char *member, struct err *e)
{
    bool b = false;
    int64_t i = -1;
    double f = -1;
    const char *s = NULL;
    char copy[5] = "";
    json_t *v = NULL;
    switch (kind) {
    case BOOL:
        return json_get_bool(doc, member, &b, e);
    case I64:
        return json_get_i64(doc, member, 0, 100, &i, e);
    case F64:
        return json_get_f64(doc, member, 0, 50, &f, e);
    case STRING:
        return json_get_string(doc, member, &s, e);
    case COPY:
        return json_copy_string(doc, member, copy, sizeof copy, e);
    case OBJECT:
        return json_get_object(doc, member, &v, e);
    case ARRAY:
        return json_get_array(doc, member, &v, e);
    }
    return 1;
}

static void types_table(void **state)
{
    (void)state;
    static const struct {
        enum kind kind;
        const char *member;
        const char *message; // NULL: accepted
    } cases[] = {
        {BOOL, "b", NULL},
        {BOOL, "i", "'i' must be a boolean, not an integer"},
        {I64, "i", NULL},
        {I64, "f", "'f' must be an integer, not a fraction"},
        {I64, "s", "'s' must be an integer, not a string"},
        {F64, "f", NULL},
        {F64, "i", NULL},
        {F64, "b", "'b' must be a number, not a boolean"},
        {STRING, "s", NULL},
        {STRING, "o", "'o' must be a string, not an object"},
        {COPY, "s", NULL},
        {COPY, "a", "'a' must be a string, not an array"},
        {OBJECT, "o", NULL},
        {OBJECT, "a", "'a' must be an object, not an array"},
        {ARRAY, "a", NULL},
        {ARRAY, "o", "'o' must be an array, not an object"},
    };
    json_t *doc = json_parse(document, strlen(document), NULL);
    assert_non_null(doc);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = {0};
        int rc = get(doc, cases[i].kind, cases[i].member, &e);
        assert_int_equal(rc, cases[i].message ? ERR_INVALID : 0);
        assert_string_equal(e.message, cases[i].message ? cases[i].message : "");
    }
    // Absent and null are no error, whatever the type.
    for (int kind = BOOL; kind <= ARRAY; kind++) {
        assert_int_equal(get(doc, (enum kind)kind, "absent", NULL), 0);
        assert_int_equal(get(doc, (enum kind)kind, "n", NULL), 0);
    }
    json_decref(doc);
}

static void absent_leaves_the_default(void **state)
{
    (void)state;
    json_t *doc = json_parse("{}", 2, NULL);
    bool b = true;
    int64_t i = 5;
    double f = 0.5;
    const char *s = "default";
    char copy[8] = "kept";
    assert_int_equal(json_get_bool(doc, "x", &b, NULL), 0);
    assert_int_equal(json_get_i64(doc, "x", 0, 1, &i, NULL), 0);
    assert_int_equal(json_get_f64(doc, "x", 0, 0.1, &f, NULL), 0);
    assert_int_equal(json_get_string(doc, "x", &s, NULL), 0);
    assert_int_equal(json_copy_string(doc, "x", copy, sizeof copy, NULL), 0);
    assert_true(b && i == 5 && f == 0.5);
    assert_string_equal(s, "default");
    assert_string_equal(copy, "kept");
    json_decref(doc);
}

static void limits_are_named(void **state)
{
    (void)state;
    json_t *doc = json_parse(document, strlen(document), NULL);
    struct err e = {0};
    int64_t i = -1;
    double f = -1;
    assert_int_equal(json_get_i64(doc, "i", 0, 41, &i, &e), ERR_INVALID);
    assert_string_equal(e.message, "'i' is 42, outside [0, 41]");
    assert_int_equal(json_get_i64(doc, "i", 43, 50, &i, &e), ERR_INVALID);
    assert_int_equal(i, -1);
    assert_int_equal(json_get_i64(doc, "i", 42, 42, &i, &e), 0);
    assert_int_equal(i, 42);
    assert_int_equal(json_get_f64(doc, "f", 0, 2, &f, &e), ERR_INVALID);
    assert_string_equal(e.message, "'f' is 2.5, outside [0, 2]");
    assert_int_equal(json_get_f64(doc, "i", 0, 50, &f, &e), 0);
    assert_true(f == 42);
    char copy[5];
    assert_int_equal(json_copy_string(doc, "s", copy, 5, &e), 0);
    assert_string_equal(copy, "text");
    assert_int_equal(json_copy_string(doc, "s", copy, 4, &e), ERR_RANGE);
    assert_string_equal(e.message, "'s' has 4 bytes, at most 3 are allowed");
    json_decref(doc);
}

static void what_may_be_missing(void **state)
{
    (void)state;
    static const char text[] = "{\"s\":\"text\",\"empty\":\"\",\"n\":null,\"f\":2.5,\"i\":7,"
                               "\"below\":-1,\"most\":4294967295,"
                               "\"above\":4294967296}";
    json_t *doc = json_parse(text, strlen(text), NULL);
    assert_string_equal(json_string_or(doc, "s", "-"), "text");
    static const char *const no_text[] = {"empty", "n", "f", "absent"};
    for (size_t i = 0; i < COUNT(no_text); i++)
        assert_string_equal(json_string_or(doc, no_text[i], "-"), "-");
    assert_null(json_string_or(doc, "absent", NULL));
    assert_string_equal(json_string_or(NULL, "s", "-"), "-");
    assert_true(json_number_or(doc, "f", 1) == 2.5 && json_number_or(doc, "i", 1) == 7);
    assert_true(json_number_or(doc, "s", 1) == 1 && json_number_or(doc, "absent", -1) == -1);
    assert_true(json_number_or(NULL, "f", 1) == 1);
    assert_true(json_u32(doc, "i") == 7 && json_u32(doc, "most") == UINT32_MAX);
    static const char *const no_u32[] = {"below", "above", "f", "s", "absent"};
    for (size_t i = 0; i < COUNT(no_u32); i++)
        assert_true(json_u32(doc, no_u32[i]) == 0);
    assert_ptr_equal(json_member(doc, "s"), json_object_get(doc, "s"));
    assert_null(json_member(doc, "n"));
    assert_null(json_member(doc, "absent"));
    json_decref(doc);
}

static void parse_table(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;         // 0: strlen
        const char *part; // of the message; NULL: accepted
    } cases[] = {
        {"{}", 0, NULL},
        {" [1, 2] ", 0, NULL},
        {"", 0, "line 1"},
        {"{\"a\":}", 0, "line 1, column 6"},
        {"{\n\"a\": 1,\n}", 0, "line 3"},
        {"{\"a\":1,\"a\":2}", 0, "duplicate"},
        {"{} x", 0, "end of file expected"},
        {"{\"a\":\"\\u0000\"}", 0, "a NUL character (\\u0000) cannot be taken"},
        {"{\"a\\u0000\":1}", 0, "a NUL character (\\u0000) cannot be taken"},
        {"{\"a\":\"\xff\"}", 0, "unable to decode byte"},
        {"{\"a\":\0}", 7, "not valid JSON"},
        {"{\"a\":1e999}", 0, "overflow"},
        {"{\"a\":99999999999999999999}", 0, "integer"},
        {"{\"a\":NaN}", 0, "not valid JSON"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = {0};
        size_t n = cases[i].n ? cases[i].n : strlen(cases[i].text);
        json_t *doc = json_parse(cases[i].text, n, &e);
        assert_int_equal(doc != NULL, cases[i].part == NULL);
        if (cases[i].part) {
            assert_int_equal(e.code, ERR_INVALID);
            if (!strstr(e.message, cases[i].part))
                fail_msg("case %zu: %s", i, e.message);
        }
        json_decref(doc);
    }
}

static void depth_is_limited(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH);
    assert_non_null(text);
    memset(text, '[', DEPTH);
    struct err e = {0};
    assert_null(json_parse(text, DEPTH, &e));
    assert_int_equal(e.code, ERR_INVALID);
    free(text);
}

static void build_and_write(void **state)
{
    (void)state;
    json_t *doc = json_object();
    json_put(doc, "a", json_integer(1));
    json_put(doc, "a", json_string("again"));
    json_put(doc, "not utf-8", json_string("\xc3\x28"));
    json_put_text(doc, "text", "x");
    json_put_text(doc, "none", NULL);
    char *text = json_text(doc);
    assert_string_equal(text, "{\"a\":\"again\",\"not utf-8\":null,\"text\":\"x\"}");
    free(text);
    json_decref(doc);
}

static void fractions_are_short_for_people(void **state)
{
    (void)state;
    static const char numbers[] = "[0.1,1.9,0.123456789012,5e8,12345678901,1e-7]";
    json_t *doc = json_parse(numbers, strlen(numbers), NULL);
    char *line = json_line(doc), *text = json_text(doc);
    assert_string_equal(line, "[0.1,1.9,0.123456789,500000000.0,12345678901,1e-7]");
    json_t *again = json_parse(text, strlen(text), NULL);
    assert_true(json_equal(doc, again));
    free(line);
    free(text);
    json_decref(again);
    json_decref(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_table),      cmocka_unit_test(absent_leaves_the_default),
        cmocka_unit_test(limits_are_named), cmocka_unit_test(what_may_be_missing),
        cmocka_unit_test(parse_table),      cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(build_and_write),  cmocka_unit_test(fractions_are_short_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
