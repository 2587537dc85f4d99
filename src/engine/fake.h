// The fake engine: deterministic, instant and made to give mistakes away.
//
// It keeps real bytes for every token and layer. The bytes of position i are a keyed function of
// everything the sequence holds below i, of token i, of i and of the layer; the next token is a
// keyed function of all bytes up to the last position. So a hand-off that loses, repeats, reorders
// or changes one byte changes the answer, and two engines with the same seed agree on every token
// however the work was split.
//
// The model is named "fake" or "fake:key=value,...":
//
//   seed=N          key of all functions: another seed is another set of weights (default 1)
//   name=TEXT       model name in the identity (default "fake")
//   layers=N        1..256 (default 4)
//   kv_bytes=N      K and V of one token and layer, even, 2..65536 (default 64)
//   vocab=N         at least 258: 256 bytes, begin, end, and fillers (default 258)
//   state=1         has recurrent state as well: no partial remove, no tiles
//   prefill_us=N    time per row without logits
//   decode_us=N     time per row with logits
//   export_us=N     time from export_start until poll says DONE
//   crash_after=N   abort() when the N-th token since loading is stepped
//   hang_after=N    sleep for ever then, deaf to interrupts
//
// limits.handoff is what the options ask for. Text: a token is a byte; render joins messages as
// "role: content\n" and ends in "assistant: ". Grammars are not supported.
#ifndef ENGINE_FAKE_H
#define ENGINE_FAKE_H

#include "engine/engine.h"

#define FAKE_TOKEN_BEGIN 256
#define FAKE_TOKEN_END 257

// ERR_INVALID for a model string with an unknown key or a value outside its limits.
int engine_fake_open(const struct engine_options *o, struct engine **out, struct err *e);

#endif
