#include "base/examples.h"

#include "base/buf.h"
#include "base/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

bool examples_learned(const json_t *message)
{
    const json_t *weight = json_object_get(message, "weight");
    const char *role = json_string_value(json_object_get(message, "role"));
    return strcmp(role, "assistant") == 0 &&
           !(json_is_number(weight) && json_number_value(weight) == 0);
}

// ---- one line ------------------------------------------------------------------------------------

static int message_check(const json_t *m, size_t number, struct err *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const char *role = json_string_value(json_object_get(m, "role"));
    bool known = false;
    for (size_t k = 0; role && k < sizeof roles / sizeof *roles; k++)
        known = known || strcmp(role, roles[k]) == 0;
    if (!known)
        return err_set(
            e, ERR_INVALID,
            "message %zu has role \"%.40s\"; system, developer, user, assistant and tool "
            "are known",
            number, role ? role : "(none)");
    const json_t *content = json_object_get(m, "content");
    bool calls = json_is_array(json_object_get(m, "tool_calls"));
    if (json_is_string(content) || (calls && (!content || json_is_null(content))))
        return 0;
    return err_set(e, ERR_INVALID, "message %zu has no text as \"content\"", number);
}

static int example_check(const json_t *example, struct err *e)
{
    const json_t *messages = json_object_get(example, "messages"), *m;
    size_t i, learned = 0;
    if (!json_is_object(example))
        return err_set(e, ERR_INVALID, "must be a JSON object");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return err_set(e, ERR_INVALID, "\"messages\" must be a list with at least one message");
    json_array_foreach(messages, i, m)
    {
        int rc = message_check(m, i + 1, e);
        if (rc != 0)
            return rc;
        learned += examples_learned(m);
    }
    if (learned == 0)
        return err_set(e, ERR_INVALID, "no message of the assistant is to be learned");
    return 0;
}

// ---- the file ------------------------------------------------------------------------------------

struct reading {
    FILE *file;
    struct buf line;
    XXH64_state_t *hash;
    size_t number;
    examples_each *each;
    void *ctx;
    struct examples_facts facts;
};

// The next line with its end, at most EXAMPLES_LINE_MAX bytes of it; *n is its whole length, 0 at the end.
static void line_next(struct reading *r, size_t *n)
{
    int c;
    *n = 0;
    buf_clear(&r->line);
    while ((c = getc_unlocked(r->file)) != EOF) {
        uint8_t byte = (uint8_t)c;
        if (++*n <= EXAMPLES_LINE_MAX)
            buf_put(&r->line, &byte, 1);
        if (c == '\n')
            break;
    }
}

static bool is_blank(const struct buf *b)
{
    for (size_t i = 0; i < b->len; i++)
        if (!strchr(" \t\r\n", b->data[i]) || b->data[i] == '\0')
            return false;
    return true;
}

static int line_read(struct reading *r, size_t n, struct err *e)
{
    if (n > EXAMPLES_LINE_MAX)
        return err_set(e, ERR_RANGE, "%zu bytes, at most %u are taken", n, EXAMPLES_LINE_MAX);
    if (is_blank(&r->line))
        return 0; // as editors leave at the end
    if (r->facts.n == EXAMPLES_MAX)
        return err_set(e, ERR_RANGE, "at most %u examples are taken", EXAMPLES_MAX);
    json_t *example = json_parse(r->line.data, r->line.len, e);
    if (!example)
        return e->code;
    int rc = example_check(example, e);
    if (rc == 0 && r->each)
        rc = r->each(r->ctx, example, e);
    json_decref(example);
    r->facts.n++;
    return rc;
}

static int lines_read(struct reading *r, struct err *e)
{
    int rc = 0;
    size_t n;
    while (rc == 0 && (line_next(r, &n), n > 0)) {
        r->number++;
        r->facts.bytes += n;
        XXH64_update(r->hash, r->line.data, r->line.len);
        rc = line_read(r, n, e);
        if (rc != 0)
            err_wrap(e, "line %zu", r->number);
    }
    if (rc == 0 && ferror(r->file))
        rc = err_set(e, ERR_IO, "%s", strerror(errno));
    if (rc == 0 && r->facts.n == 0)
        rc = err_set(e, ERR_INVALID, "there is no example in it; one JSON object a line is wanted");
    return rc;
}

int examples_read(const char *path, examples_each *each, void *ctx, struct examples_facts *facts,
                  struct err *e)
{
    struct reading r = {.each = each, .ctx = ctx};
    struct err own = {0};
    struct stat st;
    int rc = 0;
    // A pipe that nobody writes to would be waited for.
    if (stat(path, &st) != 0)
        rc = err_set(&own, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = err_set(&own, ERR_INVALID, "it is no file");
    else if (!(r.file = fopen(path, "re")))
        rc = err_set(&own, ERR_IO, "%s", strerror(errno));
    if (rc == 0) {
        buf_init(&r.line, EXAMPLES_LINE_MAX);
        r.hash = XXH64_createState();
        XXH64_reset(r.hash, 0);
        rc = lines_read(&r, &own);
        r.facts.hash = XXH64_digest(r.hash);
        XXH64_freeState(r.hash);
        buf_fini(&r.line);
        fclose(r.file);
    }
    *facts = r.facts;
    if (rc == 0)
        return 0;
    err_wrap(&own, "'%s'", path);
    return err_set(e, rc, "%s", own.message);
}
