// Steps of the engine: all running answers by one token, a piece of one prompt, or both together.
//
// With nobody decoding, prompts are read in whole chunks, as their schedule says; where one takes long, a long
// prompt is read in parts of it (PROFILE_PART_S). While answers run, the next of their steps comes between two
// layers of a chunk, as soon as it is due. So it does between two layers of an answer's step that takes too long
// to be had together: one behind a long prompt.
// Where an answer cannot live apart from the prompt (windows, recurrent states, no room), pace.h says how
// many rows of a prompt go along with a step or in between. Of the prompts that are here the one with the least
// left is read first, and segments of a hand-off come before either.
#include "base/log.h"
#include "node/worker.h"

#include <stdlib.h>

// Publishes what is about to run. False: something came in meanwhile, look at that first. Whoever
// posts an event that should stop a chunk posts first and then looks at `running`; we set it first
// and then look at the inbox: so one of the two sees the other, and no interrupt is missed.
bool worker_running_set(struct worker *w, const struct worker_job *j)
{
    worker_power_now(w, WATTS_PREFILL);
    w->engine->ops->interrupt(w->engine, false);
    if (j->link != NULL) {
        atomic_store(&w->running, worker_key(j->link->serial, j->id));
        atomic_store(&w->running_link, j->link->serial);
    }
    if (j->bulk != NULL)
        atomic_store(&w->running_bulk, j->bulk->serial);
    return chan_len(w->inbox) == 0;
}

void worker_running_clear(struct worker *w)
{
    atomic_store(&w->running, 0);
    atomic_store(&w->running_link, 0);
    atomic_store(&w->running_bulk, 0);
}

// ---- a chunk of one prompt -----------------------------------------------------------------------

// What a chunk of a long prompt has that is read alone.
static uint32_t part_tokens(const struct worker *w)
{
    return w->engine->limits.n_batch / w->chunk_parts;
}

// Full chunks give the rate, small ones the floor: where a batch is bound by reading the weights, a
// small chunk takes longer than its share. The number of parts changes by twos and not lightly: the same prompt is to be
// read in the same parts the next time. An emulated machine's seconds are not these.
static void rates_learn(struct worker *w, size_t n, double seconds)
{
    uint32_t full = part_tokens(w);
    double rate = (double)n / seconds;

    pace_learn_chunk(&w->pace, (uint32_t)n, seconds);
    if (n * 2 >= full) {
        w->prefill_rate = w->prefill_rate == 0 ? rate : 0.7 * w->prefill_rate + 0.3 * rate;
        if (full > PROFILE_PART_S * w->prefill_rate && full >= 2 * PROFILE_PART_LEAST &&
            w->options.pace_prefill == 0)
            w->chunk_parts *= 2;
        else if (full < 0.3 * PROFILE_PART_S * w->prefill_rate && w->chunk_parts > 1)
            w->chunk_parts /= 2;
    } else if (n * 4 <= full && w->prefill_rate > 0) {
        double floor_s = seconds > 1.25 * (double)n / w->prefill_rate ? seconds : 0;
        w->floor_s = w->floor_s == 0 ? floor_s : 0.7 * w->floor_s + 0.3 * floor_s;
    }
}

uint32_t worker_chunk_end(const struct worker *w, const struct worker_job *j, uint32_t rows)
{
    // A schedule with few ends for many tokens is coarser than a step can be.
    uint32_t batch = w->engine->limits.n_batch, most = rows < batch ? rows : batch;
    uint32_t left = j->ends[j->next_end] - j->computed;
    // In equal pieces: a short one at the end would cost more and round differently.
    uint32_t pieces = (left + most - 1) / most;
    return worker_media_border(j, j->computed + (left + pieces - 1) / pieces);
}

// Frees what ended inside the chunk.
static void jobs_sweep(struct worker *w)
{
    struct worker_job *next = NULL;
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->over)
            worker_job_finish(w, j);
    }
}

static void chunk_rows(struct worker *w, const struct worker_job *j, uint32_t end, size_t at)
{
    for (uint32_t p = j->computed; p < end; p++)
        w->rows[0][at++] = (struct engine_row){.token = j->tokens[p], .pos = p, .seq = j->seq};
}

void worker_chunk_count(struct worker *w, struct worker_job *j, uint32_t end, int64_t t0,
                        int64_t t1)
{
    j->compute_ns += t1 - t0;
    worker_timeline_add(&j->timeline, &(struct worker_span){"compute", t0, t1, j->computed, end});
    j->tokens_read += end - j->computed;
    j->computed = end;
    while (j->next_end < j->n_ends && j->ends[j->next_end] <= end)
        j->next_end++; // an image may end behind where a chunk would have
    w->freed = w->freed || w->twins_wait;
}

int worker_chunk_run(struct worker *w, struct worker_job *j, uint32_t end)
{
    struct err e = {0};
    size_t n = end - j->computed;
    int64_t t0 = w->part_ns = clock_now_ns();

    // The prompt's last token is no part of what was read, as everywhere.
    bool whole = j->kind == WORKER_JOB_GENERATE && end == j->n_tokens;

    w->inside_ns = 0;
    chunk_rows(w, j, end, 0);
    w->rows[0][n - 1].want_logits = whole;
    int rc = worker_running_set(w, j) ? w->engine->ops->step(w->engine, w->rows[0], n, &e)
                                      : ERR_CANCELLED;
    int64_t t1 = clock_now_ns();
    worker_running_clear(w);
    jobs_sweep(w);
    if (rc == ERR_BUSY && worker_memory_relieve(w))
        return ERR_CANCELLED; // the same chunk again, with more room
    if (rc != 0) {
        j->spoiled = rc != ERR_CANCELLED;
        if (rc != ERR_CANCELLED)
            worker_job_fail(w, j, rc, e.message);
        return rc;
    }
    // An emulated machine takes the time of an answer's step for the last token: that is no reading.
    if (!whole || w->options.pace_prefill == 0)
        worker_cost_chunk(&j->cost, j->computed, end, t1 - t0 - w->inside_ns);
    worker_chunk_count(w, j, whole ? end - 1 : end, t0, t1);
    j->compute_ns -= w->inside_ns;
    rates_learn(w, n, ns_to_s(t1 - t0 - w->inside_ns + 1));
    return 0;
}

// What the sequence holds is what prefix memory will know: the prompt and the answer's own tokens.
static void history_put(struct worker_job *j, int32_t token)
{
    if (j->pos >= j->tokens_cap) {
        j->tokens_cap = j->pos + 256 + j->pos / 4;
        j->tokens = mem_resize(j->tokens, j->tokens_cap * sizeof *j->tokens);
    }
    j->tokens[j->pos] = token;
}

// One row of the step is a job's: its next token, which may end it.
static void token_take(struct worker *w, struct worker_job *j, size_t row)
{
    int32_t token = w->engine->ops->sample(w->engine, j->sampler, row);
    j->pos++;
    j->next_token = token;
    history_put(j, token);
    worker_answer_token(w, j, token, row);
}

// ---- whose prompt is read -------------------------------------------------------------------------

static uint32_t tokens_to_read(const struct worker_job *j)
{
    return j->kind == WORKER_JOB_PREFILL ? j->prefill.upto : j->n_tokens - 1;
}

static uint32_t tokens_left(const struct worker_job *j)
{
    return tokens_to_read(j) - j->computed;
}

// Shortest remaining first: on average nobody can have first tokens sooner (Schrage, Operations Research 16(3),
// 1968), and the small last pieces of a hand-off, for which another machine waits, wait for no full chunk. But
// who was passed over often enough goes first, so that everybody gets a third of what turns would give.
static bool reads_before(const struct worker_job *a, const struct worker_job *b, uint32_t bound)
{
    bool a_due = a->passed_over >= bound, b_due = b->passed_over >= bound;

    if (a_due != b_due)
        return a_due;
    if (!a_due && tokens_left(a) != tokens_left(b))
        return tokens_left(a) < tokens_left(b);
    return a->turn < b->turn;
}

static struct worker_job *reader_next(const struct worker *w)
{
    struct worker_job *next = NULL;
    uint32_t readers = 0;

    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        readers += j->phase == WORKER_READ;
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_READ &&
            (next == NULL || reads_before(j, next, WORKER_PASSES * readers)))
            next = j;
    return next;
}

// The job has its turn to read, and all others that do have one less.
static void turn_take(struct worker *w, struct worker_job *reader)
{
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        j->passed_over += j->phase == WORKER_READ;
    reader->passed_over = 0;
    reader->turn = ++w->turn;
}

// Segments that have come are taken in before more of other prompts is read: somebody's first token waits for
// nothing else. For so many steps, then a prompt has its turn all the same.
static bool imports_first(struct worker *w)
{
    bool first = worker_imports_wait(w) && w->imports_ahead < WORKER_IMPORTS_AHEAD;
    w->imports_ahead = first ? w->imports_ahead + 1 : 0;
    return first;
}

// ---- reading ---------------------------------------------------------------------------------------

// May the last chunk take the prompt's last token along? That is a step less until the first token comes,
// where no prefill worker could have read the prompt in this one's place. Nobody's pace is in the way, since
// such a chunk is computed in one go.
static bool reads_whole(const struct worker *w, const struct worker_job *j)
{
    uint32_t left = j->n_tokens - j->computed;

    return j->kind == WORKER_JOB_GENERATE && j->generate.whole && w->engine->limits.cuts &&
           !worker_media_next(j) && worker_media_border(j, j->n_tokens) == j->n_tokens &&
           left <= w->engine->limits.n_batch && j->ends[j->next_end] == j->n_tokens - 1;
}

static void read_whole(struct worker *w, struct worker_job *j)
{
    size_t last = j->n_tokens - j->computed - 1;

    turn_take(w, j);
    if (worker_chunk_run(w, j, j->n_tokens) != 0)
        return;
    worker_generate_read(w, j);
    token_take(w, j, last);
}

// A prompt that one step can take has it.
static uint32_t lone_chunk_rows(const struct worker *w, const struct worker_job *j)
{
    return tokens_to_read(j) <= w->engine->limits.n_batch ? UINT32_MAX : part_tokens(w);
}

static void read_chunk(struct worker *w, struct worker_job *j, uint32_t rows)
{
    turn_take(w, j);
    if (worker_media_next(j))
        worker_media_read(w, j, rows);
    else if (j->kind == WORKER_JOB_PREFILL)
        worker_prefill_chunk(w, j, rows);
    else if (worker_chunk_run(w, j, worker_chunk_end(w, j, rows)) == 0)
        worker_generate_read(w, j);
}

// ---- the batched step ----------------------------------------------------------------------------

// Is the answer one of those whose step it is?
static bool is_of_part(const struct worker *w, const struct worker_job *j)
{
    return w->part == WORKER_ALL || worker_decode_is_apart(w, j) == (w->part == WORKER_APART);
}

bool worker_takes_part(const struct worker *w, const struct worker_job *j)
{
    return j->in_step && j->phase == WORKER_DECODE && is_of_part(w, j);
}

// Rows of the answers that had none in this round yet, behind the n that are there.
static size_t rows_of_round(struct worker *w, size_t n)
{
    for (struct worker_job *j = w->jobs; j != NULL && n < w->engine->limits.n_batch; j = j->next) {
        if (j->phase != WORKER_DECODE || j->over || j->in_step || j->round == w->round ||
            j->adapter != w->adapter_now || !is_of_part(w, j))
            continue;
        w->rows[w->inside][n] = (struct engine_row){j->next_token, j->pos, j->seq, true};
        j->in_step = true;
        j->round = w->round;
        j->row = n++;
    }
    return n;
}

// A row for every running answer; where there are more than a step holds, all come once in every round.
static size_t rows_collect(struct worker *w)
{
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        j->in_step = j->in_step && !is_of_part(w, j);
    worker_adapter_turn(w);
    size_t n = rows_of_round(w, 0);
    w->round++;
    return rows_of_round(w, n);
}

static void step_fail(struct worker *w, struct worker_job *reader, int code, const char *message)
{
    struct worker_job *next = NULL;
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if ((j->phase != WORKER_DECODE || j->over || !is_of_part(w, j)) && j != reader)
            continue;
        j->spoiled = true;
        worker_job_fail(w, j, code, message);
    }
}

static void tokens_take(struct worker *w, int64_t t0, int64_t t1)
{
    struct worker_job *next = NULL; // token_take may end a job
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (!worker_takes_part(w, j))
            continue;
        worker_timeline_add(&j->timeline,
                            &(struct worker_span){"decode", t0, t1, j->pos, j->pos + 1});
        token_take(w, j, j->row);
    }
}

// What a row of an answer takes that shares a cache: less where others have its step with it.
static void shared_learn(struct worker *w, size_t n, double seconds)
{
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (worker_takes_part(w, j) && !worker_decode_is_apart(w, j) &&
            (j->step_s == 0 || seconds / (double)n < j->step_s))
            j->step_s = seconds / (double)n;
}

static void step_learn(struct worker *w, size_t n, uint32_t rows, int64_t ns)
{
    ns -= w->inside ? 0 : w->inside_ns;
    double seconds = ns_to_s(ns + 1), rate = 1 / seconds;

    // Inside another step all caches are cold, and a deep answer's step alone is no measure for the others.
    if (!w->inside && w->part != WORKER_SHARED)
        pace_learn_step(&w->pace, (uint32_t)n, rows, seconds);
    if (rows > 0)
        return;
    w->decode_rate = w->decode_rate == 0 ? rate : 0.9 * w->decode_rate + 0.1 * rate;
    if (w->inside)
        return;
    shared_learn(w, n, seconds);
    // A token's time is its step's and that of taking it, which for this one is yet to come.
    worker_cost_steps(w, n, ns + w->taking_ns);
}

static void reader_count(struct worker *w, struct worker_job *reader, uint32_t end, int64_t t0,
                         int64_t t1)
{
    turn_take(w, reader);
    worker_chunk_count(w, reader, end, t0, t1);
    if (reader->kind == WORKER_JOB_PREFILL)
        worker_prefill_read(w, reader);
    else
        worker_generate_read(w, reader);
}

// One step of the n decode rows that were collected, and of up to `rows` rows of a prompt.
static void decode_step(struct worker *w, size_t n, struct worker_job *reader, uint32_t rows)
{
    struct err e = {0};
    uint32_t room = w->engine->limits.n_batch - (uint32_t)n, end = 0;

    if (room == 0)
        reader = NULL;
    if (reader != NULL) {
        end = worker_chunk_end(w, reader, rows < room ? rows : room);
        rows = end - reader->computed;
        chunk_rows(w, reader, end, n);
    } else {
        rows = 0;
    }
    if (!w->inside)
        w->engine->ops->interrupt(w->engine, false); // meant for a chunk that has ended
    worker_power_now(w, rows > 0 ? -1 : WATTS_DECODE);
    int64_t t0 = clock_now_ns();
    if (!w->inside) {
        w->part_ns = t0;
        w->inside_ns = 0;
    }
    int rc = w->engine->ops->step(w->engine, w->rows[w->inside], n + rows, &e);
    int64_t t1 = w->stepped_ns = clock_now_ns();
    if (w->inside)
        worker_power_now(w, WATTS_PREFILL);
    if (rc == ERR_CANCELLED || (rc == ERR_BUSY && !w->inside && worker_memory_relieve(w)))
        return; // nothing changed: the same step again
    if (rc != 0) {
        step_fail(w, reader, rc, e.message);
        return;
    }
    step_learn(w, n, rows, t1 - t0);
    size_t jobs = w->n_jobs;
    tokens_take(w, t0, t1);
    if (w->n_jobs == jobs) // an answer's end takes longer than its tokens
        w->taking_ns = clock_now_ns() - t1;
    if (reader != NULL)
        reader_count(w, reader, end, t0, t1);
}

size_t worker_decoding(const struct worker *w)
{
    size_t n = 0;
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        n += j->phase == WORKER_DECODE && !j->over;
    return n;
}

// True while no answer has got going: there is no pace to keep yet, and prompts that came together are
// best read before any of them is answered at length.
static bool answers_begin(const struct worker *w)
{
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_DECODE && j->generated >= WORKER_PACE_TOKENS)
            return false;
    return w->pace.bound_s < 0;
}

// Is the next token due before another part of what is computed has passed?
static bool step_is_due(const struct worker *w, uint32_t n, int64_t now)
{
    double part_s = ns_to_s(now - w->part_ns), waited_s = ns_to_s(now - w->stepped_ns);
    bool answers = w->part == WORKER_SHARED;
    return waited_s + part_s > (answers ? pace_calm_spare_s : pace_spare_s)(&w->pace, n);
}

static size_t decoding_apart(const struct worker *w)
{
    size_t n = 0;
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        n += j->phase == WORKER_DECODE && !j->over && worker_decode_is_apart(w, j);
    return n;
}

// The engine's callback, between two parts of a step.
static void go_on(void *worker)
{
    struct worker *w = worker;
    int64_t now = clock_now_ns();
    enum worker_part outer = w->part;
    size_t n = decoding_apart(w);

    if (n > 0 && step_is_due(w, (uint32_t)n, now)) {
        w->inside = true;
        w->part = WORKER_APART;
        decode_step(w, rows_collect(w), NULL, 0);
        w->part = outer;
        w->inside = false;
    }
    w->part_ns = clock_now_ns();
    w->inside_ns += w->part_ns - now;
}

static void between_set(struct worker *w, bool on)
{
    w->engine->ops->between_set(w->engine, on ? go_on : NULL, w);
}

static void part_step(struct worker *w, enum worker_part part)
{
    w->part = part;
    size_t n = rows_collect(w);
    if (n > 0)
        decode_step(w, n, NULL, 0);
    w->part = WORKER_ALL;
}

// Answers that share a cache: those that live apart go on meanwhile.
static void step_shared(struct worker *w)
{
    between_set(w, true);
    part_step(w, WORKER_SHARED);
    between_set(w, false);
    jobs_sweep(w);
}

// The answers live apart from the prompt: they go on while it is read. Those that cannot have a step after it.
static bool read_between(struct worker *w, struct worker_job *reader, double row_s)
{
    if (w->pace.bound_s == 0 || !worker_decode_part(w, reader))
        return false;
    part_step(w, WORKER_APART);
    between_set(w, true);
    read_chunk(
        w, reader,
        pace_chunk_rows(&w->pace, (uint32_t)decoding_apart(w), w->engine->identity.n_layer, row_s));
    between_set(w, false);
    step_shared(w);
    return true;
}

// Some live apart and some do not: two passes over the weights either way, so each has its own time.
static bool step_between(struct worker *w, size_t n)
{
    size_t apart = decoding_apart(w);
    if (w->pace.bound_s == 0 || apart == 0 || apart == n || w->engine->ops->between_set == NULL)
        return false;
    part_step(w, WORKER_APART);
    step_shared(w);
    return true;
}

void worker_step_run(struct worker *w)
{
    size_t n = rows_collect(w);
    struct worker_job *reader = reader_next(w);
    double row_s = w->prefill_rate > 0 ? 1 / w->prefill_rate : 0;
    struct pace_share share = {0, false};

    if (n > 0 && reader != NULL && imports_first(w))
        reader = NULL;
    w->export_mixed = w->export_mixed || n > 0 || reader != NULL;
    if (n == 0) {
        if (reader != NULL && reads_whole(w, reader))
            read_whole(w, reader);
        else if (reader != NULL)
            read_chunk(w, reader, lone_chunk_rows(w, reader));
        return;
    }
    if (reader == NULL) {
        worker_decode_settle(w);
        if (step_between(w, n))
            return;
    } else if (answers_begin(w)) {
        share = (struct pace_share){UINT32_MAX, true};
    } else if (read_between(w, reader, row_s)) {
        return;
    } else {
        share = pace_share_get(&w->pace, (uint32_t)n, row_s);
    }
    bool alike = share.rows > 0 && reader->adapter == w->adapter_now;
    if (alike && !share.apart && !worker_media_next(reader)) {
        worker_decode_rejoin(w, reader);
        decode_step(w, n, reader, share.rows);
        return;
    }
    decode_step(w, n, NULL, 0);
    if (share.rows > 0)
        read_chunk(w, reader, share.rows);
}
