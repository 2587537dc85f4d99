#include "jobs/choose.h"

#include "base/buf.h"
#include "base/json.h"
#include "jobs/capture.h"
#include "jobs/executor_ssh.h"
#include "jobs/quote.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HERE "here"
#define WHY_MAX 600
#define SPEED_S 60.0

struct candidate {
    const struct ssh_options *options;
    const struct jobs_question *question;
    size_t host;
    const char *trainer; // of this machine
};

static bool is_here(const struct candidate *c)
{
    return strcmp(c->options->hosts[c->host], HERE) == 0;
}

static const char *there_or(const struct candidate *c, const char *there, const char *here)
{
    return !is_here(c) && there ? there : here;
}

// Runs the trainer's --speed, here or over ssh, for what it prints.
static int speed_ask(const struct candidate *c, struct buf *out, struct err *e)
{
    const struct ssh_options *o = c->options;
    const char *words[] = {there_or(c, o->trainer, c->trainer), "--speed",
                           there_or(c, o->model, c->question->model),
                           c->question->gpu ? "gpu" : NULL, NULL};
    const char *argv[SSH_WORDS_MAX];
    struct jobs_capture capture = {
        .argv = is_here(c) ? words : argv, .timeout_s = SPEED_S, .out = out};
    struct buf command;
    buf_init(&command, SSH_COMMAND_MAX);
    int rc = jobs_quote_words(&command, words);
    if (rc == 0) {
        ssh_words(o, c->host, (const char *)command.data, argv);
        rc = jobs_capture_run(&capture, e);
    }
    buf_fini(&command);
    if (rc == 0 && capture.exit_code != 0)
        rc = err_set(e, ERR_IO, "%s",
                     capture.said[0] != '\0' ? capture.said : "its trainer does not answer");
    return rc;
}

static int speed_get(const struct candidate *c, double *gflops, struct err *e)
{
    struct buf out;
    json_t *told = NULL;
    buf_init(&out, JOBS_CAPTURE_MAX);
    int rc = speed_ask(c, &out, e);
    if (rc == 0 && !(told = json_parse(out.data, out.len, e)))
        rc = e->code;
    *gflops = json_number_value(json_object_get(told, "gflops"));
    if (rc == 0 && !(*gflops > 0))
        rc = err_set(e, ERR_CORRUPT, "its trainer names no speed");
    json_decref(told);
    buf_fini(&out);
    return rc;
}

// The options of the executor that does it, from those of the question.
static json_t *executor_make(const struct candidate *c)
{
    if (is_here(c))
        return json_pack("{s:s}", "kind", "local");
    json_t *o = json_deep_copy(c->question->executor);
    json_put(o, "kind", json_string("ssh"));
    json_put(o, "hosts", json_string(c->options->hosts[c->host]));
    return o;
}

static int fastest(struct candidate *c, json_t **chosen, char **why, struct err *e)
{
    double most = 0;
    size_t best = 0;
    struct buf text;
    buf_init(&text, WHY_MAX);
    buf_puts(&text, "");
    for (c->host = 0; c->host < c->options->n_hosts; c->host++) {
        double gflops = 0;
        struct err own = {0};
        const char *name = c->options->hosts[c->host], *comma = c->host > 0 ? ", " : "";
        if (speed_get(c, &gflops, &own) == 0)
            buf_printf(&text, "%s%s %.0f GFLOP/s", comma, name, gflops);
        else
            buf_printf(&text, "%s%s is out (%.120s)", comma, name, own.message);
        if (gflops > most) {
            most = gflops;
            best = c->host;
        }
    }
    char *told = buf_take(&text);
    c->host = best;
    if (most > 0) {
        *chosen = executor_make(c);
        *why = mem_format("%s is the fastest: %s", c->options->hosts[best], told);
    } else {
        err_set(e, ERR_NOT_FOUND, "no machine of \"hosts\" can do it: %s", told);
    }
    free(told);
    return most > 0 ? 0 : e->code;
}

int jobs_choose(const struct jobs_question *q, json_t **chosen, char **why, struct err *e)
{
    struct ssh_options *o = mem_alloc(sizeof *o);
    char dir[2048];
    int rc = ssh_options_read(q->executor, o, e);
    if (rc == 0)
        rc = os_self_dir(dir, sizeof dir, e);
    if (rc == 0) {
        char *trainer = mem_format("%s/tandem-trainer", dir);
        struct candidate c = {o, q, 0, trainer};
        rc = fastest(&c, chosen, why, e);
        free(trainer);
    }
    free(o);
    return rc;
}
