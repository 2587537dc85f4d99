// The trainer's own matrix product against sums made one by one, for sizes that fill its tiles and that do not.
#include "base/buf.h"
#include "base/random.h"
#include "train/product.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static float random_unit(uint64_t *state)
{
    return (float)(random_next(state) >> 40) / (float)(1 << 23) - 1.0f;
}

static void fill(struct ggml_tensor *t, uint64_t seed)
{
    float *v = t->data;
    for (int64_t i = 0; i < ggml_nelements(t); i++)
        v[i] = random_unit(&seed);
}

static double at(const struct ggml_tensor *t, int64_t i0, int64_t i1)
{
    return (double)*(const float *)((const char *)t->data + i0 * (int64_t)t->nb[0] +
                                    i1 * (int64_t)t->nb[1]);
}

static void compare(const struct ggml_tensor *y, const struct product_pair *pairs, size_t n)
{
    for (int64_t t = 0; t < y->ne[1]; t++)
        for (int64_t o = 0; o < y->ne[0]; o++) {
            double want = 0;
            for (size_t i = 0; i < n; i++)
                for (int64_t k = 0; k < pairs[i].x->ne[0]; k++)
                    want += at(pairs[i].x, k, t) * at(pairs[i].z, o, k);
            assert_true(fabs(want - at(y, o, t)) < 1e-3);
        }
}

// A matrix, or one that is stored the other way round.
static struct ggml_tensor *matrix(struct ggml_context *c, int64_t ne0, int64_t ne1, bool turned)
{
    struct ggml_tensor *t =
        ggml_new_tensor_2d(c, GGML_TYPE_F32, turned ? ne1 : ne0, turned ? ne0 : ne1);
    fill(t, (uint64_t)(ne0 + 7 * ne1));
    return turned ? ggml_transpose(c, t) : t;
}

struct size {
    int64_t m, k, n;
};

// `how`: one bit each for a second product, for z and for x turned.
static void run(const struct size *s, unsigned how, int threads)
{
    struct ggml_init_params p = {.mem_size = 16u << 20};
    struct ggml_context *c = ggml_init(p);
    const struct product_pair pairs[2] = {
        {matrix(c, s->m, s->k, how & 2), matrix(c, s->k, s->n, how & 4)},
        {matrix(c, s->m, 8, how & 4), matrix(c, 8, s->n, how & 2)}};
    struct ggml_tensor *y = product_sum(c, pairs, 1 + (how & 1));
    struct ggml_cgraph *g = ggml_new_graph(c);
    ggml_build_forward_expand(g, y);
    assert_int_equal(ggml_graph_compute_with_ctx(c, g, threads), GGML_STATUS_SUCCESS);
    compare(y, pairs, 1 + (how & 1));
    ggml_free(c);
}

static void products_are_right(void **state)
{
    static const int64_t sizes[] = {1, 5, 16, 63, 64, 65, 130};
    static const int64_t depths[] = {1, 7, 255, 256, 257, 600};
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 13};
    unsigned how = 0;
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof depths / sizeof *depths; k++)
            for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
                const struct size s = {sizes[i], depths[k], rows[n]};
                run(&s, how++ % 8, 1 + (int)(n % 3));
                run(&s, how + 3, 1);
            }
}

// Every sum is made in the same order, whoever makes it.
static void threads_change_nothing(void **state)
{
    struct ggml_init_params p = {.mem_size = 32u << 20};
    struct ggml_context *c = ggml_init(p);
    struct ggml_tensor *z = matrix(c, 300, 400, false), *x = matrix(c, 400, 50, false);
    struct ggml_tensor *first = NULL;
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        struct ggml_tensor *y = product_make(c, z, x);
        struct ggml_cgraph *g = ggml_new_graph(c);
        ggml_build_forward_expand(g, y);
        assert_int_equal(ggml_graph_compute_with_ctx(c, g, threads), GGML_STATUS_SUCCESS);
        first = first ? first : y;
        assert_memory_equal(y->data, first->data, ggml_nbytes(y));
    }
    ggml_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_are_right),
                                       cmocka_unit_test(threads_change_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
