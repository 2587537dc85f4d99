// The llama.cpp engine: opens a GGUF and serves engine.h with it.
//
// Only the files engine/llama* know llama.cpp; the C++ files among them give its chat templates, parsers and
// grammars a C face (llama_chat.h), and its RPC a connection (llama_stream.h). Everything else of this program
// sees struct engine.
#ifndef ENGINE_LLAMA_ENGINE_H
#define ENGINE_LLAMA_ENGINE_H

#include "engine/engine.h"

// Loads o->model, a path. o->handoff decides which ranges may be exported and imported; the probe
// (engine/probe.h) finds it out. Errors as engine_open's.
int engine_llama_open(const struct engine_options *o, struct engine **out, struct err *e);

// The release of llama.cpp that is linked in, e.g. "0.5.0".
const char *engine_llama_release(void);
// Its backends and what they use of this machine, as one line of text.
const char *engine_llama_system(void);

// ---- for the probe and for tests, not for serving ---------------------------------------------

// Lets import() of `g` accept a range that starts beyond what the sequence holds: a control run
// imports with one range left out, to show that leaving it out changes the result.
void engine_llama_allow_gap(struct engine *g, bool on);

// Changes the mode of a loaded engine. Nothing changes where the layout of its blobs is not known.
void engine_llama_handoff_set(struct engine *g, enum engine_handoff handoff);

// Forgets every sequence and zeroes the cache's memory, so that nothing of an earlier run can stand
// in for bytes that an import failed to bring.
void engine_llama_clear(struct engine *g);

// What kind of memory the model keeps.
struct engine_llama_facts {
    bool has_memory;     // false: nothing to hand over (encoders, diffusion models)
    bool recurrent;      // some layers keep a state of fixed size
    bool sliding_window; // some layers forget positions
    bool layout_known;   // the engine can check every byte of structure of an imported blob
};
struct engine_llama_facts engine_llama_facts_get(const struct engine *g);

#endif
