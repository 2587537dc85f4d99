// What the files of `tandem serve` share. Private to cli/.
#ifndef CLI_SERVE_H
#define CLI_SERVE_H

#include "cli/cli.h"
#include "gateway/gateway.h"

struct serve_models {
    struct cli_list given;
    bool store, any_memory;
    double idle_s;
};

// Fills o->models; the worker's other options are set. ERR_NOT_FOUND, ERR_BUSY (no memory), ERR_INVALID.
int serve_models_find(const struct serve_models *s, struct gateway_options *o, struct err *e);
// Is there memory for the models that stay loaded and the image model together? ERR_BUSY with the figures.
int serve_models_room(const struct serve_models *s, const struct gateway_options *o, struct err *e);
// How many were written.
size_t serve_models_options(struct serve_models *s, struct gateway_options *o,
                            struct cli_option *out);

// ---- serve_placing.c ----
struct serve_placing {
    const char *policy, *plan, *profiles; // NULL: not given
};
size_t serve_placing_options(struct serve_placing *s, struct gateway_options *o,
                             struct cli_option *out);
// Fills what is about placement. ERR_INVALID names the option.
int serve_placing_apply(const struct serve_placing *s, struct gateway_options *o, struct err *e);
// Warns of a policy that cannot do what it says. After the upstream servers were found.
void serve_prices_check(const struct gateway_options *o);

// ---- serve_upstreams.c: --upstream ----
// One of them, whose texts live as long as the process. ERR_INVALID, ERR_RANGE.
int serve_upstream_parse(const char *text, struct gateway_upstream *out, struct err *e);
// Fills o->upstreams.
int serve_upstreams_find(const struct cli_list *given, struct gateway_options *o, struct err *e);
// The same of --image-upstream, into o->image_upstreams.
int serve_image_upstream_parse(const char *text, struct gateway_upstream *out, struct err *e);
int serve_image_upstreams_find(const struct cli_list *given, struct gateway_options *o,
                               struct err *e);

#endif
