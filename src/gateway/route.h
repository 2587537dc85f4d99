// Routes: which path and method runs which function, and who may use it. Private to gateway/; the HTTP
// thread's alone.
//
// To add one: write `enum MHD_Result run_NAME(struct exchange *x)`, and a row in the table of route.c:
//
//   path    as a client writes it, without "/v1"; a last '/' takes the rest of the path along (x->rest)
//   method  "GET" (which answers HEAD too), "POST" or "DELETE". One path may have a row for each
//   scopes  one of which a key must be good for: ACCESS_INFERENCE, ACCESS_ADMIN, ACCESS_ANY of them, or
//           ACCESS_FREE: no key needed
//   run     is called when the body has been read (http_body). It either answers at once
//           (http_answer), or makes a reply, sends the core a message and returns http_await
//   bare    true: the path is not offered under /v1 (Ollama's /api/...)
//   dialect whose error shape refusals take; NULL: OpenAI's
//   take    gets the body piece by piece as it comes, instead of its being kept; refuses with http_refuse.
//           NULL: the body is kept
//
// The functions for the APIs stand in route.c, those for operators (health, status, metrics, models,
// erasing) in route_admin.c.
#ifndef GATEWAY_ROUTE_H
#define GATEWAY_ROUTE_H

#include "gateway/access.h"
#include "gateway/http.h"
#include "gateway/images.h"

#include <jansson.h>
#include <stdbool.h>

struct dialect;

typedef enum MHD_Result route_function(struct exchange *x);
typedef void route_take(struct exchange *x, const char *data, size_t n);

struct route {
    const char *path, *method;
    unsigned scopes;
    route_function *run;
    bool bare;
    const struct dialect *dialect;
    route_take *take;
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
    run_metrics, run_status, run_forget, run_explain, run_ollama_version, run_ollama_tags,
    run_ollama_ps, run_ollama_show;
// Sends the core a query that is ready. Takes it.
enum MHD_Result route_query_send(struct exchange *x, struct query *q);

// ---- route_nodes.c ----
route_function run_nodes, run_node, run_node_add, run_node_act, run_node_remove;

// ---- route_files.c, route_tuning.c ----
route_take run_files_take;
route_function run_files_create, run_files, run_file, run_file_delete, run_tuning_create,
    run_tuning_jobs, run_tuning_job, run_tuning_act;

// ---- route_images.c ----
route_function run_images_create, run_images_edit, run_images_file;
enum MHD_Result route_images_none(struct exchange *x); // this server draws none; drops the body
enum MHD_Result route_images_fault(struct exchange *x, const struct parse_fault *f);
// How the client called this server, for addresses that lead back here.
void route_images_base(const struct exchange *x, char out[IMAGES_HOST_BYTES]);
// A request of either kind, as a form or JSON: its body, and its files and what it is into *ask. NULL: *fault says why.
json_t *route_images_body(struct exchange *x, struct images_ask *ask, struct parse_fault *fault);

// ---- route_image_jobs.c ----
route_function run_image_job_create, run_image_jobs, run_image_job, run_image_job_act,
    run_image_job_delete;

void route_form_free(struct http_form *form); // NULL is nothing

#endif
