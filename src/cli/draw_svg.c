// The same picture as the terminal's, as SVG: the lines as stacked bars on one axis, the hybrid
// run's timeline on another, so that the overlap can be seen. No scripts, no fonts of its own.
#include "cli/draw.h"

#include "base/json.h"
#include "base/xml.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 960.0
#define PLOT_X 236.0
#define PLOT_W 640.0
#define ROW_H 28.0
#define BAR_H 18.0
#define LABEL_ROOM 1.26 // the axis of the lines is longer than the longest, for its label
#define PREFILL_COLOR "#0072B2"
#define TRANSFER_COLOR "#E69F00"
#define DECODE_COLOR "#009E73"
#define OTHER_COLOR "#BBBBBB"

struct box {
    double x, y, w, h;
};

static void rect_put(struct buf *out, struct box b, const char *fill, const char *tip)
{
    buf_printf(out, "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" fill=\"%s\">", b.x,
               b.y, fmax(b.w, 0.6), b.h, fill);
    buf_printf(out, "<title>%s</title></rect>\n", tip);
}

// class: "t" title, "s" small and grey, "l" label (ends at x), "v" value (begins at x), "a" axis
// (centred).
static void text_put(struct buf *out, double x, double y, const char *class, const char *text)
{
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    xml_text_put(out, text);
    buf_puts(out, "</text>\n");
}

static void vertical_put(struct buf *out, double x, double y0, double y1, const char *class)
{
    buf_printf(out, "<line x1=\"%.2f\" y1=\"%.1f\" x2=\"%.2f\" y2=\"%.1f\" class=\"%s\"/>\n", x, y0,
               x, y1, class);
}

static void axis_put(struct buf *out, double y0, double y1, double span)
{
    double tick = draw_tick(span, 9);
    char label[32];
    for (int i = 0; i * tick <= span * 1.0001; i++) {
        double x = PLOT_X + i * tick / span * PLOT_W;
        vertical_put(out, x, y0, y1, "g");
        snprintf(label, sizeof label, "%g", i * tick);
        text_put(out, x, y1 + 16, "a", label);
    }
    text_put(out, PLOT_X + PLOT_W + 30, y1 + 16, "v", "seconds");
}

static const char *name_of(const json_t *o)
{
    return json_string_or(o, "name", "?");
}

// ---- the lines ----------------------------------------------------------------------------------

// Prefill, what lies between, decode; seconds per pixel decide the widths.
static void stack_put(struct buf *out, const json_t *line, const char *between, double y,
                      double scale)
{
    double prefill = draw_number(line, "prefill_s"), decode = draw_number(line, "decode_s");
    double gap = fmax(draw_number(line, "total_s") - prefill - decode, 0);
    const double seconds[] = {prefill, gap, decode};
    const char *const colors[] = {PREFILL_COLOR, between, DECODE_COLOR};
    const char *const names[] = {
        "prefill", strcmp(between, OTHER_COLOR) == 0 ? "other" : "transfer", "decode"};
    double x = PLOT_X;
    for (size_t i = 0; i < 3; i++) {
        char tip[64];
        if (seconds[i] <= 0)
            continue;
        snprintf(tip, sizeof tip, "%s %.3f s", names[i], seconds[i]);
        rect_put(out, (struct box){x, y, seconds[i] * scale, BAR_H}, colors[i], tip);
        x += seconds[i] * scale;
    }
}

static void line_put(struct buf *out, const char *label, const json_t *line, double y, double scale,
                     double hybrid_s)
{
    char value[64];
    double total = draw_number(line, "total_s");
    bool hands_over = strcmp(label, "serial") == 0 || strcmp(label, "hybrid") == 0;
    text_put(out, PLOT_X - 10, y + 14, "l", label);
    stack_put(out, line, hands_over ? TRANSFER_COLOR : OTHER_COLOR, y, scale);
    if (strcmp(label, "hybrid") == 0)
        snprintf(value, sizeof value, "%.2f s", total);
    else
        snprintf(value, sizeof value, "%.2f s  (%.2f\xc3\x97 hybrid)", total, total / hybrid_s);
    text_put(out, PLOT_X + total * scale + 8, y + 14, "v", value);
}

static double longest_line(const json_t *r)
{
    size_t i;
    const json_t *solo;
    double longest = fmax(draw_number(r, "serial.total_s"), draw_number(r, "hybrid.total_s"));
    json_array_foreach(json_object_get(r, "solo"), i, solo) longest =
        fmax(longest, draw_number(solo, "total_s"));
    return longest;
}

static double lines_put(struct buf *out, const json_t *r, double y)
{
    size_t i;
    const json_t *solo;
    double span = longest_line(r) * LABEL_ROOM, top = y,
           hybrid_s = draw_number(r, "hybrid.total_s");
    double rows = (double)json_array_size(json_object_get(r, "solo")) + 2;
    double ideal_x = PLOT_X + draw_number(r, "ideal_s") / span * PLOT_W;
    axis_put(out, top - 4, top + rows * ROW_H, span);
    json_array_foreach(json_object_get(r, "solo"), i, solo)
    {
        char label[96];
        snprintf(label, sizeof label, "%s alone", name_of(solo));
        line_put(out, label, solo, y, PLOT_W / span, hybrid_s);
        y += ROW_H;
    }
    line_put(out, "serial", json_object_get(r, "serial"), y, PLOT_W / span, hybrid_s);
    line_put(out, "hybrid", json_object_get(r, "hybrid"), y + ROW_H, PLOT_W / span, hybrid_s);
    vertical_put(out, ideal_x, top - 6, top + rows * ROW_H, "d");
    text_put(out, ideal_x, top - 10, "a", "ideal");
    return top + rows * ROW_H + 24;
}

// ---- the timeline -------------------------------------------------------------------------------

static void entries_put(struct buf *out, const json_t *r, const struct draw_lane *lane, double y,
                        double scale)
{
    size_t i;
    const json_t *e;
    json_array_foreach(json_object_get(r, "timeline"), i, e)
    {
        const char *who = json_string_or(e, "who", "");
        const char *what = json_string_or(e, "what", "");
        if (strcmp(who, lane->who) != 0 || strcmp(what, lane->what) != 0)
            continue;
        double t0 = draw_number(e, "t0"), t1 = draw_number(e, "t1");
        char tip[128];
        snprintf(tip, sizeof tip, "%s [%.0f, %.0f): %.3f to %.3f s", lane->label,
                 draw_number(e, "p0"), draw_number(e, "p1"), t0, t1);
        // Half a pixel stays free at the end, so that neighbours can be told apart.
        rect_put(out, (struct box){PLOT_X + t0 * scale, y, (t1 - t0) * scale - 0.5, BAR_H},
                 lane->svg_color, tip);
    }
}

static double timeline_put(struct buf *out, const json_t *r, double y)
{
    double span = draw_timeline_end(r), top = y, rows = 0;
    if (span <= 0)
        return y;
    for (size_t l = 0; l < draw_lanes_n; l++)
        rows += draw_lane_entries(r, &draw_lanes[l]) > 0;
    axis_put(out, top - 4, top + rows * ROW_H, span);
    for (size_t l = 0; l < draw_lanes_n; l++) {
        const struct draw_lane *lane = &draw_lanes[l];
        const json_t *solo = json_object_get(r, "solo");
        char label[128];
        if (draw_lane_entries(r, lane) == 0)
            continue;
        snprintf(label, sizeof label, "%s: %s",
                 name_of(json_array_get(solo, strcmp(lane->who, "prefill") == 0 ? 0 : 1)),
                 lane->label);
        text_put(out, PLOT_X - 10, y + 14, "l", label);
        entries_put(out, r, lane, y, PLOT_W / span);
        y += ROW_H;
    }
    return top + rows * ROW_H + 24;
}

// ---- the page -----------------------------------------------------------------------------------

static void legend_put(struct buf *out, double y)
{
    static const struct {
        const char *color, *text;
    } items[] = {{PREFILL_COLOR, "prefill"}, {"#56B4E9", "export KV"}, {TRANSFER_COLOR, "transfer"},
                 {"#CC79A7", "import KV"},   {DECODE_COLOR, "decode"}, {OTHER_COLOR, "other"}};
    double x = PLOT_X;
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        rect_put(out, (struct box){x, y - 10, 12, 12}, items[i].color, items[i].text);
        text_put(out, x + 18, y, "v", items[i].text);
        x += 106;
    }
}

static void head_put(struct buf *out, const json_t *r)
{
    const json_t *solo = json_object_get(r, "solo");
    bool emulated = json_is_true(json_object_get(r, "emulated"));
    char text[512];
    snprintf(text, sizeof text, "%s + %s%s", name_of(json_array_get(solo, 0)),
             name_of(json_array_get(solo, 1)), emulated ? " (emulated)" : "");
    text_put(out, 24, 36, "t", text);
    snprintf(text, sizeof text, "%s, %.0f tokens in, %.0f out; hybrid efficiency %.3f, output %s",
             json_string_or(r, "model", "?"), draw_number(r, "prompt_tokens"),
             draw_number(r, "gen_tokens"), draw_number(r, "efficiency"),
             json_is_true(json_object_get(r, "output_identical")) ? "identical" : "different");
    text_put(out, 24, 58, "s", text);
    if (emulated) {
        snprintf(
            text, sizeof text,
            "real engine on one core a side, slowed to the machines' published rates divided by "
            "%.1f; KV time / prefill time = %.2f",
            draw_number(r, "time_scale"), draw_number(r, "link_ratio"));
        text_put(out, 24, 76, "s", text);
    }
}

static double height_of(const json_t *r)
{
    double rows = (double)json_array_size(json_object_get(r, "solo")) + 2, lanes = 0;
    for (size_t l = 0; l < draw_lanes_n; l++)
        lanes += draw_lane_entries(r, &draw_lanes[l]) > 0;
    return 116 + rows * ROW_H + 24 + (lanes > 0 ? 56 + lanes * ROW_H + 24 : 0) + 40;
}

void draw_svg(const json_t *result, struct buf *out)
{
    double h = height_of(result), y = 116;
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
               "height=\"%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\">\n"
               "<style>.t{font-size:20px;font-weight:bold}.h{font-weight:bold}.s{fill:#555}"
               ".l{text-anchor:end}.a{text-anchor:middle;fill:#555;font-size:12px}"
               ".g{stroke:#ddd}.d{stroke:#333;stroke-dasharray:4 3}"
               "</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
               WIDTH, h, WIDTH, h);
    head_put(out, result);
    y = lines_put(out, result, y);
    if (draw_timeline_end(result) > 0) {
        text_put(out, 24, y + 32, "h", "Timeline of a hybrid run");
        y = timeline_put(out, result, y + 56);
    }
    legend_put(out, y + 20);
    buf_puts(out, "</svg>\n");
}
