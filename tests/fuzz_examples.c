// Training files of any bytes: what passes keeps its promises, what does not is named by its line.
#include "base/examples.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char path[] = "/tmp/tandem-examples-XXXXXX";

static void path_remove(void)
{
    unlink(path);
}

static void must(bool ok)
{
    if (!ok)
        abort();
}

static int example_seen(void *ctx, const json_t *example, struct err *e)
{
    const json_t *messages = json_object_get(example, "messages"), *m;
    size_t i, learned = 0;
    (void)e;
    must(json_array_size(messages) > 0);
    json_array_foreach(messages, i, m)
    {
        must(json_is_string(json_object_get(m, "role")));
        learned += examples_learned(m);
    }
    must(learned > 0);
    ++*(uint64_t *)ctx;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static int fd = -1;
    struct examples_facts facts;
    struct err e = {0};
    uint64_t seen = 0;
    if (fd < 0) {
        must((fd = mkstemp(path)) >= 0);
        atexit(path_remove);
    }
    must(ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
    int rc = examples_read(path, example_seen, &seen, &facts, &e);
    must(facts.n >= seen);
    if (rc == 0)
        must(seen > 0 && facts.n == seen && facts.bytes == n);
    else
        must(strstr(e.message, "line ") || strstr(e.message, "no example"));
    return 0;
}
