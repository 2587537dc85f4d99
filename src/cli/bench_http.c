// One completion request to a gateway, timed from before the connection to the last byte.
#include "cli/bench.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/draw.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MAX_BYTES (64u << 20)
#define REQUEST_S 3600L

static volatile sig_atomic_t signal_seen; // set by the handler, read by loops: no ordering needed

static void on_signal(int number)
{
    (void)number;
    signal_seen = 1;
}

void bench_signals_catch(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

bool bench_signal_seen(void)
{
    return signal_seen != 0;
}

const char *bench_plan_name(enum bench_plan p)
{
    static const char *const names[] = {"remote", "local", "serial", "hybrid", "auto"};
    return names[p];
}

static json_t *body_json(const struct bench_request *q)
{
    json_t *o = json_object(), *tokens = json_array(), *tandem = json_object();
    for (size_t i = 0; i < q->n_tokens; i++)
        json_array_append_new(tokens, json_integer(q->tokens[i]));
    json_put(tandem, "plan", json_string(bench_plan_name(q->plan)));
    json_put(tandem, "timeline", json_true());
    json_put(o, "prompt", tokens);
    json_put(o, "max_tokens", json_integer(q->gen_tokens));
    json_put(o, "temperature", json_integer(0));
    json_put(o, "ignore_eos", json_true());
    // Cold, and into an empty cache: where cells lie decides the last bits of what is computed.
    json_put(o, "cache_prompt", json_boolean(q->warm));
    json_put(o, "store", json_boolean(q->keep));
    json_put(o, "tandem", tandem);
    return o;
}

static size_t on_data(char *data, size_t size, size_t n, void *ctx)
{
    return buf_put(ctx, data, size * n) == 0 ? size * n : 0;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)ctx;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return signal_seen;
}

// body NULL: a GET.
static int transfer(const char *url, const char *body, struct buf *answer, long *status,
                    struct err *e)
{
    CURL *c = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    char reason[CURL_ERROR_SIZE] = "", bearer[512];
    const char *api_key = getenv("TANDEM_API_KEY");
    if (api_key != NULL) {
        snprintf(bearer, sizeof bearer, "Authorization: Bearer %s", api_key);
        headers = curl_slist_append(headers, bearer);
    }
    curl_easy_setopt(c, CURLOPT_URL, url);
    if (body != NULL)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, REQUEST_S);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, reason);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    if (rc == CURLE_OK)
        return 0;
    if (signal_seen)
        return err_set(e, ERR_CANCELLED, "interrupted");
    return err_set(e, ERR_IO, "%s: %s", url, reason[0] != '\0' ? reason : curl_easy_strerror(rc));
}

static int status_check(const json_t *answer, long status, struct err *e)
{
    const json_t *error = json_object_get(answer, "error");
    if (status == 200 && error == NULL)
        return 0;
    return err_set(e, ERR_IO, "the gateway answered %ld: %s", status,
                   json_string_or(error, "message", "no reason given"));
}

// BENCH_AUTO: it names none.
static enum bench_plan plan_parse(const char *name)
{
    for (size_t i = 0; name != NULL && i < BENCH_PLANS; i++)
        if (strcmp(name, bench_plan_name((enum bench_plan)i)) == 0)
            return (enum bench_plan)i;
    return BENCH_AUTO;
}

// An answer that was made in another way than asked would be measured under the wrong name.
static int plan_check(const struct bench_request *q, const json_t *timings, enum bench_plan *done,
                      struct err *e)
{
    const char *plan = json_string_value(json_object_get(timings, "plan"));
    const char *fallback = json_string_value(json_object_get(timings, "fallback"));
    double warm = q->warm ? 0 : draw_number(timings, "cached_tokens");
    *done = plan_parse(plan);
    if (*done == BENCH_AUTO || (q->plan != BENCH_AUTO && *done != q->plan))
        return err_set(e, ERR_MISMATCH, "asked for plan %s, got %s", bench_plan_name(q->plan),
                       plan != NULL ? plan : "an answer without timings");
    if (fallback != NULL)
        return err_set(e, ERR_MISMATCH, "the %s run fell back: %s", plan, fallback);
    if (warm > 0)
        return err_set(e, ERR_MISMATCH, "%.0f prompt tokens were warm; a cold run is needed", warm);
    return 0;
}

static void sample_fill(const json_t *t, struct bench_sample *s)
{
    s->prefill_s = draw_number(t, "prefill_s");
    s->decode_s = draw_number(t, "decode_s");
    s->tail_s = draw_number(t, "tail_ms") / 1e3;
    s->kv_bytes = draw_number(t, "kv_bytes");
    s->compute_s = draw_number(t, "prefill.compute_s");
    s->export_s = draw_number(t, "prefill.export_s");
    s->predicted_s = draw_number(t, "predicted.total_s");
    s->cached_tokens = draw_number(t, "cached_tokens");
}

static int answer_fill(const struct bench_request *q, const json_t *answer, struct bench_answer *a,
                       struct err *e)
{
    const json_t *choice = json_array_get(json_object_get(answer, "choices"), 0);
    const char *text = json_string_value(json_object_get(choice, "text"));
    json_t *timings = json_object_get(answer, "timings");
    double gen = draw_number(answer, "usage.completion_tokens");
    if (text == NULL)
        return err_set(e, ERR_IO, "the gateway's answer has no text");
    if ((uint32_t)gen != q->gen_tokens)
        return err_set(e, ERR_MISMATCH, "asked for %u tokens, got %.0f", q->gen_tokens, gen);
    int rc = plan_check(q, timings, &a->plan, e);
    if (rc != 0)
        return rc;
    sample_fill(timings, &a->sample);
    a->text = mem_strdup(text);
    a->model = mem_strdup(json_string_or(answer, "model", "?"));
    a->timings = json_incref(timings);
    return 0;
}

int bench_request_run(const struct bench_request *q, struct bench_answer *a, struct err *e)
{
    char url[512];
    struct buf raw;
    long status = 0;
    json_t *body = body_json(q), *answer = NULL;
    char *text = json_text(body);
    *a = (struct bench_answer){0};
    buf_init(&raw, ANSWER_MAX_BYTES);
    snprintf(url, sizeof url, "%s/v1/completions", q->url);
    int64_t start = clock_now_ns();
    int rc = transfer(url, text, &raw, &status, e);
    a->sample.total_s = ns_to_s(clock_now_ns() - start);
    if (rc == 0 && (answer = json_parse(raw.data, raw.len, e)) == NULL)
        rc = err_set(e, ERR_IO, "the gateway answered %ld with something that is no JSON", status);
    if (rc == 0)
        rc = status_check(answer, status, e);
    if (rc == 0)
        rc = answer_fill(q, answer, a, e);
    json_decref(answer);
    json_decref(body);
    free(text);
    buf_fini(&raw);
    return rc;
}

int bench_nodes_get(const char *gateway, json_t **nodes, struct err *e)
{
    char url[512];
    struct buf raw;
    long status = 0;
    json_t *answer = NULL;
    buf_init(&raw, ANSWER_MAX_BYTES);
    snprintf(url, sizeof url, "%s/v1/tandem/status", gateway);
    int rc = transfer(url, NULL, &raw, &status, e);
    if (rc == 0 && (answer = json_parse(raw.data, raw.len, e)) == NULL)
        rc = err_set(e, ERR_IO, "the gateway answered %ld with something that is no JSON", status);
    if (rc == 0)
        rc = status_check(answer, status, e);
    if (rc == 0)
        *nodes = json_incref(json_object_get(answer, "nodes"));
    json_decref(answer);
    buf_fini(&raw);
    return rc;
}

void bench_answer_fini(struct bench_answer *a)
{
    free(a->text);
    free(a->model);
    json_decref(a->timings);
    *a = (struct bench_answer){0};
}
