// When other servers' health is looked at, of those that answer and of those that draw.
#include "gateway/upstream_impl.h"

void upstream_check_done(struct upstream_check *c, bool up, int64_t now_ns)
{
    if (up || c->backoff_ns == 0)
        c->backoff_ns = UPSTREAM_CHECK_SOON_NS;
    c->due_ns = now_ns + (up ? UPSTREAM_CHECK_NS : c->backoff_ns);
    if (!up)
        c->backoff_ns =
            2 * c->backoff_ns < UPSTREAM_CHECK_LATE_NS ? 2 * c->backoff_ns : UPSTREAM_CHECK_LATE_NS;
}

bool upstream_list_is_missing(const struct gateway_upstream *u, long status)
{
    return u->n_models > 0 && (status == 404 || status == 405 || status == 501);
}
