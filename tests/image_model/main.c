// image_model: makes the model that the image tests draw with.
//
//   image_model train OUT [STEPS [SEED]]   trains from nothing and keeps the trained values (minutes)
//   image_model write WEIGHTS OUT.gguf     the model file of trained values
//   image_model random SEED OUT.gguf       the same without training: what a check must refuse
//   image_model check                      gradients against differences
#include "tests/image_model/train.h"
#include "tests/image_model/weights.h"
#include "tests/image_model/write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 6000
#define STEPS_MAX 1000000

static int usage(void)
{
    fprintf(stderr, "usage: image_model train OUT [STEPS [SEED]] | write WEIGHTS OUT.gguf | "
                    "random SEED OUT.gguf | check\n");
    return 2;
}

static int train(int argc, char **argv, struct err *e)
{
    struct train_run run = {.steps = STEPS, .batch = 16, .rate = 3e-3f, .seed = 1};
    struct network n;
    if (argc > 3)
        run.steps = strtol(argv[3], NULL, 10);
    if (argc > 4)
        run.seed = strtoull(argv[4], NULL, 10);
    if (run.steps < 1 || run.steps > STEPS_MAX)
        return err_set(e, ERR_INVALID, "%s steps; 1 to %d are possible", argv[3], STEPS_MAX);
    network_init(&n, run.seed);
    train_network(&n, &run);
    int rc = weights_write(&n, argv[2], e);
    network_fini(&n);
    return rc;
}

static int write_from(const char *weights, uint64_t seed, const char *out, struct err *e)
{
    struct network n;
    network_init(&n, seed);
    int rc = weights != NULL ? weights_read(&n, weights, e) : 0;
    if (rc == 0)
        rc = write_model(&n, out, e);
    network_fini(&n);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    int rc = 0;
    if (argc == 2 && strcmp(argv[1], "check") == 0)
        return train_gradients_check() ? 0 : 1;
    if (argc >= 3 && argc <= 5 && strcmp(argv[1], "train") == 0)
        rc = train(argc, argv, &e);
    else if (argc == 4 && strcmp(argv[1], "write") == 0)
        rc = write_from(argv[2], 1, argv[3], &e);
    else if (argc == 4 && strcmp(argv[1], "random") == 0)
        rc = write_from(NULL, strtoull(argv[2], NULL, 10), argv[3], &e);
    else
        return usage();
    if (rc != 0)
        fprintf(stderr, "image_model: %s\n", e.message);
    return rc != 0;
}
