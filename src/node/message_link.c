#include "node/message_link.h"

#include "base/json.h"
#include "wire/wire.h"

#include <stdio.h>
#include <string.h>

#define STALL_LEAST_S 0.05
#define STALL_MOST_S 3600.0
#define STALL_S 3.0
#define RTT_MOST_S 60.0
#define CLOCK_MOST_S 1e12

static int host_get(const json_t *head, struct message_measure_link *m, struct err *e)
{
    const char *host = "";
    int rc = json_get_string(head, "host", &host, e);

    if (rc == 0 && (host[0] == '\0' || strlen(host) >= sizeof m->host))
        rc = err_set(e, ERR_INVALID, "member \"host\" must have 1 to %zu bytes, it has %zu",
                     sizeof m->host - 1, strlen(host));
    if (rc == 0)
        snprintf(m->host, sizeof m->host, "%s", host);
    return rc;
}

int message_measure_link_parse(const json_t *head, struct message_measure_link *m, struct err *e)
{
    int64_t port = 0;
    int rc = 0;

    *m = (struct message_measure_link){.same_weights = true, .stall_s = STALL_S};
    if (!json_is_object(head))
        rc = err_set(e, ERR_INVALID, "MEASURE_LINK must be a JSON object");
    if (rc == 0)
        rc = host_get(head, m, e);
    if (rc == 0)
        rc = json_get_i64(head, "port", 1, UINT16_MAX, &port, e);
    if (rc == 0 && port == 0)
        rc = err_set(e, ERR_INVALID, "member \"port\" is missing");
    if (rc == 0)
        rc = json_get_bool(head, "same_weights", &m->same_weights, e);
    if (rc == 0)
        rc = json_get_f64(head, "stall_s", STALL_LEAST_S, STALL_MOST_S, &m->stall_s, e);
    m->port = (uint16_t)port;
    return rc;
}

json_t *message_measure_link_json(const struct message_measure_link *m)
{
    return json_pack("{s:s,s:i,s:b,s:f}", "host", m->host, "port", (int)m->port, "same_weights",
                     (int)m->same_weights, "stall_s", m->stall_s);
}

int message_measured_link_parse(const json_t *head, struct message_measured_link *m, struct err *e)
{
    int rc = 0;

    *m = (struct message_measured_link){0};
    if (!json_is_object(head))
        rc = err_set(e, ERR_INVALID, "MEASURED_LINK must be a JSON object");
    if (rc == 0)
        rc = json_get_f64(head, "rtt_s", 0, RTT_MOST_S, &m->rtt_s, e);
    if (rc == 0)
        rc = message_moved_parse(head, "up", &m->up, e);
    if (rc == 0)
        rc = message_moved_parse(head, "down", &m->down, e);
    if (rc == 0)
        rc = json_get_bool(head, "complete", &m->complete, e);
    if (rc != 0)
        *m = (struct message_measured_link){0};
    return rc;
}

json_t *message_measured_link_json(const struct message_measured_link *m)
{
    return json_pack("{s:f,s:o,s:o,s:b}", "rtt_s", m->rtt_s, "up", message_moved_json(&m->up),
                     "down", message_moved_json(&m->down), "complete", (int)m->complete);
}

int message_probe_parse(const json_t *head, struct message_probe *m, struct err *e)
{
    int64_t want = 0;
    int rc = json_is_object(head) ? 0 : err_set(e, ERR_INVALID, "PROBE must be a JSON object");

    if (rc == 0)
        rc = json_get_i64(head, "want", 0, WIRE_PROBE_MAX, &want, e);
    m->want = (uint32_t)want;
    return rc;
}

json_t *message_probe_json(const struct message_probe *m)
{
    return json_pack("{s:i}", "want", (int)m->want);
}

int message_probed_parse(const json_t *head, struct message_probed *m, struct err *e)
{
    int rc = json_is_object(head) ? 0 : err_set(e, ERR_INVALID, "PROBED must be a JSON object");

    m->at_s = 0;
    return rc == 0 ? json_get_f64(head, "at_s", 0, CLOCK_MOST_S, &m->at_s, e) : rc;
}

json_t *message_probed_json(const struct message_probed *m)
{
    return json_pack("{s:f}", "at_s", m->at_s);
}
