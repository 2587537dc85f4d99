// Which models a server has: those of -m, which stay, and those of the store, loaded when they are asked for.
#include "base/buf.h"
#include "base/log.h"
#include "cli/image.h"
#include "cli/models.h"
#include "cli/serve.h"
#include "models/fetch.h"
#include "os/os.h"

#include <stdlib.h>
#include <string.h>

static struct gateway_model *model_add(struct gateway_options *o, const struct models_found *f)
{
    struct gateway_model *m = &o->models[o->n_models++];

    m->path = cli_text_keep(f->path);
    m->id = f->name[0] ? cli_text_keep(f->name) : NULL;
    m->projector = f->projector[0] ? cli_text_keep(f->projector) : NULL;
    return m;
}

static int add_given(struct gateway_options *o, const char *name, bool any_memory, struct err *e)
{
    struct engine_options engine = o->worker.engine;
    struct models_found found;
    struct gateway_model *m;
    int rc;

    // What the command line says is the first one's.
    if (o->n_models > 0)
        engine.projector = NULL;
    rc = cli_model_find(name, &engine, any_memory, &found, e);
    if (rc != 0)
        return rc;
    m = model_add(o, &found);
    // What the user typed is one of its names, whatever it stands for.
    m->aliases[m->n_aliases++] = name;
    return 0;
}

static bool has_path(const struct gateway_options *o, const char *path)
{
    for (size_t i = 0; i < o->n_models; i++)
        if (strcmp(o->models[i].path, path) == 0)
            return true;
    return false;
}

static void aliases_add(struct gateway_model *m, const char *full, const json_t *aliases)
{
    const char *alias;
    json_t *target;

    json_object_foreach((json_t *)(uintptr_t)aliases, alias, target)
    {
        const char *of = json_string_value(target);

        if (of && m->n_aliases < GATEWAY_ALIASES_MAX &&
            (strcmp(of, full) == 0 || strcmp(of, m->path) == 0))
            m->aliases[m->n_aliases++] = cli_text_keep(alias);
    }
}

static void add_stored(struct gateway_options *o, const char *full, const char *brief,
                       const json_t *aliases)
{
    struct engine_options engine = o->worker.engine;
    struct models_found found;
    struct gateway_model *m;
    struct err e = {0};

    if (models_find(full, &found, &e) != 0) {
        log_warn("serve", "not served: %s", e.message);
        return;
    }
    if (o->n_models == GATEWAY_MODELS_MAX || has_path(o, found.path))
        return;
    m = model_add(o, &found);
    m->name = cli_text_keep(brief);
    m->on_demand = true;
    engine.model = m->path;
    engine.projector = m->projector;
    m->need_bytes = cli_model_need(&engine);
    aliases_add(m, full, aliases);
}

static int add_store(struct gateway_options *o, struct err *e)
{
    struct models_list l;
    json_t *aliases = NULL;
    int rc = models_list_read(&l, e);

    if (rc != 0)
        return rc;
    rc = models_aliases_read(&aliases, e);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        char full[MODELS_ID_BYTES], brief[MODELS_ID_BYTES];

        models_id_format(&l.items[i].id, full);
        models_list_name(&l, i, brief);
        if (l.items[i].complete)
            add_stored(o, full, brief, aliases);
    }
    json_decref(aliases);
    models_list_fini(&l);
    return rc;
}

int serve_models_find(const struct serve_models *s, struct gateway_options *o, struct err *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->given.n; i++)
        rc = add_given(o, s->given.items[i], s->any_memory, e);
    if (rc == 0 && (s->store || (s->given.n == 0 && o->n_upstreams == 0)))
        rc = add_store(o, e);
    // Who draws, or has others draw, may have no model at all.
    if (rc == 0 && o->n_models == 0 && o->n_upstreams == 0 && o->n_image_upstreams == 0 &&
        o->n_prefill == 0 && !o->images.worker.model)
        rc = err_set(e, ERR_INVALID,
                     "no model: give -m with a GGUF file, pull one with \"tandem pull\", or name "
                     "another server with --upstream");
    return rc;
}

int serve_models_room(const struct serve_models *s, const struct gateway_options *o, struct err *e)
{
    uint64_t need = 0;

    for (size_t i = 0; !s->any_memory && i < o->n_models; i++) {
        struct engine_options engine = o->worker.engine;

        engine.model = o->models[i].path;
        engine.projector = o->models[i].projector;
        need += o->models[i].on_demand ? 0 : cli_model_need(&engine);
    }
    return s->any_memory ? 0 : cli_image_room(&o->images.worker, need, e);
}

size_t serve_models_options(struct serve_models *s, struct gateway_options *o,
                            struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--model",
         .letter = 'm',
         .kind = CLI_LIST,
         .value = &s->given,
         .arg = "MODEL",
         .help = "a GGUF file, or a name that \"tandem ls\" shows: loaded now, and kept; may be "
                 "repeated. Without any, all models of the store are served on demand"},
        {.name = "--store",
         .kind = CLI_FLAG,
         .value = &s->store,
         .help = "serve all models that \"tandem ls\" shows as well, each loaded when it is asked "
                 "for"},
        {.name = "--models-max",
         .kind = CLI_UINT32,
         .value = &o->models_max,
         .arg = "N",
         .help = "most models loaded at one time (0: as many as there is memory for)",
         .min = 0,
         .max = GATEWAY_MODELS_MAX},
        {.name = "--models-idle",
         .kind = CLI_DOUBLE,
         .value = &s->idle_s,
         .arg = "SECONDS",
         .help = "a model on demand is unloaded after so long without use (900; 0: never)",
         .min = 0,
         .max = 1e9},
    };

    memcpy(out, own, sizeof(own));
    out[sizeof(own) / sizeof(own[0])] = cli_model_room_option(&s->any_memory);
    return sizeof(own) / sizeof(own[0]) + 1;
}
