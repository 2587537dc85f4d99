// Replays a fuzz corpus without libFuzzer: calls LLVMFuzzerTestOneInput for each file of a folder,
// for a few inputs that every parser must stand, and for every file cut at each of its first bytes.
//
// An empty corpus is a failure: it would test nothing.
#include "base/buf.h"
#include "os/os.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#define REPLAY_FILE_BYTES (16u << 20)
#define REPLAY_CUTS 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

// In memory of its own exact size, so that a sanitizer sees a read past the end.
static void replay_bytes(const void *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    if (n)
        memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static bool replay_file(const char *dir, const char *name)
{
    struct err e = {0};
    char *path = mem_format("%s/%s", dir, name);
    char *data = NULL;
    size_t n = 0;
    int rc = os_file_read(path, REPLAY_FILE_BYTES, &data, &n, &e);
    if (rc)
        fprintf(stderr, "%s\n", e.message);
    for (size_t cut = 0; rc == 0 && cut < n && cut < REPLAY_CUTS; cut++)
        replay_bytes(data, cut);
    if (rc == 0)
        replay_bytes(data, n);
    free(data);
    free(path);
    return rc == 0;
}

static size_t replay_dir(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return 0;
    size_t files = 0;
    const struct dirent *entry;
    while ((entry = readdir(d))) {
        if (entry->d_name[0] != '.' && replay_file(dir, entry->d_name))
            files++;
    }
    closedir(d);
    return files;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    static const uint8_t zeros[4096];
    uint8_t ones[4096];
    memset(ones, 0xff, sizeof ones);
    for (size_t n = 0; n <= sizeof ones; n = n ? n * 2 : 1) {
        replay_bytes(zeros, n);
        replay_bytes(ones, n);
    }
    size_t files = replay_dir(argv[1]);
    printf("%zu files of %s replayed\n", files, argv[1]);
    return files ? 0 : 1;
}
