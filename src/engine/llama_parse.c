// What an answer means: the C side of llama_answer.cpp. An answer without a parser in its syntax is all content
// and costs nothing to tell.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/llama_chat.h"

#include <stdlib.h>
#include <string.h>

// Of the time of an answer, one part in so many goes into reading it.
#define READING_SHARE 20

struct engine_parser {
    struct llama_answer *answer; // NULL: all content
};

int llama_parse_new(struct engine *g, const json_t *syntax, struct engine_parser **out,
                    struct err *e)
{
    const json_t *parser = json_object_get(syntax, "parser");
    struct llama_answer *answer = NULL;
    (void)g;
    if (syntax != NULL && !json_is_null(syntax) && !json_is_object(syntax))
        return err_set(e, ERR_INVALID, "the syntax of an answer must be an object");
    if (parser != NULL) {
        char *text = json_text(parser);
        answer = llama_answer_new(text, READING_SHARE, e);
        free(text);
        if (answer == NULL)
            return ERR_INVALID;
    }
    *out = mem_alloc(sizeof **out);
    (*out)->answer = answer;
    return 0;
}

void llama_parse_free(struct engine *g, struct engine_parser *p)
{
    (void)g;
    if (p == NULL)
        return;
    llama_answer_free(p->answer);
    free(p);
}

static json_t *content_of(const char *text, size_t n)
{
    json_t *deltas = json_array();
    json_t *content = n > 0 ? json_stringn(text, n) : NULL;
    if (content != NULL)
        json_array_append_new(deltas, json_pack("{s:o}", "content", content));
    return deltas;
}

json_t *llama_parse_put(struct engine *g, struct engine_parser *p, const char *text, size_t n,
                        bool final)
{
    (void)g;
    if (p->answer == NULL)
        return content_of(text, n);
    char *said = llama_answer_put(p->answer, text, n, final);
    json_t *deltas = json_parse(said, strlen(said), NULL);
    free(said);
    return deltas != NULL ? deltas : json_array();
}
