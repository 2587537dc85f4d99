// What a worker built without the model library (-DTANDEM_LLAMA=OFF) has in its place: the fake
// engine alone. Sanitizer and cross builds test the real programs with it.
#include "engine/engine.h"
#include "engine/fake.h"
#include "engine/probe.h"
#include "engine/spread.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int absent(struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "this build has no model library; -m fake is all it knows");
}

static int cannot_load(const struct engine_options *o, struct err *e)
{
    if (access(o->model, R_OK) != 0)
        return err_set(e, ERR_NOT_FOUND,
                       "no model file at '%s'; give the path of a GGUF file with -m", o->model);
    absent(e);
    return err_wrap(e, "cannot load %s", o->model);
}

int engine_open(const struct engine_options *o, struct engine **out, struct err *e)
{
    if (strcmp(o->model, "fake") == 0 || strncmp(o->model, "fake:", 5) == 0)
        return engine_fake_open(o, out, e);
    return cannot_load(o, e);
}

int engine_quantize(const char *from, const char *to, const char *type, struct err *e)
{
    (void)from, (void)to, (void)type;
    return absent(e);
}

const char *engine_lend_version(void)
{
    return "no model library";
}

void engine_lend_facts_get(struct engine_lend_facts *f)
{
    *f = (struct engine_lend_facts){0};
}

int engine_lend(const struct engine_lend_options *o, struct err *e)
{
    (void)o;
    return err_set(e, ERR_UNSUPPORTED, "this build has no model library: it has nothing to lend");
}

int probe_run(const struct engine_options *o, bool use_cache, struct probe_result *out,
              struct err *e)
{
    (void)use_cache, (void)out;
    return cannot_load(o, e);
}

int probe_main(int argc, char **argv)
{
    struct err e = {0};
    (void)argc, (void)argv;
    absent(&e);
    fprintf(stderr, "tandem-worker: %s\n", e.message);
    return 1;
}
