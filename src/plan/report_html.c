// The page: one file, no scripts, nothing fetched; light, dark and paper by CSS alone.
#include "plan/report_html.h"

#include "base/json.h"
#include "base/xml.h"
#include "plan/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#4d5761;--rule:#d0d7de;"
    "--panel:#f5f7f9;--c0:#0072b2;--c1:#c25100;--c2:#007a5a;--c3:#6b4fa0;--hatch:#fff}\n"
    "@media (prefers-color-scheme:dark){:root{--bg:#0f1318;--ink:#e8edf2;--soft:#a6b1bc;"
    "--rule:#38414a;--panel:#181e25;--c0:#5bb5ea;--c1:#f2a154;--c2:#45cfa2;--c3:#bda6ee;"
    "--hatch:#0f1318}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:1120px;padding:1.5rem 1.25rem 4rem;background:var(--bg);"
    "color:var(--ink);font:16px/1.5 system-ui,\"Segoe UI\",Roboto,\"Helvetica Neue\",Arial,"
    "sans-serif}\n"
    "h1{font-size:1.7rem;line-height:1.2;margin:.2em 0 .4em}h2{margin:2.2em 0 .5em;"
    "font-size:1.25rem;border-bottom:1px solid var(--rule);padding-bottom:.2em}"
    "h3{margin:1.6em 0 .3em;font-size:1.02rem}\n"
    "p{max-width:75ch}li{max-width:80ch;margin:.2em 0}.soft,figcaption{color:var(--soft)}\n"
    ".yes,.no{font-weight:600}\n"
    "table{border-collapse:collapse;font-size:.84rem;font-variant-numeric:tabular-nums;"
    "width:100%}th,td{padding:.28em .55em;border-bottom:1px solid var(--rule);text-align:right;"
    "vertical-align:top;white-space:nowrap}td:first-child,td.left,th{white-space:normal}"
    "td.left{min-width:11em}th{font-weight:600;vertical-align:bottom}"
    "td:first-child,th:first-child,.left{text-align:left}"
    "caption{text-align:left;color:var(--soft);padding:0 .55em .4em;font-size:.84rem}\n"
    ".wide{overflow-x:auto}\n"
    "figure{margin:1.2rem 0 2rem;display:grid;grid-template-columns:minmax(0,5fr) minmax(0,3fr);"
    "gap:.5rem 1.5rem;align-items:start}figure>figcaption{grid-column:1/-1;max-width:85ch}\n"
    "@media screen and (max-width:800px){figure{grid-template-columns:minmax(0,1fr)}"
    "figure>.wide>svg{min-width:560px}}\n"
    "svg.chart{width:100%;height:auto;display:block;font-size:13px}\n"
    "svg text{fill:var(--soft);paint-order:stroke;stroke:var(--bg);stroke-width:3px;"
    "stroke-linejoin:round}svg text.n{fill:var(--ink)}.m{text-anchor:middle}"
    ".e{text-anchor:end}\n"
    ".g{stroke:var(--rule);stroke-width:1}.r{stroke:var(--soft);stroke-width:1.2}"
    ".k{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3}"
    ".w{stroke:var(--ink);stroke-width:1.4}.u{stroke:var(--bg);stroke-width:4;opacity:.75}\n"
    ".work td:first-child{min-width:15em}.work td:not(:first-child) "
    ".soft{display:block}.tight td .soft{display:block}.day{white-space:nowrap}a{color:var(--c0)}\n"
    ".l{fill:none;stroke-width:2.2}.thin{stroke-width:1.5}.c0{stroke:var(--c0)}"
    ".c1{stroke:var(--c1);stroke-dasharray:7 4}.c2{stroke:var(--c2);stroke-dasharray:2 4}"
    ".c3{stroke:var(--c3);stroke-dasharray:9 3 2 3}\n"
    ".f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}"
    ".b0,.b1,.b2,.b3{fill:var(--c0);opacity:.16}\n"
    ".h{stroke:var(--hatch);stroke-width:1}.hf{fill:var(--hatch)}\n"
    ".d0,.d1{fill:var(--bg);stroke-width:1.8;stroke:var(--c0)}.d1{stroke:var(--c1)}"
    ".d0.full{fill:var(--c0)}.d1.full{fill:var(--c1)}\n"
    // Last, so that it wins: on paper a chart has the width and its table follows.
    "@media print{:root{color-scheme:light;--bg:#fff;--ink:#000;--soft:#333;--rule:#bbb;"
    "--panel:#fff;--c0:#0072b2;--c1:#c25100;--c2:#007a5a;--c3:#6b4fa0;--hatch:#fff}"
    "@page{margin:14mm}body{font-size:9.5pt;line-height:1.35;max-width:none;padding:0;"
    "-webkit-print-color-adjust:exact;print-color-adjust:exact}"
    "h1{font-size:16pt}h2{font-size:12.5pt;margin:1.4em 0 .4em}h3{font-size:10.5pt}"
    "p,li{max-width:none}h2,h3,figcaption{break-after:avoid}tr,li,svg{break-inside:avoid}"
    "figure{display:block;margin:.6rem 0 1.2rem}"
    "figure svg.chart{max-width:150mm}figure table{width:auto;min-width:60%}"
    ".wide{overflow:visible}table{font-size:7.5pt}th,td{padding:.18em .45em}"
    "td,th{white-space:normal}.soft,td.date,.day{white-space:nowrap}caption,li.soft,ul.soft,"
    "p.soft,ul.soft li{white-space:normal}td.left,.work td:first-child{min-width:0}"
    "a{color:inherit;text-decoration:none}}\n";

// ---- small things --------------------------------------------------------------------------------------

double html_number(const json_t *o, const char *member)
{
    return json_number_or(o, member, NAN);
}

const char *html_string(const json_t *o, const char *member)
{
    return json_string_or(o, member, "");
}

void html_text(struct buf *out, const char *s)
{
    xml_text_put(out, s);
}

void html_paragraph(struct buf *out, const char *tag, const char *s)
{
    buf_printf(out, "<%s>", tag);
    html_text(out, s);
    buf_printf(out, "</%s>\n", tag);
}

void html_list(struct buf *out, const json_t *strings)
{
    size_t i;
    const json_t *s;
    buf_puts(out, "<ul>\n");
    json_array_foreach(strings, i, s) html_paragraph(out, "li", json_string_value(s));
    buf_puts(out, "</ul>\n");
}

const char *html_short(double x, char out[64])
{
    char digits[64];
    size_t k = 0;
    if (!isfinite(x)) {
        snprintf(out, 64, "-");
        return out;
    }
    if (fabs(x) < 999.5) {
        snprintf(out, 64, "%.*f", fabs(x) < 9.995 ? 2 : fabs(x) < 99.95 ? 1 : 0, x);
        return out;
    }
    snprintf(digits, sizeof digits, "%.0f", x);
    size_t n = strlen(digits);
    for (size_t i = 0; i < n && k + 2 < 64; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            out[k++] = ',';
        out[k++] = digits[i];
    }
    out[k] = '\0';
    return out;
}

void html_figure(struct buf *out, const json_t *figure)
{
    char x[64];
    if (!json_is_object(figure)) {
        buf_puts(out, "–");
        return;
    }
    buf_puts(out, html_short(html_number(figure, "value"), x));
    if (isfinite(html_number(figure, "low"))) {
        buf_printf(out, " <span class=\"soft\">(%s–", html_short(html_number(figure, "low"), x));
        buf_printf(out, "%s)</span>", html_short(html_number(figure, "high"), x));
    }
}

static void cell_text(struct buf *out, const char *class, const char *s)
{
    buf_printf(out, "<td%s>", class);
    html_text(out, s);
    buf_puts(out, "</td>");
}

static void cell_number(struct buf *out, double x)
{
    char s[64];
    buf_printf(out, "<td>%s</td>", html_short(x, s));
}

static void cell_whole(struct buf *out, double x)
{
    char s[64];
    buf_printf(out, "<td>%s</td>",
               isfinite(x) && fabs(x) < 999.5 ? (snprintf(s, sizeof s, "%.0f", x), s)
                                              : html_short(x, s));
}

static void cell_figure(struct buf *out, const json_t *figure)
{
    buf_puts(out, "<td>");
    html_figure(out, figure);
    buf_puts(out, "</td>");
}

// ---- advice --------------------------------------------------------------------------------------------

static void option_row(struct buf *out, const json_t *o, bool tasks)
{
    cell_whole(out, html_number(o, "rank"));
    cell_text(out, " class=\"left\"", html_string(o, "name"));
    cell_whole(out, html_number(o, "price_usd"));
    cell_text(out, " class=\"date\"", html_string(o, "price_date"));
    cell_figure(out, json_object_get(o, "total_s"));
    cell_figure(out, json_object_get(o, "ttft_s"));
    cell_figure(out, json_object_get(o, "tokens_per_s"));
    if (tasks) {
        cell_figure(out, json_object_get(o, "train_tokens_per_s"));
        cell_figure(out, json_object_get(o, "image_s"));
    }
    cell_whole(out, html_number(o, "usd_per_year"));
    cell_whole(out, html_number(o, "joules_per_answer"));
    buf_printf(out, "<td>%.0f %%</td>", 100 * html_number(o, "busy"));
}

static void options_put(struct buf *out, const json_t *d)
{
    size_t i;
    const json_t *o, *q = json_object_get(d, "question");
    bool tasks = html_number(q, "train_share") > 0 || html_number(q, "images_per_hour") > 0;
    bool published = strcmp(html_string(d, "engine"), "published") == 0;
    buf_printf(out,
               "<div class=\"wide%s\"><table><caption>%s; %s. Price in dollars and when it was "
               "seen; for a year also electricity.%s</caption>\n<tr><th scope=\"col\">#</th>"
               "<th scope=\"col\" class=\"left\">machines</th><th scope=\"col\">price</th>"
               "<th scope=\"col\">seen</th><th scope=\"col\">an answer, s</th>"
               "<th scope=\"col\">first token, s</th><th scope=\"col\">tokens/s</th>",
               tasks ? " tight" : "", published ? "Published rates" : "Predicted for llama.cpp",
               published ? "whoever measured them gave no range"
                         : "four measurements in five lie in the range in brackets",
               tasks ? " Of fine-tuning and images the range is that of published utilisations."
                     : "");
    if (tasks)
        buf_puts(out, "<th scope=\"col\">fine-tuning, tokens/s</th><th scope=\"col\">an image, "
                      "s</th>");
    buf_puts(out, "<th scope=\"col\">$ a year</th><th scope=\"col\">joules an answer</th>"
                  "<th scope=\"col\">busy</th></tr>\n");
    json_array_foreach(json_object_get(d, "options"), i, o)
    {
        buf_puts(out, "<tr>");
        option_row(out, o, tasks);
        buf_puts(out, "</tr>\n");
    }
    buf_puts(out, "</table></div>\n");
}

static void question_put(struct buf *out, const json_t *d)
{
    const json_t *q = json_object_get(d, "question");
    char line[900];
    int n = snprintf(line, sizeof line,
                     "%.0f tokens in, %.0f %% of them in the cache, %.0f out; %g requests an hour, "
                     "%g hours a day; electricity at $%g a kWh; %g years until it is worth nothing",
                     html_number(q, "prompt_tokens"), 100 * html_number(q, "warm_share"),
                     html_number(q, "gen_tokens"), html_number(q, "requests_per_hour"),
                     html_number(q, "hours_per_day"), html_number(q, "usd_per_kwh"),
                     html_number(q, "years"));
    if (html_number(q, "train_share") > 0)
        n += snprintf(line + n, sizeof line - (size_t)n,
                      "; fine-tuning of %.80s for %.0f %% of the time of a DGX Spark",
                      html_string(q, "train_model"), 100 * html_number(q, "train_share"));
    if (html_number(q, "images_per_hour") > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, "; %g images an hour",
                      html_number(q, "images_per_hour"));
    if (isfinite(html_number(q, "budget_usd")))
        n += snprintf(line + n, sizeof line - (size_t)n, "; a budget of $%.0f",
                      html_number(q, "budget_usd"));
    snprintf(line + n, sizeof line - (size_t)n, ".");
    html_paragraph(out, "p", line);
}

static void why_put(struct buf *out, const json_t *options)
{
    size_t i;
    const json_t *o;
    json_array_foreach(options, i, o)
    {
        if (i == 3)
            break;
        html_paragraph(out, "h3", html_string(o, "name"));
        html_list(out, json_object_get(o, "why"));
        buf_printf(out,
                   "<p class=\"soft\">Needs %.3g GB of %.0f GiB; the largest model of the "
                   "catalogue that fits at Q4_K_M is ",
                   html_number(o, "memory_needed_gb"), html_number(o, "memory_gib"));
        html_text(out, html_string(o, "largest_model_at_q4_k_m"));
        buf_puts(out, ".</p>\n");
    }
}

static void advice_put(struct buf *out, const json_t *d)
{
    const json_t *options = json_object_get(d, "options");
    question_put(out, d);
    html_list(out, json_object_get(d, "advice"));
    buf_puts(out, "<h2>In order</h2>\n");
    options_put(out, d);
    buf_puts(out, "<h2>Where the time goes</h2>\n");
    html_times_put(out, options);
    buf_puts(out, "<h2>What money buys</h2>\n");
    html_frontier_put(out, d);
    buf_puts(out, "<h2>Why</h2>\n");
    why_put(out, options);
}

static void left_out_put(struct buf *out, const json_t *list)
{
    size_t i;
    const json_t *o;
    if (json_array_size(list) == 0)
        return;
    buf_puts(out, "<h2>Left out</h2>\n<ul>\n");
    json_array_foreach(list, i, o)
    {
        buf_puts(out, "<li>");
        html_text(out, html_string(o, "name"));
        buf_puts(out, ": ");
        html_text(out, html_string(o, "why"));
        buf_puts(out, "</li>\n");
    }
    buf_puts(out, "</ul>\n");
}

static void sources_put(struct buf *out, const json_t *sources)
{
    const char *name;
    json_t *list;
    const json_t *s;
    size_t i;
    if (json_object_size(sources) == 0)
        return;
    buf_puts(out, "<h2>Where the figures come from</h2>\n");
    json_object_foreach((json_t *)sources, name, list)
    {
        html_paragraph(out, "h3", name);
        buf_puts(out, "<ul class=\"soft\">\n");
        json_array_foreach(list, i, s)
        {
            const char *url = html_string(s, "url");
            buf_puts(out, "<li>");
            html_text(out, html_string(s, "figures"));
            buf_puts(out, ": <a href=\"");
            html_text(out, strncmp(url, "http", 4) == 0 ? url : "#");
            buf_puts(out, "\">");
            html_text(out, url);
            buf_puts(out, "</a>, <span class=\"day\">");
            html_text(out, html_string(s, "date"));
            buf_puts(out, "</span></li>\n");
        }
        buf_puts(out, "</ul>\n");
    }
}

// ---- a pair --------------------------------------------------------------------------------------------

static void pair_put(struct buf *out, const json_t *d)
{
    const json_t *pair = json_object_get(d, "pair"), *asked = json_object_get(pair, "asked");
    const json_t *names = json_object_get(asked, "machines");
    const json_t *worth = json_object_get(pair, "worth_it");
    if (pair == NULL)
        return;
    buf_puts(out, "<h2>A pair: ");
    html_text(out, json_string_value(json_array_get(names, 0)));
    buf_puts(out, " and ");
    html_text(out, json_string_value(json_array_get(names, 1)));
    buf_puts(out, "</h2>\n<p>");
    html_text(out, html_string(asked, "model"));
    buf_puts(out, " ");
    html_text(out, html_string(asked, "quant"));
    buf_printf(out, ", %.0f tokens in, %.0f out, over ", html_number(asked, "prompt_tokens"),
               html_number(asked, "gen_tokens"));
    html_text(out, html_string(asked, "link"));
    buf_printf(out, "; the cache is %.3g GB.</p>\n", html_number(pair, "kv_bytes") / 1e9);
    if (worth != NULL)
        buf_printf(out, "<p class=\"%s\">%s</p>\n", json_is_true(worth) ? "yes" : "no",
                   json_is_true(worth) ? "Worth it:" : "Not worth it:");
    if (worth != NULL)
        html_list(out, json_object_get(pair, "why"));
    html_pair_times_put(out, pair);
    if (json_object_get(pair, "other_engine") != NULL)
        html_pair_times_put(out, json_object_get(pair, "other_engine"));
    if (json_object_get(d, "curves") != NULL) {
        buf_puts(out, "<h2>Where the gain holds, and where it fades</h2>\n");
        html_curves_put(out, json_object_get(d, "curves"), asked);
    }
}

// ---- platforms -----------------------------------------------------------------------------------------

static void machines_put(struct buf *out, const json_t *machines)
{
    size_t i;
    const json_t *m;
    buf_puts(out,
             "<div class=\"wide\"><table><caption>Published figures of the machines; measured: "
             "of the FP16 rate.</caption>\n<tr><th scope=\"col\">machine</th><th scope=\"col\">"
             "memory, GiB</th><th scope=\"col\">GB/s</th><th scope=\"col\">TFLOPS FP16</th>"
             "<th scope=\"col\">measured</th><th scope=\"col\">W under load</th>"
             "<th scope=\"col\">W idle</th><th scope=\"col\">noise</th><th scope=\"col\">price, "
             "$</th><th scope=\"col\">seen</th></tr>\n");
    json_array_foreach(machines, i, m)
    {
        double gpus = html_number(m, "gpus");
        gpus = isfinite(gpus) ? gpus : 1;
        buf_puts(out, "<tr>");
        cell_text(out, "", html_string(m, "title"));
        cell_whole(out, gpus * html_number(m, "memory_gib"));
        cell_whole(out, html_number(m, "bandwidth_gbs"));
        cell_number(out, gpus * html_number(m, "fp16_tflops"));
        cell_number(out, gpus * html_number(m, "achieved_tflops"));
        cell_whole(out, html_number(m, "load_w"));
        cell_whole(out, html_number(m, "idle_w"));
        cell_text(out, "", html_string(m, "noise"));
        cell_whole(out, html_number(m, "price_usd"));
        cell_text(out, "", html_string(m, "price_date"));
        buf_puts(out, "</tr>\n");
    }
    buf_puts(out, "</table></div>\n");
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

static void work_put(struct buf *out, const json_t *w, const json_t *machines)
{
    size_t i;
    const json_t *v;
    buf_puts(out, "<tr>");
    buf_puts(out, "<td>");
    html_text(out, html_string(w, "what"));
    buf_printf(out, " <span class=\"soft\">(%s, %s is better)</span></td>", html_string(w, "unit"),
               json_is_true(json_object_get(w, "less_is_better")) ? "less" : "more");
    json_array_foreach(json_object_get(w, "values"), i, v)
    {
        const char *name = html_string(json_array_get(machines, i), "name");
        bool best = listed(json_object_get(w, "best"), name);
        buf_puts(out, best ? "<td><strong>best</strong> " : "<td>");
        if (json_is_null(v))
            buf_puts(out, "does not fit");
        else
            html_figure(out, v);
        buf_puts(out, "</td>");
    }
    buf_puts(out, "</tr>\n");
}

static void claims_put(struct buf *out, const json_t *claims)
{
    size_t i;
    const json_t *o;
    buf_puts(out, "<h3>What is said of them</h3>\n<div class=\"wide\"><table><tr><th "
                  "scope=\"col\">said</th><th scope=\"col\" class=\"left\">verdict</th><th "
                  "scope=\"col\" class=\"left\">by the figures here</th></tr>\n");
    json_array_foreach(claims, i, o)
    {
        buf_puts(out, "<tr>");
        cell_text(out, "", html_string(o, "said"));
        cell_text(out, " class=\"left\"", html_string(o, "verdict"));
        cell_text(out, " class=\"left\"", html_string(o, "here"));
        buf_puts(out, "</tr>\n");
    }
    buf_puts(out, "</table></div>\n");
}

static void platforms_put(struct buf *out, const json_t *p)
{
    const json_t *machines = json_object_get(p, "machines"), *o;
    size_t i;
    if (p == NULL)
        return;
    buf_puts(out, "<h2>Which machine is good for what</h2>\n");
    machines_put(out, machines);
    buf_puts(out,
             "<h3>Work</h3>\n<div class=\"wide work\"><table><caption>Predicted for llama.cpp, "
             "with the range of four measurements in five; fine-tuning and images from "
             "arithmetic, with the range of the utilisations that were published elsewhere. "
             "\"best\" also stands at those less than 15 % behind.</caption>\n<tr><th "
             "scope=\"col\">work</th>");
    json_array_foreach(machines, i, o)
    {
        buf_puts(out, "<th scope=\"col\">");
        html_text(out, html_string(o, "name"));
        buf_puts(out, "</th>");
    }
    buf_puts(out, "</tr>\n");
    json_array_foreach(json_object_get(p, "work"), i, o) work_put(out, o, machines);
    buf_puts(out, "</table></div>\n");
    claims_put(out, json_object_get(p, "claims"));
}

// ---- the page ------------------------------------------------------------------------------------------

static void title_put(struct buf *out, const json_t *d)
{
    const char *kind = html_string(d, "kind"), *own = html_string(d, "title");
    const json_t *q = json_object_get(d, "question");
    if (own[0] != '\0') {
        html_text(out, own);
    } else if (strcmp(kind, "advice") == 0) {
        buf_puts(out, "What to buy for ");
        html_text(out, html_string(q, "model"));
        buf_puts(out, " ");
        html_text(out, html_string(q, "quant"));
    } else if (strcmp(kind, "comparison") == 0) {
        buf_puts(out, "Two machines and a link against each of them alone");
    } else {
        buf_puts(out, "Machines for language models at home");
    }
}

void plan_report_html(const json_t *document, struct buf *out)
{
    buf_puts(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                  "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    title_put(out, document);
    buf_puts(out, "</title>\n<style>\n");
    buf_puts(out, style);
    buf_puts(out, "</style>\n</head>\n<body>\n<main>\n<h1>");
    title_put(out, document);
    buf_puts(out, "</h1>\n");
    if (json_object_get(document, "options") != NULL)
        advice_put(out, document);
    if (json_object_get(document, "timeline") != NULL)
        html_timeline_put(out, json_object_get(document, "timeline"));
    pair_put(out, document);
    platforms_put(out, json_object_get(document, "platforms"));
    left_out_put(out, json_object_get(document, "left_out"));
    sources_put(out, json_object_get(document, "sources"));
    buf_puts(out,
             "<p class=\"soft\">Predicted figures come from formulas whose efficiencies were "
             "fitted to published measurements; published ones are called so and are somebody's "
             "single run. Made by tandem plan.</p>\n</main>\n</body>\n</html>\n");
}
