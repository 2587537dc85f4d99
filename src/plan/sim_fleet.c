#include "plan/sim_fleet.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"
#include "plan/model.h"
#include "plan/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX (16u << 20)
#define CHUNK_TOKENS 512.0
#define LAST_TOKENS 64.0
#define CONTEXT_TOKENS 131072.0
#define CELLS_LEAST 512.0
#define MANY_CELLS 1e12
#define RATED_CONTEXT 1e7
#define BELIEVED_YEARS 3.0 // that placement spreads a price over
#define HOURS_PER_YEAR 8766.0
#define ANY_LINK "10gbe"
#define LOOSE_LINK 1e12 // bytes per second, where there is no catalogue

void sim_fleet_init(struct sim_fleet *f, const char *model, const char *quant)
{
    *f = (struct sim_fleet){0};
    snprintf(f->model, sizeof f->model, "%s", model != NULL ? model : "");
    snprintf(f->quant, sizeof f->quant, "%s", quant != NULL ? quant : "");
}

void sim_fleet_fini(struct sim_fleet *f)
{
    free(f->kinds);
    free(f->nodes);
    free(f->events);
    *f = (struct sim_fleet){0};
}

// ---- kinds ---------------------------------------------------------------------------------------------

static int link_get(const struct plan_catalogue *c, const char *name, struct cost_link *out,
                    struct err *e)
{
    const json_t *o = plan_catalogue_find(c, PLAN_LINK, name, e);
    double gbps = 0, share = 0.9, latency_us = 0;
    if (o == NULL)
        return ERR_NOT_FOUND;
    int rc = json_get_f64(o, "gbps", 1e-3, 1e5, &gbps, e);
    if (rc == 0)
        rc = json_get_f64(o, "achieved_share", 0.01, 1, &share, e);
    if (rc == 0)
        rc = json_get_f64(o, "latency_us", 0, 1e7, &latency_us, e);
    if (rc == 0 && gbps <= 0)
        rc = err_set(e, ERR_INVALID, "\"gbps\" is missing");
    *out = (struct cost_link){.bytes_per_s = gbps * 1e9 / 8 * share, .latency_s = latency_us / 1e6};
    return rc == 0 ? 0 : err_wrap(e, "link %s", name);
}

// 10 Gbit where the machine has it, else the first that it has.
static const char *link_default(const json_t *machine)
{
    const json_t *all = json_object_get(machine, "network"), *link;
    const char *first = NULL;
    size_t i;
    json_array_foreach(all, i, link)
    {
        const char *name = json_string_value(link);
        if (name != NULL && strcmp(name, ANY_LINK) == 0)
            return ANY_LINK;
        if (first == NULL)
            first = name;
    }
    return first != NULL ? first : ANY_LINK;
}

static double figure(const json_t *machine, const char *member)
{
    double x = json_number_or(machine, member, NAN);
    return x >= 0 ? x : NAN;
}

static void steps_fill(struct sim_kind *k)
{
    for (uint32_t b = 1; b <= k->slots; b++) {
        struct cost_work work = {.tokens = 1, .batch = b, .chunk = 1};
        k->step_s[b] = cost_decode(&k->model, &k->write, &work).total_s;
    }
}

static void believed_fill(struct sim_kind *k)
{
    struct profile *p = &k->profile;
    p->chunk_tokens = k->chunk_tokens;
    p->last_tokens = LAST_TOKENS / fmax(k->model.layers, 1);
    p->n_ctx = k->context;
    p->n_seq = k->slots;
    if (k->load_w >= 0 && k->idle_w >= 0) {
        p->watts_idle = k->idle_w;
        p->watts_prefill = p->watts_decode = k->load_w;
    }
    if (k->price_usd >= 0)
        p->dollars_per_hour = k->price_usd / (BELIEVED_YEARS * HOURS_PER_YEAR);
}

// Room for KV: what the model leaves of the machine's memory.
static int room_fill(struct sim_kind *k, const struct plan_answer *a, struct err *e)
{
    const struct cost_model *m = &a->model;
    double room = a->have_bytes - (a->need_bytes - cost_kv_bytes(m, 1));
    room -= k->slots * m->window_kv_bytes * m->window_tokens;
    k->cells = m->full_kv_bytes > 0 ? floor(room / m->full_kv_bytes) : MANY_CELLS;
    if (room <= 0 || k->cells < CELLS_LEAST)
        return err_set(e, ERR_INVALID,
                       "machine %s: the model needs %.1f GB of its %.1f GB and leaves no room for "
                       "%u answers; take a smaller quantisation, fewer slots or a larger machine",
                       k->name, a->need_bytes / 1e9, a->have_bytes / 1e9, k->slots);
    k->context = fmin(k->context, k->cells);
    return 0;
}

static int kind_predict(const struct sim_fleet *f, const struct plan_catalogue *c,
                        const struct sim_member *m, struct sim_kind *k, struct err *e)
{
    struct plan_query q;
    struct plan_answer reads, writes;
    struct plan_model model;
    struct profile writing = {0};
    if (f->model[0] == '\0')
        return err_set(e, ERR_INVALID,
                       "no model is named; say which one, llama-3.1-8b for example");
    plan_query_defaults(&q);
    q.machine = m->machine;
    q.model = f->model;
    q.quant = f->quant[0] != '\0' ? f->quant : NULL;
    int rc = plan_predict(c, &q, &writes, e);
    q.prefill = true;
    q.n_prompt = CHUNK_TOKENS;
    if (rc == 0)
        rc = plan_predict(c, &q, &reads, e);
    if (rc == 0)
        rc = plan_model_get(c, q.model, q.quant, 0, &model, e);
    if (rc != 0)
        return rc;
    k->model = writes.model;
    k->read = reads.rates;
    k->write = writes.rates;
    k->context = model.context > 0 ? model.context : CONTEXT_TOKENS;
    profile_from_cost(&k->profile, &k->model, &k->read);
    profile_from_cost(&writing, &k->model, &k->write);
    k->profile.step_s = writing.step_s;
    k->profile.row_s = writing.row_s;
    k->profile.row_depth_s = writing.row_depth_s;
    return room_fill(k, &writes, e);
}

// Rates as two numbers: a prompt costs by the token, a step the same for every batch and depth.
static int kind_rated(const struct sim_member *m, struct sim_kind *k, struct err *e)
{
    const double rates[] = {m->read_tokens_per_s, m->write_tokens_per_s};
    for (size_t i = 0; i < 2; i++)
        if (!(rates[i] >= 1e-3 && rates[i] <= 1e9))
            return err_set(e, ERR_INVALID,
                           "node %s: %s_tokens_per_s is %g; give a machine of the catalogue, or "
                           "both rates between 0.001 and 1e9",
                           k->name, i == 0 ? "prefill" : "decode", rates[i]);
    k->model = (struct cost_model){.layers = 1,
                                   .weight_bytes = 1,
                                   .fixed_bytes = 1,
                                   .token_flops = 1,
                                   .full_kv_bytes = m->kv_token_bytes};
    k->read = (struct cost_rates){.flop_s = 1 / m->read_tokens_per_s};
    k->write = (struct cost_rates){.weight_s = 1 / m->write_tokens_per_s};
    k->cells = MANY_CELLS;
    k->context = RATED_CONTEXT;
    profile_defaults(&k->profile);
    k->profile.read_request_s = k->profile.read_chunk_s = k->profile.read_pair_s = 0;
    k->profile.row_s = k->profile.row_depth_s = 0;
    k->profile.export_byte_s = k->profile.import_byte_s = 0;
    k->profile.read_token_s = 1 / m->read_tokens_per_s;
    k->profile.step_s = 1 / m->write_tokens_per_s;
    k->profile.kv_token_bytes = m->kv_token_bytes;
    k->profile.read_error = k->profile.step_error = PROFILE_TRUST_MEASURED;
    return 0;
}

static int kind_make(const struct sim_fleet *f, const struct plan_catalogue *c,
                     const struct sim_member *m, struct sim_kind *k, struct err *e)
{
    const json_t *machine = NULL;
    const char *link = m->link != NULL ? m->link : ANY_LINK, *name = m->name;
    if (m->machine != NULL && c != NULL) {
        machine = plan_catalogue_find(c, PLAN_MACHINE, m->machine, e);
        if (machine == NULL)
            return ERR_NOT_FOUND;
        link = m->link != NULL ? m->link : link_default(machine);
        name = name != NULL ? name : plan_catalogue_id(PLAN_MACHINE, machine);
    }
    *k = (struct sim_kind){.roles = m->roles != 0 ? m->roles : PLACE_READS | PLACE_WRITES,
                           .slots = m->slots != 0 ? m->slots : SIM_SLOTS,
                           .chunk_tokens = CHUNK_TOKENS,
                           .idle_w = figure(machine, "idle_w"),
                           .load_w = figure(machine, "load_w"),
                           .price_usd = figure(machine, "price_usd")};
    snprintf(k->name, sizeof k->name, "%s", name != NULL ? name : "node");
    if (k->slots > SIM_SLOTS_MAX)
        return err_set(e, ERR_INVALID, "node %s: slots is %u; at most %u", k->name, k->slots,
                       SIM_SLOTS_MAX);
    // A node that shares a link with nobody needs none; a catalogue is not, then.
    int rc = 0;
    if (c != NULL)
        rc = link_get(c, link, &k->link, e);
    else
        k->link = (struct cost_link){.bytes_per_s = LOOSE_LINK};
    if (rc == 0)
        rc = machine != NULL ? kind_predict(f, c, m, k, e) : kind_rated(m, k, e);
    if (rc != 0)
        return rc;
    steps_fill(k);
    believed_fill(k);
    if (!profile_sane(&k->profile))
        return err_set(e, ERR_INVALID, "node %s: its rates make no sense", k->name);
    return 0;
}

// ---- fleets ----------------------------------------------------------------------------------------------

int sim_fleet_add(struct sim_fleet *f, const struct plan_catalogue *c, const struct sim_member *m,
                  struct err *e)
{
    if (m->count == 0)
        return 0;
    if (f->n_kinds == SIM_KINDS_MAX)
        return err_set(e, ERR_INVALID, "more than %d kinds of nodes", SIM_KINDS_MAX);
    if (m->count > SIM_NODES_MAX - f->n)
        return err_set(e, ERR_INVALID, "more than %u nodes", SIM_NODES_MAX);
    struct sim_kind *k = mem_alloc(sizeof *k);
    int rc = kind_make(f, c, m, k, e);
    if (rc == 0) {
        f->kinds = mem_resize(f->kinds, (f->n_kinds + 1) * sizeof *f->kinds);
        f->kinds[f->n_kinds] = *k;
        f->nodes = mem_resize(f->nodes, f->n + m->count);
        memset(f->nodes + f->n, (int)f->n_kinds, m->count);
        f->n_kinds++;
        f->n += m->count;
    }
    free(k);
    return rc;
}

int sim_fleet_mixed(struct sim_fleet *f, const struct plan_catalogue *c, uint32_t nodes,
                    uint32_t slots, struct err *e)
{
    uint32_t sparks = (4 * nodes + 9) / 10, macs = 4 * nodes / 10, halos = nodes / 10;
    const struct sim_member members[] = {
        {.machine = "dgx-spark", .count = sparks, .slots = slots},
        {.machine = "mac-studio-m3-ultra-96gb", .count = macs, .slots = slots},
        {.machine = "strix-halo", .count = halos, .slots = slots},
        {.machine = "rtx-5090", .count = nodes - sparks - macs - halos, .slots = slots},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof members / sizeof *members; i++)
        rc = sim_fleet_add(f, c, &members[i], e);
    return rc;
}

// ---- from a file -------------------------------------------------------------------------------------------

// A misspelt member would be a wish that is silently not granted.
static int members_known(const json_t *o, const char *const *known, struct err *e)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)o, name, value)
    {
        size_t i = 0;
        while (known[i] != NULL && strcmp(known[i], name) != 0)
            i++;
        if (known[i] == NULL) {
            char all[256] = "";
            for (i = 0; known[i] != NULL; i++)
                snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i > 0 ? ", " : "",
                         known[i]);
            return err_set(e, ERR_INVALID, "no member \"%.60s\"; there are %s", name, all);
        }
    }
    return 0;
}

static int role_parse(const char *role, uint32_t *out, struct err *e)
{
    static const struct {
        const char *name;
        uint32_t roles;
    } roles[] = {{"read", PLACE_READS}, {"write", PLACE_WRITES}, {"both", 0}};
    for (size_t i = 0; role != NULL && i < sizeof roles / sizeof *roles; i++)
        if (strcmp(roles[i].name, role) == 0) {
            *out = roles[i].roles;
            return 0;
        }
    return role == NULL
               ? 0
               : err_set(e, ERR_INVALID, "\"role\" is \"%.40s\"; say read, write or both", role);
}

static int node_parse(struct sim_fleet *f, const struct plan_catalogue *c, const json_t *o,
                      struct err *e)
{
    static const char *const known[] = {"machine",
                                        "name",
                                        "role",
                                        "link",
                                        "slots",
                                        "count",
                                        "prefill_tokens_per_s",
                                        "decode_tokens_per_s",
                                        "kv_bytes_per_token",
                                        NULL};
    struct sim_member m = {.kv_token_bytes = 131072};
    const char *role = NULL;
    int64_t count = 1, slots = SIM_SLOTS;
    if (!json_is_object(o))
        return err_set(e, ERR_INVALID, "it is no object");
    int rc = members_known(o, known, e);
    if (rc == 0)
        rc = json_get_string(o, "machine", &m.machine, e);
    if (rc == 0)
        rc = json_get_string(o, "name", &m.name, e);
    if (rc == 0)
        rc = json_get_string(o, "role", &role, e);
    if (rc == 0)
        rc = json_get_string(o, "link", &m.link, e);
    if (rc == 0)
        rc = json_get_i64(o, "slots", 1, SIM_SLOTS_MAX, &slots, e);
    if (rc == 0)
        rc = json_get_i64(o, "count", 1, SIM_NODES_MAX, &count, e);
    if (rc == 0)
        rc = json_get_f64(o, "prefill_tokens_per_s", 1e-3, 1e9, &m.read_tokens_per_s, e);
    if (rc == 0)
        rc = json_get_f64(o, "decode_tokens_per_s", 1e-3, 1e9, &m.write_tokens_per_s, e);
    if (rc == 0)
        rc = json_get_f64(o, "kv_bytes_per_token", 0, 1e9, &m.kv_token_bytes, e);
    if (rc == 0)
        rc = role_parse(role, &m.roles, e);
    m.count = (uint32_t)count;
    m.slots = (uint32_t)slots;
    return rc == 0 ? sim_fleet_add(f, c, &m, e) : rc;
}

static int event_parse(struct sim_fleet *f, const json_t *o, struct err *e)
{
    static const char *const known[] = {"at_s", "node", "what", NULL};
    static const char *const whats[] = {"drain", "leave", "return"};
    struct sim_event event = {.at_s = -1};
    const char *what = "";
    int64_t node = -1;
    if (!json_is_object(o))
        return err_set(e, ERR_INVALID, "it is no object");
    int rc = members_known(o, known, e);
    if (rc == 0)
        rc = json_get_f64(o, "at_s", 0, 1e9, &event.at_s, e);
    if (rc == 0)
        rc = json_get_i64(o, "node", 0, (int64_t)f->n - 1, &node, e);
    if (rc == 0)
        rc = json_get_string(o, "what", &what, e);
    size_t i = 0;
    while (i < 3 && strcmp(whats[i], what) != 0)
        i++;
    if (rc == 0 && i == 3)
        rc = err_set(e, ERR_INVALID, "\"what\" is \"%.40s\"; say drain, leave or return", what);
    if (rc == 0 && (event.at_s < 0 || node < 0))
        rc = err_set(e, ERR_INVALID, "\"at_s\", \"node\" and \"what\" must be given");
    if (rc == 0 && f->n_events > 0 && f->events[f->n_events - 1].at_s > event.at_s)
        rc = err_set(e, ERR_INVALID, "at_s %g comes before the event above; sort them", event.at_s);
    if (rc == 0 && f->n_events == SIM_EVENTS_MAX)
        rc = err_set(e, ERR_RANGE, "more than %u events", SIM_EVENTS_MAX);
    if (rc != 0)
        return rc;
    event.node = (uint32_t)node;
    event.what = (enum sim_what)i;
    f->events = mem_resize(f->events, (f->n_events + 1) * sizeof *f->events);
    f->events[f->n_events++] = event;
    return 0;
}

int sim_fleet_parse(struct sim_fleet *f, const struct plan_catalogue *c, const json_t *root,
                    struct err *e)
{
    static const char *const known[] = {"model", "quant", "nodes", "events", NULL};
    json_t *nodes = NULL, *events = NULL, *o;
    const char *model = NULL, *quant = NULL;
    size_t i;
    if (!json_is_object(root))
        return err_set(e, ERR_INVALID, "it is no JSON object");
    int rc = members_known(root, known, e);
    if (rc == 0)
        rc = json_get_string(root, "model", &model, e);
    if (rc == 0)
        rc = json_get_string(root, "quant", &quant, e);
    if (rc == 0)
        rc = json_get_array(root, "nodes", &nodes, e);
    if (rc == 0)
        rc = json_get_array(root, "events", &events, e);
    if (rc == 0 && json_array_size(nodes) == 0)
        rc = err_set(e, ERR_INVALID, "\"nodes\" is missing or empty");
    if (rc != 0)
        return rc;
    if (model != NULL) {
        snprintf(f->model, sizeof f->model, "%s", model);
        snprintf(f->quant, sizeof f->quant, "%s", quant != NULL ? quant : "");
    }
    json_array_foreach(nodes, i, o) if (rc == 0 && (rc = node_parse(f, c, o, e)) != 0)
        err_wrap(e, "nodes[%zu]", i);
    json_array_foreach(events, i, o) if (rc == 0 && (rc = event_parse(f, o, e)) != 0)
        err_wrap(e, "events[%zu]", i);
    return rc;
}

int sim_fleet_read(struct sim_fleet *f, const struct plan_catalogue *c, const char *path,
                   struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    json_t *root = NULL;
    int rc = os_file_read(path, FILE_BYTES_MAX, &text, &n, e);
    if (rc == 0 && (root = json_parse(text, n, e)) == NULL)
        rc = ERR_INVALID;
    if (rc == 0)
        rc = sim_fleet_parse(f, c, root, e);
    json_decref(root);
    free(text);
    return rc == 0 ? 0 : err_wrap(e, "fleet %s", path);
}
