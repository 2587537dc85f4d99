#include "os/dns_sd.h"

#include "os/discover.h"
#include "os/system.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define MISSING                                                                                    \
    "there is no DNS-SD here (%s): install libavahi-compat-libdnssd1 and avahi-daemon, or name "   \
    "nodes by their addresses"

static const struct {
    int32_t code;
    const char *text;
} texts[] = {
    {-65537, "no responder answers; is avahi-daemon running?"},
    {-65563, "no responder is running"},
    {-65548, "the name is taken"},
    {-65540, "a name or a text is not acceptable"},
    {-65553, "the responder refuses"},
    {-65570, "this system's settings do not allow it"},
};

// POSIX's way around C, which does not let a pointer to data become one to a function.
static bool symbol_get(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

void os_discover_init(void)
{
    setenv("AVAHI_COMPAT_NOWARN", "1", 0);
}

int dns_sd_open(struct dns_sd *d, const char *path, struct err *e)
{
    const char *named = getenv("TANDEM_DNS_SD");
    *d = (struct dns_sd){0};
    if (!path)
        path = named && *named ? named : system_dns_sd_library();
    // It stays when it is closed: what lies under it (libdbus) keeps memory for as long as the process lives.
    d->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!d->library)
        return err_set(e, ERR_UNSUPPORTED, MISSING, path);
    bool all = symbol_get(d->library, "DNSServiceBrowse", &d->browse);
    all &= symbol_get(d->library, "DNSServiceResolve", &d->resolve);
    all &= symbol_get(d->library, "DNSServiceRegister", &d->announce);
    all &= symbol_get(d->library, "DNSServiceRefSockFD", &d->descriptor);
    all &= symbol_get(d->library, "DNSServiceProcessResult", &d->process);
    all &= symbol_get(d->library, "DNSServiceRefDeallocate", &d->free);
    symbol_get(d->library, "DNSServiceQueryRecord", &d->query);
    if (all)
        return 0;
    dns_sd_close(d);
    return err_set(e, ERR_UNSUPPORTED, "%s lacks the calls of DNS-SD; set TANDEM_DNS_SD to another",
                   path);
}

void dns_sd_close(struct dns_sd *d)
{
    if (d->library)
        dlclose(d->library);
    *d = (struct dns_sd){0};
}

int dns_sd_error(int32_t error, const char *what, struct err *e)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == error)
            return err_set(e, ERR_NOT_FOUND, "%s: %s", what, texts[i].text);
    return err_set(e, ERR_NOT_FOUND, "%s: DNS-SD's error %d", what, (int)error);
}
