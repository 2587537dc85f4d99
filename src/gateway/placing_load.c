// What nodes have yet to do: all requests that were sent to them, added up.
#include "gateway/placing_impl.h"

#include "base/buf.h"
#include "sched/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Who reads the request's prompt; NULL: nobody any more.
static struct peer *reader_of(const struct request *r)
{
    if (r->prefill_open)
        return r->prefill;
    return r->first_token_ns == 0 && r->phase == REQUEST_GENERATE ? r->decode : NULL;
}

// Of tokens [from, to) of a prompt.
static double read_s(const struct peer *reader, double from, double to)
{
    return reader->book && from < to ? profile_read_s(&reader->book->p, to - from, from) : 0;
}

static void load_answers(const struct request *r, struct placing_load *l)
{
    double n = r->n_open > 0 ? r->n_open : (double)r->n_runs;
    double written = r->gen_tokens / (double)r->n_runs, expected = r->choice.answer_tokens;

    l->answers += n;
    l->depth_sum += n * (r->inputs[0].n_tokens + written);
    l->rest_tokens += n * fmax(expected - written, expected / 4);
    l->cells += r->inputs[0].n_tokens + n * request_room(r, r->choice.decode);
}

static void load_reading(struct placing *pl, struct placing_load *l, double left_s)
{
    struct place_reading *reading = &pl->readings[pl->n_readings++];

    *reading = (struct place_reading){left_s, l->reads};
    l->reads = reading;
    l->read_s += left_s;
}

// A transfer is under way once its prefill node has begun to read, or has nothing to read.
static bool is_sending(const struct request *r)
{
    return r->read_tokens > r->choice.held || r->choice.held >= r->choice.upto;
}

static void loads_add(struct placing *pl, const struct request *r)
{
    const struct peer *reader = reader_of(r);
    struct placing_load *loads = pl->loads;
    double last = r->inputs[0].n_tokens - 1.0;
    double upto = r->prefill_open ? fmin(r->choice.upto, last) : last;
    double done = fmax(r->read_tokens, r->choice.held);

    if (reader)
        load_reading(pl, &loads[reader->index], read_s(reader, done, upto));
    load_answers(r, &loads[r->choice.decode->index]);
    if (!r->prefill_open)
        return;
    if (upto < last) // D reads the rest
        load_reading(pl, &loads[r->choice.decode->index], read_s(r->choice.decode, upto, last));
    loads[r->prefill->index].reading++;
    loads[r->prefill->index].cells += r->inputs[0].n_tokens;
    if (!is_sending(r))
        return;
    loads[r->prefill->index].sending++;
    loads[r->choice.decode->index].receiving++;
}

void placing_loads_fill(struct placing *pl, const struct request *except)
{
    const struct core *c = pl->core;

    memset(pl->loads, 0, c->n_peers * sizeof(pl->loads[0]));
    // Each request has two readers at most. Nothing points to what was here before.
    if (pl->readings_max < 2 * (size_t)c->n_requests) {
        pl->readings_max = 4 * (size_t)c->n_requests;
        free(pl->readings);
        pl->readings = mem_alloc(pl->readings_max * sizeof(pl->readings[0]));
    }
    pl->n_readings = 0;
    for (const struct request *r = c->requests; r; r = r->next)
        if (r != except && request_is_placed(r) && !r->choice.decode->upstream)
            loads_add(pl, r);
}

void placing_load_put(const struct placing_load *l, double expected, struct place_node *n)
{
    double slots = fmax(n->profile->n_seq, 1);

    n->read_wait_s = l->read_s;
    n->reads = l->reads;
    n->answers = fmin(l->answers, slots);
    n->depth_sum = l->answers > 0 ? l->depth_sum * n->answers / l->answers : 0;
    n->rest_tokens = l->answers > 0 ? l->rest_tokens / l->answers : 0;
    // Those that are ahead of it and find no room end one after the other; a step takes longer while prompts
    // are read.
    n->next_tokens = (n->rest_tokens + fmax(l->answers - slots, 0) * expected) / slots;
    if (l->read_s > 0)
        n->next_tokens *= PLACE_PACE;
    n->free_seqs = fmax(slots - n->answers - l->reading, 0);
    n->free_cells = fmax(n->profile->n_ctx - l->cells, 0);
    n->sending = l->sending;
    n->receiving = l->receiving;
}
