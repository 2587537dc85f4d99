// Discovery on a network that the tests made: what is found, what goes, what strangers may say, and what a node
// tells of itself.
#include "base/buf.h"
#include "base/clock.h"
#include "os/discover.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define TXT(t) t, sizeof(t) - 1
#define ID "00112233445566778899aabbccddeeff"

static char *library;
static void *network;
static void (*net_put)(const char *name, const char *host, const char *address, uint16_t port,
                       const void *txt, size_t txt_bytes);
static void (*net_remove)(const char *name);
static void (*net_break)(void);
static void (*net_announced)(char name[64], uint16_t *port, unsigned char txt[1024], size_t *bytes);
static int (*net_refs)(void);

struct changes {
    pthread_mutex_t lock;
    int come, gone;
};

static void on_change(void *ctx, const struct os_seen *seen, bool there)
{
    struct changes *c = ctx;
    pthread_mutex_lock(&c->lock);
    c->come += there;
    c->gone += !there;
    pthread_mutex_unlock(&c->lock);
    if (seen->port == 0 || !seen->host[0])
        abort();
}

static struct os_browse *browse(struct changes *c)
{
    const struct os_browse_options o = {.library = library, .on_change = on_change, .ctx = c};
    struct os_browse *b = NULL;
    struct err e = {0};
    *c = (struct changes){.lock = PTHREAD_MUTEX_INITIALIZER};
    if (os_browse_start(&o, &b, &e) != 0)
        fail_msg("%s", e.message);
    return b;
}

// Waits until the list has so many, then gives the one of that name.
static struct os_seen seen_get(struct os_browse *b, size_t n, const char *name)
{
    struct os_seen all[OS_SEEN_MAX] = {0};
    int64_t end = clock_now_ns() + 20 * NS_PER_S;
    size_t have = OS_SEEN_MAX;
    while ((have = os_browse_list(b, all, OS_SEEN_MAX)) != n && clock_now_ns() < end)
        clock_sleep_until(clock_now_ns() + NS_PER_MS);
    assert_int_equal(have, n);
    for (size_t i = 0; name && i < have; i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i];
    if (name)
        fail_msg("%s was not seen", name);
    return (struct os_seen){0};
}

static void found_and_lost(void **state)
{
    struct changes c;
    struct os_seen s;
    (void)state;
    net_put("spark", "spark.local.", "10.0.0.7", 7077,
            TXT("\x23id=" ID "\x0dversion=0.1.0\x0amodels=a,b"));
    struct os_browse *b = browse(&c);
    s = seen_get(b, 1, "spark");
    assert_string_equal(s.host, "10.0.0.7");
    assert_int_equal(s.port, 7077);
    assert_string_equal(s.id, ID);
    assert_string_equal(s.version, "0.1.0");
    assert_string_equal(s.models, "a,b");
    // One whose address nobody knows is dialled by name; one that never answers holds nobody up.
    net_put("mute", NULL, NULL, 7077, NULL, 0);
    net_put("unknown", "nowhere.local.", NULL, 0, NULL, 0);
    net_put("studio", "studio.local.", NULL, 7078, TXT("\x00\x03x=y\xff"));
    s = seen_get(b, 2, "studio");
    assert_string_equal(s.host, "studio.local");
    assert_true(s.id[0] == '\0' && s.version[0] == '\0' && s.models[0] == '\0');
    net_remove("spark");
    seen_get(b, 1, "studio");
    os_browse_stop(b);
    assert_true(c.come == 2 && c.gone == 1);
    net_remove("studio");
    net_remove("mute");
    net_remove("unknown");
    assert_int_equal(net_refs(), 0);
}

// What anybody on the network may say: nothing of it reaches a terminal or a resolver as it is.
static void hostile_names_and_texts(void **state)
{
    static const struct {
        const char *host;
        bool taken;
    } hosts[] = {
        {"good.local.", true}, {"10.1.2.3", true},         {"-oProxyCommand.local.", false},
        {"a b.local.", false}, {"a;reboot.local.", false}, {"\033[2J.local.", false},
        {".", false},          {"[::1]", false},           {"a\n.local.", false}};
    struct changes c;
    (void)state;
    struct os_browse *b = browse(&c);
    for (size_t i = 0; i < COUNT(hosts); i++) {
        char name[32];
        snprintf(name, sizeof name, "host-%zu", i);
        net_put(name, hosts[i].host, NULL, 1, NULL, 0);
    }
    seen_get(b, 2, "host-0");
    net_put("\033[31mred\x07\xc3\xa4", "red.local.", NULL, 2,
            TXT("\x0bmodels=\033[2J\x12version=1\n2\0003\xe2\x80\xae"
                "45"
                "\x23id=zz112233445566778899aabbccddeeff\x05id=00\xff"
                "cut"));
    struct os_seen s = seen_get(b, 3, "?[31mred???");
    assert_string_equal(s.models, "?[2J");
    assert_string_equal(s.version, "1?2");
    assert_string_equal(s.id, "");
    // A text that is as long as one can be is cut to what there is room for.
    unsigned char big[256];
    memset(big, 'x', sizeof big);
    big[0] = 255;
    memcpy(big + 1, "models=", 7);
    net_put("big", "big.local.", NULL, 3, big, sizeof big);
    s = seen_get(b, 4, "big");
    assert_int_equal(strlen(s.models), sizeof s.models - 1);
    os_browse_stop(b);
    for (size_t i = 0; i < COUNT(hosts); i++) {
        char name[32];
        snprintf(name, sizeof name, "host-%zu", i);
        net_remove(name);
    }
    net_remove("\033[31mred\x07\xc3\xa4");
    net_remove("big");
}

static void a_flood_is_bounded(void **state)
{
    struct changes c;
    char name[32];
    (void)state;
    for (int i = 0; i < OS_SEEN_MAX + 20; i++) {
        snprintf(name, sizeof name, "flood-%d", i);
        net_put(name, "flood.local.", "10.0.0.1", 9, NULL, 0);
    }
    struct os_browse *b = browse(&c);
    seen_get(b, OS_SEEN_MAX, NULL);
    struct os_seen few[3];
    assert_int_equal(os_browse_list(b, few, 3), 3);
    for (int i = 0; i < OS_SEEN_MAX + 20; i++) {
        snprintf(name, sizeof name, "flood-%d", i);
        net_remove(name);
    }
    seen_get(b, 0, NULL);
    os_browse_stop(b);
    assert_int_equal(net_refs(), 0);
}

static void a_responder_that_goes_takes_its_nodes_along(void **state)
{
    struct changes c;
    (void)state;
    net_put("here", "here.local.", NULL, 4, NULL, 0);
    struct os_browse *b = browse(&c);
    seen_get(b, 1, "here");
    net_break();
    seen_get(b, 0, NULL);
    os_browse_stop(b);
    assert_true(c.come == 1 && c.gone == 1);
    net_remove("here");
}

static void absent_libraries_and_responders(void **state)
{
    struct os_browse *b = NULL;
    struct os_announce *a = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(
        os_browse_start(&(struct os_browse_options){.library = "libno-such.so"}, &b, &e),
        ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "avahi-daemon"));
    // A library, but another one.
    char *other = mem_format("%s/tests/libfake_nvml.so", getenv("TANDEM_BIN"));
    setenv("TANDEM_DNS_SD", other, 1);
    assert_int_equal(os_browse_start(&(struct os_browse_options){0}, &b, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "TANDEM_DNS_SD"));
    unsetenv("TANDEM_DNS_SD");
    free(other);
    setenv("FAKE_DNS_SD", "down", 1);
    assert_int_equal(os_browse_start(&(struct os_browse_options){.library = library}, &b, &e),
                     ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "running"));
    assert_int_equal(
        os_announce_start(&(struct os_announce_options){.library = library, .name = "n"}, &a, &e),
        ERR_NOT_FOUND);
    unsetenv("FAKE_DNS_SD");
    assert_true(!a && !b && net_refs() == 0);
    os_browse_stop(NULL);
    os_announce_stop(NULL);
}

static void a_node_says_no_more_than_it_should(void **state)
{
    struct os_announce *a = NULL;
    struct err e = {0};
    char name[64], models[400];
    unsigned char txt[1024];
    uint16_t port = 0;
    size_t bytes = 0;
    (void)state;
    struct os_announce_options o = {
        .library = library, .name = "spark", .port = 7077, .id = ID, .version = "0.1.0"};
    assert_int_equal(os_announce_start(&o, &a, &e), 0);
    net_announced(name, &port, txt, &bytes);
    assert_string_equal(name, "spark");
    assert_int_equal(port, 7077);
    assert_int_equal(bytes, sizeof("\x23id=" ID "\x0dversion=0.1.0") - 1);
    assert_memory_equal(txt, "\x23id=" ID "\x0dversion=0.1.0", bytes);
    os_announce_stop(a);
    net_announced(name, &port, txt, &bytes);
    assert_string_equal(name, "");
    // Names of models when asked to, as many as there is room for.
    memset(models, 'm', sizeof models);
    models[sizeof models - 1] = '\0';
    o.models = models;
    assert_int_equal(os_announce_start(&o, &a, &e), 0);
    net_announced(name, &port, txt, &bytes);
    assert_int_equal(bytes, 36 + 14 + 1 + 255);
    os_announce_stop(a);
    assert_int_equal(net_refs(), 0);
}

static void symbol_get(const char *name, void *function)
{
    void *symbol = dlsym(network, name);
    assert_non_null(symbol);
    memcpy(function, &symbol, sizeof symbol);
}

static int set_up(void **state)
{
    (void)state;
    library = mem_format("%s/tests/libfake_dns_sd.so", getenv("TANDEM_BIN"));
    network = dlopen(library, RTLD_NOW);
    if (!network)
        return -1;
    symbol_get("fake_dns_sd_put", &net_put);
    symbol_get("fake_dns_sd_remove", &net_remove);
    symbol_get("fake_dns_sd_break", &net_break);
    symbol_get("fake_dns_sd_announced", &net_announced);
    symbol_get("fake_dns_sd_refs", &net_refs);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(library);
    return dlclose(network);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_and_lost),
        cmocka_unit_test(hostile_names_and_texts),
        cmocka_unit_test(a_responder_that_goes_takes_its_nodes_along),
        cmocka_unit_test(absent_libraries_and_responders),
        cmocka_unit_test(a_node_says_no_more_than_it_should),
        cmocka_unit_test(a_flood_is_bounded),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
