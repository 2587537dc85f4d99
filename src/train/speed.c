#include "train/speed.h"

#include "base/clock.h"
#include "base/json.h"
#include "os/os.h"
#include "train/base_model.h"
#include "train/check.h"
#include "train/product.h"

#include <ggml-cpu.h>
#include <stdlib.h>

// A feed-forward matrix of a small model, and the tokens of a step.
#define IN 1024
#define OUT 2816
#define TOKENS 512
#define MEASURE_S 0.5

static int memory_check(const char *model, uint64_t *there, struct err *e)
{
    struct base_model_facts facts;
    int rc = base_model_check(model, &facts, e);
    *there = os_memory_available();
    uint64_t need = rc == 0 ? facts.file_bytes + TRAIN_WORKING_BYTES : 0;
    if (rc == 0 && *there > 0 && need > *there)
        rc = err_set(e, ERR_RANGE, "training '%s' takes %.1f GB of memory, and %.1f GB are free",
                     model, (double)need / 1e9, (double)*there / 1e9);
    return rc;
}

static double gflops_measure(ggml_backend_t b, struct ggml_cgraph *g)
{
    double each = 2.0 * IN * OUT * TOKENS / 1e9;
    ggml_backend_graph_compute(b, g); // pages and caches
    int64_t start = clock_now_ns();
    int n = 0;
    do {
        ggml_backend_graph_compute(b, g);
        n++;
    } while (ns_to_s(clock_now_ns() - start) < MEASURE_S);
    ggml_backend_synchronize(b);
    return each * n / ns_to_s(clock_now_ns() - start);
}

static int device_measure(ggml_backend_t b, double *gflops, struct err *e)
{
    struct ggml_init_params p = {.mem_size = 8 * ggml_tensor_overhead() + ggml_graph_overhead(),
                                 .no_alloc = true};
    struct ggml_context *c = ggml_init(p);
    bool cpu = ggml_backend_is_cpu(b);
    struct ggml_tensor *w = ggml_new_tensor_2d(c, GGML_TYPE_F32, cpu ? OUT : IN, cpu ? IN : OUT);
    struct ggml_tensor *x = ggml_new_tensor_2d(c, GGML_TYPE_F32, IN, TOKENS);
    struct ggml_tensor *y = cpu ? product_make(c, w, x) : ggml_mul_mat(c, w, x);
    struct ggml_cgraph *g = ggml_new_graph(c);
    ggml_build_forward_expand(g, y);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(c, b);
    if (buffer) {
        ggml_backend_buffer_clear(buffer, 0);
        *gflops = gflops_measure(b, g);
        ggml_backend_buffer_free(buffer);
    }
    ggml_free(c);
    return buffer ? 0 : err_set(e, ERR_RANGE, "no memory for a matrix of %d x %d", IN, OUT);
}

int train_speed(const char *model, bool gpu, FILE *out, struct err *e)
{
    uint64_t there = 0;
    double gflops = 0;
    int rc = memory_check(model, &there, e);
    if (rc != 0)
        return rc;
    ggml_backend_t b = gpu ? ggml_backend_init_best() : ggml_backend_cpu_init();
    if (!b)
        return err_set(e, ERR_ENGINE, "no device to compute on");
    if (ggml_backend_is_cpu(b))
        ggml_backend_cpu_set_n_threads(b, os_cpu_count());
    rc = device_measure(b, &gflops, e);
    if (rc == 0) {
        json_t *line = json_pack("{s:f,s:s,s:I}", "gflops", gflops, "device", ggml_backend_name(b),
                                 "memory_bytes", (json_int_t)there);
        char *text = json_line(line);
        fprintf(out, "%s\n", text);
        free(text);
        json_decref(line);
    }
    ggml_backend_free(b);
    return rc;
}
