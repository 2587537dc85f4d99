// What nodes are there for, what they cost, and whose prompt is read first: roles, prices and the queues of readers.
#include "place_rig.h"

#include "base/err.h"

// ---- roles -----------------------------------------------------------------------------------------------

enum change { AS_IS, WARM, OTHER_DOWN, HOME_DOWN, SMALL, SHORT, ONE_WAY };

struct row {
    const char *what;
    uint32_t home, other;
    uint32_t prompt;
    enum change change;
    enum place_kind wish, kind;
    const char *fallback; // NULL: none
};

#define R PLACE_READER
#define W PLACE_WRITER
static const struct row rows[] = {
    {"a chat is read where it is written", W, R, 100, AS_IS, 0, PLACE_LOCAL, NULL},
    {"a long prompt is not", W, R, 4096, AS_IS, 0, PLACE_HYBRID, NULL},
    {"the rest of a long one is", W, R, 4096, WARM, 0, PLACE_LOCAL, NULL},
    {"so is a reader's short rest", W, R, 4096, SHORT, 0, PLACE_HYBRID, NULL},
    {"not a long one", W, R, 4096, SMALL, 0, PLACE_LOCAL, "who writes reads it"},
    {"nobody else can read", W, R, 4096, OTHER_DOWN, 0, PLACE_LOCAL, "who writes reads it"},
    {"a chat needs nobody else", W, R, 100, OTHER_DOWN, 0, PLACE_LOCAL, NULL},
    {"nobody else can write", W, R, 100, HOME_DOWN, 0, PLACE_REMOTE, "roles are passed over"},
    {"two readers", R, R, 100, AS_IS, 0, PLACE_LOCAL, "roles are passed over"},
    {"two writers, a chat", W, W, 100, AS_IS, 0, PLACE_LOCAL, NULL},
    {"two writers, a long prompt", W, W, 4096, AS_IS, 0, PLACE_LOCAL, "who writes reads it"},
    {"a reader is asked to write", R, W, 100, AS_IS, PLACE_LOCAL, PLACE_LOCAL, "passed over"},
    {"a reader may not write", 0, R, 100, AS_IS, PLACE_REMOTE, PLACE_REMOTE, "passed over"},
    {"a writer is asked to read", 0, W, 100, ONE_WAY, PLACE_HYBRID, PLACE_LOCAL,
     "n1 is there to write"},
    {"a writer, not asked to", 0, W, 4096, AS_IS, PLACE_HYBRID, PLACE_HYBRID, NULL},
};

static void change_apply(struct fleet *f, enum change c)
{
    switch (c) {
    case AS_IS:
        break;
    case WARM:
        f->held[f->r.n_held++] = (struct place_held){0, 4000};
        break;
    case OTHER_DOWN:
    case HOME_DOWN:
        f->nodes[c == OTHER_DOWN].up = false;
        break;
    case SMALL:
    case SHORT:
        f->profiles[1].n_ctx = c == SMALL ? 3000 : 3800;
        break;
    case ONE_WAY:
        f->links[0][1] = (struct place_link){0};
        break;
    }
}

static void check_row(const struct row *r)
{
    struct fleet f;

    fleet_init(&f, 2);
    // Slower at everything, so that roles alone speak for it, and a hand-off that a chat feels.
    f.profiles[1] = machine(200, 10);
    f.links[0][1].setup_s = f.links[1][0].setup_s = 0.05;
    f.nodes[0].roles |= r->home;
    f.nodes[1].roles |= r->other;
    f.r.prompt_tokens = r->prompt;
    f.r.wish = r->wish;
    change_apply(&f, r->change);
    choose(&f);
    print_message("%s: %s %s\n", r->what, place_kind_name(f.table.plans[0].kind), f.table.fallback);
    assert_string_equal(place_kind_name(f.table.plans[0].kind), place_kind_name(r->kind));
    if (r->fallback)
        assert_non_null(strstr(f.table.fallback, r->fallback));
    else
        assert_string_equal(f.table.fallback, "");
}

static void test_roles(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        check_row(&rows[i]);
}

static void test_role_names(void **state)
{
    static const uint32_t roles[] = {0, R, W};
    uint32_t role = 77;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_true(place_role_parse(place_role_name(roles[i]), &role));
        assert_int_equal(role, roles[i]);
    }
    assert_false(place_role_parse("Read", &role));
    assert_false(place_role_parse("", &role));
    assert_int_equal(role, W);
}

// However fast a reader writes, and however fast a writer reads: of many nodes only the others are taken.
static void test_role_search(void **state)
{
    struct fleet f;

    (void)state;
    fleet_init(&f, 30);
    for (size_t i = 0; i < 30; i++) {
        f.nodes[i].roles |= i % 3 == 0 ? R : i % 3 == 1 ? W : 0;
        f.profiles[i] = i % 3 == 0   ? machine(500, 900)
                        : i % 3 == 1 ? machine(9000, 40)
                                     : machine(400, 30);
    }
    for (uint32_t prompt = 64; prompt <= 16384; prompt *= 4) {
        f.r.prompt_tokens = prompt;
        choose(&f);
        assert_string_equal(f.table.fallback, "");
        for (size_t i = 0; i < f.table.n; i++) {
            const struct place_plan *p = &f.table.plans[i];
            assert_true(p->decode % 3 != 0);
            assert_true(p->prefill == NONE ? p->decode % 3 != 1 || prompt <= 512
                                           : p->prefill % 3 != 1);
            assert_true(p->prefill == NONE || p->decode % 3 != 1 || p->upto + 513 >= prompt);
        }
    }
}

// What no node can do is refused as ever, in words that do not speak of roles.
static void test_role_refusal(void **state)
{
    struct fleet f;

    (void)state;
    fleet_init(&f, 2);
    f.nodes[0].roles |= W;
    f.nodes[1].roles |= R;
    f.r.prompt_tokens = 100000;
    assert_int_equal(place_choose(&f.view, &f.r, f.scratch, &f.table), ERR_NOT_FOUND);
    assert_non_null(strstr(f.table.refusal, "100000"));
    assert_string_equal(f.table.fallback, "");
}

// ---- prices ----------------------------------------------------------------------------------------------

// n0 is quick, n1 takes three times as long. No KV passes.
static void price_init(struct fleet *f)
{
    fleet_init(f, 2);
    f->profiles[0] = machine(1000, 50);
    f->profiles[1] = machine(1000.0 / 3, 50.0 / 3);
    f->nodes[0].group = f->nodes[1].group = 0;
    f->r.prompt_tokens = 1001;
    f->r.answer_tokens = 100;
    f->r.policy = PLACE_COST;
}

// A machine that takes three times as long may cost up to a third.
static void test_hours(void **state)
{
    struct fleet f;

    (void)state;
    price_init(&f);
    f.profiles[0].dollars_per_hour = 3.6;
    f.profiles[1].dollars_per_hour = 1.3;
    assert_int_equal(choose(&f)->decode, 0);
    near(f.table.plans[0].dollars, 1e-3 * 3, 1e-9); // 1 s of reading, 2 of writing
    assert_string_equal(f.table.fallback, "");
    f.profiles[1].dollars_per_hour = 1.1;
    assert_int_equal(choose(&f)->decode, 1);
    // An hour that costs nothing is a price, one that nobody knows is none.
    f.profiles[1].dollars_per_hour = 0;
    assert_int_equal(choose(&f)->decode, 0);
    f.nodes[1].priced = true;
    assert_int_equal(choose(&f)->decode, 1);
    assert_true(f.table.plans[0].dollars == 0);
}

// 0.36 dollars a kWh are 1e-7 a joule: n0 draws 200 W more for 3 s, n1 50 W more for 9 s.
static void test_power(void **state)
{
    struct fleet f;

    (void)state;
    price_init(&f);
    for (size_t i = 0; i < 2; i++) {
        f.profiles[i].watts_idle = 10;
        f.profiles[i].watts_prefill = f.profiles[i].watts_decode = i == 0 ? 210 : 60;
    }
    assert_true(choose(&f)->dollars < 0);
    f.view.dollars_per_kwh = 0.36;
    assert_int_equal(choose(&f)->decode, 1);
    near(f.table.plans[0].dollars, 450e-7, 1e-9);
    near(f.table.plans[1].dollars, 600e-7, 1e-9);
    // Hours come on top of it: 9 s of 0.06 dollars an hour are 150e-6.
    f.profiles[1].dollars_per_hour = 0.06;
    assert_int_equal(choose(&f)->decode, 0);
    near(f.table.plans[1].dollars, 450e-7 + 1.5e-4, 1e-9);
    // Power that cannot be read costs nothing where the hour has a price, and is no price where it has none.
    f.profiles[1].watts_prefill = 0;
    choose(&f);
    near(f.table.plans[1].dollars, 1.5e-4, 1e-9);
    f.profiles[1].dollars_per_hour = 0;
    choose(&f);
    assert_true(f.table.plans[1].dollars < 0);
}

// n1 is a cloud's: 0.5 dollars for a million tokens of prompts, 2 of answers. n0 costs 0.9 dollars an hour.
static void test_tokens(void **state)
{
    struct fleet f;

    (void)state;
    price_init(&f);
    f.profiles[0].dollars_per_hour = 0.9;
    f.nodes[1].priced = true;
    f.nodes[1].in_dollars = 0.5e-6;
    f.nodes[1].out_dollars = 2e-6;
    assert_int_equal(choose(&f)->decode, 1);
    near(f.table.plans[0].dollars, 1001 * 0.5e-6 + 100 * 2e-6, 1e-9);
    near(f.table.plans[1].dollars, 3 * 0.9 / 3600, 1e-9);
    f.nodes[1].in_dollars = 0.6e-6;
    assert_int_equal(choose(&f)->decode, 0);
    // n answers to one prompt are charged n times, the prompt once.
    f.r.answers = 4;
    choose(&f);
    near(plan_find(&f, PLACE_REMOTE, 1)->dollars, 1001 * 0.6e-6 + 400 * 2e-6, 1e-9);
    // What is no price is none.
    f.nodes[1].in_dollars = f.nodes[1].out_dollars = NAN;
    choose(&f);
    assert_true(plan_find(&f, PLACE_REMOTE, 1)->dollars == 0);
}

// A hand-off costs the hours of both: dear reading is cheap when it is short.
static void test_pair_price(void **state)
{
    struct fleet f;

    (void)state;
    pair_init(&f);
    f.r.policy = PLACE_COST;
    f.profiles[0].dollars_per_hour = 1;
    f.profiles[1].dollars_per_hour = 2;
    assert_int_equal(choose(&f)->kind, PLACE_HYBRID); // 1.47 s of 2, 0.85 s of 1
    near(f.table.plans[0].dollars, (2 * 1.47 + 1 * 0.85) / 3600, 0.01);
    f.profiles[1].dollars_per_hour = 8;
    f.nodes[0].splits = false; // a small part of it would be near the best, and sooner done
    assert_int_equal(choose(&f)->kind, PLACE_LOCAL);
}

static void test_no_price(void **state)
{
    struct fleet f;
    char why[PLACE_TEXT_BYTES];

    (void)state;
    price_init(&f);
    assert_int_equal(choose(&f)->decode, 0);
    assert_int_equal(f.table.because, PLACE_UNKNOWN);
    assert_non_null(strstr(f.table.fallback, "no price is known"));
    place_tell(&f.view, &f.r, &f.table, 0, why);
    assert_non_null(strstr(why, "prices are not known"));
    f.r.policy = PLACE_ENERGY;
    choose(&f);
    assert_non_null(strstr(f.table.fallback, "power is known"));
    // Where there is nothing to choose, nothing is missing.
    f.view.n = 1;
    choose(&f);
    assert_string_equal(f.table.fallback, "");
}

// ---- queues ----------------------------------------------------------------------------------------------

static double wait_of(struct fleet *f, uint32_t prompt, const struct place_reading *reads)
{
    double sum = 0;

    for (const struct place_reading *r = reads; r; r = r->next)
        sum += r->left_s;
    f->nodes[0].reads = reads;
    f->nodes[0].read_wait_s = sum;
    f->r.prompt_tokens = prompt;
    return choose(f)->wait_s;
}

// One node of 1000 tokens per second, whose chunks take 0.512 s: a long prompt's are read in parts of half a second.
static void test_shortest_first(void **state)
{
    const struct place_reading tiny = {0.01, NULL}, ten = {10, &tiny}, two = {2, &ten};
    const struct place_reading chunks27 = {27 * 0.512, NULL};
    struct fleet f;

    (void)state;
    fleet_init(&f, 1);
    assert_true(wait_of(&f, 101, NULL) == 0);
    // Half of what is computed just now, and what has less left.
    near(wait_of(&f, 101, &two), 0.25 + 0.01, 1e-9);
    near(f.table.plans[0].slowdown_s, 2 * 0.1, 1e-9); // two wait for it
    near(wait_of(&f, 101, &tiny), 0.01, 1e-9);
    // Between the two, the longer one has some turns: 4 s, four prompts, two passes each.
    near(wait_of(&f, 4001, &two), 2.01 + 4 / 8.0, 1e-9);
    // Of those that are nearly as long any may come first, for others may come that are a little shorter.
    near(wait_of(&f, 5001, &two), 12.01, 1e-9);
    near(wait_of(&f, 20001, &two), 12.01, 1e-9);
    assert_true(f.table.plans[0].slowdown_s == 0);
    near(wait_of(&f, 24 * 512 + 1, &chunks27), 27 * 0.512, 1e-9);
    near(wait_of(&f, 12 * 512 + 1, &chunks27), 3 * 0.512, 1e-9);
    // A slow machine's parts have 128 tokens.
    f.profiles[0] = machine(100, 50);
    near(wait_of(&f, 101, &ten), 0.64 + 0.01, 1e-9);
    // Who does not tell them apart is believed.
    f.nodes[0].reads = NULL;
    f.nodes[0].read_wait_s = 7;
    f.r.prompt_tokens = 101;
    near(choose(&f)->wait_s, 7, 1e-9);
}

// A chat is read by the machine that reads fast, though a long prompt is being read there; another long one waits.
static void test_queue_flips(void **state)
{
    const struct place_reading reads = {30, NULL};
    struct fleet f;

    (void)state;
    pair_init(&f);
    f.profiles[0] = machine(100, 50);
    f.nodes[1].read_wait_s = 30;
    f.nodes[1].reads = &reads;
    f.r.prompt_tokens = 1001;
    assert_int_equal(choose(&f)->kind, PLACE_HYBRID);
    near(f.table.plans[0].wait_s, 512 * 1.47 / 8192 / 2, 1e-6);
    f.nodes[1].reads = NULL;
    assert_int_equal(choose(&f)->kind, PLACE_LOCAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roles),       cmocka_unit_test(test_role_names),
        cmocka_unit_test(test_role_search), cmocka_unit_test(test_role_refusal),
        cmocka_unit_test(test_hours),       cmocka_unit_test(test_power),
        cmocka_unit_test(test_tokens),      cmocka_unit_test(test_pair_price),
        cmocka_unit_test(test_no_price),    cmocka_unit_test(test_shortest_first),
        cmocka_unit_test(test_queue_flips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
