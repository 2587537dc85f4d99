// Images in prompts, through llama.cpp's own library for them (mtmd): it has the projector, knows how each
// model wants its images scaled, cut and marked, and says which rows and positions they take.
//
//   text thread     media_render: pixels, scaled and cut (mtmd_tokenize)
//   engine thread   media_encode: the projector, once a piece; media_step: rows into a sequence
//
// Nothing here goes through the library's readers of files: they would hand what they cannot read to a
// program for videos. Pixels come from llama_image.c.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "base/log.h"
#include "os/os.h"

#include <gguf.h>
#include <inttypes.h>
#include <mtmd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MARKER_RANDOM_BYTES 16
#define MROPE_COORDINATES 4
#define PIECE_ROWS_MAX (1u << 16)

struct llama_media {
    struct mtmd_context *ctx;
    uint64_t hash; // of the projector's file
    // Random, so that no text of a user's can stand for an image that is not there.
    char marker[2 * MARKER_RANDOM_BYTES + 16];
};

struct engine_media {
    struct mtmd_input_chunk *chunk; // with pixels until it is encoded
    uint32_t rows, positions;
    bool causal, mrope;
    float *embd; // rows x n_embd_inp; NULL: not encoded
};

// ---- the projector -----------------------------------------------------------------------------

static int projector_check(const char *path, uint64_t *hash, struct err *e)
{
    struct gguf_context *gguf = NULL;
    int rc = llama_file_check(path, &gguf, e);
    if (rc != 0)
        return rc;
    int64_t key = gguf_find_key(gguf, "general.architecture");
    const char *arch = key >= 0 && gguf_get_kv_type(gguf, key) == GGUF_TYPE_STRING
                           ? gguf_get_val_str(gguf, key)
                           : "?";
    if (strcmp(arch, "clip") != 0)
        rc = err_set(e, ERR_INVALID,
                     "'%s' is a model of architecture '%s', not a projector; give --mmproj the "
                     "mmproj file that belongs to the model",
                     path, arch);
    else
        *hash = llama_file_hash(path, gguf);
    gguf_free(gguf);
    return rc;
}

static void marker_make(struct llama_media *m)
{
    uint8_t random[MARKER_RANDOM_BYTES];
    char hex[2 * MARKER_RANDOM_BYTES + 1];
    os_random(random, sizeof random);
    hex_encode(random, sizeof random, hex);
    snprintf(m->marker, sizeof m->marker, "<image-%s>", hex);
}

static int context_open(struct llama_engine *g, const struct engine_options *o,
                        struct llama_media *m, struct err *e)
{
    struct mtmd_context_params p = mtmd_context_params_default();
    p.use_gpu = o->n_gpu_layers != 0;
    p.print_timings = false;
    p.n_threads = o->n_threads > 0 ? o->n_threads : os_cpu_count();
    p.media_marker = m->marker;
    llama_log_begin();
    m->ctx = mtmd_init_from_file(o->projector, g->model, p);
    const char *why = llama_log_end();
    if (!m->ctx)
        return err_set(e, ERR_UNSUPPORTED, "the projector '%s' does not serve model '%s': %s",
                       o->projector, g->base.identity.model, *why ? why : "no reason given");
    if (!mtmd_support_vision(m->ctx))
        return err_set(e, ERR_UNSUPPORTED, "the projector '%s' reads no images", o->projector);
    return 0;
}

int llama_media_open(struct llama_engine *g, const struct engine_options *o, struct err *e)
{
    if (!o->projector)
        return 0;
    if (!g->mem || !g->chat)
        return err_set(e, ERR_UNSUPPORTED,
                       "model '%s' does not answer chats: start it without --mmproj",
                       g->base.identity.model);
    g->media = mem_alloc(sizeof *g->media);
    marker_make(g->media);
    int rc = projector_check(o->projector, &g->media->hash, e);
    if (rc == 0)
        rc = context_open(g, o, g->media, e);
    g->base.limits.media = rc == 0;
    return rc;
}

void llama_media_close(struct llama_engine *g)
{
    if (g->media && g->media->ctx)
        mtmd_free(g->media->ctx);
    free(g->media);
    g->media = NULL;
}

const char *llama_media_marker(const struct llama_engine *g)
{
    return g->media ? g->media->marker : NULL;
}

// ---- places and positions ----------------------------------------------------------------------

llama_pos llama_media_pos(const struct llama_seq *s, uint32_t place)
{
    uint32_t pos = place;
    for (uint32_t i = 0; i < s->n_shifts && s->shifts[i].at < place; i++) {
        const struct llama_shift *shift = &s->shifts[i];
        uint32_t in = place - shift->at; // a place inside counts from the piece's first position
        pos -= in < shift->rows ? in : shift->rows - shift->positions;
    }
    return (llama_pos)pos;
}

int llama_media_cut_check(const struct llama_seq *s, uint32_t place, struct err *e)
{
    for (uint32_t i = 0; i < s->n_shifts; i++)
        if (place > s->shifts[i].at && place < s->shifts[i].at + s->shifts[i].rows)
            return err_set(e, ERR_UNSUPPORTED,
                           "place %" PRIu32 " lies inside an image, [%" PRIu32 ", %" PRIu32
                           "), whose rows share positions",
                           place, s->shifts[i].at, s->shifts[i].at + s->shifts[i].rows);
    return 0;
}

void llama_media_cut(struct llama_seq *s, uint32_t place)
{
    while (s->n_shifts > 0 && s->shifts[s->n_shifts - 1].at >= place)
        s->n_shifts--;
}

// ---- rendering ---------------------------------------------------------------------------------

static void bitmaps_free(struct mtmd_bitmap **bitmaps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        mtmd_bitmap_free(bitmaps[i]);
    free(bitmaps);
}

// Each knows its number, which comes back with the pieces made of it.
static int bitmaps_make(const struct engine_source *source, struct mtmd_bitmap ***out,
                        struct err *e)
{
    struct mtmd_bitmap **bitmaps = mem_alloc((source->n_images + 1) * sizeof(struct mtmd_bitmap *));
    struct llama_image image;
    char id[24];
    for (size_t i = 0; i < source->n_images; i++) {
        int rc = llama_image_read(&source->images[i], &image, e);
        if (rc != 0) {
            err_wrap(e, "image %zu of %zu", i + 1, source->n_images);
            bitmaps_free(bitmaps, i);
            return rc;
        }
        bitmaps[i] = mtmd_bitmap_init(image.width, image.height, image.pixels);
        llama_image_fini(&image);
        snprintf(id, sizeof id, "%zu", i);
        mtmd_bitmap_set_id(bitmaps[i], id);
    }
    *out = bitmaps;
    return 0;
}

// What shapes the KV of a piece but the bytes of its image: the projector, which part of the image it is,
// and where the model places its rows.
static uint64_t layout_hash(const struct llama_media *m, const struct mtmd_input_chunk *chunk,
                            uint32_t part)
{
    const struct mtmd_image_tokens *image = mtmd_input_chunk_get_tokens_image(chunk);
    size_t rows = mtmd_input_chunk_get_n_tokens(chunk);
    uint64_t head[] = {m->hash, part, rows, (uint64_t)mtmd_input_chunk_get_n_pos(chunk)};
    uint64_t hash = XXH3_64bits(head, sizeof head);
    for (size_t i = 0; mtmd_decode_use_mrope(m->ctx) && i < rows; i++) {
        struct mtmd_decoder_pos pos = mtmd_image_tokens_get_decoder_pos(image, 0, i);
        uint32_t words[] = {pos.t, pos.x, pos.y, pos.z};
        hash = XXH3_64bits_withSeed(words, sizeof words, hash);
    }
    return hash;
}

static int piece_check(const struct llama_engine *g, const struct engine_media *m, struct err *e)
{
    if (m->rows == 0 || m->rows > PIECE_ROWS_MAX || m->positions == 0 || m->positions > m->rows)
        return err_set(e, ERR_UNSUPPORTED,
                       "an image becomes %" PRIu32 " rows at %" PRIu32
                       " positions; this server cannot place such",
                       m->rows, m->positions);
    if (!m->causal && m->rows > g->base.limits.n_batch)
        return err_set(e, ERR_UNSUPPORTED,
                       "an image becomes %" PRIu32 " rows that this model must see at once, and a "
                       "step holds %" PRIu32,
                       m->rows, g->base.limits.n_batch);
    return 0;
}

static int piece_add(struct llama_engine *g, const struct mtmd_input_chunk *chunk,
                     struct engine_prompt *out, struct err *e)
{
    struct engine_media *m = mem_alloc(sizeof *m);
    const char *id = mtmd_input_chunk_get_id(chunk);
    uint32_t image = id ? (uint32_t)strtoul(id, NULL, 10) : 0, part = 0;
    for (size_t i = out->n_pieces; i > 0 && out->pieces[i - 1].image == image; i--)
        part++;
    m->rows = (uint32_t)mtmd_input_chunk_get_n_tokens(chunk);
    m->positions = (uint32_t)mtmd_input_chunk_get_n_pos(chunk);
    m->mrope = mtmd_decode_use_mrope(g->media->ctx);
    m->causal = !mtmd_decode_use_non_causal(g->media->ctx, chunk);
    int rc = piece_check(g, m, e);
    if (rc != 0) {
        free(m);
        return rc;
    }
    m->chunk = mtmd_input_chunk_copy(chunk);
    out->pieces[out->n_pieces++] = (struct engine_piece){
        .at = (uint32_t)out->n_tokens,
        .rows = m->rows,
        .image = image,
        .whole = m->mrope || !m->causal,
        .layout = layout_hash(g->media, chunk, part),
        .bytes = (size_t)m->rows * (size_t)llama_model_n_embd_inp(g->model) * sizeof(float),
        .media = m,
    };
    for (uint32_t i = 0; i < m->rows; i++)
        out->tokens[out->n_tokens++] = ENGINE_TOKEN_MEDIA;
    return 0;
}

static int text_add(const struct llama_engine *g, const struct mtmd_input_chunk *chunk,
                    struct engine_prompt *out, struct err *e)
{
    size_t n = 0;
    const llama_token *tokens = mtmd_input_chunk_get_tokens_text(chunk, &n);
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= g->base.identity.n_vocab)
            return err_set(e, ERR_UNSUPPORTED,
                           "the projector marks images with tokens that model '%s' does not have; "
                           "give --mmproj the file that belongs to the model",
                           g->base.identity.model);
        out->tokens[out->n_tokens++] = tokens[i];
    }
    return 0;
}

static int chunks_take(struct llama_engine *g, const struct mtmd_input_chunks *chunks,
                       struct engine_prompt *out, struct err *e)
{
    size_t n = mtmd_input_chunks_size(chunks), tokens = 0;
    int rc = 0;
    for (size_t i = 0; i < n; i++)
        tokens += mtmd_input_chunk_get_n_tokens(mtmd_input_chunks_get(chunks, i));
    if (tokens > INT32_MAX)
        return err_set(e, ERR_RANGE, "the prompt has %zu tokens", tokens);
    out->tokens = mem_alloc((tokens + 1) * sizeof *out->tokens);
    out->pieces = mem_alloc((n + 1) * sizeof *out->pieces);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct mtmd_input_chunk *chunk = mtmd_input_chunks_get(chunks, i);
        rc = mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT
                 ? text_add(g, chunk, out, e)
                 : piece_add(g, chunk, out, e);
    }
    return rc;
}

static int tokenize_error(int rc, const struct engine_source *source, const char *why,
                          struct err *e)
{
    if (strstr(why, "media markers"))
        return err_set(e, ERR_INVALID,
                       "the model's chat template did not put %zu images where they belong (%s)",
                       source->n_images, why);
    return err_set(e, ERR_INVALID, "the images cannot be prepared for this model (%d%s%s)", rc,
                   *why ? ": " : "", why);
}

int llama_media_render(struct engine *base, const struct engine_source *source,
                       struct engine_prompt *out, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    struct mtmd_bitmap **bitmaps = NULL;
    *out = (struct engine_prompt){0};
    if (!g->media)
        return err_set(e, ERR_UNSUPPORTED,
                       "model '%s' takes no images: start it with --mmproj FILE, its projector",
                       base->identity.model);
    int rc = bitmaps_make(source, &bitmaps, e);
    if (rc != 0)
        return rc;
    struct mtmd_input_text text = {source->prompt, strlen(source->prompt), true, true};
    struct mtmd_input_chunks *chunks = mtmd_input_chunks_init();
    llama_log_begin();
    rc = mtmd_tokenize(g->media->ctx, chunks, &text, (const struct mtmd_bitmap *const *)bitmaps,
                       source->n_images);
    const char *why = llama_log_end();
    bitmaps_free(bitmaps, source->n_images);
    rc = rc != 0 ? tokenize_error(rc, source, why, e) : chunks_take(g, chunks, out, e);
    mtmd_input_chunks_free(chunks);
    if (rc != 0)
        engine_prompt_fini(base, out);
    return rc;
}

void llama_media_free(struct engine *g, struct engine_media *m)
{
    (void)g;
    if (!m)
        return;
    if (m->chunk)
        mtmd_input_chunk_free(m->chunk);
    free(m->embd);
    free(m);
}

// ---- computing ---------------------------------------------------------------------------------

int llama_media_encode(struct engine *base, struct engine_media *m, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    size_t bytes = (size_t)m->rows * (size_t)llama_model_n_embd_inp(g->model) * sizeof(float);
    if (m->embd)
        return 0;
    llama_log_begin();
    int rc = mtmd_encode_chunk(g->media->ctx, m->chunk);
    const char *why = llama_log_end();
    if (rc != 0)
        return err_set(e, ERR_ENGINE, "the projector could not read an image (%d%s%s)", rc,
                       *why ? ": " : "", why);
    m->embd = malloc(bytes);
    if (!m->embd)
        return err_set(e, ERR_ENGINE, "no memory for %zu bytes of an image's rows", bytes);
    memcpy(m->embd, mtmd_get_output_embd(g->media->ctx), bytes);
    // The pixels have done their part; where rows lie is still asked.
    struct mtmd_input_chunk *placeholder = mtmd_input_chunk_get_placeholder(m->chunk);
    mtmd_input_chunk_free(m->chunk);
    m->chunk = placeholder;
    return 0;
}

// A batch of rows; the library wants all first coordinates, then all second ones, ...
struct rows_batch {
    struct llama_batch batch;
    llama_pos *pos;
    llama_seq_id seq, *seq_of;
    llama_seq_id **seqs;
    int32_t *n_seqs;
    int8_t *logits;
};

static void rows_batch_init(struct rows_batch *b, uint32_t most, uint32_t seq)
{
    b->pos = mem_alloc((size_t)most * MROPE_COORDINATES * sizeof *b->pos);
    b->seqs = mem_alloc((size_t)most * sizeof(llama_seq_id *));
    b->n_seqs = mem_alloc((size_t)most * sizeof *b->n_seqs);
    b->logits = mem_alloc(most);
    b->seq = (llama_seq_id)seq;
    for (uint32_t i = 0; i < most; i++) {
        b->n_seqs[i] = 1;
        b->seqs[i] = &b->seq;
    }
}

static void rows_batch_fini(struct rows_batch *b)
{
    free(b->pos);
    free(b->seqs);
    free(b->n_seqs);
    free(b->logits);
}

static void positions_fill(const struct engine_media *m, llama_pos from, uint32_t first, uint32_t n,
                           llama_pos *pos)
{
    const struct mtmd_image_tokens *image = mtmd_input_chunk_get_tokens_image(m->chunk);
    for (uint32_t i = 0; i < n; i++) {
        if (!m->mrope) {
            pos[i] = from + (llama_pos)(first + i);
            continue;
        }
        struct mtmd_decoder_pos at = mtmd_image_tokens_get_decoder_pos(image, from, first + i);
        pos[i] = (llama_pos)at.t;
        pos[i + n] = (llama_pos)at.y;
        pos[i + 2 * n] = (llama_pos)at.x;
        pos[i + 3 * n] = (llama_pos)at.z;
    }
}

// Rows [first, first + n) of the piece, whose first row has position `from`, batch by batch.
static int rows_decode(struct llama_engine *g, const struct engine_media *m,
                       const struct engine_media_rows *rows, llama_pos from)
{
    struct llama_context *ctx = g->seqs[rows->seq].settled ? g->streams : g->ctx;
    size_t width = (size_t)llama_model_n_embd_inp(g->model);
    uint32_t most = g->base.limits.n_batch, end = rows->first + rows->n;
    struct rows_batch b;
    int rc = 0;
    rows_batch_init(&b, rows->n < most ? rows->n : most, rows->seq);
    llama_adapter_put(g, ctx, rows->seq);
    if (!m->causal)
        llama_set_causal_attn(ctx, false);
    for (uint32_t i = rows->first; rc == 0 && i < end; i += most) {
        uint32_t n = end - i < most ? end - i : most;
        positions_fill(m, from, i, n, b.pos);
        b.batch = (struct llama_batch){
            .n_tokens = (int32_t)n,
            .embd = m->embd + (size_t)i * width,
            .pos = b.pos,
            .n_seq_id = b.n_seqs,
            .seq_id = b.seqs,
            .logits = b.logits,
        };
        rc = llama_decode(ctx, b.batch);
    }
    if (rc == 0)
        llama_synchronize(ctx);
    if (!m->causal)
        llama_set_causal_attn(ctx, true);
    rows_batch_fini(&b);
    return rc;
}

static int rows_check(const struct llama_engine *g, const struct engine_media *m,
                      const struct engine_media_rows *rows, struct err *e)
{
    bool whole = m->mrope || !m->causal;
    if (rows->seq >= g->base.limits.n_seq || rows->pos != g->seqs[rows->seq].held)
        return err_set(e, ERR_INVALID,
                       "an image at place %" PRIu32 " of sequence %" PRIu32 " does not continue it",
                       rows->pos, rows->seq);
    if (!m->embd || rows->n == 0 || rows->first >= m->rows || rows->n > m->rows - rows->first ||
        (whole && rows->n != m->rows))
        return err_set(e, ERR_INVALID,
                       "rows [%" PRIu32 ", +%" PRIu32 ") of an image of %" PRIu32 " rows%s",
                       rows->first, rows->n, m->rows, m->embd ? "" : " that is not encoded");
    if (m->positions < m->rows && g->seqs[rows->seq].n_shifts == LLAMA_SHIFTS)
        return err_set(e, ERR_INVALID, "a conversation with more than %d images; begin a new one",
                       LLAMA_SHIFTS);
    return llama_step_ready(g, rows->seq, e);
}

static void rows_undo(struct llama_engine *g, const struct engine_media_rows *rows, llama_pos pos)
{
    struct llama_seq *s = &g->seqs[rows->seq];
    llama_memory_t mem = llama_home_memory(g, rows->seq);
    if (llama_memory_seq_rm(mem, (llama_seq_id)rows->seq, pos, -1))
        return;
    llama_memory_seq_rm(mem, (llama_seq_id)rows->seq, -1, -1);
    log_warn("llama", "sequence %" PRIu32 " lost its recurrent state in a failed step", rows->seq);
    *s = (struct llama_seq){0};
}

static int step_error(int rc, const struct engine_media_rows *rows, const char *why, struct err *e)
{
    if (rc == 1)
        return err_set(e, ERR_BUSY, "no room for %" PRIu32 " rows of an image in the KV cache",
                       rows->n);
    if (rc == 2)
        return err_set(e, ERR_CANCELLED, "the step was interrupted");
    return err_set(e, ERR_ENGINE,
                   "llama.cpp could not compute %" PRIu32 " rows of an image (%d%s%s)", rows->n, rc,
                   *why ? ": " : "", why);
}

int llama_media_step(struct engine *base, const struct engine_media *m,
                     const struct engine_media_rows *rows, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    g->pass[0].n_rows = 0;
    int rc = rows_check(g, m, rows, e);
    if (rc != 0)
        return rc;
    if (atomic_load_explicit(&g->interrupted, memory_order_relaxed))
        return err_set(e, ERR_CANCELLED, "the step was interrupted");
    struct llama_seq *s = &g->seqs[rows->seq];
    llama_pos pos = llama_media_pos(s, rows->pos);
    llama_tile_step(g, NULL, 0);
    g->pauses = false;
    llama_log_begin();
    rc = rows_decode(g, m, rows, pos - (llama_pos)rows->first);
    const char *why = llama_log_end();
    if (rc != 0) {
        rows_undo(g, rows, pos);
        return step_error(rc, rows, why, e);
    }
    if (m->positions < m->rows)
        s->shifts[s->n_shifts++] = (struct llama_shift){rows->pos, m->rows, m->positions};
    s->held += rows->n;
    return 0;
}
