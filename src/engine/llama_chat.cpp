// A request becomes a prompt and a syntax: see llama_chat.h. It holds little logic of its own beyond moving
// members of the request into llama.cpp's structures, as llama.cpp's server does.
#include "engine/llama_chat.h"

#include "chat.h"
#include "json-schema-to-grammar.h"
#include "llama.h"
#include "log.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>

#define GRAMMAR_BYTES_MAX (2u << 20)

struct llama_chat {
    common_chat_templates_ptr templates;
    bool parallel_calls; // what the template can do
};

namespace
{

const common_json *member(const common_json &object, const char *name)
{
    return object.contains(name) && !object.at(name).is_null() ? &object.at(name) : nullptr;
}

bool is_true(const common_json &object, const char *name, bool absent)
{
    const common_json *value = member(object, name);
    return value ? value->get<bool>() : absent;
}

// ---- the request --------------------------------------------------------------------------------

// "" for none. A schema that says nothing means any object.
std::string schema_text(const common_json *schema)
{
    bool says = schema && !(schema->is_object() && schema->empty());
    return says ? schema->dump() : R"({"type": "object"})";
}

std::string schema_of(const common_json &request)
{
    const common_json *format = member(request, "response_format");
    const common_json *direct = member(request, "json_schema");
    if (!format)
        return direct ? schema_text(direct) : "";
    std::string type = format->at("type").get<std::string>();
    if (type == "text")
        return direct ? schema_text(direct) : "";
    if (type == "json_object")
        return schema_text(format->contains("schema") ? member(*format, "schema") : direct);
    if (type == "json_schema")
        return schema_text(member(format->at("json_schema"), "schema"));
    throw std::invalid_argument(
        "response_format.type must be text, json_object or json_schema, not " + type);
}

std::string grammar_of(const common_json &request)
{
    const common_json *grammar = member(request, "grammar");
    std::string text = grammar ? grammar->get<std::string>() : "";
    if (std::count(text.begin(), text.end(), '(') > LLAMA_GROUPS_MAX)
        throw std::invalid_argument("the grammar has more than " +
                                    std::to_string(LLAMA_GROUPS_MAX) + " groups");
    return text;
}

// A call's arguments are JSON in a text, which the request's own reader did not look into. Templates want an
// object of them. A call without any may come with an empty text, and one that was cut short with half an
// object, for as long as the conversation goes on: that text becomes the one member of an object.
void call_settle(common_chat_tool_call &call)
{
    std::string &text = call.arguments;
    if (llama_chat_nesting(text.data(), text.size()) > LLAMA_NESTING_MAX)
        throw std::invalid_argument("the arguments of a tool call are nested deeper than " +
                                    std::to_string(LLAMA_NESTING_MAX));
    if (text.find_first_not_of(" \n\r\t") == std::string::npos)
        text = "{}";
    common_json parsed = common_json::parse_no_throw(text);
    if (!parsed.is_discarded() && parsed.is_object())
        return;
    common_json object = common_json::object();
    object["arguments"] = text;
    text = object.dump_safe();
}

// Tools of other types than functions are not for us and are passed over.
common_json functions_of(const common_json &tools)
{
    common_json functions = common_json::array();
    if (!tools.is_array())
        throw std::invalid_argument("tools must be a list");
    for (const common_json &tool : tools)
        if (tool.is_object() && tool.value("type", "function") == "function")
            functions.push_back(tool);
    return functions;
}

// The name that an object of tool_choice asks for; "" for none.
std::string choice_name(const common_json &choice)
{
    const common_json *function = member(choice, "function");
    if (!function)
        throw std::invalid_argument("tool_choice must be auto, none, required or "
                                    "{\"type\":\"function\",\"function\":{\"name\":...}}");
    return function->at("name").get<std::string>();
}

void thinking_read(const common_json &request, common_chat_templates_inputs &in)
{
    in.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    if (const common_json *format = member(request, "reasoning_format"))
        in.reasoning_format = common_reasoning_format_from_name(format->get<std::string>());
    if (const common_json *kwargs = member(request, "chat_template_kwargs"))
        for (const auto &item : kwargs->items())
            in.chat_template_kwargs[item.key()] = item.value().dump();
    auto thinks = in.chat_template_kwargs.find("enable_thinking");
    if (thinks != in.chat_template_kwargs.end()) {
        if (thinks->second != "true" && thinks->second != "false")
            throw std::invalid_argument(
                "chat_template_kwargs.enable_thinking must be true or false");
        in.enable_thinking = thinks->second == "true";
    }
    in.enable_thinking = is_true(request, "enable_thinking", in.enable_thinking);
    const common_json *effort = member(request, "reasoning_effort");
    if (effort && effort->get<std::string>() == "none")
        in.enable_thinking = false;
    else if (effort)
        in.chat_template_kwargs["reasoning_effort"] = effort->dump();
}

void continuation_read(const common_json &request, common_chat_templates_inputs &in)
{
    in.add_generation_prompt = is_true(request, "add_generation_prompt", true);
    if (const common_json *final = member(request, "continue_final_message"))
        in.continue_final_message = common_chat_continuation_parse(*final);
    if (in.continue_final_message == COMMON_CHAT_CONTINUATION_NONE)
        return;
    in.add_generation_prompt = false;
    if (in.messages.back().role != "assistant")
        throw std::invalid_argument(
            "continue_final_message needs an assistant's message at the end, not one of " +
            in.messages.back().role);
    if (!in.messages.back().tool_calls.empty())
        throw std::invalid_argument("a message with tool calls cannot be continued");
}

common_chat_templates_inputs inputs_of(const common_json &request, bool parallel_calls)
{
    common_chat_templates_inputs in;
    in.messages = common_chat_msgs_parse_oaicompat(request.at("messages"));
    if (in.messages.empty())
        throw std::invalid_argument("messages is empty");
    for (common_chat_msg &message : in.messages)
        for (common_chat_tool_call &call : message.tool_calls)
            call_settle(call);
    if (const common_json *tools = member(request, "tools"))
        in.tools = common_chat_tools_parse_oaicompat(functions_of(*tools));
    if (const common_json *choice = member(request, "tool_choice"))
        in.tool_choice = common_chat_tool_choice_parse_oaicompat(
            choice->is_string() ? choice->get<std::string>() : "required");
    if (in.tools.empty() && in.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED)
        throw std::invalid_argument("tool_choice asks for a call, but there are no tools");
    in.parallel_tool_calls = is_true(request, "parallel_tool_calls", parallel_calls);
    in.grammar = grammar_of(request);
    in.json_schema = schema_of(request);
    if (!in.json_schema.empty() && !in.grammar.empty())
        throw std::invalid_argument("a grammar and a JSON schema cannot be given together");
    thinking_read(request, in);
    continuation_read(request, in);
    return in;
}

// ---- the template -------------------------------------------------------------------------------

// A choice of one function: the prompt tells of all of them, so that it begins as that of other requests,
// and the grammar and the parser know that one alone.
common_chat_params apply(const struct llama_chat *chat, const common_json &request,
                         common_chat_templates_inputs &in)
{
    common_chat_params all = common_chat_templates_apply(chat->templates.get(), in);
    const common_json *choice = member(request, "tool_choice");
    if (!choice || choice->is_string())
        return all;
    std::string name = choice_name(*choice), names;
    std::vector<common_chat_tool> one;
    for (const common_chat_tool &tool : in.tools) {
        names += (names.empty() ? "" : ", ") + tool.name;
        if (tool.name == name)
            one = {tool};
    }
    if (one.empty())
        throw std::invalid_argument("tool_choice asks for \"" + name +
                                    "\"; the tools are: " + names);
    in.tools = one;
    common_chat_params out = common_chat_templates_apply(chat->templates.get(), in);
    out.prompt = all.prompt;
    return out;
}

bool thinks(const common_chat_params &out, const common_chat_templates_inputs &in)
{
    return out.supports_thinking && in.reasoning_format != COMMON_REASONING_FORMAT_NONE;
}

bool calls(const common_chat_templates_inputs &in)
{
    return !in.tools.empty() && in.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE;
}

// A schema binds the whole answer, without the code fences that a template's grammar would allow, where
// nothing but content can come anyway.
bool schema_alone(const common_chat_params &out, const common_chat_templates_inputs &in)
{
    return !in.json_schema.empty() && in.tools.empty() && !out.supports_thinking;
}

// Whether the template's parser would give every answer back as content, as it is. It is cheaper not to
// ask it then.
bool parser_is_plain(const common_chat_params &out, const common_chat_templates_inputs &in)
{
    static const std::string probe = " x <b>\n\n{\"a\": [1]} ```json\n7\n``` </b>\n y ";
    if (thinks(out, in) || calls(in))
        return false;
    if (schema_alone(out, in))
        return true;
    try {
        common_chat_parser_params params(out);
        params.parser.load(out.parser);
        common_chat_msg before = common_chat_parse("", true, params); // what is continued
        common_chat_msg msg = common_chat_parse(probe, false, params);
        return msg.content == before.content + probe && msg.reasoning_content.empty() &&
               msg.tool_calls.empty();
    } catch (...) {
        return false;
    }
}

// ---- the syntax ---------------------------------------------------------------------------------

void rules_put(common_json &syntax, const common_chat_params &out, bool from_template)
{
    common_json rules = common_json::object();
    rules["prompt"] = out.generation_prompt;
    rules["template"] = from_template;
    rules["lazy"] = from_template && out.grammar_lazy;
    rules["triggers"] = common_json::array();
    for (const common_grammar_trigger &trigger : out.grammar_triggers) {
        common_json t = common_json::object();
        t["type"] = static_cast<int>(trigger.type);
        t["value"] = trigger.value;
        rules["triggers"].push_back(t);
    }
    if (!out.thinking_start_tag.empty() && !out.thinking_end_tags.empty()) {
        common_json think = common_json::object();
        think["start"] = out.thinking_start_tag;
        think["ends"] = out.thinking_end_tags;
        rules["think"] = think;
    }
    syntax["rules"] = rules;
}

void parser_put(common_json &syntax, const common_chat_params &out,
                const common_chat_templates_inputs &in)
{
    common_json parser = common_json::object();
    parser["format"] = static_cast<int>(out.format);
    parser["arena"] = out.parser;
    parser["prompt"] = out.generation_prompt;
    parser["reasoning"] = std::string(common_reasoning_format_name(in.reasoning_format));
    parser["tools"] = calls(in);
    parser["continues"] = in.continue_final_message != COMMON_CHAT_CONTINUATION_NONE;
    parser["start"] = out.thinking_start_tag;
    parser["ends"] = out.thinking_end_tags;
    syntax["parser"] = parser;
}

common_json syntax_of(const common_chat_params &out, const common_chat_templates_inputs &in)
{
    common_json syntax = common_json::object();
    bool alone = schema_alone(out, in);
    std::string grammar = alone ? json_schema_to_grammar(common_json::parse(in.json_schema))
                          : in.grammar.empty() ? out.grammar
                                               : in.grammar;
    bool from_template = !alone && in.grammar.empty() && !grammar.empty();
    if (!grammar.empty())
        syntax["grammar"] = grammar;
    if (from_template || alone || !out.thinking_end_tags.empty())
        rules_put(syntax, out, from_template);
    if (!parser_is_plain(out, in))
        parser_put(syntax, out, in);
    return syntax;
}

common_json answer_make(const std::string &prompt, const std::vector<std::string> &stops,
                        const common_json &syntax)
{
    common_json answer = common_json::object();
    size_t grammar =
        syntax.contains("grammar") ? syntax.at("grammar").get<std::string>().size() : 0;
    if (grammar > GRAMMAR_BYTES_MAX)
        throw std::invalid_argument("the answer's grammar has " + std::to_string(grammar) +
                                    " bytes, at most " + std::to_string(GRAMMAR_BYTES_MAX) +
                                    " are possible; use simpler schemas or fewer tools");
    answer["prompt"] = prompt;
    answer["stop"] = common_json::array();
    for (const std::string &stop : stops)
        answer["stop"].push_back(stop);
    if (syntax.empty())
        answer["syntax"] = nullptr;
    else
        answer["syntax"] = syntax;
    return answer;
}

// Some templates cannot bind their answer as the request wants it. A schema can be kept where the model
// does not think; a call of a template that knows none cannot.
void bind(const struct llama_chat *chat, const common_json &request,
          common_chat_templates_inputs &in, common_chat_params &out)
{
    if (!out.grammar.empty())
        return;
    if (in.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED)
        throw std::invalid_argument(
            "this model's chat template knows no tools; a tool_choice other "
            "than auto or none cannot be kept");
    if (in.json_schema.empty())
        return;
    in.enable_thinking = false;
    out = apply(chat, request, in);
    if (out.grammar.empty())
        in.grammar = json_schema_to_grammar(common_json::parse(in.json_schema));
}

common_json render_chat(const struct llama_chat *chat, const common_json &request)
{
    common_chat_templates_inputs in = inputs_of(request, chat->parallel_calls);
    common_chat_params out = apply(chat, request, in);
    bind(chat, request, in, out);
    return answer_make(out.prompt, out.additional_stops, syntax_of(out, in));
}

// A prompt is a prompt: no template, and of the syntax only what binds the text.
common_json render_prompt(const common_json &request)
{
    common_json syntax = common_json::object();
    std::string grammar = grammar_of(request), schema = schema_of(request);
    if (!schema.empty() && !grammar.empty())
        throw std::invalid_argument("a grammar and a JSON schema cannot be given together");
    if (!schema.empty()) {
        grammar = json_schema_to_grammar(common_json::parse(schema));
        rules_put(syntax, common_chat_params(), false);
    }
    if (!grammar.empty())
        syntax["grammar"] = grammar;
    return answer_make(request.at("prompt").get<std::string>(), {}, syntax);
}

// A request that makes a template show all that it knows.
common_chat_templates_inputs sample_inputs()
{
    common_chat_templates_inputs in;
    common_chat_msg user;
    user.role = "user";
    user.content = "a";
    in.messages = {user};
    in.tools = {{"f", "f", R"({"type":"object","properties":{"a":{"type":"string"}}})"}};
    in.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    return in;
}

} // namespace

size_t llama_chat_nesting(const char *text, size_t n)
{
    size_t depth[3] = {0, 0, 0}, deepest = 0; // outside quotes, inside, anywhere
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '\\')
            i++;
        inside = inside != (c == '"');
        for (size_t *d : {&depth[inside ? 1 : 0], &depth[2]}) {
            if (c == '[' || c == '{')
                deepest = std::max(deepest, ++*d);
            else if ((c == ']' || c == '}') && *d > 0)
                --*d;
        }
    }
    return deepest;
}

struct llama_chat *llama_chat_new(const struct llama_model *model, const char *source,
                                  struct err *e)
{
    common_log_set_verbosity_thold(-1);
    try {
        common_chat_templates_ptr templates = common_chat_templates_init(model, source);
        auto caps = common_chat_templates_get_caps(templates.get());
        bool parallel = caps["supports_parallel_tool_calls"];
        return new llama_chat{std::move(templates), parallel};
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
        common_json parsed = common_json::parse(request);
        bool prompt = !member(parsed, "messages") && member(parsed, "prompt");
        common_json answer = prompt ? render_prompt(parsed) : render_chat(chat, parsed);
        return strdup(answer.dump_safe().c_str());
    } catch (const std::exception &x) {
        err_set(e, ERR_INVALID, "the request cannot be rendered: %s", x.what());
    } catch (...) {
        err_set(e, ERR_INVALID, "the request cannot be rendered");
    }
    return nullptr;
}

void llama_chat_marks(const struct llama_chat *chat, const struct llama_vocab *vocab,
                      void (*mark)(void *ctx, int32_t token), void *ctx)
{
    try {
        common_chat_params out =
            common_chat_templates_apply(chat->templates.get(), sample_inputs());
        std::vector<std::string> texts = out.preserved_tokens;
        texts.push_back(out.thinking_start_tag);
        texts.insert(texts.end(), out.thinking_end_tags.begin(), out.thinking_end_tags.end());
        for (const std::string &text : texts) {
            std::vector<llama_token> tokens = common_tokenize(vocab, text, false, true);
            if (tokens.size() == 1)
                mark(ctx, tokens[0]);
        }
    } catch (...) { // a template that takes no tools: nothing to mark
    }
}
