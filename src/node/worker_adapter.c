// Adapters that came over the link, and which of them the engine computes with.
//
// A file comes in pieces (ADAPTER frames) and is kept in STATE/adapters/SHA256.gguf, so that it crosses once
// and survives this process. It gets that name only when it is whole, its hash is right and it fits
// this worker's model: what has the name can be loaded. The text thread does this; the engine thread looks
// at names alone and loads a file when the first request asks for it.
//
// A step of the engine has one adapter. Answers of several take turns of a few steps each, for going from
// one to another costs about as much as a step.
#include "base/log.h"
#include "models/adapters.h"
#include "node/worker.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define DISK_RESERVE (64ull << 20)
#define SHELF_FILES 64     // more are not kept: the one that was used longest ago goes
#define PART_STALE_S 86400 // a piece of a file that nobody goes on with
#define UPLOAD_IDLE_NS (10 * NS_PER_S)

// ---- the shelf: any thread -----------------------------------------------------------------------

static int shelf_dir(char *out, struct err *e)
{
    char state[MODELS_PATH_BYTES - 16];
    int rc = os_state_dir(state, sizeof state, e);
    if (rc == 0)
        snprintf(out, MODELS_PATH_BYTES, "%s/adapters", state);
    return rc;
}

static int shelf_path(const char *sha256, const char *end, char *out, struct err *e)
{
    char dir[MODELS_PATH_BYTES];
    int rc = shelf_dir(dir, e);
    int n = rc == 0 ? snprintf(out, MODELS_PATH_BYTES, "%s/%s%s", dir, sha256, end) : 0;
    if (n >= MODELS_PATH_BYTES)
        rc = err_set(e, ERR_RANGE, "path %.200s/... is too long", dir);
    return rc;
}

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

// Stale pieces, and the oldest of too many files.
static void shelf_tidy(const char *dir)
{
    char path[MODELS_PATH_BYTES + 256], oldest[MODELS_PATH_BYTES + 256] = "";
    time_t now = time(NULL), since = 0;
    size_t n = 0;
    DIR *d = opendir(dir);
    const struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
            continue;
        if (ends_in(entry->d_name, ".part") && now - st.st_mtime > PART_STALE_S)
            unlink(path);
        if (!ends_in(entry->d_name, ".gguf"))
            continue;
        n++;
        if (oldest[0] == '\0' || st.st_mtime < since) {
            since = st.st_mtime;
            memcpy(oldest, path, sizeof oldest);
        }
    }
    if (d != NULL)
        closedir(d);
    if (n >= SHELF_FILES)
        unlink(oldest);
}

// ---- receiving: the text thread ------------------------------------------------------------------

struct piece {
    char name[MESSAGE_ADAPTER_BYTES], sha256[MESSAGE_ADAPTER_BYTES];
    int64_t bytes, at;
    struct adapters_base base;
};

static int piece_parse(const json_t *head, struct piece *p, struct err *e)
{
    char given[MESSAGE_ADAPTER_BYTES] = "";
    json_t *base = NULL;
    int rc = json_copy_string(head, "name", p->name, sizeof p->name, e);
    if (rc == 0)
        rc = json_copy_string(head, "sha256", given, sizeof given, e);
    if (rc == 0 && !models_sum_parse(given, p->sha256))
        rc = err_set(e, ERR_INVALID, "member \"sha256\" must be 64 hex digits");
    if (rc == 0)
        rc = json_get_i64(head, "bytes", 1, (int64_t)ADAPTERS_FILE_MAX, &p->bytes, e);
    if (rc == 0 && p->bytes == 0)
        rc = err_set(e, ERR_INVALID, "member \"bytes\" is missing");
    if (rc == 0)
        rc = json_get_i64(head, "at", 0, p->bytes, &p->at, e);
    if (rc == 0)
        rc = json_get_object(head, "base", &base, e);
    if (rc == 0 && base == NULL)
        rc = err_set(e, ERR_INVALID, "member \"base\" is missing");
    return rc ? rc : adapters_base_parse(base, &p->base, e);
}

static void upload_drop(struct worker_upload *u)
{
    if (u->fd < 0)
        return;
    close(u->fd);
    unlink(u->part);
    models_sum_fini(&u->sum);
    u->fd = -1;
}

void worker_adapter_init(struct worker *w)
{
    w->upload.fd = -1;
}

void worker_adapter_fini(struct worker *w)
{
    upload_drop(&w->upload);
}

// Does the file fit this worker's own model?
static int file_fits(const struct worker *w, const char *path, const struct piece *p, struct err *e)
{
    const char *model = w->options.engine.model;
    struct adapters_base own;
    int rc = adapters_base_read(model, &own, e);
    if (rc == 0)
        rc = adapters_base_match(&p->base, &own, e);
    return rc ? rc : adapters_check(path, model, NULL, e);
}

static int disk_check(const char *dir, uint64_t bytes, struct err *e)
{
    struct statvfs v;
    if (statvfs(dir, &v) != 0)
        return 0;
    uint64_t free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    if (free_bytes >= bytes + DISK_RESERVE)
        return 0;
    return err_set(e, ERR_IO,
                   "no room for an adapter of %" PRIu64 " MB: %" PRIu64 " MB are free in %.200s",
                   bytes >> 20, free_bytes >> 20, dir);
}

static int upload_begin(struct worker *w, const struct worker_link *l, const struct piece *p,
                        struct err *e)
{
    struct worker_upload *u = &w->upload;
    char dir[MODELS_PATH_BYTES], end[32];
    if (u->fd >= 0 && u->link_serial != l->serial && clock_now_ns() - u->used_ns < UPLOAD_IDLE_NS)
        return err_set(e, ERR_BUSY, "another adapter is coming in; try again in a moment");
    upload_drop(u);
    snprintf(end, sizeof end, ".%" PRId64 ".part", (int64_t)getpid());
    int rc = shelf_dir(dir, e);
    if (rc == 0)
        rc = os_mkdirs(dir, e);
    if (rc == 0)
        rc = disk_check(dir, (uint64_t)p->bytes, e);
    if (rc == 0)
        rc = shelf_path(p->sha256, end, u->part, e);
    if (rc != 0)
        return rc;
    shelf_tidy(dir);
    u->fd = open(u->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (u->fd < 0)
        return err_set(e, ERR_IO, "cannot make %.300s: %s", u->part, strerror(errno));
    models_sum_init(&u->sum);
    memcpy(u->sha256, p->sha256, sizeof u->sha256);
    u->link_serial = l->serial;
    u->at = 0;
    u->used_ns = clock_now_ns();
    return 0;
}

// The last piece is in: only now does the file get its name.
static int upload_end(struct worker *w, const struct piece *p, struct err *e)
{
    struct worker_upload *u = &w->upload;
    char path[MODELS_PATH_BYTES], sum[MODELS_SUM_BYTES];
    models_sum_take(&u->sum, sum);
    int rc = shelf_path(p->sha256, ".gguf", path, e);
    if (rc == 0 && strcmp(sum, p->sha256) != 0)
        rc = err_set(e, ERR_CORRUPT, "adapter %s came with hash %.12s..., not %.12s...", p->name,
                     sum, p->sha256);
    if (rc == 0)
        rc = file_fits(w, u->part, p, e);
    if (rc == 0 && fsync(u->fd) != 0)
        rc = err_set(e, ERR_IO, "adapter %s cannot be written: %s", p->name, strerror(errno));
    if (rc == 0 && rename(u->part, path) != 0)
        rc = err_set(e, ERR_IO, "cannot rename %.300s: %s", u->part, strerror(errno));
    if (rc == 0)
        log_info("worker", "adapter came: name=%s bytes=%" PRId64, p->name, p->bytes);
    upload_drop(u);
    return rc;
}

static int upload_put(struct worker *w, const struct worker_link *l, const struct piece *p,
                      const struct wire_body *body, struct err *e)
{
    struct worker_upload *u = &w->upload;
    if (u->fd < 0 || u->link_serial != l->serial || strcmp(u->sha256, p->sha256) != 0 ||
        u->at != (uint64_t)p->at || body->len > (uint64_t)(p->bytes - p->at))
        return err_set(e, ERR_INVALID,
                       "%zu bytes at %" PRId64 " of adapter %s do not continue what has come",
                       body->len, p->at, p->name);
    if (write(u->fd, body->data, body->len) != (ssize_t)body->len) {
        int saved = errno;
        upload_drop(u);
        return err_set(e, ERR_IO, "adapter %s cannot be written: %s; is the disk full?", p->name,
                       strerror(saved));
    }
    models_sum_put(&u->sum, body->data, body->len);
    u->at += body->len;
    u->used_ns = clock_now_ns();
    return u->at == (uint64_t)p->bytes ? upload_end(w, p, e) : 0;
}

// On the shelf already, perhaps by way of another worker of this machine?
static bool shelf_has(const struct piece *p, char path[MODELS_PATH_BYTES])
{
    struct stat st;
    return shelf_path(p->sha256, ".gguf", path, NULL) == 0 && stat(path, &st) == 0 &&
           st.st_size == p->bytes;
}

static int piece_take(struct worker *w, const struct worker_link *l, const struct wire_frame *f,
                      struct piece *p, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    if (w->engine->ops->adapter_load == NULL)
        return err_set(e, ERR_UNSUPPORTED, "this engine takes no adapters");
    if (f->body.len == 0 && shelf_has(p, path)) {
        int rc = file_fits(w, path, p, e);
        if (rc == 0)
            utimensat(AT_FDCWD, path, NULL, 0);
        p->at = p->bytes;
        return rc;
    }
    int rc = f->body.len == 0 ? upload_begin(w, l, p, e) : upload_put(w, l, p, &f->body, e);
    p->at = f->body.len == 0 ? 0 : p->at + (int64_t)f->body.len;
    return rc;
}

void worker_adapter_frame(struct worker *w, struct worker_link *l, struct wire_frame *f)
{
    struct err e = {0};
    struct piece p = {0};
    json_t *head = wire_frame_parse(f, &e);
    int rc = head == NULL ? e.code : piece_parse(head, &p, &e);
    if (rc == 0)
        rc = piece_take(w, l, f, &p, &e);
    if (rc != 0) {
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
    } else {
        json_t *is = json_pack("{s:s,s:I,s:b}", "sha256", p.sha256, "at", (json_int_t)p.at, "ready",
                               p.at == p.bytes);
        worker_link_send(l, wire_frame_json(WIRE_ADAPTER_IS, f->id, is));
    }
    json_decref(head);
    wire_frame_fini(f);
}

// ---- using: the engine thread --------------------------------------------------------------------

int worker_adapter_begin(struct worker *w, struct worker_job *j, const struct message_adapter *a,
                         struct err *e)
{
    char path[MODELS_PATH_BYTES];
    snprintf(j->space, sizeof j->space, "%s", j->owner);
    if (a->sha256[0] == '\0')
        return 0;
    memcpy(j->adapter_sha256, a->sha256, sizeof j->adapter_sha256);
    snprintf(j->space, sizeof j->space, "%s/%s", j->owner, a->sha256);
    if (w->engine->ops->adapter_load == NULL)
        return err_set(e, ERR_UNSUPPORTED, "this engine takes no adapters");
    int rc = shelf_path(a->sha256, ".gguf", path, e);
    if (rc == 0 && access(path, R_OK) != 0)
        rc = err_set(e, ERR_NOT_FOUND,
                     "adapter ft:%s (%.12s...) is not on this node; it comes when the server that "
                     "publishes it sees this node",
                     a->name, a->sha256);
    return rc;
}

static bool adapter_runs(const struct worker *w, uint32_t id)
{
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->adapter == id && j->phase != WORKER_QUEUED)
            return true;
    return false;
}

// A place in the table; when all are taken, that of the one that was used longest ago and is not in use.
static struct worker_adapter *slot_get(struct worker *w)
{
    struct worker_adapter *best = NULL;
    for (size_t i = 0; i < WORKER_ADAPTERS; i++) {
        struct worker_adapter *a = &w->adapters[i];
        if (a->id == 0)
            return a;
        if (!adapter_runs(w, a->id) && (best == NULL || a->used_ns < best->used_ns))
            best = a;
    }
    if (best != NULL) {
        w->engine->ops->adapter_drop(w->engine, best->id);
        best->id = 0;
    }
    return best;
}

static int adapter_get(struct worker *w, const char *sha256, struct worker_adapter **out,
                       struct err *e)
{
    char path[MODELS_PATH_BYTES];
    for (size_t i = 0; i < WORKER_ADAPTERS; i++) {
        *out = &w->adapters[i];
        if ((*out)->id != 0 && strcmp((*out)->sha256, sha256) == 0)
            return 0;
    }
    *out = slot_get(w);
    if (*out == NULL)
        return err_set(e, ERR_BUSY, "%d adapters are in use at the same time; try again later",
                       WORKER_ADAPTERS);
    int rc = shelf_path(sha256, ".gguf", path, e);
    if (rc == 0)
        rc = w->engine->ops->adapter_load(w->engine, path, &(*out)->id, e);
    if (rc != 0)
        (*out)->id = 0;
    snprintf((*out)->sha256, sizeof(*out)->sha256, "%s", sha256);
    return rc;
}

bool worker_adapter_admit(struct worker *w, struct worker_job *j)
{
    struct err e = {0};
    struct worker_adapter *a = NULL;
    int rc = 0;
    if (w->engine->ops->adapter_use == NULL)
        return true;
    if (j->adapter_sha256[0] != '\0')
        rc = adapter_get(w, j->adapter_sha256, &a, &e);
    if (rc == 0 && a != NULL) {
        j->adapter = a->id;
        a->used_ns = clock_now_ns();
    }
    if (rc == 0)
        rc = w->engine->ops->adapter_use(w->engine, j->seq, j->adapter, &e);
    if (rc == 0)
        return true;
    j->phase = WORKER_READ; // it has a sequence, of which nothing is worth keeping
    j->keep = false;
    worker_job_fail(w, j, rc, e.message);
    return false;
}

int worker_adapter_agree(const struct worker_job *j, const char *sha256, struct err *e)
{
    if (strcmp(j->adapter_sha256, sha256) == 0)
        return 0;
    return err_set(e, ERR_MISMATCH, "the prompt is read with adapter %.12s, the answer wants %.12s",
                   j->adapter_sha256[0] ? j->adapter_sha256 : "none", sha256[0] ? sha256 : "none");
}

void worker_adapter_turn(struct worker *w)
{
    bool goes_on = false, others = false;
    uint32_t next = 0;
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next) {
        if (j->phase != WORKER_DECODE || j->over)
            continue;
        if (j->adapter == w->adapter_now)
            goes_on = true;
        else if (!others || w->adapter_turns[j->adapter] < w->adapter_turns[next])
            next = j->adapter;
        others = others || j->adapter != w->adapter_now;
    }
    if (!others || (goes_on && ++w->adapter_steps < WORKER_ADAPTER_STEPS))
        return;
    w->adapter_turns[w->adapter_now] = ++w->turn;
    w->adapter_now = next;
    w->adapter_steps = 0;
}
