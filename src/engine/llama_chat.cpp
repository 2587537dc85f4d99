// The one C++ file: see llama_chat.h. It holds no logic of its own beyond moving members of the
// request into llama.cpp's structures, as llama.cpp's server does.
#include "engine/llama_chat.h"

#include "chat.h"
#include "json-schema-to-grammar.h"
#include "llama.h"
#include "log.h"

#include <cstring>
#include <exception>
#include <string>

struct llama_chat {
    common_chat_templates_ptr templates;
};

namespace
{

char *copy(const std::string &text)
{
    return strdup(text.c_str());
}

const common_json *member(const common_json &object, const char *name)
{
    return object.contains(name) && !object.at(name).is_null() ? &object.at(name) : nullptr;
}

std::string schema_of(const common_json &request)
{
    const common_json *format = member(request, "response_format");
    const common_json *direct = member(request, "json_schema");
    if (!format)
        return direct ? direct->dump() : "";
    std::string type = format->at("type").get<std::string>();
    if (type == "text")
        return "";
    if (type == "json_object") {
        const common_json *schema = member(*format, "schema");
        return schema && !schema->empty() ? schema->dump() : R"({"type": "object"})";
    }
    if (type == "json_schema")
        return format->at("json_schema").at("schema").dump();
    throw std::invalid_argument(
        "response_format.type must be text, json_object or json_schema, not " + type);
}

common_chat_templates_inputs inputs_of(const common_json &request)
{
    common_chat_templates_inputs in;
    in.messages = common_chat_msgs_parse_oaicompat(request.at("messages"));
    if (in.messages.empty())
        throw std::invalid_argument("messages is empty");
    if (const common_json *tools = member(request, "tools"))
        in.tools = common_chat_tools_parse_oaicompat(*tools);
    if (const common_json *choice = member(request, "tool_choice"))
        in.tool_choice = common_chat_tool_choice_parse_oaicompat(
            choice->is_string() ? choice->get<std::string>() : "required");
    if (const common_json *parallel = member(request, "parallel_tool_calls"))
        in.parallel_tool_calls = parallel->get<bool>();
    if (const common_json *grammar = member(request, "grammar"))
        in.grammar = grammar->get<std::string>();
    if (const common_json *kwargs = member(request, "chat_template_kwargs"))
        for (const auto &item : kwargs->items())
            in.chat_template_kwargs[item.key()] = item.value().dump();
    in.json_schema = schema_of(request);
    if (!in.json_schema.empty() && !in.grammar.empty())
        throw std::invalid_argument("a grammar and a JSON schema cannot be given together");
    return in;
}

// llama.cpp's template grammars begin with the generation prompt, which is part of our prompt.
std::string without_prompt(std::string grammar, const std::string &generation_prompt)
{
    const std::string root = "root ::= ";
    std::string begin = root + gbnf_format_literal(generation_prompt);
    size_t at = grammar.rfind("\n" + begin, std::string::npos);
    if (generation_prompt.empty() || (at == std::string::npos && grammar.rfind(begin, 0) != 0))
        return grammar;
    size_t from = (at == std::string::npos ? 0 : at + 1) + root.size();
    return grammar.replace(from, begin.size() - root.size(), "\"\"");
}

// A schema binds the whole answer, without the code fences that a template's grammar would allow. A lazy
// grammar binds only once the model begins a tool call; it is not for the whole answer.
std::string grammar_of(const common_chat_params &out, const common_chat_templates_inputs &in)
{
    if (!in.json_schema.empty() && in.tools.empty())
        return json_schema_to_grammar(common_json::parse(in.json_schema));
    if (!in.grammar.empty() || out.grammar_lazy)
        return in.grammar;
    return without_prompt(out.grammar, out.generation_prompt);
}

common_json answer_of(const common_chat_params &out, const common_chat_templates_inputs &in)
{
    std::string grammar = grammar_of(out, in);
    common_json answer = common_json::object();
    answer["prompt"] = out.prompt;
    answer["stop"] = common_json::array();
    for (const std::string &stop : out.additional_stops)
        answer["stop"].push_back(stop);
    if (grammar.empty())
        answer["syntax"] = nullptr;
    else
        answer["syntax"] = {{"grammar", grammar}};
    return answer;
}

} // namespace

struct llama_chat *llama_chat_new(const struct llama_model *model, struct err *e)
{
    common_log_set_verbosity_thold(-1);
    try {
        return new llama_chat{common_chat_templates_init(model, "")};
    } catch (const std::exception &x) {
        err_set(e, ERR_INVALID, "the model's chat template does not parse: %s", x.what());
    } catch (...) {
        err_set(e, ERR_INVALID, "the model's chat template does not parse");
    }
    return nullptr;
}

void llama_chat_free(struct llama_chat *chat)
{
    delete chat;
}

char *llama_chat_render(const struct llama_chat *chat, const char *request, struct err *e)
{
    try {
        common_chat_templates_inputs in = inputs_of(common_json::parse(request));
        common_chat_params out = common_chat_templates_apply(chat->templates.get(), in);
        return copy(answer_of(out, in).dump());
    } catch (const std::exception &x) {
        err_set(e, ERR_INVALID, "the request cannot be rendered: %s", x.what());
    } catch (...) {
        err_set(e, ERR_INVALID, "the request cannot be rendered");
    }
    return nullptr;
}

struct llama_sampler *llama_chat_grammar_new(const struct llama_vocab *vocab, const char *grammar,
                                             struct err *e)
{
    try {
        struct llama_sampler *s = llama_sampler_init_grammar(vocab, grammar, "root");
        if (s)
            return s;
        err_set(e, ERR_INVALID, "the grammar does not parse as GBNF with a rule named root");
    } catch (const std::exception &x) {
        err_set(e, ERR_INVALID, "the grammar does not parse: %s", x.what());
    } catch (...) {
        err_set(e, ERR_INVALID, "the grammar does not parse");
    }
    return nullptr;
}

bool llama_chat_grammar_accept(struct llama_sampler *grammar, int token)
{
    try {
        llama_sampler_accept(grammar, token);
        return true;
    } catch (...) {
        return false;
    }
}
