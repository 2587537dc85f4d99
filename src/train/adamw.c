#include "train/adamw.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

void adamw_options_default(struct adamw_options *o)
{
    *o = (struct adamw_options){
        .rate = 2e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip = 1.0, .n_steps = 1};
}

void adamw_init(struct adamw *a, const struct adamw_options *o, size_t n)
{
    *a = (struct adamw){.options = *o, .n = n};
    a->m = mem_alloc(n * sizeof *a->m);
    a->v = mem_alloc(n * sizeof *a->v);
}

void adamw_fini(struct adamw *a)
{
    free(a->m);
    free(a->v);
}

double adamw_rate(const struct adamw_options *o, uint64_t step)
{
    if (step < o->warmup_steps)
        return o->rate * (double)(step + 1) / (double)o->warmup_steps;
    if (step >= o->n_steps)
        return 0;
    double done = (double)(step - o->warmup_steps) / (double)(o->n_steps - o->warmup_steps);
    return o->rate * 0.5 * (1 + cos(3.14159265358979323846 * done));
}

static double norm_of(const float *grads, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)grads[i] * (double)grads[i];
    return sqrt(sum);
}

double adamw_step(struct adamw *a, float *values, float *grads)
{
    const struct adamw_options *o = &a->options;
    double norm = norm_of(grads, a->n);
    double rate = adamw_rate(o, a->step++);
    if (!isfinite(norm))
        return norm;
    double scale = o->clip > 0 && norm > o->clip ? o->clip / norm : 1;
    double fix1 = 1 / (1 - pow(o->beta1, (double)a->step)),
           fix2 = 1 / (1 - pow(o->beta2, (double)a->step));
    for (size_t i = 0; i < a->n; i++) {
        double g = (double)grads[i] * scale;
        double m = o->beta1 * (double)a->m[i] + (1 - o->beta1) * g;
        double v = o->beta2 * (double)a->v[i] + (1 - o->beta2) * g * g;
        double kept = (double)values[i] * (1 - rate * o->weight_decay);
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        values[i] = (float)(kept - rate * m * fix1 / (sqrt(v * fix2) + o->eps));
    }
    return norm;
}
