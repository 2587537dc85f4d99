// Private to net/: the 2048 words that stand for eleven bits each.
#ifndef NET_WORDS_TABLE_H
#define NET_WORDS_TABLE_H

#define WORDS_TABLE_SIZE 2048

extern const char words_table[WORDS_TABLE_SIZE][8];

#endif
