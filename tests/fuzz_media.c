// Images in requests: any URL, and any bytes as the head of a file, are read or refused, nothing else.
#include "gateway/parse_media.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct parse_image image;
    struct err e = {0};
    uint32_t width = 0, height = 0;
    char *url = malloc(n + 1);

    if (!url)
        return 0;
    for (size_t i = 0; i < n; i++)
        url[i] = (char)data[i];
    url[n] = 0;
    if (media_read(url, n, &image, &e) == 0 && (image.width == 0 || image.len == 0))
        abort();
    free(image.data);
    if (media_read_base64(url, n, &image, &e) == 0 && (image.width == 0 || image.len == 0))
        abort();
    free(image.data);
    if (media_size_get(data, n, &width, &height, &e) != 0 && e.code == 0)
        abort();
    free(url);
    return 0;
}
