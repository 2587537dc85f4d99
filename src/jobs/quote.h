// Words for a shell that is not here: a batch script, the shell at the other end of ssh. Every word is put between
// single quotes, in which a POSIX shell knows no special character but the quote itself.
#ifndef JOBS_QUOTE_H
#define JOBS_QUOTE_H

#include "base/buf.h"

// Appends the word, quoted. ERR_RANGE where the buffer's maximum is reached.
int jobs_quote_word(struct buf *out, const char *word);
// All words of a NULL-terminated vector, with a space before each but the first.
int jobs_quote_words(struct buf *out, const char *const *words);

#endif
