// Images: from the bytes in a RENDER to rows in a sequence.
//
//   text thread     renders: the engine makes pieces of the images (engine.h); each gets a key, SHA-256 over
//                   the image's bytes and the piece's layout. The pieces go to the engine thread, the keys
//                   to the gateway, and come back with GENERATE.
//   engine thread   owns the pieces. A job refers to its own; one turn encodes a piece, later turns compute
//                   its rows, so that answers wait for no more than one pass of the projector.
//
// In a prompt, every row of a piece is a negative number made of the piece's key and the row's index. So
// what knows prompts as token ids, prefix memory and what the gateway thinks a worker holds, knows images
// too: equal ids are equal images in equal places, and others never meet.
//
// Pieces are kept as short as possible, for they are somebody's pictures: a while until their GENERATE
// comes, and a moment after their last job, because further answers to the same prompt may come. What
// stays is the KV in prefix memory, if the request allows it.
#include "base/json.h"
#include "base/log.h"
#include "node/worker.h"

#include <gnutls/crypto.h>
#include <stdlib.h>
#include <xxhash.h>

#define UNUSED_NS (180 * NS_PER_S) // a rendered prompt may wait for a worker that restarts
#define USED_NS (15 * NS_PER_S)
#define ITEMS_BYTES_MAX                                                                            \
    (1ll << 30)         // of all pieces together: more requests with images have to wait
#define PIXEL_BYTES 12  // of a piece before it is encoded: three floats a pixel ...
#define ROW_PIXELS 1024 // ... of which a row covers about so many

struct worker_media_item {
    struct worker_media_item *next;
    uint8_t key[WORKER_MEDIA_KEY];
    struct engine_media *media; // owned
    uint32_t rows;
    bool whole, encoded, used;
    uint32_t refs; // jobs
    int64_t bytes, since_ns;
};

// ---- keys ----------------------------------------------------------------------------------------

static int32_t row_id(const uint8_t key[WORKER_MEDIA_KEY], uint32_t row)
{
    uint64_t hash = XXH3_64bits_withSeed(key, WORKER_MEDIA_KEY, row);
    return (int32_t)(-1 - (int64_t)(hash & INT32_MAX));
}

// False: the library has no SHA-256, which cannot be.
static bool key_make(const struct engine_image *image, uint64_t layout,
                     uint8_t key[WORKER_MEDIA_KEY])
{
    uint8_t both[WORKER_MEDIA_KEY + 8];
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, image->data, image->len, both) != 0)
        return false;
    le_put64(both + WORKER_MEDIA_KEY, layout);
    return gnutls_hash_fast(GNUTLS_DIG_SHA256, both, sizeof both, key) == 0;
}

// ---- rendering: the text thread ------------------------------------------------------------------

// The images lie in the frame's body one behind the other.
static int images_find(const struct wire_frame *f, const json_t *list, struct engine_image *images,
                       struct err *e)
{
    size_t at = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        int64_t bytes = 0;
        if (json_get_i64(json_array_get(list, i), "bytes", 1, INT32_MAX, &bytes, e) != 0)
            return e->code;
        if ((size_t)bytes > f->body.len - at)
            return err_set(e, ERR_CORRUPT, "image %zu ends behind the frame of %zu bytes", i + 1,
                           f->body.len);
        images[i] = (struct engine_image){(const uint8_t *)f->body.data + at, (size_t)bytes};
        at += (size_t)bytes;
    }
    if (at != f->body.len)
        return err_set(e, ERR_CORRUPT, "%zu bytes of images in a frame of %zu", at, f->body.len);
    return 0;
}

static struct worker_media_item *item_take(struct engine_piece *piece,
                                           const uint8_t key[WORKER_MEDIA_KEY])
{
    struct worker_media_item *item = mem_alloc(sizeof *item);
    memcpy(item->key, key, WORKER_MEDIA_KEY);
    item->media = piece->media;
    piece->media = NULL;
    item->rows = piece->rows;
    item->whole = piece->whole;
    item->bytes = (int64_t)piece->bytes + (int64_t)piece->rows * ROW_PIXELS * PIXEL_BYTES;
    item->since_ns = clock_now_ns();
    return item;
}

// Names the rows of a piece in the prompt and in the list that goes to the gateway.
static void piece_name(struct engine_prompt *prompt, const struct engine_piece *piece,
                       const uint8_t key[WORKER_MEDIA_KEY], json_t *list)
{
    char hex[2 * WORKER_MEDIA_KEY + 1];
    hex_encode(key, WORKER_MEDIA_KEY, hex);
    for (uint32_t i = 0; i < piece->rows; i++)
        prompt->tokens[piece->at + i] = row_id(key, i);
    json_array_append_new(list, json_pack("{s:i,s:i,s:s}", "at", (int)piece->at, "tokens",
                                          (int)piece->rows, "key", hex));
}

static int prompt_take(struct worker *w, struct engine_prompt *prompt,
                       const struct engine_image *images, json_t *list, struct err *e)
{
    struct worker_event ev = {.kind = WORKER_EVENT_MEDIA};
    struct worker_media_item **end = &ev.media;
    if (prompt->n_pieces > WORKER_MEDIA_PIECES)
        return err_set(e, ERR_INVALID, "the images become %zu pieces; at most %d are taken",
                       prompt->n_pieces, WORKER_MEDIA_PIECES);
    for (size_t i = 0; i < prompt->n_pieces; i++) {
        struct engine_piece *piece = &prompt->pieces[i];
        uint8_t key[WORKER_MEDIA_KEY];
        if (!key_make(&images[piece->image], piece->layout, key))
            return err_set(e, ERR_ENGINE, "no SHA-256 here");
        piece_name(prompt, piece, key, list);
        *end = item_take(piece, key);
        atomic_fetch_add_explicit(&w->media_bytes, (*end)->bytes, memory_order_relaxed);
        end = &(*end)->next;
    }
    worker_post(w, &ev); // before RENDERED, so before its GENERATE
    return 0;
}

int worker_media_render(struct worker *w, const struct wire_frame *f, const json_t *sizes,
                        struct worker_media_text *out, struct err *e)
{
    struct engine_image images[WORKER_MEDIA_IMAGES];
    struct engine_prompt prompt = {0};
    struct engine_source source = {out->prompt, images, json_array_size(sizes)};
    if (!w->engine->limits.media)
        return err_set(
            e, ERR_UNSUPPORTED,
            "model '%s' takes no images here: start it with --mmproj FILE, its projector",
            w->engine->identity.model);
    if (source.n_images > WORKER_MEDIA_IMAGES)
        return err_set(e, ERR_INVALID, "%zu images; at most %d are taken", source.n_images,
                       WORKER_MEDIA_IMAGES);
    if (atomic_load_explicit(&w->media_bytes, memory_order_relaxed) > ITEMS_BYTES_MAX)
        return err_set(e, ERR_BUSY, "too many images are being read; try again later");
    int rc = images_find(f, sizes, images, e);
    if (rc == 0)
        rc = w->engine->ops->media_render(w->engine, &source, &prompt, e);
    if (rc == 0)
        rc = prompt_take(w, &prompt, images, out->pieces, e);
    if (rc == 0 && prompt.n_tokens > 0 && prompt.tokens[prompt.n_tokens - 1] < 0)
        rc = err_set(e, ERR_INVALID,
                     "the prompt ends in an image; text must come behind it, or the model's chat "
                     "template must add some");
    if (rc == 0) {
        out->tokens = prompt.tokens;
        out->n_tokens = prompt.n_tokens;
        prompt.tokens = NULL;
    }
    engine_prompt_fini(w->engine, &prompt);
    return rc;
}

// ---- the pieces: the engine thread ---------------------------------------------------------------

static struct worker_media_item *item_find(const struct worker *w,
                                           const uint8_t key[WORKER_MEDIA_KEY])
{
    struct worker_media_item *item = w->media;
    while (item != NULL && memcmp(item->key, key, WORKER_MEDIA_KEY) != 0)
        item = item->next;
    return item;
}

static void item_free(struct worker *w, struct worker_media_item *item)
{
    atomic_fetch_sub_explicit(&w->media_bytes, item->bytes, memory_order_relaxed);
    w->engine->ops->media_free(w->engine, item->media);
    free(item);
}

// The piece that has waited longest and that no job needs, out of the list; NULL: there is none.
static struct worker_media_item *oldest_take(struct worker *w)
{
    struct worker_media_item **oldest = NULL;
    for (struct worker_media_item **p = &w->media; *p != NULL; p = &(*p)->next)
        if ((*p)->refs == 0 && (oldest == NULL || (*p)->since_ns < (*oldest)->since_ns))
            oldest = p;
    if (oldest == NULL)
        return NULL;
    struct worker_media_item *item = *oldest;
    *oldest = item->next;
    return item;
}

// What was prepared and never asked for must not keep later requests out.
static void room_make(struct worker *w)
{
    struct worker_media_item *item = NULL;
    while (atomic_load_explicit(&w->media_bytes, memory_order_relaxed) > ITEMS_BYTES_MAX / 2 &&
           (item = oldest_take(w)) != NULL)
        item_free(w, item);
}

void worker_media_take(struct worker *w, struct worker_media_item *list)
{
    struct worker_media_item *next = NULL;
    room_make(w); // before these come, so that they stay
    for (struct worker_media_item *item = list; item != NULL; item = next) {
        struct worker_media_item *have = item_find(w, item->key);
        next = item->next;
        if (have == NULL) {
            item->next = w->media;
            w->media = item;
        } else {
            have->since_ns = item->since_ns;
            have->used = false;
            item_free(w, item);
        }
    }
}

static int64_t item_due(const struct worker_media_item *item)
{
    return item->refs > 0 ? INT64_MAX : item->since_ns + (item->used ? USED_NS : UNUSED_NS);
}

int64_t worker_media_timers(struct worker *w, int64_t now)
{
    int64_t next = INT64_MAX;
    struct worker_media_item **p = &w->media;
    while (*p != NULL) {
        struct worker_media_item *item = *p;
        int64_t due = item_due(item);
        if (due <= now) {
            *p = item->next;
            item_free(w, item);
            continue;
        }
        next = due < next ? due : next;
        p = &item->next;
    }
    return next;
}

void worker_media_forget(struct worker *w)
{
    for (struct worker_media_item *item = w->media; item != NULL; item = item->next)
        item->since_ns = item->refs > 0 ? item->since_ns : INT64_MIN / 2;
    worker_media_timers(w, clock_now_ns());
}

void worker_media_fini(struct worker *w)
{
    while (w->media != NULL) {
        struct worker_media_item *item = w->media;
        w->media = item->next;
        item_free(w, item);
    }
}

// ---- jobs ----------------------------------------------------------------------------------------

// `from`: where the piece before it ended.
static int piece_parse(const json_t *v, uint32_t from, uint32_t n_tokens,
                       struct worker_piece *piece, struct err *e)
{
    const char *hex = NULL;
    int64_t at = 0, tokens = 0;
    int rc = json_get_i64(v, "at", from, n_tokens, &at, e);
    if (rc == 0)
        rc = json_get_i64(v, "tokens", 1, n_tokens - at, &tokens, e);
    if (rc == 0)
        rc = json_get_string(v, "key", &hex, e);
    if (rc != 0)
        return rc;
    if (hex == NULL || strlen(hex) != 2 * WORKER_MEDIA_KEY ||
        hex_decode(hex, piece->key, WORKER_MEDIA_KEY) != 0)
        return err_set(e, ERR_INVALID, "member \"key\" of an image must be %d hex digits",
                       2 * WORKER_MEDIA_KEY);
    piece->at = (uint32_t)at;
    piece->rows = (uint32_t)tokens;
    return 0;
}

// The ids of a prompt say the same as the list does.
static int piece_check(const struct worker_job *j, const struct worker_piece *piece, struct err *e)
{
    for (uint32_t i = 0; i < piece->rows; i++)
        if (j->tokens[piece->at + i] != row_id(piece->key, i))
            return err_set(e, ERR_INVALID, "token %u is %d, which is not of the image there",
                           piece->at + i, j->tokens[piece->at + i]);
    return 0;
}

int worker_media_attach(struct worker *w, struct worker_job *j, const json_t *list, struct err *e)
{
    size_t n = json_array_size(list);
    uint32_t from = 0;
    if (n > WORKER_MEDIA_PIECES)
        return err_set(e, ERR_INVALID, "%zu pieces of images; at most %d are taken", n,
                       WORKER_MEDIA_PIECES);
    j->pieces = n > 0 ? mem_alloc(n * sizeof *j->pieces) : NULL;
    for (size_t i = 0; i < n; i++) {
        struct worker_piece *piece = &j->pieces[i];
        int rc = piece_parse(json_array_get(list, i), from, j->n_tokens, piece, e);
        if (rc == 0)
            rc = piece_check(j, piece, e);
        if (rc != 0)
            return rc;
        from = piece->at + piece->rows;
        piece->item = item_find(w, piece->key);
        if (piece->item != NULL && piece->item->rows == piece->rows)
            piece->item->refs++;
        else
            piece->item = NULL; // prefix memory may know the image all the same
        j->n_pieces++;
    }
    return 0;
}

void worker_media_release(struct worker_job *j)
{
    for (size_t i = 0; i < j->n_pieces; i++) {
        struct worker_media_item *item = j->pieces[i].item;
        if (item == NULL)
            continue;
        item->refs--;
        item->used = true;
        item->since_ns = clock_now_ns();
    }
    free(j->pieces);
    j->pieces = NULL;
    j->n_pieces = 0;
}

// The piece that place `at` of the prompt belongs to.
static const struct worker_piece *piece_at(const struct worker_job *j, uint32_t at)
{
    for (size_t i = 0; i < j->n_pieces; i++)
        if (at >= j->pieces[i].at && at - j->pieces[i].at < j->pieces[i].rows)
            return &j->pieces[i];
    return NULL;
}

bool worker_media_next(const struct worker_job *j)
{
    return piece_at(j, j->computed) != NULL;
}

bool worker_media_has(const struct worker_job *j, uint32_t at)
{
    return piece_at(j, at) != NULL;
}

uint32_t worker_media_border(const struct worker_job *j, uint32_t end)
{
    for (size_t i = 0; i < j->n_pieces; i++)
        if (j->pieces[i].at >= j->computed && j->pieces[i].at < end)
            return j->pieces[i].at;
    return end;
}

uint32_t worker_media_floor(const struct worker_job *j, uint32_t length)
{
    const struct worker_piece *piece = piece_at(j, length);
    return piece != NULL ? piece->at : length;
}

// ---- computing -----------------------------------------------------------------------------------

// How many rows of the piece go next: all, or as many as a chunk may have.
static uint32_t rows_next(const struct worker *w, const struct worker_piece *piece, uint32_t first,
                          uint32_t rows)
{
    uint32_t left = piece->rows - first, batch = w->engine->limits.n_batch;
    if (piece->item->whole)
        return left;
    rows = rows < batch ? rows : batch;
    return rows < left ? rows : left;
}

// 0 when rows were computed, ERR_CANCELLED when it is to be tried again.
static int rows_run(struct worker *w, struct worker_job *j, const struct worker_piece *piece,
                    uint32_t rows)
{
    struct err e = {0};
    uint32_t first = j->computed - piece->at, n = rows_next(w, piece, first, rows);
    struct engine_media_rows which = {j->seq, j->computed, first, n};
    int64_t t0 = clock_now_ns();
    int rc = ERR_CANCELLED;
    if (worker_running_set(w, j))
        rc = w->engine->ops->media_step(w->engine, piece->item->media, &which, &e);
    worker_running_clear(w);
    if (rc == ERR_CANCELLED || (rc == ERR_BUSY && worker_memory_relieve(w)))
        return ERR_CANCELLED;
    if (rc != 0) {
        j->spoiled = true;
        worker_job_fail(w, j, rc, e.message);
        return rc;
    }
    worker_chunk_count(w, j, j->computed + n, t0, clock_now_ns());
    return 0;
}

void worker_media_read(struct worker *w, struct worker_job *j, uint32_t rows)
{
    const struct worker_piece *piece = piece_at(j, j->computed);
    struct err e = {0};
    if (piece->item == NULL) {
        worker_job_fail(w, j, ERR_BUSY, "the image is no longer here; send the request again");
        return;
    }
    if (piece->item->encoded) {
        if (rows_run(w, j, piece, rows) == 0)
            worker_generate_read(w, j);
        return;
    }
    int64_t t0 = clock_now_ns();
    int rc = w->engine->ops->media_encode(w->engine, piece->item->media, &e);
    if (rc != 0) {
        worker_job_fail(w, j, rc, e.message);
        return;
    }
    piece->item->encoded = true;
    j->compute_ns += clock_now_ns() - t0;
    worker_timeline_add(&j->timeline, &(struct worker_span){"encode", t0, clock_now_ns(), piece->at,
                                                            piece->at + piece->rows});
}
