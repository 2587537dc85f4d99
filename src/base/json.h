// Typed access to jansson objects, with errors that name the member.
//
// json_object_get_* of the form below: absent or null leaves *out untouched and returns 0; a wrong
// type or a value outside [min, max] is ERR_INVALID with a message that names member, wanted type
// and, for numbers, the value and the limits.
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

int json_get_bool(const json_t *object, const char *member, bool *out, struct err *e);
int json_get_i64(const json_t *object, const char *member, int64_t min, int64_t max, int64_t *out,
                 struct err *e);
// Integers are accepted as numbers; NaN and infinities cannot occur in JSON.
int json_get_f64(const json_t *object, const char *member, double min, double max, double *out,
                 struct err *e);
// Borrows: *out lives as long as the object.
int json_get_string(const json_t *object, const char *member, const char **out, struct err *e);
// Copies into out[out_bytes]; too long is ERR_RANGE.
int json_copy_string(const json_t *object, const char *member, char *out, size_t out_bytes,
                     struct err *e);
int json_get_object(const json_t *object, const char *member, json_t **out, struct err *e);
int json_get_array(const json_t *object, const char *member, json_t **out, struct err *e);

// The member, or NULL where it is absent or null.
json_t *json_member(const json_t *object, const char *member);
// What may be missing: the member, or `none` where it is absent or of another type; for a text also where it is
// empty.
const char *json_string_or(const json_t *object, const char *member, const char *none);
double json_number_or(const json_t *object, const char *member, double none);
// A whole number; 0 where it is none or not within 32 bits.
uint32_t json_u32(const json_t *object, const char *member);

// Parses n bytes of UTF-8 (embedded NULs refused, depth limited by jansson, duplicates refused).
// Returns a new reference or NULL with `e` set (line and column named).
json_t *json_parse(const void *text, size_t n, struct err *e);
// Compact text, caller frees. Never NULL for a value built by us. Fractions keep all their digits: for
// what another program of ours reads again.
char *json_text(const json_t *value);
// The same for people and their programs: fractions with nine digits, so that 0.1 is not
// 0.10000000000000001. That is finer than any clock here, and a float survives it.
char *json_line(const json_t *value);
// Steals `value`, so that building reads well; aborts if out of memory. A NULL value, which is what
// json_string gives for text that is not UTF-8, is put as null: foreign text must not end the process.
void json_put(json_t *object, const char *member, json_t *value);
// A text; NULL is left out.
void json_put_text(json_t *object, const char *member, const char *text);

#endif
