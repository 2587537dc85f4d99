// What strangers say on the network, made harmless: cut, and held to what such a thing may be made of.
#include "base/buf.h"
#include "os/discover_impl.h"

#include <ctype.h>
#include <string.h>

void discover_text_clean(const void *text, size_t n, char *out, size_t out_bytes)
{
    const unsigned char *t = text;
    size_t i = 0;
    for (; i < n && t[i] && i + 1 < out_bytes; i++)
        out[i] = t[i] >= 0x20 && t[i] < 0x7f ? (char)t[i] : '?';
    out[i] = '\0';
}

// Host names are dialled: nothing but what one is made of.
bool discover_host_take(const char *host, char out[256])
{
    size_t n = host ? strlen(host) : 0;
    while (n > 0 && host[n - 1] == '.')
        n--;
    if (n == 0 || n > 253 || host[0] == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)host[i]) && host[i] != '.' && host[i] != '-' && host[i] != '_')
            return false;
    memcpy(out, host, n);
    out[n] = '\0';
    return true;
}

static void entry_text(struct os_seen *s, const char *text, size_t n)
{
    uint8_t raw[OS_ID_HEX / 2];
    char id[OS_ID_HEX + 1];
    if (n == 3 + OS_ID_HEX && strncmp(text, "id=", 3) == 0) {
        discover_text_clean(text + 3, OS_ID_HEX, id, sizeof id);
        if (hex_decode(id, raw, sizeof raw) == 0)
            hex_encode(raw, sizeof raw, s->id);
    } else if (n > 8 && strncmp(text, "version=", 8) == 0) {
        discover_text_clean(text + 8, n - 8, s->version, sizeof s->version);
    } else if (n > 7 && strncmp(text, "models=", 7) == 0) {
        discover_text_clean(text + 7, n - 7, s->models, sizeof s->models);
    }
}

// Each behind its length; one that reaches beyond the end ends it.
void discover_texts_take(struct os_seen *s, const unsigned char *txt, size_t bytes)
{
    for (size_t at = 0; txt && at < bytes && txt[at] < bytes - at; at += 1 + txt[at])
        entry_text(s, (const char *)txt + at + 1, txt[at]);
}
