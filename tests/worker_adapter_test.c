// Adapters in workers with the fake engine: how they come, which are refused, that answers of several take
// turns, and that nothing of one is ever another's: no prefix, no hand-off.
#include "tests/worker_rig.h"

#include "models/adapters.h"
#include "os/os.h"
#include "tests/gguf_make.h"
#include "tests/scratch.h"

#include <sys/stat.h>

#define N_PROMPT 300

struct file {
    struct buf bytes;
    char sha256[65];
};

static char folder[64];
static int32_t prompt[N_PROMPT];
static struct file one, two;

// ---- files ---------------------------------------------------------------------------------------

static void file_make(struct file *f, const char *arch, const char *name)
{
    struct models_sum sum;
    buf_init(&f->bytes, GGUF_MAKE_MAX);
    make_head(&f->bytes, 0, 4);
    make_key_text(&f->bytes, "general.architecture", arch);
    make_key_text(&f->bytes, "general.type", "adapter");
    make_key_text(&f->bytes, "adapter.type", "lora");
    make_key_text(&f->bytes, "general.name", name);
    models_sum_init(&sum);
    models_sum_put(&sum, f->bytes.data, f->bytes.len);
    models_sum_take(&sum, f->sha256);
    models_sum_fini(&sum);
}

static json_t *ship_head(const struct file *f, const char *arch, json_int_t at)
{
    return json_pack("{s:s,s:s,s:I,s:I,s:{s:s}}", "name", "n", "sha256", f->sha256, "bytes",
                     (json_int_t)f->bytes.len, "at", at, "base", "architecture", arch);
}

static json_t *ship(struct rig_node *n, json_t *head, const void *data, size_t len, unsigned *type)
{
    struct wire_frame f = wire_frame_json(WIRE_ADAPTER, 9, head);
    if (len > 0) {
        f.body = (struct wire_body){.data = mem_alloc(len), .len = len};
        memcpy(f.body.data, data, len);
    }
    rig_send(n, f);
    return rig_recv(n, type);
}

// The whole file in pieces of `piece` bytes; what the last of them was answered with.
static json_t *ship_all(struct rig_node *n, const struct file *f, size_t piece, unsigned *type)
{
    json_t *is = ship(n, ship_head(f, "fake", 0), NULL, 0, type);
    while (*type == WIRE_ADAPTER_IS && !json_is_true(json_object_get(is, "ready"))) {
        size_t at = (size_t)rig_integer(is, "at"), left = f->bytes.len - at;
        json_decref(is);
        is = ship(n, ship_head(f, "fake", (json_int_t)at), f->bytes.data + at,
                  left < piece ? left : piece, type);
    }
    return is;
}

static void shipped(struct rig_node *n, const struct file *f)
{
    unsigned type = 0;
    json_t *is = ship_all(n, f, 64, &type);
    if (type != WIRE_ADAPTER_IS)
        fail_msg("%s", json_string_value(json_object_get(is, "message")));
    assert_int_equal(rig_integer(is, "at"), f->bytes.len);
    json_decref(is);
}

static void refused(json_t *is, unsigned type, const char *code, const char *words)
{
    assert_int_equal(type, WIRE_FAILED);
    const char *message = json_string_value(json_object_get(is, "message"));
    assert_string_equal(json_string_value(json_object_get(is, "code")), code);
    if (!strstr(message, words))
        fail_msg("%s", message);
    json_decref(is);
}

static char *shelf(const struct file *f)
{
    return mem_format("%s/adapters/%s.gguf", folder, f->sha256);
}

static void answer(struct rig_node *d, const struct file *f, struct rig_request r,
                   struct rig_answer *a)
{
    r.adapter = f ? f->sha256 : NULL;
    rig_generate(d, &r);
    rig_answer_read(d, a);
    rig_answer_fini(a);
}

static struct rig_request request(uint64_t id)
{
    return (struct rig_request){.id = id, .tokens = prompt, .n = N_PROMPT, .max_tokens = 24};
}

// ---- coming in -----------------------------------------------------------------------------------

static void a_file_comes_once(void **state)
{
    struct stat st;
    unsigned type = 0;
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    shipped(d, &one);
    char *path = shelf(&one);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    json_t *is = ship(d, ship_head(&one, "fake", 0), NULL, 0, &type);
    assert_true(json_is_true(json_object_get(is, "ready")));
    json_decref(is);
    rig_stop(d);
    d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    is = ship(d, ship_head(&one, "fake", 0), NULL, 0, &type);
    assert_true(json_is_true(json_object_get(is, "ready"))); // it outlives the worker
    json_decref(is);
    rig_stop(d);
    free(path);
}

static void what_does_not_fit_is_refused(void **state)
{
    struct stat st;
    unsigned type = 0;
    struct file other;
    (void)state;
    file_make(&other, "llama", "other");
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    json_t *is = ship_all(d, &other, 64, &type);
    refused(is, type, "mismatch", "architecture llama");
    char *path = shelf(&other);
    assert_int_not_equal(stat(path, &st), 0);
    is = ship(d, ship_head(&one, "qwen2", 0), NULL, 0,
              &type); // on the shelf, but made for another base
    refused(is, type, "mismatch", "qwen2");
    free(path);
    // Another file than was announced.
    is = ship(d, ship_head(&other, "fake", 0), NULL, 0, &type);
    json_decref(is);
    struct file lie = {.bytes = other.bytes};
    memcpy(lie.sha256, two.sha256, sizeof lie.sha256);
    is = ship_all(d, &lie, 4096, &type);
    refused(is, type, "corrupt", "hash");
    rig_stop(d);
    buf_fini(&other.bytes);
}

static void pieces_must_continue(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"name\":\"n\",\"sha256\":\"../../x\",\"bytes\":5,\"base\":{\"architecture\":\"fake\"}}",
        "{\"name\":\"n\",\"sha256\":\"00\",\"bytes\":5,\"base\":{\"architecture\":\"fake\"}}",
    };
    unsigned type = 0;
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    json_t *is = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        is = ship(d, json_loads(bad[i], 0, NULL), NULL, 0, &type);
        refused(is, type, "invalid", "sha256");
    }
    is = ship(d, ship_head(&two, "fake", 8), "xx", 2, &type);
    refused(is, type, "invalid", "do not continue");
    json_decref(ship(d, ship_head(&two, "fake", 0), NULL, 0, &type));
    is = ship(d, ship_head(&two, "fake", 8), "xx", 2, &type);
    refused(is, type, "invalid", "at 8");
    is = ship(d, ship_head(&two, "fake", 0), two.bytes.data, two.bytes.len, &type);
    assert_true(json_is_true(json_object_get(is, "ready")));
    json_decref(is);
    is = ship(d, ship_head(&two, "fake", (json_int_t)two.bytes.len), "xx", 2, &type);
    refused(is, type, "invalid", "do not continue");
    rig_stop(d);
}

// ---- using ---------------------------------------------------------------------------------------

static void an_unknown_one_is_told(void **state)
{
    struct file none = {.sha256 =
                            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"};
    struct rig_answer a;
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    answer(d, &none, request(1), &a);
    assert_int_equal(a.type, WIRE_FAILED);
    assert_non_null(strstr(a.message, "not on this node"));
    none.sha256[10] = '/';
    answer(d, &none, request(2), &a);
    assert_int_equal(a.type, WIRE_FAILED);
    assert_non_null(strstr(a.message, "64 hex digits"));
    // What has its name but is none: the request fails, the worker lives.
    char *path = mem_format("%s/adapters/%064d.gguf", folder, 5);
    snprintf(none.sha256, sizeof none.sha256, "%064d", 5);
    assert_int_equal(os_file_write(path, "GGUF", 4, 0600, NULL), 0);
    answer(d, &none, request(3), &a);
    assert_int_equal(a.type, WIRE_FAILED);
    answer(d, NULL, request(4), &a);
    assert_int_equal(a.type, WIRE_DONE);
    unlink(path);
    free(path);
    rig_stop(d);
}

static void prefixes_are_never_mixed(void **state)
{
    struct rig_answer base, tuned, again;
    struct rig_request r = request(1);
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    shipped(d, &one);
    answer(d, NULL, r, &base);
    answer(d, &one, r, &tuned);
    assert_string_not_equal(base.text, tuned.text);
    r.keep = r.reuse = true;
    answer(d, NULL, r, &again);
    assert_string_equal(again.text, base.text);
    answer(d, &one, r, &again);
    assert_int_equal(again.cached, 0);
    assert_string_equal(again.text, tuned.text);
    answer(d, &one, r, &again);
    assert_true(again.cached > 0);
    assert_string_equal(again.text, tuned.text);
    answer(d, NULL, r, &again);
    assert_true(again.cached > 0);
    assert_string_equal(again.text, base.text);
    answer(d, &two, r, &again);
    assert_int_equal(again.cached, 0);
    rig_stop(d);
}

// The same answers as one after the other, and none of them waits for another to end.
static void answers_take_turns(void **state)
{
    struct rig_answer want[3];
    const struct file *files[3] = {NULL, &one, &two};
    char text[3][1024] = {0};
    size_t done = 0, most = 0, run = 0;
    uint64_t last = 0;
    (void)state;
    struct rig_node *d = rig_start("fake:decode_us=300", ENGINE_HANDOFF_RANGES, false, false);
    shipped(d, &one);
    shipped(d, &two);
    for (size_t i = 0; i < 3; i++) {
        struct rig_request r = request(i);
        r.max_tokens = 200;
        answer(d, files[i], r, &want[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        struct rig_request r = request(i);
        r.max_tokens = 200;
        r.adapter = files[i] ? files[i]->sha256 : NULL;
        rig_generate(d, &r);
    }
    size_t got[3] = {0};
    while (done < 3) {
        struct err e = {0};
        struct wire_frame f = {0};
        assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
        json_t *head = wire_frame_parse(&f, &e);
        const char *words = json_string_value(json_object_get(head, "text"));
        if (words && f.id < 3)
            strncat(text[f.id], words, sizeof text[f.id] - strlen(text[f.id]) - 1);
        if (f.type == WIRE_TOKEN) {
            got[f.id]++;
            bool all = got[0] > 0 && got[1] > 0 && got[2] > 0 && done == 0;
            run = f.id == last ? run + 1 : 1;
            most = all && run > most ? run : most;
            last = f.id;
        }
        done += f.type == WIRE_DONE;
        assert_int_not_equal(f.type, WIRE_FAILED);
        json_decref(head);
        wire_frame_fini(&f);
    }
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(text[i], want[i].text);
    assert_true(most > 0 && most <= WORKER_ADAPTER_STEPS);
    rig_stop(d);
}

// More adapters than are kept loaded: the one that was used longest ago goes and comes back.
static void many_adapters_share_the_room(void **state)
{
    enum { N = WORKER_ADAPTERS + 3 };
    struct file files[N];
    struct rig_answer first[N], again;
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    for (size_t i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "many-%zu", i);
        file_make(&files[i], "fake", name);
        shipped(d, &files[i]);
        answer(d, &files[i], request(i), &first[i]);
        assert_int_equal(first[i].type, WIRE_DONE);
    }
    for (size_t i = 0; i < N; i++) {
        answer(d, &files[i], request(i), &again);
        assert_string_equal(again.text, first[i].text);
        buf_fini(&files[i].bytes);
    }
    rig_stop(d);
}

// ---- handing over --------------------------------------------------------------------------------

static void prefill_with(struct rig_node *p, const struct file *f)
{
    struct rig_request r = request(5);
    unsigned type = 0;
    r.adapter = f ? f->sha256 : NULL;
    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    assert_int_equal(type, WIRE_ACCEPTED);
}

static void a_hand_off_has_one_adapter(void **state)
{
    struct rig_answer alone, handed;
    struct rig_request r = request(6);
    (void)state;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    struct rig_node *p = rig_start("fake", ENGINE_HANDOFF_RANGES, true, false);
    shipped(d, &one);
    shipped(p, &one);
    answer(d, &one, r, &alone);
    prefill_with(p, &one);
    r.port = p->port;
    answer(d, &one, r, &handed);
    assert_int_equal(handed.imported, N_PROMPT - 1);
    assert_string_equal(handed.fallback, "");
    assert_string_equal(handed.text, alone.text);
    rig_stop(p);
    rig_stop(d);
}

// A prefill side that computes with another one, or with none: no byte of it is taken.
static void sides_that_differ_part(void **state)
{
    const struct file *of_p[] = {NULL, &two, &one}, *of_d[] = {&one, &one, NULL};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct rig_answer alone, handed;
        struct rig_request r = request(6);
        struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
        struct rig_node *p = rig_start("fake", ENGINE_HANDOFF_RANGES, true, false);
        answer(d, of_d[i], r, &alone);
        prefill_with(p, of_p[i]);
        r.port = p->port;
        answer(d, of_d[i], r, &handed);
        assert_int_equal(handed.type, WIRE_DONE);
        assert_int_equal(handed.imported, 0);
        assert_non_null(strstr(handed.fallback, "adapter"));
        assert_string_equal(handed.text, alone.text);
        rig_stop(p);
        rig_stop(d);
    }
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tandem-shelf-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    rig_tokens(prompt, N_PROMPT, 3);
    file_make(&one, "fake", "one");
    file_make(&two, "fake", "two");
    return setenv("TANDEM_STATE", folder, 1);
}

static int teardown(void **state)
{
    (void)state;
    buf_fini(&one.bytes);
    buf_fini(&two.bytes);
    return scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_comes_once),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(pieces_must_continue),
        cmocka_unit_test(an_unknown_one_is_told),
        cmocka_unit_test(prefixes_are_never_mixed),
        cmocka_unit_test(answers_take_turns),
        cmocka_unit_test(many_adapters_share_the_room),
        cmocka_unit_test(a_hand_off_has_one_adapter),
        cmocka_unit_test(sides_that_differ_part),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
