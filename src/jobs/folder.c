// What a job has on the disk.
#include "base/buf.h"
#include "base/json.h"
#include "jobs/jobs_impl.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COPY_BYTES (1u << 20)
#define DEPTH_MAX 16
#define RECORD "record.json"

char *jobs_path(const struct jobs *j, const char *id, const char *name)
{
    return name ? mem_format("%s/%s/%s", j->dir, id, name) : mem_format("%s/%s", j->dir, id);
}

// ---- JSON files ----------------------------------------------------------------------------------

json_t *jobs_json_read(const char *path, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    if (os_file_read(path, JOBS_RECORD_MAX, &text, &n, e) != 0)
        return NULL;
    json_t *v = json_parse(text, n, e);
    free(text);
    if (v && !json_is_object(v)) {
        json_decref(v);
        v = NULL;
        err_set(e, ERR_CORRUPT, "it holds no JSON object");
    }
    if (!v)
        err_wrap(e, "%s", path);
    return v;
}

int jobs_json_write(const char *path, const json_t *value, struct err *e)
{
    char *text = json_text(value);
    int rc = os_file_write(path, text, strlen(text), 0600, e);
    free(text);
    return rc;
}

int jobs_record_write(const struct jobs_job *job, struct err *e)
{
    json_t *o = jobs_job_json(job);
    char *path = mem_format("%s/%s", job->folder, RECORD);
    int rc = jobs_json_write(path, o, e);
    free(path);
    json_decref(o);
    return rc;
}

static json_t *member_take(json_t *o, const char *name)
{
    json_t *v = json_object_get(o, name);
    return v ? json_incref(v) : json_null();
}

static int numbers_read(json_t *o, struct jobs_job *out, struct err *e)
{
    int64_t limit[3] = {0}, attempts = 0, examples = 0, bytes = 0;
    int rc = json_get_i64(o, "created_unix_s", 0, INT64_MAX, &out->created_unix_s, e);
    if (rc == 0)
        rc = json_get_i64(o, "started_unix_s", 0, INT64_MAX, &out->started_unix_s, e);
    if (rc == 0)
        rc = json_get_i64(o, "ended_unix_s", 0, INT64_MAX, &out->ended_unix_s, e);
    if (rc == 0)
        rc = json_get_i64(o, "attempts", 0, UINT32_MAX, &attempts, e);
    if (rc == 0)
        rc = json_get_i64(o, "examples", 0, INT64_MAX, &examples, e);
    if (rc == 0)
        rc = json_get_i64(o, "data_bytes", 0, INT64_MAX, &bytes, e);
    if (rc == 0)
        rc = json_get_i64(o, "limit_time_s", 0, INT64_MAX, &limit[0], e);
    if (rc == 0)
        rc = json_get_i64(o, "limit_memory_bytes", 0, INT64_MAX, &limit[1], e);
    if (rc == 0)
        rc = json_get_i64(o, "disk_reserve_bytes", 0, INT64_MAX, &limit[2], e);
    if (rc == 0)
        rc = json_get_f64(o, "ran_s", 0, 1e12, &out->ran_s, e);
    out->attempts = (uint32_t)attempts;
    out->examples = (uint64_t)examples;
    out->data_bytes = (uint64_t)bytes;
    out->limit_time_s = (uint64_t)limit[0];
    out->limit_memory_bytes = (uint64_t)limit[1];
    out->disk_reserve_bytes = (uint64_t)limit[2];
    return rc;
}

static int texts_read(json_t *o, struct jobs_job *out, struct err *e)
{
    const char *state = "";
    json_t *error = NULL;
    int rc = json_copy_string(o, "id", out->id, sizeof out->id, e);
    if (rc == 0)
        rc = json_copy_string(o, "name", out->name, sizeof out->name, e);
    if (rc == 0)
        rc = json_copy_string(o, "model", out->model, sizeof out->model, e);
    if (rc == 0)
        rc = json_copy_string(o, "owner", out->owner, sizeof out->owner, e);
    if (rc == 0)
        rc = json_copy_string(o, "executor", out->executor, sizeof out->executor, e);
    if (rc == 0)
        rc = json_get_object(o, "error", &error, e);
    if (rc == 0 && error)
        rc = json_copy_string(error, "code", out->error.code, sizeof out->error.code, e);
    if (rc == 0 && error)
        rc = json_copy_string(error, "message", out->error.message, sizeof out->error.message, e);
    if (rc == 0)
        rc = json_get_string(o, "state", &state, e);
    out->state = jobs_state_find(state);
    if (rc == 0 && out->state == JOBS_STATES)
        rc = err_set(e, ERR_CORRUPT, "\"%.40s\" is no state of a job", state);
    return rc;
}

int jobs_record_read(const char *folder, struct jobs_job *out, struct err *e)
{
    char *path = mem_format("%s/%s", folder, RECORD);
    json_t *o = jobs_json_read(path, e);
    free(path);
    if (!o)
        return e->code;
    memset(out, 0, sizeof *out);
    int rc = texts_read(o, out, e);
    if (rc == 0)
        rc = numbers_read(o, out, e);
    if (rc == 0) {
        out->options = member_take(o, "options");
        out->executor_options = member_take(o, "executor_options");
        out->meta = member_take(o, "meta");
        out->command = member_take(o, "command");
        out->result = member_take(o, "result");
        snprintf(out->folder, sizeof out->folder, "%s", folder);
    }
    json_decref(o);
    return rc;
}

// ---- files and folders ---------------------------------------------------------------------------

static int folder_remove(const char *path, int depth)
{
    struct stat st;
    struct dirent *entry;
    int rc = 0;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : errno;
    if (!S_ISDIR(st.st_mode))
        return unlink(path) == 0 ? 0 : errno;
    DIR *d = depth < DEPTH_MAX ? opendir(path) : NULL;
    if (!d)
        return depth < DEPTH_MAX ? errno : ELOOP;
    while (rc == 0 && (entry = readdir(d))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *inner = mem_format("%s/%s", path, entry->d_name);
        rc = folder_remove(inner, depth + 1);
        free(inner);
    }
    closedir(d);
    return rc != 0 ? rc : rmdir(path) == 0 ? 0 : errno;
}

int jobs_folder_remove(const char *path, struct err *e)
{
    int rc = folder_remove(path, 0);
    return rc == 0 ? 0 : err_set(e, ERR_IO, "cannot remove %s: %s", path, strerror(rc));
}

static int bytes_copy(int from, int to)
{
    char *buffer = mem_alloc(COPY_BYTES);
    ssize_t n;
    int rc = 0;
    while (rc == 0 && (n = read(from, buffer, COPY_BYTES)) != 0) {
        if (n < 0 && errno != EINTR)
            rc = errno;
        for (ssize_t done = 0, put; rc == 0 && n > 0 && done < n; done += put) {
            put = write(to, buffer + done, (size_t)(n - done));
            if (put < 0 && errno != EINTR)
                rc = errno;
            put = put < 0 ? 0 : put;
        }
    }
    if (rc == 0 && fsync(to) != 0)
        rc = errno;
    free(buffer);
    return rc;
}

int jobs_file_copy(const char *from, const char *to, struct err *e)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", from,
                       strerror(errno));
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = out < 0 ? errno : bytes_copy(in, out);
    if (out >= 0 && close(out) != 0 && rc == 0)
        rc = errno;
    close(in);
    return rc == 0 ? 0
                   : err_set(e, rc == ENOSPC || rc == EDQUOT ? ERR_RANGE : ERR_IO,
                             "cannot copy %s to %s: %s", from, to, strerror(rc));
}

int jobs_disk_free(const char *path, uint64_t *bytes, struct err *e)
{
    struct statvfs v;
    if (statvfs(path, &v) != 0)
        return err_set(e, ERR_IO, "cannot ask how full the disk of %s is: %s", path,
                       strerror(errno));
    *bytes = (uint64_t)v.f_bavail * v.f_frsize;
    return 0;
}
