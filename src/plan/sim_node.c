// One node: prompts are read a chunk at a time, the one with the least left first (node/worker_step.c), answers are written together, and while
// both go on they share its time as the worker's pace does (node/pace.h): a step of running answers may take
// PLACE_PACE times as long as a quiet one. A sequence is held from the first chunk to the last token; who finds
// none waits.
//
// A turn is a chunk, or the small piece that ends a prompt which is handed over. Who reads alone has one long turn,
// which is cut when somebody else comes.
//
// The batch has a clock of its own, its steps: an answer of n tokens ends n steps after it joined, whoever comes
// or goes meanwhile. A step takes a + k x (sum of depths), and each step makes the sum larger by the number of
// answers, so that x steps take a x + k b x^2 / 2: solved for x to advance, for time to find the next event.
#include "plan/sim_impl.h"

#include <math.h>

#define READ_PART ((PLACE_PACE - 1) / PLACE_PACE)
#define WRITE_PART (1 / PLACE_PACE)
#define PASSES 2 // as WORKER_PASSES: who was passed over by so many turns for each reader is next
#define FINE_TOKENS 64.0    // as the schedule cuts what leaves last
#define PIECE_SURE 1.000001 // so that what rounding leaves is no piece of its own

// ---- lists ---------------------------------------------------------------------------------------------

void sim_list_push(struct sim_world *w, struct sim_list *l, uint32_t request)
{
    w->requests[request].next = SIM_NONE;
    if (l->n++ == 0)
        l->first = request;
    else
        w->requests[l->last].next = request;
    l->last = request;
}

uint32_t sim_list_pop(struct sim_world *w, struct sim_list *l)
{
    uint32_t first = l->first;
    l->first = w->requests[first].next;
    l->n--;
    return first;
}

bool sim_list_remove(struct sim_world *w, struct sim_list *l, uint32_t request)
{
    uint32_t before = SIM_NONE, at = l->first;
    for (uint32_t i = 0; i < l->n; i++) {
        uint32_t next = w->requests[at].next;
        if (at == request) {
            if (before == SIM_NONE)
                l->first = next;
            else
                w->requests[before].next = next;
            if (l->last == at)
                l->last = before;
            l->n--;
            return true;
        }
        before = at;
        at = next;
    }
    return false;
}

// ---- time ------------------------------------------------------------------------------------------------

struct pace {
    double step_s, growth_s; // of the next step, and by how much each one is longer than the last
    double read_part, write_part; // of the node's time
};

static struct pace pace_of(const struct sim_node *n)
{
    const struct sim_kind *k = n->kind;
    bool reads = n->reads.n > 0, writes = n->batch.n > 0;
    double kv = n->window_bytes + k->model.full_kv_bytes * fmax(n->depth_tokens, 0);
    return (struct pace){
        .step_s = k->step_s[n->batch.n] + kv * k->write.kv_s,
        .growth_s = n->batch.n * k->model.full_kv_bytes * k->write.kv_s,
        .read_part = !reads   ? 0
                     : writes ? READ_PART
                              : 1,
        .write_part = !writes ? 0
                      : reads ? WRITE_PART
                              : 1,
    };
}

// a x + g x^2 / 2 = t; the form that does not cancel.
static double steps_in(const struct pace *p, double t)
{
    return 2 * t / (p->step_s + sqrt(p->step_s * p->step_s + 2 * p->growth_s * t));
}

// Those whose first step ends within the next `steps`, which begin at `from`.
static void firsts_note(struct sim_world *w, struct sim_node *n, const struct pace *p, double from,
                        double steps)
{
    while (n->firsts.n > 0) {
        struct sim_request *r = &w->requests[n->firsts.first];
        double x = r->join_steps + 1 - n->steps;
        if (x > steps)
            return;
        r->first_s = from + x * (p->step_s + p->growth_s * x / 2) / p->write_part;
        sim_list_pop(w, &n->firsts);
    }
}

void sim_node_advance(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    double passed = w->now - n->at_s, from = n->at_s;
    n->at_s = w->now;
    if (passed <= 0 || (n->reads.n == 0 && n->batch.n == 0))
        return;
    struct pace p = pace_of(n);
    sim_account(w, node, from, p.read_part);
    if (n->reads.n > 0)
        n->piece_left_s = fmax(n->piece_left_s - passed * p.read_part, 0);
    if (n->batch.n == 0)
        return;
    double steps = steps_in(&p, passed * p.write_part);
    firsts_note(w, n, &p, from, steps);
    n->steps += steps;
    n->depth_tokens += n->batch.n * steps;
    n->written_tokens += n->batch.n * steps;
}

// The state is of `now`.
void sim_node_schedule(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    struct pace p = pace_of(n);
    double at = sim_link_next(w, node), own = INFINITY;
    n->next = at < INFINITY ? SIM_TRANSFER_ENDS : SIM_NOTHING;
    if (n->reads.n > 0) {
        own = n->at_s + n->piece_left_s / p.read_part;
        if (own < at) {
            at = own;
            n->next = SIM_TURN_ENDS;
        }
    }
    if (n->batch.n > 0) {
        double steps = fmax(n->batch.items[0].key - n->steps, 0);
        own = n->at_s + steps * (p.step_s + p.growth_s * steps / 2) / p.write_part;
        if (own < at) {
            at = own;
            n->next = SIM_ANSWER_ENDS;
        }
    }
    sim_index_set(&w->events, node, fmax(at, w->now));
}

double sim_node_read_left(const struct sim_node *n)
{
    return fmax(n->read_sum_s - (n->piece_s - n->piece_left_s), 0) + n->wait_s;
}

void sim_node_weigh(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    size_t kind = (size_t)(n->kind - w->fleet->kinds);
    uint32_t rank = w->rank[node];
    bool reads = n->takes && (n->kind->roles & PLACE_READS) != 0;
    bool writes = n->takes && (n->kind->roles & PLACE_WRITES) != 0;
    double wait = sim_node_read_left(n) / (n->batch.n > 0 ? READ_PART : 1);
    sim_index_set(&w->readers[kind], rank, reads ? n->at_s + wait : INFINITY);
    sim_index_set(&w->writers[kind], rank, writes ? (double)n->batch.n + n->coming : INFINITY);
}

// ---- reading -----------------------------------------------------------------------------------------------

static uint32_t held_of(const struct sim_world *w, const struct sim_request *r, uint32_t node)
{
    uint32_t held = sim_hold_tokens(w, r->conv, node), most = r->upto > 0 ? r->upto - 1 : 0;
    held = held < r->shared ? held : r->shared;
    return held < most ? held : most;
}

static double solo_s(const struct sim_kind *k, double tokens, double depth)
{
    struct cost_work work = {
        .tokens = tokens, .depth = depth, .batch = 1, .chunk = k->chunk_tokens};
    return cost_prefill(&k->model, &k->read, &work).total_s;
}

void sim_node_enqueue(struct sim_world *w, uint32_t node, uint32_t request)
{
    struct sim_node *n = &w->nodes[node];
    struct sim_request *r = &w->requests[request];
    sim_node_advance(w, node);
    uint32_t held = r->from > 0 ? r->from : held_of(w, r, node);
    r->solo_s = solo_s(n->kind, r->upto - held, held);
    r->stage = SIM_QUEUED;
    n->wait_s += r->solo_s;
    sim_list_push(w, &n->wait, request);
    sim_waiting(w, 1);
    sim_node_start(w, node);
    sim_node_schedule(w, node);
    sim_node_weigh(w, node);
}

// The next turn of one that has so much left.
static double piece_of(const struct sim_request *r, double left_s)
{
    return left_s > r->fine_s * PIECE_SURE ? fmin(r->chunk_s, left_s - r->fine_s) : left_s;
}

static bool reads_before(const struct sim_request *a, const struct sim_request *b, uint32_t bound)
{
    bool a_due = a->passed_over >= bound, b_due = b->passed_over >= bound;
    return a_due != b_due ? a_due : !a_due && a->left_s < b->left_s;
}

// Puts the one whose turn it is first; equal ones keep their order.
static void turn_pick(struct sim_world *w, struct sim_node *n)
{
    uint32_t next = n->reads.first, at = next, bound = PASSES * n->reads.n;
    for (uint32_t i = 0; i < n->reads.n; i++, at = w->requests[at].next)
        if (!n->kind->in_turns && reads_before(&w->requests[at], &w->requests[next], bound))
            next = at;
    at = n->reads.first;
    for (uint32_t i = 0; i < n->reads.n; i++, at = w->requests[at].next)
        w->requests[at].passed_over++;
    w->requests[next].passed_over = 0;
    if (next == n->reads.first)
        return;
    sim_list_remove(w, &n->reads, next);
    w->requests[next].next = n->reads.first;
    n->reads.first = next;
    n->reads.n++;
}

static void turn_begin(struct sim_world *w, struct sim_node *n)
{
    if (n->reads.n == 0) {
        n->piece_s = n->piece_left_s = n->read_sum_s = 0;
        return;
    }
    turn_pick(w, n);
    const struct sim_request *r = &w->requests[n->reads.first];
    n->piece_s = n->reads.n == 1 ? r->left_s : piece_of(r, r->left_s);
    n->piece_left_s = n->piece_s;
}

// The long turn of one that was alone ends with the chunk that it has begun.
static void turn_cut(struct sim_world *w, struct sim_node *n)
{
    struct sim_request *r = &w->requests[n->reads.first];
    double done = n->piece_s - n->piece_left_s, piece = piece_of(r, r->left_s);
    while (piece < done && piece < r->left_s) {
        done -= piece;
        r->left_s -= piece;
        n->read_sum_s -= piece;
        piece = piece_of(r, r->left_s);
    }
    n->piece_s = piece;
    n->piece_left_s = fmax(piece - done, 0);
}

// One that comes is next, as it had no turn yet.
static void reads_add(struct sim_world *w, struct sim_node *n, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    n->read_sum_s += r->left_s;
    if (n->reads.n == 0) {
        sim_list_push(w, &n->reads, request);
        turn_begin(w, n);
        return;
    }
    if (n->reads.n == 1)
        turn_cut(w, n);
    struct sim_request *first = &w->requests[n->reads.first];
    r->next = n->reads.n == 1 ? SIM_NONE : first->next;
    first->next = request;
    if (n->reads.n++ == 1)
        n->reads.last = request;
}

void sim_read_stop(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    struct sim_node *n = &w->nodes[r->reader];
    bool first = n->reads.first == request;
    sim_list_remove(w, &n->reads, request);
    n->read_sum_s -= r->left_s;
    if (first)
        turn_begin(w, n);
}

static void read_begin(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    uint32_t request = sim_list_pop(w, &n->wait);
    struct sim_request *r = &w->requests[request];
    n->wait_s = n->wait.n == 0 ? 0 : fmax(n->wait_s - r->solo_s, 0);
    // What it holds may have been evicted since it was asked.
    uint32_t held = r->from > 0 ? r->from : held_of(w, r, node);
    double tokens = r->upto - held;
    sim_hold_take(w, r->conv, node);
    r->solo_s = r->left_s = solo_s(n->kind, tokens, held);
    r->chunk_s = r->solo_s * fmin(n->kind->chunk_tokens / tokens, 1);
    r->fine_s = r->plan == PLACE_HYBRID && r->reader != r->writer
                    ? r->solo_s * fmin(FINE_TOKENS / tokens, 1)
                    : 0;
    r->stage = SIM_READING;
    r->passed_over = 0;
    reads_add(w, n, request);
    n->read_tokens += tokens;
    if (r->from == 0)
        w->out->held_tokens += held;
    sim_waiting(w, -1);
    if (r->reader != r->writer) {
        r->send_tokens = r->upto - held_of(w, r, r->writer);
        sim_link_begin(w, request);
    }
}

void sim_node_start(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    while (n->up && n->wait.n > 0 && n->reads.n + n->ready.n + n->batch.n < n->kind->slots)
        read_begin(w, node);
}

static void turn_ends(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    uint32_t request = sim_list_pop(w, &n->reads);
    struct sim_request *r = &w->requests[request];
    bool over = n->piece_s >= r->left_s;
    n->read_sum_s -= over ? r->left_s : n->piece_s;
    r->left_s -= n->piece_s;
    if (!over)
        sim_list_push(w, &n->reads, request);
    turn_begin(w, n);
    if (!over)
        return;
    if (r->reader != r->writer) {
        sim_hold_put(w, r->conv, node, r->upto);
        sim_link_read(w, request);
    } else {
        sim_node_ready(w, request);
    }
    sim_node_start(w, node);
}

// ---- writing ---------------------------------------------------------------------------------------------

static void join(struct sim_world *w, uint32_t node, uint32_t request)
{
    struct sim_node *n = &w->nodes[node];
    struct sim_request *r = &w->requests[request];
    const struct cost_model *m = &n->kind->model;
    double depth = r->prompt + r->done, tokens = (double)r->prompt + r->answer;
    n->coming--;
    n->coming_tokens = n->coming == 0 ? 0 : n->coming_tokens - depth;
    n->used_tokens += tokens;
    n->depth_tokens += depth;
    n->joined_steps += n->steps;
    r->window_bytes = m->window_kv_bytes * fmin((depth + tokens) / 2, m->window_tokens);
    n->window_bytes += r->window_bytes;
    r->join_steps = n->steps;
    r->stage = SIM_RUNNING;
    sim_queue_push(&n->batch, n->steps + (r->answer - r->done), request);
    if (r->first_s < 0)
        sim_list_push(w, &n->firsts, request);
}

static void joins(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    while (n->up && n->ready.n > 0 && n->batch.n < n->kind->slots) {
        struct sim_request *r = &w->requests[n->ready.first];
        sim_hold_take(w, r->conv, node); // it is part of what the answer needs
        if (!sim_room_make(w, node, (double)r->prompt + r->answer))
            return;
        uint32_t request = sim_list_pop(w, &n->ready);
        sim_waiting(w, -1);
        join(w, node, request);
    }
}

// The writer's state may be older than now.
void sim_node_ready(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    uint32_t node = r->writer, all = r->prompt + r->done;
    if (r->split && r->upto < all) { // the rest is read where the answer will be written
        r->from = r->upto;
        r->upto = all;
        r->reader = node;
        sim_node_enqueue(w, node, request);
        return;
    }
    sim_node_advance(w, node);
    r->stage = SIM_READY;
    sim_list_push(w, &w->nodes[node].ready, request);
    sim_waiting(w, 1);
    joins(w, node);
}

static void answer_ends(struct sim_world *w, uint32_t node)
{
    struct sim_node *n = &w->nodes[node];
    n->steps = n->batch.items[0].key;
    uint32_t request = sim_queue_pop(&n->batch).id;
    struct sim_request *r = &w->requests[request];
    if (r->first_s < 0) {
        r->first_s = w->now;
        sim_list_remove(w, &n->firsts, request);
    }
    n->depth_tokens -= (double)r->prompt + r->answer;
    n->used_tokens -= (double)r->prompt + r->answer;
    n->window_bytes -= r->window_bytes;
    n->joined_steps -= r->join_steps;
    if (n->batch.n == 0) // what rounding left; steps begin anew, so that they keep their digits
        n->depth_tokens = n->used_tokens = n->window_bytes = n->joined_steps = n->steps = 0;
    sim_hold_put(w, r->conv, node, r->prompt + r->answer);
    joins(w, node);
    sim_node_start(w, node);
    sim_request_done(w, request);
}

void sim_node_event(struct sim_world *w, uint32_t node)
{
    sim_node_advance(w, node);
    switch (w->nodes[node].next) {
    case SIM_TURN_ENDS:
        turn_ends(w, node);
        break;
    case SIM_ANSWER_ENDS:
        answer_ends(w, node);
        break;
    case SIM_TRANSFER_ENDS:
        sim_node_ready(w, sim_link_take(w, node));
        break;
    case SIM_NOTHING:
        break;
    }
    sim_node_schedule(w, node);
    sim_node_weigh(w, node);
}
