// The options of tandem serve that say how requests find their machines.
#include "base/buf.h"
#include "base/log.h"
#include "cli/serve.h"
#include "os/os.h"

#include <stdio.h>
#include <string.h>

size_t serve_placing_options(struct serve_placing *s, struct gateway_options *o,
                             struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--policy",
         .kind = CLI_STRING,
         .value = (void *)&s->policy,
         .arg = "POLICY",
         .help = "what placement looks for: latency (soonest done), throughput (least work for all "
                 "machines), energy, cost, or slo (within --slo-ttft and --slo-token). A request "
                 "may say otherwise"},
        {.name = "--plan",
         .kind = CLI_STRING,
         .value = (void *)&s->plan,
         .arg = "PLAN",
         .help = "what requests get that do not ask for a plan: auto (what placement finds best), "
                 "local, remote, serial or hybrid"},
        {.name = "--slo-ttft",
         .kind = CLI_DOUBLE,
         .value = &o->slo_ttft_s,
         .arg = "SECONDS",
         .help = "until the first token, for the policy slo (0: no limit)",
         .min = 0,
         .max = 1e6},
        {.name = "--slo-token",
         .kind = CLI_DOUBLE,
         .value = &o->slo_token_s,
         .arg = "SECONDS",
         .help = "from token to token, for the policy slo (0: no limit)",
         .min = 0,
         .max = 1e6},
        {.name = "--energy-price",
         .kind = CLI_DOUBLE,
         .value = &o->dollars_per_kwh,
         .arg = "DOLLARS",
         .help =
             "for a kWh, for the policy cost: what machines draw whose power can be read "
             "(\"tandem ps --facts\") costs so much, beside their hours (--price) (0: not known)",
         .min = 0,
         .max = 1000},
        {.name = "--profiles",
         .kind = CLI_STRING,
         .value = (void *)&s->profiles,
         .arg = "FILE",
         .help =
             "where what was measured of the machines is kept over restarts (profiles.db in the "
             "state folder); none: nowhere"},
    };

    memcpy(out, own, sizeof(own));
    return sizeof(own) / sizeof(own[0]);
}

static int profiles_find(const struct serve_placing *s, struct gateway_options *o, struct err *e)
{
    char folder[4096], path[sizeof(folder) + 16];
    int rc;

    if (s->profiles) {
        o->profiles = strcmp(s->profiles, "none") == 0 ? NULL : s->profiles;
        return 0;
    }
    rc = os_state_dir(folder, sizeof(folder), e);
    if (rc == 0)
        rc = os_mkdirs(folder, e);
    if (rc != 0)
        return rc;
    snprintf(path, sizeof(path), "%s/profiles.db", folder);
    o->profiles = cli_text_keep(path);
    return 0;
}

int serve_placing_apply(const struct serve_placing *s, struct gateway_options *o, struct err *e)
{
    if (s->policy && !place_policy_parse(s->policy, &o->policy))
        return err_set(e, ERR_INVALID,
                       "--policy is \"%.40s\"; it can be latency, throughput, energy, cost or slo",
                       s->policy);
    if (s->plan && !place_kind_parse(s->plan, &o->plan))
        return err_set(e, ERR_INVALID,
                       "--plan is \"%.40s\"; it can be auto, local, remote, serial or hybrid",
                       s->plan);
    if (o->policy == PLACE_SLO && !(o->slo_ttft_s > 0) && !(o->slo_token_s > 0))
        return err_set(e, ERR_INVALID,
                       "--policy slo needs a limit: say --slo-ttft SECONDS, --slo-token SECONDS or "
                       "both");
    return profiles_find(s, o, e);
}

static bool any_price(const struct gateway_options *o)
{
    bool any = o->worker.price >= 0 || o->dollars_per_kwh > 0;

    for (size_t i = 0; i < o->n_upstreams; i++)
        any = any || o->upstreams[i].priced;
    return any;
}

void serve_prices_check(const struct gateway_options *o)
{
    if (o->policy == PLACE_COST && !any_price(o))
        log_warn("serve", "--policy cost, and no price is known here: say --price, --energy-price, "
                          "price-in and price-out behind --upstream, or start nodes with --price. "
                          "Until one is known requests go where they are soonest done");
}
