// The placement rule as a table: facts in, plan and node out.
#include "sched/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const struct sched_node up = {"spark", true, NULL, 8192, true, 0, 0, 300};
static const struct sched_node down = {"spark", false, "connection refused", 8192, true, 0, 0, 300};
static const struct sched_node busy = {"busy", true, NULL, 8192, true, 2, 0, 900};
static const struct sched_node fast = {"fast", true, NULL, 8192, true, 0, 0, 900};
static const struct sched_node small = {"small", true, NULL, 512, true, 0, 0, 900};
static const struct sched_node warm = {"warm", true, NULL, 8192, true, 0, 640, 300};
static const struct sched_node warm_busy = {"warm", true, NULL, 8192, true, 1, 640, 300};
static const struct sched_node mute = {"mute", true, NULL, 8192, false, 0, 0, 900};

struct row {
    const char *what;
    enum sched_plan wish;
    uint32_t prompt, cached;
    bool local_hands_off;
    const struct sched_node *nodes[3];
    bool ok;
    enum sched_plan plan;
    size_t node;
    const char *reason;   // must be contained
    const char *fallback; // must be contained; NULL: must be empty
};

#define NO SCHED_NO_NODE

static const struct row rows[] = {
    {"long prompt", SCHED_AUTO, 258, 0, true, {&up}, true, SCHED_HYBRID, 0, "257 uncached", NULL},
    {"at the threshold",
     SCHED_AUTO,
     257,
     0,
     true,
     {&up},
     true,
     SCHED_LOCAL,
     NO,
     "256 uncached",
     NULL},
    {"cached", SCHED_AUTO, 1000, 800, true, {&up}, true, SCHED_LOCAL, NO, "199 uncached", NULL},
    {"all cached", SCHED_AUTO, 1000, 1000, true, {&up}, true, SCHED_LOCAL, NO, "0 uncached", NULL},
    {"the warm one",
     SCHED_AUTO,
     1000,
     0,
     true,
     {&fast, &warm},
     true,
     SCHED_HYBRID,
     1,
     "warm is up",
     NULL},
    {"an idle one before a warm one",
     SCHED_AUTO,
     1000,
     0,
     true,
     {&warm_busy, &up},
     true,
     SCHED_HYBRID,
     1,
     "spark is up",
     NULL},
    {"told what is cached",
     SCHED_AUTO,
     1000,
     640,
     true,
     {&up},
     true,
     SCHED_HYBRID,
     0,
     "359 uncached tokens to read (more than 256; 640 of 1000 probably cached)",
     NULL},
    {"no node", SCHED_AUTO, 1000, 0, true, {0}, true, SCHED_LOCAL, NO, "no prefill node", NULL},
    {"node down",
     SCHED_AUTO,
     1000,
     0,
     true,
     {&down},
     true,
     SCHED_LOCAL,
     NO,
     "connection refused",
     NULL},
    {"model without KV",
     SCHED_AUTO,
     1000,
     0,
     false,
     {&up},
     true,
     SCHED_LOCAL,
     NO,
     "cannot be",
     NULL},
    {"mute node", SCHED_AUTO, 1000, 0, true, {&mute}, true, SCHED_LOCAL, NO, "cannot hand", NULL},
    {"small node", SCHED_AUTO, 1000, 0, true, {&small}, true, SCHED_LOCAL, NO, "holds 512", NULL},
    {"small node fits n-1",
     SCHED_AUTO,
     513,
     0,
     true,
     {&small},
     true,
     SCHED_HYBRID,
     0,
     "small",
     NULL},
    {"small node one over",
     SCHED_AUTO,
     514,
     0,
     true,
     {&small},
     true,
     SCHED_LOCAL,
     NO,
     "holds",
     NULL},
    {"the faster one",
     SCHED_AUTO,
     1000,
     0,
     true,
     {&up, &fast},
     true,
     SCHED_HYBRID,
     1,
     "fast",
     NULL},
    {"the idle one", SCHED_AUTO, 1000, 0, true, {&busy, &up}, true, SCHED_HYBRID, 1, "spark", NULL},
    {"first of equals", SCHED_AUTO, 1000, 0, true, {&up, &up}, true, SCHED_HYBRID, 0, "", NULL},
    {"skips the dead", SCHED_AUTO, 1000, 0, true, {&down, &up}, true, SCHED_HYBRID, 1, "", NULL},
    {"wish local",
     SCHED_LOCAL,
     9000,
     0,
     true,
     {&up},
     true,
     SCHED_LOCAL,
     NO,
     "asked for local",
     NULL},
    {"wish hybrid, short",
     SCHED_HYBRID,
     2,
     0,
     true,
     {&up},
     true,
     SCHED_HYBRID,
     0,
     "asked for",
     NULL},
    {"wish hybrid, one token",
     SCHED_HYBRID,
     1,
     0,
     true,
     {&up},
     true,
     SCHED_LOCAL,
     NO,
     "asked",
     "nothing to read"},
    {"wish serial",
     SCHED_SERIAL,
     90,
     0,
     true,
     {&up},
     true,
     SCHED_SERIAL,
     0,
     "asked for serial",
     NULL},
    {"wish serial, down",
     SCHED_SERIAL,
     90,
     0,
     true,
     {&down},
     true,
     SCHED_LOCAL,
     NO,
     "asked",
     "connection refused"},
    {"wish hybrid, none",
     SCHED_HYBRID,
     90,
     0,
     true,
     {0},
     true,
     SCHED_LOCAL,
     NO,
     "asked",
     "no prefill node"},
    {"wish hybrid, no KV",
     SCHED_HYBRID,
     90,
     0,
     false,
     {&up},
     true,
     SCHED_LOCAL,
     NO,
     "asked",
     "decode node cannot"},
    {"wish remote", SCHED_REMOTE, 90, 0, true, {&up}, true, SCHED_REMOTE, 0, "asked", NULL},
    {"wish remote, mute will do",
     SCHED_REMOTE,
     90,
     0,
     true,
     {&mute},
     true,
     SCHED_REMOTE,
     0,
     "",
     NULL},
    {"wish remote, none", SCHED_REMOTE, 90, 0, true, {0}, false, 0, NO, "no prefill node", NULL},
    {"wish remote, full", SCHED_REMOTE, 512, 0, true, {&small}, false, 0, NO, "holds 512", NULL},
};

static void check_row(const struct row *r)
{
    struct sched_node nodes[3];
    struct sched_choice c;
    struct sched_facts f = {.wish = r->wish,
                            .prompt_tokens = r->prompt,
                            .cached_tokens = r->cached,
                            .threshold_tokens = 256,
                            .local_hands_off = r->local_hands_off,
                            .nodes = nodes};

    while (f.n_nodes < 3 && r->nodes[f.n_nodes] != NULL) {
        nodes[f.n_nodes] = *r->nodes[f.n_nodes];
        f.n_nodes++;
    }
    print_message("%s\n", r->what);
    assert_int_equal(sched_choose(&f, &c), r->ok);
    assert_non_null(strstr(c.reason, r->reason));
    if (!r->ok)
        return;
    assert_string_equal(sched_plan_name(c.plan), sched_plan_name(r->plan));
    assert_int_equal(c.node, r->node);
    if (r->fallback == NULL)
        assert_string_equal(c.fallback, "");
    else
        assert_non_null(strstr(c.fallback, r->fallback));
}

static void test_rule(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        check_row(&rows[i]);
}

static void test_names(void **state)
{
    enum sched_plan p;

    (void)state;
    for (int i = SCHED_AUTO; i <= SCHED_HYBRID; i++) {
        assert_true(sched_plan_parse(sched_plan_name((enum sched_plan)i), &p));
        assert_int_equal(p, i);
    }
    assert_false(sched_plan_parse("", &p));
    assert_false(sched_plan_parse("Hybrid", &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rule), cmocka_unit_test(test_names)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
