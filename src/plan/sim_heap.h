// Two binary heaps of (time, number), least first; equal times come in the order of their numbers, so that a
// run is the same every time. Owner: whoever holds the struct; no threads.
#ifndef PLAN_SIM_HEAP_H
#define PLAN_SIM_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#define SIM_NONE UINT32_MAX

struct sim_entry {
    double key;
    uint32_t id;
};

// Grows as needed; an id may be in it more than once.
struct sim_queue {
    struct sim_entry *items;
    uint32_t n, cap;
};
void sim_queue_fini(struct sim_queue *q);
void sim_queue_push(struct sim_queue *q, double key, uint32_t id);
struct sim_entry sim_queue_pop(struct sim_queue *q); // n > 0
// Takes one entry with that id out, wherever it stands; false: there is none.
bool sim_queue_remove(struct sim_queue *q, uint32_t id);

// One key for each of the ids [0, n); INFINITY to begin with.
struct sim_index {
    double *keys;
    uint32_t *heap, *place;
    uint32_t n;
};
void sim_index_init(struct sim_index *x, uint32_t n);
void sim_index_fini(struct sim_index *x);
void sim_index_set(struct sim_index *x, uint32_t id, double key);

static inline uint32_t sim_index_first(const struct sim_index *x)
{
    return x->heap[0];
}

#endif
