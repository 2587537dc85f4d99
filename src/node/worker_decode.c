// The decode role: read the prompt (or let a prefill worker do it), then decode all running answers
// together, one batched step at a time.
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

    if (rc == 0 && (j = worker_job_new(w, l, f, &e)) == NULL)
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
    j->timeline.on = m.timeline;
    rc = worker_answer_begin(w, j, &e);
    if (rc != 0)
        worker_job_fail(w, j, rc, e.message);
}

// The job has its sequence: who reads the prompt?
void worker_generate_plan(struct worker *w, struct worker_job *j)
{
    uint32_t upto = j->n_tokens - 1;

    if (j->generate.handoff.present && j->peer < 0 && j->fallback[0] == 0 && upto > 0) {
        worker_handoff_begin(w, j);
        return;
    }
    struct kv_schedule_options o = {.chunk_tokens = w->engine->limits.n_batch,
                                    .min_chunk_tokens = w->options.min_chunk_tokens,
                                    .plain = true};
    j->n_ends = kv_schedule_make(&o, j->computed, upto, j->ends, WORKER_CHUNKS_MAX);
    j->next_end = 0;
    j->phase = WORKER_READ;
    if (j->computed == upto)
        worker_decode_ready(w, j);
}

void worker_generate_chunk(struct worker *w, struct worker_job *j)
{
    uint32_t upto = j->n_tokens - 1;

    if (worker_chunk_run(w, j, worker_chunk_end(w, j)) != 0)
        return;
    worker_progress_send(w, j, "prefill", j->computed, upto);
    if (j->computed == upto)
        worker_decode_ready(w, j);
}

void worker_decode_ready(struct worker *w, struct worker_job *j)
{
    (void)w;
    j->phase = WORKER_DECODE;
    j->pos = j->n_tokens - 1;
    j->next_token = j->tokens[j->pos];
    j->decode_start_ns = j->last_token_ns = clock_now_ns();
}

// ---- the batched step ----------------------------------------------------------------------------

static size_t rows_collect(struct worker *w)
{
    size_t n = 0;
    for (struct worker_job *j = w->jobs; j != NULL && n < w->engine->limits.n_batch; j = j->next)
        if (j->phase == WORKER_DECODE)
            w->rows[n++] = (struct engine_row){j->next_token, j->pos, j->seq, true};
    return n;
}

static void rows_fail(struct worker *w, int code, const char *message)
{
    struct worker_job *next = NULL;
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->phase == WORKER_DECODE)
            worker_job_fail(w, j, code, message);
    }
}

// One row of the step is a job's: its next token, which may end it.
static void token_take(struct worker *w, struct worker_job *j, size_t row)
{
    int32_t token = w->engine->ops->sample(w->engine, j->sampler, row);
    j->pos++;
    j->next_token = token;
    worker_answer_token(w, j, token, row);
}

void worker_decode_step(struct worker *w)
{
    struct err e = {0};
    size_t n = rows_collect(w);
    int64_t t0 = clock_now_ns();

    if (n == 0)
        return;
    w->engine->ops->interrupt(w->engine, false); // meant for a chunk that has ended
    int rc = w->engine->ops->step(w->engine, w->rows, n, &e);
    if (rc == ERR_CANCELLED)
        return; // nothing changed: the same step again
    if (rc != 0) {
        rows_fail(w, rc, e.message);
        return;
    }
    int64_t t1 = clock_now_ns();
    double rate = 1.0 / ns_to_s(t1 - t0 + 1);
    w->decode_rate = w->decode_rate == 0 ? rate : 0.9 * w->decode_rate + 0.1 * rate;

    // Jobs in the order of their rows; token_take may end a job.
    struct worker_job *next = NULL;
    size_t row = 0;
    for (struct worker_job *j = w->jobs; j != NULL && row < n; j = next) {
        next = j->next;
        if (j->phase != WORKER_DECODE)
            continue;
        worker_timeline_add(&j->timeline,
                            &(struct worker_span){"decode", t0, t1, j->pos, j->pos + 1});
        token_take(w, j, row++);
    }
}
