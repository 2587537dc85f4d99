// Grammars of clients: weighed, or refused with words, whatever they are.
#include "base/buf.h"
#include "engine/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = mem_alloc(n + 1);
    struct err e = {0};

    memcpy(text, data, n);
    if (grammar_weigh(text, &e) != 0 && !e.message[0]) {
        fprintf(stderr, "fuzz_grammar: refused without words\n");
        abort();
    }
    free(text);
    return 0;
}
