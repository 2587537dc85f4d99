// The one network that this tool trains and writes: stable-diffusion.cpp's MiniT2I layout at its smallest
// useful size. It draws "a {red,green,blue,yellow} {circle,square,triangle}" in 64x64 pixels, and nothing else.
//
// MiniT2I works on pixels (no VAE): an image is cut into square patches, each patch is one token of a
// transformer, and the text's tokens are keys and values beside them. Two things make it cheap to train and
// leave what the library computes exact:
//
//   - T5 is a lookup: the outputs of its one layer are zero, so the context of a token is its row in the
//     (random, frozen) embedding table, which has a root mean square of one.
//   - the text stream is constant: its residual outputs are zero as well, so that every block sees the
//     embedded tokens themselves, and behind them one and the same padding vector.
//
// Matrices are row-major with the inputs of one output side by side (as GGUF has them). Lengths are elements.
#ifndef IMAGE_MODEL_SHAPE_H
#define IMAGE_MODEL_SHAPE_H

enum {
    HIDDEN = 64, // also the width of the text stream and of T5: the last layer joins them
    HEADS = 1,
    HEAD = 64, // elements of a head; the layout knows no other at this width
    INNER = HEADS * HEAD,
    MLP = 176, // 2.6667 * HIDDEN, rounded up to eights
    BLOCKS = 2,
    PATCH = 8,
    SIDE = 64, // pixels
    GRID = SIDE / PATCH,
    TOKENS = GRID * GRID, // of an image
    PIXELS = PATCH * PATCH * 3,
    PCA = 32,   // the first of the two matrices that embed a patch has this rank
    TEXT = 256, // positions of text, always; the library pads
    KEYS = TEXT + TOKENS,
    COND = 8,           // width of tensors that must be in the file and are never evaluated
    VOCABULARY = 32128, // rows of T5's table: fewer, and a rare word would end the process
    CAPTION_TOKENS = 4, // "_", "a", colour, shape: the pieces of the real T5 tokenizer
    COLOURS = 4,
    SHAPES = 3,
};

#endif
