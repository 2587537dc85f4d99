// tandem image list, show, watch, cancel, rm: the image jobs of a running server.
#include "cli/image.h"

#include "base/buf.h"
#include "base/json.h"
#include "cli/models.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 100 // jobs that the server lists at one time
#define ALL_OPTIONS 8
#define PROMPT_COLUMNS 60

struct part {
    const char *name, *usage, *about;
    int (*run)(struct image_command *m, const char *id, struct err *e); // NULL: watches
    bool needs_job;
};

static const char *text(const json_t *o, const char *member)
{
    return json_string_or(o, member, "");
}

static json_int_t number(const json_t *o, const char *member)
{
    return json_integer_value(json_object_get(o, member));
}

static void json_print(const json_t *v)
{
    char *line = json_line(v);
    printf("%s\n", line);
    free(line);
}

// ---- list ----------------------------------------------------------------------------------------

static void job_row(const json_t *job)
{
    char age[32], progress[16];
    const char *prompt = text(job, "prompt");
    models_age_format(number(job, "created_at"), age);
    snprintf(progress, sizeof progress, "%d %%", (int)number(job, "progress"));
    printf("%-31s  %-11s %6s %3d  %-14s ", text(job, "id"), text(job, "status"), progress,
           (int)number(job, "n"), age);
    term_text_put(stdout, prompt, PROMPT_COLUMNS);
    printf("\n");
}

// A page, and the id that the next one begins behind; "": there is none.
static int page_get(const struct image_command *m, char after[64], json_t *all, struct err *e)
{
    char path[160];
    json_t *page = NULL;
    snprintf(path, sizeof path, "/v1/images/jobs?limit=%d%s%.60s", PAGE, after[0] ? "&after=" : "",
             after);
    int rc = client_get(&m->client, path, &page, e);
    json_array_extend(all, json_object_get(page, "data"));
    snprintf(after, 64, "%s",
             json_is_true(json_object_get(page, "has_more")) ? text(page, "last_id") : "");
    json_decref(page);
    return rc;
}

static int list(struct image_command *m, const char *id, struct err *e)
{
    char after[64] = "";
    json_t *all = json_array();
    const json_t *job;
    size_t i;
    int rc;
    (void)id;
    do
        rc = page_get(m, after, all, e);
    while (rc == 0 && after[0] != '\0');
    if (rc == 0 && m->json)
        json_print(all);
    else if (rc == 0 && json_array_size(all) == 0)
        printf("no image jobs; tandem image \"a red circle\" --server %s --job makes one\n",
               m->client.server);
    if (rc == 0 && !m->json && json_array_size(all) > 0) {
        printf("%-31s  %-11s %6s %3s  %-14s %s\n", "JOB", "STATE", "DONE", "N", "AGE", "PROMPT");
        json_array_foreach(all, i, job) job_row(job);
    }
    json_decref(all);
    return rc;
}

// ---- one job -------------------------------------------------------------------------------------

static char *path_of(const char *id, const char *word)
{
    return mem_format("/v1/images/jobs/%.40s%s", id, word);
}

// An error may quote the prompt, or what another server said.
static void text_line(const char *name, const char *words)
{
    printf("  %-8s ", name);
    term_text_put(stdout, words, 0);
    printf("\n");
}

static void job_print(const json_t *job)
{
    const json_t *error = json_object_get(job, "error");
    char age[32];
    models_age_format(number(job, "created_at"), age);
    printf("%s  %s, %d %%\n", text(job, "id"), text(job, "status"), (int)number(job, "progress"));
    printf("  model    %s%s%s\n", text(job, "model"), text(job, "node")[0] ? " on " : "",
           text(job, "node"));
    text_line("prompt", text(job, "prompt"));
    printf("  pictures %d of %d\n", (int)number(job, "pictures"), (int)number(job, "n"));
    if (json_is_integer(json_object_get(job, "seed")))
        printf("  seed     %lld\n", (long long)number(job, "seed"));
    printf("  asked    %s\n", age);
    if (json_is_number(json_object_get(job, "eta_s")))
        printf("  left     %.0f s\n", json_number_value(json_object_get(job, "eta_s")));
    if (text(job, "why")[0] != '\0')
        text_line("waits", text(job, "why"));
    if (json_is_object(error))
        text_line("error", text(error, "message"));
}

static int show(struct image_command *m, const char *id, struct err *e)
{
    char *path = path_of(id, "?result=false"); // which may be megabytes: watch writes them to files
    json_t *job = NULL;
    int rc = client_get(&m->client, path, &job, e);
    if (rc == 0 && m->json)
        json_print(job);
    else if (rc == 0)
        job_print(job);
    json_decref(job);
    free(path);
    return rc;
}

static int cancel(struct image_command *m, const char *id, struct err *e)
{
    char *path = path_of(id, "/cancel");
    json_t *job = NULL, *none = json_object();
    int rc = client_post(&m->client, path, none, &job, e);
    if (rc == 0 && m->json)
        json_print(job);
    else if (rc == 0)
        printf("%s %s\n", text(job, "id"), text(job, "status"));
    json_decref(none);
    json_decref(job);
    free(path);
    return rc;
}

static int rm(struct image_command *m, const char *id, struct err *e)
{
    char *path = path_of(id, "");
    json_t *told = NULL;
    int rc = client_delete(&m->client, path, &told, e);
    if (rc == 0 && m->json)
        json_print(told);
    else if (rc == 0)
        printf("%s removed\n", text(told, "id"));
    json_decref(told);
    free(path);
    return rc;
}

// ---- the parts -----------------------------------------------------------------------------------

static const struct part parts[] = {
    {"list", "usage: tandem image list [--server URL] [--json]",
     "Lists the image jobs of a server, the newest first: those of your API key, if it has keys.",
     list, false},
    {"ls", "usage: tandem image ls [--server URL] [--json]",
     "Lists the image jobs of a server, the newest first.", list, false},
    {"show", "usage: tandem image show ID [--server URL] [--json]",
     "Tells how an image job stands.", show, true},
    {"watch", "usage: tandem image watch ID [--server URL] [-o FILE] [--show HOW] [--json]",
     "Follows an image job to its end, and writes and shows its pictures. Interrupted (Ctrl-C), "
     "the "
     "job goes on.\nExit code 0: completed.",
     NULL, true},
    {"cancel", "usage: tandem image cancel ID [--server URL] [--json]",
     "Ends an image job, within one step where it is drawn.", cancel, true},
    {"rm", "usage: tandem image rm ID [--server URL] [--json]",
     "Removes an image job and its pictures from the server; one that has not ended is cancelled.",
     rm, true},
};
#define N_PARTS (sizeof(parts) / sizeof(parts[0]))

static size_t options_fill(struct image_command *m, bool watches, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&m->client.server,
         .arg = "URL",
         .help = "the server (" CLIENT_SERVER ")"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&m->client.api_key,
         .arg = "KEY",
         .help = "the server's API key, if it has one"},
        {.name = "--json", .kind = CLI_FLAG, .value = &m->json, .help = "print JSON"},
        image_out_option(m),
        image_show_option(m),
    };
    size_t n = sizeof own / sizeof *own - (watches ? 0 : 2);
    memcpy(out, own, n * sizeof *own);
    return n;
}

static int id_check(const struct part *p, const struct cli_list *rest, struct err *e)
{
    const char *id = rest->n == 1 ? rest->items[0] : "";
    if (rest->n != 1)
        return err_set(e, ERR_INVALID, "one job is wanted: %s", p->usage);
    if (strlen(id) > 40 || strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(id))
        return err_set(e, ERR_INVALID,
                       "\"%.60s\" is no id of an image job; tandem image list has them", id);
    return 0;
}

static int part_run(const struct part *p, int argc, char **argv)
{
    struct image_command m = {.show = "auto", .client = {.server = CLIENT_SERVER}};
    struct cli_option options[ALL_OPTIONS] = {{0}};
    struct cli_list rest = {0};
    struct err e = {0};
    bool done = false;
    int code = 0;
    options_fill(&m, p->run == NULL, options);
    int rc =
        cli_parse(argc, argv, options, p->usage, p->about, p->needs_job ? &rest : NULL, &done, &e);
    if (rc != 0 || done)
        return rc != 0 ? cli_fail("image", &e) : 0;
    if (p->needs_job)
        rc = id_check(p, &rest, &e);
    if (rc == 0 && p->run != NULL)
        rc = p->run(&m, p->needs_job ? rest.items[0] : "", &e);
    else if (rc == 0)
        rc = image_output_take(&m, &e);
    if (rc == 0 && p->run == NULL) {
        m.files = json_array();
        image_signals_catch(&m);
        code = image_job_watch(&m, rest.items[0]);
        json_decref(m.files);
    }
    return rc != 0 ? cli_fail("image", &e) : code;
}

int image_jobs_run(int argc, char **argv)
{
    static char section[] = "image-jobs";
    for (size_t i = 0; i < N_PARTS; i++)
        if (strcmp(argv[0], parts[i].name) == 0) {
            // What the file says under [image] is for new pictures, and unknown to the parts.
            argv[0] = section;
            return part_run(&parts[i], argc, argv);
        }
    return -1;
}
