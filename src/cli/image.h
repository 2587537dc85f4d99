// What the files of `tandem image` share; and the options that every command with an image model has.
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "base/buf.h"
#include "cli/cli.h"
#include "image/worker.h"

// --image-model, --image-vae, ...: appended to a command's own table, which still needs its end. Returns how
// many were written.
size_t cli_image_options(struct image_worker_options *o, struct cli_option *out, size_t max);
#define CLI_IMAGE_OPTIONS 16

// ---- pictures in a terminal -----------------------------------------------------------------------

enum image_show {
    IMAGE_SHOW_NONE,
    IMAGE_SHOW_KITTY,  // kitty, Ghostty, Konsole
    IMAGE_SHOW_ITERM,  // iTerm2, WezTerm, mintty
    IMAGE_SHOW_SIXEL,  // foot, xterm and others that say so
    IMAGE_SHOW_BLOCKS, // half blocks in 24-bit colours
};
// "auto" and the names above; auto finds out what the terminal on stdout can. ERR_INVALID otherwise.
int image_show_parse(const char *name, enum image_show *out, struct err *e);
// Writes the picture to f, and a line end.
void image_show(FILE *f, enum image_show how, const struct image_picture *p);
// The bytes of one of the protocols, for tests; `columns` is the width that blocks may take.
void image_show_put(struct buf *out, enum image_show how, const struct image_picture *p,
                    int columns);

#endif
