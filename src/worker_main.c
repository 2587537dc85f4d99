// tandem-worker: one process with one loaded model. `tandem` starts it; people rarely do.
#include "base/err.h"
#include "engine/engine.h"
#include "engine/probe.h"
#include "node/node.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static int quantize_main(int argc, char **argv)
{
    struct err e = {0};
    if (argc != 4) {
        fprintf(stderr,
                "usage: tandem-worker quantize FROM.gguf TO.gguf TYPE   (Q4_0, Q8_0, ...)\n");
        return 2;
    }
    if (engine_quantize(argv[1], argv[2], argv[3], &e) == 0)
        return 0;
    fprintf(stderr, "tandem-worker quantize: %s\n", e.message);
    return 1;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";

    signal(SIGXFSZ, SIG_IGN); // a file that may not grow is an error like a full disk
    if (strcmp(command, "serve") == 0)
        return node_worker_main(argc - 1, argv + 1);
    if (strcmp(command, "probe") == 0 || strcmp(command, "check") == 0)
        return probe_main(argc - 1, argv + 1);
    if (strcmp(command, "quantize") == 0)
        return quantize_main(argc - 1, argv + 1);
    fprintf(stderr,
            "tandem-worker: unknown command '%s'\n"
            "It is started by `tandem serve`, `tandem node` and `tandem check`.\n",
            command);
    return 2;
}
