#include "gateway/parse.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/dialect.h"
#include "gateway/parse_impl.h"
#include "gateway/parse_media.h"
#include "wire/wire.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- faults -----------------------------------------------------------------------------------------

static int fault_at(struct parse_fault *fault, const char *param)
{
    fault->status = 400;
    snprintf(fault->param, sizeof(fault->param), "%s", param ? param : "");
    return fault->e.code;
}

// Adds what the client sent, cut short.
static void fault_got(struct parse_fault *fault, const json_t *v)
{
    char *text = json_line(v ? v : json_null());
    size_t used = strlen(fault->e.message);

    snprintf(fault->e.message + used, sizeof(fault->e.message) - used, " (got %.80s%s)", text,
             strlen(text) > 80 ? "..." : "");
    free(text);
}

int parse_fault_set(struct parse_fault *fault, int code, const char *param, const char *format, ...)
{
    char message[ERR_MESSAGE_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    err_set(&fault->e, code, "%s", message);
    return fault_at(fault, param);
}

int parse_fault_value(struct parse_fault *fault, const char *param, const char *wanted,
                      const json_t *v)
{
    err_set(&fault->e, ERR_INVALID, "'%s' must be %s", param, wanted);
    fault_got(fault, v);
    return fault_at(fault, param);
}

int parser_fault_member(struct parser *p, const json_t *object, const char *member)
{
    fault_got(p->fault, json_object_get(object, member));
    return fault_at(p->fault, member);
}

int parser_fault_number(struct parser *p, const char *member, bool right_type)
{
    return right_type ? fault_at(p->fault, member) : parser_fault_member(p, p->body, member);
}

int parser_integer(struct parser *p, const char *member, int64_t min, int64_t max, int64_t *out)
{
    if (json_get_i64(p->body, member, min, max, out, &p->fault->e) != 0)
        return parser_fault_number(p, member, json_is_integer(json_object_get(p->body, member)));
    return 0;
}

// ---- lengths -----------------------------------------------------------------------------------

static int parse_n(struct parser *p, const char *member)
{
    int64_t n = 1;

    if (parser_integer(p, member, 1, PARSE_CHOICES_MAX, &n) != 0)
        return p->fault->e.code;
    p->out->n = (uint32_t)n;
    return 0;
}

// -1 means "as many as fit", as llama.cpp's server has it.
static int parse_max_tokens(struct parser *p, const char *member)
{
    int64_t n = -1;

    if (!json_member(p->body, member))
        return 0;
    if (parser_integer(p, member, -1, INT64_MAX, &n) != 0)
        return p->fault->e.code;
    if (n == 0)
        return FAULT(p, member, "'%s' must be at least 1, or -1 for as many as fit (got 0)",
                     member);
    p->out->max_tokens = n < 0 || n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    return 0;
}

// ---- switches -------------------------------------------------------------------------------------

int parser_flag(struct parser *p, const json_t *object, const char *member, bool *out)
{
    if (json_get_bool(object, member, out, &p->fault->e) != 0)
        return parser_fault_member(p, object, member);
    return 0;
}

static int parse_stream(struct parser *p, const char *member)
{
    return parser_flag(p, p->body, member, &p->out->stream);
}

static int parse_ignore_eos(struct parser *p, const char *member)
{
    return parser_flag(p, p->body, member, &p->out->generate.ignore_eos);
}

static int parse_cache_prompt(struct parser *p, const char *member)
{
    return parser_flag(p, p->body, member, &p->out->generate.reuse);
}

static int parse_store(struct parser *p, const char *member)
{
    return parser_flag(p, p->body, member, &p->out->generate.keep);
}

static int parse_stream_options(struct parser *p, const char *member)
{
    json_t *options = NULL;

    if (json_get_object(p->body, member, &options, &p->fault->e) != 0)
        return parser_fault_member(p, p->body, member);
    return options ? parser_flag(p, options, "include_usage", &p->out->include_usage) : 0;
}

// ---- placement ----------------------------------------------------------------------------------------

static int parse_plan(struct parser *p, json_t *tandem)
{
    const char *plan = NULL;

    if (json_get_string(tandem, "plan", &plan, &p->fault->e) != 0)
        return parser_fault_member(p, tandem, "plan");
    if (plan && !place_kind_parse(plan, &p->out->plan))
        return FAULT(p, "tandem.plan",
                     "'tandem.plan' is \"%.40s\"; it can be hybrid, serial, local, remote or auto",
                     plan);
    return 0;
}

static int parse_policy(struct parser *p, json_t *tandem)
{
    const char *policy = NULL;

    if (json_get_string(tandem, "policy", &policy, &p->fault->e) != 0)
        return parser_fault_member(p, tandem, "policy");
    p->out->has_policy = policy != NULL;
    if (policy && !place_policy_parse(policy, &p->out->policy))
        return FAULT(p, "tandem.policy",
                     "'tandem.policy' is \"%.40s\"; it can be latency, throughput, energy, cost or "
                     "slo",
                     policy);
    return 0;
}

// Seconds of a service level; 0 or absent: the server's.
static int parse_limit(struct parser *p, json_t *tandem, const char *member, double *out)
{
    const json_t *v = json_member(tandem, member);
    char name[PARSE_PARAM_BYTES];

    if (!v)
        return 0;
    *out = json_number_value(v);
    if (json_is_number(v) && *out >= 0 && *out <= 1e6)
        return 0;
    snprintf(name, sizeof(name), "tandem.%s", member);
    return parse_fault_value(p->fault, name, "seconds, 0 to 1000000", v);
}

static int parse_node(struct parser *p, json_t *tandem, const char *member,
                      char out[PARSE_NODE_BYTES])
{
    const char *name = NULL;

    if (json_get_string(tandem, member, &name, &p->fault->e) != 0)
        return parser_fault_member(p, tandem, member);
    if (name && (size_t)snprintf(out, PARSE_NODE_BYTES, "%s", name) >= PARSE_NODE_BYTES)
        return FAULT(p, "tandem", "'tandem.%s' is longer than %d bytes", member,
                     PARSE_NODE_BYTES - 1);
    return 0;
}

static int parse_tandem(struct parser *p, const char *member)
{
    json_t *tandem = NULL;

    if (json_get_object(p->body, member, &tandem, &p->fault->e) != 0)
        return parser_fault_member(p, p->body, member);
    if (!tandem)
        return 0;
    if (parse_plan(p, tandem) != 0 || parse_policy(p, tandem) != 0 ||
        parse_limit(p, tandem, "ttft_s", &p->out->slo_ttft_s) != 0 ||
        parse_limit(p, tandem, "token_s", &p->out->slo_token_s) != 0 ||
        parse_node(p, tandem, "decode_node", p->out->decode_node) != 0 ||
        parse_node(p, tandem, "prefill_node", p->out->prefill_node) != 0)
        return p->fault->e.code;
    return parser_flag(p, tandem, "timeline", &p->out->generate.timeline);
}

// ---- what is not supported ----------------------------------------------------------------------------

static bool is_one(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) == 1;
}

static bool is_false(const json_t *v)
{
    return json_is_false(v);
}

static bool is_empty(const json_t *v)
{
    return (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0);
}

static bool is_none(const json_t *v)
{
    return json_is_string(v) && strcmp(json_string_value(v), "none") == 0;
}

static bool is_text_alone(const json_t *v)
{
    return json_array_size(v) == 1 && json_is_string(json_array_get(v, 0)) &&
           strcmp(json_string_value(json_array_get(v, 0)), "text") == 0;
}

static const struct unsupported {
    const char *name;
    bool (*harmless)(const json_t *v);
    const char *instead;
} unsupported[] = {
    {"best_of", is_one, "the best of several answers is not looked for; \"n\" gives several"},
    {"echo", is_false, "the prompt is not repeated in the answer"},
    {"suffix", is_empty, "filling in the middle is not supported"},
    {"functions", is_empty, "this older form is not taken; send \"tools\""},
    {"function_call", is_none, "this older form is not taken; send \"tool_choice\""},
    {"modalities", is_text_alone, "this server answers with text alone"},
    {"audio", is_empty, "this server answers with text alone"},
};

static int parse_unsupported(struct parser *p)
{
    for (size_t i = 0; i < sizeof(unsupported) / sizeof(unsupported[0]); i++) {
        const struct unsupported *u = &unsupported[i];

        if (!json_member(p->body, u->name) || u->harmless(json_object_get(p->body, u->name)))
            continue;
        err_set(&p->fault->e, ERR_UNSUPPORTED, "'%s': %s", u->name, u->instead);
        return parser_fault_member(p, p->body, u->name);
    }
    return 0;
}

// ---- all of it ----------------------------------------------------------------------------------------------

int parse_model(const json_t *body, struct parse_request *out, struct parse_fault *fault)
{
    struct parser p = {.body = body, .out = out, .fault = fault};

    if (json_copy_string(body, "model", out->model, sizeof(out->model), &fault->e) != 0)
        return parser_fault_member(&p, body, "model");
    return 0;
}

// In this order: of several names of one thing the last one given counts.
static const struct parser_member members[] = {
    {"n", parse_n},
    {"n_predict", parse_max_tokens},
    {"max_tokens", parse_max_tokens},
    {"max_completion_tokens", parse_max_tokens},
    {"stream", parse_stream},
    {"stream_options", parse_stream_options},
    {"ignore_eos", parse_ignore_eos},
    {"cache_prompt", parse_cache_prompt},
    {"store", parse_store},
    {"tandem", parse_tandem},
};

int parser_members(struct parser *p, const struct parser_member *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].parse(p, list[i].name) != 0)
            return p->fault->e.code;
    return 0;
}

static int choices_check(struct parser *p)
{
    size_t prompts = 1 + json_array_size(p->out->more);

    if (prompts * p->out->n > PARSE_CHOICES_MAX)
        return FAULT(p, "n",
                     "'n' is %u for %zu prompts; at most %d answers are made of one request",
                     p->out->n, prompts, PARSE_CHOICES_MAX);
    return 0;
}

int parse_openai(const json_t *body, enum parse_kind kind, struct parse_request *out,
                 struct parse_fault *fault)
{
    struct parser p = {body, kind, out, fault};

    out->kind = kind;
    if (parse_model(body, out, fault) != 0 || parse_unsupported(&p) != 0 ||
        parser_members(&p, members, sizeof(members) / sizeof(members[0])) != 0 ||
        parser_sampling(&p) != 0 || parser_tools(&p) != 0 || parser_format(&p) != 0 ||
        parser_source(&p) != 0 || choices_check(&p) != 0)
        return fault->e.code;
    return parse_size_check(out, kind == PARSE_CHAT ? "messages" : "prompt", fault);
}

// A byte more than it says is never written: jansson counts what it would write.
static size_t head_bytes(const json_t *head)
{
    return json_dumpb(head, NULL, 0, JSON_COMPACT);
}

int parse_size_check(const struct parse_request *out, const char *param, struct parse_fault *fault)
{
    size_t bytes = head_bytes(out->render);

    for (size_t i = 0; i < json_array_size(out->more); i++) {
        size_t n = head_bytes(json_array_get(out->more, i));

        bytes = n > bytes ? n : bytes;
    }
    if (bytes > 0 && bytes <= WIRE_HEAD_MAX)
        return 0;
    parse_fault_set(fault, ERR_RANGE, param, "'%s' takes %zu bytes as JSON, at most %u are taken",
                    param, bytes, WIRE_HEAD_MAX);
    fault->status = 413;
    return ERR_RANGE;
}

int parse_request(const struct dialect *dialect, const void *body, size_t n,
                  struct parse_request *out, struct parse_fault *fault)
{
    json_t *root;
    int rc;

    memset(fault, 0, sizeof(*fault));
    memset(out, 0, sizeof(*out));
    out->dialect = dialect;
    out->n = 1;
    out->generate.keep = out->generate.reuse = true;
    out->generate.logprobs = -1;
    engine_sampling_default(&out->generate.sampling);
    root = json_parse(body, n, &fault->e);
    if (!root) {
        fault->status = 400;
        return fault->e.code;
    }
    rc = json_is_object(root)
             ? dialect->parse(root, out, fault)
             : parse_fault_set(fault, ERR_INVALID, NULL, "the body must be a JSON object");
    json_decref(root);
    return rc;
}

void parse_request_fini(struct parse_request *r)
{
    message_generate_fini(&r->generate);
    media_fini(r);
    json_decref(r->echo);
    json_decref(r->render);
    json_decref(r->more);
    json_decref(r->asked);
    r->echo = r->render = r->more = r->asked = NULL;
}
