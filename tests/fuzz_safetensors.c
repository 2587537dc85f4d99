// Heads of safetensors files of any bytes. What is accepted must be readable without another check: every tensor
// lies in the file, none shares a byte with another, and its length is that of its shape.
#include "models/safetensors.h"
#include "tests/fuzz_bytes.h"

static void values_read(const struct models_safetensors_tensor *t, const uint8_t *data)
{
    float some[64];
    size_t n = t->values < 64 ? (size_t)t->values : 64;
    if (t->dtype == MODELS_DTYPE_OTHER)
        return;
    need(t->bytes == t->values * models_dtype_bytes(t->dtype), "another length than its shape");
    models_dtype_widen(t->dtype, data + t->at, some, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct bytes b = {data, n};
    struct models_gguf_source source = {bytes_read, &b, n};
    struct models_safetensors s;
    struct err e = {0};
    if (models_safetensors_parse(&source, &s, &e) != 0) {
        need(e.message[0], "refused without words");
        return 0;
    }
    uint64_t end = 0;
    for (size_t i = 0; i < s.n; i++) {
        const struct models_safetensors_tensor *t = &s.tensors[i];
        need(t->at >= 8 && t->at <= n && t->bytes <= n - t->at, "outside of the file");
        need(t->at >= end, "two tensors share bytes");
        need(t->name && t->n_dims <= MODELS_SAFETENSORS_DIMS, "no name, or too many dimensions");
        values_read(t, data);
        end = t->at + t->bytes;
    }
    models_safetensors_fini(&s);
    return 0;
}
