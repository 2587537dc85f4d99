// Pictures of a measurement, from its JSON (cli/bench.h says what is in it): the table of lines and
// the timeline of the hybrid run, as text for a terminal and as one SVG. Pure functions: the same
// JSON gives the same bytes.
#ifndef CLI_DRAW_H
#define CLI_DRAW_H

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>

struct draw_style {
    bool utf8, color;
    int width; // columns
};

// What a bar of a timeline can show, in the order in which lanes are drawn.
struct draw_lane {
    const char *who, *what; // as in the timeline's entries
    const char *label;      // what it is called in pictures
    const char *svg_color;  // of the Okabe-Ito palette, which the colour-blind can tell apart
    int ansi_color;
};
extern const struct draw_lane draw_lanes[];
extern const size_t draw_lanes_n;
// Entries of `result`'s timeline that belong to a lane: their number.
size_t draw_lane_entries(const json_t *result, const struct draw_lane *lane);
// When the last entry of the timeline ends (s); 0 when there is none.
double draw_timeline_end(const json_t *result);
// A member that is a number, or 0; path members are separated by dots.
double draw_number(const json_t *object, const char *path);
// The distance of ticks for an axis of `span`: 1, 2 or 5 times a power of ten, at most `most` of
// them.
double draw_tick(double span, int most);

void draw_table_text(const json_t *result, const struct draw_style *style, struct buf *out);
void draw_timeline_text(const json_t *result, const struct draw_style *style, struct buf *out);
void draw_svg(const json_t *result, struct buf *out);

#define DRAW_MAX_BYTES (4u << 20)

#endif
