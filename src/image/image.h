// Pictures from text: what a request is, what a model file asks of it, and what comes back.
//
// The library that draws (stable-diffusion.cpp) ends the process on a size, a token or a file that it does
// not like, so it lives in a process of its own (image/worker.h starts it, image/draw.h is the inside of
// it), and everything here is checked before that process hears of it.
//
// Owner: the caller of each call; nothing is shared and nothing is kept. Any thread. Strings in a request
// are borrowed and must live until it is submitted.
//
// What it does not do: it draws nothing, and it knows neither HTTP nor jobs.
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_SIDE_MIN 16u
#define IMAGE_SIDE_MAX 4096u        // pixels
#define IMAGE_PIXELS_MAX (4u << 20) // of one picture
#define IMAGE_COUNT_MAX 10u         // pictures of a request
#define IMAGE_STEPS_MAX 150u
#define IMAGE_CFG_MAX 50.0
#define IMAGE_PROMPT_MAX (16u << 10) // bytes, each of the two prompts
#define IMAGE_PREVIEWS_MAX 3u
#define IMAGE_LORAS_MAX 8u
#define IMAGE_LORA_NAME_BYTES 96
#define IMAGE_LORA_WEIGHT_MAX 4.0
#define IMAGE_SEED_NONE (-1)

// Interleaved RGB, 8 bits each, rows from the top, no padding.
struct image_picture {
    uint32_t width, height;
    uint8_t *rgb; // owned; width * height * 3 bytes
};
void image_picture_fini(struct image_picture *p);

struct image_lora {
    char name[IMAGE_LORA_NAME_BYTES]; // of a file in the folder of LoRAs, without its ending
    double weight;
};

struct image_request {
    const char *prompt, *negative; // UTF-8; negative may be NULL
    uint32_t width, height;        // 0: what the model likes best
    uint32_t count;                // pictures; picture i has the seed + i (default 1)
    uint32_t steps;                // 0: what suits the model
    double cfg;                    // how much the prompt counts; negative: what suits the model
    int64_t seed;                  // IMAGE_SEED_NONE: drawn when it is submitted
    const char *sampler;           // NULL: what suits the model
    const char *scheduler;         // the same
    uint32_t previews;             // unfinished pictures to be told of
    double strength;               // of the change to `initial`: 0..1 (default 0.75)
    const struct image_picture *initial; // NULL: none; borrowed; its size is the request's
    const struct image_picture *mask;    // what of it may change (white); NULL: everything
    struct image_lora loras[IMAGE_LORAS_MAX];
    uint32_t n_loras;
};
void image_request_default(struct image_request *r);
// 31 bits: a number that people can copy, and that whoever draws keeps.
int64_t image_seed_draw(void);
// "512x768"; ERR_INVALID names the limits.
int image_size_parse(const char *text, uint32_t *width, uint32_t *height, struct err *e);
// Takes "<lora:NAME:WEIGHT>" out of a prompt: the text without it in *out (caller frees), the names in
// `r`. Names are plain (no path), weights within limits; ERR_INVALID otherwise.
int image_prompt_loras(const char *prompt, struct image_request *r, char **out, struct err *e);

// ---- what a model asks for ------------------------------------------------------------------------

struct image_model {
    char layout[32];   // "minit2i", "sdxl", "flux", ... or "unknown"
    uint32_t multiple; // sides are multiples of it
    bool square;       // and equal
    uint32_t side;     // what it was made for
    uint32_t steps;
    double cfg;
    uint64_t bytes; // of the file
    bool edits;     // it can begin with a picture
};
// Reads the head of a GGUF or safetensors file: complete, of a known layout, with a table for every token
// that its tokenizer can give. ERR_CORRUPT, ERR_UNSUPPORTED or ERR_NOT_FOUND with the file's name.
int image_model_read(const char *path, struct image_model *m, struct err *e);

// Fills in what the request leaves open and refuses what is not possible; allocates nothing. ERR_INVALID
// names the member, the value and what is possible.
int image_request_check(struct image_request *r, const struct image_model *m, struct err *e);

// Names that a request may use, NULL-terminated.
extern const char *const image_samplers[];
extern const char *const image_schedulers[];

// ---- files ----------------------------------------------------------------------------------------

enum image_format { IMAGE_PNG, IMAGE_JPEG, IMAGE_WEBP };
#define IMAGE_QUALITY_DEFAULT 90u

// "png", "jpeg" (or "jpg"), "webp"; ERR_INVALID otherwise.
int image_format_parse(const char *name, enum image_format *out, struct err *e);
const char *image_format_name(enum image_format f); // "png"
const char *image_format_mime(enum image_format f); // "image/png"

struct image_encode_options {
    enum image_format format;
    uint32_t quality;    // 1..100, of JPEG and WebP (100: WebP without loss); 0: the default
    const json_t *texts; // an object of strings: tEXt/iTXt of a PNG; NULL: none
    uint32_t level;      // 1..9 of PNG; 0: the default
};
// The file's bytes in *out (caller frees). The same picture and options give the same bytes.
int image_encode(const struct image_picture *p, const struct image_encode_options *o, uint8_t **out,
                 size_t *len, struct err *e);
// A PNG, JPEG or WebP file that a client sent, as RGB (alpha over white). Its size is held against the limits
// above before anything is allocated.
int image_decode(const void *data, size_t len, struct image_picture *out, struct err *e);
// The same for a mask: where it has transparency, what is transparent may change (as OpenAI has it), else
// what is white.
int image_decode_mask(const void *data, size_t len, struct image_picture *out, struct err *e);
// What is written into a picture's file: prompt, seed and parameters, so that it can be drawn again, as far as they
// are known. `model` is a file of this machine, or what a model of the server `node` (NULL: none) is called.
// `seed` is that picture's own. A new object.
json_t *image_texts(const struct image_request *r, const char *model, const char *node,
                    int64_t seed);

#endif
