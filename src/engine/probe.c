// The probe as others call it: its cache, its result as JSON, and the children's entry point.
#include "engine/probe_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/llama_engine.h"
#include "os/os.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define CACHE_BYTES_MAX 16384
// Part of the key: a result found by an older way of probing is not a result.
#define PROBE_VERSION 1

json_t *probe_result_json(const struct probe_result *r)
{
    json_t *o = json_object();
    json_put(o, "handoff", json_string(engine_handoff_name(r->handoff)));
    json_put(o, "max_logit_diff",
             isnan(r->max_logit_diff) ? json_null() : json_real(r->max_logit_diff));
    json_put(o, "kv_bytes_per_token",
             json_real(isnan(r->kv_bytes_per_token) ? 0 : r->kv_bytes_per_token));
    json_put(o, "state_bytes", json_integer((json_int_t)r->state_bytes));
    json_put(o, "control_logit_diff",
             isnan(r->control_logit_diff) ? json_null() : json_real(r->control_logit_diff));
    json_put(o, "reason", json_string(r->reason));
    return o;
}

void probe_reason_add(struct probe_result *r, const char *format, ...)
{
    size_t n = strlen(r->reason);
    va_list args;
    if (n > 0 && n + 2 < sizeof r->reason) {
        memcpy(r->reason + n, "; ", 3);
        n += 2;
    }
    va_start(args, format);
    vsnprintf(r->reason + n, sizeof r->reason - n, format, args);
    va_end(args);
}

void probe_result_read(const json_t *o, struct probe_result *out)
{
    const char *mode = json_string_value(json_object_get(o, "handoff"));
    const char *reason = json_string_or(o, "reason", "");
    *out = (struct probe_result){
        .max_logit_diff = json_number_or(o, "max_logit_diff", NAN),
        .control_logit_diff = json_number_or(o, "control_logit_diff", NAN),
        .kv_bytes_per_token = json_number_or(o, "kv_bytes_per_token", NAN),
        .state_bytes = (uint64_t)json_integer_value(json_object_get(o, "state_bytes")),
    };
    if (!mode || engine_handoff_parse(mode, &out->handoff) != 0)
        out->handoff = ENGINE_HANDOFF_NONE;
    snprintf(out->reason, sizeof out->reason, "%s", reason);
}

// ---- the cache -------------------------------------------------------------------------------------------

// What a result depends on, as text; NULL when the file cannot be looked at.
static char *cache_key(const struct engine_options *o)
{
    struct stat st;
    char path[PATH_MAX];
    if (stat(o->model, &st) != 0 || !realpath(o->model, path))
        return NULL;
    return mem_format("%d %s %lld %lld.%09ld %s %s %s %d %s", PROBE_VERSION, path,
                      (long long)st.st_size, (long long)st.st_mtime, os_mtime_ns(&st),
                      engine_llama_release(), o->type_k ? o->type_k : "f16",
                      o->type_v ? o->type_v : "f16", o->n_gpu_layers, engine_llama_system());
}

static int cache_path(const char *key, char *out, size_t cap)
{
    char dir[PATH_MAX - 64];
    int rc = os_cache_dir(dir, sizeof dir, NULL);
    if (rc != 0)
        return rc;
    snprintf(out, cap, "%s/probe", dir);
    rc = os_mkdirs(out, NULL);
    snprintf(out, cap, "%s/probe/%016" PRIx64 ".json", dir,
             (uint64_t)XXH3_64bits(key, strlen(key)));
    return rc;
}

static bool cache_read(const char *key, struct probe_result *out)
{
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    if (cache_path(key, path, sizeof path) != 0 ||
        os_file_read(path, CACHE_BYTES_MAX, &text, &n, NULL) != 0)
        return false;
    json_t *o = json_parse(text, n, NULL);
    free(text);
    const char *had = json_string_value(json_object_get(o, "key"));
    bool hit = had && strcmp(had, key) == 0;
    if (hit)
        probe_result_read(json_object_get(o, "result"), out);
    json_decref(o);
    return hit;
}

static void cache_write(const char *key, const struct probe_result *r)
{
    char path[PATH_MAX];
    struct err e = {0};
    json_t *o = json_pack("{s:s,s:o}", "key", key, "result", probe_result_json(r));
    char *text = json_text(o);
    json_decref(o);
    if (cache_path(key, path, sizeof path) == 0 &&
        os_file_write(path, text, strlen(text), 0600, &e) != 0)
        log_warn("probe", "the result is not kept: %s", e.message);
    free(text);
}

// ---- for others ------------------------------------------------------------------------------------------

// The fake engine does what it is told to.
static int fake_result(const struct engine_options *o, struct probe_result *out)
{
    *out = (struct probe_result){.handoff = o->handoff,
                                 .max_logit_diff = NAN,
                                 .control_logit_diff = NAN,
                                 .reason = "the fake engine is not probed"};
    return 0;
}

int probe_run(const struct engine_options *o, bool use_cache, struct probe_result *out,
              struct err *e)
{
    struct probe_args a = {.engine = *o};
    if (strncmp(o->model, "fake", 4) == 0 && (o->model[4] == 0 || o->model[4] == ':'))
        return fake_result(o, out);
    char *key = use_cache ? cache_key(o) : NULL;
    if (key && cache_read(key, out)) {
        free(key);
        return 0;
    }
    int rc = probe_find(&a, out, e);
    if (rc == 0 && key)
        cache_write(key, out);
    free(key);
    return rc;
}

int probe_main(int argc, char **argv)
{
    static const struct {
        const char *role;
        int (*run)(const struct probe_args *a);
    } roles[] = {{"find", probe_find_child},
                 {"prefill", probe_prefill_child},
                 {"decode", probe_decode_child}};
    struct probe_args a;
    struct err e = {0};
    if (probe_args_parse(argc, argv, &a, &e) != 0) {
        fprintf(stderr, "tandem-worker %s: %s\n", argv[0], e.message);
        return 2;
    }
    if (strcmp(argv[0], "check") == 0)
        return probe_check(&a);
    for (size_t i = 0; a.role && i < sizeof roles / sizeof *roles; i++)
        if (strcmp(a.role, roles[i].role) == 0)
            return roles[i].run(&a);
    fprintf(stderr, "tandem-worker probe: --role must be find, prefill or decode\n");
    return 2;
}
