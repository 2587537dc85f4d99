#include "base/log.h"

#include "base/err.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES 2048

static const char *const level_names[] = {"error", "warn", "info", "debug"};

// Relaxed throughout: the level guards no other data, a late reader only logs a line more or less.
static atomic_int level_now = LOG_LEVEL_INFO;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static char process_name[32];

static void environment_read(void)
{
    const char *name = getenv("TANDEM_LOG");
    enum log_level level;
    if (name && log_level_parse(name, &level) == 0)
        atomic_store_explicit(&level_now, (int)level, memory_order_relaxed);
}

void log_level_set(enum log_level level)
{
    pthread_once(&environment_once, environment_read);
    atomic_store_explicit(&level_now, (int)level, memory_order_relaxed);
}

enum log_level log_level_get(void)
{
    pthread_once(&environment_once, environment_read);
    return (enum log_level)atomic_load_explicit(&level_now, memory_order_relaxed);
}

int log_level_parse(const char *name, enum log_level *level)
{
    for (int i = 0; i < 4; i++) {
        if (strcasecmp(name, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    return ERR_INVALID;
}

void log_process_set(const char *name)
{
    snprintf(process_name, sizeof process_name, "%s", name);
}

// Writes "2026-01-31T12:00:00.123Z info  worker 2 decode: " and returns its length.
static size_t log_prefix(char *line, size_t bytes, enum log_level level, const char *module)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, bytes, "%Y-%m-%dT%H:%M:%S", &utc);
    int more = snprintf(line + n, bytes - n, ".%03dZ %-5s %s%s%s: ", (int)(now.tv_usec / 1000),
                        level_names[level], process_name, process_name[0] ? " " : "", module);
    return n + (more < 0 ? 0 : (size_t)more);
}

// A message may carry text from elsewhere; it must not be able to fake a second line or drive a
// terminal.
static void log_flatten(char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f)
            *text = ' ';
    }
}

void log_write(enum log_level level, const char *module, const char *format, ...)
{
    if (level > log_level_get())
        return;
    char line[LOG_LINE_BYTES];
    size_t n = log_prefix(line, sizeof line, level, module);
    if (n >= sizeof line - 1)
        n = sizeof line - 2;
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, sizeof line - n - 1, format, args);
    va_end(args);
    log_flatten(line);
    n = strlen(line);
    line[n++] = '\n';
    // One call for the line: processes that share a stderr do not cut into each other's lines.
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
}
