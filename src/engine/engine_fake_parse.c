// The parser of the fake engine: reasoning and tool calls by their marks (fake.h), told as soon as they are
// certain. It looks at every byte once; what may yet become a mark waits in `rest`.
#include "engine/engine_fake_text.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/engine_fake_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_BYTES_MAX (64u << 20)
#define NAME_BYTES 128

static const char think_begin[] = "<think>", think_end[] = "</think>";
static const char tool_begin[] = "<tool>", tool_end[] = "</tool>";

enum place { IN_CONTENT, IN_REASONING, IN_CALL, IN_ARGUMENTS, AFTER_ARGUMENTS };

struct engine_parser {
    bool reasoning, tools; // which marks count
    uint64_t number;       // of this parser in its engine: makes the ids of calls unique
    enum place place;
    struct buf rest; // not decided yet
    int calls;       // begun
    int depth;       // of braces in the arguments
    bool in_text, escaped;
};

int fake_parser_new(struct engine *g, const json_t *syntax, struct engine_parser **out,
                    struct err *e)
{
    struct fake *f = (struct fake *)g;
    bool ours = json_is_string(json_object_get(syntax, "answer"));
    if (syntax != NULL && !json_is_null(syntax) && !ours &&
        json_object_get(syntax, "grammar") == NULL)
        return err_set(e, ERR_INVALID, "a syntax that no render of this engine made");
    struct engine_parser *p = mem_alloc(sizeof *p);
    buf_init(&p->rest, ANSWER_BYTES_MAX);
    p->reasoning = json_is_true(json_object_get(syntax, "reasoning"));
    p->tools = json_is_true(json_object_get(syntax, "tools"));
    p->number = f->n_parsers++;
    *out = p;
    return 0;
}

void fake_parser_free(struct engine *g, struct engine_parser *p)
{
    (void)g;
    if (p == NULL)
        return;
    buf_fini(&p->rest);
    free(p);
}

// ---- deltas -------------------------------------------------------------------------------------

static void text_tell(json_t *out, const char *kind, const char *text, size_t n)
{
    if (n == 0)
        return;
    json_t *delta = json_object();
    json_put(delta, kind, json_stringn(text, n));
    json_array_append_new(out, delta);
}

static void call_tell(const struct engine_parser *p, json_t *out, const char *name,
                      const char *arguments, size_t n)
{
    char id[48];
    json_t *delta = json_object();
    json_put(delta, "tool", json_integer(p->calls - 1));
    if (name != NULL) {
        snprintf(id, sizeof id, "call_fake%llu_%d", (unsigned long long)p->number, p->calls - 1);
        json_put(delta, "id", json_string(id));
        json_put(delta, "name", json_string(name));
    }
    json_put(delta, "arguments", json_stringn(arguments, n));
    json_array_append_new(out, delta);
}

// ---- places -------------------------------------------------------------------------------------

// Where the mark begins in the rest, or where what may become it begins; rest.len: nowhere.
static size_t mark_find(const struct buf *rest, const char *mark)
{
    size_t n = strlen(mark);
    for (size_t i = 0; i < rest->len; i++) {
        size_t left = rest->len - i;
        if (memcmp(rest->data + i, mark, left < n ? left : n) == 0)
            return i;
    }
    return rest->len;
}

// Tells the text before the mark; true when the whole mark was there and is consumed.
static bool text_until(struct engine_parser *p, const char *mark, size_t at, json_t *out)
{
    bool whole = p->rest.len - at >= strlen(mark);
    text_tell(out, p->place == IN_REASONING ? "reasoning" : "content", (char *)p->rest.data, at);
    buf_consume(&p->rest, whole ? at + strlen(mark) : at);
    return whole;
}

static bool content_take(struct engine_parser *p, json_t *out)
{
    size_t think = p->reasoning ? mark_find(&p->rest, think_begin) : p->rest.len;
    size_t tool = p->tools ? mark_find(&p->rest, tool_begin) : p->rest.len;
    const char *mark = think < tool ? think_begin : tool_begin;
    if (!text_until(p, mark, think < tool ? think : tool, out))
        return false;
    p->place = mark == think_begin ? IN_REASONING : IN_CALL;
    return true;
}

static bool reasoning_take(struct engine_parser *p, json_t *out)
{
    if (!text_until(p, think_end, mark_find(&p->rest, think_end), out))
        return false;
    p->place = IN_CONTENT;
    return true;
}

// The head of a call, up to its arguments. What cannot be one is content, its mark included.
static bool call_take(struct engine_parser *p, json_t *out)
{
    char name[NAME_BYTES];
    int n = 0;
    if (p->rest.len > 0)
        sscanf((char *)p->rest.data, " { \"name\" : \"%127[^\"\\]\" , \"arguments\" : %n", name,
               &n);
    if (n > 0 && p->rest.data[n] == '{') {
        p->calls++;
        p->place = IN_ARGUMENTS;
        p->depth = 0;
        call_tell(p, out, name, "", 0);
        buf_consume(&p->rest, (size_t)n);
        return true;
    }
    size_t end = mark_find(&p->rest, tool_end);
    bool closed = p->rest.len - end >= strlen(tool_end);
    if (!closed && (n == 0 || p->rest.data[n] == '\0'))
        return false; // more may come
    text_tell(out, "content", tool_begin, strlen(tool_begin));
    p->place = IN_CONTENT;
    return true;
}

// True when this byte ends the arguments.
static bool argument_byte(struct engine_parser *p, uint8_t c)
{
    if (p->in_text) {
        p->in_text = c != '"' || p->escaped;
        p->escaped = c == '\\' && !p->escaped;
        return false;
    }
    p->in_text = c == '"';
    p->escaped = false;
    p->depth += (c == '{') - (c == '}');
    return p->depth == 0;
}

static bool arguments_take(struct engine_parser *p, json_t *out)
{
    bool ended = false;
    size_t n = 0;
    while (n < p->rest.len && !ended)
        ended = argument_byte(p, p->rest.data[n++]);
    if (n > 0)
        call_tell(p, out, NULL, (char *)p->rest.data, n);
    buf_consume(&p->rest, n);
    if (ended)
        p->place = AFTER_ARGUMENTS;
    return ended;
}

static bool call_close(struct engine_parser *p)
{
    size_t at = mark_find(&p->rest, tool_end);
    if (p->rest.len - at < strlen(tool_end))
        return false;
    buf_consume(&p->rest, at + strlen(tool_end));
    p->place = IN_CONTENT;
    return true;
}

// True when the place changed and there may be more to tell.
static bool advance(struct engine_parser *p, json_t *out)
{
    switch (p->place) {
    case IN_CONTENT:
        return content_take(p, out);
    case IN_REASONING:
        return reasoning_take(p, out);
    case IN_CALL:
        return call_take(p, out);
    case IN_ARGUMENTS:
        return arguments_take(p, out);
    case AFTER_ARGUMENTS:
        return call_close(p);
    }
    return false;
}

json_t *fake_parser_put(struct engine *g, struct engine_parser *p, const char *text, size_t n,
                        bool final)
{
    (void)g;
    json_t *out = json_array();
    buf_put(&p->rest, text, n);
    while (p->rest.len > 0 && advance(p, out))
        ;
    if (!final)
        return out;
    if (p->place == IN_CALL)
        text_tell(out, "content", tool_begin, strlen(tool_begin));
    if (p->place != AFTER_ARGUMENTS && p->rest.len > 0)
        text_tell(out, p->place == IN_REASONING ? "reasoning" : "content", (char *)p->rest.data,
                  p->rest.len);
    buf_clear(&p->rest);
    return out;
}
