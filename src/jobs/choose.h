// Which machine a job is best done by: the executor "fastest".
//
// {"kind": "fastest", "hosts": "here,spark1,user@spark2", ...} is no executor but a question, which is answered once, when a
// job is submitted: every host's trainer measures itself (train/speed.h), and the job goes to the fastest one that holds the
// model and has the memory, as {"kind": "ssh"} with that host and the other options, or, where that is `here`, as {"kind":
// "local"}. Measured, because a machine's name says little of what else it is doing.
//
// Owner: the submitting thread; waits for the hosts, at most a minute each.
#ifndef JOBS_CHOOSE_H
#define JOBS_CHOOSE_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct jobs_question {
    const json_t *executor; // of kind "fastest"
    const char *model;
    bool gpu;
};
// *chosen: a new executor's options; *why: a sentence with every host's figure or trouble; the caller frees both.
// ERR_INVALID for options that are none; ERR_NOT_FOUND where no host would do, with the reasons.
int jobs_choose(const struct jobs_question *q, json_t **chosen, char **why, struct err *e);

#endif
