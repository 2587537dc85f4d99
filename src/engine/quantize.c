// A quantised copy of a GGUF, made beside its destination and renamed when it is whole.
#include "engine/quantize.h"

#include "base/buf.h"
#include "engine/llama_impl.h"

#include <errno.h>
#include <ggml.h>
#include <gguf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

// llama.cpp names its file types "Q4_0", "Q4_K - Medium"; a user writes Q4_0 or Q4_K_M. Those that need an
// importance matrix (IQ2, IQ1) are not among them: there is none here.
struct target {
    const char *name;
    enum llama_ftype ftype;
    enum ggml_type blocks; // of the layers' matrices; GGML_TYPE_COUNT: as the file type has it
};
static const struct target targets[] = {
    {"F32", LLAMA_FTYPE_ALL_F32, GGML_TYPE_COUNT},
    {"F16", LLAMA_FTYPE_MOSTLY_F16, GGML_TYPE_COUNT},
    {"BF16", LLAMA_FTYPE_MOSTLY_BF16, GGML_TYPE_COUNT},
    {"Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0, GGML_TYPE_COUNT},
    {"Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K, GGML_TYPE_COUNT},
    {"Q5_1", LLAMA_FTYPE_MOSTLY_Q5_1, GGML_TYPE_COUNT},
    {"Q5_0", LLAMA_FTYPE_MOSTLY_Q5_0, GGML_TYPE_COUNT},
    {"Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M, GGML_TYPE_COUNT},
    {"Q5_K_S", LLAMA_FTYPE_MOSTLY_Q5_K_S, GGML_TYPE_COUNT},
    {"Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1, GGML_TYPE_COUNT},
    {"Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0, GGML_TYPE_COUNT},
    {"Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M, GGML_TYPE_COUNT},
    {"Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S, GGML_TYPE_COUNT},
    {"IQ4_NL", LLAMA_FTYPE_MOSTLY_IQ4_NL, GGML_TYPE_COUNT},
    {"IQ4_XS", LLAMA_FTYPE_MOSTLY_IQ4_XS, GGML_TYPE_COUNT},
    // The library's own file type of that name leaves dense models at Q8_0.
    {"MXFP4", LLAMA_FTYPE_MOSTLY_MXFP4_MOE, GGML_TYPE_MXFP4},
    // The library makes such tensors, but no such file: all else in it is Q8_0.
    {"NVFP4", LLAMA_FTYPE_MOSTLY_NVFP4, GGML_TYPE_NVFP4},
    {"Q3_K_M", LLAMA_FTYPE_MOSTLY_Q3_K_M, GGML_TYPE_COUNT},
    {"Q2_K", LLAMA_FTYPE_MOSTLY_Q2_K, GGML_TYPE_COUNT},
};
#define TARGETS (sizeof targets / sizeof *targets)

static const struct target *target_find(const char *type, struct err *e)
{
    char known[256] = "";
    size_t len = 0;
    for (size_t i = 0; i < TARGETS; i++) {
        if (strcasecmp(type, targets[i].name) == 0)
            return &targets[i];
        len += (size_t)snprintf(known + len, sizeof known - len, "%s%s",
                                i == 0             ? ""
                                : i + 1 == TARGETS ? " or "
                                                   : ", ",
                                targets[i].name);
    }
    err_set(e, ERR_INVALID, "'%s' is no type to quantise to; say %s", type, known);
    return NULL;
}

int engine_quantize_check(const char *type, struct err *e)
{
    return target_find(type, e) ? 0 : ERR_INVALID;
}

static int copy_make(const char *from, const char *temporary, const struct target *t, struct err *e)
{
    struct llama_model_tensor_override blocks[2] = {{.pattern = "^blk\\.", .type = t->blocks}};
    struct llama_model_kv_override named[2] = {
        {.tag = LLAMA_KV_OVERRIDE_TYPE_INT, .key = "general.file_type", .val_i64 = t->ftype}};
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = t->ftype;
    p.allow_requantize = true;
    if (t->blocks != GGML_TYPE_COUNT)
        p.tt_overrides = blocks;
    if (t->ftype == LLAMA_FTYPE_MOSTLY_NVFP4) {
        p.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
        p.kv_overrides = named;
    }
    llama_log_begin();
    uint32_t failed = llama_model_quantize(from, temporary, &p);
    const char *why = llama_log_end();
    if (failed)
        return err_set(e, ERR_ENGINE, "'%s' could not be quantised to %s: %s", from, t->name,
                       *why ? why : "no reason given");
    return 0;
}

int engine_quantize(const char *from, const char *to, const char *type, struct err *e)
{
    const struct target *target = target_find(type, e);
    struct gguf_context *gguf = NULL;
    llama_log_init();
    llama_backend_init();
    int rc = target ? llama_file_check(from, &gguf, e) : ERR_INVALID;
    if (rc != 0)
        return rc;
    gguf_free(gguf);
    char *temporary = mem_format("%s.%ld.part", to, (long)getpid());
    rc = copy_make(from, temporary, target, e);
    if (rc == 0 && rename(temporary, to) != 0)
        rc = err_set(e, ERR_IO, "'%s' cannot become '%s': %s", temporary, to, strerror(errno));
    if (rc != 0)
        unlink(temporary);
    free(temporary);
    return rc;
}
