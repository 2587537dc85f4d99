// Prefix memory: which sequence a job gets, and what of it is there already.
//
// A sequence is free, running or kept. A kept one holds the tokens of a job that ended; the index knows
// them, and those of running jobs whose prompt is in. A new job takes the longest beginning that its own
// owner has:
//
//   in place  the kept sequence becomes the job's, cut back to what is common: when it is the same
//             conversation, or little is lost
//   by fork   a free sequence gets the common part of a kept or a running one; costs no copy where
//             the cache is shared
//
// Room is accounted before that. Cells that two sequences share count twice: too much is refused or
// forgotten early, too little never. When room or sequences run out, the kept sequence that was used
// longest ago goes; a running one never does.
//
// Where sequences cannot be cut (limits.cuts is false), checkpoints lead back: of the prompt's end, the two
// chunk ends before it, and the end of the answer.
#include "base/log.h"
#include "node/worker.h"

#include <stdlib.h>

#define NO_SEQ UINT32_MAX
// Shorter beginnings are read again: they cost less than the odd cut of what follows them.
#define REUSE_LEAST 16
// A sequence that loses no more than this is taken in place. So is one of which the whole old prompt but
// its last tokens is common: templates end in a few tokens that the next turn does not repeat.
#define SHORT_REST 64

enum way { WAY_COLD, WAY_IN_PLACE, WAY_FORK };

struct source {
    enum way way;
    uint32_t seq;
    uint32_t length;  // tokens in common
    uint32_t certain; // of them, those that surely can be kept
};

void worker_memory_init(struct worker *w)
{
    struct worker_memory *m = &w->memory;
    m->seqs = mem_alloc(w->engine->limits.n_seq * sizeof *m->seqs);
    m->hits = mem_alloc(w->engine->limits.n_seq * sizeof *m->hits);
    m->index = kv_prefix_new();
}

// ---- checkpoints ---------------------------------------------------------------------------------

static bool points_needed(const struct worker *w)
{
    return !w->engine->limits.cuts && w->engine->ops->checkpoint_save != NULL;
}

static void point_drop(struct worker_seq *s, size_t i)
{
    s->point_bytes -= s->points[i].len;
    free(s->points[i].data);
    s->n_points--;
    memmove(&s->points[i], &s->points[i + 1], (s->n_points - i) * sizeof *s->points);
}

// Forgets the checkpoints behind `at`.
static void points_cut(struct worker_seq *s, uint32_t at)
{
    while (s->n_points > 0 && s->points[s->n_points - 1].at > at)
        point_drop(s, s->n_points - 1);
}

// The newest checkpoint at or before `at`; NULL: none.
static const struct worker_point *point_find(const struct worker_seq *s, uint32_t at)
{
    size_t i = s->n_points;
    while (i > 0 && s->points[i - 1].at > at)
        i--;
    return i > 0 ? &s->points[i - 1] : NULL;
}

// Saves where sequence `seq` is now, which is after `at` tokens.
static void point_save(struct worker *w, uint32_t seq, uint32_t at)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    struct worker_seq *s = &w->memory.seqs[seq];
    const struct worker_point *last = point_find(s, at);

    if (!points_needed(w) || at == 0 || (last != NULL && last->at == at))
        return;
    size_t cap = ops->checkpoint_bytes(w->engine, seq), len = 0;
    if (cap > WORKER_POINT_BYTES)
        return;
    while (s->n_points == WORKER_POINTS ||
           (s->n_points > 0 && s->point_bytes + cap > WORKER_POINT_BYTES))
        point_drop(s, 0);
    void *data = malloc(cap + 1);
    if (data == NULL)
        return;
    int rc = ops->checkpoint_save(w->engine, seq, data, cap, &len, &e);
    if (rc != 0) {
        log_warn("worker", "no checkpoint: %s seq=%u at=%u", e.message, seq, at);
        free(data);
        return;
    }
    s->points[s->n_points++] = (struct worker_point){.at = at, .len = len, .data = data};
    s->point_bytes += len;
}

void worker_memory_point(struct worker *w, const struct worker_job *j, uint32_t upto)
{
    if (upto - j->computed <= w->engine->limits.n_batch)
        point_save(w, j->seq, j->computed);
}

// ---- forgetting ----------------------------------------------------------------------------------

static void seq_clear(struct worker *w, uint32_t seq)
{
    struct err e = {0};
    if (w->engine->ops->remove(w->engine, seq, 0, UINT32_MAX, &e) != 0)
        log_error("worker", "sequence not removed: %s seq=%u", e.message, seq);
    kv_prefix_remove(w->memory.index, seq);
    points_cut(&w->memory.seqs[seq], 0);
}

// A kept sequence is one no longer; what it holds is the caller's matter.
static void kept_leave(struct worker *w, uint32_t seq, enum worker_seq_state state)
{
    struct worker_seq *s = &w->memory.seqs[seq];
    w->memory.cells_kept -= s->n;
    w->memory.n_kept--;
    kv_prefix_remove(w->memory.index, seq);
    s->state = state;
    s->n = 0;
}

static void kept_forget(struct worker *w, uint32_t seq)
{
    kept_leave(w, seq, WORKER_SEQ_FREE);
    seq_clear(w, seq);
}

// The kept sequence that was used longest ago, but not `except`; NO_SEQ: there is none.
static uint32_t kept_oldest(const struct worker *w, uint32_t except)
{
    uint32_t oldest = NO_SEQ;
    for (uint32_t i = 0; i < w->engine->limits.n_seq; i++) {
        const struct worker_seq *s = &w->memory.seqs[i];
        if (s->state == WORKER_SEQ_KEPT && i != except &&
            (oldest == NO_SEQ || s->used_ns < w->memory.seqs[oldest].used_ns))
            oldest = i;
    }
    return oldest;
}

bool worker_memory_relieve(struct worker *w)
{
    uint32_t oldest = kept_oldest(w, NO_SEQ);
    if (oldest != NO_SEQ)
        kept_forget(w, oldest);
    return oldest != NO_SEQ;
}

uint32_t worker_memory_forget(struct worker *w, const char *owner)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->engine->limits.n_seq; i++) {
        const struct worker_seq *s = &w->memory.seqs[i];
        if (s->state != WORKER_SEQ_KEPT || (owner != NULL && strcmp(s->owner, owner) != 0))
            continue;
        kept_forget(w, i);
        n++;
    }
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (owner == NULL || strcmp(j->owner, owner) == 0)
            j->keep = false;
    worker_media_forget(w);
    w->freed = true;
    return n;
}

void worker_memory_fini(struct worker *w)
{
    struct worker_memory *m = &w->memory;
    for (uint32_t i = 0; m->seqs != NULL && i < w->engine->limits.n_seq; i++)
        points_cut(&m->seqs[i], 0);
    kv_prefix_free(m->index);
    free(m->seqs);
    free(m->hits);
}

// ---- finding -------------------------------------------------------------------------------------

// How many tokens the job may find in memory: the last one of a prompt is always computed again. A
// hand-off into a sequence that is not empty has been proven exact for ranges that can be cut anywhere.
static uint32_t reuse_limit(const struct worker *w, const struct worker_job *j)
{
    if (!j->reuse)
        return 0;
    if (j->kind == WORKER_JOB_PREFILL)
        return j->prefill.upto;
    if (j->generate.handoff.present && !worker_handoff_partial(w))
        return 0;
    return j->n_tokens - 1;
}

// How much of `held` tokens the job should use. What it reads itself is nothing or a whole chunk: fewer rows
// take longer than that, deep in a conversation several times as long, and round differently
// (docs/architecture.md on how a prompt is cut).
static uint32_t reuse_of(const struct worker *w, const struct worker_job *j, uint32_t held)
{
    uint32_t upto = reuse_limit(w, j), least = w->options.min_chunk_tokens;
    bool reads = j->kind == WORKER_JOB_PREFILL || !j->generate.handoff.present;

    if (!reads || held == upto || held + least <= upto)
        return held;
    return upto > least ? upto - least : 0;
}

static bool forks(const struct worker *w)
{
    return w->engine->ops->fork != NULL;
}

// A running sequence gives its prompt away by fork; one that cannot be cut, only while it holds no more.
static bool running_gives(struct worker *w, uint32_t seq, uint32_t length)
{
    if (!forks(w))
        return false;
    if (w->engine->limits.cuts)
        return true;
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->seq == seq && (j->phase == WORKER_DECODE || j->phase == WORKER_DRAIN))
            return length == (j->phase == WORKER_DECODE ? j->pos : j->computed);
    return false;
}

static struct source source_kept(struct worker *w, const struct kv_prefix_hit *hit)
{
    const struct worker_seq *s = &w->memory.seqs[hit->seq];
    const struct worker_point *point = point_find(s, hit->length);
    struct source x = {WAY_COLD, hit->seq, hit->length, hit->length};

    if (!w->engine->limits.cuts && s->n > hit->length)
        x.certain = point != NULL ? point->at : 0;
    if (s->n - hit->length <= SHORT_REST || hit->length + SHORT_REST >= s->prompt)
        x.way = WAY_IN_PLACE;
    else if (forks(w) && w->engine->limits.cuts)
        x.way = WAY_FORK;
    else if (x.certain >= s->n - x.certain)
        x.way = WAY_IN_PLACE; // keeps more than it loses
    return x;
}

static struct source source_find(struct worker *w, const struct worker_job *j)
{
    struct worker_memory *m = &w->memory;
    struct source best = {WAY_COLD, NO_SEQ, 0, 0};
    size_t n = kv_prefix_find(m->index, j->space, j->tokens, reuse_limit(w, j), m->hits,
                              w->engine->limits.n_seq);

    for (size_t i = 0; i < n; i++) {
        struct kv_prefix_hit *hit = &m->hits[i];
        hit->length = worker_media_floor(j, reuse_of(w, j, hit->length));
        if (hit->length < REUSE_LEAST)
            continue;
        struct source x = {WAY_COLD, hit->seq, hit->length, hit->length};
        if (m->seqs[hit->seq].state == WORKER_SEQ_KEPT)
            x = source_kept(w, hit);
        else if (running_gives(w, hit->seq, hit->length))
            x.way = WAY_FORK;
        // Of equals, one that can be taken in place costs no further sequence.
        bool better = best.way == WAY_COLD || x.certain > best.certain ||
                      (x.certain == best.certain && x.length == best.length &&
                       x.way == WAY_IN_PLACE && best.way == WAY_FORK);
        if (x.way != WAY_COLD && better)
            best = x;
    }
    return best;
}

// ---- admitting -----------------------------------------------------------------------------------

static uint32_t seq_free(const struct worker *w)
{
    for (uint32_t i = 0; i < w->engine->limits.n_seq; i++)
        if (w->memory.seqs[i].state == WORKER_SEQ_FREE)
            return i;
    return NO_SEQ;
}

bool worker_memory_has_sequence(const struct worker *w)
{
    return w->memory.n_running < w->engine->limits.n_seq;
}

// Could there be room, if everything that is kept were forgotten?
static bool room_possible(const struct worker *w, const struct worker_job *j)
{
    return worker_memory_has_sequence(w) &&
           (uint64_t)w->cells_used + j->cells <= w->engine->limits.n_ctx;
}

// Forgets as much as the job needs; at the last the source itself is taken in place.
static void room_make(struct worker *w, const struct worker_job *j, struct source *x)
{
    const struct worker_memory *m = &w->memory;
    for (;;) {
        uint32_t given = x->way == WAY_IN_PLACE ? m->seqs[x->seq].n : 0;
        uint64_t cells = (uint64_t)w->cells_used + m->cells_kept - given + j->cells;
        bool slot = x->way == WAY_IN_PLACE || seq_free(w) != NO_SEQ;
        if (slot && cells <= w->engine->limits.n_ctx)
            return;
        uint32_t oldest = kept_oldest(w, x->way == WAY_COLD ? NO_SEQ : x->seq);
        if (oldest != NO_SEQ)
            kept_forget(w, oldest);
        else
            x->way = WAY_IN_PLACE;
    }
}

// Cuts a sequence that holds `n` tokens back to at most `length`; returns what is left, which is 0
// where the engine can go back to no place before that.
static uint32_t seq_cut(struct worker *w, uint32_t seq, uint32_t n, uint32_t length)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    const struct worker_point *point = point_find(&w->memory.seqs[seq], length);

    if (n <= length || ops->remove(w->engine, seq, length, UINT32_MAX, &e) == 0)
        return n < length ? n : length;
    if (point == NULL || ops->checkpoint_restore == NULL)
        return 0;
    if (ops->checkpoint_restore(w->engine, seq, point->at, point->data, point->len, &e) == 0)
        return point->at;
    log_warn("worker", "a checkpoint did not come back: %s seq=%u at=%u", e.message, seq,
             point->at);
    return 0;
}

static uint32_t take_in_place(struct worker *w, const struct source *x)
{
    uint32_t n = w->memory.seqs[x->seq].n;
    kept_leave(w, x->seq, WORKER_SEQ_RUNNING);
    uint32_t left = seq_cut(w, x->seq, n, x->length);
    if (left == 0)
        seq_clear(w, x->seq);
    points_cut(&w->memory.seqs[x->seq], left);
    return left;
}

static uint32_t take_fork(struct worker *w, const struct source *x, uint32_t seq)
{
    struct err e = {0};
    w->memory.seqs[x->seq].used_ns = clock_now_ns(); // what is shared stays longest
    if (w->engine->ops->fork(w->engine, x->seq, seq, x->length, &e) == 0)
        return x->length;
    log_debug("worker", "no fork: %s from=%u tokens=%u", e.message, x->seq, x->length);
    seq_clear(w, seq);
    return 0;
}

// What will outgrow a cache of its own goes back to the shared one. A cold prompt, where others are kept in that
// one, begins apart, which costs nothing while it is empty; unless answers run: they go on between the parts of
// chunks in the shared one only.
static void seq_place(struct worker *w, const struct worker_job *j)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    bool reads = j->kind == WORKER_JOB_GENERATE && !j->generate.handoff.present;
    int rc = 0;

    if (ops->rejoin != NULL && j->cells > w->engine->limits.n_ctx_stream)
        rc = ops->rejoin(w->engine, j->seq, &e);
    else if (ops->settle != NULL && reads && j->cached == 0 && w->memory.n_kept > 0 &&
             worker_decoding(w) == 0)
        rc = ops->settle(w->engine, j->seq, j->cells, &e);
    if (rc != 0)
        log_debug("worker", "stays where it is: %s seq=%u", e.message, j->seq);
}

bool worker_memory_admit(struct worker *w, struct worker_job *j)
{
    if (!room_possible(w, j))
        return false;
    struct source x = source_find(w, j);
    room_make(w, j, &x);
    j->seq = x.way == WAY_IN_PLACE ? x.seq : seq_free(w);
    if (x.way == WAY_IN_PLACE)
        j->cached = take_in_place(w, &x);
    else if (x.way == WAY_FORK)
        j->cached = take_fork(w, &x, j->seq);
    w->memory.seqs[j->seq].state = WORKER_SEQ_RUNNING;
    memcpy(w->memory.seqs[j->seq].owner, j->owner, sizeof j->owner);
    w->memory.n_running++;
    w->cells_used += j->cells;
    j->computed = j->cached;
    seq_place(w, j);
    return true;
}

// ---- what stays ----------------------------------------------------------------------------------

void worker_memory_share(struct worker *w, const struct worker_job *j)
{
    point_save(w, j->seq, j->computed);
    kv_prefix_put(w->memory.index, j->space, j->seq, j->tokens, j->computed);
    w->freed = true; // somebody may have waited for this prompt
}

// Tokens [0, n) that the job's sequence surely holds.
static uint32_t job_holds(struct worker *w, const struct worker_job *j)
{
    if (j->spoiled)
        return 0;
    if (j->phase == WORKER_DECODE)
        return j->pos;
    if (j->phase != WORKER_HANDOFF)
        return j->computed;
    uint32_t committed = worker_handoff_committed(w, j);
    // What came of the range after it, as tiles, goes.
    bool clean = committed > 0 &&
                 w->engine->ops->remove(w->engine, j->seq, committed, UINT32_MAX, NULL) == 0;
    return clean ? committed : 0;
}

// Kept sequences leave the shared cache, where the rows of every prompt would look at their cells: three of 250
// tokens made reading 256 tokens 14 % slower, fifteen 50 %. Done while nobody waits. One alone stays: a server with
// one conversation needs no second cache.
static void kept_part(struct worker *w)
{
    const struct engine_ops *ops = w->engine->ops;

    if (ops->settle == NULL || w->memory.n_running > 0 || w->memory.n_kept < 2)
        return;
    for (uint32_t i = 0; i < w->engine->limits.n_seq; i++) {
        const struct worker_seq *s = &w->memory.seqs[i];
        struct err e = {0};
        if (s->state == WORKER_SEQ_KEPT && ops->settle(w->engine, i, s->n, &e) != 0)
            log_debug("worker", "stays where it is: %s seq=%u", e.message, i);
    }
}

uint32_t worker_memory_apart(const struct worker *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; w->engine->ops->settled != NULL && i < w->engine->limits.n_seq; i++)
        n += w->memory.seqs[i].state == WORKER_SEQ_KEPT && w->engine->ops->settled(w->engine, i);
    return n;
}

void worker_memory_release(struct worker *w, struct worker_job *j)
{
    struct worker_seq *s = &w->memory.seqs[j->seq];
    uint32_t n = j->keep ? job_holds(w, j) : 0;

    w->cells_used -= j->cells;
    w->memory.n_running--;
    if (n < REUSE_LEAST) {
        s->state = WORKER_SEQ_FREE;
        seq_clear(w, j->seq);
        return;
    }
    point_save(w, j->seq, n);
    kv_prefix_put(w->memory.index, j->space, j->seq, j->tokens, n);
    s->state = WORKER_SEQ_KEPT;
    s->n = n;
    s->prompt = n < j->n_tokens ? n : j->n_tokens;
    s->used_ns = clock_now_ns();
    w->memory.cells_kept += n;
    w->memory.n_kept++;
    kept_part(w);
}
