// What the files of `tandem image` share; and the options that every command with an image model has.
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "image/worker.h"

// --image-model, --image-vae, ...: appended to a command's own table, which still needs its end. Returns how
// many were written.
size_t cli_image_options(struct image_worker_options *o, struct cli_option *out, size_t max);
#define CLI_IMAGE_OPTIONS 20
// Whether there is memory for it beside chat models that need so much; ERR_BUSY.
int cli_image_room(const struct image_worker_options *o, uint64_t others_bytes, struct err *e);

// ---- the command -----------------------------------------------------------------------------------

#define IMAGE_INPUT_MAX_BYTES (20u << 20) // of a picture to begin with

enum image_show {
    IMAGE_SHOW_NONE,
    IMAGE_SHOW_KITTY,  // kitty, Ghostty, Konsole
    IMAGE_SHOW_ITERM,  // iTerm2, WezTerm, mintty
    IMAGE_SHOW_SIXEL,  // foot, xterm and others that say so
    IMAGE_SHOW_BLOCKS, // half blocks in 24-bit colours
};

struct image_command {
    struct client client; // server NULL: drawn here
    struct image_worker_options worker;
    struct image_request request;
    const char *prompt, *out, *size, *format, *show, *initial, *mask;
    const char *server_model; // NULL: the server chooses
    int64_t seed;
    uint32_t quality;
    bool watch, json, job;
    volatile sig_atomic_t *stop; // set: somebody wants it to end
    // while it draws
    struct image_worker *w;
    enum image_format as;
    enum image_show how;
    bool drawn; // a line without an end is on the screen
    double step_s, draw_s, load_s;
    json_t *files;
};
void image_line_show(struct image_command *m, const char *text);
void image_line_end(struct image_command *m);
void image_progress_show(struct image_command *m, const struct image_event *ev);
void image_preview_show(struct image_command *m, const struct image_picture *p);
// Writes the bytes of picture ev->index; prints its name and shows ev->picture.
int image_file_put(struct image_command *m, const struct image_event *ev, const void *data,
                   size_t len, struct err *e);

// ---- by a server: image_server.c ----

int image_server_draw(struct image_command *m, struct err *e);
// What is asked of it, and the files that belong to it. A new reference.
json_t *image_body_make(const struct image_command *m);
int image_body_files(const struct image_command *m, json_t *body, struct err *e);
// For client_stream, with a struct image_command.
int image_event_show(void *ctx, const json_t *event, struct err *e);
void image_comment_show(void *ctx, const char *text);
// A picture, whole or not yet, that an event is about: written to its file, or shown.
struct image_event_file {
    const uint8_t *data;
    size_t len;
    bool whole;
};
int image_event_picture(struct image_command *m, const json_t *event,
                        const struct image_event_file *f, struct err *e);

// ---- as jobs of a server: image_job.c, image_jobs.c ----

// Submits; prints the id, or, to be watched, watches it. The exit code.
int image_job_submit(struct image_command *m);
// Watches until it has ended, and writes its pictures. The exit code.
int image_job_watch(struct image_command *m, const char *id);
// tandem image list, show, watch, cancel, rm: the exit code, or -1 for a word that is none of them.
int image_jobs_run(int argc, char **argv);
// The signals by which somebody ends the command.
void image_signals_catch(struct image_command *m);
// Where files go and how pictures are shown: --out, --show, and what was given for them.
struct cli_option image_out_option(struct image_command *m);
struct cli_option image_show_option(struct image_command *m);
int image_output_take(struct image_command *m, struct err *e);

// ---- pictures in a terminal -----------------------------------------------------------------------

// "auto" and the names above; auto finds out what the terminal on stdout can. ERR_INVALID otherwise.
int image_show_parse(const char *name, enum image_show *out, struct err *e);
// Writes the picture to f, and a line end.
void image_show(FILE *f, enum image_show how, const struct image_picture *p);
// The bytes of one of the protocols, for tests; `columns` is the width that blocks may take.
void image_show_put(struct buf *out, enum image_show how, const struct image_picture *p,
                    int columns);

#endif
