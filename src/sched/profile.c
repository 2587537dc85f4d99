#include "sched/profile.h"

#include "sched/profile_fit.h"

#include <math.h>
#include <string.h>

#define GRID_CHUNK_TOKENS 512.0
#define FLOOR_GUESS_TOKENS 16.0
#define LOAD_GUESS_S 10.0
#define DISPATCH_GUESS_S 3e-4
#define RTT_GUESS_S 1e-3
#define SETUP_GUESS_S 2e-3
#define SETUP_ROUND_TRIPS 4
#define LINK_GUESS 1e8 // bytes per second
#define HIDING 1.25    // times the reading: so long it may hide a setup

void profile_defaults(struct profile *p)
{
    // An 8B model, four bits per weight, on a laptop.
    *p = (struct profile){
        .read_request_s = 1e-3,
        .read_chunk_s = 5e-3,
        .read_token_s = 5e-3,
        .read_pair_s = 1e-7,
        .step_s = 0.05,
        .row_s = 5e-3,
        .row_depth_s = 2e-6,
        .export_byte_s = 2e-10,
        .import_byte_s = 2e-10,
        .kv_token_bytes = 131072,
        .chunk_tokens = GRID_CHUNK_TOKENS,
        .last_tokens = 64,
        .n_ctx = 8192,
        .n_seq = 4,
        .read_error = PROFILE_TRUST_NONE,
        .step_error = PROFILE_TRUST_NONE,
    };
}

static bool all_within(const double *values, size_t n, double most)
{
    for (size_t i = 0; i < n; i++)
        if (!(values[i] >= 0 && values[i] <= most))
            return false;
    return true;
}

bool profile_sane(const struct profile *p)
{
    const double times[] = {p->read_request_s, p->read_chunk_s, p->read_token_s,  p->read_pair_s,
                            p->step_s,         p->row_s,        p->row_depth_s,   p->load_s,
                            p->read_error,     p->step_error,   p->export_byte_s, p->import_byte_s,
                            p->read_floor_s,   p->dispatch_s};
    const double sizes[] = {p->kv_token_bytes,    p->kv_window_bytes, p->kv_window_tokens,
                            p->state_bytes,       p->n_ctx,           p->n_seq,
                            p->memory_left_bytes, p->watts_idle,      p->watts_prefill,
                            p->watts_decode,      p->samples,         p->dollars_per_hour,
                            p->last_tokens,       p->chunk_tokens};

    return all_within(times, sizeof(times) / sizeof(times[0]), 1e6) &&
           all_within(sizes, sizeof(sizes) / sizeof(sizes[0]), 1e18) && p->chunk_tokens >= 1 &&
           p->read_token_s + p->read_chunk_s > 0 && p->step_s + p->row_s > 0;
}

// ---- predictions ---------------------------------------------------------------------------------------

double profile_read_s(const struct profile *p, double tokens, double depth)
{
    double full, rest, ignored, seconds;

    if (!(tokens > 0))
        return 0;
    full = floor(tokens / p->chunk_tokens);
    rest = tokens - full * p->chunk_tokens;
    seconds = p->read_request_s + tokens * (depth + tokens / 2) * p->read_pair_s;
    if (full > 0)
        seconds +=
            full * profile_chunk_s(p->read_floor_s,
                                   p->read_chunk_s + p->chunk_tokens * p->read_token_s, &ignored);
    if (rest > 0)
        seconds +=
            profile_chunk_s(p->read_floor_s, p->read_chunk_s + rest * p->read_token_s, &ignored);
    return seconds;
}

double profile_step_s(const struct profile *p, double rows, double depth_sum)
{
    return p->step_s + rows * p->row_s + depth_sum * p->row_depth_s;
}

double profile_answer_s(const struct profile *p, double tokens, double depth)
{
    return tokens * profile_step_s(p, 1, depth + tokens / 2);
}

double profile_kv_bytes(const struct profile *p, double from, double to)
{
    double n = to - from;

    // However long the range, a window's layers keep no more than the window.
    return n > 0 ? n * p->kv_token_bytes + fmin(n, p->kv_window_tokens) * p->kv_window_bytes : 0;
}

// ---- what finished work says ---------------------------------------------------------------------------

static struct profile_sample read_sample(const struct profile *p, const struct profile_read *r)
{
    double chunk = r->chunk_tokens > 0 ? r->chunk_tokens : p->chunk_tokens;
    double full = floor(r->tokens / chunk), rest = r->tokens - full * chunk;
    struct profile_sample s = {
        .amounts = {[READ_REQUEST] = 1,
                    [READ_CHUNK] = full + (rest > 0),
                    [READ_TOKEN] = r->tokens,
                    [READ_PAIR] = r->tokens * (r->depth + r->tokens / 2)},
        .chunks = {full, rest > 0},
        .tokens = {chunk, rest},
        .seconds = r->tokens > 0 && r->depth >= 0 ? r->seconds : NAN,
    };

    return s;
}

static struct profile_sample step_sample(const struct profile_steps *s)
{
    struct profile_sample out = {
        .amounts = {1, s->rows, s->depth_sum},
        .seconds = s->steps > 0 && s->rows > 0 ? s->seconds / s->steps : NAN,
    };

    return out;
}

// The filters' costs become the profile.
static void book_publish(struct profile_book *b)
{
    struct profile *p = &b->p;

    p->read_request_s = profile_fit_cost(&b->read, READ_REQUEST);
    p->read_chunk_s = profile_fit_cost(&b->read, READ_CHUNK);
    p->read_token_s = profile_fit_cost(&b->read, READ_TOKEN);
    p->read_pair_s = profile_fit_cost(&b->read, READ_PAIR);
    p->read_floor_s = profile_fit_cost(&b->read, READ_FLOOR);
    p->step_s = profile_fit_cost(&b->step, 0);
    p->row_s = profile_fit_cost(&b->step, 1);
    p->row_depth_s = profile_fit_cost(&b->step, 2);
    p->export_byte_s = profile_fit_cost(&b->export, 0);
    p->import_byte_s = profile_fit_cost(&b->import, 0);
    if (b->load.samples > 0)
        p->load_s = profile_fit_cost(&b->load, 0);
    if (b->dispatch.samples > 0)
        p->dispatch_s = profile_fit_cost(&b->dispatch, 0);
    p->samples = b->read.samples + b->step.samples;
}

void profile_book_init(struct profile_book *b, const struct profile *p, double trust)
{
    // Where there is no floor yet, small chunks shall tell whether there is one.
    double floor_s = p->read_floor_s > 0 ? p->read_floor_s
                                         : p->read_chunk_s + FLOOR_GUESS_TOKENS * p->read_token_s;
    const double read[] = {p->read_request_s, p->read_chunk_s, p->read_token_s, p->read_pair_s,
                           floor_s};
    const double step[] = {p->step_s, p->row_s, p->row_depth_s};
    const double load_s = p->load_s > 0 ? p->load_s : LOAD_GUESS_S;
    const double dispatch_s = p->dispatch_s > 0 ? p->dispatch_s : DISPATCH_GUESS_S;

    memset(b, 0, sizeof(*b));
    b->p = *p;
    profile_fit_init(&b->read, read, READ_TERMS, trust);
    profile_fit_init(&b->step, step, PROFILE_STEP_TERMS, trust);
    profile_fit_init(&b->export, &p->export_byte_s, 1, PROFILE_TRUST_NONE);
    profile_fit_init(&b->import, &p->import_byte_s, 1, PROFILE_TRUST_NONE);
    profile_fit_init(&b->load, &load_s, 1, PROFILE_TRUST_NONE);
    profile_fit_init(&b->dispatch, &dispatch_s, 1, PROFILE_TRUST_NONE);
    b->p.read_error = b->p.step_error = trust;
}

static enum profile_verdict learn_one(struct profile_fit *f, double amount, double seconds)
{
    const struct profile_sample s = {.amounts = {amount}, .seconds = seconds};

    return profile_fit_learn(f, &s);
}

enum profile_verdict profile_learn_read(struct profile_book *b, const struct profile_read *r)
{
    const struct profile_sample s = read_sample(&b->p, r);
    enum profile_verdict v = profile_fit_learn(&b->read, &s);

    if (v == PROFILE_REFUSED)
        return v;
    b->p.read_error = profile_fit_error(&b->read, &s);
    book_publish(b);
    return v;
}

enum profile_verdict profile_learn_steps(struct profile_book *b, const struct profile_steps *st)
{
    const struct profile_sample s = step_sample(st);
    enum profile_verdict v = profile_fit_learn(&b->step, &s);

    if (v == PROFILE_REFUSED)
        return v;
    b->p.step_error = profile_fit_error(&b->step, &s);
    book_publish(b);
    return v;
}

static enum profile_verdict book_learn(struct profile_book *b, struct profile_fit *f, double amount,
                                       double seconds)
{
    enum profile_verdict v = learn_one(f, amount, seconds);

    if (v != PROFILE_REFUSED)
        book_publish(b);
    return v;
}

enum profile_verdict profile_learn_export(struct profile_book *b, double bytes, double seconds)
{
    return book_learn(b, &b->export, bytes, seconds);
}

enum profile_verdict profile_learn_import(struct profile_book *b, double bytes, double seconds)
{
    return book_learn(b, &b->import, bytes, seconds);
}

enum profile_verdict profile_learn_load(struct profile_book *b, double seconds)
{
    return book_learn(b, &b->load, 1, seconds);
}

enum profile_verdict profile_learn_dispatch(struct profile_book *b, double seconds)
{
    return book_learn(b, &b->dispatch, 1, seconds);
}

#define BATCH_MOST 64

void profile_fit_reads(struct profile_book *b, const struct profile_read *r, size_t n)
{
    struct profile_sample s[BATCH_MOST] = {0};

    n = n < BATCH_MOST ? n : BATCH_MOST;
    for (size_t i = 0; i < n; i++)
        s[i] = read_sample(&b->p, &r[i]);
    profile_fit_batch(&b->read, s, n);
    if (n > 0)
        b->p.read_error = profile_fit_error(&b->read, &s[n - 1]);
    book_publish(b);
}

void profile_fit_steps(struct profile_book *b, const struct profile_steps *st, size_t n)
{
    struct profile_sample s[BATCH_MOST] = {0};

    n = n < BATCH_MOST ? n : BATCH_MOST;
    for (size_t i = 0; i < n; i++)
        s[i] = step_sample(&st[i]);
    profile_fit_batch(&b->step, s, n);
    if (n > 0)
        b->p.step_error = profile_fit_error(&b->step, &s[n - 1]);
    book_publish(b);
}

// ---- from a catalogue ----------------------------------------------------------------------------------

static const double grid_tokens[] = {16, 64, 256, 512, 1024, 2048, 4096, 8192};
static const double grid_depths[] = {0, 512, 2048, 8192};
static const double grid_rows[] = {1, 2, 4, 8, 16};
#define N_TOKENS (sizeof(grid_tokens) / sizeof(grid_tokens[0]))
#define N_DEPTHS (sizeof(grid_depths) / sizeof(grid_depths[0]))
#define N_ROWS (sizeof(grid_rows) / sizeof(grid_rows[0]))

static void cost_reads(struct profile_book *b, const struct cost_model *m,
                       const struct cost_rates *rates)
{
    struct profile_read r[N_TOKENS * N_DEPTHS];

    for (size_t i = 0; i < N_TOKENS * N_DEPTHS; i++) {
        const struct cost_work w = {.tokens = grid_tokens[i / N_DEPTHS],
                                    .depth = grid_depths[i % N_DEPTHS],
                                    .batch = 1,
                                    .chunk = b->p.chunk_tokens};
        r[i] = (struct profile_read){
            .tokens = w.tokens, .depth = w.depth, .seconds = cost_prefill(m, rates, &w).total_s};
    }
    profile_fit_reads(b, r, N_TOKENS * N_DEPTHS);
}

static void cost_steps(struct profile_book *b, const struct cost_model *m,
                       const struct cost_rates *rates)
{
    struct profile_steps s[N_ROWS * N_DEPTHS];

    for (size_t i = 0; i < N_ROWS * N_DEPTHS; i++) {
        const struct cost_work w = {
            .tokens = 1, .depth = grid_depths[i % N_DEPTHS], .batch = grid_rows[i / N_DEPTHS]};
        s[i] = (struct profile_steps){.steps = 1,
                                      .rows = w.batch,
                                      .depth_sum = w.batch * w.depth,
                                      .seconds = cost_decode(m, rates, &w).total_s};
    }
    profile_fit_steps(b, s, N_ROWS * N_DEPTHS);
}

void profile_from_cost(struct profile *p, const struct cost_model *m, const struct cost_rates *r)
{
    struct profile_book b;
    double chunk = p->chunk_tokens >= 1 ? p->chunk_tokens : GRID_CHUNK_TOKENS;
    double launch = m->layers * r->layer_s + r->step_s;

    // Where the fit begins: each term as the formulas have it for a dense model without windows.
    p->chunk_tokens = chunk;
    p->read_request_s = 1e-6;
    p->read_chunk_s = cost_weights_touched(m, chunk) * r->floor_s + launch;
    p->read_token_s = fmax(m->token_flops - m->head_flops, 0.5 * m->token_flops) * r->flop_s;
    p->read_pair_s = (m->full_pair_flops + 1e-3 * m->window_pair_flops) * r->pair_s;
    p->read_floor_s = cost_weights_touched(m, FLOOR_GUESS_TOKENS) * r->weight_s + launch;
    p->step_s = cost_weights_touched(m, 1) * r->weight_s + launch;
    p->row_s = m->token_flops * r->flop_s;
    p->row_depth_s = (m->full_kv_bytes + 1e-3 * m->window_kv_bytes) * r->kv_s;
    p->kv_token_bytes = m->full_kv_bytes;
    p->kv_window_bytes = m->window_kv_bytes;
    p->kv_window_tokens = m->window_tokens;
    profile_book_init(&b, p, PROFILE_TRUST_NONE);
    cost_reads(&b, m, r);
    cost_steps(&b, m, r);
    *p = b.p;
    p->samples = 0;
    p->read_error = p->step_error = PROFILE_TRUST_CATALOGUE;
}

// ---- links ---------------------------------------------------------------------------------------------

static void link_publish(struct profile_link_book *b)
{
    b->link.rtt_s = profile_fit_cost(&b->rtt, 0);
    b->link.up_bytes_per_s = 1 / profile_fit_cost(&b->up, 0);
    b->link.down_bytes_per_s = 1 / profile_fit_cost(&b->down, 0);
    b->link.setup_s = profile_fit_cost(&b->setup, 0);
}

void profile_link_init(struct profile_link_book *b, const struct profile_link *l, double trust)
{
    double rtt = l->rtt_s > 0 ? l->rtt_s : RTT_GUESS_S;
    double up = 1 / (l->up_bytes_per_s > 0 ? l->up_bytes_per_s : LINK_GUESS);
    double down = 1 / (l->down_bytes_per_s > 0 ? l->down_bytes_per_s : LINK_GUESS);
    // Offer and answer, then a connection with its handshake, then the first frame.
    double setup = l->setup_s > 0 ? l->setup_s : SETUP_GUESS_S + SETUP_ROUND_TRIPS * rtt;

    memset(b, 0, sizeof(*b));
    profile_fit_init(&b->rtt, &rtt, 1, trust);
    profile_fit_init(&b->up, &up, 1, trust);
    profile_fit_init(&b->down, &down, 1, trust);
    profile_fit_init(&b->setup, &setup, 1, trust);
    link_publish(b);
}

enum profile_verdict profile_learn_rtt(struct profile_link_book *b, double seconds)
{
    enum profile_verdict v = learn_one(&b->rtt, 1, seconds);

    link_publish(b);
    return v;
}

enum profile_verdict profile_learn_up(struct profile_link_book *b, double bytes, double seconds)
{
    enum profile_verdict v = learn_one(&b->up, bytes, seconds);

    link_publish(b);
    return v;
}

enum profile_verdict profile_learn_down(struct profile_link_book *b, double bytes, double seconds)
{
    enum profile_verdict v = learn_one(&b->down, bytes, seconds);

    link_publish(b);
    return v;
}

enum profile_verdict profile_learn_handoff(struct profile_link_book *b, double arrived_s,
                                           double read_s, double transfer_s)
{
    double most = arrived_s - transfer_s; // the setup was no longer
    // What a serial hand-off takes that hides its setup, and a little more.
    double hidden_s = HIDING * read_s + 2 * b->link.rtt_s;
    enum profile_verdict v;

    if (!(read_s >= 0 && most > 0))
        return PROFILE_REFUSED;
    if (most > b->link.setup_s && most <= hidden_s)
        return PROFILE_TAKEN;
    v = learn_one(&b->setup, 1, most);
    link_publish(b);
    return v;
}
