// What placement is told of the fleet, and what the nodes' profiles learn from every request that ends.
// Private to gateway/.
//
// sched/place.h decides; this side knows the requests. For every node it adds up what its requests have yet to read
// and to write, says what it probably holds of the prompt and how long the answer is expected to be
// (sched/expect.h), and hands over its profile. Profiles (gateway/profiles.h) are kept over restarts. A node of which
// nothing is known is asked to measure itself while it is idle (MEASURE, node/message.h), and again now and then;
// until then it is taken for what its WELCOME tells, or for a guess: whoever attaches a node to read prompts
// believes that it reads faster, and writes slower, than this one.
//
// Owner: the core thread.
#ifndef GATEWAY_PLACING_H
#define GATEWAY_PLACING_H

#include "node/message.h"
#include "sched/place.h"

#include <jansson.h>
#include <stdint.h>

struct core;
struct peer;
struct placing;
struct profiles;
struct request;
struct wire_frame;

// Where a request goes, and what that was thought to take.
struct placing_choice {
    enum place_kind kind;          // never PLACE_AUTO
    struct peer *decode, *prefill; // prefill is NULL without a hand-off
    uint32_t upto;                 // the prefill node reads so far
    uint32_t held;                 // of the prompt, by whoever reads it
    bool predicted;                // the following are valid
    bool alone;                    // both had nothing else to do
    struct place_plan plan;
    double answer_tokens; // that were expected
    enum place_policy policy;
    char reason[2 * PLACE_TEXT_BYTES];
    char fallback[PLACE_TEXT_BYTES]; // "" unless a wish could not be granted
};

// `path`: of the profiles' database; NULL: in memory only.
struct placing *placing_new(struct core *c, const char *path);
void placing_free(struct placing *p); // NULL is fine

struct profiles *placing_profiles(struct placing *p);

// It has said WELCOME: finds its profile.
void placing_greet(struct placing *p, struct peer *node);
// What its machine draws, as WELCOME and STATUS_IS tell.
void placing_power(struct peer *node, const struct message_power *power);
// Whether a node's frame answers what was asked from here, and what it says.
bool placing_asked(const struct peer *node, uint64_t id);
void placing_on_frame(struct placing *p, struct peer *node, const struct wire_frame *f);
// Measures what is idle and unknown, writes what was learned; when it wants to be called again.
int64_t placing_tick(struct placing *p, int64_t now_ns);

// A request begins: what is measured on this machine beside it makes room, and is measured again later.
void placing_yield(struct placing *p);
// False: no plan is possible; reason says why. One that waits where it was sent can be asked about again; upstream
// servers are no candidates then. It commits to nothing.
bool placing_choose(struct placing *p, const struct request *r, struct placing_choice *out);
// The request goes where its choice says.
void placing_commit(struct placing *p, const struct request *r);
// A request ended with its workers' accounts.
void placing_learn(struct placing *p, const struct request *r);

// All plans for a request that nobody made, best first. A new reference.
struct placing_question {
    uint32_t prompt_tokens;
    double answer_tokens; // 0: as expected
    bool has_policy;      // false: the server's
    enum place_policy policy;
    double ttft_s, token_s; // limits of the policy "slo"; 0: the server's
};
json_t *placing_explain(struct placing *p, const struct peer *home,
                        const struct placing_question *q);
// What is known of the way from one node to another; a figure is NAN where nothing is.
struct placing_link_known {
    const struct peer *from, *to; // who reads, who writes
    double rtt_s, up_bytes_per_s, down_bytes_per_s, setup_s, samples;
};
typedef void placing_link_fn(void *ctx, const struct placing_link_known *k);
void placing_links_each(struct placing *p, placing_link_fn *fn, void *ctx);
json_t *placing_links_json(struct placing *p); // a new reference
// What the way carries: as learned, or as its last transfer told; 0: not known.
double placing_link_rate(struct placing *p, const struct peer *prefill, const struct peer *decode);
// A node's profile as JSON, with how many samples are behind it; JSON null where there is none. A new reference.
json_t *placing_profile(const struct peer *node);

#endif
