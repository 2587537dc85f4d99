// Images in requests: data: URLs, what files say of their size, and what becomes of an image in every API.
#include "base/buf.h"
#include "gateway/dialect.h"
#include "gateway/parse_media.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

// GIF heads are the shortest: 10 bytes say the size.
#define GIF_2X3 "R0lGODlhAgADAA=="
#define GIF_5X1 "R0lGODdhBQABAA=="
#define GIF_0X1 "R0lGODdhAAABAA=="
#define GIF_65535 "R0lGODdh/////w=="
#define DATA "data:image/gif;base64,"

static void test_urls(void **state)
{
    static const struct {
        const char *url, *words; // words NULL: an image of 2 x 3 pixels
    } rows[] = {
        {DATA GIF_2X3, NULL},
        {"DATA:Image/GIF;Base64," GIF_2X3, NULL},
        {"data:;base64," GIF_2X3, NULL},
        {"data:image/png;charset=x;base64," GIF_2X3, NULL}, // what it is stands in its bytes
        {DATA "R0lGODlh\r\n AgADAA==\n", NULL},
        {DATA "R0lGODlhAgADAA", NULL},
        {"https://example.org/a.png", "fetches nothing from elsewhere"},
        {"http://127.0.0.1/a.png", "fetches nothing from elsewhere"},
        {"file:///etc/passwd", "fetches nothing from elsewhere"},
        {"/etc/passwd", "fetches nothing from elsewhere"},
        {"", "fetches nothing from elsewhere"},
        {"data:", "without a comma"},
        {"data:image/gif;base64", "without a comma"},
        {"data:image/gif," GIF_2X3, "not base64"},
        {"data:," GIF_2X3, "not base64"},
        {"data:text/html;base64," GIF_2X3, "of type text/html"},
        {"data:application/pdf;base64,AA==", "of type application/pdf"},
        {DATA, "of 0 bytes"},
        {DATA "R0lGODlh*gADAA==", "goes wrong at byte 8"},
        {DATA "R0lGODlh=gADAA==", "goes wrong at byte 9"},
        {DATA "R0lGODlhAgADAA===", "goes wrong at byte 16"},
        {DATA "R0lGODlhAgADA", "cut short"},
        {DATA "R0lGODlhAgADAA=", "cut short"},
        {DATA "R0lGODlhAgAD", "no PNG, JPEG, GIF or BMP"}, // a byte too few
        {DATA "UklGRgAAAABXRUJQ", "WebP"},
        {DATA GIF_0X1, "0 x 1 pixels"},
        {DATA GIF_65535, "65535 x 65535 pixels"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct parse_image image;
        struct err e = {0};
        int rc = media_read(rows[i].url, strlen(rows[i].url), &image, &e);

        if (!rows[i].words) {
            if (rc != 0)
                fail_msg("%s: %s", rows[i].url, e.message);
            assert_int_equal(image.len, 10);
            assert_int_equal(image.width, 2);
            assert_int_equal(image.height, 3);
        } else if (rc == 0 || !strstr(e.message, rows[i].words)) {
            fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].url, rc ? e.message : "taken",
                     rows[i].words);
        }
        free(image.data);
    }
}

static void test_heads(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        uint32_t width, height; // 0: refused
    } rows[] = {
#define BYTES(s) s, sizeof(s) - 1
        {BYTES("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\2\0\0\0\7"), 258, 7},
        {BYTES("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\2\0\0\0"), 0, 0},
        {BYTES("\x89PNG\r\n\x1a\n\0\0\0\rIEND\0\0\1\2\0\0\0\7"), 0, 0},
        {BYTES("\xff\xd8\xff\xe0\0\4ab\xff\xc0\0\x11\x08\1\0\2\1"), 513, 256},
        {BYTES("\xff\xd8\xff\xff\xff\xc2\0\x11\x08\0\3\0\4\3\1\1\1"), 4, 3}, // padding, progressive
        {BYTES("\xff\xd8\xff\xe0\0\0\xff\xc0\0\x11\x08\1\0\2\1"), 0, 0}, // a marker of no length
        {BYTES("\xff\xd8\xff\xe0\xff\xff"), 0, 0},
        {BYTES("\xff\xd8\xff\xc4\0\4\0\0\xff\xc0\0\x11\x08\0\5\0\6\3\1\1\1"), 6, 5},
        {BYTES("\xff\xd8"), 0, 0},
        {BYTES("BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0\3\0\0\0\xfe\xff\xff\xff"), 3,
         2}, // upside down
        {BYTES("BM\0\0\0\0\0\0\0\0\0\0\0\0\x0c\0\0\0\3\0\4\0\1\0\1\0"), 3, 4},
        {BYTES("BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0\3\0\0\0\2\0\0"), 0, 0},
        {BYTES("GIF88a\1\0\1\0"), 0, 0},
        {"", 0, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint32_t width = 0, height = 0;
        // In memory of just that length, so that reading beyond it is seen.
        uint8_t *copy = malloc(rows[i].n + 1);
        memcpy(copy, rows[i].bytes, rows[i].n);
        uint8_t *exact = realloc(copy, rows[i].n > 0 ? rows[i].n : 1);
        int rc = media_size_get(exact, rows[i].n, &width, &height, NULL);

        if ((rc == 0) != (rows[i].width > 0) || (rc == 0 && width != rows[i].width) ||
            (rc == 0 && height != rows[i].height))
            fail_msg("head %zu: %d, %u x %u", i, rc, width, height);
        free(exact);
    }
}

// ---- requests -----------------------------------------------------------------------------------------

static struct parse_request parsed(const struct dialect *d, const char *body)
{
    struct parse_request in;
    struct parse_fault fault;

    if (parse_request(d, body, strlen(body), &in, &fault) != 0)
        fail_msg("%s: %s", body, fault.e.message);
    return in;
}

// The content of the last message as the template sees it.
static char *content_of(const struct parse_request *in)
{
    const json_t *chat = json_object_get(in->render, "chat");
    const json_t *messages = json_object_get(chat, "messages");
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);

    return json_dumps(json_object_get(last, "content"), JSON_COMPACT | JSON_ENCODE_ANY);
}

#define IMAGE "{\"type\":\"image\"}"
#define TEXT(s) "{\"type\":\"text\",\"text\":\"" s "\"}"

// Every API's way to say it becomes the same: images in the order in which they came, and parts where they
// stood.
static void test_dialects(void **state)
{
    static const struct {
        const struct dialect *dialect;
        const char *body, *content;
        size_t images;
    } rows[] = {
        {&dialect_chat,
         "{\"messages\":[{\"role\":\"user\",\"content\":[" TEXT(
             "a") ",{\"type\":\"image_url\",\"image_url\":{\"url\":\"" DATA GIF_2X3
                  "\",\"detail\":\"low\"}}," TEXT("b") "]}]}",
         "[" TEXT("a") "," IMAGE "," TEXT("b") "]", 1},
        {&dialect_chat,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
         "\"" DATA GIF_2X3 "\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"" DATA GIF_5X1
         "\"}}]}]}",
         "[" IMAGE "," IMAGE "]", 2},
        {&dialect_chat,
         "{\"messages\":[{\"role\":\"user\",\"content\":[" TEXT("a") "," TEXT("b") "]}]}",
         "\"a\\nb\"", 0},
        {&dialect_responses,
         "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},"
         "{\"type\":\"input_image\",\"detail\":\"auto\",\"image_url\":\"" DATA GIF_2X3 "\"}]}]}",
         "[" TEXT("a") "," IMAGE "]", 1},
        {&dialect_responses,
         "{\"input\":[{\"role\":\"system\",\"content\":[{\"type\":\"input_image\",\"image_url\":"
         "\"" DATA GIF_2X3 "\"}]}]}",
         "[" IMAGE "]", 1},
        {&dialect_messages,
         "{\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\","
         "\"source\":{\"type\":\"base64\",\"media_type\":\"image/gif\",\"data\":\"" GIF_2X3
         "\"}}," TEXT("a") "]}]}",
         "[" IMAGE "," TEXT("a") "]", 1},
        {&dialect_messages,
         "{\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_"
         "result\","
         "\"tool_use_id\":\"c\",\"content\":[" TEXT(
             "a") ",{\"type\":\"image\",\"source\":{"
                  "\"type\":\"base64\",\"media_type\":\"image/gif\",\"data\":\"" GIF_2X3
                  "\"}}]}]}]}",
         "[" TEXT("a") "," IMAGE "]", 1},
        {&dialect_ollama,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"images\":[\"" GIF_2X3
         "\",\"" GIF_5X1 "\"]}]}",
         "[" IMAGE "," IMAGE "," TEXT("a") "]", 2},
        {&dialect_ollama_generate, "{\"prompt\":\"a\",\"images\":[\"" GIF_2X3 "\"]}",
         "[" IMAGE "," TEXT("a") "]", 1},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct parse_request in = parsed(rows[i].dialect, rows[i].body);
        char *content = content_of(&in);

        assert_string_equal(content, rows[i].content);
        assert_int_equal(in.n_images, rows[i].images);
        assert_int_equal(json_array_size(json_object_get(in.render, "media")), rows[i].images);
        if (rows[i].images > 0)
            assert_int_equal(in.images[0].width, 2);
        if (rows[i].images > 1)
            assert_int_equal(in.images[1].width, 5);
        free(content);
        parse_request_fini(&in);
    }
}

// RENDER carries the images one behind the other, and its head says how long each is.
static void test_frame(void **state)
{
    struct parse_request in =
        parsed(&dialect_ollama_generate,
               "{\"prompt\":\"a\",\"images\":[\"" GIF_2X3 "\",\"" GIF_5X1 "\"]}");
    struct wire_frame f = media_frame(&in, 7, json_incref(in.render));
    char *head = NULL;

    (void)state;
    assert_int_equal(f.type, WIRE_RENDER);
    assert_int_equal(f.body.len, 20);
    assert_memory_equal(f.body.data, "GIF89a\2\0\3\0GIF87a\5\0\1\0", 20);
    head = f.head;
    assert_non_null(strstr(head, "\"media\":[{\"bytes\":10},{\"bytes\":10}]"));
    wire_frame_fini(&f);
    parse_request_fini(&in);
}

// One more than so many is refused, by name.
static void test_too_many(void **state)
{
    struct parse_fault fault;
    struct parse_request in;
    struct buf body;

    (void)state;
    buf_init(&body, 1u << 20);
    buf_puts(&body, "{\"prompt\":\"a\",\"images\":[");
    for (size_t i = 0; i <= MEDIA_IMAGES_MAX; i++)
        buf_puts(&body, i > 0 ? ",\"" GIF_2X3 "\"" : "\"" GIF_2X3 "\"");
    buf_puts(&body, "]}");
    assert_int_not_equal(parse_request(&dialect_ollama_generate, body.data, body.len, &in, &fault),
                         0);
    assert_int_equal(fault.status, 400);
    assert_non_null(strstr(fault.e.message, "more than the 32"));
    parse_request_fini(&in);
    buf_fini(&body);
}

// An image of more bytes than are taken is refused before it is decoded.
static void test_too_large(void **state)
{
    size_t n = (size_t)MEDIA_IMAGE_BYTES / 3 * 4 + 64;
    char *text = malloc(n);
    struct parse_image image;
    struct err e = {0};

    (void)state;
    memset(text, 'A', n);
    assert_int_not_equal(media_read_base64(text, n, &image, &e), 0);
    assert_non_null(strstr(e.message, "at most 20971520"));
    assert_null(image.data);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),     cmocka_unit_test(test_heads),
        cmocka_unit_test(test_dialects), cmocka_unit_test(test_frame),
        cmocka_unit_test(test_too_many), cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
