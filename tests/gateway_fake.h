// For the gateway's tests: a gateway on workers that are threads (fake_worker.h), and long prompts for it.
#ifndef TESTS_GATEWAY_FAKE_H
#define TESTS_GATEWAY_FAKE_H

#include "fake_worker.h"

struct stage {
    struct gateway_options options;
    struct fake local, node; // the node listens where stage_start was told so
    struct gateway *gateway;
    uint16_t port;
};

static UNUSED void stage_init(struct stage *s)
{
    memset(s, 0, sizeof(*s));
    gateway_options_default(&s->options);
    s->options.listen.port = 0;
    s->options.worker.engine.model = "/models/stem.gguf";
    s->local = fake_make("mac");
    s->node = fake_make("spark");
    log_level_set(getenv("TANDEM_LOG") ? log_level_get() : LOG_LEVEL_ERROR);
}

static UNUSED void stage_start(struct stage *s, bool with_node)
{
    struct core_source source = FAKE_SOURCE(&s->local);
    struct err e = {0};

    if (with_node) {
        fake_listen(&s->node);
        s->options.prefill[0] = (struct net_addr){.host = "127.0.0.1", .port = s->node.port};
        s->options.n_prefill = 1;
    }
    if (gateway_start_on(&s->options, &source, &s->gateway, &s->port, &e) != 0)
        fail_msg("%s", e.message);
}

// Waits until a node of the status (0: local, 1: the prefill node) is in a state.
static UNUSED void stage_await(struct stage *s, int node, const char *state)
{
    char path[32];
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    snprintf(path, sizeof(path), "nodes.%d.state", node);
    for (;;) {
        struct web_answer a = web_get(s->port, "/v1/tandem/status");
        json_t *v = parse(a.body);
        bool there = strcmp(text_at(v, path), state) == 0;

        if (clock_now_ns() > limit_ns)
            fail_msg("node %d is never %s: %s", node, state, a.body);
        json_decref(v);
        web_answer_fini(&a);
        if (there)
            return;
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

// The local worker is up, found out without a word to any worker.
static UNUSED void stage_await_health(struct stage *s)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    int status = 0;

    while (status != 200) {
        struct web_answer a = web_get(s->port, "/health");

        status = a.status;
        web_answer_fini(&a);
        assert_true(clock_now_ns() < limit_ns);
    }
}

// Both workers up.
static UNUSED void stage_ready(struct stage *s, bool with_node)
{
    stage_start(s, with_node);
    stage_await(s, 0, "up");
    if (with_node)
        stage_await(s, 1, "up");
}

// The same with two nodes: `other` is the second.
static UNUSED void stage_two(struct stage *s, struct fake *other)
{
    fake_listen(other);
    s->options.prefill[1] = (struct net_addr){.host = "127.0.0.1", .port = other->port};
    fake_listen(&s->node);
    s->options.prefill[0] = (struct net_addr){.host = "127.0.0.1", .port = s->node.port};
    s->options.n_prefill = 2;
    stage_ready(s, false);
}

static UNUSED void stage_stop(struct stage *s)
{
    gateway_free(s->gateway);
    fake_stop(&s->local);
    fake_stop(&s->node);
}

// ---- prompts ----------------------------------------------------------------------------------------------

#define LONG_PROMPT_TOKENS 400

// A body whose prompt has n tokens (the fake worker makes one of each byte). Caller frees.
static char *prompt_body(size_t n, const char *more)
{
    char *prompt = mem_alloc(n + 1), *body;

    memset(prompt, 'a', n);
    body = mem_format("{\"prompt\":\"%s\"%s%s}", prompt, more[0] ? "," : "", more);
    free(prompt);
    return body;
}

// Cold: tests ask for the same prompt again and again, and are about a hand-off each time.
static UNUSED struct web ask_long(struct stage *s, const char *more)
{
    char *cold = mem_format("\"cache_prompt\":false%s%s", more[0] ? "," : "", more);
    char *body = prompt_body(LONG_PROMPT_TOKENS, cold);
    struct web w = web_post(s->port, "/v1/completions", body);

    free(cold);
    free(body);
    return w;
}

// The whole answer to it.
static UNUSED json_t *answer_long(struct stage *s, const char *more, int status)
{
    struct web w = ask_long(s, more);

    return finish_json(&w, status);
}

// Starts both workers and asks: the node has got the prompt then, and says nothing of it by itself. Returns its
// request's id there.
static UNUSED uint64_t ask_held(struct stage *s, const char *more, struct web *w)
{
    s->node.hold_prefill = true;
    stage_ready(s, true);
    *w = ask_long(s, more);
    return fake_expect(&s->node, WIRE_PREFILL, 1)->id;
}

// The node's words for a prompt that is read.
static UNUSED void node_reads(struct stage *s, uint64_t id)
{
    fake_say(&s->node, WIRE_ACCEPTED, id, "{}");
    fake_say(&s->node, WIRE_PREFILLED, id, "{\"tokens\":1}");
}

#endif
