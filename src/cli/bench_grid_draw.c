// The table of a grid for people, and its picture: one row per cell, every plan where it came in
// against the best one, the chosen one ringed. Pure functions of the JSON.
#include "cli/bench_grid.h"

#include "base/json.h"
#include "base/xml.h"
#include "cli/draw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const enum bench_plan plans[] = {BENCH_LOCAL, BENCH_REMOTE, BENCH_SERIAL, BENCH_HYBRID};

static double plan_s(const json_t *cell, enum bench_plan plan)
{
    const json_t *p = json_object_get(json_object_get(cell, "plans"), bench_plan_name(plan));
    return draw_number(p, "total_s");
}

// "3.2 %", or a dash for what is not known.
static const char *percent_text(const json_t *o, const char *member, char out[16])
{
    const json_t *v = json_object_get(o, member);
    if (json_is_number(v))
        snprintf(out, 16, "%.1f %%", 100 * json_number_value(v));
    else
        snprintf(out, 16, "-");
    return out;
}

static void sums_put(const json_t *r, struct buf *out)
{
    char a[16], b[16], c[16], d[16];
    buf_printf(out, "regret: %s on average, %s at worst; ", percent_text(r, "regret_mean", a),
               percent_text(r, "regret_max", b));
    buf_printf(out, "prediction off by %s (%s on first requests)\n", percent_text(r, "mape", c),
               percent_text(r, "mape_first", d));
    buf_printf(out, "%.0f cells, hybrid is not the best in %.0f of them; %.0f s\n",
               draw_number(r, "n_cells"), draw_number(r, "hybrid_loses"),
               draw_number(r, "seconds"));
}

// ---- the table ----------------------------------------------------------------------------------

static void cell_text_put(const json_t *cell, struct buf *out)
{
    char regret[16], error[16];
    buf_printf(out, "  %-5s %-5s %6.0f %6.0f %-8s", json_string_or(cell, "engine", "?"),
               json_string_or(cell, "link", "?"), draw_number(cell, "prompt"),
               draw_number(cell, "gen"), json_string_or(cell, "held_by", "?"));
    for (size_t i = 0; i < BENCH_PLANS; i++)
        buf_printf(out, " %9.4f", plan_s(cell, plans[i]));
    buf_printf(out, "  %-7s %7s", json_string_or(cell, "chosen", "?"),
               percent_text(cell, "regret", regret));
    if (json_is_number(json_object_get(cell, "predicted_s")))
        buf_printf(out, " %9.4f", draw_number(cell, "predicted_s"));
    else
        buf_printf(out, " %9s", "-");
    buf_printf(out, " %7s\n", percent_text(cell, "error", error));
}

void bench_grid_text(const json_t *r, struct buf *out)
{
    size_t i;
    const json_t *cell;
    buf_printf(out, "EMULATED pair %s, %s: what each plan takes, what is chosen (seconds)\n",
               json_string_or(r, "pair", "?"), json_string_or(r, "model", "?"));
    buf_printf(out, "  %-5s %-5s %6s %6s %-8s %9s %9s %9s %9s  %-7s %7s %9s %7s\n", "", "link",
               "prompt", "answer", "held by", "local", "remote", "serial", "hybrid", "chosen",
               "regret", "predicted", "error");
    json_array_foreach(json_object_get(r, "cells"), i, cell) cell_text_put(cell, out);
    sums_put(r, out);
}

// ---- the picture --------------------------------------------------------------------------------

#define WIDTH 1000.0
#define PLOT_X 330.0
#define PLOT_W 430.0
#define HEAD_H 118.0
#define ROW_H 17.0
#define MOST 4.0 // times the best: what takes longer stands at the edge

// The Okabe-Ito palette; shapes as well, for those who see no colours.
static const struct {
    const char *color, *shape;
} marks[BENCH_PLANS] = {
    [BENCH_LOCAL] = {"#009E73", "M-5-5H5V5H-5Z"},
    [BENCH_REMOTE] = {"#0072B2", "M0-6L5.5 4.5H-5.5Z"},
    [BENCH_SERIAL] = {"#CC79A7", "M-5-5L5 5M-5 5L5-5"},
    [BENCH_HYBRID] = {"#E69F00", "M0-6L6 0L0 6L-6 0Z"},
};

static double x_of(double ratio)
{
    return PLOT_X + PLOT_W * log(fmin(fmax(ratio, 1), MOST)) / log(MOST);
}

static void mark_put(enum bench_plan plan, double x, double y, const char *tip, struct buf *out)
{
    buf_printf(out,
               "<path d=\"%s\" transform=\"translate(%.1f %.1f)\" fill=\"%s\" stroke=\"%s\" "
               "stroke-width=\"1.5\" fill-opacity=\"0.75\"><title>",
               marks[plan].shape, x, y, marks[plan].color, marks[plan].color);
    xml_text_put(out, tip);
    buf_puts(out, "</title></path>\n");
}

static void text_put(struct buf *out, double x, double y, const char *class, const char *text)
{
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    xml_text_put(out, text);
    buf_puts(out, "</text>\n");
}

static void cell_label_put(const json_t *cell, double y, struct buf *out)
{
    char label[160], regret[16], error[16];
    const char *held = json_string_or(cell, "held_by", "?");
    bool warm = json_is_true(json_object_get(cell, "warm"));
    snprintf(label, sizeof label, "%s%s: %.0f in, %.0f out%s%s",
             strcmp(json_string_or(cell, "engine", "?"), "real") == 0 ? "real, " : "",
             json_string_or(cell, "link", "?"), draw_number(cell, "prompt"),
             draw_number(cell, "gen"), warm ? ", held by " : "", warm ? held : "");
    text_put(out, PLOT_X - 14, y + 4, "l", label);
    snprintf(label, sizeof label, "%s, %s; off by %s", json_string_or(cell, "chosen", "?"),
             percent_text(cell, "regret", regret), percent_text(cell, "error", error));
    text_put(out, PLOT_X + PLOT_W + 14, y + 4, "v", label);
}

static void cell_put(const json_t *cell, double y, struct buf *out)
{
    double best = draw_number(cell, "best_s");
    cell_label_put(cell, y, out);
    for (size_t i = 0; i < BENCH_PLANS && best > 0; i++) {
        char tip[64];
        double seconds = plan_s(cell, plans[i]), x = x_of(seconds / best);
        bool chosen = strcmp(json_string_or(cell, "chosen", "?"), bench_plan_name(plans[i])) == 0;
        if (seconds <= 0)
            continue;
        snprintf(tip, sizeof tip, "%s %.4f s", bench_plan_name(plans[i]), seconds);
        mark_put(plans[i], x, y, tip, out);
        if (chosen)
            buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"8\" class=\"r\"/>\n", x, y);
    }
}

static void axis_put(double bottom, struct buf *out)
{
    static const double ticks[] = {1, 1.15, 1.5, 2, 3, MOST};
    for (size_t i = 0; i < sizeof ticks / sizeof *ticks; i++) {
        char label[24];
        double x = x_of(ticks[i]);
        snprintf(label, sizeof label, "%s%g\xc3\x97", ticks[i] >= MOST ? "\xe2\x89\xa5 " : "",
                 ticks[i]);
        buf_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"g\"/>\n", x,
                   HEAD_H - 12, x, bottom);
        text_put(out, x, HEAD_H - 18, "a", label);
    }
}

static void legend_put(double y, struct buf *out)
{
    double x = PLOT_X;
    for (size_t i = 0; i < BENCH_PLANS; i++) {
        mark_put(plans[i], x, y - 4, bench_plan_name(plans[i]), out);
        text_put(out, x + 12, y, "v", bench_plan_name(plans[i]));
        x += 84;
    }
    buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"8\" class=\"r\"/>\n", x + 8, y - 4);
    text_put(out, x + 22, y, "v", "chosen");
}

static void head_put(const json_t *r, struct buf *out)
{
    char text[256], a[16], b[16], c[16], d[16];
    snprintf(text, sizeof text, "%s (emulated): time against the best plan",
             json_string_or(r, "pair", "?"));
    text_put(out, 24, 34, "t", text);
    snprintf(text, sizeof text,
             "regret %s on average, %s at worst; predictions off by %s, %s on first requests",
             percent_text(r, "regret_mean", a), percent_text(r, "regret_max", b),
             percent_text(r, "mape", c), percent_text(r, "mape_first", d));
    text_put(out, 24, 56, "s", text);
    text_put(out, 24, 74, "s",
             "fake engine at a tenth of the catalogue's times, real processes, links and TLS; "
             "links as KV time / prefill time");
}

void bench_grid_svg(const json_t *r, struct buf *out)
{
    size_t i;
    const json_t *cell, *cells = json_object_get(r, "cells");
    double bottom = HEAD_H + ROW_H * (double)json_array_size(cells), h = bottom + 44;
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
               "height=\"%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n"
               "<style>.t{font-size:19px;font-weight:bold}.s{fill:#555}.l{text-anchor:end}"
               ".a{text-anchor:middle;fill:#555}.g{stroke:#ddd}"
               ".r{fill:none;stroke:#222;stroke-width:1.4}</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
               WIDTH, h, WIDTH, h);
    head_put(r, out);
    axis_put(bottom, out);
    json_array_foreach(cells, i, cell) cell_put(cell, HEAD_H + ROW_H * ((double)i + 0.5) - 4, out);
    legend_put(bottom + 26, out);
    buf_puts(out, "</svg>\n");
}
