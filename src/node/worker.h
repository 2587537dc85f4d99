// Inside a worker process. Private to node/.
//
// Threads and what they own:
//   engine thread   the engine, every job, every transfer, the table of peers: all of struct worker
//                   below "engine thread only"
//   text thread     template rendering and tokenising, so that they never wait behind a chunk
//   accept thread   the listening socket; a short-lived thread per handshake
//   per link        a reader and a writer (wire_link); they only post events to the inbox
//
// A link posts events until LINK_CLOSED, its last one; the engine thread then drops what refers to
// it and frees it. Export buffers go engine thread -> writer thread -> free list; import buffers go
// reader thread -> engine thread -> free list; both lists are bounded, which is all the flow
// control there is: TCP does the rest.
#ifndef NODE_WORKER_H
#define NODE_WORKER_H

#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/engine.h"
#include "kv/kv.h"
#include "kv/prefix.h"
#include "models/sum.h"
#include "node/acceptor.h"
#include "node/message.h"
#include "node/node.h"
#include "node/pace.h"
#include "node/text.h"
#include "os/facts.h"
#include "os/power.h"
#include "sched/profile.h"
#include "sched/watts.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>

#define WORKER_INBOX 4096
#define WORKER_BLOCKS_MIN 4
#define WORKER_BLOCKS_MAX 64
#define WORKER_PEERS 64
#define WORKER_CHUNKS_MAX 4096 // x 512 tokens: MESSAGE_MAX_TOKENS twice
#define WORKER_TIMELINE_MAX 4096
#define WORKER_FLIGHTS 16
#define WORKER_BEAT_NS (400 * NS_PER_MS)
#define WORKER_PROGRESS_NS (250 * NS_PER_MS)
#define WORKER_HANDSHAKES 16
#define WORKER_SEGMENT_BYTES (4u << 20)
#define WORKER_UNPULLED_NS (60 * NS_PER_S) // a request may wait for a sequence on the other side
#define WORKER_IDLE_NS (30 * NS_PER_S)     // a peer that left without a word
#define WORKER_MEET_NS (30 * NS_PER_S)     // whoever woke it comes again when it has loaded
#define WORKER_PART_NS (2 * NS_PER_S)      // a gateway that has nothing running here lets go sooner
#define WORKER_BULK_FRAME_NS (60 * NS_PER_S) // the other side may be in a long chunk of its own
#define WORKER_OVERTAKES 8                   // a waiting job is passed so often and no more
#define WORKER_PASSES                                                                              \
    2u // a prompt that is read is passed over so often for each that is, and no more
#define WORKER_IMPORTS_AHEAD 8u // steps that a prompt waits for segments of hand-offs, and no more
#define WORKER_PACE_TOKENS 8    // from so many on an answer has a pace that prompts must keep
#define WORKER_SETTLE_TOKENS 16 // an answer with so many to come is worth moving
#define WORKER_LOOK_AHEAD 16    // so many jobs that do not fit are looked at in one go
#define WORKER_TWIN_TOKENS 128u // a common beginning that is worth waiting for
#define WORKER_IMPORTS 256      // frames of transfers that wait for their time
#define WORKER_POINTS 4         // checkpoints of a sequence ...
#define WORKER_POINT_BYTES (256u << 20) // ... and their bytes
#define WORKER_MEDIA_KEY 32             // bytes that name a piece of an image
#define WORKER_MEDIA_IMAGES 32          // of one prompt ...
#define WORKER_MEDIA_PIECES 512         // ... and what becomes of them
#define WORKER_ADAPTERS 16              // loaded at the same time
#define WORKER_ADAPTER_STEPS 4          // of a turn, where answers of several adapters are written
#define WORKER_STUCK_STALLS 10 // a transfer without progress for so many stall times is given up

struct worker;
struct worker_measure;    // a measurement in progress, see worker_measure.c
struct worker_probe;      // one of a link, see worker_probe.c
struct worker_media_item; // a piece of an image, see worker_media.c

static inline uint64_t worker_key(uint32_t link_serial, uint64_t id)
{
    return (1ULL << 63) | ((uint64_t)link_serial << 40) | (id & 0xffffffffffULL);
}

enum worker_link_kind { WORKER_LINK_CONTROL, WORKER_LINK_BULK_IN, WORKER_LINK_BULK_OUT };

// What a link's reader knows of the time that bodies take to come in.
struct worker_arrival {
    uint8_t *discard; // what a measurement sends goes here; NULL: nothing did yet
    int64_t ready_ns; // when the reader had dealt with the frame before
    bool receiving;   // a segment's body is coming in
    uint32_t number;  // of all that ever came in, over whatever link
    bool telling;     // and how long that takes tells of the link
};

// One link of this worker. Made by the thread that did the handshake; then owned by the engine thread.
struct worker_link {
    struct worker *worker;
    struct wire_link *wire;
    enum worker_link_kind kind;
    uint32_t serial; // unique in this process
    _Atomic int64_t
        body_ns; // when the body of a frame began to come in (relaxed: a clock for a timer)
    bool parent; // the supervisor's own: the worker ends when it closes
    bool probes; // BULK_OUT: the other side answers PROBE
    _Atomic uint32_t
        probing; // PROBEs that are not answered yet (relaxed: more answers end the link)
    struct worker_arrival arrival; // reader thread only
    struct worker_link *next;
};

enum worker_event_kind {
    WORKER_EVENT_LINK_UP,     // link
    WORKER_EVENT_LINK_CLOSED, // link, error
    WORKER_EVENT_FRAME,       // link, frame
    WORKER_EVENT_PROBED,      // link, id, body_bytes, t0: a piece of a measurement is in
    WORKER_EVENT_SENT,        // id, index, t0, t1: a bulk frame left
    WORKER_EVENT_DIALED,      // peer index; link or error
    WORKER_EVENT_WAKE,        // a buffer came back, or a PULL is there
    WORKER_EVENT_MEDIA,       // media: pieces of images that were rendered
};

struct worker_event {
    enum worker_event_kind kind;
    struct worker_link *link;
    struct wire_frame frame;
    uint32_t link_serial; // SENT
    uint64_t id;
    uint16_t type;
    uint32_t peer;
    uint32_t body_bytes;
    int64_t t0, t1; // clock ns; of a frame: t0 is when it arrived
    struct worker_media_item *media;
    struct err error;
};

struct worker_span {
    const char *what;
    int64_t t0, t1;
    uint32_t p0, p1;
};

struct worker_timeline {
    bool on;
    int64_t origin_ns;
    struct worker_span *spans;
    size_t n, cap;
};
void worker_timeline_add(struct worker_timeline *t, const struct worker_span *s);
json_t *worker_timeline_json(const struct worker_timeline *t); // array, or null when off

// A memory block that is kept mapped and touched: new pages cost more than the copy itself.
struct worker_block {
    struct worker *worker;
    void *data;
    size_t cap;
    struct chan *home; // the free list it returns to
};

// A segment on its way: index i lies in slot i % WORKER_FLIGHTS.
struct worker_flight {
    uint32_t index, bytes;
    int64_t departed_ns;
};

enum worker_phase {
    WORKER_QUEUED,  // waits for a sequence and cells
    WORKER_HANDOFF, // decode role: a prefill worker is reading the prompt
    WORKER_READ,    // reading the prompt itself
    WORKER_DECODE,
    WORKER_DRAIN, // prefill role: computed, not yet all sent
    WORKER_EMBED, // waits for its turn; has no sequence
};

enum worker_job_kind { WORKER_JOB_GENERATE, WORKER_JOB_PREFILL, WORKER_JOB_EMBED };

// A run of a prompt that is part of an image.
struct worker_piece {
    uint32_t at, rows;
    uint8_t key[WORKER_MEDIA_KEY];
    struct worker_media_item *item; // NULL: not here any more
};

// A run of chunks of about the same size, one behind the other.
struct worker_reading {
    double tokens, depth, chunks;
    int64_t ns;
};

// What a job took of the engine, see worker_cost.c; rows and depths are summed up over its steps.
struct worker_cost {
    struct worker_reading readings[MESSAGE_COST_READS];
    size_t n_readings;
    double steps, rows, depths;
    int64_t steps_ns;
    struct message_moved export, import;
};

// What both roles have in common: a prompt, a sequence, a requester.
struct worker_job {
    struct worker_job *next;
    enum worker_job_kind kind;
    struct worker_link *link; // the requester; NULL when it left
    uint64_t id;
    enum worker_phase phase;
    int32_t *tokens; // the prompt, n_tokens ids, and behind it the answer's own
    uint32_t n_tokens, tokens_cap;
    struct worker_piece *pieces; // owned; of images, ascending
    size_t n_pieces;
    char owner[MESSAGE_OWNER_BYTES];
    // Prefixes are shared within it: the owner, and the adapter's hash where there is one.
    char space[MESSAGE_OWNER_BYTES + MESSAGE_ADAPTER_BYTES];
    char adapter_sha256[MESSAGE_ADAPTER_BYTES]; // "": none
    uint32_t adapter;                           // the engine's id, from admission on; 0: none
    bool keep, reuse;                           // prefix memory afterwards, and before
    bool spoiled;                // a step failed: nobody knows what the sequence holds
    bool over;                   // ended inside a step, to be freed after it
    bool passed, waits_for_twin; // scratch of one look at those that wait
    uint32_t owner_running;      // scratch too: jobs of its owner that run
    uint32_t overtaken;          // how often a later job was admitted before this one
    uint64_t turn;               // when it last computed, in turns
    uint32_t passed_over;        // chunks of other prompts since it last read
    uint64_t round;              // the last round of decode steps that it had a row in
    size_t row;                  // that row, while in_step
    bool in_step;
    double step_s;       // the least that its step took among those that share a cache; 0: not seen
    uint32_t seq, cells; // valid unless QUEUED or EMBED
    uint32_t cached;     // tokens that prefix memory had
    uint32_t computed;   // tokens [0, computed) are in the engine
    int64_t received_ns, admitted_ns, progress_ns;
    struct worker_timeline timeline;
    int64_t compute_ns;
    struct worker_cost cost;
    double work_s,
        joules; // its part of the engine's time, and of the windows that are over (worker_joules.c)
    uint32_t ends[WORKER_CHUNKS_MAX]; // chunk schedule
    size_t n_ends, next_end;

    // prefill role
    struct message_prefill prefill;
    struct worker_link *bulk; // who pulls; NULL until then
    bool pulled;
    uint32_t from, exported; // what the puller held at first, and holds when all has arrived
    struct kv_send send;
    struct kv_tokens_hasher *hasher;
    uint64_t kv_bytes;
    uint32_t segments;
    int64_t export_ns, wait_ns, done_ns, sent_ns, blocked_since_ns;
    struct worker_flight flights[WORKER_FLIGHTS];
    uint32_t departed, acked; // segments whose SENT was seen, whose ACK was
    bool shared;              // another transfer left over another link meanwhile
    int64_t acked_ns;
    bool end_queued, bulk_broken;

    // decode role
    struct message_generate generate;
    struct engine_sampler *sampler;
    struct text_stream text;
    struct engine_parser *parser; // NULL: the answer is all content
    bool called;                  // a tool's delta was given
    uint32_t pending_tokens;      // since the last delta that said something
    int32_t next_token;
    uint32_t pos, generated, reasoning_tokens;
    uint32_t imported, tokens_read;
    int64_t decode_start_ns, last_token_ns, handoff_end_ns;
    char fallback[ERR_MESSAGE_BYTES]; // "" = none
    bool unreached;                   // the prefill worker could not be dialled
    int peer;                         // index of the peer of the hand-off, -1: none
    bool receiving;
    struct kv_receive receive;
    int64_t heard_ns;
    uint64_t received_bytes;
    struct message_moved crossed; // of them, what tells how fast the link is
};

// A place to which a sequence that cannot be cut can go back.
struct worker_point {
    uint32_t at; // tokens
    size_t len;
    void *data;
};

enum worker_seq_state { WORKER_SEQ_FREE, WORKER_SEQ_RUNNING, WORKER_SEQ_KEPT };

struct worker_seq {
    enum worker_seq_state state;
    uint32_t n;      // kept: tokens it holds
    uint32_t prompt; // of them, those of the request's prompt
    int64_t used_ns;
    char owner[MESSAGE_OWNER_BYTES];
    struct worker_point points[WORKER_POINTS]; // ascending
    size_t n_points, point_bytes;
};

// An adapter on its way here.
struct worker_upload {
    int fd; // -1: none
    char sha256[MESSAGE_ADAPTER_BYTES];
    char part[2048]; // the file
    uint32_t link_serial;
    uint64_t at;
    int64_t used_ns;
    struct models_sum sum;
};

// One that the engine has loaded.
struct worker_adapter {
    uint32_t id; // 0: none
    char sha256[MESSAGE_ADAPTER_BYTES];
    int64_t used_ns;
};

// Prefix memory: the sequences of jobs that ended, and an index of those and of running prompts.
struct worker_memory {
    struct worker_seq *seqs; // [n_seq]
    struct kv_prefix *index;
    struct kv_prefix_hit *hits; // scratch, [n_seq]
    uint32_t cells_kept, n_kept, n_running;
};

enum worker_peer_state { WORKER_PEER_FREE, WORKER_PEER_DIALING, WORKER_PEER_UP };

struct worker_peer {
    enum worker_peer_state state;
    struct net_addr addr;
    struct worker_link *link;
};

// What the meter counted, given to requests (worker_joules.c). Engine thread.
struct worker_joules {
    int64_t worked_ns; // up to where the engine's time is in the jobs' work_s
    int64_t until_ns;  // and of that the last that was work
    double work_s;     // that was given nothing yet, also of jobs that have ended
    int64_t seen_ns;   // up to where windows were given away
    double seen_j;     // what the meter said then
    double rate_w;     // above idle, while it works, as was seen last; 0: not known
};

// The meter and who looks at it (worker_power.c).
struct worker_power {
    struct os_power *meter;      // NULL: none; set before any other thread starts
    char why[ERR_MESSAGE_BYTES]; // there is none; "": nobody asked
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    // Under the lock.
    bool stopping;
    int kind; // what the engine thread does: enum watts_kind, -1: something else
    int64_t since_ns, window_ns;
    double seconds[WATTS_KINDS]; // of each kind, in this window
    double joules;               // up to this window
    struct watts watts;
    struct worker_joules given; // the engine thread's
};

// Whose rows a step of answers has: where they live decides.
enum worker_part { WORKER_ALL, WORKER_SHARED, WORKER_APART };

struct worker {
    struct node_worker_options options; // immutable
    struct message_welcome welcome;     // immutable after loading
    char spread[512];                   // its member of that name, set before loading ends
    char node_id[OS_ID_HEX + 1];        // set beforehand; "": none
    double memory_bytes_per_s;          // likewise; 0: not measured
    struct engine *engine;
    struct chan *inbox;                     // struct worker_event
    struct chan *text_inbox;                // struct worker_event (RENDER frames)
    struct chan *pulls;                     // struct worker_event (PULL frames)
    struct chan *export_free, *import_free; // struct worker_block *
    int listen_fd;                          // -1: none
    pthread_t text_thread;
    struct acceptor *acceptor; // NULL: it listens nowhere
    size_t segment_bytes;      // a range is cut so that a segment is about this long
    size_t n_blocks;           // in each free list: enough for one chunk and a little
    // What the engine thread computes now, for whoever must interrupt it: the requester's link and
    // id, and the bulk link; 0: nothing that takes long. Sequentially consistent, see running_set.
    _Atomic uint64_t running;
    _Atomic uint32_t running_link, running_bulk;
    // A step of a measurement runs: whoever brings work takes it back and interrupts. Sequentially consistent:
    // work is posted before this is looked at, and this is set before the inbox is.
    _Atomic bool measuring;
    double load_s;                // from the process's start until the model was ready; 0: unknown
    size_t segment_max;           // largest body that a peer may announce
    _Atomic uint32_t next_serial; // relaxed: only uniqueness counts
    _Atomic int dials;            // that run; released when done, acquired by worker_close
    _Atomic bool
        draining; // relaxed: handshakes look at it; a gateway that slips in is told like the others
    struct worker_upload upload; // text thread only

    struct worker_power power;

    uint8_t *probe_bytes;      // immutable: what measurements of links send, WIRE_PROBE_MAX
    _Atomic int receiving;     // segments whose bodies are coming in, of all links (relaxed)
    _Atomic uint32_t arrivals; // segments whose bodies ever began to (relaxed)

    _Atomic int64_t media_bytes; // that pieces of images take (relaxed: against a limit)

    // engine thread only
    struct worker_media_item *media; // all pieces of images
    struct worker_link *links;
    struct worker_job *jobs; // in order of arrival
    size_t n_jobs;
    struct worker_memory memory;
    struct worker_measure *measure; // NULL: none
    struct worker_probe *probe;     // NULL: none
    uint64_t probe_rounds;
    uint32_t cells_used;  // of running jobs, as accounted before they were admitted
    uint64_t turn, round; // of chunks, of decode steps
    uint32_t chunk_parts; // a long prompt that is read alone has its chunks in so many
    struct pace pace;
    struct worker_adapter adapters[WORKER_ADAPTERS];
    uint32_t adapter_now, adapter_steps;             // whose answers have their turn; steps of it
    uint64_t adapter_turns[ENGINE_ADAPTERS_MAX + 1]; // when each had its last one
    struct chan *imports;   // struct worker_event: frames that came while answers ran
    uint32_t imports_ahead; // steps that prompts have waited for them
    struct worker_peer peers[WORKER_PEERS];
    double prefill_rate, decode_rate, link_rate; // measured, per second; 0: not yet
    double floor_s;  // what a small chunk takes where that is more than its share of the rate
    int64_t beat_ns; // when the last BEATs went out
    int64_t embed_after_ns;     // while answers run, no embedding before this
    struct engine_row *rows[2]; // scratch, n_batch; [1]: of a step inside another one
    enum worker_part part;      // whose step it is
    bool inside;       // a step runs inside another one: no job is freed, no sequence changes hands
    int64_t inside_ns; // what those steps took of the outer one
    int64_t stepped_ns,
        part_ns;       // when the last decode step ended, the last part of the outer one began
    int64_t taking_ns; // what taking the tokens of the last decode step took
    struct worker_job *exporting; // whose export the engine is busy with, NULL: none
    struct worker_block *export_block;
    struct kv_segment export_segment;
    int64_t export_start_ns;
    bool export_mixed; // something was computed since it began
    bool twins_wait;   // a job waits for what another one reads
    bool freed;        // something has changed since the last look at those that wait
    int64_t alone_ns;  // since when no gateway is connected; 0: one is
    bool met;          // one was
    int64_t done_ns;   // draining: since when nothing runs; 0: something does
    bool stop, idle;   // idle: it stops because nobody needs it
};

// ---- worker_link.c: handshakes and links; any thread ----
int worker_link_accept_parent(struct worker *w, struct net_conn *conn, struct err *e);
extern const struct acceptor_host worker_host; // ctx: the worker
void worker_dial_start(struct worker *w, uint32_t peer, int64_t idle_ns, bool same_weights);
void worker_post(struct worker *w, const struct worker_event *ev);
void worker_wake(struct worker *w); // there is something beside the inbox to look at
// Engine and text thread; never blocks. 0, or why the frame will not arrive.
int worker_link_send(struct worker_link *l, struct wire_frame f);

// ---- worker_render.c: the text thread ----
int worker_text_start(struct worker *w, struct err *e);

// ---- worker_start.c: making and unmaking ----
// Takes the engine; options and listen_fd are set by the caller beforehand. Starts the text and
// accept threads; the caller then runs worker_run on its own thread.
int worker_open(struct worker *w, struct engine *g, struct err *e);
// Makes room for that many bytes; the content is lost. False: there is no memory.
bool worker_block_fit(struct worker_block *b, size_t bytes);
// Into its free list, which holds as many as there are: never blocks. Any thread. It is the next one to be taken,
// so that what is never needed at once is never touched.
void worker_block_back(struct worker_block *b);
// After worker_run: ends all links and threads and frees everything but `w` itself.
void worker_close(struct worker *w);

// ---- worker_joules.c ----
// Engine thread, under the meter's lock: the engine has done until now what `power.kind` says.
void worker_joules_count(struct worker *w, int64_t now_ns);
// "joules" of a DONE or PREFILLED, where they are known.
void worker_joules_put(struct worker *w, const struct worker_job *j, json_t *head);

// ---- worker_power.c ----
// Before worker_open. Without it, or where nothing can be read, the other calls do nothing.
void worker_power_start(struct worker *w, const struct os_roots *roots);
void worker_power_stop(struct worker *w);
void worker_power_now(struct worker *w, int kind); // engine thread: from now on; -1: something else
struct message_power worker_power_get(struct worker *w, double *joules); // any thread
json_t *worker_power_json(struct worker *w); // of STATUS_IS; NULL: nobody asked. Any thread

// ---- worker_loop.c: the engine thread ----
void worker_status_send(struct worker *w, struct worker_link *l, uint64_t id);
void worker_event_handle(struct worker *w, struct worker_event *ev);
void worker_run(struct worker *w);

// ---- worker_drain.c: the end of a worker that is let finish its work ----
void worker_drain_begin(struct worker *w);
void worker_drain_greet(struct worker *w, struct worker_link *l); // one that was just in time
int64_t worker_drain_run(struct worker *w, int64_t now_ns);       // the next time to look

// ---- worker_job.c: jobs and their order ----
void worker_progress_send(struct worker *w, struct worker_job *j, const char *phase, uint32_t done,
                          uint32_t total);
void worker_job_finish(struct worker *w, struct worker_job *j); // unlinks and frees
void worker_job_fail(struct worker *w, struct worker_job *j, int code, const char *message);
// A job for the tokens in the frame, queued; ids are checked against the vocabulary.
// `media`: the pieces of images in it, as the gateway lists them; NULL: none.
struct worker_job *worker_job_new(struct worker *w, struct worker_link *l,
                                  const struct wire_frame *f, const json_t *media, struct err *e);
void worker_jobs_admit(struct worker *w); // as many of those that wait as there is room for

// ---- worker_memory.c: sequences, their room, and what is kept ----
void worker_memory_init(struct worker *w);
void worker_memory_fini(struct worker *w);
// Gives a waiting job its sequence and cells, with the longest prefix that its owner has: j->cached
// tokens. False: there is no room, not even with all that is kept forgotten.
bool worker_memory_admit(struct worker *w, struct worker_job *j);
// A chunk of a prompt up to `upto` is in; where sequences cannot be cut, a checkpoint may be made.
void worker_memory_point(struct worker *w, const struct worker_job *j, uint32_t upto);
// The prompt is in: others may begin with it.
void worker_memory_share(struct worker *w, const struct worker_job *j);
// The job ends: its sequence is kept or emptied.
void worker_memory_release(struct worker *w, struct worker_job *j);
uint32_t worker_memory_apart(const struct worker *w);    // kept in caches of their own
bool worker_memory_has_sequence(const struct worker *w); // one that is not running
bool worker_memory_relieve(
    struct worker *w); // forgets the oldest kept sequence; false: none is left
uint32_t worker_memory_forget(struct worker *w, const char *owner); // NULL: all; how many

// ---- worker_step.c: what the engine computes ----
// Publishes what is about to run. False: something came in meanwhile, look at that first.
bool worker_running_set(struct worker *w, const struct worker_job *j);
void worker_running_clear(struct worker *w);
// Tokens up to `end` are in.
void worker_chunk_count(struct worker *w, struct worker_job *j, uint32_t end, int64_t t0,
                        int64_t t1);
// Where the next chunk of a prompt ends, which has at most `rows` rows.
uint32_t worker_chunk_end(const struct worker *w, const struct worker_job *j, uint32_t rows);
// Computes tokens [j->computed, end) of the prompt. 0; ERR_CANCELLED: an interrupt came, nothing
// changed; any other error: the job has failed and is gone.
int worker_chunk_run(struct worker *w, struct worker_job *j, uint32_t end);
size_t worker_decoding(const struct worker *w); // answers that are running
void worker_step_run(struct worker *w);         // one step or two, if there is something to compute

// Has the answer a row in the step that was computed last?
bool worker_takes_part(const struct worker *w, const struct worker_job *j);

// ---- worker_cost.c: what each job took ----
void worker_cost_chunk(struct worker_cost *c, uint32_t from, uint32_t to, int64_t ns);
// A step of so many answers is done, before their tokens are taken.
void worker_cost_steps(struct worker *w, size_t rows, int64_t ns);
void worker_cost_moved(struct message_moved *m, size_t bytes, int64_t ns);
json_t *worker_cost_json(const struct worker_cost *c);

// ---- worker_prefill.c: the prefill role ----
void worker_prefill_begin(struct worker *w, struct worker_link *l, struct wire_frame *f);
void worker_prefill_plan(struct worker *w, struct worker_job *j);
void worker_prefill_chunk(struct worker *w, struct worker_job *j, uint32_t rows);
void worker_prefill_read(struct worker *w, struct worker_job *j);   // a piece was read
bool worker_prefill_export(struct worker *w, struct worker_job *j); // true: did something
// Tells every decode worker that waits how far its prompt is; returns when to do so again.
int64_t worker_prefill_beats(struct worker *w, int64_t now_ns);
void worker_prefill_frame(struct worker *w, const struct worker_event *ev); // of its bulk link
// Whoever has come for segments gets them. Called before any other event is handled, which might end the link,
// and within a chunk.
void worker_prefill_pulls(struct worker *w);
void worker_prefill_sent(struct worker *w, const struct worker_event *ev);
void worker_prefill_lost(struct worker *w, struct worker_job *j, const char *why);
void worker_prefill_end(struct worker_job *j); // tells the puller, if it still waits

// ---- worker_decode.c: the decode role ----
void worker_generate_begin(struct worker *w, struct worker_link *l, struct wire_frame *f);
void worker_generate_plan(struct worker *w, struct worker_job *j);
void worker_generate_read(struct worker *w, struct worker_job *j); // a piece was read
void worker_decode_ready(struct worker *w, struct worker_job *j);  // all but the last token is in
void worker_decode_settle(struct worker *w);
bool worker_decode_is_apart(const struct worker *w, const struct worker_job *j);
// Lets every answer live apart from the prompt that is read; false: one cannot.
bool worker_decode_part(struct worker *w, const struct worker_job *reader);
void worker_decode_rejoin(struct worker *w, const struct worker_job *reader);

// ---- worker_answer.c: what an answer says ----
int worker_answer_begin(struct worker *w, struct worker_job *j, struct err *e);
void worker_answer_fini(struct worker *w, struct worker_job *j);
// One token that was sampled from `row` of the last step: its frame goes out, and perhaps the answer
// ends, and with it the job.
void worker_answer_token(struct worker *w, struct worker_job *j, int32_t token, size_t row);

// ---- worker_media.c: images ----
struct worker_media_text {
    const char *prompt; // what the template made of the chat
    json_t *pieces;     // an array: gets what GENERATE has to say of the images
    int32_t *tokens;    // the caller's, on success
    size_t n_tokens;
};
// Text thread. `sizes`: RENDER's list of images, whose bytes are the frame's body.
int worker_media_render(struct worker *w, const struct wire_frame *f, const json_t *sizes,
                        struct worker_media_text *out, struct err *e);
// From here on the engine thread.
void worker_media_take(struct worker *w, struct worker_media_item *list);
int64_t worker_media_timers(struct worker *w, int64_t now_ns); // the next time to look
void worker_media_forget(struct worker *w);                    // what no job needs
void worker_media_fini(struct worker *w);
int worker_media_attach(struct worker *w, struct worker_job *j, const json_t *list, struct err *e);
void worker_media_release(struct worker_job *j);
bool worker_media_next(const struct worker_job *j); // what is to be computed next is of an image
bool worker_media_has(const struct worker_job *j, uint32_t at);
// Where a chunk of tokens that would end at `end` ends, with an image before that.
uint32_t worker_media_border(const struct worker_job *j, uint32_t end);
// A length of the prompt that ends inside no image.
uint32_t worker_media_floor(const struct worker_job *j, uint32_t length);
// One turn: encodes the piece that is next, or computes at most `rows` rows of it.
void worker_media_read(struct worker *w, struct worker_job *j, uint32_t rows);

// ---- worker_adapter.c ----
void worker_adapter_init(struct worker *w);
void worker_adapter_fini(struct worker *w);
void worker_adapter_frame(struct worker *w, struct worker_link *l,
                          struct wire_frame *f); // text thread
// A job begins, whose owner is known: its adapter must be here.
int worker_adapter_begin(struct worker *w, struct worker_job *j, const struct message_adapter *a,
                         struct err *e);
// The job has its sequence: sets its adapter, loading it first. False: the job has failed and is gone.
bool worker_adapter_admit(struct worker *w, struct worker_job *j);
// Does the puller want what this job is computed with?
int worker_adapter_agree(const struct worker_job *j, const char *sha256, struct err *e);
void worker_adapter_turn(struct worker *w); // whose answers make the next step: adapter_now

// ---- worker_measure.c: the worker measures itself while it is idle ----
void worker_measure_begin(struct worker *w, struct worker_link *l, const struct wire_frame *f);
void worker_measure_run(struct worker *w); // one piece, or with jobs here the end of it
// Ends what was asked for under this id, if that is what runs.
void worker_measure_cancel(struct worker *w, const struct worker_link *l, uint64_t id);
void worker_measure_link_closed(struct worker *w, const struct worker_link *l);

// ---- worker_probe.c: a link is measured ----
void worker_probe_init(struct worker *w);
void worker_probe_fini(struct worker *w);
void worker_probe_link_fini(struct worker_link *l);
// A link's reader thread: where a body of PROBE or PROBED goes, and the frames themselves, which it takes.
void worker_probe_body(struct worker_link *l, size_t n, struct wire_body *body);
int worker_probe_answer(struct worker_link *l, struct wire_frame *f, struct err *e);
int worker_probe_arrived(struct worker_link *l, struct wire_frame *f, struct err *e);
// Engine thread.
void worker_probe_begin(struct worker *w, struct worker_link *l, const struct wire_frame *f);
void worker_probe_dialed(struct worker *w, const struct worker_event *ev);
void worker_probe_take(struct worker *w, const struct worker_event *ev);
int64_t worker_probe_run(struct worker *w,
                         int64_t now_ns); // ends it where it must; the next time to look
void worker_probe_cancel(struct worker *w, const struct worker_link *l, uint64_t id);
void worker_probe_link_closed(struct worker *w, const struct worker_link *l, const struct err *why);

// ---- worker_embed.c ----
void worker_embed_begin(struct worker *w, struct worker_link *l, struct wire_frame *f);
void worker_embed_run(struct worker *w, bool others_run); // one, if it is time for one

// ---- worker_handoff.c: the receiving side ----
void worker_handoff_begin(struct worker *w, struct worker_job *j);
void worker_handoff_dialed(struct worker *w, const struct worker_event *ev);
// The slot of the worker there, known or new; -1: there is none left.
int worker_handoff_peer(struct worker *w, const char *host, uint16_t port);
// May a transfer begin, end or be taken up in the middle of a sequence?
bool worker_handoff_partial(const struct worker *w);
// Where the prefill worker's part of the prompt ends.
uint32_t worker_handoff_upto(const struct worker_job *j);
uint32_t worker_handoff_committed(const struct worker *w, const struct worker_job *j);
// Takes the event's frame: handles it, or while answers run lets it wait for its time.
void worker_handoff_frame(struct worker *w, struct worker_event *ev);
bool worker_imports_wait(const struct worker *w);
void worker_imports_run(struct worker *w); // as many as may run between two decode steps
void worker_handoff_link_closed(struct worker *w, struct worker_link *l, const struct err *why);
void worker_handoff_lost(struct worker *w, struct worker_job *j, const char *why);
void worker_handoff_end(struct worker *w, struct worker_job *j);
// What the transfer tells of the link; bytes 0: nothing.
struct message_moved worker_handoff_crossed(const struct worker_job *j);
// Gives up transfers that stalled; returns the next time to look.
int64_t worker_handoff_timers(struct worker *w, int64_t now_ns);

#endif
