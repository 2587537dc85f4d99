// From samples to the JSON that scripts, tables and pictures read. Medians over runs.
#include "cli/bench.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/bench_grid.h"
#include "cli/draw.h"
#include "cli/term.h"
#include "os/facts.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int double_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(const double *values, size_t n)
{
    double sorted[BENCH_SAMPLES_MAX];
    if (n == 0 || n > BENCH_SAMPLES_MAX)
        return 0;
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, double_order);
    return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

// The median of one member (its offset) of one line.
static double median_of(const struct bench_series *s, enum bench_plan plan, size_t offset)
{
    double values[BENCH_RUNS_MAX];
    for (size_t i = 0; i < s->runs; i++)
        memcpy(&values[i], (const char *)&s->samples[plan][i] + offset, sizeof *values);
    return bench_median(values, s->runs);
}

#define MEDIAN(s, plan, member) median_of(s, plan, offsetof(struct bench_sample, member))

static void real_put(json_t *o, const char *member, double v)
{
    json_put(o, member, isfinite(v) ? json_real(v) : json_null());
}

static json_t *line_json(const struct bench_series *s, enum bench_plan plan)
{
    json_t *o = json_object();
    real_put(o, "prefill_s", MEDIAN(s, plan, prefill_s));
    real_put(o, "decode_s", MEDIAN(s, plan, decode_s));
    real_put(o, "total_s", MEDIAN(s, plan, total_s));
    return o;
}

static json_t *solo_json(const struct bench_series *s)
{
    json_t *list = json_array();
    for (size_t i = 0; i < 2; i++) {
        json_t *o = line_json(s, i == 0 ? BENCH_REMOTE : BENCH_LOCAL);
        json_put(o, "name", json_string(s->names[i]));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *hybrid_json(const struct bench_outcome *o)
{
    json_t *h = line_json(o->series, BENCH_HYBRID);
    real_put(h, "tail_s", MEDIAN(o->series, BENCH_HYBRID, tail_s));
    json_put(h, "kv_bytes", json_integer((json_int_t)MEDIAN(o->series, BENCH_HYBRID, kv_bytes)));
    if (o->link_bytes_per_s > 0)
        real_put(h, "link_bytes_per_s", o->link_bytes_per_s);
    else
        json_put(h, "link_bytes_per_s", json_null());
    return h;
}

static double ideal_s(const struct bench_series *s)
{
    return MEDIAN(s, BENCH_REMOTE, prefill_s) + MEDIAN(s, BENCH_LOCAL, decode_s);
}

static json_t *speedup_json(const struct bench_series *s)
{
    json_t *o = json_object();
    double hybrid = MEDIAN(s, BENCH_HYBRID, total_s);
    real_put(o, s->names[0], MEDIAN(s, BENCH_REMOTE, total_s) / hybrid);
    real_put(o, s->names[1], MEDIAN(s, BENCH_LOCAL, total_s) / hybrid);
    return o;
}

static json_t *unpaced_json(const struct bench_series *s)
{
    json_t *o = json_object();
    double hybrid = MEDIAN(s, BENCH_HYBRID, total_s), alone = MEDIAN(s, BENCH_REMOTE, prefill_s);
    double compute = MEDIAN(s, BENCH_HYBRID, compute_s);
    real_put(o, "ideal_s", ideal_s(s));
    real_put(o, "total_s", hybrid);
    real_put(o, "efficiency", ideal_s(s) / hybrid);
    real_put(o, "tail_s", MEDIAN(s, BENCH_HYBRID, tail_s));
    real_put(o, "export_overhead", MEDIAN(s, BENCH_HYBRID, export_s) / compute);
    // How much longer the prefill node takes because it sends meanwhile.
    real_put(o, "streaming_cost", MEDIAN(s, BENCH_HYBRID, prefill_s) / alone - 1);
    real_put(o, "serial_s", MEDIAN(s, BENCH_SERIAL, total_s));
    json_put(o, "solo", solo_json(s));
    json_put(o, "output_identical", json_boolean(s->identical));
    return o;
}

// Every single measurement, so that nobody has to trust a median.
static json_t *samples_json(const struct bench_series *s)
{
    json_t *o = json_object();
    for (size_t plan = 0; plan < BENCH_PLANS; plan++) {
        json_t *list = json_array();
        for (size_t i = 0; i < s->runs; i++) {
            const struct bench_sample *x = &s->samples[plan][i];
            json_t *v = json_object();
            real_put(v, "total_s", x->total_s);
            real_put(v, "prefill_s", x->prefill_s);
            real_put(v, "decode_s", x->decode_s);
            real_put(v, "tail_s", x->tail_s);
            json_array_append_new(list, v);
        }
        json_put(o, bench_plan_name((enum bench_plan)plan), list);
    }
    return o;
}

// The timeline of the run that lies nearest the median.
static json_t *timeline_json(const struct bench_series *s)
{
    double median = MEDIAN(s, BENCH_HYBRID, total_s), best = INFINITY;
    json_t *timeline = NULL;
    for (size_t i = 0; i < s->runs; i++) {
        double away = fabs(s->samples[BENCH_HYBRID][i].total_s - median);
        if (away < best && s->timelines[i] != NULL) {
            best = away;
            timeline = s->timelines[i];
        }
    }
    return timeline != NULL ? json_incref(timeline) : json_array();
}

static json_t *machine_json(void)
{
    struct os_facts f;
    os_facts_get(&f);
    return os_facts_json(&f);
}

// A file's name says more than what it calls itself: the quantisation, and which copy it was.
static json_t *model_json(const struct bench_outcome *o)
{
    const char *path = o->options->model, *slash = path != NULL ? strrchr(path, '/') : NULL;
    if (path == NULL)
        return json_string(o->series->model);
    path = slash != NULL ? slash + 1 : path;
    size_t n = strlen(path);
    if (n > 5 && strcmp(path + n - 5, ".gguf") == 0)
        n -= 5;
    return json_stringn(path, n);
}

json_t *bench_result_json(const struct bench_outcome *o)
{
    const struct bench_series *s = o->series;
    double hybrid = MEDIAN(s, BENCH_HYBRID, total_s);
    json_t *r = json_object();
    json_put(r, "emulated", json_boolean(o->emulated));
    json_put(r, "model", model_json(o));
    json_put(r, "prompt_tokens", json_integer(o->options->prompt_tokens));
    json_put(r, "gen_tokens", json_integer(o->options->gen_tokens));
    json_put(r, "runs", json_integer((json_int_t)s->runs));
    real_put(r, "time_scale", o->time_scale);
    real_put(r, "link_ratio", o->emulated ? o->options->link_ratio : NAN);
    json_put(r, "overruns", json_integer((json_int_t)(s->overruns[0] + s->overruns[1])));
    real_put(r, "worst_ratio", s->worst_ratio);
    json_put(r, "solo", solo_json(s));
    json_put(r, "serial", line_json(s, BENCH_SERIAL));
    json_put(r, "hybrid", hybrid_json(o));
    real_put(r, "ideal_s", ideal_s(s));
    real_put(r, "efficiency", ideal_s(s) / hybrid);
    real_put(r, "serial_ratio", MEDIAN(s, BENCH_SERIAL, total_s) / hybrid);
    json_put(r, "speedup", speedup_json(s));
    json_put(r, "output_identical", json_boolean(s->identical));
    json_put(r, "unpaced", o->unpaced != NULL ? unpaced_json(o->unpaced) : json_null());
    json_put(r, "samples", samples_json(s));
    json_put(r, "timeline", timeline_json(s));
    json_put(r, "machine", machine_json());
    json_put(r, "nodes", s->nodes != NULL ? json_incref(s->nodes) : json_array());
    json_put(r, "version", json_string("tandem " TANDEM_VERSION));
    json_put(r, "unix_time", json_integer(clock_unix_s()));
    return r;
}

// ---- bounds -------------------------------------------------------------------------------------

int bench_require(const json_t *result, const char *bound, struct err *e)
{
    char path[128], *end;
    size_t n = strcspn(bound, "<>");
    if (bound[n] == '\0' || bound[n + 1] != '=' || n == 0 || n >= sizeof path)
        return err_set(e, ERR_INVALID, "bound \"%s\" is not PATH>=NUMBER or PATH<=NUMBER", bound);
    double limit = strtod(bound + n + 2, &end);
    if (end == bound + n + 2 || *end != '\0')
        return err_set(e, ERR_INVALID, "bound \"%s\" ends in no number", bound);
    snprintf(path, sizeof path, "%.*s", (int)n, bound);
    const json_t *v = result;
    for (char *at = path, *name; v != NULL && (name = strsep(&at, ".")) != NULL;)
        v = json_object_get(v, name);
    if (!json_is_number(v) && !json_is_boolean(v))
        return err_set(e, ERR_MISMATCH, "the result has no number or truth \"%.*s\"", (int)n,
                       bound);
    double value = json_is_boolean(v) ? json_boolean_value(v) : json_number_value(v);
    if (bound[n] == '>' ? value >= limit : value <= limit)
        return 0;
    return err_set(e, ERR_MISMATCH, "%.*s is %.6g, required %s", (int)n, bound, value, bound + n);
}

// ---- files and screen ---------------------------------------------------------------------------

static bool is_grid(const json_t *result)
{
    return json_object_get(result, "grid") != NULL;
}

static void tables_put(const json_t *result, const struct draw_style *style, struct buf *out)
{
    if (is_grid(result)) {
        bench_grid_text(result, out);
        return;
    }
    draw_table_text(result, style, out);
    buf_puts(out, "\nTimeline of a hybrid run\n");
    draw_timeline_text(result, style, out);
}

void bench_print(const json_t *result, bool json)
{
    struct draw_style style = {
        .utf8 = term_utf8(), .color = term_color(stdout), .width = term_width(stdout)};
    struct buf b;
    buf_init(&b, DRAW_MAX_BYTES);
    if (json) {
        char *text = json_line(result);
        printf("%s\n", text);
        free(text);
    } else {
        tables_put(result, &style, &b);
        fwrite(b.data, 1, b.len, stdout);
    }
    fflush(stdout);
    buf_fini(&b);
}

static int file_write(const char *path, struct buf *b, struct err *e)
{
    int rc = os_file_write(path, b->data, b->len, 0644, e);
    buf_fini(b);
    return rc;
}

int bench_svg_write(const json_t *result, const char *path, struct err *e)
{
    struct buf b;
    buf_init(&b, DRAW_MAX_BYTES);
    if (is_grid(result))
        bench_grid_svg(result, &b);
    else
        draw_svg(result, &b);
    return file_write(path, &b, e);
}

static void pretty_put(const json_t *result, struct buf *b)
{
    char *text = json_dumps(result, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    buf_puts(b, text);
    buf_puts(b, "\n");
    free(text);
}

int bench_json_write(const json_t *result, const char *path, struct err *e)
{
    struct buf b;
    buf_init(&b, DRAW_MAX_BYTES);
    pretty_put(result, &b);
    return file_write(path, &b, e);
}

// One line per node: where it ran, on what, with which weights and engine.
static void nodes_put(const json_t *nodes, struct buf *b)
{
    size_t i;
    const json_t *n;
    json_array_foreach(nodes, i, n)
    {
        static const char *const texts[] = {"name",    "role",  "system", "cpu",         "model",
                                            "weights", "build", "engine", "engine_build"};
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
            buf_printf(b, "%s%s", k > 0 ? ", " : "node: ", json_string_or(n, texts[k], "?"));
        buf_printf(b, ", %.0f cores, %.1f GB, context %.0f\n", draw_number(n, "cores"),
                   draw_number(n, "memory_bytes") / 1e9, draw_number(n, "n_ctx"));
    }
}

int bench_report_write(const json_t *result, const char *path, struct err *e)
{
    struct draw_style style = {.width = 100};
    struct os_facts f;
    struct buf b;
    os_facts_get(&f);
    buf_init(&b, DRAW_MAX_BYTES);
    buf_printf(&b, "tandem %s bench report\nunix time %lld\n%s, %s, %d cores, %.1f GB\n\n",
               TANDEM_VERSION, (long long)clock_unix_s(), f.system, f.cpu, f.cores,
               (double)f.memory_bytes / 1e9);
    nodes_put(json_object_get(result, "nodes"), &b);
    buf_puts(&b, "\n");
    tables_put(result, &style, &b);
    buf_puts(&b, "\nAll figures\n");
    pretty_put(result, &b);
    return file_write(path, &b, e);
}
