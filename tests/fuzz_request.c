// The request parsers on any bytes. The first byte chooses the dialect; the rest is the body.
// What is accepted must keep its promises: limits, owned strings, a head that fits a frame.
#include "gateway/dialect.h"
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void check_accepted(const struct parse_request *r)
{
    const struct message_generate *g = &r->generate;
    struct wire_frame f;

    must(json_is_object(r->render) && json_object_size(r->render) >= 1);
    must(r->n >= 1 && r->n <= PARSE_CHOICES_MAX && r->kind <= PARSE_RENDER);
    must(json_array_size(r->more) < PARSE_INPUTS_MAX);
    if (r->kind == PARSE_CHAT || r->kind == PARSE_TEXT)
        must((1 + json_array_size(r->more)) * r->n <= PARSE_CHOICES_MAX);
    must(g->sampling.n_biases <= ENGINE_BIAS_MAX && g->logprobs <= ENGINE_LOGPROBS_MAX);
    must(g->n_stops <= PARSE_STOPS_MAX);
    for (size_t i = 0; i < g->n_stops; i++)
        must(g->stops[i][0] && strlen(g->stops[i]) <= MESSAGE_STOP_BYTES);
    must(g->sampling.top_p >= 0 && g->sampling.top_p <= 1);
    must(g->sampling.top_k >= 0 && g->sampling.repeat_penalty > 0);
    must(r->plan >= PLACE_AUTO && r->plan <= PLACE_HYBRID);
    f = wire_frame_json(WIRE_RENDER, 1, json_incref(r->render));
    must(f.head_bytes <= WIRE_HEAD_MAX);
    wire_frame_fini(&f);
}

// What the gateway makes of it must be what the worker takes.
static void check_message(const struct parse_request *r)
{
    struct message_generate g = {0};
    struct err e = {0};
    json_t *head = message_generate_json(&r->generate);

    json_object_set_new(head, "max_tokens", json_integer(1));
    must(message_generate_parse(head, &g, &e) == 0);
    message_generate_fini(&g);
    json_decref(head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct dialect *const dialects[] = {
        &dialect_text,   &dialect_chat,     &dialect_responses,       &dialect_messages,
        &dialect_count,  &dialect_ollama,   &dialect_ollama_generate, &dialect_embeddings,
        &dialect_rerank, &dialect_tokenize, &dialect_detokenize,      &dialect_template,
    };
    const struct dialect *d;
    struct parse_request r;
    struct parse_fault fault;

    if (n == 0)
        return 0;
    d = dialects[data[0] % (sizeof(dialects) / sizeof(dialects[0]))];
    if (parse_request(d, data + 1, n - 1, &r, &fault) == 0) {
        check_accepted(&r);
        check_message(&r);
    } else {
        must(fault.status == 400 || fault.status == 413);
        must(fault.e.message[0] != '\0');
    }
    parse_request_fini(&r);
    return 0;
}
