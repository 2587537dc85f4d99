// Facts of a machine, its id and its memory's bandwidth, on trees and libraries that the tests made.
#include "base/buf.h"
#include "base/json.h"
#include "node/node.h"
#include "os/facts.h"
#include "os/os.h"
#include "tests/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char folder[64];

// One file of a tree, folders and all; the text gets its end of line.
static void put(const char *tree, const char *under, const char *text)
{
    struct err e = {0};
    char *path = mem_format("%s/%s/%s", folder, tree, under);
    char *slash = strrchr(path, '/');
    char *line = mem_format("%s\n", text);
    *slash = '\0';
    assert_int_equal(os_mkdirs(path, &e), 0);
    *slash = '/';
    assert_int_equal(os_file_write(path, line, strlen(line), 0600, &e), 0);
    free(line);
    free(path);
}

struct file {
    const char *under, *text;
};

static struct os_facts tree_read(const char *tree, const struct file *files, size_t n,
                                 const char *nvml)
{
    struct os_facts f;
    char *root = mem_format("%s/%s", folder, tree);
    for (size_t i = 0; i < n; i++)
        put(tree, files[i].under, files[i].text);
    const struct os_roots roots = {.sys = root, .proc = root, .nvml = nvml};
    os_facts_read(&roots, &f);
    free(root);
    return f;
}

#define CPU(n, what) "devices/system/cpu/cpu" #n "/" what
#define TWINS(n, list)                                                                             \
    {                                                                                              \
        CPU(n, "topology/thread_siblings_list"), list                                              \
    }

// Two fast cores with twins, two slow ones without; a card of 10 GbE, one that is down, one wireless, a bridge.
static void a_hybrid_machine(void **state)
{
    static const struct file files[] = {
        {"cpuinfo", "processor : 0\nmodel name : Some Core i9\nprocessor : 1"},
        {"meminfo", "MemTotal:       65536 kB\nMemFree: 1 kB"},
        TWINS(0, "0-1"),
        TWINS(1, "0-1"),
        TWINS(2, "2,3"),
        TWINS(3, "2,3"),
        TWINS(4, "4"),
        TWINS(5, "5"),
        {"devices/cpu_core/cpus", "0-3"},
        {"devices/cpu_atom/cpus", "4-5"},
        {"class/net/lo/operstate", "unknown"},
        {"class/net/docker0/operstate", "up"},
        {"class/net/docker0/speed", "-1"},
        {"class/net/enp1s0/operstate", "up"},
        {"class/net/enp1s0/speed", "10000"},
        {"class/net/enp1s0/device/vendor", "0x8086"},
        {"class/net/enp2s0/operstate", "down"},
        {"class/net/enp2s0/device/vendor", "0x8086"},
        {"class/net/wlp3s0/operstate", "up"},
        {"class/net/wlp3s0/speed", "866"},
        {"class/net/wlp3s0/device/vendor", "0x8086"},
        {"class/net/wlp3s0/wireless/x", ""},
    };
    struct os_facts f = tree_read("hybrid", files, COUNT(files), NULL);
    (void)state;
    assert_string_equal(f.cpu, "Some Core i9");
    assert_int_equal(f.memory_bytes, 65536 * 1024);
    assert_true(f.cores_physical == 4 && f.cores_fast == 2 && f.cores == os_cpu_count());
    assert_int_equal(f.n_nics, 3);
    assert_string_equal(f.nics[0].name, "enp1s0");
    assert_true(f.nics[0].bits_per_s == 10000000000 && !f.nics[0].wireless);
    assert_string_equal(f.nics[1].name, "wlp3s0");
    assert_true(f.nics[1].bits_per_s == 0 && f.nics[1].wireless);
    assert_string_equal(f.nics[2].name, "docker0");
    assert_int_equal(f.nics[2].bits_per_s, 0);
    assert_int_equal(f.n_gpus, 0);
}

static void an_arm_machine(void **state)
{
    static const struct file files[] = {
        {"cpuinfo", "processor : 0\nBogoMIPS : 2000.00"},
        {"device-tree/model", "A Spark"},
        TWINS(0, "0"),
        TWINS(1, "1"),
        TWINS(2, "2"),
        {CPU(0, "cpu_capacity"), "718"},
        {CPU(1, "cpu_capacity"), "1024"},
        {CPU(2, "cpu_capacity"), "1024"},
    };
    struct os_facts f = tree_read("arm", files, COUNT(files), "libnothing-of-that-name.so");
    (void)state;
    assert_string_equal(f.cpu, "A Spark");
    assert_true(f.cores_physical == 3 && f.cores_fast == 2);
    assert_true(f.n_nics == 0 && f.n_gpus == 0 && f.memory_bytes == 0);
}

// What a broken or strange system tells is not believed, and nothing of it ends the program.
static void strange_trees(void **state)
{
    static const struct file cases[] = {
        {"cpuinfo", "model name"},
        {CPU(0, "topology/thread_siblings_list"), "x"},
        {"devices/cpu_core/cpus", "0-"},
        {"devices/cpu_core/cpus", "-,-,9999999999999999999999"},
        {"class/net/eth0/speed", "99999999999999999999999999"},
        {"class/net/a-name-that-is-longer-than-any-that-a-kernel-has/speed", "1"},
        {"meminfo", "MemTotal: lots"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char tree[32];
        snprintf(tree, sizeof tree, "strange-%zu", i);
        struct os_facts f = tree_read(tree, &cases[i], 1, NULL);
        assert_true(f.cpu[0] && f.system[0] && f.cores > 0);
        assert_true(f.cores_physical == f.cores && f.cores_fast == f.cores);
        assert_int_equal(f.memory_bytes, 0);
        assert_in_range(f.n_nics, 0, 1);
    }
}

static void this_machine(void **state)
{
    struct os_facts f;
    (void)state;
    os_facts_get(&f);
    assert_true(f.cores > 0 && f.cores_physical > 0 && f.cores_fast <= f.cores_physical);
    assert_true(f.memory_bytes > 64u << 20 && f.memory_bytes_per_s == 0);
}

// ---- NVIDIA's library: one that the build made ----------------------------------------------------

static void gpus_of_a_library(void **state)
{
    char *library = mem_format("%s/tests/libfake_nvml.so", getenv("TANDEM_BIN"));
    (void)state;
    setenv("FAKE_NVML", "all", 1);
    struct os_facts f = tree_read("gpus", NULL, 0, library);
    assert_int_equal(f.n_gpus, 2);
    assert_string_equal(f.gpus[0].name, "Fake H100");
    assert_string_equal(f.gpus[0].driver, "550.54");
    assert_int_equal(f.gpus[0].memory_bytes, 80ull << 30);
    assert_true(f.gpus[0].memory_bytes_per_s > 3.35e12 && f.gpus[0].memory_bytes_per_s < 3.36e12);
    // The second one shares the machine's memory and tells next to nothing.
    assert_string_equal(f.gpus[1].name, "an NVIDIA GPU");
    assert_true(f.gpus[1].memory_bytes == f.memory_bytes && f.gpus[1].memory_bytes_per_s == 0);
    setenv("FAKE_NVML", "no-driver", 1);
    f = tree_read("gpus", NULL, 0, library);
    assert_int_equal(f.n_gpus, 0);
    setenv("FAKE_NVML", "none", 1);
    f = tree_read("gpus", NULL, 0, library);
    assert_int_equal(f.n_gpus, 0);
    unsetenv("FAKE_NVML");
    free(library);
}

// ---- as JSON -------------------------------------------------------------------------------------

static void json_round_trip(void **state)
{
    struct os_facts f = {.system = "S",
                         .cpu = "C",
                         .cores = 4,
                         .cores_physical = 2,
                         .cores_fast = 1},
                    back;
    struct err e = {0};
    (void)state;
    f.memory_bytes = 1ull << 39;
    f.memory_bytes_per_s = 8.19e11;
    f.gpus[0] = (struct os_gpu){"G", "1", 5, 6.5};
    f.nics[0] = (struct os_nic){"eth0", 1000000000, true};
    f.n_gpus = f.n_nics = 1;
    json_t *o = os_facts_json(&f);
    assert_int_equal(os_facts_parse(o, &back, &e), 0);
    json_t *again = os_facts_json(&back);
    assert_true(json_equal(o, again));
    json_decref(o);
    json_decref(again);
}

static void json_of_a_peer(void **state)
{
    static const struct {
        const char *text, *says; // NULL: taken
    } cases[] = {
        {"{}", NULL},
        {"{\"later\":{}}", NULL},
        {"{\"cpu\":null}", NULL},
        {"{\"cpu\":7}", "'cpu'"},
        {"{\"cores\":-1}", "'cores'"},
        {"{\"cores\":9999999999}", "'cores'"},
        {"{\"cores_fast\":1.5}", "'cores_fast'"},
        {"{\"memory_bytes\":-1}", "'memory_bytes'"},
        {"{\"memory_bytes_per_s\":1e300}", "'memory_bytes_per_s'"},
        {"{\"gpus\":{}}", "'gpus'"},
        {"{\"gpus\":[{\"name\":[]}]}", "'name'"},
        {"{\"gpus\":[{},{},{},{},{},{},{},{},{},{\"name\":[]}]}", NULL},
        {"{\"nics\":[{\"bits_per_s\":\"fast\"}]}", "'bits_per_s'"},
        {"{\"nics\":[{\"name\":\"a name of a network card that nobody would give to one\"}]}",
         "name"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = {0};
        struct os_facts f;
        json_t *o = json_loads(cases[i].text, 0, NULL);
        assert_non_null(o);
        int rc = os_facts_parse(o, &f, &e);
        if ((rc == 0) != !cases[i].says || (rc != 0 && !strstr(e.message, cases[i].says)))
            fail_msg("%s: %d \"%s\"", cases[i].text, rc, e.message);
        assert_true(f.n_gpus <= OS_GPUS_MAX && f.n_nics <= OS_NICS_MAX);
        json_decref(o);
    }
}

// ---- bandwidth -----------------------------------------------------------------------------------

static bool is_kept(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

// What a calm machine gave stays, what a busy one gave does not.
static void bandwidth_is_kept(void **state)
{
    struct os_facts f, kept;
    char *path = mem_format("%s/bandwidth.json", folder);
    (void)state;
    os_facts_get(&f);
    double v = os_bandwidth_get(&f);
    // No limit on how fast it is: on a machine without free memory there is no figure at all.
    if (v == 0)
        skip();
    assert_true(!is_kept(path) || os_bandwidth_get(&f) == v);
    kept = f;
    kept.memory_bytes_per_s = 12345;
    json_t *o = os_facts_json(&kept);
    char *text = json_text(o);
    put(".", "bandwidth.json", text);
    assert_true(os_bandwidth_get(&f) == 12345);
    // Another machine with the same home folder, and a file that says nothing.
    kept = f;
    kept.cores++;
    assert_true(os_bandwidth_get(&kept) != 12345);
    put(".", "bandwidth.json", "{\"cpu\":");
    v = os_bandwidth_get(&f);
    assert_true(v > 0 && v != 12345);
    free(text);
    json_decref(o);
    free(path);
}

// ---- the id --------------------------------------------------------------------------------------

static void the_id_stays(void **state)
{
    char first[OS_ID_HEX + 1], again[OS_ID_HEX + 1], named[OS_ID_HEX + 1];
    struct err e = {0};
    (void)state;
    assert_int_equal(os_machine_id(first, &e), 0);
    assert_int_equal(strspn(first, "0123456789abcdef"), OS_ID_HEX);
    assert_int_equal(os_machine_id(again, &e), 0);
    assert_string_equal(first, again);
    node_id_get(NULL, again);
    assert_string_equal(first, again);
    // Two nodes of one machine are told apart by their names, and each stays what it is.
    node_id_get("left", named);
    node_id_get("right", again);
    assert_string_not_equal(named, again);
    assert_string_not_equal(named, first);
    node_id_get("left", again);
    assert_string_equal(named, again);
}

static void a_damaged_id_is_named(void **state)
{
    static const char *const bad[] = {"", "0123", "0123456789abcdef0123456789abcdeg",
                                      "0123456789abcdef0123456789abcdef0"};
    char id[OS_ID_HEX + 1];
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct err e = {0};
        put(".", "node-id", bad[i]);
        assert_int_equal(os_machine_id(id, &e), ERR_CORRUPT);
        assert_non_null(strstr(e.message, "node-id"));
        assert_non_null(strstr(e.message, "delete it"));
    }
    // A node starts all the same, with an id that nobody else has.
    node_id_get(NULL, id);
    assert_int_equal(strspn(id, "0123456789abcdef"), OS_ID_HEX);
    put(".", "node-id", "0123456789ABCDEF0123456789abcdef\r");
    struct err e = {0};
    assert_int_equal(os_machine_id(id, &e), 0);
    assert_string_equal(id, "0123456789abcdef0123456789abcdef");
}

// Workers that start at the same moment on a new machine agree.
static void the_id_is_made_once(void **state)
{
    char *state_folder = mem_format("%s/new/state", folder), ids[8][OS_ID_HEX + 1] = {{0}};
    int fds[2];
    struct err e = {0};
    (void)state;
    setenv("TANDEM_STATE", state_folder, 1);
    assert_int_equal(os_pipe(fds, &e), 0);
    for (size_t i = 0; i < COUNT(ids); i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            char id[OS_ID_HEX + 1] = "";
            os_machine_id(id, &e);
            _exit(write(fds[1], id, OS_ID_HEX) == OS_ID_HEX ? 0 : 1);
        }
    }
    for (size_t i = 0; i < COUNT(ids); i++) {
        assert_int_equal(read(fds[0], ids[i], OS_ID_HEX), OS_ID_HEX);
        assert_string_equal(ids[i], ids[0]);
        wait(NULL);
    }
    close(fds[0]);
    close(fds[1]);
    setenv("TANDEM_STATE", folder, 1);
    free(state_folder);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tandem-facts-XXXXXX");
    return mkdtemp(folder) ? setenv("TANDEM_STATE", folder, 1) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hybrid_machine),    cmocka_unit_test(an_arm_machine),
        cmocka_unit_test(strange_trees),       cmocka_unit_test(this_machine),
        cmocka_unit_test(gpus_of_a_library),   cmocka_unit_test(json_round_trip),
        cmocka_unit_test(json_of_a_peer),      cmocka_unit_test(bandwidth_is_kept),
        cmocka_unit_test(the_id_stays),        cmocka_unit_test(a_damaged_id_is_named),
        cmocka_unit_test(the_id_is_made_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
