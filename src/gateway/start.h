// Starting a gateway on workers that are not processes: for tests. Private to gateway/.
#ifndef GATEWAY_START_H
#define GATEWAY_START_H

#include "gateway/core.h"

// As gateway_start; source NULL is the supervisor.
int gateway_start_on(const struct gateway_options *o, const struct core_source *source,
                     struct gateway **out, uint16_t *port, struct err *e);
struct core *gateway_core(struct gateway *g);

#endif
