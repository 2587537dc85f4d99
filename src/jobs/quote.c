#include "jobs/quote.h"

#include <string.h>

int jobs_quote_word(struct buf *out, const char *word)
{
    int rc = buf_puts(out, "'");
    while (rc == 0 && *word) {
        size_t n = strcspn(word, "'");
        rc = buf_put(out, word, n);
        word += n;
        if (rc == 0 && *word == '\'') {
            rc = buf_puts(out, "'\\''"); // ends the quotes, a quote by itself, begins them anew
            word++;
        }
    }
    return rc == 0 ? buf_puts(out, "'") : rc;
}

int jobs_quote_words(struct buf *out, const char *const *words)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && words[i]; i++) {
        if (i > 0)
            rc = buf_puts(out, " ");
        if (rc == 0)
            rc = jobs_quote_word(out, words[i]);
    }
    return rc;
}
