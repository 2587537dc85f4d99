#include "train/check.h"

#include "base/json.h"
#include "os/os.h"
#include "train/base_model.h"

#include <stdlib.h>

int train_check(const struct train_options *o, bool elsewhere, FILE *out, struct err *e)
{
    struct base_model_facts facts;
    uint64_t values = 0, limit = o->memory_bytes > 0 ? o->memory_bytes : os_memory_available();
    int rc = base_model_check(o->model, &facts, e);
    if (rc != 0)
        return rc;
    for (int l = 0; l < BASE_LINEARS; l++)
        values += (o->lora.targets >> l & 1) ? facts.widths[l] * o->lora.rank : 0;
    uint64_t wide = facts.dense_bytes + TRAIN_WORKING_BYTES;
    uint64_t narrow = facts.file_bytes + TRAIN_WORKING_BYTES;
    uint64_t least = o->weights == TRAIN_WEIGHTS_DENSE ? wide : narrow;
    bool dense = o->weights == TRAIN_WEIGHTS_DENSE ||
                 (o->weights == TRAIN_WEIGHTS_AUTO && (limit == 0 || wide <= limit));
    if (limit > 0 && least > limit && (!elsewhere || o->memory_bytes > 0))
        return err_set(e, ERR_RANGE,
                       "training '%s' takes at least %.1f GB of memory, and %.1f GB may be used; "
                       "free some, raise the limit, or take a smaller model",
                       o->model, (double)least / 1e9, (double)limit / 1e9);
    json_t *line = json_pack(
        "{s:I,s:I,s:I,s:I,s:I}", "memory_bytes", (json_int_t)(dense ? wide : narrow),
        "memory_least_bytes", (json_int_t)narrow, "available_bytes", (json_int_t)limit,
        "checkpoint_bytes", (json_int_t)(12 * values), "adapter_bytes", (json_int_t)(4 * values));
    char *text = json_line(line);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(line);
    return 0;
}
