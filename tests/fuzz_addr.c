// Addresses that a user types: refused with words, or a host and a port that parse to themselves.
#include "base/buf.h"
#include "net/net.h"

#include <stdio.h>
#include <stdlib.h>

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_addr: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = mem_alloc(n + 1);
    memcpy(text, data, n);
    struct net_addr a, again;
    struct err e = {0};
    if (net_addr_parse(text, "127.0.0.1", 7077, &a, &e) == 0) {
        check(a.host[0] && strnlen(a.host, sizeof a.host) < sizeof a.host, "no host");
        char *back = mem_format(strchr(a.host, ':') ? "[%s]:%u" : "%s:%u", a.host, a.port);
        check(net_addr_parse(back, "", 0, &again, &e) == 0, "does not parse again");
        check(strcmp(a.host, again.host) == 0 && a.port == again.port, "another address");
        (void)net_addr_is_loopback(&a);
        free(back);
    } else {
        check(e.message[0], "no words");
    }
    free(text);
    return 0;
}
