// The prefill role: compute a prompt chunk by chunk, export what is computed, hand it to the bulk
// link's writer, and finish with the end marker.
#include "base/log.h"
#include "node/worker.h"

#include <stdlib.h>

static void reject(struct worker *w, struct worker_link *l, const struct wire_frame *f,
                   const struct err *e)
{
    (void)w;
    worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, e->code, e->message));
}

static int prefill_parse(const struct worker *w, const struct wire_frame *f,
                         struct message_prefill *m, struct err *e)
{
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_prefill_parse(head, m, e);
    json_decref(head);
    if (rc == 0 && w->engine->limits.handoff == ENGINE_HANDOFF_NONE)
        rc = err_set(e, ERR_UNSUPPORTED, "%s has no exact hand-off; run it on one machine",
                     w->engine->identity.model);
    return rc;
}

void worker_prefill_begin(struct worker *w, struct worker_link *l, struct wire_frame *f)
{
    struct err e = {0};
    struct message_prefill m = {0};
    struct worker_job *j = NULL;

    if (prefill_parse(w, f, &m, &e) != 0 || (j = worker_job_new(w, l, f, NULL, &e)) == NULL) {
        reject(w, l, f, &e);
        return;
    }
    j->kind = WORKER_JOB_PREFILL;
    j->prefill = m;
    j->cells = m.upto;
    j->keep = m.keep;
    j->reuse = m.reuse;
    memcpy(j->owner, m.owner, sizeof j->owner);
    j->hasher = kv_tokens_hasher_new();
    kv_send_init(&j->send, m.transfer, m.epoch);
    j->timeline.on = m.timeline;
    if (worker_adapter_begin(w, j, &m.adapter, &e) != 0) {
        worker_job_fail(w, j, e.code, e.message);
        return;
    }
    if (m.upto > j->n_tokens) {
        err_set(&e, ERR_RANGE, "the transfer ends at token %u; the prompt has %u", m.upto,
                j->n_tokens);
        worker_job_fail(w, j, e.code, e.message);
        return;
    }
    worker_link_send(l, wire_frame_json(WIRE_ACCEPTED, f->id, NULL));
}

static bool mode_is_ranges(const struct worker *w)
{
    return w->engine->limits.handoff >= ENGINE_HANDOFF_RANGES;
}

static bool tiles_possible(const struct worker *w, const struct worker_job *j)
{
    return !w->options.no_tiles && w->engine->ops->tiles_set != NULL && !j->prefill.serial &&
           w->engine->limits.handoff == ENGINE_HANDOFF_RANGES;
}

void worker_prefill_plan(struct worker *w, struct worker_job *j)
{
    double link = j->prefill.link_bytes_per_s > 0 ? j->prefill.link_bytes_per_s : w->link_rate;
    struct kv_schedule_options o = {
        .chunk_tokens = w->engine->limits.n_batch,
        .min_chunk_tokens = w->options.min_chunk_tokens,
        .tile_layers = tiles_possible(w, j) ? w->engine->identity.n_layer : 0,
        .plain = j->prefill.serial || !mode_is_ranges(w),
        .rates = {.chunk_tokens_per_s = w->prefill_rate,
                  .chunk_floor_s = w->floor_s,
                  .link_bytes_per_s = link,
                  .kv_bytes_per_token = w->engine->limits.kv_bytes_per_token},
    };
    j->n_ends = kv_schedule_make(&o, j->computed, j->prefill.upto, j->ends, WORKER_CHUNKS_MAX);
    j->next_end = 0;
    j->phase = WORKER_READ;
    worker_prefill_read(w, j); // prefix memory may have had all of it
}

// ---- sending -------------------------------------------------------------------------------------

static struct kv_segment segment_make(struct worker *w, struct worker_job *j, uint32_t p1,
                                      uint32_t layer, size_t len)
{
    // Tiles of one range come layer by layer: the hash covers [0, p1) once.
    if (layer == KV_ALL_LAYERS || layer == 0)
        kv_tokens_hasher_put(j->hasher, j->tokens + j->exported, p1 - j->exported);
    return (struct kv_segment){
        .transfer = j->prefill.transfer,
        .epoch = j->prefill.epoch,
        .p0 = j->exported,
        .p1 = p1,
        .layer = layer,
        .codec = KV_CODEC_RAW,
        .mode = (uint8_t)w->engine->limits.handoff,
        .flags = p1 == j->prefill.upto ? KV_SEGMENT_LAST : 0,
        .raw_bytes = len,
        .tokens_hash = kv_tokens_hasher_get(j->hasher),
    };
}

static void segment_send(struct worker_job *j, struct kv_segment *s, struct wire_body body)
{
    uint8_t head[KV_SEGMENT_BYTES];
    kv_send_segment(&j->send, s, body.data, body.len);
    kv_segment_encode(s, head);
    j->kv_bytes += body.len;
    j->segments++;
    // A link that broke tells of itself soon; until then nothing more is exported into it.
    j->bulk_broken = worker_link_send(j->bulk, wire_frame_struct(WIRE_SEGMENT, s->transfer, head,
                                                                 sizeof head, body)) != 0;
}

static void end_send(struct worker_job *j)
{
    uint8_t head[KV_END_BYTES];
    struct kv_end end = kv_send_end(&j->send, j->prefill.upto);
    kv_end_encode(&end, head);
    worker_link_send(j->bulk, wire_frame_struct(WIRE_END, end.transfer, head, sizeof head,
                                                (struct wire_body){0}));
    j->end_queued = true;
}

static void export_release(void *ctx, void *data)
{
    struct worker_block *b = ctx;

    (void)data;
    worker_block_back(b);
    worker_wake(b->worker);
}

// ---- exporting -----------------------------------------------------------------------------------

// End of the range that could be exported next, or j->exported when there is none.
static uint32_t export_end(const struct worker *w, const struct worker_job *j)
{
    uint32_t upto = j->prefill.upto;
    if ((j->prefill.serial || !mode_is_ranges(w)) && j->computed < upto)
        return j->exported;
    if (!mode_is_ranges(w))
        return upto;
    uint32_t ready = j->computed < upto ? j->computed : upto;
    if (ready <= j->exported)
        return j->exported;
    // A state that is not late can only be exported with all that the sequence holds.
    double per_token = w->engine->limits.kv_bytes_per_token;
    bool whole_chunks = per_token <= 0 || (w->engine->limits.handoff == ENGINE_HANDOFF_RANGES &&
                                           w->engine->limits.state_bytes > 0);
    uint32_t most = whole_chunks ? UINT32_MAX : (uint32_t)((double)w->segment_bytes / per_token);
    if (most < 16)
        most = 16;
    return ready - j->exported > most ? j->exported + most : ready;
}

static int export_begin(struct worker *w, struct worker_job *j, uint32_t p1, struct err *e)
{
    struct worker_block *b = w->export_block;
    bool last = p1 == j->prefill.upto;
    const struct engine_ops *ops = w->engine->ops;
    size_t need = ops->export_bytes(w->engine, j->seq, j->exported, p1, last);

    if (need > w->segment_max)
        return err_set(e, ERR_RANGE, "segment of %zu bytes; at most %zu", need, w->segment_max);
    if (!worker_block_fit(b, need))
        return err_set(e, ERR_BUSY, "no memory for a segment of %zu bytes", need);
    w->export_start_ns = clock_now_ns();
    w->export_mixed = false;
    return ops->export_start(w->engine, j->seq, j->exported, p1, last, b->data, b->cap, e);
}

// Polls the export that runs for j; true when it is done and its segment is on the way.
static bool export_finish(struct worker *w, struct worker_job *j)
{
    struct err e = {0};
    size_t len = 0;
    int rc = w->engine->ops->export_poll(w->engine, &len, &e);

    if (rc == ENGINE_EXPORT_BUSY)
        return false;
    w->exporting = NULL;
    if (rc < 0) {
        worker_block_back(w->export_block);
        worker_prefill_lost(w, j, e.message);
        return false;
    }
    uint32_t p1 = w->export_segment.p1;
    struct kv_segment s = segment_make(w, j, p1, KV_ALL_LAYERS, len);
    struct wire_body body = {w->export_block->data, len, export_release, w->export_block};
    segment_send(j, &s, body);
    int64_t now = clock_now_ns();
    j->export_ns += now - w->export_start_ns;
    if (!w->export_mixed)
        worker_cost_moved(&j->cost.export, len, now - w->export_start_ns);
    worker_timeline_add(&j->timeline,
                        &(struct worker_span){"export", w->export_start_ns, now, j->exported, p1});
    j->exported = p1;
    if (p1 == j->prefill.upto)
        end_send(j);
    return true;
}

bool worker_prefill_export(struct worker *w, struct worker_job *j)
{
    struct err e = {0};
    uint32_t p1 = export_end(w, j);

    if (w->exporting == j)
        return export_finish(w, j);
    if (w->exporting != NULL || j->bulk == NULL || j->bulk_broken || p1 <= j->exported)
        return false;
    if (chan_recv(w->export_free, &w->export_block, 0) != 0) {
        if (j->blocked_since_ns == 0)
            j->blocked_since_ns = clock_now_ns();
        return false;
    }
    if (j->blocked_since_ns != 0 && j->phase == WORKER_DRAIN)
        j->wait_ns += clock_now_ns() - j->blocked_since_ns;
    j->blocked_since_ns = 0;
    w->export_segment.p1 = p1;
    if (export_begin(w, j, p1, &e) != 0) {
        worker_block_back(w->export_block);
        worker_prefill_lost(w, j, e.message);
        return false;
    }
    w->exporting = j;
    return export_finish(w, j);
}

// ---- computing -----------------------------------------------------------------------------------

// The tiles of the chunk that is computed. Those of layers that were through before the decode worker came wait
// for it: a prompt that is one chunk is begun before anybody knows of it.
struct tile_sink {
    struct worker *worker;
    struct worker_job *job;
    uint32_t p1;
    struct wire_body *tiles; // n_layer
    uint32_t n, sent;
};

static void tiles_drop(struct tile_sink *t)
{
    for (uint32_t i = t->sent; i < t->n; i++)
        free(t->tiles[i].data);
    t->n = t->sent;
}

// The decode worker is here, and nothing older waits.
static bool tiles_leave(const struct worker_job *j)
{
    return j->bulk != NULL && j->exported == j->computed;
}

static void tile_take(void *ctx, uint32_t layer, const void *data, size_t n)
{
    struct tile_sink *t = ctx;
    struct worker_job *j = t->job;

    if (!j->pulled) {
        worker_prefill_pulls(t->worker);
        // A link that ends just before this is looked at after the chunk.
        if (j->bulk != NULL)
            atomic_store(&t->worker->running_bulk, j->bulk->serial);
    }
    if (j->pulled && !tiles_leave(j)) {
        tiles_drop(t); // the whole chunk's export has it all
        return;
    }
    if (layer != t->n)
        return; // nor does a layer leave whose earlier ones could not be read
    t->tiles[t->n] = (struct wire_body){.data = mem_alloc(n), .len = n};
    memcpy(t->tiles[t->n++].data, data, n);
    for (; t->sent < t->n && tiles_leave(j); t->sent++) {
        struct wire_body body = t->tiles[t->sent];
        struct kv_segment s = segment_make(t->worker, j, t->p1, t->sent, body.len);
        segment_send(j, &s, body);
    }
}

// The last chunk may leave layer by layer while it is computed.
static bool tiles_apply(const struct worker *w, const struct worker_job *j, uint32_t end)
{
    return tiles_possible(w, j) && end == j->prefill.upto && (!j->pulled || tiles_leave(j));
}

static void beat_send(struct worker_job *j)
{
    if (j->kind == WORKER_JOB_PREFILL && j->bulk != NULL)
        worker_link_send(j->bulk,
                         wire_frame_json(WIRE_BEAT, j->prefill.transfer,
                                         json_pack("{s:i}", "computed", (int)j->computed)));
}

int64_t worker_prefill_beats(struct worker *w, int64_t now_ns)
{
    if (now_ns - w->beat_ns >= WORKER_BEAT_NS) {
        w->beat_ns = now_ns;
        for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
            beat_send(j);
    }
    return w->beat_ns + WORKER_BEAT_NS;
}

void worker_prefill_read(struct worker *w, struct worker_job *j)
{
    worker_progress_send(w, j, "prefill", j->computed, j->prefill.upto);
    if (j->computed < j->prefill.upto) {
        worker_memory_point(w, j, j->prefill.upto);
        return;
    }
    j->done_ns = clock_now_ns();
    j->phase = WORKER_DRAIN;
    worker_memory_share(w, j);
    if (j->pulled && j->exported == j->prefill.upto)
        end_send(j);
}

void worker_prefill_chunk(struct worker *w, struct worker_job *j, uint32_t rows)
{
    uint32_t end = worker_chunk_end(w, j, rows);
    struct tile_sink sink = {.worker = w, .job = j, .p1 = end};
    int rc = 0;

    if (tiles_apply(w, j, end) && w->engine->ops->tiles_set(w->engine, tile_take, &sink) == 0)
        sink.tiles = mem_alloc(w->engine->identity.n_layer * sizeof *sink.tiles);
    rc = worker_chunk_run(w, j, end);
    if (sink.tiles != NULL)
        w->engine->ops->tiles_set(w->engine, NULL, NULL);
    tiles_drop(&sink);
    free(sink.tiles);
    if (rc == ERR_CANCELLED && sink.sent > 0)
        worker_prefill_lost(w, j, "interrupted in the middle of a tiled chunk");
    if (rc != 0)
        return;
    if (sink.sent > 0 && sink.sent < w->engine->identity.n_layer) {
        worker_prefill_lost(w, j, "a layer of a tiled chunk could not be read");
        return;
    }
    if (sink.sent > 0)
        j->exported = end;
    worker_prefill_read(w, j);
}

// ---- the bulk link -------------------------------------------------------------------------------

static struct worker_job *transfer_find(struct worker *w, uint64_t transfer)
{
    struct worker_job *j = w->jobs;
    while (j != NULL && !(j->kind == WORKER_JOB_PREFILL && j->prefill.transfer == transfer))
        j = j->next;
    return j;
}

static bool ticket_matches(const char *a, const char *b)
{
    return strlen(a) == MESSAGE_TICKET_HEX && strlen(b) == MESSAGE_TICKET_HEX &&
           mem_same_secret(a, b, MESSAGE_TICKET_HEX);
}

// What the decode worker holds already, it does not get. Its number is checked like all that a peer says.
static int from_check(const struct worker *w, const struct worker_job *j, int64_t from,
                      struct err *e)
{
    if (from >= j->prefill.upto)
        return err_set(e, ERR_RANGE, "from token %lld nothing is left of a transfer up to token %u",
                       (long long)from, j->prefill.upto);
    if (from > 0 && !worker_handoff_partial(w))
        return err_set(e, ERR_UNSUPPORTED,
                       "from token %lld: hand-off mode %s of this model begins at token 0",
                       (long long)from, engine_handoff_name(w->engine->limits.handoff));
    return 0;
}

static int pull_parse(struct worker *w, const struct wire_frame *f, const struct worker_job *j,
                      int64_t *from, struct err *e)
{
    const char *ticket = "", *adapter = "";
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : json_get_string(head, "ticket", &ticket, e);

    if (rc == 0 && (j == NULL || j->pulled || !ticket_matches(ticket, j->prefill.ticket)))
        rc = err_set(e, ERR_NOT_FOUND, "no transfer is waiting under this id and ticket");
    if (rc == 0)
        rc = json_get_string(head, "adapter", &adapter, e);
    if (rc == 0)
        rc = worker_adapter_agree(j, adapter, e);
    if (rc == 0)
        rc = json_get_i64(head, "from", 0, MESSAGE_MAX_TOKENS, from, e);
    if (rc == 0)
        rc = from_check(w, j, *from, e);
    json_decref(head);
    return rc;
}

static void pull(struct worker *w, struct worker_link *l, const struct wire_frame *f)
{
    struct err e = {0};
    int64_t from = 0;
    struct worker_job *j = transfer_find(w, f->id);
    int rc = pull_parse(w, f, j, &from, &e);

    if (rc != 0) {
        worker_link_send(l, wire_frame_failed(WIRE_ABORT, f->id, rc, e.message));
        return;
    }
    j->bulk = l;
    j->pulled = true;
    j->from = j->exported = (uint32_t)from;
    kv_tokens_hasher_put(j->hasher, j->tokens, j->from);
}

// What the link carries: a segment's bytes over the time from its departure, or from the arrival of
// the one before if that was later, to its acknowledgement. Small ones tell of latency, not of rate.
// Its arrival is what counts: this thread may have computed a chunk before it got to read it.
static void ack_take(struct worker *w, struct worker_job *j, const struct wire_frame *f,
                     int64_t now)
{
    struct err e = {0};
    struct kv_ack a;

    if (kv_ack_decode(f->head, f->head_bytes, &a, &e) != 0)
        return;
    j->acked = a.index < j->departed ? a.index + 1 : j->departed;
    const struct worker_flight *s = &j->flights[a.index % WORKER_FLIGHTS];
    int64_t from = s->departed_ns > j->acked_ns ? s->departed_ns : j->acked_ns;
    if (s->departed_ns > 0 && s->index == a.index && s->bytes > w->segment_bytes / 4) {
        double rate = s->bytes / ns_to_s(now - from + 1);
        w->link_rate = w->link_rate == 0 ? rate : 0.8 * w->link_rate + 0.2 * rate;
    }
    j->acked_ns = now;
}

void worker_prefill_pulls(struct worker *w)
{
    struct worker_event ev;

    while (chan_recv(w->pulls, &ev, 0) == 0) {
        pull(w, ev.link, &ev.frame);
        wire_frame_fini(&ev.frame);
    }
}

void worker_prefill_frame(struct worker *w, const struct worker_event *ev)
{
    struct worker_link *l = ev->link;
    const struct wire_frame *f = &ev->frame;
    struct worker_job *j = transfer_find(w, f->id);
    if (f->type == WIRE_ACK && j != NULL && j->bulk == l) {
        ack_take(w, j, f, ev->t0);
    } else if (f->type == WIRE_ABORT && j != NULL && j->bulk == l) {
        j->bulk = NULL; // the other side knows already
        worker_prefill_lost(w, j, "the decode worker ended the transfer");
    }
}

static void prefilled_send(struct worker *w, struct worker_job *j)
{
    struct engine_pace_counts pace = engine_pace_get(w->engine);
    json_t *head =
        json_pack("{s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:b,s:I,s:i,s:I,s:f,s:o,s:o}", "tokens",
                  (int)j->tokens_read, "tokens_cached", (int)j->cached, "from", (int)j->from,
                  "compute_s", ns_to_s(j->compute_ns), "export_s", ns_to_s(j->export_ns), "wait_s",
                  ns_to_s(j->wait_ns), "done_s", ns_to_s(j->done_ns - j->received_ns), "sent_s",
                  ns_to_s(j->sent_ns - j->received_ns), "link_bytes_per_s", w->link_rate, "shared",
                  (int)j->shared, "kv_bytes", (json_int_t)j->kv_bytes, "segments", (int)j->segments,
                  "overruns", (json_int_t)pace.overruns, "worst_ratio", pace.worst_ratio, "cost",
                  worker_cost_json(&j->cost), "timeline", worker_timeline_json(&j->timeline));
    worker_joules_put(w, j, head);
    worker_link_send(j->link, wire_frame_json(WIRE_PREFILLED, j->id, head));
}

// What leaves at the same time over different links shares this machine's way out: how long it takes tells of
// neither link.
static void shares_mark(struct worker *w, struct worker_job *j)
{
    for (struct worker_job *o = w->jobs; o != NULL; o = o->next)
        if (o->kind == WORKER_JOB_PREFILL && o->bulk != NULL && o->bulk != j->bulk &&
            o->acked < o->departed)
            o->shared = j->shared = true;
}

void worker_prefill_sent(struct worker *w, const struct worker_event *ev)
{
    struct worker_job *j = transfer_find(w, ev->id);

    if (j == NULL || j->bulk == NULL || j->bulk->serial != ev->link_serial)
        return; // a lost link tells of itself
    worker_timeline_add(&j->timeline, &(struct worker_span){"send", ev->t0, ev->t1, 0, 0});
    if (ev->type != WIRE_END) {
        shares_mark(w, j);
        uint32_t index = j->departed++;
        j->flights[index % WORKER_FLIGHTS] = (struct worker_flight){index, ev->body_bytes, ev->t0};
        return;
    }
    j->sent_ns = ev->t1;
    prefilled_send(w, j);
    worker_job_finish(w, j);
}

static void abort_send(struct worker_job *j, int code, const char *why)
{
    if (j->bulk != NULL)
        worker_link_send(j->bulk, wire_frame_failed(WIRE_ABORT, j->prefill.transfer, code, why));
    j->bulk = NULL;
}

void worker_prefill_end(struct worker_job *j)
{
    if (!j->end_queued)
        abort_send(j, ERR_CANCELLED, "the prefill node's job ended");
}

void worker_prefill_lost(struct worker *w, struct worker_job *j, const char *why)
{
    abort_send(j, ERR_CLOSED, why);
    worker_job_fail(w, j, ERR_CLOSED, why);
}
