// What the network learns from: coloured shapes on a dark ground, with noise, and their captions.
#ifndef IMAGE_MODEL_DATA_H
#define IMAGE_MODEL_DATA_H

#include "tests/image_model/network.h"

// Embedding rows of the words of all captions; filled once, then read by all threads.
struct data_words {
    float space[HIDDEN], article[HIDDEN], colours[COLOURS][HIDDEN], shapes[SHAPES][HIDDEN];
};
void data_words_fill(struct data_words *w);

// Draws a random example; *state as for random_next. The words must outlive it.
void data_sample(struct sample *s, const struct data_words *w, uint64_t *state);

#endif
