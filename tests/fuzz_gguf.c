// Heads of GGUF files of any bytes. What is accepted must be consistent: tensors within the file, layers
// within their arrays, and the memory it needs can be told or is refused with words.
#include "models/memory.h"
#include "tests/fuzz_bytes.h"

static void memory_tell(const struct models_gguf *g)
{
    struct models_memory_options o;
    struct models_memory m;
    struct err e = {0};
    models_memory_options_default(&o);
    o.n_ctx = 4096;
    o.type_v = "q8_0";
    if (models_memory_need(g, &o, &m, &e) != 0) {
        need(e.message[0], "refused without words");
        return;
    }
    need(m.total_bytes >= m.kv_bytes && m.total_bytes >= m.weights_bytes, "a sum went round");
    models_memory_token_bytes(g, 1, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct bytes b = {data, n};
    struct models_gguf_source source = {bytes_read, &b, n};
    static struct models_gguf g;
    struct err e = {0};
    if (models_gguf_parse(&source, &g, &e) != 0) {
        need(e.message[0], "refused without words");
        return 0;
    }
    need(g.n_layer <= MODELS_GGUF_LAYERS_MAX, "more layers than there is room for");
    need(g.tensors == 0 || g.head_bytes <= n, "a head longer than the file");
    need(g.expert_bytes <= g.weight_bytes && g.embedding_bytes <= g.weight_bytes, "parts");
    models_gguf_quant(&g);
    memory_tell(&g);
    models_gguf_fini(&g);
    return 0;
}
