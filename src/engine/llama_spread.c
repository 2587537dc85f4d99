// A model over several machines, with llama.cpp: see spread.h. Layers of lenders come after this machine's
// own, so that what a token costs on the network is one hidden state per machine; the matrix that makes logits
// stays here, or every token would bring a row of them (512 KiB with a vocabulary of 128,000) over the wire.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "engine/llama_stream.h"
#include "os/os.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml-rpc.h>
#include <gguf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES_MAX 16 // as llama_max_devices() says today
#define OUTPUT_MATRIX "^(output|token_embd)\\.weight$"

struct llama_spread {
    struct llama_stream *streams[ENGINE_LENDERS_MAX];
    ggml_backend_t held[ENGINE_LENDERS_MAX]; // or ggml would connect anew for every question
    size_t n;
    ggml_backend_dev_t devices[DEVICES_MAX + 1]; // ends with NULL
    size_t n_devices;
    float *layers; // of each device; llama_max_devices() of them at least
    struct llama_model_tensor_buft_override local[2];
};

// ---- borrowing -----------------------------------------------------------------------------------------

static uint32_t layers_of(const struct gguf_context *gguf)
{
    char key[160];
    int64_t arch = gguf_find_key(gguf, "general.architecture");
    if (arch < 0 || gguf_get_kv_type(gguf, arch) != GGUF_TYPE_STRING)
        return 0;
    snprintf(key, sizeof key, "%s.block_count", gguf_get_val_str(gguf, arch));
    int64_t id = gguf_find_key(gguf, key);
    return id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_UINT32 ? gguf_get_val_u32(gguf, id)
                                                                     : 0;
}

// Devices of one machine, with their layers in proportion to their memory.
static void devices_add(struct llama_spread *s, ggml_backend_dev_t *devices, size_t n,
                        uint32_t layers)
{
    double memory[DEVICES_MAX] = {0};
    uint32_t each[DEVICES_MAX] = {0};
    for (size_t i = 0; i < n; i++) {
        size_t unused = 0, total = 0;
        ggml_backend_dev_memory(devices[i], &unused, &total);
        memory[i] = total > 0 ? (double)total : 1;
    }
    engine_spread_layers(memory, n, layers, each);
    for (size_t i = 0; i < n; i++) {
        s->devices[s->n_devices] = devices[i];
        s->layers[s->n_devices++] = (float)each[i];
    }
}

static int lender_add(struct llama_spread *s, const struct engine_lender *lender, uint32_t layers,
                      struct err *e)
{
    ggml_backend_dev_t devices[DEVICES_MAX];
    struct llama_stream *stream = llama_stream_new(&lender->stream);
    const char *name = llama_stream_name(stream);
    s->streams[s->n] = stream;
    s->held[s->n++] = ggml_backend_rpc_init(name, 0);
    ggml_backend_reg_t reg = ggml_backend_rpc_add_server(name);
    size_t n = reg ? ggml_backend_reg_dev_count(reg) : 0;
    if (n == 0 || s->n_devices + n > DEVICES_MAX)
        return err_set(e, ERR_UNSUPPORTED, "a lender has %zu devices; 1 to %zu are possible", n,
                       DEVICES_MAX - s->n_devices);
    for (size_t i = 0; i < n; i++)
        devices[i] = ggml_backend_reg_dev_get(reg, i);
    devices_add(s, devices, n, layers);
    return 0;
}

static size_t own_devices(ggml_backend_dev_t *out)
{
    size_t n = 0;
    for (size_t i = 0; i < ggml_backend_dev_count() && n < DEVICES_MAX; i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        enum ggml_backend_dev_type type = ggml_backend_dev_type(dev);
        if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU)
            out[n++] = dev;
    }
    return n;
}

static int lenders_add(struct llama_spread *s, const struct engine_options *o,
                       const uint32_t *layers, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < o->n_lenders; i++)
        rc = lender_add(s, &o->lenders[i], layers[1 + i], e);
    return rc;
}

// Without a device of its own for it, this machine computes the first layers on its processor, which
// llama.cpp counts as layers that are not offloaded; else all are, and its own come last. One more than
// the layers: the output counts as one.
static void place(struct llama_spread *s, const struct engine_options *o, const uint32_t *layers,
                  uint32_t n_layer, struct llama_model_params *p)
{
    ggml_backend_dev_t own[DEVICES_MAX];
    size_t n = o->n_gpu_layers == 0 ? 0 : own_devices(own);
    if (n > 0 && s->n_devices + n <= DEVICES_MAX) {
        devices_add(s, own, n, layers[0]);
        p->n_gpu_layers = (int32_t)n_layer + 1;
    } else {
        p->n_gpu_layers = (int32_t)(n_layer - layers[0]) + 1;
        s->local[0] = (struct llama_model_tensor_buft_override){
            .pattern = OUTPUT_MATRIX, .buft = ggml_backend_cpu_buffer_type()};
        p->tensor_buft_overrides = s->local;
    }
    s->layers[s->n_devices - 1] += 1;
    p->devices = s->devices;
    p->tensor_split = s->layers;
    p->split_mode = LLAMA_SPLIT_MODE_LAYER;
}

int llama_spread_open(struct llama_engine *g, const struct engine_options *o,
                      const struct gguf_context *gguf, struct llama_model_params *p, struct err *e)
{
    double shares[ENGINE_LENDERS_MAX + 1] = {o->own_share};
    uint32_t layers[ENGINE_LENDERS_MAX + 1], n_layer = gguf ? layers_of(gguf) : 0;
    if (o->n_lenders == 0)
        return 0;
    if (n_layer == 0 || o->n_lenders > ENGINE_LENDERS_MAX)
        return err_set(e, ERR_UNSUPPORTED,
                       "'%s' cannot be spread over %zu machines: its file names %u layers, and at "
                       "most %d lenders are possible",
                       o->model, o->n_lenders + 1, n_layer, ENGINE_LENDERS_MAX);
    for (size_t i = 0; i < o->n_lenders; i++)
        shares[1 + i] = o->lenders[i].share;
    engine_spread_layers(shares, o->n_lenders + 1, n_layer, layers);
    g->spread = mem_alloc(sizeof *g->spread);
    g->spread->layers = mem_alloc((llama_max_devices() + DEVICES_MAX) * sizeof(float));
    int rc = lenders_add(g->spread, o, layers, e);
    if (rc == 0)
        place(g->spread, o, layers, n_layer, p);
    return rc;
}

void llama_spread_close(struct llama_engine *g)
{
    if (!g->spread)
        return;
    for (size_t i = 0; i < g->spread->n; i++) {
        ggml_backend_free(g->spread->held[i]);
        llama_stream_drop(g->spread->streams[i]);
    }
    free(g->spread->layers);
    free(g->spread);
    g->spread = NULL;
}

// ---- lending -------------------------------------------------------------------------------------------

const char *engine_lend_version(void)
{
    static char text[64];
    snprintf(text, sizeof text, "llama.cpp %s, rpc %d.%d.%d", llama_version(),
             RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION, RPC_PROTO_PATCH_VERSION);
    return text;
}

// What is lent: what computes fast, or else the processor.
static size_t lent_devices(ggml_backend_dev_t *out)
{
    size_t n = own_devices(out);
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (n == 0 && cpu)
        out[n++] = cpu;
    return n;
}

void engine_lend_facts_get(struct engine_lend_facts *f)
{
    ggml_backend_dev_t devices[DEVICES_MAX];
    llama_log_init();
    size_t n = lent_devices(devices), len = 0;
    *f = (struct engine_lend_facts){0};
    snprintf(f->version, sizeof f->version, "%s", engine_lend_version());
    for (size_t i = 0; i < n; i++) {
        size_t unused = 0, total = 0;
        ggml_backend_dev_memory(devices[i], &unused, &total);
        f->free_bytes += unused;
        if (len < sizeof f->devices)
            len += (size_t)snprintf(f->devices + len, sizeof f->devices - len, "%s%s",
                                    i > 0 ? " and " : "", ggml_backend_dev_name(devices[i]));
    }
    // ggml tells the memory of the whole machine, what is in use by others included.
    if (n == 1 && ggml_backend_dev_type(devices[0]) == GGML_BACKEND_DEVICE_TYPE_CPU)
        f->free_bytes = os_memory_available();
}

int engine_lend(const struct engine_lend_options *o, struct err *e)
{
    ggml_backend_dev_t devices[DEVICES_MAX];
    llama_log_init();
    size_t n = lent_devices(devices);
    size_t threads = (size_t)(o->n_threads > 0 ? o->n_threads : os_cpu_count());
    if (n == 0)
        return err_set(e, ERR_UNSUPPORTED, "nothing on this machine computes for llama.cpp");
    llama_stream_serve(o);
    ggml_backend_rpc_start_server(LLAMA_STREAM_SERVER, NULL, threads, n, devices);
    return err_set(e, ERR_CLOSED, "lending has ended");
}
