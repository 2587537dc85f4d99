#include "gateway/route.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/images.h"
#include "gateway/messages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the APIs -----------------------------------------------------------------------------------------

// Every request that workers have a part in, in whatever dialect its route has.
static enum MHD_Result run_dialect(struct exchange *x)
{
    struct core_message m = {.what = CORE_REQUEST};
    struct parse_request in;
    struct parse_fault fault;
    struct reply *reply;
    size_t n;
    const char *body = http_body(x, &n);
    const struct dialect *dialect =
        x->options->keep_billing ? messages_verbatim(x->route->dialect) : x->route->dialect;
    int rc = parse_request(dialect, body, n, &in, &fault);

    http_body_drop(x);
    if (rc != 0) {
        parse_request_fini(&in);
        return http_answer(x, (unsigned)fault.status,
                           route_error(x, (unsigned)fault.status, err_name(fault.e.code),
                                       fault.param, fault.e.message));
    }
    memcpy(in.generate.owner, x->owner, sizeof(x->owner));
    reply = reply_new(x->connection);
    m.request = request_new(&in, reply);
    if (m.request->in.stream)
        reply_type_set(reply, x->route->dialect->content_type);
    memcpy(m.request->key, x->key ? x->key->owner : "", x->key ? sizeof(x->key->owner) : 1);
    memcpy(m.request->request_id, x->request_id, sizeof(x->request_id));
    rc = core_send(x->core, &m, 0);
    x->chat = rc == 0;
    images_chats(x->images, rc == 0);
    if (rc != 0)
        request_free(m.request);
    return http_await(x, reply, rc);
}

// ---- the table ----------------------------------------------------------------------------------------

static route_function run_root;

static const struct route routes[] = {
    {"/", "GET", ACCESS_FREE, run_root, true, NULL, NULL},
    {"/chat/completions", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_chat, NULL},
    {"/completions", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_text, NULL},
    {"/responses", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_responses, NULL},
    {"/messages", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_messages, NULL},
    {"/messages/count_tokens", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_count, NULL},
    {"/api/chat", "POST", ACCESS_INFERENCE, run_dialect, true, &dialect_ollama, NULL},
    {"/api/generate", "POST", ACCESS_INFERENCE, run_dialect, true, &dialect_ollama_generate, NULL},
    {"/api/tags", "GET", ACCESS_ANY, run_ollama_tags, true, &dialect_ollama, NULL},
    {"/api/ps", "GET", ACCESS_ANY, run_ollama_ps, true, &dialect_ollama, NULL},
    {"/api/show", "POST", ACCESS_ANY, run_ollama_show, true, &dialect_ollama, NULL},
    {"/api/version", "GET", ACCESS_ANY, run_ollama_version, true, &dialect_ollama, NULL},
    {"/embeddings", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_embeddings, NULL},
    {"/rerank", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_rerank, NULL},
    {"/reranking", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_rerank, NULL},
    {"/tokenize", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_tokenize, NULL},
    {"/detokenize", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_detokenize, NULL},
    {"/apply-template", "POST", ACCESS_INFERENCE, run_dialect, false, &dialect_template, NULL},
    {"/images/generations", "POST", ACCESS_INFERENCE, run_images_create, false, NULL, NULL},
    {"/images/edits", "POST", ACCESS_INFERENCE, run_images_edit, false, NULL, NULL},
    {"/images/files/", "GET", ACCESS_FREE, run_images_file, false, NULL, NULL},
    {"/images/jobs", "POST", ACCESS_INFERENCE, run_image_job_create, false, NULL, NULL},
    {"/images/jobs", "GET", ACCESS_ANY, run_image_jobs, false, NULL, NULL},
    {"/images/jobs/", "GET", ACCESS_ANY, run_image_job, false, NULL, NULL},
    {"/images/jobs/", "POST", ACCESS_ANY, run_image_job_act, false, NULL, NULL},
    {"/images/jobs/", "DELETE", ACCESS_ANY, run_image_job_delete, false, NULL, NULL},
    {"/models", "GET", ACCESS_ANY, run_models, false, NULL, NULL},
    {"/models/load", "POST", ACCESS_ADMIN, run_load, false, NULL, NULL},
    {"/models/unload", "POST", ACCESS_ADMIN, run_unload, false, NULL, NULL},
    {"/models/", "GET", ACCESS_ANY, run_model, false, NULL, NULL},
    {"/health", "GET", ACCESS_FREE, run_health, false, NULL, NULL},
    {"/livez", "GET", ACCESS_FREE, run_live, false, NULL, NULL},
    {"/readyz", "GET", ACCESS_FREE, run_ready, false, NULL, NULL},
    {"/metrics", "GET", ACCESS_ADMIN, run_metrics, true, NULL, NULL},
    {"/tandem/status", "GET", ACCESS_ADMIN, run_status, false, NULL, NULL},
    {"/tandem/explain", "POST", ACCESS_ADMIN, run_explain, false, NULL, NULL},
    {"/tandem/forget", "POST", ACCESS_ADMIN, run_forget, false, NULL, NULL},
    {"/tandem/nodes", "GET", ACCESS_ADMIN, run_nodes, false, NULL, NULL},
    {"/tandem/nodes", "POST", ACCESS_ADMIN, run_node_add, false, NULL, NULL},
    {"/tandem/nodes/", "GET", ACCESS_ADMIN, run_node, false, NULL, NULL},
    {"/tandem/nodes/", "POST", ACCESS_ADMIN, run_node_act, false, NULL, NULL},
    {"/tandem/nodes/", "DELETE", ACCESS_ADMIN, run_node_remove, false, NULL, NULL},
    {"/files", "POST", ACCESS_ADMIN, run_files_create, false, NULL, run_files_take},
    {"/files", "GET", ACCESS_ADMIN, run_files, false, NULL, NULL},
    {"/files/", "GET", ACCESS_ADMIN, run_file, false, NULL, NULL},
    {"/files/", "DELETE", ACCESS_ADMIN, run_file_delete, false, NULL, NULL},
    {"/fine_tuning/jobs", "POST", ACCESS_ADMIN, run_tuning_create, false, NULL, NULL},
    {"/fine_tuning/jobs", "GET", ACCESS_ADMIN, run_tuning_jobs, false, NULL, NULL},
    {"/fine_tuning/jobs/", "GET", ACCESS_ADMIN, run_tuning_job, false, NULL, NULL},
    {"/fine_tuning/jobs/", "POST", ACCESS_ADMIN, run_tuning_act, false, NULL, NULL},
};
#define N_ROUTES (sizeof(routes) / sizeof(routes[0]))

static bool path_matches(const struct route *r, const char *url, const char **rest)
{
    const char *path = !r->bare && strncmp(url, "/v1/", 4) == 0 ? url + 3 : url;
    size_t n = strlen(r->path);

    *rest = path + n;
    if (n > 1 && r->path[n - 1] == '/')
        return strncmp(path, r->path, n) == 0 && path[n];
    return strcmp(path, r->path) == 0;
}

static bool method_matches(const struct route *r, const char *method)
{
    return strcmp(r->method, method) == 0 ||
           (strcmp(r->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

// "GET /v1/models/{id}". Caller frees.
static char *route_text(const struct route *r)
{
    size_t n = strlen(r->path);

    return mem_format("%s %s%s%s", r->method, r->bare ? "" : "/v1", r->path,
                      n > 1 && r->path[n - 1] == '/' ? "{id}" : "");
}

// Some clients ask here first whether a server is there at all.
static enum MHD_Result run_root(struct exchange *x)
{
    json_t *o = json_object(), *list = json_array();
    char *text;

    for (size_t i = 0; i < N_ROUTES; i++) {
        text = route_text(&routes[i]);
        json_array_append_new(list, json_string(text));
        free(text);
    }
    json_put(o, "server", json_string("tandem"));
    json_put(o, "routes", list);
    text = json_line(o);
    json_decref(o);
    return http_answer(x, 200, text);
}

static void refuse_path(struct exchange *x)
{
    struct buf text;

    buf_init(&text, 8192);
    buf_printf(&text, "there is no route %.200s here; there are:", x->url);
    for (size_t i = 0; i < N_ROUTES; i++) {
        char *route = route_text(&routes[i]);

        buf_printf(&text, " %s", route);
        free(route);
    }
    buf_puts(&text, "; those of /v1 also without it");
    http_refuse(x, 404, "no_such_route", (const char *)text.data);
    buf_fini(&text);
}

static void allow_add(struct exchange *x, const struct route *r)
{
    size_t n = strlen(x->allow);

    snprintf(x->allow + n, sizeof(x->allow) - n, "%s%s", n > 0 ? ", " : "",
             strcmp(r->method, "GET") == 0 ? "GET, HEAD" : r->method);
}

void route_find(struct exchange *x, const char *method)
{
    const char *rest;

    for (size_t i = 0; i < N_ROUTES && !x->route; i++) {
        if (!path_matches(&routes[i], x->url, &rest))
            continue;
        if (method_matches(&routes[i], method)) {
            x->route = &routes[i];
            x->rest = rest;
        } else {
            allow_add(x, &routes[i]);
        }
    }
    if (x->route)
        x->allow[0] = '\0';
}

void route_refuse(struct exchange *x, const char *method)
{
    char message[160];

    if (x->allow[0]) {
        snprintf(message, sizeof(message), "%.20s is not a method of this route; use %s", method,
                 x->allow);
        http_refuse(x, 405, "method_not_allowed", message);
    } else {
        refuse_path(x);
    }
}

// Whose shape an error takes: the route's; where there is none, by what Anthropic's clients always send.
static const struct dialect *error_dialect(const struct exchange *x)
{
    if (x->route && x->route->dialect)
        return x->route->dialect;
    return http_header(x, "anthropic-version") ? &dialect_messages : &dialect_chat;
}

char *route_error(const struct exchange *x, unsigned status, const char *code, const char *param,
                  const char *message)
{
    const struct answer_fault f = {status, code, param && param[0] ? param : NULL, message};
    struct buf out;

    buf_init(&out, 1u << 20);
    error_dialect(x)->refusal(&f, &out);
    return buf_take(&out);
}
