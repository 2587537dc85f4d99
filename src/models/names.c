#include "models/names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '.' || c == '_' || c == '-' || c == '+';
}

static bool is_name(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_name_char(text[i]))
            return false;
    return n > 0 && text[0] != '.' && text[0] != '-';
}

// Lower case, with '-' for what is not allowed; a name never begins with '.' or '-' and has no "--", which
// stands between the parts of a folder's name.
static void name_make(const char *text, size_t n, char *out, size_t out_bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < n && used + 1 < out_bytes; i++) {
        char c = is_name_char(text[i]) ? (char)tolower((unsigned char)text[i]) : '-';
        if (c != '-' || used == 0 || out[used - 1] != '-')
            out[used++] = c;
    }
    out[used] = '\0';
    if (used > 0 && (out[0] == '.' || out[0] == '-'))
        out[0] = 'x';
}

static void gguf_suffix_drop(char *repo)
{
    size_t n = strlen(repo);
    if (n > 5 && strcmp(repo + n - 5, "-gguf") == 0)
        repo[n - 5] = '\0';
}

void models_id_make(struct models_id *id, const char *owner, const char *repo, const char *quant)
{
    name_make(owner, strlen(owner), id->owner, sizeof id->owner);
    name_make(repo, strlen(repo), id->repo, sizeof id->repo);
    gguf_suffix_drop(id->repo);
    name_make(quant, strlen(quant), id->quant, sizeof id->quant);
}

void models_id_format(const struct models_id *id, char out[MODELS_ID_BYTES])
{
    snprintf(out, MODELS_ID_BYTES, "%s%s%s%s%s", id->owner, id->owner[0] ? "/" : "", id->repo,
             id->quant[0] ? ":" : "", id->quant);
}

bool models_id_is(const struct models_id *a, const struct models_id *b)
{
    return strcmp(a->owner, b->owner) == 0 && strcmp(a->repo, b->repo) == 0 &&
           strcmp(a->quant, b->quant) == 0;
}

static int name_error(const char *name, struct err *e)
{
    return err_set(e, ERR_INVALID,
                   "\"%.200s\" is no model's name; names look like smollm2-135m-instruct:q4_k_m or "
                   "user/repo:quant",
                   name);
}

int models_name_parse(const char *name, struct models_id *out, struct err *e)
{
    const char *slash = strchr(name, '/'), *repo = slash ? slash + 1 : name;
    const char *colon = strchr(repo, ':');
    size_t repo_bytes = colon ? (size_t)(colon - repo) : strlen(repo);
    size_t owner_bytes = slash ? (size_t)(slash - name) : 0;
    *out = (struct models_id){0};
    if ((slash && !is_name(name, owner_bytes)) || !is_name(repo, repo_bytes) ||
        (colon && !is_name(colon + 1, strlen(colon + 1))))
        return name_error(name, e);
    if (owner_bytes >= sizeof out->owner || repo_bytes >= sizeof out->repo ||
        (colon && strlen(colon + 1) >= sizeof out->quant))
        return name_error(name, e);
    name_make(name, owner_bytes, out->owner, sizeof out->owner);
    name_make(repo, repo_bytes, out->repo, sizeof out->repo);
    gguf_suffix_drop(out->repo);
    if (colon)
        name_make(colon + 1, strlen(colon + 1), out->quant, sizeof out->quant);
    return 0;
}

bool models_name_matches(const struct models_id *wanted, const struct models_id *id)
{
    return strcmp(wanted->repo, id->repo) == 0 &&
           (!wanted->owner[0] || strcmp(wanted->owner, id->owner) == 0) &&
           (!wanted->quant[0] || strcmp(wanted->quant, id->quant) == 0);
}

// ---- files ---------------------------------------------------------------------------------------

const char *models_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool models_is_gguf(const char *file)
{
    size_t n = strlen(file);
    return n > 5 && strcasecmp(file + n - 5, ".gguf") == 0;
}

bool models_is_projector(const char *file)
{
    return models_is_gguf(file) && strcasestr(models_base_name(file), "mmproj") != NULL;
}

bool models_file_name_ok(const char *name)
{
    size_t n = strlen(name);
    return n < MODELS_FILE_BYTES && is_name(name, n);
}

// Length of the name without ".gguf".
static size_t bare_length(const char *file)
{
    return models_is_gguf(file) ? strlen(file) - 5 : strlen(file);
}

// Exactly five digits at `text`.
static bool five_digits(const char *text, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 5; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        *out = *out * 10 + (uint32_t)(text[i] - '0');
    }
    return true;
}

bool models_split_parse(const char *file, struct models_split *out)
{
    size_t n = bare_length(file), tail = strlen("-00001-of-00002");
    if (!models_is_gguf(file) || n <= tail)
        return false;
    const char *t = file + n - tail;
    out->stem = n - tail;
    return t[0] == '-' && five_digits(t + 1, &out->no) && strncmp(t + 6, "-of-", 4) == 0 &&
           five_digits(t + 10, &out->count) && out->no >= 1 && out->no <= out->count;
}

// "Q4_K_M", "IQ2_XXS", "TQ1_0", "BF16", "MXFP4_MOE", "UD-Q4_K_XL", any case; `text` has n characters.
static bool is_quant(const char *text, size_t n)
{
    static const char *const whole[] = {"F16",   "F32",   "BF16", "FP16",     "FP32",
                                        "MXFP4", "NVFP4", "Q8K",  "MXFP4_MOE"};
    if (n > 3 && strncasecmp(text, "UD-", 3) == 0)
        text += 3, n -= 3;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strlen(whole[i]) == n && strncasecmp(text, whole[i], n) == 0)
            return true;
    if (n > 0 && strchr("iItT", text[0]))
        text++, n--;
    if (n < 4 || !strchr("qQ", text[0]) || !isdigit((unsigned char)text[1]) || text[2] != '_')
        return false;
    for (size_t i = 3; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && text[i] != '_')
            return false;
    return true;
}

// Where in the file's name (without folder) the quantisation begins; n of it, 0: none.
static const char *quant_find(const char *base, size_t *n)
{
    struct models_split split;
    size_t end = models_split_parse(base, &split) ? split.stem : bare_length(base);
    for (size_t i = 0; i < end; i++) {
        bool begins = i == 0 || base[i - 1] == '-' || base[i - 1] == '.' || base[i - 1] == '_';
        if (begins && end - i < MODELS_QUANT_BYTES && is_quant(base + i, end - i)) {
            *n = end - i;
            return base + i;
        }
    }
    *n = 0;
    return base + end;
}

bool models_quant_parse(const char *file, char out[MODELS_QUANT_BYTES])
{
    size_t n = 0;
    const char *q = quant_find(models_base_name(file), &n);
    for (size_t i = 0; i < n; i++)
        out[i] = (char)toupper((unsigned char)q[i]);
    out[n] = '\0';
    return n > 0;
}

size_t models_quant_stem(const char *file)
{
    const char *base = models_base_name(file);
    size_t n = 0, end = (size_t)(quant_find(base, &n) - base);
    return n > 0 && end > 0 ? end - 1 : end;
}

// ---- repositories --------------------------------------------------------------------------------

static int ref_error(const char *text, struct err *e)
{
    return err_set(e, ERR_INVALID,
                   "\"%.200s\" names no model to pull; give user/repo[:quant] of Hugging Face, an "
                   "https:// address of a .gguf file, or a file on this machine",
                   text);
}

static const char *hub_prefix_skip(const char *text)
{
    static const char *const prefixes[] = {"https://huggingface.co/", "https://hf.co/",
                                           "huggingface.co/", "hf.co/"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncasecmp(text, prefixes[i], strlen(prefixes[i])) == 0)
            return text + strlen(prefixes[i]);
    return text;
}

// Takes the characters up to one of `ends` out of *text; false when they are no name or too many.
static bool word_take(const char **text, const char *ends, char *out, size_t out_bytes)
{
    size_t n = strcspn(*text, ends);
    if (n >= out_bytes || !is_name(*text, n))
        return false;
    memcpy(out, *text, n);
    out[n] = '\0';
    *text += n;
    return true;
}

// A path inside a repository: names with single slashes between them.
static bool path_ok(const char *path)
{
    for (;;) {
        size_t n = strcspn(path, "/");
        if (n == 0 || path[0] == '.')
            return false;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)path[i] < ' ' || path[i] == 0x7f || path[i] == '\\')
                return false;
        if (path[n] == '\0')
            return true;
        path += n + 1;
    }
}

// "/resolve/REVISION/PATH" or "/blob/..." as an address of the hub's web pages has it.
static bool page_take(const char *text, struct models_ref *out)
{
    if (strncmp(text, "/resolve/", 9) == 0)
        text += 9;
    else if (strncmp(text, "/blob/", 6) == 0)
        text += 6;
    else
        return false;
    if (!word_take(&text, "/", out->revision, sizeof out->revision) || *text != '/')
        return false;
    size_t n = strcspn(++text, "?#"); // "?download=true" says nothing
    if (n >= sizeof out->file)
        return false;
    memcpy(out->file, text, n);
    out->file[n] = '\0';
    return models_is_gguf(out->file) && path_ok(out->file);
}

static bool choice_take(const char *text, struct models_ref *out)
{
    if (models_is_gguf(text)) {
        snprintf(out->file, sizeof out->file, "%s", text);
        return strlen(text) < sizeof out->file && path_ok(text);
    }
    if (!word_take(&text, "", out->quant, sizeof out->quant))
        return false;
    for (char *p = out->quant; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return true;
}

int models_ref_parse(const char *text, struct models_ref *out, struct err *e)
{
    const char *at = hub_prefix_skip(text);
    bool page = at != text;
    *out = (struct models_ref){.revision = "main"};
    if (!word_take(&at, "/", out->user, sizeof out->user) || *at++ != '/' ||
        !word_take(&at, "/@:", out->repo, sizeof out->repo))
        return ref_error(text, e);
    if (page && *at == '/' && at[1] != '\0')
        return page_take(at, out) ? 0 : ref_error(text, e);
    if (page && *at == '/')
        at++;
    if (*at == '@') {
        at++;
        if (!word_take(&at, ":", out->revision, sizeof out->revision))
            return ref_error(text, e);
    }
    if (*at == ':' && !choice_take(at + 1, out))
        return ref_error(text, e);
    return *at == ':' || *at == '\0' ? 0 : ref_error(text, e);
}
