// What the files of the HTML report share. Private to plan/report_html*.c.
#ifndef PLAN_REPORT_HTML_H
#define PLAN_REPORT_HTML_H

#include "base/buf.h"

#include <jansson.h>

double html_number(const json_t *o, const char *member);
const char *html_string(const json_t *o, const char *member); // "" where it is none
void html_text(struct buf *out, const char *s);               // escaped
void html_paragraph(struct buf *out, const char *tag, const char *s);
void html_list(struct buf *out, const json_t *strings);
// "5.0 (3.9 to 6.5)", or a dash.
void html_figure(struct buf *out, const json_t *figure);
// "4,699"; three digits below a thousand.
const char *html_short(double x, char out[64]);

// Figures: a chart and its table side by side.
void html_times_put(struct buf *out, const json_t *options);
void html_frontier_put(struct buf *out, const json_t *document);
void html_pair_times_put(struct buf *out, const json_t *pair);
void html_curves_put(struct buf *out, const json_t *curves, const json_t *asked);
void html_timeline_put(struct buf *out, const json_t *timeline);

#endif
