// A text becomes deltas: see llama_chat.h. llama.cpp's parser reads an answer whole, from its start, so it is
// asked again only when much more time has passed than it took the last time: what an answer costs stays
// in proportion to the time in which it was written.
//
// What a delta has said stands. A reading that contradicts it says nothing; what no reading could make sense of
// when the answer ends is told as content.
#include "engine/llama_chat.h"

extern "C" {
#include "base/clock.h"
}

#include "chat.h"

#include <cstring>
#include <exception>
#include <random>
#include <string>

struct llama_answer {
    common_chat_parser_params params;
    std::string start;             // tag that begins reasoning
    std::vector<std::string> ends; // tags that end it
    int share;                     // of the time that readings may take: 1 part in so many
    std::string text;              // the answer so far
    common_chat_msg given;         // what the deltas have said, and what stood before them
    size_t before_reasoning, before_content; // of `given`, from the message that is continued
    std::vector<std::string> ids;            // of the calls that were told
    int64_t next_ns;                         // not to be read again before
};

namespace
{

bool read(const struct llama_answer *a, const std::string &text, bool partial, common_chat_msg &msg)
{
    if (llama_chat_nesting(text.data(), text.size()) > LLAMA_NESTING_MAX)
        return false;
    try {
        msg = common_chat_parse(text, partial, a->params);
        return true;
    } catch (...) {
        return false;
    }
}

// The longest beginning of the answer that can be read, when the whole cannot: a good call may be followed by
// what no parser knows.
bool read_beginning(const struct llama_answer *a, common_chat_msg &msg)
{
    size_t good = 0, bad = a->text.size();
    while (bad - good > 1) {
        size_t mid = good + (bad - good) / 2;
        while (mid > good && (static_cast<unsigned char>(a->text[mid]) & 0xc0) == 0x80)
            mid--; // not inside a character
        if (mid == good)
            break;
        common_chat_msg some;
        if (read(a, a->text.substr(0, mid), false, some)) {
            good = mid;
            msg = some;
        } else {
            bad = mid;
        }
    }
    return good > 0;
}

bool starts_with(const std::string &text, const std::string &start)
{
    return text.compare(0, start.size(), start) == 0;
}

std::string id_make()
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ__";
    std::random_device random;
    std::string id = "call_";
    for (int i = 0; i < 24; i++)
        id += digits[random() % 64];
    return id;
}

bool is_json(const std::string &text)
{
    return !common_json::parse_no_throw(text).is_discarded();
}

// ---- deltas -------------------------------------------------------------------------------------

void text_tell(common_json &out, const char *kind, std::string &given, const std::string &now)
{
    if (now.size() <= given.size() || !starts_with(now, given))
        return;
    common_json delta = common_json::object();
    delta[kind] = now.substr(given.size());
    out.push_back(delta);
    given = now;
}

// A name is certain when arguments follow it: the name of one tool may begin with that of another, and
// llama.cpp opens the brace of the arguments with the name.
void call_begin(struct llama_answer *a, common_json &out, const common_chat_tool_call &call)
{
    common_json delta = common_json::object();
    a->ids.push_back(call.id.empty() ? id_make() : call.id);
    delta["tool"] = a->ids.size() - 1;
    delta["id"] = a->ids.back();
    delta["name"] = call.name;
    delta["arguments"] = call.arguments;
    out.push_back(delta);
    a->given.tool_calls.push_back(call);
}

void call_go_on(common_json &out, size_t i, std::string &given, const std::string &now)
{
    if (now.size() <= given.size() || !starts_with(now, given))
        return;
    common_json delta = common_json::object();
    delta["tool"] = i;
    delta["arguments"] = now.substr(given.size());
    out.push_back(delta);
    given = now;
}

// False when a call at the end is none: it was not told yet, and its arguments are no JSON.
bool calls_tell(struct llama_answer *a, common_json &out, common_chat_msg &msg, bool final)
{
    for (size_t i = 0; i < msg.tool_calls.size(); i++) {
        common_chat_tool_call &call = msg.tool_calls[i];
        bool certain = final || i + 1 < msg.tool_calls.size() || call.arguments.size() > 1;
        if (final && call.arguments.empty())
            call.arguments = "{}";
        if (i < a->ids.size()) {
            call_go_on(out, i, a->given.tool_calls[i].arguments, call.arguments);
            continue;
        }
        if (final && (call.name.empty() || !is_json(call.arguments)))
            return false;
        if (!certain || call.name.empty())
            return true;
        call_begin(a, out, call);
    }
    return true;
}

// ---- what could not be read -----------------------------------------------------------------------

// Whether the parser took the whole answer for what it should be. llama.cpp's own reading is lenient: of a call
// that was begun and not ended it gives back nothing, and says so nowhere.
bool is_complete(const struct llama_answer *a)
{
    if (a->params.parser.empty())
        return true;
    if (llama_chat_nesting(a->text.data(), a->text.size()) > LLAMA_NESTING_MAX)
        return false;
    try {
        std::string text = a->params.generation_prompt + a->text;
        common_peg_parse_context ctx(text);
        return a->params.parser.parse(ctx).success();
    } catch (...) {
        return false;
    }
}

// Skips the given text; false when the answer does not hold it.
bool skip(const std::string &text, const std::string &given, size_t &at)
{
    size_t found = text.find(given, at);
    if (found == std::string::npos)
        return false;
    at = found + given.size();
    return true;
}

// Skips what ends reasoning; false when the reasoning did not end.
bool skip_end(const struct llama_answer *a, size_t &at)
{
    size_t word = a->text.find_first_not_of(" \n\r\t", at);
    for (const std::string &end : a->ends) {
        if (word == std::string::npos || a->text.compare(word, end.size(), end) != 0)
            continue;
        at = word + end.size();
        return true;
    }
    return false;
}

// The text behind what the deltas have said becomes content. Behind a call that was told it cannot be known where
// that begins, and in the middle of reasoning it is not content.
void rest_tell(struct llama_answer *a, common_json &out)
{
    size_t at = 0;
    std::string reasoning = a->given.reasoning_content.substr(a->before_reasoning);
    std::string content = a->given.content.substr(a->before_content);
    if (!a->ids.empty() || !skip(a->text, reasoning, at))
        return;
    if (!reasoning.empty() && !skip_end(a, at))
        return;
    if (!skip(a->text, content, at))
        return;
    std::string rest = a->text.substr(at);
    size_t word = rest.find_first_not_of(" \n\r\t");
    std::string first = word == std::string::npos ? "" : rest.substr(word);
    bool begins_thought = at == 0 && !a->start.empty() && // a tag of which not all came
                          (starts_with(first, a->start) || starts_with(a->start, first));
    if (!first.empty() && !begins_thought)
        text_tell(out, "content", a->given.content, a->given.content + rest);
}

void tell(struct llama_answer *a, common_json &out, bool final)
{
    common_chat_msg msg;
    bool whole = read(a, a->text, !final, msg);
    if (whole || (final && read_beginning(a, msg))) {
        text_tell(out, "reasoning", a->given.reasoning_content, msg.reasoning_content);
        text_tell(out, "content", a->given.content, msg.content);
        whole = calls_tell(a, out, msg, final) && whole;
    }
    if (final && (!whole || !is_complete(a)))
        rest_tell(a, out);
}

struct llama_answer *answer_make(const common_json &parser, int share)
{
    auto a = std::make_unique<llama_answer>();
    a->params.format = static_cast<common_chat_format>(parser.at("format").get<int>());
    a->params.generation_prompt = parser.at("prompt").get<std::string>();
    a->params.reasoning_format =
        common_reasoning_format_from_name(parser.at("reasoning").get<std::string>());
    a->params.parse_tool_calls = parser.at("tools").get<bool>();
    a->params.is_continuation = parser.at("continues").get<bool>();
    a->params.parser.load(parser.at("arena").get<std::string>());
    a->share = share;
    a->start = parser.at("start").get<std::string>();
    for (const common_json &end : parser.at("ends"))
        a->ends.push_back(end.get<std::string>());
    if (a->params.is_continuation) // what the client has already is not told again
        read(a.get(), "", true, a->given);
    a->before_reasoning = a->given.reasoning_content.size();
    a->before_content = a->given.content.size();
    return a.release();
}

} // namespace

struct llama_answer *llama_answer_new(const char *parser, int share, struct err *e)
{
    try {
        return answer_make(common_json::parse(parser), share);
    } catch (const std::exception &x) {
        err_set(e, ERR_INVALID, "the syntax of the answer does not load: %s", x.what());
    } catch (...) {
        err_set(e, ERR_INVALID, "the syntax of the answer does not load");
    }
    return nullptr;
}

void llama_answer_free(struct llama_answer *answer)
{
    delete answer;
}

char *llama_answer_put(struct llama_answer *a, const char *text, size_t n, bool final)
{
    common_json out = common_json::array();
    int64_t start = clock_now_ns();
    a->text.append(text, n);
    if (!final && start < a->next_ns)
        return strdup("[]");
    tell(a, out, final);
    int64_t end = clock_now_ns();
    a->next_ns = end + (end - start) * a->share;
    return strdup(out.dump_safe().c_str());
}
