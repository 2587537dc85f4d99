// tandem plan: what machines would give, before anybody buys them.
#include "cli/plan.h"

#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "os/os.h"
#include "plan/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} parts[] = {
    {"predict", plan_predict_run},
    {"compare", plan_compare_run},
    {"platforms", plan_platforms_run},
    {"simulate", plan_simulate_run},
};
#define N_PARTS (sizeof parts / sizeof *parts)

void plan_bar(FILE *f, double share, int full)
{
    int n = (int)lround(fmin(fmax(share, 0), 1) * full);
    for (int i = 0; i < full; i++)
        fputs(i >= n ? " " : term_utf8() ? "\u2588" : "#", f);
}

json_t *plan_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

// One text, or several: "A,B" comes as one from the command line.
int plan_names_get(const struct plan_names *names, struct err *e)
{
    const struct cli_list *l = names->list;
    size_t used = 0, n = 0;
    for (size_t i = 0; i < l->n; i++)
        for (const char *at = l->items[i]; *at != '\0';) {
            size_t k = strcspn(at, ",");
            if (n + 1 >= names->max || used + k + 1 > names->room_bytes)
                return err_set(e, ERR_RANGE, "%s names more than %zu machines", names->option,
                               names->max - 1);
            memcpy(names->room + used, at, k);
            names->room[used + k] = '\0';
            if (k > 0)
                names->out[n++] = names->room + used;
            used += k + 1;
            at += k + (at[k] == ',');
        }
    names->out[n] = NULL;
    return 0;
}

int plan_html_write(const char *path, const json_t *document, struct err *e)
{
    struct buf page;
    buf_init(&page, PLAN_REPORT_MAX_BYTES);
    plan_report_html(document, &page);
    int rc = os_file_write(path, (const char *)page.data, page.len, 0644, e);
    buf_fini(&page);
    return rc == 0 ? 0 : err_wrap(e, "--html %s", path);
}

void plan_text_print(const json_t *document)
{
    struct plan_report_style style = {term_width(stdout), term_utf8(), term_color(stdout)};
    struct buf text;
    buf_init(&text, PLAN_REPORT_MAX_BYTES);
    plan_report_text(document, &style, &text);
    fwrite(text.data, 1, text.len, stdout);
    buf_fini(&text);
}

void plan_json_print(const json_t *document)
{
    char *line = json_line(document);
    puts(line);
    free(line);
}

static int plan_run(int argc, char **argv)
{
    const char *names[N_PARTS + 1] = {NULL};
    struct err e = {0};
    if (argc < 2 || argv[1][0] == '-')
        return plan_advise_run(argc, argv);
    for (size_t i = 0; i < N_PARTS; i++) {
        names[i] = parts[i].name;
        if (strcmp(argv[1], parts[i].name) == 0) {
            // A part has a section of its own in the file: [plan] is advice, whose options are others.
            static char command[32];
            snprintf(command, sizeof command, "plan %s", parts[i].name);
            argv[1] = command;
            return parts[i].run(argc - 1, argv + 1);
        }
    }
    const char *near = cli_nearest(argv[1], names);
    err_set(&e, ERR_INVALID, "no \"%s\"; %s%s", argv[1],
            near != NULL ? "did you mean " : "tandem plan --help lists the parts",
            near != NULL ? near : "");
    return cli_fail("plan", &e);
}

const struct cli_command cli_plan = {"plan", "what machines would give, before you buy them",
                                     plan_run};
