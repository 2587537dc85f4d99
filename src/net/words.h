// The cluster key as words that a person can read out and type, and as a file.
//
// 256 bits and a checksum of 8 (the first byte of the key's SHA-256) are 24 groups of 11 bits, most
// significant first; each group is a word of a fixed list of 2048. No two words share their first
// four letters, so those are enough; a mistyped word is refused by name, swapped ones by the checksum.
//
// The key file holds 64 hex digits and a newline, mode 0600. Any thread; nothing is kept.
#ifndef NET_WORDS_H
#define NET_WORDS_H

#include "net/net.h"

#define WORDS_COUNT 24
#define WORDS_BYTES 256 // room for the words with spaces between them

void words_encode(const struct net_key *key, char out[WORDS_BYTES]);
// Words divided by anything that is no letter, in either case. ERR_INVALID says which word, or that
// the checksum does not fit.
int words_decode(const char *text, struct net_key *out, struct err *e);

size_t words_count(const char *text);

// A fresh random key.
void net_key_make(struct net_key *key);

// Where the key lies: `path` if not NULL, else TANDEM_KEY_FILE, else cluster.key in the config folder.
int net_key_path(const char *path, char *out, size_t out_bytes, struct err *e);
// ERR_NOT_FOUND: there is none (*key is then unset). ERR_AUTH: other users can read the file.
// ERR_CORRUPT: it holds something else.
int net_key_load(const char *path, struct net_key *key, struct err *e);
// Writes it with mode 0600. ERR_BUSY when there is a key already and `force` is false.
int net_key_save(const char *path, const struct net_key *key, bool force, struct err *e);

#endif
