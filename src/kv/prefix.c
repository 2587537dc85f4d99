#include "kv/prefix.h"

#include "base/buf.h"

#include <stdbool.h>
#include <stdlib.h>

struct node {
    struct node *parent, *child, *next; // children are a list: there are few
    int32_t *label;                     // the run of tokens on the edge above, [n]; a root has none
    uint32_t n;
    uint32_t ends; // first of the sequences that end here, NONE: no
    char *owner;   // of a root
};

#define NONE UINT32_MAX

// A sequence's end; those at one node form a list.
struct end {
    struct node *at; // NULL: not in the tree
    uint32_t next;
};

struct kv_prefix {
    struct node *roots;
    struct end *ends; // [n_ends]
    size_t n_ends;
    struct kv_prefix_size size;
};

// ---- nodes -----------------------------------------------------------------------------------------

static struct node *node_new(struct kv_prefix *p, const int32_t *label, uint32_t n)
{
    struct node *x = mem_alloc(sizeof *x);
    x->ends = NONE;
    x->n = n;
    if (n > 0) {
        x->label = mem_alloc(n * sizeof *label);
        memcpy(x->label, label, n * sizeof *label);
    }
    p->size.nodes++;
    p->size.tokens += n;
    return x;
}

static void node_free(struct kv_prefix *p, struct node *x)
{
    p->size.nodes--;
    p->size.tokens -= x->n;
    free(x->label);
    free(x->owner);
    free(x);
}

static struct node **list_of(struct kv_prefix *p, const struct node *x)
{
    return x->parent != NULL ? &x->parent->child : &p->roots;
}

static void node_link(struct kv_prefix *p, struct node *x, struct node *parent)
{
    x->parent = parent;
    struct node **list = list_of(p, x);
    x->next = *list;
    *list = x;
}

static void node_unlink(struct kv_prefix *p, struct node *x)
{
    struct node **at = list_of(p, x);
    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
}

static struct node *root_find(const struct kv_prefix *p, const char *owner)
{
    struct node *x = p->roots;
    while (x != NULL && strcmp(x->owner, owner) != 0)
        x = x->next;
    return x;
}

static struct node *child_find(const struct node *x, int32_t token)
{
    struct node *c = x->child;
    while (c != NULL && c->label[0] != token)
        c = c->next;
    return c;
}

static uint32_t label_common(const struct node *x, const int32_t *tokens, size_t n)
{
    uint32_t most = n < x->n ? (uint32_t)n : x->n, i = 0;
    while (i < most && x->label[i] == tokens[i])
        i++;
    return i;
}

// Cuts the edge above x after k tokens; returns the new node at the cut.
static struct node *edge_split(struct kv_prefix *p, struct node *x, uint32_t k)
{
    struct node *upper = node_new(p, x->label, k);
    node_unlink(p, x);
    node_link(p, upper, x->parent);
    memmove(x->label, x->label + k, (x->n - k) * sizeof *x->label);
    x->n -= k;
    x->label = mem_resize(x->label, x->n * sizeof *x->label);
    p->size.tokens -= k;
    x->next = NULL;
    node_link(p, x, upper);
    return upper;
}

// Joins x, at which nothing ends and which has one child, with that child.
static void edge_join(struct kv_prefix *p, struct node *x)
{
    struct node *c = x->child;
    c->label = mem_resize(c->label, (x->n + c->n) * sizeof *c->label);
    memmove(c->label + x->n, c->label, c->n * sizeof *c->label);
    memcpy(c->label, x->label, x->n * sizeof *c->label);
    c->n += x->n;
    p->size.tokens += x->n;
    node_unlink(p, x);
    node_link(p, c, x->parent);
    node_free(p, x);
}

// Removes what serves no sequence any more, from x upwards.
static void node_prune(struct kv_prefix *p, struct node *x)
{
    while (x != NULL && x->ends == NONE && x->child == NULL) {
        struct node *parent = x->parent;
        node_unlink(p, x);
        node_free(p, x);
        x = parent;
    }
    if (x != NULL && x->ends == NONE && x->parent != NULL && x->child->next == NULL)
        edge_join(p, x);
}

// ---- sequences -------------------------------------------------------------------------------------

struct kv_prefix *kv_prefix_new(void)
{
    return mem_alloc(sizeof(struct kv_prefix));
}

void kv_prefix_free(struct kv_prefix *p)
{
    if (p == NULL)
        return;
    for (size_t seq = 0; seq < p->n_ends; seq++)
        kv_prefix_remove(p, (uint32_t)seq);
    free(p->ends);
    free(p);
}

static struct node *path_make(struct kv_prefix *p, struct node *x, const int32_t *tokens, size_t n)
{
    while (n > 0) {
        struct node *c = child_find(x, tokens[0]);
        if (c == NULL) {
            c = node_new(p, tokens, (uint32_t)n);
            node_link(p, c, x);
            return c;
        }
        uint32_t k = label_common(c, tokens, n);
        x = k < c->n ? edge_split(p, c, k) : c;
        tokens += k;
        n -= k;
    }
    return x;
}

void kv_prefix_put(struct kv_prefix *p, const char *owner, uint32_t seq, const int32_t *tokens,
                   size_t n)
{
    kv_prefix_remove(p, seq);
    if (seq >= KV_PREFIX_SEQS_MAX || n == 0)
        return; // an empty sequence begins like nothing
    if (seq >= p->n_ends) {
        p->ends = mem_resize(p->ends, (seq + 1) * sizeof *p->ends);
        memset(p->ends + p->n_ends, 0, (seq + 1 - p->n_ends) * sizeof *p->ends);
        p->n_ends = seq + 1;
    }
    struct node *root = root_find(p, owner);
    if (root == NULL) {
        root = node_new(p, NULL, 0);
        root->owner = mem_strdup(owner);
        node_link(p, root, NULL);
    }
    struct node *x = path_make(p, root, tokens, n);
    p->ends[seq] = (struct end){.at = x, .next = x->ends};
    x->ends = seq;
    p->size.sequences++;
}

void kv_prefix_remove(struct kv_prefix *p, uint32_t seq)
{
    if (seq >= p->n_ends || p->ends[seq].at == NULL)
        return;
    struct node *x = p->ends[seq].at;
    uint32_t *at = &x->ends;
    while (*at != seq)
        at = &p->ends[*at].next;
    *at = p->ends[seq].next;
    p->ends[seq].at = NULL;
    p->size.sequences--;
    node_prune(p, x);
}

// ---- finding ---------------------------------------------------------------------------------------

struct search {
    const struct kv_prefix *p;
    struct kv_prefix_hit *hits;
    size_t n, max;
};

// Keeps the best: by length, then by number.
static void hit_put(struct search *s, uint32_t seq, uint32_t length)
{
    size_t i = s->n < s->max ? s->n++ : s->max;
    for (; i > 0; i--) {
        const struct kv_prefix_hit *before = &s->hits[i - 1];
        if (before->length > length || (before->length == length && before->seq < seq))
            break;
        if (i < s->max)
            s->hits[i] = *before;
    }
    if (i < s->max)
        s->hits[i] = (struct kv_prefix_hit){seq, length};
}

static void ends_put(struct search *s, const struct node *x, uint32_t length)
{
    for (uint32_t seq = x->ends; seq != NONE; seq = s->p->ends[seq].next)
        hit_put(s, seq, length);
}

// The node after x in the order of a walk through everything below `top`; NULL at its end. A tree of
// long chains would be deep, so this does not call itself.
static const struct node *walk_next(const struct node *x, const struct node *top)
{
    if (x->child != NULL)
        return x->child;
    while (x != top && x->next == NULL)
        x = x->parent;
    return x == top ? NULL : x->next;
}

// Everything at and below `top` shares `length` tokens, but for what is below `except`.
static void subtree_put(struct search *s, const struct node *top, const struct node *except,
                        uint32_t length)
{
    ends_put(s, top, length);
    for (const struct node *c = top->child; c != NULL; c = c->next)
        for (const struct node *x = c; c != except && x != NULL; x = walk_next(x, c))
            ends_put(s, x, length);
}

size_t kv_prefix_find(const struct kv_prefix *p, const char *owner, const int32_t *tokens, size_t n,
                      struct kv_prefix_hit *hits, size_t max)
{
    struct search s = {.p = p, .hits = hits, .max = max};
    const struct node *x = root_find(p, owner);
    uint32_t length = 0;

    while (x != NULL && max > 0) {
        const struct node *c = n > length ? child_find(x, tokens[length]) : NULL;
        uint32_t common = c != NULL ? label_common(c, tokens + length, n - length) : 0;
        if (length > 0)
            subtree_put(&s, x, c, length);
        length += common;
        if (c != NULL && common < c->n) {
            subtree_put(&s, c, NULL, length);
            break;
        }
        x = c;
    }
    return s.n;
}

struct kv_prefix_size kv_prefix_size_get(const struct kv_prefix *p)
{
    return p->size;
}
