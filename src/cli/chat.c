// tandem chat: talk to a server from a terminal.
#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] = "usage: tandem chat [OPTIONS] [QUESTION]";
static const char about[] =
    "Talks to a running server. With a question it answers that one and ends; without, it reads\n"
    "questions line by line. Ctrl-C stops an answer, Ctrl-D or /quit ends, /reset forgets what "
    "was\n"
    "said.";

struct chat {
    struct client client;
    const char *model, *system, *plan;
    int64_t max_tokens;
    double temperature; // below 0: the server's own
    bool json, timings;
    json_t *messages;
    // Of the answer that is coming in.
    struct buf text;
    json_t *told; // its timings
};

#define ANSWER_MAX (8u << 20)

// Set by SIGINT: ordering is left to the signal's own guarantees.
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

// Without SA_RESTART, so that a read of the terminal ends too.
static void interrupts_catch(void)
{
    struct sigaction a = {.sa_handler = on_interrupt};

    sigaction(SIGINT, &a, NULL);
}

// ---- one answer -----------------------------------------------------------------------------------

static const char *text_or(const json_t *object, const char *member, const char *otherwise)
{
    const char *v = json_string_value(json_object_get(object, member));

    return v ? v : otherwise;
}

static int on_event(void *ctx, const json_t *event, struct err *e)
{
    struct chat *c = ctx;
    const json_t *error = json_object_get(event, "error");
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const char *piece =
        json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    json_t *timings = json_object_get(event, "timings");

    if (error)
        return err_set(e, ERR_ENGINE, "%.450s", text_or(error, "message", "the answer failed"));
    if (timings) {
        json_decref(c->told);
        c->told = json_incref(timings);
    }
    if (!piece)
        return 0;
    if (!c->json) {
        fputs(piece, stdout);
        fflush(stdout);
    }
    return buf_puts(&c->text, piece);
}

static json_t *body_make(const struct chat *c)
{
    json_t *o = json_object(), *tandem;

    json_put(o, "messages", json_incref(c->messages));
    json_put(o, "stream", json_true());
    if (c->model)
        json_put(o, "model", json_string(c->model));
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

static void message_add(struct chat *c, const char *role, const char *content)
{
    json_t *m = json_object();

    json_put(m, "role", json_string(role));
    json_put(m, "content", json_string(content));
    json_array_append_new(c->messages, m);
}

static double told_number(const struct chat *c, const char *member)
{
    return json_number_value(json_object_get(c->told, member));
}

static void timings_print(const struct chat *c)
{
    bool color = term_color(stderr);
    const char *fallback = json_string_value(json_object_get(c->told, "fallback"));

    if (!c->told)
        return;
    fprintf(stderr, "%s[%s: %.0f + %.0f tokens, first after %.2f s, %.1f tokens/s%s%s]%s\n",
            color ? "\033[2m" : "", text_or(c->told, "plan", "?"), told_number(c, "prompt_tokens"),
            told_number(c, "gen_tokens"), told_number(c, "ttft_s"),
            told_number(c, "decode_tokens_per_s"), fallback ? "; " : "", fallback ? fallback : "",
            color ? "\033[0m" : "");
}

static void answer_print(const struct chat *c, const char *text)
{
    json_t *o;
    char *line;

    if (!c->json) {
        putchar('\n');
        fflush(stdout);
        if (c->timings)
            timings_print(c);
        return;
    }
    o = json_object();
    json_put(o, "text", json_string(text));
    json_put(o, "timings", c->told ? json_incref(c->told) : json_null());
    line = json_line(o);
    puts(line);
    fflush(stdout);
    free(line);
    json_decref(o);
}

// A stopped answer stays in the conversation as far as it came; a failed one is taken back whole.
static int ask(struct chat *c, const char *question, struct err *e)
{
    struct client_stream s = {
        .path = "/v1/chat/completions", .on_event = on_event, .ctx = c, .stop = &interrupted};
    json_t *body;
    const char *text;
    int rc;

    message_add(c, "user", question);
    buf_clear(&c->text);
    json_decref(c->told);
    c->told = NULL;
    interrupted = 0;
    body = body_make(c);
    s.body = body;
    rc = client_stream(&c->client, &s, e);
    json_decref(body);
    text = c->text.data ? (const char *)c->text.data : "";
    if (rc != 0 && rc != ERR_CANCELLED) {
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
        return rc;
    }
    message_add(c, "assistant", text);
    answer_print(c, text);
    return 0;
}

// ---- the conversation -------------------------------------------------------------------------------

static void reset(struct chat *c)
{
    json_decref(c->messages);
    c->messages = json_array();
    if (c->system)
        message_add(c, "system", c->system);
}

static void line_handle(struct chat *c, const char *line)
{
    struct err e = {0};

    if (strcmp(line, "/reset") == 0)
        reset(c);
    else if (strcmp(line, "/help") == 0)
        puts("/reset forgets what was said, /quit ends; Ctrl-C stops an answer");
    else if (line[0] == '/')
        printf("no command %s; there are /reset, /quit and /help\n", line);
    else if (line[0] && ask(c, line, &e) != 0)
        cli_fail("chat", &e);
}

static void converse(struct chat *c)
{
    bool terminal = isatty(STDIN_FILENO) != 0;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    for (;;) {
        if (terminal) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (strcmp(line, "/quit") == 0)
            break;
        line_handle(c, line);
    }
    if (terminal)
        putchar('\n');
    free(line);
}

static int question_ask(struct chat *c, const struct cli_list *words)
{
    struct err e = {0};
    struct buf q;
    int rc;

    buf_init(&q, ANSWER_MAX);
    for (size_t i = 0; i < words->n; i++)
        buf_printf(&q, "%s%s", i > 0 ? " " : "", words->items[i]);
    rc = ask(c, (const char *)q.data, &e);
    buf_fini(&q);
    return rc == 0 ? 0 : cli_fail("chat", &e);
}

#define N_OPTIONS 10 // with the end

static void options_fill(struct chat *c, struct cli_option *out)
{
    const struct cli_option all[N_OPTIONS] = {
        {"--server", 0, CLI_STRING, (void *)&c->client.server, "URL",
         "the server (" CLIENT_SERVER ")", 0, 0},
        {"--api-key", 0, CLI_STRING, (void *)&c->client.api_key, "KEY",
         "its API key, if it has one", 0, 0},
        {"--model", 0, CLI_STRING, &c->model, "NAME", "which of its models", 0, 0},
        {"--system", 0, CLI_STRING, &c->system, "TEXT", "what the model is told first", 0, 0},
        {"--plan", 0, CLI_STRING, &c->plan, "PLAN",
         "hybrid, serial, local or remote (default: the server decides)", 0, 0},
        {"--max-tokens", 0, CLI_INT, &c->max_tokens, "N", "longest answer", 1, 1 << 20},
        {"--temperature", 0, CLI_DOUBLE, &c->temperature, "T", "0: always the likeliest token", 0,
         100},
        {"--timings", 0, CLI_FLAG, &c->timings, NULL,
         "after each answer, how it was made and how fast", 0, 0},
        {"--json", 0, CLI_FLAG, &c->json, NULL,
         "print each answer as one line of JSON with its timings", 0, 0},
        {0},
    };

    memcpy(out, all, sizeof(all));
}

static int chat_run(int argc, char **argv)
{
    struct chat c = {.client = {.server = CLIENT_SERVER}, .temperature = -1};
    struct cli_option options[N_OPTIONS];
    struct cli_list words = {0};
    bool done = false;
    struct err e = {0};
    int rc;

    options_fill(&c, options);
    rc = cli_parse(argc, argv, options, usage, about, &words, &done, &e);
    if (rc != 0)
        return cli_fail("chat", &e);
    if (done)
        return 0;
    buf_init(&c.text, ANSWER_MAX);
    reset(&c);
    interrupts_catch();
    if (words.n > 0)
        rc = question_ask(&c, &words);
    else
        converse(&c);
    json_decref(c.messages);
    json_decref(c.told);
    buf_fini(&c.text);
    return rc;
}

const struct cli_command cli_chat = {"chat", "talk to a running server from a terminal", chat_run};
