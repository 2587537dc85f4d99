// How a link between two nodes is measured: what a gateway asks the node that would write answers (MEASURE_LINK), what
// that one asks the other over their bulk link (PROBE), and what came of it (MEASURED_LINK). node/worker_probe.c
// does it; docs/wire.md shows the frames.
//
// What a peer tells is checked: finite, positive, within limits. Plain numbers in the caller's memory; any thread.
#ifndef NODE_MESSAGE_LINK_H
#define NODE_MESSAGE_LINK_H

#include "base/err.h"
#include "node/message_cost.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

// MEASURE_LINK: the way to the other node, as a hand-off would have it.
struct message_measure_link {
    char host[256];
    uint16_t port;
    bool same_weights;
    double stall_s; // a link that is silent for so long is given up
};

// MEASURED_LINK.
struct message_measured_link {
    double rtt_s; // 0: not measured
    struct message_moved up,
        down;      // from the other node to this one, and back; bytes 0: not measured
    bool complete; // false: a request came in between
};

// PROBE: so many bytes are wanted in the answer.
struct message_probe {
    uint32_t want; // at most WIRE_PROBE_MAX
};

int message_measure_link_parse(const json_t *head, struct message_measure_link *m, struct err *e);
json_t *message_measure_link_json(const struct message_measure_link *m);
int message_measured_link_parse(const json_t *head, struct message_measured_link *m, struct err *e);
json_t *message_measured_link_json(const struct message_measured_link *m);
// PROBED: when the PROBE was in, on the clock of whoever answers: only differences mean something.
struct message_probed {
    double at_s;
};

int message_probe_parse(const json_t *head, struct message_probe *m, struct err *e);
int message_probed_parse(const json_t *head, struct message_probed *m, struct err *e);
json_t *message_probed_json(const struct message_probed *m);
json_t *message_probe_json(const struct message_probe *m);

#endif
