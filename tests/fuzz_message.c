// Control messages from bytes of a peer: nothing crashes, and whatever one of the parsers accepts
// reads the same after it was written again.
#include "base/json.h"
#include "node/message.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

// Parsing what was just written must succeed and give the same text.
static void same_or_abort(json_t *once, json_t *twice)
{
    if (once == NULL || twice == NULL || !json_equal(once, twice))
        abort();
    json_decref(once);
    json_decref(twice);
}

static void generate_try(const json_t *o)
{
    struct message_generate m, again;
    if (message_generate_parse(o, &m, NULL) != 0)
        return;
    json_t *once = message_generate_json(&m), *twice = NULL;
    if (message_generate_parse(once, &again, NULL) == 0) {
        twice = message_generate_json(&again);
        message_generate_fini(&again);
    }
    same_or_abort(once, twice);
    message_generate_fini(&m);
}

static void prefill_try(const json_t *o)
{
    struct message_prefill m, again;
    if (message_prefill_parse(o, &m, NULL) != 0)
        return;
    json_t *once = message_prefill_json(&m);
    bool ok = message_prefill_parse(once, &again, NULL) == 0;
    same_or_abort(once, ok ? message_prefill_json(&again) : NULL);
}

static void hello_try(const json_t *o)
{
    struct message_hello m, again;
    if (message_hello_parse(o, &m, NULL) != 0)
        return;
    json_t *once = message_hello_json(&m);
    bool ok = message_hello_parse(once, &again, NULL) == 0;
    same_or_abort(once, ok ? message_hello_json(&again) : NULL);
}

static void welcome_try(const json_t *o)
{
    struct message_welcome m, again;
    if (message_welcome_parse(o, &m, NULL) != 0)
        return;
    json_t *once = message_welcome_json(&m);
    bool ok = message_welcome_parse(once, &again, NULL) == 0;
    same_or_abort(once, ok ? message_welcome_json(&again) : NULL);
}

static void cost_try(const json_t *o)
{
    struct message_cost m, again;
    if (message_cost_parse(o, &m, NULL) != 0)
        return;
    json_t *head = json_pack("{s:o}", "cost", message_cost_json(&m));
    bool ok = message_cost_parse(head, &again, NULL) == 0;
    same_or_abort(message_cost_json(&m), ok ? message_cost_json(&again) : NULL);
    json_decref(head);
}

static void measured_try(const json_t *o)
{
    struct message_measured m, again;
    if (message_measured_parse(o, &m, NULL) != 0)
        return;
    json_t *once = message_measured_json(&m);
    bool ok = message_measured_parse(once, &again, NULL) == 0;
    same_or_abort(once, ok ? message_measured_json(&again) : NULL);
}

static void link_try(const json_t *o)
{
    struct message_measure_link ask, ask_again;
    struct message_measured_link told, told_again;
    struct message_probe probe, probe_again;
    if (message_measure_link_parse(o, &ask, NULL) == 0) {
        json_t *once = message_measure_link_json(&ask);
        bool ok = message_measure_link_parse(once, &ask_again, NULL) == 0;
        same_or_abort(once, ok ? message_measure_link_json(&ask_again) : NULL);
    }
    if (message_measured_link_parse(o, &told, NULL) == 0) {
        json_t *once = message_measured_link_json(&told);
        bool ok = message_measured_link_parse(once, &told_again, NULL) == 0;
        same_or_abort(once, ok ? message_measured_link_json(&told_again) : NULL);
    }
    if (message_probe_parse(o, &probe, NULL) == 0) {
        json_t *once = message_probe_json(&probe);
        bool ok = message_probe_parse(once, &probe_again, NULL) == 0;
        same_or_abort(once, ok ? message_probe_json(&probe_again) : NULL);
    }
}

static void draw_try(json_t *o)
{
    struct image_picture any = {0};
    struct message_draw m, again;
    if (message_draw_parse(o, &m, NULL) != 0)
        return;
    if (message_draw_bytes(&m) > 2 * 3 * (size_t)IMAGE_PIXELS_MAX)
        abort();
    m.request.initial = m.initial ? &any : NULL;
    m.request.mask = m.mask ? &any : NULL;
    json_t *once = message_draw_json(&m.request), *twice = NULL;
    if (message_draw_parse(once, &again, NULL) == 0) {
        again.request.initial = again.initial ? &any : NULL;
        again.request.mask = again.mask ? &any : NULL;
        twice = message_draw_json(&again.request);
        message_draw_fini(&again);
    }
    same_or_abort(once, twice);
    message_draw_fini(&m);
}

static void picture_try(const json_t *o)
{
    struct message_canvas_state canvas, canvas_again;
    struct message_drawing step, step_again;
    struct message_picture m, again;
    double draw_s = 0;
    if (message_picture_parse(o, &m, NULL) == 0) {
        json_t *once = message_picture_json(&m);
        bool ok = message_picture_parse(once, &again, NULL) == 0;
        same_or_abort(once, ok ? message_picture_json(&again) : NULL);
    }
    if (message_drawing_parse(o, &step, NULL) == 0) {
        json_t *once = message_drawing_json(&step);
        bool ok = message_drawing_parse(once, &step_again, NULL) == 0;
        same_or_abort(once, ok ? message_drawing_json(&step_again) : NULL);
    }
    if (message_canvas_state_parse(o, &canvas, NULL) == 0) {
        json_t *once = message_canvas_state_json(&canvas);
        bool ok = message_canvas_state_parse(once, &canvas_again, NULL) == 0;
        same_or_abort(once, ok ? message_canvas_state_json(&canvas_again) : NULL);
    }
    message_drawn_parse(o, &draw_s, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_t *o = json_parse(data, n, NULL);
    if (o == NULL)
        return 0;
    generate_try(o);
    prefill_try(o);
    hello_try(o);
    welcome_try(o);
    cost_try(o);
    measured_try(o);
    link_try(o);
    draw_try(o);
    picture_try(o);
    json_decref(o);
    return 0;
}
