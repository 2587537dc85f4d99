// The file of the queue: who owns it, and what is found in it when a server begins.
#include "gateway/image_jobs_impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "os/os.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "image-jobs.db"
#define RECOVER_PAGE 100              // more than may draw at a time
#define DAMAGED FILE_NAME ".damaged-" // as base/db.h calls it

static int path_get(const char *file, char out[IMAGE_JOBS_PATH_BYTES], struct err *e)
{
    char state[IMAGE_JOBS_PATH_BYTES - 64];
    int rc = os_state_dir(state, sizeof(state), e);

    if (rc == 0)
        snprintf(out, IMAGE_JOBS_PATH_BYTES, "%s/%s", state, file);
    return rc;
}

static int lock_take(struct image_jobs *j, struct err *e)
{
    char path[IMAGE_JOBS_PATH_BYTES], state[IMAGE_JOBS_PATH_BYTES];
    int rc = path_get("", state, e);

    if (rc == 0)
        rc = os_mkdirs(state, e);
    if (rc == 0)
        rc = path_get("image-jobs.lock", path, e);
    if (rc == 0)
        rc = os_lock_take(path, &j->lock_fd, e);
    if (rc == ERR_BUSY)
        return err_set(e, ERR_BUSY,
                       "another server of this machine keeps the image jobs of %.200s; ask that "
                       "one, or give this one a folder of its own by TANDEM_STATE",
                       state);
    return rc;
}

static void row_recover(struct image_jobs *j, struct image_jobs_row *r)
{
    bool again = r->attempts < IMAGE_JOBS_ATTEMPTS;
    struct err e = {0};

    image_jobs_pictures_drop(r);
    r->state = again ? IMAGE_JOBS_QUEUED : IMAGE_JOBS_FAILED;
    r->started_unix_s = again ? 0 : r->started_unix_s;
    r->ended_unix_s = again ? 0 : clock_unix_s();
    if (!again) {
        snprintf(r->code, sizeof(r->code), "engine");
        snprintf(r->why, sizeof(r->why),
                 "this job was begun %u times, and each time the server ended, or could not write "
                 "down how it went; it is not tried again",
                 r->attempts);
    }
    if (image_jobs_row_update(j->db, r, &e) != 0) {
        log_warn("imagejobs", "%s", e.message);
        return;
    }
    log_info("imagejobs", "%s: id=%s", again ? "begins anew" : "given up", r->id);
    j->dropped |= r->edit && !again;
    j->due_ns = 0;
    image_jobs_watchers_state(j, r->id, r);
}

void image_jobs_recover(struct image_jobs *j)
{
    const struct image_jobs_query q = {
        .state = IMAGE_JOBS_RUNNING, .oldest = true, .limit = RECOVER_PAGE};
    struct image_jobs_list l;
    struct err e = {0};

    if (image_jobs_rows_list(j->db, &q, &l, &e) != 0) {
        log_warn("imagejobs", "%s", e.message);
        return;
    }
    for (size_t i = 0; i < l.n; i++)
        if (!image_jobs_run_of(j, l.items[i].id))
            row_recover(j, &l.items[i]);
    image_jobs_list_fini(&l);
}

int image_jobs_queue_open(struct image_jobs *j, struct err *e)
{
    char path[IMAGE_JOBS_PATH_BYTES];
    int rc;

    if (j->db)
        return 0;
    j->passing = !images_are_drawn(&j->places);
    rc = j->lock_fd >= 0 ? 0 : lock_take(j, e);
    if (rc == 0)
        rc = path_get(FILE_NAME, path, e);
    if (rc == 0)
        rc = image_jobs_rows_open(path, &j->db, e);
    if (rc != 0)
        return rc;
    j->due_ns = j->swept_ns = 0;
    image_jobs_recover(j);
    image_jobs_counts(j);
    return 0;
}

int image_jobs_queue_visit(struct image_jobs *j, struct err *e)
{
    char path[IMAGE_JOBS_PATH_BYTES];
    struct stat st;
    int rc = path_get(FILE_NAME, path, e);

    return rc != 0 || stat(path, &st) != 0 ? rc : image_jobs_queue_open(j, e);
}

void image_jobs_queue_find(struct image_jobs *j, int64_t now_ns)
{
    bool drawn = images_are_drawn(&j->places), failed;
    struct err e = {0};

    if (j->db || now_ns < (drawn ? j->find_ns : j->expire_ns))
        return;
    j->find_ns = now_ns + IMAGE_JOBS_FIND_NS;
    j->expire_ns = now_ns + IMAGE_JOBS_EXPIRE_NS;
    failed = image_jobs_queue_visit(j, &e) != 0;
    if (failed && drawn && !j->find_failed)
        log_warn("imagejobs", "%s", e.message);
    j->find_failed = failed && drawn;
}

void image_jobs_queue_leave(struct image_jobs *j)
{
    bool leave = j->passing && !j->runs && !j->watchers && !images_are_drawn(&j->places);

    j->passing = false;
    if (!leave)
        return;
    db_close(j->db);
    j->db = NULL;
    if (j->lock_fd >= 0)
        close(j->lock_fd);
    j->lock_fd = -1;
    image_jobs_counts(j);
}

void image_jobs_queue_damaged_remove(void)
{
    char folder[IMAGE_JOBS_PATH_BYTES], path[IMAGE_JOBS_PATH_BYTES + 300];
    const struct dirent *entry;
    struct err e = {0};
    DIR *d = path_get("", folder, &e) == 0 ? opendir(folder) : NULL;

    while (d && (entry = readdir(d))) {
        if (strncmp(entry->d_name, DAMAGED, strlen(DAMAGED)) != 0)
            continue;
        snprintf(path, sizeof(path), "%s%s", folder, entry->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
}
