// tandem show: what the head of a model says, and the memory that it needs.
#include "cli/models.h"

#include "base/buf.h"
#include "base/json.h"
#include "cli/term.h"
#include "models/fetch.h"
#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct show {
    struct models_found found;
    struct models_entry entry; // when found.name is set
    bool has_entry;
    struct models_gguf g;
    struct models_memory_options options;
    struct models_memory need;
    uint32_t type_k, type_v;
};

// ---- JSON ----------------------------------------------------------------------------------------

static void number_put(json_t *o, const char *member, uint64_t v)
{
    json_put(o, member, v > 0 ? json_integer((json_int_t)v) : json_null());
}

static void text_put(json_t *o, const char *member, const char *text)
{
    json_put(o, member, *text ? json_string(text) : json_null());
}

static json_t *types_json(const struct models_gguf *g)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < MODELS_GGUF_TYPES; i++) {
        if (g->types[i].tensors == 0)
            continue;
        json_t *o = json_object();
        json_put(o, "type", json_string(models_gguf_type_name(i)));
        json_put(o, "tensors", json_integer((json_int_t)g->types[i].tensors));
        json_put(o, "params", json_integer((json_int_t)g->types[i].params));
        json_put(o, "bytes", json_integer((json_int_t)g->types[i].bytes));
        json_array_append_new(all, o);
    }
    return all;
}

static uint32_t layers_count(const struct models_gguf *g,
                             bool (*is)(const struct models_gguf *g, uint32_t il))
{
    uint32_t n = 0;
    for (uint32_t il = 0; il < g->n_layer; il++)
        n += is(g, il);
    return n;
}

static uint32_t kv_heads(const struct models_gguf *g)
{
    uint32_t most = 0;
    for (uint32_t il = 0; il < g->n_layer && g->has_head_kv; il++)
        most = g->head_kv[il] > most ? g->head_kv[il] : most;
    return g->has_head_kv ? most : g->n_head;
}

static json_t *shape_json(const struct models_gguf *g)
{
    json_t *o = json_object();
    number_put(o, "layers", g->n_layer);
    number_put(o, "embedding", g->n_embd);
    number_put(o, "feed_forward", g->n_ff);
    number_put(o, "heads", g->n_head);
    number_put(o, "kv_heads", kv_heads(g));
    number_put(o, "experts", g->n_expert);
    number_put(o, "experts_used", g->n_expert_used);
    number_put(o, "window", g->window);
    number_put(o, "window_layers", layers_count(g, models_gguf_layer_in_window));
    number_put(o, "recurrent_layers", layers_count(g, models_gguf_layer_recurrent));
    number_put(o, "vocabulary", g->n_vocab);
    return o;
}

static json_t *memory_json(const struct show *s)
{
    json_t *o = json_object();
    json_put(o, "context", json_integer(s->need.n_ctx));
    json_put(o, "parallel", json_integer(s->options.n_seq));
    json_put(o, "type_k", json_string(models_gguf_type_name(s->type_k)));
    json_put(o, "type_v", json_string(models_gguf_type_name(s->type_v)));
    json_put(o, "weights_bytes", json_integer((json_int_t)s->need.weights_bytes));
    json_put(o, "kv_bytes", json_integer((json_int_t)s->need.kv_bytes));
    json_put(o, "apart_bytes", json_integer((json_int_t)s->need.apart_bytes));
    json_put(o, "kv_bytes_per_token",
             json_integer((json_int_t)models_memory_token_bytes(&s->g, s->type_k, s->type_v)));
    json_put(o, "state_bytes", json_integer((json_int_t)s->need.state_bytes));
    json_put(o, "work_bytes", json_integer((json_int_t)s->need.work_bytes));
    json_put(o, "total_bytes", json_integer((json_int_t)s->need.total_bytes));
    json_put(o, "available_bytes", json_integer((json_int_t)os_memory_available()));
    return o;
}

static json_t *show_json(const struct show *s)
{
    const struct models_gguf *g = &s->g;
    json_t *o = s->has_entry ? models_entry_json(&s->entry, s->found.name) : json_object();
    text_put(o, "path", s->found.path);
    text_put(o, "arch", g->arch);
    text_put(o, "title", g->name);
    text_put(o, "license", g->license);
    text_put(o, "quant", models_gguf_quant(g));
    json_put(o, "params", json_integer((json_int_t)g->params));
    json_put(o, "bytes", json_integer((json_int_t)g->file_bytes));
    number_put(o, "context", g->n_ctx);
    json_put(o, "shape", shape_json(g));
    json_put(o, "tensor_types", types_json(g));
    text_put(o, "tokenizer", g->tokenizer);
    json_put(o, "template", g->template_text ? json_string(g->template_text) : json_null());
    json_put(o, "memory", memory_json(s));
    return o;
}

// ---- text ----------------------------------------------------------------------------------------

static void row(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void row(const char *what, const char *format, ...)
{
    va_list args;
    bool color = term_color(stdout);
    printf("  %s%-16s%s", color ? "\033[2m" : "", what, color ? "\033[0m" : "");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static void count_format(uint64_t n, char out[24])
{
    if (n >= 1000000000)
        snprintf(out, 24, "%.2f billion", (double)n / 1e9);
    else
        snprintf(out, 24, "%.1f million", (double)n / 1e6);
}

static void types_print(const struct models_gguf *g)
{
    struct buf text;
    char size[MODELS_SIZE_TEXT];
    buf_init(&text, 1024);
    for (uint32_t i = 0; i < MODELS_GGUF_TYPES; i++) {
        if (g->types[i].tensors == 0)
            continue;
        models_size_format(g->types[i].bytes, size);
        buf_printf(&text, "%s%s %s", text.len ? ", " : "", models_gguf_type_name(i), size);
    }
    row("weights", "%s (%s)", models_gguf_quant(g), text.data ? (const char *)text.data : "none");
    buf_fini(&text);
}

static void shape_print(const struct models_gguf *g)
{
    char params[24];
    uint32_t windows = layers_count(g, models_gguf_layer_in_window);
    uint32_t recurrent = layers_count(g, models_gguf_layer_recurrent);
    count_format(g->params, params);
    row("architecture", "%s, %s parameters", g->arch[0] ? g->arch : "not told", params);
    row("shape", "%u layers, embedding %u, %u heads, %u for KV", g->n_layer, g->n_embd, g->n_head,
        kv_heads(g));
    if (g->n_expert > 0)
        row("experts", "%u, of which a token uses %u", g->n_expert, g->n_expert_used);
    if (windows > 0)
        row("windows", "%u layers see the last %u tokens only", windows, g->window);
    if (recurrent > 0)
        row("recurrent", "%u layers keep a state in place of KV", recurrent);
    types_print(g);
    row("context", "%u tokens", g->n_ctx);
    row("vocabulary", "%u tokens%s%s", g->n_vocab, g->tokenizer[0] ? ", " : "", g->tokenizer);
    row("chat template", "%s",
        !g->template_text                   ? "none"
        : strstr(g->template_text, "tools") ? "yes, with tools"
                                            : "yes, without tools");
    if (g->license[0])
        row("licence", "%s", g->license);
}

static void memory_print(const struct show *s)
{
    char total[MODELS_SIZE_TEXT], weights[MODELS_SIZE_TEXT], kv[MODELS_SIZE_TEXT];
    char work[MODELS_SIZE_TEXT], room[MODELS_SIZE_TEXT];
    uint64_t available = os_memory_available();
    models_size_format(s->need.total_bytes, total);
    models_size_format(s->need.weights_bytes, weights);
    models_size_format(s->need.kv_bytes + s->need.apart_bytes + s->need.state_bytes, kv);
    models_size_format(s->need.work_bytes, work);
    models_size_format(available, room);
    row("memory", "about %s: weights %s, KV cache %s, work %s", total, weights, kv, work);
    row("", "for %u tokens of context, KV in %s and %s%s%s%s", s->need.n_ctx,
        models_gguf_type_name(s->type_k), models_gguf_type_name(s->type_v),
        available ? "; free now: " : "", available ? room : "",
        available && s->need.total_bytes > available ? ", too little" : "");
    row("KV per token", "%" PRIu64 " bytes",
        models_memory_token_bytes(&s->g, s->type_k, s->type_v));
}

static void show_print(const struct show *s)
{
    char size[MODELS_SIZE_TEXT], age[32];
    printf("%s\n", s->found.name[0] ? s->found.name : models_base_name(s->found.path));
    if (s->g.name[0])
        row("title", "%s", s->g.name);
    models_size_format(s->g.file_bytes, size);
    row("file", "%s (%s)", s->found.path, size);
    if (s->has_entry) {
        models_age_format(s->entry.pulled_unix_s, age);
        row("from", "%s, %s", s->entry.source, age);
        if (s->entry.n_files == 1)
            row("SHA-256", "%s", s->entry.files[0].sha256);
    }
    if (s->found.projector[0])
        row("projector", "%s", s->found.projector);
    shape_print(&s->g);
    memory_print(s);
}

// ---- the command ---------------------------------------------------------------------------------

static int show_fill(struct show *s, const char *name, struct err *e)
{
    struct models_list l;
    size_t i = 0;
    int rc = models_find(name, &s->found, e);
    if (rc == 0 && strncmp(s->found.path, "fake", 4) == 0 && !s->found.name[0])
        rc = err_set(e, ERR_INVALID, "the fake engine has no file to show");
    if (rc == 0)
        rc = models_gguf_read(s->found.path, &s->g, e);
    if (rc != 0)
        return rc;
    if (s->found.name[0] && models_list_read(&l, NULL) == 0) {
        if (models_list_find(&l, s->found.name, &i, NULL) == 0) {
            s->has_entry = models_entry_load(&l.items[i].id, &s->entry, NULL) == 0;
            models_list_name(&l, i, s->found.name);
        }
        models_list_fini(&l);
    }
    rc = models_memory_need(&s->g, &s->options, &s->need, e);
    s->type_k = models_gguf_type_find(s->options.type_k);
    s->type_v = models_gguf_type_find(s->options.type_v);
    return rc;
}

static void show_fini(struct show *s)
{
    if (s->has_entry)
        models_entry_fini(&s->entry);
    models_gguf_fini(&s->g);
    free(s);
}

static int show_run(int argc, char **argv)
{
    bool json = false, only_template = false, done = false;
    struct cli_list rest = {0};
    struct show *s = mem_alloc(sizeof *s);
    models_memory_options_default(&s->options);
    const char *types[2] = {"f16", "f16"};
    const struct cli_option options[] = {
        {"--ctx", 'c', CLI_UINT32, &s->options.n_ctx, "TOKENS",
         "the context to tell the memory for; default: the model's, at most 8192", 0, 1 << 24},
        {"--parallel", 0, CLI_UINT32, &s->options.n_seq, "N", "requests at the same time (4)", 1,
         256},
        {"--kv-type", 0, CLI_TWIN, types, "TYPE", "f16 (default), f32, q8_0, ...", 0, 0},
        {"--template", 0, CLI_FLAG, &only_template, NULL, "print the chat template alone", 0, 0},
        {"--json", 0, CLI_FLAG, &json, NULL, "print JSON", 0, 0},
        {0},
    };
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, "usage: tandem show NAME [OPTIONS]",
                       "Shows what a model is and the memory that it needs. NAME is a model that "
                       "was\npulled, an alias, or a GGUF file.",
                       &rest, &done, &e);
    s->options.type_k = types[0];
    s->options.type_v = types[1];
    if (rc == 0 && !done && rest.n != 1)
        rc = err_set(&e, ERR_INVALID, "say one model; `tandem ls` lists them");
    if (rc == 0 && !done)
        rc = show_fill(s, rest.items[0], &e);
    if (rc == 0 && !done && only_template && !s->g.template_text)
        rc = err_set(&e, ERR_NOT_FOUND, "%.200s has no chat template", rest.items[0]);
    if (rc == 0 && !done && only_template) {
        printf("%s\n", s->g.template_text);
    } else if (rc == 0 && !done && json) {
        json_t *o = show_json(s);
        models_json_print(o);
        json_decref(o);
    } else if (rc == 0 && !done) {
        show_print(s);
    }
    show_fini(s);
    return rc ? cli_fail("show", &e) : 0;
}

const struct cli_command cli_show = {"show", "what a model is, and the memory it needs", show_run};
