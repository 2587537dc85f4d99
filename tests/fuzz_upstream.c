// What an upstream server sends, of any bytes: a stream, a whole answer, a list of models, a reason. What is told keeps a
// worker's promises (calls in order, texts that are texts), and the same bytes in two pieces tell the same.
#include "gateway/answer.h"
#include "gateway/upstream_impl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
    if (!ok)
        abort();
}

struct heard {
    struct answer_choice choice;
    size_t tokens, ends;
};

static void hear(void *ctx, enum wire_type type, json_t *head)
{
    struct heard *h = ctx;
    const json_t *deltas = json_object_get(head, "delta");

    must(h->ends == 0 && json_is_array(deltas));
    if (type == WIRE_TOKEN)
        h->tokens++;
    else
        h->ends++;
    for (size_t i = 0; i < json_array_size(deltas); i++)
        must(answer_take(&h->choice, json_array_get(deltas, i)) == 0);
    json_decref(json_object_get(head, "logprob") ? answer_logprob(head) : NULL);
    json_decref(head);
}

static void heard_init(struct heard *h)
{
    *h = (struct heard){0};
    buf_init(&h->choice.text, ANSWER_TEXT_MAX);
    buf_init(&h->choice.reasoning, ANSWER_TEXT_MAX);
}

static void heard_fini(struct heard *h)
{
    buf_fini(&h->choice.text);
    buf_fini(&h->choice.reasoning);
    for (size_t i = 0; i < h->choice.n_tools; i++) {
        must(h->choice.tools[i].id && h->choice.tools[i].name);
        free(h->choice.tools[i].id);
        free(h->choice.tools[i].name);
        buf_fini(&h->choice.tools[i].arguments);
    }
    free(h->choice.tools);
}

static int play(const uint8_t *data, size_t n, size_t cut, bool stream, struct heard *h)
{
    struct upstream_answer a;
    struct err e = {0};
    int rc;

    upstream_answer_init(&a, hear, h, 1);
    a.stream = stream;
    rc = upstream_answer_take(&a, data, cut, 2, &e);
    if (rc == 0 && cut < n)
        rc = upstream_answer_take(&a, data + cut, n - cut, 3, &e);
    if (rc == 0)
        rc = upstream_answer_end(&a, 4, &e);
    must(rc == 0 ? h->ends == 1 : h->ends == 0 && e.message[0]);
    upstream_answer_fini(&a);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct heard one, two;
    struct upstream_listed *all;
    size_t n_all, left;
    struct err e = {0};
    char reason[UPSTREAM_REASON_BYTES];
    bool stream;

    if (n < 2)
        return 0;
    stream = data[0] & 1;
    heard_init(&one);
    heard_init(&two);
    must(play(data + 2, n - 2, n - 2, stream, &one) ==
         play(data + 2, n - 2, (n - 2) * data[1] / 255, stream, &two));
    must(one.tokens == two.tokens && one.choice.text.len == two.choice.text.len);
    heard_fini(&one);
    heard_fini(&two);
    if (upstream_list_parse(data + 2, n - 2, &all, &n_all, &left, &e) == 0)
        for (size_t i = 0; i < n_all; i++)
            must(all[i].id[0] && strlen(all[i].id) < PARSE_MODEL_BYTES);
    free(all);
    upstream_reason(data + 2, n - 2, "x", reason);
    must(reason[0] && !strchr(reason, '\n'));
    return 0;
}
