// Profiles as JSON: for the API, for files of the simulator, and for the database that keeps them.
//
// Members are named as the fields of struct profile; what is absent keeps its value, what is not known is
// ignored, and what cannot be is refused with its name. A book adds what its filters believe, so that learning goes
// on where it stopped. New references; the caller's memory; any thread.
#ifndef SCHED_PROFILE_JSON_H
#define SCHED_PROFILE_JSON_H

#include "base/err.h"
#include "sched/profile.h"

#include <jansson.h>

json_t *profile_json(const struct profile *p);
int profile_parse(const json_t *object, struct profile *p, struct err *e);

json_t *profile_book_json(const struct profile_book *b);
// The book is whole afterwards or, on an error, as it was.
int profile_book_parse(const json_t *object, struct profile_book *b, struct err *e);

json_t *profile_link_json(const struct profile_link *l);
json_t *profile_link_book_json(const struct profile_link_book *b);
int profile_link_book_parse(const json_t *object, struct profile_link_book *b, struct err *e);

#endif
