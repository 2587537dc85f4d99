// What the simulator reads and sorts by: traces and fleets, good and bad, and its heaps against arrays that are
// searched from end to end.
#include "base/random.h"
#include "plan/sim_fleet.h"
#include "plan/sim_heap.h"
#include "plan/trace.h"
#include "tests/sim_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// ---- traces --------------------------------------------------------------------------------------------

static void trace_good(void **state)
{
    static const char text[] =
        "arrival,prompt,answer,session\n0,10,2,anna\r\n0.25,3,1,\n12,7,9,bob\n"
        "12.000,9,1,anna";
    struct trace t;
    struct err e = {0};
    (void)state;
    assert_int_equal(trace_parse(text, sizeof text - 1, &t, &e), 0);
    assert_int_equal(t.n, 4);
    assert_int_equal(t.sessions, 2);
    assert_int_equal(t.rows[0].session, t.rows[3].session);
    assert_int_equal(t.rows[1].session, TRACE_NO_SESSION);
    assert_true(t.rows[1].arrival_s == 0.25 && t.rows[3].arrival_s == 12);
    assert_int_equal(t.rows[2].prompt_tokens, 7);
    assert_int_equal(t.rows[2].answer_tokens, 9);
    trace_fini(&t);
}

static void trace_many_sessions(void **state)
{
    char *text = malloc(5000 * 32), *at = text;
    struct trace t;
    struct err e = {0};
    (void)state;
    at += snprintf(at, 64, "arrival,prompt,answer,session\n");
    for (int i = 0; i < 4000; i++)
        at += snprintf(at, 32, "%d,5,5,s%d\n", i, i % 2000);
    assert_int_equal(trace_parse(text, (size_t)(at - text), &t, &e), 0);
    assert_int_equal(t.sessions, 2000);
    for (uint32_t i = 0; i < 4000; i++)
        assert_int_equal(t.rows[i].session, i % 2000);
    trace_fini(&t);
    free(text);
}

static void trace_bad(void **state)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "no request"},
        {"arrival,prompt,answer\n", "no request"},
        {"0,1,2\n", "line 1"},
        {"arrival,prompt\n0,1\n", "line 1"},
        {"arrival,prompt,answer\n0,1\n", "line 2 has 2 fields"},
        {"arrival,prompt,answer\n0,1,1,x\n", "line 2 has 4 fields"},
        {"arrival,prompt,answer\n\n", "line 2"},
        {"arrival,prompt,answer\n0,1,1\n0,0,1\n", "line 3: prompt is \"0\""},
        {"arrival,prompt,answer\n0,1.5,1\n", "line 2: prompt"},
        {"arrival,prompt,answer\n0,1,-3\n", "line 2: answer is \"-3\""},
        {"arrival,prompt,answer\n0,1,10000001\n", "line 2: answer"},
        {"arrival,prompt,answer\nnan,1,1\n", "line 2: arrival is \"nan\""},
        {"arrival,prompt,answer\n1e3,1,1\n", "line 2: arrival"},
        {"arrival,prompt,answer\n 1,1,1\n", "line 2: arrival"},
        {"arrival,prompt,answer\n1.,1,1\n", "line 2: arrival"},
        {"arrival,prompt,answer\n1.2.3,1,1\n", "line 2: arrival"},
        {"arrival,prompt,answer\n9999999999,1,1\n", "line 2: arrival"},
        {"arrival,prompt,answer\n1234567890123456,1,1\n", "line 2: arrival"},
        {"arrival,prompt,answer\n2,1,1\n1,1,1\n", "line 3: arrival 1 comes before"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct trace t;
        struct err e = {0};
        assert_int_not_equal(trace_parse(rows[i].text, strlen(rows[i].text), &t, &e), 0);
        if (strstr(e.message, rows[i].says) == NULL)
            fail_msg("row %zu: \"%s\" is not in \"%s\"", i, rows[i].says, e.message);
        assert_null(t.rows);
    }
}

// ---- heaps -----------------------------------------------------------------------------------------------

// Against an array that is searched from end to end.
static void queue_oracle(void **state)
{
    struct sim_queue q = {0};
    struct sim_entry all[300];
    size_t n = 0;
    uint64_t random = 5;
    uint32_t next = 0;
    (void)state;
    for (int i = 0; i < 20000; i++) {
        uint64_t what = random_next(&random) % 8;
        if (what < 4 && n < 300) {
            double key = (double)(random_next(&random) % 50);
            all[n++] = (struct sim_entry){key, next};
            sim_queue_push(&q, key, next++);
        } else if (what < 7 && n > 0) {
            size_t least = 0;
            for (size_t k = 1; k < n; k++)
                if (all[k].key < all[least].key ||
                    (all[k].key == all[least].key && all[k].id < all[least].id))
                    least = k;
            assert_int_equal(sim_queue_pop(&q).id, all[least].id);
            all[least] = all[--n];
        } else if (n > 0) {
            size_t k = random_next(&random) % n;
            assert_true(sim_queue_remove(&q, all[k].id));
            assert_false(sim_queue_remove(&q, all[k].id));
            all[k] = all[--n];
        }
        assert_int_equal(q.n, n);
    }
    sim_queue_fini(&q);
}

static void index_oracle(void **state)
{
    struct sim_index x;
    uint64_t random = 6;
    (void)state;
    sim_index_init(&x, 100);
    for (int i = 0; i < 20000; i++) {
        uint32_t least = 0;
        sim_index_set(&x, (uint32_t)(random_next(&random) % 100),
                      (double)(random_next(&random) % 1000));
        for (uint32_t k = 1; k < 100; k++)
            if (x.keys[k] < x.keys[least])
                least = k;
        assert_int_equal(sim_index_first(&x), least);
    }
    sim_index_fini(&x);
}

// ---- fleets ----------------------------------------------------------------------------------------------

static void fleets_bad(void **state)
{
    static const struct {
        const char *json, *says;
    } rows[] = {
        {"[]", "no JSON object"},
        {"{}", "\"nodes\" is missing"},
        {"{\"nodes\": []}", "\"nodes\" is missing"},
        {"{\"node\": []}", "no member \"node\""},
        {"{\"nodes\": [1]}", "nodes[0]"},
        {"{\"nodes\": [{}]}", "nodes[0]: node node: prefill_tokens_per_s is 0"},
        {"{\"nodes\": [{\"machine\": \"dgx-sprak\"}]}", "dgx-spark"},
        {"{\"nodes\": [{\"machine\": \"dgx-spark\"}]}", "no model is named"},
        {"{\"model\": \"llama-3.1-8\", \"nodes\": [{\"machine\": \"dgx-spark\"}]}", "llama-3.1-8b"},
        {"{\"model\": \"llama-3.1-8b\", \"nodes\": [{\"machine\": \"dgx-spark\", \"role\": "
         "\"wirte\"}]}",
         "say read, write or both"},
        {"{\"model\": \"llama-3.1-8b\", \"nodes\": [{\"machine\": \"dgx-spark\", \"count\": 0}]}",
         "count"},
        {"{\"model\": \"llama-3.1-8b\", \"nodes\": [{\"machine\": \"dgx-spark\", \"slots\": "
         "1000}]}",
         "slots"},
        {"{\"model\": \"llama-3.1-8b\", \"nodes\": [{\"machine\": \"dgx-spark\", \"link\": "
         "\"10gb\"}]}",
         "10gbe"},
        {"{\"model\": \"llama-3.1-8b\", \"nodes\": [{\"machine\": \"dgx-spark\", \"cuont\": 2}]}",
         "no member \"cuont\""},
        {"{\"model\": \"llama-3.1-405b\", \"quant\": \"F16\", \"nodes\": [{\"machine\": "
         "\"rtx-3090\"}]}",
         "smaller quantisation"},
        {"{\"nodes\": [{\"prefill_tokens_per_s\": 5, \"decode_tokens_per_s\": -1}]}",
         "decode_tokens_per_s"},
        {"{\"nodes\": [{\"prefill_tokens_per_s\": 5, \"decode_tokens_per_s\": 1}], \"events\": "
         "[{\"at_s\": 1, \"node\": 1, \"what\": \"leave\"}]}",
         "events[0]"},
        {"{\"nodes\": [{\"prefill_tokens_per_s\": 5, \"decode_tokens_per_s\": 1}], \"events\": "
         "[{\"at_s\": 1, \"node\": 0, \"what\": \"explode\"}]}",
         "say drain, leave or return"},
        {"{\"nodes\": [{\"prefill_tokens_per_s\": 5, \"decode_tokens_per_s\": 1}], \"events\": "
         "[{\"at_s\": 9, \"node\": 0, \"what\": \"leave\"}, {\"at_s\": 1, \"node\": 0, \"what\": "
         "\"return\"}]}",
         "sort them"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sim_fleet f;
        struct err e = {0};
        json_t *root = json_loads(rows[i].json, 0, NULL);
        assert_non_null(root);
        sim_fleet_init(&f, NULL, NULL);
        assert_int_not_equal(sim_fleet_parse(&f, catalogue, root, &e), 0);
        if (strstr(e.message, rows[i].says) == NULL)
            fail_msg("row %zu: \"%s\" is not in \"%s\"", i, rows[i].says, e.message);
        sim_fleet_fini(&f);
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trace_good),   cmocka_unit_test(trace_many_sessions),
        cmocka_unit_test(trace_bad),    cmocka_unit_test(queue_oracle),
        cmocka_unit_test(index_oracle), cmocka_unit_test(fleets_bad),
    };
    return cmocka_run_group_tests(tests, catalogue_setup, catalogue_teardown);
}
