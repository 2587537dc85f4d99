// Frames, and the link that carries them between two threads' worlds. docs/wire.md has every byte.
//
// A frame is a 24-byte header (little-endian), a head and a body:
//
//     0  u32 magic      "TDM1" = 0x314d4454
//     4  u16 type       enum wire_type
//     6  u16 flags      0 for now; a receiver refuses bits it does not know
//     8  u64 id         request or transfer this frame belongs to; 0 = the link itself
//    16  u32 head_bytes UTF-8 JSON object, or the fixed struct of SEGMENT/END/ACK
//    20  u32 body_bytes token ids (i32 LE each), KV payload or images; raw bytes
//
// Every type has limits for both lengths (wire_frame_limits); a frame beyond them closes the link
// before anything is allocated. A link runs over an authenticated net_conn and has one reader and
// one writer thread of its own. Control and bulk traffic are different links, so that a long
// transfer never delays a token or a cancel.
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include "base/err.h"
#include "net/net.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 2
#define WIRE_MAGIC 0x314d4454u
#define WIRE_HEADER_BYTES 24
#define WIRE_HEAD_MAX (8u << 20)    // a rendered conversation, at most
#define WIRE_TOKENS_MAX (4u << 20)  // token ids in one frame
#define WIRE_ADAPTER_MAX (1u << 20) // bytes of an adapter in one frame
#define WIRE_FLOATS_MAX (1u << 20)  // numbers of one embedding
#define WIRE_SEGMENT_MAX (1u << 30)
#define WIRE_IMAGES_MAX (32u << 20) // bytes of a request's images
#define WIRE_PROBE_MAX (256u << 10) // bytes of one piece of a link's measurement
#define WIRE_PIXELS_MAX (1u << 20)  // bytes of a picture in one frame

enum wire_type {
    // the link itself
    WIRE_HELLO = 1,   // first frame of the dialling side: JSON, see node/message.h
    WIRE_WELCOME = 2, // the answer: JSON
    WIRE_REFUSED = 3, // JSON {code, message}; the link closes after it
    WIRE_PING = 4,    // empty; answered by PONG with the same id
    WIRE_PONG = 5,
    // gateway -> worker
    WIRE_RENDER = 16,       // JSON request + images -> RENDERED or FAILED
    WIRE_GENERATE = 17,     // JSON + tokens -> PROGRESS* TOKEN* (DONE | FAILED)
    WIRE_PREFILL = 18,      // JSON + tokens -> ACCEPTED, PROGRESS*, (PREFILLED | FAILED)
    WIRE_CANCEL = 19,       // empty JSON; answered by FAILED(cancelled) unless the request is gone
    WIRE_STATUS = 20,       // empty JSON -> STATUS_IS
    WIRE_ABANDON = 21,      // JSON {reason}: decode worker, stop waiting for the prefill node
    WIRE_EMBED = 22,        // empty JSON + tokens -> EMBEDDED or FAILED
    WIRE_FORGET = 23,       // JSON {owner} -> FORGOTTEN: prefix memory is erased
    WIRE_ADAPTER = 24,      // JSON + a piece of a file -> ADAPTER_IS or FAILED
    WIRE_MEASURE = 25,      // JSON {budget_s} -> MEASURED or FAILED: the worker measures itself
    WIRE_DRAIN = 26,        // empty JSON; a supervisor to its worker: end when what runs has ended
    WIRE_MEASURE_LINK = 27, // JSON {host, port, ..} -> MEASURED_LINK or FAILED
    WIRE_DRAW = 28,         // JSON, node/message_image.h -> DRAWING* PICTURE* (DRAWN | FAILED)
    // worker -> gateway
    WIRE_RENDERED = 32,
    WIRE_ACCEPTED = 33,
    WIRE_PROGRESS = 34,
    WIRE_TOKEN = 35,
    WIRE_DONE = 36,
    WIRE_FAILED = 37,
    WIRE_PREFILLED = 38,
    WIRE_STATUS_IS = 39,
    WIRE_EMBEDDED = 40, // JSON {tokens} + f32 LE each
    WIRE_FORGOTTEN = 41,
    WIRE_ADAPTER_IS = 42,
    WIRE_MEASURED = 43,
    WIRE_MEASURED_LINK = 44,
    WIRE_CANVAS = 45, // JSON, unasked: how the model that draws is
    WIRE_DRAWING = 46,
    WIRE_PICTURE = 47, // JSON; its PIXELS follow
    WIRE_DRAWN = 48,
    // either way
    WIRE_PIXELS = 56, // empty JSON + a piece of a picture, of DRAW or PICTURE
    // bulk link: decode worker (dials) <-> prefill worker
    WIRE_PULL = 64,    // D -> P: JSON {ticket, from}; id = transfer
    WIRE_SEGMENT = 65, // P -> D: struct kv_segment + payload
    WIRE_END = 66,     // P -> D: struct kv_end
    WIRE_ACK = 67,     // D -> P: struct kv_ack, after the import
    WIRE_ABORT = 68,   // either way: JSON {code, message}
    WIRE_BEAT = 69,    // P -> D: JSON {computed}, at least every 500 ms while a transfer is open
    WIRE_PROBE = 70,   // D -> P: JSON {want} + any bytes: the link is measured
    WIRE_PROBED = 71,  // P -> D: JSON {at_s} + as many bytes as were wanted
};

const char *
wire_type_name(unsigned type); // "segment"; "type 77" for others (static buffer per thread)

// Largest head and body of a type; ERR_INVALID for a type that is not known.
int wire_frame_limits(unsigned type, uint32_t *head_max, uint32_t *body_max);

struct wire_header {
    uint16_t type;
    uint16_t flags;
    uint64_t id;
    uint32_t head_bytes;
    uint32_t body_bytes;
};

void wire_header_encode(const struct wire_header *h, uint8_t out[WIRE_HEADER_BYTES]);
// 0 or ERR_CORRUPT / ERR_RANGE / ERR_INVALID with the value named.
int wire_header_decode(const uint8_t in[WIRE_HEADER_BYTES], struct wire_header *h, struct err *e);

// Bytes that travel without being copied. release(ctx, data) is called exactly once, by whoever
// holds the frame last; NULL release means free().
struct wire_body {
    void *data;
    size_t len;
    void (*release)(void *ctx, void *data);
    void *ctx;
};

struct wire_frame {
    uint16_t type;
    uint64_t id;
    char *head; // malloc'd, NUL-terminated after head_bytes; JSON or a fixed struct
    uint32_t head_bytes;
    struct wire_body body;
    // Of one that came over a link: when the first `body_first` bytes of its body were in; 0: it has none.
    int64_t body_ns;
    uint32_t body_first;
};

// A frame with a JSON head (steals `head`, NULL = {}), and tokens copied as the body (may be NULL).
struct wire_frame wire_frame_json(enum wire_type type, uint64_t id, json_t *head);
struct wire_frame wire_frame_tokens(enum wire_type type, uint64_t id, json_t *head,
                                    const int32_t *tokens, size_t n_tokens);
// A frame with a fixed struct (copied) as head and a body that is handed over.
struct wire_frame wire_frame_struct(enum wire_type type, uint64_t id, const void *head,
                                    size_t head_bytes, struct wire_body body);
struct wire_frame wire_frame_failed(enum wire_type type, uint64_t id, int code,
                                    const char *message);
void wire_frame_fini(struct wire_frame *f);

// The head as JSON object (new reference) or NULL with `e`.
json_t *wire_frame_parse(const struct wire_frame *f, struct err *e);
// The body as token ids; caller frees. ERR_CORRUPT when the length is no multiple of 4.
int wire_frame_get_tokens(const struct wire_frame *f, int32_t **tokens, size_t *n, struct err *e);

// One frame, synchronously: for handshakes and tools, when no link runs on the connection.
int wire_frame_write(struct net_conn *c, const struct wire_frame *f, int64_t deadline_ns,
                     struct err *e);
int wire_frame_read(struct net_conn *c, struct wire_frame *f, int64_t deadline_ns, struct err *e);

// ---- links ------------------------------------------------------------------------------------

struct wire_link;

// All callbacks run on the link's own reader thread, one at a time (on_sent: on the writer's).
struct wire_link_ops {
    // Where the body of this frame goes (head is already read). May block: that is back-pressure.
    // Returning an error refuses the frame and closes the link. NULL: malloc.
    int (*body_get)(void *ctx, const struct wire_frame *f, size_t n, struct wire_body *body,
                    struct err *e);
    // Takes the frame (it must end in wire_frame_fini). An error closes the link with that reason.
    int (*on_frame)(void *ctx, struct wire_frame *f, struct err *e);
    // Once, last call of all; `why` says ERR_CLOSED for an orderly end (between two frames).
    void (*on_close)(void *ctx, const struct err *why);
    // A frame has left (its last byte was given to the kernel) or was dropped (ok = false); for
    // timelines. The header only; not for PING and PONG. May be NULL.
    void (*on_sent)(void *ctx, const struct wire_header *h, int64_t start_ns, int64_t end_ns,
                    bool ok);
};

struct wire_link_options {
    size_t queue_frames; // bound of the outgoing queue (default 1024)
    int64_t idle_ns;  // close when not one byte was heard for this long (bytes of a frame that is
                      // still coming in count); pings go out at a third of it (0 = never)
    int64_t frame_ns; // a frame that has begun must make progress within this (default 10 s)
    const char *name; // for logs and thread names
};
void wire_link_options_default(struct wire_link_options *o);

// Takes the connection. Nothing runs yet: frames may be queued, callbacks have not begun.
struct wire_link *wire_link_new(struct net_conn *c, const struct wire_link_ops *ops, void *ctx,
                                const struct wire_link_options *o);
// Starts the two threads. Call once.
void wire_link_run(struct wire_link *l);
// Both at once.
struct wire_link *wire_link_start(struct net_conn *c, const struct wire_link_ops *ops, void *ctx,
                                  const struct wire_link_options *o);
// Queues a frame, which the link takes (also on failure, without on_sent). timeout_ns as for
// chan_send; 0, ERR_CLOSED, ERR_TIMEOUT, or ERR_RANGE for a frame beyond its type's limits. Any thread.
int wire_link_send(struct wire_link *l, struct wire_frame f, int64_t timeout_ns);
// Ends at once; what is queued is dropped. Any thread; on_close follows on the reader thread.
void wire_link_close(struct wire_link *l);
// Takes no more frames, sends what is queued and then says so to the peer; frames that still come
// are delivered. The link ends when the peer ends it too, or by wire_link_close. Any thread.
void wire_link_finish(struct wire_link *l);
// Closes if need be, joins both threads and frees. Not from a callback. A link that never ran drops
// its queue and says no on_close.
void wire_link_free(struct wire_link *l);
const char *wire_link_peer(const struct wire_link *l);
// There and back, as PING and PONG took; 0: not known yet. Any thread.
int64_t wire_link_rtt_ns(const struct wire_link *l);

#endif
