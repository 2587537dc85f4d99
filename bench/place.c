// How long a choice of nodes takes: place [ROUNDS]. One JSON object, with one line per size of fleet.
//
// Fleets of unlike nodes with queues, running answers and prefixes, requests of all sizes; every call is timed by
// itself. The aims are 50 us for 8 nodes and 1 ms for 1,000.
#include "sched/place.h"
#include "base/clock.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define NODES 1000
#define ROUNDS_MOST 100000

static struct profile profiles[NODES];
static struct place_node nodes[NODES];
static struct place_scratch scratch[NODES];
static int64_t times[ROUNDS_MOST];

static double uniform(uint64_t *random)
{
    return (double)(random_next(random) >> 11) * 0x1p-53;
}

static double between(uint64_t *random, double low, double high)
{
    return low * pow(high / low, uniform(random));
}

static struct place_link link_between(void *ctx, size_t from, size_t to)
{
    (void)ctx;
    return (struct place_link){2e-4, (from + to) % 3 ? 1.25e9 : 1.25e8, 2e-3};
}

static void fleet_make(uint64_t *random)
{
    for (size_t i = 0; i < NODES; i++) {
        struct profile *p = &profiles[i];
        profile_defaults(p);
        p->read_token_s = between(random, 1e-4, 5e-3);
        p->read_pair_s = between(random, 1e-9, 4e-7);
        p->step_s = between(random, 5e-3, 0.2);
        p->row_s = p->step_s / 10;
        p->n_ctx = 32768;
        nodes[i] = (struct place_node){.name = "node",
                                       .id = random_next(random),
                                       .profile = p,
                                       .up = true,
                                       .roles = PLACE_READS | PLACE_WRITES,
                                       .group = 1,
                                       .streams = true,
                                       .splits = true,
                                       .read_wait_s = uniform(random) < 0.5 ? uniform(random) : 0,
                                       .answers = floor(4 * uniform(random)),
                                       .depth_sum = 4000,
                                       .rest_tokens = 100,
                                       .next_tokens = 20,
                                       .free_seqs = 2,
                                       .free_cells = 20000};
    }
}

static int time_order(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static size_t measure(size_t n, size_t rounds, uint64_t *random)
{
    struct place_nodes view = {.nodes = nodes, .n = n, .link = link_between};
    struct place_plan plans[PLACE_ROWS];
    struct place_table table = {.plans = plans, .max = PLACE_ROWS};
    size_t considered = 0;

    for (size_t i = 0; i < rounds; i++) {
        const struct place_held held[] = {{(size_t)(uniform(random) * (double)n), 500}};
        struct place_request r;
        place_request_defaults(&r);
        r.prompt_tokens = (uint32_t)between(random, 32, 8192);
        r.answer_tokens = between(random, 1, 512);
        r.conversation = random_next(random);
        r.held = held;
        r.n_held = i % 2;
        int64_t t0 = clock_now_ns();
        place_choose(&view, &r, scratch, &table);
        times[i] = clock_now_ns() - t0;
        considered += table.considered;
    }
    return considered;
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {2, 8, 32, 128, NODES};
    long wanted = argc > 1 ? strtol(argv[1], NULL, 10) : 2000;
    uint64_t random = 1;

    if (argc > 2 || wanted < 1 || wanted > ROUNDS_MOST) {
        fprintf(stderr, "usage: %s [ROUNDS, 1 to %d]\n", argv[0], ROUNDS_MOST);
        return 2;
    }
    size_t rounds = (size_t)wanted;
    fleet_make(&random);
    printf("{\"rounds\":%zu,\"fleets\":[", rounds);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t considered = measure(sizes[i], rounds, &random);
        qsort(times, rounds, sizeof(times[0]), time_order);
        printf("%s\n {\"nodes\":%zu,\"plans\":%.1f,\"median_us\":%.2f,\"p99_us\":%.2f,"
               "\"worst_us\":%.2f}",
               i > 0 ? "," : "", sizes[i], (double)considered / (double)rounds,
               (double)times[rounds / 2] / 1e3, (double)times[rounds * 99 / 100] / 1e3,
               (double)times[rounds - 1] / 1e3);
    }
    puts("\n]}");
    return 0;
}
