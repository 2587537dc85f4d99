// Upstream servers: other servers of OpenAI's API (vLLM, SGLang, llama-server, mlx_lm.server, Ollama, LM
// Studio, a cloud's) that answer whole requests as nodes of this one. Private to gateway/.
//
// A request goes to them as a chat or a completion, in the words in which the client asked (whatever its dialect),
// and what they stream back is told as a worker's TOKENs and DONE. So dialects, limits, keys, metrics and failures are the
// same for all nodes. KV never passes between an upstream server and anybody.
//
// Threads: one of its own (upstream_thread.c) holds all connections and keys, sends checks of health every few
// seconds and says what it hears in messages to the core. Everything here is the core thread's.
//
// A server is a peer (peer.h) without a link, behind the other peers in the core's table: c->peers[CORE_PEERS_MAX + i].
// One that fails before the first token of an answer is passed over for that request, as long as another one has the
// model; after it the client is told in the stream.
//
// What it does not do: it follows no redirects and speaks to no address that was not given; it reads no
// prompts, so tokens are counted as the server tells; it takes no embeddings.
#ifndef GATEWAY_UPSTREAM_H
#define GATEWAY_UPSTREAM_H

#include "base/err.h"
#include "gateway/gateway.h"
#include "wire/wire.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct core;
struct model;
struct place_node;
struct peer;
struct request;
struct upstream;
struct upstream_word;
struct upstreams;

// ---- their life ----------------------------------------------------------------------------------------

// NULL in c->upstreams: there are none.
int upstreams_start(struct core *c, struct err *e);
void upstreams_stop(struct core *c); // joins the thread; not from the core's
void upstreams_free(struct core *c);
void upstream_word_free(struct upstream_word *w);
// A local worker has told its model's name: looks again which of their models are local as well.
void upstreams_match(struct core *c);
// Takes nothing: the message is freed by whoever handles it.
void upstream_on_word(struct core *c, const struct upstream_word *w);

// ---- requests -----------------------------------------------------------------------------------------

// A request for a model that no local worker has: true when an upstream server has it (or may have it, which is
// not known yet), and then the request is on its way, or over.
bool upstream_admit(struct core *c, struct request *r);
// Run `at` goes to the server that r->decode is.
void upstream_run(struct core *c, struct request *r, size_t at);
// What is sent to a peer that is one: only CANCEL means something to it. Takes the frame.
void upstream_send(const struct peer *p, struct wire_frame f);
// One of its runs failed: another server is asked, or the client is told.
void upstream_on_failed(struct core *c, struct request *r, const json_t *head);
// A run ended: what it told of tokens and times is learned.
void upstream_on_done(struct core *c, struct request *r, size_t at, const json_t *head);

// ---- upstream_place.c: a model that is local as well ----
// Appends, as nodes of a choice, the servers that have the model too, GATEWAY_UPSTREAMS_MAX at most; returns how many.
// r NULL: a question without a request. They are down for one that waits at a node.
size_t upstream_place(struct core *c, const struct model *m, const struct request *r,
                      struct peer **peers, struct place_node *nodes);

// ---- what is told -------------------------------------------------------------------------------------

bool upstream_any_up(const struct core *c);
// "", or the reason why none is.
const char *upstream_why(const struct core *c);
// Their models as OpenAI's objects, appended; those that are of a local model's name left out.
void upstream_models(struct core *c, json_t *list);
json_t *upstream_model(struct core *c, const char *name); // a new reference, or NULL
// Names for messages: appends `, "name"`. Returns how many bytes the text has then.
size_t upstream_names(struct core *c, char *out, size_t out_bytes, size_t len);
// What status says of such a peer beyond what it says of all.
void upstream_put(const struct core *c, const struct peer *p, json_t *o);

#endif
