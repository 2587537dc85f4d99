// The figures of the page: each a chart, and beside it a table of what it shows.
#include "plan/report_html.h"

#include "plan/report_svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BARS_MAX 12
#define POINTS_MAX 64
#define STRIPS_MAX 12
#define TABLE_ROWS 9

static void figure_begin(struct buf *out, const char *caption)
{
    buf_puts(out, "<figure><figcaption>");
    html_text(out, caption);
    buf_puts(out, "</figcaption>\n<div class=\"wide\">\n");
}

// Between the chart and its table.
static void figure_table(struct buf *out, const char *const *titles)
{
    buf_puts(out, "</div>\n<div class=\"wide\"><table><tr>");
    for (size_t i = 0; titles[i] != NULL; i++)
        buf_printf(out, "<th scope=\"col\">%s</th>", titles[i]);
    buf_puts(out, "</tr>\n");
}

static void figure_end(struct buf *out)
{
    buf_puts(out, "</table></div></figure>\n");
}

static void number_cell(struct buf *out, double x)
{
    char s[64];
    buf_printf(out, "<td>%s</td>", html_short(x, s));
}

static void name_cell(struct buf *out, const char *s)
{
    buf_puts(out, "<td>");
    html_text(out, s);
    buf_puts(out, "</td>");
}

// ---- where the time goes -------------------------------------------------------------------------------

static void bars_figure(struct buf *out, const char *caption, const struct plan_svg_bars *b)
{
    static const char *const titles[] = {"", "reads, s", "waits, s", "writes, s", "sum, s", NULL};
    figure_begin(out, caption);
    plan_svg_bars(b, out);
    figure_table(out, titles);
    for (size_t i = 0; i < b->n; i++) {
        const struct plan_svg_bar *bar = &b->bars[i];
        buf_puts(out, "<tr>");
        name_cell(out, bar->name);
        for (size_t k = 0; k < PLAN_SVG_PARTS; k++)
            number_cell(out, bar->parts[k]);
        number_cell(out, bar->parts[0] + bar->parts[1] + bar->parts[2]);
        buf_puts(out, "</tr>\n");
    }
    figure_end(out);
}

static struct plan_svg_bars bars_new(const char *id, const char *title,
                                     const struct plan_svg_bar *bars, size_t n)
{
    return (struct plan_svg_bars){
        .head = {id, title, "Stacked bars, one for each line of the table beside it."},
        .parts = {"reads the prompt", "waits for the link", "writes the answer"},
        .unit = "seconds",
        .bars = bars,
        .n = n};
}

void html_times_put(struct buf *out, const json_t *options)
{
    struct plan_svg_bar bars[BARS_MAX];
    size_t i, n = 0;
    const json_t *o;
    json_array_foreach(options, i, o)
    {
        const json_t *total = json_object_get(o, "total_s");
        if (n == BARS_MAX)
            break;
        bars[n++] = (struct plan_svg_bar){
            html_string(o, "name"),
            {html_number(o, "prefill_s"), html_number(o, "tail_s"), html_number(o, "decode_s")},
            html_number(total, "low"),
            html_number(total, "high")};
    }
    struct plan_svg_bars b = bars_new("times", "Time of an answer, by what it goes to", bars, n);
    bars_figure(out,
                "Seconds of one answer. The line across the end of a bar is the range in which "
                "four measurements in five lie; published figures have none.",
                &b);
}

static struct plan_svg_bar both_bar(const char *name, const json_t *b)
{
    const json_t *range = json_object_get(b, "total_range_s");
    return (struct plan_svg_bar){
        name,
        {html_number(b, "prefill_s"), html_number(b, "tail_s"), html_number(b, "decode_s")},
        html_number(range, "low"),
        html_number(range, "high")};
}

void html_pair_times_put(struct buf *out, const json_t *pair)
{
    struct plan_svg_bar bars[4];
    size_t i, n = 0;
    const json_t *s;
    bool published = strcmp(html_string(pair, "engine"), "published") == 0;
    char caption[500];
    json_array_foreach(json_object_get(pair, "solo"), i, s)
    {
        if (!json_is_true(json_object_get(s, "fits")) || n == 2)
            continue;
        const json_t *range = json_object_get(s, "total_range_s");
        bars[n++] =
            (struct plan_svg_bar){html_string(s, "name"),
                                  {html_number(s, "prefill_s"), 0, html_number(s, "decode_s")},
                                  html_number(range, "low"),
                                  html_number(range, "high")};
    }
    if (json_is_object(json_object_get(pair, "hybrid"))) {
        bars[n++] = both_bar("both, one after the other", json_object_get(pair, "serial"));
        bars[n++] = both_bar("both, overlapped", json_object_get(pair, "hybrid"));
    }
    struct plan_svg_bars b = bars_new(published ? "pair-published" : "pair-predicted",
                                      "Each machine alone, and both together", bars, n);
    double gain = html_number(json_object_get(pair, "speedup"), "over_best");
    const json_t *range = json_object_get(json_object_get(pair, "speedup"), "over_best_range");
    int used = snprintf(caption, sizeof caption, "%s: ",
                        published ? "With published rates (somebody's single run, not llama.cpp)"
                                  : "Predicted for llama.cpp");
    if (!isfinite(gain))
        snprintf(caption + used, sizeof caption - (size_t)used, "it does not fit into both.");
    else if (isfinite(html_number(range, "low")))
        snprintf(caption + used, sizeof caption - (size_t)used,
                 "both together are %.2f (%.2f to %.2f) times as fast as the better one alone.",
                 gain, html_number(range, "low"), html_number(range, "high"));
    else
        snprintf(caption + used, sizeof caption - (size_t)used,
                 "both together are %.2f times as fast as the better one alone.", gain);
    bars_figure(out, caption, &b);
}

// ---- what money buys -----------------------------------------------------------------------------------

struct extent {
    double low, high;
};

static void extent_add(struct extent *e, double x)
{
    e->low = fmin(e->low, x);
    e->high = fmax(e->high, x);
}

// A logarithmic axis around what there is, at least a factor of four.
static struct plan_svg_axis axis_around(const char *title, struct extent e)
{
    double middle = sqrt(e.low * e.high), factor = fmax(sqrt(e.high / e.low) * 1.15, 2);
    return (struct plan_svg_axis){title, middle / factor, middle * factor, true, false};
}

// What a point's height is: an answer, or an hour's work where that is more than answers.
static const char *height_member(const json_t *document)
{
    const json_t *q = json_object_get(document, "question");
    bool tasks = html_number(q, "train_share") > 0 || html_number(q, "images_per_hour") > 0;
    return tasks ? "work_s_per_hour" : "answer_s";
}

static void frontier_table(struct buf *out, const json_t *points, const char *height)
{
    const char *titles[] = {"on the line", "#", "$ a year",
                            height[0] == 'a' ? "an answer, s" : "an hour's work, s", NULL};
    size_t i;
    const json_t *p;
    figure_table(out, titles);
    json_array_foreach(points, i, p)
    {
        if (!json_is_true(json_object_get(p, "frontier")))
            continue;
        buf_puts(out, "<tr>");
        name_cell(out, html_string(p, "name"));
        buf_printf(out, "<td>%.0f</td>", html_number(p, "rank"));
        number_cell(out, html_number(p, "usd_per_year"));
        number_cell(out, html_number(p, height));
        buf_puts(out, "</tr>\n");
    }
    figure_end(out);
}

void html_frontier_put(struct buf *out, const json_t *document)
{
    const json_t *points = json_object_get(document, "points"), *p;
    const char *height = height_member(document);
    size_t i, n = 0, all = json_array_size(points);
    struct plan_svg_dot *dots = mem_alloc((all + 1) * sizeof *dots);
    char(*labels)[16] = mem_alloc((all + 1) * sizeof *labels);
    struct extent x = {INFINITY, 0}, y = {INFINITY, 0};
    json_array_foreach(points, i, p)
    {
        bool full = json_is_true(json_object_get(p, "frontier"));
        double usd = html_number(p, "usd_per_year"), s = html_number(p, height);
        if (!(usd > 0) || !(s > 0))
            continue;
        extent_add(&x, usd);
        extent_add(&y, s);
        if (full)
            snprintf(labels[n], sizeof *labels, "%.0f", html_number(p, "rank"));
        dots[n] = (struct plan_svg_dot){html_string(p, "name"),
                                        labels[n],
                                        usd,
                                        s,
                                        json_is_true(json_object_get(p, "pair")),
                                        full};
        n++;
    }
    if (n > 0) {
        struct plan_svg_dots d = {
            .head = {"frontier", "Time against the cost of a year",
                     "Dots, one for each machine or pair; a line joins those that nothing cheaper "
                     "outdoes, which the table lists."},
            .x = axis_around("dollars a year, electricity included", x),
            .y = axis_around(
                height[0] == 'a' ? "seconds of an answer" : "seconds of an hour's work", y),
            .dots = dots,
            .n = n};
        figure_begin(out, "Everything within the limits: down is faster, left is cheaper. The "
                          "numbers are those of the table above.");
        plan_svg_dots(&d, out);
        frontier_table(out, points, height);
    }
    free(labels);
    free(dots);
}

// ---- curves --------------------------------------------------------------------------------------------

struct series {
    double x[POINTS_MAX], reader[POINTS_MAX], writer[POINTS_MAX], gain[POINTS_MAX];
    double low[POINTS_MAX], high[POINTS_MAX];
    size_t n;
    double most;
};

static void series_read(struct series *s, const json_t *points)
{
    size_t i;
    const json_t *p;
    *s = (struct series){.most = 1};
    json_array_foreach(points, i, p)
    {
        if (s->n == POINTS_MAX)
            break;
        s->x[s->n] = html_number(p, "x");
        s->reader[s->n] = html_number(p, "over_reader");
        s->writer[s->n] = html_number(p, "over_writer");
        s->gain[s->n] = html_number(p, "gain");
        s->low[s->n] = html_number(p, "low");
        s->high[s->n] = html_number(p, "high");
        s->most = fmax(s->most, fmax(s->reader[s->n], s->writer[s->n]));
        if (isfinite(s->high[s->n]))
            s->most = fmax(s->most, s->high[s->n]);
        s->n++;
    }
}

static const struct curve {
    const char *member, *title, *axis, *caption, *column;
    bool log, percent;
    const char *asked; // the member of the question that is marked; NULL: none
} curves[] = {
    {"answer", "Gain against the length of the answer", "tokens of the answer",
     "Long answers: the more there is to write, the less the fast reader helps.", "tokens", true,
     false, "gen_tokens"},
    {"prompt", "Gain against the length of the prompt", "tokens of the prompt",
     "Short prompts: what is read in no time needs no second machine.", "tokens", true, false,
     "prompt_tokens"},
    {"link", "Gain against the rate of the link", "Gbit/s of the link",
     "Slow links: the cache crosses while the prompt is read; where it takes longer than that, "
     "it is waited for.",
     "Gbit/s", true, false, NULL},
    {"warm", "Gain against the share of the prompt that is known",
     "share of the prompt that both caches hold",
     "Warm prefixes: in a long conversation most of the prompt is in the cache already.", "share",
     false, true, "warm_share"},
};

static void curve_table(struct buf *out, const struct curve *c, const struct series *s)
{
    const char *titles[] = {c->column, "over the reader", "over the writer", "over the better",
                            NULL};
    size_t step = s->n > TABLE_ROWS ? (s->n - 1) / (TABLE_ROWS - 1) : 1;
    figure_table(out, titles);
    for (size_t i = 0; i<s->n; i += step> 0 ? step : 1) {
        buf_puts(out, "<tr>");
        if (c->percent)
            buf_printf(out, "<td>%.0f %%</td>", 100 * s->x[i]);
        else
            buf_printf(out, s->x[i] == floor(s->x[i]) ? "<td>%.0f</td>" : "<td>%.3g</td>", s->x[i]);
        number_cell(out, s->reader[i]);
        number_cell(out, s->writer[i]);
        buf_printf(out, "<td>%.2f", s->gain[i]);
        if (isfinite(s->low[i]))
            buf_printf(out, " <span class=\"soft\">(%.2f–%.2f)</span>", s->low[i], s->high[i]);
        buf_puts(out, "</td></tr>\n");
    }
    figure_end(out);
}

static void curve_put(struct buf *out, const struct curve *c, const json_t *all,
                      const json_t *asked)
{
    struct series *s = mem_alloc(sizeof *s);
    char reader[200], writer[200];
    series_read(s, json_object_get(all, c->member));
    snprintf(reader, sizeof reader, "over %s alone", html_string(all, "reads"));
    snprintf(writer, sizeof writer, "over %s alone", html_string(all, "writes"));
    const struct plan_svg_line lines[] = {
        {"over the better of them", s->x, s->gain, s->low, s->high, s->n, 0},
        {reader, s->x, s->reader, NULL, NULL, s->n, 1},
        {writer, s->x, s->writer, NULL, NULL, s->n, 2},
    };
    struct plan_svg_chart chart = {
        .head = {c->member, c->title, "Lines; the table beside them has their figures."},
        .x = {c->axis, s->n > 0 ? s->x[0] : 0, s->n > 0 ? s->x[s->n - 1] : 1, c->log, c->percent},
        .y = {"times as fast", 0, ceil(s->most * 2 + 0.2) / 2, false, false},
        .lines = lines,
        .n = 3,
        .rule_y = 1,
        .rule = "no gain",
        .mark_x = c->asked != NULL ? html_number(asked, c->asked) : NAN,
        .mark = "as asked"};
    if (s->n > 1) {
        if (!(chart.mark_x > chart.x.low && chart.mark_x <= chart.x.high))
            chart.mark_x = NAN;
        figure_begin(out, c->caption);
        plan_svg_lines(&chart, out);
        curve_table(out, c, s);
    }
    free(s);
}

void html_curves_put(struct buf *out, const json_t *all, const json_t *asked)
{
    bool published = strcmp(html_string(all, "engine"), "published") == 0;
    buf_puts(out, "<p>How many times as fast both are as one alone, ");
    buf_puts(out, published ? "with published rates, which have no range.</p>\n"
                            : "predicted for llama.cpp; the band is the range of four "
                              "measurements in five. Below one, the better machine answers "
                              "alone.</p>\n");
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++)
        curve_put(out, &curves[i], all, asked);
}

// ---- over time -----------------------------------------------------------------------------------------

static void strip_row(struct buf *out, const struct plan_svg_strip *s)
{
    double sum = 0, most = 0, n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (isfinite(s->values[i])) {
            sum += s->values[i];
            most = fmax(most, s->values[i]);
            n++;
        }
    bool share = strcmp(s->unit, "share") == 0;
    buf_puts(out, "<tr>");
    name_cell(out, s->name);
    if (share)
        buf_printf(out, "<td>%.0f %%</td><td>%.0f %%</td></tr>\n", n > 0 ? 100 * sum / n : 0,
                   100 * most);
    else
        buf_printf(out, "<td>%.4g %s</td><td>%.4g</td></tr>\n", n > 0 ? sum / n : 0, s->unit, most);
}

void html_timeline_put(struct buf *out, const json_t *timeline)
{
    static const char *const titles[] = {"", "mean", "most", NULL};
    struct plan_svg_strip strips[STRIPS_MAX];
    double *values[STRIPS_MAX];
    const json_t *s, *v;
    size_t i, k, n = 0;
    json_array_foreach(json_object_get(timeline, "series"), i, s)
    {
        const json_t *list = json_object_get(s, "values");
        if (n == STRIPS_MAX)
            break;
        values[n] = mem_alloc((json_array_size(list) + 1) * sizeof **values);
        json_array_foreach(list, k, v) values[n][k] =
            json_is_number(v) ? json_number_value(v) : NAN;
        strips[n] =
            (struct plan_svg_strip){html_string(s, "name"), html_string(s, "unit"), values[n],
                                    json_array_size(list), html_number(s, "step_s")};
        n++;
    }
    struct plan_svg_head head = {"timeline", html_string(timeline, "title"),
                                 "One strip for each series of the table beside it, over time."};
    figure_begin(out, html_string(timeline, "title"));
    plan_svg_strips(&head, strips, n, out);
    figure_table(out, titles);
    for (i = 0; i < n; i++)
        strip_row(out, &strips[i]);
    figure_end(out);
    for (i = 0; i < n; i++)
        free(values[i]);
}
