// The options of the image worker.
#include "cli/image.h"
#include "models/fetch.h"
#include "os/os.h"

#include <string.h>

size_t cli_image_options(struct image_worker_options *o, struct cli_option *out, size_t max)
{
    const struct cli_option own[] = {
        {.name = "--image-model",
         .kind = CLI_STRING,
         .value = (void *)&o->model,
         .arg = "FILE",
         .help = "model that draws, GGUF or safetensors (SD 1.x, SDXL, SD3.5, FLUX, Qwen-Image, "
                 "Z-Image and what else stable-diffusion.cpp loads)"},
        {.name = "--image-split",
         .kind = CLI_FLAG,
         .value = &o->split,
         .help = "--image-model is the network alone; the options below name the other parts"},
        {.name = "--image-vae",
         .kind = CLI_STRING,
         .value = (void *)&o->vae,
         .arg = "FILE",
         .help = "its VAE, where it is a file of its own"},
        {.name = "--image-taesd",
         .kind = CLI_STRING,
         .value = (void *)&o->taesd,
         .arg = "FILE",
         .help = "a small VAE in place of it: quick, and coarser"},
        {.name = "--image-t5xxl",
         .kind = CLI_STRING,
         .value = (void *)&o->t5xxl,
         .arg = "FILE",
         .help = "its T5 text encoder"},
        {.name = "--image-clip-l",
         .kind = CLI_STRING,
         .value = (void *)&o->clip_l,
         .arg = "FILE",
         .help = "its CLIP-L text encoder"},
        {.name = "--image-clip-g",
         .kind = CLI_STRING,
         .value = (void *)&o->clip_g,
         .arg = "FILE",
         .help = "its CLIP-G text encoder"},
        {.name = "--image-llm",
         .kind = CLI_STRING,
         .value = (void *)&o->llm,
         .arg = "FILE",
         .help = "the language model that reads its prompts (Qwen-Image, Z-Image, FLUX.2)"},
        {.name = "--image-lora-dir",
         .kind = CLI_STRING,
         .value = (void *)&o->lora_dir,
         .arg = "DIR",
         .help = "folder of LoRAs; <lora:NAME:WEIGHT> in a prompt uses one"},
        {.name = "--image-type",
         .kind = CLI_STRING,
         .value = (void *)&o->type,
         .arg = "TYPE",
         .help = "keep its weights in this type (q8_0, q4_0, f16), not as the file has them"},
        {.name = "--image-threads",
         .kind = CLI_UINT32,
         .value = &o->threads,
         .arg = "N",
         .help = "threads that draw (default: physical cores)",
         .min = 0,
         .max = 1024},
        {.name = "--image-tiling",
         .kind = CLI_FLAG,
         .value = &o->tiling,
         .help = "decode in tiles: large pictures in less memory"},
        {.name = "--image-offload",
         .kind = CLI_FLAG,
         .value = &o->offload,
         .help = "keep weights in main memory while the GPU does not use them"},
        {.name = "--image-flash-attention",
         .kind = CLI_FLAG,
         .value = &o->flash_attention,
         .help = "attention with less memory"},
        {.name = "--image-load-limit",
         .kind = CLI_DOUBLE,
         .value = &o->load_s,
         .arg = "SECONDS",
         .help =
             "a process that has not loaded the image model by then is ended and started again, "
             "three times at most (1800)",
         .min = 0.1,
         .max = 86400},
        {.name = "--image-worker",
         .kind = CLI_STRING,
         .value = (void *)&o->program,
         .arg = "PROGRAM",
         .help = "program that draws (default: the one that was built or installed)"},
    };
    size_t n = sizeof own / sizeof *own;
    _Static_assert(sizeof own / sizeof *own < CLI_IMAGE_OPTIONS, "room for all and an end");
    n = n < max ? n : max;
    memcpy(out, own, n * sizeof *own);
    return n;
}

int cli_image_room(const struct image_worker_options *o, uint64_t others_bytes, struct err *e)
{
    uint64_t image = image_worker_need(o), all = image + others_bytes;
    uint64_t available = os_memory_available();
    char need[MODELS_SIZE_TEXT], of_image[MODELS_SIZE_TEXT], room[MODELS_SIZE_TEXT];

    if (available == 0 || all <= available)
        return 0;
    models_size_format(all, need);
    models_size_format(image, of_image);
    models_size_format(available, room);
    return err_set(e, ERR_BUSY,
                   "the models need about %s together (the image model %s of it) and this machine "
                   "has %s free; use smaller ones, --image-type q4_0, or say --no-memory-check",
                   need, of_image, room);
}
