// The engine thread of a worker: one loop that takes events, admits jobs, imports, exports, computes one
// step or two, in this order, until it is told to stop.
#include "base/log.h"
#include "node/worker.h"
#include "os/os.h"

#include <stdlib.h>
#include <unistd.h>

// ---- events --------------------------------------------------------------------------------------

static struct worker_job *job_find(struct worker *w, const struct worker_link *l, uint64_t id)
{
    struct worker_job *j = w->jobs;
    while (j != NULL && (j->link != l || j->id != id))
        j = j->next;
    return j;
}

void worker_status_send(struct worker *w, struct worker_link *l, uint64_t id)
{
    struct engine_pace_counts pace = engine_pace_get(w->engine);
    struct os_memory m = {0};
    size_t prefills = 0;

    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        prefills += j->kind == WORKER_JOB_PREFILL;
    os_memory_get(getpid(), &m);
    json_t *head = json_pack(
        "{s:i,s:i,s:i,s:i,s:i,s:i,s:{s:f,s:f,s:f},s:{s:I,s:I,s:I},s:I,s:f}", "requests",
        (int)(w->n_jobs - prefills), "transfers", (int)prefills, "cells_used", (int)w->cells_used,
        "cells_kept", (int)w->memory.cells_kept, "sequences_kept", (int)w->memory.n_kept,
        "sequences_apart", (int)worker_memory_apart(w), "rates", "prefill_tokens_per_s",
        w->prefill_rate, "decode_tokens_per_s", w->decode_rate, "link_bytes_per_s", w->link_rate,
        "memory", "resident_bytes", (json_int_t)m.resident_bytes, "peak_bytes",
        (json_int_t)m.peak_bytes, "anonymous_bytes", (json_int_t)m.anonymous_bytes, "overruns",
        (json_int_t)pace.overruns, "worst_ratio", pace.worst_ratio);
    json_put(head, "draining",
             json_boolean(atomic_load_explicit(&w->draining, memory_order_relaxed)));
    json_t *power = worker_power_json(w);
    if (power != NULL)
        json_put(head, "power", power);
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

static void forget(struct worker *w, struct worker_link *l, const struct wire_frame *f)
{
    struct err e = {0};
    const char *owner = NULL;
    json_t *head = wire_frame_parse(f, &e);
    int rc = head == NULL ? e.code : json_get_string(head, "owner", &owner, &e);

    if (rc != 0) {
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
    } else {
        json_t *done = json_pack("{s:i}", "sequences", (int)worker_memory_forget(w, owner));
        worker_link_send(l, wire_frame_json(WIRE_FORGOTTEN, f->id, done));
    }
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
    case WIRE_FORGET:
        forget(w, l, f);
        break;
    case WIRE_CANCEL:
        if (j != NULL)
            worker_job_fail(w, j, ERR_CANCELLED, "cancelled");
        else {
            worker_measure_cancel(w, l, f->id);
            worker_probe_cancel(w, l, f->id);
        }
        break;
    case WIRE_MEASURE:
        worker_measure_begin(w, l, f);
        break;
    case WIRE_MEASURE_LINK:
        worker_probe_begin(w, l, f);
        break;
    case WIRE_ABANDON:
        abandon(w, j, f);
        break;
    case WIRE_DRAIN:
        worker_drain_begin(w);
        break;
    case WIRE_STATUS:
        worker_status_send(w, l, f->id);
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
        worker_prefill_frame(w, ev);
    else
        worker_handoff_frame(w, ev); // takes the frame
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
    worker_measure_link_closed(w, l);
    worker_probe_link_closed(w, l, why);
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
    worker_probe_link_fini(l);
    free(l);
}

void worker_event_handle(struct worker *w, struct worker_event *ev)
{
    worker_prefill_pulls(w);
    switch (ev->kind) {
    case WORKER_EVENT_LINK_UP:
        ev->link->next = w->links;
        w->links = ev->link;
        worker_drain_greet(w, ev->link);
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
        worker_probe_dialed(w, ev);
        break;
    case WORKER_EVENT_PROBED:
        worker_probe_take(w, ev);
        break;
    case WORKER_EVENT_MEDIA:
        worker_media_take(w, ev->media);
        break;
    case WORKER_EVENT_WAKE:
        break;
    }
}

// ---- the loop ------------------------------------------------------------------------------------

static bool work_waits(const struct worker *w)
{
    if (w->exporting != NULL || worker_imports_wait(w) || w->measure != NULL)
        return true;
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_READ || j->phase == WORKER_DECODE || j->phase == WORKER_EMBED)
            return true;
    return false;
}

static int64_t timers_run(struct worker *w, int64_t now)
{
    int64_t next = worker_handoff_timers(w, now);
    int64_t beat = worker_prefill_beats(w, now), media = worker_media_timers(w, now);
    int64_t probe = worker_probe_run(w, now);
    struct worker_job *after = NULL;

    next = beat < next ? beat : next;
    next = media < next ? media : next;
    next = probe < next ? probe : next;

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

static bool is_linked(const struct worker *w)
{
    for (const struct worker_link *l = w->links; l != NULL; l = l->next)
        if (!l->parent)
            return true;
    return false;
}

// A worker that nobody is connected to ends, if that is wanted; its supervisor wakes another one.
static int64_t idle_run(struct worker *w, int64_t now)
{
    int64_t limit = (int64_t)(w->options.idle_s * 1e9);
    if (limit == 0 || is_linked(w)) {
        w->met = true;
        w->alone_ns = 0;
        return INT64_MAX;
    }
    if (!w->met && limit < WORKER_MEET_NS)
        limit = WORKER_MEET_NS;
    if (w->alone_ns == 0)
        w->alone_ns = now;
    w->idle = now >= w->alone_ns + limit;
    w->stop = w->stop || w->idle;
    return w->alone_ns + limit;
}

static void events_drain(struct worker *w)
{
    struct worker_event ev;
    int64_t now = clock_now_ns();
    int64_t next = timers_run(w, now), alone = idle_run(w, now), part = worker_drain_run(w, now);

    next = alone < next ? alone : next;
    next = part < next ? part : next;
    int64_t wait = work_waits(w) || w->freed ? 0 : next - now;

    bool idle = wait > 0;
    if (idle)
        worker_power_now(w, WATTS_IDLE);
    while (!w->stop && chan_recv(w->inbox, &ev, wait) == 0) {
        worker_event_handle(w, &ev);
        wait = 0;
    }
    if (idle || w->measure != NULL) // what a measurement does is all sorts of things
        worker_power_now(w, -1);
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

void worker_run(struct worker *w)
{
    while (!w->stop) {
        events_drain(w);
        if (w->stop)
            break;
        worker_measure_run(w);
        worker_jobs_admit(w);
        worker_imports_run(w);
        export_run(w);
        worker_step_run(w);
        export_run(w);
        worker_embed_run(w, worker_decoding(w) > 0);
    }
}
