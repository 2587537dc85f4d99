// For the tests of pictures over HTTP: a gateway with an image worker, what it says of it, and what it keeps. The worker
// is the real process with its fake engine.
#ifndef TESTS_GATEWAY_IMAGES_H
#define TESTS_GATEWAY_IMAGES_H

#include "gateway_fake.h"

#include "base/base64.h"
#include "gateway/images.h"
#include "image/image.h"
#include "scratch.h"

#include <dirent.h>

#define CREATE "/v1/images/generations"
#define EDIT "/v1/images/edits"

static UNUSED void start(struct stage *s, const char *model)
{
    stage_init(s);
    s->options.images.worker.model = model;
    stage_start(s, false);
}

static UNUSED json_t *ask(struct stage *s, const char *path, const char *body, int status)
{
    struct web w = web_post(s->port, path, body);

    return finish_json(&w, status);
}

static UNUSED json_t *status_get(struct stage *s)
{
    struct web_answer a = web_get(s->port, "/v1/tandem/status");
    json_t *v = parse(a.body);
    json_t *images = json_incref(at(v, "images"));

    assert_int_equal(a.status, 200);
    json_decref(v);
    web_answer_fini(&a);
    return images;
}

static UNUSED json_int_t figure(struct stage *s, const char *member)
{
    json_t *v = status_get(s), *m = json_object_get(v, member);
    json_int_t n = json_is_boolean(m) ? json_is_true(m) : json_integer_value(m);

    json_decref(v);
    return n;
}

static UNUSED void await(struct stage *s, const char *member, json_int_t value)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    while (figure(s, member) != value) {
        if (clock_now_ns() > limit_ns)
            fail_msg("%s is never %lld", member, (long long)value);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

// A picture's bytes out of an answer; caller frees.
static UNUSED uint8_t *bytes_of(json_t *answer, const char *path, size_t *n)
{
    const char *text = text_at(answer, path);
    uint8_t *data = mem_alloc(strlen(text) / 4 * 3 + 4);
    size_t bad;

    assert_true(base64_decode(text, strlen(text), data, n, &bad));
    return data;
}

static UNUSED const char *path_of(json_t *v)
{
    const char *path = strstr(text_at(v, "data.0.url"), "/v1/images/files/");

    assert_non_null(path);
    return path;
}

static UNUSED size_t files_kept(void)
{
    char path[128];
    size_t n = 0;
    const struct dirent *entry;

    snprintf(path, sizeof(path), "%s/images", scratch_home);
    DIR *d = opendir(path);
    while (d && (entry = readdir(d)))
        n += entry->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static UNUSED bool tests_are_skipped(void)
{
    bool skipped = getenv("TANDEM_EMULATED") != NULL;

    if (skipped)
        print_message("skipped: the image worker cannot be started under emulation\n");
    return skipped;
}

#endif
