// The JSON that control frames carry between gateway and worker, and between two workers.
// This header is the contract; docs/wire.md shows examples. Unknown members are ignored, wrong
// types are refused. Times are seconds (doubles) unless a name says otherwise; times inside a
// timeline are seconds since the worker received the request.
//
// Every link begins with HELLO from the dialling side and WELCOME or REFUSED from the other:
//
//   HELLO   {"version":2, "role":"gateway"|"bulk"|"tool", "name":"..", "build":"tandem 0.1.0",
//            "identity":{..engine_identity..} (role bulk), "same_weights":bool}
//   WELCOME {"version":2, "name":"..", "build":"..", "identity":{..}, "limits":{"n_ctx":8192,
//            "n_seq":4,"n_batch":512,"n_embed_tokens":0,"ranks":false,"cuts":true},
//            "handoff":"ranges", "kv_bytes_per_token":23040,
//            "state_bytes":0, "rates":{"prefill_tokens_per_s":300,"decode_tokens_per_s":60},
//            "facts":{"system":"..","cpu":"..","cores":2,"memory_bytes":.., ..} (of the machine: os/facts.h),
//            "power":{"idle_w":..,"prefill_w":..,"decode_w":..} (as in STATUS_IS; absent: not known),
//            "paced":bool, "max_stall_s":x (bound between two tokens while a prompt is read; 0: none;
//            absent: as its pace allows),
//            "model":"smollm2-135m", "has_tokenizer":bool (absent: true), "has_chat_template":true,
//            "media":bool (images may be in a RENDER),
//            "spread":"12 of 30 layers here, 18 on studio (10.0.0.7:7077)" (absent: all are here),
//            "advertise":"HOST:PORT" (where other workers dial it; absent: where the gateway does),
//            "node_id":"hex32" (absent: it tells none), "pid":123,
//            "role":"read"|"write" (what it is there for; absent, or a word that is not known: both),
//            "dollars_per_hour":x (of its whole machine; 0: nothing but its power; absent: not told),
//            "adapters":bool (ADAPTER is understood), "measures":bool (MEASURE is),
//            "links":bool (MEASURE_LINK and PROBE are), "image_port":n (where this machine draws; absent: nowhere),
//            "draws":{..} (here it does, and nothing else: node/message_image.h; identity, limits and what follows
//            from them are absent then)}
//   (role "spread", of a worker that borrows a lender's memory: node/message_spread.h)
//   REFUSED {"code":"mismatch", "message":".."}
//
// The gateway's requests (frame id = the gateway's request id, unique per link):
//
//   RENDER   {"chat":{..OpenAI request..}, "media":[{"bytes":n}..] (one for each part {"type":"image"} of
//            its messages, in order; the images' bytes are the body)} or {"prompt":"text"} or {"tokens":[..]} or
//            {"text":"..","special":bool,"bos":bool} (as /tokenize has it) or {"detokenize":[..]}
//         -> RENDERED {"stop":[..],"syntax":{..}|null,"prompt":"text" (chat, when "want_prompt":true
//            stood beside it),"text":"..","pieces":[..] (of "text", when "want_pieces":true)}
//            + body: token ids; with images "media":[{"at":token,"tokens":n,"key":"hex64"}..]: runs of
//            ids below 0, one for each piece of an image, made of the image's and its place's hash
//   EMBED    {} + body: token ids -> EMBEDDED {"tokens":n} + body: floats, f32 little-endian, n_embd of
//            them or one (a reranker's score)
//   GENERATE {"epoch":1,"max_tokens":n,"stop":[..],"ignore_eos":bool,"sampling":{"temperature":..,
//             "top_p":..,"top_k":..,"min_p":..,"typical_p":..,"seed":..,"repeat_penalty":..,
//             "repeat_last_n":..,"frequency_penalty":..,"presence_penalty":..,
//             "logit_bias":[[token,bias]..] (bias null: never),"reasoning_budget":-1},
//             "syntax":{..}|null (as RENDERED had it), "media":[..] (as RENDERED had it; the worker must be
//             the one that rendered), "parse":bool (deltas instead of text),
//             "logprobs":-1 (none) or 0..20, "owner":"text" (prefixes are shared within one owner),
//             "keep":bool (may stay in prefix memory when it ends; absent: true),
//             "reuse":bool (may begin with what prefix memory holds; absent: true),
//             "whole":bool (the prompt's last token may be computed with those before it; absent: false),
//             "adapter":{"name":"..","sha256":".."} (absent: none),
//             "timeline":bool, "handoff":null or {"host":"..","port":7077,"ticket":"hex32",
//             "transfer":id,"upto":n (absent or 0: all but the last token; else this worker reads
//             what is behind it),"stall_s":3.0,"serial":bool,"same_weights":bool (absent: true)}}
//             + body: token ids of the whole prompt
//         -> PROGRESS {"phase":"prefill"|"handoff","done":tokens,"total":tokens}  (a few per second)
//            TOKEN {"id":token,"text":"..","index":i,"delta":[..] (with "parse"; then no text),
//                  "logprob":x,"top":[[token,"text",logprob]..],"bytes":"hex of this token" (with
//                  logprobs >= 0)}   text is valid UTF-8, may be "" while bytes are held back
//            DONE {"finish":"stop"|"length"|"tool_calls","stop":".."|null,"prompt_tokens":n,"gen_tokens":n,
//                  "reasoning_tokens":of gen_tokens (with "parse"),
//                  "text":"rest held back","delta":[..] (with "parse"),
//                  "tokens_cached":tokens this worker's prefix memory had,
//                  "tokens_read":tokens this worker computed of the prompt, "tokens_imported":n,
//                  "queue_s":from receipt until it had a sequence,
//                  "prefill_s":from receipt to the start of the first decode step,
//                  "decode_s":from there to the last token, "handoff_end_s":..|null (end marker seen),
//                  "kv_bytes":n,"link":{"bytes","seconds"}|null (of the KV that came, what told how fast the
//                  link is, and how long that took to cross),"fallback":null|"text","unreached":true (the prefill worker could not be
//                  dialled; else absent),"overruns":n,"worst_ratio":x,"cost":{..},
//                  "joules":x (of this machine, more than it uses idle; absent: not known),"timeline":[..]}
//            FAILED {"code":"..","message":".."}
//   PREFILL  {"epoch":1,"transfer":id,"ticket":"hex32","serial":bool,"upto":n-1,
//             "owner":"text","keep":bool,"reuse":bool,"adapter":{..} as in GENERATE,
//             "link_bytes_per_s":guess|0,"timeline":bool} + body: token ids of the whole prompt
//         -> ACCEPTED {} at once, then PROGRESS, then PREFILLED {"tokens":computed here,
//            "tokens_cached":n,"from":first token that was sent,"compute_s":..,
//            "export_s":..,"wait_s":..,"done_s":when the last token was computed,
//            "sent_s":when the end marker left,"link_bytes_per_s":measured|0,"shared":bool (KV for another worker left meanwhile),"kv_bytes":n,
//            "segments":n,"overruns":n,"worst_ratio":x,"cost":{..},"joules":as in DONE,"timeline":[..]} or FAILED
//   ADAPTER  {"name":"..","sha256":"..","bytes":n,"at":offset,"base":{..adapters_base..}} + body: a piece of
//            the file, at most 1 MiB. Without a body it asks for the file, or begins to send it
//         -> ADAPTER_IS {"sha256":"..","at":bytes that are here,"ready":bool}: the next piece is wanted from
//            there; ready: GENERATE and PREFILL may name it
//   FORGET   {"owner":"text"|null (all)} -> FORGOTTEN {"sequences":n}: erases prefix memory
//   MEASURE  {"budget_s":15} -> MEASURED {"reads":[{"tokens","depth","chunk_tokens","seconds"}..],
//            "steps":[{"steps","rows","depth_sum","seconds"}..], "export":{"bytes","seconds"}|null,
//            "import":{..}|null, "load_s":x, "memory_left_bytes":x, "complete":bool}. The worker measures itself
//            while it is idle: at the first request it stops, and says what it has with "complete":false. FAILED
//            (busy) where it measures for somebody already; CANCEL ends it like a request
//   MEASURE_LINK {..} -> MEASURED_LINK {..}, of the way to another worker: node/message_link.h
//   CANCEL {}, ABANDON {"reason":".."}, STATUS {} -> STATUS_IS {"requests":n,"transfers":n,
//             "cells_used":n,"cells_kept":n,"sequences_kept":n,
//             "sequences_apart":of these, in caches of their own,"rates":{..},
//             "memory":{..},"overruns":n,"worst_ratio":x,
//             "power":{"idle_w":watts of this machine's chips while this worker does nothing,"prefill_w":while it
//             reads prompts,"decode_w":while it writes answers (each null: not seen yet),"joules":n since the
//             worker started,"source":"text"|null,"why":"nothing can be read, because"|null} (absent: nobody asks here),
//             "draining":bool}; a worker that is about to stop
//             sends one unasked, id 0, with "draining":true: it is to get nothing new, and whoever has
//             nothing running on it any more closes the link
//   DRAIN {} (from the supervisor alone): as above; the worker ends when nothing runs and nobody is linked
//
// "cost" of DONE and PREFILLED: what this request took of the engine, alone, as far as it can be told apart:
//   {"read":[{"tokens","depth","chunk_tokens","seconds"}..] (runs of chunks of one size, 8 at most),
//    "steps":{"steps","rows","depth_sum","seconds"}|null (this answer's: how many, in each on average the
//    answers and their tokens, all seconds), "export":{"bytes","seconds"}|null, "import":{..}|null}
//
// Timeline entries: {"what":"compute"|"export"|"send"|"import"|"decode","t0":s,"t1":s,"p0":n,"p1":n}
//
// Bulk link: PULL {"ticket":"hex32","from":p0,"adapter":"sha256" (absent: none)} (id = transfer) answered by SEGMENT/BEAT/END or ABORT. The
// puller holds [0, from) already: only [from, upto) crosses. A prefill worker may have more or less
// of the prompt in its own prefix memory; it begins computing at once and exporting when it knows `from`.
#ifndef NODE_MESSAGE_H
#define NODE_MESSAGE_H

#include "base/err.h"
#include "engine/engine.h"
#include "node/message_cost.h"
#include "node/message_image.h"
#include "node/message_link.h"
#include "os/facts.h"
#include "os/os.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define MESSAGE_TICKET_HEX 32
#define MESSAGE_PORT 7077             // default of `tandem node`
#define MESSAGE_MAX_TOKENS (1u << 20) // tokens of one prompt
#define MESSAGE_STOPS_MAX 24 // a client's (PARSE_STOPS_MAX) and those of its model's template
#define MESSAGE_STOP_BYTES 256
#define MESSAGE_OWNER_BYTES 65        // a hash of the API key in hex, or ""
#define MESSAGE_SYNTAX_MAX (2u << 20) // bytes of a syntax as JSON

struct message_handoff {
    bool present;
    char host[256];
    uint16_t port;
    char ticket[MESSAGE_TICKET_HEX + 1];
    uint64_t transfer;
    uint32_t
        upto; // the transfer ends here, and the decode worker reads on; 0: all but the last token
    double stall_s; // a silent link is given up after this, one without progress after ten times it
    bool serial;
    bool same_weights; // what the decode worker's own HELLO to the prefill worker demands
};

#define MESSAGE_ADAPTER_BYTES 65

// The adapter that a prompt is read and an answer written with.
struct message_adapter {
    char name[MESSAGE_ADAPTER_BYTES];   // for messages
    char sha256[MESSAGE_ADAPTER_BYTES]; // lower-case hex; "": none
};

struct message_generate {
    uint32_t epoch;
    uint32_t max_tokens;
    bool ignore_eos, timeline;
    bool parse;       // deltas instead of text
    bool keep, reuse; // prefix memory afterwards, and before
    bool whole;       // no prefill worker could read the prompt
    int32_t logprobs; // -1: none
    char owner[MESSAGE_OWNER_BYTES];
    struct engine_sampling sampling; // biases and syntax point to the two below
    struct engine_bias *biases;      // owned
    json_t *syntax;                  // owned reference
    json_t *media;                   // owned reference; NULL: no images
    char *stops[MESSAGE_STOPS_MAX];  // owned
    size_t n_stops;
    struct message_adapter adapter;
    struct message_handoff handoff;
};

struct message_prefill {
    uint32_t epoch;
    uint64_t transfer;
    char ticket[MESSAGE_TICKET_HEX + 1];
    bool serial, timeline;
    bool keep, reuse;
    char owner[MESSAGE_OWNER_BYTES];
    uint32_t upto;
    double link_bytes_per_s;
    struct message_adapter adapter;
};

int message_generate_parse(const json_t *head, struct message_generate *m, struct err *e);
json_t *message_generate_json(const struct message_generate *m);
void message_generate_fini(struct message_generate *m);
int message_prefill_parse(const json_t *head, struct message_prefill *m, struct err *e);
json_t *message_prefill_json(const struct message_prefill *m);

struct message_hello {
    uint32_t version;
    char role[16];
    char name[128];
    char build[64];
    char engine[64]; // of role spread: what must be the same on both sides
    bool has_identity, same_weights;
    struct engine_identity identity;
};
int message_hello_parse(const json_t *head, struct message_hello *m, struct err *e);
json_t *message_hello_json(const struct message_hello *m);

// What a worker measured of its machine's power, in watts; 0: not known.
struct message_power {
    double idle_w, prefill_w, decode_w;
};
// The member "power" of a STATUS_IS; all 0 where there is none.
int message_power_parse(const json_t *head, struct message_power *p, struct err *e);
json_t *message_power_json(const struct message_power *p);

struct message_welcome {
    uint32_t version;
    char name[128], build[64], model[ENGINE_NAME_BYTES];
    char node_id[OS_ID_HEX + 1]; // the same over restarts (node_id_get); "": not told
    struct engine_identity identity;
    struct engine_limits limits;
    double prefill_tokens_per_s, decode_tokens_per_s;
    struct os_facts facts;
    struct message_power power; // when it greeted
    bool paced;
    double max_stall_s; // between two tokens while a prompt is read; 0: no bound; < 0: by its pace
    bool adapters;      // ADAPTER frames are understood
    bool measures;      // MEASURE frames are
    bool links;         // MEASURE_LINK and PROBE frames are
    uint32_t role;      // what it is there for: PLACE_READER, PLACE_WRITER (sched/place.h), 0: both
    bool priced;        // the following is told
    double dollars_per_hour; // of its whole machine
    char spread[512];        // which machines hold how many layers, in words; "": all are here
    char advertise[256]; // where other workers dial it: "HOST[:PORT]"; "": where the gateway does
    uint16_t image_port; // of the same machine's image model; 0: none
    bool draws;          // it answers DRAW alone, with:
    struct message_canvas canvas;
    int64_t pid;
};
int message_welcome_parse(const json_t *head, struct message_welcome *m, struct err *e);
json_t *message_welcome_json(const struct message_welcome *m);

#endif
