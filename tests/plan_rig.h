// What the planner's tests share: the catalogue of this source tree, and a folder for a user's own over it.
#ifndef TESTS_PLAN_RIG_H
#define TESTS_PLAN_RIG_H

#include "plan/catalogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char rig_config[] = "/tmp/tandem-plan-test-XXXXXX";
static char rig_own_file[128];

static inline int rig_setup(void **state)
{
    char share[4096], dir[64];
    const char *source = getenv("TANDEM_SOURCE");
    (void)state;
    if (mkdtemp(rig_config) == NULL)
        return -1;
    setenv("TANDEM_CONFIG", rig_config, 1);
    snprintf(dir, sizeof dir, "%s/catalogue", rig_config);
    snprintf(rig_own_file, sizeof rig_own_file, "%s/own.json", dir);
    if (source != NULL) {
        snprintf(share, sizeof share, "%s/share", source);
        setenv("TANDEM_SHARE", share, 1);
    }
    return mkdir(dir, 0700);
}

static inline int rig_teardown(void **state)
{
    char dir[64];
    (void)state;
    unlink(rig_own_file);
    snprintf(dir, sizeof dir, "%s/catalogue", rig_config);
    rmdir(dir);
    return rmdir(rig_config);
}

static inline struct plan_catalogue *rig_catalogue(void)
{
    struct plan_catalogue *c = NULL;
    struct err e = {0};
    if (plan_catalogue_open(&c, &e) != 0)
        fail_msg("%s", e.message);
    return c;
}

#endif
