// One walker over the format serves both learning and checking: where learning stores what it
// reads into the layout, checking compares with it. Learning tries the few section sequences that
// exist until one eats the sample to its last byte; a second sample then has to pass the check.
#include "engine/blob.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdlib.h>

#define DSV4_MAGIC 0x34565344u // "DSV4"
#define TYPES_MAX 64           // ggml types are below; a larger first word is a row size

struct walk {
    const uint8_t *at;
    size_t left;
    struct blob_layout *layout; // written only when learning
    bool learn;
    struct blob_range range;
    struct blob_scratch *scratch;
    size_t len;
    struct err *e;
};

void blob_scratch_init(struct blob_scratch *s, size_t max_positions)
{
    s->n_bits = max_positions;
    s->bits = mem_alloc((max_positions / 64 + 1) * sizeof *s->bits);
}

void blob_scratch_fini(struct blob_scratch *s)
{
    free(s->bits);
    s->bits = NULL;
}

// ---- reading -----------------------------------------------------------------------------------

static size_t offset_of(const struct walk *w)
{
    return w->len - w->left;
}

static int skip(struct walk *w, uint64_t n, const char *what)
{
    if (n > w->left)
        return err_set(w->e, ERR_CORRUPT,
                       "KV blob: %s needs %" PRIu64 " bytes at %zu, %zu are left", what, n,
                       offset_of(w), w->left);
    w->at += n;
    w->left -= (size_t)n;
    return 0;
}

static int read32(struct walk *w, uint32_t *v, const char *what)
{
    const uint8_t *at = w->at;
    int rc = skip(w, 4, what);
    if (rc == 0)
        *v = le_get32(at);
    return rc;
}

static int read64(struct walk *w, uint64_t *v, const char *what)
{
    const uint8_t *at = w->at;
    int rc = skip(w, 8, what);
    if (rc == 0)
        *v = le_get64(at);
    return rc;
}

static int differ(struct walk *w, int code, const char *what, uint64_t got, uint64_t want)
{
    return err_set(w->e, code, "KV blob: %s is %" PRIu64 " at byte %zu, this engine has %" PRIu64,
                   what, got, offset_of(w), want);
}

// Reads a word that must be `want`.
static int need32(struct walk *w, uint32_t want, const char *what)
{
    uint32_t v = 0;
    int rc = read32(w, &v, what);
    if (rc == 0 && v != want)
        rc = differ(w, ERR_MISMATCH, what, v, want);
    return rc;
}

// Reads a word that is part of the layout.
static int fix32(struct walk *w, uint32_t *member, uint32_t max, const char *what)
{
    uint32_t v = 0;
    int rc = read32(w, &v, what);
    if (rc != 0)
        return rc;
    if (w->learn && v <= max)
        *member = v;
    return v == *member ? 0 : differ(w, ERR_MISMATCH, what, v, *member);
}

static int fix64(struct walk *w, uint64_t *member, const char *what)
{
    uint64_t v = 0;
    int rc = read64(w, &v, what);
    if (rc != 0)
        return rc;
    if (w->learn)
        *member = v;
    return v == *member ? 0 : differ(w, ERR_MISMATCH, what, v, *member);
}

// The i-th tensor of a section; a new one when learning. NULL: too many.
static struct blob_tensor *tensor_at(struct walk *w, struct blob_section *s, size_t i)
{
    struct blob_layout *l = w->layout;
    if (!w->learn)
        return i < s->n_tensors ? &l->tensors[s->tensors + i] : NULL;
    if (l->n_tensors == BLOB_TENSORS_MAX)
        return NULL;
    s->n_tensors++;
    struct blob_tensor *t = &l->tensors[l->n_tensors++];
    *t = (struct blob_tensor){.n_embd = 1};
    return t;
}

static int type_fix(struct walk *w, struct blob_tensor *t, const char *what)
{
    uint32_t type = (uint32_t)t->type;
    int rc = fix32(w, &type, TYPES_MAX - 1, what);
    if (rc == 0 && w->learn)
        t->type = (int32_t)type;
    return rc;
}

static int rows_skip(struct walk *w, const struct blob_tensor *t, uint64_t rows)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(t->row_bytes, rows, &bytes) ||
        __builtin_mul_overflow(bytes, t->n_embd, &bytes))
        return err_set(w->e, ERR_CORRUPT, "KV blob: row size %" PRIu64 " overflows", t->row_bytes);
    return skip(w, bytes, "tensor data");
}

// ---- attention ---------------------------------------------------------------------------------

static int position_check(struct walk *w, uint32_t pos)
{
    if (pos < w->range.p0 || pos >= w->range.p1)
        return err_set(w->e, ERR_CORRUPT,
                       "KV blob: position %" PRIu32 " at byte %zu is outside [%" PRIu32 ", %" PRIu32
                       ")",
                       pos, offset_of(w), w->range.p0, w->range.p1);
    uint32_t i = pos - w->range.p0;
    uint64_t *word = &w->scratch->bits[i / 64];
    uint64_t bit = UINT64_C(1) << (i % 64);
    if (*word & bit)
        return err_set(w->e, ERR_CORRUPT, "KV blob: position %" PRIu32 " occurs twice", pos);
    *word |= bit;
    return 0;
}

static int cell_check(struct walk *w, const struct blob_section *s)
{
    uint32_t pos = 0, token = 0;
    int rc = read32(w, &pos, "a cell");
    if (rc == 0)
        rc = position_check(w, pos);
    if (rc == 0)
        rc = need32(w, 1, "number of sequences of a cell");
    if (rc == 0 && s->ext) {
        rc = skip(w, 8, "a cell's place");
        if (rc == 0)
            rc = read32(w, &token, "a cell's token");
        if (rc == 0 && token != UINT32_MAX && token >= w->layout->n_vocab)
            rc = err_set(w->e, ERR_CORRUPT,
                         "KV blob: token %" PRIu32 " of a cell is outside the vocabulary", token);
    }
    return rc != 0 ? rc : skip(w, 4, "a cell's sequence");
}

static int cells_check(struct walk *w, const struct blob_section *s, uint32_t cells)
{
    size_t words = (w->range.p1 - w->range.p0) / 64 + 1;
    memset(w->scratch->bits, 0, words * sizeof *w->scratch->bits);
    for (uint32_t i = 0; i < cells; i++) {
        int rc = cell_check(w, s);
        if (rc != 0)
            return rc;
    }
    return 0;
}

// K, and V when it is not transposed.
static int plain_tensor(struct walk *w, struct blob_section *s, size_t i, uint32_t cells)
{
    struct blob_tensor *t = tensor_at(w, s, i);
    if (!t)
        return err_set(w->e, ERR_UNSUPPORTED, "KV blob: more than %d tensors", BLOB_TENSORS_MAX);
    int rc = type_fix(w, t, "tensor type");
    if (rc == 0)
        rc = fix64(w, &t->row_bytes, "row size");
    return rc != 0 ? rc : rows_skip(w, t, cells);
}

static int transposed_tensor(struct walk *w, struct blob_section *s, size_t i, uint32_t cells)
{
    struct blob_tensor *t = tensor_at(w, s, i);
    if (!t)
        return err_set(w->e, ERR_UNSUPPORTED, "KV blob: more than %d tensors", BLOB_TENSORS_MAX);
    uint32_t element = (uint32_t)t->row_bytes;
    int rc = type_fix(w, t, "tensor type");
    if (rc == 0)
        rc = fix32(w, &element, 1024, "element size");
    if (w->learn)
        t->row_bytes = element;
    if (rc == 0)
        rc = fix32(w, &t->n_embd, UINT32_MAX, "V row length");
    return rc != 0 ? rc : rows_skip(w, t, cells);
}

static int stream_walk(struct walk *w, struct blob_section *s, uint32_t cells)
{
    int rc = cells_check(w, s, cells);
    if (rc == 0)
        rc = fix32(w, &s->v_trans, 1, "V transposed");
    if (rc == 0)
        rc = fix32(w, &s->n_layer, 1024, "number of layers");
    for (uint32_t i = 0; rc == 0 && i < s->n_layer; i++)
        rc = plain_tensor(w, s, i, cells);
    for (uint32_t i = 0; rc == 0 && s->has_v && i < s->n_layer; i++)
        rc = s->v_trans ? transposed_tensor(w, s, s->n_layer + i, cells)
                        : plain_tensor(w, s, s->n_layer + i, cells);
    return rc;
}

// Where the unbroken run of positions that ends the range begins.
static uint32_t run_from(const struct walk *w)
{
    uint32_t pos = w->range.p1;
    while (pos > w->range.p0) {
        uint32_t i = pos - 1 - w->range.p0;
        if (!(w->scratch->bits[i / 64] >> (i % 64) & 1))
            break;
        pos--;
    }
    return pos;
}

static int attention_walk(struct walk *w, struct blob_section *s)
{
    uint32_t n = w->range.p1 - w->range.p0, filled = 0;
    int rc = fix32(w, &s->n_stream, BLOB_STREAMS_MAX, "number of streams");
    for (uint32_t i = 0; rc == 0 && i < s->n_stream; i++) {
        uint32_t cells = 0;
        rc = read32(w, &cells, "number of cells");
        if (rc != 0 || cells == 0)
            continue;
        filled++;
        if (cells > n || filled > 1)
            return differ(w, ERR_CORRUPT, "number of cells", cells, n);
        if (cells < n && !s->window)
            return differ(w, ERR_CORRUPT, "number of cells", cells, n);
        rc = stream_walk(w, s, cells);
    }
    if (rc == 0 && filled == 0 && !s->window)
        rc = differ(w, ERR_CORRUPT, "number of cells", 0, n);
    if (rc == 0 && s->window)
        w->scratch->window_from = filled ? run_from(w) : w->range.p1;
    return rc;
}

// ---- recurrent ---------------------------------------------------------------------------------

static int state_tensor(struct walk *w, struct blob_section *s, size_t i, uint32_t cells)
{
    struct blob_tensor *t = tensor_at(w, s, i);
    if (!t)
        return err_set(w->e, ERR_UNSUPPORTED, "KV blob: more than %d tensors", BLOB_TENSORS_MAX);
    if (w->learn && w->left >= 4 && le_get32(w->at) >= TYPES_MAX)
        t->type = -1;
    int rc = t->type < 0 ? 0 : type_fix(w, t, "state type");
    if (rc == 0)
        rc = fix64(w, &t->row_bytes, "state row size");
    return rc != 0 ? rc : rows_skip(w, t, cells);
}

static int state_cells(struct walk *w, uint32_t cells)
{
    if (cells != (w->range.state ? 1u : 0u))
        return differ(w, ERR_CORRUPT, "number of recurrent states", cells, w->range.state);
    if (cells == 0)
        return 0;
    uint32_t pos = 0;
    int rc = read32(w, &pos, "position of the state");
    if (rc == 0 && pos != w->range.p1 - 1)
        rc = differ(w, ERR_CORRUPT, "position of the recurrent state", pos, w->range.p1 - 1);
    return rc != 0 ? rc : need32(w, 0, "number of sequences of the state");
}

// When learning, n_tensors comes in as the number to read; 0: all that is left.
static int recurrent_walk(struct walk *w, struct blob_section *s)
{
    uint32_t cells = 0;
    int rc = read32(w, &cells, "number of recurrent states");
    if (rc == 0)
        rc = state_cells(w, cells);
    if (rc == 0)
        rc = need32(w, 0, "state transposed");
    if (rc == 0)
        rc = fix32(w, &s->n_layer, 1024, "number of layers");
    size_t n = s->n_tensors;
    if (w->learn)
        s->n_tensors = 0;
    for (size_t i = 0; rc == 0 && (w->learn && n == 0 ? w->left > 0 : i < n); i++)
        rc = state_tensor(w, s, i, cells);
    return rc;
}

// ---- DeepSeek-V4 -------------------------------------------------------------------------------

static int dsv4_tensor(struct walk *w, struct blob_section *s, size_t i, uint64_t rows)
{
    struct blob_tensor *t = tensor_at(w, s, i);
    if (!t)
        return err_set(w->e, ERR_UNSUPPORTED, "KV blob: more than %d tensors", BLOB_TENSORS_MAX);
    uint64_t n = 0;
    int rc = type_fix(w, t, "tensor type");
    if (rc == 0)
        rc = fix64(w, &t->ne0, "row length");
    if (rc == 0)
        rc = read64(w, &n, "number of rows");
    if (rc == 0 && n != rows)
        rc = differ(w, ERR_CORRUPT, "number of rows", n, rows);
    if (rc == 0)
        rc = fix64(w, &t->row_bytes, "row size");
    return rc != 0 ? rc : rows_skip(w, t, rows);
}

// The layer number stands before the layer's first tensor; it is kept with that tensor.
static int dsv4_layer(struct walk *w, struct blob_section *s, size_t first, size_t n, uint64_t rows)
{
    uint32_t layer = w->learn ? 0 : w->layout->tensors[s->tensors + first].layer;
    int rc = fix32(w, &layer, 1024, "layer number");
    for (size_t i = first; rc == 0 && i < first + n; i++)
        rc = dsv4_tensor(w, s, i, rows);
    if (rc == 0 && w->learn)
        w->layout->tensors[s->tensors + first].layer = layer;
    return rc;
}

static int dsv4_rows_walk(struct walk *w, struct blob_section *s)
{
    uint32_t rows = w->range.p1 / s->ratio;
    int rc = fix32(w, &s->words[0], 16, "version of the rows");
    if (rc == 0)
        rc = need32(w, rows, "number of rows");
    if (rc == 0)
        rc = need32(w, 1, "number of streams");
    if (rc == 0)
        rc = fix32(w, &s->n_layer, 1024, "number of layers");
    for (uint32_t i = 0; rc == 0 && i < s->n_layer; i++)
        rc = dsv4_layer(w, s, i, 1, rows);
    return rc;
}

static int dsv4_state_walk(struct walk *w, struct blob_section *s)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < 5; i++)
        rc = fix32(w, &s->words[i], UINT32_MAX, "compressor state");
    if (rc == 0)
        rc = fix32(w, &s->n_layer, 1024, "number of layers");
    for (size_t i = 0; rc == 0 && i < s->n_layer; i++)
        rc = dsv4_layer(w, s, 2 * i, 2, s->words[2]);
    return rc;
}

static int dsv4_head_walk(struct walk *w, struct blob_section *s)
{
    int rc = need32(w, DSV4_MAGIC, "magic of the DeepSeek-V4 state");
    if (rc == 0)
        rc = fix32(w, &s->words[0], 16, "version of the DeepSeek-V4 state");
    return rc != 0 ? rc : need32(w, 0, "mode of the DeepSeek-V4 state");
}

// ---- whole blobs -------------------------------------------------------------------------------

static int section_walk(struct walk *w, struct blob_section *s)
{
    switch (s->kind) {
    case BLOB_ATTENTION:
        return attention_walk(w, s);
    case BLOB_RECURRENT:
        return recurrent_walk(w, s);
    case BLOB_DSV4_HEAD:
        return dsv4_head_walk(w, s);
    case BLOB_DSV4_ROWS:
        return dsv4_rows_walk(w, s);
    case BLOB_DSV4_STATE:
        return dsv4_state_walk(w, s);
    }
    return err_set(w->e, ERR_UNSUPPORTED, "KV blob: unknown section");
}

static int head_walk(struct walk *w)
{
    int rc = need32(w, BLOB_MAGIC, "magic");
    return rc != 0 ? rc : skip(w, 4, "the sequence id");
}

int blob_check(const struct blob_layout *layout, const struct blob_range *range, const void *data,
               size_t len, struct blob_scratch *scratch, struct err *e)
{
    struct blob_layout fixed =
        *layout; // the walker takes it writable; checking never writes tensors
    struct walk w = {.at = data,
                     .left = len,
                     .len = len,
                     .layout = &fixed,
                     .range = *range,
                     .scratch = scratch,
                     .e = e};
    if (!layout->known)
        return err_set(e, ERR_UNSUPPORTED,
                       "this engine does not know the layout of its own KV blobs");
    if (range->p0 >= range->p1 || range->p1 - range->p0 > scratch->n_bits)
        return err_set(e, ERR_RANGE,
                       "KV blob: a range of %" PRIu32 " to %" PRIu32 " positions; at most %zu",
                       range->p0, range->p1, scratch->n_bits);
    scratch->window_from = range->p0;
    int rc = head_walk(&w);
    for (size_t i = 0; rc == 0 && i < fixed.n_sections; i++)
        rc = section_walk(&w, &fixed.sections[i]);
    if (rc == 0 && w.left > 0)
        rc = err_set(e, ERR_CORRUPT, "KV blob: %zu bytes left over after byte %zu", w.left,
                     len - w.left);
    return rc;
}

// ---- learning ----------------------------------------------------------------------------------

#define ATTENTION_MAX 3

static bool learn_rest(const struct walk *at, size_t n_attention, bool had_state);

// Tries one section here, then everything after it. Undone when that leads nowhere.
static bool learn_try(const struct walk *at, struct blob_section guess, size_t n_attention,
                      bool had_state)
{
    struct blob_layout *l = at->layout;
    if (l->n_sections == BLOB_SECTIONS_MAX)
        return false;
    size_t n_sections = l->n_sections, n_tensors = l->n_tensors;
    struct walk w = *at;
    struct blob_section *s = &l->sections[l->n_sections++];
    guess.tensors = n_tensors;
    *s = guess;
    if (section_walk(&w, s) == 0 && learn_rest(&w, n_attention, had_state))
        return true;
    l->n_sections = n_sections;
    l->n_tensors = n_tensors;
    return false;
}

static bool learn_attention(const struct walk *at, size_t n_attention, bool had_state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct blob_section s = {.kind = BLOB_ATTENTION, .ext = i & 2, .has_v = !(i & 1)};
        if (learn_try(at, s, n_attention + 1, had_state))
            return true;
    }
    return false;
}

// All that is left is state, or some tensors of it and an indexer's attention after them.
static bool learn_recurrent(const struct walk *at, size_t n_attention)
{
    struct blob_section s = {.kind = BLOB_RECURRENT};
    if (learn_try(at, s, n_attention, true))
        return true;
    for (s.n_tensors = 1; n_attention > 0 && s.n_tensors < 1024; s.n_tensors++)
        if (learn_try(at, s, n_attention, true))
            return true;
    return false;
}

static bool learn_rest(const struct walk *at, size_t n_attention, bool had_state)
{
    if (at->left == 0)
        return n_attention > 0 || had_state;
    if (n_attention < ATTENTION_MAX && learn_attention(at, n_attention, had_state))
        return true;
    return !had_state && learn_recurrent(at, n_attention);
}

// DeepSeek-V4 announces itself, and its sections have one order.
static bool learn_dsv4(struct walk *w)
{
    static const struct blob_section order[] = {
        {.kind = BLOB_DSV4_HEAD},
        {.kind = BLOB_ATTENTION},
        {.kind = BLOB_ATTENTION, .window = true},
        {.kind = BLOB_DSV4_ROWS, .ratio = 4},
        {.kind = BLOB_DSV4_ROWS, .ratio = 128},
        {.kind = BLOB_DSV4_ROWS, .ratio = 4},
        {.kind = BLOB_DSV4_STATE},
        {.kind = BLOB_DSV4_STATE},
        {.kind = BLOB_DSV4_STATE},
    };
    struct blob_layout *l = w->layout;
    for (unsigned v = 0; v < 4; v++) {
        struct walk at = *w;
        bool good = true;
        l->n_tensors = 0;
        for (l->n_sections = 0; good && l->n_sections < sizeof order / sizeof *order;) {
            struct blob_section *s = &l->sections[l->n_sections];
            *s = order[l->n_sections++];
            s->tensors = l->n_tensors;
            s->has_v = l->n_sections == 2 ? v & 1 : v & 2;
            good = section_walk(&at, s) == 0;
        }
        if (good && at.left == 0)
            return true;
    }
    return false;
}

static void windows_mark(struct blob_layout *l)
{
    for (size_t i = l->n_sections; i-- > 0;) {
        if (l->sections[i].kind == BLOB_ATTENTION) {
            l->sections[i].window = true;
            return;
        }
    }
}

int blob_learn(struct blob_layout *layout, const struct blob_sample *sample, struct err *e)
{
    struct blob_scratch scratch;
    struct err ignored;
    *layout = (struct blob_layout){.n_vocab = sample->n_vocab};
    layout->tensors = mem_alloc(BLOB_TENSORS_MAX * sizeof *layout->tensors);
    blob_scratch_init(&scratch, sample->n_tokens);
    struct walk w = {.at = sample->data,
                     .left = sample->len,
                     .len = sample->len,
                     .layout = layout,
                     .learn = true,
                     .range = {.p0 = 0, .p1 = sample->n_tokens, .state = true},
                     .scratch = &scratch,
                     .e = &ignored};
    if (head_walk(&w) == 0) {
        bool dsv4 = w.left >= 4 && le_get32(w.at) == DSV4_MAGIC;
        layout->known = dsv4 ? learn_dsv4(&w) : learn_rest(&w, 0, false);
    }
    blob_scratch_fini(&scratch);
    if (!layout->known) {
        blob_layout_fini(layout);
        return err_set(e, ERR_UNSUPPORTED,
                       "the state of this model has a layout that is not known");
    }
    if (sample->windowed)
        windows_mark(layout);
    layout->tensors =
        mem_resize(layout->tensors, (layout->n_tensors + 1) * sizeof *layout->tensors);
    return 0;
}

void blob_layout_fini(struct blob_layout *layout)
{
    free(layout->tensors);
    *layout = (struct blob_layout){0};
}
