// Who may ask what: API keys with scopes, the hosts a client may call this server by, and web pages of
// other origins. Private to gateway/.
//
// A key is known by its SHA-256 alone, from --api-key or from a file of lines
//
//   NAME SCOPE[,SCOPE] KEY          or, so that the file holds no secret,
//   NAME SCOPE[,SCOPE] sha256:HEX
//
// with the scopes inference and admin. The table is read once and then immutable: any thread may look
// a key up. All keys are compared, each in the same time, whatever is given.
#ifndef GATEWAY_ACCESS_H
#define GATEWAY_ACCESS_H

#include "base/err.h"
#include "node/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACCESS_KEYS_MAX 1024
#define ACCESS_NAME_BYTES 64
#define ACCESS_HASH_BYTES 32
#define ACCESS_FILE_MAX (1u << 20) // bytes of a file of keys

enum access_scope {
    ACCESS_FREE = 0,           // health: nobody is asked for a key
    ACCESS_INFERENCE = 1 << 0, // the APIs
    ACCESS_ADMIN = 1 << 1,     // status, models' loading, erasing
    ACCESS_ANY = ACCESS_INFERENCE | ACCESS_ADMIN,
};

struct access_key {
    char name[ACCESS_NAME_BYTES];
    unsigned scopes;
    uint8_t hash[ACCESS_HASH_BYTES];
    char owner[MESSAGE_OWNER_BYTES]; // what workers know it by: a hash of the hash
};

struct access;
struct exchange;
struct gateway_options;

// Reads the keys. ERR_AUTH for a file that others can read, ERR_INVALID naming the line.
int access_open(const struct gateway_options *o, struct access **out, struct err *e);
void access_free(struct access *a);
bool access_demanded(const struct access *a); // there is a key
const struct access_key *access_named(const struct access *a, const char *name);
const struct access_key *access_find(const struct access *a, const char *given, size_t n);

// ---- on the HTTP thread: refuse with http_refuse ----

void access_check(const struct access *a, struct exchange *x);
// A browser's question before a page's request, where pages may ask at all.
bool access_preflight(const struct exchange *x, const char *method);

#endif
