#include "plan/sim_heap.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

static bool before(struct sim_entry a, struct sim_entry b)
{
    return a.key < b.key || (a.key == b.key && a.id < b.id);
}

void sim_queue_fini(struct sim_queue *q)
{
    free(q->items);
    *q = (struct sim_queue){0};
}

static void queue_up(struct sim_queue *q, uint32_t i, struct sim_entry entry)
{
    while (i > 0 && before(entry, q->items[(i - 1) / 2])) {
        q->items[i] = q->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    q->items[i] = entry;
}

static void queue_down(struct sim_queue *q, uint32_t i, struct sim_entry entry)
{
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= q->n)
            break;
        if (child + 1 < q->n && before(q->items[child + 1], q->items[child]))
            child++;
        if (!before(q->items[child], entry))
            break;
        q->items[i] = q->items[child];
        i = child;
    }
    q->items[i] = entry;
}

void sim_queue_push(struct sim_queue *q, double key, uint32_t id)
{
    if (q->n == q->cap) {
        q->cap = q->cap == 0 ? 8 : 2 * q->cap;
        q->items = mem_resize(q->items, q->cap * sizeof *q->items);
    }
    queue_up(q, q->n++, (struct sim_entry){key, id});
}

struct sim_entry sim_queue_pop(struct sim_queue *q)
{
    struct sim_entry first = q->items[0];
    q->n--;
    if (q->n > 0)
        queue_down(q, 0, q->items[q->n]);
    return first;
}

bool sim_queue_remove(struct sim_queue *q, uint32_t id)
{
    for (uint32_t i = 0; i < q->n; i++) {
        if (q->items[i].id != id)
            continue;
        struct sim_entry last = q->items[--q->n];
        if (i < q->n && i > 0 && before(last, q->items[(i - 1) / 2]))
            queue_up(q, i, last);
        else if (i < q->n)
            queue_down(q, i, last);
        return true;
    }
    return false;
}

void sim_index_init(struct sim_index *x, uint32_t n)
{
    *x = (struct sim_index){.n = n};
    x->keys = mem_alloc(n * sizeof *x->keys);
    x->heap = mem_alloc(n * sizeof *x->heap);
    x->place = mem_alloc(n * sizeof *x->place);
    for (uint32_t i = 0; i < n; i++) {
        x->keys[i] = INFINITY;
        x->heap[i] = x->place[i] = i;
    }
}

void sim_index_fini(struct sim_index *x)
{
    free(x->keys);
    free(x->heap);
    free(x->place);
    *x = (struct sim_index){0};
}

static bool id_before(const struct sim_index *x, uint32_t a, uint32_t b)
{
    return x->keys[a] < x->keys[b] || (x->keys[a] == x->keys[b] && a < b);
}

static void id_put(struct sim_index *x, uint32_t i, uint32_t id)
{
    x->heap[i] = id;
    x->place[id] = i;
}

void sim_index_set(struct sim_index *x, uint32_t id, double key)
{
    uint32_t i = x->place[id];
    x->keys[id] = key;
    for (; i > 0 && id_before(x, id, x->heap[(i - 1) / 2]); i = (i - 1) / 2)
        id_put(x, i, x->heap[(i - 1) / 2]);
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= x->n)
            break;
        if (child + 1 < x->n && id_before(x, x->heap[child + 1], x->heap[child]))
            child++;
        if (!id_before(x, x->heap[child], id))
            break;
        id_put(x, i, x->heap[child]);
        i = child;
    }
    id_put(x, i, id);
}
