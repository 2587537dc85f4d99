// A gateway on a network that the test made: what is suggested, what is used, and who decides.
#include "gateway_fake.h"
#include "os/discover.h"

#include <dlfcn.h>

static void *network;
static void (*net_put)(const char *name, const char *host, const char *address, uint16_t port,
                       const void *txt, size_t txt_bytes);
static void (*net_remove)(const char *name);

// The status once its "seen" has n entries and its "nodes" as many as that; the caller frees.
static json_t *status_await(struct stage *s, size_t n_seen, size_t n_nodes)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    for (;;) {
        struct web_answer a = web_get(s->port, "/v1/tandem/status");
        json_t *v = parse(a.body);

        if (json_array_size(at(v, "seen")) == n_seen &&
            json_array_size(at(v, "nodes")) == n_nodes) {
            web_answer_fini(&a);
            return v;
        }
        if (clock_now_ns() > limit_ns)
            fail_msg("never %zu seen and %zu nodes: %s", n_seen, n_nodes, a.body);
        json_decref(v);
        web_answer_fini(&a);
        clock_sleep_until(clock_now_ns() + 10 * NS_PER_MS);
    }
}

static void stage_discover(struct stage *s, enum gateway_discover how)
{
    stage_init(s);
    s->options.discover = how;
    stage_ready(s, false);
    fake_listen(&s->node);
}

static void test_suggested(void **state)
{
    struct stage s;
    char address[32];
    json_t *v;

    (void)state;
    stage_discover(&s, GATEWAY_DISCOVER_SUGGEST);
    net_put("spark", "127.0.0.1", NULL, s.node.port, "\x08models=m", 9);
    net_put("mute", NULL, NULL, 1, NULL, 0);
    v = status_await(&s, 1, 1);
    snprintf(address, sizeof(address), "127.0.0.1:%u", s.node.port);
    assert_string_equal(text_at(v, "seen.0.name"), "spark");
    assert_string_equal(text_at(v, "seen.0.address"), address);
    assert_string_equal(text_at(v, "seen.0.models"), "m");
    json_decref(v);
    net_remove("spark");
    json_decref(status_await(&s, 0, 1));
    net_remove("mute");
    stage_stop(&s);
}

// A machine has one id and a port for each model: another address of a node that is used is no news, another port is.
static void test_one_machine(void **state)
{
    static const char id[] = "\x23id=00112233445566778899aabbccddeeff";
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.options.discover = GATEWAY_DISCOVER_SUGGEST;
    s.node.node_id = id + strlen("#id=");
    stage_ready(&s, true);
    net_put("again", "127.0.0.2", NULL, s.node.port, id, sizeof(id) - 1);
    net_put("second", "127.0.0.1", NULL, (uint16_t)(s.node.port ^ 1), id, sizeof(id) - 1);
    v = status_await(&s, 1, 2);
    assert_string_equal(text_at(v, "seen.0.name"), "second");
    json_decref(v);
    net_remove("again");
    net_remove("second");
    stage_stop(&s);
}

static json_t *node_delete(struct stage *s)
{
    char path[80];
    struct web w;

    snprintf(path, sizeof(path), "/v1/tandem/nodes/127.0.0.1:%u", s->node.port);
    w = web_open(s->port, "DELETE", path, NULL, NULL);
    return finish_json(&w, 200);
}

static void test_used_until_removed(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_discover(&s, GATEWAY_DISCOVER_USE);
    net_put("spark", "127.0.0.1", NULL, s.node.port, NULL, 0);
    stage_await(&s, 1, "up");
    v = status_await(&s, 0, 2);
    assert_true(json_is_false(at(v, "nodes.1.added"))); // found again, not kept
    json_decref(v);
    v = answer_long(&s, "", 200);
    assert_plan(v, "hybrid");
    json_decref(v);
    // The owner does not want it: it stays away, though it is still there.
    json_decref(node_delete(&s));
    v = status_await(&s, 1, 1);
    json_decref(v);
    clock_sleep_until(clock_now_ns() + DISCOVER_LOOK_NS * 2);
    v = status_await(&s, 1, 1);
    assert_has(text_at(v, "seen.0.why"), "removed");
    json_decref(v);
    net_remove("spark");
    stage_stop(&s);
}

// Another machine, and no key to tell it from a stranger: it is not even dialled.
static void test_without_a_key(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_discover(&s, GATEWAY_DISCOVER_USE);
    net_put("far", "10.255.0.1", NULL, 7077, NULL, 0);
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    for (bool told = false; !told;) {
        v = status_await(&s, 1, 1);
        const char *why = json_string_value(at(v, "seen.0.why"));
        told = why && strstr(why, "no cluster key");
        json_decref(v);
        assert_true(clock_now_ns() < limit_ns);
    }
    net_remove("far");
    stage_stop(&s);
}

static void test_nobody_answers(void **state)
{
    struct stage s;

    (void)state;
    setenv("FAKE_DNS_SD", "down", 1);
    stage_discover(&s, GATEWAY_DISCOVER_USE);
    json_decref(status_await(&s, 0, 1));
    stage_stop(&s);
    unsetenv("FAKE_DNS_SD");
}

static void symbol_get(const char *name, void *function)
{
    void *symbol = dlsym(network, name);

    assert_non_null(symbol);
    memcpy(function, &symbol, sizeof symbol);
}

static int set_up(void **state)
{
    char *library = mem_format("%s/tests/libfake_dns_sd.so", getenv("TANDEM_BIN"));

    (void)state;
    network = dlopen(library, RTLD_NOW);
    setenv("TANDEM_DNS_SD", library, 1);
    free(library);
    if (!network)
        return -1;
    symbol_get("fake_dns_sd_put", &net_put);
    symbol_get("fake_dns_sd_remove", &net_remove);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suggested),          cmocka_unit_test(test_one_machine),
        cmocka_unit_test(test_used_until_removed), cmocka_unit_test(test_without_a_key),
        cmocka_unit_test(test_nobody_answers),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
