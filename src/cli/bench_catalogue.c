#include "cli/bench.h"

#include "base/json.h"
#include "cli/cli.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CATALOGUE_MAX_BYTES (4u << 20)
#define MACHINES_MAX 256

// Beside the program in a build or source tree, under share/ when installed.
static json_t *catalogue_load(struct err *e)
{
    static const char *const places[] = {"/../share/catalogue/machines.json",
                                         "/../share/tandem/catalogue/machines.json",
                                         "/share/catalogue/machines.json"};
    const char *share = getenv("TANDEM_SHARE");
    char dir[4096], path[4352];
    int rc = os_self_dir(dir, sizeof dir, e);
    for (size_t i = 0; rc == 0 && i < sizeof places / sizeof *places; i++) {
        char *text = NULL;
        size_t n = 0;
        snprintf(path, sizeof path, "%s%s", share != NULL ? share : dir,
                 share != NULL ? "/catalogue/machines.json" : places[i]);
        if (os_file_read(path, CATALOGUE_MAX_BYTES, &text, &n, NULL) != 0)
            continue;
        json_t *o = json_parse(text, n, e);
        if (o == NULL)
            err_wrap(e, "%s", path);
        free(text);
        return o;
    }
    if (rc == 0)
        err_set(e, ERR_NOT_FOUND,
                "the catalogue of machines, catalogue/machines.json, is not beside the program; "
                "TANDEM_SHARE can name the folder that holds it");
    return NULL;
}

static int machine_fill(const json_t *m, struct bench_machine *out, struct err *e)
{
    const json_t *rates = json_array_get(json_object_get(m, "rates"), 0);
    if (rates == NULL)
        return err_set(e, ERR_NOT_FOUND, "the catalogue has no rates for \"%s\"",
                       json_string_value(json_object_get(m, "name")));
    int rc = json_copy_string(m, "name", out->name, sizeof out->name, e);
    if (rc == 0)
        rc = json_get_f64(rates, "prefill_tokens_per_s", 1e-3, 1e9, &out->prefill_tokens_per_s, e);
    if (rc == 0)
        rc = json_get_f64(rates, "decode_tokens_per_s", 1e-3, 1e9, &out->decode_tokens_per_s, e);
    return rc;
}

int bench_catalogue_find(const char *name, struct bench_machine *out, struct err *e)
{
    const char *names[MACHINES_MAX + 1] = {NULL};
    size_t i, n = 0;
    const json_t *m;
    *out = (struct bench_machine){0};
    json_t *catalogue = catalogue_load(e);
    if (catalogue == NULL)
        return e->code;
    int rc = ERR_NOT_FOUND;
    json_array_foreach(json_object_get(catalogue, "machines"), i, m)
    {
        const char *known = json_string_value(json_object_get(m, "name"));
        if (known == NULL || n == MACHINES_MAX)
            continue;
        names[n++] = known;
        if (strcmp(known, name) == 0) {
            rc = machine_fill(m, out, e);
            goto out;
        }
    }
    const char *nearest = cli_nearest(name, names);
    err_set(e, rc, "no machine \"%s\" in the catalogue; %s %s", name,
            nearest != NULL ? "did you mean" : "it begins with",
            nearest != NULL ? nearest
            : n > 0         ? names[0]
                            : "nothing");
out:
    json_decref(catalogue);
    return rc;
}
