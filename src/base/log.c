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
static atomic_bool json_now;
static atomic_int fd_now = STDERR_FILENO;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static char process_name[32];

static void environment_read(void)
{
    const char *name = getenv("TANDEM_LOG");
    enum log_level level;
    if (name && log_level_parse(name, &level) == 0)
        atomic_store_explicit(&level_now, (int)level, memory_order_relaxed);
    name = getenv("TANDEM_LOG_FORMAT");
    atomic_store_explicit(&json_now, name && strcmp(name, "json") == 0, memory_order_relaxed);
}

void log_json_set(bool json)
{
    pthread_once(&environment_once, environment_read);
    atomic_store_explicit(&json_now, json, memory_order_relaxed);
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

void log_fd_set(int fd)
{
    atomic_store_explicit(&fd_now, fd, memory_order_relaxed);
}

// Writes "2026-01-31T12:00:00.123Z".
static void log_time(char *out, size_t bytes)
{
    struct timeval now;
    struct tm utc;
    size_t n;

    gettimeofday(&now, NULL);
    gmtime_r(&now.tv_sec, &utc);
    n = strftime(out, bytes, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + n, bytes - n, ".%03dZ", (int)(now.tv_usec / 1000));
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

// Copies text into a JSON string; what is not ASCII becomes '?', for a log line is no place where a
// broken character may do harm. Leaves room for the line's end.
static size_t json_put_text(char *line, size_t n, size_t bytes, const char *text)
{
    for (; *text && n + 8 < bytes; text++) {
        if (*text == '"' || *text == '\\')
            line[n++] = '\\';
        line[n++] = (unsigned char)*text < 0x80 ? *text : '?';
    }
    return n;
}

static size_t log_line_json(char *line, size_t bytes, const char *level, const char *module,
                            const char *message)
{
    char time[40];
    size_t n;

    log_time(time, sizeof time);
    n = (size_t)snprintf(
        line, bytes,
        "{\"time\":\"%s\",\"level\":\"%s\",\"process\":\"%s\",\"module\":\"%.64s\","
        "\"message\":\"",
        time, level, process_name, module);
    n = json_put_text(line, n, bytes, message);
    line[n++] = '"';
    line[n++] = '}';
    return n;
}

static size_t log_line_text(char *line, size_t bytes, const char *level, const char *module,
                            const char *message)
{
    char time[40];
    int n;

    log_time(time, sizeof time);
    n = snprintf(line, bytes - 1, "%s %-5s %s%s%.64s: %s", time, level, process_name,
                 process_name[0] ? " " : "", module, message);
    return n < 0 ? 0 : (size_t)n < bytes - 1 ? (size_t)n : bytes - 2;
}

void log_write(enum log_level level, const char *module, const char *format, ...)
{
    char message[LOG_LINE_BYTES], line[LOG_LINE_BYTES + 256];
    const char *name = level_names[level];
    va_list args;
    size_t n;

    if (level > log_level_get())
        return;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    log_flatten(message);
    if (atomic_load_explicit(&json_now, memory_order_relaxed))
        n = log_line_json(line, sizeof line, name, module, message);
    else
        n = log_line_text(line, sizeof line, name, module, message);
    line[n++] = '\n';
    // One call for the line: processes that share a stderr do not cut into each other's lines.
    ssize_t written = write(atomic_load_explicit(&fd_now, memory_order_relaxed), line, n);
    (void)written;
}
