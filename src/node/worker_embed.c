// Embeddings: each is one call of the engine that touches no sequence, made between two decode steps.
#include "base/json.h"
#include "node/worker.h"

#include <stdlib.h>

static int limits_check(const struct worker *w, size_t n, struct err *e)
{
    uint32_t most = w->engine->limits.n_embed_tokens;

    if (w->engine->ops->embed == NULL || most == 0)
        return err_set(e, ERR_UNSUPPORTED, "model '%s' makes no embeddings; load one that does",
                       w->engine->identity.model);
    if (n > most)
        return err_set(e, ERR_RANGE,
                       "the text has %zu tokens; an embedding of this model takes at most %u", n,
                       most);
    return 0;
}

void worker_embed_begin(struct worker *w, struct worker_link *l, struct wire_frame *f)
{
    struct err e = {0};
    struct worker_job *j = NULL;
    int rc = limits_check(w, f->body.len / 4, &e);

    if (rc == 0 && (j = worker_job_new(w, l, f, NULL, &e)) == NULL)
        rc = e.code;
    if (rc != 0) {
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
        return;
    }
    j->kind = WORKER_JOB_EMBED;
    j->phase = WORKER_EMBED; // needs no sequence, so it waits for none
}

static void embedded_send(struct worker_job *j, const float *values, size_t n)
{
    json_t *head = json_pack("{s:i}", "tokens", (int)j->n_tokens);
    struct wire_frame f = wire_frame_json(WIRE_EMBEDDED, j->id, head);
    uint8_t *bytes = mem_alloc(n * 4);

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        le_put32(bytes + 4 * i, bits);
    }
    f.body = (struct wire_body){.data = bytes, .len = n * 4};
    worker_link_send(j->link, f);
}

static void embed_job(struct worker *w, struct worker_job *j)
{
    struct err e = {0};
    size_t n = w->engine->limits.ranks ? 1 : w->engine->identity.n_embd;
    float *values = mem_alloc(n * sizeof *values);
    int rc = ERR_CANCELLED;

    if (worker_running_set(w, j))
        rc = w->engine->ops->embed(w->engine, j->tokens, j->n_tokens, values, &e);
    worker_running_clear(w);
    if (rc == 0) {
        embedded_send(j, values, n);
        worker_job_finish(w, j);
    } else if (rc != ERR_CANCELLED) { // cancelled: something came in, look at that first
        worker_job_fail(w, j, rc, e.message);
    }
    free(values);
}

static struct worker_job *embed_next(struct worker *w)
{
    struct worker_job *j = w->jobs;
    while (j != NULL && j->phase != WORKER_EMBED)
        j = j->next;
    return j;
}

// While answers are being written, embeddings get at most half of the time: after each one the others
// go on for as long as it took.
void worker_embed_run(struct worker *w, bool others_run)
{
    struct worker_job *j = embed_next(w);
    int64_t t0 = clock_now_ns();

    if (j == NULL || (others_run && t0 < w->embed_after_ns))
        return;
    embed_job(w, j);
    int64_t t1 = clock_now_ns();
    w->embed_after_ns = t1 + (t1 - t0);
}
