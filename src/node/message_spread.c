#include "node/message_spread.h"

#include "base/json.h"
#include "node/message_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESS_BYTES 300

// ---- WELCOME of a lender -----------------------------------------------------------------------

int message_lend_parse(const json_t *head, struct message_lend *m, struct err *e)
{
    *m = (struct message_lend){.version = UINT32_MAX};
    struct message_reader r = message_reader_of(head, "WELCOME", e);
    message_read_u32(&r, "version", UINT32_MAX, &m->version);
    message_read_text(&r, "name", m->name, sizeof m->name);
    message_read_text(&r, "build", m->build, sizeof m->build);
    message_read_text(&r, "engine", m->engine, sizeof m->engine);
    message_read_text(&r, "devices", m->devices, sizeof m->devices);
    message_read_u64(&r, "memory_bytes", &m->memory_bytes);
    if (r.rc != 0)
        return r.rc;
    if (json_object_get(head, "memory_bytes") == NULL)
        return err_set(e, ERR_INVALID,
                       "it lends no memory; --spread wants the port of a \"tandem node --lend\"");
    return 0;
}

json_t *message_lend_json(const struct message_lend *m)
{
    json_t *o = json_object();
    json_put(o, "version", json_integer(m->version));
    json_put(o, "name", json_string(m->name));
    json_put(o, "build", json_string(m->build));
    json_put(o, "engine", json_string(m->engine));
    json_put(o, "devices", json_string(m->devices));
    json_put(o, "memory_bytes", json_integer((json_int_t)m->memory_bytes));
    return o;
}

// ---- options -----------------------------------------------------------------------------------

// The next of a list with commas; false at its end.
static bool list_next(const char **at, char *out, size_t out_bytes)
{
    if (**at == '\0')
        return false;
    size_t n = strcspn(*at, ",");
    snprintf(out, out_bytes, "%.*s", (int)(n < out_bytes ? n : out_bytes), *at);
    *at += n + ((*at)[n] == ',' ? 1 : 0);
    return true;
}

int spread_addresses_parse(const char *text, struct net_addr out[ENGINE_LENDERS_MAX], size_t *n,
                           struct err *e)
{
    char one[ADDRESS_BYTES];
    *n = 0;
    while (list_next(&text, one, sizeof one)) {
        if (*n == ENGINE_LENDERS_MAX)
            return err_set(e, ERR_RANGE, "--spread names more than %d machines",
                           ENGINE_LENDERS_MAX);
        int rc = one[0] == '\0' ? err_set(e, ERR_INVALID, "an empty name between two commas")
                                : net_addr_parse(one, "127.0.0.1", MESSAGE_PORT, &out[*n], e);
        if (rc != 0) {
            err_wrap(e, "--spread");
            return rc;
        }
        (*n)++;
    }
    if (*n == 0)
        return err_set(e, ERR_INVALID,
                       "--spread is empty; say HOST[:PORT], or several with commas");
    return 0;
}

int spread_shares_parse(const char *text, size_t n, double *out, struct err *e)
{
    char one[64], *end = NULL;
    size_t found = 0;
    double sum = 0;
    while (found <= n && list_next(&text, one, sizeof one)) {
        double v = strtod(one, &end);
        if (end == one || *end != '\0' || !isfinite(v) || v < 0)
            return err_set(e, ERR_INVALID,
                           "--tensor-split: '%s' is no share; say numbers with commas, as in 2,1",
                           one);
        if (found < n)
            out[found] = v;
        found++;
        sum += v;
    }
    if (found != n || *text != '\0')
        return err_set(e, ERR_INVALID,
                       "--tensor-split must have %zu shares: of this machine, then of each that "
                       "--spread names",
                       n);
    return sum > 0 ? 0 : err_set(e, ERR_INVALID, "--tensor-split: all shares are 0");
}

int spread_memory_parse(const char *text, uint64_t *bytes, struct err *e)
{
    static const struct {
        const char *suffix;
        double bytes;
    } units[] = {{"", 1},          {"K", 1 << 10},   {"M", 1 << 20},
                 {"G", 1 << 30},   {"T", 0x1p40},    {"KiB", 1 << 10},
                 {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 0x1p40}};
    char *end = NULL;
    double v = strtod(text, &end);
    *bytes = UINT64_MAX;
    if (strcmp(text, "all") == 0)
        return 0;
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].suffix) != 0 || !(v * units[i].bytes >= 1 << 20) ||
            v * units[i].bytes > 0x1p50)
            continue;
        *bytes = (uint64_t)(v * units[i].bytes);
        return 0;
    }
    return err_set(e, ERR_INVALID,
                   "--lend '%s' is no amount of memory; say 8G, 512M (1M at least) or all", text);
}
