#include "gateway/parse.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"
#include "wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One parse in progress. The first fault stays; everything after it is skipped by its caller.
struct parser {
    const json_t *body;
    struct parse_request *out;
    struct parse_fault *fault;
};

typedef int parse_function(struct parser *p, const char *member);

static int fault_set(struct parser *p, const char *member)
{
    p->fault->status = 400;
    snprintf(p->fault->param, sizeof(p->fault->param), "%s", member);
    return p->fault->e.code;
}

// Adds what the client sent, cut short, to a message that names only the member.
static int fault_value(struct parser *p, const json_t *object, const char *member)
{
    const json_t *v = json_object_get(object, member);
    char *text = json_line(v ? v : json_null());
    size_t used = strlen(p->fault->e.message);

    snprintf(p->fault->e.message + used, sizeof(p->fault->e.message) - used, " (got %.80s%s)", text,
             strlen(text) > 80 ? "..." : "");
    free(text);
    return fault_set(p, member);
}

// As fault_value, where a value that is of the right type stands in the message already: then it is
// its range that was wrong.
static int fault_number(struct parser *p, const char *member, bool right_type)
{
    return right_type ? fault_set(p, member) : fault_value(p, p->body, member);
}

#define FAULT(p, member, ...)                                                                      \
    (err_set(&(p)->fault->e, ERR_INVALID, __VA_ARGS__), fault_set((p), (member)))

static bool is_set(const json_t *body, const char *member)
{
    const json_t *v = json_object_get(body, member);

    return v && !json_is_null(v);
}

// ---- numbers ------------------------------------------------------------------------------------

struct number {
    const char *name;
    double min, max;
    size_t at; // of a float in struct engine_sampling
};

#define SAMPLING(member) offsetof(struct engine_sampling, member)

static const struct number numbers[] = {
    {"temperature", 0, 100, SAMPLING(temperature)},
    {"top_p", 0, 1, SAMPLING(top_p)},
    {"min_p", 0, 1, SAMPLING(min_p)},
    {"repeat_penalty", 0.01, 100, SAMPLING(repeat_penalty)},
    {"frequency_penalty", -2, 2, SAMPLING(frequency_penalty)},
    {"presence_penalty", -2, 2, SAMPLING(presence_penalty)},
};

static int parse_numbers(struct parser *p)
{
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const struct number *n = &numbers[i];
        float *at = (float *)(void *)((char *)&p->out->generate.sampling + n->at);
        double value = (double)*at;

        if (json_get_f64(p->body, n->name, n->min, n->max, &value, &p->fault->e) != 0)
            return fault_number(p, n->name, json_is_number(json_object_get(p->body, n->name)));
        *at = (float)value;
    }
    return 0;
}

static int parse_integer(struct parser *p, const char *member, int64_t min, int64_t max,
                         int64_t *out)
{
    if (json_get_i64(p->body, member, min, max, out, &p->fault->e) != 0)
        return fault_number(p, member, json_is_integer(json_object_get(p->body, member)));
    return 0;
}

static int parse_top_k(struct parser *p, const char *member)
{
    int64_t k = p->out->generate.sampling.top_k;

    if (parse_integer(p, member, -1, INT32_MAX, &k) != 0)
        return p->fault->e.code;
    p->out->generate.sampling.top_k = k < 0 ? 0 : (int32_t)k;
    return 0;
}

// Absent, null or -1: a random one. Clients send 64-bit seeds; the engine takes 32 bits of them.
static int parse_seed(struct parser *p, const char *member)
{
    int64_t seed = -1;
    uint32_t folded;

    if (parse_integer(p, member, -1, INT64_MAX, &seed) != 0)
        return p->fault->e.code;
    if (seed < 0)
        os_random(&folded, sizeof(folded));
    else
        folded = (uint32_t)((uint64_t)seed ^ (uint64_t)seed >> 32);
    p->out->generate.sampling.seed = folded;
    return 0;
}

// -1 means "as many as fit", as llama.cpp's server has it.
static int parse_max_tokens(struct parser *p, const char *member)
{
    int64_t n = -1;

    if (!is_set(p->body, member))
        return 0;
    if (parse_integer(p, member, -1, INT64_MAX, &n) != 0)
        return p->fault->e.code;
    if (n == 0)
        return FAULT(p, member, "'%s' must be at least 1, or -1 for as many as fit (got 0)",
                     member);
    p->out->max_tokens = n < 0 || n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    return 0;
}

// ---- switches -------------------------------------------------------------------------------------

static int parse_flag(struct parser *p, const json_t *object, const char *member, bool *out)
{
    if (json_get_bool(object, member, out, &p->fault->e) != 0)
        return fault_value(p, object, member);
    return 0;
}

static int parse_stream(struct parser *p, const char *member)
{
    return parse_flag(p, p->body, member, &p->out->stream);
}

static int parse_ignore_eos(struct parser *p, const char *member)
{
    return parse_flag(p, p->body, member, &p->out->generate.ignore_eos);
}

static int parse_stream_options(struct parser *p, const char *member)
{
    json_t *options = NULL;

    if (json_get_object(p->body, member, &options, &p->fault->e) != 0)
        return fault_value(p, p->body, member);
    return options ? parse_flag(p, options, "include_usage", &p->out->include_usage) : 0;
}

static int parse_model(struct parser *p, const char *member)
{
    if (json_copy_string(p->body, member, p->out->model, sizeof(p->out->model), &p->fault->e) != 0)
        return fault_value(p, p->body, member);
    return 0;
}

static int parse_tandem(struct parser *p, const char *member)
{
    json_t *tandem = NULL;
    const char *plan = NULL;

    if (json_get_object(p->body, member, &tandem, &p->fault->e) != 0)
        return fault_value(p, p->body, member);
    if (!tandem)
        return 0;
    if (json_get_string(tandem, "plan", &plan, &p->fault->e) != 0)
        return fault_value(p, tandem, "plan");
    if (plan && !sched_plan_parse(plan, &p->out->plan))
        return FAULT(p, "tandem.plan",
                     "'tandem.plan' is \"%.40s\"; it can be hybrid, serial, local, remote or auto",
                     plan);
    return parse_flag(p, tandem, "timeline", &p->out->generate.timeline);
}

// ---- stop strings and grammar -----------------------------------------------------------------------

static int stop_add(struct parser *p, const char *member, const json_t *v)
{
    struct message_generate *g = &p->out->generate;

    if (!json_is_string(v) || json_string_length(v) == 0 ||
        json_string_length(v) > MESSAGE_STOP_BYTES) {
        err_set(&p->fault->e, ERR_INVALID, "'%s' must hold strings of 1 to %d bytes", member,
                MESSAGE_STOP_BYTES);
        return fault_value(p, p->body, member);
    }
    g->stops[g->n_stops++] = mem_strdup(json_string_value(v));
    return 0;
}

static int parse_stop(struct parser *p, const char *member)
{
    const json_t *v = json_object_get(p->body, member);

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_array(v))
        return stop_add(p, member, v);
    if (json_array_size(v) > MESSAGE_STOPS_MAX)
        return FAULT(p, member, "'%s' has %zu strings, at most %d are taken", member,
                     json_array_size(v), MESSAGE_STOPS_MAX);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (stop_add(p, member, json_array_get(v, i)) != 0)
            return p->fault->e.code;
    return 0;
}

static int parse_grammar(struct parser *p, const char *member)
{
    const char *text = NULL;

    if (json_get_string(p->body, member, &text, &p->fault->e) != 0)
        return fault_value(p, p->body, member);
    if (!text || text[0] == '\0')
        return 0;
    if (strlen(text) > PARSE_GRAMMAR_MAX)
        return FAULT(p, member, "'%s' has %zu bytes, at most %u are taken", member, strlen(text),
                     PARSE_GRAMMAR_MAX);
    if (is_set(p->body, "response_format"))
        return FAULT(p, member, "'%s' and 'response_format' exclude each other", member);
    p->out->generate.grammar = mem_strdup(text);
    p->out->generate.sampling.grammar = p->out->generate.grammar;
    return 0;
}

// ---- what is not supported ----------------------------------------------------------------------------

static bool is_one(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) == 1;
}

static bool is_off(const json_t *v)
{
    return json_is_false(v) || (json_is_integer(v) && json_integer_value(v) == 0);
}

static bool is_empty(const json_t *v)
{
    return (json_is_object(v) && json_object_size(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0);
}

static bool is_none(const json_t *v)
{
    return json_is_string(v) && strcmp(json_string_value(v), "none") == 0;
}

static bool never(const json_t *v)
{
    (void)v;
    return false;
}

static const struct unsupported {
    const char *name;
    bool (*harmless)(const json_t *v);
    const char *instead;
} unsupported[] = {
    {"n", is_one, "only 1 answer per request is made; send the request again for another"},
    {"best_of", is_one, "only 1 answer per request is made"},
    {"logprobs", is_off, "log probabilities are not given out"},
    {"top_logprobs", is_off, "log probabilities are not given out"},
    {"echo", is_off, "the prompt is not repeated in the answer"},
    {"suffix", never, "filling in the middle is not supported"},
    {"logit_bias", is_empty, "biases of single tokens are not supported"},
    {"tools", is_empty, "tool calls are not served yet: the answer would be plain text"},
    {"tool_choice", is_none, "tool calls are not served yet; it can be \"none\""},
    {"functions", is_empty, "tool calls are not served yet: the answer would be plain text"},
    {"function_call", is_none, "tool calls are not served yet; it can be \"none\""},
};

static int parse_unsupported(struct parser *p)
{
    for (size_t i = 0; i < sizeof(unsupported) / sizeof(unsupported[0]); i++) {
        const struct unsupported *u = &unsupported[i];

        if (!is_set(p->body, u->name) || u->harmless(json_object_get(p->body, u->name)))
            continue;
        err_set(&p->fault->e, ERR_UNSUPPORTED, "'%s': %s", u->name, u->instead);
        return fault_value(p, p->body, u->name);
    }
    return 0;
}

// ---- the prompt -----------------------------------------------------------------------------------------

static int check_message(struct parser *p, const json_t *m, size_t i)
{
    const json_t *content = json_object_get(m, "content");

    if (!json_is_object(m) || !json_is_string(json_object_get(m, "role")))
        return FAULT(p, "messages", "'messages[%zu]' must be an object with a string 'role'", i);
    if (content && !json_is_null(content) && !json_is_string(content) && !json_is_array(content))
        return FAULT(p, "messages", "'messages[%zu].content' must be a string or an array", i);
    return 0;
}

// The worker's template sees the request as the client sent it, less what is not its business.
static int parse_messages(struct parser *p)
{
    static const char *const ours[] = {"tandem", "grammar", "stream", "stream_options"};
    json_t *messages = NULL, *chat;

    if (json_get_array(p->body, "messages", &messages, &p->fault->e) != 0)
        return fault_value(p, p->body, "messages");
    if (!messages || json_array_size(messages) == 0)
        return FAULT(p, "messages", "'messages' must be an array with at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (check_message(p, json_array_get(messages, i), i) != 0)
            return p->fault->e.code;
    // A shallow copy: the messages themselves are shared. json_copy wants a writable reference only
    // to count it.
    chat = json_copy((json_t *)(uintptr_t)p->body);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        json_object_del(chat, ours[i]);
    json_put(p->out->render, "chat", chat);
    return 0;
}

static int check_token_ids(struct parser *p, const json_t *ids)
{
    if (json_array_size(ids) > MESSAGE_MAX_TOKENS)
        return FAULT(p, "prompt", "'prompt' has %zu token ids, at most %u are taken",
                     json_array_size(ids), MESSAGE_MAX_TOKENS);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *v = json_array_get(ids, i);

        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return FAULT(p, "prompt", "'prompt[%zu]' must be a token id between 0 and %d", i,
                         INT32_MAX);
    }
    return 0;
}

static int parse_prompt(struct parser *p)
{
    json_t *v = json_object_get(p->body, "prompt");

    // Clients that can send several prompts wrap a single one in an array.
    if (json_is_array(v) && json_array_size(v) == 1 && !json_is_integer(json_array_get(v, 0)))
        v = json_array_get(v, 0);
    if (json_is_string(v)) {
        json_put(p->out->render, "prompt", json_incref(v));
        return 0;
    }
    if (!json_is_array(v))
        return FAULT(p, "prompt", "'prompt' must be a string or an array of token ids");
    if (json_array_size(v) == 0)
        return FAULT(p, "prompt", "'prompt' is empty");
    if (json_is_string(json_array_get(v, 0)))
        return FAULT(p, "prompt", "'prompt' has %zu strings; one prompt per request is taken",
                     json_array_size(v));
    json_put(p->out->render, "tokens", json_incref(v));
    return check_token_ids(p, v);
}

static int parse_source(struct parser *p)
{
    size_t bytes;
    int rc;

    p->out->render = json_object();
    if (p->out->kind == PARSE_TEXT && is_set(p->body, "response_format"))
        return FAULT(p, "response_format", "'response_format' works with chat completions only");
    rc = p->out->kind == PARSE_CHAT ? parse_messages(p) : parse_prompt(p);
    if (rc != 0)
        return rc;
    bytes = json_dumpb(p->out->render, NULL, 0, JSON_COMPACT);
    if (bytes == 0 || bytes > WIRE_HEAD_MAX) {
        err_set(&p->fault->e, ERR_RANGE, "the prompt takes %zu bytes as JSON, at most %u are taken",
                bytes, WIRE_HEAD_MAX);
        fault_set(p, p->out->kind == PARSE_CHAT ? "messages" : "prompt");
        p->fault->status = 413;
        return ERR_RANGE;
    }
    return 0;
}

// ---- all of it ----------------------------------------------------------------------------------------------

// In this order: of max_tokens and its successor the later one counts.
static const struct member {
    const char *name;
    parse_function *parse;
} members[] = {
    {"model", parse_model},
    {"top_k", parse_top_k},
    {"seed", parse_seed},
    {"max_tokens", parse_max_tokens},
    {"max_completion_tokens", parse_max_tokens},
    {"stream", parse_stream},
    {"stream_options", parse_stream_options},
    {"ignore_eos", parse_ignore_eos},
    {"stop", parse_stop},
    {"grammar", parse_grammar},
    {"tandem", parse_tandem},
};

static int parse_body(struct parser *p)
{
    if (!json_is_object(p->body))
        return FAULT(p, "", "the body must be a JSON object");
    if (parse_unsupported(p) != 0 || parse_numbers(p) != 0)
        return p->fault->e.code;
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (members[i].parse(p, members[i].name) != 0)
            return p->fault->e.code;
    return parse_source(p);
}

int parse_request(enum parse_kind kind, const void *body, size_t n, struct parse_request *out,
                  struct parse_fault *fault)
{
    struct parser p = {NULL, out, fault};
    json_t *root;
    int rc;

    memset(fault, 0, sizeof(*fault));
    memset(out, 0, sizeof(*out));
    out->kind = kind;
    engine_sampling_default(&out->generate.sampling);
    root = json_parse(body, n, &fault->e);
    if (!root) {
        fault->status = 400;
        return fault->e.code;
    }
    p.body = root;
    rc = parse_body(&p);
    json_decref(root);
    return rc;
}

void parse_request_fini(struct parse_request *r)
{
    message_generate_fini(&r->generate);
    json_decref(r->render);
    r->render = NULL;
}
