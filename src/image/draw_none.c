// In place of the library in a build without it.
#include "image/draw.h"

static int none_open(const json_t *options, void **engine, struct err *e)
{
    (void)options;
    (void)engine;
    return err_set(e, ERR_UNSUPPORTED,
                   "this tandem-image-worker was built without stable-diffusion.cpp; build it with "
                   "\"make IMAGE=source\", or get a prebuilt library with \"make image-library\"");
}

const struct draw_engine draw_library = {"none", none_open, NULL, NULL, NULL, NULL};
