// Folders that tests make under /tmp and take away with all that is in them.
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

static inline int scratch_drop(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

// 0, or what nftw says.
static inline int scratch_remove(const char *folder)
{
    return nftw(folder, scratch_drop, 16, FTW_DEPTH | FTW_PHYS);
}

// Where the program keeps its data and its state, of one test or of a group of them.
static char scratch_home[64];

static inline int scratch_home_set_up(void **state)
{
    (void)state;
    snprintf(scratch_home, sizeof(scratch_home), "/tmp/tandem-home-XXXXXX");
    if (!mkdtemp(scratch_home))
        return -1;
    setenv("TANDEM_DATA", scratch_home, 1);
    return setenv("TANDEM_STATE", scratch_home, 1);
}

static inline int scratch_home_tear_down(void **state)
{
    (void)state;
    return scratch_remove(scratch_home);
}

// A test with a home of its own.
#define SCRATCH_TEST(t)                                                                            \
    cmocka_unit_test_setup_teardown(t, scratch_home_set_up, scratch_home_tear_down)

#endif
