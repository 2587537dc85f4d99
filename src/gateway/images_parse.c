#include "gateway/images.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/image_markup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SEED_MAX 9007199254740991 // what every JSON reader keeps

void images_ask_fini(struct images_ask *a)
{
    json_decref(a->body);
    free(a->prompt);
    free(a->image.data);
    free(a->mask.data);
    *a = (struct images_ask){0};
}

// ---- names ------------------------------------------------------------------------------------------

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static bool same_stem(const char *file, const char *name)
{
    const char *dot = strrchr(file, '.');
    size_t n = dot ? (size_t)(dot - file) : strlen(file);

    return strlen(name) == n && strncasecmp(file, name, n) == 0;
}

bool images_goes_by(const struct images_known *known, const char *name)
{
    const char *file = known->file ? file_name(known->file) : known->name;

    return strcasecmp(name, known->name) == 0 || strcasecmp(name, file) == 0 ||
           same_stem(file, name);
}

static int model_parse(const json_t *body, const struct images_known *known,
                       struct parse_fault *fault)
{
    const char *name = NULL;
    struct err e = {0};
    int rc = json_get_string(body, "model", &name, &e);

    if (rc != 0)
        return parse_fault_set(fault, rc, "model", "%s", e.message);
    if (!name || !name[0] || !known->file || known->found || images_goes_by(known, name))
        return 0;
    parse_fault_set(fault, ERR_NOT_FOUND, "model",
                    "there is no image model \"%.100s\" here; this server has \"%.100s\"", name,
                    known->name);
    fault->status = 404;
    return ERR_NOT_FOUND;
}

// ---- members ----------------------------------------------------------------------------------------

// One of the words, or NULL where the member is absent.
static int word_get(const json_t *body, const char *member, const char *const *words,
                    const char **out, struct parse_fault *fault)
{
    const char *given = NULL;
    char list[160] = "";
    struct err e = {0};
    int rc = json_get_string(body, member, &given, &e);

    if (rc != 0)
        return parse_fault_set(fault, rc, member, "%s", e.message);
    for (size_t i = 0; given && words[i]; i++) {
        size_t n = strlen(list);

        if (strcmp(given, words[i]) == 0) {
            *out = words[i];
            return 0;
        }
        snprintf(list + n, sizeof(list) - n, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    return given ? parse_fault_set(fault, ERR_INVALID, member,
                                   "'%s' \"%.60s\" is not known; there are %s", member, given, list)
                 : 0;
}

static int number_get(const json_t *body, const char *member, int64_t min, int64_t max,
                      int64_t *out, struct parse_fault *fault)
{
    struct err e = {0};
    int rc = json_get_i64(body, member, min, max, out, &e);

    return rc == 0 ? 0 : parse_fault_set(fault, ERR_INVALID, member, "%s", e.message);
}

static int flag_get(const json_t *body, const char *member, bool *out, struct parse_fault *fault)
{
    struct err e = {0};
    int rc = json_get_bool(body, member, out, &e);

    return rc == 0 ? 0 : parse_fault_set(fault, ERR_INVALID, member, "%s", e.message);
}

static int text_get(const json_t *body, const char *member, const char **out,
                    struct parse_fault *fault)
{
    struct err e = {0};
    int rc = json_get_string(body, member, out, &e);

    return rc == 0 ? 0 : parse_fault_set(fault, ERR_INVALID, member, "%s", e.message);
}

static int size_get(const json_t *body, struct image_request *r, struct parse_fault *fault)
{
    const char *size = NULL;
    struct err e = {0};
    int rc = text_get(body, "size", &size, fault);

    if (rc != 0 || !size || strcmp(size, "auto") == 0)
        return rc;
    rc = image_size_parse(size, &r->width, &r->height, &e);
    return rc == 0 ? 0 : parse_fault_set(fault, rc, "size", "%s", e.message);
}

// Two names for one thing: OpenAI has none, and other servers each have their own.
static int cfg_get(const json_t *body, struct image_request *r, struct parse_fault *fault)
{
    const char *member = json_object_get(body, "cfg") ? "cfg" : "cfg_scale";
    struct err e = {0};
    int rc = json_get_f64(body, member, 0, IMAGE_CFG_MAX, &r->cfg, &e);

    return rc == 0 ? 0 : parse_fault_set(fault, ERR_INVALID, member, "%s", e.message);
}

static int strength_get(const json_t *body, struct image_request *r, struct parse_fault *fault)
{
    struct err e = {0};
    int rc = json_get_f64(body, "strength", 0, 1, &r->strength, &e);

    return rc == 0 ? 0 : parse_fault_set(fault, ERR_INVALID, "strength", "%s", e.message);
}

static int request_numbers(const json_t *body, struct image_request *r, struct parse_fault *fault)
{
    int64_t n = 1, steps = 0, seed = IMAGE_SEED_NONE, previews = 0;
    int rc = number_get(body, "n", 1, IMAGE_COUNT_MAX, &n, fault);

    if (rc == 0)
        rc = number_get(body, "steps", 1, IMAGE_STEPS_MAX, &steps, fault);
    if (rc == 0)
        rc = number_get(body, "seed", IMAGE_SEED_NONE, SEED_MAX, &seed, fault);
    if (rc == 0)
        rc = number_get(body, "partial_images", 0, IMAGE_PREVIEWS_MAX, &previews, fault);
    if (rc == 0)
        rc = size_get(body, r, fault);
    if (rc == 0)
        rc = cfg_get(body, r, fault);
    if (rc == 0)
        rc = strength_get(body, r, fault);
    r->count = (uint32_t)n;
    r->steps = (uint32_t)steps;
    r->seed = seed;
    r->previews = (uint32_t)previews;
    return rc;
}

// For other servers what such a one would execute is taken out; here the LoRAs of our own folder are.
static int prompt_read(const char *prompt, bool remote, struct images_ask *a,
                       struct parse_fault *fault)
{
    struct err e = {0};

    if (remote)
        a->prompt = image_markup_strip(prompt);
    else if (image_prompt_loras(prompt, &a->request, &a->prompt, &e) != 0)
        return parse_fault_set(fault, ERR_INVALID, "prompt", "%s", e.message);
    if (prompt[0] && remote && a->prompt[strspn(a->prompt, " \t\r\n")] == '\0')
        return parse_fault_set(fault, ERR_INVALID, "prompt",
                               "prompt has nothing but markup, which is not sent to other servers; "
                               "say what to draw");
    return 0;
}

static int request_texts(const json_t *body, bool remote, struct images_ask *a,
                         struct parse_fault *fault)
{
    const char *prompt = NULL;
    int rc = text_get(body, "prompt", &prompt, fault);

    if (rc == 0 && !prompt)
        rc = parse_fault_set(fault, ERR_INVALID, "prompt", "'prompt' is missing: say what to draw");
    // Before it is looked through for LoRAs.
    if (rc == 0 && strlen(prompt) > IMAGE_PROMPT_MAX)
        rc = parse_fault_set(fault, ERR_INVALID, "prompt",
                             "prompt has %zu bytes; at most %u are allowed", strlen(prompt),
                             IMAGE_PROMPT_MAX);
    if (rc == 0)
        rc = text_get(body, "negative_prompt", &a->request.negative, fault);
    if (rc == 0)
        rc = text_get(body, "sampler", &a->request.sampler, fault);
    if (rc == 0)
        rc = text_get(body, "scheduler", &a->request.scheduler, fault);
    if (rc == 0)
        rc = prompt_read(prompt, remote, a, fault);
    a->request.prompt = a->prompt;
    return rc;
}

// ---- how it is told -----------------------------------------------------------------------------------

static int format_get(const json_t *body, struct images_ask *a, struct parse_fault *fault)
{
    static const char *const formats[] = {"png", "jpeg", "webp", NULL};
    const char *format = "png";
    int64_t compression = 100;
    struct err e = {0};
    int rc = word_get(body, "output_format", formats, &format, fault);

    if (rc == 0)
        rc = number_get(body, "output_compression", 0, 100, &compression, fault);
    if (rc == 0)
        rc = image_format_parse(format, &a->format, &e);
    // Our default is what a picture is good for; 100 is OpenAI's, where nobody said anything.
    if (json_is_integer(json_object_get(body, "output_compression")))
        a->compression = compression > 0 ? (uint32_t)compression : 1;
    return rc;
}

static int answer_words(const json_t *body, struct images_ask *a, struct parse_fault *fault)
{
    static const char *const responses[] = {"b64_json", "url", NULL};
    static const char *const styles[] = {"vivid", "natural", NULL};
    static const char *const moderations[] = {"auto", "low", NULL};
    static const char *const backgrounds[] = {"auto", "opaque", "transparent", NULL};
    const char *response = "b64_json", *ignored = NULL;
    int rc = word_get(body, "response_format", responses, &response, fault);

    a->background = "opaque";
    if (rc == 0)
        rc = word_get(body, "style", styles, &ignored, fault);
    if (rc == 0)
        rc = word_get(body, "moderation", moderations, &ignored, fault);
    if (rc == 0)
        rc = word_get(body, "background", backgrounds, &a->background, fault);
    if (rc == 0 && strcmp(a->background, "transparent") == 0)
        rc = parse_fault_set(fault, ERR_UNSUPPORTED, "background",
                             "'background' \"transparent\" is not possible: the model draws opaque "
                             "pictures; say \"opaque\" or \"auto\"");
    a->background = "opaque";
    a->url = strcmp(response, "url") == 0;
    return rc;
}

static int answer_flags(const json_t *body, struct images_ask *a, struct parse_fault *fault)
{
    bool store = true;
    int rc = flag_get(body, "stream", &a->stream, fault);

    if (rc == 0)
        rc = flag_get(body, "progress", &a->progress, fault);
    if (rc == 0)
        rc = flag_get(body, "store", &store, fault);
    if (rc == 0 && a->url && !store)
        rc = parse_fault_set(fault, ERR_INVALID, "response_format",
                             "\"url\" keeps the picture for a while, and 'store' is false; ask for "
                             "\"b64_json\"");
    if (rc == 0 && a->request.previews > 0 && !a->stream)
        rc = parse_fault_set(fault, ERR_INVALID, "partial_images",
                             "'partial_images' come in a stream only; add \"stream\": true");
    return rc;
}

// Fewer steps are quicker and coarser. What the request says of steps itself stands.
static int quality_get(const json_t *body, const struct images_known *known, struct images_ask *a,
                       struct parse_fault *fault)
{
    static const char *const words[] = {"auto", "low", "medium", "high", "standard", "hd", NULL};
    const char *word = "auto";
    uint32_t steps = known->model->steps;
    int rc = word_get(body, "quality", words, &word, fault);

    a->quality = strcmp(word, "hd") == 0                                      ? "high"
                 : strcmp(word, "auto") == 0 || strcmp(word, "standard") == 0 ? "medium"
                                                                              : word;
    if (strcmp(a->quality, "low") == 0)
        steps = steps / 2 > 0 ? steps / 2 : 1;
    else if (strcmp(a->quality, "high") == 0)
        steps += steps / 2;
    if (a->request.steps == 0 && known->file)
        a->request.steps = steps < IMAGE_STEPS_MAX ? steps : IMAGE_STEPS_MAX;
    return rc;
}

// ---- as a whole -----------------------------------------------------------------------------------------

// Which member a complaint of image_request_check is about: its first word, mostly.
const char *images_param_of(const char *message)
{
    static const char *const members[] = {
        "prompt",  "negative_prompt", "size", "n",    "steps",    "cfg",
        "sampler", "strength",        "seed", "mask", "scheduler"};
    size_t n = strcspn(message, " :");

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (strlen(members[i]) == n && strncmp(message, members[i], n) == 0)
            return members[i];
    if (strncmp(message, "LoRA", 4) == 0)
        return "prompt";
    return strstr(message, "mask") ? "mask" : strstr(message, "picture") ? "image" : NULL;
}

// PNG may take a little more than the pixels, and base64 a third more than that.
static int body_check(const struct image_request *r, const struct images_ask *a,
                      struct parse_fault *fault)
{
    uint64_t one = (uint64_t)r->width * r->height * 3 + (64u << 10), all = one * r->count / 3 * 4;

    if (a->url || a->stream || all <= REPLY_BODY_MAX - (64u << 10))
        return 0;
    return parse_fault_set(fault, ERR_INVALID, "n",
                           "%u pictures of %ux%u may be %llu MB in one answer, and %u MB are the "
                           "most; ask for fewer, for \"response_format\": \"url\" or a stream",
                           r->count, r->width, r->height, (unsigned long long)(all >> 20),
                           REPLY_BODY_MAX >> 20);
}

// Against the model, without a picture: that is decoded later, by another thread.
static int model_check(const struct images_ask *a, const struct images_known *known,
                       struct parse_fault *fault)
{
    struct image_request r = a->request; // what it leaves open is filled in when it is submitted
    struct err e = {0};
    int rc = image_request_check(&r, known->model, &e);

    if (rc != 0)
        return parse_fault_set(fault, rc, images_param_of(e.message), "%s", e.message);
    return body_check(&r, a, fault);
}

int images_ask_parse(json_t *body, bool edit, const struct images_known *known,
                     struct images_ask *out, struct parse_fault *fault)
{
    int rc = 0;

    *fault = (struct parse_fault){.status = 400};
    out->body = body;
    out->edit = edit;
    image_request_default(&out->request);
    if (!json_is_object(body))
        return parse_fault_set(fault, ERR_INVALID, NULL, "the body must be a JSON object");
    rc = model_parse(body, known, fault);
    if (rc == 0)
        rc = request_texts(body, known->file == NULL, out, fault);
    if (rc == 0)
        rc = request_numbers(body, &out->request, fault);
    if (rc == 0)
        rc = format_get(body, out, fault);
    if (rc == 0)
        rc = answer_words(body, out, fault);
    if (rc == 0)
        rc = answer_flags(body, out, fault);
    if (rc == 0)
        rc = quality_get(body, known, out, fault);
    if (rc == 0 && edit && !known->model->edits)
        rc = parse_fault_set(fault, ERR_UNSUPPORTED, "model",
                             "\"%.100s\" cannot edit: its layout (%s) takes no picture to begin "
                             "with",
                             known->name, known->model->layout);
    if (rc == 0 && edit && !out->files_later && !out->image.data)
        rc = parse_fault_set(fault, ERR_INVALID, "image",
                             "the field \"image\" is missing from the form: the picture to edit");
    return rc == 0 ? model_check(out, known, fault) : rc;
}
