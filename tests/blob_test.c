// The checker of KV blobs against a writer of its own: every layout is learned, what the writer writes
// is accepted, and no changed, cut, lengthened or misplaced structure is.
#include "blob_rig.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct blob_scratch scratch;

static int setup(void **state)
{
    (void)state;
    blob_scratch_init(&scratch, 4096);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    blob_scratch_fini(&scratch);
    return 0;
}

static bool is_dsv4(const struct rig_model *m)
{
    return m->sections[0] == 'D';
}

static int check(const struct blob_layout *l, uint32_t p0, uint32_t p1, bool state,
                 const void *data, size_t len)
{
    struct blob_range range = {.p0 = p0, .p1 = p1, .state = state};
    struct err e = {0};
    int rc = blob_check(l, &range, data, len, &scratch, &e);
    if (rc != 0)
        assert_int_not_equal(e.message[0], 0);
    return rc;
}

static void learn(const struct rig_model *m, struct blob_layout *l)
{
    struct err e = {0};
    if (rig_learn(m, l, &e) != 0)
        fail_msg("%s: %s", m->name, e.message);
}

static void every_layout_is_learned(void **unused)
{
    static const uint32_t ranges[][2] = {{0, 3}, {0, 1}, {5, 6}, {7, 100}, {0, 300}, {1000, 1031}};
    (void)unused;
    for (size_t i = 0; i < RIG_MODELS; i++) {
        const struct rig_model *m = &rig_models[i];
        struct blob_layout l;
        learn(m, &l);
        for (size_t k = 0; k < sizeof ranges / sizeof *ranges; k++) {
            struct buf b;
            uint32_t p0 = ranges[k][0], p1 = ranges[k][1];
            if (is_dsv4(m) && p0 > 0)
                continue;
            rig_write(&b, m, p0, p1, true);
            if (check(&l, p0, p1, true, b.data, b.len) != 0)
                fail_msg("%s: [%u, %u) refused", m->name, p0, p1);
            struct blob_range range = {.p0 = p0, .p1 = p1, .state = true};
            assert_true(blob_bytes_max(&l, &range) >= b.len);
            if (!rig_windowed(m) && !is_dsv4(m))
                assert_int_equal(blob_bytes_max(&l, &range), b.len);
            buf_fini(&b);
        }
        blob_layout_fini(&l);
    }
}

static void a_layout_fits_its_own_model_only(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < RIG_MODELS; i++) {
        struct blob_layout l;
        learn(&rig_models[i], &l);
        for (size_t k = 0; k < RIG_MODELS; k++) {
            struct buf b;
            rig_write(&b, &rig_models[k], 0, 9, true);
            int rc = check(&l, 0, 9, true, b.data, b.len);
            if ((rc == 0) != (i == k))
                fail_msg("%s read as %s: %d", rig_models[k].name, rig_models[i].name, rc);
            buf_fini(&b);
        }
        blob_layout_fini(&l);
    }
}

static void other_lengths_are_refused(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < RIG_MODELS; i++) {
        struct blob_layout l;
        struct buf b;
        learn(&rig_models[i], &l);
        rig_write(&b, &rig_models[i], 0, 9, true);
        for (size_t len = 0; len < b.len; len++) {
            // An exact copy, so that a sanitizer sees any read behind the end.
            uint8_t *cut = malloc(len ? len : 1);
            memcpy(cut, b.data, len);
            if (check(&l, 0, 9, true, cut, len) == 0)
                fail_msg("%s: %zu of %zu bytes accepted", rig_models[i].name, len, b.len);
            free(cut);
        }
        buf_put(&b, "", 1);
        assert_int_not_equal(check(&l, 0, 9, true, b.data, b.len), 0);
        buf_fini(&b);
        blob_layout_fini(&l);
    }
}

// Tensor data is all bytes >= 0x80; below that is structure, but for the sequence id and M-RoPE's place.
static void changed_structure_is_refused(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < RIG_MODELS; i++) {
        const struct rig_model *m = &rig_models[i];
        struct blob_layout l;
        struct buf b;
        size_t refused = 0, accepted = 0;
        learn(m, &l);
        rig_write(&b, m, 0, 9, true);
        for (size_t at = 0; at < b.len; at++) {
            uint8_t was = b.data[at];
            b.data[at] = (uint8_t)(was ^ 0x41);
            bool ok = check(&l, 0, 9, true, b.data, b.len) == 0;
            b.data[at] = was;
            refused += !ok;
            accepted += ok;
            if (ok && was < 0x80 && was != 3 && was != 0 && !m->attention[0].ext)
                fail_msg("%s: byte %zu (%02x) changed and accepted", m->name, at, was);
        }
        assert_true(refused > 60 && accepted > 60);
        buf_fini(&b);
        blob_layout_fini(&l);
    }
}

static void positions_are_ours(void **unused)
{
    struct blob_layout l;
    struct buf b;
    (void)unused;
    learn(&rig_models[0], &l);
    rig_write(&b, &rig_models[0], 10, 14, true);
    assert_int_equal(check(&l, 10, 14, true, b.data, b.len), 0);
    assert_int_equal(check(&l, 9, 13, true, b.data, b.len), ERR_CORRUPT);
    assert_int_equal(check(&l, 10, 15, true, b.data, b.len), ERR_CORRUPT);
    assert_int_equal(check(&l, 14, 10, true, b.data, b.len), ERR_RANGE);
    assert_int_equal(check(&l, 0, 5000, true, b.data, b.len), ERR_RANGE);
    le_put32(b.data + 16, 12); // now twice
    assert_int_equal(check(&l, 10, 14, true, b.data, b.len), ERR_CORRUPT);
    le_put32(b.data + 16, UINT32_MAX);
    assert_int_equal(check(&l, 10, 14, true, b.data, b.len), ERR_CORRUPT);
    buf_fini(&b);
    blob_layout_fini(&l);
}

static void tokens_of_cells_are_in_the_vocabulary(void **unused)
{
    const struct rig_model *m = &rig_models[4];
    struct blob_layout l;
    struct buf b;
    (void)unused;
    assert_true(m->attention[0].ext);
    learn(m, &l);
    rig_write(&b, m, 0, 4, true);
    le_put32(b.data + 16 + 16, RIG_VOCAB - 1);
    assert_int_equal(check(&l, 0, 4, true, b.data, b.len), 0);
    le_put32(b.data + 16 + 16, UINT32_MAX);
    assert_int_equal(check(&l, 0, 4, true, b.data, b.len), 0);
    le_put32(b.data + 16 + 16, RIG_VOCAB);
    assert_int_equal(check(&l, 0, 4, true, b.data, b.len), ERR_CORRUPT);
    buf_fini(&b);
    blob_layout_fini(&l);
}

static void the_state_travels_where_it_should(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < RIG_MODELS; i++) {
        const struct rig_model *m = &rig_models[i];
        struct blob_layout l;
        struct buf full, empty;
        if (!strchr(m->sections, 'R'))
            continue;
        learn(m, &l);
        assert_true(blob_has_state(&l));
        rig_write(&full, m, 4, 9, true);
        rig_write(&empty, m, 4, 9, false);
        assert_int_equal(check(&l, 4, 9, false, full.data, full.len), ERR_CORRUPT);
        assert_int_equal(check(&l, 4, 9, true, empty.data, empty.len), ERR_CORRUPT);
        assert_int_equal(check(&l, 4, 9, false, empty.data, empty.len), 0);
        size_t len = blob_state_drop(&l, full.data, full.len);
        assert_int_equal(len, empty.len);
        assert_memory_equal(full.data, empty.data, len);
        assert_int_equal(blob_state_drop(&l, full.data, len), len);
        buf_fini(&full);
        buf_fini(&empty);
        blob_layout_fini(&l);
    }
}

static void sizes_follow_the_layout(void **unused)
{
    struct blob_layout l;
    struct blob_range huge = {.p0 = 0, .p1 = UINT32_MAX};
    (void)unused;
    learn(&rig_models[0],
          &l); // 3 layers, K rows 16, 20, 24 and V rows 18, 22, 26, and 12 for the cell
    assert_int_equal((int)blob_bytes_per_token(&l), 12 + 60 + 66);
    assert_int_equal(blob_state_bytes(&l), 0);
    l.tensors[0].row_bytes = UINT64_MAX / 2;
    assert_true(blob_bytes_max(&l, &huge) == SIZE_MAX);
    blob_layout_fini(&l);
    learn(&rig_models[8], &l);
    assert_int_equal(blob_state_bytes(&l), 8 * 64 + 4 * 28);
    assert_int_equal((int)blob_bytes_per_token(&l), 0);
    blob_layout_fini(&l);
}

static void tiles_make_the_same_blob(void **unused)
{
    struct blob_layout l;
    struct blob_range range = {.p0 = 3, .p1 = 8};
    struct buf b;
    (void)unused;
    learn(&rig_models[0], &l);
    rig_write(&b, &rig_models[0], 3, 8, true);
    assert_int_equal(blob_tile_layers(&l), 3);
    uint8_t *made = mem_alloc(b.len), *tile = mem_alloc(b.len);
    blob_tiles_begin(&l, &range, made);
    size_t at = 16 + 12 * 5 + 8;
    for (uint32_t layer = 0; layer < 3; layer++) {
        uint64_t k = rig_row_bytes(layer, false) * 5, v = rig_row_bytes(layer, true) * 5;
        assert_int_equal(blob_tile_bytes(&l, layer, 5), k + v);
        memset(tile, 0x90 + (int)layer, k);
        memset(tile + k, 0xa0 + (int)layer, v);
        blob_tile_put(&l, &range, layer, tile, made);
    }
    assert_int_equal(check(&l, 3, 8, true, made, b.len), 0);
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t layer = 0; layer < 3; layer++) {
            uint64_t n = rig_row_bytes(layer, pass == 1) * 5;
            assert_int_equal(made[at + 12], (pass ? 0xa0 : 0x90) + layer);
            assert_int_equal(made[at + 12 + n - 1], (pass ? 0xa0 : 0x90) + layer);
            assert_memory_equal(made + at, b.data + at, 12);
            at += 12 + n;
        }
    }
    free(made);
    free(tile);
    buf_fini(&b);
    blob_layout_fini(&l);
    learn(&rig_models[6], &l);
    assert_int_equal(blob_tile_layers(&l), 0);
    blob_layout_fini(&l);
}

static void what_is_not_a_state_is_not_learned(void **unused)
{
    uint8_t junk[256];
    struct blob_layout l;
    struct err e = {0};
    (void)unused;
    struct blob_sample sample = {junk, sizeof junk, 2, RIG_VOCAB, false};
    memset(junk, 7, sizeof junk);
    assert_int_equal(blob_learn(&l, &sample, &e), ERR_UNSUPPORTED);
    le_put32(junk, BLOB_MAGIC);
    assert_int_equal(blob_learn(&l, &sample, &e), ERR_UNSUPPORTED);
    sample.len = 8;
    assert_int_equal(blob_learn(&l, &sample, &e), ERR_UNSUPPORTED);
    assert_int_equal(check(&l, 0, 2, true, junk, sizeof junk), ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_is_learned),
        cmocka_unit_test(a_layout_fits_its_own_model_only),
        cmocka_unit_test(other_lengths_are_refused),
        cmocka_unit_test(changed_structure_is_refused),
        cmocka_unit_test(positions_are_ours),
        cmocka_unit_test(tokens_of_cells_are_in_the_vocabulary),
        cmocka_unit_test(the_state_travels_where_it_should),
        cmocka_unit_test(sizes_follow_the_layout),
        cmocka_unit_test(tiles_make_the_same_blob),
        cmocka_unit_test(what_is_not_a_state_is_not_learned),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
