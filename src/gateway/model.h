// The models that this server's own machine serves, each by a worker of its own. Private to gateway/.
//
// A model given with -m is loaded at the start and stays. One that is served on demand is loaded when the
// first request names it, and unloaded when nobody has asked for it for a while or when another one needs
// its memory: the one that was used longest ago goes first, one that works never.
//
//              model_wake                worker says WELCOME
//   UNLOADED ------------> (waits for) ---------> LOADING ------------> LOADED
//       ^                     room                                        |
//       +-----------------------------------------------------------------+ model_tick, model_unload
//
// Requests for a model that is being loaded wait for it. Owner: the core thread.
#ifndef GATEWAY_MODEL_H
#define GATEWAY_MODEL_H

#include "gateway/gateway.h"
#include "gateway/parse.h"
#include "gateway/peer.h"

#define MODEL_LOAD_NS (600 * NS_PER_S) // a request waits no longer for a model

struct core;

struct model {
    size_t index;
    const struct gateway_model *options; // immutable
    struct node_worker_options worker;   // what its worker is started with
    struct peer *peer;                   // its worker
    struct ship *ship;                   // the adapters that are for it
    bool on_demand;
    bool waits;      // for room
    bool resting;    // its worker was told to end
    bool lent;       // unloaded for a training job: it comes back after that
    int64_t used_ns; // when its last request ended, or it was loaded
};

void model_init(struct model *m, struct core *c, size_t index);

// What it is listed as, and its file's name without folder and ending: what a user typed after -m.
const char *model_name(const struct model *m);
void model_stem(const struct model *m, char *out, size_t out_bytes);
const char *model_state(const struct model *m); // "loaded", "loading", "unloaded", "failed"
bool model_is_loaded(const struct model *m);
bool model_kept_loaded(const struct core *c); // all that are not on demand are
bool model_all_failed(const struct core *c);
// NULL: there is none of that name. "": the first one.
struct model *model_find(struct core *c, const char *name);
// Their names, for messages.
void model_list(struct core *c, char *out, size_t out_bytes);

// Has it loaded, unless it is. ERR_BUSY: there is no room for it, in words.
int model_wake(struct core *c, struct model *m, struct err *e);
// ERR_BUSY: requests run on it.
int model_unload(struct core *c, struct model *m, struct err *e);
// Unloads what nobody uses until so many bytes are free. 0: they are, or there is nothing more to unload;
// ERR_BUSY: ask again, a model is on its way out. With 0 bytes, loads again what was unloaded so.
int model_room(struct core *c, uint64_t bytes);
void model_used(struct model *m);
// Its worker has ended because it was told to.
void model_on_rest(struct core *c, struct model *m);
// Unloads what nobody uses, loads what waits for room; when it wants to be called again.
int64_t model_tick(struct core *c, struct model *m, int64_t now_ns);

#endif
