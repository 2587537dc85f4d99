// Folders that tests make under /tmp and take away with all that is in them.
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <ftw.h>
#include <stdio.h>

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

#endif
