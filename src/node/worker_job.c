// Jobs: making and ending them, and in which order those that wait are admitted.
#include "base/log.h"
#include "node/worker.h"

#include <stdlib.h>

// ---- timeline ------------------------------------------------------------------------------------

void worker_timeline_add(struct worker_timeline *t, const struct worker_span *s)
{
    if (!t->on || t->n >= WORKER_TIMELINE_MAX)
        return;
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 64 : t->cap * 2;
        t->spans = mem_resize(t->spans, t->cap * sizeof *t->spans);
    }
    t->spans[t->n++] = *s;
}

json_t *worker_timeline_json(const struct worker_timeline *t)
{
    if (!t->on)
        return json_null();
    json_t *list = json_array();
    for (size_t i = 0; i < t->n; i++) {
        const struct worker_span *s = &t->spans[i];
        json_array_append_new(list, json_pack("{s:s,s:f,s:f,s:i,s:i}", "what", s->what, "t0",
                                              ns_to_s(s->t0 - t->origin_ns), "t1",
                                              ns_to_s(s->t1 - t->origin_ns), "p0", (int)s->p0, "p1",
                                              (int)s->p1));
    }
    return list;
}

static void timeline_fini(struct worker_timeline *t)
{
    free(t->spans);
}

// ---- jobs ----------------------------------------------------------------------------------------

static int tokens_check(const struct worker *w, const struct worker_job *j, struct err *e)
{
    const int32_t *tokens = j->tokens;
    size_t n = j->n_tokens;

    if (n == 0)
        return err_set(e, ERR_INVALID, "the prompt is empty; send at least one token");
    if (n > MESSAGE_MAX_TOKENS)
        return err_set(e, ERR_RANGE, "%zu tokens; at most %u", n, MESSAGE_MAX_TOKENS);
    for (size_t i = 0; i < n; i++)
        if ((tokens[i] < 0 || (uint32_t)tokens[i] >= w->engine->identity.n_vocab) &&
            !worker_media_has(j, (uint32_t)i))
            return err_set(e, ERR_INVALID, "token %zu is %d; this vocabulary has 0..%u", i,
                           tokens[i], w->engine->identity.n_vocab - 1);
    if (n + 1 > w->engine->limits.n_ctx)
        return err_set(e, ERR_RANGE,
                       "the prompt has %zu tokens; the context holds %u with the answer", n,
                       w->engine->limits.n_ctx);
    if (worker_media_has(j, (uint32_t)n - 1))
        return err_set(e, ERR_INVALID, "the prompt ends in an image; text must come behind it");
    return 0;
}

static int tokens_take(struct worker *w, struct worker_job *j, const struct wire_frame *f,
                       const json_t *media, struct err *e)
{
    size_t n = 0;
    int rc = wire_frame_get_tokens(f, &j->tokens, &n, e);
    j->n_tokens = j->tokens_cap = (uint32_t)n; // a frame holds no more
    if (rc == 0)
        rc = worker_media_attach(w, j, media, e);
    return rc == 0 ? tokens_check(w, j, e) : rc;
}

struct worker_job *worker_job_new(struct worker *w, struct worker_link *l,
                                  const struct wire_frame *f, const json_t *media, struct err *e)
{

    if (w->n_jobs >= w->options.max_requests) {
        err_set(e, ERR_BUSY, "%zu requests are here already; try again later", w->n_jobs);
        return NULL;
    }
    struct worker_job *j = mem_alloc(sizeof *j);
    if (tokens_take(w, j, f, media, e) != 0) {
        worker_media_release(j);
        free(j->tokens);
        free(j);
        return NULL;
    }
    j->link = l;
    j->id = f->id;
    j->phase = WORKER_QUEUED;
    j->received_ns = j->timeline.origin_ns = clock_now_ns();
    j->peer = -1;
    struct worker_job **end = &w->jobs;
    while (*end != NULL)
        end = &(*end)->next;
    *end = j;
    w->n_jobs++;
    w->freed = true;
    return j;
}

static void job_free(struct worker *w, struct worker_job *j)
{
    if (j->kind == WORKER_JOB_PREFILL) {
        kv_send_fini(&j->send);
        kv_tokens_hasher_free(j->hasher);
    } else if (j->kind == WORKER_JOB_GENERATE) {
        worker_answer_fini(w, j);
        message_generate_fini(&j->generate);
    }
    timeline_fini(&j->timeline);
    worker_media_release(j);
    free(j->tokens);
    free(j);
}

// An export in progress belongs to the engine: wait for it, then take the buffer back.
static void job_stop_export(struct worker *w, struct worker_job *j)
{
    size_t len = 0;
    if (w->exporting != j)
        return;
    while (w->engine->ops->export_poll(w->engine, &len, NULL) == ENGINE_EXPORT_BUSY)
        clock_sleep_until(clock_now_ns() + 100 * NS_PER_US);
    worker_block_back(w->export_block);
    w->exporting = NULL;
}

void worker_job_finish(struct worker *w, struct worker_job *j)
{
    struct worker_job **p = &w->jobs;

    if (w->inside) {
        j->over = true;
        return;
    }
    job_stop_export(w, j);
    if (j->phase != WORKER_QUEUED && j->phase != WORKER_EMBED)
        worker_memory_release(w, j); // a transfer that is cut short still tells what came of it
    if (j->kind == WORKER_JOB_PREFILL)
        worker_prefill_end(j);
    else if (j->kind == WORKER_JOB_GENERATE)
        worker_handoff_end(w, j);
    while (*p != j)
        p = &(*p)->next;
    *p = j->next;
    w->n_jobs--;
    w->freed = true;
    job_free(w, j);
}

void worker_job_fail(struct worker *w, struct worker_job *j, int code, const char *message)
{
    worker_link_send(j->link, wire_frame_failed(WIRE_FAILED, j->id, code, message));
    worker_job_finish(w, j);
}

void worker_progress_send(struct worker *w, struct worker_job *j, const char *phase, uint32_t done,
                          uint32_t total)
{
    int64_t now = clock_now_ns();
    (void)w;
    if (now - j->progress_ns < WORKER_PROGRESS_NS)
        return;
    j->progress_ns = now;
    json_t *head =
        json_pack("{s:s,s:i,s:i}", "phase", phase, "done", (int)done, "total", (int)total);
    worker_link_send(j->link, wire_frame_json(WIRE_PROGRESS, j->id, head));
}

// ---- the order of those that wait ----------------------------------------------------------------

static bool starved(const struct worker_job *j)
{
    return j->overtaken >= WORKER_OVERTAKES;
}

// How many jobs of its owner run, for every job that waits.
static void owners_count(struct worker *w)
{
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next) {
        j->passed = j->waits_for_twin = false;
        j->owner_running = 0;
        for (uint32_t i = 0; j->phase == WORKER_QUEUED && i < w->engine->limits.n_seq; i++)
            j->owner_running += w->memory.seqs[i].state == WORKER_SEQ_RUNNING &&
                                strcmp(w->memory.seqs[i].owner, j->owner) == 0;
    }
}

// Who is next: one that was overtaken often enough, else of the owner with the fewest jobs running; and
// of those the first to arrive. NULL: all have been looked at.
static struct worker_job *queue_next(const struct worker *w)
{
    struct worker_job *best = NULL;
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_QUEUED && !j->passed &&
            (best == NULL || (starved(j) && !starved(best)) ||
             (starved(j) == starved(best) && j->owner_running < best->owner_running)))
            best = j;
    return best;
}

// What a job that still reads has read so far can be shared too, where sequences can be cut.
static void reader_offer(struct worker *w, const struct worker_job *k)
{
    if (w->engine->limits.cuts && k->phase == WORKER_READ)
        kv_prefix_put(w->memory.index, k->space, k->seq, k->tokens, k->computed);
}

// Is somebody reading just now most of what this job would have to read? Then it waits, and finds it in
// prefix memory: n answers to one prompt, or chats with one long system prompt, read it once. One that a
// prefill worker serves does not wait: two machines would wait for each other's order.
static bool twin_reads(struct worker *w, const struct worker_job *j)
{
    if (w->engine->ops->fork == NULL || !j->reuse ||
        (j->kind == WORKER_JOB_GENERATE && j->generate.handoff.present))
        return false;
    for (struct worker_job *k = w->jobs; k != NULL; k = k->next) {
        if ((k->phase != WORKER_READ && k->phase != WORKER_HANDOFF) ||
            strcmp(k->space, j->space) != 0)
            continue;
        uint32_t most = j->n_tokens < k->n_tokens ? j->n_tokens : k->n_tokens, n = 0;
        while (n < most && j->tokens[n] == k->tokens[n])
            n++;
        if (n < WORKER_TWIN_TOKENS || n < j->n_tokens / 2)
            continue;
        if (k->computed < n - 1)
            return true;
        reader_offer(w, k);
    }
    return false;
}

static void job_start(struct worker *w, struct worker_job *j)
{
    for (struct worker_job *k = w->jobs; k != NULL; k = k->next)
        k->owner_running += strcmp(k->owner, j->owner) == 0;
    for (struct worker_job *k = w->jobs; k != j; k = k->next)
        k->overtaken += k->phase == WORKER_QUEUED && !k->waits_for_twin;
    j->admitted_ns = clock_now_ns();
    j->turn = ++w->turn;
    if (!worker_adapter_admit(w, j))
        return;
    if (j->kind == WORKER_JOB_PREFILL)
        worker_prefill_plan(w, j);
    else
        worker_generate_plan(w, j);
}

void worker_jobs_admit(struct worker *w)
{
    struct worker_job *j = NULL;
    unsigned without_room = 0;

    if (!w->freed)
        return; // nothing has changed since the last look
    w->freed = w->twins_wait = false;
    if (!worker_memory_has_sequence(w))
        return;
    owners_count(w);
    while (without_room < WORKER_LOOK_AHEAD && (j = queue_next(w)) != NULL) {
        j->passed = true;
        j->waits_for_twin = twin_reads(w, j);
        w->twins_wait = w->twins_wait || j->waits_for_twin;
        if (j->waits_for_twin)
            continue;
        if (worker_memory_admit(w, j))
            job_start(w, j);
        else if (starved(j))
            return; // nobody goes before it any more
        else
            without_room++;
    }
}
