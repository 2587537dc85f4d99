// tandem convert: an adapter that PyTorch's PEFT saved becomes one that can be served.
#include "cli/cli.h"
#include "cli/models.h"

#include "base/buf.h"
#include "base/json.h"
#include "models/adapters.h"
#include "models/fetch.h"
#include "models/peft.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char usage[] = "usage: tandem convert FOLDER -m BASE [-o FILE] [OPTIONS]";
static const char about[] =
    "Converts a LoRA adapter that PyTorch's PEFT saved (adapter_config.json and\n"
    "adapter_model.safetensors in FOLDER) to the GGUF adapter that tandem and llama.cpp load. BASE "
    "is\n"
    "the GGUF model that it was trained on, in any quantisation: names and shapes are held "
    "against\n"
    "it. What a GGUF adapter cannot say (DoRA, ranks that differ, trained biases or embeddings) "
    "is\n"
    "refused with what to change. With --name it is published: `tandem serve -m BASE` lists it as\n"
    "model \"ft:NAME\".";

struct convert {
    const char *folder, *base, *out, *name;
    bool json, replace;
    struct models_peft told;
};

static void json_tell(const struct convert *c)
{
    const struct models_peft *t = &c->told;
    json_t *o = json_object();
    json_put(o, "adapter", json_string(c->out));
    json_put(o, "base", json_string(c->base));
    json_put(o, "published", c->name ? json_string(c->name) : json_null());
    json_put(o, "arch", json_string(t->arch));
    json_put(o, "rank", json_integer(t->rank));
    json_put(o, "alpha", json_real((double)t->alpha));
    json_put(o, "rank_stabilised", json_boolean(t->rank_stabilised));
    json_put(o, "matrices", json_integer(t->matrices));
    json_put(o, "values", json_integer((json_int_t)t->values));
    json_put(o, "bytes", json_integer((json_int_t)t->bytes));
    models_json_print(o);
    json_decref(o);
}

static void text_tell(const struct convert *c)
{
    char size[MODELS_SIZE_TEXT];
    models_size_format(c->told.bytes, size);
    printf("%s: %s, rank %" PRIu32 ", alpha %g%s, on %" PRIu32 " matrices, %s\n", c->out,
           c->told.arch, c->told.rank, (double)c->told.alpha,
           c->told.rank_stabilised ? " (rank-stabilised)" : "", c->told.matrices, size);
    if (c->name)
        printf("published: " ADAPTERS_PREFIX "%s\n", c->name);
}

static int publish(const struct convert *c, struct err *e)
{
    struct adapters_new n;
    adapters_new_default(&n);
    n.name = c->name;
    n.file = c->out;
    n.model = c->base;
    n.replace = c->replace;
    return adapters_publish(&n, NULL, e);
}

static int convert(struct convert *c, struct err *e)
{
    int rc = c->name ? adapters_name_check(c->name, e) : 0;
    if (rc == 0)
        rc = cli_model_path(&c->base, e);
    if (rc != 0)
        return rc;
    if (!c->replace && access(c->out, F_OK) == 0)
        return err_set(e, ERR_INVALID, "'%s' is there already; say --replace, or another -o",
                       c->out);
    rc = models_peft_convert(c->folder, c->base, c->out, &c->told, e);
    if (rc == 0 && c->name)
        rc = publish(c, e);
    if (rc != 0)
        return rc;
    if (c->json)
        json_tell(c);
    else
        text_tell(c);
    return 0;
}

static int convert_run(int argc, char **argv)
{
    struct convert c = {0};
    bool done = false;
    struct cli_list rest = {0};
    const struct cli_option options[] = {
        {"--model", 'm', CLI_STRING, &c.base, "MODEL",
         "the base: a GGUF file, or a model that was pulled", 0, 0},
        {"--output", 'o', CLI_STRING, &c.out, "FILE",
         "the adapter to write (default: FOLDER/adapter.gguf)", 0, 0},
        {"--name", 0, CLI_STRING, &c.name, "NAME", "publish it as model \"ft:NAME\"", 0, 0},
        {"--replace", 0, CLI_FLAG, &c.replace, NULL,
         "FILE, and an adapter of that name, may be there already", 0, 0},
        {"--json", 0, CLI_FLAG, &c.json, NULL, "print JSON", 0, 0},
        {0},
    };
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, usage, about, &rest, &done, &e);
    if (rc == 0 && !done && rest.n != 1)
        rc = err_set(&e, ERR_INVALID, "say one folder that PEFT's save_pretrained wrote");
    if (rc == 0 && !done && !c.base)
        rc = err_set(&e, ERR_INVALID,
                     "say with -m which GGUF model the adapter was trained on; names, shapes and "
                     "the order of rows depend on it");
    char *given = rc == 0 && !done && !c.out ? mem_format("%s/adapter.gguf", rest.items[0]) : NULL;
    if (given)
        c.out = given;
    if (rc == 0 && !done) {
        c.folder = rest.items[0];
        rc = convert(&c, &e);
    }
    free(given);
    return rc ? cli_fail("convert", &e) : 0;
}

const struct cli_command cli_convert = {"convert", "a PEFT adapter to GGUF", convert_run};
