// The worker measures itself: MEASURE -> MEASURED.
//
// Only while no request is here, and one piece at a time (a chunk, a step of answers, one export) between two
// looks at the inbox. Whoever brings a request interrupts a piece that is being computed; then the sequences are
// given back at once and the answer says what was measured until then. It uses sequences and cells that are
// free: what is kept for clients stays, and what does not fit is left out.
//
// What is measured, in which order, says sched/profile_measure.h. The sequence that grows is seat 0; steps of
// several answers take others, and live apart as real answers do (worker_decode_settle). Nothing is taken back
// from a sequence, since not every model can: a depth is what it is, and is told so.
#include "base/log.h"
#include "base/random.h"
#include "node/worker.h"
#include "os/os.h"

#include <math.h>
#include <stdlib.h>

#define SEATS 9u // eight answers and the sequence that grows
#define WARM_TOKENS 16u
#define MOVE_ROUNDS 3u // of which the first touches the memory
#define SLOW_SHARE 0.4 // of the budget for the order's first prompt: more is too slow for the order
#define SLOW_STEPS 2
#define FIRST_TOKENS 64u
#define OVERTIME 1.25    // of the budget, then it ends wherever it is
#define MOVE_TOKENS 512u // are enough to see what moving them costs
#define RANGE_LEAST 16u

struct seat {
    uint32_t seq, held;
    int32_t next; // token of the next step
};

// What is measured now: a prompt of one seat, or steps of some.
struct work {
    bool on, settled, warm;
    struct profile_measurement what;
    size_t first, n_seats;
    uint32_t left;         // tokens to read, steps to go
    uint32_t depth, chunk; // where the reading began, and in pieces of how many tokens
    double depths;         // summed up over steps
    int64_t ns;
};

enum phase { PHASE_WARM, PHASE_ORDER, PHASE_MOVE };

struct worker_measure {
    struct worker_link *link; // who asked
    uint64_t id;
    double budget_s;
    int64_t until_ns;
    enum phase phase;
    bool slow;        // a machine for which the order is too long
    bool moved, over; // the KV was, or could not be; the order has come to its end
    struct profile_book book;
    struct profile_measure order;
    struct work now;
    struct seat seats[SEATS];
    size_t n_seats;
    uint32_t cells; // that were free
    uint32_t rounds;
    uint64_t random;
    struct engine_sampler *sampler;
    struct message_measured out;
};

// ---- seats ---------------------------------------------------------------------------------------

static void seat_clear(struct worker *w, struct seat *s)
{
    struct err e = {0};
    if (w->engine->ops->remove(w->engine, s->seq, 0, UINT32_MAX, &e) != 0)
        log_error("worker", "sequence not removed: %s seq=%u", e.message, s->seq);
    s->held = 0;
}

// Takes the free sequences, as many as are of use.
static void seats_take(struct worker *w, struct worker_measure *m)
{
    const struct engine_ops *ops = w->engine->ops;
    for (uint32_t i = 0; i < w->engine->limits.n_seq && m->n_seats < SEATS; i++) {
        if (w->memory.seqs[i].state != WORKER_SEQ_FREE)
            continue;
        if (ops->adapter_use != NULL && ops->adapter_use(w->engine, i, 0, NULL) != 0)
            continue;
        m->seats[m->n_seats++] = (struct seat){.seq = i, .next = 1};
    }
    m->cells = w->engine->limits.n_ctx - w->cells_used - w->memory.cells_kept;
}

static uint32_t cells_left(const struct worker_measure *m)
{
    uint32_t used = 0;
    for (size_t i = 0; i < m->n_seats; i++)
        used += m->seats[i].held;
    return used < m->cells ? m->cells - used : 0;
}

static int32_t token_random(struct worker *w, struct worker_measure *m)
{
    return (int32_t)(random_next(&m->random) % w->engine->identity.n_vocab);
}

// ---- computing -----------------------------------------------------------------------------------

// Computes the n rows that lie ready. ERR_CANCELLED: something came in, nothing changed. What was computed while
// somebody interrupted is in, but its time says nothing: then the measurement in progress begins anew.
static int step_run(struct worker *w, size_t n, int64_t *ns, struct err *e)
{
    struct worker_measure *m = w->measure;
    int rc = ERR_CANCELLED;

    w->engine->ops->interrupt(w->engine, false);
    atomic_store(&w->running, worker_key(m->link->serial, m->id));
    atomic_store(&w->running_link, m->link->serial);
    atomic_store(&w->measuring, true);
    worker_power_now(w, w->rows[0][0].want_logits ? WATTS_DECODE : WATTS_PREFILL);
    int64_t t0 = clock_now_ns();
    if (chan_len(w->inbox) == 0)
        rc = w->engine->ops->step(w->engine, w->rows[0], n, e);
    *ns = clock_now_ns() - t0;
    worker_power_now(w, -1);
    bool alone = atomic_exchange(&w->measuring, false);
    worker_running_clear(w);
    m->now.on = m->now.on && (rc != 0 || alone);
    return rc;
}

// As a prompt is cut: in equal pieces.
static uint32_t piece_rows(const struct worker *w, uint32_t left)
{
    uint32_t most = w->engine->limits.n_batch, pieces = (left + most - 1) / most;
    return (left + pieces - 1) / pieces;
}

static int seat_read(struct worker *w, struct seat *s, uint32_t n, int64_t *ns, struct err *e)
{
    for (uint32_t i = 0; i < n; i++)
        w->rows[0][i] = (struct engine_row){
            .token = token_random(w, w->measure), .pos = s->held + i, .seq = s->seq};
    int rc = step_run(w, n, ns, e);
    s->held += rc == 0 ? n : 0;
    return rc;
}

// One more token for each seat of the work, drawn as for an answer.
static int seats_step(struct worker *w, struct worker_measure *m, int64_t *ns, struct err *e)
{
    struct seat *s = &m->seats[m->now.first];
    size_t n = m->now.n_seats;

    for (size_t i = 0; i < n; i++)
        w->rows[0][i] = (struct engine_row){s[i].next, s[i].held, s[i].seq, true};
    int rc = step_run(w, n, ns, e);
    if (rc != 0)
        return rc;
    int64_t t0 = clock_now_ns();
    for (size_t i = 0; i < n; i++) {
        s[i].next = w->engine->ops->sample(w->engine, m->sampler, i);
        s[i].held++;
    }
    *ns += clock_now_ns() - t0;
    return 0;
}

// ---- one measurement -----------------------------------------------------------------------------

// A second cache for answers that live apart is made when it is first needed: not at the cost of the machine.
static bool apart_fits(const struct worker *w)
{
    const struct engine_limits *l = &w->engine->limits;
    double left = (double)os_memory_available(), need = l->kv_bytes_per_token * l->n_ctx;
    return l->n_ctx_stream == 0 || left == 0 || left > 2 * need;
}

// Who sits for a measurement; false: there are not enough seats.
static bool work_seats(const struct worker *w, const struct worker_measure *m, struct work *now)
{
    const struct profile_measurement *x = &now->what;

    now->n_seats = x->rows > 1 ? (size_t)x->rows : 1;
    if (x->reads) // a second short prompt is one of its own
        now->first = x->depth == 0 && m->seats[0].held > 0 && m->n_seats > 1;
    else
        now->first = x->rows > 1 && m->n_seats > now->n_seats;
    return now->first + now->n_seats <= m->n_seats && now->n_seats <= w->engine->limits.n_batch &&
           (now->n_seats == 1 || apart_fits(w));
}

static uint32_t work_cells(const struct worker_measure *m, const struct work *now)
{
    uint32_t depth = (uint32_t)now->what.depth, cells = (uint32_t)now->what.tokens;

    for (size_t i = now->first; !now->what.reads && i < now->first + now->n_seats; i++)
        cells += (uint32_t)now->what.steps + 1 +
                 (m->seats[i].held < depth ? depth - m->seats[i].held : 0);
    return cells;
}

static bool work_begin(struct worker *w, struct worker_measure *m)
{
    struct work *now = &m->now;

    *now = (struct work){0};
    while (profile_measure_next(&m->order, &m->book, &now->what)) {
        bool seats = work_seats(w, m, now);
        if (seats && now->what.reads && now->what.depth == 0 && now->first > 0)
            seat_clear(w, &m->seats[now->first]);
        if (seats && work_cells(m, now) <= cells_left(m)) {
            now->on = true;
            now->left = (uint32_t)(now->what.reads ? now->what.tokens : now->what.steps);
            now->depth = m->seats[now->first].held;
            now->chunk = now->what.reads ? piece_rows(w, now->left) : 0;
            return true;
        }
        profile_measure_took(&m->order, &m->book, NAN);
    }
    return false;
}

static void work_end(struct worker_measure *m)
{
    struct work *now = &m->now;
    double seconds = ns_to_s(now->ns + 1);

    if (now->what.reads)
        m->out.reads[m->out.n_reads++] = (struct profile_read){.tokens = now->what.tokens,
                                                               .depth = now->depth,
                                                               .chunk_tokens = now->chunk,
                                                               .seconds = seconds};
    else
        m->out.steps[m->out.n_steps++] =
            (struct profile_steps){.steps = now->what.steps,
                                   .rows = (double)now->n_seats,
                                   .depth_sum = now->depths / now->what.steps,
                                   .seconds = seconds};
    if (!m->slow)
        profile_measure_took(&m->order, &m->book, seconds);
    now->on = false;
}

static int reads_piece(struct worker *w, struct worker_measure *m, struct err *e)
{
    struct work *now = &m->now;
    uint32_t n = piece_rows(w, now->left);
    int64_t ns = 0;
    int rc = seat_read(w, &m->seats[now->first], n, &ns, e);

    if (rc != 0 || !now->on)
        return rc;
    now->ns += ns;
    now->left -= n;
    if (now->left == 0)
        work_end(m);
    return 0;
}

// Where answers that are written together live, see worker_decode_settle. One alone stays where it is.
static void seats_settle(struct worker *w, struct worker_measure *m, bool apart)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    const struct work *now = &m->now;

    for (size_t i = now->first; now->n_seats > 1 && i < now->first + now->n_seats; i++) {
        const struct seat *s = &m->seats[i];
        uint32_t upto = s->held + (uint32_t)now->what.steps + 1;
        int rc = 0;
        if (apart && ops->settle != NULL)
            rc = ops->settle(w->engine, s->seq, upto, &e);
        else if (!apart && i == 0 && ops->rejoin != NULL) // it goes on to grow
            rc = ops->rejoin(w->engine, s->seq, &e);
        if (rc != 0)
            log_debug("worker", "stays where it is: %s seq=%u", e.message, s->seq);
    }
}

// The next seat that lacks the tokens to stand on; NULL: none does.
static struct seat *seat_short(struct worker_measure *m)
{
    for (size_t i = m->now.first; i < m->now.first + m->now.n_seats; i++)
        if (m->seats[i].held < m->now.what.depth)
            return &m->seats[i];
    return NULL;
}

static int steps_piece(struct worker *w, struct worker_measure *m, struct err *e)
{
    struct work *now = &m->now;
    struct seat *s = now->settled ? NULL : seat_short(m);
    int64_t ns = 0;
    double depths = 0;

    if (s != NULL)
        return seat_read(w, s, piece_rows(w, (uint32_t)now->what.depth - s->held), &ns, e);
    if (!now->settled)
        seats_settle(w, m, true);
    now->settled = true;
    for (size_t i = now->first; i < now->first + now->n_seats; i++)
        depths += m->seats[i].held;
    int rc = seats_step(w, m, &ns, e);
    if (rc != 0 || !now->on)
        return rc;
    if (!now->warm) { // the first one plans what the others do
        now->warm = true;
        return 0;
    }
    now->depths += depths;
    now->ns += ns;
    if (--now->left == 0) {
        seats_settle(w, m, false);
        work_end(m);
    }
    return 0;
}

// ---- moving KV -----------------------------------------------------------------------------------

struct range {
    uint32_t p1;
    bool last;
};

// What of the sequence that grew can go out and come in again; p1 0: nothing.
static struct range range_find(const struct worker *w, const struct worker_measure *m)
{
    const struct engine_limits *l = &w->engine->limits;
    uint32_t held = m->seats[0].held, room = cells_left(m);
    bool whole = l->handoff == ENGINE_HANDOFF_WHOLE || w->engine->identity.n_swa > 0 ||
                 (l->handoff == ENGINE_HANDOFF_RANGES && l->state_bytes > 0);
    double per_token = l->kv_bytes_per_token;
    double most = per_token > 0 ? (double)w->segment_bytes / per_token : held;

    if (l->handoff == ENGINE_HANDOFF_NONE || m->n_seats < 2 || (whole && room < held))
        return (struct range){0};
    if (whole)
        return (struct range){held, true};
    most = fmin(fmin(fmax(most, RANGE_LEAST), held), room);
    return (struct range){(uint32_t)most, false};
}

static int export_wait(struct worker *w, size_t *len, struct err *e)
{
    int rc = ENGINE_EXPORT_BUSY;
    while ((rc = w->engine->ops->export_poll(w->engine, len, e)) == ENGINE_EXPORT_BUSY)
        clock_sleep_until(clock_now_ns() + 50 * NS_PER_US);
    return rc < 0 ? rc : 0;
}

static int range_move(struct worker *w, struct worker_measure *m, struct worker_block *b,
                      struct err *e)
{
    const struct engine_ops *ops = w->engine->ops;
    struct range r = range_find(w, m);
    uint32_t from = m->seats[0].seq, to = m->n_seats > 1 ? m->seats[1].seq : 0;
    size_t need = r.p1 > 0 ? ops->export_bytes(w->engine, from, 0, r.p1, r.last) : 0, len = 0;

    if (need == 0 || need > w->segment_max || !worker_block_fit(b, need))
        return err_set(e, ERR_UNSUPPORTED, "no segment of %u tokens (%zu bytes)", r.p1, need);
    int64_t t0 = clock_now_ns();
    int rc = ops->export_start(w->engine, from, 0, r.p1, r.last, b->data, b->cap, e);
    if (rc != 0 || (rc = export_wait(w, &len, e)) != 0)
        return rc;
    uint64_t sent = kv_hash(b->data, len);
    int64_t t1 = clock_now_ns();
    uint64_t received = kv_hash(b->data, len);
    if ((rc = ops->import(w->engine, to, 0, r.p1, r.last, b->data, len, e)) != 0)
        return rc;
    int64_t t2 = clock_now_ns();
    if (sent != received)
        return err_set(e, ERR_ENGINE, "the engine wrote on after an export was done");
    if (m->rounds > 0) {
        worker_cost_moved(&m->out.export, len, t1 - t0);
        worker_cost_moved(&m->out.import, len, t2 - t1);
    }
    return 0;
}

// One round; true when there is no more to do.
static bool move_piece(struct worker *w, struct worker_measure *m)
{
    struct err e = {0};
    struct worker_block *b = NULL;

    for (size_t i = 1; i < m->n_seats; i++)
        if (m->seats[i].held > 0)
            seat_clear(w, &m->seats[i]);
    if (chan_recv(w->export_free, &b, 0) != 0)
        return true; // an older transfer still leaves
    int rc = range_move(w, m, b, &e);
    worker_block_back(b);
    if (m->n_seats > 1)
        seat_clear(w, &m->seats[1]);
    if (rc != 0)
        log_debug("worker", "export and import not measured: %s", e.message);
    return rc != 0 || ++m->rounds == MOVE_ROUNDS;
}

// ---- the whole -----------------------------------------------------------------------------------

static void measure_end(struct worker *w, bool complete)
{
    struct worker_measure *m = w->measure;

    for (size_t i = 0; i < m->n_seats; i++)
        seat_clear(w, &m->seats[i]);
    if (m->sampler != NULL)
        w->engine->ops->sampler_free(w->engine, m->sampler);
    m->out.load_s = w->load_s;
    m->out.memory_left_bytes = (double)os_memory_available();
    m->out.complete = complete;
    if (m->link != NULL)
        worker_link_send(m->link,
                         wire_frame_json(WIRE_MEASURED, m->id, message_measured_json(&m->out)));
    log_debug("worker", "measured: reads=%zu steps=%zu complete=%d", m->out.n_reads, m->out.n_steps,
              complete);
    free(m);
    w->measure = NULL;
}

// The first prompt of the order alone would take too long: what was read to warm up and a few steps after
// it have to do.
static void slow_begin(struct worker_measure *m, uint32_t n, int64_t ns)
{
    m->slow = true;
    m->out.reads[m->out.n_reads++] =
        (struct profile_read){.tokens = n, .chunk_tokens = n, .seconds = ns_to_s(ns + 1)};
    m->now = (struct work){
        .on = true, .what = {.rows = 1, .steps = SLOW_STEPS}, .n_seats = 1, .left = SLOW_STEPS};
}

// The first touch of memory and kernels is nobody's time.
static int warm_piece(struct worker *w, struct worker_measure *m, struct err *e)
{
    int64_t ns = 0;
    uint32_t n = w->engine->limits.n_batch < WARM_TOKENS ? w->engine->limits.n_batch : WARM_TOKENS;
    int rc = n <= m->cells ? seat_read(w, &m->seats[0], n, &ns, e) : 0;

    if (rc != 0)
        return rc;
    m->phase = PHASE_ORDER;
    if (ns_to_s(ns) * FIRST_TOKENS / n > SLOW_SHARE * m->budget_s && cells_left(m) > SLOW_STEPS)
        slow_begin(m, n, ns);
    else
        seat_clear(w, &m->seats[0]);
    return 0;
}

// KV is moved between two measurements: when there is enough of it and room for it twice, or in the end.
static int order_piece(struct worker *w, struct worker_measure *m, struct err *e)
{
    bool late = m->out.n_steps > 0 && clock_now_ns() >= m->until_ns;
    bool move = !m->now.on && !m->moved && m->seats[0].held >= MOVE_TOKENS;

    m->over = late || (!m->now.on && !move && (m->slow || !work_begin(w, m)));
    if (!m->over && !move)
        return m->now.what.reads ? reads_piece(w, m, e) : steps_piece(w, m, e);
    m->phase = PHASE_MOVE;
    return 0;
}

// True: that was all.
static bool move_all(struct worker *w, struct worker_measure *m)
{
    m->moved = m->moved || move_piece(w, m);
    m->phase = m->moved ? PHASE_ORDER : PHASE_MOVE;
    return m->moved && m->over;
}

void worker_measure_run(struct worker *w)
{
    struct err e = {0};
    struct worker_measure *m = w->measure;
    int rc = 0;

    if (m == NULL)
        return;
    if (w->n_jobs > 0) {
        measure_end(w, false);
        return;
    }
    if (m->phase == PHASE_MOVE) {
        if (move_all(w, m))
            measure_end(w, true);
        return;
    }
    rc = m->phase == PHASE_WARM ? warm_piece(w, m, &e) : order_piece(w, m, &e);
    if (rc == 0 || rc == ERR_CANCELLED) // what came in is looked at first
        return;
    // A model that keeps no cache, cells that are fewer than they were counted: there is no more to learn.
    bool known = rc == ERR_UNSUPPORTED || rc == ERR_BUSY;
    if (!known)
        log_warn("worker", "the measurement failed: %s", e.message);
    measure_end(w, known);
}

static void book_begin(const struct worker *w, struct worker_measure *m, double budget_s)
{
    struct profile p;

    profile_defaults(&p);
    p.n_ctx = m->cells;
    p.n_seq = (double)m->n_seats;
    p.chunk_tokens = w->engine->limits.n_batch;
    profile_book_init(&m->book, &p, PROFILE_TRUST_NONE);
    profile_measure_begin(&m->order, &m->book, budget_s);
    m->budget_s = budget_s;
    m->until_ns = clock_now_ns() + (int64_t)(budget_s * OVERTIME * 1e9);
}

static int measure_start(struct worker *w, struct worker_link *l, const struct wire_frame *f,
                         struct err *e)
{
    struct engine_sampling sampling;
    double budget_s = 0;
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_measure_parse(head, &budget_s, e);

    json_decref(head);
    if (rc == 0 && w->measure != NULL)
        rc = err_set(e, ERR_BUSY, "this worker is measuring itself; ask when it has answered");
    if (rc != 0)
        return rc;
    struct worker_measure *m = w->measure = mem_alloc(sizeof *m);
    m->link = l;
    m->id = f->id;
    m->random = (uint64_t)clock_now_ns();
    seats_take(w, m);
    book_begin(w, m, budget_s);
    engine_sampling_default(&sampling);
    if (w->engine->ops->sampler_new(w->engine, &sampling, &m->sampler, e) == 0)
        return 0;
    m->link = NULL; // what it is told is the error
    measure_end(w, false);
    return e->code;
}

void worker_measure_begin(struct worker *w, struct worker_link *l, const struct wire_frame *f)
{
    struct err e = {0};
    int rc = measure_start(w, l, f, &e);

    if (rc != 0)
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
    else if (w->n_jobs > 0 || w->measure->n_seats == 0)
        measure_end(w, w->n_jobs == 0);
}

void worker_measure_cancel(struct worker *w, const struct worker_link *l, uint64_t id)
{
    if (w->measure != NULL && w->measure->link == l && w->measure->id == id)
        measure_end(w, false);
}

void worker_measure_link_closed(struct worker *w, const struct worker_link *l)
{
    if (w->measure == NULL || w->measure->link != l)
        return;
    w->measure->link = NULL;
    measure_end(w, false);
}
