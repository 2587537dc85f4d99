// A training job around its mathematics: what of a chat is learned, options, optimiser, checkpoints, and a
// whole small job that ends the same whether it was interrupted or not.
#include "llama_rig.h"

#include "base/clock.h"
#include "base/json.h"
#include "os/os.h"
#include "tests/scratch.h"
#include "train/checkpoint.h"
#include "train/dataset.h"
#include "train/train.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static char *in_dir(const char *name)
{
    return mem_format("%s/%s", dir, name);
}

static void file_put(const char *name, const char *text)
{
    struct err e = {0};
    char *path = in_dir(name);
    if (os_file_write(path, text, strlen(text), 0600, &e) != 0)
        fail_msg("%s", e.message);
    free(path);
}

static int dir_make(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tandem-job-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int dir_remove(void **state)
{
    (void)state;
    return scratch_remove(dir);
}

// ---- data ----------------------------------------------------------------------------------------

static int load(struct engine *g, const char *text, struct dataset **d, struct err *e)
{
    char *path = in_dir("data.jsonl");
    file_put("data.jsonl", text);
    int rc = dataset_load(path, g, 200, d, e);
    free(path);
    return rc;
}

// The supervised tokens' text; special tokens have none.
static void learned_text(struct engine *g, const struct graph_sample *s, char *out, size_t cap)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->supervised[i])
            n += g->ops->piece(g, s->tokens[i], out + n, cap - n);
    out[n] = '\0';
}

static void answers_are_learned_and_nothing_else(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_NONE);
    struct dataset *d;
    struct err e = {0};
    char text[512];
    (void)state;
    if (load(g,
             "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
             "{\"role\":\"user\",\"content\":\"One?\"},{\"role\":\"assistant\",\"content\":\"Uno."
             "\"},"
             "{\"role\":\"user\",\"content\":\"Two?\"},{\"role\":\"assistant\",\"content\":\"Dos."
             "\"}]}\n"
             "\n"
             "{\"messages\":[{\"role\":\"user\",\"content\":\"Three?\"},"
             "{\"role\":\"assistant\",\"content\":\"Tres.\",\"weight\":0},"
             "{\"role\":\"user\",\"content\":\"Four?\"},"
             "{\"role\":\"assistant\",\"content\":\"Cuatro.\",\"weight\":1}]}\n",
             &d, &e) != 0)
        fail_msg("%s", e.message);
    assert_int_equal(d->n, 2);
    learned_text(g, &d->samples[0], text, sizeof text);
    assert_string_equal(text, "Uno.Dos.");
    learned_text(g, &d->samples[1], text, sizeof text);
    assert_string_equal(text, "Cuatro.");
    // The end token is learned, or the tuned model would never stop; what the template adds is not.
    const struct graph_sample *s = &d->samples[1];
    uint32_t last = s->n - 1;
    while (!s->supervised[last])
        last--;
    assert_true(g->ops->is_end(g, s->tokens[last]));
    assert_int_equal(d->n_targets, graph_targets(&d->samples[0]) + graph_targets(&d->samples[1]));
    dataset_free(d);
    g->ops->free(g);
}

#define GOOD                                                                                       \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"    \
    "\"b\"}]}\n"

static void bad_lines_are_named(void **state)
{
    static const struct {
        const char *text, *words;
        int code;
    } cases[] = {
        {"", "no example", ERR_INVALID},
        {"\n \n", "no example", ERR_INVALID},
        {GOOD "{\"messages\":", "line 2", ERR_INVALID},
        {GOOD GOOD "hello\n", "line 3", ERR_INVALID},
        {"[]\n", "line 1: must be a JSON object", ERR_INVALID},
        {"{\"prompt\":\"a\"}\n", "line 1: \"messages\"", ERR_INVALID},
        {"{\"messages\":[]}\n", "at least one", ERR_INVALID},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n", "to be learned", ERR_INVALID},
        {"{\"messages\":[{\"role\":\"bot\",\"content\":\"a\"}]}\n", "role \"bot\"", ERR_INVALID},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":7}]}\n", "message 1 has no text",
         ERR_INVALID},
    };
    struct engine *g = rig_open(ENGINE_HANDOFF_NONE);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dataset *d = NULL;
        struct err e = {0};
        assert_int_equal(load(g, cases[i].text, &d, &e), cases[i].code);
        if (!strstr(e.message, cases[i].words))
            fail_msg("\"%s\" does not say \"%s\"", e.message, cases[i].words);
    }
    char *longer = mem_alloc(4096), *path = in_dir("nowhere.jsonl");
    struct dataset *d = NULL;
    struct err e = {0};
    snprintf(longer, 4096, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"%0*d\"}]}", 2000,
             7);
    assert_int_equal(load(g, longer, &d, &e), ERR_RANGE);
    assert_non_null(strstr(e.message, "at most 200"));
    assert_int_equal(dataset_load(path, g, 200, &d, &e), ERR_NOT_FOUND);
    free(longer);
    free(path);
    g->ops->free(g);
}

// ---- options -------------------------------------------------------------------------------------

static void options_round_trip(void **state)
{
    struct train_options o, back;
    struct err e = {0};
    (void)state;
    train_options_default(&o);
    snprintf(o.model, sizeof o.model, "m.gguf");
    snprintf(o.data, sizeof o.data, "d.jsonl");
    o.lora.targets = 1u << BASE_Q | 1u << BASE_DOWN;
    o.lora.seed = 123456789012345;
    o.weights = TRAIN_WEIGHTS_QUANTISED;
    json_t *job = train_options_json(&o);
    assert_int_equal(train_options_parse(job, &back, &e), 0);
    json_t *again = train_options_json(&back);
    assert_true(json_equal(job, again));
    assert_int_equal(back.lora.targets, o.lora.targets);
    json_decref(job);
    json_decref(again);
}

static void bad_options_are_named(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"[]", "JSON object"},
        {"{}", "\"model\" is missing"},
        {"{\"model\":\"m\"}", "\"data\" is missing"},
        {"{\"model\":\"m\",\"data\":\"d\",\"lerning_rate\":1}", "lerning_rate"},
        {"{\"model\":\"m\",\"data\":\"d\",\"rank\":0}", "rank"},
        {"{\"model\":\"m\",\"data\":\"d\",\"rank\":\"8\"}", "rank"},
        {"{\"model\":\"m\",\"data\":\"d\",\"learning_rate\":2}", "learning_rate"},
        {"{\"model\":\"m\",\"data\":\"d\",\"targets\":\"q,x\"}", "\"x\""},
        {"{\"model\":\"m\",\"data\":\"d\",\"weights\":\"thin\"}", "thin"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct train_options o;
        struct err e = {0};
        json_t *job = json_loads(cases[i].text, 0, NULL);
        assert_int_not_equal(train_options_parse(job, &o, &e), 0);
        if (!strstr(e.message, cases[i].words))
            fail_msg("\"%s\" does not say \"%s\"", e.message, cases[i].words);
        json_decref(job);
    }
}

// ---- the optimiser -----------------------------------------------------------------------------------

// The values of the paper's algorithm, worked out apart from this code.
static void adamw_follows_its_paper(void **state)
{
    static const float grads[] = {0.1f, -0.2f, 0.3f};
    static const float want[] = {0.89900001f, 0.93471136f, 0.89945254f};
    struct adamw_options o;
    struct adamw a;
    float w = 1;
    (void)state;
    adamw_options_default(&o);
    o.rate = 0.1;
    o.weight_decay = 0.01;
    o.clip = 0;
    o.n_steps = 1ull << 40; // as good as a constant rate
    adamw_init(&a, &o, 1);
    for (int i = 0; i < 3; i++) {
        float g = grads[i];
        assert_float_equal(adamw_step(&a, &w, &g), fabsf(grads[i]), 1e-6);
        assert_float_equal(w, want[i], 1e-6);
    }
    float bad = NAN;
    bool finite = isfinite(adamw_step(&a, &w, &bad));
    assert_true(!finite);
    assert_float_equal(w, want[2], 1e-6);
    adamw_fini(&a);
}

static void gradients_are_clipped_together(void **state)
{
    struct adamw_options o;
    struct adamw a, b;
    float w[2] = {1, 1}, v[2] = {1, 1}, large[2] = {30, 40}, small[2] = {0.6f, 0.8f};
    (void)state;
    adamw_options_default(&o);
    o.n_steps = 100;
    adamw_init(&a, &o, 2);
    adamw_init(&b, &o, 2);
    assert_float_equal(adamw_step(&a, w, large), 50, 1e-4);
    assert_float_equal(adamw_step(&b, v, small), 1, 1e-6);
    for (int i = 0; i < 2; i++) {
        assert_float_equal(a.m[i], b.m[i], 1e-7);
        assert_float_equal(w[i], v[i], 1e-7);
    }
    adamw_fini(&a);
    adamw_fini(&b);
}

static void the_rate_warms_up_and_falls(void **state)
{
    struct adamw_options o;
    (void)state;
    adamw_options_default(&o);
    o.rate = 1;
    o.warmup_steps = 10;
    o.n_steps = 110;
    assert_float_equal(adamw_rate(&o, 0), 0.1, 1e-9);
    assert_float_equal(adamw_rate(&o, 9), 1, 1e-9);
    assert_float_equal(adamw_rate(&o, 10), 1, 1e-9);
    assert_float_equal(adamw_rate(&o, 60), 0.5, 1e-9);
    assert_true(adamw_rate(&o, 109) < 0.001 && adamw_rate(&o, 109) > 0);
    assert_true(adamw_rate(&o, 110) == 0);
}

// ---- checkpoints ---------------------------------------------------------------------------------------

#define N 1000
static float arrays[3][N], back[3][N];

static struct checkpoint at_step(uint64_t step, float arrays_of[3][N])
{
    return (struct checkpoint){.step = step,
                               .key = 42,
                               .n = N,
                               .values = arrays_of[0],
                               .m = arrays_of[1],
                               .v = arrays_of[2]};
}

static void write_step(uint64_t step)
{
    struct err e = {0};
    struct checkpoint c = at_step(step, arrays);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < N; i++)
            arrays[k][i] = (float)step + (float)(k * N + i) / 7.0f;
    if (checkpoint_write(dir, &c, &e) != 0)
        fail_msg("%s", e.message);
}

static void the_newest_whole_checkpoint_comes_back(void **state)
{
    struct err e = {0};
    struct checkpoint c = at_step(0, back);
    (void)state;
    assert_int_equal(checkpoint_read(dir, &c, &e), ERR_NOT_FOUND);
    for (uint64_t step = 10; step <= 40; step += 10)
        write_step(step);
    assert_int_equal(checkpoint_read(dir, &c, &e), 0);
    assert_int_equal(c.step, 40);
    assert_memory_equal(arrays, back, sizeof back);
    char *old = in_dir("checkpoints/step-20"), *kept = in_dir("checkpoints/step-30");
    assert_int_not_equal(access(old, F_OK), 0);
    assert_int_equal(access(kept, F_OK), 0);
    free(old);
    free(kept);
}

static void damaged_and_half_written_ones_are_passed_over(void **state)
{
    struct err e = {0};
    struct checkpoint c = at_step(0, back);
    (void)state;
    write_step(10);
    write_step(20);
    char *path = in_dir("checkpoints/step-20/state"),
         *complete = in_dir("checkpoints/step-20/COMPLETE");
    FILE *f = fopen(path, "r+");
    fseek(f, 500, SEEK_SET);
    fputc(fgetc(f) ^ 0x55, f);
    fclose(f);
    assert_int_equal(checkpoint_read(dir, &c, &e), 0);
    assert_int_equal(c.step, 10);
    write_step(20);
    assert_int_equal(unlink(complete), 0);
    assert_int_equal(checkpoint_read(dir, &c, &e), 0);
    assert_int_equal(c.step, 10);
    free(path);
    free(complete);
}

static void another_jobs_checkpoint_is_refused(void **state)
{
    struct err e = {0};
    struct checkpoint c = at_step(0, back);
    (void)state;
    write_step(10);
    c.key = 43;
    assert_int_equal(checkpoint_read(dir, &c, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.message, "another job"));
}

// ---- a whole job ------------------------------------------------------------------------------------------

static struct train_options job_options(void)
{
    struct train_options o;
    train_options_default(&o);
    snprintf(o.model, sizeof o.model, "%s", getenv("TANDEM_TEST_MODEL"));
    snprintf(o.data, sizeof o.data, "%s/data.jsonl", dir);
    o.lora.rank = 2;
    o.lora.targets = 1u << BASE_Q | 1u << BASE_V;
    o.epochs = 1;
    o.batch = 1;
    o.threads = 1;
    o.checkpoint_steps = 1;
    o.optimiser.rate = 1e-3;
    return o;
}

struct stopper {
    const char *folder;
    atomic_bool stop;
};

// Sets the flag as soon as one step is told.
static void *stop_after_a_step(void *ctx)
{
    struct stopper *s = ctx;
    char *path = mem_format("%s/progress.jsonl", s->folder);
    struct stat st = {0};
    for (int i = 0; i < 6000 && (stat(path, &st) != 0 || st.st_size == 0); i++)
        clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    atomic_store(&s->stop, true);
    free(path);
    return NULL;
}

static char *adapter_bytes(const char *folder, size_t *n)
{
    struct err e = {0};
    char *path = mem_format("%s/adapter.gguf", folder), *data = NULL;
    if (os_file_read(path, 64u << 20, &data, n, &e) != 0)
        fail_msg("%s", e.message);
    free(path);
    return data;
}

static void an_interrupted_job_ends_like_an_undisturbed_one(void **state)
{
    struct err e = {0};
    struct stopper s = {.stop = false};
    pthread_t thread;
    size_t n[2];
    (void)state;
    char *straight = in_dir("straight"), *broken = in_dir("broken");
    assert_int_equal(mkdir(straight, 0700), 0);
    assert_int_equal(mkdir(broken, 0700), 0);
    file_put("data.jsonl", GOOD GOOD GOOD);
    struct train_options o = job_options();
    if (train_run(straight, &o, NULL, &e) != 0)
        fail_msg("%s", e.message);
    s.folder = broken;
    assert_int_equal(pthread_create(&thread, NULL, stop_after_a_step, &s), 0);
    int rc = train_run(broken, &o, &s.stop, &e);
    pthread_join(thread, NULL);
    assert_int_equal(rc, ERR_CANCELLED);
    if (train_run(broken, &o, NULL, &e) != 0)
        fail_msg("%s", e.message);
    char *a = adapter_bytes(straight, &n[0]), *b = adapter_bytes(broken, &n[1]);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(a, b, n[0]);
    o.lora.seed++; // another job in the same folder would mix two
    assert_int_equal(train_run(broken, &o, NULL, &e), ERR_MISMATCH);
    free(a);
    free(b);
    free(straight);
    free(broken);
}

static void a_job_says_how_it_failed(void **state)
{
    struct err e = {0};
    struct train_options o = job_options();
    (void)state;
    file_put("data.jsonl", GOOD "{}\n");
    assert_int_equal(train_run(dir, &o, NULL, &e), ERR_INVALID);
    char *path = in_dir("result.json"), *text = NULL;
    size_t n = 0;
    assert_int_equal(os_file_read(path, 1 << 16, &text, &n, &e), 0);
    json_t *r = json_parse(text, n, &e);
    assert_string_equal(json_string_value(json_object_get(r, "status")), "failed");
    assert_non_null(strstr(json_string_value(json_object_get(r, "error")), "line 2"));
    json_decref(r);
    free(text);
    free(path);
    file_put("data.jsonl", GOOD);
    o.memory_bytes = 1 << 20;
    assert_int_equal(train_run(dir, &o, NULL, &e), ERR_RANGE);
    assert_non_null(strstr(e.message, "may be used"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_are_learned_and_nothing_else, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(bad_lines_are_named, dir_make, dir_remove),
        cmocka_unit_test(options_round_trip),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(adamw_follows_its_paper),
        cmocka_unit_test(gradients_are_clipped_together),
        cmocka_unit_test(the_rate_warms_up_and_falls),
        cmocka_unit_test_setup_teardown(the_newest_whole_checkpoint_comes_back, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(damaged_and_half_written_ones_are_passed_over, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(another_jobs_checkpoint_is_refused, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(an_interrupted_job_ends_like_an_undisturbed_one, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(a_job_says_how_it_failed, dir_make, dir_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
