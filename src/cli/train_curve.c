// The loss as a picture: braille dots or letters for a terminal, SVG for a file.
#include "base/json.h"
#include "cli/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_CELLS 9 // of the loss axis
#define CELLS_MAX 240
#define DOT_COLUMNS (2 * CELLS_MAX)
#define ROWS_MAX 40

// ---- collecting ----------------------------------------------------------------------------------

static void curve_grow(struct train_curve *c, size_t n)
{
    if (n > c->cap) {
        size_t cap = c->cap > 0 ? c->cap : 256;
        while (cap < n)
            cap *= 2;
        c->loss = mem_resize(c->loss, cap * sizeof *c->loss);
        c->eval = mem_resize(c->eval, cap * sizeof *c->eval);
        c->cap = cap;
    }
    for (; c->n < n; c->n++)
        c->loss[c->n] = c->eval[c->n] = NAN;
}

static void line_add(struct train_curve *c, const json_t *line)
{
    double step = json_number_or(line, "step", 0);
    if (!(step >= 1 && step <= TRAIN_CURVE_MAX))
        return;
    size_t at = (size_t)step - 1;
    double loss = json_number_or(line, "loss", NAN), eval = json_number_or(line, "eval_loss", NAN);
    curve_grow(c, at + 1);
    if (isfinite(loss)) {
        c->loss[at] = (float)loss;
        c->last_loss = loss;
        c->step = (int64_t)step;
        c->steps = (int64_t)json_number_or(line, "steps", (double)c->steps);
        c->lr = json_number_or(line, "lr", c->lr);
        c->tokens_per_s = json_number_or(line, "tokens_per_s", c->tokens_per_s);
        c->eta_s = json_number_or(line, "eta_s", c->eta_s);
    }
    if (isfinite(eval)) {
        c->eval[at] = (float)eval;
        c->last_eval = eval;
    }
}

void train_curve_add(struct train_curve *c, const json_t *lines)
{
    size_t i;
    const json_t *line;
    json_array_foreach(lines, i, line) line_add(c, line);
}

void train_curve_fini(struct train_curve *c)
{
    free(c->loss);
    free(c->eval);
    *c = (struct train_curve){0};
}

// ---- on a grid -----------------------------------------------------------------------------------

// Means of `columns` equal parts of the steps; NAN where nothing was told. The axis ends at the last step that
// is planned, so that the curve grows to the right.
static void columns_mean(const float *v, const struct train_curve *c, int columns, float *out)
{
    double all = fmax((double)c->steps, (double)c->n);
    for (int k = 0; k < columns; k++) {
        size_t from = (size_t)(k * all / columns), to = (size_t)((k + 1) * all / columns);
        double sum = 0;
        size_t n = 0;
        to = to > from ? to : from + 1;
        for (size_t i = from; i < to && i < c->n; i++)
            if (isfinite(v[i])) {
                sum += (double)v[i];
                n++;
            }
        out[k] = n > 0 ? (float)(sum / (double)n) : NAN;
    }
}

static bool range_of(const float *v, size_t n, float *low, float *high)
{
    bool any = false;
    for (size_t i = 0; i < n; i++)
        if (isfinite(v[i])) {
            *low = any ? fminf(*low, v[i]) : v[i];
            *high = any ? fmaxf(*high, v[i]) : v[i];
            any = true;
        }
    return any;
}

struct grid {
    int cells, rows;
    uint8_t dots[ROWS_MAX][CELLS_MAX]; // braille's bits
};

static void dot_set(struct grid *g, int x, int y)
{
    // Dots of a braille cell: 1 2 3 7 down the left, 4 5 6 8 down the right.
    static const uint8_t bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    if (x >= 0 && y >= 0 && x / 2 < g->cells && y / 4 < g->rows)
        g->dots[y / 4][x / 2] |= bits[y % 4][x % 2];
}

static void grid_draw(struct grid *g, const float *columns, float low, float high)
{
    int before = -1, height = 4 * g->rows - 1;
    for (int x = 0; x < 2 * g->cells; x++) {
        if (!isfinite(columns[x]))
            continue;
        int y = (int)lroundf((high - columns[x]) / (high - low) * (float)height);
        int from = before < 0 ? y : before < y ? before + 1 : y, to = before > y ? before - 1 : y;
        for (int k = from; k <= to; k++)
            dot_set(g, x, k);
        before = y;
    }
}

static void cell_put(uint8_t dots, bool utf8, struct buf *out)
{
    static const uint8_t low_half = 0x04 | 0x20 | 0x40 | 0x80;
    if (utf8) // U+2800 and the bits
        buf_printf(out, "\xe2%c%c", 0xa0 + (dots >> 6), 0x80 + (dots & 0x3f));
    else
        buf_puts(out, dots == 0                 ? " "
                      : (dots & low_half) == 0  ? "'"
                      : (dots & ~low_half) == 0 ? "."
                                                : ":");
}

static void row_put(const struct grid *g, int row, const char *label,
                    const struct draw_style *style, struct buf *out)
{
    buf_printf(out, "%*s %s", LABEL_CELLS - 2, label, style->utf8 ? "\xe2\x94\x82" : "|");
    buf_puts(out, style->color ? "\033[36m" : "");
    for (int x = 0; x < g->cells; x++)
        cell_put(g->dots[row][x], style->utf8, out);
    buf_puts(out, style->color ? "\033[0m" : "");
    buf_puts(out, "\n");
}

static void axis_put(const struct train_curve *c, int cells, bool utf8, struct buf *out)
{
    char last[32];
    snprintf(last, sizeof last, "step %lld", (long long)(c->steps > 0 ? c->steps : c->step));
    buf_printf(out, "%*s %s", LABEL_CELLS - 2, "", utf8 ? "\xe2\x94\x94" : "+");
    for (int i = 0; i < cells; i++)
        buf_puts(out, utf8 ? "\xe2\x94\x80" : "-");
    buf_printf(out, "\n%*s1%*s\n", LABEL_CELLS, "", cells - 1, last);
}

int train_curve_text(const struct train_curve *c, const struct draw_style *style, int rows,
                     struct buf *out)
{
    float columns[DOT_COLUMNS], low = 0, high = 0;
    struct grid g = {.rows = rows < 2 ? 2 : rows > ROWS_MAX ? ROWS_MAX : rows};
    g.cells = style->width - LABEL_CELLS - 1;
    g.cells = g.cells < 16 ? 16 : g.cells > CELLS_MAX ? CELLS_MAX : g.cells;
    columns_mean(c->loss, c, 2 * g.cells, columns);
    if (!range_of(columns, (size_t)(2 * g.cells), &low, &high))
        return 0;
    if (high - low < 1e-4f) { // a line, not noise
        high += 0.5e-4f;
        low -= 0.5e-4f;
    }
    grid_draw(&g, columns, low, high);
    for (int row = 0; row < g.rows; row++) {
        char label[16] = "";
        float at = high - (high - low) * (float)row / (float)(g.rows - 1);
        if (row % 3 == 0 || row == g.rows - 1)
            snprintf(label, sizeof label, "%.3g", (double)at);
        row_put(&g, row, label, style, out);
    }
    axis_put(c, g.cells, style->utf8, out);
    return g.rows + 2;
}

// ---- SVG -----------------------------------------------------------------------------------------

#define SVG_W 860.0
#define SVG_H 420.0
#define PLOT_X 70.0
#define PLOT_Y 64.0
#define PLOT_W 760.0
#define PLOT_H 300.0
#define POINTS_MAX 760

struct plane {
    double low, high, steps;
};

static double plane_x(const struct plane *p, double step)
{
    return PLOT_X + step / p->steps * PLOT_W;
}

static double plane_y(const struct plane *p, double loss)
{
    return PLOT_Y + (p->high - loss) / (p->high - p->low) * PLOT_H;
}

static void axes_put(const struct plane *p, struct buf *out)
{
    double tick = draw_tick(p->high - p->low, 6), every = fmax(draw_tick(p->steps, 8), 1);
    for (double v = ceil(p->low / tick) * tick; v <= p->high * 1.0001; v += tick)
        buf_printf(out,
                   "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\" class=\"g\"/>"
                   "<text x=\"%.0f\" y=\"%.1f\" class=\"l\">%.4g</text>\n",
                   PLOT_X, PLOT_X + PLOT_W, plane_y(p, v), plane_y(p, v), PLOT_X - 8,
                   plane_y(p, v) + 4, v);
    for (double s = 0; s <= p->steps * 1.0001; s += every)
        buf_printf(out, "<text x=\"%.1f\" y=\"%.0f\" class=\"a\">%.0f</text>\n", plane_x(p, s),
                   PLOT_Y + PLOT_H + 20, s);
    buf_printf(out, "<text x=\"%.0f\" y=\"%.0f\" class=\"a\">step</text>\n", PLOT_X + PLOT_W / 2,
               PLOT_Y + PLOT_H + 42);
}

static void line_put(const struct train_curve *c, const struct plane *p, struct buf *out)
{
    float columns[POINTS_MAX];
    int n = c->n < POINTS_MAX ? (int)c->n : POINTS_MAX;
    struct train_curve told = *c;
    told.steps = 0; // the columns are of what there is
    columns_mean(c->loss, &told, n, columns);
    buf_puts(out, "<polyline class=\"c\" points=\"");
    for (int i = 0; i < n; i++)
        if (isfinite(columns[i]))
            buf_printf(out, "%.1f,%.1f ", plane_x(p, (i + 1) * (double)c->n / n),
                       plane_y(p, (double)columns[i]));
    buf_puts(out, "\"/>\n");
    for (size_t i = 0; i < c->n && out->len < DRAW_MAX_BYTES / 2; i++)
        if (isfinite(c->eval[i]))
            buf_printf(out,
                       "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" class=\"e\"><title>step %zu: "
                       "evaluation %.4f</title></circle>\n",
                       plane_x(p, (double)i + 1), plane_y(p, (double)c->eval[i]), i + 1,
                       (double)c->eval[i]);
}

void train_curve_svg(const struct train_curve *c, const struct jobs_job *job, struct buf *out)
{
    float low = 0, high = 1, eval_low = 0, eval_high = 0;
    const char *file = strrchr(job->model, '/');
    range_of(c->loss, c->n, &low, &high);
    if (range_of(c->eval, c->n, &eval_low, &eval_high)) {
        low = fminf(low, eval_low);
        high = fmaxf(high, eval_high);
    }
    struct plane p = {fmin(0, (double)low), fmax((double)high * 1.05, 1e-3),
                      fmax((double)(c->steps > 0 ? c->steps : (int64_t)c->n), 1)};
    buf_printf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
        "height=\"%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n"
        "<style>.t{font-size:18px;font-weight:bold}.s{fill:#555}.l{text-anchor:end;fill:#555}"
        ".a{text-anchor:middle;fill:#555}.g{stroke:#ddd}"
        ".c{fill:none;stroke:#0072B2;stroke-width:2}.e{fill:#E69F00}</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
        SVG_W, SVG_H, SVG_W, SVG_H);
    buf_printf(out, "<text x=\"24\" y=\"30\" class=\"t\">ft:%s</text>\n", job->name);
    buf_puts(out, "<text x=\"24\" y=\"50\" class=\"s\">");
    for (const char *s = file ? file + 1 : job->model; *s; s++) // as XML wants it
        if ((unsigned char)*s >= 0x20)
            buf_printf(out, *s == '<' ? "&lt;" : *s == '&' ? "&amp;" : "%c", *s);
    buf_printf(out, ": training loss by step, last %.4f%s</text>\n", c->last_loss,
               eval_high > 0 ? "; dots: evaluation" : "");
    axes_put(&p, out);
    if (c->n > 0)
        line_put(c, &p, out);
    buf_puts(out, "</svg>\n");
}
