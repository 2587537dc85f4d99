// The command line's own parts: options from three places, pictures against golden files, and the
// arithmetic of bench. TANDEM_GOLDEN=write renews the golden files.
#include "base/buf.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/draw.h"
#include "os/os.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char config_dir[] = "/tmp/tandem-cli-test-XXXXXX";

// ---- options ------------------------------------------------------------------------------------

struct values {
    bool flag;
    const char *text, *twin[2];
    int64_t integer;
    double real;
    uint32_t u32;
    int i32;
    struct cli_list list, rest;
};

static int parse(struct values *v, const char *const *args, bool rest, struct err *e)
{
    char *argv[16];
    int argc = 0;
    bool done = false;
    const struct cli_option options[] = {
        {"--flag", 'f', CLI_FLAG, &v->flag, NULL, "", 0, 0},
        {"--text", 't', CLI_STRING, &v->text, "X", "", 0, 0},
        {"--integer", 0, CLI_INT, &v->integer, "N", "", -5, 10},
        {"--real-number", 0, CLI_DOUBLE, &v->real, "N", "", 0, 0},
        {"--u32", 0, CLI_UINT32, &v->u32, "N", "", 0, 0},
        {"--i32", 0, CLI_INT32, &v->i32, "N", "", 0, 0},
        {"--twin", 0, CLI_TWIN, v->twin, "X", "", 0, 0},
        {"--list", 'l', CLI_LIST, &v->list, "X", "", 0, 0},
        {0},
    };
    argv[argc++] = (char *)"thing";
    for (; args[argc - 1] != NULL; argc++)
        argv[argc] = (char *)args[argc - 1];
    return cli_parse(argc, argv, options, "tandem thing", "A thing.", rest ? &v->rest : NULL, &done,
                     e);
}

static void flags_are_read(void **state)
{
    struct values v = {0};
    const char *const args[] = {"-f",    "--text=a=b", "--integer", "-5", "--real-number=2.5",
                                "--u32", "4294967295", "--i32",     "-1", "-l",
                                "x",     "--list",     "y",         "--", NULL};
    (void)state;
    assert_int_equal(parse(&v, args, false, NULL), 0);
    assert_true(v.flag);
    assert_string_equal(v.text, "a=b");
    assert_int_equal(v.integer, -5);
    assert_true(v.real > 2.49 && v.real < 2.51);
    assert_int_equal(v.u32, UINT32_MAX);
    assert_int_equal(v.i32, -1);
    assert_int_equal(v.list.n, 2);
    assert_string_equal(v.list.items[1], "y");
}

static void the_rest_is_positional(void **state)
{
    struct values v = {0};
    const char *const args[] = {"one", "-", "--flag=off", "--", "--flag", NULL};
    (void)state;
    assert_int_equal(parse(&v, args, true, NULL), 0);
    assert_int_equal(v.rest.n, 3);
    assert_string_equal(v.rest.items[2], "--flag");
    assert_false(v.flag);
}

static void mistakes_are_named(void **state)
{
    static const struct {
        const char *args[3];
        const char *says;
    } cases[] = {
        {{"--integre", "1"}, "did you mean --integer?"},
        {{"--zzzzzzzzzz"}, "--help lists them"},
        {{"--bogus"}, "no option \"--bogus\"; --help lists them"},
        {{"-x"}, "\"-x\""},
        {{"--integer"}, "needs a value"},
        {{"--text", "--flag"}, "--text needs a value"},
        {{"--integer", "11"}, "must be -5 to 10"},
        {{"--integer", "1x"}, "must be a whole number"},
        {{"--integer", ""}, "must be a whole number"},
        {{"--u32", "4294967296"}, "--u32"},
        {{"--u32", "-1"}, "--u32"},
        {{"--i32", "99999999999999999999"}, "--i32"},
        {{"--real-number", "nan"}, "must be a number"},
        {{"--flag=maybe"}, "must be true or false"},
        {{"stray"}, "\"stray\" is not expected"},
        {{"--log-level", "loud"}, "must be error, warn, info or debug"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct values v = {0};
        struct err e = {0};
        const char *const args[] = {cases[i].args[0], cases[i].args[1], NULL};
        assert_int_equal(parse(&v, args, false, &e), ERR_INVALID);
        if (strstr(e.message, cases[i].says) == NULL)
            fail_msg("%s: \"%s\"", args[0], e.message);
    }
}

static void only_typing_mistakes_are_corrected(void **state)
{
    static const char *const names[] = {"--listen",   "--cpus", "--cors",        "--ctx",
                                        "--no-tiles", "--json", "--pace-decode", "serve",
                                        "ps",         NULL};
    static const struct {
        const char *typed, *nearest;
    } cases[] = {
        {"--lisen", "--listen"},
        {"--lsiten", "--listen"},
        {"--listne", "--listen"},
        {"--bogus", NULL},
        {"--port", NULL},
        {"--ctz", "--ctx"},
        {"--cxt", "--ctx"},
        {"--pace-code", "--pace-decode"},
        {"-x", NULL},
        {"sevre", "serve"},
        {"sp", "ps"},
        {"chat", NULL},
        {"", NULL},
        {"--", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *nearest = cli_nearest(cases[i].typed, names);
        if ((nearest == NULL) != (cases[i].nearest == NULL) ||
            (nearest != NULL && strcmp(nearest, cases[i].nearest) != 0))
            fail_msg("%s: %s", cases[i].typed, nearest != NULL ? nearest : "none");
    }
    // Longer than any name can be.
    char letters[200];
    memset(letters, 'a', sizeof letters - 1);
    letters[sizeof letters - 1] = '\0';
    assert_null(cli_nearest(letters, names));
}

static void ini_write(const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/tandem.ini", config_dir);
    assert_int_equal(os_file_write(path, text, strlen(text), 0600, NULL), 0);
}

static void flags_beat_environment_beats_file(void **state)
{
    const char *const none[] = {NULL}, *const flag[] = {"--text", "flag", "--list", "c", NULL};
    struct values v = {0};
    (void)state;
    ini_write("[other]\ntext = no\n[thing]\ntext = file\ninteger = 7\nflag = yes\nlist = a, b\n");
    assert_int_equal(parse(&v, none, false, NULL), 0);
    assert_string_equal(v.text, "file");
    assert_int_equal(v.integer, 7);
    assert_true(v.flag);
    assert_int_equal(v.list.n, 2);
    setenv("TANDEM_TEXT", "environment", 1);
    setenv("TANDEM_REAL_NUMBER", "1.5", 1);
    setenv("TANDEM_LIST", "x,y,z", 1);
    setenv("TANDEM_TWIN", "q8_0", 1);
    assert_int_equal(parse(&v, none, false, NULL), 0);
    assert_string_equal(v.text, "environment");
    assert_true(v.real > 1.49);
    assert_int_equal(v.list.n, 3);
    assert_string_equal(v.list.items[2], "z");
    assert_string_equal(v.twin[1], "q8_0");
    assert_int_equal(parse(&v, flag, false, NULL), 0);
    assert_string_equal(v.text, "flag");
    assert_int_equal(v.list.n, 1);
    unsetenv("TANDEM_TEXT");
    unsetenv("TANDEM_REAL_NUMBER");
    unsetenv("TANDEM_LIST");
    unsetenv("TANDEM_TWIN");
    ini_write("");
}

static void mistakes_outside_name_their_place(void **state)
{
    const char *const none[] = {NULL};
    struct values v = {0};
    struct err e = {0};
    (void)state;
    ini_write("[thing]\n\nintegre = 1\n");
    assert_int_equal(parse(&v, none, false, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "tandem.ini:3: no option \"--integre\"; did you mean"));
    ini_write("[thing]\nwhat is this\n");
    assert_int_equal(parse(&v, none, false, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "tandem.ini:2"));
    ini_write("");
    setenv("TANDEM_INTEGER", "many", 1);
    assert_int_equal(parse(&v, none, false, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "TANDEM_INTEGER"));
    unsetenv("TANDEM_INTEGER");
}

static void worker_options_reach_their_members(void **state)
{
    struct node_worker_options o = {0};
    struct cli_option options[32] = {0};
    const char *const args[] = {"node",         "-m",         "m.gguf",      "--ctx",
                                "4096",         "--kv-type",  "q8_0",        "--pace-prefill",
                                "5.5",          "--no-tiles", "--threads",   "3",
                                "--gpu-layers", "-1",         "--max-stall", "auto"};
    char *argv[sizeof args / sizeof *args];
    bool done;
    (void)state;
    for (size_t i = 0; i < sizeof args / sizeof *args; i++)
        argv[i] = (char *)args[i];
    size_t n = cli_worker_options(&o, options, 31, true);
    assert_true(n > 10 && options[n].name == NULL);
    assert_int_equal(
        cli_parse((int)(sizeof args / sizeof *args), argv, options, "", "", NULL, &done, NULL), 0);
    assert_string_equal(o.engine.model, "m.gguf");
    assert_int_equal(o.engine.n_ctx, 4096);
    assert_string_equal(o.engine.type_k, "q8_0");
    assert_string_equal(o.engine.type_v, "q8_0");
    assert_int_equal(o.engine.n_threads, 3);
    assert_int_equal(o.engine.n_gpu_layers, -1);
    assert_int_equal(o.stall_ms, NODE_STALL_AUTO);
    assert_true(o.no_tiles && o.pace_prefill > 5);
}

// ---- pictures -----------------------------------------------------------------------------------

static const char *source_path(const char *name, char out[512])
{
    const char *source = getenv("TANDEM_SOURCE");
    snprintf(out, 512, "%s/tests/golden/%s", source != NULL ? source : ".", name);
    return out;
}

static json_t *canned(void)
{
    char path[512];
    json_t *r = json_load_file(source_path("bench.json", path), 0, NULL);
    if (r == NULL)
        fail_msg("%s cannot be read", path);
    return r;
}

static void golden_check(const char *name, const struct buf *got)
{
    char path[512], *want = NULL;
    size_t n = 0;
    source_path(name, path);
    if (getenv("TANDEM_GOLDEN") != NULL)
        assert_int_equal(os_file_write(path, got->data, got->len, 0644, NULL), 0);
    assert_int_equal(os_file_read(path, 1 << 20, &want, &n, NULL), 0);
    if (n != got->len || memcmp(want, got->data, n) != 0)
        fail_msg("%s differs from what is drawn:\n%s", path, (const char *)got->data);
    free(want);
}

static void text_equals_the_golden_files(void **state)
{
    static const struct {
        const char *file;
        struct draw_style style;
    } cases[] = {
        {"bench_utf8.txt", {.utf8 = true, .width = 100}},
        {"bench_ascii.txt", {.width = 80}},
        {"bench_color.txt", {.utf8 = true, .color = true, .width = 60}},
    };
    json_t *r = canned();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b;
        buf_init(&b, DRAW_MAX_BYTES);
        draw_table_text(r, &cases[i].style, &b);
        draw_timeline_text(r, &cases[i].style, &b);
        golden_check(cases[i].file, &b);
        buf_fini(&b);
    }
    json_decref(r);
}

static void svg_equals_the_golden_file(void **state)
{
    json_t *r = canned();
    struct buf b;
    (void)state;
    buf_init(&b, DRAW_MAX_BYTES);
    draw_svg(r, &b);
    golden_check("bench.svg", &b);
    buf_fini(&b);
    json_decref(r);
}

// A measurement on real nodes has fewer members; names may hold anything.
static void pictures_take_what_there_is(void **state)
{
    json_t *r = json_pack("{s:b, s:s, s:[{s:s, s:f}], s:{s:f}, s:n}", "emulated", 0, "model",
                          "a<b>&\"c\"\x01", "solo", "name", "<&>", "total_s", 2.0, "hybrid",
                          "total_s", 1.0, "unpaced");
    struct draw_style style = {.width = 80};
    struct buf b;
    (void)state;
    buf_init(&b, DRAW_MAX_BYTES);
    draw_table_text(r, &style, &b);
    draw_timeline_text(r, &style, &b);
    buf_clear(&b);
    draw_svg(r, &b);
    assert_null(strstr((const char *)b.data, "<&>"));
    assert_non_null(strstr((const char *)b.data, "a&lt;b&gt;&amp;&quot;c&quot;"));
    assert_null(strchr((const char *)b.data, 1));
    buf_fini(&b);
    json_decref(r);
}

static void ticks_are_round(void **state)
{
    static const struct {
        double span;
        int most;
        double tick;
    } cases[] = {{10, 10, 1}, {10, 4, 5}, {0.3, 9, 0.05}, {31, 9, 5}, {1000, 3, 500}, {0, 5, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_true(fabs(draw_tick(cases[i].span, cases[i].most) / cases[i].tick - 1) < 1e-9);
}

// ---- arithmetic ---------------------------------------------------------------------------------

static void medians_do_not_care_for_order(void **state)
{
    const double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2};
    (void)state;
    assert_true(bench_median(odd, 3) == 3);
    assert_true(bench_median(even, 4) == 2.5);
    assert_true(bench_median(odd, 0) == 0);
}

static void bounds_are_checked(void **state)
{
    static const struct {
        const char *bound;
        int rc;
    } cases[] = {
        {"efficiency>=0.98", 0},
        {"efficiency>=0.999", ERR_MISMATCH},
        {"overruns<=0", 0},
        {"hybrid.total_s<=10", ERR_MISMATCH},
        {"speedup.mac-studio-m3-ultra>=2.7", 0},
        {"speedup.dgx-spark>=1.9", ERR_MISMATCH},
        {"output_identical>=1", 0},
        {"unpaced.efficiency>=0.96", 0},
        {"no.such>=1", ERR_MISMATCH},
        {"model>=1", ERR_MISMATCH},
        {"efficiency=1", ERR_INVALID},
        {"efficiency>=", ERR_INVALID},
        {"efficiency>=1x", ERR_INVALID},
        {">=1", ERR_INVALID},
    };
    json_t *r = canned();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (bench_require(r, cases[i].bound, NULL) != cases[i].rc)
            fail_msg("%s", cases[i].bound);
    json_decref(r);
}

// The scale is what the slowest step needs, whichever node and kind it is.
static void the_time_scale_fits_the_slowest_step(void **state)
{
    static const struct bench_machine machines[2] = {{"p", 1000, 10}, {"d", 200, 50}};
    static const struct {
        enum bench_plan plan;
        const char *entry;
        double scale; // after this one
    } steps[] = {
        {BENCH_REMOTE, "{'who':'decode','what':'compute','t0':0,'t1':1,'p0':0,'p1':100}", 10},
        {BENCH_HYBRID, "{'who':'prefill','what':'compute','t0':1,'t1':2,'p0':0,'p1':500}", 10},
        {BENCH_HYBRID, "{'who':'prefill','what':'send','t0':1,'t1':90,'p0':0,'p1':500}", 10},
        {BENCH_LOCAL, "{'who':'decode','what':'compute','t0':0,'t1':6,'p0':0,'p1':100}", 12},
        {BENCH_LOCAL, "{'who':'decode','what':'decode','t0':0,'t1':0.3,'p0':9,'p1':10}", 15},
        {BENCH_REMOTE, "{'who':'decode','what':'decode','t0':0,'t1':1.6,'p0':9,'p1':10}", 16},
    };
    struct bench_series s = {0};
    (void)state;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        char text[160];
        snprintf(text, sizeof text, "{'timeline':[%s]}", steps[i].entry);
        for (char *c = text; *c != '\0'; c++)
            *c = *c == '\'' ? '"' : *c;
        json_t *timings = json_loads(text, 0, NULL);
        bench_floor_update(&s, steps[i].plan, timings);
        assert_true(fabs(bench_time_scale(&s, machines) / steps[i].scale - 1) < 1e-9);
        json_decref(timings);
    }
}

static void results_are_medians(void **state)
{
    struct bench_options o;
    struct bench_series s = {.runs = 3, .names = {"p", "d"}, .model = "m", .identical = true};
    (void)state;
    bench_options_default(&o);
    for (size_t i = 0; i < 3; i++) {
        double x = i == 0 ? 100 : 1; // one run was disturbed
        s.samples[BENCH_REMOTE][i] = (struct bench_sample){7 * x, 2 * x, 5 * x, 0, 0, 0, 0, 0, 0};
        s.samples[BENCH_LOCAL][i] = (struct bench_sample){9 * x, 8 * x, 1 * x, 0, 0, 0, 0, 0, 0};
        s.samples[BENCH_SERIAL][i] =
            (struct bench_sample){5 * x, 2 * x, 1 * x, 2 * x, 0, 0, 10, 0, 0};
        s.samples[BENCH_HYBRID][i] =
            (struct bench_sample){4 * x, 2.2 * x, 1 * x, 1, 2, 0.1, 10, 0, 0};
    }
    struct bench_outcome outcome = {&o, &s, &s, true, 18, 1e6};
    json_t *r = bench_result_json(&outcome);
    assert_true(fabs(draw_number(r, "ideal_s") - 3) < 1e-9);
    assert_true(fabs(draw_number(r, "efficiency") - 0.75) < 1e-9);
    assert_true(fabs(draw_number(r, "speedup.p") - 1.75) < 1e-9);
    assert_true(fabs(draw_number(r, "speedup.d") - 2.25) < 1e-9);
    assert_true(fabs(draw_number(r, "serial_ratio") - 1.25) < 1e-9);
    assert_true(fabs(draw_number(r, "unpaced.export_overhead") - 0.05) < 1e-9);
    assert_true(fabs(draw_number(r, "unpaced.streaming_cost") - 0.1) < 1e-9);
    json_decref(r);
}

static void the_catalogue_knows_the_pair(void **state)
{
    struct bench_machine m;
    struct err e = {0};
    char path[512];
    const char *source = getenv("TANDEM_SOURCE");
    (void)state;
    snprintf(path, sizeof path, "%s/share", source != NULL ? source : ".");
    setenv("TANDEM_SHARE", path, 1);
    assert_int_equal(bench_catalogue_find("dgx-spark", &m, &e), 0);
    assert_true(m.prefill_tokens_per_s == 5573 && fabs(m.decode_tokens_per_s - 11.1) < 1e-9);
    assert_int_equal(bench_catalogue_find("mac-studio-m3-ultra", &m, &e), 0);
    assert_int_equal(bench_catalogue_find("mac-studio-m3-ulta", &m, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "did you mean mac-studio-m3-ultra"));
    unsetenv("TANDEM_SHARE");
}

// ---- all ----------------------------------------------------------------------------------------

static int dir_make(void **state)
{
    (void)state;
    if (mkdtemp(config_dir) == NULL)
        return -1;
    return setenv("TANDEM_CONFIG", config_dir, 1);
}

static int dir_remove(void **state)
{
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/tandem.ini", config_dir);
    unlink(path);
    return rmdir(config_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_are_read),
        cmocka_unit_test(the_rest_is_positional),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(only_typing_mistakes_are_corrected),
        cmocka_unit_test(flags_beat_environment_beats_file),
        cmocka_unit_test(mistakes_outside_name_their_place),
        cmocka_unit_test(worker_options_reach_their_members),
        cmocka_unit_test(text_equals_the_golden_files),
        cmocka_unit_test(svg_equals_the_golden_file),
        cmocka_unit_test(pictures_take_what_there_is),
        cmocka_unit_test(ticks_are_round),
        cmocka_unit_test(medians_do_not_care_for_order),
        cmocka_unit_test(bounds_are_checked),
        cmocka_unit_test(the_time_scale_fits_the_slowest_step),
        cmocka_unit_test(results_are_medians),
        cmocka_unit_test(the_catalogue_knows_the_pair),
    };
    return cmocka_run_group_tests(tests, dir_make, dir_remove);
}
