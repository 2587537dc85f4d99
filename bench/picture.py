"""Small pictures of measurements as SVG: curves, and bars over time. Pure; standard library only."""

from xml.sax.saxutils import escape

# Okabe and Ito's palette; dashes and marks differ too, for those who see no colours.
COLORS = ["#009E73", "#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = ["", "7 4", "2 3", "9 3 2 3", "4 2", "1 4"]
WIDTH, LEFT, TOP = 960, 90, 118


def svg(height, body):
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" '
            'font-family="Helvetica, Arial, sans-serif" font-size="13">\n'
            '<style>.t{font-size:20px;font-weight:bold}.s{fill:#555}.l{text-anchor:end}'
            '.a{text-anchor:middle;fill:#555}.g{stroke:#ddd}</style>\n'
            '<rect width="100%%" height="100%%" fill="#fff"/>\n%s</svg>\n' % (WIDTH, height, WIDTH, height, "".join(body)))


def text(x, y, kind, what):
    return '<text x="%.1f" y="%.1f" class="%s">%s</text>\n' % (x, y, kind, escape(str(what)))


def line(x0, y0, x1, y1, kind="g"):
    return '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>\n' % (x0, y0, x1, y1, kind)


def tick(span, most):
    """The distance of ticks: 1, 2 or 5 times a power of ten, at most `most` of them."""
    power = 1e-6
    while True:
        for step in (1, 2, 5):
            if span / (step * power) <= most:
                return step * power
        power *= 10


def ticks(span, most):
    step = tick(span, most)
    return [i * step for i in range(int(span / step * 1.0001) + 1)]


def head(title, notes):
    return [text(24, 36, "t", title)] + [text(24, 58 + 18 * i, "s", note) for i, note in enumerate(notes)]


def curves(title, notes, axes, series):
    """series: {name: [(x, y)]}; axes: (x's name, y's name). Both begin at 0."""
    width, height = 620.0, 320.0
    x_most = max(x for points in series.values() for x, _ in points) * 1.05
    y_most = max(max(y for points in series.values() for _, y in points) * 1.1, 1e-9)
    def at(x, y):
        return LEFT + x / x_most * width, TOP + height - y / y_most * height
    body = head(title, notes)
    for v in ticks(x_most, 8):
        x, y = at(v, 0)
        body += [line(x, TOP, x, y), text(x, y + 18, "a", "%g" % round(v, 6))]
    for v in ticks(y_most, 6):
        x, y = at(0, v)
        body += [line(x, y, x + width, y), text(x - 8, y + 4, "l", "%g" % round(v, 6))]
    body += [text(LEFT + width / 2, TOP + height + 40, "a", axes[0]), text(24, TOP - 14, "s", axes[1])]
    for i, (name, points) in enumerate(series.items()):
        color, y = COLORS[i % len(COLORS)], TOP + 14 + 22 * i
        path = "M" + "L".join("%.1f %.1f" % at(*p) for p in sorted(points))
        body.append('<path d="%s" fill="none" stroke="%s" stroke-width="2.5" stroke-dasharray="%s"/>\n'
                    % (path, color, DASHES[i % len(DASHES)]))
        for p in points:
            body.append('<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%s: %.3g, %.3g</title></circle>\n'
                        % (*at(*p), color, escape(name), *p))
        x = LEFT + width + 24
        body.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="2.5" stroke-dasharray="%s"/>\n'
                    % (x, y - 4, x + 34, y - 4, color, DASHES[i % len(DASHES)]))
        body.append(text(x + 42, y, "v", name))
    return svg(TOP + height + 64, body)


def bars(title, notes, groups, colors):
    """groups: [(name, mark in seconds or None, what the mark is, [(row's name, [(kind, from, to)])])];
    colors: {kind: colour}."""
    left, width, row = 200.0, 660.0, 18.0
    most = max(t for _, mark, _, rows in groups for t in [mark or 0] + [e[2] for _, spans in rows for e in spans]) * 1.03
    body, y = head(title, notes), float(TOP - 20)
    def x_of(t):
        return left + t / most * width
    for name, mark, what, rows in groups:
        body.append(text(24, y + 14, "v", name))
        y, top = y + 24, y + 20
        for label, spans in rows:
            body.append(text(left - 10, y + 12, "l", label))
            for kind, begin, end in spans:
                body.append('<rect x="%.1f" y="%.1f" width="%.1f" height="13" fill="%s"><title>%s: %.3f to %.3f s</title></rect>\n'
                            % (x_of(begin), y, max(x_of(end) - x_of(begin), 0.6), colors[kind], escape(kind), begin, end))
            y += row
        for v in ticks(most, 10):
            body.append(line(x_of(v), top, x_of(v), y))
            body.append(text(x_of(v), y + 14, "a", "%g" % round(v, 6)))
        if mark:
            body.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#222" stroke-dasharray="4 3"/>\n'
                        % (x_of(mark), top - 6, x_of(mark), y))
            body.append(text(x_of(mark), top - 10, "a", what))
        y += 34
    x = left
    for kind, color in colors.items():
        body.append('<rect x="%.1f" y="%.1f" width="12" height="12" fill="%s"/>\n' % (x, y - 10, color))
        body.append(text(x + 18, y, "v", kind))
        x += 30 + 8 * len(kind)
    return svg(y + 24, body)
