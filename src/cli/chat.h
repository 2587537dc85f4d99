// The parts of `tandem chat`. Private to cli/; everything runs on the command's one thread.
//
// chat.c holds the conversation and reads lines; chat_answer.c asks for one answer and shows it while
// it comes.
#ifndef CLI_CHAT_H
#define CLI_CHAT_H

#include "base/buf.h"
#include "cli/client.h"

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define CHAT_ANSWER_MAX (8u << 20) // bytes

struct chat {
    struct client client;
    const char *model, *system, *plan;
    int64_t max_tokens;
    double temperature; // below 0: the server's own
    bool json, timings, no_reasoning;
    char *own_system; // what /system said; owned
    json_t *messages;
    int failed; // the exit code of the last question that got no answer
    // Of the answer that is coming in.
    struct buf text, reasoning;
    json_t *told;  // its timings
    bool thinking; // the terminal is dim
    // How far the prompt is read, as the stream's comments tell.
    int64_t progress_ns; // of the first; 0: none yet
    double progress_done;
};

// Set by SIGINT: ordering is left to the signal's own guarantees.
extern volatile sig_atomic_t chat_interrupted;

// Asks the server to go on from the messages and shows what comes. Fills text, reasoning and told.
// ERR_CANCELLED when it was interrupted.
int chat_answer(struct chat *c, struct err *e);
// What follows an answer: its end of line, or all of it as JSON, and how it was made.
void chat_answer_end(const struct chat *c, bool stopped);

#endif
