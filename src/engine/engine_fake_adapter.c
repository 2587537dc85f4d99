// Adapters of the fake engine: the whole file is the key of other functions, so that every adapter gives
// other KV and other answers, and a sequence that was computed in part with another one shows.
#include "engine/engine_fake_impl.h"

#include "base/buf.h"
#include "models/adapters.h"
#include "os/os.h"

#include <stdlib.h>

#define FILE_MAX (16u << 20) // bytes

static struct fake *fake_of(struct engine *g)
{
    return (struct fake *)g;
}

static uint32_t id_free(const struct fake *f)
{
    for (uint32_t i = 0; i < ENGINE_ADAPTERS_MAX; i++)
        if (f->adapters[i] == 0)
            return i + 1;
    return 0;
}

int fake_adapter_load(struct engine *g, const char *path, uint32_t *id, struct err *e)
{
    struct fake *f = fake_of(g);
    char *data = NULL;
    size_t n = 0;
    *id = id_free(f);
    if (*id == 0)
        return err_set(e, ERR_BUSY, "%u adapters are loaded already", ENGINE_ADAPTERS_MAX);
    int rc = adapters_check(path, "fake", NULL, e);
    if (rc == 0)
        rc = os_file_read(path, FILE_MAX, &data, &n, e);
    if (rc == 0)
        f->adapters[*id - 1] = fake_fold(fake_mix(n), (const uint8_t *)data, n) | 1;
    free(data);
    return rc;
}

void fake_adapter_drop(struct engine *g, uint32_t id)
{
    struct fake *f = fake_of(g);
    if (id == 0 || id > ENGINE_ADAPTERS_MAX)
        return;
    f->adapters[id - 1] = 0;
    for (uint32_t i = 0; i < g->limits.n_seq; i++)
        if (f->seq_adapters[i] == id)
            f->seq_adapters[i] = 0;
}

int fake_adapter_use(struct engine *g, uint32_t seq, uint32_t id, struct err *e)
{
    struct fake *f = fake_of(g);
    if (seq >= g->limits.n_seq)
        return err_set(e, ERR_INVALID, "sequence %u, there are %u", seq, g->limits.n_seq);
    if (id > ENGINE_ADAPTERS_MAX || (id > 0 && f->adapters[id - 1] == 0))
        return err_set(e, ERR_INVALID, "adapter %u is not loaded", id);
    f->seq_adapters[seq] = id;
    return 0;
}

uint64_t fake_adapter_key(const struct fake *f, uint32_t seq)
{
    uint32_t id = f->seq_adapters[seq];
    return id ? f->adapters[id - 1] : 0;
}

int fake_adapter_check(const struct fake *f, const struct engine_row *rows, size_t n, struct err *e)
{
    for (size_t i = 1; i < n; i++)
        if (f->seq_adapters[rows[i].seq] != f->seq_adapters[rows[0].seq])
            return err_set(e, ERR_INVALID,
                           "row %zu is of adapter %u, row 0 of %u; a step has one adapter", i,
                           f->seq_adapters[rows[i].seq], f->seq_adapters[rows[0].seq]);
    return 0;
}
