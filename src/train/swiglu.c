// Built for the very machine (cmake/Llama.cmake).
#include "train/swiglu.h"

#include "train/vector.h"

struct values {
    const float *gate, *up, *dy;
    float *dgate, *dup;
};

// silu(g) = g s(g) with s(g) = 1 / (1 + e^-g):  silu'(g) = s (1 + g (1 - s))
static void some_back(const struct values *v, size_t at, size_t n)
{
    vec g = vec_part(v->gate + at, n), u = vec_part(v->up + at, n), dy = vec_part(v->dy + at, n);
    vec s = 1.0f / (1.0f + vec_exp(-g));
    vec dgate = dy * u * s * (1.0f + g * (1.0f - s)), dup = dy * g * s;
    memcpy(v->dgate + at, &dgate, n * sizeof(float));
    memcpy(v->dup + at, &dup, n * sizeof(float));
}

static void compute(struct ggml_tensor *out, int thread, int threads, void *ctx)
{
    size_t all = (size_t)ggml_nelements(out->src[0]), n = (size_t)threads;
    size_t each = (all + n * VEC_FLOATS - 1) / (n * VEC_FLOATS) * VEC_FLOATS;
    size_t at = each * (size_t)thread, end = at + each < all ? at + each : all;
    const struct values v = {out->src[0]->data, out->src[1]->data, out->src[2]->data, out->data,
                             (float *)out->data + all};
    (void)ctx;
    for (; at + VEC_FLOATS <= end; at += VEC_FLOATS)
        some_back(&v, at, VEC_FLOATS);
    if (at < end)
        some_back(&v, at, end - at);
}

struct ggml_tensor *swiglu_back(struct ggml_context *c, struct ggml_tensor *gate,
                                struct ggml_tensor *up, struct ggml_tensor *dy)
{
    struct ggml_tensor *sources[3] = {gate, up, dy};
    for (int i = 0; i < 3; i++)
        GGML_ASSERT(sources[i]->type == GGML_TYPE_F32 && ggml_is_contiguous(sources[i]) &&
                    ggml_are_same_shape(sources[i], gate));
    return ggml_custom_4d(c, GGML_TYPE_F32, gate->ne[0], gate->ne[1], 2, 1, sources, 3, compute,
                          GGML_N_TASKS_MAX, NULL);
}
