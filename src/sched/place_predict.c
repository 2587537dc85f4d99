#include "sched/place_impl.h"

#include <math.h>

#define PIECE_TOKENS 64.0 // that no chunk is shorter than
#define CUTS_MOST 4
#define ALIKE 2.0       // readings that differ by less may come in any order
#define WATTS_LEAST 1.0 // that work draws more, whatever a meter saw: none is free
#define PACE_LEAST 1.01 // a tighter bound would leave reading no time at all
#define PASSES 2.0 // that a prompt waits for each one that is read beside it (node/worker_step.c)
#define JOULES_PER_KWH 3.6e6

// ---- one node --------------------------------------------------------------------------------------------

// fmax(x, 0) makes 0 of what is not a number, too: a caller's sums may end a little below it.
static double quiet_step_s(const struct place_node *n)
{
    return profile_step_s(n->profile, fmax(n->answers, 0), fmax(n->depth_sum, 0));
}

// The longest that a worker is busy with a long prompt without looking at others.
static double part_s(const struct profile *p)
{
    double least_s = profile_read_s(p, fmin(PROFILE_PART_LEAST, p->chunk_tokens), 0);
    return fmin(profile_read_s(p, p->chunk_tokens, 0), fmax(PROFILE_PART_S, least_s));
}

// Shortest remaining first (node/worker_step.c): until a prompt that takes own_s is read, those with less left
// are read whole. So are those with not much more, as far as anybody can tell: whoever comes next, a little shorter,
// goes before this one as this one before them, and to count on that would make every request ask for a little
// less, to be first. Of the others it waits for half a chunk, which is being computed when it comes, and, when it
// takes long itself, for the turns of those that were passed over often enough.
static double queue_s(const struct place_node *n, double own_s)
{
    double before_s = 0, turns_s = 0, chunk_s = 0, readers = 1;

    if (!n->reads)
        return fmax(n->read_wait_s, 0);
    for (const struct place_reading *r = n->reads; r; r = r->next)
        readers++;
    for (const struct place_reading *r = n->reads; r; r = r->next) {
        double left_s = fmax(r->left_s, 0);

        if (left_s <= ALIKE * own_s) {
            before_s += left_s;
            continue;
        }
        turns_s += fmin(left_s, own_s / (PASSES * readers));
        chunk_s = fmax(chunk_s, left_s);
    }
    if (chunk_s > 0)
        chunk_s = fmin(chunk_s, part_s(n->profile));
    return before_s + fmax(turns_s, chunk_s / 2);
}

// What prompts that it goes before wait longer, all together.
static double passed_s(const struct place_node *n, double own_s)
{
    double sum_s = 0;

    for (const struct place_reading *r = n->reads; r; r = r->next)
        sum_s += r->left_s > ALIKE * own_s ? own_s : 0;
    return sum_s;
}

// How long its running answers go on, as far as is expected.
static double answers_s(const struct place_node *n)
{
    return n->answers > 0 ? fmax(n->rest_tokens, 0) * quiet_step_s(n) : 0;
}

static double pace_of(const struct place_node *n)
{
    return n->pace > 0 ? fmax(n->pace, PACE_LEAST) : PLACE_PACE;
}

// Between two steps of running answers only so much is read that the steps come in time: of pace x step
// the step itself takes one part, reading the others, until the answers end.
static double read_wall_s(const struct place_node *n, double seconds)
{
    return n->answers > 0 ? seconds + fmin(seconds / (pace_of(n) - 1), answers_s(n)) : seconds;
}

// What all running answers together wait because something else is done for so long.
static double delay_s(const struct place_node *n, double seconds)
{
    if (!(n->answers > 0 && n->rest_tokens > 0))
        return 0;
    return n->answers * fmin(seconds, (pace_of(n) - 1) * answers_s(n));
}

// Until there are sequences and room for so many tokens: until the first answer ends, when there are not now.
static double slot_wait_s(const struct place_node *n, double seqs, double tokens)
{
    if (n->free_seqs >= seqs && n->free_cells >= tokens)
        return 0;
    return n->answers > 0 ? fmax(n->next_tokens, 0) * quiet_step_s(n) : 0;
}

static double writer_wait_s(const struct place_case *c)
{
    return slot_wait_s(c->d, c->rows, c->prompt + c->rows * c->room - c->held_d);
}

// ---- reading ---------------------------------------------------------------------------------------------

// What it costs, besides time: collected until the plan is done.
struct bill {
    double p_busy_s;   // P reads and exports
    double d_read_s;   // D reads
    double d_import_s; // D takes KV in
    double d_answer_s; // D answers, what a batch shares counted once
};

static double read_alone(const struct place_case *c, struct bill *b, struct place_plan *out)
{
    double read_s = profile_read_s(c->d->profile, c->prompt - 1 - c->held_d, c->held_d);
    double slot_s = writer_wait_s(c);

    b->d_read_s = read_s;
    out->wait_s = fmax(queue_s(c->d, read_s), slot_s);
    out->read_s = read_wall_s(c->d, read_s);
    out->slowdown_s = delay_s(c->d, read_s) + passed_s(c->d, read_s);
    return out->wait_s + out->read_s;
}

double place_rate(const struct place_case *c)
{
    double others = fmax(fmax(c->p->sending, c->d->receiving), 0);
    double send_s = (1 + others) / c->link.bytes_per_s;

    return 1 / fmax(send_s, c->d->profile->import_byte_s);
}

// The pipeline of reading, sending and taking in.
static struct cost_handoff handoff_of(const struct place_case *c)
{
    const struct profile *p = c->p->profile;
    double from = fmax(c->held_d, c->held_p), fresh = fmax(c->upto - from, 0);
    double bytes = profile_kv_bytes(p, c->held_d, c->upto);
    double ready = fmin(bytes, profile_kv_bytes(p, c->held_d, fmin(c->held_p, c->upto)));
    double read_s = profile_read_s(p, c->upto - c->held_p, c->held_p);
    // P must read what D holds as well, where it does not hold it itself.
    double before_s =
        fresh > 0 && c->held_p < from ? read_s - profile_read_s(p, c->upto - from, from) : 0;
    // A last chunk that leaves layer by layer does so from its first layer on: alone it is its own first piece. It
    // does where P begins to compute where D's part ends; else the only chunk leaves whole (node/worker_prefill.c).
    bool only = fresh <= p->chunk_tokens, level = c->held_p == c->held_d;
    double tiles = only && level ? fmax(PIECE_TOKENS / fmax(p->last_tokens, 1), 1) : 1;
    double first = fmin(p->chunk_tokens, fresh);
    double export_s = bytes * p->export_byte_s;
    double wall_s = read_wall_s(c->p, read_s + export_s);
    double stretch = read_s + export_s > 0 ? wall_s / (read_s + export_s) : 1;

    before_s = fmax(before_s, 0) * stretch;
    return (struct cost_handoff){
        .tokens = fresh,
        .chunk_tokens = p->chunk_tokens,
        .last_tokens = fmax(p->last_tokens, only ? fresh / tiles : 0),
        .before_s = before_s,
        .prefill_s = fmax(wall_s - before_s, 0),
        .first_s = first > 0 ? stretch * profile_read_s(p, first, from) / tiles : 0,
        .kv_bytes = bytes,
        .ready_bytes = ready,
        .link = {.bytes_per_s = place_rate(c), .latency_s = c->link.rtt_s / 2},
    };
}

// D reads what P left to it, when what P read is in.
static double read_rest(const struct place_case *c, double ready_s, struct bill *b,
                        struct place_plan *out)
{
    double rest = c->prompt - 1 - c->upto, read_s, wait_s;

    if (!(rest > 0))
        return ready_s;
    read_s = profile_read_s(c->d->profile, rest, c->upto);
    wait_s = queue_s(c->d, read_s);
    b->d_read_s = read_s;
    out->read_s += read_wall_s(c->d, read_s);
    out->slowdown_s += delay_s(c->d, read_s) + passed_s(c->d, read_s);
    out->wait_s += fmax(wait_s - ready_s, 0);
    return fmax(ready_s, wait_s) + read_wall_s(c->d, read_s);
}

// A chunk of so many tokens takes more than their share of a full one by what each chunk costs.
static double piece_s(const struct place_case *c, double tokens, double depth)
{
    return profile_read_s(c->p->profile, tokens, depth) - c->p->profile->read_request_s;
}

// The worker cuts its first chunk so that the link starts early, in pieces that double (kv/schedule.c): n more
// chunks, of which the first one has the 2^n-th part. More chunks cost time, so the best number is taken.
static struct cost_handoff_time handoff_time(const struct place_case *c,
                                             const struct cost_handoff *h)
{
    const struct profile *p = c->p->profile;
    struct cost_handoff_time best = cost_handoff(h);
    double from = fmax(c->held_d, c->held_p), piece = fmin(p->chunk_tokens, h->tokens) / 2;

    for (int n = 1; n <= CUTS_MOST && piece >= PIECE_TOKENS && !c->serial; n++, piece /= 2) {
        struct cost_handoff cut = *h;
        struct cost_handoff_time t;
        double more_s = n * fmax(piece_s(c, piece, from) - piece * p->read_token_s, 0);
        if (best.tail_s <= more_s)
            break;
        cut.chunk_tokens = piece;
        cut.first_s = p->read_request_s + piece_s(c, piece, from);
        cut.prefill_s += more_s;
        t = cost_handoff(&cut);
        if (t.overlapped_s < best.overlapped_s)
            best = (struct cost_handoff_time){t.transfer_s, best.serial_s, t.overlapped_s,
                                              t.overlapped_s - h->before_s - h->prefill_s};
    }
    return best;
}

static double read_handoff(const struct place_case *c, struct bill *b, struct place_plan *out)
{
    const struct cost_handoff h = handoff_of(c);
    const struct cost_handoff_time t = handoff_time(c, &h);
    double slot_s = writer_wait_s(c);
    double state_s = c->p->profile->state_bytes / h.link.bytes_per_s;
    double setup_s = fmax(c->link.setup_s, 0) + t.transfer_s + h.link.latency_s;
    double arrived_s = fmax(c->serial ? t.serial_s : t.overlapped_s, setup_s) + state_s, wait_s = 0;

    b->p_busy_s = profile_read_s(c->p->profile, c->upto - c->held_p, c->held_p) +
                  h.kv_bytes * c->p->profile->export_byte_s;
    b->d_import_s = h.kv_bytes * c->d->profile->import_byte_s;
    // What it holds it can send whatever else it reads.
    if (c->upto > c->held_p)
        wait_s = fmax(queue_s(c->p, b->p_busy_s), slot_wait_s(c->p, 1, c->upto - c->held_p));
    out->read_s = h.before_s + h.prefill_s;
    out->transfer_s = t.transfer_s + state_s;
    out->tail_s = arrived_s - out->read_s;
    out->wait_s = fmax(wait_s, slot_s - arrived_s + out->transfer_s);
    out->slowdown_s =
        delay_s(c->p, b->p_busy_s) + delay_s(c->d, b->d_import_s) + passed_s(c->p, b->p_busy_s);
    return read_rest(c, fmax(wait_s + arrived_s, slot_s + out->transfer_s), b, out);
}

// ---- writing ---------------------------------------------------------------------------------------------

// Answers that run beside ours, on average over its time: each until it ends, none that come later.
struct company {
    double rows, depth;
};

static struct company company_of(const struct place_node *n, double start_s, double tokens)
{
    double rest = 0;
    struct company none = {0, 0};

    if (!(n->answers > 0))
        return none;
    rest = fmax(n->rest_tokens - start_s / quiet_step_s(n), 0);
    rest = fmin(rest / fmax(tokens, 1), 1);
    return (struct company){n->answers * rest, fmax(n->depth_sum, 0) * rest};
}

// Dispatch goes to D alone: what of P's is no work a link's setup holds (profile_learn_handoff).
static void answer(const struct place_case *c, double ready_s, struct bill *b,
                   struct place_plan *out)
{
    const struct profile *p = c->d->profile;
    struct company others = company_of(c->d, ready_s, c->answer);
    double depth = c->prompt + c->answer / 2;
    double alone_s = profile_step_s(p, others.rows, others.depth);

    out->token_s = profile_step_s(p, c->rows + others.rows, c->rows * depth + others.depth);
    out->ttft_s = p->dispatch_s + ready_s +
                  profile_step_s(p, c->rows + others.rows, c->rows * c->prompt + others.depth);
    out->total_s = out->ttft_s + (c->answer - 1) * out->token_s;
    b->d_answer_s = c->answer * (out->token_s - fmin(others.rows, 1) * alone_s);
    out->slowdown_s += c->answer * others.rows * (out->token_s - alone_s);
}

// ---- what it costs ---------------------------------------------------------------------------------------

// What a machine draws more while it works than while it waits; below 0: not known.
static double watts_more(const struct profile *p, double watts)
{
    return watts > 0 && p->watts_idle > 0 ? fmax(watts - p->watts_idle, WATTS_LEAST) : -1;
}

// Below 0 when one of the two is not known and needed.
static double priced(double rate, double seconds)
{
    return seconds > 0 ? (rate >= 0 ? rate * seconds : -INFINITY) : 0;
}

// Of a machine that works so long and draws so much more by it. An hour without a price costs the power that
// it takes, where that has one; -INFINITY: neither is known.
static double work_dollars(const struct place_case *c, const struct place_node *n, double seconds,
                           double joules)
{
    bool hours = n->priced || n->profile->dollars_per_hour > 0;
    bool power = c->dollars_per_kwh > 0 && joules >= 0;

    if (!(seconds > 0))
        return 0;
    if (!hours && !power)
        return -INFINITY;
    return (hours ? n->profile->dollars_per_hour * seconds / 3600 : 0) +
           (power ? c->dollars_per_kwh * joules / JOULES_PER_KWH : 0);
}

// As clouds charge it; a price that is not one is none.
static double token_dollars(const struct place_case *c)
{
    return fmax(c->prompt * c->d->in_dollars, 0) + fmax(c->rows * c->answer * c->d->out_dollars, 0);
}

static void bill_write(const struct place_case *c, const struct bill *b, struct place_plan *out)
{
    const struct profile *d = c->d->profile;
    double d_read_s = b->d_read_s + b->d_import_s;
    double joules = priced(watts_more(d, d->watts_prefill), d_read_s) +
                    priced(watts_more(d, d->watts_decode), b->d_answer_s);
    double dollars = token_dollars(c) + work_dollars(c, c->d, d_read_s + b->d_answer_s, joules);

    if (c->p) {
        const struct profile *p = c->p->profile;
        double p_joules = priced(watts_more(p, p->watts_prefill), b->p_busy_s);

        joules += p_joules;
        dollars += work_dollars(c, c->p, b->p_busy_s, p_joules);
    }
    out->busy_s = b->p_busy_s + d_read_s + b->d_answer_s;
    out->joules = joules >= 0 ? joules : -1;
    out->dollars = dollars >= 0 ? dollars : -1;
}

void place_predict(const struct place_case *c, struct place_plan *out)
{
    struct bill b = {0};
    double ready_s;

    out->transfer_s = out->tail_s = 0;
    ready_s = c->p ? read_handoff(c, &b, out) : read_alone(c, &b, out);
    answer(c, ready_s, &b, out);
    bill_write(c, &b, out);
}

// ---- scores ----------------------------------------------------------------------------------------------

static double work_of(const struct place_plan *p)
{
    return p->busy_s + p->slowdown_s + p->wait_s;
}

void place_score(const struct place_request *r, struct place_plan *p)
{
    double over = 0;

    if (r->ttft_s > 0)
        over = fmax(over, p->ttft_s / r->ttft_s - 1);
    if (r->token_s > 0)
        over = fmax(over, p->token_s / r->token_s - 1);
    p->meets = over <= 0;
    switch (r->policy) {
    case PLACE_LATENCY:
        p->score = p->total_s;
        break;
    case PLACE_THROUGHPUT:
        p->score = work_of(p);
        break;
    case PLACE_ENERGY:
        p->score = p->joules >= 0 ? p->joules : PLACE_UNKNOWN_SCORE + p->total_s;
        break;
    case PLACE_COST:
        p->score = p->dollars >= 0 ? p->dollars : PLACE_UNKNOWN_SCORE + p->total_s;
        break;
    case PLACE_SLO:
        p->score = p->meets ? work_of(p) : PLACE_BROKEN_SCORE * (1 + over);
        break;
    }
}

// What one node's part takes.
struct part {
    const struct place_node *node;
    double time_s, work_s, watts;
    double dollars; // beside the work
};

static double part_score(const struct place_case *c, enum place_policy policy, const struct part *p)
{
    double value = priced(watts_more(p->node->profile, p->watts), p->work_s);

    if (policy == PLACE_LATENCY)
        return p->time_s;
    if (policy == PLACE_THROUGHPUT || policy == PLACE_SLO)
        return p->work_s;
    if (policy == PLACE_COST)
        value = work_dollars(c, p->node, p->work_s, value) + p->dollars;
    return value >= 0 ? value : PLACE_UNKNOWN_SCORE + p->time_s;
}

double place_reader_s(const struct place_case *c)
{
    double read_s = profile_read_s(c->p->profile, c->upto - c->held_p, c->held_p);
    double wait_s = fmax(queue_s(c->p, read_s), slot_wait_s(c->p, 1, c->upto - c->held_p));

    return wait_s + read_wall_s(c->p, read_s);
}

double place_reader_score(const struct place_case *c, enum place_policy policy)
{
    const struct profile *p = c->p->profile;
    double read_s = profile_read_s(p, c->upto - c->held_p, c->held_p);
    double work_s = read_s;

    if (policy == PLACE_THROUGHPUT || policy == PLACE_SLO)
        work_s += delay_s(c->p, read_s) + queue_s(c->p, read_s) + passed_s(c->p, read_s);
    return part_score(c, policy,
                      &(struct part){.node = c->p,
                                     .time_s = place_reader_s(c),
                                     .work_s = work_s,
                                     .watts = p->watts_prefill});
}

double place_writer_score(const struct place_case *c, enum place_policy policy)
{
    const struct profile *p = c->d->profile;
    double slot_s = writer_wait_s(c);
    struct company others = company_of(c->d, 0, c->answer);
    double alone_s = profile_step_s(p, others.rows, others.depth);
    double token_s = profile_step_s(p, c->rows + others.rows,
                                    c->rows * (c->prompt + c->answer / 2) + others.depth);
    double work_s = c->answer * (token_s - fmin(others.rows, 1) * alone_s);

    if (policy == PLACE_THROUGHPUT || policy == PLACE_SLO)
        work_s += slot_s + c->answer * others.rows * (token_s - alone_s);
    return part_score(c, policy,
                      &(struct part){.node = c->d,
                                     .time_s = slot_s + c->answer * token_s,
                                     .work_s = work_s,
                                     .watts = p->watts_decode,
                                     .dollars = token_dollars(c)});
}

// Seconds per token at depth s are a line for either side: P's (or the link's, where that is slower) and D's.
double place_split(const struct place_case *c)
{
    const struct profile *p = c->p->profile, *d = c->d->profile;
    double last = c->prompt - 1;
    double cross_s = p->kv_token_bytes / place_rate(c);
    double p_s = p->read_token_s + p->read_chunk_s / p->chunk_tokens;
    double d_s = d->read_token_s + d->read_chunk_s / d->chunk_tokens;
    double lead, loss;

    // Where the link is slower than P all the way, D's line must stay above the link's flat one.
    lead = d_s - fmax(p_s, cross_s);
    loss = (p_s + last * p->read_pair_s > cross_s ? p->read_pair_s : 0) - d->read_pair_s;
    if (!(loss > 0) || lead <= 0)
        return last;
    return fmin(ceil(lead / loss), last);
}
