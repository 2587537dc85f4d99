// Reads the members of one JSON object of a control frame, one after the other: the first failure sticks and
// everything behind it does nothing, so that a list of members reads as a list. A member that is absent leaves its
// *out as it was. For the files node/message*.c; it owns nothing.
#ifndef NODE_MESSAGE_READ_H
#define NODE_MESSAGE_READ_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message_reader {
    const json_t *object;
    struct err *e;
    int rc; // 0, or the code of the first failure
};

// `what` names the frame where it is no object.
struct message_reader message_reader_of(const json_t *object, const char *what, struct err *e);

// Fails where the member is absent or null.
void message_need(struct message_reader *r, const char *member);

void message_read_bool(struct message_reader *r, const char *member, bool *out);
void message_read_u32(struct message_reader *r, const char *member, uint32_t max, uint32_t *out);
void message_read_i32(struct message_reader *r, const char *member, int32_t min, int32_t max,
                      int32_t *out);
void message_read_u64(struct message_reader *r, const char *member, uint64_t *out);
void message_read_f64(struct message_reader *r, const char *member, double min, double max,
                      double *out);
void message_read_f32(struct message_reader *r, const char *member, double min, double max,
                      float *out);
void message_read_text(struct message_reader *r, const char *member, char *out, size_t out_bytes);

// A nested object that may be absent: message_present says whether it is there. What failed inside it
// goes to the outer one with message_fail_into, which names the place.
struct message_reader message_read_object(struct message_reader *r, const char *member);
bool message_present(const struct message_reader *r);
void message_fail_into(struct message_reader *r, const struct message_reader *nested,
                       const char *where);

#endif
