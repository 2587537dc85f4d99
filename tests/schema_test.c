// What schemas would cost: those that are taken, and those that are not, wherever they lie and however they are spread.
#include "engine/schema.h"

#include "base/buf.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// An object with so many properties, the first of which are required (each name given twice).
static json_t *object_of(size_t n, size_t required)
{
    json_t *properties = json_object(), *names = json_array();

    for (size_t i = 0; i < n; i++) {
        char *name = mem_format("p%zu", i);

        json_object_set_new(properties, name, json_object());
        for (size_t k = 0; i < required && k < 2; k++)
            json_array_append_new(names, json_string(name));
        free(name);
    }
    return json_pack("{s:s,s:o,s:o}", "type", "object", "properties", properties, "required",
                     names);
}

static json_t *several(size_t n, size_t properties)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, object_of(properties, 0));
    return list;
}

// The schema goes, in each of the places.
static void judge(json_t *schema, bool taken)
{
    json_t *requests[] = {
        json_pack("{s:O}", "json_schema", schema),
        json_pack("{s:{s:s,s:{s:O}}}", "response_format", "type", "json_schema", "json_schema",
                  "schema", schema),
        json_pack("{s:[{s:{s:O}}]}", "tools", "function", "parameters", schema),
    };

    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        struct err e = {0};

        assert_int_equal(schema_weigh(requests[i], &e), taken ? 0 : ERR_INVALID);
        if (!taken)
            assert_non_null(strstr(e.message, "optional properties"));
        json_decref(requests[i]);
    }
    json_decref(schema);
}

static void one_object(void **state)
{
    (void)state;
    judge(object_of(0, 0), true);
    judge(object_of(300, 0), true);
    judge(object_of(400, 0), false);
    judge(object_of(5000, 5000), true);
    judge(object_of(5000, 4800), true);
    judge(object_of(5000, 4500), false);
    judge(json_pack("{s:{s:o}}", "items", "properties", json_pack("{s:o}", "x", object_of(400, 0))),
          false);
}

static void several_objects(void **state)
{
    (void)state;
    judge(json_pack("{s:o}", "anyOf", several(1000, 20)), true);
    judge(json_pack("{s:o}", "oneOf", several(30, 100)), true);
    judge(json_pack("{s:o}", "oneOf", several(40, 100)), false);
}

// Parts that become one object count together, also those that are but named.
static void merged_objects(void **state)
{
    json_t *refs = json_array();

    (void)state;
    judge(json_pack("{s:o}", "allOf", several(2, 100)), true);
    judge(json_pack("{s:o}", "allOf", several(4, 100)), false);
    judge(json_pack("{s:[{s:o}]}", "allOf", "anyOf", several(4, 100)), false);
    for (size_t i = 0; i < 4; i++)
        json_array_append_new(refs, json_pack("{s:s}", "$ref", "#/$defs/a"));
    judge(json_pack("{s:O,s:{s:o}}", "allOf", refs, "$defs", "a", object_of(50, 0)), true);
    judge(json_pack("{s:o,s:{s:o}}", "allOf", refs, "$defs", "a", object_of(100, 0)), false);
}

// What is no schema is the library's to judge; a conversation is none.
static void nonsense(void **state)
{
    struct err e = {0};
    static const char *const rows[] = {
        "{}", "{\"tools\":7}", "{\"json_schema\":{\"properties\":[],\"required\":{}}}",
        "{\"json_schema\":{\"required\":[1,null,\"\"],\"properties\":{\"\":{}},\"allOf\":{}}}",
        "{\"tools\":[[[{\"allOf\":[1,{\"anyOf\":7,\"$ref\":[]}]}]]]}"};
    json_t *v = json_pack("{s:o}", "messages", several(1, 1000));

    (void)state;
    assert_int_equal(schema_weigh(v, &e), 0);
    json_decref(v);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        v = json_parse(rows[i], strlen(rows[i]), &e);
        assert_non_null(v);
        assert_int_equal(schema_weigh(v, &e), 0);
        json_decref(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_object),
        cmocka_unit_test(several_objects),
        cmocka_unit_test(merged_objects),
        cmocka_unit_test(nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
