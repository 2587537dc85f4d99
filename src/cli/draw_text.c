// The terminal's picture: a table, and one line of cells per lane.
#include "base/json.h"
#include "cli/draw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const struct draw_lane draw_lanes[] = {
    {"prefill", "compute", "prefill", "#0072B2", 34},
    {"prefill", "export", "export", "#56B4E9", 36},
    {"prefill", "send", "send KV", "#E69F00", 33},
    {"decode", "compute", "prefill", "#0072B2", 34},
    {"decode", "import", "import KV", "#CC79A7", 35},
    {"decode", "decode", "decode", "#009E73", 32},
};
const size_t draw_lanes_n = sizeof draw_lanes / sizeof *draw_lanes;

double draw_number(const json_t *object, const char *path)
{
    char member[64];
    while (object != NULL && strchr(path, '.') != NULL) {
        size_t n = strcspn(path, ".");
        snprintf(member, sizeof member, "%.*s", (int)n, path);
        object = json_object_get(object, member);
        path += n + 1;
    }
    return json_number_value(json_object_get(object, path));
}

static bool entry_is(const json_t *entry, const struct draw_lane *lane)
{
    const char *who = json_string_value(json_object_get(entry, "who"));
    const char *what = json_string_value(json_object_get(entry, "what"));
    return who != NULL && what != NULL && strcmp(who, lane->who) == 0 &&
           strcmp(what, lane->what) == 0;
}

size_t draw_lane_entries(const json_t *result, const struct draw_lane *lane)
{
    size_t i, n = 0;
    const json_t *entry;
    json_array_foreach(json_object_get(result, "timeline"), i, entry) n += entry_is(entry, lane);
    return n;
}

double draw_timeline_end(const json_t *result)
{
    size_t i;
    const json_t *entry;
    double end = 0;
    json_array_foreach(json_object_get(result, "timeline"), i, entry) end =
        fmax(end, draw_number(entry, "t1"));
    return end;
}

double draw_tick(double span, int most)
{
    static const double steps[] = {1, 2, 5};
    if (!(span > 0))
        return 1;
    double power = pow(10, floor(log10(span)) - 1);
    for (;; power *= 10)
        for (size_t i = 0; i < 3; i++)
            if (span / (steps[i] * power) <= most)
                return steps[i] * power;
}

static void color_on(const struct draw_style *s, int color, struct buf *out)
{
    if (s->color)
        buf_printf(out, "\033[%dm", color);
}

static void color_off(const struct draw_style *s, struct buf *out)
{
    if (s->color)
        buf_puts(out, "\033[0m");
}

// ---- the table ----------------------------------------------------------------------------------

static void seconds_put(struct buf *out, const json_t *line, const char *member)
{
    if (json_is_number(json_object_get(line, member)))
        buf_printf(out, " %8.2f s", draw_number(line, member));
    else
        buf_printf(out, " %10s", "");
}

static void line_put(const struct draw_style *s, const char *name, const json_t *line,
                     double hybrid_s, struct buf *out)
{
    double total = draw_number(line, "total_s");
    bool is_hybrid = strcmp(name, "hybrid") == 0;
    if (is_hybrid)
        color_on(s, 1, out);
    buf_printf(out, "  %-28.28s", name);
    seconds_put(out, line, "prefill_s");
    seconds_put(out, line, "decode_s");
    seconds_put(out, line, "total_s");
    if (!is_hybrid && hybrid_s > 0)
        buf_printf(out, "   %5.2fx", total / hybrid_s);
    if (is_hybrid)
        color_off(s, out);
    buf_puts(out, "\n");
}

static void head_put(const json_t *r, struct buf *out)
{
    bool emulated = json_is_true(json_object_get(r, "emulated"));
    buf_printf(out, "%s: %s, %.0f tokens in, %.0f out, median of %.0f\n",
               emulated ? "EMULATED pair" : "measured", json_string_or(r, "model", "?"),
               draw_number(r, "prompt_tokens"), draw_number(r, "gen_tokens"),
               fmax(draw_number(r, "runs"), 1));
    if (emulated)
        buf_printf(out,
                   "real engine, real processes, real TLS; the machines' published rates divided "
                   "by %.1f,\nKV time / prefill time = %.2f\n",
                   draw_number(r, "time_scale"), draw_number(r, "link_ratio"));
}

static void unpaced_put(const json_t *r, struct buf *out)
{
    const json_t *u = json_object_get(r, "unpaced");
    if (!json_is_object(u))
        return;
    buf_printf(out,
               "unpaced (native speed, unshaped link): hybrid %.2f s, ideal %.2f s, efficiency "
               "%.3f,\n  tail %.1f ms, export %.2f %% and streaming %+.2f %% of the prefill node's "
               "time\n",
               draw_number(u, "total_s"), draw_number(u, "ideal_s"), draw_number(u, "efficiency"),
               draw_number(u, "tail_s") * 1e3, draw_number(u, "export_overhead") * 100,
               draw_number(u, "streaming_cost") * 100);
}

static void verdict_put(const json_t *r, struct buf *out)
{
    const json_t *same = json_object_get(r, "output_identical");
    buf_printf(out,
               "efficiency %.3f (ideal / hybrid), tail %.1f ms, %.1f MB of KV, overruns %.0f, ",
               draw_number(r, "efficiency"), draw_number(r, "hybrid.tail_s") * 1e3,
               draw_number(r, "hybrid.kv_bytes") / 1e6, draw_number(r, "overruns"));
    buf_printf(out, "output %s\n", json_is_true(same) ? "identical" : "DIFFERENT");
}

void draw_table_text(const json_t *result, const struct draw_style *style, struct buf *out)
{
    double hybrid_s = draw_number(result, "hybrid.total_s");
    size_t i;
    const json_t *solo;
    json_t *ideal = json_pack("{s:f}", "total_s", draw_number(result, "ideal_s"));
    head_put(result, out);
    buf_printf(out, "\n  %-28s %10s %10s %10s   %s\n", "", "prefill", "decode", "total",
               "vs hybrid");
    json_array_foreach(json_object_get(result, "solo"), i, solo)
    {
        char name[96];
        snprintf(name, sizeof name, "%s alone", json_string_or(solo, "name", "?"));
        line_put(style, name, solo, hybrid_s, out);
    }
    line_put(style, "serial (no overlap)", json_object_get(result, "serial"), hybrid_s, out);
    line_put(style, "hybrid", json_object_get(result, "hybrid"), hybrid_s, out);
    line_put(style, "ideal", ideal, hybrid_s, out);
    buf_puts(out, "\n");
    verdict_put(result, out);
    unpaced_put(result, out);
    json_decref(ideal);
}

// ---- the timeline -------------------------------------------------------------------------------

#define CELLS_MAX 200
#define LABEL_CELLS 30

// How much of each cell the lane's entries cover.
static void lane_cover(const json_t *result, const struct draw_lane *lane, double cell_s, int cells,
                       double cover[CELLS_MAX])
{
    size_t i;
    const json_t *entry;
    memset(cover, 0, CELLS_MAX * sizeof *cover);
    json_array_foreach(json_object_get(result, "timeline"), i, entry)
    {
        if (!entry_is(entry, lane))
            continue;
        double t0 = draw_number(entry, "t0"), t1 = draw_number(entry, "t1");
        for (int c = (int)fmax(t0 / cell_s, 0); c < cells && c * cell_s < t1; c++) {
            double from = fmax(t0, c * cell_s), to = fmin(t1, (c + 1) * cell_s);
            cover[c] += fmax(to - from, 0) / cell_s;
        }
    }
}

static const char *cell_text(double cover, bool utf8)
{
    if (cover <= 0)
        return " ";
    if (cover >= 0.6)
        return utf8 ? "\xe2\x96\x88" : "#";                                          // full block
    return cover >= 0.2 ? utf8 ? "\xe2\x96\x92" : "+" : utf8 ? "\xe2\x96\x91" : "-"; // shades
}

static const char *machine_name(const json_t *result, const char *who)
{
    size_t i = strcmp(who, "prefill") == 0 ? 0 : 1;
    return json_string_or(json_array_get(json_object_get(result, "solo"), i), "name", who);
}

static void axis_put(double end, int cells, struct buf *out)
{
    double tick = draw_tick(end, cells / 7);
    int at = 0;
    buf_printf(out, "  %*s", LABEL_CELLS, "");
    for (int i = 0; i * tick <= end; i++) {
        char label[32];
        int column = (int)(i * tick / end * cells);
        int n = snprintf(label, sizeof label, i == 0 ? "0 s" : "%g", i * tick);
        if (column + n > cells)
            break;
        buf_printf(out, "%*s%s", column - at, "", label);
        at = column + n;
    }
    buf_puts(out, "\n");
}

void draw_timeline_text(const json_t *result, const struct draw_style *style, struct buf *out)
{
    double end = draw_timeline_end(result), cover[CELLS_MAX];
    int cells = style->width - LABEL_CELLS - 3;
    if (end <= 0)
        return;
    cells = cells < 20 ? 20 : cells > CELLS_MAX ? CELLS_MAX : cells;
    const char *before = "";
    for (size_t l = 0; l < draw_lanes_n; l++) {
        const struct draw_lane *lane = &draw_lanes[l];
        if (draw_lane_entries(result, lane) == 0)
            continue;
        const char *machine = machine_name(result, lane->who);
        buf_printf(out, "  %-19.19s %-10s", strcmp(machine, before) == 0 ? "" : machine,
                   lane->label);
        before = machine;
        lane_cover(result, lane, end / cells, cells, cover);
        color_on(style, lane->ansi_color, out);
        for (int c = 0; c < cells; c++)
            buf_puts(out, cell_text(cover[c], style->utf8));
        color_off(style, out);
        buf_puts(out, "\n");
    }
    axis_put(end, cells, out);
}
