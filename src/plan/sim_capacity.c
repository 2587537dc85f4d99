// How much a fleet can take, by trying: short runs at rates that are halved into the one where answers begin to fall
// behind. Behind what: the same people ask a node that takes no time, which tells how many answers there would be
// by then, with the same luck. A thousand nodes behave like forty of the same proportions, so that those are tried.
#include "plan/sim_impl.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

#define PILOT_NODES 40.0
#define PILOT_S 400.0 // conversations take a while until as many end as begin
#define PILOT_REQUESTS 6000.0
#define PILOT_MOST 200000.0
#define KEEPS_UP 0.94 // of what could be completed must be
#define AT_ONCE 1e9   // tokens per second of a node that takes no time
#define STEP 1.3
#define STEPS_MAX 40
#define HALVINGS 3

struct pilot {
    struct sim_fleet fleet, ideal;
    const struct sim_load *load;
    const struct sim_options *options;
};

static void fleet_shrink(const struct sim_fleet *f, struct sim_fleet *out)
{
    double share = fmin(PILOT_NODES / f->n, 1);
    *out = *f;
    out->events = NULL;
    out->n_events = 0;
    out->nodes = mem_alloc(f->n);
    out->n = 0;
    for (size_t k = 0; k < f->n_kinds; k++) {
        uint32_t all = 0;
        for (uint32_t i = 0; i < f->n; i++)
            all += f->nodes[i] == k;
        double keep = all > 0 ? fmax(round(all * share), 1) : 0;
        for (uint32_t i = 0; i < (uint32_t)keep; i++)
            out->nodes[out->n++] = (uint8_t)k;
    }
}

// What each node could do if it were alone and never waited.
static double rate_guess(const struct pilot *p)
{
    double rate = 0;
    for (uint32_t i = 0; i < p->fleet.n; i++) {
        const struct sim_kind *k = &p->fleet.kinds[p->fleet.nodes[i]];
        struct cost_work work = {
            .tokens = p->load->first.median, .batch = 1, .chunk = k->chunk_tokens};
        double read_s = cost_prefill(&k->model, &k->read, &work).total_s;
        double write_s = p->load->answer.median * k->step_s[k->slots] / k->slots;
        rate += 1 / fmax(read_s + write_s, 1e-9);
    }
    return rate;
}

static uint64_t ended(const struct sim_fleet *f, const struct pilot *p, double rate)
{
    struct sim_load load = *p->load;
    struct sim_options options = *p->options;
    struct sim_result result = {0};
    double n = fmin(fmax(rate * PILOT_S, PILOT_REQUESTS), PILOT_MOST);
    load.trace = NULL;
    load.rate = rate;
    load.requests = (uint64_t)n;
    options.window_from_s = n / rate / 2;
    options.window_to_s = n / rate;
    sim_world_run(f, &load, &options, &result);
    sim_result_fini(&result);
    return result.in_window;
}

static bool keeps_up(const struct pilot *p, double rate)
{
    uint64_t could = ended(&p->ideal, p, rate);
    return could > 0 && (double)ended(&p->fleet, p, rate) >= KEEPS_UP * (double)could;
}

static double capacity_find(const struct pilot *p)
{
    double low = rate_guess(p), high = low;
    if (keeps_up(p, low)) {
        for (int i = 0; i < STEPS_MAX && keeps_up(p, high = low * STEP); i++)
            low = high;
    } else {
        int i = 0;
        while (i < STEPS_MAX && !keeps_up(p, low = high / STEP)) {
            high = low;
            i++;
        }
        if (i == STEPS_MAX)
            return 0;
    }
    for (int i = 0; i < HALVINGS; i++) {
        double middle = sqrt(low * high);
        *(keeps_up(p, middle) ? &low : &high) = middle;
    }
    return low;
}

int sim_capacity(const struct sim_fleet *f, const struct sim_load *l, const struct sim_options *o,
                 double *rate, struct err *e)
{
    struct pilot p = {.load = l, .options = o};
    int rc = sim_fleet_check(f, o, e);
    if (rc == 0)
        rc = sim_load_check(l, e);
    if (rc != 0)
        return rc;
    struct sim_member at_once = {
        .name = "ideal", .read_tokens_per_s = AT_ONCE, .write_tokens_per_s = AT_ONCE, .count = 1};
    sim_fleet_init(&p.ideal, NULL, NULL);
    rc = sim_fleet_add(&p.ideal, NULL, &at_once, e);
    if (rc == 0) {
        fleet_shrink(f, &p.fleet);
        *rate = capacity_find(&p) * f->n / p.fleet.n;
        free(p.fleet.nodes);
    }
    sim_fleet_fini(&p.ideal);
    return rc;
}
