// The first frame on a worker's listening port: what is not a HELLO of this version, from somebody with the
// key and, for bulk, with the same model, is refused with both values named.
#include "tests/worker_rig.h"

static struct net_conn *dial(const struct rig_node *n, const struct net_key *key)
{
    struct err e = {0};
    struct net_addr a = {.host = "127.0.0.1", .port = n->port};
    struct net_conn *c = NULL;
    return net_conn_dial(&a, key, RIG_DEADLINE, &c, &e) == 0 ? c : NULL;
}

// Sends a first frame of this type and head (NULL: none is sent) and gives the answer's head, NULL where
// the worker just closed.
static json_t *ask(const struct rig_node *n, enum wire_type type, json_t *head, unsigned *answer)
{
    struct err e = {0};
    struct wire_frame f = wire_frame_json(type, 0, head), in = {0};
    struct net_conn *c = dial(n, &rig_key);
    json_t *told = NULL;

    assert_non_null(c);
    assert_int_equal(wire_frame_write(c, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
    if (wire_frame_read(c, &in, RIG_DEADLINE, &e) == 0) {
        *answer = in.type;
        told = wire_frame_parse(&in, &e);
        wire_frame_fini(&in);
    }
    net_conn_free(c);
    return told;
}

static struct message_hello hello(const struct rig_node *n, const char *role)
{
    struct message_hello h = {.version = WIRE_VERSION,
                              .has_identity = true,
                              .same_weights = true,
                              .identity = n->w.welcome.identity};
    snprintf(h.role, sizeof h.role, "%s", role);
    snprintf(h.name, sizeof h.name, "test");
    return h;
}

static void expect_refusal(const struct rig_node *n, enum wire_type type, json_t *head,
                           const char *words)
{
    unsigned answer = 0;
    json_t *told = ask(n, type, head, &answer);
    const char *message = json_string_value(json_object_get(told, "message"));

    assert_int_equal(answer, WIRE_REFUSED);
    if (message == NULL || strstr(message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", message != NULL ? message : "(nothing)", words);
    json_decref(told);
}

static void what_fits_is_welcome(void **state)
{
    static const char *const roles[] = {"gateway", "bulk", "tool"};
    struct rig_node *n = *state;
    for (size_t i = 0; i < 3; i++) {
        struct message_hello h = hello(n, roles[i]);
        unsigned answer = 0;
        json_decref(ask(n, WIRE_HELLO, message_hello_json(&h), &answer));
        assert_int_equal(answer, WIRE_WELCOME);
    }
}

static void another_version_is_refused(void **state)
{
    static const uint32_t versions[] = {0, WIRE_VERSION - 1, WIRE_VERSION + 1, UINT32_MAX};
    static const char *const roles[] = {"gateway", "bulk"};
    struct rig_node *n = *state;
    for (size_t i = 0; i < 8; i++) {
        struct message_hello h = hello(n, roles[i % 2]);
        char words[64];
        h.version = versions[i / 2];
        snprintf(words, sizeof words, "version %u here, %u there", WIRE_VERSION, h.version);
        expect_refusal(n, WIRE_HELLO, message_hello_json(&h), words);
    }
}

static void another_model_is_refused(void **state)
{
    struct rig_node *n = *state;
    struct message_hello h = hello(n, "bulk");
    snprintf(h.identity.type_k, sizeof h.identity.type_k, "q8_0");
    expect_refusal(n, WIRE_HELLO, message_hello_json(&h), "type_k");
    h = hello(n, "bulk");
    h.identity.n_layer++;
    expect_refusal(n, WIRE_HELLO, message_hello_json(&h), "n_layer");
    h = hello(n, "bulk");
    h.has_identity = false;
    expect_refusal(n, WIRE_HELLO, message_hello_json(&h), "\"identity\" is missing");
}

static void what_is_no_hello_is_refused(void **state)
{
    struct rig_node *n = *state;
    struct message_hello h = hello(n, "emperor");
    expect_refusal(n, WIRE_HELLO, message_hello_json(&h), "role");
    expect_refusal(n, WIRE_HELLO, json_pack("{s:s}", "version", "1"), "version");
    expect_refusal(n, WIRE_HELLO, NULL, "\"version\" is missing");
    expect_refusal(n, WIRE_STATUS, NULL, "the first frame is status, not hello");
    expect_refusal(n, WIRE_CANCEL, NULL, "the first frame is cancel, not hello");
}

static void another_key_is_not_heard(void **state)
{
    static const struct net_key other = {.bytes = {9, 9, 9}};
    struct err e = {0};
    struct wire_frame in = {0};
    struct net_conn *c = dial(*state, &other);
    if (c == NULL)
        return; // the handshake itself failed: the usual case
    assert_int_not_equal(wire_frame_read(c, &in, RIG_DEADLINE, &e), 0);
    net_conn_free(c);
}

static int setup(void **state)
{
    *state = rig_start("fake", ENGINE_HANDOFF_RANGES, true, true);
    return 0;
}

static int teardown(void **state)
{
    rig_stop(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits_is_welcome),     cmocka_unit_test(another_version_is_refused),
        cmocka_unit_test(another_model_is_refused), cmocka_unit_test(what_is_no_hello_is_refused),
        cmocka_unit_test(another_key_is_not_heard),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
