// What the simulator's tests share: one catalogue, without anything of a user's.
#ifndef TESTS_SIM_RIG_H
#define TESTS_SIM_RIG_H

#include "plan/catalogue.h"

#include <stdio.h>
#include <stdlib.h>

static struct plan_catalogue *catalogue;

static inline int catalogue_setup(void **state)
{
    char share[1024];
    struct err e = {0};
    (void)state;
    snprintf(share, sizeof share, "%s/share",
             getenv("TANDEM_SOURCE") != NULL ? getenv("TANDEM_SOURCE") : "..");
    setenv("TANDEM_SHARE", share, 1);
    setenv("TANDEM_CONFIG", "/nonexistent", 1);
    if (plan_catalogue_open(&catalogue, &e) != 0) {
        fprintf(stderr, "%s\n", e.message);
        return -1;
    }
    return 0;
}

static inline int catalogue_teardown(void **state)
{
    (void)state;
    plan_catalogue_free(catalogue);
    return 0;
}

#endif
