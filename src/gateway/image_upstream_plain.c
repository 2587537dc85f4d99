// OpenAI's images API, and sd-server's: one request, one answer with all its pictures.
#include "gateway/image_upstream_impl.h"

#include "base/json.h"

#include <string.h>

static int taken(void *ctx, const uint8_t *data, size_t n, struct err *e)
{
    return image_upstream_picture(ctx, data, n, e);
}

static int pictures_take(struct image_upstream_job *j, struct err *e)
{
    const struct image_upstream_taker t = {taken, j, j->asked};
    int rc = image_upstream_pictures(j->in.data, j->in.len, &t, e);

    return rc == 0 ? image_upstream_next(j, e) : rc;
}

static size_t answer_max(const struct image_upstream_job *j)
{
    uint64_t max = (uint64_t)IMAGE_UPSTREAM_PICTURE_MAX * j->asked + IMAGE_UPSTREAM_WORD_MAX;

    return max < IMAGE_UPSTREAM_ANSWER_MAX ? (size_t)max : IMAGE_UPSTREAM_ANSWER_MAX;
}

static int openai_begin(struct image_upstream_job *j, struct err *e)
{
    char type[IMAGE_UPSTREAM_TYPE_BYTES];
    struct image_upstream_call c = {.path = "/images/generations"};
    struct image_upstream_order o;

    image_upstream_round(j);
    o = image_upstream_order(j);
    c.max = answer_max(j);
    if (j->r.task->ask.edit) {
        c.path = "/images/edits";
        c.body = image_upstream_openai_form(&o, &c.len, type);
        c.type = type;
    } else {
        json_t *body = image_upstream_openai_body(&o);

        c.body = json_line(body);
        c.len = strlen(c.body);
        json_decref(body);
    }
    return image_upstream_call(j, &c, e);
}

static int sd_begin(struct image_upstream_job *j, struct err *e)
{
    bool edit = j->r.task->ask.edit;
    struct image_upstream_call c = {.path = edit ? "/sdapi/v1/img2img" : "/sdapi/v1/txt2img"};
    struct image_upstream_order o;
    json_t *body;

    image_upstream_round(j);
    o = image_upstream_order(j);
    body = image_upstream_sd_body(&o, e);
    if (!body)
        return e->code;
    c.body = json_line(body);
    c.len = strlen(c.body);
    c.max = answer_max(j);
    json_decref(body);
    return image_upstream_call(j, &c, e);
}

#define TAKES_ALL                                                                                  \
    (IMAGE_TAKES_NEGATIVE | IMAGE_TAKES_STEPS | IMAGE_TAKES_CFG | IMAGE_TAKES_SIZE |               \
     IMAGE_TAKES_SEED)

const struct image_upstream_kind image_upstream_openai = {
    .name = "openai",
    .check_path = "/models",
    .at_once = 8,
    .pictures = IMAGE_COUNT_MAX,
    .takes = TAKES_ALL,
    .edits = true,
    .by_picture = true,
    .begin = openai_begin,
    .on_answer = pictures_take,
};

const struct image_upstream_kind image_upstream_sd = {
    .name = "sd-server",
    .check_path = "/sdapi/v1/sd-models",
    .at_once = 1,
    .pictures = IMAGE_COUNT_MAX,
    .takes = TAKES_ALL | IMAGE_TAKES_SAMPLER,
    .edits = true,
    .begin = sd_begin,
    .on_answer = pictures_take,
};
