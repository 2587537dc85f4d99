// The id of this machine, or rather of this state folder: random, made once, the same ever after. Nothing of
// the hardware goes into it, so it tells nobody who sees it more than that it is the same one again.
#include "os/os.h"

#include "base/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "node-id"
#define PATH_BYTES 4096
#define ID_BYTES (OS_ID_HEX / 2)

// The id that a file's bytes are; false: they are none.
static bool id_parse(const char *text, size_t len, char id[OS_ID_HEX + 1])
{
    uint8_t raw[ID_BYTES];
    char hex[OS_ID_HEX + 1] = "";
    if (len < OS_ID_HEX || len > OS_ID_HEX + 2 ||
        strspn(text + OS_ID_HEX, "\r\n") + OS_ID_HEX != len)
        return false;
    memcpy(hex, text, OS_ID_HEX);
    if (hex_decode(hex, raw, sizeof raw) != 0)
        return false;
    hex_encode(raw, sizeof raw, id);
    return true;
}

static int id_read(const char *path, char id[OS_ID_HEX + 1], struct err *e)
{
    char *text = NULL;
    size_t len = 0;
    int rc = os_file_read(path, 256, &text, &len, e);
    if (rc == ERR_RANGE || (rc == 0 && (!text || !id_parse(text, len, id))))
        rc = err_set(e, ERR_CORRUPT,
                     "%s does not hold %d hex digits; delete it, and a new id is made", path,
                     OS_ID_HEX);
    free(text);
    return rc;
}

static void hex_random(char out[OS_ID_HEX + 1])
{
    uint8_t raw[ID_BYTES];
    os_random(raw, sizeof raw);
    hex_encode(raw, sizeof raw, out);
}

// Whoever comes first puts its own there, whole; the others find it when they read.
static int id_make(const char *path, struct err *e)
{
    char id[OS_ID_HEX + 1], own[OS_ID_HEX + 1], line[OS_ID_HEX + 2], temp[PATH_BYTES + 16];
    hex_random(id);
    hex_random(own); // so that no other process writes to the same name
    snprintf(line, sizeof line, "%s\n", id);
    snprintf(temp, sizeof temp, "%.*s.%.8s", PATH_BYTES - 1, path, own);
    int rc = os_file_write(temp, line, strlen(line), 0600, e);
    if (rc != 0)
        return rc;
    if (link(temp, path) != 0 && errno != EEXIST)
        rc = err_set(e, ERR_IO, "cannot make %s: %s", path, strerror(errno));
    unlink(temp);
    return rc;
}

int os_machine_id(char id[OS_ID_HEX + 1], struct err *e)
{
    char folder[PATH_BYTES - 32], path[PATH_BYTES];
    int rc = os_state_dir(folder, sizeof folder, e);
    if (rc != 0)
        return rc;
    snprintf(path, sizeof path, "%s/%s", folder, FILE_NAME);
    rc = id_read(path, id, e);
    if (rc != ERR_NOT_FOUND)
        return rc;
    rc = os_mkdirs(folder, e);
    if (rc == 0)
        rc = id_make(path, e);
    return rc != 0 ? rc : id_read(path, id, e);
}
