// The filter behind profile.h: one sum of terms with unknown costs, and what is believed of them.
//
// Internal to sched. The state is x_i = log(cost_i), with covariance P. A sample of amounts a and time t
// says log t = log(sum a_i exp(x_i)) + noise; the gradient of the right side is g_i, the share of term i
// in the predicted time. That makes an extended Kalman filter (Jazwinski, "Stochastic Processes and Filtering
// Theory", 1970) with an exact direction for what matters most: a machine that is twice as slow in everything.
#ifndef SCHED_PROFILE_FIT_H
#define SCHED_PROFILE_FIT_H

#include "sched/profile.h"

// The terms of reading. The floor is no term like the others: a chunk takes (floor^4 + (chunk + token x n)^4)^(1/4).
enum profile_read_term { READ_REQUEST, READ_CHUNK, READ_TOKEN, READ_PAIR, READ_FLOOR, READ_TERMS };
#define PROFILE_STEP_TERMS 3

// What a chunk takes. `weight`: that of the linear part in it, from 0 (all is floor) to 1.
double profile_chunk_s(double floor_s, double linear_s, double *weight);

// `trust`: standard deviation of what is common to all terms; half of it for each on its own.
void profile_fit_init(struct profile_fit *f, const double *costs, size_t n_terms, double trust);
enum profile_verdict profile_fit_learn(struct profile_fit *f, const struct profile_sample *s);
// All at once, with what was believed before as the prior. `n` samples.
void profile_fit_batch(struct profile_fit *f, const struct profile_sample *s, size_t n);
double profile_fit_cost(const struct profile_fit *f, size_t term);
// Standard deviation of the logarithm of a prediction.
double profile_fit_error(const struct profile_fit *f, const struct profile_sample *s);
// Finite numbers within their bounds: for what comes from a file.
bool profile_fit_sane(const struct profile_fit *f, size_t n_terms);

#endif
