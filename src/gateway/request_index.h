// Which request a frame's id belongs to. Private to gateway/; the core thread's alone.
//
// A request has a row of consecutive ids, one for each thing that it asked of a worker, and takes a new
// row when it asks anew: so what an earlier plan's workers still say concerns nobody. Ids only grow;
// hence the rows lie sorted, and finding one costs a few steps however many requests there are.
#ifndef GATEWAY_REQUEST_INDEX_H
#define GATEWAY_REQUEST_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct request;

struct request_row {
    uint64_t first;
    uint32_t n;
    struct request *request;
};

struct request_index {
    struct request_row *rows; // owned; freed with the last row
    size_t n, cap;
};

// `first` is larger than every id that was ever added.
void request_index_add(struct request_index *x, struct request *r, uint64_t first, uint32_t n);
void request_index_remove(struct request_index *x, uint64_t first); // nothing when there is none
// The request that `id` belongs to and which of its ids it is, or NULL.
struct request *request_index_find(const struct request_index *x, uint64_t id, uint32_t *at);

#endif
