// Routes: which path and method runs which function, and who may use it. Private to gateway/; the HTTP
// thread's alone.
//
// To add one: write `enum MHD_Result run_NAME(struct exchange *x)`, and a row in the table of route.c:
//
//   path    as a client writes it, without "/v1"; a last '/' takes the rest of the path along (x->rest)
//   method  "GET" (which answers HEAD too) or "POST". One path may have a row for each
//   scopes  one of which a key must be good for: ACCESS_INFERENCE, ACCESS_ADMIN, ACCESS_ANY of them, or
//           ACCESS_FREE: no key needed
//   run     is called when the body has been read (http_body). It either answers at once
//           (http_answer), or makes a reply, sends the core a message and returns http_await
//   bare    true: the path is not offered under /v1 (Ollama's /api/...)
//   dialect whose error shape refusals take; NULL: OpenAI's
//
// The functions for the APIs stand in route.c, those for operators (health, status, metrics, models,
// erasing) in route_admin.c.
#ifndef GATEWAY_ROUTE_H
#define GATEWAY_ROUTE_H

#include "gateway/access.h"
#include "gateway/http.h"

#include <stdbool.h>

struct dialect;

typedef enum MHD_Result route_function(struct exchange *x);

struct route {
    const char *path, *method;
    unsigned scopes;
    route_function *run;
    bool bare;
    const struct dialect *dialect;
};

// Sets x->route and x->rest; without a route for this path and method, x->allow says which others the
// path has.
void route_find(struct exchange *x, const char *method);
void route_refuse(struct exchange *x, const char *method); // with 404 or 405: there is none
// The body of a refusal in the shape that fits the route, or the headers where there is none. Caller
// frees. code and param may be NULL.
char *route_error(const struct exchange *x, unsigned status, const char *code, const char *param,
                  const char *message);

// ---- route_admin.c ----
route_function run_models, run_model, run_load, run_unload, run_health, run_live, run_ready,
    run_metrics, run_status, run_forget, run_ollama_version, run_ollama_tags, run_ollama_ps,
    run_ollama_show;

#endif
