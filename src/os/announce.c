// Announcing a node: one registration, and a thread that listens to what becomes of it. When the responder goes
// away, it is announced again as soon as there is one.
#include "os/discover.h"

#include "base/buf.h"
#include "base/clock.h"
#include "os/discover_impl.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TXT_MAX 1024

struct os_announce {
    struct dns_sd dns;
    void *ref; // the thread's, once it runs; NULL: not announced now
    char name[64];
    uint16_t port;
    struct buf txt;
    int wake[2];
    pthread_t thread;
    bool failed; // inside a callback: the registration is of no use any more
};

static void on_reply(void *ref, uint32_t flags, int32_t error, const char *name, const char *type,
                     const char *domain, void *ctx)
{
    struct os_announce *a = ctx;
    (void)ref;
    (void)flags;
    (void)name;
    (void)type;
    (void)domain;
    a->failed = a->failed || error != 0;
}

// "key=value" behind its length; what is longer than such an entry may be is cut.
static void txt_put(struct buf *b, const char *key, const char *value)
{
    char entry[DNS_SD_TXT_BYTES + 1];
    if (!value || !*value)
        return;
    int n = snprintf(entry, sizeof entry, "%s=%s", key, value);
    uint8_t length = (uint8_t)(n > DNS_SD_TXT_BYTES ? DNS_SD_TXT_BYTES : n);
    buf_put(b, &length, 1);
    buf_put(b, entry, length);
}

static int announce(struct os_announce *a, struct err *e)
{
    a->failed = false;
    int32_t error = a->dns.announce(&a->ref, 0, 0, a->name, OS_DISCOVER_TYPE, NULL, NULL,
                                    htons(a->port), (uint16_t)a->txt.len, a->txt.data, on_reply, a);
    if (error == 0)
        return 0;
    a->ref = NULL;
    return dns_sd_error(error, "this node cannot be announced", e);
}

static void *announce_run(void *arg)
{
    struct os_announce *a = arg;
    struct err e = {0};
    int64_t retry_ns = 0;
    for (;;) {
        struct pollfd fds[2] = {{.fd = a->wake[0], .events = POLLIN},
                                {.fd = a->ref ? a->dns.descriptor(a->ref) : -1, .events = POLLIN}};
        discover_poll(fds, 2, a->ref ? INT64_MAX : retry_ns);
        if (fds[0].revents)
            return NULL;
        if (!a->ref && clock_now_ns() >= retry_ns)
            announce(a, &e);
        else if (a->ref && fds[1].revents && (a->dns.process(a->ref) != 0 || a->failed)) {
            a->dns.free(a->ref);
            a->ref = NULL;
        } else {
            continue;
        }
        retry_ns = clock_now_ns() + DISCOVER_RETRY_NS;
    }
}

static void announce_free(struct os_announce *a)
{
    if (a->ref)
        a->dns.free(a->ref);
    dns_sd_close(&a->dns);
    if (a->wake[0] >= 0) {
        close(a->wake[0]);
        close(a->wake[1]);
    }
    buf_fini(&a->txt);
    free(a);
}

int os_announce_start(const struct os_announce_options *o, struct os_announce **out, struct err *e)
{
    struct os_announce *a = mem_alloc(sizeof *a);
    a->wake[0] = a->wake[1] = -1;
    a->port = o->port;
    snprintf(a->name, sizeof a->name, "%s", o->name);
    buf_init(&a->txt, TXT_MAX);
    txt_put(&a->txt, "id", o->id);
    txt_put(&a->txt, "version", o->version);
    txt_put(&a->txt, "models", o->models);
    int rc = dns_sd_open(&a->dns, o->library, e);
    if (rc == 0)
        rc = os_pipe(a->wake, e);
    if (rc == 0)
        rc = announce(a, e);
    if (rc == 0 && pthread_create(&a->thread, NULL, announce_run, a) != 0)
        rc = err_set(e, ERR_BUSY, "no thread can be started to announce this node");
    if (rc == 0)
        *out = a;
    else
        announce_free(a);
    return rc;
}

void os_announce_stop(struct os_announce *a)
{
    if (!a)
        return;
    close(a->wake[1]);
    a->wake[1] = -1;
    pthread_join(a->thread, NULL);
    announce_free(a);
}
