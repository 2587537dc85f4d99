// What is written into a picture's file.
#include "image/image.h"

#include "base/buf.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

static void put(json_t *texts, const char *key, char *value)
{
    json_put(texts, key, json_string(value));
    free(value);
}

// In the form that most programs which show such pictures can read.
static char *parameters(const struct image_request *r, const char *model, const char *sampler,
                        int64_t seed)
{
    struct buf b;

    buf_init(&b, 4 * IMAGE_PROMPT_MAX);
    buf_printf(&b, "%s\n", r->prompt);
    if (r->negative && r->negative[0])
        buf_printf(&b, "Negative prompt: %s\n", r->negative);
    if (r->steps > 0)
        buf_printf(&b, "Steps: %u, ", r->steps);
    if (sampler)
        buf_printf(&b, "Sampler: %s, ", sampler);
    if (r->cfg >= 0)
        buf_printf(&b, "CFG scale: %g, ", r->cfg);
    if (seed >= 0)
        buf_printf(&b, "Seed: %lld, ", (long long)seed);
    buf_printf(&b, "Size: %ux%u, Model: %s, Version: tandem " TANDEM_VERSION, r->width, r->height,
               model);
    return buf_take(&b);
}

json_t *image_texts(const struct image_request *r, const char *model, const char *node,
                    int64_t seed)
{
    const char *slash = strrchr(model, '/');
    const char *sampler = r->sampler == NULL && node == NULL ? "default" : r->sampler;
    json_t *texts = json_object();

    if (node == NULL && slash != NULL)
        model = slash + 1;
    json_put_text(texts, "Software", "tandem " TANDEM_VERSION);
    json_put_text(texts, "prompt", r->prompt);
    if (r->negative && r->negative[0])
        json_put_text(texts, "negative_prompt", r->negative);
    if (seed >= 0)
        put(texts, "seed", mem_format("%lld", (long long)seed));
    json_put_text(texts, "model", model);
    json_put_text(texts, "node", node);
    put(texts, "parameters", parameters(r, model, sampler, seed));
    return texts;
}
