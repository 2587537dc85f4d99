// The text, parser and sampling entries of the fake engine's table; internal to the fake engine.
#ifndef ENGINE_ENGINE_FAKE_TEXT_H
#define ENGINE_ENGINE_FAKE_TEXT_H

#include "engine/engine.h"

int fake_tokenize(struct engine *g, const char *text, size_t n, bool special, bool add_bos,
                  int32_t **tokens, size_t *n_tokens, struct err *e);
size_t fake_piece(struct engine *g, int32_t token, char *out, size_t cap);
bool fake_is_end(struct engine *g, int32_t token);
int fake_render(struct engine *g, const json_t *request, json_t **rendered, struct err *e);

// engine_fake_parse.c
int fake_parser_new(struct engine *g, const json_t *syntax, struct engine_parser **out,
                    struct err *e);
void fake_parser_free(struct engine *g, struct engine_parser *p);
json_t *fake_parser_put(struct engine *g, struct engine_parser *p, const char *text, size_t n,
                        bool final);

// engine_fake_sample.c
int fake_sampler_new(struct engine *g, const struct engine_sampling *s, struct engine_sampler **out,
                     struct err *e);
void fake_sampler_free(struct engine *g, struct engine_sampler *sampler);
void fake_sampler_accept(struct engine *g, struct engine_sampler *sampler, int32_t token);
int32_t fake_sample(struct engine *g, struct engine_sampler *sampler, size_t row);

#endif
