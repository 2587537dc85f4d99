// llama.cpp logs through one global callback. It is turned into lines of our log at debug level (it is
// chatty at load). While a call that can fail runs, its first error line is kept, so that the message can
// quote it; later ones only say that an outer call failed too.
#include "engine/llama_impl.h"

#include "base/log.h"

#include <fcntl.h>
#include <ggml.h>
#include <mtmd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 400

// Of the thread that called llama_log_begin: llama.cpp reports its errors on the calling thread.
static _Thread_local struct {
    bool on;
    char line[LINE_BYTES];
} capture;

static void line_keep(const char *text)
{
    snprintf(capture.line, sizeof capture.line, "%s", text);
    capture.line[strcspn(capture.line, "\r\n")] = 0;
}

static void on_log(enum ggml_log_level level, const char *text, void *ctx)
{
    (void)ctx;
    if (level == GGML_LOG_LEVEL_ERROR && capture.on && !capture.line[0])
        line_keep(text);
    if (level == GGML_LOG_LEVEL_CONT || level == GGML_LOG_LEVEL_DEBUG)
        return;
    if (log_level_get() >= LOG_LEVEL_DEBUG)
        log_debug("llama", "%.*s", (int)strcspn(text, "\r\n"), text);
}

// ggml would fork a debugger for a backtrace; the worker just says why and dies.
static void on_abort(const char *message)
{
    log_error("llama", "llama.cpp aborts: %.*s", (int)strcspn(message, "\r\n"), message);
}

void llama_log_init(void)
{
    llama_log_set(on_log, NULL);
    mtmd_log_set(on_log, NULL);
    ggml_set_abort_callback(on_abort);
}

void llama_log_begin(void)
{
    capture.on = true;
    capture.line[0] = 0;
}

const char *llama_log_end(void)
{
    capture.on = false;
    return capture.line;
}

// What does not go through the callback is printed to stderr. The log's own lines then have a descriptor of
// their own; the other one leads nowhere for as long as somebody is hushed.
static struct {
    pthread_mutex_t lock; // guards all of it
    unsigned hushed;
    int own, nowhere;
} outlet = {PTHREAD_MUTEX_INITIALIZER, 0, -1, -1};

static void outlet_open(void)
{
    outlet.own = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    outlet.nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (outlet.own >= 0)
        log_fd_set(outlet.own);
}

void llama_log_hush(void)
{
    pthread_mutex_lock(&outlet.lock);
    if (outlet.own < 0)
        outlet_open();
    if (outlet.hushed++ == 0 && outlet.own >= 0 && outlet.nowhere >= 0)
        dup2(outlet.nowhere, STDERR_FILENO);
    pthread_mutex_unlock(&outlet.lock);
}

void llama_log_speak(void)
{
    pthread_mutex_lock(&outlet.lock);
    if (--outlet.hushed == 0 && outlet.own >= 0 && outlet.nowhere >= 0)
        dup2(outlet.own, STDERR_FILENO);
    pthread_mutex_unlock(&outlet.lock);
}
