// What follows from a learned layout: sizes, and taking the recurrent state out of a blob.
#include "engine/blob.h"

#include "base/buf.h"

#define CELL_BYTES 12u     // pos, n_seq, seq
#define CELL_EXT_BYTES 12u // x, y, token

struct size {
    uint64_t fixed;    // headers and what has one size whatever the range
    uint64_t per_cell; // attention
    uint64_t state;    // recurrent tensors' data
};

static uint64_t tensors_bytes(const struct blob_layout *l, const struct blob_section *s)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < s->n_tensors; i++) {
        const struct blob_tensor *t = &l->tensors[s->tensors + i];
        sum += t->row_bytes * t->n_embd;
    }
    return sum;
}

static size_t state_head_bytes(const struct blob_layout *l, const struct blob_section *s)
{
    size_t sum = 0;
    for (size_t i = 0; i < s->n_tensors; i++)
        sum += l->tensors[s->tensors + i].type < 0 ? 8 : 12;
    return sum;
}

static struct size section_size(const struct blob_layout *l, const struct blob_section *s)
{
    uint64_t data = tensors_bytes(l, s);
    switch (s->kind) {
    case BLOB_ATTENTION:
        return (struct size){.fixed = 4 + 4 * (uint64_t)s->n_stream + 8 + 12 * s->n_tensors,
                             .per_cell = CELL_BYTES + (s->ext ? CELL_EXT_BYTES : 0) + data};
    case BLOB_RECURRENT:
        return (struct size){.fixed = 12 + 8 + state_head_bytes(l, s), .state = data};
    case BLOB_DSV4_HEAD:
        return (struct size){.fixed = 12};
    case BLOB_DSV4_ROWS: // one row per `ratio` tokens; counted as one per token for the upper bound
        return (struct size){.fixed = 16 + 32 * s->n_tensors, .per_cell = data / s->ratio + 1};
    case BLOB_DSV4_STATE:
        return (struct size){.fixed = 24 + 32 * s->n_tensors, .state = data * s->words[2]};
    }
    return (struct size){0};
}

static struct size layout_size(const struct blob_layout *l)
{
    struct size sum = {.fixed = BLOB_HEAD_BYTES};
    for (size_t i = 0; i < l->n_sections; i++) {
        struct size one = section_size(l, &l->sections[i]);
        sum.fixed += one.fixed;
        sum.per_cell += one.per_cell;
        sum.state += one.state;
    }
    return sum;
}

size_t blob_bytes_max(const struct blob_layout *l, const struct blob_range *range)
{
    struct size s = layout_size(l);
    uint64_t bytes;
    // Rows of DeepSeek-V4 count from position 0 on; its ranges always begin there.
    if (__builtin_mul_overflow(s.per_cell, (uint64_t)(range->p1 - range->p0), &bytes) ||
        __builtin_add_overflow(bytes, s.fixed + s.state, &bytes) || bytes > SIZE_MAX)
        return SIZE_MAX;
    return (size_t)bytes;
}

double blob_bytes_per_token(const struct blob_layout *l)
{
    return (double)layout_size(l).per_cell;
}

uint64_t blob_state_bytes(const struct blob_layout *l)
{
    return layout_size(l).state;
}

bool blob_has_state(const struct blob_layout *l)
{
    return layout_size(l).state > 0;
}

// Bytes that an attention section of a good blob has, read from its cell counts.
static size_t attention_bytes(const struct blob_layout *l, const struct blob_section *s,
                              const uint8_t *at)
{
    struct size size = section_size(l, s);
    size_t sum = 4 + 4 * (size_t)s->n_stream;
    const uint8_t *count = at + 4;
    for (uint32_t i = 0; i < s->n_stream; i++) {
        uint32_t cells = le_get32(count);
        size_t bytes = cells ? 8 + 12 * s->n_tensors + cells * (size_t)size.per_cell : 0;
        sum += bytes;
        count += 4 + bytes;
    }
    return sum;
}

// Moves the headers of the state's tensors together; returns where they end.
static uint8_t *heads_compact(const struct blob_layout *l, const struct blob_section *s,
                              uint8_t *to, const uint8_t *from)
{
    for (size_t i = 0; i < s->n_tensors; i++) {
        const struct blob_tensor *t = &l->tensors[s->tensors + i];
        size_t head = t->type < 0 ? 8 : 12;
        memmove(to, from, head);
        to += head;
        from += head + t->row_bytes;
    }
    return to;
}

size_t blob_state_drop(const struct blob_layout *l, void *data, size_t len)
{
    uint8_t *at = data;
    uint8_t *end = at + len;
    at += BLOB_HEAD_BYTES;
    for (size_t i = 0; i < l->n_sections; i++) {
        const struct blob_section *s = &l->sections[i];
        if (s->kind != BLOB_RECURRENT) {
            at += attention_bytes(l, s, at);
            continue;
        }
        if (le_get32(at) == 0)
            return len;
        // cells, {pos, n_seq}, transposed, n_layer, tensors
        size_t whole = 4 + 8 + 8 + state_head_bytes(l, s) + (size_t)tensors_bytes(l, s);
        uint8_t *next = at + whole;
        le_put32(at, 0);
        memmove(at + 4, at + 12, 8);
        uint8_t *to = heads_compact(l, s, at + 12, at + 20);
        memmove(to, next, (size_t)(end - next));
        return (size_t)(to - (uint8_t *)data) + (size_t)(end - next);
    }
    return len;
}
