// base/: errors, buffers, hex, little endian, clock, log levels.
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void err_set_and_wrap(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, ERR_IO, "disk %d: %s", 3, "full"), ERR_IO);
    assert_int_equal(e.code, ERR_IO);
    assert_string_equal(e.message, "disk 3: full");
    assert_int_equal(err_wrap(&e, "model %s", "m.gguf"), ERR_IO);
    assert_string_equal(e.message, "model m.gguf: disk 3: full");
    assert_int_equal(err_set(NULL, ERR_BUSY, "nobody looks"), ERR_BUSY);
    // The old message may be an argument of the new one.
    assert_int_equal(err_set(&e, ERR_ENGINE, "again: %s", e.message), ERR_ENGINE);
    assert_string_equal(e.message, "again: model m.gguf: disk 3: full");
}

static void err_long_messages_are_cut(void **state)
{
    (void)state;
    char text[2 * ERR_MESSAGE_BYTES];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct err e = {0};
    err_set(&e, ERR_IO, "%s", text);
    assert_int_equal(strlen(e.message), ERR_MESSAGE_BYTES - 1);
    err_wrap(&e, "short");
    assert_int_equal(strlen(e.message), ERR_MESSAGE_BYTES - 1);
    assert_memory_equal(e.message, "short: xxx", 10);
    for (int n = ERR_MESSAGE_BYTES - 5; n < ERR_MESSAGE_BYTES + 5; n++) {
        err_set(&e, ERR_IO, "rest");
        assert_int_equal(err_wrap(&e, "%.*s", n, text), ERR_IO);
        assert_true(strlen(e.message) < ERR_MESSAGE_BYTES);
        assert_int_equal(e.message[0], 'x');
    }
}

static void err_names(void **state)
{
    (void)state;
    for (int code = 0; code >= ERR_UNSUPPORTED; code--) {
        assert_string_not_equal(err_name(code), "unknown");
        assert_int_equal(err_from_name(err_name(code)), code);
    }
    assert_string_equal(err_name(0), "ok");
    assert_string_equal(err_name(ERR_NOT_FOUND), "not_found");
    assert_string_equal(err_name(-999), "unknown");
    assert_int_equal(err_from_name("no such name"), ERR_IO);
}

// Against a plain array that cannot be wrong.
static void buf_against_array(void **state)
{
    (void)state;
    enum { MAX = 300 };
    uint8_t model[MAX];
    size_t len = 0;
    struct buf b;
    buf_init(&b, MAX);
    uint32_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        seed = seed * 1664525u + 1013904223u;
        size_t n = seed >> 24;
        uint8_t part[256];
        memset(part, (int)(seed >> 16 & 0xff), sizeof part);
        if (seed & 0x100) {
            int rc = buf_put(&b, part, n);
            assert_int_equal(rc, n > MAX - len ? ERR_RANGE : 0);
            if (rc == 0) {
                memcpy(model + len, part, n);
                len += n;
            }
        } else {
            n = n > len ? len : n;
            buf_consume(&b, n);
            len -= n;
            memmove(model, model + n, len);
        }
        assert_int_equal(b.len, len);
        if (b.data) {
            assert_memory_equal(b.data, model, len);
            assert_int_equal(b.data[len], 0);
        }
    }
    buf_fini(&b);
}

static void buf_limits(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 8);
    assert_int_equal(buf_printf(&b, "%d-%s", 12, "ab"), 0);
    assert_int_equal(buf_printf(&b, "%s", "wxyz"), ERR_RANGE);
    assert_string_equal((char *)b.data, "12-ab");
    assert_int_equal(buf_puts(&b, "345"), 0);
    assert_int_equal(buf_put(&b, "6", 1), ERR_RANGE);
    assert_int_equal(buf_put(&b, "", SIZE_MAX), ERR_RANGE);
    char *text = buf_take(&b);
    assert_string_equal(text, "12-ab345");
    free(text);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.max, 8);
    text = buf_take(&b); // empty, but a string all the same
    assert_string_equal(text, "");
    free(text);
    buf_puts(&b, "abc");
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_string_equal((char *)b.data, "");
    buf_consume(&b, 5);
    buf_fini(&b);
    buf_init(&b, 0);
    assert_int_equal(buf_put(&b, "", 0), 0);
    assert_int_equal(buf_put(&b, "a", 1), ERR_RANGE);
    buf_fini(&b);
}

static void hex_table(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        size_t n;
        int rc;
    } cases[] = {
        {"", 0, 0},
        {"00ff10", 3, 0},
        {"DEADBEEF", 4, 0},
        {"0", 1, ERR_INVALID},
        {"0g", 1, ERR_INVALID},
        {"000", 1, ERR_INVALID},
        {"", 1, ERR_INVALID},
        {"00 0", 2, ERR_INVALID},
        {"0x00", 2, ERR_INVALID},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint8_t out[8] = {0};
        assert_int_equal(hex_decode(cases[i].hex, out, cases[i].n), cases[i].rc);
        if (cases[i].rc)
            continue;
        char back[17];
        hex_encode(out, cases[i].n, back);
        assert_int_equal(strcasecmp(back, cases[i].hex), 0);
    }
}

static void little_endian_bytes(void **state)
{
    (void)state;
    uint8_t p[8];
    le_put16(p, 0x0102);
    assert_memory_equal(p, "\x02\x01", 2);
    assert_int_equal(le_get16(p), 0x0102);
    le_put32(p, 0xf1020304u);
    assert_memory_equal(p, "\x04\x03\x02\xf1", 4);
    assert_int_equal(le_get32(p), 0xf1020304u);
    le_put64(p, 0xf102030405060708u);
    assert_memory_equal(p, "\x08\x07\x06\x05\x04\x03\x02\xf1", 8);
    assert_true(le_get64(p) == 0xf102030405060708u);
}

static void memory_is_zeroed(void **state)
{
    (void)state;
    uint8_t *p = mem_alloc(64);
    for (int i = 0; i < 64; i++)
        assert_int_equal(p[i], 0);
    p = mem_resize(p, 128);
    free(p);
    free(mem_alloc(0));
    char *text = mem_format("%s-%d", "a", 7);
    assert_string_equal(text, "a-7");
    free(text);
}

static void clock_goes_forward(void **state)
{
    (void)state;
    int64_t before = clock_now_ns();
    clock_sleep_until(before + 2 * NS_PER_MS);
    assert_true(clock_now_ns() >= before + 2 * NS_PER_MS);
    clock_sleep_until(before); // already past
    before = clock_real.now_ns(clock_real.ctx);
    clock_real.sleep_until(clock_real.ctx, before + NS_PER_MS);
    assert_true(clock_real.now_ns(clock_real.ctx) >= before + NS_PER_MS);
    assert_true(clock_unix_s() > 1700000000);
    assert_true(ns_to_s(1500000000) == 1.5);
}

// Runs log_write with stderr redirected and returns what came out.
static size_t log_capture(enum log_level level, const char *text, char *out, size_t bytes)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    int saved = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    log_write(level, "test", "%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fds[1]);
    ssize_t n = read(fds[0], out, bytes - 1);
    close(fds[0]);
    out[n > 0 ? n : 0] = '\0';
    return strlen(out);
}

static void log_lines(void **state)
{
    (void)state;
    char line[4096];
    log_level_set(LOG_LEVEL_INFO);
    log_process_set("worker 2");
    assert_int_equal(log_capture(LOG_LEVEL_DEBUG, "hidden", line, sizeof line), 0);
    log_capture(LOG_LEVEL_WARN, "key=value", line, sizeof line);
    assert_non_null(strstr(line, "Z warn  worker 2 test: key=value\n"));
    // Foreign text makes neither a second line nor terminal sequences.
    log_capture(LOG_LEVEL_ERROR, "a\nb\033[31m\r", line, sizeof line);
    assert_non_null(strstr(line, "a b [31m \n"));
    char text[8192];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    size_t n = log_capture(LOG_LEVEL_INFO, text, line, sizeof line);
    assert_true(n < 2100);
    assert_int_equal(line[n - 1], '\n');
    log_process_set("");
}

static void log_levels(void **state)
{
    (void)state;
    enum log_level level = LOG_LEVEL_ERROR;
    assert_int_equal(log_level_parse("debug", &level), 0);
    assert_int_equal(level, LOG_LEVEL_DEBUG);
    assert_int_equal(log_level_parse("Warn", &level), 0);
    assert_int_equal(level, LOG_LEVEL_WARN);
    assert_int_equal(log_level_parse("loud", &level), ERR_INVALID);
    log_level_set(LOG_LEVEL_ERROR);
    assert_int_equal(log_level_get(), LOG_LEVEL_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_set_and_wrap),    cmocka_unit_test(err_long_messages_are_cut),
        cmocka_unit_test(err_names),           cmocka_unit_test(buf_against_array),
        cmocka_unit_test(buf_limits),          cmocka_unit_test(hex_table),
        cmocka_unit_test(little_endian_bytes), cmocka_unit_test(memory_is_zeroed),
        cmocka_unit_test(clock_goes_forward),  cmocka_unit_test(log_lines),
        cmocka_unit_test(log_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
