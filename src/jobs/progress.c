// What a job has reached, from its folder: checkpoints and progress.jsonl.
#include "base/buf.h"
#include "base/json.h"
#include "jobs/jobs_impl.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_MAX_BYTES (64u << 10)
#define LINES_MAX 10000

// ---- progress ------------------------------------------------------------------------------------

// One line that ends in a line break, without it. Longer ones and cut ones are no lines of ours.
static bool line_next(FILE *f, char *line, size_t *whole)
{
    bool fits = true;
    *whole = 0;
    for (size_t n = 0;;) {
        int c = getc_unlocked(f);
        if (c == EOF)
            return false;
        ++*whole;
        if (c == '\n') {
            line[fits ? n : 0] = '\0';
            return true;
        }
        if (n < LINE_MAX_BYTES - 1)
            line[n++] = (char)c;
        else
            fits = false;
    }
}

static void lines_read(FILE *f, uint64_t *offset, json_t *out)
{
    char *line = mem_alloc(LINE_MAX_BYTES);
    size_t whole;
    for (int i = 0; i < LINES_MAX && line_next(f, line, &whole); i++) {
        json_t *v = json_loads(line, 0, NULL);
        *offset += whole;
        if (json_is_object(v))
            json_array_append(out, v);
        json_decref(v);
    }
    free(line);
}

static int progress_read(const char *folder, uint64_t *offset, json_t *out, struct err *e)
{
    char *path = mem_format("%s/progress.jsonl", folder);
    FILE *f = fopen(path, "re");
    int rc = 0;
    if (!f && errno != ENOENT)
        rc = err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    if (f && fseeko(f, (off_t)*offset, SEEK_SET) == 0)
        lines_read(f, offset, out);
    if (f)
        fclose(f);
    free(path);
    return rc;
}

int jobs_progress(struct jobs *j, const char *id, uint64_t *offset, json_t **out, struct err *e)
{
    struct jobs_job job;
    int rc = jobs_get(j, id, &job, e);
    if (rc != 0)
        return rc;
    json_t *lines = json_array();
    rc = progress_read(job.folder, offset, lines, e);
    jobs_job_fini(&job);
    if (rc == 0)
        *out = lines;
    else
        json_decref(lines);
    return rc;
}

// ---- checkpoints ---------------------------------------------------------------------------------

// What progress says of a step: the last line about it counts.
static void losses_put(json_t *checkpoint, int64_t step, const json_t *lines)
{
    static const char *const members[] = {"loss", "eval_loss"};
    size_t i;
    const json_t *line;
    json_array_foreach(lines, i, line)
    {
        if (json_integer_value(json_object_get(line, "step")) != step)
            continue;
        for (size_t k = 0; k < 2; k++) {
            json_t *v = json_object_get(line, members[k]);
            if (json_is_number(v))
                json_put(checkpoint, members[k], json_incref(v));
        }
    }
}

static uint64_t files_bytes(const char *path)
{
    struct dirent *entry;
    struct stat st;
    uint64_t sum = 0;
    DIR *d = opendir(path);
    while (d && (entry = readdir(d))) {
        char *file = mem_format("%s/%s", path, entry->d_name);
        if (lstat(file, &st) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
        free(file);
    }
    if (d)
        closedir(d);
    return sum;
}

static json_t *checkpoint_json(const char *all, const char *name, const json_t *lines)
{
    char *end = NULL, *path = mem_format("%s/%s", all, name),
         *complete = mem_format("%s/%s/COMPLETE", all, name);
    json_t *o = NULL;
    struct stat st;
    int64_t step = strncmp(name, "step-", 5) == 0 ? strtoll(name + 5, &end, 10) : -1;
    if (step >= 0 && end != name + 5 && *end == '\0' && stat(complete, &st) == 0) {
        o = json_pack("{s:I,s:I,s:I}", "step", (json_int_t)step, "unix_s", (json_int_t)st.st_mtime,
                      "bytes", (json_int_t)files_bytes(path));
        losses_put(o, step, lines);
    }
    free(path);
    free(complete);
    return o;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = json_integer_value(json_object_get(*(json_t *const *)a, "step"));
    int64_t y = json_integer_value(json_object_get(*(json_t *const *)b, "step"));
    return x > y ? -1 : x < y;
}

static json_t *checkpoints_list(const char *folder, const json_t *lines)
{
    char *all = mem_format("%s/checkpoints", folder);
    json_t *found[256], *out = json_array();
    struct dirent *entry;
    size_t n = 0;
    DIR *d = opendir(all);
    while (d && n < sizeof found / sizeof *found && (entry = readdir(d)))
        if ((found[n] = checkpoint_json(all, entry->d_name, lines)))
            n++;
    if (d)
        closedir(d);
    qsort(found, n, sizeof *found, newest_first);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(out, found[i]);
    free(all);
    return out;
}

int jobs_checkpoints(struct jobs *j, const char *id, json_t **out, struct err *e)
{
    struct jobs_job job;
    uint64_t offset = 0, before;
    int rc = jobs_get(j, id, &job, e);
    if (rc != 0)
        return rc;
    json_t *lines = json_array();
    do {
        before = offset;
        rc = progress_read(job.folder, &offset, lines, e);
    } while (rc == 0 && offset > before);
    if (rc == 0)
        *out = checkpoints_list(job.folder, lines);
    json_decref(lines);
    jobs_job_fini(&job);
    return rc;
}
