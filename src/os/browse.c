// Looking for nodes: one search, and for each name that it tells a lookup of host, port and texts, and then of
// the host's address. Few lookups run at a time, each has a deadline, and a name that cannot be looked up is
// tried again later: so neither a flood of names nor one that nobody answers for holds the others up for long.
#include "os/discover.h"

#include "base/buf.h"
#include "base/clock.h"
#include "os/discover_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOKUPS_MAX 8
#define RESOLVE_NS (4 * NS_PER_S)
#define ADDRESS_NS (2 * NS_PER_S)
#define AGAIN_NS (30 * NS_PER_S)
#define NAME_BYTES 256 // as the network has it: 63 bytes, escaped

enum stage { NEW, RESOLVING, ADDRESSING, DONE, WAITING };

struct entry {
    struct os_browse *browse;
    char name[NAME_BYTES], domain[NAME_BYTES];
    uint32_t interface;
    int times; // it was told, on several interfaces or protocols; 0: it has gone
    enum stage stage;
    void *ref; // of the lookup
    int64_t due_ns;
    bool answered, failed; // what its lookup said
    struct os_seen seen;
};

struct os_browse {
    struct dns_sd dns;
    struct os_browse_options options;
    int wake[2];
    pthread_t thread;
    // The search's thread alone.
    void *ref; // NULL: no responder; it is tried again at retry_ns
    int64_t retry_ns;
    bool broken;
    // What os_browse_list sees: stage and seen of entries that are DONE, and how many there are.
    pthread_mutex_t lock;
    struct entry *entries[OS_SEEN_MAX];
    size_t n;
};

void discover_poll(struct pollfd *fds, size_t n, int64_t deadline_ns)
{
    int64_t wait_ns = deadline_ns == INT64_MAX ? -1 : deadline_ns - clock_now_ns();
    int ms = deadline_ns == INT64_MAX ? -1 : (int)(wait_ns < 0 ? 0 : wait_ns / NS_PER_MS + 1);
    if (poll(fds, (nfds_t)n, ms) < 0)
        for (size_t i = 0; i < n; i++)
            fds[i].revents = 0;
}

// ---- entries ---------------------------------------------------------------------------------------

static void lookup_end(struct entry *t)
{
    if (t->ref)
        t->browse->dns.free(t->ref);
    t->ref = NULL;
}

static void stage_set(struct entry *t, enum stage stage, int64_t due_ns)
{
    bool tell = stage == DONE && t->stage != DONE;
    pthread_mutex_lock(&t->browse->lock);
    t->stage = stage;
    t->due_ns = due_ns;
    pthread_mutex_unlock(&t->browse->lock);
    if (tell && t->browse->options.on_change)
        t->browse->options.on_change(t->browse->options.ctx, &t->seen, true);
}

static struct entry *entry_find(const struct os_browse *b, const char *name, const char *domain)
{
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->entries[i]->name, name) == 0 && strcmp(b->entries[i]->domain, domain) == 0)
            return b->entries[i];
    return NULL;
}

static void entry_add(struct os_browse *b, uint32_t interface, const char *name, const char *domain)
{
    if (b->n == OS_SEEN_MAX || strlen(name) >= NAME_BYTES || strlen(domain) >= NAME_BYTES)
        return;
    struct entry *t = mem_alloc(sizeof *t);
    t->browse = b;
    t->interface = interface;
    t->times = 1;
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->domain, sizeof t->domain, "%s", domain);
    discover_text_clean(name, strlen(name), t->seen.name, sizeof t->seen.name);
    pthread_mutex_lock(&b->lock);
    b->entries[b->n++] = t;
    pthread_mutex_unlock(&b->lock);
}

static void entry_drop(struct os_browse *b, size_t i)
{
    struct entry *t = b->entries[i];
    pthread_mutex_lock(&b->lock);
    b->n--;
    memmove(&b->entries[i], &b->entries[i + 1], (b->n - i) * sizeof(struct entry *));
    pthread_mutex_unlock(&b->lock);
    if (t->stage == DONE && b->options.on_change)
        b->options.on_change(b->options.ctx, &t->seen, false);
    lookup_end(t);
    free(t);
}

// ---- replies, inside dns_sd's process ---------------------------------------------------------------

static void on_browse(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                      const char *name, const char *type, const char *domain, void *ctx)
{
    struct os_browse *b = ctx;
    (void)ref;
    (void)type;
    b->broken = b->broken || error != 0;
    if (error != 0 || !name || !*name || !domain)
        return;
    struct entry *t = entry_find(b, name, domain);
    if (!t && (flags & DNS_SD_ADD))
        entry_add(b, interface, name, domain);
    else if (t)
        t->times += (flags & DNS_SD_ADD) ? 1 : -1;
}

static void on_resolve(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                       const char *full_name, const char *host, uint16_t port_be,
                       uint16_t txt_bytes, const unsigned char *txt, void *ctx)
{
    struct entry *t = ctx;
    (void)ref;
    (void)flags;
    (void)full_name;
    t->seen.port = ntohs(port_be);
    if (error != 0 || t->seen.port == 0 || !discover_host_take(host, t->seen.host)) {
        t->failed = true;
        return;
    }
    t->interface = interface;
    discover_texts_take(&t->seen, txt, txt_bytes);
    t->answered = true;
}

static void on_query(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                     const char *full_name, uint16_t type, uint16_t class, uint16_t bytes,
                     const void *data, uint32_t ttl, void *ctx)
{
    struct entry *t = ctx;
    (void)ref;
    (void)flags;
    (void)interface;
    (void)full_name;
    (void)class;
    (void)ttl;
    if (error == 0 && type == DNS_SD_TYPE_A && bytes == 4 && data && t->stage == ADDRESSING)
        inet_ntop(AF_INET, data, t->seen.host, sizeof t->seen.host);
    t->answered = true; // one is enough
}

// ---- lookups -----------------------------------------------------------------------------------------

static void resolve_begin(struct entry *t, int64_t now_ns)
{
    struct dns_sd *d = &t->browse->dns;
    t->answered = t->failed = false;
    if (d->resolve(&t->ref, 0, t->interface, t->name, OS_DISCOVER_TYPE, t->domain, on_resolve, t)) {
        t->ref = NULL;
        stage_set(t, WAITING, now_ns + AGAIN_NS);
    } else {
        stage_set(t, RESOLVING, now_ns + RESOLVE_NS);
    }
}

// Without an answer the name stays: the system's own resolver may know it.
static void address_begin(struct entry *t, int64_t now_ns)
{
    struct dns_sd *d = &t->browse->dns;
    char host[260];
    lookup_end(t);
    t->answered = t->failed = false;
    snprintf(host, sizeof host, "%s.", t->seen.host);
    if (!d->query || d->query(&t->ref, 0, t->interface, host, DNS_SD_TYPE_A, DNS_SD_CLASS_IN,
                              on_query, t) != 0) {
        t->ref = NULL;
        stage_set(t, DONE, INT64_MAX);
    } else {
        stage_set(t, ADDRESSING, now_ns + ADDRESS_NS);
    }
}

static void entry_run(struct entry *t, size_t *running, int64_t now_ns)
{
    bool late = now_ns >= t->due_ns;
    if ((t->stage == NEW || (t->stage == WAITING && late)) && *running < LOOKUPS_MAX)
        resolve_begin(t, now_ns);
    else if (t->stage == RESOLVING && t->answered)
        address_begin(t, now_ns);
    else if (t->stage == RESOLVING && (t->failed || late)) {
        lookup_end(t);
        stage_set(t, WAITING, now_ns + AGAIN_NS);
    } else if (t->stage == ADDRESSING && (t->answered || t->failed || late)) {
        lookup_end(t);
        stage_set(t, DONE, INT64_MAX);
    }
    *running += t->ref != NULL;
}

// ---- the thread --------------------------------------------------------------------------------------

static int search_begin(struct os_browse *b, struct err *e)
{
    b->broken = false;
    int32_t error = b->dns.browse(&b->ref, 0, 0, OS_DISCOVER_TYPE, "local", on_browse, b);
    if (error == 0)
        return 0;
    b->ref = NULL;
    return dns_sd_error(error, "nodes cannot be looked for", e);
}

// The responder has gone, and with it all that it told.
static void search_end(struct os_browse *b, int64_t now_ns)
{
    if (b->ref)
        b->dns.free(b->ref);
    b->ref = NULL;
    b->retry_ns = now_ns + DISCOVER_RETRY_NS;
    while (b->n > 0)
        entry_drop(b, b->n - 1);
}

static int64_t entries_run(struct os_browse *b)
{
    int64_t now = clock_now_ns(), next = b->ref ? INT64_MAX : b->retry_ns;
    size_t running = 0;
    for (size_t i = b->n; i-- > 0;)
        if (b->entries[i]->times <= 0)
            entry_drop(b, i);
    for (size_t i = 0; i < b->n; i++)
        running += b->entries[i]->ref != NULL;
    for (size_t i = 0; i < b->n; i++) {
        struct entry *t = b->entries[i];
        running -= t->ref != NULL;
        entry_run(t, &running, now);
        if (t->stage != NEW && t->due_ns < next)
            next = t->due_ns;
    }
    return next;
}

// Room for the search and a lookup of each entry.
static size_t descriptors_get(const struct os_browse *b, struct pollfd *fds, struct entry **of)
{
    size_t n = 0;
    fds[n++] = (struct pollfd){.fd = b->wake[0], .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = b->ref ? b->dns.descriptor(b->ref) : -1, .events = POLLIN};
    for (size_t i = 0; i < b->n; i++) {
        if (!b->entries[i]->ref)
            continue;
        of[n] = b->entries[i];
        fds[n++] = (struct pollfd){.fd = b->dns.descriptor(b->entries[i]->ref), .events = POLLIN};
    }
    return n;
}

static void *browse_run(void *arg)
{
    struct os_browse *b = arg;
    struct err e = {0};
    for (;;) {
        struct pollfd fds[OS_SEEN_MAX + 2];
        struct entry *of[OS_SEEN_MAX + 2];
        int64_t next = entries_run(b);
        size_t n = descriptors_get(b, fds, of);
        discover_poll(fds, n, next);
        if (fds[0].revents)
            return NULL;
        // Lookups first: the search may end entries.
        for (size_t i = 2; i < n; i++)
            if (fds[i].revents && b->dns.process(of[i]->ref) != 0)
                of[i]->failed = true;
        if (b->ref && fds[1].revents && (b->dns.process(b->ref) != 0 || b->broken))
            search_end(b, clock_now_ns());
        else if (!b->ref && clock_now_ns() >= b->retry_ns && search_begin(b, &e) != 0)
            b->retry_ns = clock_now_ns() + DISCOVER_RETRY_NS;
    }
}

static void browse_free(struct os_browse *b)
{
    b->options.on_change = NULL;
    search_end(b, 0);
    dns_sd_close(&b->dns);
    if (b->wake[0] >= 0)
        close(b->wake[0]);
    if (b->wake[1] >= 0)
        close(b->wake[1]);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

int os_browse_start(const struct os_browse_options *o, struct os_browse **out, struct err *e)
{
    struct os_browse *b = mem_alloc(sizeof *b);
    b->options = *o;
    b->wake[0] = b->wake[1] = -1;
    pthread_mutex_init(&b->lock, NULL);
    int rc = dns_sd_open(&b->dns, o->library, e);
    if (rc == 0)
        rc = os_pipe(b->wake, e);
    if (rc == 0)
        rc = search_begin(b, e);
    if (rc == 0 && pthread_create(&b->thread, NULL, browse_run, b) != 0)
        rc = err_set(e, ERR_BUSY, "no thread can be started to look for nodes");
    if (rc == 0)
        *out = b;
    else
        browse_free(b);
    return rc;
}

void os_browse_stop(struct os_browse *b)
{
    if (!b)
        return;
    close(b->wake[1]);
    b->wake[1] = -1;
    pthread_join(b->thread, NULL);
    browse_free(b);
}

size_t os_browse_list(struct os_browse *b, struct os_seen *out, size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->n && n < max; i++)
        if (b->entries[i]->stage == DONE)
            out[n++] = b->entries[i]->seen;
    pthread_mutex_unlock(&b->lock);
    return n;
}
