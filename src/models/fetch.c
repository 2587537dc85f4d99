#include "models/fetch.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "models/names.h"
#include "net/http_client.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PATH_BYTES 2200
#define NOTE_MAX_BYTES 8192
#define ROOM_SPARE_BYTES (64u << 20) // left on the disk, for the manifest and everybody else
#define WAIT_MAX_S 60.0
#define TELL_NS (100 * NS_PER_MS)

// One file on its way.
struct job {
    const struct models_fetch *f;
    char part[PATH_BYTES], note[PATH_BYTES + 8];
    int fd;
    uint64_t done;  // bytes in the part
    uint64_t bytes; // of the whole, as announced or as answered
    uint64_t come;  // in this attempt
    char etag[NET_HTTP_ETAG_BYTES];
    struct models_sum sum;
    int64_t told_ns;
    bool again; // the attempt failed in a way that may pass
    struct net_http_head head;
    struct err *e;
};

void models_size_format(uint64_t bytes, char out[MODELS_SIZE_TEXT])
{
    static const char *const units[] = {"kB", "MB", "GB", "TB"};
    double v = (double)bytes / 1e3;
    size_t u = 0;
    while (v >= 999.5 && u < 3)
        v /= 1e3, u++;
    snprintf(out, MODELS_SIZE_TEXT, v < 9.95 ? "%.1f %s" : "%.0f %s", v, units[u]);
}

int models_room_check(const char *dir, uint64_t bytes, struct err *e)
{
    struct statvfs s;
    char need[MODELS_SIZE_TEXT], room[MODELS_SIZE_TEXT];
    if (statvfs(dir, &s) != 0)
        return err_set(e, ERR_IO, "cannot ask for the room in %.300s: %s", dir, strerror(errno));
    uint64_t free_bytes = (uint64_t)s.f_bavail * s.f_frsize;
    if (bytes <= UINT64_MAX - ROOM_SPARE_BYTES && bytes + ROOM_SPARE_BYTES <= free_bytes)
        return 0;
    models_size_format(bytes, need);
    models_size_format(free_bytes, room);
    return err_set(e, ERR_BUSY,
                   "%s are still to come and the disk of %.250s has %s left; make room, or set "
                   "TANDEM_DATA to a folder on another disk",
                   need, dir, room);
}

static void tell(const struct models_watch *w, struct models_event ev)
{
    if (w && w->event)
        w->event(w->ctx, &ev);
}

bool models_stopped(const struct models_watch *w)
{
    return w && w->stopped && w->stopped(w->ctx);
}

bool models_wait(const struct models_watch *w, double seconds)
{
    int64_t end = clock_now_ns() + (int64_t)(seconds * 1e9);
    while (clock_now_ns() < end) {
        int64_t next = clock_now_ns() + 50 * NS_PER_MS;
        if (models_stopped(w))
            return false;
        clock_sleep_until(next < end ? next : end);
    }
    return true;
}

static struct models_event event_of(const struct job *j)
{
    return (struct models_event){
        .file = models_base_name(j->f->path), .done = j->done, .bytes = j->bytes};
}

// ---- summing up what is there --------------------------------------------------------------------

struct summing {
    const char *path;
    const struct models_watch *watch;
    uint64_t bytes;
};

static int sum_fd(int fd, const struct summing *s, struct models_sum *sum, struct err *e)
{
    size_t cap = 1 << 20;
    uint8_t *data = mem_alloc(cap);
    int64_t told = 0;
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < s->bytes;) {
        ssize_t n = pread(fd, data, cap, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = err_set(e, ERR_IO, "cannot read %.300s: %s", s->path,
                         n < 0 ? strerror(errno) : "it became shorter");
            break;
        }
        models_sum_put(sum, data, (size_t)n);
        at += (uint64_t)n;
        if (models_stopped(s->watch))
            rc = err_set(e, ERR_CANCELLED, "stopped");
        if (clock_now_ns() - told < TELL_NS)
            continue;
        told = clock_now_ns();
        tell(s->watch, (struct models_event){.kind = MODELS_EVENT_CHECK,
                                             .file = models_base_name(s->path),
                                             .done = at,
                                             .bytes = s->bytes});
    }
    free(data);
    return rc;
}

int models_fetch_sum(const char *path, const struct models_watch *watch, char out[MODELS_SUM_BYTES],
                     struct err *e)
{
    struct stat st;
    struct models_sum sum;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        return err_set(e, ERR_IO, "cannot open %.300s: %s", path, strerror(saved));
    }
    struct summing s = {path, watch, (uint64_t)st.st_size};
    models_sum_init(&sum);
    int rc = sum_fd(fd, &s, &sum, e);
    if (rc == 0)
        models_sum_take(&sum, out);
    models_sum_fini(&sum);
    close(fd);
    return rc;
}

// ---- the part and its note -----------------------------------------------------------------------

static int note_write(struct job *j)
{
    json_t *o = json_object();
    json_put(o, "etag", json_string(j->etag));
    json_put(o, "sha256", j->f->sha256 ? json_string(j->f->sha256) : json_null());
    json_put(o, "bytes",
             j->bytes == MODELS_SIZE_UNKNOWN ? json_null() : json_integer((json_int_t)j->bytes));
    char *text = json_text(o);
    int rc = os_file_write(j->note, text, strlen(text), 0600, j->e);
    free(text);
    json_decref(o);
    return rc;
}

// Whether the part belongs to what is wanted now; sets j->etag. A note that does not read is none.
static bool note_read(struct job *j)
{
    char *text = NULL, sha256[MODELS_SUM_BYTES] = "";
    size_t n = 0;
    struct err ignored;
    if (os_file_read(j->note, NOTE_MAX_BYTES, &text, &n, &ignored) != 0)
        return false;
    json_t *o = json_parse(text, n, &ignored);
    bool good = json_is_object(o) &&
                json_copy_string(o, "etag", j->etag, sizeof j->etag, &ignored) == 0 &&
                json_copy_string(o, "sha256", sha256, sizeof sha256, &ignored) == 0;
    json_decref(o);
    free(text);
    if (!good || j->etag[0] != '"' || strpbrk(j->etag, "\r\n"))
        j->etag[0] = '\0';
    bool same = j->f->sha256 && strcmp(sha256, j->f->sha256) == 0;
    // With a checksum to expect, a part of something else is not worth a try.
    return good && (j->f->sha256 ? same : j->etag[0] != '\0');
}

static int part_restart(struct job *j, const char *why)
{
    char ignored[MODELS_SUM_BYTES];
    if (j->done > 0 && why) {
        struct models_event ev = event_of(j);
        ev.kind = MODELS_EVENT_RESTART;
        ev.text = why;
        tell(j->f->watch, ev);
    }
    j->done = 0;
    j->etag[0] = '\0';
    models_sum_take(&j->sum, ignored);
    if (ftruncate(j->fd, 0) != 0)
        return err_set(j->e, ERR_IO, "cannot empty %.300s: %s", j->part, strerror(errno));
    return 0;
}

static int part_open(struct job *j)
{
    struct stat st;
    j->fd = open(j->part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (j->fd < 0 || fstat(j->fd, &st) != 0)
        return err_set(j->e, ERR_IO, "cannot write %.300s: %s", j->part, strerror(errno));
    j->done = (uint64_t)st.st_size;
    if (j->done == 0)
        return 0;
    if (!note_read(j))
        return part_restart(j, "what was there is part of another file");
    if (j->bytes != MODELS_SIZE_UNKNOWN && j->done > j->bytes)
        return part_restart(j, "what was there is longer than the file");
    struct summing s = {j->part, j->f->watch, j->done};
    return sum_fd(j->fd, &s, &j->sum, j->e);
}

static int part_write(struct job *j, const uint8_t *data, size_t n)
{
    uint64_t at = j->done;
    while (n > 0) {
        ssize_t put = pwrite(j->fd, data, n, (off_t)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return err_set(j->e, errno == ENOSPC ? ERR_BUSY : ERR_IO, "cannot write %.300s: %s",
                           j->part, strerror(errno));
        data += put;
        at += (uint64_t)put;
        n -= (size_t)put;
    }
    return 0;
}

// ---- one attempt ---------------------------------------------------------------------------------

static int size_check(struct job *j, uint64_t total)
{
    if (total == NET_HTTP_UNKNOWN)
        return 0;
    if (j->bytes != MODELS_SIZE_UNKNOWN && total != j->bytes)
        return err_set(j->e, ERR_MISMATCH,
                       "the server has %" PRIu64 " bytes, %" PRIu64 " were announced", total,
                       j->bytes);
    if (total > INT64_MAX)
        return err_set(j->e, ERR_RANGE, "the server tells of %" PRIu64 " bytes", total);
    j->bytes = total;
    return 0;
}

static int on_head(void *ctx, const struct net_http_head *head, struct err *e)
{
    struct job *j = ctx;
    char dir[PATH_BYTES];
    int rc = 0;
    (void)e;
    if (head->status == 200 && j->done > 0)
        rc = part_restart(j, head->etag[0] && j->etag[0] && strcmp(head->etag, j->etag) != 0
                                 ? "the file has changed on the server"
                                 : "the server cannot go on in the middle");
    else if (head->status == 206 && head->first != j->done)
        rc = err_set(j->e, ERR_CLOSED, "asked for byte %" PRIu64 ", got %" PRIu64, j->done,
                     head->first);
    if (rc == 0)
        rc = size_check(j, head->total);
    snprintf(dir, sizeof dir, "%.*s", (int)(models_base_name(j->part) - j->part), j->part);
    if (rc == 0 && j->bytes != MODELS_SIZE_UNKNOWN)
        rc = models_room_check(dir, j->bytes - j->done, j->e);
    memcpy(j->etag, head->etag, sizeof j->etag);
    if (rc == 0)
        rc = note_write(j);
    return rc;
}

// The first bytes tell a model from a web page long before the checksum does.
static int magic_check(struct job *j, const uint8_t *data, size_t n)
{
    static const uint8_t magic[] = "GGUF";
    for (size_t i = 0; i < n && j->done + i < 4; i++)
        if (data[i] != magic[j->done + i])
            return err_set(j->e, ERR_CORRUPT,
                           "what comes from there is no GGUF file; check the address");
    return 0;
}

static int on_data(void *ctx, const void *data, size_t n, struct err *e)
{
    struct job *j = ctx;
    (void)e;
    if (j->bytes != MODELS_SIZE_UNKNOWN && n > j->bytes - j->done)
        return err_set(j->e, ERR_MISMATCH,
                       "the server sends more than the %" PRIu64 " bytes announced", j->bytes);
    int rc = magic_check(j, data, n);
    if (rc == 0)
        rc = part_write(j, data, n);
    if (rc != 0)
        return rc;
    models_sum_put(&j->sum, data, n);
    j->done += n;
    j->come += n;
    if (clock_now_ns() - j->told_ns < TELL_NS)
        return 0;
    j->told_ns = clock_now_ns();
    struct models_event ev = event_of(j);
    ev.kind = MODELS_EVENT_PROGRESS;
    tell(j->f->watch, ev);
    return 0;
}

static bool on_stopped(void *ctx)
{
    const struct job *j = ctx;
    return models_stopped(j->f->watch);
}

// What a status that is neither 200 nor 206 means.
static int refused(struct job *j)
{
    long status = j->head.status;
    j->again = status == 408 || status == 425 || status == 429 || status >= 500;
    if (status == 416) { // the part does not fit to what is there
        j->again = true;
        return part_restart(j, "the server does not have that much") == 0
                   ? err_set(j->e, ERR_CLOSED, "the server refused to go on")
                   : j->e->code;
    }
    return err_set(j->e,
                   status == 401 || status == 403   ? ERR_AUTH
                   : status == 404 || status == 410 ? ERR_NOT_FOUND
                                                    : ERR_IO,
                   "the server answers %ld%s%.150s", status, j->head.reason[0] ? ": " : "",
                   j->head.reason);
}

// 0: all is there. Otherwise j->again says whether another attempt makes sense.
static int attempt(struct job *j)
{
    j->come = 0;
    j->again = false;
    // Nothing would tell whether the rest belongs to what is there.
    bool blind = j->done > 0 && !j->etag[0] && !j->f->sha256;
    int rc =
        blind ? part_restart(j, "the server does not say whether its file is still the same") : 0;
    if (rc != 0)
        return rc;
    struct net_http_get g = {.url = j->f->url,
                             .token = j->f->token,
                             .offset = j->done,
                             .if_range = j->etag[0] ? j->etag : NULL,
                             .stall_s = j->f->stall_s,
                             .on_head = on_head,
                             .on_data = on_data,
                             .stopped = on_stopped,
                             .ctx = j};
    rc = net_http_get(&g, &j->head, j->e);
    if (rc == ERR_CLOSED || rc == ERR_TIMEOUT)
        j->again = true;
    if (rc != 0)
        return rc;
    if (j->head.status != 200 && j->head.status != 206)
        return refused(j);
    if (j->bytes == MODELS_SIZE_UNKNOWN || j->done == j->bytes)
        return 0;
    j->again = true;
    return err_set(j->e, ERR_CLOSED, "the server ended after %" PRIu64 " of %" PRIu64 " bytes",
                   j->done, j->bytes);
}

// ---- until it is there ---------------------------------------------------------------------------

static double wait_choose(const struct job *j, uint32_t failures)
{
    double wait_s = j->f->retry_wait_s;
    for (uint32_t i = 1; i < failures && wait_s < WAIT_MAX_S; i++)
        wait_s *= 2;
    if (j->head.status >= 400 && j->head.retry_after_s > wait_s)
        wait_s = j->head.retry_after_s;
    return wait_s < WAIT_MAX_S ? wait_s : WAIT_MAX_S;
}

static int attempts(struct job *j)
{
    uint32_t failures = 0; // in a row without a byte
    // An empty part is whole only when nothing at all was announced.
    bool whole = j->done > 0 && j->done == j->bytes;
    int rc = whole ? 0 : attempt(j);
    while (rc != 0 && j->again) {
        failures = j->come > 0 ? 1 : failures + 1;
        if (failures > j->f->retries)
            break;
        double wait_s = wait_choose(j, failures);
        struct models_event ev = event_of(j);
        ev.kind = MODELS_EVENT_RETRY;
        ev.text = j->e->message;
        ev.wait_s = wait_s;
        tell(j->f->watch, ev);
        if (!models_wait(j->f->watch, wait_s))
            return err_set(j->e, ERR_CANCELLED, "stopped");
        rc = attempt(j);
    }
    return rc;
}

static int sum_check(struct job *j, const char *sha256)
{
    char aside[PATH_BYTES];
    if (!j->f->sha256 || strcmp(j->f->sha256, sha256) == 0)
        return 0;
    snprintf(aside, sizeof aside, "%s.corrupt", j->f->path);
    unlink(j->note);
    if (rename(j->part, aside) != 0)
        snprintf(aside, sizeof aside, "%s", j->part);
    return err_set(j->e, ERR_CORRUPT,
                   "SHA-256 is %s, %s was announced: not the file that was meant; it lies in "
                   "%.200s, pull again for a new one",
                   sha256, j->f->sha256, aside);
}

static int finish(struct job *j, struct models_fetched *out)
{
    models_sum_take(&j->sum, out->sha256);
    out->bytes = j->done;
    if (fsync(j->fd) != 0)
        return err_set(j->e, ERR_IO, "cannot write %.300s: %s", j->part, strerror(errno));
    int rc = sum_check(j, out->sha256);
    if (rc == 0 && rename(j->part, j->f->path) != 0)
        rc = err_set(j->e, ERR_IO, "cannot rename %.300s: %s", j->part, strerror(errno));
    if (rc == 0)
        unlink(j->note);
    return rc;
}

int models_fetch_run(const struct models_fetch *f, struct models_fetched *out, struct err *e)
{
    struct job j = {.f = f, .fd = -1, .bytes = f->bytes, .e = e};
    struct models_event ev;
    *out = (struct models_fetched){0};
    if (snprintf(j.part, sizeof j.part, "%s.part", f->path) >= PATH_BYTES)
        return err_set(e, ERR_RANGE, "path %.200s... is too long", f->path);
    snprintf(j.note, sizeof j.note, "%s.json", j.part);
    models_sum_init(&j.sum);
    int rc = part_open(&j);
    if (rc == 0) {
        ev = event_of(&j);
        ev.kind = MODELS_EVENT_BEGIN;
        tell(f->watch, ev);
        rc = attempts(&j);
    }
    if (rc == 0)
        rc = finish(&j, out);
    if (rc == 0) {
        ev = event_of(&j);
        ev.kind = MODELS_EVENT_END;
        tell(f->watch, ev);
    }
    out->status = j.head.status;
    memcpy(out->code, j.head.code, sizeof out->code);
    snprintf(out->reason, sizeof out->reason, "%.199s", j.head.reason);
    models_sum_fini(&j.sum);
    if (j.fd >= 0)
        close(j.fd);
    return rc;
}
