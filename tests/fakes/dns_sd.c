// A stand-in for Bonjour's library: a network that the test writes to. Services come and go by fake_dns_sd_put and
// fake_dns_sd_remove; a service without a host never answers a lookup, one with port 0 answers it with an error.
// Environment FAKE_DNS_SD=down: no responder is running. The test opens this very library and calls the functions
// below, so that both see the same network.
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SERVICES_MAX 128
#define REFS_MAX 64
#define NOT_RUNNING (-65563)
#define NO_SUCH_NAME (-65538)
#define UNKNOWN (-65537)
#define ADD 2u

typedef void browse_reply(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                          const char *name, const char *type, const char *domain, void *ctx);
typedef void resolve_reply(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                           const char *full_name, const char *host, uint16_t port_be,
                           uint16_t txt_bytes, const unsigned char *txt, void *ctx);
typedef void query_reply(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                         const char *full_name, uint16_t type, uint16_t class, uint16_t bytes,
                         const void *data, uint32_t ttl, void *ctx);
typedef void register_reply(void *ref, uint32_t flags, int32_t error, const char *name,
                            const char *type, const char *domain, void *ctx);

void fake_dns_sd_put(const char *name, const char *host, const char *address, uint16_t port,
                     const void *txt, size_t txt_bytes);
void fake_dns_sd_remove(const char *name);
void fake_dns_sd_break(void); // the responder goes away: every search ends with an error
// What is announced now: its name, "" where nothing is; port and texts.
void fake_dns_sd_announced(char name[64], uint16_t *port, unsigned char txt[1024], size_t *bytes);
int fake_dns_sd_refs(void); // that were not freed

int32_t DNSServiceBrowse(void **ref, uint32_t flags, uint32_t interface, const char *type,
                         const char *domain, browse_reply *reply, void *ctx);
int32_t DNSServiceResolve(void **ref, uint32_t flags, uint32_t interface, const char *name,
                          const char *type, const char *domain, resolve_reply *reply, void *ctx);
int32_t DNSServiceRegister(void **ref, uint32_t flags, uint32_t interface, const char *name,
                           const char *type, const char *domain, const char *host, uint16_t port_be,
                           uint16_t txt_bytes, const void *txt, register_reply *reply, void *ctx);
int32_t DNSServiceQueryRecord(void **ref, uint32_t flags, uint32_t interface, const char *full_name,
                              uint16_t type, uint16_t class, query_reply *reply, void *ctx);
int DNSServiceRefSockFD(void *ref);
int32_t DNSServiceProcessResult(void *ref);
void DNSServiceRefDeallocate(void *ref);

struct service {
    char name[256], host[256], address[32];
    uint16_t port;
    unsigned char txt[1024];
    size_t txt_bytes;
    int there; // 0: it has gone
};

enum kind { FREE, BROWSE, RESOLVE, QUERY, REGISTER };

struct ref {
    enum kind kind;
    int fds[2];
    void *reply, *ctx;
    char name[256];
    int told[SERVICES_MAX]; // a search's: what it knows of each
    int broken;
    uint16_t port;
    unsigned char txt[1024];
    size_t txt_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct service services[SERVICES_MAX];
static size_t n_services;
static struct ref refs[REFS_MAX];

static void poke(const struct ref *r)
{
    if (write(r->fds[1], "x", 1) != 1)
        abort();
}

// With the lock held from here on.
static struct ref *ref_new(enum kind kind, void *ctx)
{
    for (size_t i = 0; i < REFS_MAX; i++) {
        if (refs[i].kind != FREE)
            continue;
        memset(&refs[i], 0, sizeof refs[i]);
        refs[i].kind = kind;
        refs[i].ctx = ctx;
        if (pipe(refs[i].fds) != 0 || fcntl(refs[i].fds[0], F_SETFL, O_NONBLOCK) != 0)
            abort();
        return &refs[i];
    }
    abort();
}

static struct service *find(const char *name, int by_host)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n_services; i++) {
        const char *own = by_host ? services[i].host : services[i].name;
        if (services[i].there && strncmp(own, name, n) == 0 && strlen(own) == n)
            return &services[i];
    }
    return NULL;
}

static void searches_poke(void)
{
    for (size_t i = 0; i < REFS_MAX; i++)
        if (refs[i].kind == BROWSE)
            poke(&refs[i]);
}

// ---- the test's side -----------------------------------------------------------------------------

void fake_dns_sd_put(const char *name, const char *host, const char *address, uint16_t port,
                     const void *txt, size_t txt_bytes)
{
    pthread_mutex_lock(&lock);
    if (n_services == SERVICES_MAX)
        abort();
    struct service *s = &services[n_services++];
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->host, sizeof s->host, "%s", host ? host : "");
    snprintf(s->address, sizeof s->address, "%s", address ? address : "");
    s->port = port;
    s->txt_bytes = txt_bytes;
    if (txt_bytes > 0)
        memcpy(s->txt, txt, txt_bytes);
    s->there = 1;
    searches_poke();
    pthread_mutex_unlock(&lock);
}

void fake_dns_sd_remove(const char *name)
{
    pthread_mutex_lock(&lock);
    struct service *s = find(name, 0);
    if (s)
        s->there = 0;
    searches_poke();
    pthread_mutex_unlock(&lock);
}

void fake_dns_sd_break(void)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < REFS_MAX; i++)
        refs[i].broken = 1;
    searches_poke();
    pthread_mutex_unlock(&lock);
}

void fake_dns_sd_announced(char name[64], uint16_t *port, unsigned char txt[1024], size_t *bytes)
{
    pthread_mutex_lock(&lock);
    name[0] = '\0';
    for (size_t i = 0; i < REFS_MAX; i++) {
        if (refs[i].kind != REGISTER)
            continue;
        snprintf(name, 64, "%.63s", refs[i].name);
        *port = refs[i].port;
        *bytes = refs[i].txt_bytes;
        memcpy(txt, refs[i].txt, refs[i].txt_bytes);
    }
    pthread_mutex_unlock(&lock);
}

int fake_dns_sd_refs(void)
{
    int n = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < REFS_MAX; i++)
        n += refs[i].kind != FREE;
    pthread_mutex_unlock(&lock);
    return n;
}

// ---- the library's side --------------------------------------------------------------------------

static int down(void)
{
    const char *v = getenv("FAKE_DNS_SD");
    return v && strcmp(v, "down") == 0;
}

int32_t DNSServiceBrowse(void **ref, uint32_t flags, uint32_t interface, const char *type,
                         const char *domain, browse_reply *reply, void *ctx)
{
    (void)interface;
    if (down())
        return NOT_RUNNING;
    if (flags != 0 || !domain || strcmp(type, "_tandem._tcp") != 0)
        return UNKNOWN;
    pthread_mutex_lock(&lock);
    struct ref *r = ref_new(BROWSE, ctx);
    memcpy(&r->reply, &reply, sizeof reply);
    poke(r);
    *ref = r;
    pthread_mutex_unlock(&lock);
    return 0;
}

int32_t DNSServiceResolve(void **ref, uint32_t flags, uint32_t interface, const char *name,
                          const char *type, const char *domain, resolve_reply *reply, void *ctx)
{
    (void)flags;
    (void)interface;
    (void)type;
    (void)domain;
    pthread_mutex_lock(&lock);
    struct ref *r = ref_new(RESOLVE, ctx);
    memcpy(&r->reply, &reply, sizeof reply);
    snprintf(r->name, sizeof r->name, "%s", name);
    const struct service *s = find(name, 0);
    if (s && s->host[0])
        poke(r);
    *ref = r;
    pthread_mutex_unlock(&lock);
    return 0;
}

int32_t DNSServiceQueryRecord(void **ref, uint32_t flags, uint32_t interface, const char *full_name,
                              uint16_t type, uint16_t class, query_reply *reply, void *ctx)
{
    (void)flags;
    (void)interface;
    (void)type;
    (void)class;
    pthread_mutex_lock(&lock);
    struct ref *r = ref_new(QUERY, ctx);
    memcpy(&r->reply, &reply, sizeof reply);
    snprintf(r->name, sizeof r->name, "%s", full_name);
    poke(r);
    *ref = r;
    pthread_mutex_unlock(&lock);
    return 0;
}

int32_t DNSServiceRegister(void **ref, uint32_t flags, uint32_t interface, const char *name,
                           const char *type, const char *domain, const char *host, uint16_t port_be,
                           uint16_t txt_bytes, const void *txt, register_reply *reply, void *ctx)
{
    (void)flags;
    (void)interface;
    (void)type;
    (void)domain;
    (void)host;
    if (down())
        return NOT_RUNNING;
    pthread_mutex_lock(&lock);
    struct ref *r = ref_new(REGISTER, ctx);
    memcpy(&r->reply, &reply, sizeof reply);
    snprintf(r->name, sizeof r->name, "%s", name);
    r->port = ntohs(port_be);
    r->txt_bytes = txt_bytes;
    memcpy(r->txt, txt, txt_bytes);
    poke(r);
    *ref = r;
    pthread_mutex_unlock(&lock);
    return 0;
}

int DNSServiceRefSockFD(void *ref)
{
    return ((struct ref *)ref)->fds[0];
}

void DNSServiceRefDeallocate(void *ref)
{
    struct ref *r = ref;
    pthread_mutex_lock(&lock);
    close(r->fds[0]);
    close(r->fds[1]);
    r->kind = FREE;
    pthread_mutex_unlock(&lock);
}

// The next change that this search does not know, or nothing.
static int search_next(struct ref *r, char name[256], uint32_t *flags)
{
    int found = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_services && !found; i++) {
        if (r->told[i] == services[i].there)
            continue;
        r->told[i] = services[i].there;
        *flags = services[i].there ? ADD : 0;
        snprintf(name, 256, "%s", services[i].name);
        found = 1;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static void browse_process(struct ref *r)
{
    browse_reply *reply;
    char name[256];
    uint32_t flags = 0;
    memcpy(&reply, &r->reply, sizeof reply);
    if (r->broken || down())
        reply(r, 0, 0, UNKNOWN, NULL, NULL, NULL, r->ctx);
    else
        while (search_next(r, name, &flags))
            reply(r, flags, 2, 0, name, "_tandem._tcp.", "local.", r->ctx);
}

static void resolve_process(struct ref *r)
{
    resolve_reply *reply;
    struct service s = {0};
    memcpy(&reply, &r->reply, sizeof reply);
    pthread_mutex_lock(&lock);
    const struct service *found = find(r->name, 0);
    if (found)
        s = *found;
    pthread_mutex_unlock(&lock);
    if (!found || s.port == 0)
        reply(r, 0, 2, NO_SUCH_NAME, NULL, NULL, 0, 0, NULL, r->ctx);
    else
        reply(r, 0, 2, 0, "full name", s.host, htons(s.port), (uint16_t)s.txt_bytes, s.txt, r->ctx);
}

static void query_process(struct ref *r)
{
    query_reply *reply;
    struct in_addr a = {0};
    int known = 0;
    memcpy(&reply, &r->reply, sizeof reply);
    pthread_mutex_lock(&lock);
    const struct service *s = find(r->name, 1);
    known = s && inet_pton(AF_INET, s->address, &a) == 1;
    pthread_mutex_unlock(&lock);
    reply(r, ADD, 2, known ? 0 : NO_SUCH_NAME, r->name, 1, 1, known ? 4 : 0, known ? &a : NULL, 120,
          r->ctx);
}

static void register_process(struct ref *r)
{
    register_reply *reply;
    memcpy(&reply, &r->reply, sizeof reply);
    reply(r, ADD, 0, r->name, "_tandem._tcp.", "local.", r->ctx);
}

int32_t DNSServiceProcessResult(void *ref)
{
    struct ref *r = ref;
    char bytes[64];
    while (read(r->fds[0], bytes, sizeof bytes) > 0)
        ;
    if (r->kind == BROWSE)
        browse_process(r);
    else if (r->kind == RESOLVE)
        resolve_process(r);
    else if (r->kind == QUERY)
        query_process(r);
    else if (r->kind == REGISTER)
        register_process(r);
    return 0;
}
