// Plain C kernels of the trainer. `m` rows of `k` inputs become `n` outputs each. Backward calls add to
// what they are given, so the caller clears. Any thread; nothing is shared.
#ifndef IMAGE_MODEL_KERNELS_H
#define IMAGE_MODEL_KERNELS_H

struct dims {
    int m, k, n;
};

// y[m][n] = x[m][k] w[n][k]^T + b[n]; b may be NULL.
void linear_forward(float *y, const float *x, const float *w, const float *b, struct dims d);
// dx += dy w
void linear_input_grad(float *dx, const float *dy, const float *w, struct dims d);
// dw += dy^T x, db += column sums of dy; db may be NULL.
void linear_weight_grad(float *dw, float *db, const float *dy, const float *x, struct dims d);

// y = x / rms(x) * w, row by row; n is not used.
void rms_forward(float *y, const float *x, const float *w, struct dims d);

struct rms_grad {
    float *dx, *dw; // added to
    const float *dy, *x, *w;
};
void rms_backward(const struct rms_grad *g, struct dims d);

// Turns one head of 64: element j with element j + 32. `direction` is 1, or -1 for the inverse.
void rope_turn(float *out, const float *x, int position, float direction);

#endif
