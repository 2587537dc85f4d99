// Bonjour's calls, as much of them as is needed, declared here after their public documentation and loaded at run
// time. Private to os/.
//
// A reference belongs to the thread that made it. Its descriptor becomes readable when there is something to
// say, and dns_sd_process then calls back; a reference must not be freed inside its own callback.
#ifndef OS_DNS_SD_H
#define OS_DNS_SD_H

#include "base/err.h"

#include <stdint.h>

#define DNS_SD_ADD 2u // flag of a browse reply: it has come; without it, it has gone
#define DNS_SD_TYPE_A 1
#define DNS_SD_CLASS_IN 1
#define DNS_SD_TXT_BYTES 255 // of one entry, with its name

typedef void dns_sd_browse_reply(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                                 const char *name, const char *type, const char *domain, void *ctx);
typedef void dns_sd_resolve_reply(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                                  const char *full_name, const char *host, uint16_t port_be,
                                  uint16_t txt_bytes, const unsigned char *txt, void *ctx);
typedef void dns_sd_query_reply(void *ref, uint32_t flags, uint32_t interface, int32_t error,
                                const char *full_name, uint16_t type, uint16_t class,
                                uint16_t bytes, const void *data, uint32_t ttl, void *ctx);
typedef void dns_sd_register_reply(void *ref, uint32_t flags, int32_t error, const char *name,
                                   const char *type, const char *domain, void *ctx);

struct dns_sd {
    void *library;
    int32_t (*browse)(void **ref, uint32_t flags, uint32_t interface, const char *type,
                      const char *domain, dns_sd_browse_reply *reply, void *ctx);
    int32_t (*resolve)(void **ref, uint32_t flags, uint32_t interface, const char *name,
                       const char *type, const char *domain, dns_sd_resolve_reply *reply,
                       void *ctx);
    int32_t (*announce)(void **ref, uint32_t flags, uint32_t interface, const char *name,
                        const char *type, const char *domain, const char *host, uint16_t port_be,
                        uint16_t txt_bytes, const void *txt, dns_sd_register_reply *reply,
                        void *ctx);
    // May be absent: older releases of Avahi have none.
    int32_t (*query)(void **ref, uint32_t flags, uint32_t interface, const char *full_name,
                     uint16_t type, uint16_t class, dns_sd_query_reply *reply, void *ctx);
    int (*descriptor)(void *ref);
    int32_t (*process)(void *ref);
    void (*free)(void *ref);
};

// The library at `path`, or (NULL) TANDEM_DNS_SD's, or the system's. 0 or ERR_UNSUPPORTED.
int dns_sd_open(struct dns_sd *d, const char *path, struct err *e);
void dns_sd_close(struct dns_sd *d);
// An error of theirs in words, with the way out; returns ERR_NOT_FOUND.
int dns_sd_error(int32_t error, const char *what, struct err *e);

#endif
