// Requests, from a trace or from seeded conversations. Each conversation draws from a sequence of its own, so
// that what is asked does not depend on how fast the fleet answers: two fleets see the same people.
#include "plan/sim_impl.h"

#include "base/buf.h"
#include "base/random.h"

#include <math.h>

#define PHASE_S 30.0 // mean length of a phase of bursty arrivals

void sim_load_defaults(struct sim_load *l)
{
    *l = (struct sim_load){
        .seed = 1,
        .share = 0.8,
        .burst = 1,
        .turns = 4,
        .think_s = 30,
        .first = {1020, 1.0, 32768},
        .turn = {96, 1.0, 8192},
        .answer = {129, 0.8, 2048},
    };
}

double sim_uniform(uint64_t *random)
{
    return ((double)(random_next(random) >> 11) + 0.5) * 0x1p-53;
}

static double exponential(uint64_t *random, double mean)
{
    return -mean * log(sim_uniform(random));
}

// Polar method of Marsaglia; the second number is not kept, so that the state is the seed alone.
static double normal(uint64_t *random)
{
    for (;;) {
        double u = 2 * sim_uniform(random) - 1, v = 2 * sim_uniform(random) - 1, s = u * u + v * v;
        if (s < 1)
            return u * sqrt(-2 * log(s) / s);
    }
}

static uint32_t length(uint64_t *random, const struct sim_lengths *l)
{
    double x = round(l->median * exp(l->sigma * normal(random)));
    return (uint32_t)fmin(fmax(x, 1), l->most);
}

static uint32_t turns_of(uint64_t *random, double mean)
{
    uint32_t n = 1;
    while (n < 1000 && sim_uniform(random) > 1 / mean)
        n++;
    return n;
}

// ---- conversations -------------------------------------------------------------------------------------

static uint32_t conv_new(struct sim_world *w)
{
    uint32_t conv = w->free_conv;
    if (conv != SIM_NONE) {
        w->free_conv = w->convs[conv].context;
    } else {
        if (w->n_convs == w->cap_convs) {
            w->cap_convs = w->cap_convs == 0 ? 1024 : 2 * w->cap_convs;
            w->convs = mem_resize(w->convs, w->cap_convs * sizeof *w->convs);
        }
        conv = w->n_convs++;
    }
    w->convs[conv] = (struct sim_conv){.used = true, .holds = {SIM_NONE, SIM_NONE, SIM_NONE}};
    return conv;
}

void sim_conv_rest(struct sim_world *w, uint32_t conv)
{
    struct sim_conv *c = &w->convs[conv];
    if (!c->used || c->traced || c->turns_left > 0 || c->active > 0 || c->holds[0] != SIM_NONE)
        return;
    c->used = false;
    c->context = w->free_conv;
    w->free_conv = conv;
}

// When the next conversation begins. In a phase the rate is constant, so that what is left of an exponential
// gap at its end can be drawn anew.
static void conv_draw(struct sim_world *w, double from)
{
    double burst = w->load->burst, rate = w->rate / w->load->turns;
    for (;;) {
        double now_rate = rate * 2 * (w->phase_high ? burst : 1) / (1 + burst);
        double at = from + exponential(&w->random, 1 / now_rate);
        if (burst == 1 || at <= w->phase_end_s) {
            w->next_conv_s = at;
            return;
        }
        from = w->phase_end_s;
        w->phase_high = !w->phase_high;
        w->phase_end_s += exponential(&w->random, PHASE_S);
    }
}

static void conv_begin(struct sim_world *w, double at)
{
    uint32_t conv = conv_new(w);
    struct sim_conv *c = &w->convs[conv];
    c->random = random_next(&w->random);
    c->turns_left = turns_of(&c->random, w->load->turns);
    sim_queue_push(&w->turns, at, conv);
}

void sim_load_start(struct sim_world *w)
{
    w->random = w->load->seed;
    w->next_conv_s = INFINITY;
    if (w->load->trace != NULL) {
        for (uint32_t i = 0; i < w->load->trace->sessions; i++) {
            uint32_t conv = conv_new(w); // which may move all of them
            w->convs[conv].traced = true;
        }
    } else {
        w->phase_end_s = exponential(&w->random, PHASE_S);
        conv_draw(w, 0);
    }
}

// ---- arrivals ------------------------------------------------------------------------------------------

static uint64_t requests_of(const struct sim_load *l)
{
    if (l->trace == NULL)
        return l->requests;
    return l->requests > 0 && l->requests < l->trace->n ? l->requests : l->trace->n;
}

double sim_load_next(struct sim_world *w)
{
    if (w->issued >= requests_of(w->load))
        return INFINITY;
    if (w->load->trace != NULL)
        return w->load->trace->rows[w->trace_at].arrival_s;
    double turn = w->turns.n > 0 ? w->turns.items[0].key : INFINITY;
    return fmin(turn, w->next_conv_s);
}

static uint32_t request_of(struct sim_world *w, uint32_t conv, uint32_t prompt, uint32_t answer)
{
    uint32_t request = sim_request_new(w);
    struct sim_conv *c = &w->convs[conv];
    uint32_t shared = c->context < prompt ? c->context : prompt - 1;
    w->requests[request] = (struct sim_request){
        .arrival_s = w->now,
        .first_s = -1,
        .prompt = prompt,
        .answer = answer,
        .shared = shared,
        .conv = conv,
        .reader = SIM_NONE,
        .writer = SIM_NONE,
        .next = SIM_NONE,
        .stage = SIM_QUEUED,
    };
    c->active++;
    w->issued++;
    return request;
}

static uint32_t trace_take(struct sim_world *w)
{
    const struct trace_row *row = &w->load->trace->rows[w->trace_at++];
    uint32_t conv = row->session != TRACE_NO_SESSION ? row->session : conv_new(w);
    return request_of(w, conv, row->prompt_tokens, row->answer_tokens);
}

uint32_t sim_load_take(struct sim_world *w)
{
    const struct sim_load *l = w->load;
    if (l->trace != NULL)
        return trace_take(w);
    if (w->next_conv_s <= w->now) {
        conv_begin(w, w->next_conv_s);
        conv_draw(w, w->next_conv_s);
    }
    uint32_t conv = sim_queue_pop(&w->turns).id;
    struct sim_conv *c = &w->convs[conv];
    c->turns_left--;
    uint32_t more = length(&c->random, c->context == 0 ? &l->first : &l->turn);
    uint32_t answer = length(&c->random, &l->answer);
    // One that has become too long for the model begins anew, as a client does that drops what is old.
    if (c->context + more > l->first.most)
        c->context = 0;
    more = more < (uint32_t)l->first.most ? more : (uint32_t)l->first.most;
    return request_of(w, conv, c->context + more, answer);
}

void sim_load_finished(struct sim_world *w, const struct sim_request *r)
{
    struct sim_conv *c = &w->convs[r->conv];
    c->active--;
    c->context = r->prompt + r->answer;
    if (w->load->trace == NULL && c->turns_left > 0)
        sim_queue_push(&w->turns, w->now + exponential(&c->random, w->load->think_s), r->conv);
    sim_conv_rest(w, r->conv);
}
