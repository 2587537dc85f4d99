// What a command that runs in the foreground waits for: a signal, or word from its worker. Private
// to cli/. One pipe carries both, because a signal handler may do little else than write().
#ifndef CLI_WAIT_H
#define CLI_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#define WAIT_TEXT_BYTES 240

enum wait_kind { WAIT_SIGNAL, WAIT_READY, WAIT_FAILED, WAIT_DRAINED };

struct wait_event {
    enum wait_kind kind;
    char text[WAIT_TEXT_BYTES];
};

// Catches SIGINT and SIGTERM from now on. Once per process.
void wait_init(void);
// Any thread. A full pipe loses the event, which only a caller that never waits can bring about.
void wait_post(enum wait_kind kind, const char *text);

// How a command says that it is ready: "tandem: WHAT SCHEME HOST:PORT (model NAME)" on stderr, and one
// line of JSON on stdout where asked.
struct wait_ready {
    const char *command; // "serve", for its error line
    const char *what;    // "listening on"
    const char *scheme;  // "http://" or ""
    const char *host;    // IPv6 addresses get their brackets here
    uint16_t port;
    bool json;
};
// Waits for WAIT_DRAINED: true; false after so many seconds, or at a signal.
bool wait_drained(double seconds);
// Announces readiness once, then waits for a signal (0) or for word that the model cannot be served (1).
int wait_until_stopped(const struct wait_ready *r);

#endif
