// One answer: asked for, and shown while it comes.
#include "base/clock.h"
#include "base/json.h"
#include "cli/chat.h"
#include "cli/cli.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIM "\033[2m"
#define PLAIN "\033[0m"

volatile sig_atomic_t chat_interrupted;

// ---- while the prompt is read -----------------------------------------------------------------------

// The comments of a stream say how far the prompt is read: "prefill DONE/TOTAL", in tokens.
static bool progress_parse(const char *text, unsigned long *done, unsigned long *total)
{
    static const char word[] = " prefill ";
    char *end;

    if (strncmp(text, word, sizeof(word) - 1) != 0)
        return false;
    *done = strtoul(text + sizeof(word) - 1, &end, 10);
    if (*end != '/')
        return false;
    *total = strtoul(end + 1, &end, 10);
    return *total > 0;
}

static void on_comment(void *ctx, const char *text)
{
    struct chat *c = ctx;
    unsigned long done, total;
    double rate, seconds;
    char line[80];

    if (c->json || !progress_parse(text, &done, &total))
        return;
    if (c->progress_ns == 0) {
        c->progress_ns = clock_now_ns();
        c->progress_done = (double)done;
    }
    seconds = ns_to_s(clock_now_ns() - c->progress_ns);
    rate = seconds > 0 ? ((double)done - c->progress_done) / seconds : 0;
    if (rate > 0 && total > done)
        snprintf(line, sizeof(line), "reading %lu of %lu tokens, %.0f s left", done, total,
                 (double)(total - done) / rate);
    else
        snprintf(line, sizeof(line), "reading %lu of %lu tokens", done, total);
    cli_progress(line, (double)done / (double)total);
}

// ---- while it is written ----------------------------------------------------------------------------

// Reasoning is for who watches: a terminal shows it dim, a pipe gets the answer alone.
static void thinking_set(struct chat *c, bool on)
{
    if (c->thinking == on)
        return;
    c->thinking = on;
    if (on)
        fputs(term_color(stdout) ? DIM : "", stdout);
    else
        fputs(term_color(stdout) ? PLAIN "\n\n" : "\n\n", stdout);
}

static int reasoning_show(struct chat *c, const char *piece)
{
    if (!c->json && !c->no_reasoning && isatty(STDOUT_FILENO)) {
        cli_progress_end();
        thinking_set(c, true);
        fputs(piece, stdout);
        fflush(stdout);
    }
    return buf_puts(&c->reasoning, piece);
}

static int content_show(struct chat *c, const char *piece)
{
    if (!c->json) {
        cli_progress_end();
        thinking_set(c, false);
        fputs(piece, stdout);
        fflush(stdout);
    }
    return buf_puts(&c->text, piece);
}

static int on_event(void *ctx, const json_t *event, struct err *e)
{
    struct chat *c = ctx;
    const json_t *error = json_object_get(event, "error");
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const json_t *delta = json_object_get(choice, "delta");
    const char *content = json_string_or(delta, "content", ""),
               *reasoning = json_string_or(delta, "reasoning_content", "");
    json_t *timings = json_object_get(event, "timings");
    int rc = 0;

    if (error)
        return err_set(e, ERR_ENGINE, "%.450s",
                       json_string_or(error, "message", "the answer failed"));
    if (timings) {
        json_decref(c->told);
        c->told = json_incref(timings);
    }
    if (reasoning[0])
        rc = reasoning_show(c, reasoning);
    if (rc == 0 && content[0])
        rc = content_show(c, content);
    return rc == 0 ? 0 : err_set(e, rc, "the answer is larger than %u bytes", CHAT_ANSWER_MAX);
}

// ---- asking -------------------------------------------------------------------------------------------

static json_t *body_make(const struct chat *c)
{
    json_t *o = json_object(), *tandem;

    json_put(o, "messages", json_incref(c->messages));
    json_put(o, "stream", json_true());
    json_put_text(o, "model", c->model);
    if (c->max_tokens > 0)
        json_put(o, "max_tokens", json_integer(c->max_tokens));
    if (c->temperature >= 0)
        json_put(o, "temperature", json_real(c->temperature));
    if (c->plan) {
        tandem = json_object();
        json_put(tandem, "plan", json_string(c->plan));
        json_put(o, "tandem", tandem);
    }
    return o;
}

int chat_answer(struct chat *c, struct err *e)
{
    struct client_stream s = {.path = "/v1/chat/completions",
                              .on_event = on_event,
                              .on_comment = on_comment,
                              .ctx = c,
                              .stop = &chat_interrupted};
    json_t *body = body_make(c);
    int rc;

    buf_clear(&c->text);
    buf_clear(&c->reasoning);
    json_decref(c->told);
    c->told = NULL;
    c->progress_ns = 0;
    chat_interrupted = 0;
    s.body = body;
    rc = client_stream(&c->client, &s, e);
    json_decref(body);
    cli_progress_end();
    thinking_set(c, false);
    return rc;
}

// ---- afterwards -----------------------------------------------------------------------------------------

static double told_number(const struct chat *c, const char *member)
{
    return json_number_value(json_object_get(c->told, member));
}

static void timings_print(const struct chat *c)
{
    bool color = term_color(stderr);
    const char *fallback = json_string_or(c->told, "fallback", "");

    if (!c->told)
        return;
    fprintf(stderr, "%s[%s: %.0f + %.0f tokens, first after %.2f s, %.1f tokens/s%s%s]%s\n",
            color ? DIM : "", json_string_or(c->told, "plan", "?"), told_number(c, "prompt_tokens"),
            told_number(c, "gen_tokens"), told_number(c, "ttft_s"),
            told_number(c, "decode_tokens_per_s"), fallback[0] ? "; " : "", fallback,
            color ? PLAIN : "");
}

static const char *content(const struct buf *b)
{
    return b->data ? (const char *)b->data : "";
}

static void json_print(const struct chat *c, bool stopped)
{
    json_t *o = json_object();
    char *line;

    json_put(o, "text", json_string(content(&c->text)));
    if (c->reasoning.len > 0)
        json_put(o, "reasoning", json_string(content(&c->reasoning)));
    if (stopped)
        json_put(o, "stopped", json_true());
    json_put(o, "timings", c->told ? json_incref(c->told) : json_null());
    line = json_line(o);
    puts(line);
    fflush(stdout);
    free(line);
    json_decref(o);
}

void chat_answer_end(const struct chat *c, bool stopped)
{
    if (c->json) {
        json_print(c, stopped);
        return;
    }
    putchar('\n');
    fflush(stdout);
    if (stopped && isatty(STDERR_FILENO))
        fputs("(stopped)\n", stderr);
    if (c->timings)
        timings_print(c);
}
