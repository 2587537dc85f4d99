// A worker with a real model measures itself: what it says is whole, and answers are as they were.
#include "tests/worker_rig.h"

#define N_PROMPT 200
#define N_ANSWER 12

static int32_t prompt[N_PROMPT];

static int open_one_thread(const struct engine_options *o, struct engine **out, struct err *e)
{
    struct engine_options mine = *o;
    mine.n_threads = 1;
    return engine_open(&mine, out, e);
}

static int defaults(void **state)
{
    (void)state;
    rig_options.n_ctx = 2048;
    rig_options.n_seq = 4;
    rig_options.n_batch = 512;
    rig_options.open = open_one_thread;
    rig_tokens(prompt, N_PROMPT, 9);
    for (size_t i = 0; i < N_PROMPT; i++)
        prompt[i] %= 100; // every vocabulary has these
    return 0;
}

static struct rig_node *start(void)
{
    const char *model = getenv("TANDEM_TEST_MODEL");
    assert_non_null(model);
    return rig_start(model, ENGINE_HANDOFF_RANGES, false, false);
}

static void ask(struct rig_node *n, uint64_t id, struct rig_answer *a)
{
    struct rig_request r = {.id = id, .tokens = prompt, .n = N_PROMPT, .max_tokens = N_ANSWER};
    rig_generate(n, &r);
    if (a != NULL)
        rig_answer_read(n, a);
}

static void measured_get(struct rig_node *n, struct message_measured *m)
{
    struct err e = {0};
    unsigned type = 0;
    json_t *head = rig_recv(n, &type);
    assert_int_equal(type, WIRE_MEASURED);
    if (message_measured_parse(head, m, &e) != 0)
        fail_msg("%s", e.message);
    json_decref(head);
}

static void measure_send(struct rig_node *n, double budget_s)
{
    rig_send(n, wire_frame_json(WIRE_MEASURE, 90, message_measure_json(budget_s)));
}

static void show(const struct message_measured *m)
{
    for (size_t i = 0; i < m->n_reads; i++)
        print_message("read  %5.0f after %5.0f: %7.1f ms\n", m->reads[i].tokens, m->reads[i].depth,
                      1e3 * m->reads[i].seconds);
    for (size_t i = 0; i < m->n_steps; i++)
        print_message("steps %2.0f of %2.0f rows, depths %6.1f: %7.1f ms each\n", m->steps[i].steps,
                      m->steps[i].rows, m->steps[i].depth_sum,
                      1e3 * m->steps[i].seconds / m->steps[i].steps);
    print_message("export %.0f bytes in %.2f ms, import %.0f in %.2f\n", m->export.bytes,
                  1e3 * m->export.seconds, m->import.bytes, 1e3 * m->import.seconds);
}

static void assert_same(const struct rig_answer *a, const struct rig_answer *b)
{
    assert_int_equal(a->type, WIRE_DONE);
    assert_int_equal(b->type, WIRE_DONE);
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, a->n * sizeof *a->ids);
}

static void test_measures(void **state)
{
    struct message_measured m;
    struct rig_answer before, after, interrupting;
    (void)state;
    struct rig_node *n = start();
    ask(n, 1, &before);
    measure_send(n, 4);
    measured_get(n, &m);
    show(&m);
    assert_true(m.complete && m.n_reads >= 1 && m.n_steps >= 1);
    assert_true(m.reads[0].tokens >= 16 && m.reads[0].depth == 0);
    assert_true(m.export.bytes > 0 && m.export.bytes == m.import.bytes);
    assert_true(m.memory_left_bytes > 0);
    ask(n, 2, &after);
    assert_same(&before, &after);
    measure_send(n, 30);
    clock_sleep_until(clock_now_ns() + 300 * NS_PER_MS);
    ask(n, 3, NULL);
    measured_get(n, &m);
    assert_false(m.complete);
    rig_answer_read(n, &interrupting);
    assert_same(&before, &interrupting);
    rig_stop(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_measures, defaults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
