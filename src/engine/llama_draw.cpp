// Logits become tokens: see llama_chat.h. llama.cpp's common sampler does it: it keeps to a grammar (asking it
// about the drawn token first and about the whole vocabulary only when it refuses that one), wakes a lazy
// one, and ends reasoning that is over its budget. Here its parameters are filled in.
#include "engine/llama_chat.h"

extern "C" {
#include "engine/engine.h"
#include "engine/grammar.h"
}

#include "common.h"
#include "json.h"
#include "llama.h"
#include "sampling.h"

#include <algorithm>
#include <exception>
#include <string>

struct llama_draw {
    common_sampler_ptr sampler;
};

namespace
{

// llama.cpp takes one seed value to mean a random one; here every seed is a seed.
uint32_t seed_of(uint32_t seed)
{
    return seed == LLAMA_DEFAULT_SEED ? LLAMA_DEFAULT_SEED - 1 : seed;
}

// Only what is on: every sampler of the chain costs a walk over the vocabulary.
std::vector<common_sampler_type> chain_of(const struct engine_sampling *s)
{
    std::vector<common_sampler_type> chain;
    if (s->repeat_last_n != 0 &&
        (s->repeat_penalty != 1.0f || s->frequency_penalty != 0 || s->presence_penalty != 0))
        chain.push_back(COMMON_SAMPLER_TYPE_PENALTIES);
    if (s->temperature <= 0 || s->top_k > 0)
        chain.push_back(COMMON_SAMPLER_TYPE_TOP_K);
    if (s->temperature <= 0)
        return chain;
    if (s->typical_p < 1)
        chain.push_back(COMMON_SAMPLER_TYPE_TYPICAL_P);
    if (s->top_p < 1)
        chain.push_back(COMMON_SAMPLER_TYPE_TOP_P);
    if (s->min_p > 0)
        chain.push_back(COMMON_SAMPLER_TYPE_MIN_P);
    chain.push_back(COMMON_SAMPLER_TYPE_TEMPERATURE);
    return chain;
}

common_params_sampling params_of(const struct llama_draw_options *o)
{
    const struct engine_sampling *s = o->sampling;
    common_params_sampling p;
    p.no_perf = true;
    p.seed = seed_of(s->seed);
    p.samplers = chain_of(s);
    p.temp = s->temperature;
    p.top_k = s->temperature <= 0 ? 1 : s->top_k; // greedy: the first of the largest
    p.top_p = s->top_p;
    p.min_p = s->min_p;
    p.typ_p = s->typical_p;
    bool all = s->repeat_last_n < 0 || static_cast<uint32_t>(s->repeat_last_n) > o->n_ctx;
    p.penalty_last_n = all ? static_cast<int32_t>(o->n_ctx) : s->repeat_last_n;
    p.penalty_repeat = s->repeat_penalty;
    p.penalty_freq = s->frequency_penalty;
    p.penalty_present = s->presence_penalty;
    for (size_t i = 0; i < s->n_biases; i++)
        p.logit_bias.push_back({s->biases[i].token, s->biases[i].bias});
    return p;
}

// A word that is a token of its own kind is looked for as that token, not as the same letters by chance.
common_grammar_trigger trigger_of(const llama_vocab *vocab, const common_json &trigger)
{
    common_grammar_trigger t;
    int type = trigger.at("type").get<int>();
    if (type < COMMON_GRAMMAR_TRIGGER_TYPE_WORD || type > COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL)
        throw std::invalid_argument("a trigger of an unknown type");
    t.type = static_cast<common_grammar_trigger_type>(type);
    t.value = trigger.at("value").get<std::string>();
    if (t.type != COMMON_GRAMMAR_TRIGGER_TYPE_WORD)
        return t;
    std::vector<llama_token> tokens = common_tokenize(vocab, t.value, false, true);
    const int special = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED;
    if (tokens.size() == 1 && (llama_vocab_get_attr(vocab, tokens[0]) & special) != 0) {
        t.type = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
        t.token = tokens[0];
    }
    return t;
}

void rules_read(const common_json &rules, const llama_vocab *vocab, const struct engine_sampling *s,
                common_params_sampling &p)
{
    p.generation_prompt = rules.at("prompt").get<std::string>();
    p.grammar_lazy = rules.at("lazy").get<bool>();
    if (rules.at("template").get<bool>() && !p.grammar.empty())
        p.grammar.type = COMMON_GRAMMAR_TYPE_TOOL_CALLS;
    for (const common_json &trigger : rules.at("triggers"))
        p.grammar_triggers.push_back(trigger_of(vocab, trigger));
    if (!rules.contains("think"))
        return;
    const common_json &think = rules.at("think");
    p.reasoning_budget_tokens = s->reasoning_budget;
    p.reasoning_budget_start =
        common_tokenize(vocab, think.at("start").get<std::string>(), false, true);
    for (const common_json &end : think.at("ends"))
        p.reasoning_budget_end.push_back(
            common_tokenize(vocab, end.get<std::string>(), false, true));
    p.reasoning_budget_forced = p.reasoning_budget_end.front();
}

// llama.cpp's sampler takes a grammar that does not parse less well than this.
void grammar_check(const llama_vocab *vocab, const std::string &grammar, bool from_user)
{
    if (from_user && std::count(grammar.begin(), grammar.end(), '(') > LLAMA_GROUPS_MAX)
        throw std::invalid_argument("the grammar has more than " +
                                    std::to_string(LLAMA_GROUPS_MAX) + " groups");
    if (grammar.compare(0, 11, "%llguidance") == 0)
        throw std::invalid_argument("a grammar must be GBNF");
    struct err e = {};
    if (grammar_weigh(grammar.c_str(), &e) != 0)
        throw std::invalid_argument(e.message);
    struct llama_sampler *s = llama_sampler_init_grammar(vocab, grammar.c_str(), "root");
    if (!s)
        throw std::invalid_argument("the grammar does not parse as GBNF with a rule named root");
    llama_sampler_free(s);
}

struct llama_draw *draw_make(const struct llama_draw_options *o)
{
    const llama_vocab *vocab = llama_model_get_vocab(o->model);
    common_params_sampling p = params_of(o);
    if (o->grammar && o->grammar[0]) {
        grammar_check(vocab, o->grammar, !o->rules);
        p.grammar = {COMMON_GRAMMAR_TYPE_USER, o->grammar};
    }
    if (o->rules)
        rules_read(common_json::parse(o->rules), vocab, o->sampling, p);
    common_sampler_ptr sampler(common_sampler_init(o->model, p));
    return new llama_draw{std::move(sampler)};
}

} // namespace

struct llama_draw *llama_draw_new(const struct llama_draw_options *o, struct err *e)
{
    try {
        return draw_make(o);
    } catch (const std::exception &x) {
        err_set(e, ERR_INVALID, "the answer cannot be constrained: %s", x.what());
    } catch (...) {
        err_set(e, ERR_INVALID, "the answer cannot be constrained");
    }
    return nullptr;
}

void llama_draw_free(struct llama_draw *draw)
{
    delete draw;
}

void llama_draw_accept(struct llama_draw *draw, int32_t token)
{
    common_sampler_accept(draw->sampler.get(), token, false);
}

int32_t llama_draw_token(struct llama_draw *draw, struct llama_context *ctx, int32_t row)
{
    try {
        llama_token token = common_sampler_sample(draw->sampler.get(), ctx, row);
        common_sampler_accept(draw->sampler.get(), token, true);
        return token;
    } catch (...) {
        return -1;
    }
}
