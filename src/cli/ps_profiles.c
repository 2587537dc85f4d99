// tandem ps --profiles: what each model costs on each node, by the formulas that placement reckons with.
#include "base/json.h"
#include "cli/ps.h"
#include "sched/profile.h"
#include "sched/profile_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SHORT_TOKENS 512.0
#define LONG_TOKENS 4096.0
#define SIDE_BY_SIDE 4.0

// A figure in a call of printf: each use has a buffer of its own.
#define FIGURE(v) ps_figure((v), (char[PS_FIGURE_BYTES]){0})

const char *ps_figure(double v, char out[PS_FIGURE_BYTES])
{
    if (v > 0)
        snprintf(out, PS_FIGURE_BYTES, v < 99.95 ? "%.3g" : "%.0f", v);
    else
        snprintf(out, PS_FIGURE_BYTES, "-");
    return out;
}

// MB/s of what takes so long per byte.
static double byte_rate(double seconds)
{
    return seconds > 0 ? 1e-6 / seconds : 0;
}

static void read_print(const struct profile *p)
{
    double few = profile_read_s(p, SHORT_TOKENS, 0);
    double many = profile_read_s(p, LONG_TOKENS, 0);
    double deep = profile_read_s(p, SHORT_TOKENS, LONG_TOKENS);

    printf("    reading  512 tokens %s s (%s/s), 4096 tokens %s s (%s/s), 512 at depth 4096 %s s "
           "(%s/s)\n",
           FIGURE(few), FIGURE(SHORT_TOKENS / few), FIGURE(many), FIGURE(LONG_TOKENS / many),
           FIGURE(deep), FIGURE(SHORT_TOKENS / deep));
}

// Time per token of `rows` answers, each as deep.
static double step_ms(const struct profile *p, double rows, double depth)
{
    return 1e3 * profile_step_s(p, rows, rows * depth);
}

static void decode_print(const struct profile *p)
{
    printf("    decode   1 answer %s ms per token at depth 512, %s at 4096; 4 at once %s and %s\n",
           FIGURE(step_ms(p, 1, SHORT_TOKENS)), FIGURE(step_ms(p, 1, LONG_TOKENS)),
           FIGURE(step_ms(p, SIDE_BY_SIDE, SHORT_TOKENS)),
           FIGURE(step_ms(p, SIDE_BY_SIDE, LONG_TOKENS)));
}

// Errors are of logarithms: 0.05 is 5 % off, 2 is anything.
static void profile_print(const struct profile *p)
{
    read_print(p);
    decode_print(p);
    printf("    KV       export %s MB/s, import %s MB/s\n", FIGURE(byte_rate(p->export_byte_s)),
           FIGURE(byte_rate(p->import_byte_s)));
    printf("    memory   %s GiB left, model loaded in %s s\n",
           FIGURE(p->memory_left_bytes / 0x1p30), FIGURE(p->load_s));
    printf("    error    reading %s %%, decode %s %%\n", FIGURE(100 * expm1(p->read_error)),
           FIGURE(100 * expm1(p->step_error)));
}

// From a node that reads to those that write what it read.
static void links_print(const json_t *links, const char *address)
{
    const json_t *k;
    size_t i;

    json_array_foreach(links, i, k)
    {
        if (strcmp(json_string_or(k, "from_address", ""), address) == 0)
            printf("    link     to %s %s ms there and back, %s MB/s there, %s MB/s back\n",
                   json_string_or(k, "to", "-"), FIGURE(json_number_or(k, "rtt_s", 0) * 1e3),
                   FIGURE(json_number_or(k, "up_bytes_per_s", 0) * 1e-6),
                   FIGURE(json_number_or(k, "down_bytes_per_s", 0) * 1e-6));
    }
}

static void node_print(const json_t *node, const json_t *links)
{
    const json_t *known = json_object_get(node, "profile");
    struct profile p = {0};

    printf("\n%s, model %s: ", json_string_or(node, "name", "-"),
           json_string_or(node, "serves", json_string_or(node, "model", "-")));
    if (!json_is_object(known) || profile_parse(known, &p, NULL) != 0) {
        puts("no profile");
        return;
    }
    printf("%s, %.0f samples\n",
           json_is_true(json_object_get(known, "measured")) ? "measured" : "a guess", p.samples);
    profile_print(&p);
    links_print(links, json_string_or(node, "address", "-"));
}

void ps_profiles_print(const json_t *status)
{
    const json_t *links = json_object_get(status, "links"), *node;
    size_t i;

    json_array_foreach(json_object_get(status, "nodes"), i, node)
    {
        // Who only draws has none.
        if (strcmp(json_string_or(node, "does", ""), "draw") != 0)
            node_print(node, links);
    }
}
