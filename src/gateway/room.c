#include "gateway/room.h"

#include "base/buf.h"
#include "gateway/core.h"
#include "gateway/images.h"
#include "models/gguf.h"

#include <stdlib.h>

// The trainer keeps each matrix twice as F32, and has room for gradients and intermediate results beside
// them (docs/training.md).
#define BYTES_PER_PARAM 8u
#define BYTES_MORE (UINT64_C(1) << 30)

static uint64_t need_of(const struct jobs_job *job)
{
    struct models_gguf *g = mem_alloc(sizeof(*g));
    struct err e = {0};
    uint64_t need = 0;

    if (models_gguf_read(job->model, g, &e) == 0) {
        need = g->params * BYTES_PER_PARAM + BYTES_MORE;
        models_gguf_fini(g);
    }
    free(g);
    return job->limit_memory_bytes > 0 && job->limit_memory_bytes < need ? job->limit_memory_bytes
                                                                         : need;
}

// There is always an answer, also from a core that stops and a message that is not taken.
static int ask(struct room *r, uint64_t bytes)
{
    struct core *c = atomic_load_explicit(&r->core, memory_order_acquire);
    struct core_message m = {.what = CORE_ROOM, .bytes = bytes, .answer = r->answer};
    int word = ERR_BUSY;

    images_room(r->images, bytes);
    if (!c)
        return word;
    core_send(c, &m, CHAN_FOREVER);
    chan_recv(r->answer, &word, CHAN_FOREVER);
    return word;
}

static int room_make(void *ctx, const struct jobs_job *job, struct err *e)
{
    if (ask(ctx, need_of(job)) == 0)
        return 0;
    return err_set(e, ERR_BUSY, "models that nobody uses are being unloaded for it");
}

static void room_give_back(void *ctx)
{
    ask(ctx, 0);
}

void room_init(struct room *r)
{
    *r = (struct room){.answer = chan_new(sizeof(int), 2), .hooks = {room_make, room_give_back, r}};
}

void room_fini(struct room *r)
{
    chan_free(r->answer);
}
