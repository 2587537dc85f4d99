#include "sched/expect.h"

#include "base/buf.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define WAYS 8 // keys that share a place and are searched one by one
#define TOKENS_MOST 1e7
// A mean of 215 tokens, and nine in ten below 480.
#define FIRST_MEAN 4.787 // of the logarithm: 120 tokens
#define FIRST_VARIANCE 1.166
#define VARIANCE_LEAST 0.01
#define VARIANCE_MOST 9.0
#define TAIL_LEAST 1e-9 // of a distribution: beyond it the ratio of two such numbers says nothing

// What was seen: mean and variance of the logarithm, and how much it weighs.
struct level {
    double mean, variance, n;
};

struct way {
    uint64_t hash; // 0: free
    uint64_t used;
    struct level level;
};

struct expect {
    struct level all;
    uint64_t uses;
    size_t n_sets;
    struct way *ways;
};

struct expect *expect_new(size_t keys)
{
    struct expect *e = mem_alloc(sizeof(*e));

    e->n_sets = 1;
    while (e->n_sets * WAYS < keys)
        e->n_sets *= 2;
    e->ways = mem_alloc(e->n_sets * WAYS * sizeof(*e->ways));
    return e;
}

void expect_free(struct expect *e)
{
    if (!e)
        return;
    free(e->ways);
    free(e);
}

// ---- keys ------------------------------------------------------------------------------------------------

// FNV-1a with a final mix; the end of a name counts, so that "ab" + "c" is not "a" + "bc".
static uint64_t hash_text(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return (h ^ 0x100) * 0x100000001b3u;
}

static uint64_t key_hash(const char *model, const char *client)
{
    uint64_t h = hash_text(0xcbf29ce484222325u, model);

    h = client ? hash_text(h, client) : h;
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return (h ^ h >> 31) | 1;
}

static struct way *set_of(const struct expect *e, uint64_t hash)
{
    return &e->ways[(hash >> 8) % e->n_sets * WAYS];
}

static const struct level *level_find(const struct expect *e, uint64_t hash)
{
    static const struct level none = {0, 0, 0};
    const struct way *set = set_of(e, hash);

    for (size_t i = 0; i < WAYS; i++)
        if (set[i].hash == hash)
            return &set[i].level;
    return &none;
}

static struct level *level_take(struct expect *e, uint64_t hash)
{
    struct way *set = set_of(e, hash), *oldest = set;

    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].hash == hash) {
            set[i].used = ++e->uses;
            return &set[i].level;
        }
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    *oldest = (struct way){.hash = hash, .used = ++e->uses};
    return &oldest->level;
}

// ---- beliefs ---------------------------------------------------------------------------------------------

// The parent's belief as so many answers, together with those that were seen.
static struct level believe(struct level parent, const struct level *seen)
{
    double n = EXPECT_PRIOR + seen->n;
    double mean = (EXPECT_PRIOR * parent.mean + seen->n * seen->mean) / n;
    double from_parent = parent.variance + (parent.mean - mean) * (parent.mean - mean);
    double from_seen = seen->variance + (seen->mean - mean) * (seen->mean - mean);
    double variance = (EXPECT_PRIOR * from_parent + seen->n * from_seen) / n;

    return (struct level){mean, fmin(fmax(variance, VARIANCE_LEAST), VARIANCE_MOST), seen->n};
}

static struct level believe_all(const struct expect *e)
{
    return believe((struct level){FIRST_MEAN, FIRST_VARIANCE, 0}, &e->all);
}

static struct level believe_key(const struct expect *e, const char *model, const char *client)
{
    struct level b = believe(believe_all(e), level_find(e, key_hash(model, NULL)));

    return believe(b, level_find(e, key_hash(model, client)));
}

static double above(double z)
{
    return 0.5 * erfc(z / sqrt(2));
}

// The mean logarithm of answers longer than this one.
static double beyond(struct level b, double log_tokens)
{
    double deviation = sqrt(b.variance), z = (log_tokens - b.mean) / deviation;
    double tail = above(z);

    // Mills' ratio: far out, the mean excess of a normal variable is its variance over the distance.
    if (tail < TAIL_LEAST)
        return log_tokens + deviation / z;
    return b.mean + deviation * exp(-z * z / 2) / (sqrt(2 * M_PI) * tail);
}

static void level_learn(struct level *l, double x)
{
    double off = x - l->mean, rate;

    l->n = fmin(l->n + 1, EXPECT_MEMORY);
    rate = 1 / l->n;
    l->mean += rate * off;
    l->variance = (1 - rate) * (l->variance + rate * off * off);
}

void expect_learn(struct expect *e, const char *model, const char *client, double tokens, bool cut)
{
    struct level b = believe_key(e, model, client);
    double x;

    if (!(tokens >= 1 && tokens <= TOKENS_MOST))
        return;
    x = cut ? beyond(b, log(tokens)) : log(tokens);
    level_learn(&e->all, x);
    level_learn(level_take(e, key_hash(model, NULL)), x);
    level_learn(level_take(e, key_hash(model, client)), x);
}

// ---- what is expected ------------------------------------------------------------------------------------

// The mean of the shorter one of the answer and the limit.
static double mean_within(struct level b, double limit)
{
    double deviation = sqrt(b.variance), z = (log(limit) - b.mean) / deviation;

    return exp(b.mean + b.variance / 2) * above(deviation - z) + limit * above(z);
}

static double capped(double tokens, double limit)
{
    return fmin(fmax(tokens, 1), limit);
}

static double limit_sane(double limit)
{
    return limit >= 1 && limit <= TOKENS_MOST ? limit : limit > 0 && limit < 1 ? 1 : TOKENS_MOST;
}

struct expect_answer expect_get(const struct expect *e, const char *model, const char *client,
                                double limit)
{
    struct level b = believe_key(e, model, client);

    limit = limit_sane(limit);
    return (struct expect_answer){
        .mean = capped(mean_within(b, limit), limit),
        .median = capped(exp(b.mean), limit),
        .p90 = capped(exp(b.mean + 1.2816 * sqrt(b.variance)), limit),
        .samples = b.n,
    };
}

double expect_rest(const struct expect *e, const char *model, const char *client, double limit,
                   double written)
{
    struct level b = believe_key(e, model, client);
    double deviation = sqrt(b.variance), z, tail, rest;

    limit = limit_sane(limit);
    if (!(written >= 1))
        return capped(mean_within(b, limit), limit);
    if (written >= limit)
        return 1;
    z = (log(written) - b.mean) / deviation;
    tail = above(z);
    // Of an answer that is already much longer than any: it goes on as such tails do.
    if (tail < TAIL_LEAST)
        rest = written * deviation / z;
    else
        rest = (mean_within(b, limit) - mean_within(b, written)) / tail;
    return capped(rest, limit - written > 1 ? limit - written : 1);
}
