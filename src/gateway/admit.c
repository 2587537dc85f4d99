#include "gateway/admit.h"

#include "gateway/core.h"

#include <math.h>
#include <string.h>

#define LEARN_SHARE 0.2 // of the newest request in the moving average

void admit_learn(struct core *c, double duration_s)
{
    if (!(duration_s >= 0))
        return;
    c->duration_s = c->duration_s == 0 ? duration_s
                                       : c->duration_s + LEARN_SHARE * (duration_s - c->duration_s);
}

// `running` requests that began at different times end one after the other, a share of a request's
// duration apart.
static unsigned retry_after(const struct core *c, uint32_t running)
{
    double s = ceil(c->duration_s / (running > 0 ? running : 1));

    return s < 1 ? 1 : s > ADMIT_RETRY_MAX_S ? ADMIT_RETRY_MAX_S : (unsigned)s;
}

static uint32_t count_of_owner(const struct core *c, const struct request *r)
{
    uint32_t n = 0;

    for (const struct request *o = c->requests; o; o = o->next)
        n += !o->over && o != r && strcmp(o->key, r->key) == 0;
    return n;
}

static bool refuse(struct core *c, struct request *r, struct request_fault *fault, unsigned status,
                   const char *code)
{
    c->totals.refused++;
    *fault = (struct request_fault){.status = status, .code = code};
    if (r->retry_after_s == 0)
        r->retry_after_s = 1;
    return false;
}

bool admit(struct core *c, struct request *r, struct request_fault *fault, struct err *e)
{
    uint32_t limit = c->options.max_per_key, of_owner;

    if (c->stopping || c->draining) {
        err_set(e, ERR_CLOSED, "the server is stopping");
        return refuse(c, r, fault, 503, "stopping");
    }
    if (c->n_requests > c->options.max_requests) {
        err_set(e, ERR_BUSY, "%u requests are being answered, the most this server takes",
                c->options.max_requests);
        r->retry_after_s = retry_after(c, c->options.max_requests);
        return refuse(c, r, fault, 503, "queue_full");
    }
    of_owner = limit > 0 ? count_of_owner(c, r) : 0;
    if (limit > 0 && of_owner >= limit) {
        err_set(e, ERR_BUSY, "%u requests of this API key are being answered, the most it may have",
                of_owner);
        r->retry_after_s = retry_after(c, of_owner);
        return refuse(c, r, fault, 429, "rate_limit_exceeded");
    }
    return true;
}
