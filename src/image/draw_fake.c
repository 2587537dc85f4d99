// An engine without a library, for tests: its pictures follow from prompt and seed alone, each step takes as
// long as the model's name says, and some prompts make it fail as the library would.
//
//   fake:            steps take no time
//   fake:20          20 ms each
//   fake:20:cannot   cannot be loaded
//
// Prompts: "crash" aborts at its second step, "fail" fails there, "hang" hangs there for good.
#include "image/draw.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/random.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fake {
    int64_t step_ns;
    atomic_bool cancelled; // a flag alone: no ordering needed
};

static int fake_open(const json_t *options, void **engine, struct err *e)
{
    const char *model = json_string_value(json_object_get(options, "model"));
    struct fake *f = NULL;
    char *end = NULL;
    long ms = strtol(model + strlen("fake:"), &end, 10);
    if (strcmp(end, ":cannot") == 0)
        return err_set(e, ERR_CORRUPT, "'%s' cannot be loaded, as its name says", model);
    f = mem_alloc(sizeof *f);
    f->step_ns = ms * NS_PER_MS;
    *engine = f;
    return 0;
}

static void fake_close(void *engine)
{
    free(engine);
}

static void fake_describe(void *engine, json_t *ready)
{
    json_t *features = json_array();
    (void)engine;
    json_array_append_new(features, json_string("cancel"));
    json_array_append_new(features, json_string("preview"));
    json_put(ready, "version", json_string(TANDEM_VERSION));
    json_put(ready, "features", features);
}

static const char *text_of(const struct draw_task *t, const char *key)
{
    return json_string_or(t->request, key, "");
}

static uint32_t number_of(const struct draw_task *t, const char *key)
{
    return (uint32_t)json_integer_value(json_object_get(t->request, key));
}

static void picture_fill(const struct draw_task *t, struct image_picture *out)
{
    uint64_t state = (uint64_t)t->seed;
    size_t bytes = 0;
    for (const char *s = text_of(t, "prompt"); *s; s++)
        state = state * 31 + (uint8_t)*s;
    *out = (struct image_picture){number_of(t, "width"), number_of(t, "height"), NULL};
    bytes = (size_t)out->width * out->height * 3;
    out->rgb = mem_alloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        out->rgb[i] = (uint8_t)random_next(&state);
    if (t->initial != NULL) // what was given shows through
        memcpy(out->rgb, t->initial->rgb, bytes / 2);
}

static int trouble(const struct draw_task *t, struct err *e)
{
    const char *prompt = text_of(t, "prompt");
    if (strcmp(prompt, "crash") == 0)
        raise(SIGABRT);
    while (strcmp(prompt, "hang") == 0)
        pause();
    return strcmp(prompt, "fail") == 0 ? err_set(e, ERR_ENGINE, "it fails, as it was asked to") : 0;
}

static int fake_draw(void *engine, const struct draw_task *t, struct image_picture *out,
                     struct err *e)
{
    struct fake *f = engine;
    uint32_t steps = number_of(t, "steps"), previews = number_of(t, "previews");
    atomic_store_explicit(&f->cancelled, false, memory_order_relaxed);
    picture_fill(t, out);
    for (uint32_t i = 1; i <= steps; i++) {
        clock_sleep_until(clock_now_ns() + f->step_ns);
        if (draw_preview_due(i, steps, previews))
            t->hooks->preview(t->hooks->ctx, i, out);
        bool go = t->hooks->step(t->hooks->ctx, i, steps, ns_to_s(f->step_ns));
        if (!go || atomic_load_explicit(&f->cancelled, memory_order_relaxed))
            return err_set(e, ERR_CANCELLED, "cancelled");
        int rc = i == 2 ? trouble(t, e) : 0;
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void fake_cancel(void *engine)
{
    struct fake *f = engine;
    atomic_store_explicit(&f->cancelled, true, memory_order_relaxed);
}

const struct draw_engine draw_fake = {
    "fake", fake_open, fake_close, fake_describe, fake_draw, fake_cancel,
};
