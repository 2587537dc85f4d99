// tandem chat: talk to a server from a terminal.
#include "cli/chat.h"

#include "base/json.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static const char usage[] = "usage: tandem chat [OPTIONS] [QUESTION]";
static const char about[] =
    "Talks to a running server. With a question it answers that one and ends; without, it reads\n"
    "questions line by line. Ctrl-C stops an answer; at the prompt, twice, it leaves. /help lists\n"
    "what else can be typed. Into a pipe go the answers alone.";

static const char help[] = "/clear         forgets what was said\n"
                           "/system TEXT   tells the model TEXT first, and forgets what was said\n"
                           "/exit          leaves, as do Ctrl-D and Ctrl-C twice\n"
                           "Ctrl-C stops an answer; what came of it stays in the conversation\n";

static void on_interrupt(int number)
{
    (void)number;
    chat_interrupted = 1;
}

// Without SA_RESTART, so that a read of the terminal ends too.
static void interrupts_catch(void)
{
    struct sigaction a = {.sa_handler = on_interrupt};

    sigaction(SIGINT, &a, NULL);
}

// ---- the conversation -------------------------------------------------------------------------------

static void message_add(struct chat *c, const char *role, const char *content)
{
    json_t *m = json_object();

    json_put(m, "role", json_string(role));
    json_put(m, "content", json_string(content));
    json_array_append_new(c->messages, m);
}

static void clear(struct chat *c)
{
    json_decref(c->messages);
    c->messages = json_array();
    if (c->system)
        message_add(c, "system", c->system);
}

// A stopped answer stays in the conversation as far as it came; a failed one is taken back whole.
static int ask(struct chat *c, const char *question, struct err *e)
{
    const char *text;
    int rc;

    message_add(c, "user", question);
    rc = chat_answer(c, e);
    if (rc != 0 && rc != ERR_CANCELLED) {
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
        return rc;
    }
    text = c->text.data ? (const char *)c->text.data : "";
    message_add(c, "assistant", text);
    chat_answer_end(c, rc == ERR_CANCELLED);
    return 0;
}

// ---- lines --------------------------------------------------------------------------------------------

static void system_set(struct chat *c, const char *text)
{
    free(c->own_system);
    c->own_system = text[0] ? mem_strdup(text) : NULL;
    c->system = c->own_system;
    clear(c);
}

static bool is_command(const char *line, const char *name)
{
    return strcmp(line, name) == 0;
}

// False: leave.
static bool line_handle(struct chat *c, const char *line)
{
    struct err e = {0};

    if (is_command(line, "/exit") || is_command(line, "/quit"))
        return false;
    if (is_command(line, "/clear") || is_command(line, "/reset"))
        clear(c);
    else if (strncmp(line, "/system", 7) == 0 && (line[7] == ' ' || line[7] == '\0'))
        system_set(c, line + 7 + strspn(line + 7, " "));
    else if (is_command(line, "/help"))
        fputs(help, stdout);
    else if (line[0] == '/')
        printf("no command %s; there are /clear, /system, /exit and /help\n", line);
    else if (line[0] && ask(c, line, &e) != 0)
        c->failed = cli_fail("chat", &e);
    return true;
}

// Where the prompt goes: not into a pipe.
static FILE *prompt_file(void)
{
    return isatty(STDOUT_FILENO) ? stdout : stderr;
}

// What a read that ended without a line means. True: go on.
static bool read_again(bool *once)
{
    if (!chat_interrupted || *once)
        return false;
    clearerr(stdin);
    *once = true;
    chat_interrupted = 0;
    fputs("\n(Ctrl-C again leaves)\n", prompt_file());
    return true;
}

// A line from a terminal, or less than 0 as of getline. Between the prompt and the wait the interrupt is blocked: one that
// comes then ends the wait, too.
static ssize_t line_ask(char **line, size_t *cap)
{
    sigset_t interrupt, before;
    fd_set in;
    int rc;

    if (feof(stdin)) // the last line ended with Ctrl-D
        return -1;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, &before);
    fputs("> ", prompt_file());
    fflush(prompt_file());
    do {
        FD_ZERO(&in);
        FD_SET(STDIN_FILENO, &in);
        rc = chat_interrupted ? -1 : pselect(STDIN_FILENO + 1, &in, NULL, NULL, NULL, &before);
    } while (rc < 0 && !chat_interrupted && errno == EINTR);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc < 0 || chat_interrupted ? -1 : getline(line, cap, stdin);
}

static void converse(struct chat *c)
{
    bool terminal = isatty(STDIN_FILENO) != 0, once = false;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    // The wait sees what the terminal holds, so nothing else may hold any.
    if (terminal)
        setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        n = terminal ? line_ask(&line, &cap) : getline(&line, &cap, stdin);
        if (n < 0) {
            if (read_again(&once))
                continue;
            break;
        }
        once = false;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (!line_handle(c, line))
            break;
        chat_interrupted = 0; // meant for the answer that has ended
    }
    if (terminal)
        fputc('\n', prompt_file());
    free(line);
}

static int question_ask(struct chat *c, const struct cli_list *words)
{
    struct err e = {0};
    struct buf q;
    int rc;

    buf_init(&q, CHAT_ANSWER_MAX);
    for (size_t i = 0; i < words->n; i++)
        buf_printf(&q, "%s%s", i > 0 ? " " : "", words->items[i]);
    rc = ask(c, (const char *)q.data, &e);
    buf_fini(&q);
    return rc == 0 ? 0 : cli_fail("chat", &e);
}

// ---- the command ----------------------------------------------------------------------------------------

#define N_OPTIONS 11 // with the end

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
        {"--no-reasoning", 0, CLI_FLAG, &c->no_reasoning, NULL,
         "do not show what the model thinks before it answers", 0, 0},
        {"--timings", 0, CLI_FLAG, &c->timings, NULL,
         "after each answer, how it was made and how fast", 0, 0},
        {"--json", 0, CLI_FLAG, &c->json, NULL,
         "print each answer as one line of JSON with its timings", 0, 0},
        {0},
    };

    memcpy(out, all, sizeof(all));
}

static int chat(struct chat *c, const struct cli_list *words)
{
    int rc;

    buf_init(&c->text, CHAT_ANSWER_MAX);
    buf_init(&c->reasoning, CHAT_ANSWER_MAX);
    clear(c);
    interrupts_catch();
    if (words->n > 0) {
        rc = question_ask(c, words);
    } else {
        converse(c);
        // Somebody at a terminal has seen the error; a script reads the exit code.
        rc = isatty(STDIN_FILENO) ? 0 : c->failed;
    }
    json_decref(c->messages);
    json_decref(c->told);
    buf_fini(&c->text);
    buf_fini(&c->reasoning);
    free(c->own_system);
    return rc;
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
    return done ? 0 : chat(&c, &words);
}

const struct cli_command cli_chat = {"chat", "talk to a running server from a terminal", chat_run};
