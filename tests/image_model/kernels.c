#include "tests/image_model/kernels.h"

#include "tests/image_model/shape.h"

#include <math.h>
#include <pthread.h>

#define EPSILON 1e-6f

// Four rows at a time, so that a row of w is read once for them.
void linear_forward(float *restrict y, const float *restrict x, const float *restrict w,
                    const float *b, struct dims d)
{
    for (int i = 0; i < d.m; i += 4) {
        int rows = d.m - i < 4 ? d.m - i : 4;
        const float *x0 = x + i * d.k, *x1 = x0 + (rows > 1 ? d.k : 0);
        const float *x2 = x0 + (rows > 2 ? 2 * d.k : 0), *x3 = x0 + (rows > 3 ? 3 * d.k : 0);
        for (int j = 0; j < d.n; j++) {
            const float *r = w + j * d.k;
            float sum[4] = {0};
            float a0 = 0, a1 = 0, a2 = 0, a3 = 0;
            for (int q = 0; q < d.k; q++) {
                a0 += x0[q] * r[q];
                a1 += x1[q] * r[q];
                a2 += x2[q] * r[q];
                a3 += x3[q] * r[q];
            }
            sum[0] = a0, sum[1] = a1, sum[2] = a2, sum[3] = a3;
            for (int s = 0; s < rows; s++)
                y[(i + s) * d.n + j] = sum[s] + (b != 0 ? b[j] : 0);
        }
    }
}

// out[0..k) += the four rows of r, each times its factor.
static void rows_add(float *restrict out, const float *restrict r, const float f[4], int k)
{
    for (int q = 0; q < k; q++)
        out[q] += f[0] * r[q] + f[1] * r[k + q] + f[2] * r[2 * k + q] + f[3] * r[3 * k + q];
}

static void row_add(float *restrict out, const float *restrict r, float f, int k)
{
    for (int q = 0; q < k; q++)
        out[q] += f * r[q];
}

void linear_input_grad(float *dx, const float *dy, const float *w, struct dims d)
{
    for (int i = 0; i < d.m; i++) {
        float *out = dx + i * d.k;
        const float *f = dy + i * d.n;
        int j = 0;
        for (; j + 4 <= d.n; j += 4)
            rows_add(out, w + j * d.k, f + j, d.k);
        for (; j < d.n; j++)
            row_add(out, w + j * d.k, f[j], d.k);
    }
}

void linear_weight_grad(float *dw, float *db, const float *dy, const float *x, struct dims d)
{
    for (int j = 0; j < d.n; j++) {
        float *out = dw + j * d.k;
        int i = 0;
        for (; i + 4 <= d.m; i += 4) {
            const float *f = dy + i * d.n + j;
            rows_add(out, x + i * d.k, (float[4]){f[0], f[d.n], f[2 * d.n], f[3 * d.n]}, d.k);
        }
        for (; i < d.m; i++)
            row_add(out, x + i * d.k, dy[i * d.n + j], d.k);
        for (i = 0; db != 0 && i < d.m; i++)
            db[j] += dy[i * d.n + j];
    }
}

static float rms_inverse(const float *x, int k)
{
    float sum = 0;
    for (int q = 0; q < k; q++)
        sum += x[q] * x[q];
    return 1 / sqrtf(sum / (float)k + EPSILON);
}

void rms_forward(float *y, const float *x, const float *w, struct dims d)
{
    for (int i = 0; i < d.m; i++, x += d.k, y += d.k) {
        float s = rms_inverse(x, d.k);
        for (int q = 0; q < d.k; q++)
            y[q] = x[q] * s * w[q];
    }
}

void rms_backward(const struct rms_grad *g, struct dims d)
{
    for (int i = 0; i < d.m; i++) {
        const float *x = g->x + i * d.k, *dy = g->dy + i * d.k;
        float *dx = g->dx + i * d.k;
        float s = rms_inverse(x, d.k), t = 0;
        for (int q = 0; q < d.k; q++)
            t += g->w[q] * dy[q] * x[q];
        t *= s * s * s / (float)d.k;
        for (int q = 0; q < d.k; q++) {
            dx[q] += s * g->w[q] * dy[q] - x[q] * t;
            g->dw[q] += dy[q] * x[q] * s;
        }
    }
}

// ---- rotary positions ----------------------------------------------------------------------------

// Filled once: position by frequency. Text turns by its index; a patch half by its row, half by its column.
static float cosines[KEYS][HEAD / 2], sines[KEYS][HEAD / 2];
static pthread_once_t filled = PTHREAD_ONCE_INIT;

static void tables_fill(void)
{
    const int half = HEAD / 2, quarter = HEAD / 4;
    for (int p = 0; p < KEYS; p++)
        for (int j = 0; j < half; j++) {
            int patch = p - TEXT;
            double angle = patch < 0 ? p * pow(10000, -(double)j / half)
                                     : (j < quarter ? patch / GRID : patch % GRID) *
                                           pow(10000, -(double)(j % quarter) / quarter);
            cosines[p][j] = (float)cos(angle);
            sines[p][j] = (float)sin(angle);
        }
}

void rope_turn(float *out, const float *x, int position, float direction)
{
    const int half = HEAD / 2;
    pthread_once(&filled, tables_fill);
    for (int j = 0; j < half; j++) {
        float c = cosines[position][j], s = direction * sines[position][j];
        float a = x[j], b = x[j + half];
        out[j] = c * a - s * b;
        out[j + half] = s * a + c * b;
    }
}
