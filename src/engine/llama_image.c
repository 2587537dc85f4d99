// Files of images become pixels, by the same decoder that llama.cpp's own tools use. It is compiled here
// once more, for two reasons: only the formats that are wanted, and its memory has a bound. A file of a few
// kilobytes may unpack to gigabytes; here an allocation beyond what the largest image needs fails.
#include "engine/llama_impl.h"

#include <limits.h>
#include <stdlib.h>

// RGBA, twice: the decoder turns what it unpacked into what is asked for.
#define BLOCK_BYTES_MAX ((size_t)LLAMA_IMAGE_PIXELS * 8)

static void *block_get(size_t bytes)
{
    return bytes <= BLOCK_BYTES_MAX ? malloc(bytes) : NULL;
}

static void *block_resize(void *block, size_t bytes)
{
    return bytes <= BLOCK_BYTES_MAX ? realloc(block, bytes) : NULL;
}

#define STBI_MALLOC(n) block_get(n)
#define STBI_REALLOC(p, n) block_resize(p, n)
#define STBI_FREE(p) free(p)
#define STBI_MAX_DIMENSIONS LLAMA_IMAGE_SIDE
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_NO_STDIO
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

static const char *reason(void)
{
    const char *why = stbi_failure_reason();
    return why ? why : "no reason given";
}

int llama_image_read(const struct engine_image *file, struct llama_image *out, struct err *e)
{
    int width = 0, height = 0, channels = 0, n = file->len < INT_MAX ? (int)file->len : 0;
    *out = (struct llama_image){0};
    if (!stbi_info_from_memory(file->data, n, &width, &height, &channels))
        return err_set(e, ERR_INVALID,
                       "%zu bytes are no image that can be read (%s); send PNG, JPEG, BMP or GIF",
                       file->len, reason());
    if (width <= 0 || height <= 0 || width > LLAMA_IMAGE_SIDE || height > LLAMA_IMAGE_SIDE ||
        (uint64_t)width * (uint64_t)height > LLAMA_IMAGE_PIXELS)
        return err_set(e, ERR_INVALID,
                       "an image of %d x %d pixels; at most %d a side and %u in all are read",
                       width, height, LLAMA_IMAGE_SIDE, LLAMA_IMAGE_PIXELS);
    out->pixels = stbi_load_from_memory(file->data, n, &width, &height, &channels, 3);
    if (!out->pixels)
        return err_set(e, ERR_INVALID, "an image of %zu bytes cannot be decoded: %s", file->len,
                       reason());
    out->width = (uint32_t)width;
    out->height = (uint32_t)height;
    return 0;
}

void llama_image_fini(struct llama_image *image)
{
    free(image->pixels);
    *image = (struct llama_image){0};
}
