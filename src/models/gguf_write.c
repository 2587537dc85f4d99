#include "models/gguf_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// As GGUF files say types of values and tensors.
enum { KEY_FLOAT = 6, KEY_TEXT = 8, TENSOR_F32 = 0, VERSION = 3, ALIGNMENT = 32 };
#define HEAD_BYTES 24 // before the keys

void models_gguf_put_text(struct buf *b, const char *text)
{
    buf_put_le64(b, strlen(text));
    buf_puts(b, text);
}

static uint64_t aligned(uint64_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void models_gguf_writer_init(struct models_gguf_writer *w)
{
    *w = (struct models_gguf_writer){0};
    buf_init(&w->keys, MODELS_GGUF_WRITE_HEAD_MAX);
    buf_init(&w->tensors, MODELS_GGUF_WRITE_HEAD_MAX);
}

void models_gguf_writer_fini(struct models_gguf_writer *w)
{
    if (w->file) {
        fclose(w->file);
        unlink(w->aside);
    }
    free(w->aside);
    free(w->path);
    buf_fini(&w->keys);
    buf_fini(&w->tensors);
}

void models_gguf_write_text(struct models_gguf_writer *w, const char *key, const char *value)
{
    models_gguf_put_text(&w->keys, key);
    buf_put_le32(&w->keys, KEY_TEXT);
    models_gguf_put_text(&w->keys, value);
    w->n_keys++;
}

void models_gguf_write_float(struct models_gguf_writer *w, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    models_gguf_put_text(&w->keys, key);
    buf_put_le32(&w->keys, KEY_FLOAT);
    buf_put_le32(&w->keys, bits);
    w->n_keys++;
}

void models_gguf_write_matrix(struct models_gguf_writer *w, const char *name, uint64_t columns,
                              uint64_t rows)
{
    models_gguf_put_text(&w->tensors, name);
    buf_put_le32(&w->tensors, 2);
    buf_put_le64(&w->tensors, columns);
    buf_put_le64(&w->tensors, rows);
    buf_put_le32(&w->tensors, TENSOR_F32);
    buf_put_le64(&w->tensors, w->data_bytes);
    w->data_bytes += aligned(columns * rows * sizeof(float));
    w->n_tensors++;
}

uint64_t models_gguf_write_bytes(const struct models_gguf_writer *w)
{
    return aligned(HEAD_BYTES + w->keys.len + w->tensors.len) + w->data_bytes;
}

static int write_failed(struct models_gguf_writer *w, struct err *e)
{
    return err_set(e, ERR_IO, "'%s' cannot be written: %s%s", w->aside, strerror(errno),
                   errno == ENOSPC ? "; make room and try again" : "");
}

static int bytes_put(struct models_gguf_writer *w, const void *data, size_t n, struct err *e)
{
    return n == 0 || fwrite(data, 1, n, w->file) == n ? 0 : write_failed(w, e);
}

static int zeros_put(struct models_gguf_writer *w, uint64_t n, struct err *e)
{
    static const uint8_t zeros[ALIGNMENT];
    return bytes_put(w, zeros, (size_t)n, e);
}

static int head_put(struct models_gguf_writer *w, struct err *e)
{
    uint8_t head[HEAD_BYTES] = "GGUF";
    uint64_t n = HEAD_BYTES + w->keys.len + w->tensors.len;
    le_put32(head + 4, VERSION);
    le_put64(head + 8, w->n_tensors);
    le_put64(head + 16, w->n_keys);
    int rc = bytes_put(w, head, sizeof head, e);
    if (rc == 0)
        rc = bytes_put(w, w->keys.data, w->keys.len, e);
    if (rc == 0)
        rc = bytes_put(w, w->tensors.data, w->tensors.len, e);
    return rc ? rc : zeros_put(w, aligned(n) - n, e);
}

int models_gguf_writer_open(struct models_gguf_writer *w, const char *path, struct err *e)
{
    w->path = mem_strdup(path);
    w->aside = mem_format("%s.%ld.part", path, (long)getpid());
    w->file = fopen(w->aside, "wbe");
    return w->file ? head_put(w, e) : write_failed(w, e);
}

int models_gguf_write_values(struct models_gguf_writer *w, const float *values, size_t n, bool last,
                             struct err *e)
{
    uint8_t raw[4096];
    const size_t most = sizeof raw / 4;
    int rc = 0;
    for (size_t at = 0, some; rc == 0 && at < n; at += some) {
        some = n - at < most ? n - at : most;
        for (size_t i = 0; i < some; i++) {
            uint32_t bits;
            memcpy(&bits, &values[at + i], sizeof bits);
            le_put32(raw + 4 * i, bits);
        }
        rc = bytes_put(w, raw, 4 * some, e);
    }
    w->written_bytes += 4 * (uint64_t)n;
    uint64_t fill = last ? aligned(w->written_bytes) - w->written_bytes : 0;
    w->written_bytes += fill;
    return rc ? rc : zeros_put(w, fill, e);
}

int models_gguf_writer_close(struct models_gguf_writer *w, struct err *e)
{
    int rc = 0;
    if (w->written_bytes != w->data_bytes)
        return err_set(e, ERR_INVALID, "%llu bytes of values were promised, %llu written",
                       (unsigned long long)w->data_bytes, (unsigned long long)w->written_bytes);
    if (fflush(w->file) != 0 || fsync(fileno(w->file)) != 0)
        return write_failed(w, e);
    fclose(w->file);
    w->file = NULL;
    if (rename(w->aside, w->path) != 0) {
        rc = err_set(e, ERR_IO, "'%s' cannot become '%s': %s", w->aside, w->path, strerror(errno));
        unlink(w->aside);
    }
    return rc;
}
