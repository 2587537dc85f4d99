// Requests: defaults, limits, sizes, and LoRAs named in a prompt.
#include "image/image.h"

#include "base/buf.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Names of stable-diffusion.cpp. A release that does not know one of them says so when it is asked.
const char *const image_samplers[] = {
    "euler",     "euler_a",       "heun",    "dpm2", "dpm++2s_a", "dpm++2m",
    "dpm++2mv2", "ipndm",         "ipndm_v", "lcm",  "tcd",       "ddim_trailing",
    "er_sde",    "res_multistep", "res_2s",  NULL,
};
const char *const image_schedulers[] = {
    "discrete", "karras",     "exponential", "ays", "gits",         "sgm_uniform",
    "simple",   "smoothstep", "kl_optimal",  "lcm", "bong_tangent", NULL,
};

void image_picture_fini(struct image_picture *p)
{
    free(p->rgb);
    *p = (struct image_picture){0};
}

void image_request_default(struct image_request *r)
{
    *r = (struct image_request){
        .count = 1, .cfg = -1, .seed = IMAGE_SEED_NONE, .strength = 0.75, .prompt = ""};
}

int64_t image_seed_draw(void)
{
    uint32_t v = 0;
    os_random(&v, sizeof v);
    return v >> 1;
}

// One side: digits alone, no sign, no space.
static const char *side_parse(const char *s, uint32_t *out)
{
    uint32_t v = 0;
    size_t digits = strspn(s, "0123456789");
    for (size_t i = 0; i < digits && digits <= 5; i++)
        v = v * 10 + (uint32_t)(s[i] - '0');
    *out = v;
    return digits > 0 && digits <= 5 ? s + digits : NULL;
}

int image_size_parse(const char *text, uint32_t *width, uint32_t *height, struct err *e)
{
    uint32_t w = 0, h = 0;
    const char *at = side_parse(text, &w);
    at = at != NULL && *at == 'x' ? side_parse(at + 1, &h) : NULL;
    if (at == NULL || *at != '\0' || w < IMAGE_SIDE_MIN || h < IMAGE_SIDE_MIN ||
        w > IMAGE_SIDE_MAX || h > IMAGE_SIDE_MAX)
        return err_set(e, ERR_INVALID,
                       "size \"%.40s\" is not possible; say WIDTHxHEIGHT, each %u to %u, for "
                       "example 512x512",
                       text, IMAGE_SIDE_MIN, IMAGE_SIDE_MAX);
    *width = w;
    *height = h;
    return 0;
}

// ---- limits --------------------------------------------------------------------------------------

static int prompt_check(const char *name, const char *text, struct err *e)
{
    size_t n = strlen(text);
    if (n > IMAGE_PROMPT_MAX)
        return err_set(e, ERR_INVALID, "%s has %zu bytes; at most %u are allowed", name, n,
                       IMAGE_PROMPT_MAX);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\n' && c != '\t' && c != '\r') || c == 0x7f)
            return err_set(e, ERR_INVALID,
                           "%s has the control character 0x%02x at byte %zu; leave it out", name, c,
                           i);
    }
    json_t *utf8 = json_string(text);
    json_decref(utf8);
    return utf8 != NULL ? 0 : err_set(e, ERR_INVALID, "%s is not UTF-8", name);
}

static int name_check(const char *member, const char *name, const char *const *known, struct err *e)
{
    char list[400] = "";
    for (size_t i = 0; known[i] != NULL; i++) {
        if (name == NULL || strcmp(name, known[i]) == 0)
            return 0;
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i > 0 ? ", " : "", known[i]);
    }
    return err_set(e, ERR_INVALID, "%s \"%.40s\" is not known; there are %s", member, name, list);
}

static int size_check(const struct image_request *r, const struct image_model *m, struct err *e)
{
    uint32_t w = r->width, h = r->height;
    if (w < IMAGE_SIDE_MIN || h < IMAGE_SIDE_MIN || w > IMAGE_SIDE_MAX || h > IMAGE_SIDE_MAX)
        return err_set(e, ERR_INVALID, "size %ux%u is not possible; each side has %u to %u pixels",
                       w, h, IMAGE_SIDE_MIN, IMAGE_SIDE_MAX);
    if ((uint64_t)w * h > IMAGE_PIXELS_MAX)
        return err_set(e, ERR_INVALID, "size %ux%u has %llu pixels; at most %u are allowed", w, h,
                       (unsigned long long)w * h, IMAGE_PIXELS_MAX);
    if (m->square && w != h)
        return err_set(e, ERR_INVALID,
                       "size %ux%u is not square, and %s models draw squares only; try %ux%u", w, h,
                       m->layout, m->side, m->side);
    if (w % m->multiple != 0 || h % m->multiple != 0)
        return err_set(e, ERR_INVALID,
                       "size %ux%u: sides of %s models are multiples of %u; try %ux%u", w, h,
                       m->layout, m->multiple, m->side, m->side);
    return 0;
}

static int initial_check(const struct image_request *r, struct err *e)
{
    const struct image_picture *p = r->initial, *mask = r->mask;
    if (!isfinite(r->strength) || r->strength < 0 || r->strength > 1)
        return err_set(e, ERR_INVALID, "strength %g is not possible; 0 to 1 are", r->strength);
    if (p != NULL && (p->width != r->width || p->height != r->height))
        return err_set(e, ERR_INVALID, "the picture is %ux%u, the size %ux%u; make them equal",
                       p->width, p->height, r->width, r->height);
    if (mask != NULL && p == NULL)
        return err_set(e, ERR_INVALID, "a mask without a picture; give both");
    if (mask != NULL && (mask->width != r->width || mask->height != r->height))
        return err_set(e, ERR_INVALID, "the mask is %ux%u, the picture %ux%u; make them equal",
                       mask->width, mask->height, r->width, r->height);
    return 0;
}

static int number_check(const char *member, uint32_t v, uint32_t max, struct err *e)
{
    if (v >= 1 && v <= max)
        return 0;
    return err_set(e, ERR_INVALID, "%s %u is not possible; 1 to %u are", member, v, max);
}

static int numbers_check(const struct image_request *r, struct err *e)
{
    int rc = number_check("n", r->count, IMAGE_COUNT_MAX, e);
    if (rc == 0)
        rc = number_check("steps", r->steps, IMAGE_STEPS_MAX, e);
    if (rc == 0 && (!isfinite(r->cfg) || r->cfg < 0 || r->cfg > IMAGE_CFG_MAX))
        rc = err_set(e, ERR_INVALID, "cfg %g is not possible; 0 to %g are", r->cfg, IMAGE_CFG_MAX);
    if (rc == 0 && (r->seed < IMAGE_SEED_NONE || r->seed > INT64_MAX - IMAGE_COUNT_MAX))
        rc = err_set(e, ERR_INVALID, "seed %lld is not possible; 0 and more are",
                     (long long)r->seed);
    if (rc == 0 && r->previews > IMAGE_PREVIEWS_MAX)
        rc = err_set(e, ERR_INVALID, "%u unfinished pictures are not possible; 0 to %u are",
                     r->previews, IMAGE_PREVIEWS_MAX);
    return rc;
}

int image_request_check(struct image_request *r, const struct image_model *m, struct err *e)
{
    const struct image_picture *p = r->initial;
    if (r->width == 0 && r->height == 0) {
        r->width = p != NULL ? p->width : m->side;
        r->height = p != NULL ? p->height : m->side;
    }
    r->steps = r->steps != 0 ? r->steps : m->steps;
    r->cfg = r->cfg < 0 ? m->cfg : r->cfg;
    int rc = r->prompt[0] != '\0' ? prompt_check("prompt", r->prompt, e)
                                  : err_set(e, ERR_INVALID, "prompt is empty; say what to draw");
    if (rc == 0 && r->negative != NULL)
        rc = prompt_check("negative_prompt", r->negative, e);
    if (rc == 0)
        rc = size_check(r, m, e);
    if (rc == 0)
        rc = numbers_check(r, e);
    if (rc == 0)
        rc = name_check("sampler", r->sampler, image_samplers, e);
    if (rc == 0)
        rc = name_check("scheduler", r->scheduler, image_schedulers, e);
    return rc ? rc : initial_check(r, e);
}

// ---- LoRAs ---------------------------------------------------------------------------------------

#define LORA_OPEN "<lora:"
#define NAME_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+"

// What stands between "<lora:" and ">".
static int lora_take(const char *text, size_t n, struct image_request *r, struct err *e)
{
    struct image_lora *l = &r->loras[r->n_loras];
    size_t name = strcspn(text, ":>");
    char *end = NULL;
    if (r->n_loras == IMAGE_LORAS_MAX)
        return err_set(e, ERR_INVALID, "more than %u LoRAs in one prompt", IMAGE_LORAS_MAX);
    if (name == 0 || name >= sizeof l->name || strspn(text, NAME_CHARACTERS) != name ||
        text[0] == '.')
        return err_set(e, ERR_INVALID,
                       "LoRA \"%.*s\": its name is that of a file in the folder of LoRAs, of "
                       "letters, digits, '.', '_', '-' and '+'",
                       (int)(name > 60 ? 60 : name), text);
    snprintf(l->name, sizeof l->name, "%.*s", (int)name, text);
    l->weight = 1;
    if (name < n)
        l->weight = strtod(text + name + 1, &end);
    if ((end != NULL && (end == text + name + 1 || end != text + n)) || !isfinite(l->weight) ||
        fabs(l->weight) > IMAGE_LORA_WEIGHT_MAX)
        return err_set(e, ERR_INVALID, "LoRA %s: its weight is a number from -%g to %g", l->name,
                       IMAGE_LORA_WEIGHT_MAX, IMAGE_LORA_WEIGHT_MAX);
    r->n_loras++;
    return 0;
}

static bool lora_is_left(const char *prompt)
{
    const char *open = strstr(prompt, LORA_OPEN);
    return open != NULL && strchr(open, '>') != NULL;
}

int image_prompt_loras(const char *prompt, struct image_request *r, char **out, struct err *e)
{
    struct buf b;
    int rc = 0;
    buf_init(&b, strlen(prompt) + 1);
    buf_puts(&b, "");
    while (rc == 0) {
        const char *open = strstr(prompt, LORA_OPEN);
        const char *close = open != NULL ? strchr(open, '>') : NULL;
        buf_put(&b, prompt, close != NULL ? (size_t)(open - prompt) : strlen(prompt));
        if (close == NULL)
            break;
        open += strlen(LORA_OPEN);
        rc = lora_take(open, (size_t)(close - open), r, e);
        prompt = close + 1;
    }
    // What was taken out may have stood in the middle of another one, which begins to be one by that.
    if (rc == 0 && b.data != NULL && lora_is_left((const char *)b.data))
        rc = err_set(e, ERR_INVALID,
                     "a LoRA stands inside of another one; name one after the other");
    if (rc == 0)
        *out = b.data != NULL ? buf_take(&b) : mem_strdup("");
    buf_fini(&b);
    return rc;
}
