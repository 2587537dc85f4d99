// Control messages: what is built is read back equal, and what is wrong is refused by name.
#include "base/buf.h"
#include "base/json.h"
#include "node/message.h"
#include "sched/place.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TICKET "00112233445566778899aabbccddeeff"
#define HANDOFF_PORT(p)                                                                            \
    "{\"max_tokens\":1,\"handoff\":{\"host\":\"h\",\"port\":" p ",\"ticket\":\"" TICKET            \
    "\",\"transfer\":1}}"

static struct engine_identity sample_identity(void)
{
    return (struct engine_identity){
        .engine = "llama.cpp",
        .build = "v0.5.0 abc",
        .arch = "llama",
        .model = "SmolLM2 \"135M\"",
        .weights = "Q4_0",
        .weights_hash = 0xfedcba9876543210u,
        .tokenizer_hash = 7,
        .n_vocab = 49152,
        .n_layer = 30,
        .n_embd = 576,
        .n_head = 9,
        .n_head_kv = 3,
        .n_ctx_train = 8192,
        .type_k = "f16",
        .type_v = "q8_0",
        .attention_layout = 1,
    };
}

static void generate_round_trips(void **state)
{
    struct message_generate m = {
        .epoch = 3,
        .max_tokens = 100,
        .ignore_eos = true,
        .timeline = true,
        .stops = {(char *)"\n\n", (char *)"END"},
        .n_stops = 2,
        .handoff = {true, "192.168.1.7", 7077, TICKET, 99, 4096, 1.5, true, false},
    };
    struct message_generate back;
    struct err e = {0};
    (void)state;
    engine_sampling_default(&m.sampling);
    m.sampling.seed = UINT32_MAX;
    m.sampling.frequency_penalty = -0.25f;
    m.syntax = json_pack("{s:s}", "grammar", "root ::= \"a\"");
    m.biases = (struct engine_bias[]){{5, 1.5f}, {7, -INFINITY}};
    m.sampling.biases = m.biases;
    m.sampling.n_biases = 2;
    m.media = json_pack("[{s:i,s:i,s:s}]", "at", 3, "tokens", 16, "key", "00");
    m.logprobs = 3;
    snprintf(m.owner, sizeof m.owner, "me");
    snprintf(m.adapter.name, sizeof m.adapter.name, "facts");
    memset(m.adapter.sha256, 'a', sizeof m.adapter.sha256 - 1);
    json_t *o = message_generate_json(&m);
    assert_int_equal(message_generate_parse(o, &back, &e), 0);
    json_t *again = message_generate_json(&back);
    assert_true(json_equal(o, again));
    assert_true(json_equal(back.sampling.syntax, m.syntax));
    assert_true(json_equal(back.media, m.media));
    assert_true(back.sampling.n_biases == 2 && back.sampling.biases[0].bias == 1.5f);
    assert_true(isinf(back.sampling.biases[1].bias) && back.sampling.biases[1].token == 7);
    assert_true(back.logprobs == 3 && !back.keep && !back.reuse && !back.parse);
    assert_string_equal(back.owner, "me");
    assert_string_equal(back.adapter.name, "facts");
    assert_string_equal(back.adapter.sha256, m.adapter.sha256);
    assert_string_equal(back.stops[1], "END");
    assert_int_equal(back.handoff.transfer, 99);
    assert_true(back.handoff.serial && back.ignore_eos && back.timeline);
    assert_false(back.handoff.same_weights);
    message_generate_fini(&back);
    json_decref(m.syntax);
    json_decref(m.media);
    json_decref(o);
    json_decref(again);
}

// Who does not say that other weights will do gets the same.
static void weights_are_the_same_unless_told(void **state)
{
    static const struct {
        const char *text;
        bool same;
    } cases[] = {{HANDOFF_PORT("1"), true},
                 {HANDOFF_PORT("1,\"same_weights\":null"), true},
                 {HANDOFF_PORT("1,\"same_weights\":false"), false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct message_generate m;
        json_t *o = json_loads(cases[i].text, 0, NULL);
        assert_int_equal(message_generate_parse(o, &m, NULL), 0);
        assert_int_equal(m.handoff.same_weights, cases[i].same);
        message_generate_fini(&m);
        json_decref(o);
    }
}

// A hash becomes a file's name.
static void an_adapter_is_named_by_a_hash(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"sha256\":5}",
        "{\"sha256\":\"\"}",
        "{\"sha256\":\"00\"}",
        "[]",
        "{\"sha256\":\"../../../../../../../../../../../../../../../../../../../../etc/a\"}"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct message_generate m;
        struct err e = {0};
        char *text = mem_format("{\"max_tokens\":1,\"adapter\":%s}", bad[i]);
        json_t *o = json_loads(text, 0, NULL);
        int rc = message_generate_parse(o, &m, &e);
        if (rc != ERR_INVALID && rc != ERR_RANGE)
            fail_msg("%s: %d", bad[i], rc);
        json_decref(o);
        free(text);
    }
}

static void prefill_round_trips(void **state)
{
    struct message_prefill m = {.epoch = 1,
                                .transfer = 5,
                                .ticket = TICKET,
                                .serial = true,
                                .keep = true,
                                .owner = "me",
                                .upto = 4095,
                                .link_bytes_per_s = 1.25e9};
    struct message_prefill back;
    (void)state;
    json_t *o = message_prefill_json(&m);
    assert_int_equal(message_prefill_parse(o, &back, NULL), 0);
    json_t *again = message_prefill_json(&back); // member by member: the struct has padding
    assert_true(json_equal(o, again));
    assert_string_equal(back.ticket, TICKET);
    assert_true(back.transfer == 5 && back.serial && !back.timeline);
    assert_true(back.keep && !back.reuse && back.upto == 4095 && back.link_bytes_per_s == 1.25e9);
    json_decref(again);
    json_decref(o);
}

static void hello_and_welcome_round_trip(void **state)
{
    struct message_hello h = {1, "bulk", "mac", "tandem 0.1.0", "", true, true, sample_identity()};
    struct message_hello h2;
    struct message_welcome w = {
        .version = 1,
        .name = "spark",
        .build = "tandem 0.1.0",
        .model = "smollm2-135m",
        .node_id = "0123456789abcdef0123456789abcdef",
        .identity = sample_identity(),
        .limits = {.n_ctx = 8192,
                   .n_seq = 4,
                   .n_batch = 512,
                   .handoff = ENGINE_HANDOFF_LATE_STATE,
                   .kv_bytes_per_token = 23040,
                   .state_bytes = 12,
                   .n_embed_tokens = 2048,
                   .ranks = true,
                   .cuts = true,
                   .has_chat_template = true},
        .prefill_tokens_per_s = 312.5,
        .facts = {.system = "Linux",
                  .cpu = "some cpu",
                  .cores = 2,
                  .memory_bytes = 1ull << 37,
                  .memory_bytes_per_s = 2.5e11,
                  .gpus = {{"a GPU", "550.1", 80ull << 30, 3.35e12}},
                  .n_gpus = 1,
                  .nics = {{"eth0", 10000000000, false}},
                  .n_nics = 1},
        .power = {40.5, 0, 180},
        .paced = true,
        .max_stall_s = 0.25,
        .advertise = "[fd00::7]:7000",
        .pid = 4711,
        .role = PLACE_READER,
        .priced = true,
        .dollars_per_hour = 2.5,
    };
    struct message_welcome w2;
    (void)state;
    json_t *o = message_hello_json(&h);
    assert_int_equal(message_hello_parse(o, &h2, NULL), 0);
    assert_int_equal(engine_identity_compare(&h.identity, &h2.identity, true, NULL), 0);
    assert_true(h2.identity.weights_hash == h.identity.weights_hash);
    assert_string_equal(h2.role, "bulk");
    json_decref(o);
    o = message_welcome_json(&w);
    assert_int_equal(message_welcome_parse(o, &w2, NULL), 0);
    json_t *again = message_welcome_json(&w2);
    assert_true(json_equal(o, again));
    assert_int_equal(w2.limits.handoff, ENGINE_HANDOFF_LATE_STATE);
    assert_string_equal(w2.node_id, w.node_id);
    assert_string_equal(w2.advertise, w.advertise);
    assert_string_equal(w2.facts.gpus[0].name, "a GPU");
    assert_true(w2.facts.n_nics == 1 && w2.facts.nics[0].bits_per_s == 10000000000);
    assert_true(w2.power.idle_w == 40.5 && w2.power.prefill_w == 0 && w2.power.decode_w == 180);
    assert_true(w2.limits.n_embed_tokens == 2048 && w2.limits.ranks && w2.limits.cuts);
    assert_true(w2.role == PLACE_READER && w2.priced && w2.dollars_per_hour == 2.5);
    assert_true(w2.max_stall_s == 0.25);
    json_decref(again);
    // An older node says neither, and a newer one may say what is not known here.
    json_object_del(o, "role");
    json_object_del(o, "dollars_per_hour");
    json_object_del(o, "max_stall_s");
    assert_int_equal(message_welcome_parse(o, &w2, NULL), 0);
    assert_true(w2.role == 0 && !w2.priced && w2.max_stall_s < 0);
    json_put(o, "role", json_string("dream, and a great deal more of it"));
    json_put(o, "dollars_per_hour", json_integer(0));
    assert_int_equal(message_welcome_parse(o, &w2, NULL), 0);
    assert_true(w2.role == 0 && w2.priced && w2.dollars_per_hour == 0);
    json_put(o, "dollars_per_hour", json_integer(-1));
    assert_int_not_equal(message_welcome_parse(o, &w2, NULL), 0);
    json_put(o, "dollars_per_hour", json_null());
    json_put(o, "role", json_integer(1));
    assert_int_not_equal(message_welcome_parse(o, &w2, NULL), 0);
    json_decref(o);
}

// ---- refusals -----------------------------------------------------------------------------------

enum kind { GENERATE, PREFILL, HELLO, WELCOME };

static int parse(enum kind kind, const json_t *o, struct err *e)
{
    struct message_generate g;
    struct message_prefill p;
    struct message_hello h;
    struct message_welcome w;
    int rc = 0;
    switch (kind) {
    case GENERATE:
        rc = message_generate_parse(o, &g, e);
        if (rc == 0)
            message_generate_fini(&g);
        return rc;
    case PREFILL:
        return message_prefill_parse(o, &p, e);
    case HELLO:
        return message_hello_parse(o, &h, e);
    case WELCOME:
        break;
    }
    return message_welcome_parse(o, &w, e);
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        enum kind kind;
        const char *text;
        const char *says; // NULL: accepted
    } cases[] = {
        {GENERATE, "{\"max_tokens\":1}", NULL},
        {GENERATE, "{\"max_tokens\":1,\"later\":{\"than\":us}}", "JSON"},
        {GENERATE, "{\"max_tokens\":1,\"later\":[1]}", NULL},
        {GENERATE, "[]", "must be a JSON object"},
        {GENERATE, "{}", "\"max_tokens\" is missing"},
        {GENERATE, "{\"max_tokens\":\"5\"}", "max_tokens"},
        {GENERATE, "{\"max_tokens\":-1}", "max_tokens"},
        {GENERATE, "{\"max_tokens\":1048577}", "max_tokens"},
        {GENERATE, "{\"max_tokens\":1.5}", "max_tokens"},
        {GENERATE, "{\"max_tokens\":1,\"epoch\":4294967296}", "epoch"},
        {GENERATE, "{\"max_tokens\":1,\"ignore_eos\":1}", "ignore_eos"},
        {GENERATE, "{\"max_tokens\":1,\"sampling\":3}", "sampling"},
        {GENERATE, "{\"max_tokens\":1,\"sampling\":{\"top_p\":1.01}}", "top_p"},
        {GENERATE, "{\"max_tokens\":1,\"sampling\":{\"top_k\":-1}}", "top_k"},
        {GENERATE, "{\"max_tokens\":1,\"syntax\":[]}", "syntax"},
        {GENERATE, "{\"max_tokens\":1,\"syntax\":null}", NULL},
        {GENERATE, "{\"max_tokens\":1,\"sampling\":{\"logit_bias\":[[1]]}}", "logit_bias"},
        {GENERATE, "{\"max_tokens\":1,\"sampling\":{\"logit_bias\":[[-1,2]]}}", "logit_bias"},
        {GENERATE, "{\"max_tokens\":1,\"sampling\":{\"logit_bias\":[[1,null]]}}", NULL},
        {GENERATE, "{\"max_tokens\":1,\"logprobs\":21}", "logprobs"},
        {GENERATE, "{\"max_tokens\":1,\"stop\":\"x\"}", "stop"},
        {GENERATE, "{\"max_tokens\":1,\"media\":7}", "media"},
        {GENERATE, "{\"max_tokens\":1,\"media\":{}}", "media"},
        {GENERATE, "{\"max_tokens\":1,\"stop\":[\"a\",\"\"]}", "\"stop\"[1]"},
        {GENERATE, "{\"max_tokens\":1,\"stop\":[\"a\",7]}", "\"stop\"[1]"},
        {GENERATE,
         "{\"max_tokens\":1,\"stop\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
         "25 texts"},
        {GENERATE, "{\"max_tokens\":1,\"handoff\":null}", NULL},
        {GENERATE, "{\"max_tokens\":1,\"handoff\":{}}", "\"host\" is missing"},
        {GENERATE, HANDOFF_PORT("7077"), NULL},
        {GENERATE, HANDOFF_PORT("1,\"same_weights\":1"), "same_weights"},
        {GENERATE, HANDOFF_PORT("0"), "port"},
        {GENERATE, HANDOFF_PORT("65536"), "port"},
        {GENERATE, HANDOFF_PORT("\"7077\""), "port"},
        {PREFILL, "{\"transfer\":1,\"ticket\":\"" TICKET "\",\"upto\":9}", NULL},
        {PREFILL, "{\"transfer\":1,\"ticket\":\"" TICKET "\",\"upto\":0}", "upto"},
        {PREFILL, "{\"transfer\":1,\"ticket\":\"" TICKET "\"}", "\"upto\" is missing"},
        {PREFILL, "{\"transfer\":1,\"ticket\":\"0011\",\"upto\":9}", "32 hex digits"},
        {PREFILL, "{\"transfer\":1,\"ticket\":\"zz112233445566778899aabbccddeeff\",\"upto\":9}",
         "32 hex digits"},
        {PREFILL, "{\"transfer\":1,\"ticket\":5,\"upto\":9}", "ticket"},
        {PREFILL, "{\"transfer\":-1,\"ticket\":\"" TICKET "\",\"upto\":9}", "transfer"},
        {HELLO, "{\"version\":1,\"role\":\"gateway\"}", NULL},
        {HELLO, "{\"role\":\"gateway\"}", "\"version\" is missing"},
        {HELLO, "{\"version\":1,\"role\":\"queen\"}", "\"queen\""},
        {HELLO, "{\"version\":1,\"role\":\"bulk\"}", "\"identity\" is missing"},
        {HELLO, "{\"version\":1,\"role\":\"bulk\",\"identity\":[]}", "identity"},
        {HELLO, "{\"version\":1,\"role\":\"bulk\",\"identity\":{}}", "\"engine\""},
        {HELLO, "{\"version\":1,\"role\":\"a role with a very long name\"}", "role"},
        {WELCOME, "{\"version\":1}", "\"identity\" is missing"},
        {WELCOME, "{\"version\":1,\"node_id\":7}", "node_id"},
        {WELCOME, "{\"version\":1,\"node_id\":\"0123\"}", "32 hex digits"},
        {WELCOME, "{\"version\":1,\"node_id\":\"../../../../etc/passwd-0123456789ab\"}",
         "32 hex digits"},
        {WELCOME, "{\"version\":1,\"node_id\":\"\"}", "\"identity\" is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        json_t *o = json_loads(cases[i].text, 0, NULL);
        if (o == NULL) { // unreadable text never reaches the parsers
            assert_string_equal(cases[i].says, "JSON");
            continue;
        }
        int rc = parse(cases[i].kind, o, &e);
        if ((rc == 0) != (cases[i].says == NULL) ||
            (rc != 0 && strstr(e.message, cases[i].says) == NULL))
            fail_msg("%s: rc %d, \"%s\"", cases[i].text, rc, e.message);
        json_decref(o);
    }
}

// ---- what work took ------------------------------------------------------------------------------

static void measured_round_trips(void **state)
{
    struct message_measured m = {.reads = {{448, 72, 448, 1.25}, {64, 0, 64, 0.1}},
                                 .steps = {{8, 1, 69.5, 0.13}},
                                 .n_reads = 2,
                                 .n_steps = 1,
                                 .import = {1e9, 0.25},
                                 .load_s = 3.5,
                                 .memory_left_bytes = 6e9,
                                 .complete = true};
    struct message_measured back;
    struct err e = {0};
    (void)state;
    json_t *o = message_measured_json(&m);
    assert_int_equal(message_measured_parse(o, &back, &e), 0);
    assert_true(back.n_reads == 2 && back.n_steps == 1 && back.complete);
    assert_memory_equal(back.reads, m.reads, 2 * sizeof *m.reads);
    assert_memory_equal(back.steps, m.steps, sizeof *m.steps);
    assert_true(back.export.bytes == 0 && back.import.bytes == 1e9 && back.import.seconds == 0.25);
    assert_true(back.load_s == 3.5 && back.memory_left_bytes == 6e9);
    json_decref(o);
    double budget_s = 0;
    o = message_measure_json(2);
    assert_int_equal(message_measure_parse(o, &budget_s, &e), 0);
    assert_true(budget_s == 2);
    json_object_clear(o);
    assert_int_equal(message_measure_parse(o, &budget_s, &e), 0);
    assert_true(budget_s == PROFILE_MEASURE_S);
    json_decref(o);
}

static void cost_round_trips(void **state)
{
    struct message_cost c = {.reads = {{512, 0, 128, 2}},
                             .n_reads = 1,
                             .steps = {64, 2.5, 1000, 4},
                             .export = {4096, 1e-6}};
    struct message_cost back;
    struct err e = {0};
    (void)state;
    json_t *head = json_pack("{s:o}", "cost", message_cost_json(&c));
    assert_int_equal(message_cost_parse(head, &back, &e), 0);
    assert_memory_equal(back.reads, c.reads, sizeof *c.reads);
    assert_memory_equal(&back.steps, &c.steps, sizeof c.steps);
    assert_true(back.n_reads == 1 && back.export.bytes == 4096 && back.import.seconds == 0);
    json_object_clear(head); // an older worker says nothing of it
    assert_int_equal(message_cost_parse(head, &back, &e), 0);
    assert_true(back.n_reads == 0 && back.steps.steps == 0);
    json_decref(head);
}

#define READ_OF(tokens, seconds)                                                                   \
    "{\"tokens\":" tokens ",\"depth\":0,\"chunk_tokens\":64,\"seconds\":" seconds "}"
#define NINE(x) x "," x "," x "," x "," x "," x "," x "," x "," x

// Numbers of a peer are finite and positive, and there are not too many.
static void wrong_costs_are_named(void **state)
{
    static const struct {
        const char *text, *says; // NULL: accepted
    } cases[] = {
        {"{\"cost\":{}}", NULL},
        {"{\"cost\":null}", NULL},
        {"{\"cost\":{\"read\":[" READ_OF("1", "1") "]}}", NULL},
        {"{\"cost\":[]}", "cost"},
        {"{\"cost\":{\"read\":{}}}", "read"},
        {"{\"cost\":{\"read\":[5]}}", "read must be"},
        {"{\"cost\":{\"read\":[" READ_OF("0", "1") "]}}", "tokens"},
        {"{\"cost\":{\"read\":[" READ_OF("-4", "1") "]}}", "tokens"},
        {"{\"cost\":{\"read\":[" READ_OF("1e9", "1") "]}}", "tokens"},
        {"{\"cost\":{\"read\":[" READ_OF("1", "0") "]}}", "seconds"},
        {"{\"cost\":{\"read\":[" READ_OF("1", "-1") "]}}", "seconds"},
        {"{\"cost\":{\"read\":[" READ_OF("1", "1e300") "]}}", "seconds"},
        {"{\"cost\":{\"read\":[" READ_OF("1", "\"1\"") "]}}", "seconds"},
        {"{\"cost\":{\"read\":[" NINE(READ_OF("1", "1")) "]}}", "at most 8"},
        {"{\"cost\":{\"read\":[{\"tokens\":1,\"depth\":0,\"seconds\":1}]}}", "\"chunk_tokens\" is"},
        {"{\"cost\":{\"steps\":{\"steps\":1,\"rows\":0,\"depth_sum\":1,\"seconds\":1}}}", "rows"},
        {"{\"cost\":{\"steps\":{\"steps\":1,\"rows\":1,\"depth_sum\":-1,\"seconds\":1}}}",
         "depth_sum"},
        {"{\"cost\":{\"export\":{\"bytes\":1}}}", "export: member \"seconds\""},
        {"{\"cost\":{\"import\":{\"bytes\":0,\"seconds\":1}}}", "import: "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        struct message_cost c;
        json_t *o = json_loads(cases[i].text, 0, NULL);
        assert_non_null(o);
        int rc = message_cost_parse(o, &c, &e);
        if ((rc == 0) != (cases[i].says == NULL) ||
            (rc != 0 && strstr(e.message, cases[i].says) == NULL))
            fail_msg("%s: rc %d, \"%s\"", cases[i].text, rc, e.message);
        assert_true(rc == 0 || c.n_reads == 0);
        json_decref(o);
    }
}

// Every member of a full identity, taken away or given a wrong type, is refused by name.
static void an_identity_is_read_strictly(void **state)
{
    struct engine_identity id = sample_identity(), back;
    json_t *full = engine_identity_json(&id), *value;
    const char *name;
    (void)state;
    json_object_foreach(full, name, value)
    {
        struct err e = {0};
        json_t *o = json_copy(full);
        json_object_del(o, name);
        assert_int_equal(engine_identity_parse(o, &back, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, name));
        json_object_set_new(o, name, json_array());
        assert_int_equal(engine_identity_parse(o, &back, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, name));
        json_decref(o);
    }
    json_object_set_new(full, "weights_hash", json_string("12"));
    assert_int_equal(engine_identity_parse(full, &back, NULL), ERR_INVALID);
    json_decref(full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generate_round_trips),
        cmocka_unit_test(weights_are_the_same_unless_told),
        cmocka_unit_test(an_adapter_is_named_by_a_hash),
        cmocka_unit_test(prefill_round_trips),
        cmocka_unit_test(hello_and_welcome_round_trip),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(an_identity_is_read_strictly),
        cmocka_unit_test(measured_round_trips),
        cmocka_unit_test(cost_round_trips),
        cmocka_unit_test(wrong_costs_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
