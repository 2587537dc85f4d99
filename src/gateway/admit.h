// Whether there is room for one more request, and when to come again. Private to gateway/; core thread
// only.
#ifndef GATEWAY_ADMIT_H
#define GATEWAY_ADMIT_H

#include "base/err.h"

#include <stdbool.h>

#define ADMIT_RETRY_MAX_S 600

struct core;
struct request;
struct request_fault;

// r is in the core's list already. False: refused; *fault and *e say why and r->retry_after_s when a
// place is likely to be free.
bool admit(struct core *c, struct request *r, struct request_fault *fault, struct err *e);
// An answered request took this long: what Retry-After is computed from.
void admit_learn(struct core *c, double duration_s);

#endif
