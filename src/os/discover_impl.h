// What the two files of discovery share. Private to os/.
#ifndef OS_DISCOVER_IMPL_H
#define OS_DISCOVER_IMPL_H

#include "base/clock.h"
#include "os/dns_sd.h"

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

#define DISCOVER_RETRY_NS (10 * NS_PER_S)

// Waits until one of them is ready or it is that time (INT64_MAX: never); revents are 0 in the latter case.
void discover_poll(struct pollfd *fds, size_t n, int64_t deadline_ns);

#endif
