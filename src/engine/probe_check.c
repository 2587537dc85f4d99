// `tandem-worker check`: the probe, then the full comparison between two processes, and its answer.
#include "engine/probe_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What one comparison found.
struct comparison {
    double max_logit_diff, control_logit_diff, kv_bytes_per_token;
    uint64_t state_bytes;
    char note[200];
};

// Reads the child's one report and reaps it.
static int child_result(struct probe_child *c, const char *who, json_t **report, struct err *e)
{
    char how[64];
    *report = probe_child_read(c);
    probe_child_end(c, how, sizeof how);
    if (!*report)
        return err_set(e, ERR_ENGINE, "the %s process died: %s", who, how);
    return probe_report_check(*report, e);
}

static double real_of(const json_t *report, const char *member)
{
    return json_number_or(json_object_get(report, "result"), member, NAN);
}

static void comparison_read(struct comparison *c, const json_t *prefill, const json_t *decode)
{
    const char *note = json_string_or(json_object_get(decode, "result"), "note", "");
    *c = (struct comparison){
        .max_logit_diff = real_of(decode, "max_logit_diff"),
        .control_logit_diff = real_of(decode, "control_logit_diff"),
        .kv_bytes_per_token = real_of(prefill, "kv_bytes_per_token"),
        .state_bytes = (uint64_t)real_of(prefill, "state_bytes"),
    };
    snprintf(c->note, sizeof c->note, "%s", note);
}

// Both children run; the error that says most is kept: a child that died explains one that was left alone.
static int pair_finish(struct probe_child *prefill, struct probe_child *decode,
                       struct comparison *c, struct err *e)
{
    json_t *from_prefill = NULL, *from_decode = NULL;
    struct err at_prefill = {0}, at_decode = {0};
    int rc_prefill = child_result(prefill, "prefill", &from_prefill, &at_prefill);
    int rc_decode = child_result(decode, "decode", &from_decode, &at_decode);
    if (rc_prefill == 0 && rc_decode == 0)
        comparison_read(c, from_prefill, from_decode);
    else
        *e = rc_prefill != 0 && rc_prefill != ERR_CLOSED ? at_prefill
             : rc_decode != 0                            ? at_decode
                                                         : at_prefill;
    json_decref(from_prefill);
    json_decref(from_decode);
    return rc_prefill == 0 && rc_decode == 0 ? 0 : e->code;
}

static int pair_run(const struct probe_args *args, enum engine_handoff mode, uint32_t range_tokens,
                    struct comparison *c, struct err *e)
{
    struct probe_args a = *args;
    struct probe_child prefill, decode;
    char how[64];
    int data[2], cores = os_cpu_count();
    a.engine.handoff = mode;
    a.range_tokens = range_tokens;
    if (a.engine.n_threads == 0)
        a.engine.n_threads = cores > 1 ? cores / 2 : 1;
    if (pipe(data) != 0)
        return err_set(e, ERR_IO, "no pipe for the two processes: %s", strerror(errno));
    a.role = "decode";
    int rc = probe_child_start(&a, data[0], &decode, e);
    close(data[0]);
    a.role = "prefill";
    if (rc == 0 && (rc = probe_child_start(&a, data[1], &prefill, e)) != 0) {
        kill(decode.pid, SIGKILL);
        probe_child_end(&decode, how, sizeof how);
    }
    close(data[1]);
    return rc != 0 ? rc : pair_finish(&prefill, &decode, c, e);
}

// ---- the answer ------------------------------------------------------------------------------------------

static void comparison_take(struct probe_result *r, enum engine_handoff mode, uint32_t range_tokens,
                            const struct comparison *c)
{
    r->handoff = mode;
    r->max_logit_diff = c->max_logit_diff;
    r->control_logit_diff = c->control_logit_diff;
    r->kv_bytes_per_token = c->kv_bytes_per_token;
    r->state_bytes = c->state_bytes;
    probe_reason_add(r, "%s is exact between two processes over %d ranges of %u tokens",
                     engine_handoff_name(mode), PROBE_RANGES, range_tokens);
    if (c->note[0])
        probe_reason_add(r, "%s", c->note);
}

// True: compared and exact. A model whose positions end early (learned ones) may not bear full ranges.
static bool mode_compare(const struct probe_args *a, enum engine_handoff mode,
                         struct probe_result *r)
{
    static const uint32_t lengths[] = {CHECK_RANGE_TOKENS, PROBE_RANGE_TOKENS - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct comparison c;
        struct err e = {0};
        int rc = pair_run(a, mode, lengths[i], &c, &e);
        if (rc == 0 && c.max_logit_diff <= 0) {
            comparison_take(r, mode, lengths[i], &c);
            return true;
        }
        probe_reason_add(r, "%s over ranges of %u tokens: %.120s", engine_handoff_name(mode),
                         lengths[i], rc != 0 ? e.message : "the logits differ");
        if (rc == 0)
            return false;
    }
    return false;
}

static void answer_json(const struct probe_result *r)
{
    json_t *o = probe_result_json(r);
    char *text = json_text(o);
    puts(text);
    free(text);
    json_decref(o);
}

static const char *meaning(enum engine_handoff h)
{
    switch (h) {
    case ENGINE_HANDOFF_LATE_STATE:
        return "The KV of a prompt crosses in pieces while the prompt is being read; the recurrent "
               "state once, last.";
    case ENGINE_HANDOFF_RANGES:
        return "The KV of a prompt crosses in pieces while the prompt is being read.";
    case ENGINE_HANDOFF_WHOLE:
        return "The state of a prompt crosses at once, when the prompt is read.";
    case ENGINE_HANDOFF_NONE:
        break;
    }
    return "This model runs on one machine only.";
}

static void answer_text(const struct probe_args *a, const struct probe_result *r)
{
    printf("%s: %s\n%s\n", a->engine.model, engine_handoff_name(r->handoff), meaning(r->handoff));
    if (r->handoff != ENGINE_HANDOFF_NONE) {
        printf("  largest logit difference to the un-split run  %g\n", r->max_logit_diff);
        printf("  the same with something left out (control)    %g\n", r->control_logit_diff);
        printf("  bytes per token                               %.1f\n", r->kv_bytes_per_token);
        printf("  bytes of recurrent state                      %llu\n",
               (unsigned long long)r->state_bytes);
    }
    printf("  why: %s\n", r->reason);
}

int probe_check(const struct probe_args *a)
{
    struct probe_result found, r;
    struct err e = {0};
    if (probe_find(a, &found, &e) != 0) {
        fprintf(stderr, "tandem check: %s\n", e.message);
        return 1;
    }
    r = found;
    r.handoff = ENGINE_HANDOFF_NONE;
    if (found.handoff != ENGINE_HANDOFF_NONE)
        r.reason[0] = 0;
    r.max_logit_diff = r.control_logit_diff = NAN;
    for (int mode = (int)found.handoff; mode > ENGINE_HANDOFF_NONE; mode--)
        if (mode_compare(a, (enum engine_handoff)mode, &r))
            break;
    if (found.handoff != ENGINE_HANDOFF_NONE && strchr(found.reason, ';'))
        probe_reason_add(&r, "why not better: %s", found.reason);
    if (a->json)
        answer_json(&r);
    else
        answer_text(a, &r);
    return r.handoff == ENGINE_HANDOFF_NONE ? 3 : 0;
}
