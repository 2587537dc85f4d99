#include "jobs/executor.h"

#include "base/json.h"

#include <string.h>

int jobs_executor_find(const json_t *options, const struct jobs_executor **out, struct err *e)
{
    static const struct jobs_executor *const all[] = {&jobs_local, &jobs_slurm, &jobs_ssh};
    const char *kind = "local";
    int rc = json_get_string(options, "kind", &kind, e);
    for (size_t i = 0; rc == 0 && i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i]->name, kind) == 0) {
            *out = all[i];
            return 0;
        }
    return rc != 0
               ? rc
               : err_set(e, ERR_INVALID,
                         "no executor \"%.40s\"; local, slurm, ssh and fastest are known", kind);
}

int jobs_executor_members(const json_t *options, const char *const *known, struct err *e)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)options, name, value)
    {
        size_t i = 0;
        while (known[i] && strcmp(known[i], name) != 0)
            i++;
        if (!known[i] && strcmp(name, "kind") != 0)
            return err_set(e, ERR_INVALID, "\"%.60s\" is no option of this executor", name);
    }
    return 0;
}
