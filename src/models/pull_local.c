// Adding files of this machine: a hard link where that is possible, else a copy.
#include "models/pull_impl.h"

#include "base/buf.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (1u << 20)
#define TELL_NS (100 * NS_PER_MS)

static int entry_from_file(const char *path, const struct models_gguf *gguf, struct models_entry *m,
                           struct err *e)
{
    const char *base = models_base_name(path);
    char quant[MODELS_QUANT_BYTES], stem[MODELS_FILE_BYTES];
    struct models_split split;
    bool parts = models_split_parse(base, &split) && gguf->split_count > 1;
    if (!models_file_name_ok(base) || !models_is_gguf(base))
        return err_set(e, ERR_INVALID,
                       "\"%.150s\": the file's name must end in .gguf, be of letters, digits and "
                       "._-+ only, and have at most %d characters",
                       base, MODELS_FILE_BYTES - 1);
    if (!models_quant_parse(base, quant))
        snprintf(quant, sizeof quant, "%s", models_gguf_quant(gguf));
    snprintf(stem, sizeof stem, "%.*s", (int)models_quant_stem(base), base);
    models_id_make(&m->id, "local", stem[0] ? stem : base, quant);
    models_pull_files_set(m, base, parts ? &split : NULL);
    snprintf(m->source, sizeof m->source, "%.1023s", path);
    snprintf(m->ref, sizeof m->ref, "%.1023s", path);
    return 0;
}

// ---- one file ------------------------------------------------------------------------------------

struct copy {
    const char *from, *to;
    int in, out;
    uint64_t done, bytes;
    const struct models_watch *watch;
};

static int part_write(const struct copy *c, const uint8_t *data, size_t n, struct err *e)
{
    while (n > 0) {
        ssize_t put = write(c->out, data, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return err_set(e, errno == ENOSPC ? ERR_BUSY : ERR_IO, "cannot write %.300s: %s", c->to,
                           strerror(errno));
        data += put;
        n -= (size_t)put;
    }
    return 0;
}

static int bytes_copy(struct copy *c, struct err *e)
{
    uint8_t *data = mem_alloc(COPY_BYTES);
    int64_t told = 0;
    int rc = 0;
    while (rc == 0) {
        ssize_t n = read(c->in, data, COPY_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_set(e, ERR_IO, "cannot read %.300s: %s", c->from, strerror(errno));
        if (n <= 0)
            break;
        rc = part_write(c, data, (size_t)n, e);
        c->done += (uint64_t)n;
        if (rc == 0 && c->watch->stopped && c->watch->stopped(c->watch->ctx))
            rc = err_set(e, ERR_CANCELLED, "stopped");
        if (!c->watch->event || clock_now_ns() - told < TELL_NS)
            continue;
        told = clock_now_ns();
        struct models_event ev = {.kind = MODELS_EVENT_PROGRESS,
                                  .file = models_base_name(c->from),
                                  .done = c->done,
                                  .bytes = c->bytes};
        c->watch->event(c->watch->ctx, &ev);
    }
    free(data);
    if (rc == 0 && fsync(c->out) != 0)
        rc = err_set(e, ERR_IO, "cannot write %.300s: %s", c->to, strerror(errno));
    return rc;
}

static int file_copy(const char *from, const char *to, const struct models_watch *watch,
                     struct err *e)
{
    struct stat st = {0};
    struct copy c = {.from = from, .to = to, .watch = watch, .out = -1};
    c.in = open(from, O_RDONLY | O_CLOEXEC);
    int rc = c.in < 0 || fstat(c.in, &st) != 0
                 ? err_set(e, ERR_IO, "cannot open %.300s: %s", from, strerror(errno))
                 : 0;
    c.bytes = (uint64_t)st.st_size;
    if (rc == 0) {
        c.out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        rc = c.out < 0 ? err_set(e, ERR_IO, "cannot write %.300s: %s", to, strerror(errno))
                       : bytes_copy(&c, e);
    }
    if (c.in >= 0)
        close(c.in);
    if (c.out >= 0)
        close(c.out);
    return rc;
}

// Into DIR/NAME.part by link or copy; summed up, compared, then renamed.
static int file_add(const struct models_pull *p, const struct models_entry *m, const char *from,
                    struct models_file *f, struct err *e)
{
    char to[MODELS_PATH_BYTES], part[MODELS_PATH_BYTES + 8];
    struct stat st;
    int rc = models_entry_path(m, f->name, to, e);
    if (rc != 0)
        return rc;
    snprintf(part, sizeof part, "%s.part", to);
    unlink(part);
    if (stat(from, &st) != 0)
        return err_set(e, ERR_NOT_FOUND, "%.300s: %s", from, strerror(errno));
    if (link(from, part) != 0) {
        rc = models_room_check(m->dir, (uint64_t)st.st_size, e);
        if (rc == 0)
            rc = file_copy(from, part, &p->watch, e);
    }
    if (rc == 0)
        rc = models_fetch_sum(part, &p->watch, f->sha256, e);
    if (rc == 0 && p->sha256 && strcmp(p->sha256, f->sha256) != 0)
        rc = err_set(e, ERR_CORRUPT, "%.200s: SHA-256 is %s, not %s", from, f->sha256, p->sha256);
    if (rc == 0 && rename(part, to) != 0)
        rc = err_set(e, ERR_IO, "cannot rename %.300s: %s", part, strerror(errno));
    f->bytes = (uint64_t)st.st_size;
    unlink(part); // also after a rename of two links to one file, which does nothing
    return rc;
}

// ---- all of them ---------------------------------------------------------------------------------

static int files_add(const struct models_pull *p, struct models_pulling *g, const char *path)
{
    struct models_entry *m = g->m;
    size_t dir_bytes = (size_t)(models_base_name(path) - path);
    int rc = models_pull_begin(m, g->has_old ? &g->old : NULL, g->e);
    for (size_t i = 0; i < m->n_files && rc == 0; i++) {
        char *from = mem_format("%.*s%s", (int)dir_bytes, path, m->files[i].name);
        rc = file_add(p, m, from, &m->files[i], g->e);
        free(from);
    }
    if (rc == 0)
        rc = models_pull_complete(m, g->has_old ? &g->old : NULL, g->e);
    // A failed copy is begun anew, so there is nothing to keep.
    if (rc != 0 && !g->has_old) {
        models_unlock(g->lock);
        g->lock = -1;
        models_entry_remove(m, NULL);
    }
    return rc;
}

static int local_check(const struct models_pull *p, const struct models_gguf *gguf, struct err *e)
{
    if (p->projector)
        return err_set(e, ERR_INVALID, "--mmproj is for repositories only");
    if (p->sha256 && gguf->split_count > 1)
        return err_set(e, ERR_INVALID, "--sha256 is for a model of one file; this one has %u",
                       gguf->split_count);
    return 0;
}

static int local_add(const struct models_pull *p, struct models_pulling *g, const char *path,
                     const struct models_gguf *gguf)
{
    struct err ignored;
    char store[MODELS_PATH_BYTES];
    int rc = local_check(p, gguf, g->e);
    if (rc == 0)
        rc = entry_from_file(path, gguf, g->m, g->e);
    if (rc == 0)
        rc = models_store_dir(store, g->e);
    if (rc == 0 && strncmp(path, store, strlen(store)) == 0 && path[strlen(store)] == '/')
        rc = err_set(g->e, ERR_INVALID, "%.300s is in the store already", path);
    if (rc == 0) {
        g->lock = models_lock(&g->m->id, g->e);
        rc = g->lock < 0 ? g->lock : 0;
    }
    if (rc != 0)
        return rc;
    g->has_old = models_entry_load(&g->m->id, &g->old, &ignored) == 0;
    g->changed = true;
    return files_add(p, g, path);
}

int models_pull_local(const struct models_pull *p, struct models_pulling *g)
{
    struct models_gguf *gguf = mem_alloc(sizeof *gguf);
    char *path = realpath(p->what, NULL);
    int rc = path ? models_gguf_read(path, gguf, g->e)
                  : err_set(g->e, ERR_NOT_FOUND, "%.300s: %s", p->what, strerror(errno));
    if (rc == 0) {
        rc = local_add(p, g, path, gguf);
        models_gguf_fini(gguf);
    }
    free(path);
    free(gguf);
    return rc;
}
