// What a gateway keeps in its files between two starts, of any bytes: the list of nodes, the books of nodes and of
// links. Refused with words, or something that works, and that reads the same once it was written again.
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"
#include "sched/profile_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_kept: %s\n", what);
    abort();
}

// ---- nodes ---------------------------------------------------------------------------------------------

// A gateway with one model, a key and no nodes, whose slots have what greets in them already: no thread is started.
static void slots_free(struct core *c, size_t n)
{
    c->n_models = c->n_peers = 1;
    for (size_t i = 0; i < n; i++) {
        peer_init(c, i);
        c->peers[i].greeter = (struct peer_greeter *)c;
        c->peers[i].since_ns = 0; // all free for as long: the first is taken first
    }
}

// The two that every input is read into: large, so only what was used is made new.
static struct core *core_get(struct core **kept)
{
    if (!*kept) {
        *kept = mem_alloc(sizeof(**kept));
        (*kept)->options.key.bytes[0] = 1;
        slots_free(*kept, CORE_PEERS_MAX);
    }
    slots_free(*kept, (*kept)->n_peers);
    return *kept;
}

static void nodes(const char *text, size_t n)
{
    static struct core *first, *second;
    struct core *one = core_get(&first), *two = core_get(&second);
    struct err e = {0};
    char *once, *twice;

    need(fleet_read(one, text, n, &e) == 0 || e.message[0], "refused without words");
    need(one->n_peers <= 1 + GATEWAY_PREFILL_MAX, "too many nodes");
    once = fleet_text(one);
    need(fleet_read(two, once, strlen(once), &e) == 0, "what was written does not read");
    twice = fleet_text(two);
    need(strcmp(once, twice) == 0, "other nodes are read than were written");
    free(once);
    free(twice);
}

// ---- books ---------------------------------------------------------------------------------------------

static void book(const json_t *o)
{
    struct profile_book b;
    struct profile defaults;
    struct err e = {0};
    json_t *again;

    profile_defaults(&defaults);
    profile_book_init(&b, &defaults, PROFILE_TRUST_NONE);
    if (profile_book_parse(o, &b, &e) != 0) {
        need(e.message[0], "a book refused without words");
        return;
    }
    need(isfinite(profile_read_s(&b.p, 1000, 100)) && profile_read_s(&b.p, 1000, 100) >= 0 &&
             isfinite(profile_answer_s(&b.p, 100, 1000)) && profile_answer_s(&b.p, 100, 1000) >= 0,
         "a prediction");
    again = profile_book_json(&b);
    need(profile_book_parse(again, &b, &e) == 0, "a written book does not read");
    json_decref(again);
}

static void link_book(const json_t *o)
{
    const struct profile_link defaults = {1e-3, 1e8, 1e8, 1e-2};
    struct profile_link_book b;
    struct err e = {0};
    json_t *again;

    profile_link_init(&b, &defaults, PROFILE_TRUST_NONE);
    if (profile_link_book_parse(o, &b, &e) != 0) {
        need(e.message[0], "a link's book refused without words");
        return;
    }
    need(b.link.rtt_s > 0 && b.link.up_bytes_per_s > 0 && b.link.down_bytes_per_s > 0, "a link");
    again = profile_link_book_json(&b);
    need(profile_link_book_parse(again, &b, &e) == 0, "a link's written book does not read");
    json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct err e = {0};
    json_t *o = json_parse(data, n, &e);

    log_level_set(LOG_LEVEL_ERROR); // nodes that are left out are told of
    nodes((const char *)data, n);
    if (o) {
        book(o);
        link_book(o);
    }
    json_decref(o);
    return 0;
}
