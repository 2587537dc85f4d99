#include "net/conn.h"

#include "base/clock.h"

#define SLICE_MIN_BYTES 1024
#define SLICE_MAX_BYTES (256 << 10)
#define SLICE_S 0.5e-3

void net_pace_init(struct net_pace *p, double bytes_per_s)
{
    *p = (struct net_pace){.bytes_per_s = bytes_per_s > 0 ? bytes_per_s : 0};
}

void net_pace_begin(struct net_pace *p, int64_t now_ns)
{
    double earliest = (double)(now_ns - NET_PACE_CREDIT_NS);
    if (p->clear_ns < earliest)
        p->clear_ns = earliest;
}

size_t net_pace_slice(const struct net_pace *p)
{
    double slice = p->bytes_per_s * SLICE_S;
    if (p->bytes_per_s <= 0 || slice > SLICE_MAX_BYTES)
        slice = SLICE_MAX_BYTES;
    if (slice < SLICE_MIN_BYTES)
        slice = SLICE_MIN_BYTES;
    return (size_t)slice;
}

int64_t net_pace_book(struct net_pace *p, size_t n, int64_t now_ns)
{
    double earliest = (double)(now_ns - NET_PACE_CATCH_UP_NS);
    if (p->clear_ns < earliest)
        p->clear_ns = earliest;
    p->clear_ns += (double)n * (double)NS_PER_S / p->bytes_per_s;
    return (int64_t)p->clear_ns;
}
