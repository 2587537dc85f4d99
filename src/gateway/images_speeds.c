// What was learned of the speed at which pictures are drawn, by size; it outlives the process.
#include "gateway/images_impl.h"

#include "base/json.h"
#include "base/log.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 2048
#define SPEEDS_MAX_BYTES (1u << 20) // of the file
#define FORGET 0.2                  // share of a new step in the mean

// The size's row; a new one, in place of the least used where all are taken.
static struct images_speed *speed_row(struct images_speeds *t, uint32_t width, uint32_t height)
{
    struct images_speed *least = &t->rows[0];

    for (uint32_t i = 0; i < t->n; i++) {
        struct images_speed *s = &t->rows[i];

        if (s->width == width && s->height == height)
            return s;
        least = s->steps < least->steps ? s : least;
    }
    if (t->n < IMAGES_SIZES_MAX)
        least = &t->rows[t->n++];
    *least = (struct images_speed){.width = width, .height = height};
    return least;
}

void images_speeds_learn(struct images_speeds *t, const struct image_request *r, double step_s)
{
    struct images_speed *s;

    if (!(step_s >= 0 && step_s < 1e6))
        return;
    s = speed_row(t, r->width, r->height);
    s->step_s = s->steps == 0 ? step_s : (1 - FORGET) * s->step_s + FORGET * step_s;
    s->steps++;
}

// Of a size that was never drawn: as the nearest one, by pixels.
double images_speeds_step_s(const struct images_speeds *t, const struct image_request *r)
{
    double wanted = (double)r->width * r->height, best = 0, ratio = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        const struct images_speed *s = &t->rows[i];
        double pixels = (double)s->width * s->height;
        double near = pixels > wanted ? wanted / pixels : pixels / wanted;

        if (s->steps > 0 && near > ratio) {
            ratio = near;
            best = s->step_s * wanted / pixels;
        }
    }
    return best;
}

static int speeds_path(char out[PATH_BYTES], struct err *e)
{
    char state[PATH_BYTES - 32];
    int rc = os_state_dir(state, sizeof(state), e);

    if (rc == 0)
        rc = os_mkdirs(state, e);
    if (rc == 0)
        snprintf(out, PATH_BYTES, "%s/image-speeds.json", state);
    return rc;
}

static json_t *speeds_load(const char *path)
{
    char *text = NULL;
    size_t n = 0;
    struct err e = {0};
    json_t *o = NULL;

    if (os_file_read(path, SPEEDS_MAX_BYTES, &text, &n, &e) == 0)
        o = json_parse(text, n, &e);
    free(text);
    if (json_is_object(o))
        return o;
    json_decref(o);
    return json_object();
}

json_t *images_speeds_json(const struct images_speeds *t)
{
    json_t *list = json_array();

    for (uint32_t k = 0; k < t->n; k++) {
        json_t *o = json_object();

        json_put(o, "width", json_integer(t->rows[k].width));
        json_put(o, "height", json_integer(t->rows[k].height));
        json_put(o, "step_s", json_real(t->rows[k].step_s));
        json_put(o, "steps", json_integer((json_int_t)t->rows[k].steps));
        json_array_append_new(list, o);
    }
    return list;
}

void images_speeds_read(const char *name, struct images_speeds *out)
{
    char path[PATH_BYTES];
    struct err e = {0};
    const json_t *row;
    size_t k;
    json_t *all = speeds_path(path, &e) == 0 ? speeds_load(path) : NULL;

    json_array_foreach(json_object_get(all, name), k, row)
    {
        int64_t width = 0, height = 0, steps = 0;
        double step_s = 0;

        if (json_get_i64(row, "width", 1, IMAGE_SIDE_MAX, &width, &e) == 0 &&
            json_get_i64(row, "height", 1, IMAGE_SIDE_MAX, &height, &e) == 0 &&
            json_get_i64(row, "steps", 1, INT64_MAX, &steps, &e) == 0 &&
            json_get_f64(row, "step_s", 0, 1e6, &step_s, &e) == 0 && width > 0 && height > 0)
            *speed_row(out, (uint32_t)width, (uint32_t)height) =
                (struct images_speed){(uint32_t)width, (uint32_t)height, step_s, (uint64_t)steps};
    }
    json_decref(all);
}

void images_speeds_write(const char *name, const struct images_speeds *s)
{
    char path[PATH_BYTES];
    struct err e = {0};
    json_t *all = NULL;
    char *text = NULL;
    int rc;

    if (s->n == 0)
        return;
    rc = speeds_path(path, &e);
    if (rc == 0) {
        all = speeds_load(path);
        json_put(all, name, images_speeds_json(s));
        text = json_line(all);
        rc = os_file_write(path, text, strlen(text), 0600, &e);
    }
    if (rc != 0)
        log_warn("images", "the speed of pictures is not kept: %s", e.message);
    free(text);
    json_decref(all);
}
