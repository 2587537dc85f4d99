// What the files of `tandem train` share. Private to cli/train*.c.
#ifndef CLI_TRAIN_H
#define CLI_TRAIN_H

#include "base/buf.h"
#include "cli/draw.h"
#include "jobs/jobs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The parts; argv[0] is the part's name. They return the exit code.
int train_submit_run(int argc, char **argv);
int train_ls_run(int argc, char **argv);
int train_show_run(int argc, char **argv);
int train_cancel_run(int argc, char **argv);
int train_logs_run(int argc, char **argv);
int train_rm_run(int argc, char **argv);
int train_watch_run(int argc, char **argv);
int train_runner_run(int argc, char **argv);

// Prints "tandem train: ..." and returns the exit code.
int train_fail(const struct err *e);
void train_json_print(json_t *value); // one line; steals
// The queue of this machine.
int train_jobs_open(struct jobs **out, struct err *e);
// "3 h 05 min", "12 s".
void train_span_format(double seconds, char out[32]);

// ---- a loss by step ------------------------------------------------------------------------------

#define TRAIN_CURVE_MAX (1u << 22) // steps that are kept; what comes after is not drawn

struct train_curve {
    float *loss, *eval; // [n], of step i + 1; NAN: not told
    size_t n, cap;
    int64_t step, steps; // of the last line; 0: none yet
    double last_loss, last_eval, lr, tokens_per_s, eta_s;
};
void train_curve_add(struct train_curve *c, const json_t *lines); // of jobs_progress
void train_curve_fini(struct train_curve *c);
// `rows` lines of text, each ended by a line break, with an axis for the loss and one for the steps. Returns the
// number of lines; 0: there is nothing to draw yet.
int train_curve_text(const struct train_curve *c, const struct draw_style *style, int rows,
                     struct buf *out);
void train_curve_svg(const struct train_curve *c, const struct jobs_job *job, struct buf *out);

// ---- watching ------------------------------------------------------------------------------------

struct train_watch {
    bool live;       // a curve, if the terminal can; else a line now and then
    bool json;       // the job as JSON at the end
    const char *svg; // where to write the picture; NULL: nowhere
};
// Until the job has ended or a signal comes. The exit code: 0 published, 1 failed or cancelled, 130 a signal.
int train_watch(struct jobs *j, const char *id, const struct train_watch *w);

#endif
