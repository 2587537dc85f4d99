// What a grammar grows to: rows of texts, with what is said of those that are refused.
#include "engine/grammar.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void taken(const char *text)
{
    struct err e = {0};

    if (grammar_weigh(text, &e) != 0)
        fail_msg("%.200s: %s", text, e.message);
}

static void refused(const char *text, const char *says)
{
    struct err e = {0};

    assert_int_equal(grammar_weigh(text, &e), ERR_INVALID);
    if (!strstr(e.message, says))
        fail_msg("%.200s: %s", text, e.message);
}

static void test_taken(void **state)
{
    static const char *const rows[] = {
        "",
        "root ::= \"a\"",
        "root ::= \"a\"{0,2000} b{3} c{3,} [0-9]{ 1 , 15 }",
        "root ::= \"{5,2}\" [{5,2}] # a{5,2}\nb ::= \"\\\"{5,2}\"",
        "root ::= (\"a\" | b)* c+ d? .{2}",
        "root ::= <[7]>{2} !<think>{3}",
        "root ::= a{", // the library refuses what follows
        "root ::= a{x",
        "root ::= \"a",
        "root ::= [a\\",
        "root ::= <",
        "#",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        taken(rows[i]);
}

static void test_backwards(void **state)
{
    static const char *const rows[] = {"root ::= \"a\"{5,2}",        "root ::= b{1,0}",
                                       "root ::= (\"a\"){ 10 , 9 }", "root ::= [a-z]{5,\n2}",
                                       "root ::= a{5,#x\n2}",        "root ::= a{2,1",
                                       "root ::= \"\\\\\"{5,2}"};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        refused(rows[i], "cannot be");
}

// A text of so many pieces between two others.
static char *text_of(const char *head, const char *piece, size_t n, const char *tail)
{
    struct buf b;

    buf_init(&b, 16u << 20);
    buf_puts(&b, head);
    for (size_t i = 0; i < n; i++)
        buf_puts(&b, piece);
    buf_puts(&b, tail);
    return buf_take(&b);
}

static void test_size(void **state)
{
    static const struct {
        const char *head, *piece, *tail;
        size_t n;
        bool taken;
    } rows[] = {
        {"root ::= \"", "a", "\"{2000}", 5000, true},
        {"root ::= \"", "a", "\"{2000}", 500000, false},
        {"root ::= [", "a", "]{0,2000}", 500000, false},
        {"root ::= ", "a{0,2000} ", "", 100, true},
        {"root ::= ", "a{0,2000} ", "", 10000, false},
        {"root ::= ", "a{0,1000000} ", "", 10000, true}, // no more than "a*"
        // The names of the rules that are made are as long as that of the rule they stand in.
        {"root ::= a? b*\n", "a", " ::= \"x\"", 500000, true},
        {"", "a", " ::= a{0,2000}", 500000, false},
        {"root ::= \"a\"", "{2000}", "", 100, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *text = text_of(rows[i].head, rows[i].piece, rows[i].n, rows[i].tail);

        if (rows[i].taken)
            taken(text);
        else
            refused(text, "repeat less often");
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_backwards),
        cmocka_unit_test(test_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
