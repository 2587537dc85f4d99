// The options that every command shares which starts a worker.
#include "cli/cli.h"
#include "node/message_spread.h"
#include "sched/place.h"

#include <string.h>

size_t cli_worker_options(struct node_worker_options *o, struct cli_option *out, size_t max,
                          bool model)
{
    struct engine_options *g = &o->engine;
    const struct cli_option all[] = {
        {"--model", 'm', CLI_STRING, &g->model, "MODEL",
         "a GGUF file, or a name that \"tandem ls\" shows", 0, 0},
        {"--mmproj", 0, CLI_STRING, &g->projector, "FILE",
         "the projector that belongs to the model: requests may have images then", 0, 0},
        {"--name", 0, CLI_STRING, &o->name, "NAME", "shown to others; default: the host's", 0, 0},
        {"--ctx", 'c', CLI_UINT32, &g->n_ctx, "TOKENS",
         "context shared by all requests; default: the model's, at most 8192", 0, 1 << 24},
        {"--parallel", 0, CLI_UINT32, &g->n_seq, "N", "requests computed at the same time", 1,
         1024},
        {"--threads", 't', CLI_INT32, &g->n_threads, "N", "default: one per core", 0, 1024},
        {"--gpu-layers", 0, CLI_INT32, &g->n_gpu_layers, "N", "-1: all", -1, 10000},
        {"--kv-type", 0, CLI_TWIN, &g->type_k, "TYPE", "f16 (default), f32, q8_0, ...", 0, 0},
        {"--cpus", 0, CLI_STRING, &o->cpus, "LIST", "pin the worker to cores, as in 0,2-3", 0, 0},
        {"--max-stall", 0, CLI_INT32, &o->stall_ms, "MS|auto",
         "most time between two tokens of running answers while prompts are read, 0: no bound; "
         "auto "
         "(default): about twice what it is without",
         -1, 3600000},
        {"--handoff", 0, CLI_STRING, &o->handoff, "MODE",
         "ranges, ranges-late-state, whole or none; default: what a probe finds to be exact", 0, 0},
        {"--spread", 0, CLI_STRING, &o->spread, "HOST[:PORT],..",
         "machines that run \"tandem node --lend\" and take a part of the model's layers: for "
         "models "
         "larger than this machine",
         0, 0},
        {"--tensor-split", 0, CLI_STRING, &o->tensor_split, "A,B,..",
         "shares of the layers for this machine and each of --spread; default: by their memory", 0,
         0},
        {"--no-tiles", 0, CLI_FLAG, &o->no_tiles, NULL, "send the last chunk whole, not by layer",
         0, 0},
        {"--min-chunk", 0, CLI_UINT32, &o->min_chunk_tokens, "TOKENS", "finest chunk sent", 1,
         1 << 20},
        {"--pace-prefill", 0, CLI_DOUBLE, &o->pace_prefill, "TOKENS/S",
         "emulate a machine that reads prompts at this rate", 0, 1e12},
        {"--pace-decode", 0, CLI_DOUBLE, &o->pace_decode, "TOKENS/S",
         "emulate a machine that decodes at this rate", 0, 1e12},
        {"--role", 0, CLI_STRING, &o->role, "ROLE",
         "what this machine is there for, as long as others can do the rest: read (prompts, for "
         "nodes that answer), write (answers; it reads short prompts of its own, and long ones "
         "are read elsewhere) or both (default)",
         0, 0},
        {"--price", 0, CLI_DOUBLE, &o->price, "DOLLARS",
         "what an hour of the whole machine costs, for the policy cost; 0: no more than its power "
         "(\"tandem serve --energy-price\"); default: not known",
         0, NODE_PRICE_MAX},
        {"--link-rate", 0, CLI_DOUBLE, &o->link_bytes_per_s, "BYTES/S",
         "emulate a link of this rate for what the worker sends", 0, 1e13},
    };
    size_t skip = model ? 0 : 1, n = sizeof all / sizeof *all - skip;
    if (n > max)
        n = max;
    memcpy(out, all + skip, n * sizeof *all);
    return n;
}

int cli_role_check(const struct node_worker_options *o, struct err *e)
{
    uint32_t role;

    return !o->role || place_role_parse(o->role, &role)
               ? 0
               : err_set(e, ERR_INVALID, "--role is \"%.40s\"; it can be read, write or both",
                         o->role);
}

int cli_spread_check(const struct node_worker_options *o, size_t n_models, struct err *e)
{
    struct net_addr addresses[ENGINE_LENDERS_MAX];
    double shares[ENGINE_LENDERS_MAX + 1];
    size_t n = 0;
    int rc;

    if (!o->spread)
        return !o->tensor_split ? 0
                                : err_set(e, ERR_INVALID,
                                          "--tensor-split divides a model between this machine and "
                                          "those of --spread, which is missing");
    rc = spread_addresses_parse(o->spread, addresses, &n, e);
    if (rc == 0 && o->tensor_split)
        rc = spread_shares_parse(o->tensor_split, n + 1, shares, e);
    if (rc == 0 && n_models > 1)
        rc = err_set(e, ERR_INVALID,
                     "--spread is for one model, and there are %zu: what a machine lends goes to "
                     "one worker at a time",
                     n_models);
    return rc;
}

bool cli_spread_leaves(const struct node_worker_options *o)
{
    struct net_addr addresses[ENGINE_LENDERS_MAX];
    struct err e = {0};
    size_t n = 0;

    if (!o->spread || spread_addresses_parse(o->spread, addresses, &n, &e) != 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!net_addr_is_loopback(&addresses[i]))
            return true;
    return false;
}
