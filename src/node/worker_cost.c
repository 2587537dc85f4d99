// What a request took of the engine, told apart from everything else: for DONE and PREFILLED, from which the
// gateway learns. See node/message_cost.h.
//
// Chunks count that were computed as steps of their own, less the steps of answers inside them; steps count that
// carried no rows of a prompt and ran inside no chunk; exports count during which nothing was computed.
#include "node/worker.h"

#include <math.h>

#define ALIKE 0.25 // chunks of a run differ no more from their average

static bool joins(const struct worker_reading *r, double from, double tokens)
{
    double average = r->tokens / r->chunks;
    return r->depth + r->tokens == from && fabs(tokens - average) <= ALIKE * average;
}

void worker_cost_chunk(struct worker_cost *c, uint32_t from, uint32_t to, int64_t ns)
{
    struct worker_reading *r = c->n_readings > 0 ? &c->readings[c->n_readings - 1] : NULL;
    double tokens = (double)to - from;

    if (r == NULL || !joins(r, from, tokens)) {
        if (c->n_readings == MESSAGE_COST_READS)
            return; // what is told stays true of what it is about
        r = &c->readings[c->n_readings++];
        r->depth = from;
    }
    r->tokens += tokens;
    r->chunks++;
    r->ns += ns;
}

void worker_cost_steps(struct worker *w, size_t rows, int64_t ns)
{
    double depths = 0;

    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (worker_takes_part(w, j))
            depths += j->pos;
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next) {
        if (!worker_takes_part(w, j))
            continue;
        j->cost.steps++;
        j->cost.rows += (double)rows;
        j->cost.depths += depths;
        j->cost.steps_ns += ns;
    }
}

void worker_cost_moved(struct message_moved *m, size_t bytes, int64_t ns)
{
    m->bytes += (double)bytes;
    m->seconds += ns_to_s(ns + 1); // a coarse clock may see nothing pass
}

json_t *worker_cost_json(const struct worker_cost *c)
{
    struct message_cost m = {.n_reads = c->n_readings, .export = c->export, .import = c->import};

    for (size_t i = 0; i < c->n_readings; i++) {
        const struct worker_reading *r = &c->readings[i];
        m.reads[i] = (struct profile_read){.tokens = r->tokens,
                                           .depth = r->depth,
                                           .chunk_tokens = ceil(r->tokens / r->chunks),
                                           .seconds = ns_to_s(r->ns + 1)};
    }
    if (c->steps > 0)
        m.steps = (struct profile_steps){.steps = c->steps,
                                         .rows = c->rows / c->steps,
                                         .depth_sum = c->depths / c->steps,
                                         .seconds = ns_to_s(c->steps_ns + 1)};
    return message_cost_json(&m);
}
