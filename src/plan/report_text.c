// Documents for a terminal: tables that leave out their least important columns where it is narrow, bars, and
// sentences that are wrapped.
#include "base/json.h"
#include "plan/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define COLUMNS_MAX 12
#define ROWS_MAX 64
#define CELL_BYTES 64
#define NOTE_BYTES 240
#define NARROWEST 40
#define ROOMY 110
#define LEFT_OUT_SHOWN 8

struct pen {
    const struct plan_report_style *style;
    struct buf *out;
};

static double number(const json_t *o, const char *member)
{
    return json_number_value(json_object_get(o, member));
}

static const char *text(const json_t *o, const char *member)
{
    return json_string_or(o, member, "");
}

static int width_of(const struct pen *p)
{
    return p->style->width < NARROWEST ? NARROWEST : p->style->width;
}

static void bold(const struct pen *p, const char *s)
{
    buf_printf(p->out, p->style->color ? "\033[1m%s\033[0m\n" : "%s\n", s);
}

// One paragraph, its first line after `first`, the others as deep.
static void wrapped(const struct pen *p, const char *first, const char *s)
{
    size_t indent = strlen(first), room = (size_t)width_of(p) - 1, at = indent;
    buf_puts(p->out, first);
    while (*s != '\0') {
        size_t n = strcspn(s, " ");
        if (at > indent && at + 1 + n > room) {
            buf_printf(p->out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            buf_puts(p->out, " ");
            at++;
        }
        buf_put(p->out, s, n);
        at += n;
        s += n;
        s += strspn(s, " ");
    }
    buf_puts(p->out, "\n");
}

// ---- tables --------------------------------------------------------------------------------------------

struct column {
    const char *title;
    int keep; // larger stays longer
    bool left;
};
struct table {
    const struct column *columns;
    size_t n_columns, n_rows;
    char cells[ROWS_MAX][COLUMNS_MAX][CELL_BYTES];
    char notes[ROWS_MAX][NOTE_BYTES]; // what a row says below itself where columns had to go
};

static void cell_put(struct table *t, size_t column, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void cell_put(struct table *t, size_t column, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(t->cells[t->n_rows][column], CELL_BYTES, format, args);
    va_end(args);
}

static void widths_get(const struct table *t, int widths[COLUMNS_MAX])
{
    for (size_t k = 0; k < t->n_columns; k++) {
        widths[k] = (int)strlen(t->columns[k].title);
        for (size_t i = 0; i < t->n_rows; i++) {
            int n = (int)strlen(t->cells[i][k]);
            widths[k] = n > widths[k] ? n : widths[k];
        }
    }
}

// Gives up columns, and at last letters of the first one's texts, until a row fits.
static void widths_fit(const struct table *t, int room, int widths[COLUMNS_MAX])
{
    for (;;) {
        int sum = 0, worst = -1;
        for (size_t k = 0; k < t->n_columns; k++) {
            sum += widths[k] > 0 ? widths[k] + 2 : 0;
            if (widths[k] > 0 && t->columns[k].keep < 100 &&
                (worst < 0 || t->columns[k].keep < t->columns[worst].keep))
                worst = (int)k;
        }
        if (sum <= room)
            return;
        if (worst < 0) {
            for (size_t k = 0; k < t->n_columns; k++)
                if (t->columns[k].left && widths[k] > sum - room + 8) {
                    widths[k] -= sum - room;
                    return;
                }
            return;
        }
        widths[worst] = 0;
    }
}

static void row_print(const struct pen *p, const struct table *t, const int widths[COLUMNS_MAX],
                      int row)
{
    for (size_t k = 0; k < t->n_columns; k++) {
        const char *s = row < 0 ? t->columns[k].title : t->cells[row][k];
        if (widths[k] <= 0)
            continue;
        buf_printf(p->out, t->columns[k].left ? "%-*.*s  " : "%*.*s  ", widths[k], widths[k], s);
    }
    while (p->out->len > 0 && p->out->data[p->out->len - 1] == ' ')
        p->out->len--;
    buf_puts(p->out, "\n");
}

static void table_print(const struct pen *p, const struct table *t)
{
    int widths[COLUMNS_MAX] = {0};
    widths_get(t, widths);
    widths_fit(t, width_of(p), widths);
    row_print(p, t, widths, -1);
    bool all = true;
    for (size_t k = 0; k < t->n_columns; k++)
        all = all && (widths[k] > 0 || t->columns[k].title[0] == '\0');
    for (size_t i = 0; i < t->n_rows; i++) {
        row_print(p, t, widths, (int)i);
        if (!all && t->notes[i][0] != '\0')
            wrapped(p, "      ", t->notes[i]);
    }
}

// "4,699"
static const char *grouped(double x, char out[CELL_BYTES])
{
    char digits[CELL_BYTES];
    snprintf(digits, sizeof digits, "%.0f", x);
    size_t n = strlen(digits), k = 0;
    for (size_t i = 0; i < n && k + 2 < CELL_BYTES; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            out[k++] = ',';
        out[k++] = digits[i];
    }
    out[k] = '\0';
    return out;
}

// Three digits, without exponents.
static const char *short_number(double x, char out[CELL_BYTES])
{
    if (fabs(x) >= 999.5)
        return grouped(x, out);
    snprintf(out, CELL_BYTES, "%.*f", fabs(x) < 9.995 ? 2 : fabs(x) < 99.95 ? 1 : 0, x);
    return out;
}

// "5.0 (3.9-6.5)", or the number alone where it was published.
static const char *ranged(const json_t *figure, char out[CELL_BYTES])
{
    char value[CELL_BYTES], low[CELL_BYTES], high[CELL_BYTES];
    if (!json_is_object(figure)) {
        snprintf(out, CELL_BYTES, "-");
        return out;
    }
    short_number(number(figure, "value"), value);
    if (json_is_null(json_object_get(figure, "low")))
        snprintf(out, CELL_BYTES, "%.20s", value);
    else
        snprintf(out, CELL_BYTES, "%.20s (%.19s-%.19s)", value,
                 short_number(number(figure, "low"), low),
                 short_number(number(figure, "high"), high));
    return out;
}

// ---- advice --------------------------------------------------------------------------------------------

static const struct column option_columns[] = {
    {"", 100, false},        {"machines", 100, true},
    {"price $", 90, false},  {"answer, s", 100, false},
    {"first, s", 35, false}, {"tok/s", 40, false},
    {"$/year", 80, false},   {"J/answer", 30, false},
    {"busy", 25, false},     {"train, tok/s", 20, false},
    {"image, s", 20, false}, {"", 95, true},
};

// Where it is narrow, only the time of an answer tells its range.
static const char *roomy(const struct pen *p, const json_t *figure, char out[CELL_BYTES])
{
    if (width_of(p) >= ROOMY)
        return ranged(figure, out);
    if (!json_is_object(figure))
        return "-";
    return short_number(number(figure, "value"), out);
}

static void option_row(const struct pen *p, struct table *t, const json_t *o)
{
    char x[CELL_BYTES], y[CELL_BYTES], z[CELL_BYTES];
    cell_put(t, 0, "%.0f", number(o, "rank"));
    cell_put(t, 1, "%.60s", text(o, "name"));
    cell_put(t, 2, "%s", grouped(number(o, "price_usd"), x));
    cell_put(t, 3, "%s", ranged(json_object_get(o, "total_s"), x));
    cell_put(t, 4, "%s", roomy(p, json_object_get(o, "ttft_s"), x));
    cell_put(t, 5, "%s", roomy(p, json_object_get(o, "tokens_per_s"), x));
    cell_put(t, 6, "%s", grouped(number(o, "usd_per_year"), x));
    if (json_is_null(json_object_get(o, "joules_per_answer")))
        cell_put(t, 7, "-");
    else
        cell_put(t, 7, "%s", grouped(number(o, "joules_per_answer"), x));
    cell_put(t, 8, "%.0f %%", 100 * number(o, "busy"));
    cell_put(t, 9, "%s", roomy(p, json_object_get(o, "train_tokens_per_s"), x));
    cell_put(t, 10, "%s", roomy(p, json_object_get(o, "image_s"), x));
    cell_put(t, 11, "%s", json_is_true(json_object_get(o, "frontier")) ? "*" : "");
    snprintf(t->notes[t->n_rows], NOTE_BYTES,
             "first token %.40s s, %.40s tok/s, %.20s J, busy %.0f %%",
             ranged(json_object_get(o, "ttft_s"), x), ranged(json_object_get(o, "tokens_per_s"), y),
             grouped(number(o, "joules_per_answer"), z), 100 * number(o, "busy"));
    t->n_rows++;
}

static void question_print(const struct pen *p, const json_t *d)
{
    const json_t *q = json_object_get(d, "question");
    bool published = strcmp(text(d, "engine"), "published") == 0;
    char line[600], title[300];
    snprintf(title, sizeof title, "%s %s", text(q, "model"), text(q, "quant"));
    bold(p, title);
    int n =
        snprintf(line, sizeof line,
                 "%.0f tokens in (%.0f %% of them in the cache), %.0f out, %g requests an hour, %g "
                 "hours a day",
                 number(q, "prompt_tokens"), 100 * number(q, "warm_share"), number(q, "gen_tokens"),
                 number(q, "requests_per_hour"), number(q, "hours_per_day"));
    if (number(q, "train_share") > 0)
        n += snprintf(line + n, sizeof line - (size_t)n,
                      ", fine-tuning of %.80s for %.0f %% of the time of a DGX Spark",
                      text(q, "train_model"), 100 * number(q, "train_share"));
    if (number(q, "images_per_hour") > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, ", %g images an hour",
                      number(q, "images_per_hour"));
    snprintf(line + n, sizeof line - (size_t)n, ". %s",
             published ? "Rates that somebody published for this model."
                       : "Predicted for llama.cpp; four measurements in five lie in the range "
                         "in brackets.");
    wrapped(p, "", line);
}

static void bar_print(const struct pen *p, const json_t *o, double longest, int room)
{
    static const char letters[] = "=~-";
    static const int colors[] = {34, 33, 32};
    const double parts[] = {number(o, "prefill_s"), number(o, "tail_s"), number(o, "decode_s")};
    double done = 0, scale = longest > 0 ? room / longest : 0;
    for (int k = 0; k < 3; k++) {
        int from = (int)lround(done * scale), to = (int)lround((done + parts[k]) * scale);
        done += parts[k];
        if (p->style->color && to > from)
            buf_printf(p->out, "\033[%dm", colors[k]);
        for (int i = from; i < to; i++)
            buf_put(p->out, &letters[k], 1);
        if (p->style->color && to > from)
            buf_puts(p->out, "\033[0m");
    }
    buf_puts(p->out, "\n");
}

static void bars_print(const struct pen *p, const json_t *options)
{
    size_t i;
    const json_t *o;
    double longest = 0;
    int labels = 8, most = width_of(p) / 2;
    json_array_foreach(options, i, o)
    {
        int n = (int)strlen(text(o, "name"));
        double total = number(o, "prefill_s") + number(o, "tail_s") + number(o, "decode_s");
        longest = fmax(longest, total);
        labels = n > labels ? n : labels;
    }
    labels = labels > most ? most : labels;
    buf_puts(p->out, "\n");
    wrapped(p, "", "an answer's time: = reads the prompt, ~ waits for the link, - writes");
    json_array_foreach(options, i, o)
    {
        buf_printf(p->out, "  %-*.*s ", labels, labels, text(o, "name"));
        bar_print(p, o, longest, width_of(p) - labels - 5);
    }
}

static void list_print(const struct pen *p, const char *first, const json_t *list)
{
    size_t i;
    const json_t *line;
    json_array_foreach(list, i, line) wrapped(p, first, json_string_value(line));
}

static void fits_print(const struct pen *p, const json_t *o)
{
    char line[300];
    const char *largest = text(o, "largest_model_at_q4_k_m");
    int n = snprintf(line, sizeof line, "needs %.3g GB of %.0f GiB", number(o, "memory_needed_gb"),
                     number(o, "memory_gib"));
    if (largest[0] != '\0')
        snprintf(line + n, sizeof line - (size_t)n,
                 "; the largest model of the catalogue that fits at Q4_K_M is %s", largest);
    wrapped(p, "    - ", line);
}

static void why_print(const struct pen *p, const json_t *options)
{
    size_t i;
    const json_t *o;
    buf_puts(p->out, "\n");
    bold(p, "Why");
    json_array_foreach(options, i, o)
    {
        if (i == 3)
            break;
        wrapped(p, "  ", text(o, "name"));
        list_print(p, "    - ", json_object_get(o, "why"));
        fits_print(p, o);
    }
}

static void left_out_print(const struct pen *p, const json_t *list)
{
    size_t i;
    const json_t *o;
    if (json_array_size(list) == 0)
        return;
    buf_puts(p->out, "\n");
    bold(p, "Left out");
    json_array_foreach(list, i, o)
    {
        char line[500];
        if (i == LEFT_OUT_SHOWN) {
            buf_printf(p->out, "  and %zu more; --json has them all\n", json_array_size(list) - i);
            break;
        }
        snprintf(line, sizeof line, "%s: %s", text(o, "name"), text(o, "why"));
        wrapped(p, "  ", line);
    }
}

// ---- curves --------------------------------------------------------------------------------------------

// Every fourth point, which are powers of four or two.
static void curve_print(const struct pen *p, const char *title, const json_t *points,
                        const char *format)
{
    size_t i;
    const json_t *at;
    char line[600];
    int used = snprintf(line, sizeof line, "%s", title);
    json_array_foreach(points, i, at)
    {
        char x[32];
        if (i % 4 != 0 || used > 500)
            continue;
        snprintf(x, sizeof x, format, number(at, "x"));
        used += snprintf(line + used, sizeof line - (size_t)used, "%s %s: %.2f", i > 0 ? "," : ":",
                         x, number(at, "gain"));
    }
    wrapped(p, "    ", line);
}

static void gain_line(const struct pen *p, const json_t *comparison)
{
    const json_t *speedup = json_object_get(comparison, "speedup");
    const json_t *range = json_object_get(speedup, "over_best_range");
    char line[200];
    if (!json_is_number(json_object_get(speedup, "over_best")))
        return;
    if (strcmp(text(comparison, "engine"), "published") == 0)
        snprintf(line, sizeof line, "with published rates: %.2f times the better of them alone",
                 number(speedup, "over_best"));
    else
        snprintf(line, sizeof line,
                 "predicted for llama.cpp: %.2f (%.2f-%.2f) times the better of them alone",
                 number(speedup, "over_best"), number(range, "low"), number(range, "high"));
    wrapped(p, "    - ", line);
}

// With both kinds of rates where there are both.
static void gains_print(const struct pen *p, const json_t *pair)
{
    gain_line(p, pair);
    gain_line(p, json_object_get(pair, "other_engine"));
}

static void pair_print(const struct pen *p, const json_t *d)
{
    const json_t *pair = json_object_get(d, "pair"), *curves = json_object_get(d, "curves");
    const json_t *asked = json_object_get(pair, "asked");
    if (pair == NULL)
        return;
    char line[400];
    bool worth = json_is_true(json_object_get(pair, "worth_it"));
    const json_t *names = json_object_get(asked, "machines");
    buf_puts(p->out, "\n");
    bold(p, "A pair");
    snprintf(line, sizeof line, "%s + %s over %s: %s", json_string_value(json_array_get(names, 0)),
             json_string_value(json_array_get(names, 1)), text(asked, "link"),
             worth ? "worth it" : "not worth it");
    wrapped(p, "  ", line);
    list_print(p, "    - ", json_object_get(pair, "why"));
    gains_print(p, pair);
    if (curves == NULL)
        return;
    wrapped(p, "  ", "How many times as fast as the better of them alone, with other figures:");
    curve_print(p, "answer, tokens", json_object_get(curves, "answer"), "%.0f");
    curve_print(p, "prompt, tokens", json_object_get(curves, "prompt"), "%.0f");
    curve_print(p, "link, Gbit/s", json_object_get(curves, "link"), "%.3g");
    curve_print(p, "share of the prompt in both caches", json_object_get(curves, "warm"), "%.2f");
}

static void advice_print(const struct pen *p, const json_t *d)
{
    struct table t = {.columns = option_columns,
                      .n_columns = sizeof option_columns / sizeof *option_columns};
    const json_t *options = json_object_get(d, "options"), *o;
    size_t i, shown = json_array_size(options);
    question_print(p, d);
    buf_puts(p->out, "\n");
    json_array_foreach(options, i, o)
    {
        if (t.n_rows < ROWS_MAX)
            option_row(p, &t, o);
    }
    table_print(p, &t);
    char line[120] = "nothing that costs less a year is as fast";
    size_t used = strlen(line);
    if ((double)shown < number(d, "options_found"))
        snprintf(line + used, sizeof line - used, "; %.0f more, --top 0 shows all",
                 number(d, "options_found") - (double)shown);
    wrapped(p, "* ", line);
    bars_print(p, options);
    buf_puts(p->out, "\n");
    bold(p, "Advice");
    list_print(p, "  ", json_object_get(d, "advice"));
    why_print(p, options);
    pair_print(p, d);
    left_out_print(p, json_object_get(d, "left_out"));
}

// ---- platforms -----------------------------------------------------------------------------------------

static const struct column machine_columns[] = {
    {"machine", 100, true},     {"GiB", 100, false},     {"GB/s", 90, false},
    {"TFLOPS FP16", 80, false}, {"measured", 50, false}, {"W", 60, false},
    {"noise", 30, true},        {"price $", 100, false}, {"seen", 70, false},
};

static void machines_print(const struct pen *p, const json_t *machines)
{
    struct table t = {.columns = machine_columns,
                      .n_columns = sizeof machine_columns / sizeof *machine_columns};
    size_t i;
    const json_t *m;
    json_array_foreach(machines, i, m)
    {
        char x[CELL_BYTES];
        double gpus = fmax(number(m, "gpus"), 1);
        cell_put(&t, 0, "%.60s", text(m, "name"));
        cell_put(&t, 1, "%.0f", gpus * number(m, "memory_gib"));
        cell_put(&t, 2, "%.0f", number(m, "bandwidth_gbs"));
        cell_put(&t, 3, "%.3g", gpus * number(m, "fp16_tflops"));
        if (number(m, "achieved_tflops") > 0)
            cell_put(&t, 4, "%.3g", gpus * number(m, "achieved_tflops"));
        cell_put(&t, 5, "%.0f", number(m, "load_w"));
        cell_put(&t, 6, "%.20s", text(m, "noise"));
        cell_put(&t, 7, "%s", grouped(number(m, "price_usd"), x));
        cell_put(&t, 8, "%.20s", text(m, "price_date"));
        t.n_rows++;
    }
    table_print(p, &t);
}

static bool listed(const json_t *list, const char *name)
{
    size_t i;
    const json_t *s;
    json_array_foreach(list, i, s)
    {
        if (strcmp(json_string_value(s), name) == 0)
            return true;
    }
    return false;
}

static void work_print(const struct pen *p, const json_t *w, const json_t *machines)
{
    const json_t *values = json_object_get(w, "values"), *best = json_object_get(w, "best"), *v;
    size_t i;
    double most = 0;
    int room = width_of(p) - 54;
    char line[300];
    snprintf(line, sizeof line, "%s (%s, %s is better)", text(w, "what"), text(w, "unit"),
             json_is_true(json_object_get(w, "less_is_better")) ? "less" : "more");
    wrapped(p, "", line);
    json_array_foreach(values, i, v) most = fmax(most, number(v, "value"));
    json_array_foreach(values, i, v)
    {
        const char *name = text(json_array_get(machines, i), "name");
        char x[CELL_BYTES];
        buf_printf(p->out, "  %-25.25s %-19.24s %s", name,
                   json_is_null(v) ? "does not fit" : ranged(v, x),
                   listed(best, name) ? "best " : "     ");
        for (int k = 0; most > 0 && k < (int)lround(room * number(v, "value") / most); k++)
            buf_puts(p->out, p->style->utf8 ? "\u2588" : "#");
        buf_puts(p->out, "\n");
    }
}

static void platforms_print(const struct pen *p, const json_t *d)
{
    const json_t *all = json_object_get(d, "platforms"), *o;
    const json_t *machines = json_object_get(all, "machines");
    size_t i;
    bold(p, "Machines");
    machines_print(p, machines);
    buf_puts(p->out, "\n");
    bold(p, "What they are good for");
    wrapped(p, "",
            "Predicted, with the range of four measurements in five; fine-tuning and images "
            "from arithmetic, with the range of the utilisations that were published elsewhere. "
            "\"best\" "
            "also stands at those that are less than 15 % behind.");
    json_array_foreach(json_object_get(all, "work"), i, o)
    {
        buf_puts(p->out, "\n");
        work_print(p, o, machines);
    }
    buf_puts(p->out, "\n");
    bold(p, "What is said of them");
    json_array_foreach(json_object_get(all, "claims"), i, o)
    {
        char line[700];
        snprintf(line, sizeof line, "\"%s\"", text(o, "said"));
        wrapped(p, "  ", line);
        snprintf(line, sizeof line, "%s: %s", text(o, "verdict"), text(o, "here"));
        wrapped(p, "    ", line);
    }
}

void plan_report_text(const json_t *document, const struct plan_report_style *style,
                      struct buf *out)
{
    struct pen p = {style, out};
    const char *kind = text(document, "kind");
    if (strcmp(kind, "advice") == 0)
        advice_print(&p, document);
    else if (strcmp(kind, "platforms") == 0)
        platforms_print(&p, document);
}
