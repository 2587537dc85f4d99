#include "gateway/profiles.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/db.h"
#include "base/json.h"
#include "base/log.h"
#include "sched/profile_json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096

static const char *const migrations[] = {
    "CREATE TABLE profiles(node TEXT NOT NULL, model TEXT NOT NULL, updated INTEGER NOT NULL,"
    "                      book TEXT NOT NULL, PRIMARY KEY(node, model));"
    "CREATE TABLE links(node TEXT NOT NULL, model TEXT NOT NULL, updated INTEGER NOT NULL,"
    "                   book TEXT NOT NULL, PRIMARY KEY(node, model));",
};

enum kind { NODE, LINK, KINDS };

// Statements of either table; a link's second node stands where a profile's model does.
static const char *const sql_load[KINDS] = {
    "SELECT node, model, book FROM profiles ORDER BY updated DESC, node, model LIMIT ?1",
    "SELECT node, model, book FROM links ORDER BY updated DESC, node, model LIMIT ?1",
};
static const char *const sql_save[KINDS] = {
    "INSERT INTO profiles(node, model, updated, book) VALUES(?1, ?2, ?3, ?4)"
    " ON CONFLICT(node, model) DO UPDATE SET updated = ?3, book = ?4",
    "INSERT INTO links(node, model, updated, book) VALUES(?1, ?2, ?3, ?4)"
    " ON CONFLICT(node, model) DO UPDATE SET updated = ?3, book = ?4",
};
static const char *const sql_prune[KINDS] = {
    "DELETE FROM profiles WHERE updated < ?1",
    "DELETE FROM links WHERE updated < ?1",
};

struct entry {
    char node[PROFILES_NAME_BYTES], model[PROFILES_NAME_BYTES];
    double saved; // samples that the file's row stands on
    union {
        struct profile_book node_book;
        struct profile_link_book link_book;
    };
};

struct profiles {
    struct db *db; // NULL: in memory only
    int64_t written_ns;
    struct entry **entries[KINDS];
    size_t n[KINDS];
};

// ---- books in memory -------------------------------------------------------------------------------------

// Grows with everything that a book learns, so that it tells whether the file's row is of today.
static double samples_of(const struct entry *t, enum kind kind)
{
    const struct profile_book *b = &t->node_book;
    const struct profile_link_book *l = &t->link_book;

    if (kind == LINK)
        return l->rtt.samples + l->up.samples + l->down.samples + l->setup.samples;
    return b->read.samples + b->step.samples + b->export.samples + b->import.samples +
           b->load.samples;
}

static struct entry *entry_find(const struct profiles *p, enum kind kind, const char *node,
                                const char *model)
{
    for (size_t i = 0; i < p->n[kind]; i++) {
        struct entry *t = p->entries[kind][i];
        if (strcmp(t->node, node) == 0 && strcmp(t->model, model) == 0)
            return t;
    }
    return NULL;
}

// NULL: no room, or a name that does not fit.
static struct entry *entry_add(struct profiles *p, enum kind kind, const char *node,
                               const char *model)
{
    struct entry *t;

    if (p->n[kind] == PROFILES_MOST || strlen(node) >= PROFILES_NAME_BYTES ||
        strlen(model) >= PROFILES_NAME_BYTES) {
        log_warn("gateway", "no room for a profile node=%.32s model=%.32s held=%zu", node, model,
                 p->n[kind]);
        return NULL;
    }
    t = mem_alloc(sizeof(*t));
    snprintf(t->node, sizeof(t->node), "%s", node);
    snprintf(t->model, sizeof(t->model), "%s", model);
    p->entries[kind] = mem_resize(p->entries[kind], (p->n[kind] + 1) * sizeof(struct entry *));
    p->entries[kind][p->n[kind]++] = t;
    return t;
}

struct profile_book *profiles_get(struct profiles *p, const char *node, const char *model,
                                  const struct profile *begin, double trust)
{
    struct entry *t = entry_find(p, NODE, node, model);

    if (t)
        return &t->node_book;
    t = entry_add(p, NODE, node, model);
    if (!t)
        return NULL;
    profile_book_init(&t->node_book, begin, trust);
    return &t->node_book;
}

struct profile_link_book *profiles_link(struct profiles *p, const char *from, const char *to,
                                        const struct profile_link *begin, double trust)
{
    struct entry *t = entry_find(p, LINK, from, to);

    if (t)
        return &t->link_book;
    t = entry_add(p, LINK, from, to);
    if (!t)
        return NULL;
    profile_link_init(&t->link_book, begin, trust);
    return &t->link_book;
}

// ---- the file --------------------------------------------------------------------------------------------

static int row_read(struct entry *t, enum kind kind, const char *text, struct err *e)
{
    json_t *o = json_parse(text, strlen(text), e);
    int rc = o ? 0 : ERR_INVALID;

    if (o)
        rc = kind == NODE ? profile_book_parse(o, &t->node_book, e)
                          : profile_link_book_parse(o, &t->link_book, e);
    json_decref(o);
    return rc;
}

// A row that cannot be read is as if it were not there; the next write replaces it.
static void row_load(struct profiles *p, enum kind kind, struct db_statement *s)
{
    struct entry fresh = {0}, *t;
    struct profile defaults;
    struct err e = {0};
    const char *node = db_column_text(s, 0), *model = db_column_text(s, 1);

    profile_defaults(&defaults);
    if (kind == NODE)
        profile_book_init(&fresh.node_book, &defaults, PROFILE_TRUST_NONE);
    if (row_read(&fresh, kind, db_column_text(s, 2), &e) != 0) {
        log_warn("gateway", "a kept profile is left out node=%.32s model=%.32s error=\"%s\"", node,
                 model, e.message);
        return;
    }
    t = entry_add(p, kind, node, model);
    if (!t)
        return;
    memcpy(fresh.node, t->node, sizeof(fresh.node));
    memcpy(fresh.model, t->model, sizeof(fresh.model));
    *t = fresh;
    t->saved = samples_of(t, kind);
}

static int rows_load(struct profiles *p, enum kind kind, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(p->db, sql_prune[kind], &s, e);

    if (rc == 0)
        db_bind_i64(s, 1, clock_unix_s() - PROFILES_KEEP_S);
    rc = db_run(s, rc, e);
    s = NULL;
    rc = rc ? rc : db_prepare(p->db, sql_load[kind], &s, e);
    if (rc != 0)
        return rc;
    db_bind_i64(s, 1, PROFILES_MOST / 2); // the other half is for nodes that are new
    while ((rc = db_step(s, e)) == 1)
        row_load(p, kind, s);
    db_finish(s);
    return rc;
}

// The log of writes goes along, or it would be applied to the new file.
static int newer_set_aside(const char *path, struct err *e)
{
    static const char *const tails[] = {"", "-wal", "-shm"};
    char from[PATH_BYTES], to[PATH_BYTES];
    int64_t now = clock_unix_s();

    for (size_t i = 0; i < 3; i++) {
        snprintf(from, sizeof(from), "%s%s", path, tails[i]);
        snprintf(to, sizeof(to), "%s.newer-%" PRId64 "%s", path, now, tails[i]);
        if (rename(from, to) != 0 && (i == 0 || errno != ENOENT))
            return err_set(e, ERR_IO, "cannot rename %s: %s", from, strerror(errno));
    }
    return 0;
}

static int file_open(struct profiles *p, const char *path, struct err *e)
{
    const struct db_options o = {.path = path, .migrations = migrations, .n_migrations = 1};
    int rc = db_open(&o, &p->db, e);

    if (rc != ERR_MISMATCH)
        return rc;
    log_warn("gateway", "kept profiles are set aside, a new file begins error=\"%s\"", e->message);
    rc = newer_set_aside(path, e);
    return rc ? rc : db_open(&o, &p->db, e);
}

struct profiles *profiles_open(const char *path)
{
    struct profiles *p = mem_alloc(sizeof(*p));
    struct err e = {0};
    int rc;

    if (!path)
        return p;
    rc = file_open(p, path, &e);
    if (rc == 0)
        for (int kind = NODE; kind < KINDS && rc == 0; kind++)
            rc = rows_load(p, (enum kind)kind, &e);
    if (rc == 0)
        return p;
    log_warn("gateway", "profiles are kept in memory only error=\"%s\"", e.message);
    db_close(p->db);
    p->db = NULL;
    return p;
}

static int row_save(struct profiles *p, enum kind kind, const struct entry *t, struct err *e)
{
    struct db_statement *s = NULL;
    json_t *o =
        kind == NODE ? profile_book_json(&t->node_book) : profile_link_book_json(&t->link_book);
    char *text = json_text(o);
    int rc = db_prepare(p->db, sql_save[kind], &s, e);

    if (rc == 0) {
        db_bind_text(s, 1, t->node);
        db_bind_text(s, 2, t->model);
        db_bind_i64(s, 3, clock_unix_s());
        db_bind_text(s, 4, text);
    }
    rc = db_run(s, rc, e);
    free(text);
    json_decref(o);
    return rc;
}

static bool entry_learned(const struct entry *t, enum kind kind)
{
    double samples = samples_of(t, kind);

    return samples < t->saved || samples > t->saved;
}

static int rows_save(struct profiles *p, struct err *e)
{
    for (int kind = NODE; kind < KINDS; kind++)
        for (size_t i = 0; i < p->n[kind]; i++) {
            const struct entry *t = p->entries[kind][i];
            int rc = entry_learned(t, (enum kind)kind) ? row_save(p, (enum kind)kind, t, e) : 0;
            if (rc != 0)
                return rc;
        }
    return 0;
}

static size_t learned_count(const struct profiles *p)
{
    size_t n = 0;

    for (int kind = NODE; kind < KINDS; kind++)
        for (size_t i = 0; i < p->n[kind]; i++)
            n += entry_learned(p->entries[kind][i], (enum kind)kind);
    return n;
}

static void write_all(struct profiles *p)
{
    struct err e = {0};
    int rc;

    if (!p->db || learned_count(p) == 0)
        return;
    rc = db_begin(p->db, &e);
    if (rc == 0)
        rc = db_end(p->db, rows_save(p, &e), &e);
    if (rc != 0) {
        log_warn("gateway", "profiles were not written error=\"%s\"", e.message);
        return;
    }
    for (int kind = NODE; kind < KINDS; kind++)
        for (size_t i = 0; i < p->n[kind]; i++)
            p->entries[kind][i]->saved = samples_of(p->entries[kind][i], (enum kind)kind);
}

void profiles_tick(struct profiles *p, int64_t now_ns)
{
    if (p->written_ns != 0 && now_ns - p->written_ns < PROFILES_EVERY_NS)
        return;
    p->written_ns = now_ns;
    write_all(p);
}

void profiles_close(struct profiles *p)
{
    if (!p)
        return;
    write_all(p);
    db_close(p->db);
    for (int kind = NODE; kind < KINDS; kind++) {
        for (size_t i = 0; i < p->n[kind]; i++)
            free(p->entries[kind][i]);
        free(p->entries[kind]);
    }
    free(p);
}
