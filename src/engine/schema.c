#include "engine/schema.h"

#include <stdint.h>

// What a request's schemas lie in.
static const char *const places[] = {"tools", "response_format", "json_schema"};
#define N_PLACES (sizeof places / sizeof *places)

struct weight {
    size_t most;  // properties of one object: of what a reference may stand for
    size_t worst; // optional ones of one object
    double work;
};

static void each(const json_t *v, struct weight *w,
                 void (*visit)(const json_t *object, struct weight *w))
{
    const char *key;
    const json_t *part;
    size_t i;

    if (json_is_object(v))
        visit(v, w);
    json_object_foreach((json_t *)(uintptr_t)v, key, part) each(part, w, visit);
    json_array_foreach(v, i, part) each(part, w, visit);
}

static void most_count(const json_t *object, struct weight *w)
{
    size_t n = json_object_size(json_object_get(object, "properties"));

    w->most = n > w->most ? n : w->most;
}

static size_t optional_count(const json_t *object)
{
    const json_t *properties = json_object_get(object, "properties"), *part;
    const json_t *required = json_object_get(object, "required");
    json_t *seen = json_object();
    size_t i;

    // A name may stand there twice.
    json_array_foreach(required, i, part) if (json_string_value(part) &&
                                              json_object_get(properties, json_string_value(part)))
        json_object_set_new(seen, json_string_value(part), json_true());
    i = json_object_size(properties) - json_object_size(seen);
    json_decref(seen);
    return i;
}

// Of what is merged into one object, all properties: some are required in one part and not in another.
static size_t merged_count(const json_t *part, const struct weight *w)
{
    size_t n = json_object_size(json_object_get(part, "properties")), i;
    const json_t *other;

    json_array_foreach(json_object_get(part, "anyOf"), i, other) n += merged_count(other, w);
    return n + (json_object_get(part, "$ref") ? w->most : 0);
}

static void work_count(const json_t *object, struct weight *w)
{
    size_t n = optional_count(object), i;
    const json_t *part;

    json_array_foreach(json_object_get(object, "allOf"), i, part) n += merged_count(part, w);
    w->worst = n > w->worst ? n : w->worst;
    w->work += (double)n * (double)n * (double)n;
}

int schema_weigh(const json_t *request, struct err *e)
{
    struct weight w = {0};

    for (size_t i = 0; i < N_PLACES; i++)
        each(json_object_get(request, places[i]), &w, most_count);
    for (size_t i = 0; i < N_PLACES; i++)
        each(json_object_get(request, places[i]), &w, work_count);
    if (w.work <= SCHEMA_WORK_MAX)
        return 0;
    return err_set(e, ERR_INVALID,
                   "its schemas have too many optional properties, %zu in one object; require "
                   "them, or use fewer: about 300 are possible in one object, or 30 times 100",
                   w.worst);
}
