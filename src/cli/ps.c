// tandem ps: nodes, rates and requests of a running server.
#include "cli/ps.h"
#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/discover.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PS_IMAGE_MODELS 8 // of one server, on its line

static const char usage[] =
    "usage: tandem ps [--server URL] [--api-key KEY] [--profiles] [--facts] [--json]\n"
    "       tandem ps --discover [--json]";
static const char about[] =
    "Shows the nodes of a running server, what they can do and what they do now. KEPT are the "
    "tokens\n"
    "of finished requests that a node remembers; \"tandem forget\" erases them.\n"
    "Links are from the node that reads prompts to the one that writes: THERE is the way that the\n"
    "KV cache goes, and SETUP what passes until it can be taken in. With --profiles follows for "
    "each\n"
    "node and model what placement reckons with: prompts and answers of some lengths, KV out of "
    "the\n"
    "engine and into it, links, memory, and how far off that is expected to be.";

static const char *text(const json_t *o, const char *member)
{
    return json_string_or(o, member, "-");
}

static double number(const json_t *o, const char *member)
{
    return json_number_value(json_object_get(o, member));
}

static bool is_up(const json_t *node)
{
    return strcmp(text(node, "state"), "up") == 0;
}

static bool is_upstream(const json_t *node)
{
    return strcmp(text(node, "role"), "upstream") == 0;
}

// What the worker measured since it started, where it tells; else what it knew when it greeted.
static double rate(const json_t *node, const char *member)
{
    const json_t *now = json_object_get(json_object_get(node, "worker"), "rates");
    double v = number(now, member);

    return v > 0 ? v : number(node, member);
}

static void node_print(const json_t *node)
{
    char prefill[PS_FIGURE_BYTES], decode[PS_FIGURE_BYTES];
    bool color = term_color(stdout), up = is_up(node);

    printf("%-16.16s %-8s %-22.22s %s%-10s%s %9s %8s %4.0f %7.0f  %-11s %s\n", text(node, "name"),
           text(node, is_upstream(node) ? "role" : "does"), text(node, "address"),
           !color ? ""
           : up   ? "\033[32m"
                  : "\033[33m",
           text(node, "state"), color ? "\033[0m" : "",
           ps_figure(rate(node, "prefill_tokens_per_s"), prefill),
           ps_figure(rate(node, "decode_tokens_per_s"), decode), number(node, "requests"),
           number(json_object_get(node, "worker"), "cells_kept"), text(node, "handoff"),
           text(node, "weights"));
    if (!up)
        printf("    %s\n", text(node, "why"));
    else if (json_string_value(json_object_get(node, "spread")))
        printf("    spread: %s\n", text(node, "spread"));
}

static void request_print(const json_t *r)
{
    printf("%-34s %-6s %-9s %-8s %7.0f %6.0f %7.1f  %s\n", text(r, "id"), text(r, "kind"),
           text(r, "phase"), text(r, "plan"), number(r, "prompt_tokens"), number(r, "gen_tokens"),
           number(r, "age_s"), text(r, "decode_node"));
}

// ---- what the machines are ----------------------------------------------------------------------------

static void gpus_print(const json_t *gpus)
{
    for (size_t i = 0; i < json_array_size(gpus); i++) {
        const json_t *g = json_array_get(gpus, i);

        printf("    GPU      %s, %.1f GiB", text(g, "name"), number(g, "memory_bytes") / 0x1p30);
        if (number(g, "memory_bytes_per_s") > 0)
            printf(" at %.0f GB/s", number(g, "memory_bytes_per_s") / 1e9);
        printf(", driver %s\n", text(g, "driver"));
    }
}

static void nics_print(const json_t *nics)
{
    for (size_t i = 0; i < json_array_size(nics); i++) {
        const json_t *n = json_array_get(nics, i);
        double rate = number(n, "bits_per_s");

        printf("    network  %s", text(n, "name"));
        if (rate > 0)
            printf(", %.1f Gbit/s", rate / 1e9);
        puts(json_is_true(json_object_get(n, "wireless")) ? ", wireless" : "");
    }
}

// From the server to the node and back; KV's rate as the last hand-off from there told.
static void link_print(const json_t *node)
{
    double rtt_s = number(node, "link_rtt_s"), rate = number(node, "link_bytes_per_s");

    if (rtt_s > 0)
        printf("    link     %.3g ms there and back", rtt_s * 1e3);
    if (rtt_s > 0 && rate > 0)
        printf(", %.3g GB/s", rate / 1e9);
    if (rtt_s > 0)
        putchar('\n');
}

static void watts_print(const json_t *power, const char *member, const char *what)
{
    if (number(power, member) > 0)
        printf(" %s %.0f W", what, number(power, member));
}

static void power_print(const json_t *power)
{
    if (!power)
        return;
    printf("    power   ");
    if (json_string_value(json_object_get(power, "why")))
        printf(" %s", text(power, "why"));
    watts_print(power, "idle_w", "idle");
    watts_print(power, "prefill_w", "reading");
    watts_print(power, "decode_w", "writing");
    if (json_string_value(json_object_get(power, "source")))
        printf(" by %s", text(power, "source"));
    putchar('\n');
}

static void facts_print(const json_t *node)
{
    const json_t *f = json_object_get(node, "facts");

    if (!f)
        return;
    printf("\n%s  %s\n    system   %s\n    cpu      %s, %.0f cores of %.0f, %.0f fast\n",
           text(node, "name"), text(node, "node_id"), text(f, "system"), text(f, "cpu"),
           number(f, "cores"), number(f, "cores_physical"), number(f, "cores_fast"));
    printf("    memory   %.1f GiB", number(f, "memory_bytes") / 0x1p30);
    if (number(f, "memory_bytes_per_s") > 0)
        printf(" at %.1f GB/s", number(f, "memory_bytes_per_s") / 1e9);
    putchar('\n');
    gpus_print(json_object_get(f, "gpus"));
    nics_print(json_object_get(f, "nics"));
    link_print(node);
    power_print(json_object_get(json_object_get(node, "worker"), "power"));
}

static void machines_print(const json_t *status)
{
    const json_t *nodes = json_object_get(status, "nodes");

    for (size_t i = 0; i < json_array_size(nodes); i++)
        facts_print(json_array_get(nodes, i));
}

// ---- pictures -----------------------------------------------------------------------------------------

// What was learned of a model's speed, of a step or of a picture.
static void speeds_print(const json_t *speeds, const char *of)
{
    const json_t *speed;
    size_t i;

    json_array_foreach(speeds, i, speed)
    {
        printf("    %4.0f x %-4.0f  %.3g s a %s\n", number(speed, "width"), number(speed, "height"),
               number(speed, "step_s"), of);
    }
}

static void images_print(const json_t *o)
{
    if (!json_is_object(o))
        return;
    printf("\nIMAGES %s, %s, %s%s: %.0f waiting, %.0f drawn, %.0f failed, %.0f cancelled\n",
           text(o, "model"), text(o, "layout"), text(o, "state"),
           json_is_true(json_object_get(o, "paused")) ? ", paused while other requests run" : "",
           number(o, "waiting"), number(o, "pictures"), number(o, "failed"),
           number(o, "cancelled"));
    if (strcmp(text(o, "state"), "failed") == 0)
        printf("    %s\n", text(o, "why"));
    speeds_print(json_object_get(o, "speeds"), "step");
}

// Nodes, and other servers, that draw.
static void image_nodes_print(const json_t *nodes)
{
    const json_t *o, *m;
    size_t i, k;

    if (json_array_size(nodes) > 0)
        printf("\n%-16s %-10s %-5s %4s %6s %6s %6s  %s\n", "IMAGE NODE", "KIND", "STATE", "REQ",
               "DRAWN", "FAILED", "LEFT", "MODELS");
    json_array_foreach(nodes, i, o)
    {
        printf("%-16s %-10s %-5s %4.0f %6.0f %6.0f %6.0f ", text(o, "name"), text(o, "kind"),
               text(o, "state"), number(o, "waiting") + number(o, "drawing"), number(o, "pictures"),
               number(o, "failed"), number(o, "cancelled"));
        json_array_foreach(json_object_get(o, "models"), k, m)
        {
            if (k < PS_IMAGE_MODELS)
                printf(" %s", text(m, "model"));
        }
        printf("%s\n", k > PS_IMAGE_MODELS ? " ..." : "");
        if (strcmp(text(o, "state"), "down") == 0)
            printf("    %s\n", text(o, "why"));
        json_array_foreach(json_object_get(o, "models"), k, m)
        {
            if (k < PS_IMAGE_MODELS)
                speeds_print(json_object_get(m, "speeds"), text(o, "speeds_of"));
        }
    }
}

static void image_jobs_print(const json_t *o)
{
    static const char *const members[] = {"queued", "in_progress", "completed", "failed",
                                          "cancelled"};
    double all = 0;

    for (size_t i = 0; i < 5; i++)
        all += number(o, members[i]);
    if (all > 0)
        printf("\nIMAGE JOBS %.0f queued, %.0f in progress, %.0f completed, %.0f failed, %.0f "
               "cancelled\n",
               number(o, "queued"), number(o, "in_progress"), number(o, "completed"),
               number(o, "failed"), number(o, "cancelled"));
}

static void way_print(const json_t *link)
{
    char rtt[PS_FIGURE_BYTES], up[PS_FIGURE_BYTES], down[PS_FIGURE_BYTES], setup[PS_FIGURE_BYTES];

    printf("%-16.16s %-16.16s %10s %10s %10s %10s\n", text(link, "from"), text(link, "to"),
           ps_figure(number(link, "rtt_s") * 1e3, rtt),
           ps_figure(number(link, "up_bytes_per_s") * 1e-6, up),
           ps_figure(number(link, "down_bytes_per_s") * 1e-6, down),
           ps_figure(number(link, "setup_s") * 1e3, setup));
}

static void ways_print(const json_t *links)
{
    if (json_array_size(links) == 0)
        return;
    printf("\n%-16s %-16s %10s %10s %10s %10s\n", "FROM", "TO", "RTT ms", "THERE MB/s", "BACK MB/s",
           "SETUP ms");
    for (size_t i = 0; i < json_array_size(links); i++)
        way_print(json_array_get(links, i));
}

static void status_print(const json_t *status)
{
    const json_t *nodes = json_object_get(status, "nodes");
    const json_t *requests = json_object_get(status, "requests");
    const json_t *totals = json_object_get(status, "totals");

    printf("%s, model %s, %s, up %.0f s\n\n", text(status, "build"), text(status, "model"),
           text(status, "status"), number(status, "uptime_s"));
    printf("%-16s %-8s %-22s %-10s %9s %8s %4s %7s  %-11s %s\n", "NODE", "ROLE", "ADDRESS", "STATE",
           "PREFILL/s", "DECODE/s", "REQ", "KEPT", "HANDOFF", "WEIGHTS");
    for (size_t i = 0; i < json_array_size(nodes); i++)
        node_print(json_array_get(nodes, i));
    ways_print(json_object_get(status, "links"));
    printf("\n%.0f answered: %.0f hybrid, %.0f serial, %.0f local, %.0f remote; %.0f fell back, "
           "%.0f failed, %.0f cancelled, %.0f refused\n",
           number(totals, "hybrid") + number(totals, "serial") + number(totals, "local") +
               number(totals, "remote"),
           number(totals, "hybrid"), number(totals, "serial"), number(totals, "local"),
           number(totals, "remote"), number(totals, "fallbacks"), number(totals, "failed"),
           number(totals, "cancelled"), number(totals, "refused"));
    images_print(json_object_get(status, "images"));
    image_nodes_print(json_object_get(status, "image_nodes"));
    image_jobs_print(json_object_get(status, "image_jobs"));
    if (json_array_size(requests) == 0)
        return;
    printf("\n%-34s %-6s %-9s %-8s %7s %6s %7s  %s\n", "REQUEST", "KIND", "PHASE", "PLAN", "PROMPT",
           "GEN", "AGE", "NODE");
    for (size_t i = 0; i < json_array_size(requests); i++)
        request_print(json_array_get(requests, i));
}

static int ps_run(int argc, char **argv)
{
    struct client c = {.server = CLIENT_SERVER};
    bool json = false, done = false, discover = false, facts = false, profiles = false;
    const struct cli_option options[] = {
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&c.server,
         .arg = "URL",
         .help = "the server (" CLIENT_SERVER ")"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&c.api_key,
         .arg = "KEY",
         .help = "its API key, if it has one"},
        {.name = "--profiles",
         .kind = CLI_FLAG,
         .value = &profiles,
         .help = "show also how fast each node is at what, as measured"},
        {.name = "--facts",
         .kind = CLI_FLAG,
         .value = &facts,
         .help = "show also what each machine is: processor, memory, GPUs, network, power"},
        {.name = "--discover",
         .kind = CLI_FLAG,
         .value = &discover,
         .help = "ask no server, but the network: which nodes announce themselves"},
        {.name = "--json", .kind = CLI_FLAG, .value = &json, .help = "print what the server told"},
        {0},
    };
    struct err e = {0};
    json_t *status = NULL;
    int rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);

    if (rc == 0 && done)
        return 0;
    if (rc == 0 && discover)
        return discover_list("ps", json);
    if (rc == 0)
        rc = client_get(&c, "/v1/tandem/status", &status, &e);
    if (rc != 0)
        return cli_fail("ps", &e);
    if (json) {
        char *line = json_line(status);

        puts(line);
        free(line);
    } else {
        status_print(status);
        discover_print(json_object_get(status, "seen"),
                       "\nSeen on the network, not used (\"tandem nodes add ADDRESS\"):");
        if (profiles)
            ps_profiles_print(status);
        if (facts)
            machines_print(status);
    }
    json_decref(status);
    return 0;
}

const struct cli_command cli_ps = {"ps", "nodes, rates and requests of a running server", ps_run};
