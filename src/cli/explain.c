// tandem explain: where a running server would send a request, and what every plan would take.
#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT_MAX (16u << 20) // bytes of a prompt's file
#define DOLLARS_OF 1000.0      // requests: one costs too little to be read

static const char usage[] = "usage: tandem explain (--prompt-tokens N | --prompt-file FILE) "
                            "[--answer-tokens N] [OPTIONS]";
static const char about[] =
    "Asks a running server what every plan for such a request would take, as its machines are\n"
    "and as busy as they are right now, for a prompt that nobody remembers any of. Nothing is\n"
    "run. The plans stand in the order of the policy, the one that would be chosen first;\n"
    "\"split at N\": the one that writes reads on from token N. All figures are predicted;\n"
    "PREDICTED and what came of it stand in the \"timings\" of every answer. Under the policy\n"
    "cost, $/1000 are dollars for a thousand such requests.\n"
    "The server's API key must be good for the scope admin.";

struct explain {
    struct client client;
    const char *model, *policy, *prompt_file;
    uint32_t prompt_tokens, answer_tokens;
    double ttft_s, token_s;
    bool json;
};

static void seconds_format(double s, char out[16])
{
    if (s < 0.9995)
        snprintf(out, 16, "%.3g ms", s * 1e3);
    else
        snprintf(out, 16, "%.3g s", s);
}

static void cell_print(const json_t *row, const char *member, int width)
{
    const json_t *v = json_object_get(row, member);
    char text[16] = "-";

    if (json_is_number(v))
        seconds_format(json_number_value(v), text);
    printf(" %*s", width, text);
}

static void number_print(const json_t *row, const char *member, double times)
{
    const json_t *v = json_object_get(row, member);

    if (json_is_number(v))
        printf(" %8.3g", times * json_number_value(v));
    else
        printf(" %8s", "-");
}

// Which part of a prompt of n tokens each of the two reads, where it is not all at one.
static void split_print(const json_t *row, double n)
{
    const json_t *upto = json_object_get(row, "upto");

    if (json_is_number(upto) && json_number_value(upto) + 1 < n)
        printf("  split at %.0f", json_number_value(upto));
}

static void row_print(const json_t *row, double n_tokens, bool dollars)
{
    const char *writes = json_string_or(row, "decode_node", "-"),
               *reads = json_string_or(row, "prefill_node", "-");

    printf("%-7s %-16.16s %-16.16s", json_string_or(row, "plan", "-"),
           reads[0] == '-' ? writes : reads, writes);
    cell_print(row, "wait_s", 8);
    cell_print(row, "read_s", 8);
    cell_print(row, "tail_s", 8);
    cell_print(row, "ttft_s", 8);
    cell_print(row, "token_s", 8);
    cell_print(row, "total_s", 8);
    number_print(row, "joules", 1);
    if (dollars)
        number_print(row, "dollars", DOLLARS_OF);
    split_print(row, n_tokens);
    putchar('\n');
}

// What could not be granted, and who could not be asked.
static void rest_print(const json_t *told)
{
    json_t *row;
    const json_t *fallback = json_object_get(told, "fallback");
    size_t i;

    if (json_is_string(fallback))
        printf("%s\n", json_string_value(fallback));
    json_array_foreach(json_object_get(told, "absent"), i, row) printf(
        "without %s: %s\n", json_string_or(row, "node", "-"), json_string_or(row, "why", "-"));
}

static void print(const json_t *told)
{
    const json_t *plans = json_object_get(told, "plans");
    double n_tokens = json_number_value(json_object_get(told, "prompt_tokens"));
    bool dollars = strcmp(json_string_or(told, "policy", "-"), "cost") == 0;

    printf(
        "%s: %.0f tokens in, %.0f out, policy %s; %.0f plans considered, all figures predicted\n\n",
        json_string_or(told, "model", "-"), n_tokens,
        json_number_value(json_object_get(told, "answer_tokens")),
        json_string_or(told, "policy", "-"),
        json_number_value(json_object_get(told, "considered")));
    if (json_array_size(plans) == 0) {
        printf("no plan is possible: %s\n", json_string_or(told, "refusal", "-"));
        rest_print(told);
        return;
    }
    printf("%-7s %-16s %-16s %8s %8s %8s %8s %8s %8s %8s%s\n", "PLAN", "READS", "WRITES", "WAIT",
           "READ", "TAIL", "FIRST", "TOKEN", "TOTAL", "JOULES", dollars ? "   $/1000" : "");
    for (size_t i = 0; i < json_array_size(plans); i++)
        row_print(json_array_get(plans, i), n_tokens, dollars);
    printf("\n%s\n", json_string_or(json_array_get(plans, 0), "why", "-"));
    rest_print(told);
}

// How many tokens the file has, as the server counts them.
static int prompt_count(struct explain *x, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    json_t *body, *told = NULL;
    int rc = os_file_read(x->prompt_file, PROMPT_MAX, &text, &n, e);

    if (rc != 0)
        return rc;
    body = json_object();
    json_put(body, "content", json_stringn(text, n));
    if (!json_object_get(body, "content"))
        rc = err_set(e, ERR_INVALID, "%s is not UTF-8", x->prompt_file);
    if (rc == 0)
        rc = client_post(&x->client, "/tokenize", body, &told, e);
    if (rc == 0)
        x->prompt_tokens = (uint32_t)json_array_size(json_object_get(told, "tokens"));
    json_decref(told);
    json_decref(body);
    free(text);
    return rc;
}

static json_t *question(const struct explain *x)
{
    json_t *o = json_object();

    json_put(o, "prompt_tokens", json_integer(x->prompt_tokens));
    if (x->answer_tokens > 0)
        json_put(o, "answer_tokens", json_integer(x->answer_tokens));
    json_put_text(o, "model", x->model);
    json_put_text(o, "policy", x->policy);
    if (x->ttft_s > 0)
        json_put(o, "ttft_s", json_real(x->ttft_s));
    if (x->token_s > 0)
        json_put(o, "token_s", json_real(x->token_s));
    return o;
}

static int explain(struct explain *x)
{
    struct err e = {0};
    json_t *body = NULL, *told = NULL;
    int rc = x->prompt_file ? prompt_count(x, &e) : 0;

    if (rc == 0 && x->prompt_tokens == 0)
        rc = err_set(&e, ERR_INVALID,
                     "how long is the prompt? Say --prompt-tokens N, or --prompt-file FILE");
    if (rc == 0) {
        body = question(x);
        rc = client_post(&x->client, "/v1/tandem/explain", body, &told, &e);
    }
    json_decref(body);
    if (rc != 0)
        return cli_fail("explain", &e);
    if (x->json) {
        char *line = json_line(told);

        puts(line);
        free(line);
    } else {
        print(told);
    }
    json_decref(told);
    return 0;
}

static int explain_run(int argc, char **argv)
{
    struct explain x = {.client = {.server = CLIENT_SERVER}};
    const struct cli_option options[] = {
        {.name = "--prompt-tokens",
         .kind = CLI_UINT32,
         .value = &x.prompt_tokens,
         .arg = "N",
         .help = "length of the prompt",
         .min = 1,
         .max = 1 << 20},
        {.name = "--prompt-file",
         .kind = CLI_STRING,
         .value = (void *)&x.prompt_file,
         .arg = "FILE",
         .help = "a text that the server counts the tokens of"},
        {.name = "--answer-tokens",
         .kind = CLI_UINT32,
         .value = &x.answer_tokens,
         .arg = "N",
         .help = "length of the answer (what the server expects of this model)",
         .min = 1,
         .max = 1 << 20},
        {.name = "--model",
         .letter = 'm',
         .kind = CLI_STRING,
         .value = (void *)&x.model,
         .arg = "NAME",
         .help = "one of the server's models (the first one)"},
        {.name = "--policy",
         .kind = CLI_STRING,
         .value = (void *)&x.policy,
         .arg = "POLICY",
         .help = "latency, throughput, energy, cost or slo (the server's own)"},
        {.name = "--slo-ttft",
         .kind = CLI_DOUBLE,
         .value = &x.ttft_s,
         .arg = "SECONDS",
         .help = "until the first token, for the policy slo",
         .min = 0,
         .max = 1e6},
        {.name = "--slo-token",
         .kind = CLI_DOUBLE,
         .value = &x.token_s,
         .arg = "SECONDS",
         .help = "from token to token, for the policy slo",
         .min = 0,
         .max = 1e6},
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&x.client.server,
         .arg = "URL",
         .help = "the server (" CLIENT_SERVER ")"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&x.client.api_key,
         .arg = "KEY",
         .help = "its API key, if it has one"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &x.json,
         .help = "print what the server told"},
        {0},
    };
    bool done = false;
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);

    if (rc == 0 && done)
        return 0;
    return rc == 0 ? explain(&x) : cli_fail("explain", &e);
}

const struct cli_command cli_explain = {
    "explain", "where a request would go, and what every plan would take", explain_run};
