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
//   depth_ns=N      and more for every position before it
//   export_us=N     time from export_start until poll says DONE
//   embed=N         most tokens of one embedding (default 2048; 0: makes none)
//   apart=1         sequences can settle, and the settled ones step inside the long steps of others
//   ranks=1         is a reranker: an embedding is one score
//   script=FILE     answers by rules, see below (no comma in the path)
//   crash_after=N   abort() when the N-th token since loading is stepped
//   hang_after=N    sleep for ever then, deaf to interrupts
//
// limits.handoff is what the options ask for; limits.cuts is false with state=1. Text: a token is a byte;
// render joins messages as "role: content\n" and ends in "assistant: ". Grammars are refused, typical_p
// and the formats json_object and json_schema change nothing. A fork takes cells of its own. An adapter
// (a GGUF head for architecture "fake") is another set of weights, keyed by a hash of its file.
//
// The script is a JSON list of rules, of which the first that fits a rendered request decides the answer,
// byte for byte, whatever the sampling parameters are:
//
//   {"tool": NAME,       one of the tools that the request offers (tool_choice counts); absent: any request
//    "last_role": ROLE,  of the last message; absent: any
//    "contains": TEXT,   in the last message, or in the prompt of a request without messages; absent: any
//    "answer": TEXT}
//
// An answer may think and call tools: "<think>why</think>so<tool>{"name":"f","arguments":{"x":1}}</tool>".
// The parser tells these from content where render was asked for a chat that a rule fits: reasoning unless
// reasoning_format is "none", calls where tools are offered. A call whose beginning is not of this form is
// content. A reasoning budget cuts the reasoning after so many bytes. Without a rule that fits, the answer
// is letters and blanks as ever.
#ifndef ENGINE_FAKE_H
#define ENGINE_FAKE_H

#include "engine/engine.h"

#define FAKE_TOKEN_BEGIN 256
#define FAKE_TOKEN_END 257

// ERR_INVALID for a model string with an unknown key or a value outside its limits.
int engine_fake_open(const struct engine_options *o, struct engine **out, struct err *e);

#endif
