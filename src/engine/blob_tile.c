// A blob put together from tiles: the K and V rows of one layer after the other. Positions, types and
// sizes are this engine's own; of the peer come the rows alone.
#include "engine/blob.h"

#include "base/buf.h"

#define CELL_BYTES 12u // pos, n_seq, seq
#define HEAD_BYTES 12u // of a tensor: type, row size

bool blob_tiles_fit(const struct blob_layout *l)
{
    const struct blob_section *s = &l->sections[0];
    return l->known && l->n_sections == 1 && s->kind == BLOB_ATTENTION && s->n_stream == 1 &&
           !s->window && !s->ext && s->has_v && s->v_trans == 0 && s->n_layer > 0;
}

uint32_t blob_tile_layers(const struct blob_layout *l)
{
    return blob_tiles_fit(l) ? l->sections[0].n_layer : 0;
}

uint64_t blob_tile_row_bytes(const struct blob_layout *l, uint32_t layer, bool v)
{
    return l->tensors[v ? l->sections[0].n_layer + layer : layer].row_bytes;
}

size_t blob_tile_bytes(const struct blob_layout *l, uint32_t layer, uint32_t cells)
{
    return (size_t)(blob_tile_row_bytes(l, layer, false) + blob_tile_row_bytes(l, layer, true)) *
           cells;
}

static uint8_t *cells_put(uint8_t *at, const struct blob_range *range)
{
    for (uint32_t pos = range->p0; pos < range->p1; pos++, at += CELL_BYTES) {
        le_put32(at, pos);
        le_put32(at + 4, 1);
        le_put32(at + 8, 0);
    }
    return at;
}

void blob_tiles_begin(const struct blob_layout *l, const struct blob_range *range, void *blob)
{
    const struct blob_section *s = &l->sections[0];
    uint8_t *at = blob;
    uint32_t cells = range->p1 - range->p0;
    le_put32(at, BLOB_MAGIC);
    le_put32(at + 4, 0);
    le_put32(at + 8, s->n_stream);
    le_put32(at + 12, cells);
    at = cells_put(at + 16, range);
    le_put32(at, s->v_trans);
    le_put32(at + 4, s->n_layer);
    at += 8;
    for (size_t i = 0; i < s->n_tensors; i++) {
        le_put32(at, (uint32_t)l->tensors[i].type);
        le_put64(at + 4, l->tensors[i].row_bytes);
        at += HEAD_BYTES + l->tensors[i].row_bytes * cells;
    }
}

static size_t tensor_offset(const struct blob_layout *l, size_t tensor, uint32_t cells)
{
    size_t at = 16 + (size_t)CELL_BYTES * cells + 8 + HEAD_BYTES;
    for (size_t i = 0; i < tensor; i++)
        at += HEAD_BYTES + (size_t)l->tensors[i].row_bytes * cells;
    return at;
}

void blob_tile_put(const struct blob_layout *l, const struct blob_range *range, uint32_t layer,
                   const void *rows, void *blob)
{
    uint32_t cells = range->p1 - range->p0;
    size_t k = (size_t)blob_tile_row_bytes(l, layer, false) * cells;
    size_t v = (size_t)blob_tile_row_bytes(l, layer, true) * cells;
    uint8_t *to = blob;
    memcpy(to + tensor_offset(l, layer, cells), rows, k);
    memcpy(to + tensor_offset(l, l->sections[0].n_layer + layer, cells), (const uint8_t *)rows + k,
           v);
}
