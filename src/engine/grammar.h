// What a grammar (GBNF) would grow to in memory, told before it is given to the library that reads it.
//
// That library writes repetitions out: "a{3,5}" becomes three elements and two rules, each with a name that
// begins with the name of the rule it stands in. What it multiplies has no bound of its own where the
// repeated item or the name is long, and {5,2} counts down from 2^64. A request must not end a machine, so
// the text is weighed here first. It is not checked otherwise: what is wrong in it is the library's to say.
//
// Pure: no threads, no state.
#ifndef ENGINE_GRAMMAR_H
#define ENGINE_GRAMMAR_H

#include "base/err.h"

#define GRAMMAR_GROWN_MAX (128u << 20) // bytes, as this file counts them

// ERR_INVALID with the repetition that is wrong, or with the size that is too large.
int grammar_weigh(const char *text, struct err *e);

#endif
