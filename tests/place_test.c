// Placement: the rules of wishes as a table, figures worked out by hand, policies, load and words.
#include "base/err.h"
#include "tests/place_rig.h"

// 4.34, 6.42 and 2.32 s, and where it fades.
static void test_known_pair(void **state)
{
    struct fleet f;
    const struct place_plan *p;

    (void)state;
    pair_init(&f);
    p = choose(&f);
    assert_int_equal(p->kind, PLACE_HYBRID);
    assert_int_equal(p->decode, 0);
    assert_int_equal(p->prefill, 1);
    near(p->total_s, 2.32, 0.02);
    near(plan_find(&f, PLACE_LOCAL, 0)->total_s, 6.42, 0.01);
    near(plan_find(&f, PLACE_REMOTE, 1)->total_s, 4.34, 0.01);
    assert_int_equal(f.table.n, 4); // both alone, and the pair either way
    f.r.answer_tokens = 4096;
    assert_int_equal(choose(&f)->decode, 0);
    f.r.prompt_tokens =
        32; // the link's latency is more than what P saves on the emulated rates below
    f.links[1][0].rtt_s = 0.1;
    assert_int_equal(choose(&f)->kind, PLACE_LOCAL);
    f.r.prompt_tokens = 8192;
    f.r.answer_tokens = 32;
    f.links[1][0].bytes_per_s = 1e8; // a gigabit: 10.7 s to cross
    assert_int_equal(choose(&f)->kind, PLACE_REMOTE);
}

// What passes on the way to the machine that answers is paid once, whatever the prompt and the answer.
static void test_far_away(void **state)
{
    struct fleet f;
    double here_s, there_s;

    (void)state;
    pair_init(&f);
    f.r.prompt_tokens = 400;
    f.r.answer_tokens = 1;
    choose(&f);
    here_s = plan_find(&f, PLACE_LOCAL, 0)->total_s;
    there_s = plan_find(&f, PLACE_REMOTE, 1)->total_s;
    f.profiles[1].dispatch_s = 10;
    assert_int_equal(choose(&f)->decode, 0);
    near(plan_find(&f, PLACE_REMOTE, 1)->total_s, there_s + 10, 1e-9);
    near(plan_find(&f, PLACE_REMOTE, 1)->ttft_s, there_s + 10, 1e-9);
    near(plan_find(&f, PLACE_LOCAL, 0)->total_s, here_s, 1e-9);
}

static void test_serial(void **state)
{
    struct fleet f;
    const struct place_plan *p;

    (void)state;
    pair_init(&f);
    f.r.wish = PLACE_SERIAL;
    p = choose(&f);
    assert_int_equal(p->kind, PLACE_SERIAL);
    near(p->total_s, 1.47 + 0.86 + 0.85, 0.02); // 1.07 GB at 1.25 GB/s
    near(p->tail_s, 0.86, 0.02);
    assert_string_equal(f.table.fallback, "");
    f.r.wish = PLACE_HYBRID;
    f.nodes[1].streams = false;
    assert_int_equal(choose(&f)->kind, PLACE_SERIAL);
    assert_non_null(strstr(f.table.fallback, "only as a whole"));
    f.r.wish = PLACE_AUTO;
    assert_int_equal(choose(&f)->kind, PLACE_SERIAL);
    assert_string_equal(f.table.fallback, "");
}

// ---- wishes ----------------------------------------------------------------------------------------------

enum change {
    AS_IS,
    NO_OTHER,
    OTHER_DOWN,
    OTHER_SMALL,
    OTHER_MUTE,
    HOME_DOWN,
    HOME_MUTE,
    HOME_WARM,
    OTHER_NO_READER,
    NO_PROFILE,
    NO_HOME,
    NO_SPLIT,
};

struct row {
    const char *what;
    enum place_kind wish;
    uint32_t prompt;
    enum change change;
    enum place_kind kind; // PLACE_AUTO: refused
    const char *fallback; // or refusal; must be contained; NULL: must be empty
};

// The other node reads ten times as fast.
static const struct row rows[] = {
    {"long prompt", PLACE_AUTO, 4000, AS_IS, PLACE_HYBRID, NULL},
    {"warm", PLACE_AUTO, 4000, HOME_WARM, PLACE_LOCAL, NULL},
    {"one token", PLACE_AUTO, 1, AS_IS, PLACE_LOCAL, NULL},
    {"no node", PLACE_AUTO, 4000, NO_OTHER, PLACE_LOCAL, NULL},
    {"node down", PLACE_AUTO, 4000, OTHER_DOWN, PLACE_LOCAL, NULL},
    {"mute node", PLACE_AUTO, 4000, OTHER_MUTE, PLACE_LOCAL, NULL},
    {"small node", PLACE_AUTO, 4000, OTHER_SMALL, PLACE_HYBRID, NULL}, // it reads a part
    {"small node, no split", PLACE_AUTO, 4000, NO_SPLIT, PLACE_LOCAL, NULL},
    {"small node fits n-1", PLACE_HYBRID, 513, NO_SPLIT, PLACE_HYBRID, NULL},
    {"small node one over", PLACE_HYBRID, 514, NO_SPLIT, PLACE_LOCAL,
     "n1 holds 512 tokens, the prompt has 514"},
    {"home down", PLACE_AUTO, 4000, HOME_DOWN, PLACE_REMOTE, NULL},
    {"too long for all", PLACE_AUTO, 40000, AS_IS, PLACE_AUTO,
     "n1 holds 32768 tokens, the prompt has 40000"},
    {"a writer needs one more", PLACE_LOCAL, 32768, AS_IS, PLACE_AUTO, "n0 holds 32768 tokens"},
    {"wish local", PLACE_LOCAL, 4000, AS_IS, PLACE_LOCAL, NULL},
    {"wish local, down", PLACE_LOCAL, 4000, HOME_DOWN, PLACE_AUTO, "node n0 is not up: stopped"},
    {"wish local, none", PLACE_LOCAL, 4000, NO_HOME, PLACE_AUTO, "no model of its own"},
    {"wish hybrid, short", PLACE_HYBRID, 2, AS_IS, PLACE_HYBRID, NULL},
    {"wish hybrid, one token", PLACE_HYBRID, 1, AS_IS, PLACE_LOCAL, "nothing to read"},
    {"wish hybrid, down", PLACE_HYBRID, 90, OTHER_DOWN, PLACE_LOCAL, "node n1 is not up: refused"},
    {"wish serial, down", PLACE_SERIAL, 90, OTHER_DOWN, PLACE_LOCAL,
     "serial was asked for: node n1"},
    {"wish hybrid, none", PLACE_HYBRID, 90, NO_OTHER, PLACE_LOCAL, "no other node is configured"},
    {"wish hybrid, no KV", PLACE_HYBRID, 90, HOME_MUTE, PLACE_LOCAL,
     "hand this model's KV cache over"},
    {"wish hybrid, warm", PLACE_HYBRID, 4000, HOME_WARM, PLACE_HYBRID, NULL}, // the other way round
    {"wish hybrid, writer", PLACE_HYBRID, 90, OTHER_NO_READER, PLACE_HYBRID, NULL}, // and here
    {"wish remote", PLACE_REMOTE, 90, AS_IS, PLACE_REMOTE, NULL},
    {"wish remote, mute", PLACE_REMOTE, 90, OTHER_MUTE, PLACE_REMOTE, NULL},
    {"wish remote, none", PLACE_REMOTE, 90, NO_OTHER, PLACE_AUTO, "no other node is configured"},
    {"wish remote, down", PLACE_REMOTE, 90, OTHER_DOWN, PLACE_AUTO, "node n1 is not up: refused"},
    {"wish remote, full", PLACE_REMOTE, 512, OTHER_SMALL, PLACE_AUTO, "holds 512"},
    {"wish remote, writer", PLACE_REMOTE, 90, OTHER_NO_READER, PLACE_AUTO,
     "n1 is not to read prompts"},
    {"unknown node", PLACE_REMOTE, 90, NO_PROFILE, PLACE_AUTO, "n1 has no profile"},
};

static void change_apply(struct fleet *f, enum change c)
{
    switch (c) {
    case AS_IS:
        break;
    case NO_OTHER:
        f->view.n = 1;
        break;
    case OTHER_DOWN:
        f->nodes[1].up = false;
        f->nodes[1].why = "refused";
        break;
    case NO_SPLIT:
        f->nodes[0].splits = f->nodes[1].splits = false;
        f->profiles[1].n_ctx = 512;
        break;
    case OTHER_SMALL:
        f->profiles[1].n_ctx = 512;
        break;
    case OTHER_MUTE:
        f->nodes[1].group = 0;
        f->profiles[1] = machine(10, 1);
        break;
    case HOME_DOWN:
        f->nodes[0].up = false;
        f->nodes[0].why = "stopped";
        break;
    case HOME_MUTE:
        f->nodes[0].group = 0;
        break;
    case HOME_WARM:
        f->held[0] = (struct place_held){0, f->r.prompt_tokens};
        f->r.n_held = 1;
        break;
    case OTHER_NO_READER:
        f->nodes[1].roles = PLACE_WRITES;
        break;
    case NO_PROFILE:
        f->nodes[1].profile = NULL;
        break;
    case NO_HOME:
        f->view.home = NONE;
        break;
    }
}

static void check_row(const struct row *r)
{
    struct fleet f;
    const char *text = f.table.fallback;
    int rc;

    fleet_init(&f, 2);
    f.profiles[1] = machine(10000, 10);
    f.r.wish = r->wish;
    f.r.prompt_tokens = r->prompt;
    change_apply(&f, r->change);
    rc = place_choose(&f.view, &f.r, f.scratch, &f.table);
    print_message("%s: %s%s\n", r->what, f.table.fallback, f.table.refusal);
    if (r->kind == PLACE_AUTO) {
        assert_int_equal(rc, ERR_NOT_FOUND);
        assert_int_equal(f.table.n, 0);
        text = f.table.refusal;
    } else {
        assert_int_equal(rc, 0);
        assert_string_equal(place_kind_name(f.table.plans[0].kind), place_kind_name(r->kind));
    }
    if (r->fallback == NULL)
        assert_string_equal(text, "");
    else
        assert_non_null(strstr(text, r->fallback));
}

static void test_wishes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        check_row(&rows[i]);
}

static void test_pins(void **state)
{
    struct fleet f;

    (void)state;
    fleet_init(&f, 4);
    f.profiles[3] = machine(9000, 90);
    f.r.pin_decode = 2;
    assert_int_equal(choose(&f)->decode, 2);
    assert_int_equal(f.table.because, PLACE_ASKED);
    f.r.pin_prefill = 1;
    assert_int_equal(choose(&f)->decode, 2);
    assert_int_equal(f.table.plans[0].prefill, 1);
    f.r.pin_prefill = 2;
    assert_int_equal(choose(&f)->kind, PLACE_REMOTE);
    f.nodes[2].up = false;
    assert_int_equal(choose(&f)->decode, 3);
    assert_non_null(strstr(f.table.fallback, "asked for"));
    f.r.pin_decode = 77; // no such node
    assert_int_equal(choose(&f)->decode, 3);
}

static void test_names(void **state)
{
    enum place_kind k;
    enum place_policy p;

    (void)state;
    for (int i = PLACE_AUTO; i <= PLACE_HYBRID; i++) {
        assert_true(place_kind_parse(place_kind_name((enum place_kind)i), &k));
        assert_int_equal(k, i);
    }
    for (int i = PLACE_LATENCY; i <= PLACE_SLO; i++) {
        assert_true(place_policy_parse(place_policy_name((enum place_policy)i), &p));
        assert_int_equal(p, i);
    }
    assert_false(place_kind_parse("Hybrid", &k));
    assert_false(place_policy_parse("", &p));
}

// ---- predictions by hand ---------------------------------------------------------------------------------

static void test_alone(void **state)
{
    struct fleet f;
    const struct place_plan *p;

    (void)state;
    fleet_init(&f, 1);
    f.r.prompt_tokens = 1001;
    f.r.answer_tokens = 10;
    p = choose(&f);
    near(p->read_s, 1, 1e-9); // 1000 at 1000/s; the last token is the first step
    near(p->ttft_s, 1.02, 1e-9);
    near(p->total_s, 1.2, 1e-9);
    near(p->busy_s, 1.2, 1e-9);
    assert_true(p->joules < 0 && p->dollars < 0 && p->tail_s == 0);
    assert_int_equal(f.table.because, PLACE_ONLY);
    f.held[0] = (struct place_held){0, 600};
    f.r.n_held = 1;
    near(choose(&f)->ttft_s, 0.42, 1e-9);
    assert_int_equal(f.table.plans[0].held_decode, 600);
    f.nodes[0].read_wait_s = 3;
    near(choose(&f)->total_s, 3.6, 1e-9);
}

// Two answers of 500 tokens to go run: a step of three takes 20 + 4 ms, ours and theirs.
static void test_company(void **state)
{
    struct fleet f;
    const struct place_plan *p;

    (void)state;
    fleet_init(&f, 1);
    f.r.prompt_tokens = 1001;
    f.r.answer_tokens = 10;
    f.nodes[0].answers = 2;
    f.nodes[0].rest_tokens = 500;
    f.nodes[0].pace = INFINITY;
    p = choose(&f);
    near(p->token_s, 0.018 + 3 * 0.002, 1e-9);
    near(p->ttft_s, 1 + 0.024, 1e-9);
    near(p->slowdown_s, 2 * 1 + 2 * 10 * 0.002, 1e-9); // both wait while it reads, then a row more
    near(p->busy_s, 1 + 10 * 0.002, 1e-9);
    // At pace 1.5 a third of the time goes to reading: 1 s of it takes 3.
    f.nodes[0].pace = 1.5;
    near(choose(&f)->read_s, 3, 1e-9);
    // They end after half a token of ours.
    f.nodes[0].rest_tokens = 1;
    near(choose(&f)->token_s, 0.02, 1e-9);
    // Three answers to the one prompt are three rows, and want three sequences.
    f.r.answers = 3;
    near(choose(&f)->token_s, 0.018 + 3 * 0.002, 0.01);
    f.nodes[0].free_seqs = 2;
    f.nodes[0].rest_tokens = 500;
    f.nodes[0].next_tokens = 40;
    near(choose(&f)->wait_s, 40 * 0.022, 1e-9);
    f.r.answers = 0;
    assert_true(choose(&f)->wait_s == 0);
    // No sequence until the one of them ends that has 40 steps to go.
    f.nodes[0].rest_tokens = 500;
    f.nodes[0].next_tokens = 40;
    f.nodes[0].free_seqs = 0;
    near(choose(&f)->wait_s, 40 * 0.022, 1e-9);
    f.nodes[0].free_seqs = 1;
    f.nodes[0].free_cells = 1000;
    near(choose(&f)->wait_s, 40 * 0.022, 1e-9);
}

static void test_warm(void **state)
{
    struct fleet f;

    (void)state;
    pair_init(&f);
    // P holds all of it: only the crossing is left. 8191 x 131072 bytes.
    f.held[0] = (struct place_held){1, 8191};
    f.r.n_held = 1;
    near(choose(&f)->ttft_s, 8191 * 131072 / 1.25e9 + 1e-4 + 0.85 / 32, 1e-6);
    assert_int_equal(f.table.plans[0].kind, PLACE_HYBRID);
    // Both hold half: P reads and sends the other half.
    f.held[0] = (struct place_held){1, 4096};
    f.held[1] = (struct place_held){0, 4096};
    f.r.n_held = 2;
    assert_int_equal(choose(&f)->kind, PLACE_HYBRID);
    near(f.table.plans[0].read_s, 0.735, 0.01);
    // D alone holds nearly all of it: it stays, though P reads faster.
    f.held[0] = (struct place_held){0, 8000};
    f.r.n_held = 1;
    assert_int_equal(choose(&f)->kind, PLACE_LOCAL);
    near(f.table.plans[0].read_s, 191 * 5.57 / 8192, 1e-9);
}

// P reads what its context holds, or what it holds already while it is busy.
static void test_split(void **state)
{
    struct fleet f;

    (void)state;
    pair_init(&f);
    f.profiles[1].n_ctx = 6000;
    assert_int_equal(choose(&f)->kind, PLACE_HYBRID);
    assert_int_equal(f.table.plans[0].upto, 6000);
    near(f.table.plans[0].ttft_s, 6000 * 1.47 / 8192 + 2191 * 5.57 / 8192 + 0.85 / 32, 0.02);
    f.nodes[0].splits = false;
    assert_int_equal(choose(&f)->kind, PLACE_LOCAL);
    pair_init(&f);
    f.nodes[1].read_wait_s = 100;
    f.held[0] = (struct place_held){1, 7000};
    f.r.n_held = 1;
    assert_int_equal(choose(&f)->upto, 7000);
    assert_int_equal(f.table.plans[0].kind, PLACE_HYBRID);
    assert_true(f.table.plans[0].total_s < 4);
    // P loses its lead with depth: 0.2 + s x 0.1 us against 0.6 ms per token, equal at 4000.
    pair_init(&f);
    f.profiles[0] = machine(1 / 0.6e-3, 50);
    f.profiles[1] = machine(1 / 0.2e-3, 5);
    f.profiles[1].read_pair_s = 1e-7;
    f.links[1][0].bytes_per_s = 1e10;
    assert_int_equal(choose(&f)->kind, PLACE_HYBRID);
    near(f.table.plans[0].upto, 4000, 0.02);
}

// D cannot take anything before the setup is done: that shows where the prompt is short.
static void test_setup(void **state)
{
    struct fleet f;
    double before;

    (void)state;
    pair_init(&f);
    before = choose(&f)->total_s;
    f.links[1][0].setup_s = 0.05;
    near(choose(&f)->total_s, before, 1e-9);
    f.r.prompt_tokens = 64;
    f.r.answer_tokens = 1;
    assert_int_equal(choose(&f)->kind, PLACE_LOCAL);
    near(plan_find(&f, PLACE_HYBRID, 0)->ttft_s, 0.05 + 63 * 131072 / 1.25e9 + 1e-4 + 0.85 / 32,
         1e-6);
}

static void test_contention(void **state)
{
    struct fleet f;
    double alone;

    (void)state;
    pair_init(&f);
    f.links[1][0].bytes_per_s = 0.8e9;
    alone = choose(&f)->total_s;
    f.nodes[0].receiving = 1;
    assert_true(plan_find(&f, PLACE_HYBRID, 0)->total_s == alone);
    near(choose(&f)->transfer_s, 8191 * 131072 / 0.4e9, 0.001);
    assert_true(f.table.plans[0].total_s > alone + 0.5);
}

// ---- policies --------------------------------------------------------------------------------------------

static void test_policies(void **state)
{
    struct fleet f;

    (void)state;
    fleet_init(&f, 3);
    f.profiles[0] = machine(1000, 20);
    f.profiles[1] = machine(4000, 80);
    f.profiles[2] = machine(500, 10);
    f.links[0][1] = f.links[1][0] = f.links[0][2] = f.links[2][0] = (struct place_link){0};
    f.links[1][2] = f.links[2][1] = (struct place_link){0};
    for (size_t i = 0; i < 3; i++) {
        f.profiles[i].watts_idle = 10;
        f.profiles[i].watts_prefill = f.profiles[i].watts_decode = i == 1 ? 510 : i == 0 ? 60 : 20;
        f.profiles[i].dollars_per_hour = i == 1 ? 3.6 : i == 0 ? 0.36 : 0.72;
    }
    assert_int_equal(choose(&f)->decode, 1);
    f.r.policy = PLACE_THROUGHPUT;
    assert_int_equal(choose(&f)->decode, 1);
    f.nodes[1].read_wait_s = 60;
    assert_int_equal(choose(&f)->decode, 0);
    f.r.policy = PLACE_ENERGY;
    assert_int_equal(choose(&f)->decode, 2);
    near(f.table.plans[0].joules, 10 * (4095 / 500.0 + 6.4), 1e-6); // what it draws more than idle
    f.profiles[2].watts_prefill = f.profiles[2].watts_decode = 9; // a meter may see less than idle
    choose(&f);
    near(f.table.plans[0].joules, 1 * (4095 / 500.0 + 6.4), 1e-6);
    f.profiles[2].watts_idle = 0; // without it nobody knows what is more
    assert_int_not_equal(choose(&f)->decode, 2);
    assert_true(f.table.plans[f.table.n - 1].joules < 0);
    f.r.policy = PLACE_COST;
    assert_int_equal(choose(&f)->decode, 0);
    near(f.table.plans[0].dollars, 1e-4 * (4.095 + 3.2), 1e-6);
    f.profiles[0].dollars_per_hour = 0; // unknown ranks last
    assert_int_equal(choose(&f)->decode, 1);
    assert_int_equal(f.table.plans[2].decode, 0);
    for (size_t i = 0; i < 3; i++)
        f.profiles[i].dollars_per_hour = 0;
    f.nodes[1].read_wait_s = 0;
    assert_int_equal(choose(&f)->decode, 1);
    assert_int_equal(f.table.because, PLACE_UNKNOWN);
}

static void test_slo(void **state)
{
    struct fleet f;

    (void)state;
    pair_init(&f);
    f.r.policy = PLACE_SLO;
    f.r.ttft_s = 2;
    f.r.token_s = 0.05;
    assert_int_equal(choose(&f)->kind,
                     PLACE_HYBRID); // one reads too slowly, the other one writes so
    assert_true(f.table.plans[0].meets && !f.table.plans[1].meets);
    f.r.ttft_s = 1; // nobody: the nearest
    assert_int_equal(choose(&f)->kind, PLACE_HYBRID);
    assert_false(f.table.plans[0].meets);
    // Both are within the limits: the Spark alone adds less work than both together.
    f.r.ttft_s = 3;
    f.r.token_s = 0.2;
    assert_true(choose(&f)->meets);
    for (size_t i = 1; i < f.table.n; i++)
        if (f.table.plans[i].meets)
            assert_true(f.table.plans[0].busy_s <= f.table.plans[i].busy_s);
}

// A new answer makes running ones slower: throughput counts them, latency does not.
static void test_interference(void **state)
{
    struct fleet f;

    (void)state;
    fleet_init(&f, 2);
    f.profiles[0] = machine(1000, 55);
    f.profiles[0].row_s = 5e-3;
    f.nodes[0].answers = 3;
    f.nodes[0].rest_tokens = 1000;
    f.nodes[0].pace = INFINITY;
    f.profiles[1] = machine(900, 25);
    f.r.prompt_tokens = 33;
    f.links[1][0] = f.links[0][1] = (struct place_link){0};
    assert_int_equal(choose(&f)->decode, 0);
    f.r.policy = PLACE_THROUGHPUT;
    f.profiles[1].step_s = 0.028; // 30 ms a token, alone
    f.profiles[1].row_s = 0.002;
    assert_int_equal(choose(&f)->decode, 0);
    f.profiles[0].row_s = 9e-3; // a row more costs four answers 9 ms each
    assert_int_equal(choose(&f)->decode, 1);
}

// ---- hysteresis and load ---------------------------------------------------------------------------------

static void test_stays(void **state)
{
    struct fleet f;

    (void)state;
    fleet_init(&f, 2);
    f.links[1][0] = f.links[0][1] = (struct place_link){0};
    f.profiles[1] = machine(1020, 51); // 2 % faster
    f.r.last = (struct place_last){PLACE_LOCAL, 0, NONE};
    assert_int_equal(choose(&f)->decode, 0);
    assert_int_equal(f.table.because, PLACE_STAYED);
    f.r.last = (struct place_last){PLACE_REMOTE, 1, NONE};
    assert_int_equal(choose(&f)->decode, 1);
    assert_int_equal(f.table.because, PLACE_BEST);
    f.r.last.decode = 0;
    f.profiles[1] = machine(1100, 55);
    assert_int_equal(choose(&f)->decode, 1);
    f.r.last = (struct place_last){PLACE_HYBRID, 12, 77};
    assert_int_equal(choose(&f)->decode, 1);
}

// Equal nodes share conversations; each conversation keeps to its own; the busier one gets fewer.
static void test_spread(void **state)
{
    struct fleet f;
    int counts[3] = {0};

    (void)state;
    fleet_init(&f, 3);
    f.r.prompt_tokens = 40;
    for (uint64_t c = 0; c < 300; c++) {
        size_t first;
        f.r.conversation = c;
        first = choose(&f)->decode;
        assert_int_equal(choose(&f)->decode, first);
        counts[first]++;
    }
    for (int i = 0; i < 3; i++)
        assert_in_range(counts[i], 70, 130);
    f.nodes[0].answers = f.nodes[2].answers = 1;
    f.nodes[0].rest_tokens = f.nodes[2].rest_tokens = 10;
    for (uint64_t c = 0; c < 20; c++) {
        f.r.conversation = c;
        assert_int_equal(choose(&f)->decode, 1);
    }
    // Somewhat faster, but there are two to disturb.
    fleet_init(&f, 2);
    f.links[1][0] = f.links[0][1] = (struct place_link){0};
    f.r.prompt_tokens = 2;
    f.nodes[1].answers = 2;
    f.nodes[1].rest_tokens = 10000;
    f.profiles[1].step_s = 0.0138; // 19.8 ms with three, 20 ms where nobody is
    f.profiles[1].row_s = 0.002;
    assert_int_equal(choose(&f)->decode, 0);
    assert_int_equal(f.table.because, PLACE_SPREAD);
}

// ---- words -----------------------------------------------------------------------------------------------

static void test_words(void **state)
{
    struct fleet f;
    char text[PLACE_TEXT_BYTES];

    (void)state;
    pair_init(&f);
    f.held[0] = (struct place_held){1, 512};
    f.r.n_held = 1;
    choose(&f);
    place_tell(&f.view, &f.r, &f.table, 0, text);
    assert_non_null(
        strstr(text, "soonest done: hybrid s1 > m0 (512 of 8192 probably cached), 2.2"));
    assert_non_null(strstr(text, "; next remote s1"));
    place_tell(&f.view, &f.r, &f.table, 1, text);
    assert_non_null(strstr(text, "the chosen one 2.2"));
    place_tell(&f.view, &f.r, &f.table, 99, text);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_pair),   cmocka_unit_test(test_far_away),
        cmocka_unit_test(test_serial),       cmocka_unit_test(test_wishes),
        cmocka_unit_test(test_pins),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_alone),        cmocka_unit_test(test_company),
        cmocka_unit_test(test_warm),         cmocka_unit_test(test_split),
        cmocka_unit_test(test_setup),        cmocka_unit_test(test_contention),
        cmocka_unit_test(test_policies),     cmocka_unit_test(test_slo),
        cmocka_unit_test(test_interference), cmocka_unit_test(test_stays),
        cmocka_unit_test(test_spread),       cmocka_unit_test(test_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
