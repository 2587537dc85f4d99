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

static void compare(const struct ggml_tensor *y, const struct ggml_tensor *z,
                    const struct ggml_tensor *x)
{
    const float *yv = y->data, *zv = z->data, *xv = x->data;
    int64_t m = z->ne[0], depth = z->ne[1];
    for (int64_t t = 0; t < x->ne[1]; t++)
        for (int64_t o = 0; o < m; o++) {
            double want = 0;
            for (int64_t k = 0; k < depth; k++)
                want += (double)xv[t * depth + k] * (double)zv[k * m + o];
            assert_true(fabs(want - (double)yv[t * m + o]) < 1e-3);
        }
}

static void run(int64_t m, int64_t k, int64_t n, int threads)
{
    struct ggml_init_params p = {.mem_size = 16u << 20};
    struct ggml_context *c = ggml_init(p);
    struct ggml_tensor *z = ggml_new_tensor_2d(c, GGML_TYPE_F32, m, k);
    struct ggml_tensor *x = ggml_new_tensor_2d(c, GGML_TYPE_F32, k, n);
    struct ggml_tensor *y = product_make(c, z, x);
    struct ggml_cgraph *g = ggml_new_graph(c);
    fill(z, 1);
    fill(x, 2);
    ggml_build_forward_expand(g, y);
    assert_int_equal(ggml_graph_compute_with_ctx(c, g, threads), GGML_STATUS_SUCCESS);
    compare(y, z, x);
    ggml_free(c);
}

static void products_are_right(void **state)
{
    static const int64_t sizes[] = {1, 5, 16, 63, 64, 65, 130};
    static const int64_t depths[] = {1, 7, 255, 256, 257, 600};
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 13};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof depths / sizeof *depths; k++)
            for (size_t n = 0; n < sizeof rows / sizeof *rows; n++)
                run(sizes[i], depths[k], rows[n], 1 + (int)(n % 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_are_right)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
