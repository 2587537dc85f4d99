#include "kv/kv.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

// How a prompt is cut into chunks
// -------------------------------
// Compute and link form a two-stage pipeline. A chunk of m tokens computes for
// c(m) = max(floor, m / rate), then crosses for x(m) = m * kv_bytes / link, one chunk at a time:
//
//     t_k   = t_(k-1) + c(m_k)                    when chunk k is computed
//     end_k = max(end_(k-1), t_k) + x(m_k)        when it has arrived
//
// With r = x/c < 1 the link waits for the compute, and what is left at the end is the crossing of the
// last chunk (with tiles, of its last layer: layer i of L is ready after i/L of the computing). A
// smaller last chunk helps as long as the one before has crossed by then, i.e.
// x(m_(k-1)) <= c(m_k): going back from the end, chunks may grow by 1/r each. With r > 1 the compute
// waits for nobody and the link should start early and never starve: c(m_(k+1)) <= x(m_k), so that
// chunks may grow by r each from a small first one. Both are geometric cuts of a region into k
// pieces of ratio r; k is about ten, more where r is close to 1. The floor spoils small pieces (a small batch takes as long as reading the
// weights does), rounding spoils the ratio, and a short remainder beyond the last full chunk leaves
// that chunk uncovered; so a few hundred cuts are tried on the two equations and the best is taken.

#define RATIO_UNKNOWN 0.65 // KV time / prefill time of the pair this was first made for
#define REGION_PARTS 5     // full chunks at either end that may be cut
// Each piece costs something that the model does not know (an export, a wake-up): half a token.
#define PIECE_TOKENS 0.5

struct pipeline {
    double token_s; // compute
    double floor_s;
    double send_s;  // per token
    uint32_t tiles; // parts in which the last chunk becomes ready and leaves
};

struct region_cut {
    size_t parts; // of the grid, from its end of the prompt; 0: not cut
    size_t pieces;
    double ratio;
};

struct schedule {
    const struct kv_schedule_options *o;
    struct pipeline pipe;
    uint32_t p0, n, step; // step: full chunks, a multiple of chunk_tokens
    struct region_cut head, tail;
    uint32_t *ends;
    size_t n_ends, max_ends;
};

static struct pipeline pipeline_of(const struct kv_schedule_options *o)
{
    const struct kv_rates *r = &o->rates;
    struct pipeline p = {.token_s = 1, .tiles = o->tile_layers > 0 ? o->tile_layers : 1};
    if (r->chunk_tokens_per_s > 0) {
        p.token_s = 1 / r->chunk_tokens_per_s;
        p.floor_s = r->chunk_floor_s;
    }
    p.send_s = RATIO_UNKNOWN * p.token_s;
    if (r->chunk_tokens_per_s > 0 && r->link_bytes_per_s > 0 && r->kv_bytes_per_token > 0)
        p.send_s = r->kv_bytes_per_token / r->link_bytes_per_s;
    return p;
}

static struct kv_schedule_times pipeline_run(const struct pipeline *p, uint32_t p0,
                                             const uint32_t *ends, size_t n_ends)
{
    struct kv_schedule_times t = {0, 0};
    for (size_t i = 0; i < n_ends; i++) {
        double tokens = ends[i] - (i ? ends[i - 1] : p0);
        double compute_s = fmax(p->floor_s, tokens * p->token_s);
        uint32_t parts = i + 1 == n_ends ? p->tiles : 1;
        for (uint32_t part = 0; part < parts; part++) {
            t.compute_s += compute_s / parts;
            t.end_s = fmax(t.end_s, t.compute_s) + tokens * p->send_s / parts;
        }
    }
    return t;
}

static double schedule_cost(const struct schedule *s)
{
    double end = pipeline_run(&s->pipe, s->p0, s->ends, s->n_ends).end_s;
    return end + (double)s->n_ends * PIECE_TOKENS * s->pipe.token_s;
}

// ---- building --------------------------------------------------------------------------------------

static uint32_t round_to(double tokens, uint32_t unit)
{
    return (uint32_t)(tokens / unit + 0.5) * unit;
}

// Cuts [a, b) into pieces of sizes 1, q, q^2 ... times a unit, rounded. False when a piece would be
// longer than a full chunk or there is no room for it.
static bool region_put(struct schedule *s, uint32_t a, uint32_t b, const struct region_cut *cut)
{
    double total = 0, size = 1, sum = 0;
    for (size_t i = 0; i < cut->pieces; i++, size *= cut->ratio)
        total += size;
    size = 1;
    uint32_t from = a;
    for (size_t i = 0; i < cut->pieces; i++, size *= cut->ratio) {
        sum += size;
        bool last = i + 1 == cut->pieces;
        // Rounded from the end, where the size of a piece matters most.
        uint32_t rest = round_to((b - a) * (1 - sum / total), s->o->min_chunk_tokens);
        uint32_t end = last ? b : b - (rest < b - a ? rest : b - a);
        if (end <= from || (end >= b && !last))
            continue;
        if (end - from > s->step || s->n_ends == s->max_ends)
            return false;
        s->ends[s->n_ends++] = from = end;
    }
    return true;
}

static void piece_drop(struct schedule *s, size_t i)
{
    s->n_ends--;
    for (; i < s->n_ends; i++)
        s->ends[i] = s->ends[i + 1];
}

// No piece is shorter than min_chunk_tokens unless the whole range is: a short one joins its
// neighbour, or, where both together are longer than a full chunk, takes from it.
static void pieces_raise(struct schedule *s)
{
    uint32_t min = s->o->min_chunk_tokens;
    for (size_t i = s->n_ends; i-- > 0;) {
        uint32_t from = i > 0 ? s->ends[i - 1] : s->p0;
        if (s->ends[i] - from >= min || s->n_ends == 1)
            continue;
        size_t edge = i > 0 ? i - 1 : 0; // between this piece and its neighbour
        uint32_t start = edge > 0 ? s->ends[edge - 1] : s->p0;
        if (s->ends[edge + 1] - start <= s->step)
            piece_drop(s, edge);
        else
            s->ends[edge] = i > 0 ? s->ends[i] - min : s->p0 + min;
    }
}

// Where the first `parts` parts of the grid end.
static uint32_t grid_after(const struct schedule *s, size_t parts)
{
    uint64_t end = ((uint64_t)s->p0 / s->step + parts) * s->step;
    if (parts == 0)
        return s->p0;
    return end < s->n ? (uint32_t)end : s->n;
}

static size_t grid_parts(const struct schedule *s)
{
    return (s->n - 1) / s->step - s->p0 / s->step + 1;
}

// The head, plain full chunks, the tail. False when the two overlap or there is no room.
static bool schedule_build(struct schedule *s)
{
    const struct region_cut whole = {1, 1, 1};
    size_t parts = grid_parts(s);
    if (s->head.parts + s->tail.parts > parts)
        return false;
    s->n_ends = 0;
    uint32_t from = s->p0, end = grid_after(s, s->head.parts);
    if (end > from && !region_put(s, from, end, &s->head))
        return false;
    size_t plain_end = parts - s->tail.parts;
    for (size_t part = s->head.parts; part < plain_end; part++) {
        from = end;
        end = grid_after(s, part + 1);
        if (!region_put(s, from, end, &whole))
            return false;
    }
    if (end < s->n && !region_put(s, end, s->n, &s->tail))
        return false;
    pieces_raise(s);
    return true;
}

// ---- searching -------------------------------------------------------------------------------------

static const uint8_t piece_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32, 48, 64};
#define N_COUNTS (sizeof piece_counts / sizeof *piece_counts)

// Tries numbers of pieces and a few ratios for one of the two regions; keeps the best.
static void region_search(struct schedule *s, struct region_cut *region)
{
    double r = s->pipe.send_s / s->pipe.token_s;
    const double ratios[] = {r, (1 + r) / 2, sqrt(r), 1, r * r};
    size_t n_ratios = sizeof ratios / sizeof *ratios;
    struct region_cut best = *region;
    double best_cost = schedule_build(s) ? schedule_cost(s) : INFINITY;
    for (size_t i = 0; i < REGION_PARTS * n_ratios * N_COUNTS; i++) {
        double ratio = fmin(fmax(ratios[i / N_COUNTS % n_ratios], 0.25), 4);
        *region =
            (struct region_cut){i / N_COUNTS / n_ratios + 1, piece_counts[i % N_COUNTS], ratio};
        double cost = schedule_build(s) ? schedule_cost(s) : INFINITY;
        if (cost < best_cost) {
            best = *region;
            best_cost = cost;
        }
    }
    *region = best;
}

// Full chunks that are so long that the grid alone fits into max_ends.
static uint32_t step_fit(const struct kv_schedule_options *o, uint32_t p0, uint32_t n,
                         size_t max_ends)
{
    uint64_t step = o->chunk_tokens ? o->chunk_tokens : 512;
    while ((n - 1) / step - p0 / step + 1 > max_ends)
        step *= 2;
    return step < UINT32_MAX ? (uint32_t)step : UINT32_MAX;
}

size_t kv_schedule_make(const struct kv_schedule_options *o, uint32_t p0, uint32_t n,
                        uint32_t *ends, size_t max_ends)
{
    if (p0 >= n || !max_ends)
        return 0;
    struct kv_schedule_options set = *o;
    if (!set.min_chunk_tokens)
        set.min_chunk_tokens = 16;
    struct schedule s = {.o = &set,
                         .pipe = pipeline_of(o),
                         .p0 = p0,
                         .n = n,
                         .step = step_fit(o, p0, n, max_ends),
                         .ends = ends,
                         .max_ends = max_ends};
    if (o->plain) {
        schedule_build(&s);
        return s.n_ends;
    }
    bool link_bound = s.pipe.send_s > s.pipe.token_s;
    region_search(&s, link_bound ? &s.head : &s.tail); // the end that matters more goes first
    region_search(&s, link_bound ? &s.tail : &s.head);
    schedule_build(&s);
    return s.n_ends;
}

struct kv_schedule_times kv_schedule_end_s(const struct kv_schedule_options *o, uint32_t p0,
                                           const uint32_t *ends, size_t n_ends)
{
    const struct kv_rates *r = &o->rates;
    if (r->chunk_tokens_per_s <= 0 || r->link_bytes_per_s <= 0 || r->kv_bytes_per_token <= 0)
        return (struct kv_schedule_times){0, 0};
    struct pipeline p = pipeline_of(o);
    return pipeline_run(&p, p0, ends, n_ends);
}
