// stable-diffusion.cpp behind the table of image/draw.h. The only file that includes its header, and compiled
// only where it was built from source. Its API changes from release to release; cmake/StableDiffusion.cmake
// finds out what this one has (SD_HAS_*):
//
//   CANCEL          sd_cancel_generation; without it the worker is ended and started again
//   EAGER_LOAD      reads all weights at once, so that a file cut short is found before the first request
//   PARAMS_BACKEND  where weights are kept; before it OFFLOAD, a yes or no
//   OUT_IMAGES      generate_image says whether it succeeded and hands the pictures out
//   MINIT2I         the layout of our own test model
//
// Progress, previews and logs go to callbacks of the whole process: there is one engine in it, and one
// picture at a time.
#include "image/draw.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <stable-diffusion.h>

struct sd {
    sd_ctx_t *context;
    bool tiling;
    const struct draw_hooks *hooks; // NULL: nothing is being drawn
    uint32_t steps, previews;       // of the picture
    bool initial;                   // begins with a picture, and takes fewer steps
    atomic_bool cancelled;          // a flag alone: no ordering needed
};

static void cancel_now(struct sd *s)
{
    atomic_store_explicit(&s->cancelled, true, memory_order_relaxed);
#ifdef SD_HAS_CANCEL
    sd_cancel_generation(s->context, SD_CANCEL_ALL);
#endif
}

// ---- what the library tells ----------------------------------------------------------------------

// Below warnings it writes prompts, and its warnings are for those who know it well.
static void on_log(enum sd_log_level_t level, const char *text, void *data)
{
    (void)data;
    if (level >= SD_LOG_WARN)
        log_write(level == SD_LOG_WARN ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR, "image", "%.*s",
                  (int)strcspn(text, "\n"), text);
}

// Weights that are loaded report their progress in the same way; their counts are others.
static void on_progress(int step, int steps, float seconds, void *data)
{
    struct sd *s = data;
    bool ours = steps == (int)s->steps || (s->initial && steps < (int)s->steps);
    if (s->hooks == NULL || step < 1 || !ours)
        return;
    bool go = s->hooks->step(s->hooks->ctx, (uint32_t)step, (uint32_t)steps, (double)seconds);
    // Once more if it was cancelled before it began: the library forgets that.
    if (!go || atomic_load_explicit(&s->cancelled, memory_order_relaxed))
        cancel_now(s);
}

static void on_preview(int step, int frames, sd_image_t *images, bool noisy, void *data)
{
    struct sd *s = data;
    (void)noisy;
    if (s->hooks == NULL || frames < 1 || images[0].channel != 3 || step < 1 ||
        !draw_preview_due((uint32_t)step, s->steps, s->previews))
        return;
    const struct image_picture p = {images[0].width, images[0].height, images[0].data};
    s->hooks->preview(s->hooks->ctx, (uint32_t)step, &p);
}

// ---- loading -------------------------------------------------------------------------------------

static const char *text_of(const json_t *v, const char *key)
{
    return json_string_value(json_object_get(v, key));
}

static bool flag_of(const json_t *v, const char *key)
{
    return json_is_true(json_object_get(v, key));
}

static int params_fill(sd_ctx_params_t *p, const json_t *o, struct err *e)
{
    const char *type = text_of(o, "type");
    int threads = (int)json_integer_value(json_object_get(o, "threads"));
    sd_ctx_params_init(p);
    p->model_path = text_of(o, "model");
    p->diffusion_model_path = text_of(o, "diffusion_model");
    p->vae_path = text_of(o, "vae");
    p->taesd_path = text_of(o, "taesd");
    p->t5xxl_path = text_of(o, "t5xxl");
    p->clip_l_path = text_of(o, "clip_l");
    p->clip_g_path = text_of(o, "clip_g");
    p->llm_path = text_of(o, "llm");
    p->n_threads = threads > 0 ? threads : p->n_threads;
    p->flash_attn = p->diffusion_flash_attn = flag_of(o, "flash_attention");
#ifdef SD_HAS_EAGER_LOAD
    p->eager_load = true;
#endif
#ifdef SD_HAS_VAE_DECODE_ONLY
    p->vae_decode_only = false; // pictures may come as input
    p->free_params_immediately = false;
#endif
#ifdef SD_HAS_PARAMS_BACKEND
    p->params_backend = flag_of(o, "offload") ? "cpu" : p->params_backend;
#elif defined(SD_HAS_OFFLOAD)
    p->offload_params_to_cpu = flag_of(o, "offload");
#endif
    p->wtype = type != NULL ? str_to_sd_type(type) : p->wtype;
    if (type != NULL && p->wtype == SD_TYPE_COUNT)
        return err_set(e, ERR_INVALID, "weights of type \"%.40s\" are not known; q8_0 and f16 are",
                       type);
    return 0;
}

static int sd_open(const json_t *options, void **engine, struct err *e)
{
    struct sd *s = mem_alloc(sizeof *s);
    sd_ctx_params_t p;
    int rc = params_fill(&p, options, e);
    s->tiling = flag_of(options, "tiling");
    sd_set_log_callback(on_log, s);
    sd_set_progress_callback(on_progress, s);
    if (rc == 0)
        s->context = new_sd_ctx(&p);
    if (rc == 0 && s->context == NULL)
        rc = err_set(e, ERR_ENGINE,
                     "stable-diffusion.cpp %s cannot load this model; what it said is in the log. "
                     "Either a part is missing (--image-vae, --image-t5xxl, ...) or this release "
                     "does not know its layout",
                     sd_version());
    if (rc != 0) {
        free(s);
        return rc;
    }
    *engine = s;
    return 0;
}

static void sd_close(void *engine)
{
    struct sd *s = engine;
    free_sd_ctx(s->context);
    free(s);
}

static void sd_describe(void *engine, json_t *ready)
{
    static const char *const features[] = {
#ifdef SD_HAS_CANCEL
        "cancel",
#endif
#ifdef SD_HAS_EAGER_LOAD
        "eager",
#endif
#ifdef SD_HAS_MINIT2I
        "minit2i",
#endif
        "preview",
    };
    json_t *list = json_array();
    (void)engine;
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        json_array_append_new(list, json_string(features[i]));
    json_put(ready, "features", list);
    json_put(ready, "version", json_string(sd_version()));
}

// ---- drawing -------------------------------------------------------------------------------------

static int sampling_fill(sd_sample_params_t *p, const json_t *r, struct err *e)
{
    const char *sampler = text_of(r, "sampler"), *scheduler = text_of(r, "scheduler");
    p->sample_steps = (int)json_integer_value(json_object_get(r, "steps"));
    p->guidance.txt_cfg = (float)json_number_value(json_object_get(r, "cfg"));
    if (sampler != NULL)
        p->sample_method = str_to_sample_method(sampler);
    if (scheduler != NULL)
        p->scheduler = str_to_scheduler(scheduler);
    if (sampler != NULL && p->sample_method == SAMPLE_METHOD_COUNT)
        return err_set(e, ERR_INVALID, "this release has no sampler \"%.40s\"", sampler);
    if (scheduler != NULL && p->scheduler == SCHEDULER_COUNT)
        return err_set(e, ERR_INVALID, "this release has no scheduler \"%.40s\"", scheduler);
    return 0;
}

static sd_image_t image_of(const struct image_picture *p)
{
    return (sd_image_t){p->width, p->height, 3, p->rgb};
}

// The library wants a mask with one channel; *grey is to be freed.
static sd_image_t mask_of(const struct image_picture *p, uint8_t **grey)
{
    size_t n = (size_t)p->width * p->height;
    *grey = mem_alloc(n);
    for (size_t i = 0; i < n; i++)
        (*grey)[i] = p->rgb[3 * i];
    return (sd_image_t){p->width, p->height, 1, *grey};
}

static uint32_t loras_fill(sd_lora_t *out, const json_t *r)
{
    const json_t *list = json_object_get(r, "loras"), *l = NULL;
    size_t i = 0;
    json_array_foreach(list, i, l)
    {
        if (i < IMAGE_LORAS_MAX)
            out[i] =
                (sd_lora_t){.path = text_of(l, "path"),
                            .multiplier = (float)json_number_value(json_object_get(l, "weight"))};
    }
    return (uint32_t)(i < IMAGE_LORAS_MAX ? i : IMAGE_LORAS_MAX);
}

// The first of the pictures, copied; what the library allocated is freed.
static int picture_take(struct sd *s, sd_image_t *images, int n, struct image_picture *out,
                        struct err *e)
{
    int rc = 0;
    bool good = n > 0 && images != NULL && images[0].data != NULL && images[0].channel == 3;
    if (atomic_load_explicit(&s->cancelled, memory_order_relaxed))
        rc = err_set(e, ERR_CANCELLED, "cancelled");
    else if (!good)
        rc =
            err_set(e, ERR_ENGINE, "stable-diffusion.cpp drew nothing; what it said is in the log");
    if (rc == 0) {
        size_t bytes = (size_t)images[0].width * images[0].height * 3;
        *out = (struct image_picture){images[0].width, images[0].height, mem_alloc(bytes)};
        memcpy(out->rgb, images[0].data, bytes);
    }
    for (int i = 0; images != NULL && i < n; i++)
        free(images[i].data);
    free(images);
    return rc;
}

static int picture_make(struct sd *s, const sd_img_gen_params_t *p, struct image_picture *out,
                        struct err *e)
{
    int n = 1;
    sd_image_t *images = NULL;
#ifdef SD_HAS_OUT_IMAGES
    if (!generate_image(s->context, p, &images, &n))
        n = 0;
#else
    images = generate_image(s->context, p);
#endif
    return picture_take(s, images, n, out, e);
}

static int sd_draw(void *engine, const struct draw_task *t, struct image_picture *out,
                   struct err *e)
{
    struct sd *s = engine;
    const json_t *r = t->request;
    const char *negative = text_of(r, "negative");
    uint32_t previews = (uint32_t)json_integer_value(json_object_get(r, "previews"));
    uint8_t *grey = NULL;
    sd_lora_t loras[IMAGE_LORAS_MAX];
    sd_img_gen_params_t p;
    sd_img_gen_params_init(&p);
    p.prompt = text_of(r, "prompt");
    p.negative_prompt = negative != NULL ? negative : "";
    p.width = (int)json_integer_value(json_object_get(r, "width"));
    p.height = (int)json_integer_value(json_object_get(r, "height"));
    p.seed = t->seed;
    p.batch_count = 1;
    p.strength = (float)json_number_value(json_object_get(r, "strength"));
    p.vae_tiling_params.enabled = s->tiling;
    p.loras = loras;
    p.lora_count = loras_fill(loras, r);
    int rc = sampling_fill(&p.sample_params, r, e);
    if (t->initial != NULL)
        p.init_image = image_of(t->initial);
    if (t->mask != NULL)
        p.mask_image = mask_of(t->mask, &grey);
    s->steps = (uint32_t)p.sample_params.sample_steps;
    s->previews = previews;
    s->initial = t->initial != NULL;
    s->hooks = t->hooks;
    atomic_store_explicit(&s->cancelled, false, memory_order_relaxed);
    sd_set_preview_callback(previews > 0 ? on_preview : NULL,
                            previews > 0 ? PREVIEW_PROJ : PREVIEW_NONE, 1, true, false, s);
    if (rc == 0)
        rc = picture_make(s, &p, out, e);
    s->hooks = NULL;
    free(grey);
    return rc;
}

static void sd_cancel(void *engine)
{
    cancel_now(engine);
}

const struct draw_engine draw_library = {
    "stable-diffusion.cpp", sd_open, sd_close, sd_describe, sd_draw, sd_cancel,
};
