// The text of a running answer: UTF-8 across pieces, stop strings across pieces.
#include "node/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

struct text_case {
    const char *name;
    const char *pieces[8]; // NULL-terminated
    const char *stops[3];
    const char *expect;  // everything that goes out
    const char *stopped; // NULL: none
};

static const struct text_case cases[] = {
    {"plain", {"ab", "c"}, {NULL}, "abc", NULL},
    {"two-byte letter in two pieces", {"\xc3", "\xa9!"}, {NULL}, "\xc3\xa9!", NULL},
    {"emoji byte by byte", {"\xf0", "\x9f", "\x98", "\x80"}, {NULL}, "\xf0\x9f\x98\x80", NULL},
    {"bad lead byte",
     {"a\xff"
      "b"},
     {NULL},
     "a\xef\xbf\xbd"
     "b",
     NULL},
    {"cut letter at the end", {"a\xc3"}, {NULL}, "a\xef\xbf\xbd", NULL},
    {"broken letter then text", {"\xe2\x82", "x"}, {NULL}, "\xef\xbf\xbd\xef\xbf\xbdx", NULL},
    {"surrogate half", {"\xed\xa0\x80"}, {NULL}, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", NULL},
    {"stop in one piece", {"one END two"}, {"END"}, "one ", "END"},
    {"stop across three pieces", {"x<", "|e", "|>y"}, {"<|e|>"}, "x", "<|e|>"},
    {"false start of a stop", {"a<", "b"}, {"<|"}, "a<b", NULL},
    {"false start held to the end", {"a<"}, {"<|"}, "a<", NULL},
    {"overlapping start", {"aa", "ab"}, {"aab"}, "a", "aab"},
    {"earliest of two", {"x two one"}, {"one", "two"}, "x ", "two"},
    {"stop at once", {"END"}, {"END"}, "", "END"},
    {"empty stop is none", {"ab"}, {""}, "ab", NULL},
    {"letter before a stop", {"\xc3\xa9", "EN", "D"}, {"END"}, "\xc3\xa9", "END"},
};

static void case_run(const struct text_case *c, bool bytewise)
{
    struct text_stream t;
    struct buf out;
    size_t n_stops = 0;
    bool stopped = false;

    while (n_stops < 3 && c->stops[n_stops] != NULL)
        n_stops++;
    text_stream_init(&t, (char *const *)c->stops, n_stops);
    buf_init(&out, 4096);
    for (size_t i = 0; c->pieces[i] != NULL && !stopped; i++) {
        size_t n = strlen(c->pieces[i]);
        for (size_t k = 0; k < n && !stopped; k += bytewise ? 1 : n)
            stopped = text_stream_put(&t, c->pieces[i] + k, bytewise ? 1 : n, &out);
    }
    text_stream_end(&t, &out);
    assert_string_equal(out.len == 0 ? "" : (char *)out.data, c->expect);
    if (c->stopped == NULL)
        assert_null(t.stopped);
    else
        assert_string_equal(t.stopped, c->stopped);
    assert_int_equal(stopped, c->stopped != NULL);
    buf_fini(&out);
    text_stream_fini(&t);
}

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        print_message("%s\n", cases[i].name);
        case_run(&cases[i], false);
        case_run(&cases[i], true);
    }
}

// What goes out while pieces come is always whole: no half letter, no beginning of a stop.
static void test_nothing_early(void **state)
{
    (void)state;
    char *stops[] = {"STOP"};
    struct text_stream t;
    struct buf out;

    text_stream_init(&t, stops, 1);
    buf_init(&out, 4096);
    assert_false(text_stream_put(&t, "ok S\xc3", 5, &out));
    assert_string_equal((char *)out.data, "ok S");
    assert_false(text_stream_put(&t, "\xa9 STO", 5, &out));
    assert_string_equal((char *)out.data, "ok S\xc3\xa9 ");
    assert_true(text_stream_put(&t, "Px", 2, &out));
    assert_string_equal((char *)out.data, "ok S\xc3\xa9 ");
    buf_fini(&out);
    text_stream_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_nothing_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
