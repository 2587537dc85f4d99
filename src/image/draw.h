// The inside of the image worker's process: what draws, behind one small table, and the loop that speaks the
// protocol of image/frame.h over it.
//
// Threads: the loop's main thread opens, draws and closes; a second one reads the socket and may call cancel
// at any time between them. Hooks are called on the drawing thread.
#ifndef IMAGE_DRAW_H
#define IMAGE_DRAW_H

#include "image/image.h"

#include <jansson.h>

struct draw_hooks {
    // A step is done; waits here while the worker is paused. false: stop, somebody cancelled.
    bool (*step)(void *ctx, uint32_t step, uint32_t steps, double seconds);
    void (*preview)(void *ctx, uint32_t step, const struct image_picture *p);
    void *ctx;
};

struct draw_task {         // one picture; what image_request_check has accepted
    const json_t *request; // of its frame
    int64_t seed;
    const struct image_picture *initial, *mask; // NULL: none
    const struct draw_hooks *hooks;
};

struct draw_engine {
    const char *library;
    // Loads the model that the options name (see worker.c's options_text) into *engine.
    int (*open)(const json_t *options, void **engine, struct err *e);
    void (*close)(void *engine);
    // Version and features for the frame "ready".
    void (*describe)(void *engine, json_t *ready);
    // ERR_CANCELLED when a hook said stop or cancel was called.
    int (*draw)(void *engine, const struct draw_task *t, struct image_picture *out, struct err *e);
    void (*cancel)(void *engine);
};

// Is an unfinished picture to be told of after this step? As many times as `previews`, evenly.
static inline bool draw_preview_due(uint32_t step, uint32_t steps, uint32_t previews)
{
    uint32_t parts = previews + 1;
    return step > 0 && step < steps && step * parts / steps > (step - 1) * parts / steps;
}

extern const struct draw_engine
    draw_fake; // model "fake:...": no library, pictures that follow from the request
extern const struct draw_engine draw_library; // stable-diffusion.cpp

// Main of the worker: options as JSON text, the socket as descriptor 3. Its exit code.
int draw_main(const char *options);

#endif
