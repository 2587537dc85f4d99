// KV blobs of any bytes, against every layout. The first byte chooses the layout, the second the range.
// What is accepted has the structure of what the writer writes: taking the state out and learning from
// it must work, and its size is within the bound. Learning from any bytes either fails or yields a layout
// that accepts those bytes.
#include "blob_rig.h"

#include <stdio.h>

static struct blob_layout layouts[RIG_MODELS];
static struct blob_scratch scratch;

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_blob: %s\n", what);
    abort();
}

static void learn_all(void)
{
    struct err e;
    if (scratch.bits)
        return;
    blob_scratch_init(&scratch, 256);
    for (size_t i = 0; i < RIG_MODELS; i++)
        need(rig_learn(&rig_models[i], &layouts[i], &e) == 0, "a layout was not learned");
}

static void check(const struct blob_layout *l, uint8_t how, const uint8_t *data, size_t n)
{
    struct blob_range range = {.p0 = how & 3, .p1 = (how & 3u) + 1 + (how >> 3), .state = how & 4};
    struct err e = {0};
    if (blob_check(l, &range, data, n, &scratch, &e) != 0) {
        need(e.message[0], "refused without words");
        return;
    }
    need(n <= blob_bytes_max(l, &range), "longer than its bound");
    if (!range.state || !blob_has_state(l) || l->sections[0].kind == BLOB_DSV4_HEAD)
        return;
    uint8_t *copy = malloc(n);
    memcpy(copy, data, n);
    size_t len = blob_state_drop(l, copy, n);
    range.state = false;
    need(blob_check(l, &range, copy, len, &scratch, &e) == 0, "refused without its state");
    free(copy);
}

static void learn(uint32_t n_cells, const uint8_t *data, size_t n)
{
    struct blob_layout l;
    struct blob_range range = {.p0 = 0, .p1 = n_cells, .state = true};
    struct err e = {0};
    struct blob_sample sample = {data, n, n_cells, RIG_VOCAB, n_cells & 1};
    if (blob_learn(&l, &sample, &e) != 0)
        return;
    need(blob_check(&l, &range, data, n, &scratch, &e) == 0, "what was learned from is refused");
    blob_layout_fini(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    learn_all();
    if (n < 2 || n > 16384)
        return 0;
    check(&layouts[data[0] % RIG_MODELS], data[1], data + 2, n - 2);
    if (n < 2048)
        learn(2 + (data[1] & 1), data + 2, n - 2);
    return 0;
}
