// Words that a user types: refused with words of ours, or a key whose words are the same ones.
#include "base/buf.h"
#include "net/words.h"

#include <stdio.h>
#include <stdlib.h>

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_words: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = mem_alloc(n + 1), words[WORDS_BYTES];
    memcpy(text, data, n);
    struct net_key key, again;
    struct err e = {0};
    if (words_decode(text, &key, &e) == 0) {
        check(words_count(text) == WORDS_COUNT, "another number of words");
        words_encode(&key, words);
        check(words_decode(words, &again, &e) == 0, "does not decode again");
        check(memcmp(&key, &again, sizeof key) == 0, "another key");
    } else {
        check(e.message[0], "no words");
    }
    free(text);
    return 0;
}
