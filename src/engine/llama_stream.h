// ggml's RPC over streams that are already there. Private to engine/llama_spread.c.
//
// ggml's RPC backend opens its sockets through one C++ class, socket_t (transport.h of the pinned release).
// llama_stream.cpp is that class over struct engine_stream, in the place of the library's own: an archive's
// member is linked only when something is missing, and nothing is. A release whose class differs does not
// compile or does not link. So there is no listener, no port, and no address that could be wrong.
#ifndef ENGINE_LLAMA_STREAM_H
#define ENGINE_LLAMA_STREAM_H

#include "engine/spread.h"

// Under this name ("lender:7") ggml may connect to the stream, as often as it likes but not twice at the same
// time. The stream must live until llama_stream_drop.
#define LLAMA_STREAM_NAME_BYTES 32
struct llama_stream;
struct llama_stream *llama_stream_new(const struct engine_stream *s);
const char *llama_stream_name(const struct llama_stream *s);
void llama_stream_drop(struct llama_stream *s);

// Who "connects" to the server of this process, under the name LLAMA_STREAM_SERVER. `o` must live as long as
// the server runs.
#define LLAMA_STREAM_SERVER "borrowers:0"
void llama_stream_serve(const struct engine_lend_options *o);

#endif
