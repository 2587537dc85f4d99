// See fake.h for what it is. Layout: keyed functions, sequences, steps, opening. Handing over lives
// in engine_fake_range.c, forks, checkpoints and embeddings in engine_fake_keep.c, text in
// engine_fake_text.c, scripts in engine_fake_script.c, parsing in engine_fake_parse.c, sampling in
// engine_fake_sample.c.
#include "engine/fake.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/random.h"
#include "engine/engine_fake_impl.h"
#include "engine/engine_fake_script.h"
#include "engine/engine_fake_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fake *fake_of(struct engine *g)
{
    return (struct fake *)g;
}

// ---- keyed functions --------------------------------------------------------------------------

uint64_t fake_mix(uint64_t x)
{
    return random_next(&x);
}

static void fill(uint8_t *out, size_t n, uint64_t key)
{
    uint8_t word[8];
    for (size_t i = 0; i < n; i += 8) {
        le_put64(word, fake_mix(key + i));
        memcpy(out + i, word, n - i < 8 ? n - i : 8);
    }
}

uint64_t fake_fold(uint64_t hash, const uint8_t *data, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        hash = fake_mix(hash ^ le_get64(data + i));
    for (; i < n; i++)
        hash = fake_mix(hash ^ data[i]);
    return hash;
}

// ---- sequences ----------------------------------------------------------------------------------

size_t fake_token_bytes(const struct fake *f)
{
    return (size_t)f->o.layers * (size_t)f->o.kv_bytes;
}

size_t fake_state_bytes(const struct fake *f)
{
    return f->o.state != 0 ? (size_t)f->o.layers * STATE_BYTES : 0;
}

uint8_t *fake_kv_at(const struct fake *f, const struct fake_seq *s, uint32_t pos, int64_t layer)
{
    return s->kv + pos * fake_token_bytes(f) + (size_t)layer * (size_t)f->o.kv_bytes;
}

void fake_seq_reserve(const struct fake *f, struct fake_seq *s, uint32_t n)
{
    if (n <= s->cap)
        return;
    uint32_t cap = s->cap * 2 > n ? s->cap * 2 : n;
    s->kv = mem_resize(s->kv, cap * fake_token_bytes(f));
    s->running = mem_resize(s->running, cap * sizeof *s->running);
    s->cap = cap;
}

static uint64_t cells_used(const struct fake *f)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < f->base.limits.n_seq; i++)
        used += f->seqs[i].n;
    return used;
}

int fake_cells_check(const struct fake *f, uint64_t more, struct err *e)
{
    uint64_t used = cells_used(f);
    if (used + more > f->base.limits.n_ctx)
        return err_set(e, ERR_BUSY, "%llu more tokens do not fit: %llu of %u cells are in use",
                       (unsigned long long)more, (unsigned long long)used, f->base.limits.n_ctx);
    return 0;
}

static uint64_t running_before(const struct fake *f, const struct fake_seq *s, uint32_t pos)
{
    return pos == 0 ? fake_mix((uint64_t)f->o.seed) : s->running[pos - 1];
}

void fake_running_update(const struct fake *f, struct fake_seq *s, uint32_t pos)
{
    s->running[pos] =
        fake_fold(running_before(f, s, pos), fake_kv_at(f, s, pos, 0), fake_token_bytes(f));
}

static void seq_append(struct fake *f, struct fake_seq *s, int32_t token)
{
    uint32_t pos = s->n;
    fake_seq_reserve(f, s, pos + 1);
    uint64_t below = running_before(f, s, pos);
    uint64_t weights = (uint64_t)f->o.seed ^ fake_adapter_key(f, (uint32_t)(s - f->seqs));
    for (int64_t l = 0; l < f->o.layers; l++) {
        uint64_t key = fake_mix(fake_mix(fake_mix(below ^ weights) ^ (uint64_t)(uint32_t)token) ^
                                ((uint64_t)pos << 16) ^ (uint64_t)l);
        fill(fake_kv_at(f, s, pos, l), (size_t)f->o.kv_bytes, key);
    }
    fake_running_update(f, s, pos);
    if (f->o.state != 0)
        fill(s->state, fake_state_bytes(f),
             fake_fold(fake_mix((uint64_t)(uint32_t)token), s->state, fake_state_bytes(f)));
    s->n = pos + 1;
}

static void seq_clear(const struct fake *f, struct fake_seq *s)
{
    s->n = s->staged = 0;
    s->settled = false;
    if (s->state != NULL)
        memset(s->state, 0, fake_state_bytes(f));
}

// ---- steps --------------------------------------------------------------------------------------

int fake_work(struct fake *f, int64_t us, struct err *e)
{
    int64_t until = clock_now_ns() + us * NS_PER_US;
    for (;;) {
        if (atomic_load_explicit(&f->interrupted, memory_order_relaxed))
            return err_set(e, ERR_CANCELLED, "the step was interrupted");
        int64_t now = us > 0 ? clock_now_ns() : until;
        if (now >= until)
            return 0;
        clock_sleep_until(until - now > NS_PER_MS ? now + NS_PER_MS : until);
    }
}

static int rows_check(const struct fake *f, const struct engine_row *rows, size_t n, struct err *e)
{
    if (n == 0 || n > f->base.limits.n_batch)
        return err_set(e, ERR_INVALID, "a step of %zu rows, must be 1 to %u", n,
                       f->base.limits.n_batch);
    for (size_t i = 0; i < n; i++) {
        const struct engine_row *r = &rows[i];
        if (r->seq >= f->base.limits.n_seq)
            return err_set(e, ERR_INVALID, "row %zu: sequence %u, there are %u", i, r->seq,
                           f->base.limits.n_seq);
        if (r->token < 0 || r->token >= f->o.vocab)
            return err_set(e, ERR_INVALID, "row %zu: token %d, there are %lld", i, r->token,
                           (long long)f->o.vocab);
        if (f->inside && !f->seqs[r->seq].settled)
            return err_set(e, ERR_INVALID, "row %zu: sequence %u is not settled", i, r->seq);
        uint32_t next = f->seqs[r->seq].n;
        for (size_t j = 0; j < i; j++)
            next += rows[j].seq == r->seq;
        if (r->pos != next)
            return err_set(e, ERR_INVALID, "row %zu: position %u of sequence %u, next is %u", i,
                           r->pos, r->seq, next);
    }
    int rc = fake_adapter_check(f, rows, n, e);
    return rc ? rc : fake_cells_check(f, n, e);
}

static void misbehave(struct fake *f, size_t n)
{
    uint64_t from = f->stepped;
    f->stepped += n;
    if (f->o.crash_after > 0 && from < (uint64_t)f->o.crash_after &&
        f->stepped >= (uint64_t)f->o.crash_after)
        abort();
    while (f->o.hang_after > 0 && f->stepped >= (uint64_t)f->o.hang_after)
        pause();
}

static void logits_make(const struct fake *f, const struct fake_seq *s, float *out)
{
    uint64_t h = fake_fold(running_before(f, s, s->n), s->state, fake_state_bytes(f));
    for (int64_t t = 0; t < f->o.vocab; t++) {
        float unit = (float)(fake_mix(h + (uint64_t)t) >> 40) / 16777216.0f;
        // Letters and blanks are likely, the end is a little less so (it wins about 1 in 200),
        // the rest never wins but at a high temperature.
        if ((t >= 'a' && t <= 'z') || t == ' ')
            unit = 20 + 4 * unit;
        else if (t == FAKE_TOKEN_END)
            unit = 20 + 3.7f * unit;
        out[t] = unit;
    }
}

static void tile_send(struct fake *f, const struct engine_row *rows, size_t n, int64_t layer)
{
    size_t half = (size_t)f->o.kv_bytes / 2;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *kv = fake_kv_at(f, &f->seqs[rows[i].seq], rows[i].pos, layer);
        memcpy(f->tile_buf + i * half, kv, half);
        memcpy(f->tile_buf + (n + i) * half, kv + half, half);
    }
    f->tile(f->tile_ctx, (uint32_t)layer, f->tile_buf, 2 * n * half);
}

// Whether the step is one in which others may run.
static bool pauses(const struct fake *f, const struct engine_row *rows, size_t n)
{
    bool yes = f->between != NULL && !f->inside;
    for (size_t i = 0; i < n; i++)
        yes = yes && !f->seqs[rows[i].seq].settled;
    return yes;
}

static void pause_here(struct fake *f)
{
    f->inside = true;
    f->between(f->between_ctx);
    f->inside = false;
}

// Spends the step's time layer by layer when somebody wants to see them, at once otherwise.
static int step_wait(struct fake *f, const struct engine_row *rows, size_t n, struct err *e)
{
    int64_t us = 0;
    for (size_t i = 0; i < n; i++)
        us += rows[i].want_logits ? f->o.decode_us + f->o.depth_ns * rows[i].pos / 1000
                                  : f->o.prefill_us;
    bool paused = pauses(f, rows, n), tiled = f->tile != NULL && !f->inside;
    if (!tiled && !paused)
        return fake_work(f, us, e);
    for (int64_t l = 0; l < f->o.layers; l++) {
        int rc = fake_work(f, us / f->o.layers, e);
        if (rc != 0)
            return rc;
        if (tiled)
            tile_send(f, rows, n, l);
        if (paused)
            pause_here(f);
    }
    return 0;
}

static void rows_append(struct fake *f, const struct engine_row *rows, size_t n)
{
    struct fake_pass *p = &f->pass[f->inside];
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++)
        wanted += rows[i].want_logits;
    if (wanted > p->logits_cap) {
        p->logits = mem_resize(p->logits, wanted * (size_t)f->o.vocab * sizeof *p->logits);
        p->logits_cap = wanted;
    }
    wanted = 0;
    for (size_t i = 0; i < n; i++) {
        struct fake_seq *s = &f->seqs[rows[i].seq];
        seq_append(f, s, rows[i].token);
        p->logits_row[i] = rows[i].want_logits ? wanted : SIZE_MAX;
        if (rows[i].want_logits)
            logits_make(f, s, p->logits + wanted++ * (size_t)f->o.vocab);
    }
    p->n_rows = n;
}

// What a step that was interrupted half-way must not leave behind.
struct undo {
    uint32_t *n;    // [n_seq]
    uint8_t *state; // [n_seq][state_bytes]
};

static struct undo undo_new(const struct fake *f)
{
    struct undo u = {.n = mem_alloc(f->base.limits.n_seq * sizeof *u.n),
                     .state = mem_alloc(f->base.limits.n_seq * fake_state_bytes(f) + 1)};
    for (uint32_t i = 0; i < f->base.limits.n_seq; i++) {
        u.n[i] = f->seqs[i].n;
        if (f->o.state != 0)
            memcpy(u.state + i * fake_state_bytes(f), f->seqs[i].state, fake_state_bytes(f));
    }
    return u;
}

static void undo_apply(struct fake *f, const struct undo *u, const struct engine_row *rows,
                       size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct fake_seq *s = &f->seqs[rows[i].seq];
        s->n = u->n[rows[i].seq];
        if (f->o.state != 0)
            memcpy(s->state, u->state + rows[i].seq * fake_state_bytes(f), fake_state_bytes(f));
    }
}

static int fake_step(struct engine *g, const struct engine_row *rows, size_t n, struct err *e)
{
    struct fake *f = fake_of(g);
    int rc = rows_check(f, rows, n, e);
    if (rc != 0)
        return rc;
    misbehave(f, n);
    struct undo u = undo_new(f);
    rows_append(f, rows, n);
    rc = step_wait(f, rows, n, e);
    if (rc != 0) {
        undo_apply(f, &u, rows, n);
        f->pass[f->inside].n_rows = 0;
    }
    free(u.n);
    free(u.state);
    return rc;
}

static const float *fake_logits(struct engine *g, size_t row)
{
    const struct fake *f = fake_of(g);
    const struct fake_pass *p = &f->pass[f->inside];
    if (row >= p->n_rows || p->logits_row[row] == SIZE_MAX)
        abort(); // a caller's mistake that a real engine would answer with garbage
    return p->logits + p->logits_row[row] * (size_t)f->o.vocab;
}

static int fake_remove(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e)
{
    struct fake *f = fake_of(g);
    if (seq >= g->limits.n_seq)
        return err_set(e, ERR_INVALID, "sequence %u, there are %u", seq, g->limits.n_seq);
    struct fake_seq *s = &f->seqs[seq];
    if (p0 >= s->n && p0 != 0)
        return 0;
    if (p1 < s->n)
        return err_set(e, ERR_UNSUPPORTED, "removing [%u, %u) of %u tokens would leave a gap", p0,
                       p1, s->n);
    if (f->o.state != 0 && p0 != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "the model is recurrent: its state cannot go back to token %u", p0);
    if (f->export.busy && f->export.seq == seq && f->export.p1 > p0)
        return err_set(e, ERR_BUSY, "tokens [%u, %u) are being exported", f->export.p0,
                       f->export.p1);
    s->n = p0;
    s->staged = 0;
    if (p0 == 0)
        seq_clear(f, s);
    return 0;
}

static int fake_tiles_set(struct engine *g, engine_tile_callback *callback, void *ctx)
{
    struct fake *f = fake_of(g);
    if (f->o.state != 0)
        return ERR_UNSUPPORTED;
    f->tile = callback;
    f->tile_ctx = ctx;
    return 0;
}

static void fake_between_set(struct engine *g, engine_between_callback *callback, void *ctx)
{
    fake_of(g)->between = callback;
    fake_of(g)->between_ctx = ctx;
}

// ---- control ------------------------------------------------------------------------------------

static void fake_interrupt(struct engine *g, bool on)
{
    atomic_store_explicit(&fake_of(g)->interrupted, on, memory_order_relaxed);
}

static void fake_free(struct engine *g)
{
    struct fake *f = fake_of(g);
    for (uint32_t i = 0; i < g->limits.n_seq; i++) {
        free(f->seqs[i].kv);
        free(f->seqs[i].running);
        free(f->seqs[i].state);
    }
    free(f->seqs);
    for (size_t i = 0; i < 2; i++) {
        free(f->pass[i].logits);
        free(f->pass[i].logits_row);
    }
    free(f->seq_adapters);
    free(f->tile_buf);
    json_decref(f->script);
    free(f);
}

static const struct engine_ops fake_ops = {
    .name = "fake",
    .free = fake_free,
    .step = fake_step,
    .logits = fake_logits,
    .remove = fake_remove,
    .fork = fake_fork,
    .checkpoint_bytes = fake_checkpoint_bytes,
    .checkpoint_save = fake_checkpoint_save,
    .checkpoint_restore = fake_checkpoint_restore,
    .export_bytes = fake_export_bytes,
    .export_start = fake_export_start,
    .export_poll = fake_export_poll,
    .import = fake_import,
    .tiles_set = fake_tiles_set,
    .import_tile = fake_import_tile,
    .tokenize = fake_tokenize,
    .piece = fake_piece,
    .is_end = fake_is_end,
    .render = fake_render,
    .parser_new = fake_parser_new,
    .parser_free = fake_parser_free,
    .parser_put = fake_parser_put,
    .embed = fake_embed,
    .adapter_load = fake_adapter_load,
    .adapter_drop = fake_adapter_drop,
    .adapter_use = fake_adapter_use,
    .sampler_new = fake_sampler_new,
    .sampler_free = fake_sampler_free,
    .sampler_accept = fake_sampler_accept,
    .sample = fake_sample,
    .interrupt = fake_interrupt,
};

// ---- opening ------------------------------------------------------------------------------------

static void identity_fill(const struct fake *f, const struct engine_options *o,
                          struct engine_identity *id)
{
    *id = (struct engine_identity){
        .engine = "fake",
        .build = "fake 1",
        .arch = "fake",
        .n_vocab = (uint32_t)f->o.vocab,
        .n_layer = (uint32_t)f->o.layers,
        .n_embd = (uint32_t)f->o.kv_bytes,
        .n_head = 1,
        .n_head_kv = 1,
        .n_ctx_train = 1u << 20,
        .tokenizer_hash = fake_mix((uint64_t)f->o.vocab),
        .attention_layout = f->o.state != 0 ? 1u | 2u : 1u,
    };
    snprintf(id->model, sizeof id->model, "%s", f->o.name);
    snprintf(id->weights, sizeof id->weights, "seed-%lld", (long long)f->o.seed);
    id->weights_hash =
        fake_fold(fake_mix((uint64_t)f->o.seed), (const uint8_t *)id->model, strlen(id->model));
    snprintf(id->type_k, sizeof id->type_k, "%s", o->type_k != NULL ? o->type_k : "f16");
    snprintf(id->type_v, sizeof id->type_v, "%s", o->type_v != NULL ? o->type_v : "f16");
}

static void limits_fill(const struct fake *f, const struct engine_options *o,
                        struct engine_limits *l)
{
    *l = (struct engine_limits){
        .n_ctx = o->n_ctx != 0 ? o->n_ctx : 8192,
        .n_seq = o->n_seq != 0 ? o->n_seq : 1,
        .n_batch = o->n_batch != 0 ? o->n_batch : 512,
        .handoff = o->handoff,
        .kv_bytes_per_token = (double)fake_token_bytes(f),
        .state_bytes = fake_state_bytes(f),
        .n_embed_tokens = (uint32_t)f->o.embed,
        .ranks = f->o.ranks != 0,
        .cuts = f->o.state == 0,
        .has_tokenizer = true,
        .has_chat_template = true,
    };
}

int engine_fake_open(const struct engine_options *o, struct engine **out, struct err *e)
{
    struct fake *f = mem_alloc(sizeof *f);
    int rc = fake_model_parse(o->model, &f->o, e);
    if (rc == 0 && f->o.script[0] != '\0')
        rc = fake_script_load(f->o.script, &f->script, e);
    if (rc != 0) {
        free(f);
        return rc;
    }
    f->ops = fake_ops;
    if (f->o.apart != 0) {
        f->ops.settle = fake_settle;
        f->ops.rejoin = fake_rejoin;
        f->ops.settled = fake_settled;
        f->ops.between_set = fake_between_set;
    }
    f->base.ops = &f->ops;
    identity_fill(f, o, &f->base.identity);
    limits_fill(f, o, &f->base.limits);
    f->base.limits.n_ctx_stream = f->o.apart != 0 ? f->base.limits.n_ctx : 0;
    const struct engine_limits *l = &f->base.limits;
    f->seqs = mem_alloc(l->n_seq * sizeof *f->seqs);
    f->seq_adapters = mem_alloc(l->n_seq * sizeof *f->seq_adapters);
    for (size_t i = 0; i < 2; i++)
        f->pass[i].logits_row = mem_alloc(l->n_batch * sizeof *f->pass[i].logits_row);
    f->tile_buf = mem_alloc(l->n_batch * (size_t)f->o.kv_bytes);
    for (uint32_t i = 0; i < l->n_seq; i++)
        f->seqs[i].state = f->o.state != 0 ? mem_alloc(fake_state_bytes(f)) : NULL;
    if (o->progress != NULL)
        o->progress(o->progress_ctx, 1.0);
    *out = &f->base;
    return 0;
}
