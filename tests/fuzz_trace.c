// Traces of requests, from anybody: accepted or refused with a line, and what is accepted keeps its promises.
#include "plan/trace.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace t;
    struct err e = {0};
    char *exact = malloc(size > 0 ? size : 1); // so that reading past the end is seen
    if (exact == NULL)
        abort();
    if (size > 0)
        memcpy(exact, data, size);
    int rc = trace_parse(exact, size, &t, &e);
    if (rc != 0 && (e.message[0] == '\0' || t.rows != NULL))
        abort();
    for (size_t i = 0; rc == 0 && i < t.n; i++) {
        const struct trace_row *r = &t.rows[i];
        if (r->prompt_tokens == 0 || r->answer_tokens == 0 || !(r->arrival_s >= 0) ||
            (i > 0 && r->arrival_s < r[-1].arrival_s) ||
            (r->session != TRACE_NO_SESSION && r->session >= t.sessions))
            abort();
    }
    if (rc == 0)
        trace_fini(&t);
    free(exact);
    return 0;
}
