// The threads that the CPU backend computes on.
#include "engine/llama_impl.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

static ggml_backend_reg_t cpu(void)
{
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return dev ? ggml_backend_dev_backend_reg(dev) : NULL;
}

void llama_threads_open(struct llama_engine *g, int n)
{
    typedef struct ggml_threadpool *threadpool_new(struct ggml_threadpool_params *);
    typedef void threadpool_free(struct ggml_threadpool *);
    ggml_backend_reg_t reg = cpu();
    if (!reg || n < 2)
        return;
    threadpool_new *make =
        (threadpool_new *)ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_new");
    g->threads_free =
        (threadpool_free *)ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_free");
    if (!make || !g->threads_free)
        return;
    struct ggml_threadpool_params p = ggml_threadpool_params_default(n);
    g->threads = make(&p);
}

void llama_threads_attach(const struct llama_engine *g, struct llama_context *ctx)
{
    if (g->threads)
        llama_attach_threadpool(ctx, g->threads, g->threads);
}

void llama_threads_close(struct llama_engine *g)
{
    if (g->threads)
        g->threads_free(g->threads);
}
