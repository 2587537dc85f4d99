// What the tests of placement, of its links and of what it learns share.
#ifndef TESTS_GATEWAY_PLACING_H
#define TESTS_GATEWAY_PLACING_H

#include "gateway_fake.h"

#define EXPLAIN "/v1/tandem/explain"

static UNUSED json_t *explain(struct stage *s, const char *body, int status)
{
    struct web w = web_post(s->port, EXPLAIN, body);

    return finish_json(&w, status);
}

#define LONG_IN_ONE_OUT "{\"prompt_tokens\":4001,\"answer_tokens\":1}"

// A figure of a plan for what the body tells; node NULL: whoever writes.
static UNUSED double plan_figure(struct stage *s, const char *body, const char *plan,
                                 const char *node, const char *figure)
{
    json_t *v = explain(s, body, 200), *row;
    double seconds = -1;
    size_t i;

    json_array_foreach(at(v, "plans"), i,
                       row) if (strcmp(text_at(row, "plan"), plan) == 0 &&
                                (!node || strcmp(text_at(row, "decode_node"), node) == 0)) seconds =
        json_number_value(at(row, figure));
    json_decref(v);
    assert_true(seconds > 0);
    return seconds;
}

// What this node's profile makes of reading 4,001 tokens.
static UNUSED double read_s(struct stage *s, const char *plan, const char *node)
{
    return plan_figure(s, LONG_IN_ONE_OUT, plan, node, "read_s");
}

static UNUSED json_t *get_json(struct stage *s, const char *path)
{
    struct web_answer a = web_get(s->port, path);
    json_t *v = parse(a.body);

    web_answer_fini(&a);
    return v;
}

static UNUSED json_t *answered(struct stage *s, const char *more)
{
    struct web w = ask_long(s, more);

    return finish_json(&w, 200);
}

static UNUSED void plan_is(struct stage *s, const char *more, const char *plan)
{
    json_t *v = answered(s, more);

    assert_string_equal(text_at(v, "timings.plan"), plan);
    json_decref(v);
}

// Waits until this node's profile says that it was measured.
static UNUSED void await_measured(struct stage *s, int node)
{
    char path[48];
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    bool there = false;

    snprintf(path, sizeof(path), "nodes.%d.profile.measured", node);
    while (!there) {
        json_t *v = get_json(s, "/v1/tandem/status");

        there = json_is_true(at(v, path));
        json_decref(v);
        assert_true(clock_now_ns() < limit_ns);
    }
}

// The two share a machine, so they are asked in turn: the one that is, other than `before` (NULL: either).
static UNUSED struct fake *asked_next(struct stage *s, const struct fake *before)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    for (;;) {
        if (before != &s->local && fake_count(&s->local, WIRE_MEASURE) > 0)
            return &s->local;
        if (before != &s->node && fake_count(&s->node, WIRE_MEASURE) > 0)
            return &s->node;
        assert_true(clock_now_ns() < limit_ns);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

#endif
