// What this machine uses while this worker idles, reads or writes: a thread of its own looks at the meter a few
// times a second, because asking a GPU can take longer than a step. The engine thread only says what it does.
#include "base/cond.h"
#include "base/log.h"
#include "node/worker.h"
#include "os/power.h"

#include <stdio.h>

#define WINDOW_NS (250 * NS_PER_MS)

// Under the lock.
static void seconds_count(struct worker_power *p, int64_t now_ns)
{
    if (p->kind >= 0)
        p->seconds[p->kind] += ns_to_s(now_ns - p->since_ns);
    p->since_ns = now_ns;
}

void worker_power_now(struct worker *w, int kind)
{
    struct worker_power *p = &w->power;
    int64_t now = clock_now_ns();
    if (p->meter == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    seconds_count(p, now);
    worker_joules_count(w, now);
    p->kind = kind;
    pthread_mutex_unlock(&p->lock);
}

// Under the lock: one window ends, the next one begins.
static void window_end(struct worker_power *p, double joules, int64_t now_ns)
{
    seconds_count(p, now_ns);
    watts_learn(&p->watts, joules - p->joules, ns_to_s(now_ns - p->window_ns), p->seconds);
    p->joules = joules;
    p->window_ns = now_ns;
    for (size_t k = 0; k < WATTS_KINDS; k++)
        p->seconds[k] = 0;
}

static void *power_run(void *arg)
{
    struct worker_power *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping) {
        int64_t next = clock_now_ns() + WINDOW_NS;
        while (!p->stopping && cond_wait_until(&p->changed, &p->lock, next) == 0)
            ;
        if (p->stopping)
            break;
        // The reading takes its time: the engine thread must not wait for it.
        pthread_mutex_unlock(&p->lock);
        struct os_power_reading r = os_power_read(p->meter, clock_now_ns());
        int64_t now = clock_now_ns();
        pthread_mutex_lock(&p->lock);
        window_end(p, r.cpu_joules + r.gpu_joules, now);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void worker_power_start(struct worker *w, const struct os_roots *roots)
{
    struct worker_power *p = &w->power;
    struct err e = {0};
    int64_t now = clock_now_ns();

    if (os_power_open(roots, now, &p->meter, &e) != 0) {
        snprintf(p->why, sizeof p->why, "%s", e.message);
        log_debug("worker", "%s", p->why);
        return;
    }
    pthread_mutex_init(&p->lock, NULL);
    cond_init(&p->changed);
    watts_init(&p->watts);
    p->kind = -1;
    p->since_ns = p->window_ns = now;
    p->given = (struct worker_joules){.worked_ns = now, .seen_ns = now};
    if (pthread_create(&p->thread, NULL, power_run, p) == 0)
        return;
    snprintf(p->why, sizeof p->why, "no thread could be started for it");
    os_power_close(p->meter);
    p->meter = NULL;
}

void worker_power_stop(struct worker *w)
{
    struct worker_power *p = &w->power;
    if (p->meter == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    os_power_close(p->meter);
    p->meter = NULL;
}

struct message_power worker_power_get(struct worker *w, double *joules)
{
    struct worker_power *p = &w->power;
    struct message_power m = {0};
    *joules = 0;
    if (p->meter == NULL)
        return m;
    pthread_mutex_lock(&p->lock);
    m.idle_w = watts_get(&p->watts, WATTS_IDLE);
    m.prefill_w = watts_get(&p->watts, WATTS_PREFILL);
    m.decode_w = watts_get(&p->watts, WATTS_DECODE);
    *joules = p->joules;
    pthread_mutex_unlock(&p->lock);
    return m;
}

json_t *worker_power_json(struct worker *w)
{
    const struct worker_power *p = &w->power;
    double joules = 0;
    struct message_power m = worker_power_get(w, &joules);
    if (p->meter == NULL && p->why[0] == '\0')
        return NULL;
    json_t *o = message_power_json(&m);
    json_put(o, "joules", json_real(joules));
    json_put(o, "source", p->meter != NULL ? json_string(os_power_source(p->meter)) : json_null());
    json_put(o, "why", p->meter != NULL ? json_null() : json_string(p->why));
    return o;
}
