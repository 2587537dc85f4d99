#include "plan/report_svg.h"

#include "base/xml.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 680.0
#define LEFT 64.0
#define RIGHT 20.0
#define TOP 18.0
#define PLOT_H 250.0
#define BOTTOM 74.0 // ticks, the axis' title, the legend
#define ROW_H 40.0
#define BAR_H 14.0
#define STRIP_H 78.0
#define TICKS 7
#define LETTER_W 7.2 // of the small text, on average

struct scale {
    double low, high, from, to; // from and to in pixels
    bool log;
};

static double place(const struct scale *s, double v)
{
    double t = s->log ? log(fmax(v, s->low) / s->low) / log(s->high / s->low)
                      : (v - s->low) / (s->high - s->low);
    return s->from + fmin(fmax(t, 0), 1) * (s->to - s->from);
}

static void head_put(struct buf *out, const struct plan_svg_head *h, double height)
{
    buf_printf(out,
               "<svg class=\"chart\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
               "aria-labelledby=\"%s-t %s-d\">\n<title id=\"%s-t\">",
               WIDTH, height, h->id, h->id, h->id);
    xml_text_put(out, h->title);
    buf_printf(out, "</title>\n<desc id=\"%s-d\">", h->id);
    xml_text_put(out, h->about);
    buf_puts(out, "</desc>\n");
}

struct label {
    double x, y;
    const char *class; // "t" tick, "s" start, "e" end, "m" middle
};

static void text_put(struct buf *out, struct label at, const char *s)
{
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", at.x, at.y, at.class);
    xml_text_put(out, s);
    buf_puts(out, "</text>\n");
}

static void segment_put(struct buf *out, const double at[4], const char *class)
{
    buf_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", at[0],
               at[1], at[2], at[3], class);
}

// ---- axes ----------------------------------------------------------------------------------------------

static double nice_step(double span, int most)
{
    double ten = pow(10, floor(log10(span / most)));
    static const double steps[] = {1, 2, 5, 10};
    for (size_t i = 0; i < 4; i++)
        if (steps[i] * ten * most >= span)
            return steps[i] * ten;
    return 10 * ten;
}

// The values at which an axis is marked; returns how many.
static size_t ticks_get(const struct plan_svg_axis *a, double out[32])
{
    size_t n = 0;
    if (!a->log) {
        double step = nice_step(a->high - a->low, TICKS);
        double first = ceil(a->low / step - 1e-9) * step;
        for (int i = 0; i < 32 && first + i * step <= a->high + step * 1e-6; i++)
            out[n++] = first + i * step;
        return n;
    }
    double decades = log10(a->high / a->low);
    static const double few[] = {1}, some[] = {1, 3}, more[] = {1, 2, 5};
    static const double many[] = {1, 1.5, 2, 3, 4, 5, 7};
    const double *in = decades > 4 ? few : decades > 2.5 ? some : decades > 1 ? more : many;
    size_t k = decades > 4 ? 1 : decades > 2.5 ? 2 : decades > 1 ? 3 : 7;
    int from = (int)floor(log10(a->low)), to = (int)floor(log10(a->high * 1.0001));
    for (int power = from; power <= to; power++)
        for (size_t i = 0; i < k && n < 32; i++)
            if (pow(10, power) * in[i] >= a->low * 0.9999 &&
                pow(10, power) * in[i] <= a->high * 1.0001)
                out[n++] = pow(10, power) * in[i];
    return n;
}

static const char *tick_text(const struct plan_svg_axis *a, double v, char out[32])
{
    if (a->percent)
        snprintf(out, 32, "%.0f %%", fabs(v) < 1e-9 ? 0 : 100 * v);
    else if (fabs(v) >= 10000)
        snprintf(out, 32, "%gk", v / 1000);
    else
        snprintf(out, 32, "%.6g", fabs(v) < 1e-9 ? 0 : v);
    return out;
}

static void axis_x_put(struct buf *out, const struct plan_svg_axis *a, const struct scale *x,
                       const double y[2])
{
    double at[32];
    char s[32];
    size_t n = ticks_get(a, at);
    for (size_t i = 0; i < n; i++) {
        double px = place(x, at[i]);
        segment_put(out, (double[4]){px, y[0], px, y[1]}, "g");
        text_put(out, (struct label){px, y[1] + 17, "t m"}, tick_text(a, at[i], s));
    }
    text_put(out, (struct label){(x->from + x->to) / 2, y[1] + 37, "t m"}, a->title);
}

static void axis_y_put(struct buf *out, const struct plan_svg_axis *a, const struct scale *y)
{
    double at[32];
    char s[32];
    size_t n = ticks_get(a, at);
    for (size_t i = 0; i < n; i++) {
        double py = place(y, at[i]);
        segment_put(out, (double[4]){LEFT, py, WIDTH - RIGHT, py}, "g");
        text_put(out, (struct label){LEFT - 8, py + 4, "t e"}, tick_text(a, at[i], s));
    }
    buf_printf(out, "<text transform=\"translate(15 %.1f) rotate(-90)\" class=\"t m\">",
               (y->from + y->to) / 2);
    xml_text_put(out, a->title);
    buf_puts(out, "</text>\n");
}

static struct scale scale_x(const struct plan_svg_axis *a)
{
    return (struct scale){a->low, a->high, LEFT, WIDTH - RIGHT, a->log};
}
static struct scale scale_y(const struct plan_svg_axis *a)
{
    return (struct scale){a->low, a->high, TOP + PLOT_H, TOP, a->log};
}

// ---- lines ---------------------------------------------------------------------------------------------

static void marker_put(struct buf *out, int style, double x, double y)
{
    switch (style) {
    case 0:
        buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" class=\"f0\"/>\n", x, y);
        break;
    case 1:
        buf_printf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"7\" height=\"7\" class=\"f1\"/>\n",
                   x - 3.5, y - 3.5);
        break;
    case 2:
        buf_printf(out, "<path d=\"M%.1f %.1fl4.5 8h-9z\" class=\"f2\"/>\n", x, y - 5);
        break;
    default:
        buf_printf(out, "<path d=\"M%.1f %.1fl5 5l-5 5l-5-5z\" class=\"f3\"/>\n", x, y - 5);
    }
}

static void band_put(struct buf *out, const struct plan_svg_line *l, const struct scale *x,
                     const struct scale *y)
{
    bool any = false;
    for (size_t i = 0; l->low != NULL && i < l->n; i++)
        any = any || isfinite(l->low[i]);
    if (!any)
        return;
    buf_printf(out, "<path class=\"b%d\" d=\"", l->style);
    for (size_t i = 0; i < l->n; i++)
        buf_printf(out, "%c%.1f %.1f", i == 0 ? 'M' : 'L', place(x, l->x[i]), place(y, l->high[i]));
    for (size_t i = l->n; i > 0; i--)
        buf_printf(out, "L%.1f %.1f", place(x, l->x[i - 1]), place(y, l->low[i - 1]));
    buf_puts(out, "z\"/>\n");
}

static void line_put(struct buf *out, const struct plan_svg_line *l, const struct scale *x,
                     const struct scale *y)
{
    buf_printf(out, "<path class=\"l c%d\" d=\"", l->style);
    for (size_t i = 0; i < l->n; i++)
        buf_printf(out, "%c%.1f %.1f", i == 0 ? 'M' : 'L', place(x, l->x[i]), place(y, l->y[i]));
    buf_puts(out, "\"/>\n");
    for (size_t i = 0; i<l->n; i += l->n> 8 ? l->n / 8 : 1)
        marker_put(out, l->style, place(x, l->x[i]), place(y, l->y[i]));
}

static void legend_put(struct buf *out, const struct plan_svg_chart *c, double y)
{
    double x = LEFT;
    for (size_t i = 0; i < c->n; i++) {
        double w = 46 + LETTER_W * (double)strlen(c->lines[i].name);
        if (i > 0 && x + w > WIDTH) {
            x = LEFT;
            y += 19;
        }
        buf_printf(out, "<path class=\"l c%d\" d=\"M%.1f %.1fh28\"/>\n", c->lines[i].style, x,
                   y - 4);
        marker_put(out, c->lines[i].style, x + 14, y - 4);
        text_put(out, (struct label){x + 34, y, "t"}, c->lines[i].name);
        x += w + 10;
    }
}

void plan_svg_lines(const struct plan_svg_chart *c, struct buf *out)
{
    struct scale x = scale_x(&c->x), y = scale_y(&c->y);
    const double ends[2] = {TOP, TOP + PLOT_H};
    head_put(out, &c->head, TOP + PLOT_H + BOTTOM + 20);
    axis_y_put(out, &c->y, &y);
    axis_x_put(out, &c->x, &x, ends);
    if (isfinite(c->rule_y)) {
        double py = place(&y, c->rule_y);
        segment_put(out, (double[4]){LEFT, py, WIDTH - RIGHT, py}, "r");
        text_put(out, (struct label){WIDTH - RIGHT - 4, py + 15, "t e"}, c->rule);
    }
    if (isfinite(c->mark_x)) {
        double px = place(&x, c->mark_x);
        bool right = px > WIDTH * 0.6;
        segment_put(out, (double[4]){px, ends[0], px, ends[1]}, "k");
        text_put(out, (struct label){px + (right ? -6 : 6), TOP + 11, right ? "t e" : "t"},
                 c->mark);
    }
    for (size_t i = 0; i < c->n; i++)
        band_put(out, &c->lines[i], &x, &y);
    for (size_t i = 0; i < c->n; i++)
        line_put(out, &c->lines[i], &x, &y);
    legend_put(out, c, TOP + PLOT_H + 62);
    buf_puts(out, "</svg>\n");
}

// ---- bars ----------------------------------------------------------------------------------------------

// Plain, crossed, dotted.
static void patterns_put(struct buf *out, const char *id)
{
    buf_printf(out,
               "<defs><pattern id=\"%s-p1\" width=\"6\" height=\"6\" "
               "patternUnits=\"userSpaceOnUse\"><rect width=\"6\" height=\"6\" class=\"f1\"/><path "
               "d=\"M0 0L6 6M6 0L0 6\" class=\"h\"/></pattern>"
               "<pattern id=\"%s-p2\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">"
               "<rect width=\"6\" height=\"6\" class=\"f2\"/><circle cx=\"3\" cy=\"3\" r=\"1\" "
               "class=\"hf\"/></pattern></defs>\n",
               id, id);
}

static void part_put(struct buf *out, const char *id, size_t part, const double box[4],
                     const char *tip)
{
    buf_printf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" ", box[0], box[1],
               box[2], box[3]);
    if (part == 0)
        buf_puts(out, "class=\"f0\">");
    else
        buf_printf(out, "fill=\"url(#%s-p%zu)\">", id, part);
    buf_puts(out, "<title>");
    xml_text_put(out, tip);
    buf_puts(out, "</title></rect>\n");
}

static void bar_put(struct buf *out, const struct plan_svg_bars *b, size_t i, const struct scale *x)
{
    const struct plan_svg_bar *bar = &b->bars[i];
    double sum = 0, y = TOP + ROW_H * (double)i + 18, end = 0;
    char tip[200];
    text_put(out, (struct label){4, y - 5, "n"}, bar->name);
    for (size_t k = 0; k < PLAN_SVG_PARTS; k++) {
        double from = place(x, sum), w = place(x, sum + bar->parts[k]) - from;
        sum += bar->parts[k];
        snprintf(tip, sizeof tip, "%s: %.3g %s", b->parts[k], bar->parts[k], b->unit);
        if (bar->parts[k] > 0)
            part_put(out, b->head.id, k, (double[4]){from, y, fmax(w, 0.6), BAR_H}, tip);
    }
    end = place(x, sum);
    if (isfinite(bar->low)) {
        double a = place(x, bar->low), z = place(x, bar->high), m = y + BAR_H / 2;
        segment_put(out, (double[4]){a, m, z, m}, "u"); // so that it can be seen on the bar
        segment_put(out, (double[4]){a, m, z, m}, "w");
        segment_put(out, (double[4]){a, m - 4, a, m + 4}, "w");
        segment_put(out, (double[4]){z, m - 4, z, m + 4}, "w");
        end = fmax(end, z);
        snprintf(tip, sizeof tip, "%.3g (%.3g to %.3g)", sum, bar->low, bar->high);
    } else {
        snprintf(tip, sizeof tip, "%.3g", sum);
    }
    text_put(out, (struct label){end + 8, y + BAR_H - 3, "n"}, tip);
}

void plan_svg_bars(const struct plan_svg_bars *b, struct buf *out)
{
    double longest = 0, height = TOP + ROW_H * (double)b->n, lx = 4;
    for (size_t i = 0; i < b->n; i++) {
        double sum = 0;
        for (size_t k = 0; k < PLAN_SVG_PARTS; k++)
            sum += b->bars[i].parts[k];
        longest = fmax(longest, fmax(sum, isfinite(b->bars[i].high) ? b->bars[i].high : 0));
    }
    // Room on the right for the value of the longest.
    struct plan_svg_axis axis = {b->unit, 0, longest > 0 ? longest : 1, false, false};
    struct scale x = {0, axis.high, 4, WIDTH - 150, false};
    head_put(out, &b->head, height + 66);
    patterns_put(out, b->head.id);
    axis_x_put(out, &axis, &x, (double[2]){TOP - 6, height});
    for (size_t i = 0; i < b->n; i++)
        bar_put(out, b, i, &x);
    for (size_t k = 0; k < PLAN_SVG_PARTS; k++) {
        part_put(out, b->head.id, k, (double[4]){lx, height + 50, 14, 12}, b->parts[k]);
        text_put(out, (struct label){lx + 20, height + 60, "t"}, b->parts[k]);
        lx += 44 + LETTER_W * (double)strlen(b->parts[k]);
    }
    buf_puts(out, "</svg>\n");
}

// ---- dots ----------------------------------------------------------------------------------------------

static void frontier_put(struct buf *out, const struct plan_svg_dots *d, const struct scale *x,
                         const struct scale *y)
{
    double at = -INFINITY, before = 0;
    bool begun = false;
    buf_puts(out, "<path class=\"l c3\" d=\"");
    // The full ones from left to right, as a stair: what a given cost can buy.
    for (;;) {
        size_t next = d->n;
        for (size_t i = 0; i < d->n; i++)
            if (d->dots[i].full && d->dots[i].x > at &&
                (next == d->n || d->dots[i].x < d->dots[next].x))
                next = i;
        if (next == d->n)
            break;
        at = d->dots[next].x;
        double px = place(x, at), py = place(y, d->dots[next].y);
        if (begun)
            buf_printf(out, "L%.1f %.1f", px, before);
        buf_printf(out, "%c%.1f %.1f", begun ? 'L' : 'M', px, py);
        before = py;
        begun = true;
    }
    buf_puts(out, begun ? "\"/>\n" : "M0 0\"/>\n");
}

static void dot_put(struct buf *out, const struct plan_svg_dot *d, double px, double py)
{
    const char *class = d->square ? (d->full ? "d1 full" : "d1") : (d->full ? "d0 full" : "d0");
    if (d->square)
        buf_printf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\" class=\"%s\">",
                   px - 4.5, py - 4.5, class);
    else
        buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" class=\"%s\">", px, py, class);
    buf_puts(out, "<title>");
    xml_text_put(out, d->name);
    buf_printf(out, "</title></%s>\n", d->square ? "rect" : "circle");
    if (d->label[0] != '\0')
        text_put(out, (struct label){px + 8, py - 7, "t"}, d->label);
}

void plan_svg_dots(const struct plan_svg_dots *d, struct buf *out)
{
    struct scale x = scale_x(&d->x), y = scale_y(&d->y);
    double ly = TOP + PLOT_H + 62;
    const struct plan_svg_dot legend[] = {
        {"one machine", "", 0, 0, false, false},
        {"a pair", "", 0, 0, true, false},
        {"full: nothing cheaper is as fast", "", 0, 0, false, true}};
    head_put(out, &d->head, TOP + PLOT_H + BOTTOM);
    axis_y_put(out, &d->y, &y);
    axis_x_put(out, &d->x, &x, (double[2]){TOP, TOP + PLOT_H});
    frontier_put(out, d, &x, &y);
    for (int full = 0; full < 2; full++)
        for (size_t i = 0; i < d->n; i++)
            if (d->dots[i].full == (full == 1))
                dot_put(out, &d->dots[i], place(&x, d->dots[i].x), place(&y, d->dots[i].y));
    double lx = LEFT + 6;
    for (size_t i = 0; i < 3; i++) {
        dot_put(out, &legend[i], lx, ly - 4);
        text_put(out, (struct label){lx + 12, ly, "t"}, legend[i].name);
        lx += 44 + LETTER_W * (double)strlen(legend[i].name);
    }
    buf_puts(out, "</svg>\n");
}

// ---- over time -----------------------------------------------------------------------------------------

static void strip_put(struct buf *out, const struct plan_svg_strip *s, double top,
                      const struct scale *x)
{
    double most = 0;
    bool down = false;
    char label[64];
    for (size_t i = 0; i < s->n; i++)
        most = fmax(most, isfinite(s->values[i]) ? s->values[i] : 0);
    most = most > 0 ? most : 1;
    if (most <= 1 && strcmp(s->unit, "share") == 0)
        most = 1;
    struct scale y = {0, most, top + STRIP_H - 24, top, false};
    text_put(out, (struct label){LEFT, top - 5, "n"}, s->name);
    snprintf(label, sizeof label, strcmp(s->unit, "share") == 0 ? "%.0f %%" : "%.4g",
             strcmp(s->unit, "share") == 0 ? 100 * most : most);
    text_put(out, (struct label){LEFT - 8, top + 9, "t e"}, label);
    text_put(out, (struct label){LEFT - 8, y.from + 3, "t e"}, "0");
    segment_put(out, (double[4]){LEFT, y.from, WIDTH - RIGHT, y.from}, "r");
    segment_put(out, (double[4]){LEFT, y.to, WIDTH - RIGHT, y.to}, "g");
    buf_puts(out, "<path class=\"l c0 thin\" d=\"");
    for (size_t i = 0; i < s->n; i++) {
        if (isfinite(s->values[i]))
            buf_printf(out, "%c%.1f %.1fH%.1f", down ? 'L' : 'M', place(x, s->step_s * (double)i),
                       place(&y, s->values[i]), place(x, s->step_s * (double)(i + 1)));
        down = isfinite(s->values[i]);
    }
    buf_puts(out, "\"/>\n");
}

void plan_svg_strips(const struct plan_svg_head *head, const struct plan_svg_strip *strips,
                     size_t n, struct buf *out)
{
    double span = 0, height = TOP + 14 + STRIP_H * (double)n;
    for (size_t i = 0; i < n; i++)
        span = fmax(span, strips[i].step_s * (double)strips[i].n);
    span = span > 0 ? span : 1;
    bool hours = span > 3 * 3600, minutes = span > 600;
    double unit = hours ? 3600 : minutes ? 60 : 1;
    struct plan_svg_axis axis = {hours     ? "hours"
                                 : minutes ? "minutes"
                                           : "seconds",
                                 0, span / unit, false, false};
    struct scale ticks = {0, axis.high, LEFT, WIDTH - RIGHT, false},
                 x = {0, span, LEFT, WIDTH - RIGHT, false};
    head_put(out, head, height + 30);
    axis_x_put(out, &axis, &ticks, (double[2]){TOP, height - 16});
    for (size_t i = 0; i < n; i++)
        strip_put(out, &strips[i], TOP + 14 + STRIP_H * (double)i, &x);
    buf_puts(out, "</svg>\n");
}
