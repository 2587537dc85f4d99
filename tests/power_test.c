// Power: counters that wrap, are locked or missing, GPUs that count and GPUs that do not; and which windows of a
// meter an average is made of.
#include "base/buf.h"
#include "base/clock.h"
#include "os/os.h"
#include "os/power.h"
#include "sched/watts.h"
#include "tests/scratch.h"
#include "tests/worker_rig.h"

#include <math.h>
#include <sys/stat.h>

static char folder[64], rapl_path[128];
static struct os_roots roots = {.proc = "/nowhere"};

static void put(const char *under, const char *text)
{
    struct err e = {0};
    char *path = mem_format("%s/class/powercap/%s", folder, under);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(os_mkdirs(path, &e), 0);
    *slash = '/';
    assert_int_equal(os_file_write(path, text, strlen(text), 0600, &e), 0);
    free(path);
}

static void energy_put(const char *domain, uint64_t uj)
{
    char under[64], text[32];
    snprintf(under, sizeof under, "%s/energy_uj", domain);
    snprintf(text, sizeof text, "%llu\n", (unsigned long long)uj);
    put(under, text);
}

static void domain_put(const char *domain, const char *name, uint64_t uj)
{
    char under[64];
    snprintf(under, sizeof under, "%s/name", domain);
    put(under, name);
    snprintf(under, sizeof under, "%s/max_energy_range_uj", domain);
    put(under, "1000000000\n");
    energy_put(domain, uj);
}

static void tree_clear(void)
{
    scratch_remove(folder);
    assert_int_equal(mkdir(folder, 0700), 0);
}

static bool near_enough(double v, double want)
{
    return fabs(v - want) < 1e-6;
}

static void two_packages_and_their_memory(void **state)
{
    struct os_power *p = NULL;
    struct err e = {0};
    (void)state;
    tree_clear();
    domain_put("intel-rapl:0", "package-0\n", 5000000);
    domain_put("intel-rapl:0:0", "core\n", 0);
    domain_put("intel-rapl:0:1", "dram\n", 0);
    domain_put("intel-rapl:1", "package-1\n", 0);
    domain_put("intel-rapl:2", "psys\n", 0);
    assert_int_equal(os_power_open(&roots, 0, &p, &e), 0);
    assert_string_equal(os_power_source(p), "RAPL (2 packages)");
    energy_put("intel-rapl:0", 7000000);
    energy_put("intel-rapl:0:0", 500000000);
    energy_put("intel-rapl:0:1", 1000000);
    energy_put("intel-rapl:1", 3000000);
    energy_put("intel-rapl:2", 500000000);
    struct os_power_reading r = os_power_read(p, NS_PER_S);
    assert_true(near_enough(r.cpu_joules, 2 + 1 + 3) && r.gpu_joules == 0);
    os_power_close(p);
}

static void a_counter_runs_over(void **state)
{
    struct os_power *p = NULL;
    struct err e = {0};
    (void)state;
    tree_clear();
    domain_put("intel-rapl:0", "package-0\n", 999000000);
    assert_int_equal(os_power_open(&roots, 0, &p, &e), 0);
    energy_put("intel-rapl:0", 4000000);
    assert_true(near_enough(os_power_read(p, 1).cpu_joules, 5));
    energy_put("intel-rapl:0", 6000000);
    assert_true(near_enough(os_power_read(p, 2).cpu_joules, 7));
    // Nonsense, and a file that goes: what was counted stays.
    put("intel-rapl:0/energy_uj", "lots");
    assert_true(near_enough(os_power_read(p, 3).cpu_joules, 7));
    assert_int_equal(unlink(rapl_path), 0);
    assert_true(near_enough(os_power_read(p, 4).cpu_joules, 7));
    energy_put("intel-rapl:0", 16000000);
    assert_true(near_enough(os_power_read(p, 5).cpu_joules, 17));
    os_power_close(p);
}

static void a_counter_whose_range_is_not_told(void **state)
{
    struct os_power *p = NULL;
    struct err e = {0};
    (void)state;
    tree_clear();
    domain_put("intel-rapl:0", "package-0\n", 999000000);
    put("intel-rapl:0/max_energy_range_uj", "");
    assert_int_equal(os_power_open(&roots, 0, &p, &e), 0);
    // How much went by unseen nobody knows: nothing is made up.
    energy_put("intel-rapl:0", 4000000);
    assert_true(near_enough(os_power_read(p, 1).cpu_joules, 0));
    energy_put("intel-rapl:0", 5000000);
    assert_true(near_enough(os_power_read(p, 2).cpu_joules, 1));
    os_power_close(p);
}

static void nothing_to_read_is_said(void **state)
{
    struct os_power *p = NULL;
    struct err e = {0};
    (void)state;
    tree_clear();
    assert_int_equal(os_power_open(&roots, 0, &p, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "no counters in"));
    assert_null(p);
    domain_put("intel-rapl:0", "package-0\n", 1);
    if (geteuid() == 0)
        skip(); // may read everything
    assert_int_equal(chmod(rapl_path, 0), 0);
    assert_int_equal(os_power_open(&roots, 0, &p, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "for root alone"));
}

// The first GPU counts 10 J more with every question, the second one uses 50 W.
static void gpus(void **state)
{
    char *library = mem_format("%s/tests/libfake_nvml.so", getenv("TANDEM_BIN"));
    const struct os_roots with = {.sys = folder, .proc = "/nowhere", .nvml = library};
    struct os_power *p = NULL;
    struct err e = {0};
    (void)state;
    tree_clear();
    setenv("FAKE_NVML", "all", 1);
    assert_int_equal(os_power_open(&with, 0, &p, &e), 0);
    assert_string_equal(os_power_source(p), "NVML (2 GPUs)");
    double first = os_power_read(p, 2 * NS_PER_S).gpu_joules;
    double second = os_power_read(p, 3 * NS_PER_S).gpu_joules;
    // The counter is asked for the second GPU as well when the meter opens, and refuses.
    assert_true(first >= 100 + 10 && near_enough(second - first, 50 + 10));
    os_power_close(p);
    domain_put("intel-rapl:0", "package-0\n", 1);
    assert_int_equal(os_power_open(&with, 0, &p, &e), 0);
    assert_string_equal(os_power_source(p), "RAPL (1 package), NVML (2 GPUs)");
    os_power_close(p);
    setenv("FAKE_NVML", "none", 1);
    assert_int_equal(os_power_open(&with, 0, &p, &e), 0);
    assert_string_equal(os_power_source(p), "RAPL (1 package)");
    os_power_close(p);
    unsetenv("FAKE_NVML");
    free(library);
}

// ---- averages ------------------------------------------------------------------------------------

static const double all_idle[WATTS_KINDS] = {1, 0, 0};
static const double all_prefill[WATTS_KINDS] = {0, 1, 0};
static const double half_decode[WATTS_KINDS] = {0, 0.5, 0.5};

static void only_pure_windows_count(void **state)
{
    struct watts w;
    (void)state;
    watts_init(&w);
    assert_false(watts_learn(&w, 10, 1, all_idle)); // the first one after something else
    assert_true(watts_learn(&w, 20, 1, all_idle));
    assert_false(watts_learn(&w, 500, 1, all_prefill));
    assert_true(watts_learn(&w, 200, 1, all_prefill));
    assert_false(watts_learn(&w, 100, 1, half_decode));
    assert_false(watts_learn(&w, 100, 1, half_decode));
    assert_false(watts_learn(&w, 20, 2, all_idle)); // half of it was something that nobody told
    assert_true(near_enough(watts_get(&w, WATTS_IDLE), 20));
    assert_true(near_enough(watts_get(&w, WATTS_PREFILL), 200));
    assert_true(watts_get(&w, WATTS_DECODE) == 0);
}

static void nonsense_does_not_count(void **state)
{
    static const struct {
        double joules, all_s;
    } cases[] = {{-1, 1}, {NAN, 1}, {INFINITY, 1}, {1, 0}, {1, -1}, {1, NAN}, {1, 1e-9}};
    struct watts w;
    (void)state;
    watts_init(&w);
    watts_learn(&w, 10, 1, all_idle);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_false(watts_learn(&w, cases[i].joules, cases[i].all_s, all_idle));
    assert_true(watts_learn(&w, 10, 1, all_idle));
    assert_true(near_enough(watts_get(&w, WATTS_IDLE), 10));
}

// At first the plain mean; later what is old fades.
static void recent_windows_count_more(void **state)
{
    struct watts w;
    (void)state;
    watts_init(&w);
    watts_learn(&w, 0, 1, all_idle);
    for (int i = 1; i <= 5; i++)
        assert_true(watts_learn(&w, i, 1, all_idle));
    assert_true(near_enough(watts_get(&w, WATTS_IDLE), 3));
    for (int i = 0; i < 10 * (int)WATTS_MEMORY_S; i++)
        watts_learn(&w, 100, 1, all_idle);
    assert_true(watts_get(&w, WATTS_IDLE) > 99);
    // Too little was seen to say anything.
    watts_init(&w);
    const double short_idle[WATTS_KINDS] = {0.2, 0, 0};
    watts_learn(&w, 1, 0.2, short_idle);
    assert_true(watts_learn(&w, 1, 0.2, short_idle));
    assert_true(watts_get(&w, WATTS_IDLE) == 0);
}

// ---- a worker's --------------------------------------------------------------------------------------

// The counter is pushed on by hand; what counts is that the right kind gets it.
static void a_worker_tells_watts(void **state)
{
    static struct worker w;
    double joules = 0;
    uint64_t uj = 0;
    struct message_power power = {0};
    (void)state;
    assert_null(worker_power_json(&w));
    worker_power_now(&w, WATTS_IDLE); // without a meter: nothing
    tree_clear();
    worker_power_start(&w, &roots);
    json_t *o = worker_power_json(&w);
    assert_non_null(strstr(json_string_value(json_object_get(o, "why")), "no counters"));
    assert_true(json_is_null(json_object_get(o, "idle_w")));
    json_decref(o);
    domain_put("intel-rapl:0", "package-0\n", 0);
    worker_power_start(&w, &roots);
    worker_power_now(&w, WATTS_DECODE);
    for (int i = 0; i < 600 && power.decode_w == 0; i++) {
        energy_put("intel-rapl:0", uj += 100000);
        clock_sleep_until(clock_now_ns() + 10 * NS_PER_MS);
        power = worker_power_get(&w, &joules);
    }
    assert_true(power.decode_w > 0 && power.idle_w == 0 && power.prefill_w == 0 && joules > 0);
    o = worker_power_json(&w);
    assert_true(json_is_null(json_object_get(o, "why")));
    assert_string_equal(json_string_value(json_object_get(o, "source")), "RAPL (1 package)");
    assert_true(json_number_value(json_object_get(o, "decode_w")) > 0);
    json_decref(o);
    worker_power_stop(&w);
    worker_power_stop(&w);
}

// ---- requests' shares -----------------------------------------------------------------------------

static double told_joules(struct worker *w, struct worker_job *j)
{
    json_t *head = json_object();
    worker_joules_put(w, j, head);
    const json_t *v = json_object_get(head, "joules");
    double joules = v ? json_number_value(v) : -1;
    json_decref(head);
    return joules;
}

static void count(struct worker *w, int kind, double until_s)
{
    w->power.kind = kind;
    worker_joules_count(w, (int64_t)(until_s * 1e9));
}

// Two that write and one that reads: 20 W idle, and 350 J more in 3.5 s of work.
static void requests_share_the_meter(void **state)
{
    static struct worker w;
    static struct worker_job jobs[3];
    struct worker_power *p = &w.power;
    (void)state;
    for (size_t i = 0; i < 3; i++)
        jobs[i] = (struct worker_job){.next = i < 2 ? &jobs[i + 1] : NULL,
                                      .phase = i < 2 ? WORKER_DECODE : WORKER_READ};
    w.jobs = jobs;
    assert_true(told_joules(&w, jobs) < 0); // no meter
    p->meter = (struct os_power *)(void *)&w;
    pthread_mutex_init(&p->lock, NULL);
    watts_init(&p->watts);
    count(&w, WATTS_DECODE, 1);
    count(&w, WATTS_PREFILL, 2);
    count(&w, -1, 3.5); // of both kinds
    count(&w, WATTS_IDLE, 3.75);
    p->window_ns = 4 * NS_PER_S;
    p->joules = 20 * 4 + 350;
    assert_true(told_joules(&w, jobs) < 0); // idle is not known yet
    p->given.worked_ns = 3750 * NS_PER_MS;  // that looked at the real clock
    for (int i = 0; i < 2; i++)
        watts_learn(&p->watts, 20, 1, all_idle);
    count(&w, WATTS_IDLE, 4);
    assert_true(near_enough(jobs[0].joules, 100) && near_enough(jobs[1].joules, 100));
    assert_true(near_enough(jobs[2].joules, 150));
    // Half of a second that is in no window yet, at 100 W.
    count(&w, WATTS_DECODE, 5);
    p->kind = WATTS_IDLE;
    assert_true(near_enough(told_joules(&w, jobs), 150));
    assert_true(near_enough(told_joules(&w, &jobs[2]), 150));
    // The one that has ended keeps its part, and an idle machine uses nothing for anybody.
    w.jobs = &jobs[1];
    p->given.worked_ns = 5 * NS_PER_S;
    p->window_ns = 8 * NS_PER_S;
    p->joules += 20 * 4 + 60;
    count(&w, WATTS_IDLE, 8);
    assert_true(near_enough(jobs[1].joules, 130) && near_enough(jobs[2].joules, 150));
    assert_true(near_enough(p->given.rate_w, 100)); // one second of four tells little
    // A window that ends in the middle of a step: the rest waits for the next one.
    p->window_ns = 9 * NS_PER_S;
    p->joules += 20 + 50;
    count(&w, WATTS_DECODE, 10);
    assert_true(near_enough(jobs[1].joules, 180) && near_enough(jobs[1].work_s, 1));
    p->kind = WATTS_IDLE;
    assert_true(near_enough(told_joules(&w, &jobs[1]), 230));
    p->meter = NULL;
    pthread_mutex_destroy(&p->lock);
}

// Turns the counter on, a step every 10 ms.
struct counter {
    _Atomic int64_t step_uj; // 0: it ends
    int64_t uj;
};

static void *counter_run(void *arg)
{
    struct counter *c = arg;
    struct err e = {0};
    char text[32];
    int64_t step;
    while ((step = c->step_uj) > 0) {
        int n = snprintf(text, sizeof text, "%lld\n", (long long)(c->uj += step));
        os_file_write(rapl_path, text, (size_t)n, 0600, &e);
        clock_sleep_until(clock_now_ns() + 10 * NS_PER_MS);
    }
    return NULL;
}

// The joules of a DONE of n tokens; below 0: absent.
static double answer_joules(struct rig_node *n, uint64_t id, uint32_t tokens)
{
    const int32_t prompt[] = {1, 2, 3};
    const struct rig_request r = {.id = id, .tokens = prompt, .n = 3, .max_tokens = tokens};
    unsigned type = WIRE_TOKEN;
    double joules = -1;
    rig_generate(n, &r);
    while (type == WIRE_TOKEN) {
        json_t *head = rig_recv(n, &type), *v = json_object_get(head, "joules");
        joules = v ? json_number_value(v) : -1;
        json_decref(head);
    }
    assert_int_equal(type, WIRE_DONE);
    return joules;
}

// The first answer comes before idle is known; the second one tells what was used while it ran.
static void an_answer_tells_joules(void **state)
{
    struct counter c = {.step_uj = 100000};
    pthread_t thread;
    double total = 0, told;
    (void)state;
    tree_clear();
    domain_put("intel-rapl:0", "package-0\n", 0);
    assert_int_equal(pthread_create(&thread, NULL, counter_run, &c), 0);
    rig_options.power = &roots;
    struct rig_node *n = rig_start("fake:decode_us=20000", ENGINE_HANDOFF_RANGES, false, false);
    rig_options.power = NULL;
    assert_true(answer_joules(n, 1, 1) < 0);
    for (int i = 0; i < 1000 && worker_power_get(&n->w, &total).idle_w == 0; i++)
        clock_sleep_until(clock_now_ns() + 10 * NS_PER_MS);
    assert_true(worker_power_get(&n->w, &total).idle_w > 0);
    c.step_uj = 1000000;
    told = answer_joules(n, 2, 60);
    c.step_uj = 0;
    pthread_join(thread, NULL);
    assert_true(told > 0 && told < (double)c.uj / 1e6);
    rig_stop(n);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tandem-power-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    roots.sys = folder;
    snprintf(rapl_path, sizeof rapl_path, "%s/class/powercap/intel-rapl:0/energy_uj", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_packages_and_their_memory),
        cmocka_unit_test(a_counter_runs_over),
        cmocka_unit_test(a_counter_whose_range_is_not_told),
        cmocka_unit_test(nothing_to_read_is_said),
        cmocka_unit_test(gpus),
        cmocka_unit_test(only_pure_windows_count),
        cmocka_unit_test(nonsense_does_not_count),
        cmocka_unit_test(recent_windows_count_more),
        cmocka_unit_test(a_worker_tells_watts),
        cmocka_unit_test(requests_share_the_meter),
        cmocka_unit_test(an_answer_tells_joules),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
