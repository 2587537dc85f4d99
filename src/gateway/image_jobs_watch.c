// Clients that watch image jobs: streams of events.
#include "gateway/image_jobs_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/images_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_S 5

static void tell(struct image_jobs_watcher *w, const void *text, size_t n)
{
    if (reply_write(w->reply, text, n) != 0)
        reply_leave(w->reply);
    w->told_ns = clock_now_ns();
}

static void watcher_end(struct image_jobs *j, struct image_jobs_watcher **at)
{
    struct image_jobs_watcher *w = *at;

    *at = w->next;
    j->n_watchers--;
    reply_end(w->reply);
    reply_drop(w->reply);
    free(w);
}

// What has happened so far: its state, and the pictures that were drawn.
static void past_tell(struct image_jobs *j, struct image_jobs_watcher *w,
                      const struct image_jobs_row *row)
{
    bool final = image_jobs_state_final(row->state);
    struct buf out;
    json_t *picture;
    size_t i;

    buf_init(&out, REPLY_WAITING_MAX);
    if (!final)
        image_jobs_event_put(&out, j, row);
    json_array_foreach(row->pictures, i, picture)
    {
        answer_event_put(&out, json_string_or(picture, "type", ""), json_incref(picture));
    }
    if (final)
        image_jobs_event_put(&out, j, row);
    tell(w, out.data, out.len);
    buf_fini(&out);
}

// How many streams this key has.
static size_t watchers_of(const struct image_jobs *j, const char *owner)
{
    size_t n = 0;

    for (const struct image_jobs_watcher *w = j->watchers; w; w = w->next)
        n += strcmp(w->owner, owner) == 0;
    return n;
}

void image_jobs_watch(struct image_jobs *j, struct reply *reply, const char *owner,
                      const struct image_jobs_row *row)
{
    // Without keys everybody is the same.
    size_t most = owner[0] ? IMAGE_JOBS_WATCHERS_PER_KEY : IMAGE_JOBS_WATCHERS_MAX;
    size_t own = watchers_of(j, owner);
    struct image_jobs_watcher *w;
    struct err e = {0};

    if (j->n_watchers == IMAGE_JOBS_WATCHERS_MAX || own >= most) {
        err_set(&e, ERR_BUSY,
                "%zu streams of image jobs are open already, %zu of them yours; GET the job itself",
                j->n_watchers, own);
        images_refuse(reply, &e, 429, NULL, RETRY_S);
        reply_drop(reply);
        return;
    }
    w = mem_alloc(sizeof(*w));
    memcpy(w->id, row->id, sizeof(w->id));
    snprintf(w->owner, sizeof(w->owner), "%s", owner);
    w->reply = reply;
    w->state = row->state;
    w->next = j->watchers;
    j->watchers = w;
    j->n_watchers++;
    reply_begin(reply);
    past_tell(j, w, row);
    if (image_jobs_state_final(row->state))
        watcher_end(j, &j->watchers);
}

void image_jobs_watchers_tick(struct image_jobs *j, int64_t now_ns)
{
    static const char queued[] = ": waiting for its turn\n\n", drawn[] = ": being drawn\n\n";
    struct image_jobs_watcher **at = &j->watchers, *w;

    while ((w = *at)) {
        const char *beat = w->state == IMAGE_JOBS_QUEUED ? queued : drawn;

        if (reply_left(w->reply)) {
            watcher_end(j, at);
            continue;
        }
        if (now_ns - w->told_ns >= j->options->heartbeat_ns)
            tell(w, beat, strlen(beat));
        at = &w->next;
    }
}

void image_jobs_watchers_tell(struct image_jobs *j, const char *id, const void *text, size_t n)
{
    for (struct image_jobs_watcher *w = j->watchers; w; w = w->next)
        if (strcmp(w->id, id) == 0)
            tell(w, text, n);
}

void image_jobs_watchers_state(struct image_jobs *j, const char *id,
                               const struct image_jobs_row *row)
{
    struct image_jobs_watcher **at = &j->watchers, *w;
    struct buf out;

    buf_init(&out, REPLY_WAITING_MAX);
    while ((w = *at)) {
        if (strcmp(w->id, id) != 0) {
            at = &w->next;
            continue;
        }
        if (row && out.len == 0)
            image_jobs_event_put(&out, j, row);
        if (row && w->state != row->state)
            tell(w, out.data, out.len);
        w->state = row ? row->state : w->state;
        if (row && !image_jobs_state_final(row->state))
            at = &w->next;
        else
            watcher_end(j, at);
    }
    buf_fini(&out);
}

void image_jobs_watchers_stop(struct image_jobs *j)
{
    while (j->watchers)
        watcher_end(j, &j->watchers);
}
