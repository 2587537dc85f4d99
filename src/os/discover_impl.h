// What the files of discovery share. Private to os/.
#ifndef OS_DISCOVER_IMPL_H
#define OS_DISCOVER_IMPL_H

#include "base/clock.h"
#include "os/discover.h"
#include "os/dns_sd.h"

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

#define DISCOVER_RETRY_NS (10 * NS_PER_S)

// Waits until one of them is ready or it is that time (INT64_MAX: never); revents are 0 in the latter case.
void discover_poll(struct pollfd *fds, size_t n, int64_t deadline_ns);

// ---- discover_text.c ----
// At most n bytes up to the first NUL; what is no printable ASCII becomes '?'.
void discover_text_clean(const void *text, size_t n, char *out, size_t out_bytes);
// A host name or an address, without the dot at its end; false: it is neither.
bool discover_host_take(const char *host, char out[256]);
// The texts of a service: "key=value", each behind its length.
void discover_texts_take(struct os_seen *s, const unsigned char *txt, size_t bytes);

#endif
