// Tiny random models of other architectures than the bench model's, made by llama.cpp's own generator.
// The sources are in TANDEM_SOURCE. A test program sets archs_wanted before its group runs.
#ifndef TESTS_LLAMA_ARCHS_H
#define TESTS_LLAMA_ARCHS_H

#include "llama_rig.h"

#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARCHS_MAX 8

static const char *archs_wanted[ARCHS_MAX + 1]; // NULL ends them
static char archs_dir[] = "/tmp/tandem-archs-XXXXXX";

static inline int archs_make(void **state)
{
    char script[PATH_MAX];
    const char *source = getenv("TANDEM_SOURCE");
    const char *argv[ARCHS_MAX + 4] = {"/bin/sh", script, archs_dir};
    struct err e = {0};
    pid_t pid;
    int status = 0;
    (void)state;
    assert_non_null(source);
    assert_non_null(mkdtemp(archs_dir));
    snprintf(script, sizeof script, "%s/scripts/archs.sh", source);
    for (size_t i = 0; i < ARCHS_MAX && archs_wanted[i]; i++)
        argv[3 + i] = archs_wanted[i];
    struct os_spawn s = {.argv = argv, .stdout_fd = STDERR_FILENO, .stderr_fd = -1};
    if (os_spawn(&s, &pid, &e) != 0)
        fail_msg("%s", e.message);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    assert_int_equal(status, 0);
    return 0;
}

static inline int archs_remove(void **state)
{
    char path[PATH_MAX];
    DIR *d = opendir(archs_dir);
    (void)state;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", archs_dir, entry->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    return rmdir(archs_dir);
}

static inline struct engine *archs_open(const char *file, enum engine_handoff handoff,
                                        uint32_t n_batch)
{
    char path[PATH_MAX];
    struct engine_options o = rig_options(handoff);
    o.n_batch = n_batch;
    snprintf(path, sizeof path, "%s/%s", archs_dir, file);
    o.model = path;
    return rig_open_with(&o);
}

#endif
