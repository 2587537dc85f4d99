// Charts of a report as SVG elements inside an HTML page, which gives them their colours (classes c0 to c3, so that
// light, dark and paper need no second picture). Nothing is told by colour alone: lines differ in dashes and
// end in their names, areas in patterns, dots in shape.
//
// Every chart has a title and a description for those who do not see it; the page puts its table beside it.
//
// Pure; the texts are any UTF-8 and are escaped here.
#ifndef PLAN_REPORT_SVG_H
#define PLAN_REPORT_SVG_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

struct plan_svg_head {
    const char *id; // unique in the page
    const char *title, *about;
};

struct plan_svg_axis {
    const char *title;
    double low, high; // low > 0 where it is logarithmic
    bool log;
    bool percent;
};

struct plan_svg_line {
    const char *name;
    const double *x, *y;
    const double *low, *high; // a band, or NULL
    size_t n;
    int style; // 0 to 3: colour, dashes, marker
};

struct plan_svg_chart {
    struct plan_svg_head head;
    struct plan_svg_axis x, y;
    const struct plan_svg_line *lines;
    size_t n;
    double rule_y; // a line across, with its name; NAN: none
    const char *rule;
    double mark_x; // a line up; NAN: none
    const char *mark;
};
void plan_svg_lines(const struct plan_svg_chart *c, struct buf *out);

#define PLAN_SVG_PARTS 3
struct plan_svg_bar {
    const char *name;
    double parts[PLAN_SVG_PARTS];
    double low, high; // of the sum; NAN: none
};
struct plan_svg_bars {
    struct plan_svg_head head;
    const char *parts[PLAN_SVG_PARTS], *unit;
    const struct plan_svg_bar *bars;
    size_t n;
};
void plan_svg_bars(const struct plan_svg_bars *b, struct buf *out);

struct plan_svg_dot {
    const char *name;  // shown where it is pointed at
    const char *label; // shown beside it; "": none
    double x, y;
    bool square; // else round
    bool full;   // else hollow; full ones are joined
};
struct plan_svg_dots {
    struct plan_svg_head head;
    struct plan_svg_axis x, y;
    const struct plan_svg_dot *dots;
    size_t n;
};
void plan_svg_dots(const struct plan_svg_dots *d, struct buf *out);

struct plan_svg_strip {
    const char *name, *unit;
    const double *values; // NAN: a gap
    size_t n;
    double step_s;
};
// One strip per series over a common time.
void plan_svg_strips(const struct plan_svg_head *head, const struct plan_svg_strip *strips,
                     size_t n, struct buf *out);

#endif
