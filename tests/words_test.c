// The cluster key as words and as a file, and the command that handles it.
#include "base/buf.h"
#include "cli/cli.h"
#include "net/words.h"
#include "net/words_table.h"
#include "os/os.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

// ---- words -----------------------------------------------------------------------------------------

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < WORDS_TABLE_SIZE; i++) {
        size_t n = strlen(words_table[i]);
        assert_in_range(n, 4, 6);
        for (size_t k = 0; k < n; k++)
            assert_true(islower((unsigned char)words_table[i][k]));
        if (i)
            assert_true(strncmp(words_table[i - 1], words_table[i], 4) < 0);
    }
}

// The list and the order of its bits are a format: keys that people wrote down must stay readable.
static void test_golden(void **state)
{
    (void)state;
    struct net_key key;
    char words[WORDS_BYTES];
    for (size_t i = 0; i < NET_KEY_BYTES; i++)
        key.bytes[i] = (uint8_t)(i * 8 + 1);
    words_encode(&key, words);
    assert_string_equal(
        words, "absurd entire elect drone noble pause alarm chosen free artery garage "
               "viral block slogan harry crude remedy south jeans poetry pepper wade slate daddy");
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int k = 0; k < 300; k++) {
        struct net_key key, back;
        char words[WORDS_BYTES];
        struct err e = {0};
        net_key_make(&key);
        words_encode(&key, words);
        assert_int_equal(words_count(words), WORDS_COUNT);
        assert_int_equal(words_decode(words, &back, &e), 0);
        assert_memory_equal(&key, &back, sizeof key);
    }
}

// How people write: capitals, numbers, commas, line ends, and only the first four letters.
static void test_lenient(void **state)
{
    (void)state;
    struct net_key key, back;
    char words[WORDS_BYTES], text[1024] = "";
    net_key_make(&key);
    words_encode(&key, words);
    size_t at = 0, n = 0, letters = 0;
    for (const char *p = words; *p; p++) {
        if (*p == ' ') {
            at += (size_t)snprintf(text + at, sizeof text - at, n % 2 ? ",\r\n" : " \t%zu. ", n);
            letters = 0;
            n++;
        } else if (letters++ < 4) {
            text[at++] = (char)toupper((unsigned char)*p);
        }
    }
    text[at] = 0;
    struct err e = {0};
    assert_int_equal(words_decode(text, &back, &e), 0);
    assert_memory_equal(&key, &back, sizeof key);
}

static int decode_with(char words[WORDS_COUNT][8], size_t n, struct err *e)
{
    char text[1024] = "";
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s ", words[i % WORDS_COUNT]);
    struct net_key key = {{7}};
    int rc = words_decode(text, &key, e);
    assert_true(rc == 0 || key.bytes[0] == 7); // untouched
    return rc;
}

static void words_split(const struct net_key *key, char out[WORDS_COUNT][8])
{
    char text[WORDS_BYTES], *rest = text;
    words_encode(key, text);
    for (size_t i = 0; i < WORDS_COUNT; i++)
        snprintf(out[i], 8, "%s", strsep(&rest, " "));
}

// One wrong word passes the checksum of 8 bits once in 256; so do two swapped ones.
static void test_typos(void **state)
{
    (void)state;
    struct net_key key;
    char words[WORDS_COUNT][8];
    struct err e = {0};
    int passed = 0;
    for (int k = 0; k < 2000; k++) {
        net_key_make(&key);
        words_split(&key, words);
        size_t i = (size_t)k % WORDS_COUNT, other = (size_t)k * 7 % WORDS_TABLE_SIZE;
        if (strcmp(words[i], words_table[other]) != 0) {
            snprintf(words[i], 8, "%s", words_table[other]);
            passed += decode_with(words, WORDS_COUNT, &e) == 0;
        }
    }
    assert_in_range(passed, 0, 40); // 8 are expected
    words_split(&key, words);
    assert_int_equal(decode_with(words, 23, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "23 words"));
    assert_int_equal(decode_with(words, 25, &e), ERR_INVALID);
    assert_int_equal(decode_with(words, 0, &e), ERR_INVALID);
    snprintf(words[4], 8, "abbez");
    assert_int_equal(decode_with(words, 24, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "word 5, \"abbez\""));
    assert_non_null(strstr(e.message, "\"abbey\""));
}

static void test_foreign_text(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "", " ", "\xff\xfe", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "abb", "1 2 3", "a"};
    struct net_key key;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(words_decode(texts[i], &key, NULL), ERR_INVALID);
}

// ---- the file --------------------------------------------------------------------------------------

static char dir[] = "/tmp/tandem-words-XXXXXX";
static char file[64];

static int dir_make(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return 1;
    snprintf(file, sizeof file, "%s/sub/cluster.key", dir);
    unsetenv("TANDEM_KEY_FILE");
    setenv("TANDEM_CONFIG", dir, 1);
    return 0;
}

static int dir_remove(void **state)
{
    (void)state;
    char path[80];
    snprintf(path, sizeof path, "%s/sub", dir);
    unlink(file);
    rmdir(path);
    snprintf(path, sizeof path, "%s/cluster.key", dir);
    unlink(path);
    return rmdir(dir);
}

static void test_file(void **state)
{
    (void)state;
    struct net_key key, back = {{1}};
    struct err e = {0};
    net_key_make(&key);
    assert_int_equal(net_key_load(file, &back, &e), ERR_NOT_FOUND);
    assert_false(net_key_is_set(&back));
    assert_non_null(strstr(e.message, "tandem pair new"));
    assert_non_null(strstr(e.message, "tandem pair join WORDS..."));
    assert_int_equal(net_key_save(file, &key, false, &e), 0);
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(net_key_load(file, &back, &e), 0);
    assert_memory_equal(&key, &back, sizeof key);

    struct net_key other;
    net_key_make(&other);
    assert_int_equal(net_key_save(file, &other, false, &e), ERR_BUSY);
    assert_int_equal(net_key_load(file, &back, &e), 0);
    assert_memory_equal(&key, &back, sizeof key);
    assert_int_equal(net_key_save(file, &other, true, &e), 0);
    assert_int_equal(net_key_load(file, &back, &e), 0);
    assert_memory_equal(&other, &back, sizeof key);

    static const mode_t open_modes[] = {0640, 0604, 0660, 0644};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(chmod(file, open_modes[i]), 0);
        assert_int_equal(net_key_load(file, &back, &e), ERR_AUTH);
        assert_false(net_key_is_set(&back));
        assert_non_null(strstr(e.message, "chmod 600"));
    }
}

static void test_file_content(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "\n",
        "abc",
        "0000000000000000000000000000000000000000000000000000000000000000\n",
        "000000000000000000000000000000000000000000000000000000000000000g\n",
        "00000000000000000000000000000000000000000000000000000000000000012\n",
        "01 00000000000000000000000000000000000000000000000000000000000001\n"};
    struct net_key key;
    struct err e = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(os_file_write(file, texts[i], strlen(texts[i]), 0600, &e), 0);
        assert_int_equal(net_key_load(file, &key, &e), ERR_CORRUPT);
        assert_false(net_key_is_set(&key));
    }
}

static void test_path(void **state)
{
    (void)state;
    char path[256], wanted[256];
    struct err e = {0};
    assert_int_equal(net_key_path("/x/y", path, sizeof path, &e), 0);
    assert_string_equal(path, "/x/y");
    assert_int_equal(net_key_path(NULL, path, sizeof path, &e), 0);
    snprintf(wanted, sizeof wanted, "%s/cluster.key", dir);
    assert_string_equal(path, wanted);
    setenv("TANDEM_KEY_FILE", "/z", 1);
    assert_int_equal(net_key_path(NULL, path, sizeof path, &e), 0);
    assert_string_equal(path, "/z");
    unsetenv("TANDEM_KEY_FILE");
    assert_int_equal(net_key_path("/x/y", path, 3, &e), ERR_RANGE);
}

// ---- the command -------------------------------------------------------------------------------------

#define MAX_ARGS 40

// Runs `tandem pair ...` with stdout in `out`; returns the exit code.
static int pair(const char *input, char *out, size_t out_bytes, const char *const *args)
{
    char *argv[MAX_ARGS] = {"pair"};
    int argc = 1;
    for (; *args; args++)
        argv[argc++] = (char *)(uintptr_t)*args;
    FILE *in = tmpfile(), *answer = tmpfile();
    fputs(input, in);
    rewind(in);
    int saved_in = dup(0), saved_out = dup(1);
    fflush(stdout);
    dup2(fileno(in), 0);
    dup2(fileno(answer), 1);
    clearerr(stdin);
    int code = cli_pair.run(argc, argv);
    fflush(stdout);
    dup2(saved_in, 0);
    dup2(saved_out, 1);
    close(saved_in);
    close(saved_out);
    rewind(answer);
    size_t n = fread(out, 1, out_bytes - 1, answer);
    out[n] = 0;
    fclose(in);
    fclose(answer);
    return code;
}
#define PAIR(input, ...) pair(input, out, sizeof out, (const char *const[]){__VA_ARGS__, NULL})

static void test_command(void **state)
{
    (void)state;
    char out[1024], words[1024], away[80];
    snprintf(away, sizeof away, "%s/away.key", dir);
    assert_int_equal(PAIR("", "show"), 1);
    assert_int_equal(PAIR("", "new"), 0);
    assert_int_equal(words_count(out), WORDS_COUNT);
    memcpy(words, out, sizeof words);
    assert_int_equal(PAIR("", "new"), 1); // there is one
    assert_int_equal(PAIR("", "show"), 0);
    assert_string_equal(out, words);

    assert_int_equal(PAIR(words, "join", "--key-file", away), 0);
    assert_int_equal(PAIR("", "--key-file", away, "show"), 0);
    assert_string_equal(out, words);
    assert_int_equal(PAIR("abbey able", "join", "--key-file", away, "--force"), 2);
    assert_int_equal(PAIR("", "show", "--key-file", away), 0);
    assert_string_equal(out, words);

    assert_int_equal(PAIR("", "new", "--force", "--json"), 0);
    assert_non_null(strstr(out, "{\"words\":\""));
    assert_null(strstr(out, words));

    // The words as arguments, more than any other command takes.
    char *list[WORDS_COUNT], *rest = words;
    for (size_t i = 0; i < WORDS_COUNT; i++)
        list[i] = strsep(&rest, " \n");
    const char *args[MAX_ARGS] = {"join", "--force"};
    memcpy(args + 2, list, sizeof list);
    assert_int_equal(pair("", out, sizeof out, args), 0);
    assert_int_equal(PAIR("", "show"), 0);
    assert_memory_equal(out, list[0], strlen(list[0]));
    unlink(away);
}

static void test_command_usage(void **state)
{
    (void)state;
    char out[4096];
    assert_int_equal(PAIR("", "--help"), 0);
    assert_non_null(strstr(out, "usage: tandem pair"));
    assert_int_equal(PAIR("", "--json"), 2);
    assert_int_equal(PAIR("", "old"), 2);
    assert_int_equal(PAIR("", "new", "abbey"), 2);
    assert_int_equal(PAIR("", "--none"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),         cmocka_unit_test(test_golden),
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_lenient),
        cmocka_unit_test(test_typos),         cmocka_unit_test(test_foreign_text),
        cmocka_unit_test(test_file),          cmocka_unit_test(test_file_content),
        cmocka_unit_test(test_path),          cmocka_unit_test(test_command),
        cmocka_unit_test(test_command_usage),
    };
    return cmocka_run_group_tests(tests, dir_make, dir_remove);
}
