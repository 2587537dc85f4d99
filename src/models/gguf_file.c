// GGUF heads from files, and from all parts of a split model.
#include "models/gguf.h"

#include "base/buf.h"
#include "models/file.h"
#include "models/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int part_read(const char *path, struct models_gguf *g,
                     const struct models_gguf_visitor *visitor, struct err *e)
{
    uint64_t bytes = 0;
    int fd = models_file_open(path, "a GGUF file", &bytes, e);
    struct models_gguf_source source = {models_file_get, &fd, bytes};
    int rc = fd < 0 ? fd : models_gguf_walk(&source, g, visitor, e);
    if (fd >= 0)
        close(fd);
    if (rc != 0)
        err_wrap(e, "%.250s", path);
    return rc;
}

static void part_add(struct models_gguf *all, const struct models_gguf *part)
{
    for (size_t i = 0; i < MODELS_GGUF_TYPES; i++) {
        all->types[i].tensors += part->types[i].tensors;
        all->types[i].params += part->types[i].params;
        all->types[i].bytes += part->types[i].bytes;
    }
    all->tensors += part->tensors;
    all->file_bytes += part->file_bytes;
    all->params += part->params;
    all->weight_bytes += part->weight_bytes;
    all->expert_bytes += part->expert_bytes;
    all->embedding_bytes += part->embedding_bytes;
    all->has_output |= part->has_output;
}

static int parts_read(const char *path, struct models_gguf *g,
                      const struct models_gguf_visitor *visitor, struct err *e)
{
    struct models_split split;
    int rc = 0;
    if (!models_split_parse(path, &split) || split.count != g->split_count)
        return err_set(e, ERR_INVALID,
                       "%.300s is one of %u parts; their names must end in -00001-of-%05u.gguf",
                       path, g->split_count, g->split_count);
    if (split.no != 1)
        return err_set(e, ERR_INVALID, "%.300s is part %u; name the first part", path, split.no);
    struct models_gguf *part = mem_alloc(sizeof *part);
    for (uint32_t no = 2; no <= split.count && rc == 0; no++) {
        char *name = mem_format("%.*s-%05u-of-%05u.gguf", (int)split.stem, path, no, split.count);
        rc = part_read(name, part, visitor, e);
        if (rc == 0 && (part->split_no + 1 != no || part->split_count != split.count))
            rc = err_set(e, ERR_CORRUPT, "%.300s says it is part %u of %u", name,
                         part->split_no + 1, part->split_count);
        else if (rc == 0)
            part_add(g, part);
        if (rc == 0)
            models_gguf_fini(part);
        free(name);
    }
    free(part);
    return rc;
}

int models_gguf_read(const char *path, struct models_gguf *g, struct err *e)
{
    return models_gguf_read_tensors(path, g, NULL, e);
}

int models_gguf_read_tensors(const char *path, struct models_gguf *g,
                             const struct models_gguf_visitor *visitor, struct err *e)
{
    int rc = part_read(path, g, visitor, e);
    if (rc != 0 || g->split_count < 2)
        return rc;
    rc = parts_read(path, g, visitor, e);
    if (rc != 0)
        models_gguf_fini(g);
    return rc;
}
