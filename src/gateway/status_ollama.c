// What Ollama's clients ask of models: /api/tags, /api/ps, /api/show. ollama.c makes the bodies.
#include "base/json.h"
#include "gateway/core.h"
#include "gateway/ollama.h"

#include <stdio.h>
#include <sys/stat.h>

static void model_fill(const struct model *from, struct ollama_model *m)
{
    const char *path = from->options->path;
    struct stat st;

    *m = (struct ollama_model){
        .name = model_name(from),
        .identity = &from->peer->welcome.identity,
        .limits = &from->peer->welcome.limits,
        .chats = true,
    };
    if (path && stat(path, &st) == 0) {
        m->file_bytes = (uint64_t)st.st_size;
        m->modified_s = st.st_mtime;
    }
}

// All that have a name by now, or those that are loaded.
static size_t models_fill(struct core *c, bool loaded, struct ollama_model *all)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n_models; i++) {
        const struct model *m = &c->models[i];

        if (loaded ? model_is_loaded(m) : m->options->name || m->peer->known)
            model_fill(m, &all[n++]);
    }
    return n;
}

static json_t *show(struct core *c, struct query *q, unsigned *status)
{
    const struct model *m = model_find(c, q->model);
    char list[512], message[800];
    struct ollama_model one;

    if (m && m->peer->known) {
        model_fill(m, &one);
        return ollama_show_json(&one);
    }
    model_list(c, list, sizeof(list));
    if (m)
        snprintf(message, sizeof(message), "model '%.100s' has not been loaded yet; load it first",
                 q->model);
    else
        snprintf(message, sizeof(message), "model '%.100s' not found; this server has %s", q->model,
                 list);
    *status = 404;
    return ollama_error_json(message);
}

// Behind the local ones: those of upstream servers, of which only the names are known.
static json_t *tags(struct core *c)
{
    static const struct engine_identity identity;
    static const struct engine_limits limits;
    struct ollama_model all[GATEWAY_MODELS_MAX];
    json_t *o = ollama_tags_json(all, models_fill(c, false, all)), *others = json_array();

    upstream_models(c, others);
    for (size_t i = 0; i < json_array_size(others); i++) {
        const struct ollama_model m = {
            .name = json_string_value(json_object_get(json_array_get(others, i), "id")),
            .identity = &identity,
            .limits = &limits,
            .chats = true};
        json_t *one = ollama_tags_json(&m, 1);

        json_array_extend(json_object_get(o, "models"), json_object_get(one, "models"));
        json_decref(one);
    }
    json_decref(others);
    return o;
}

json_t *status_ollama(struct core *c, struct query *q, unsigned *status)
{
    struct ollama_model all[GATEWAY_MODELS_MAX];

    *status = 200;
    if (q->kind == QUERY_OLLAMA_TAGS)
        return tags(c);
    if (q->kind == QUERY_OLLAMA_PS)
        return ollama_ps_json(all, models_fill(c, true, all));
    return show(c, q, status);
}
