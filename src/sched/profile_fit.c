#include "sched/profile_fit.h"

#include <math.h>
#include <string.h>

#define COST_LEAST 1e-15
#define COST_MOST 1e6
#define NOISE_FIRST (0.05 * 0.05)
#define NOISE_LEAST (0.01 * 0.01)
#define NOISE_MOST (0.3 * 0.3)
#define NOISE_GAIN (1.0 / 16)
// What is forgotten with each sample: in balance with the usual noise, a sample then weighs about a fifth.
#define FORGET_COMMON 1e-4
#define FORGET_OWN 2e-5
// What is doubted when the machine has changed.
#define DOUBT_COMMON 0.5
#define DOUBT_OWN 0.04
#define DRIFT_COMMON 0.05 // and when it seems to drift
#define DRIFT_OWN 0.005
#define VARIANCE_MOST 9.0
#define SAMPLES_MOST 1e15
#define ITERATIONS 3        // of linearising anew for one sample
#define BATCH_ITERATIONS 24 // and for many
#define HUBER 2.0           // standard deviations from which a sample of a batch weighs less

// Symmetric, n by n.
struct matrix {
    double at[PROFILE_TERMS][PROFILE_TERMS];
};

void profile_fit_init(struct profile_fit *f, const double *costs, size_t n_terms, double trust)
{
    double common = trust * trust, own = common / 4;

    memset(f, 0, sizeof(*f));
    f->n_terms = n_terms;
    f->noise = NOISE_FIRST;
    for (size_t i = 0; i < n_terms; i++) {
        f->log_cost[i] = log(fmin(fmax(costs[i], COST_LEAST), COST_MOST));
        for (size_t k = 0; k < n_terms; k++)
            f->cov[i][k] = common + (i == k ? own : 0);
    }
}

double profile_fit_cost(const struct profile_fit *f, size_t term)
{
    return exp(f->log_cost[term]);
}

// Below a tenth of it the floor is no more felt than rounding.
double profile_chunk_s(double floor_s, double linear_s, double *weight)
{
    double ratio = floor_s / linear_s, power = ratio * ratio * ratio * ratio;

    *weight = 1;
    if (!(ratio > 0.1))
        return linear_s;
    *weight = isfinite(power) ? 1 / (1 + power) : 0;
    return isfinite(power) ? linear_s * sqrt(sqrt(1 + power)) : floor_s;
}

// Chunks of a prompt: the derivative of the fourth root divides a chunk's time between floor and line.
static double predict_chunks(const struct profile_sample *s, const double costs[PROFILE_TERMS],
                             double shares[PROFILE_TERMS])
{
    double sum = 0;

    shares[READ_CHUNK] = shares[READ_TOKEN] = shares[READ_FLOOR] = 0;
    for (size_t i = 0; i < 2; i++) {
        double linear = costs[READ_CHUNK] + s->tokens[i] * costs[READ_TOKEN], weight;
        double seconds = s->chunks[i] * profile_chunk_s(costs[READ_FLOOR], linear, &weight);
        shares[READ_CHUNK] += seconds * weight * costs[READ_CHUNK] / linear;
        shares[READ_TOKEN] += seconds * weight * s->tokens[i] * costs[READ_TOKEN] / linear;
        shares[READ_FLOOR] += seconds * (1 - weight);
        sum += seconds;
    }
    return sum;
}

// The logarithm of the predicted time, and each term's share of it.
static double predict(const struct profile_fit *f, const struct profile_sample *s,
                      double shares[PROFILE_TERMS])
{
    double costs[PROFILE_TERMS], sum = 0;

    for (size_t i = 0; i < f->n_terms; i++) {
        costs[i] = exp(f->log_cost[i]);
        shares[i] = s->amounts[i] * costs[i];
        sum += shares[i];
    }
    if (f->n_terms == READ_TERMS)
        sum = shares[READ_REQUEST] + shares[READ_PAIR] + predict_chunks(s, costs, shares);
    for (size_t i = 0; i < f->n_terms; i++)
        shares[i] /= sum;
    return log(sum);
}

// cov x shares, and the variance of the prediction.
static double spread(const struct profile_fit *f, const double *shares, double out[PROFILE_TERMS])
{
    double variance = 0;

    for (size_t i = 0; i < f->n_terms; i++) {
        out[i] = 0;
        for (size_t k = 0; k < f->n_terms; k++)
            out[i] += f->cov[i][k] * shares[k];
        variance += shares[i] * out[i];
    }
    return variance;
}

double profile_fit_error(const struct profile_fit *f, const struct profile_sample *s)
{
    double shares[PROFILE_TERMS], ignored[PROFILE_TERMS];

    predict(f, s, shares);
    return sqrt(spread(f, shares, ignored) + f->noise);
}

// More uncertainty, but never so much that one sample could throw everything over.
static void doubt(struct profile_fit *f, double common, double own)
{
    double most = 0;

    for (size_t i = 0; i < f->n_terms; i++) {
        for (size_t k = 0; k < f->n_terms; k++)
            f->cov[i][k] += common + (i == k ? own : 0);
        most = fmax(most, f->cov[i][i]);
    }
    for (size_t i = 0; most > VARIANCE_MOST && i < f->n_terms; i++)
        for (size_t k = 0; k < f->n_terms; k++)
            f->cov[i][k] *= VARIANCE_MOST / most;
}

static void bound(struct profile_fit *f)
{
    for (size_t i = 0; i < f->n_terms; i++)
        f->log_cost[i] = fmin(fmax(f->log_cost[i], log(COST_LEAST)), log(COST_MOST));
}

// Surprises that uncertainty does not explain are noise.
static void noise_learn(struct profile_fit *f, double surprise, double variance)
{
    double seen = fmin(fmax(surprise * surprise - variance, NOISE_LEAST), NOISE_MOST);

    f->noise += NOISE_GAIN * (seen - f->noise);
}

// The iterated filter: linearised at the estimate that the sample itself leads to.
static void take(struct profile_fit *f, const struct profile_sample *s)
{
    double before[PROFILE_TERMS], shares[PROFILE_TERMS], gain[PROFILE_TERMS], total = 0;

    memcpy(before, f->log_cost, sizeof(before));
    for (size_t round = 0; round < ITERATIONS; round++) {
        double off = log(s->seconds) - predict(f, s, shares);
        total = spread(f, shares, gain) + f->noise;
        for (size_t i = 0; i < f->n_terms; i++)
            off -= shares[i] * (before[i] - f->log_cost[i]);
        for (size_t i = 0; i < f->n_terms; i++)
            f->log_cost[i] = before[i] + gain[i] / total * off;
    }
    for (size_t i = 0; i < f->n_terms; i++)
        for (size_t k = 0; k < f->n_terms; k++)
            f->cov[i][k] -= gain[i] * gain[k] / total;
    bound(f);
    doubt(f, FORGET_COMMON, FORGET_OWN);
    f->samples++;
}

static bool sample_sane(const struct profile_fit *f, const struct profile_sample *s)
{
    double sum = 0;

    for (size_t i = 0; i < f->n_terms; i++) {
        if (!(s->amounts[i] >= 0 && s->amounts[i] <= 1e30))
            return false;
        sum += s->amounts[i];
    }
    return sum > 0 && s->seconds >= COST_LEAST && s->seconds <= COST_MOST;
}

// ---- outliers ------------------------------------------------------------------------------------------

static void suspect_forget(struct profile_fit *f)
{
    f->n_suspects--;
    memmove(f->suspects, f->suspects + 1, f->n_suspects * sizeof(f->suspects[0]));
}

static enum profile_verdict suspect_add(struct profile_fit *f, const struct profile_sample *s,
                                        int8_t side)
{
    if (f->suspect_side != side)
        f->n_suspects = 0;
    f->suspect_side = side;
    f->suspects[f->n_suspects++] = *s;
    if (f->n_suspects < PROFILE_SUSPECTS)
        return PROFILE_ASIDE;
    doubt(f, DOUBT_COMMON, DOUBT_OWN);
    for (size_t i = 0; i < PROFILE_SUSPECTS; i++)
        take(f, &f->suspects[i]);
    f->n_suspects = 0;
    f->run = 0;
    return PROFILE_CHANGED;
}

// Four in a row on one side are a chance of one in some hundreds, or a machine that has changed a little.
static void run_follow(struct profile_fit *f, double surprise, double deviation)
{
    int side = surprise > 0 ? 1 : -1;

    if (fabs(surprise) <= deviation)
        side = 0;
    f->run = (int8_t)(side != 0 && f->run * side >= 0 ? f->run + side : side);
    if (f->run != PROFILE_RUN && f->run != -PROFILE_RUN)
        return;
    doubt(f, DRIFT_COMMON, DRIFT_OWN);
    f->run = 0;
}

enum profile_verdict profile_fit_learn(struct profile_fit *f, const struct profile_sample *s)
{
    double shares[PROFILE_TERMS], ignored[PROFILE_TERMS], surprise, variance, gate;

    if (!sample_sane(f, s))
        return PROFILE_REFUSED;
    surprise = log(s->seconds) - predict(f, s, shares);
    variance = spread(f, shares, ignored);
    gate = fmax(PROFILE_GATE * sqrt(variance + f->noise), PROFILE_GATE_LEAST);
    if (fabs(surprise) > gate)
        return suspect_add(f, s, surprise > 0 ? 1 : -1);
    if (f->n_suspects > 0) {
        // What was set aside was no change, so it was noise, as far as noise goes.
        noise_learn(f, gate, 0);
        suspect_forget(f);
    }
    run_follow(f, surprise, sqrt(variance + f->noise));
    noise_learn(f, surprise, variance);
    take(f, s);
    return PROFILE_TAKEN;
}

// ---- many at once --------------------------------------------------------------------------------------

// Cholesky's lower triangle in place; positive definite by construction (a covariance, or one inverted and more).
static void decompose(struct matrix *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k <= i; k++) {
            double sum = m->at[i][k];
            for (size_t j = 0; j < k; j++)
                sum -= m->at[i][j] * m->at[k][j];
            m->at[i][k] = i == k ? sqrt(fmax(sum, 1e-12)) : sum / m->at[k][k];
        }
}

static void solve(const struct matrix *lower, size_t n, double *x)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++)
            x[i] -= lower->at[i][k] * x[k];
        x[i] /= lower->at[i][i];
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t k = i + 1; k < n; k++)
            x[i] -= lower->at[k][i] * x[k];
        x[i] /= lower->at[i][i];
    }
}

static struct matrix invert(struct matrix m, size_t n)
{
    struct matrix out = {0};

    decompose(&m, n);
    for (size_t k = 0; k < n; k++) {
        double column[PROFILE_TERMS] = {0};
        column[k] = 1;
        solve(&m, n, column);
        for (size_t i = 0; i < n; i++)
            out.at[i][k] = column[i];
    }
    return out;
}

// Adds one sample to the normal equations; Huber's weight keeps what is far off from deciding.
static double normal_add(const struct profile_fit *f, const struct profile_sample *s,
                         struct matrix *information, double right[PROFILE_TERMS])
{
    double shares[PROFILE_TERMS];
    double off = log(s->seconds) - predict(f, s, shares), far = fabs(off) / sqrt(f->noise);
    double weight = (far > HUBER ? HUBER / far : 1) / f->noise;

    for (size_t i = 0; i < f->n_terms; i++) {
        right[i] += weight * shares[i] * off;
        for (size_t k = 0; k < f->n_terms; k++)
            information->at[i][k] += weight * shares[i] * shares[k];
    }
    return fmin(off * off, 9 * f->noise);
}

// One step of Gauss and Newton from the prior; returns what the samples are off by, squared, on average.
static double batch_step(struct profile_fit *f, const struct profile_fit *prior,
                         const struct profile_sample *s, size_t n, struct matrix *information)
{
    struct matrix prior_cov, inverse;
    double right[PROFILE_TERMS] = {0}, squares = 0;
    size_t used = 0;

    memcpy(prior_cov.at, prior->cov, sizeof(prior_cov.at));
    *information = inverse = invert(prior_cov, f->n_terms);
    for (size_t i = 0; i < f->n_terms; i++)
        for (size_t k = 0; k < f->n_terms; k++)
            right[i] -= inverse.at[i][k] * (f->log_cost[k] - prior->log_cost[k]);
    for (size_t i = 0; i < n; i++) {
        if (!sample_sane(f, &s[i]))
            continue;
        squares += normal_add(f, &s[i], information, right);
        used++;
    }
    inverse = *information;
    decompose(&inverse, f->n_terms);
    solve(&inverse, f->n_terms, right);
    for (size_t i = 0; i < f->n_terms; i++)
        f->log_cost[i] += fmin(fmax(right[i], -1), 1);
    bound(f);
    return used > 0 ? squares / (double)used : f->noise;
}

void profile_fit_batch(struct profile_fit *f, const struct profile_sample *s, size_t n)
{
    const struct profile_fit prior = *f;
    struct matrix information, cov;
    size_t used = 0;

    for (size_t i = 0; i < n; i++)
        used += sample_sane(f, &s[i]);
    if (used == 0)
        return;
    for (size_t round = 0; round < BATCH_ITERATIONS; round++) {
        double seen = batch_step(f, &prior, s, n, &information);
        f->noise = fmin(fmax(seen, NOISE_LEAST), NOISE_MOST);
    }
    cov = invert(information, f->n_terms);
    memcpy(f->cov, cov.at, sizeof(f->cov));
    f->noise = fmax(f->noise, NOISE_FIRST); // a quiet minute at load is not what follows
    f->n_suspects = 0;
    f->samples += (double)used;
}

bool profile_fit_sane(const struct profile_fit *f, size_t n_terms)
{
    if (f->n_terms != n_terms || f->n_suspects >= PROFILE_SUSPECTS || f->run <= -PROFILE_RUN ||
        f->run >= PROFILE_RUN)
        return false;
    for (size_t i = 0; i < n_terms; i++) {
        if (!(f->log_cost[i] >= log(COST_LEAST) && f->log_cost[i] <= log(COST_MOST)))
            return false;
        for (size_t k = 0; k < n_terms; k++)
            if (!(fabs(f->cov[i][k]) <= VARIANCE_MOST) || f->cov[i][k] != f->cov[k][i])
                return false;
        if (!(f->cov[i][i] > 0))
            return false;
    }
    return f->noise >= NOISE_LEAST && f->noise <= NOISE_MOST && f->samples >= 0 &&
           f->samples <= SAMPLES_MOST;
}
