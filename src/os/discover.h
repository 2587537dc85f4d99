// Nodes on the local network, by DNS-SD over multicast DNS: a node announces "_tandem._tcp", a gateway looks for
// it. Bonjour's calls (dns_sd.h) are loaded at run time: macOS has them, on Linux they come with Avahi
// (libavahi-compat-libdnssd1) and want its daemon. A machine without them does without, and is told so.
//
// What is found is a suggestion, no more. Anybody on the network may announce anything: names, texts and counts
// are held against limits, what is no printable ASCII is replaced, and whether somebody is one of ours is decided
// by the cluster key when it is dialled.
//
// What is announced can be read by everybody on the network: the node's name and port, its id, the program's
// version, and models only if asked to. Never a key, never an address: that is the host's own business.
//
// Owner: whoever started it. Each announcement and each search has a thread of its own; os_browse_list may be called
// from any thread, the rest from one at a time.
#ifndef OS_DISCOVER_H
#define OS_DISCOVER_H

#include "base/err.h"
#include "os/os.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OS_DISCOVER_TYPE "_tandem._tcp"
#define OS_SEEN_MAX 64 // more are passed over

// Once, before a process has other threads: Avahi's stand-in for Bonjour complains on stderr about being used, and
// only the environment keeps it from that.
void os_discover_init(void);

struct os_seen {
    char name[64];
    char host[256]; // an IPv4 address where the network told one, else a name that ends in .local
    uint16_t port;
    char id[OS_ID_HEX + 1]; // node_id_get's; "": it tells none
    char version[32], models[160];
};

struct os_announce_options {
    const char *name; // of the node; the network may add a number to it
    uint16_t port;
    const char *id, *version;
    const char *models;  // names, with commas; NULL: nobody needs to know
    const char *library; // NULL: the environment's TANDEM_DNS_SD, or the system's own
};
struct os_announce;
// 0; ERR_UNSUPPORTED: there is no such library, ERR_NOT_FOUND: nobody answers behind it. Either says what to install
// or start.
int os_announce_start(const struct os_announce_options *o, struct os_announce **out, struct err *e);
void os_announce_stop(struct os_announce *a); // takes it back; NULL is fine

struct os_browse_options {
    const char *library; // as above
    // On the search's thread, when a node was found, or has gone. May be NULL.
    void (*on_change)(void *ctx, const struct os_seen *seen, bool there);
    void *ctx;
};
struct os_browse;
// Errors as above.
int os_browse_start(const struct os_browse_options *o, struct os_browse **out, struct err *e);
void os_browse_stop(struct os_browse *b); // NULL is fine
// What is there now, at most `max`, in the order in which it was found.
size_t os_browse_list(struct os_browse *b, struct os_seen *out, size_t max);

#endif
