#include "models/pull.h"

#include "base/buf.h"
#include "base/clock.h"
#include "models/hub.h"
#include "models/pull_impl.h"
#include "net/http_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

void models_pull_default(struct models_pull *p)
{
    *p =
        (struct models_pull){.endpoint = "https://huggingface.co", .retries = 5, .retry_wait_s = 1};
}

// ---- shared by all sources -----------------------------------------------------------------------

static bool file_is_there(const struct models_entry *m, const struct models_file *f)
{
    char path[MODELS_PATH_BYTES];
    struct stat st;
    return models_entry_path(m, f->name, path, NULL) == 0 && stat(path, &st) == 0 &&
           S_ISREG(st.st_mode) && (uint64_t)st.st_size == f->bytes;
}

// Whether all files of a complete model are there in their sizes.
static bool is_there(const struct models_entry *m)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (!file_is_there(m, &m->files[i]))
            return false;
    return m->complete && (!m->projector.name[0] || file_is_there(m, &m->projector));
}

// Removes what an older version of the model had and the new one has not.
static void leftovers_remove(const struct models_entry *old, const struct models_entry *m)
{
    char path[MODELS_PATH_BYTES];
    for (size_t i = 0; i < old->n_files; i++) {
        bool kept = false;
        for (size_t k = 0; k < m->n_files; k++)
            kept |= strcmp(old->files[i].name, m->files[k].name) == 0;
        if (!kept && models_entry_path(m, old->files[i].name, path, NULL) == 0)
            unlink(path);
    }
}

void models_pull_files_set(struct models_entry *m, const char *name,
                           const struct models_split *split)
{
    m->n_files = split ? split->count : 1;
    m->files = mem_alloc(m->n_files * sizeof *m->files);
    for (size_t i = 0; i < m->n_files; i++) {
        struct models_file *f = &m->files[i];
        f->bytes = MODELS_SIZE_UNKNOWN;
        snprintf(f->name, sizeof f->name, "%s", name);
        if (split)
            snprintf(f->name + split->stem, sizeof f->name - split->stem, "-%05zu-of-%05u.gguf",
                     i + 1, split->count);
    }
}

int models_pull_complete(struct models_entry *m, const struct models_entry *old, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    struct models_gguf *g = mem_alloc(sizeof *g);
    int rc = models_entry_path(m, m->files[0].name, path, e);
    if (rc == 0)
        rc = models_gguf_read(path, g, e);
    if (rc != 0) {
        free(g);
        return rc;
    }
    snprintf(m->arch, sizeof m->arch, "%s", g->arch);
    snprintf(m->size_label, sizeof m->size_label, "%s", g->size_label);
    m->n_ctx = g->n_ctx;
    m->params = g->params;
    m->pulled_unix_s = clock_unix_s();
    m->complete = true;
    models_gguf_fini(g);
    free(g);
    rc = models_entry_save(m, e);
    if (rc == 0 && old)
        leftovers_remove(old, m);
    return rc;
}

int models_pull_begin(struct models_entry *m, const struct models_entry *old, struct err *e)
{
    int rc = models_entry_dir_make(m, e);
    m->pulled_unix_s = clock_unix_s();
    m->complete = false;
    return rc != 0 || (old && old->complete) ? rc : models_entry_save(m, e);
}

// ---- fetching ------------------------------------------------------------------------------------

struct fetching {
    const struct models_pull *p;
    struct models_entry *m;
    const struct models_entry *old;       // NULL: none
    const struct models_hub_options *hub; // NULL: an address
    const char *token;
};

// Whether the file at its place is what is wanted: by what the manifest said of it, else by summing it up.
static bool is_same(const struct fetching *f, const struct models_file *file, const char *path)
{
    char sum[MODELS_SUM_BYTES];
    struct err ignored;
    if (!file->sha256[0] || !file_is_there(f->m, file))
        return false;
    for (size_t i = 0; f->old && f->old->complete && i < f->old->n_files; i++)
        if (strcmp(f->old->files[i].name, file->name) == 0)
            return strcmp(f->old->files[i].sha256, file->sha256) == 0;
    return models_fetch_sum(path, &f->p->watch, sum, &ignored) == 0 &&
           strcmp(sum, file->sha256) == 0;
}

static int file_fetch(const struct fetching *f, const char *url, struct models_file *file,
                      struct err *e)
{
    char path[MODELS_PATH_BYTES];
    struct models_fetched got = {0};
    int rc = models_entry_path(f->m, file->name, path, e);
    if (rc != 0 || is_same(f, file, path))
        return rc;
    struct models_fetch fetch = {.url = url,
                                 .token = f->token,
                                 .path = path,
                                 .sha256 = file->sha256[0] ? file->sha256 : NULL,
                                 .bytes = file->bytes,
                                 .retries = f->p->retries,
                                 .retry_wait_s = f->p->retry_wait_s,
                                 .stall_s = f->p->stall_s,
                                 .watch = &f->p->watch};
    rc = models_fetch_run(&fetch, &got, e);
    bool refused = rc == ERR_AUTH || rc == ERR_NOT_FOUND;
    if (refused && f->hub && got.status >= 400)
        return models_hub_explain(f->hub, &got, e);
    if (rc != 0) {
        err_wrap(e, "%.100s", file->name);
        return rc;
    }
    file->bytes = got.bytes;
    memcpy(file->sha256, got.sha256, sizeof file->sha256);
    return 0;
}

// ---- repositories --------------------------------------------------------------------------------

static int entry_file_set(struct models_file *f, const struct models_hub_file *from)
{
    snprintf(f->name, sizeof f->name, "%s", models_base_name(from->path));
    f->bytes = from->bytes;
    memcpy(f->sha256, from->sha256, sizeof f->sha256);
    return 0;
}

static void entry_from_hub(struct models_entry *m, const struct models_hub_options *o,
                           const struct models_hub *h, const struct models_choice *c)
{
    const struct models_ref *r = o->ref;
    const char *first = h->files[c->files[0]].path;
    char stem[MODELS_FILE_BYTES];
    snprintf(stem, sizeof stem, "%.*s", (int)models_quant_stem(first), models_base_name(first));
    // A file that was asked for by name may be one of several models in the repository.
    models_id_make(&m->id, r->user, r->file[0] && stem[0] ? stem : r->repo, c->quant);
    snprintf(m->source, sizeof m->source, "%.500s/%s/%s@%s", o->endpoint, r->user, r->repo,
             h->commit);
    bool main = strcmp(r->revision, "main") == 0;
    snprintf(m->ref, sizeof m->ref, "%s/%s%s%s%s%s", r->user, r->repo, main ? "" : "@",
             main ? "" : r->revision, r->file[0] || c->quant[0] ? ":" : "",
             r->file[0] ? r->file : c->quant);
    m->n_files = c->n;
    m->files = mem_alloc(c->n * sizeof *m->files);
    for (size_t i = 0; i < c->n; i++)
        entry_file_set(&m->files[i], &h->files[c->files[i]]);
    if (c->projector != SIZE_MAX)
        entry_file_set(&m->projector, &h->files[c->projector]);
}

static int room_check(const struct fetching *f, struct err *e)
{
    uint64_t need = 0;
    struct stat st;
    for (size_t i = 0; i <= f->m->n_files; i++) {
        const struct models_file *file = i < f->m->n_files ? &f->m->files[i] : &f->m->projector;
        if (!file->name[0] || file->bytes == MODELS_SIZE_UNKNOWN || file_is_there(f->m, file))
            continue;
        char *part = mem_format("%s/%s.part", f->m->dir, file->name);
        uint64_t have = stat(part, &st) == 0 ? (uint64_t)st.st_size : 0;
        free(part);
        need += have < file->bytes ? file->bytes - have : 0;
    }
    return models_room_check(f->m->dir, need, e);
}

static int files_fetch(const struct fetching *f, const struct models_hub *h,
                       const struct models_choice *c, struct err *e)
{
    char url[NET_HTTP_URL_BYTES];
    int rc = room_check(f, e);
    for (size_t i = 0; i <= c->n && rc == 0; i++) {
        size_t at = i < c->n ? c->files[i] : c->projector;
        struct models_file *file = i < c->n ? &f->m->files[i] : &f->m->projector;
        if (at == SIZE_MAX)
            break;
        if (!models_hub_url(f->hub, h->commit, h->files[at].path, url, sizeof url))
            return err_set(e, ERR_RANGE, "the address of %.200s is too long", h->files[at].path);
        rc = file_fetch(f, url, file, e);
    }
    return rc;
}

// Whether what the store has is what the repository has now.
static bool is_current(const struct models_entry *old, const struct models_entry *m)
{
    bool same = is_there(old) && old->n_files == m->n_files;
    for (size_t i = 0; i < m->n_files && same; i++)
        same = m->files[i].sha256[0] && strcmp(old->files[i].name, m->files[i].name) == 0 &&
               strcmp(old->files[i].sha256, m->files[i].sha256) == 0;
    return same &&
           (!m->projector.name[0] || strcmp(old->projector.sha256, m->projector.sha256) == 0);
}

// A projector that is there stays, also when the model is pulled again without asking for one.
static void projector_keep(struct models_entry *m, const struct models_entry *old)
{
    if (!m->projector.name[0] && old->projector.name[0] && file_is_there(old, &old->projector))
        m->projector = old->projector;
}

static int hub_fetch(const struct models_pull *p, const struct models_hub_options *o,
                     const struct models_hub *h, const struct models_choice *c,
                     struct models_pulling *g)
{
    struct models_entry *m = g->m, *old = &g->old;
    struct err ignored;
    g->lock = models_lock(&m->id, g->e);
    if (g->lock < 0)
        return g->lock;
    g->has_old = models_entry_load(&m->id, old, &ignored) == 0;
    if (g->has_old && is_current(old, m)) {
        models_entry_fini(m);
        return models_entry_load(&m->id, m, g->e);
    }
    g->changed = true;
    int rc = models_pull_begin(m, g->has_old ? old : NULL, g->e);
    struct fetching f = {p, m, g->has_old ? old : NULL, o, p->token};
    if (rc == 0)
        rc = files_fetch(&f, h, c, g->e);
    if (rc == 0 && g->has_old)
        projector_keep(m, old);
    return rc ? rc : models_pull_complete(m, g->has_old ? old : NULL, g->e);
}

static int hub_pull(const struct models_pull *p, struct models_pulling *g)
{
    struct models_ref ref;
    struct models_hub h = {0};
    struct models_choice *c = mem_alloc(sizeof *c);
    struct models_hub_options o = {.endpoint = p->endpoint,
                                   .token = p->token,
                                   .ref = &ref,
                                   .retries = p->retries,
                                   .retry_wait_s = p->retry_wait_s,
                                   .stall_s = p->stall_s,
                                   .watch = &p->watch};
    int rc = models_ref_parse(p->what, &ref, g->e);
    if (rc == 0 && p->sha256)
        rc = err_set(g->e, ERR_INVALID,
                     "--sha256 is for an address or a file; a repository tells its own");
    if (rc == 0)
        rc = models_hub_list(&o, &h, g->e);
    if (rc == 0)
        rc = models_hub_choose(&h, &ref, p->projector, c, g->e);
    if (rc == 0) {
        entry_from_hub(g->m, &o, &h, c);
        rc = hub_fetch(p, &o, &h, c, g);
    }
    models_hub_fini(&h);
    free(c);
    return rc;
}

// ---- addresses -----------------------------------------------------------------------------------

// The name that the file of an address gets here; ERR_INVALID when it is no GGUF.
static int url_name(const char *url, char out[MODELS_FILE_BYTES], struct err *e)
{
    char path[NET_HTTP_URL_BYTES];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(url, "?#"), url);
    const char *base = models_base_name(path);
    size_t n = 0;
    for (; *base && n + 1 < MODELS_FILE_BYTES; base++)
        out[n++] = strchr(" %/\\:", *base) || (unsigned char)*base < ' ' ? '-' : *base;
    out[n] = '\0';
    if (*base || !models_is_gguf(out) || !models_file_name_ok(out))
        return err_set(e, ERR_INVALID, "\"%.250s\" does not end in the name of a .gguf file", url);
    return 0;
}

static int url_check(const struct models_pull *p, struct err *e)
{
    if (strlen(p->what) >= 900)
        return err_set(e, ERR_INVALID, "an address has at most 900 characters");
    if (p->projector)
        return err_set(e, ERR_INVALID, "--mmproj is for repositories only");
    if (strncasecmp(p->what, "http://", 7) == 0 && !p->sha256 && !net_http_is_loopback(p->what))
        return err_set(e, ERR_INVALID,
                       "anybody on the way can change what comes over http://; use https://, or "
                       "say with --sha256 what it must be");
    return 0;
}

static int entry_from_url(const struct models_pull *p, struct models_entry *m, struct err *e)
{
    char name[MODELS_FILE_BYTES], quant[MODELS_QUANT_BYTES], host[256], stem[MODELS_FILE_BYTES];
    struct models_split split;
    int rc = url_name(p->what, name, e);
    if (rc != 0)
        return rc;
    bool parts = models_split_parse(name, &split);
    if (parts && (split.no != 1 || split.count > MODELS_FILES_MAX || p->sha256))
        return err_set(e, ERR_INVALID,
                       "give the address of the first part of a model of at most %u, without "
                       "--sha256",
                       MODELS_FILES_MAX);
    const char *after = strstr(p->what, "://") + 3;
    snprintf(host, sizeof host, "%.*s", (int)strcspn(after, "/?#"), after);
    const char *at = strrchr(host, '@');
    models_quant_parse(name, quant);
    snprintf(stem, sizeof stem, "%.*s", (int)models_quant_stem(name), name);
    models_id_make(&m->id, at ? at + 1 : host, stem[0] ? stem : name, quant);
    models_pull_files_set(m, name, parts ? &split : NULL);
    if (p->sha256)
        memcpy(m->files[0].sha256, p->sha256, MODELS_SUM_BYTES);
    // A name and a password in it are nobody's business.
    size_t scheme = (size_t)(after - p->what);
    snprintf(m->source, sizeof m->source, "%.*s%s", (int)scheme, p->what,
             at ? after + (at - host) + 1 : after);
    memcpy(m->ref, m->source, sizeof m->ref);
    return 0;
}

// The address of part `no`: the first one's with another number in it.
static void part_url(const char *url, size_t no, char out[NET_HTTP_URL_BYTES])
{
    snprintf(out, NET_HTTP_URL_BYTES, "%s", url);
    char *end = out + strcspn(out, "?#"), digits[8];
    snprintf(digits, sizeof digits, "%05zu", no % 100000);
    memcpy(end - strlen("00001-of-00002.gguf"), digits, 5);
}

static int url_fetch(const struct models_pull *p, struct models_pulling *g)
{
    struct models_entry *m = g->m;
    char url[NET_HTTP_URL_BYTES];
    struct fetching f = {p, m, g->has_old ? &g->old : NULL, NULL, NULL};
    int rc = models_pull_begin(m, f.old, g->e);
    for (size_t i = 0; i < m->n_files && rc == 0; i++) {
        if (m->n_files > 1)
            part_url(p->what, i + 1, url);
        else
            snprintf(url, sizeof url, "%s", p->what);
        rc = file_fetch(&f, url, &m->files[i], g->e);
    }
    return rc ? rc : models_pull_complete(m, f.old, g->e);
}

static int url_pull(const struct models_pull *p, struct models_pulling *g)
{
    struct err ignored;
    int rc = url_check(p, g->e);
    if (rc == 0)
        rc = entry_from_url(p, g->m, g->e);
    if (rc != 0)
        return rc;
    g->lock = models_lock(&g->m->id, g->e);
    if (g->lock < 0)
        return g->lock;
    g->has_old = models_entry_load(&g->m->id, &g->old, &ignored) == 0;
    // An address does not tell what it holds; what came from it stays until it is removed.
    if (g->has_old && is_there(&g->old) &&
        (!p->sha256 || strcmp(p->sha256, g->old.files[0].sha256) == 0)) {
        models_entry_fini(g->m);
        return models_entry_load(&g->m->id, g->m, g->e);
    }
    g->changed = true;
    return url_fetch(p, g);
}

// ---- which of them -------------------------------------------------------------------------------

static bool is_url(const char *what)
{
    return strncasecmp(what, "https://", 8) == 0 || strncasecmp(what, "http://", 7) == 0;
}

// What ends in .gguf is a file here, whether it is there or not, but for one in a repository.
static bool is_file(const char *what)
{
    struct stat st;
    struct models_ref ref;
    if (what[0] == '/' || what[0] == '.' || what[0] == '~')
        return true;
    if (stat(what, &st) == 0 && S_ISREG(st.st_mode))
        return true;
    bool in_repo = models_ref_parse(what, &ref, NULL) == 0 && ref.file[0];
    return models_is_gguf(what) && !is_url(what) && !in_repo;
}

int models_pull_run(const struct models_pull *p, struct models_entry *out, bool *changed,
                    struct err *e)
{
    struct models_pulling g = {.m = out, .lock = -1, .e = e};
    struct models_ref ref;
    struct models_pull own = *p;
    char sha256[MODELS_SUM_BYTES];
    int rc = 0;
    *out = (struct models_entry){0};
    if (p->sha256 && !models_sum_parse(p->sha256, sha256))
        return err_set(e, ERR_INVALID, "--sha256 is \"%.80s\", must be 64 hexadecimal digits",
                       p->sha256);
    if (p->sha256)
        own.sha256 = sha256;
    if (is_file(p->what))
        rc = models_pull_local(&own, &g);
    else if (is_url(p->what) && models_ref_parse(p->what, &ref, NULL) != 0)
        rc = url_pull(&own, &g);
    else
        rc = hub_pull(&own, &g);
    *changed = g.changed;
    if (g.has_old)
        models_entry_fini(&g.old);
    models_unlock(g.lock);
    if (rc != 0)
        models_entry_fini(out);
    return rc;
}
