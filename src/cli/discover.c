#include "cli/discover.h"

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "os/discover.h"

#include <stdio.h>
#include <stdlib.h>

#define LOOK_NS (2 * NS_PER_S)

static json_t *seen_json(const struct os_seen *s)
{
    char address[300];
    json_t *o = json_object();

    snprintf(address, sizeof(address), "%s:%u", s->host, s->port);
    json_put(o, "name", json_string(s->name));
    json_put(o, "address", json_string(address));
    json_put(o, "id", s->id[0] ? json_string(s->id) : json_null());
    json_put(o, "version", json_string(s->version));
    json_put(o, "models", s->models[0] ? json_string(s->models) : json_null());
    return o;
}

void discover_print(const json_t *seen, const char *heading)
{
    if (json_array_size(seen) == 0)
        return;
    printf("%s\n%-24s %-28s %-10s %s\n", heading, "NAME", "ADDRESS", "VERSION", "MODELS");
    for (size_t i = 0; i < json_array_size(seen); i++) {
        const json_t *o = json_array_get(seen, i);
        const char *why = json_string_value(json_object_get(o, "why"));

        printf("%-24.40s %-28.60s %-10.10s %s\n", json_string_or(o, "name", "-"),
               json_string_or(o, "address", "-"), json_string_or(o, "version", "-"),
               json_string_or(o, "models", "-"));
        if (why)
            printf("    %s\n", why);
    }
}

int discover_list(const char *command, bool json)
{
    static struct os_seen all[OS_SEEN_MAX];
    const struct os_browse_options o = {0};
    struct os_browse *b = NULL;
    struct err e = {0};
    json_t *list = json_array();
    size_t n;

    os_discover_init();
    if (os_browse_start(&o, &b, &e) != 0) {
        json_decref(list);
        return cli_fail(command, &e);
    }
    clock_sleep_until(clock_now_ns() + LOOK_NS);
    n = os_browse_list(b, all, OS_SEEN_MAX);
    os_browse_stop(b);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, seen_json(&all[i]));
    if (json) {
        json_t *out = json_object();
        char *line;

        json_put(out, "seen", json_incref(list));
        line = json_line(out);
        puts(line);
        free(line);
        json_decref(out);
    } else if (n == 0) {
        puts("no node announces itself on this network");
    } else {
        discover_print(list,
                       "Nodes that announce themselves; the cluster key decides who is yours:");
    }
    json_decref(list);
    return 0;
}
