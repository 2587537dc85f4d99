#include "net/words.h"

#include "base/buf.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define KEY_FILE_BYTES 256
#define KEY_HEX ((size_t)2 * NET_KEY_BYTES)

int net_key_path(const char *path, char *out, size_t out_bytes, struct err *e)
{
    char dir[1024];
    if (!path)
        path = getenv("TANDEM_KEY_FILE");
    bool given = path && path[0];
    int rc = given ? 0 : os_config_dir(dir, sizeof dir, e);
    if (rc)
        return rc;
    int n = given ? snprintf(out, out_bytes, "%s", path)
                  : snprintf(out, out_bytes, "%s/cluster.key", dir);
    if (n < 0 || (size_t)n >= out_bytes)
        return err_set(e, ERR_RANGE, "the path of the cluster key is longer than %zu bytes",
                       out_bytes - 1);
    return 0;
}

static int key_parse(const char *path, const char *text, size_t n, struct net_key *key,
                     struct err *e)
{
    char hex[KEY_HEX + 1] = "";
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    bool good = n == KEY_HEX;
    if (good) {
        memcpy(hex, text, n);
        good = hex_decode(hex, key->bytes, sizeof key->bytes) == 0 && net_key_is_set(key);
    }
    if (good)
        return 0;
    *key = (struct net_key){0};
    return err_set(e, ERR_CORRUPT,
                   "%s holds no cluster key (%zu hex digits); make a new one with "
                   "`tandem pair new --force`",
                   path, KEY_HEX);
}

int net_key_load(const char *path, struct net_key *key, struct err *e)
{
    char where[2048];
    char *text = NULL;
    size_t n = 0;
    *key = (struct net_key){0};
    int rc = net_key_path(path, where, sizeof where, e);
    if (rc == 0)
        rc = os_file_read_private(where, KEY_FILE_BYTES, &text, &n, e);
    if (rc == ERR_NOT_FOUND)
        err_set(e, rc, "there is no cluster key at %s; " NET_KEY_ADVICE, where);
    if (rc == 0)
        rc = key_parse(where, text, n, key, e);
    free(text);
    return rc;
}

int net_key_save(const char *path, const struct net_key *key, bool force, struct err *e)
{
    char where[2048], hex[KEY_HEX + 2];
    struct stat st;
    int rc = net_key_path(path, where, sizeof where, e);
    if (rc)
        return rc;
    if (!force && stat(where, &st) == 0)
        return err_set(e, ERR_BUSY,
                       "there is a cluster key at %s already; --force replaces it, and "
                       "the other machines must then join again",
                       where);
    char *slash = strrchr(where, '/');
    if (slash && slash != where) {
        *slash = 0;
        rc = os_mkdirs(where, e);
        *slash = '/';
    }
    if (rc)
        return rc;
    hex_encode(key->bytes, sizeof key->bytes, hex);
    hex[KEY_HEX] = '\n';
    return os_file_write(where, hex, KEY_HEX + 1, 0600, e);
}
