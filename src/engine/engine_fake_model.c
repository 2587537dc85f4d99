// The model string of the fake engine; fake.h lists the keys.
#include "engine/engine_fake_model.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_key {
    const char *name;
    size_t offset;
    int64_t min, max;
};

#define KEY(k, lo, hi)                                                                             \
    {                                                                                              \
#k, offsetof(struct fake_options, k), lo, hi                                               \
    }

static const struct fake_key keys[] = {
    KEY(seed, 0, INT64_MAX),
    KEY(layers, 1, 256),
    KEY(kv_bytes, 2, 65536),
    KEY(vocab, 258, 1 << 20),
    KEY(state, 0, 1),
    KEY(prefill_us, 0, 60000000),
    KEY(decode_us, 0, 60000000),
    KEY(depth_ns, 0, 60000000),
    KEY(export_us, 0, 60000000),
    KEY(embed, 0, 1 << 20),
    KEY(ranks, 0, 1),
    KEY(apart, 0, 1),
    KEY(crash_after, 0, INT64_MAX),
    KEY(hang_after, 0, INT64_MAX),
};

static int text_set(char *out, size_t out_bytes, const char *key, const char *value, struct err *e)
{
    int n = snprintf(out, out_bytes, "%s", value);
    if (n <= 0 || (size_t)n >= out_bytes)
        return err_set(e, ERR_INVALID, "fake model: %s must have 1 to %zu bytes", key,
                       out_bytes - 1);
    return 0;
}

static int key_set(struct fake_options *o, const char *key, const char *value, struct err *e)
{
    if (strcmp(key, "name") == 0)
        return text_set(o->name, sizeof o->name, key, value, e);
    if (strcmp(key, "script") == 0)
        return text_set(o->script, sizeof o->script, key, value, e);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(key, keys[i].name) != 0)
            continue;
        char *end;
        long long v = strtoll(value, &end, 10);
        if (*value == '\0' || *end != '\0' || v < keys[i].min || v > keys[i].max)
            return err_set(e, ERR_INVALID, "fake model: %s=%s, must be %lld to %lld", key, value,
                           (long long)keys[i].min, (long long)keys[i].max);
        int64_t v64 = v;
        memcpy((char *)o + keys[i].offset, &v64, sizeof v64);
        return 0;
    }
    return err_set(e, ERR_INVALID, "fake model: no key \"%s\"", key);
}

int fake_model_parse(const char *model, struct fake_options *o, struct err *e)
{
    *o = (struct fake_options){
        .seed = 1,
        .layers = 4,
        .kv_bytes = 64,
        .vocab = 258,
        .embed = 2048,
        .name = "fake",
    };
    if (strncmp(model, "fake", 4) != 0 || (model[4] != '\0' && model[4] != ':'))
        return err_set(e, ERR_INVALID, "\"%s\" does not name the fake model", model);
    char *copy = mem_strdup(model[4] == ':' ? model + 5 : ""), *at = copy, *item;
    int rc = 0;
    while (rc == 0 && (item = strsep(&at, ",")) != NULL) {
        char *value = strchr(item, '=');
        if (value == NULL && *item != '\0')
            rc = err_set(e, ERR_INVALID, "fake model: \"%s\" has no value", item);
        if (value == NULL)
            continue;
        *value = '\0';
        rc = key_set(o, item, value + 1, e);
    }
    if (rc == 0 && o->kv_bytes % 2 != 0)
        rc = err_set(e, ERR_INVALID, "fake model: kv_bytes must be even");
    free(copy);
    return rc;
}
