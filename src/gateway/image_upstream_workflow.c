// ComfyUI's workflows: JSON that says what is computed, by whoever owns the server; what a client asked goes into it
// as values, and never as structure.
//
//   {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "%prompt%", "clip": ["4", 1]}},
//    "3": {"class_type": "KSampler", "inputs": {"seed": "%seed%", "steps": "%steps:30%", ...}}, ...}
//
// A text that is "%seed%" and nothing else becomes a number; "%prompt%" and "%negative%" may stand among other words.
// Behind a colon stands what is used where the client says nothing.
#include "gateway/image_upstream_impl.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_MAX 1e9 // of a default

enum value { PROMPT, NEGATIVE, SEED, STEPS, CFG, WIDTH, HEIGHT, VALUES };

static const struct {
    const char *name;
    unsigned takes;
} values[VALUES] = {
    [PROMPT] = {"prompt", 0},
    [NEGATIVE] = {"negative", IMAGE_TAKES_NEGATIVE},
    [SEED] = {"seed", IMAGE_TAKES_SEED},
    [STEPS] = {"steps", IMAGE_TAKES_STEPS},
    [CFG] = {"cfg", IMAGE_TAKES_CFG},
    [WIDTH] = {"width", IMAGE_TAKES_SIZE},
    [HEIGHT] = {"height", IMAGE_TAKES_SIZE},
};

// ---- reading -------------------------------------------------------------------------------------------

// Is a text "%NAME%" or "%NAME:DEFAULT%"? *given: the default, NAN: none.
static bool is_value(const char *text, enum value v, double *given)
{
    size_t n = strlen(text), name = strlen(values[v].name);
    char *end;

    *given = NAN;
    if (n < name + 2 || text[0] != '%' || text[n - 1] != '%' ||
        strncmp(text + 1, values[v].name, name) != 0)
        return false;
    if (n == name + 2)
        return true;
    if (text[1 + name] != ':')
        return false;
    *given = strtod(text + name + 2, &end);
    return end == text + n - 1 && end > text + name + 2 && fabs(*given) <= NUMBER_MAX;
}

// Bits of all that the texts below v hold.
static unsigned found(const json_t *v)
{
    const json_t *entry;
    const char *key, *text = json_string_value(v);
    unsigned bits = 0;
    double given;
    size_t i;

    for (enum value k = PROMPT; text && k < VALUES; k++)
        if (k <= NEGATIVE ? strstr(text, k == PROMPT ? "%prompt%" : "%negative%") != NULL
                          : is_value(text, k, &given))
            bits |= 1u << k;
    json_array_foreach(v, i, entry)
    {
        bits |= found(entry);
    }
    json_object_foreach((json_t *)(uintptr_t)v, key, entry)
    {
        bits |= found(entry);
    }
    return bits;
}

static int nodes_check(const json_t *workflow, struct err *e)
{
    const json_t *node;
    const char *id;

    if (!json_is_object(workflow) || json_is_array(json_object_get(workflow, "nodes")))
        return err_set(e, ERR_INVALID,
                       "is no workflow in ComfyUI's API format; in its menu, \"Export (API)\" "
                       "writes one");
    json_object_foreach((json_t *)(uintptr_t)workflow, id, node)
    {
        if (!json_is_string(json_object_get(node, "class_type")) ||
            !json_is_object(json_object_get(node, "inputs")))
            return err_set(e, ERR_INVALID,
                           "is no workflow in ComfyUI's API format: \"%.60s\" has no class_type or "
                           "no inputs; \"Export (API)\" in its menu writes one",
                           id);
    }
    return 0;
}

json_t *image_workflow_parse(const void *text, size_t n, unsigned *takes, struct err *e)
{
    json_t *workflow = json_parse(text, n, e);
    unsigned bits = found(workflow);
    int rc = workflow ? nodes_check(workflow, e) : e->code;

    if (rc == 0 && !(bits & 1u << PROMPT))
        rc = err_set(e, ERR_INVALID,
                     "has no \"%%prompt%%\": write that in place of the text of what is to be "
                     "drawn (and \"%%negative%%\", \"%%seed%%\", \"%%steps%%\", \"%%cfg%%\", "
                     "\"%%width%%\" and \"%%height%%\" where clients may choose)");
    if (rc == 0 && !(bits & 1u << WIDTH) != !(bits & 1u << HEIGHT))
        rc = err_set(e, ERR_INVALID, "has only one of \"%%width%%\" and \"%%height%%\"");
    *takes = 0;
    for (enum value v = PROMPT; v < VALUES; v++)
        *takes |= bits & 1u << v ? values[v].takes : 0;
    if (rc == 0)
        return workflow;
    json_decref(workflow);
    return NULL;
}

// ---- filling -------------------------------------------------------------------------------------------

struct filling {
    const struct image_upstream_order *order;
    char *prompt, *negative;
};

// The number that was asked, else the workflow's own, else ours.
static double number_of(const struct filling *f, enum value v, double given)
{
    const struct image_request *r = f->order->request;

    switch (v) {
    case STEPS:
        return r->steps > 0 ? r->steps : isnan(given) ? IMAGE_UPSTREAM_STEPS : given;
    case CFG:
        return r->cfg >= 0 ? r->cfg : isnan(given) ? IMAGE_UPSTREAM_CFG : given;
    case WIDTH:
        return r->width > 0 ? r->width : isnan(given) ? IMAGE_UPSTREAM_SIDE : given;
    default:
        return r->height > 0 ? r->height : isnan(given) ? IMAGE_UPSTREAM_SIDE : given;
    }
}

// The text with the two texts in place of their names. What a client wrote is not looked through again.
static json_t *text_fill(const struct filling *f, const char *text)
{
    struct buf out;
    json_t *v;

    buf_init(&out, strlen(text) * (IMAGE_PROMPT_MAX / 8 + 1) + IMAGE_PROMPT_MAX);
    buf_puts(&out, "");
    while (*text) {
        bool prompt = strncmp(text, "%prompt%", 8) == 0;
        bool negative = strncmp(text, "%negative%", 10) == 0;

        if (prompt || negative)
            buf_puts(&out, prompt ? f->prompt : f->negative);
        else
            buf_put(&out, text, 1);
        text += prompt ? 8 : negative ? 10 : 1;
    }
    v = json_stringn(out.data ? (const char *)out.data : "", out.len);
    buf_fini(&out);
    return v;
}

static json_t *fill(const struct filling *f, const json_t *v);

static json_t *text_value(const struct filling *f, const char *text)
{
    double given;

    if (is_value(text, SEED, &given))
        return json_integer(f->order->seed);
    for (enum value v = STEPS; v < VALUES; v++)
        if (is_value(text, v, &given)) {
            double number = number_of(f, v, given);

            return v == CFG ? json_real(number) : json_integer((json_int_t)number);
        }
    return text_fill(f, text);
}

static json_t *object_fill(const struct filling *f, const json_t *v)
{
    json_t *out = json_object(), *entry;
    const char *key;

    json_object_foreach((json_t *)(uintptr_t)v, key, entry)
    {
        json_object_set_new(out, key, fill(f, entry));
    }
    return out;
}

static json_t *fill(const struct filling *f, const json_t *v)
{
    const json_t *entry;
    json_t *out;
    size_t i;

    if (json_is_string(v))
        return text_value(f, json_string_value(v));
    if (json_is_object(v))
        return object_fill(f, v);
    if (!json_is_array(v))
        return json_incref((json_t *)(uintptr_t)v);
    out = json_array();
    json_array_foreach(v, i, entry)
    {
        json_array_append_new(out, fill(f, entry));
    }
    return out;
}

json_t *image_workflow_fill(const json_t *workflow, const struct image_upstream_order *o)
{
    struct filling f = {o, image_upstream_prompt(o), image_upstream_negative(o)};
    json_t *out;

    if (!f.negative)
        f.negative = mem_strdup("");
    out = fill(&f, workflow);
    free(f.prompt);
    free(f.negative);
    return out;
}
