// The engine thread of a worker: one loop that takes events, admits jobs, exports, decodes one step
// and reads one chunk, in this order, until it is told to stop.
#include "base/log.h"
#include "node/worker.h"
#include "os/os.h"

#include <stdlib.h>
#include <unistd.h>

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

void worker_timeline_fini(struct worker_timeline *t)
{
    free(t->spans);
}

// ---- jobs ----------------------------------------------------------------------------------------

static int tokens_check(const struct worker *w, const int32_t *tokens, size_t n, struct err *e)
{
    if (n == 0)
        return err_set(e, ERR_INVALID, "the prompt is empty; send at least one token");
    if (n > MESSAGE_MAX_TOKENS)
        return err_set(e, ERR_RANGE, "%zu tokens; at most %u", n, MESSAGE_MAX_TOKENS);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= w->engine->identity.n_vocab)
            return err_set(e, ERR_INVALID, "token %zu is %d; this vocabulary has 0..%u", i,
                           tokens[i], w->engine->identity.n_vocab - 1);
    if (n + 1 > w->engine->limits.n_ctx)
        return err_set(e, ERR_RANGE,
                       "the prompt has %zu tokens; the context holds %u with the answer", n,
                       w->engine->limits.n_ctx);
    return 0;
}

struct worker_job *worker_job_new(struct worker *w, struct worker_link *l,
                                  const struct wire_frame *f, struct err *e)
{
    int32_t *tokens = NULL;
    size_t n = 0;

    if (w->n_jobs >= w->options.max_requests) {
        err_set(e, ERR_BUSY, "%zu requests are here already; try again later", w->n_jobs);
        return NULL;
    }
    if (wire_frame_get_tokens(f, &tokens, &n, e) != 0 || tokens_check(w, tokens, n, e) != 0) {
        free(tokens);
        return NULL;
    }
    struct worker_job *j = mem_alloc(sizeof *j);
    j->link = l;
    j->id = f->id;
    j->tokens = tokens;
    j->n_tokens = (uint32_t)n;
    j->phase = WORKER_QUEUED;
    j->received_ns = j->timeline.origin_ns = clock_now_ns();
    j->peer = -1;
    struct worker_job **end = &w->jobs;
    while (*end != NULL)
        end = &(*end)->next;
    *end = j;
    w->n_jobs++;
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
    worker_timeline_fini(&j->timeline);
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
    chan_send(w->export_free, &w->export_block, CHAN_FOREVER);
    w->exporting = NULL;
}

void worker_job_finish(struct worker *w, struct worker_job *j)
{
    struct err e = {0};
    struct worker_job **p = &w->jobs;

    if (j->kind == WORKER_JOB_PREFILL)
        worker_prefill_end(j);
    else if (j->kind == WORKER_JOB_GENERATE)
        worker_handoff_end(w, j);
    job_stop_export(w, j);
    if (j->phase != WORKER_QUEUED && j->phase != WORKER_EMBED) {
        if (w->engine->ops->remove(w->engine, j->seq, 0, UINT32_MAX, &e) != 0)
            log_error("worker", "sequence not removed: %s seq=%u", e.message, j->seq);
        w->seq_used[j->seq] = 0;
        w->cells_used -= j->cells;
    }
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

// Gives a waiting job its sequence and cells; false: no room yet.
static bool job_admit(struct worker *w, struct worker_job *j)
{
    uint32_t seq = 0;
    while (seq < w->engine->limits.n_seq && w->seq_used[seq] != 0)
        seq++;
    if (seq == w->engine->limits.n_seq || w->cells_used + j->cells > w->engine->limits.n_ctx)
        return false;
    w->seq_used[seq] = 1;
    w->cells_used += j->cells;
    j->seq = seq;
    j->admitted_ns = clock_now_ns();
    if (j->kind == WORKER_JOB_PREFILL)
        worker_prefill_plan(w, j);
    else
        worker_generate_plan(w, j);
    return true;
}

static void jobs_admit(struct worker *w)
{
    struct worker_job *next = NULL;
    w->freed = false;
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->phase == WORKER_QUEUED && !job_admit(w, j))
            return; // in order of arrival: a long prompt is not overtaken for ever
    }
}

// Publishes what is about to run. False: something came in meanwhile, look at that first. Whoever
// posts an event that should stop a chunk posts first and then looks at `running`; we set it first
// and then look at the inbox: so one of the two sees the other, and no interrupt is missed.
bool worker_running_set(struct worker *w, const struct worker_job *j)
{
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

// Full chunks give the rate, small ones the floor: where a batch is bound by reading the weights, a
// small chunk takes longer than its share.
static void rates_learn(struct worker *w, size_t n, double seconds)
{
    uint32_t full = w->engine->limits.n_batch;
    double rate = (double)n / seconds;

    if (n * 2 >= full) {
        w->prefill_rate = w->prefill_rate == 0 ? rate : 0.7 * w->prefill_rate + 0.3 * rate;
    } else if (n * 4 <= full && w->prefill_rate > 0) {
        double floor_s = seconds > 1.25 * (double)n / w->prefill_rate ? seconds : 0;
        w->floor_s = w->floor_s == 0 ? floor_s : 0.7 * w->floor_s + 0.3 * floor_s;
    }
}

uint32_t worker_chunk_end(const struct worker *w, const struct worker_job *j)
{
    // A schedule with few ends for many tokens is coarser than a step can be.
    uint32_t most = j->computed + w->engine->limits.n_batch;
    return j->ends[j->next_end] < most ? j->ends[j->next_end] : most;
}

int worker_chunk_run(struct worker *w, struct worker_job *j, uint32_t end)
{
    struct err e = {0};
    size_t n = end - j->computed;
    int64_t t0 = clock_now_ns();

    for (size_t i = 0; i < n; i++)
        w->rows[i] = (struct engine_row){
            .token = j->tokens[j->computed + i], .pos = j->computed + (uint32_t)i, .seq = j->seq};
    int rc = worker_running_set(w, j) ? w->engine->ops->step(w->engine, w->rows, n, &e) : ERR_CANCELLED;
    int64_t t1 = clock_now_ns();
    worker_running_clear(w);
    if (rc != 0) {
        if (rc != ERR_CANCELLED)
            worker_job_fail(w, j, rc, e.message);
        return rc;
    }
    j->compute_ns += t1 - t0;
    worker_timeline_add(&j->timeline, &(struct worker_span){"compute", t0, t1, j->computed, end});
    j->computed = end;
    j->next_end += j->ends[j->next_end] == end;
    j->tokens_read += (uint32_t)n;
    rates_learn(w, n, ns_to_s(t1 - t0 + 1));
    return 0;
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

// ---- events --------------------------------------------------------------------------------------

static struct worker_job *job_find(struct worker *w, const struct worker_link *l, uint64_t id)
{
    struct worker_job *j = w->jobs;
    while (j != NULL && (j->link != l || j->id != id))
        j = j->next;
    return j;
}

static void status_send(struct worker *w, struct worker_link *l, uint64_t id)
{
    struct engine_pace_counts pace = engine_pace_get(w->engine);
    struct os_memory m = {0};
    size_t prefills = 0;

    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        prefills += j->kind == WORKER_JOB_PREFILL;
    os_memory_get(getpid(), &m);
    json_t *head = json_pack(
        "{s:i,s:i,s:i,s:{s:f,s:f,s:f},s:{s:I,s:I,s:I},s:I,s:f}", "requests",
        (int)(w->n_jobs - prefills), "transfers", (int)prefills, "cells_used", (int)w->cells_used,
        "rates", "prefill_tokens_per_s", w->prefill_rate, "decode_tokens_per_s", w->decode_rate,
        "link_bytes_per_s", w->link_rate, "memory", "resident_bytes", (json_int_t)m.resident_bytes,
        "peak_bytes", (json_int_t)m.peak_bytes, "anonymous_bytes", (json_int_t)m.anonymous_bytes,
        "overruns", (json_int_t)pace.overruns, "worst_ratio", pace.worst_ratio);
    worker_link_send(l, wire_frame_json(WIRE_STATUS_IS, id, head));
}

static void abandon(struct worker *w, struct worker_job *j, struct wire_frame *f)
{
    struct err e = {0};
    const char *reason = "the gateway gave up the prefill node";
    json_t *head = wire_frame_parse(f, &e);
    if (head != NULL)
        json_get_string(head, "reason", &reason, &e);
    if (j != NULL && j->phase == WORKER_HANDOFF)
        worker_handoff_lost(w, j, reason);
    else if (j != NULL && j->phase == WORKER_QUEUED)
        j->generate.handoff.present = false;
    json_decref(head);
}

static void control_frame(struct worker *w, struct worker_link *l, struct wire_frame *f)
{
    struct worker_job *j = job_find(w, l, f->id);
    switch (f->type) {
    case WIRE_GENERATE:
        worker_generate_begin(w, l, f);
        break;
    case WIRE_PREFILL:
        worker_prefill_begin(w, l, f);
        break;
    case WIRE_EMBED:
        worker_embed_begin(w, l, f);
        break;
    case WIRE_CANCEL:
        if (j != NULL)
            worker_job_fail(w, j, ERR_CANCELLED, "cancelled");
        break;
    case WIRE_ABANDON:
        abandon(w, j, f);
        break;
    case WIRE_STATUS:
        status_send(w, l, f->id);
        break;
    default:
        break; // link_on_frame lets no other type through
    }
}

static void event_frame(struct worker *w, struct worker_event *ev)
{
    if (ev->link->kind == WORKER_LINK_CONTROL)
        control_frame(w, ev->link, &ev->frame);
    else if (ev->link->kind == WORKER_LINK_BULK_IN)
        worker_prefill_pull(w, ev);
    else
        worker_handoff_frame(w, ev->link, &ev->frame);
    wire_frame_fini(&ev->frame);
}

// Everything of this link ends: its requests are cancelled, its transfers lost.
static void event_link_closed(struct worker *w, struct worker_link *l, const struct err *why)
{
    struct worker_link **p = &w->links;
    struct worker_job *next = NULL;

    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->link == l) {
            j->link = NULL;
            worker_job_finish(w, j);
        } else if (j->bulk == l) {
            j->bulk = NULL;
            worker_prefill_lost(w, j, why->message);
        }
    }
    if (l->kind == WORKER_LINK_BULK_OUT)
        worker_handoff_link_closed(w, l, why);
    if (l->parent)
        w->stop = true;
    while (*p != NULL && *p != l)
        p = &(*p)->next;
    if (*p == l)
        *p = l->next;
    log_debug("worker", "link closed: %s peer=%s", why->message, wire_link_peer(l->wire));
    wire_link_free(l->wire);
    free(l);
}

void worker_event_handle(struct worker *w, struct worker_event *ev)
{
    switch (ev->kind) {
    case WORKER_EVENT_LINK_UP:
        ev->link->next = w->links;
        w->links = ev->link;
        break;
    case WORKER_EVENT_LINK_CLOSED:
        event_link_closed(w, ev->link, &ev->error);
        break;
    case WORKER_EVENT_FRAME:
        event_frame(w, ev);
        break;
    case WORKER_EVENT_SENT:
        worker_prefill_sent(w, ev);
        break;
    case WORKER_EVENT_DIALED:
        worker_handoff_dialed(w, ev);
        break;
    case WORKER_EVENT_WAKE:
        break;
    }
}

// ---- the loop ------------------------------------------------------------------------------------

static bool work_waits(const struct worker *w)
{
    if (w->exporting != NULL)
        return true;
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_READ || j->phase == WORKER_DECODE || j->phase == WORKER_EMBED)
            return true;
    return false;
}

static int64_t timers_run(struct worker *w, int64_t now)
{
    int64_t next = worker_handoff_timers(w, now);
    int64_t beat = worker_prefill_beats(w, now);
    struct worker_job *after = NULL;

    next = beat < next ? beat : next;

    for (struct worker_job *j = w->jobs; j != NULL; j = after) {
        after = j->next;
        if (j->kind != WORKER_JOB_PREFILL || j->phase != WORKER_DRAIN || j->pulled)
            continue;
        int64_t due = j->done_ns + WORKER_UNPULLED_NS;
        if (now >= due)
            worker_job_fail(w, j, ERR_TIMEOUT, "no decode worker came for the segments");
        else if (due < next)
            next = due;
    }
    return next;
}

static void events_drain(struct worker *w)
{
    struct worker_event ev;
    int64_t now = clock_now_ns();
    int64_t next = timers_run(w, now);
    int64_t wait = work_waits(w) || w->freed ? 0 : next - now;

    while (!w->stop && chan_recv(w->inbox, &ev, wait) == 0) {
        worker_event_handle(w, &ev);
        wait = 0;
    }
}

static bool export_run(struct worker *w)
{
    struct worker_job *next = NULL;
    bool any = false;
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->kind == WORKER_JOB_PREFILL && (j->phase == WORKER_READ || j->phase == WORKER_DRAIN))
            while (worker_prefill_export(w, j))
                any = true;
    }
    return any;
}

static void read_run(struct worker *w)
{
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_READ) {
            if (j->kind == WORKER_JOB_PREFILL)
                worker_prefill_chunk(w, j);
            else
                worker_generate_chunk(w, j);
            return;
        }
}

void worker_run(struct worker *w)
{
    while (!w->stop) {
        events_drain(w);
        if (w->stop)
            break;
        jobs_admit(w);
        export_run(w);
        worker_decode_step(w);
        read_run(w);
        export_run(w);
        worker_embed_run(w, false);
    }
}
