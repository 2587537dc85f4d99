#include "plan/workload.h"

#include "base/json.h"
#include "plan/model.h"
#include "plan/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Forward, and back through frozen weights: two operations per parameter each way. (All weights: six; published
// full fine-tunes took 1.7 to 1.9 times as long as LoRA.)
#define LORA_FLOPS 4.0
#define ROWS_MAX 256
#define HOURLY_MOST 1e6

void plan_workload_defaults(struct plan_workload *w)
{
    *w = (struct plan_workload){.train_model = "llama-3.1-8b",
                                .prompt = 4096,
                                .gen = 256,
                                .requests_per_hour = 20,
                                .hours_per_day = 8};
}

int plan_workload_check(const struct plan_workload *w, struct err *e)
{
    const struct {
        const char *what;
        double value, min, max;
    } numbers[] = {
        {"--prompt", w->prompt, 1, PLAN_TOKENS_MAX},
        {"--gen", w->gen, 1, PLAN_TOKENS_MAX},
        {"--warm", w->warm, 0, 0.999},
        {"--requests", w->requests_per_hour, 0, HOURLY_MOST},
        {"--train-share", w->train_share, 0, 1},
        {"--images", w->images_per_hour, 0, HOURLY_MOST},
        {"--hours", w->hours_per_day, 0.1, 24},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= numbers[i].min && numbers[i].value <= numbers[i].max))
            return err_set(e, ERR_INVALID, "%s is %g; it must be between %g and %g",
                           numbers[i].what, numbers[i].value, numbers[i].min, numbers[i].max);
    if (w->requests_per_hour <= 0 && w->train_share <= 0 && w->images_per_hour <= 0)
        return err_set(e, ERR_INVALID,
                       "there is nothing to do: --requests, --train-share and --images are all 0");
    return 0;
}

// ---- rates ---------------------------------------------------------------------------------------------

// What was measured of the FP16 rate of one GPU, else the nominal one; operations per second.
static int flops_get(const struct plan_catalogue *c, const char *machine, double *flops,
                     double *gpus, struct err *e)
{
    const json_t *m = plan_catalogue_find(c, PLAN_MACHINE, machine, e);
    double tflops = 0, achieved = 0;
    if (m == NULL)
        return ERR_NOT_FOUND;
    *gpus = 1;
    int rc = json_get_f64(m, "fp16_tflops", 0.01, 1e6, &tflops, e);
    if (rc == 0)
        rc = json_get_f64(m, "achieved_tflops", 0.01, 1e6, &achieved, e);
    if (rc == 0)
        rc = json_get_f64(m, "gpus", 1, 4096, gpus, e);
    if (rc == 0 && tflops <= 0)
        rc = err_set(e, ERR_INVALID, "\"fp16_tflops\" is missing");
    *flops = (achieved > 0 ? achieved : tflops) * 1e12;
    return rc == 0 ? 0 : err_wrap(e, "machine %s", machine);
}

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int plan_utilisation_get(const struct plan_catalogue *c, struct plan_utilisation *out,
                         struct err *e)
{
    const char *id;
    json_t *task;
    double shares[ROWS_MAX];
    size_t n = 0;
    json_object_foreach((json_t *)plan_catalogue_all(c, PLAN_TASK), id, task)
    {
        double pflop = 0, seconds = 0, flops = 0, gpus = 0;
        const char *machine = json_string_value(json_object_get(task, "machine"));
        int rc = json_get_f64(task, "pflop", 1e-9, 1e9, &pflop, e);
        if (rc == 0)
            rc = json_get_f64(task, "seconds", 1e-6, 1e9, &seconds, e);
        if (rc != 0)
            return err_wrap(e, "task %s", id);
        if (machine == NULL || pflop <= 0 || seconds <= 0 || n == ROWS_MAX)
            continue;
        rc = flops_get(c, machine, &flops, &gpus, e);
        if (rc != 0)
            return err_wrap(e, "task %s", id);
        shares[n++] = pflop * 1e15 / seconds / (flops * gpus);
    }
    if (n == 0)
        return err_set(e, ERR_NOT_FOUND,
                       "no task of the catalogue says its \"pflop\" and \"seconds\": nothing to "
                       "predict fine-tuning and images from");
    qsort(shares, n, sizeof *shares, double_compare);
    *out = (struct plan_utilisation){(shares[(n - 1) / 2] + shares[n / 2]) / 2, shares[0],
                                     shares[n - 1], n};
    return 0;
}

// Operations per second that a machine would reach at such work, all GPUs together.
static int work_rate(const struct plan_catalogue *c, const char *machine, double rate[3],
                     struct err *e)
{
    struct plan_utilisation u = {0};
    double flops = 0, gpus = 0;
    int rc = flops_get(c, machine, &flops, &gpus, e);
    if (rc == 0)
        rc = plan_utilisation_get(c, &u, e);
    if (rc != 0)
        return rc;
    rate[0] = flops * gpus * u.median;
    rate[1] = flops * gpus * u.low;
    rate[2] = flops * gpus * fmin(u.high, 1);
    return 0;
}

int plan_task_image(const struct plan_catalogue *c, const char *machine, struct plan_task *out,
                    struct err *e)
{
    double rate[3] = {0};
    int rc = work_rate(c, machine, rate, e);
    if (rc != 0)
        return rc;
    const double work = PLAN_IMAGE_PFLOP * 1e15;
    *out = (struct plan_task){
        .value = work / rate[0], .range = {work / rate[2], work / rate[1]}, .fits = true};
    return 0;
}

// ---- memory of fine-tuning ---------------------------------------------------------------------------------

// Published peaks of LoRA against the size of the model: a straight line, by least squares.
static int lora_line(const struct plan_catalogue *c, double *base_gb, double *per_billion_gb,
                     struct err *e)
{
    const char *id;
    json_t *t;
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    json_object_foreach((json_t *)plan_catalogue_all(c, PLAN_TASK), id, t)
    {
        const char *kind = json_string_or(t, "kind", "");
        const char *method = json_string_or(t, "method", "");
        const char *task = json_string_or(t, "task", "");
        double x = json_number_value(json_object_get(t, "params_b"));
        double y = json_number_value(json_object_get(t, "peak_mem_gb"));
        if (strcmp(kind, "train") != 0 || strcmp(method, "LoRA") != 0 ||
            strncmp(task, "SFT", 3) != 0 || x <= 0 || y <= 0)
            continue;
        n++;
        sx += x;
        sy += y;
        sxx += x * x;
        sxy += x * y;
    }
    double spread = n * sxx - sx * sx;
    if (n < 2 || spread <= 0)
        return err_set(e, ERR_NOT_FOUND,
                       "fewer than two published peaks of memory of a LoRA fine-tune (tasks.json)");
    *per_billion_gb = (n * sxy - sx * sy) / spread;
    *base_gb = (sy - *per_billion_gb * sx) / n;
    return 0;
}

int plan_task_train(const struct plan_catalogue *c, const char *machine, const char *model,
                    struct plan_task *out, struct err *e)
{
    struct plan_model m;
    struct plan_answer a;
    struct plan_query q;
    double rate[3] = {0}, base_gb = 0, slope_gb = 0;
    plan_query_defaults(&q);
    q.machine = machine;
    q.read = &m;
    int rc = plan_model_get(c, model, NULL, 0, &m, e);
    if (rc == 0)
        rc = plan_predict(c, &q, &a, e); // how much memory there is
    if (rc == 0)
        rc = work_rate(c, machine, rate, e);
    if (rc == 0)
        rc = lora_line(c, &base_gb, &slope_gb, e);
    if (rc != 0)
        return rc;
    double flops = LORA_FLOPS / 2 * m.cost.token_flops;
    *out = (struct plan_task){.value = rate[0] / flops,
                              .range = {rate[1] / flops, rate[2] / flops},
                              .need_bytes = (base_gb + slope_gb * m.params / 1e9) * 1e9};
    out->fits = out->need_bytes <= a.have_bytes;
    return 0;
}

// ---- what fits -----------------------------------------------------------------------------------------

const char *plan_largest_model(const struct plan_catalogue *c, const char *machine, double tokens)
{
    const char *name, *best = NULL;
    json_t *entry;
    double most = 0;
    json_object_foreach((json_t *)plan_catalogue_all(c, PLAN_MODEL), name, entry)
    {
        struct plan_model m;
        struct plan_answer a;
        struct plan_query q;
        plan_query_defaults(&q);
        q.machine = machine;
        q.read = &m;
        q.depth = tokens;
        // Those whose size nobody published cannot be judged.
        if (plan_model_get(c, name, "Q4_K_M", 0, &m, NULL) != 0 || m.params <= most ||
            plan_predict(c, &q, &a, NULL) != 0 || !a.fits)
            continue;
        most = m.params;
        best = plan_catalogue_id(PLAN_MODEL, entry);
    }
    return best;
}
