#include "gateway/ollama.h"

#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/translate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NEVER_S 253402300799 // the last second of the year 9999: nothing here expires

void ollama_time(int64_t s, char out[OLLAMA_TIME_BYTES])
{
    time_t t = (time_t)s;
    struct tm tm;

    gmtime_r(&t, &tm);
    strftime(out, OLLAMA_TIME_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static json_t *time_json(int64_t s)
{
    char text[OLLAMA_TIME_BYTES];

    ollama_time(s, text);
    return json_string(text);
}

static void name_trim(char *name)
{
    static const char tag[] = ":latest";
    size_t n = strlen(name), m = sizeof(tag) - 1;

    if (n > m && strcmp(name + n - m, tag) == 0)
        name[n - m] = '\0';
}

// ---- models -------------------------------------------------------------------------------------

static json_t *digest_json(const struct engine_identity *id)
{
    char hex[17];

    snprintf(hex, sizeof(hex), "%016" PRIx64, id->weights_hash);
    return json_string(hex);
}

static json_t *details_json(const struct engine_identity *id)
{
    json_t *o = json_object(), *families = json_array();

    json_array_append_new(families, answer_string(id->arch));
    json_put(o, "parent_model", json_string(""));
    json_put(o, "format", json_string("gguf"));
    json_put(o, "family", answer_string(id->arch));
    json_put(o, "families", families);
    json_put(o, "parameter_size", json_string(""));
    json_put(o, "quantization_level", answer_string(id->weights));
    return o;
}

static json_t *model_json(const struct ollama_model *m)
{
    json_t *o = json_object();

    json_put(o, "name", answer_string(m->name));
    json_put(o, "model", answer_string(m->name));
    json_put(o, "size", json_integer((json_int_t)m->file_bytes));
    json_put(o, "digest", digest_json(m->identity));
    json_put(o, "details", details_json(m->identity));
    return o;
}

json_t *ollama_tags_json(const struct ollama_model *models, size_t n)
{
    json_t *o = json_object(), *list = json_array();

    for (size_t i = 0; i < n; i++) {
        json_t *m = model_json(&models[i]);

        json_put(m, "modified_at", time_json(models[i].modified_s));
        json_array_append_new(list, m);
    }
    json_put(o, "models", list);
    return o;
}

json_t *ollama_ps_json(const struct ollama_model *models, size_t n)
{
    json_t *o = json_object(), *list = json_array();

    for (size_t i = 0; i < n; i++) {
        json_t *m = model_json(&models[i]);

        json_put(m, "expires_at", time_json(NEVER_S));
        json_put(m, "size_vram", json_integer(0));
        json_put(m, "context_length", json_integer(models[i].limits->n_ctx));
        json_array_append_new(list, m);
    }
    json_put(o, "models", list);
    return o;
}

// "llama.context_length" and its like.
static void info_put(json_t *info, const char *arch, const char *member, uint32_t value)
{
    char name[128];

    snprintf(name, sizeof(name), "%s.%s", arch, member);
    json_put(info, name, json_integer(value));
}

static json_t *info_json(const struct engine_identity *id)
{
    json_t *o = json_object();

    json_put(o, "general.architecture", answer_string(id->arch));
    json_put(o, "general.basename", answer_string(id->model));
    info_put(o, id->arch, "context_length", id->n_ctx_train);
    info_put(o, id->arch, "embedding_length", id->n_embd);
    info_put(o, id->arch, "block_count", id->n_layer);
    info_put(o, id->arch, "vocab_size", id->n_vocab);
    info_put(o, id->arch, "attention.head_count", id->n_head);
    info_put(o, id->arch, "attention.head_count_kv", id->n_head_kv);
    return o;
}

static json_t *capabilities_json(const struct ollama_model *m)
{
    json_t *list = json_array();

    json_array_append_new(list, json_string("completion"));
    if (m->chats)
        json_array_append_new(list, json_string("tools"));
    if (m->limits->media)
        json_array_append_new(list, json_string("vision"));
    if (m->limits->n_embed_tokens > 0)
        json_array_append_new(list, json_string("embedding"));
    return list;
}

json_t *ollama_show_json(const struct ollama_model *m)
{
    static const char *const empty[] = {"license", "modelfile", "parameters", "template"};
    json_t *o = json_object();

    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
        json_put(o, empty[i], json_string(""));
    json_put(o, "details", details_json(m->identity));
    json_put(o, "model_info", info_json(m->identity));
    json_put(o, "capabilities", capabilities_json(m));
    json_put(o, "modified_at", time_json(m->modified_s));
    return o;
}

int ollama_show_parse(const json_t *body, char model[PARSE_MODEL_BYTES], struct parse_fault *fault)
{
    struct spot s = spot_body(body, fault), m = spot_member(&s, "model");

    // Older clients say "name".
    if (!m.value)
        m = spot_member(&s, "name");
    if (!m.value)
        m = spot_member(&s, "model");
    if (spot_check(&m, SPOT_TEXT) != 0)
        return ERR_INVALID;
    if (json_string_length(m.value) >= PARSE_MODEL_BYTES)
        return spot_fault(&m, "must have at most %d bytes", PARSE_MODEL_BYTES - 1);
    snprintf(model, PARSE_MODEL_BYTES, "%s", json_string_value(m.value));
    name_trim(model);
    return 0;
}

// ---- the rest -----------------------------------------------------------------------------------

json_t *ollama_version_json(void)
{
    json_t *o = json_object();

    json_put(o, "version", json_string(OLLAMA_VERSION));
    json_put(o, "tandem", json_string(TANDEM_VERSION));
    return o;
}

json_t *ollama_error_json(const char *message)
{
    json_t *o = json_object();

    json_put(o, "error", answer_string(message));
    return o;
}
