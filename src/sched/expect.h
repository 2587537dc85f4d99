// How long an answer will be: what placement must know before anybody does.
//
// Lengths are taken as log-normal, as those of chats roughly are. Three levels learn mean and variance of the
// logarithm: all answers, those of a model, those of a model to one client. Each level begins with its parent's belief,
// worth EXPECT_PRIOR answers, and the first one with what was published of a million chats (a mean of 215 tokens:
// Zheng et al., "LMSYS-Chat-1M", 2023). So a new client is expected to be like the others, and ten answers later
// like itself. Old answers fade: no level remembers more than EXPECT_MEMORY of them.
//
// An answer that its limit cut would have been longer: it counts as what such answers are expected to be
// beyond the limit, not as the limit. A limit caps what is expected.
//
// Bounded: so many keys, of which a full set forgets the one used longest ago; a key is 48 bytes whatever
// its names. No clock, no I/O, no threads; owner: whoever made it.
#ifndef SCHED_EXPECT_H
#define SCHED_EXPECT_H

#include <stdbool.h>
#include <stddef.h>

#define EXPECT_PRIOR 4.0
#define EXPECT_MEMORY 100.0
#define EXPECT_KEYS 4096 // enough for a server; any number will do

struct expect;

struct expect *expect_new(size_t keys);
void expect_free(struct expect *e);
// `cut`: it ended at its limit. Numbers that no answer can have are ignored.
void expect_learn(struct expect *e, const char *model, const char *client, double tokens, bool cut);

struct expect_answer {
    double mean, median, p90; // tokens, at least 1, at most the limit
    double samples;           // answers of this client behind it, faded ones less
};
// `limit` 0: none.
struct expect_answer expect_get(const struct expect *e, const char *model, const char *client,
                                double limit);
// Tokens that are still to come when so many are written, on average; at least 1.
double expect_rest(const struct expect *e, const char *model, const char *client, double limit,
                   double written);

#endif
