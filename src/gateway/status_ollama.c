// What Ollama's clients ask of models: /api/tags, /api/ps, /api/show. ollama.c makes the bodies.
#include "base/json.h"
#include "gateway/core.h"
#include "gateway/ollama.h"

#include <stdio.h>
#include <sys/stat.h>

// False while the model is not loaded.
static bool model_fill(struct core *c, struct ollama_model *m)
{
    const struct peer *local = core_local(c);
    const char *path = c->options.worker.engine.model;
    struct stat st;

    *m = (struct ollama_model){
        .name = local->welcome.model,
        .identity = &local->welcome.identity,
        .limits = &local->welcome.limits,
        .chats = true,
    };
    if (path && stat(path, &st) == 0) {
        m->file_bytes = (uint64_t)st.st_size;
        m->modified_s = st.st_mtime;
    }
    return local->known;
}

static json_t *show(struct core *c, struct query *q, const struct ollama_model *m, bool known)
{
    char list[512], message[800];

    if (known && status_model_known(c, q->model))
        return ollama_show_json(m);
    status_models_list(c, list, sizeof(list));
    snprintf(message, sizeof(message), "model '%.100s' not found; this server has %s", q->model,
             list);
    return ollama_error_json(message);
}

json_t *status_ollama(struct core *c, struct query *q, unsigned *status)
{
    struct ollama_model m;
    bool known = model_fill(c, &m), loaded = known && core_local(c)->state == PEER_UP;

    *status = 200;
    if (q->kind == QUERY_OLLAMA_TAGS)
        return ollama_tags_json(&m, known ? 1 : 0);
    if (q->kind == QUERY_OLLAMA_PS)
        return ollama_ps_json(&m, loaded ? 1 : 0);
    if (!known || !status_model_known(c, q->model))
        *status = 404;
    return show(c, q, &m, known);
}
