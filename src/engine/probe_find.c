// The short probe: a child tries the modes best first in one engine; where it dies, the next child goes
// on behind the mode that killed it.
#include "engine/probe_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/llama_engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the child -------------------------------------------------------------------------------------------

// Every range long enough that the sliding window moves past the first ones.
static uint32_t range_tokens_choose(const struct engine_identity *id, uint32_t wanted)
{
    uint32_t tokens = wanted ? wanted : PROBE_RANGE_TOKENS;
    uint32_t window = id->n_swa / (PROBE_RANGES - 1) + 8;
    if (!wanted && id->n_swa > 0 && window > tokens && window <= PROBE_RANGE_TOKENS_MAX)
        tokens = window;
    uint32_t fits = id->n_ctx_train > PROBE_RANGES ? (id->n_ctx_train - 1) / PROBE_RANGES : tokens;
    return fits > 0 && tokens > fits ? fits : tokens;
}

int probe_engine_open(const struct probe_args *a, uint32_t range_tokens, struct engine **g,
                      struct err *e)
{
    struct engine_options o = a->engine;
    o.n_ctx = PROBE_RANGES * range_tokens + 64;
    o.n_seq = 1;
    o.n_batch = 512;
    if (o.handoff == ENGINE_HANDOFF_NONE)
        o.handoff = ENGINE_HANDOFF_WHOLE; // so that the layout is learned
    return engine_llama_open(&o, g, e);
}

// Only a loaded model tells how long its ranges must be; a small context comes first because a large
// model's cache for long ranges takes gigabytes that most models' probes do not need.
static int engine_make(const struct probe_args *a, struct engine **g, struct probe_plan *p,
                       struct err *e)
{
    uint32_t first = a->range_tokens ? a->range_tokens : PROBE_RANGE_TOKENS;
    int rc = probe_engine_open(a, first, g, e);
    if (rc != 0)
        return rc;
    uint32_t tokens = range_tokens_choose(&(*g)->identity, a->range_tokens);
    if (tokens > first) {
        (*g)->ops->free(*g);
        *g = NULL;
        rc = probe_engine_open(a, tokens, g, e);
        if (rc != 0)
            return rc;
    }
    probe_plan_init(p, tokens, (*g)->identity.n_vocab);
    return 0;
}

static int blob_keep(void *ctx, struct probe_blob *blob, struct err *e)
{
    struct probe_blobs *blobs = ctx;
    if (blobs->n == PROBE_BLOBS_MAX)
        return err_set(e, ERR_RANGE, "more than %d ranges", PROBE_BLOBS_MAX);
    blobs->items[blobs->n++] = *blob;
    return 0;
}

struct trial {
    struct engine *g;
    struct probe_plan *plan;
    float *ref;
    struct probe_result result;
};

static void reason_of_mode(struct trial *t, enum engine_handoff mode, bool exact, const char *why)
{
    if (exact)
        probe_reason_add(&t->result, "%s is exact over %d ranges of %u tokens (%s)",
                         engine_handoff_name(mode), PROBE_RANGES, t->plan->range_tokens, why);
    else
        probe_reason_add(&t->result, "%s: %s", engine_handoff_name(mode), why);
}

// True: this mode is exact.
static bool mode_try(struct trial *t, enum engine_handoff mode)
{
    struct probe_blobs blobs = {0};
    struct probe_compare c = {.g = t->g, .plan = t->plan, .blobs = &blobs, .ref = t->ref};
    struct err e = {0};
    probe_report(json_pack("{s:s}", "trying", engine_handoff_name(mode)));
    engine_llama_handoff_set(t->g, mode);
    int rc = probe_prefill(t->g, t->plan, blob_keep, &blobs, &e);
    if (rc == 0)
        rc = probe_decode(&c, &e);
    bool exact = rc == 0 && c.diff <= 0;
    const char *why = rc != 0 ? e.message : "the logits differ";
    if (exact) {
        t->result.handoff = mode;
        t->result.max_logit_diff = c.diff;
        bool controlled = probe_control(&c, &e) == 0;
        t->result.control_logit_diff = controlled ? c.diff : NAN;
        why = controlled ? c.note : e.message;
    }
    reason_of_mode(t, mode, exact, why);
    probe_blobs_free(&blobs);
    return exact;
}

static void modes_try(struct trial *t, const struct probe_args *a, bool recurrent)
{
    for (int mode = ENGINE_HANDOFF_LATE_STATE; mode > ENGINE_HANDOFF_NONE; mode--) {
        if (a->skip & 1u << mode || (mode == ENGINE_HANDOFF_LATE_STATE && !recurrent))
            continue;
        if (mode_try(t, (enum engine_handoff)mode))
            return;
    }
}

static int trial_run(struct trial *t, const struct probe_args *a, struct err *e)
{
    struct engine_llama_facts facts = engine_llama_facts_get(t->g);
    t->result = (struct probe_result){.max_logit_diff = NAN, .control_logit_diff = NAN};
    if (!facts.has_memory) {
        probe_reason_add(&t->result,
                         "the model keeps no KV cache or state, so there is nothing to hand over");
        return 0;
    }
    if (!facts.layout_known) {
        probe_reason_add(
            &t->result,
            "the layout of the model's state is not known, so it could not be checked on arrival");
        return 0;
    }
    t->ref = mem_alloc(t->g->identity.n_vocab * sizeof *t->ref);
    int rc = probe_prefill(t->g, t->plan, NULL, NULL, e);
    if (rc == 0)
        rc = probe_last_token(t->g, t->plan, probe_plan_end(t->plan), t->ref, e);
    if (rc != 0)
        return rc;
    modes_try(t, a, facts.recurrent);
    t->result.kv_bytes_per_token = t->g->limits.kv_bytes_per_token;
    t->result.state_bytes = t->g->limits.state_bytes;
    return 0;
}

int probe_find_child(const struct probe_args *a)
{
    struct probe_plan plan = {0};
    struct trial t = {.plan = &plan};
    struct err e = {0};
    probe_report(json_pack("{s:s}", "trying", "load"));
    int rc = engine_make(a, &t.g, &plan, &e);
    if (rc == 0)
        rc = trial_run(&t, a, &e);
    if (rc == 0)
        probe_report(json_pack("{s:o}", "result", probe_result_json(&t.result)));
    else
        probe_report(probe_report_error(&e));
    free(t.ref);
    probe_plan_fini(&plan);
    if (t.g)
        t.g->ops->free(t.g);
    return rc == 0 ? 0 : 1;
}

// ---- the parent ------------------------------------------------------------------------------------------

// Follows one child. 0: *report is its result or error; ERR_ENGINE: it died in *mode, `how` says how.
static int child_follow(const struct probe_args *a, json_t **report, char mode[32], char *how,
                        size_t cap, struct err *e)
{
    struct probe_child c;
    int rc = probe_child_start(a, -1, &c, e);
    if (rc != 0)
        return rc;
    snprintf(mode, 32, "load");
    *report = NULL;
    for (json_t *line; (line = probe_child_read(&c));) {
        const char *trying = json_string_value(json_object_get(line, "trying"));
        if (!trying) {
            *report = line;
            break;
        }
        snprintf(mode, 32, "%s", trying);
        json_decref(line);
    }
    probe_child_end(&c, how, cap);
    return *report ? 0 : ERR_ENGINE;
}

static int result_take(json_t *report, const char *notes, struct probe_result *out, struct err *e)
{
    int rc = probe_report_check(report, e);
    if (rc == 0) {
        struct probe_result r;
        probe_result_read(json_object_get(report, "result"), &r);
        *out = r;
        snprintf(out->reason, sizeof out->reason, "%s%s", notes, r.reason);
    }
    json_decref(report);
    return rc;
}

int probe_find(const struct probe_args *args, struct probe_result *out, struct err *e)
{
    struct probe_args a = *args;
    char notes[256] = "", mode[32], how[64];
    a.role = "find";
    for (int i = 0; i <= ENGINE_HANDOFF_LATE_STATE; i++) {
        json_t *report = NULL;
        enum engine_handoff died;
        int rc = child_follow(&a, &report, mode, how, sizeof how, e);
        if (rc == 0)
            return result_take(report, notes, out, e);
        if (rc != ERR_ENGINE)
            return rc;
        if (engine_handoff_parse(mode, &died) != 0)
            return err_set(e, ERR_ENGINE, "llama.cpp died while it loaded or tried '%s': %s",
                           a.engine.model, how);
        a.skip |= 1u << died;
        size_t n = strlen(notes);
        snprintf(notes + n, sizeof notes - n, "%s: llama.cpp died, %s; ", mode, how);
    }
    return err_set(e, ERR_ENGINE, "the probe of '%s' died in every mode: %s", a.engine.model,
                   notes);
}
