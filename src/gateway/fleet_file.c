// The nodes that joined at run time, kept for the next start: {"nodes":[{"address":"spark:7077","drained":false,
// "role":"read"}]}; "role" only where one was given at run time.
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"
#include "os/os.h"

#include <stdlib.h>
#include <string.h>

static void node_load(struct core *c, const json_t *node)
{
    const char *address = json_string_value(json_object_get(node, "address"));
    const char *role = json_string_value(json_object_get(node, "role"));
    struct net_addr a;
    struct peer *p = NULL;
    struct err e = {0};
    int rc = address ? net_addr_parse(address, "127.0.0.1", MESSAGE_PORT, &a, &e)
                     : err_set(&e, ERR_INVALID, "a node has no \"address\"");

    // One that the command line names too is the command line's.
    if (rc == 0 && fleet_find(c, address))
        return;
    if (rc == 0)
        rc = fleet_add(c, &a, &p, &e);
    if (rc != 0) {
        log_warn("gateway", "a kept node is left out address=%.80s error=\"%s\"",
                 address ? address : "", e.message);
        return;
    }
    p->added = true;
    p->drained = json_is_true(json_object_get(node, "drained"));
    p->has_role = role && place_role_parse(role, &p->role);
}

int fleet_read(struct core *c, const char *text, size_t n, struct err *e)
{
    json_t *o = json_parse(text, n, e), *list = NULL;
    int rc = o ? json_get_array(o, "nodes", &list, e) : e->code;

    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
        node_load(c, json_array_get(list, i));
    json_decref(o);
    return rc;
}

void fleet_load(struct core *c)
{
    const char *path = c->options.nodes_file;
    struct err e = {0};
    char *text = NULL;
    size_t n = 0;
    int rc = path ? os_file_read(path, FLEET_FILE_MAX, &text, &n, &e) : ERR_NOT_FOUND;

    if (rc == 0)
        rc = fleet_read(c, text, n, &e);
    if (rc != 0 && rc != ERR_NOT_FOUND)
        log_warn("gateway", "the nodes that were kept cannot be read file=%s error=\"%s\"", path,
                 e.message);
    free(text);
}

char *fleet_text(const struct core *c)
{
    json_t *o = json_object(), *list = json_array();
    char *text;

    for (size_t i = c->n_models; i < c->n_peers; i++) {
        const struct peer *p = &c->peers[i];
        json_t *node;

        if (!p->added || p->leaving)
            continue;
        node = json_object();
        json_put(node, "address", json_string(p->address));
        json_put(node, "drained", json_boolean(p->drained));
        if (p->has_role)
            json_put(node, "role", json_string(place_role_name(p->role)));
        json_array_append_new(list, node);
    }
    json_put(o, "nodes", list);
    text = json_line(o);
    json_decref(o);
    return text;
}

static int folder_make(const char *path, struct err *e)
{
    char *folder = mem_strdup(path), *slash = strrchr(folder, '/');
    int rc = 0;

    if (slash && slash != folder) {
        *slash = '\0';
        rc = os_mkdirs(folder, e);
    }
    free(folder);
    return rc;
}

void fleet_save(const struct core *c)
{
    const char *path = c->options.nodes_file;
    struct err e = {0};
    char *text;
    int rc;

    if (!path)
        return;
    text = fleet_text(c);
    rc = folder_make(path, &e);
    if (rc == 0)
        rc = os_file_write(path, text, strlen(text), 0600, &e);
    if (rc != 0)
        log_warn("gateway", "the list of nodes is not kept file=%s error=\"%s\"", path, e.message);
    free(text);
}
