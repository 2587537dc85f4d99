#include "train/checkpoint.h"

#include "base/buf.h"
#include "base/log.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC "TANDEMT1"
#define VERSION 1u
#define HEAD_BYTES 48
#define STEPS_MAX 1024 // folders looked at

// ---- bytes -------------------------------------------------------------------------------------------

static void floats_put(uint8_t *to, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &v[i], sizeof bits);
        le_put32(to + 4 * i, bits);
    }
}

static void floats_get(const uint8_t *from, float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = le_get32(from + 4 * i);
        memcpy(&v[i], &bits, sizeof bits);
    }
}

static uint8_t *state_encode(const struct checkpoint *c, size_t *bytes)
{
    size_t one = 4 * c->n;
    uint8_t *s = mem_alloc(HEAD_BYTES + 3 * one);
    memcpy(s, MAGIC, 8);
    le_put32(s + 8, VERSION);
    le_put64(s + 16, c->step);
    le_put64(s + 24, c->n);
    le_put64(s + 32, c->key);
    floats_put(s + HEAD_BYTES, c->values, c->n);
    floats_put(s + HEAD_BYTES + one, c->m, c->n);
    floats_put(s + HEAD_BYTES + 2 * one, c->v, c->n);
    le_put64(s + 40, XXH3_64bits(s + HEAD_BYTES, 3 * one));
    *bytes = HEAD_BYTES + 3 * one;
    return s;
}

static int state_decode(const uint8_t *s, size_t bytes, struct checkpoint *c, struct err *e)
{
    size_t one = 4 * c->n;
    if (bytes < HEAD_BYTES || memcmp(s, MAGIC, 8) != 0 || le_get32(s + 8) != VERSION)
        return err_set(e, ERR_CORRUPT, "it is no checkpoint of this version");
    if (le_get64(s + 32) != c->key || le_get64(s + 24) != c->n)
        return err_set(
            e, ERR_MISMATCH,
            "it belongs to another job: other options, data or base model; start in an empty "
            "folder");
    if (bytes != HEAD_BYTES + 3 * one || le_get64(s + 40) != XXH3_64bits(s + HEAD_BYTES, 3 * one))
        return err_set(e, ERR_CORRUPT, "its bytes are damaged");
    c->step = le_get64(s + 16);
    floats_get(s + HEAD_BYTES, c->values, c->n);
    floats_get(s + HEAD_BYTES + one, c->m, c->n);
    floats_get(s + HEAD_BYTES + 2 * one, c->v, c->n);
    return 0;
}

// ---- folders -------------------------------------------------------------------------------------------

struct steps {
    uint64_t at[STEPS_MAX];
    size_t n;
};

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

static void steps_list(const char *folder, struct steps *s)
{
    char *path = mem_format("%s/checkpoints", folder);
    DIR *d = opendir(path);
    struct dirent *entry;
    s->n = 0;
    while (d && s->n < STEPS_MAX && (entry = readdir(d))) {
        char *end = NULL;
        if (strncmp(entry->d_name, "step-", 5) != 0)
            continue;
        uint64_t step = strtoull(entry->d_name + 5, &end, 10);
        char *complete = mem_format("%s/%s/COMPLETE", path, entry->d_name);
        if (*end == '\0' && access(complete, F_OK) == 0)
            s->at[s->n++] = step;
        free(complete);
    }
    if (d)
        closedir(d);
    free(path);
    qsort(s->at, s->n, sizeof *s->at, newest_first);
}

static void folder_remove(const char *path)
{
    static const char *const names[] = {"state", "COMPLETE"};
    for (size_t i = 0; i < 2; i++) {
        char *file = mem_format("%s/%s", path, names[i]);
        unlink(file);
        free(file);
    }
    rmdir(path);
}

// The names in a folder last only once the folder itself is on the disk.
static void folder_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static void old_remove(const char *folder)
{
    struct steps s;
    steps_list(folder, &s);
    for (size_t i = CHECKPOINT_KEPT; i < s.n; i++) {
        char *path = mem_format("%s/checkpoints/step-%" PRIu64, folder, s.at[i]);
        folder_remove(path);
        free(path);
    }
}

static int file_put(const char *folder, const char *name, const void *data, size_t n, struct err *e)
{
    char *path = mem_format("%s/%s", folder, name);
    int rc = os_file_write(path, data, n, 0600, e);
    free(path);
    return rc;
}

int checkpoint_write(const char *folder, const struct checkpoint *c, struct err *e)
{
    char *all = mem_format("%s/checkpoints", folder);
    char *aside = mem_format("%s/part-%" PRIu64, all, c->step);
    char *path = mem_format("%s/step-%" PRIu64, all, c->step);
    size_t bytes = 0;
    uint8_t *state = state_encode(c, &bytes);
    folder_remove(aside); // of a run that was killed here
    folder_remove(path);
    int rc = os_mkdirs(aside, e);
    if (rc == 0)
        rc = file_put(aside, "state", state, bytes, e);
    if (rc == 0)
        rc = file_put(aside, "COMPLETE", "", 0, e);
    if (rc == 0)
        folder_sync(aside);
    if (rc == 0 && rename(aside, path) != 0)
        rc = err_set(e, ERR_IO, "'%s': %s", path, strerror(errno));
    if (rc == 0) {
        folder_sync(all);
        old_remove(folder);
    } else {
        folder_remove(aside);
        err_wrap(e, "the checkpoint of step %" PRIu64, c->step);
    }
    free(state);
    free(all);
    free(aside);
    free(path);
    return rc;
}

int checkpoint_read(const char *folder, struct checkpoint *c, struct err *e)
{
    struct steps s;
    int rc = err_set(e, ERR_NOT_FOUND, "there is no checkpoint");
    steps_list(folder, &s);
    for (size_t i = 0; i < s.n && rc != 0; i++) {
        char *path = mem_format("%s/checkpoints/step-%" PRIu64 "/state", folder, s.at[i]);
        char *data = NULL;
        size_t n = 0;
        rc = os_file_read(path, HEAD_BYTES + 12 * c->n + 1, &data, &n, e);
        if (rc == 0)
            rc = state_decode((uint8_t *)data, n, c, e);
        if (rc != 0)
            err_wrap(e, "'%s'", path);
        free(data);
        free(path);
        if (rc == ERR_MISMATCH)
            break;
        if (rc != 0)
            log_warn("train", "checkpoint passed over: %s", e->message);
    }
    return rc;
}
