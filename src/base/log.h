// One-line logging to stderr: time, level, module, message, then key=value pairs in the message.
// Never prompts, tokens' text or keys at info or above. The level is the only global state of the
// project; TANDEM_LOG=error|warn|info|debug sets it, as does --log-level. TANDEM_LOG_FORMAT=json makes each
// line a JSON object {"time","level","process","module","message"}. Thread-safe.
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_level_set(enum log_level level);
enum log_level log_level_get(void);
int log_level_parse(const char *name, enum log_level *level); // ERR_INVALID when not known
void log_json_set(bool json);
// A short name of this process in every line ("gateway", "worker 2"); copied, set before threads start.
void log_process_set(const char *name);
// Where the lines go instead of stderr; the caller keeps the descriptor open for good.
void log_fd_set(int fd);

void log_write(enum log_level level, const char *module, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(module, ...) log_write(LOG_LEVEL_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...) log_write(LOG_LEVEL_WARN, module, __VA_ARGS__)
#define log_info(module, ...) log_write(LOG_LEVEL_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) log_write(LOG_LEVEL_DEBUG, module, __VA_ARGS__)

#endif
