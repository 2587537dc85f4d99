#include "plan/trace.h"

#include "base/buf.h"
#include "os/os.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MAX 15 // that a double holds exactly
#define FIELDS_MAX 4

struct field {
    const char *text;
    size_t n;
};

// Names of sessions, by open addressing; `text` points into the file.
struct names {
    struct field *slots;
    uint32_t *numbers;
    size_t cap, n;
};

struct parser {
    struct trace *out;
    size_t cap, line;
    size_t columns;
    struct names names;
};

// ---- names ---------------------------------------------------------------------------------------------

static uint64_t name_hash(const struct field *f)
{
    uint64_t h = 0xcbf29ce484222325u; // FNV-1a
    for (size_t i = 0; i < f->n; i++)
        h = (h ^ (uint8_t)f->text[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static size_t slot_find(const struct names *t, const struct field *f)
{
    size_t i = name_hash(f) & (t->cap - 1);
    while (t->slots[i].text != NULL &&
           (t->slots[i].n != f->n || memcmp(t->slots[i].text, f->text, f->n) != 0))
        i = (i + 1) & (t->cap - 1);
    return i;
}

static void names_grow(struct names *t)
{
    struct names wider = {.cap = t->cap == 0 ? 1024 : 2 * t->cap, .n = t->n};
    wider.slots = mem_alloc(wider.cap * sizeof *wider.slots);
    wider.numbers = mem_alloc(wider.cap * sizeof *wider.numbers);
    for (size_t i = 0; i < t->cap; i++) {
        if (t->slots[i].text == NULL)
            continue;
        size_t to = slot_find(&wider, &t->slots[i]);
        wider.slots[to] = t->slots[i];
        wider.numbers[to] = t->numbers[i];
    }
    free(t->slots);
    free(t->numbers);
    *t = wider;
}

static uint32_t name_number(struct names *t, const struct field *f)
{
    if (2 * t->n >= t->cap)
        names_grow(t);
    size_t i = slot_find(t, f);
    if (t->slots[i].text == NULL) {
        t->slots[i] = *f;
        t->numbers[i] = (uint32_t)t->n++;
    }
    return t->numbers[i];
}

// ---- one line --------------------------------------------------------------------------------------------

// Digits with at most one point; independent of the locale. False: it is none.
static bool decimal_parse(const struct field *f, double *out)
{
    static const double tens[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    uint64_t digits = 0;
    size_t n = 0, after = 0;
    bool point = false;
    for (size_t i = 0; i < f->n; i++) {
        char c = f->text[i];
        if (c == '.' && !point && n > 0) {
            point = true;
            continue;
        }
        if (c < '0' || c > '9' || n == DIGITS_MAX)
            return false;
        digits = digits * 10 + (uint64_t)(c - '0');
        n++;
        after += point;
    }
    *out = (double)digits / tens[after];
    return n > 0 && (!point || after > 0);
}

static int count_parse(const struct parser *p, const struct field *f, const char *what,
                       uint32_t *out, struct err *e)
{
    double x = 0;
    if (!decimal_parse(f, &x) || memchr(f->text, '.', f->n) != NULL || x < 1 ||
        x > TRACE_TOKENS_MAX)
        return err_set(e, ERR_INVALID, "line %zu: %s is \"%.*s\"; it must be 1 to %u tokens",
                       p->line, what, (int)(f->n < 40 ? f->n : 40), f->text, TRACE_TOKENS_MAX);
    *out = (uint32_t)x;
    return 0;
}

static size_t fields_split(const char *line, size_t n, struct field out[FIELDS_MAX + 1])
{
    size_t fields = 0, from = 0;
    for (size_t i = 0; i <= n && fields <= FIELDS_MAX; i++) {
        if (i < n && line[i] != ',')
            continue;
        out[fields++] = (struct field){line + from, i - from};
        from = i + 1;
    }
    return fields;
}

static int header_parse(struct parser *p, const char *line, size_t n, struct err *e)
{
    static const char without[] = "arrival,prompt,answer", with[] = "arrival,prompt,answer,session";
    if (n == sizeof without - 1 && memcmp(line, without, n) == 0)
        p->columns = 3;
    else if (n == sizeof with - 1 && memcmp(line, with, n) == 0)
        p->columns = 4;
    else
        return err_set(e, ERR_INVALID,
                       "line 1 is \"%.*s\"; it must name the columns: %s, or %s with a session",
                       (int)(n < 60 ? n : 60), line, with, without);
    return 0;
}

static int arrival_parse(const struct parser *p, const struct field *f, double *out, struct err *e)
{
    double before = p->out->n > 0 ? p->out->rows[p->out->n - 1].arrival_s : 0;
    if (!decimal_parse(f, out) || *out > TRACE_SECONDS_MAX)
        return err_set(e, ERR_INVALID,
                       "line %zu: arrival is \"%.*s\"; it must be seconds, 0 to %.0f, like 12.5",
                       p->line, (int)(f->n < 40 ? f->n : 40), f->text, TRACE_SECONDS_MAX);
    if (*out < before)
        return err_set(e, ERR_INVALID,
                       "line %zu: arrival %.9g comes before the line above, %.9g; sort the file",
                       p->line, *out, before);
    return 0;
}

static int row_parse(struct parser *p, const char *line, size_t n, struct err *e)
{
    struct field f[FIELDS_MAX + 1];
    struct trace_row row = {.session = TRACE_NO_SESSION};
    size_t fields = fields_split(line, n, f);
    if (fields != p->columns)
        return err_set(e, ERR_INVALID, "line %zu has %s%zu fields; there must be %zu", p->line,
                       fields > FIELDS_MAX ? "at least " : "", fields, p->columns);
    int rc = arrival_parse(p, &f[0], &row.arrival_s, e);
    if (rc == 0)
        rc = count_parse(p, &f[1], "prompt", &row.prompt_tokens, e);
    if (rc == 0)
        rc = count_parse(p, &f[2], "answer", &row.answer_tokens, e);
    if (rc != 0)
        return rc;
    if (fields == 4 && f[3].n > TRACE_NAME_MAX)
        return err_set(e, ERR_INVALID, "line %zu: the session's name has %zu bytes; at most %u",
                       p->line, f[3].n, TRACE_NAME_MAX);
    if (fields == 4 && f[3].n > 0)
        row.session = name_number(&p->names, &f[3]);
    if (p->out->n == TRACE_ROWS_MAX)
        return err_set(e, ERR_RANGE, "line %zu: more than %u requests", p->line, TRACE_ROWS_MAX);
    if (p->out->n == p->cap) {
        p->cap = p->cap == 0 ? 1024 : 2 * p->cap;
        p->out->rows = mem_resize(p->out->rows, p->cap * sizeof *p->out->rows);
    }
    p->out->rows[p->out->n++] = row;
    return 0;
}

// ---- the file --------------------------------------------------------------------------------------------

int trace_parse(const char *text, size_t n, struct trace *out, struct err *e)
{
    struct parser p = {.out = out};
    int rc = 0;
    *out = (struct trace){0};
    for (size_t from = 0; rc == 0 && from < n;) {
        const char *end = memchr(text + from, '\n', n - from);
        size_t line = (end != NULL ? (size_t)(end - text) : n) - from, length = line;
        if (length > 0 && text[from + length - 1] == '\r')
            length--;
        p.line++;
        rc = p.columns == 0 ? header_parse(&p, text + from, length, e)
                            : row_parse(&p, text + from, length, e);
        from += line + 1;
    }
    if (rc == 0 && out->n == 0)
        rc = err_set(e, ERR_INVALID, "there is no request in it; a line is like 0.5,1024,200,anna");
    out->sessions = (uint32_t)p.names.n;
    free(p.names.slots);
    free(p.names.numbers);
    if (rc != 0)
        trace_fini(out);
    return rc;
}

int trace_read(const char *path, struct trace *out, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    int rc = os_file_read(path, TRACE_BYTES_MAX, &text, &n, e);
    if (rc == 0)
        rc = trace_parse(text, n, out, e);
    free(text);
    return rc == 0 ? 0 : err_wrap(e, "trace %s", path);
}

void trace_fini(struct trace *t)
{
    free(t->rows);
    *t = (struct trace){0};
}
