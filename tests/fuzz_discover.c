// What anybody on the network may announce: a host name up to the first NUL, and behind it the texts of a service.
// Whatever comes out can be printed, and the host dialled.
#include "os/discover_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_discover: %s\n", what);
    abort();
}

static void check_text(const char *text, size_t bytes)
{
    check(memchr(text, 0, bytes) != NULL, "no end");
    for (; *text; text++)
        check(*text >= 0x20 && *text < 0x7f, "not printable");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *end = memchr(data, 0, n);
    struct os_seen s = {0};
    if (end) {
        if (discover_host_take((const char *)data, s.host))
            check(s.host[0] && s.host[0] != '-' && !strpbrk(s.host, " /:;$`'\"\\"), "no host");
        n -= (size_t)(end - data) + 1;
        data = end + 1;
    }
    discover_texts_take(&s, data, n);
    check_text(s.host, sizeof s.host);
    check_text(s.version, sizeof s.version);
    check_text(s.models, sizeof s.models);
    check(s.id[0] == '\0' || strspn(s.id, "0123456789abcdef") == OS_ID_HEX, "no id");
    return 0;
}
