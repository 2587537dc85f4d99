// Prompts for servers that draw and are not ours: what such a server would execute is taken out.
//
// stable-diffusion.cpp's sd-server reads a JSON object out of <sd_cpp_extra_args>..</sd_cpp_extra_args> and sets
// any of its parameters by it; A1111 and its kin load files for <lora:NAME:1>, <hypernet:NAME:1> and every other
// <word:..>; ComfyUI loads a file for "embedding:NAME". A client of this server may ask for a picture, not for that.
//
// Pure; any thread.
#ifndef GATEWAY_IMAGE_MARKUP_H
#define GATEWAY_IMAGE_MARKUP_H

// The text without it; the caller frees. Nothing is left that would be markup, however it was nested or split,
// and what has none comes back as it was. Valid UTF-8 stays valid.
char *image_markup_strip(const char *text);

#endif
