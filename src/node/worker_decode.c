// The decode role of one request: who reads its prompt, and when its answer begins.
#include "base/log.h"
#include "node/worker.h"

#include <stdlib.h>

static int generate_parse(const struct wire_frame *f, struct message_generate *m, struct err *e)
{
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_generate_parse(head, m, e);
    json_decref(head);
    return rc;
}

void worker_generate_begin(struct worker *w, struct worker_link *l, struct wire_frame *f)
{
    struct err e = {0};
    struct message_generate m = {0};
    struct worker_job *j = NULL;
    int rc = generate_parse(f, &m, &e);

    if (rc == 0 && (j = worker_job_new(w, l, f, m.media, &e)) == NULL)
        rc = e.code;
    if (rc != 0) {
        message_generate_fini(&m);
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
        return;
    }
    uint32_t room = w->engine->limits.n_ctx - j->n_tokens;
    j->generate = m;
    if (j->generate.max_tokens == 0 || j->generate.max_tokens > room)
        j->generate.max_tokens = room;
    j->cells = j->n_tokens + j->generate.max_tokens;
    j->keep = m.keep;
    j->reuse = m.reuse;
    memcpy(j->owner, m.owner, sizeof j->owner);
    j->timeline.on = m.timeline;
    rc = worker_adapter_begin(w, j, &m.adapter, &e);
    if (rc == 0)
        rc = worker_answer_begin(w, j, &e);
    if (rc != 0)
        worker_job_fail(w, j, rc, e.message);
}

// ---- where sequences live ------------------------------------------------------------------------

static void seq_settle(struct worker *w, const struct worker_job *j)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    if (ops->settle != NULL && ops->settle(w->engine, j->seq, j->cells, &e) != 0)
        log_debug("worker", "stays where it is: %s seq=%u", e.message, j->seq);
}

bool worker_decode_is_apart(const struct worker *w, const struct worker_job *j)
{
    const struct engine_ops *ops = w->engine->ops;
    return ops->settled != NULL && ops->settled(w->engine, j->seq);
}

// So deep that the others' tokens would come late in one step with it: it stays where they can go on inside its own.
static bool is_slow(const struct worker *w, const struct worker_job *j, uint32_t n)
{
    return pace_is_slow(&w->pace, n, j->step_s);
}

// An answer that is nearly over is done before a move has paid. The first step tells what it takes.
static bool worth_settling(const struct worker *w, const struct worker_job *j, uint32_t n)
{
    return j->phase == WORKER_DECODE && j->step_s > 0 && !is_slow(w, j, n) &&
           j->generate.max_tokens - j->generated >= WORKER_SETTLE_TOKENS;
}

bool worker_decode_part(struct worker *w, const struct worker_job *reader)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    bool apart = ops->settled != NULL && ops->between_set != NULL &&
                 ops->rejoin(w->engine, reader->seq, &e) == 0;
    uint32_t n = (uint32_t)worker_decoding(w);
    for (const struct worker_job *j = w->jobs; apart && j != NULL; j = j->next) {
        if (j->phase != WORKER_DECODE || is_slow(w, j, n))
            continue;
        seq_settle(w, j);
        apart = ops->settled(w->engine, j->seq);
    }
    return apart;
}

// Answers that are written together go apart. One alone stays where it is: nobody is in its way.
void worker_decode_settle(struct worker *w)
{
    uint32_t n = (uint32_t)worker_decoding(w);
    if (n < 2)
        return;
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (worth_settling(w, j, n))
            seq_settle(w, j);
}

// A step that mixes prompt rows with those of answers is one pass only where all share a cache.
void worker_decode_rejoin(struct worker *w, const struct worker_job *reader)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    for (const struct worker_job *j = w->jobs; ops->rejoin != NULL && j != NULL; j = j->next)
        if ((j->phase == WORKER_DECODE || j == reader) && ops->rejoin(w->engine, j->seq, &e) != 0)
            log_debug("worker", "stays apart: %s seq=%u", e.message, j->seq);
}

// ---- one request ---------------------------------------------------------------------------------

// The job has its sequence: who reads the prompt?
void worker_generate_plan(struct worker *w, struct worker_job *j)
{
    uint32_t upto = j->n_tokens - 1;

    if (j->generate.handoff.present && j->peer < 0 && j->fallback[0] == 0 &&
        worker_handoff_upto(j) > j->computed) {
        worker_handoff_begin(w, j);
        return;
    }
    struct kv_schedule_options o = {.chunk_tokens = w->engine->limits.n_batch,
                                    .min_chunk_tokens = w->options.min_chunk_tokens,
                                    .plain = true};
    j->n_ends = kv_schedule_make(&o, j->computed, upto, j->ends, WORKER_CHUNKS_MAX);
    j->next_end = 0;
    j->phase = WORKER_READ;
    worker_generate_read(w, j);
}

void worker_generate_read(struct worker *w, struct worker_job *j)
{
    uint32_t upto = j->n_tokens - 1;

    if (j->computed == upto) {
        worker_decode_ready(w, j);
        return;
    }
    worker_progress_send(w, j, "prefill", j->computed, upto);
    worker_memory_point(w, j, upto);
}

void worker_decode_ready(struct worker *w, struct worker_job *j)
{
    worker_memory_share(w, j);
    j->phase = WORKER_DECODE;
    j->pos = j->n_tokens - 1;
    j->next_token = j->tokens[j->pos];
    j->decode_start_ns = j->last_token_ns = clock_now_ns();
}
