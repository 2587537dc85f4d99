// What reading an answer costs: an answer with reasoning, text and a tool call comes token by token at a given
// pace, and every token is put through the parser of a common kind of template.
//
//   build/bench/llama_parse [TOKENS_PER_S]   -> one line of JSON for every length of answer
//
// "once_us" is one reading of the whole answer; "per_token_us" is what a token costs on average at this
// pace, with the share of the time that the engine allows; "worst_put_us" is the longest pause.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/llama_chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARE 20

static const char source[] =
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "<|im_end|>\n{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls %}\n<tool_call>\n{\"name\": \"{{ c.function.name "
    "}}\", "
    "\"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

static const char request[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"tools\":[{\"type\":\"function\","
    "\"function\":{\"name\":\"write\",\"parameters\":{\"type\":\"object\",\"properties\":{\"text\":"
    "{\"type\":\"string\"}}}}}]}";

static char *parser_text(struct err *e)
{
    struct llama_chat *chat = llama_chat_new(NULL, source, e);
    char *rendered = chat ? llama_chat_render(chat, request, e) : NULL;
    json_t *r = rendered ? json_parse(rendered, strlen(rendered), e) : NULL;
    char *text = r ? json_text(json_object_get(json_object_get(r, "syntax"), "parser")) : NULL;
    json_decref(r);
    free(rendered);
    llama_chat_free(chat);
    return text;
}

// A quarter reasoning, half content, a quarter the arguments of a call; four bytes a token.
static void answer_make(struct buf *b, size_t n_tokens)
{
    static const char *const marks[] = {
        "<think>\n", "\n</think>\n\n", "",
        "\n<tool_call>\n{\"name\": \"write\", \"arguments\": {\"text\": \""};
    buf_clear(b);
    for (size_t part = 0; part < 4; part++) {
        buf_puts(b, marks[part]);
        for (size_t i = 0; i < n_tokens / 4; i++)
            buf_puts(b, i % 12 == 11 ? "abc. " : "word");
    }
    buf_puts(b, "\"}}\n</tool_call>");
}

static int64_t put(struct llama_answer *a, const char *text, size_t n, bool final)
{
    int64_t start = clock_now_ns();
    free(llama_answer_put(a, text, n, final));
    return clock_now_ns() - start;
}

static int run(const char *parser, size_t n_tokens, double per_s, struct err *e)
{
    struct buf b;
    int64_t total = 0, worst = 0, next = clock_now_ns();
    buf_init(&b, 1 << 20);
    answer_make(&b, n_tokens);
    struct llama_answer *whole = llama_answer_new(parser, 0, e);
    struct llama_answer *paced = whole ? llama_answer_new(parser, SHARE, e) : NULL;
    int64_t once = paced ? put(whole, (char *)b.data, b.len, true) : 0;
    for (size_t at = 0; paced && at < b.len; at += 4) {
        size_t n = b.len - at < 4 ? b.len - at : 4;
        int64_t took = put(paced, (char *)b.data + at, n, at + n == b.len);
        total += took;
        worst = took > worst ? took : worst;
        next += (int64_t)(1e9 / per_s);
        clock_sleep_until(next);
    }
    if (paced)
        printf("{\"tokens\":%zu,\"tokens_per_s\":%g,\"once_us\":%.0f,\"per_token_us\":%.1f,"
               "\"worst_put_us\":%.0f}\n",
               n_tokens, per_s, (double)once / 1e3, (double)total / 1e3 / ((double)b.len / 4),
               (double)worst / 1e3);
    llama_answer_free(whole);
    llama_answer_free(paced);
    buf_fini(&b);
    return paced ? 0 : -1;
}

int main(int argc, char **argv)
{
    static const size_t lengths[] = {256, 1024, 4096};
    struct err e = {0};
    double per_s = argc > 1 ? strtod(argv[1], NULL) : 200;
    char *parser = per_s > 0 ? parser_text(&e) : NULL;
    int rc = parser ? 0 : -1;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths && rc == 0; i++)
        rc = run(parser, lengths[i], per_s, &e);
    free(parser);
    if (rc != 0)
        fprintf(stderr, "llama_parse: %s\n",
                e.message[0] ? e.message : "usage: llama_parse [TOKENS_PER_S, above 0]");
    return rc != 0;
}
