// The profiles of this server's nodes, kept over restarts: one SQLite file.
//
// A profile belongs to a node and a model: a node's id (random, the same over restarts), and what identifies the
// model (equal weights, equal tokeniser, equal cache: an equal profile). A link belongs to two nodes. Books are loaded
// when the file is opened, live in memory, learn there, and what learned something is written at most every
// PROFILES_EVERY_NS and at the end, in one transaction. A book stays where it is until profiles_close.
//
// What is kept here only makes the first requests after a restart better predicted, so it never stands in the way:
// a file that is damaged or of a newer program is renamed and begun anew, a row that cannot be read is left out,
// a folder that cannot be written to leaves the books in memory; the log says which.
//
// Owner: one thread, the gateway's core.
#ifndef GATEWAY_PROFILES_H
#define GATEWAY_PROFILES_H

#include "base/clock.h"
#include "sched/profile.h"

#include <stdint.h>

#define PROFILES_EVERY_NS (5 * NS_PER_S)
#define PROFILES_MOST 4096      // books, and as many links; what was used longest ago is not loaded
#define PROFILES_NAME_BYTES 128 // of a node's id, of a model's identity
#define PROFILES_KEEP_S (365LL * 86400) // what was not seen for so long is deleted

struct profiles;

// NULL: in memory only.
struct profiles *profiles_open(const char *path);
void profiles_close(struct profiles *p); // writes; NULL is fine

// The book of a model on a node; a new one begins with `begin`. What the caller knows better (limits, power,
// prices) it sets in the book's profile each time. NULL: there are PROFILES_MOST, or a name is too long.
struct profile_book *profiles_get(struct profiles *p, const char *node, const char *model,
                                  const struct profile *begin, double trust);
struct profile_link_book *profiles_link(struct profiles *p, const char *from, const char *to,
                                        const struct profile_link *begin, double trust);

// To be called now and then, say after every request: writes when it is time.
void profiles_tick(struct profiles *p, int64_t now_ns);

#endif
