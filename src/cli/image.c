// tandem image: draws pictures on this machine, with a worker of its own, or has a server draw them.
#include "cli/image.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/term.h"
#include "os/os.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPTIONS_MAX (CLI_IMAGE_OPTIONS + 25)
#define WAIT_NS (100 * NS_PER_MS) // between two looks at the signals
#define BAR_CELLS 20

static const char usage[] = "usage: tandem image PROMPT --image-model FILE [-o FILE] [OPTIONS]\n"
                            "       tandem image PROMPT --server URL [-o FILE] [OPTIONS]\n"
                            "       tandem image PROMPT --server URL --job [--watch] [OPTIONS]\n"
                            "       tandem image list | show ID | watch ID | cancel ID | rm ID";
static const char about[] =
    "Draws what PROMPT says. The model's maker decided what sizes and steps suit it; without "
    "options "
    "those\n"
    "are taken. The same prompt, seed and options give the same picture; a PNG tells them all.\n"
    "Interrupted (Ctrl-C), it stops within one step; a job of a server goes on.\n"
    "To draw one of the words list, ls, show, watch, cancel and rm, put an option before it.";

static volatile sig_atomic_t signal_seen; // set by the handler, read by the loop

static void on_signal(int number)
{
    (void)number;
    signal_seen = 1;
}

void image_signals_catch(struct image_command *m)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    m->stop = &signal_seen;
}

// ---- what is shown -------------------------------------------------------------------------------

void image_line_end(struct image_command *m)
{
    if (m->drawn)
        fprintf(stderr, "\r%*s\r", term_width(stderr) - 1, "");
    m->drawn = false;
}

void image_line_show(struct image_command *m, const char *text)
{
    int width = term_width(stderr) - 1;
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r%-*.*s", width, width, text);
    fflush(stderr);
    m->drawn = true;
}

void image_progress_show(struct image_command *m, const struct image_event *ev)
{
    char bar[BAR_CELLS + 1], line[200], left[48] = "";
    uint32_t all = ev->steps * m->request.count, done = ev->index * ev->steps + ev->step;
    double share = all > 0 ? (double)done / all : 0;
    // The first step also warms up: a mean that forgets.
    m->step_s = m->step_s == 0 ? ev->step_s : 0.7 * m->step_s + 0.3 * ev->step_s;
    memset(bar, ' ', BAR_CELLS);
    memset(bar, '=', (size_t)(fmin(share, 1) * BAR_CELLS));
    bar[BAR_CELLS] = '\0';
    if (done < all)
        snprintf(left, sizeof left, ", %.0f s left", ceil((all - done) * m->step_s));
    snprintf(line, sizeof line, "picture %u of %u [%s] step %u of %u, %.2f s each%s", ev->index + 1,
             m->request.count, bar, ev->step, ev->steps, m->step_s, left);
    image_line_show(m, line);
}

void image_preview_show(struct image_command *m, const struct image_picture *p)
{
    image_line_end(m);
    if (!m->json)
        image_show(stdout, m->how, p);
}

// ---- files ---------------------------------------------------------------------------------------

static int format_choose(struct image_command *m, struct err *e)
{
    const char *dot = m->out != NULL ? strrchr(m->out, '.') : NULL;
    if (m->format != NULL)
        return image_format_parse(m->format, &m->as, e);
    m->as = IMAGE_PNG;
    if (dot == NULL || strchr(dot, '/') != NULL)
        return 0;
    if (image_format_parse(dot + 1, &m->as, e) == 0)
        return 0;
    return err_set(e, ERR_INVALID,
                   "-o '%.200s': its ending says no format; end it in .png, .jpg or .webp, or give "
                   "--format",
                   m->out);
}

// "out.png", or "out-2.png" where there are several; "image-SEED.png" when none was named. Caller frees.
static char *path_make(const struct image_command *m, uint32_t index, int64_t seed)
{
    if (m->out == NULL)
        return mem_format("image-%lld.%s", (long long)seed, image_format_name(m->as));
    const char *dot = strrchr(m->out, '.');
    if (m->request.count == 1)
        return mem_strdup(m->out);
    if (dot == NULL || strchr(dot, '/') != NULL)
        dot = m->out + strlen(m->out);
    return mem_format("%.*s-%u%s", (int)(dot - m->out), m->out, index + 1, dot);
}

int image_file_put(struct image_command *m, const struct image_event *ev, const void *data,
                   size_t len, struct err *e)
{
    json_t *entry = json_object();
    char *path = path_make(m, ev->index, ev->seed);
    int rc = os_file_write(path, data, len, 0644, e);
    image_line_end(m);
    if (rc == 0 && !m->json)
        printf("%s\n", path);
    if (rc == 0 && !m->json)
        image_show(stdout, m->how, &ev->picture);
    json_put(entry, "path", json_string(path));
    json_put(entry, "seed", json_integer(ev->seed));
    json_put(entry, "bytes", json_integer((json_int_t)len));
    json_array_append_new(m->files, entry);
    free(path);
    return rc;
}

static int picture_write(struct image_command *m, const struct image_event *ev, struct err *e)
{
    json_t *texts = image_texts(&m->request, m->worker.model, NULL, ev->seed);
    const struct image_encode_options o = {.format = m->as, .quality = m->quality, .texts = texts};
    uint8_t *data = NULL;
    size_t len = 0;
    int rc = image_encode(&ev->picture, &o, &data, &len, e);
    if (rc == 0)
        rc = image_file_put(m, ev, data, len, e);
    json_decref(texts);
    free(data);
    return rc;
}

static int picture_read(const char *path, struct image_picture *p, bool mask, struct err *e)
{
    char *data = NULL;
    size_t len = 0;
    int rc = os_file_read(path, IMAGE_INPUT_MAX_BYTES, &data, &len, e);
    if (rc == 0)
        rc = mask ? image_decode_mask(data, len, p, e) : image_decode(data, len, p, e);
    free(data);
    return rc == 0 ? 0 : err_wrap(e, "'%.200s'", path);
}

// ---- the loop ------------------------------------------------------------------------------------

// One event; *done when it was the last of the request.
static int event_take(struct image_command *m, struct image_event *ev, bool *done, struct err *e)
{
    switch (ev->kind) {
    case IMAGE_READY:
        m->load_s = ev->load_s;
        return 0;
    case IMAGE_PROGRESS:
        image_progress_show(m, ev);
        return 0;
    case IMAGE_PREVIEW:
        image_preview_show(m, &ev->picture);
        return 0;
    case IMAGE_PICTURE:
        return picture_write(m, ev, e);
    case IMAGE_DONE:
        m->draw_s = ev->draw_s;
        *done = true;
        return 0;
    case IMAGE_FAILED:
        *e = ev->error;
        return e->code;
    case IMAGE_DOWN:
        if (ev->retry_ns >= 0)
            return 0;
        *e = ev->error;
        return e->code;
    }
    return 0;
}

static int request_run(struct image_command *m, struct err *e)
{
    struct image_event ev;
    uint64_t id = 0;
    bool done = false, cancelled = false;
    int rc = image_worker_submit(m->w, &m->request, &id, e);
    image_line_show(m, "loading the model");
    while (rc == 0 && !done) {
        if (signal_seen && !cancelled) {
            image_worker_cancel(m->w, id);
            cancelled = true;
        }
        if (image_worker_poll(m->w, clock_now_ns() + WAIT_NS, &ev) == 0)
            continue;
        rc = event_take(m, &ev, &done, e);
        image_event_fini(&ev);
    }
    image_line_end(m);
    return rc;
}

static void result_print(const struct image_command *m)
{
    struct image_worker_status s;
    json_t *v = json_object();
    image_worker_status(m->w, &s);
    json_put(v, "files", json_incref(m->files));
    json_put(v, "model", json_string(m->worker.model));
    json_put(v, "layout", json_string(image_worker_model(m->w)->layout));
    json_put(v, "library", json_string(s.library));
    json_put(v, "version", json_string(s.version));
    json_put(v, "width", json_integer(m->request.width));
    json_put(v, "height", json_integer(m->request.height));
    json_put(v, "steps", json_integer(m->request.steps));
    json_put(v, "cfg", json_real(m->request.cfg));
    json_put(v, "load_s", json_real(m->load_s));
    json_put(v, "draw_s", json_real(m->draw_s));
    char *text = json_line(v);
    printf("%s\n", text);
    free(text);
    json_decref(v);
}

// ---- the command ---------------------------------------------------------------------------------

struct cli_option image_out_option(struct image_command *m)
{
    return (struct cli_option){
        .name = "--out",
        .letter = 'o',
        .kind = CLI_STRING,
        .value = (void *)&m->out,
        .arg = "FILE",
        .help = "where it goes (default image-SEED.png); several become FILE-1, FILE-2",
    };
}

struct cli_option image_show_option(struct image_command *m)
{
    return (struct cli_option){
        .name = "--show",
        .kind = CLI_STRING,
        .value = (void *)&m->show,
        .arg = "HOW",
        .help = "in the terminal: auto, kitty, iterm, sixel, blocks or none (default auto)",
    };
}

static size_t request_options(struct image_command *m, struct cli_option *out)
{
    const struct cli_option own[] = {
        image_out_option(m),
        {.name = "--size",
         .kind = CLI_STRING,
         .value = (void *)&m->size,
         .arg = "WxH",
         .help = "pixels (default: what the model was made for)"},
        {.name = "--steps",
         .kind = CLI_UINT32,
         .value = &m->request.steps,
         .arg = "N",
         .help = "denoising steps (default: what suits the model)",
         .max = IMAGE_STEPS_MAX},
        {.name = "--seed",
         .kind = CLI_INT,
         .value = &m->seed,
         .arg = "N",
         .help = "where the noise begins (default: drawn, and told)",
         .min = -1,
         .max = 9007199254740992.0},
        {.name = "--cfg",
         .kind = CLI_DOUBLE,
         .value = &m->request.cfg,
         .arg = "X",
         .help = "how much the prompt counts (default: what suits the model)",
         .min = -1,
         .max = IMAGE_CFG_MAX},
        {.name = "--negative",
         .kind = CLI_STRING,
         .value = (void *)&m->request.negative,
         .arg = "TEXT",
         .help = "what should not be seen"},
        {.name = "--count",
         .letter = 'n',
         .kind = CLI_UINT32,
         .value = &m->request.count,
         .arg = "N",
         .help = "pictures; each has a seed of its own",
         .min = 1,
         .max = IMAGE_COUNT_MAX},
        {.name = "--sampler",
         .kind = CLI_STRING,
         .value = (void *)&m->request.sampler,
         .arg = "NAME",
         .help = "euler, euler_a, heun, dpm++2m, lcm, ..."},
        {.name = "--scheduler",
         .kind = CLI_STRING,
         .value = (void *)&m->request.scheduler,
         .arg = "NAME",
         .help = "discrete, karras, exponential, simple, ..."},
        {.name = "--initial",
         .kind = CLI_STRING,
         .value = (void *)&m->initial,
         .arg = "FILE",
         .help = "begin with this picture (PNG, JPEG or WebP) instead of noise"},
        {.name = "--mask",
         .kind = CLI_STRING,
         .value = (void *)&m->mask,
         .arg = "FILE",
         .help = "what of it may change: what is transparent, or else white"},
        {.name = "--strength",
         .kind = CLI_DOUBLE,
         .value = &m->request.strength,
         .arg = "X",
         .help = "how much of it may change, 0 to 1 (default 0.75)",
         .max = 1},
        {.name = "--format",
         .kind = CLI_STRING,
         .value = (void *)&m->format,
         .arg = "NAME",
         .help = "png, jpeg or webp (default: the ending of FILE)"},
        {.name = "--quality",
         .kind = CLI_UINT32,
         .value = &m->quality,
         .arg = "N",
         .help = "of JPEG and WebP, 1 to 100 (default 90; 100: WebP without loss)",
         .min = 1,
         .max = 100},
        image_show_option(m),
        {.name = "--watch",
         .kind = CLI_FLAG,
         .value = &m->watch,
         .help = "show unfinished pictures too; with --job, wait for the job's"},
        {.name = "--json", .kind = CLI_FLAG, .value = &m->json, .help = "print the result as JSON"},
    };
    memcpy(out, own, sizeof own);
    return sizeof own / sizeof *own;
}

int image_output_take(struct image_command *m, struct err *e)
{
    int rc = format_choose(m, e);
    return rc == 0 ? image_show_parse(m->show, &m->how, e) : rc;
}

static int options_take(struct image_command *m, const struct cli_list *rest, struct err *e)
{
    if (rest->n != 1)
        return err_set(e, ERR_INVALID, "%s; tandem image \"a red circle\" --image-model FILE",
                       rest->n == 0 ? "say what to draw" : "one prompt, in quotes");
    if (m->job && m->worker.model == NULL && m->client.server == NULL)
        m->client.server = CLIENT_SERVER;
    if (m->job && m->worker.model != NULL)
        return err_set(e, ERR_INVALID,
                       "--job is for a server, and --image-model '%.150s' draws here",
                       m->worker.model);
    if (m->worker.model == NULL && m->client.server == NULL)
        return err_set(e, ERR_INVALID,
                       "--image-model FILE is missing: which model draws; or --server URL, which "
                       "has one");
    if (m->worker.model != NULL && m->client.server != NULL)
        return err_set(e, ERR_INVALID,
                       "--image-model '%.150s' draws here and --server %.100s there; give one of "
                       "the two (they may come from TANDEM_IMAGE_MODEL and TANDEM_SERVER)",
                       m->worker.model, m->client.server);
    m->prompt = rest->items[0];
    m->request.seed = m->seed;
    m->request.previews = m->watch ? IMAGE_PREVIEWS_MAX : 0;
    int rc = image_output_take(m, e);
    if (rc == 0 && m->size != NULL)
        rc = image_size_parse(m->size, &m->request.width, &m->request.height, e);
    return rc;
}

static int image_draw(struct image_command *m, struct err *e)
{
    struct image_picture initial = {0}, mask = {0};
    char *prompt = NULL;
    int rc = image_prompt_loras(m->prompt, &m->request, &prompt, e);
    m->request.prompt = prompt;
    if (rc == 0 && m->initial != NULL)
        rc = picture_read(m->initial, &initial, false, e);
    if (rc == 0 && m->mask != NULL)
        rc = picture_read(m->mask, &mask, true, e);
    m->request.initial = m->initial != NULL ? &initial : NULL;
    m->request.mask = m->mask != NULL ? &mask : NULL;
    if (rc == 0)
        rc = image_worker_start(&m->worker, &m->w, e);
    if (rc == 0)
        rc = request_run(m, e);
    if (rc == 0 && m->json)
        result_print(m);
    image_worker_free(m->w);
    image_picture_fini(&initial);
    image_picture_fini(&mask);
    free(prompt);
    return rc;
}

static size_t server_options(struct image_command *m, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&m->client.server,
         .arg = "URL",
         .help = "have the server that runs there draw, with its image model, in place of "
                 "--image-model"},
        {.name = "--server-model",
         .kind = CLI_STRING,
         .value = (void *)&m->server_model,
         .arg = "NAME",
         .help = "which of the server's models draws, as its /v1/models calls it"},
        {.name = "--job",
         .kind = CLI_FLAG,
         .value = &m->job,
         .help = "print an id at once and let the server draw when it can; tandem image watch ID "
                 "comes back for it"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&m->client.api_key,
         .arg = "KEY",
         .help = "the server's API key, if it has one"},
    };
    memcpy(out, own, sizeof own);
    return sizeof own / sizeof *own;
}

static int image_main(int argc, char **argv)
{
    struct image_command m = {.show = "auto", .seed = IMAGE_SEED_NONE};
    struct cli_option options[OPTIONS_MAX] = {{0}};
    struct cli_list rest = {0};
    struct err e = {0};
    bool done = false;
    int code = argc > 1 ? image_jobs_run(argc - 1, argv + 1) : -1;
    if (code >= 0)
        return code;
    image_request_default(&m.request);
    size_t n = request_options(&m, options);
    n += server_options(&m, options + n);
    n += cli_image_options(&m.worker, options + n, OPTIONS_MAX - n - 1);
    options[n] = (struct cli_option){0};
    int rc = cli_parse(argc, argv, options, usage, about, &rest, &done, &e);
    if (rc == 0 && done)
        return 0;
    m.files = json_array();
    if (rc == 0)
        rc = options_take(&m, &rest, &e);
    image_signals_catch(&m);
    code = 0;
    if (rc == 0 && m.job)
        code = image_job_submit(&m);
    else if (rc == 0)
        rc = m.client.server != NULL ? image_server_draw(&m, &e) : image_draw(&m, &e);
    json_decref(m.files);
    return rc == 0 ? code : cli_fail("image", &e);
}

const struct cli_command cli_image = {"image", "draw pictures", image_main};
