#include "gateway/request_index.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

void request_index_add(struct request_index *x, struct request *r, uint64_t first, uint32_t n)
{
    if (x->n == x->cap) {
        x->cap = x->cap > 0 ? 2 * x->cap : 16;
        x->rows = mem_resize(x->rows, x->cap * sizeof(*x->rows));
    }
    x->rows[x->n++] = (struct request_row){first, n, r};
}

// The last row that begins at or before `id`; x->n: none does.
static size_t row_before(const struct request_index *x, uint64_t id)
{
    size_t low = 0, high = x->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (x->rows[middle].first <= id)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 ? low - 1 : x->n;
}

void request_index_remove(struct request_index *x, uint64_t first)
{
    size_t i = row_before(x, first);

    if (i == x->n || x->rows[i].first != first)
        return;
    x->n--;
    memmove(x->rows + i, x->rows + i + 1, (x->n - i) * sizeof(*x->rows));
    if (x->n > 0)
        return;
    free(x->rows);
    *x = (struct request_index){0};
}

struct request *request_index_find(const struct request_index *x, uint64_t id, uint32_t *at)
{
    size_t i = row_before(x, id);

    if (i == x->n || id - x->rows[i].first >= x->rows[i].n)
        return NULL;
    *at = (uint32_t)(id - x->rows[i].first);
    return x->rows[i].request;
}
