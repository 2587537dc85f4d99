// Whether an adapter means to the serving engine what it meant to the trainer: the loss of base and adapter on the
// same examples, computed by both. The trainer notes its own at the end of a job (result.json, "parity"):
// on examples that were held out, or on the first ones where none were.
//
// The two are not equal to the last digit: the engine computes with the base as it is in the file and with
// activations of eight bits, the trainer with plain numbers.
#ifndef TRAIN_PARITY_H
#define TRAIN_PARITY_H

#include "train/train.h"

#include <stdio.h>

#define PARITY_EXAMPLES 8

// Writes one line of JSON: {"examples", "targets", "loss_trainer", "loss_engine"}. ERR_NOT_FOUND: the folder's
// result does not say what to compare; what the engine says of the adapter.
int train_parity(const char *folder, const struct train_options *o, FILE *out, struct err *e);

#endif
