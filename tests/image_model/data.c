#include "tests/image_model/data.h"

#include "base/random.h"

#include <math.h>

#define GROUND (-0.8f)
#define JITTER 3.0f // pixels of the centre
#define RADIUS_MIN 17.0f
#define RADIUS_RANGE 4.0f
#define CAPTION_DROP 10 // one in so many has none, so that guidance has something to compare with

// Pieces of the real T5 tokenizer ("a red circle" is "_", "a", "_red", "_circle").
enum { ID_SPACE = 3, ID_ARTICLE = 9 };
static const int colour_ids[COLOURS] = {1131, 1442, 1692, 4459}; // red, green, blue, yellow
static const int shape_ids[SHAPES] = {8196, 2812, 19938};        // circle, square, triangle
static const float colours[COLOURS][3] = {{1, -1, -1}, {-1, 1, -1}, {-1, -1, 1}, {1, 1, -1}};

void data_words_fill(struct data_words *w)
{
    network_table_row(ID_SPACE, w->space);
    network_table_row(ID_ARTICLE, w->article);
    for (int i = 0; i < COLOURS; i++)
        network_table_row(colour_ids[i], w->colours[i]);
    for (int i = 0; i < SHAPES; i++)
        network_table_row(shape_ids[i], w->shapes[i]);
}

static float uniform(uint64_t *state)
{
    return (float)(random_next(state) >> 40) / 16777216.0f;
}

struct figure {
    unsigned colour, shape;
    float x, y, radius;
};

static bool figure_covers(const struct figure *f, float x, float y)
{
    float dx = x - f->x, dy = y - f->y, r = f->radius;
    if (f->shape == 0)
        return dx * dx + dy * dy < r * r;
    if (f->shape == 1)
        return fabsf(dx) < r * 0.9f && fabsf(dy) < r * 0.9f;
    return dy < r * 0.8f && dy > -r && fabsf(dx) < (dy + r) * 0.6f;
}

// x_t = t * image + (1 - t) * 2 * noise, as the library's sampler has it, cut into patches.
static void figure_draw(const struct figure *f, struct sample *s, float t, uint64_t *state)
{
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int token = y / PATCH * GRID + x / PATCH, at = y % PATCH * PATCH + x % PATCH;
            bool in = figure_covers(f, (float)x, (float)y);
            for (int c = 0; c < 3; c++) {
                float v = in ? colours[f->colour][c] : GROUND;
                s->clean[token][at * 3 + c] = v;
                s->noisy[token][c * PATCH * PATCH + at] =
                    t * v + (1 - t) * 2 * network_gauss(state);
            }
        }
}

void data_sample(struct sample *s, const struct data_words *w, uint64_t *state)
{
    const float middle = (SIDE - 1) / 2.0f;
    struct figure f = {.colour = (unsigned)(random_next(state) % COLOURS),
                       .shape = (unsigned)(random_next(state) % SHAPES)};
    f.x = middle + (uniform(state) * 2 - 1) * JITTER;
    f.y = middle + (uniform(state) * 2 - 1) * JITTER;
    f.radius = RADIUS_MIN + uniform(state) * RADIUS_RANGE;
    s->n_context = random_next(state) % CAPTION_DROP == 0 ? 0 : CAPTION_TOKENS;
    s->context[0] = w->space;
    s->context[1] = w->article;
    s->context[2] = w->colours[f.colour];
    s->context[3] = w->shapes[f.shape];
    // A fifth of the examples are pure noise: there the caption is all there is to go by.
    float t = random_next(state) % 5 == 0 ? 0 : uniform(state);
    s->weight = 1 - t < 0.5f ? 4 : 1 / ((1 - t) * (1 - t));
    figure_draw(&f, s, t, state);
}
