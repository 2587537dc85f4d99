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

json_t *image_texts(const struct image_request *r, const char *model, int64_t seed)
{
    const char *file = strrchr(model, '/'), *negative = r->negative != NULL ? r->negative : "";
    json_t *texts = json_object();
    file = file != NULL ? file + 1 : model;
    put(texts, "Software", mem_strdup("tandem " TANDEM_VERSION));
    put(texts, "prompt", mem_strdup(r->prompt));
    if (negative[0] != '\0')
        put(texts, "negative_prompt", mem_strdup(negative));
    put(texts, "seed", mem_format("%lld", (long long)seed));
    put(texts, "model", mem_strdup(file));
    // In the form that most programs which show such pictures can read.
    put(texts, "parameters",
        mem_format("%s\n%s%s%sSteps: %u, Sampler: %s, CFG scale: %g, Seed: %lld, Size: %ux%u, "
                   "Model: %s, Version: tandem " TANDEM_VERSION,
                   r->prompt, negative[0] ? "Negative prompt: " : "", negative,
                   negative[0] ? "\n" : "", r->steps, r->sampler != NULL ? r->sampler : "default",
                   r->cfg, (long long)seed, r->width, r->height, file));
    return texts;
}
