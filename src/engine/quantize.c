// A quantised copy of a GGUF, made beside its destination and renamed when it is whole.
#include "engine/quantize.h"

#include "base/buf.h"
#include "engine/llama_impl.h"

#include <errno.h>
#include <gguf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

// llama.cpp names its file types "Q4_0", "Q4_K - Medium"; a user writes Q4_0 or Q4_K_M.
static int ftype_parse(const char *type, enum llama_ftype *out, struct err *e)
{
    static const struct {
        const char *name;
        enum llama_ftype ftype;
    } types[] = {
        {"F32", LLAMA_FTYPE_ALL_F32},          {"F16", LLAMA_FTYPE_MOSTLY_F16},
        {"BF16", LLAMA_FTYPE_MOSTLY_BF16},     {"Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},
        {"Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K},     {"Q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},
        {"Q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},     {"Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M},
        {"Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},
        {"Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M}, {"Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcasecmp(type, types[i].name) == 0) {
            *out = types[i].ftype;
            return 0;
        }
    }
    return err_set(e, ERR_INVALID,
                   "'%s' is no type to quantise to; say F32, F16, BF16, Q8_0, Q6_K, Q5_1, Q5_0, "
                   "Q5_K_M, Q4_1, Q4_0, Q4_K_M or Q4_K_S",
                   type);
}

int engine_quantize_check(const char *type, struct err *e)
{
    enum llama_ftype ftype;
    return ftype_parse(type, &ftype, e);
}

static int copy_make(const char *from, const char *temporary, enum llama_ftype ftype, struct err *e)
{
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = ftype;
    p.allow_requantize = true;
    llama_log_begin();
    uint32_t failed = llama_model_quantize(from, temporary, &p);
    const char *why = llama_log_end();
    if (failed)
        return err_set(e, ERR_ENGINE, "'%s' could not be quantised: %s", from,
                       *why ? why : "no reason given");
    return 0;
}

int engine_quantize(const char *from, const char *to, const char *type, struct err *e)
{
    enum llama_ftype ftype = LLAMA_FTYPE_GUESSED;
    struct gguf_context *gguf = NULL;
    llama_log_init();
    llama_backend_init();
    int rc = ftype_parse(type, &ftype, e);
    if (rc == 0)
        rc = llama_file_check(from, &gguf, e);
    if (rc != 0)
        return rc;
    gguf_free(gguf);
    char *temporary = mem_format("%s.%ld.part", to, (long)getpid());
    rc = copy_make(from, temporary, ftype, e);
    if (rc == 0 && rename(temporary, to) != 0)
        rc = err_set(e, ERR_IO, "'%s' cannot become '%s': %s", temporary, to, strerror(errno));
    if (rc != 0)
        unlink(temporary);
    free(temporary);
    return rc;
}
