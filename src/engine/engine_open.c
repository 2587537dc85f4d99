// Chooses the implementation by the model's name.
#include "engine/engine.h"
#include "engine/fake.h"
#include "engine/llama_engine.h"

#include <string.h>

int engine_open(const struct engine_options *o, struct engine **out, struct err *e)
{
    if (!o->model || !o->model[0])
        return err_set(e, ERR_INVALID, "no model given; say -m FILE.gguf");
    if (strcmp(o->model, "fake") == 0 || strncmp(o->model, "fake:", 5) == 0)
        return engine_fake_open(o, out, e);
    return engine_llama_open(o, out, e);
}
