// Looks at a GGUF file before llama.cpp does, so that an absent, foreign or cut short file is named
// as what it is, and hashes it for the engine's identity.
#include "engine/llama_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <ggml.h>
#include <gguf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define SAMPLES 16
#define SAMPLE_BYTES 65536

static int file_size(const char *path, uint64_t *size, struct err *e)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return err_set(e, ERR_NOT_FOUND,
                           "no model file at '%s'; give the path of a GGUF file with -m", path);
        return err_set(e, ERR_IO, "model file '%s': %s", path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_INVALID, "'%s' is not a regular file; give the path of a GGUF file",
                       path);
    *size = (uint64_t)st.st_size;
    return 0;
}

static int magic_check(const char *path, struct err *e)
{
    unsigned char magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, ERR_IO, "model file '%s': %s; check its permissions", path,
                       strerror(errno));
    ssize_t n = read(fd, magic, sizeof magic);
    close(fd);
    if (n != sizeof magic || memcmp(magic, GGUF_MAGIC, sizeof magic) != 0)
        return err_set(
            e, ERR_CORRUPT,
            "'%s' is not a GGUF file (it starts with %02x %02x %02x %02x, not \"GGUF\"); "
            "convert the model to GGUF or choose another file",
            path, magic[0], magic[1], magic[2], magic[3]);
    return 0;
}

// Where the tensor data ends, or 0 on overflow (an offset near 2^64 in a hostile file).
static uint64_t data_end(const struct gguf_context *gguf)
{
    uint64_t start = gguf_get_data_offset(gguf), end = start;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); i++) {
        uint64_t at, stop;
        if (__builtin_add_overflow(start, gguf_get_tensor_offset(gguf, i), &at) ||
            __builtin_add_overflow(at, gguf_get_tensor_size(gguf, i), &stop))
            return 0;
        if (stop > end)
            end = stop;
    }
    return end;
}

int llama_file_check(const char *path, struct gguf_context **out, struct err *e)
{
    *out = NULL;
    uint64_t size = 0;
    int rc = file_size(path, &size, e);
    if (rc == 0)
        rc = magic_check(path, e);
    if (rc != 0)
        return rc;
    llama_log_begin();
    struct gguf_init_params params = {.no_alloc = true};
    struct gguf_context *gguf = gguf_init_from_file(path, params);
    const char *why = llama_log_end();
    if (!gguf && strstr(why, "invalid ggml type"))
        return err_set(
            e, ERR_UNSUPPORTED,
            "'%s': llama.cpp %s does not know how its weights are quantised (%s); choose "
            "another quantisation of the model, or a newer release",
            path, llama_version(), why);
    if (!gguf)
        return err_set(e, ERR_CORRUPT,
                       "'%s' is damaged or cut short (%" PRIu64 " bytes): its header does not read "
                       "(%s); fetch the file again",
                       path, size, why);
    uint64_t end = data_end(gguf);
    if (end == 0 || end > size) {
        gguf_free(gguf);
        return err_set(e, ERR_CORRUPT,
                       "'%s' is cut short: %" PRIu64 " bytes of %" PRIu64 "; fetch the file again",
                       path, size, end);
    }
    *out = gguf;
    return 0;
}

static void info_hash(XXH3_state_t *hash, const struct gguf_context *gguf, int64_t i)
{
    const char *name = gguf_get_tensor_name(gguf, i);
    uint64_t bytes = gguf_get_tensor_size(gguf, i);
    int32_t type = (int32_t)gguf_get_tensor_type(gguf, i);
    XXH3_64bits_update(hash, name, strlen(name) + 1);
    XXH3_64bits_update(hash, &bytes, sizeof bytes);
    XXH3_64bits_update(hash, &type, sizeof type);
}

uint64_t llama_file_hash(const char *path, const struct gguf_context *gguf)
{
    int64_t n = gguf_get_n_tensors(gguf);
    XXH3_state_t *hash = XXH3_createState();
    XXH3_64bits_reset(hash);
    for (int64_t i = 0; i < n; i++)
        info_hash(hash, gguf, i);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char *sample = malloc(SAMPLE_BYTES);
    int64_t stride = n > SAMPLES ? n / SAMPLES : 1;
    for (int64_t i = 0; i < n && fd >= 0 && sample; i += stride) {
        size_t want = gguf_get_tensor_size(gguf, i);
        if (want > SAMPLE_BYTES)
            want = SAMPLE_BYTES;
        uint64_t at = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i);
        ssize_t got = pread(fd, sample, want, (off_t)at);
        if (got > 0)
            XXH3_64bits_update(hash, sample, (size_t)got);
    }
    free(sample);
    if (fd >= 0)
        close(fd);
    uint64_t h = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return h;
}
