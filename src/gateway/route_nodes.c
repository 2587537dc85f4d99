// Routes for the list of nodes: who is there, joins, drains and leaves.
#include "gateway/route.h"

#include "base/json.h"
#include "sched/place.h"

#include <stdio.h>
#include <string.h>

static enum MHD_Result refuse_for(struct exchange *x, unsigned status, const char *param,
                                  const char *message)
{
    http_body_drop(x);
    return http_answer(
        x, status, route_error(x, status, status == 404 ? "not_found" : "invalid", param, message));
}

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *message)
{
    return refuse_for(x, status, "address", message);
}

static enum MHD_Result order_send(struct exchange *x, enum query_kind kind, const char *address,
                                  size_t n, uint32_t role)
{
    struct query *q;

    if (n >= FLEET_ADDRESS_BYTES)
        return refuse(x, 400, "the address is too long; say HOST:PORT");
    q = query_new(kind, reply_new(x->connection), NULL);
    snprintf(q->order.address, sizeof(q->order.address), "%.*s", (int)n, address);
    q->order.role = role;
    q->order.force = kind == QUERY_NODE_REMOVE && http_has_argument(x, "force");
    http_body_drop(x);
    return route_query_send(x, q);
}

static enum MHD_Result send_order(struct exchange *x, enum query_kind kind, const char *address,
                                  size_t n)
{
    return order_send(x, kind, address, n, 0);
}

enum MHD_Result run_nodes(struct exchange *x)
{
    return send_order(x, QUERY_NODES, "", 0);
}

enum MHD_Result run_node(struct exchange *x)
{
    return send_order(x, QUERY_NODE, x->rest, strlen(x->rest));
}

enum MHD_Result run_node_remove(struct exchange *x)
{
    return send_order(x, QUERY_NODE_REMOVE, x->rest, strlen(x->rest));
}

// {"address": "HOST:PORT"}
enum MHD_Result run_node_add(struct exchange *x)
{
    char address[FLEET_ADDRESS_BYTES] = "";
    struct err e = {0};
    size_t n;
    const char *body = http_body(x, &n);
    json_t *o = json_parse(body, n, &e);
    int rc = o ? json_copy_string(o, "address", address, sizeof(address), &e) : e.code;

    json_decref(o);
    if (rc == 0 && !address[0])
        rc = err_set(&e, ERR_INVALID, "'address' is missing: say which node, as HOST:PORT");
    return rc == 0 ? send_order(x, QUERY_NODE_ADD, address, strlen(address))
                   : refuse(x, 400, e.message);
}

// {"role": "read"}
static enum MHD_Result give_role(struct exchange *x, size_t n_address)
{
    struct err e = {0};
    char name[16] = "";
    uint32_t role = 0;
    size_t n;
    const char *body = http_body(x, &n);
    json_t *o = json_parse(body, n, &e);
    int rc = o ? json_copy_string(o, "role", name, sizeof(name), &e) : e.code;

    json_decref(o);
    if (rc == 0 && !place_role_parse(name, &role))
        rc = err_set(&e, ERR_INVALID, "'role' is \"%s\"; it can be read, write or both", name);
    return rc == 0 ? order_send(x, QUERY_NODE_ROLE, x->rest, n_address, role)
                   : refuse_for(x, 400, "role", e.message);
}

// ADDRESS/drain, ADDRESS/resume, ADDRESS/role
enum MHD_Result run_node_act(struct exchange *x)
{
    size_t n = strcspn(x->rest, "/");
    const char *word = x->rest + n;

    if (strcmp(word, "/drain") == 0)
        return send_order(x, QUERY_NODE_DRAIN, x->rest, n);
    if (strcmp(word, "/resume") == 0)
        return send_order(x, QUERY_NODE_RESUME, x->rest, n);
    if (strcmp(word, "/role") == 0)
        return give_role(x, n);
    return refuse(x, 404,
                  "there are POST /tandem/nodes/ADDRESS/drain, POST /tandem/nodes/ADDRESS/resume "
                  "and POST /tandem/nodes/ADDRESS/role");
}
