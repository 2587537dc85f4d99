#include "models/hub.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "net/http_client.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MAX_BYTES (32u << 20)
#define WAIT_MAX_S 60.0

// ---- addresses -----------------------------------------------------------------------------------

// Everything but unreserved characters and slashes as %XX.
static void escape(struct buf *out, const char *path)
{
    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;
        if (isalnum(c) || strchr("-._~/", c))
            buf_put(out, path, 1);
        else
            buf_printf(out, "%%%02X", c);
    }
}

bool models_hub_url(const struct models_hub_options *o, const char *commit, const char *path,
                    char *out, size_t out_bytes)
{
    struct buf escaped;
    buf_init(&escaped, (size_t)3 * MODELS_HUB_PATH_BYTES);
    escape(&escaped, path);
    int n = snprintf(out, out_bytes, "%s/%s/%s/resolve/%s/%s", o->endpoint, o->ref->user,
                     o->ref->repo, commit, escaped.data ? (const char *)escaped.data : "");
    buf_fini(&escaped);
    return n > 0 && (size_t)n < out_bytes;
}

// ---- refusals ------------------------------------------------------------------------------------

static int explain_auth(const struct models_hub_options *o, const struct models_fetched *a,
                        struct err *e)
{
    const struct models_ref *r = o->ref;
    if (strcmp(a->code, "GatedRepo") == 0 || a->status == 403)
        return err_set(e, ERR_AUTH, "%s/%s is gated%s: accept its terms at %s/%s/%s%s", r->user,
                       r->repo, o->token ? " and this token's account may not read it" : "",
                       o->endpoint, r->user, r->repo,
                       o->token
                           ? ", then pull again"
                           : ", then give a token of that account in HF_TOKEN or --token-file");
    if (o->token)
        return err_set(e, ERR_AUTH,
                       "%s/%s: the server does not accept the token (status %ld), or there is no "
                       "such repository; check HF_TOKEN or --token-file, and the name",
                       r->user, r->repo, a->status);
    return err_set(
        e, ERR_AUTH,
        "there is no repository %s/%s, or it is private or gated: check the name, or give "
        "a token that may read it in HF_TOKEN or --token-file",
        r->user, r->repo);
}

int models_hub_explain(const struct models_hub_options *o, const struct models_fetched *a,
                       struct err *e)
{
    const struct models_ref *r = o->ref;
    if (a->status == 401 || a->status == 403)
        return explain_auth(o, a, e);
    if (a->status == 404 && strcmp(a->code, "RevisionNotFound") == 0)
        return err_set(e, ERR_NOT_FOUND, "%s/%s has no revision \"%s\"", r->user, r->repo,
                       r->revision);
    if (a->status == 404)
        return err_set(e, ERR_NOT_FOUND, "%s has no repository %s/%s; check the name", o->endpoint,
                       r->user, r->repo);
    return err_set(e, ERR_IO, "%s answers %ld%s%.150s", o->endpoint, a->status,
                   a->reason[0] ? ": " : "", a->reason);
}

// ---- the list ------------------------------------------------------------------------------------

static int file_compare(const void *a, const void *b)
{
    return strcmp(((const struct models_hub_file *)a)->path,
                  ((const struct models_hub_file *)b)->path);
}

static int file_parse(const json_t *o, struct models_hub_file *f, struct err *e)
{
    const char *sum = NULL;
    json_t *lfs = NULL;
    int64_t bytes = -1;
    int rc = json_get_i64(o, "size", 0, INT64_MAX, &bytes, e);
    if (rc == 0)
        rc = json_get_object(o, "lfs", &lfs, e);
    if (rc == 0 && lfs)
        rc = json_get_string(lfs, "sha256", &sum, e);
    if (rc == 0 && lfs && !sum)
        rc = json_get_string(lfs, "oid", &sum, e);
    if (rc == 0 && lfs)
        rc = json_get_i64(lfs, "size", 0, INT64_MAX, &bytes, e);
    if (rc != 0)
        return rc;
    f->bytes = bytes < 0 ? MODELS_SIZE_UNKNOWN : (uint64_t)bytes;
    if (sum && !models_sum_parse(sum, f->sha256))
        return err_set(e, ERR_CORRUPT, "\"%.80s\" is no SHA-256", sum);
    return 0;
}

// Files whose names could not be files of ours are passed over: they cannot be meant.
static int files_parse(const json_t *siblings, struct models_hub *h, struct err *e)
{
    size_t n = json_array_size(siblings);
    int rc = 0;
    if (n > MODELS_HUB_FILES_MAX)
        return err_set(e, ERR_RANGE, "it has %zu files; at most %u are looked at", n,
                       MODELS_HUB_FILES_MAX);
    h->files = mem_alloc((n + 1) * sizeof *h->files);
    for (size_t i = 0; i < n && rc == 0; i++) {
        const json_t *o = json_array_get(siblings, i);
        const char *path = json_string_value(json_object_get(o, "rfilename"));
        struct models_hub_file *f = &h->files[h->n];
        if (!path || strlen(path) >= sizeof f->path || !models_is_gguf(path) ||
            !models_file_name_ok(models_base_name(path)))
            continue;
        rc = file_parse(o, f, e);
        memcpy(f->path, path, strlen(path) + 1);
        h->n++;
    }
    qsort(h->files, h->n, sizeof *h->files, file_compare);
    return rc;
}

static int commit_parse(const json_t *root, struct models_hub *h, struct err *e)
{
    int rc = json_copy_string(root, "sha", h->commit, sizeof h->commit, e);
    if (rc == 0 && (h->commit[0] == '\0' || !models_file_name_ok(h->commit)))
        rc = err_set(e, ERR_CORRUPT, "it names no commit");
    return rc;
}

int models_hub_parse(const void *text, size_t n, struct models_hub *h, struct err *e)
{
    json_t *siblings = NULL, *root = json_parse(text, n, e);
    *h = (struct models_hub){0};
    int rc = root ? 0 : e->code;
    if (rc == 0 && !json_is_object(root))
        rc = err_set(e, ERR_CORRUPT, "it is no object");
    if (rc == 0)
        rc = commit_parse(root, h, e);
    if (rc == 0)
        rc = json_get_array(root, "siblings", &siblings, e);
    if (rc == 0)
        rc = files_parse(siblings, h, e);
    if (rc != 0) {
        models_hub_fini(h);
        err_wrap(e, "the server's list of files cannot be used");
    }
    json_decref(root);
    return rc;
}

void models_hub_fini(struct models_hub *h)
{
    free(h->files);
    h->files = NULL;
    h->n = 0;
}

struct listing {
    struct buf body;
    const struct models_watch *watch;
};

static int on_data(void *ctx, const void *data, size_t n, struct err *e)
{
    struct listing *l = ctx;
    if (buf_put(&l->body, data, n) != 0)
        return err_set(e, ERR_RANGE, "the server's list of files has more than %u bytes",
                       ANSWER_MAX_BYTES);
    return 0;
}

static bool on_stopped(void *ctx)
{
    const struct listing *l = ctx;
    return models_stopped(l->watch);
}

static bool passes(int rc, long status)
{
    return rc == ERR_CLOSED || rc == ERR_TIMEOUT ||
           (rc == 0 && (status == 429 || status == 408 || status >= 500));
}

static void retry_wait(const struct models_hub_options *o, double wait_s, const char *why)
{
    struct models_event ev = {
        .kind = MODELS_EVENT_RETRY, .file = o->ref->repo, .text = why, .wait_s = wait_s};
    if (o->watch && o->watch->event)
        o->watch->event(o->watch->ctx, &ev);
    models_wait(o->watch, wait_s);
}

static int list_get(const struct models_hub_options *o, const char *url, struct listing *l,
                    struct models_fetched *answer, struct err *e)
{
    struct net_http_head head;
    struct net_http_get g = {.url = url,
                             .token = o->token,
                             .stall_s = o->stall_s,
                             .on_data = on_data,
                             .stopped = on_stopped,
                             .ctx = l};
    int rc;
    for (uint32_t i = 0;; i++) {
        buf_clear(&l->body);
        rc = net_http_get(&g, &head, e);
        if (!passes(rc, head.status) || i >= o->retries)
            break;
        char why[64];
        snprintf(why, sizeof why, "the server answers %ld", head.status);
        double wait_s = o->retry_wait_s * (double)(1u << (i < 6 ? i : 6));
        if (rc == 0 && head.retry_after_s > wait_s)
            wait_s = head.retry_after_s;
        retry_wait(o, wait_s < WAIT_MAX_S ? wait_s : WAIT_MAX_S, rc != 0 ? e->message : why);
    }
    answer->status = head.status;
    memcpy(answer->code, head.code, sizeof answer->code);
    snprintf(answer->reason, sizeof answer->reason, "%.199s", head.reason);
    return rc;
}

int models_hub_list(const struct models_hub_options *o, struct models_hub *h, struct err *e)
{
    char url[NET_HTTP_URL_BYTES];
    struct listing l = {.watch = o->watch};
    struct models_fetched answer = {0};
    *h = (struct models_hub){0};
    buf_init(&l.body, ANSWER_MAX_BYTES);
    snprintf(url, sizeof url, "%s/api/models/%s/%s/revision/%s?blobs=true", o->endpoint,
             o->ref->user, o->ref->repo, o->ref->revision);
    int rc = list_get(o, url, &l, &answer, e);
    if (rc == 0 && answer.status != 200)
        rc = models_hub_explain(o, &answer, e);
    else if (rc == 0)
        rc = models_hub_parse(l.body.data ? (const char *)l.body.data : "", l.body.len, h, e);
    buf_fini(&l.body);
    return rc;
}

// ---- choosing ------------------------------------------------------------------------------------

static bool is_candidate(const struct models_hub_file *f)
{
    struct models_split split;
    if (models_is_projector(f->path) || strcasestr(models_base_name(f->path), "imatrix"))
        return false;
    // Of a split model the first part stands for all.
    return !models_split_parse(f->path, &split) || split.no == 1;
}

static void listed_add(struct buf *b, const char *text)
{
    // Each once.
    const char *have = b->data ? (const char *)b->data : "", *at = strstr(have, text);
    size_t n = strlen(text);
    for (; at; at = strstr(at + 1, text))
        if ((at == have || at[-1] == ' ') && (at[n] == '\0' || at[n] == ','))
            return;
    buf_printf(b, "%s%s", b->len > 0 ? ", " : "", text); // beyond its end: enough was said
}

// The quantisations there are, then the names of files that have none.
static void candidates_list(const struct models_hub *h, struct buf *out)
{
    char quant[MODELS_QUANT_BYTES];
    for (size_t i = 0; i < h->n; i++) {
        if (!is_candidate(&h->files[i]))
            continue;
        bool has = models_quant_parse(h->files[i].path, quant);
        listed_add(out, has ? quant : h->files[i].path);
    }
}

static int none_found(const struct models_hub *h, const struct models_ref *r, struct err *e)
{
    struct buf list;
    buf_init(&list, 300);
    candidates_list(h, &list);
    const char *wanted = r->file[0] ? r->file : r->quant;
    if (list.len == 0)
        err_set(e, ERR_NOT_FOUND,
                "%s/%s has no GGUF file; look for a repository with GGUF in its name", r->user,
                r->repo);
    else if (*wanted)
        err_set(e, ERR_NOT_FOUND, "%s/%s has no %.100s; there are: %s", r->user, r->repo, wanted,
                (const char *)list.data);
    else
        err_set(e, ERR_INVALID, "%s/%s has several models; say which: %s", r->user, r->repo,
                (const char *)list.data);
    buf_fini(&list);
    return e ? e->code : ERR_NOT_FOUND;
}

static int several_found(const struct models_hub *h, const struct models_ref *r, const char *quant,
                         struct err *e)
{
    struct buf list;
    char q[MODELS_QUANT_BYTES];
    buf_init(&list, 300);
    for (size_t i = 0; i < h->n; i++)
        if (is_candidate(&h->files[i]) && models_quant_parse(h->files[i].path, q) &&
            strcmp(q, quant) == 0)
            listed_add(&list, h->files[i].path);
    err_set(e, ERR_INVALID, "%s/%s has several files of %s; say %s/%s:FILE with one of: %s",
            r->user, r->repo, quant, r->user, r->repo, (const char *)list.data);
    buf_fini(&list);
    return ERR_INVALID;
}

// How many candidates have this quantisation; *at is the last.
static size_t quant_count(const struct models_hub *h, const char *quant, size_t *at)
{
    char q[MODELS_QUANT_BYTES];
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++) {
        if (!is_candidate(&h->files[i]) || !models_quant_parse(h->files[i].path, q) ||
            strcmp(q, quant) != 0)
            continue;
        *at = i;
        n++;
    }
    return n;
}

static int by_quant(const struct models_hub *h, const struct models_ref *r, const char *quant,
                    size_t *at, struct err *e)
{
    size_t n = quant_count(h, quant, at);
    if (n > 1)
        return several_found(h, r, quant, e);
    return n == 1 ? 0 : ERR_NOT_FOUND;
}

static int first_choose(const struct models_hub *h, const struct models_ref *r, size_t *at,
                        struct err *e)
{
    // Q4_K_M is what most people want; then what needs no more than a little more room; then large.
    static const char *const order[] = {"Q4_K_M", "Q4_0", "Q8_0",  "Q4_K_S",    "UD-Q4_K_XL",
                                        "Q5_K_M", "Q6_K", "MXFP4", "MXFP4_MOE", "IQ4_XS",
                                        "IQ4_NL", "Q4_1", "BF16",  "F16",       "F32"};
    char dynamic[MODELS_QUANT_BYTES + 4];
    size_t n = 0;
    int rc = ERR_NOT_FOUND;
    if (r->quant[0]) {
        snprintf(dynamic, sizeof dynamic, "UD-%s", r->quant);
        rc = by_quant(h, r, r->quant, at, e);
        return rc == ERR_NOT_FOUND ? by_quant(h, r, dynamic, at, e) : rc;
    }
    for (size_t i = 0; i < h->n; i++) {
        if (r->file[0] ? strcmp(h->files[i].path, r->file) != 0 : !is_candidate(&h->files[i]))
            continue;
        *at = i;
        n++;
    }
    if (n == 1 || r->file[0])
        return n == 1 ? 0 : ERR_NOT_FOUND;
    for (size_t i = 0; i < sizeof order / sizeof *order && rc == ERR_NOT_FOUND; i++)
        rc = by_quant(h, r, order[i], at, e);
    return rc;
}

static int parts_add(const struct models_hub *h, size_t first, struct models_choice *out,
                     struct err *e)
{
    struct models_split split, other;
    const char *path = h->files[first].path;
    out->files[0] = first;
    out->n = 1;
    if (!models_split_parse(path, &split))
        return 0;
    if (split.no != 1 || split.count > MODELS_FILES_MAX)
        return err_set(e, ERR_INVALID, "%.200s is part %u of %u; name the first part of at most %u",
                       path, split.no, split.count, MODELS_FILES_MAX);
    // Sorted by path, so the parts follow each other.
    for (size_t i = first + 1; i < h->n && out->n < split.count; i++) {
        const char *p = h->files[i].path;
        if (!models_split_parse(p, &other) || other.stem != split.stem ||
            strncmp(p, path, split.stem) != 0 || other.count != split.count ||
            other.no != out->n + 1)
            continue;
        out->files[out->n++] = i;
    }
    if (out->n < split.count)
        return err_set(e, ERR_NOT_FOUND, "part %zu of %u of %.200s is missing in the repository",
                       out->n + 1, split.count, path);
    return 0;
}

// Of several projectors the one in F16, which every backend can do, else the first.
static int projector_find(const struct models_hub *h, const struct models_ref *r,
                          struct models_choice *out, struct err *e)
{
    char quant[MODELS_QUANT_BYTES];
    out->projector = SIZE_MAX;
    for (size_t i = h->n; i-- > 0;) {
        if (!models_is_projector(h->files[i].path))
            continue;
        models_quant_parse(h->files[i].path, quant);
        out->projector = i;
        if (strcmp(quant, "F16") == 0)
            return 0;
    }
    if (out->projector != SIZE_MAX)
        return 0;
    return err_set(e, ERR_NOT_FOUND,
                   "%s/%s has no projector (mmproj) file; pull it without --mmproj", r->user,
                   r->repo);
}

int models_hub_choose(const struct models_hub *h, const struct models_ref *ref, bool projector,
                      struct models_choice *out, struct err *e)
{
    size_t first = 0;
    out->n = 0;
    out->projector = SIZE_MAX;
    int rc = first_choose(h, ref, &first, e);
    if (rc == ERR_NOT_FOUND)
        return none_found(h, ref, e);
    if (rc == 0)
        rc = parts_add(h, first, out, e);
    if (rc == 0)
        models_quant_parse(h->files[first].path, out->quant);
    if (rc == 0 && projector)
        rc = projector_find(h, ref, out, e);
    return rc;
}
