// What a request says of how its tokens are chosen and where its answer ends.
#include "base/buf.h"
#include "base/json.h"
#include "gateway/parse_impl.h"
#include "os/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    {"typical_p", 0, 1, SAMPLING(typical_p)},
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
            return parser_fault_number(p, n->name,
                                       json_is_number(json_object_get(p->body, n->name)));
        *at = (float)value;
    }
    return 0;
}

// Lengths in tokens; -1: without end. Of several names of one thing the last one given counts.
static const struct count {
    const char *name;
    size_t at; // of an int32_t in struct engine_sampling
} counts[] = {
    {"repeat_last_n", SAMPLING(repeat_last_n)},
    {"thinking_budget_tokens", SAMPLING(reasoning_budget)},
    {"reasoning_budget_tokens", SAMPLING(reasoning_budget)},
    {"reasoning_budget", SAMPLING(reasoning_budget)},
};

static int parse_counts(struct parser *p)
{
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        int32_t *at = (int32_t *)(void *)((char *)&p->out->generate.sampling + counts[i].at);
        int64_t n = *at;

        if (parser_integer(p, counts[i].name, -1, INT32_MAX, &n) != 0)
            return p->fault->e.code;
        *at = (int32_t)n;
    }
    return 0;
}

static int parse_top_k(struct parser *p, const char *member)
{
    int64_t k = p->out->generate.sampling.top_k;

    if (parser_integer(p, member, -1, INT32_MAX, &k) != 0)
        return p->fault->e.code;
    p->out->generate.sampling.top_k = k < 0 ? 0 : (int32_t)k;
    return 0;
}

// Absent, null or -1: a random one. Clients send 64-bit seeds; the engine takes 32 bits of them.
static int parse_seed(struct parser *p, const char *member)
{
    int64_t seed = -1;
    uint32_t folded;

    if (parser_integer(p, member, INT64_MIN, INT64_MAX, &seed) != 0)
        return p->fault->e.code;
    if (seed == -1)
        os_random(&folded, sizeof(folded));
    else
        folded = (uint32_t)((uint64_t)seed ^ (uint64_t)seed >> 32);
    p->out->generate.sampling.seed = folded;
    return 0;
}

// ---- log probabilities ------------------------------------------------------------------------------

// Of a completion: how many; of a chat: whether, and how many stands in top_logprobs.
static int parse_logprobs(struct parser *p, const char *member)
{
    const json_t *v = json_object_get(p->body, member);
    int64_t n = -1;

    if (json_is_boolean(v))
        n = json_is_true(v) ? 0 : -1;
    else if (p->kind == PARSE_CHAT && json_member(p->body, member))
        return parse_fault_value(p->fault, member, "true or false", v);
    else if (parser_integer(p, member, 0, ENGINE_LOGPROBS_MAX, &n) != 0)
        return p->fault->e.code;
    p->out->generate.logprobs = (int32_t)n;
    return 0;
}

static int parse_top_logprobs(struct parser *p, const char *member)
{
    int64_t n = 0;

    if (p->kind != PARSE_CHAT || !json_member(p->body, member))
        return 0;
    if (parser_integer(p, member, 0, ENGINE_LOGPROBS_MAX, &n) != 0)
        return p->fault->e.code;
    if (p->out->generate.logprobs < 0 && n > 0)
        return FAULT(p, member, "'top_logprobs' is given out only with \"logprobs\": true");
    if (p->out->generate.logprobs >= 0)
        p->out->generate.logprobs = (int32_t)n;
    return 0;
}

// ---- biases -----------------------------------------------------------------------------------------

#define BIAS_MAX 100 // -100: never

static int bias_add(struct parser *p, const char *member, int64_t token, const json_t *v)
{
    struct message_generate *g = &p->out->generate;
    double bias = json_number_value(v);

    if (token < 0 || token > INT32_MAX)
        return FAULT(p, member, "'%s' names the token %lld; ids lie between 0 and %d", member,
                     (long long)token, INT32_MAX);
    if (!json_is_false(v) && (!json_is_number(v) || fabs(bias) > BIAS_MAX))
        return parse_fault_value(p->fault, member, "numbers between -100 and 100 for token ids", v);
    g->biases[g->sampling.n_biases++] = (struct engine_bias){
        (int32_t)token, json_is_false(v) || bias <= -BIAS_MAX ? -INFINITY : (float)bias};
    return 0;
}

// OpenAI's form: {"50256": -100}.
static int biases_of_object(struct parser *p, const char *member, json_t *list)
{
    const char *key;
    json_t *v;

    json_object_foreach(list, key, v)
    {
        char *end;
        long long token = strtoll(key, &end, 10);

        if (end == key || *end)
            return FAULT(p, member, "'%s' has the key \"%.40s\"; keys are token ids", member, key);
        if (bias_add(p, member, token, v) != 0)
            return p->fault->e.code;
    }
    return 0;
}

// llama.cpp's server's: [[50256, -100], [7, false]].
static int biases_of_array(struct parser *p, const char *member, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i), *token = json_array_get(pair, 0);

        if (json_array_size(pair) != 2 || !json_is_integer(token))
            return parse_fault_value(p->fault, member,
                                     "pairs of a token id and a bias where it is an array", pair);
        if (bias_add(p, member, json_integer_value(token), json_array_get(pair, 1)) != 0)
            return p->fault->e.code;
    }
    return 0;
}

static int parse_logit_bias(struct parser *p, const char *member)
{
    json_t *v = json_member(p->body, member);
    struct message_generate *g = &p->out->generate;
    size_t n = json_is_object(v) ? json_object_size(v) : json_array_size(v);

    if (!v)
        return 0;
    if (!json_is_object(v) && !json_is_array(v))
        return parse_fault_value(p->fault, member, "an object of token ids and biases", v);
    if (n > ENGINE_BIAS_MAX)
        return FAULT(p, member, "'%s' has %zu entries, at most %d are taken", member, n,
                     ENGINE_BIAS_MAX);
    if (n == 0)
        return 0;
    g->biases = mem_alloc(n * sizeof(*g->biases));
    g->sampling.biases = g->biases;
    return json_is_object(v) ? biases_of_object(p, member, v) : biases_of_array(p, member, v);
}

// ---- stop strings and grammar -----------------------------------------------------------------------

static int stop_add(struct parser *p, const char *member, const json_t *v)
{
    struct message_generate *g = &p->out->generate;

    if (!json_is_string(v) || json_string_length(v) == 0 ||
        json_string_length(v) > MESSAGE_STOP_BYTES) {
        err_set(&p->fault->e, ERR_INVALID, "'%s' must hold strings of 1 to %d bytes", member,
                MESSAGE_STOP_BYTES);
        return parser_fault_member(p, p->body, member);
    }
    g->stops[g->n_stops++] = mem_strdup(json_string_value(v));
    return 0;
}

static int parse_stop(struct parser *p, const char *member)
{
    const json_t *v = json_member(p->body, member);

    if (!v)
        return 0;
    if (!json_is_array(v))
        return stop_add(p, member, v);
    if (json_array_size(v) > PARSE_STOPS_MAX)
        return FAULT(p, member, "'%s' has %zu strings, at most %d are taken", member,
                     json_array_size(v), PARSE_STOPS_MAX);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (stop_add(p, member, json_array_get(v, i)) != 0)
            return p->fault->e.code;
    return 0;
}

static int parse_grammar(struct parser *p, const char *member)
{
    const char *text = NULL;

    if (json_get_string(p->body, member, &text, &p->fault->e) != 0)
        return parser_fault_member(p, p->body, member);
    if (!text || text[0] == '\0')
        return 0;
    if (strlen(text) > PARSE_GRAMMAR_MAX)
        return FAULT(p, member, "'%s' has %zu bytes, at most %u are taken", member, strlen(text),
                     PARSE_GRAMMAR_MAX);
    if (json_member(p->body, "response_format") || json_member(p->body, "json_schema"))
        return FAULT(p, member, "'%s' excludes 'response_format' and 'json_schema'", member);
    p->out->generate.syntax = json_pack("{s:s}", "grammar", text);
    p->out->generate.sampling.syntax = p->out->generate.syntax;
    return 0;
}

// ---- all of it ----------------------------------------------------------------------------------------------

static const struct parser_member members[] = {
    {"top_k", parse_top_k},           {"seed", parse_seed},
    {"logprobs", parse_logprobs},     {"top_logprobs", parse_top_logprobs},
    {"logit_bias", parse_logit_bias}, {"stop", parse_stop},
    {"grammar", parse_grammar},
};

int parser_sampling(struct parser *p)
{
    if (parse_numbers(p) != 0 || parse_counts(p) != 0)
        return p->fault->e.code;
    return parser_members(p, members, sizeof(members) / sizeof(members[0]));
}
