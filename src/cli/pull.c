// tandem pull: gets a model into the store. The one command that goes beyond the user's own machines.
#include "cli/cli.h"
#include "cli/models.h"
#include "cli/term.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "models/pull.h"
#include "os/os.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKEN_FILE_MAX 4096u
#define RATE_WINDOW_NS (5 * NS_PER_S) // over which the rate is averaged
#define LINE_NS (10 * NS_PER_S)       // between two lines where there is no terminal
#define BAR_CELLS 20

static const char usage[] =
    "usage: tandem pull USER/REPO[@REVISION][:QUANT] | URL | FILE [OPTIONS]";
static const char about[] =
    "Gets a model: of a Hugging Face repository the GGUF file of the quantisation (Q4_K_M, else "
    "the\n"
    "next best), from an https:// address, or from a file of this machine, which is linked or "
    "copied.\n"
    "Interrupted, it goes on where it was. HF_ENDPOINT names another server than "
    "https://huggingface.co,\n"
    "HF_TOKEN a token for gated repositories; https_proxy and no_proxy are honoured.";

static volatile sig_atomic_t signal_seen; // set by the handler, read by the transfer

struct pull {
    const char *sha256, *token_file;
    bool projector, json;
    uint32_t retries, stall_s;
    double retry_wait_s;
    struct cli_list rest;
};

// ---- what is shown -------------------------------------------------------------------------------

struct show {
    bool terminal;
    bool drawn; // a line without an end is on the screen
    int64_t told_ns;
    int64_t since_ns; // of the window over which the rate is taken
    uint64_t since_bytes;
    double rate; // bytes/s; 0: not known yet
};

static void line_end(struct show *s)
{
    if (s->drawn)
        fprintf(stderr, "\r%*s\r", term_width(stderr) - 1, "");
    s->drawn = false;
}

static void rate_update(struct show *s, uint64_t done)
{
    int64_t now = clock_now_ns();
    if (s->since_ns == 0 || done < s->since_bytes) {
        s->since_ns = now;
        s->since_bytes = done;
        s->rate = 0;
        return;
    }
    double span_s = ns_to_s(now - s->since_ns);
    if (span_s >= 0.5)
        s->rate = (double)(done - s->since_bytes) / span_s;
    if (now - s->since_ns < RATE_WINDOW_NS)
        return;
    s->since_ns = now;
    s->since_bytes = done;
}

// "1 h 05 min", "3 min 20 s", "12 s".
static void span_format(double s, char out[32])
{
    if (s >= 3600 * 100)
        snprintf(out, 32, "days");
    else if (s >= 3600)
        snprintf(out, 32, "%d h %02d min", (int)s / 3600, (int)s % 3600 / 60);
    else if (s >= 60)
        snprintf(out, 32, "%d min %02d s", (int)s / 60, (int)s % 60);
    else
        snprintf(out, 32, "%d s", (int)s);
}

// "1.2 GB of 4.9 GB, 56 MB/s, 1 min 05 s left".
static void amount_format(const struct show *s, const struct models_event *ev, char out[160])
{
    char done[MODELS_SIZE_TEXT], all[MODELS_SIZE_TEXT], rate[MODELS_SIZE_TEXT], left[32];
    bool known = ev->bytes != MODELS_SIZE_UNKNOWN;
    models_size_format(ev->done, done);
    size_t n = (size_t)snprintf(out, 160, "%s", done);
    if (known) {
        models_size_format(ev->bytes, all);
        n += (size_t)snprintf(out + n, 160 - n, " of %s", all);
    }
    if (s->rate <= 0)
        return;
    models_size_format((uint64_t)s->rate, rate);
    n += (size_t)snprintf(out + n, 160 - n, ", %s/s", rate);
    if (known && ev->bytes >= ev->done) {
        span_format((double)(ev->bytes - ev->done) / s->rate, left);
        snprintf(out + n, 160 - n, ", %s left", left);
    }
}

static void bar_draw(struct show *s, const struct models_event *ev, const char *what)
{
    char amount[160], bar[BAR_CELLS + 1], line[400];
    bool known = ev->bytes != MODELS_SIZE_UNKNOWN && ev->bytes > 0;
    double share = known ? (double)ev->done / (double)ev->bytes : 0;
    amount_format(s, ev, amount);
    memset(bar, ' ', BAR_CELLS);
    memset(bar, '=', (size_t)((share < 1 ? share : 1) * BAR_CELLS));
    bar[BAR_CELLS] = '\0';
    snprintf(line, sizeof line, "%s%.60s [%s] %3d %% %s", what, ev->file, bar, (int)(share * 100),
             amount);
    // One line of the terminal, whole: what is longer would scroll.
    fprintf(stderr, "\r%-*.*s", term_width(stderr) - 1, term_width(stderr) - 1, line);
    fflush(stderr);
    s->drawn = true;
}

static void progress_show(struct show *s, const struct models_event *ev, const char *what)
{
    char amount[160];
    rate_update(s, ev->done);
    if (s->terminal) {
        bar_draw(s, ev, what);
        return;
    }
    if (s->told_ns == 0)
        s->told_ns = clock_now_ns();
    if (clock_now_ns() - s->told_ns < LINE_NS)
        return;
    s->told_ns = clock_now_ns();
    amount_format(s, ev, amount);
    fprintf(stderr, "%s%s: %s\n", what, ev->file, amount);
}

static void on_event(void *ctx, const struct models_event *ev)
{
    struct show *s = ctx;
    char size[MODELS_SIZE_TEXT];
    switch (ev->kind) {
    case MODELS_EVENT_PROGRESS:
        progress_show(s, ev, "");
        return;
    case MODELS_EVENT_CHECK:
        progress_show(s, ev, "checking ");
        return;
    case MODELS_EVENT_BEGIN:
        line_end(s);
        *s = (struct show){.terminal = s->terminal, .told_ns = clock_now_ns()};
        models_size_format(ev->done, size);
        if (ev->done > 0)
            fprintf(stderr, "%s: going on after %s\n", ev->file, size);
        return;
    case MODELS_EVENT_RETRY:
        line_end(s);
        fprintf(stderr, "%s: %s; trying again in %.3g s\n", ev->file, ev->text, ev->wait_s);
        return;
    case MODELS_EVENT_RESTART:
        line_end(s);
        fprintf(stderr, "%s: begun anew: %s\n", ev->file, ev->text);
        return;
    case MODELS_EVENT_END:
        line_end(s);
        models_size_format(ev->done, size);
        fprintf(stderr, "%s: %s\n", ev->file, size);
        return;
    }
}

static bool on_stopped(void *ctx)
{
    (void)ctx;
    return signal_seen != 0;
}

static void on_signal(int number)
{
    (void)number;
    signal_seen = 1;
}

// ---- the token -----------------------------------------------------------------------------------

// Out of a file or HF_TOKEN; *out is owned, NULL where there is none.
static int token_get(const char *file, char **out, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    const char *environment = getenv("HF_TOKEN");
    *out = NULL;
    int rc = file ? os_file_read(file, TOKEN_FILE_MAX, &text, &n, e) : 0;
    if (rc != 0)
        return rc;
    if (!file && environment)
        text = mem_strdup(environment);
    if (!text)
        return 0;
    size_t begin = strspn(text, " \t\r\n"), end = begin + strcspn(text + begin, " \t\r\n");
    char *token = mem_format("%.*s", (int)(end - begin), text + begin);
    bool rest = text[end + strspn(text + end, " \t\r\n")] != '\0';
    free(text);
    for (const char *p = token; *p; p++)
        rest |= (unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f;
    if (rest || (file && !*token)) {
        free(token);
        return err_set(e, ERR_INVALID, "%.200s does not hold a token, one word of plain letters",
                       file ? file : "HF_TOKEN");
    }
    if (*token)
        *out = token;
    else
        free(token);
    return 0;
}

// ---- the command ---------------------------------------------------------------------------------

static void result_print(const struct models_entry *m, bool changed, bool json)
{
    struct models_list l;
    struct err e = {0};
    size_t i = 0;
    char name[MODELS_ID_BYTES], size[MODELS_SIZE_TEXT];
    models_id_format(&m->id, name);
    if (json) {
        json_t *o = models_entry_json(m, name);
        json_put(o, "changed", json_boolean(changed));
        models_json_print(o);
        json_decref(o);
        return;
    }
    // The short name where it is clear.
    if (models_list_read(&l, &e) == 0) {
        if (models_list_find(&l, name, &i, &e) == 0)
            models_list_name(&l, i, name);
        models_list_fini(&l);
    }
    models_size_format(models_entry_bytes(m), size);
    printf("%s: %s, %s; run it with `tandem serve -m %s`\n", name,
           changed ? "pulled" : "already here", size, name);
}

static int pull_do(const struct pull *o, struct err *e)
{
    struct show show = {.terminal = isatty(STDERR_FILENO) != 0};
    struct models_pull p;
    struct models_entry m;
    struct sigaction act = {.sa_handler = on_signal};
    char *token = NULL, *endpoint = NULL;
    const char *given = getenv("HF_ENDPOINT");
    bool changed = false;
    models_pull_default(&p);
    int rc = token_get(o->token_file, &token, e);
    if (rc != 0)
        return rc;
    if (given && *given)
        endpoint = mem_strdup(given);
    for (size_t n = endpoint ? strlen(endpoint) : 0; n > 0 && endpoint[n - 1] == '/'; n--)
        endpoint[n - 1] = '\0';
    p.what = o->rest.items[0];
    p.endpoint = endpoint ? endpoint : p.endpoint;
    p.token = token;
    p.sha256 = o->sha256;
    p.projector = o->projector;
    p.retries = o->retries;
    p.retry_wait_s = o->retry_wait_s;
    p.stall_s = o->stall_s;
    p.watch = (struct models_watch){on_event, on_stopped, &show};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    rc = models_pull_run(&p, &m, &changed, e);
    line_end(&show);
    if (rc == 0) {
        result_print(&m, changed, o->json);
        models_entry_fini(&m);
    }
    if (rc == ERR_CANCELLED)
        err_set(e, rc, "stopped; the same command goes on from here");
    free(endpoint);
    free(token);
    return rc;
}

static int pull_run(int argc, char **argv)
{
    struct models_pull defaults;
    models_pull_default(&defaults);
    struct pull o = {.retries = defaults.retries, .retry_wait_s = defaults.retry_wait_s};
    const struct cli_option options[] = {
        {"--mmproj", 0, CLI_FLAG, &o.projector, NULL, "the projector for images too", 0, 0},
        {"--sha256", 0, CLI_STRING, &o.sha256, "HEX", "what a file or an address must hold", 0, 0},
        {"--token-file", 0, CLI_STRING, &o.token_file, "FILE", "the token, in place of HF_TOKEN", 0,
         0},
        {"--retries", 0, CLI_UINT32, &o.retries, "N", "tries in a row that bring nothing (5)", 0,
         1000},
        {"--retry-wait", 0, CLI_DOUBLE, &o.retry_wait_s, "SECONDS",
         "before the first of them, then doubled (1)", 0.001, 3600},
        {"--stall", 0, CLI_UINT32, &o.stall_s, "SECONDS",
         "silence that counts as a broken connection (30)", 1, 3600},
        {"--json", 0, CLI_FLAG, &o.json, NULL, "print JSON", 0, 0},
        {0},
    };
    struct err e = {0};
    bool done = false;
    int rc = cli_parse(argc, argv, options, usage, about, &o.rest, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && o.rest.n != 1)
        rc = err_set(&e, ERR_INVALID, "say one model; %s", usage);
    if (rc == 0)
        rc = pull_do(&o, &e);
    return rc ? cli_fail("pull", &e) : 0;
}

const struct cli_command cli_pull = {"pull", "get a model", pull_run};
