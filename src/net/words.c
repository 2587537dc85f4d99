#include "net/words.h"

#include "base/buf.h"
#include "net/words_table.h"
#include "os/os.h"

#include <ctype.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#define WORD_BITS 11
#define CODE_BYTES (NET_KEY_BYTES + 1) // the key and its checksum
#define PREFIX_LETTERS 4

static uint8_t key_checksum(const uint8_t *key)
{
    uint8_t digest[32] = {0};
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, key, NET_KEY_BYTES, digest))
        abort(); // GnuTLS without SHA-256 cannot do TLS 1.3 either
    return digest[0];
}

static unsigned bit_get(const uint8_t *bytes, size_t i)
{
    return (unsigned)bytes[i / 8] >> (7 - i % 8) & 1u;
}

void words_encode(const struct net_key *key, char out[WORDS_BYTES])
{
    uint8_t code[CODE_BYTES];
    memcpy(code, key->bytes, NET_KEY_BYTES);
    code[NET_KEY_BYTES] = key_checksum(key->bytes);
    size_t at = 0;
    for (size_t w = 0; w < WORDS_COUNT; w++) {
        unsigned index = 0;
        for (size_t i = 0; i < WORD_BITS; i++)
            index = index << 1 | bit_get(code, w * WORD_BITS + i);
        at +=
            (size_t)snprintf(out + at, WORDS_BYTES - at, "%s%s", w ? " " : "", words_table[index]);
    }
    gnutls_memset(code, 0, sizeof code);
}

// The index of a word or of its first four letters, or -1.
static int word_find(const char *word)
{
    size_t n = strlen(word);
    size_t low = 0, high = WORDS_TABLE_SIZE;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strncmp(word, words_table[middle], PREFIX_LETTERS);
        if (order == 0)
            return n == PREFIX_LETTERS || strcmp(word, words_table[middle]) == 0 ? (int)middle : -1;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

// How many letters differ, counting from the front; for suggestions only.
static unsigned word_distance(const char *a, const char *b)
{
    unsigned distance = 0;
    for (; *a && *b; a++, b++)
        distance += *a != *b;
    return distance + (unsigned)strlen(a) + (unsigned)strlen(b);
}

static int word_error(size_t number, const char *word, struct err *e)
{
    const char *nearest = words_table[0];
    for (size_t i = 0; i < WORDS_TABLE_SIZE; i++) {
        if (word_distance(word, words_table[i]) < word_distance(word, nearest))
            nearest = words_table[i];
    }
    return err_set(e, ERR_INVALID, "word %zu, \"%s\", is not in the list; is it \"%s\"?", number,
                   word, nearest);
}

// Copies the next word in lower case; false at the end. A word that is too long for the list is cut
// but stays too long.
static bool word_next(const char **text, char out[16])
{
    const char *p = *text;
    while (*p && !isalpha((unsigned char)*p))
        p++;
    size_t n = 0;
    for (; isalpha((unsigned char)*p); p++) {
        if (n < 15)
            out[n++] = (char)tolower((unsigned char)*p);
    }
    out[n] = 0;
    *text = p;
    return n > 0;
}

size_t words_count(const char *text)
{
    char word[16];
    size_t n = 0;
    while (word_next(&text, word))
        n++;
    return n;
}

static void word_put(uint8_t code[CODE_BYTES], size_t number, unsigned index)
{
    for (size_t i = 0; i < WORD_BITS; i++) {
        size_t bit = number * WORD_BITS + i;
        if (index >> (WORD_BITS - 1 - i) & 1)
            code[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    }
}

int words_decode(const char *text, struct net_key *out, struct err *e)
{
    uint8_t code[CODE_BYTES] = {0};
    char word[16];
    size_t n = 0;
    for (; word_next(&text, word); n++) {
        int index = word_find(word);
        if (index < 0)
            return word_error(n + 1, word, e);
        if (n < WORDS_COUNT)
            word_put(code, n, (unsigned)index);
    }
    if (n != WORDS_COUNT)
        return err_set(e, ERR_INVALID, "%zu words; a cluster key has %d", n, WORDS_COUNT);
    if (code[NET_KEY_BYTES] != key_checksum(code))
        return err_set(e, ERR_INVALID,
                       "the words do not belong together: one is wrong, or two are "
                       "swapped; compare them with `tandem pair show`");
    struct net_key key;
    memcpy(key.bytes, code, NET_KEY_BYTES);
    gnutls_memset(code, 0, sizeof code);
    if (!net_key_is_set(&key))
        return err_set(e, ERR_INVALID, "these words are the key of zeros, which is none");
    *out = key;
    return 0;
}

void net_key_make(struct net_key *key)
{
    os_random(key->bytes, sizeof key->bytes);
}
