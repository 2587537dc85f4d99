// tandem pair: make the cluster key, show it, or type it in on another machine.
//
// The key alone goes to stdout, so that `tandem pair show | ssh other tandem pair join` works; what
// is said about it goes to stderr. Its words are never logged.
#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "net/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 2048
#define INPUT_BYTES 4096

static const char usage[] = "usage: tandem pair new [--force] | join [WORDS...] | show";
static const char about[] =
    "The cluster key lets machines talk to each other. `new` makes one and prints it as 24 words,\n"
    "`join` takes the words on another machine (from stdin when none are given), `show` prints "
    "them\n"
    "again. Every machine of a cluster has the same key.";

struct pair_options {
    const char *verb;
    const char *key_file;
    bool force, json;
    struct buf words; // what was given behind `join`
};

static bool takes_value(const char *option)
{
    return strcmp(option, "--key-file") == 0 || strcmp(option, "--log-level") == 0;
}

// Twenty-four words are more than cli_parse takes as arguments: they are set aside first. `kept` has
// room for argc + 1.
static int words_set_aside(int argc, char **argv, char **kept, struct pair_options *o)
{
    int n = 0;
    for (int i = 0; i < argc; i++) {
        bool option = argv[i][0] == '-';
        if (i == 0 || option) {
            kept[n++] = argv[i];
            if (option && takes_value(argv[i]) && i + 1 < argc)
                kept[n++] = argv[++i];
        } else if (!o->verb) {
            o->verb = argv[i];
        } else {
            buf_printf(&o->words, "%s ", argv[i]); // beyond the buffer's end: too many anyway
        }
    }
    kept[n] = NULL;
    return n;
}

static int options_parse(int argc, char **argv, struct pair_options *o, bool *done, struct err *e)
{
    const struct cli_option table[] = {
        {"--force", 0, CLI_FLAG, &o->force, NULL, "replace the key that is there", 0, 0},
        {"--key-file", 0, CLI_STRING, &o->key_file, "FILE", "where the key lies", 0, 0},
        {"--json", 0, CLI_FLAG, &o->json, NULL, "print JSON", 0, 0},
        {0},
    };
    char **kept = mem_alloc(((size_t)argc + 1) * sizeof *kept);
    int n = words_set_aside(argc, argv, kept, o);
    int rc = cli_parse(n, kept, table, usage, about, NULL, done, e);
    free(kept);
    return rc;
}

static int key_print(const struct pair_options *o, const struct net_key *key, struct err *e)
{
    char words[WORDS_BYTES], path[PATH_BYTES];
    int rc = net_key_path(o->key_file, path, sizeof path, e);
    if (rc)
        return rc;
    words_encode(key, words);
    if (!o->json) {
        printf("%s\n", words);
        return 0;
    }
    json_t *answer = json_object();
    json_put(answer, "words", json_string(words));
    json_put(answer, "file", json_string(path));
    char *text = json_line(answer);
    printf("%s\n", text);
    free(text);
    json_decref(answer);
    return 0;
}

static int pair_new(const struct pair_options *o, struct err *e)
{
    struct net_key key;
    net_key_make(&key);
    int rc = net_key_save(o->key_file, &key, o->force, e);
    if (rc == 0)
        rc = key_print(o, &key, e);
    if (rc == 0 && !o->json)
        fprintf(stderr, "On each other machine: tandem pair join, and these words.\n"
                        "Whoever knows them can use your machines; `tandem pair show` prints them "
                        "again.\n");
    return rc;
}

static int pair_show(const struct pair_options *o, struct err *e)
{
    struct net_key key;
    int rc = net_key_load(o->key_file, &key, e);
    return rc ? rc : key_print(o, &key, e);
}

// Lines until there are enough words: a person need not type an end of file.
static int words_read(struct buf *words, struct err *e)
{
    char line[512];
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "Type the %d words of the cluster key, on one line or several:\n",
                WORDS_COUNT);
    while (words_count(words->data ? (const char *)words->data : "") < WORDS_COUNT &&
           fgets(line, sizeof line, stdin)) {
        if (buf_puts(words, line))
            return err_set(e, ERR_RANGE, "more than %d bytes on stdin; give the %d words alone",
                           INPUT_BYTES, WORDS_COUNT);
    }
    return 0;
}

static int pair_join(struct pair_options *o, struct err *e)
{
    struct net_key key;
    int rc = o->words.len ? 0 : words_read(&o->words, e);
    if (rc == 0)
        rc = words_decode(o->words.data ? (const char *)o->words.data : "", &key, e);
    if (rc == 0)
        rc = net_key_save(o->key_file, &key, o->force, e);
    if (rc == 0 && o->json)
        rc = key_print(o, &key, e);
    else if (rc == 0)
        fprintf(stderr, "This machine has joined the cluster.\n");
    return rc;
}

static int pair_run(struct pair_options *o, struct err *e)
{
    bool joins = o->verb && strcmp(o->verb, "join") == 0;
    if (o->words.len && !joins)
        return err_set(e, ERR_INVALID, "only `join` takes words; %s", usage);
    if (joins)
        return pair_join(o, e);
    if (o->verb && strcmp(o->verb, "new") == 0)
        return pair_new(o, e);
    if (o->verb && strcmp(o->verb, "show") == 0)
        return pair_show(o, e);
    if (o->verb)
        return err_set(e, ERR_INVALID, "\"%s\" is neither new, join nor show", o->verb);
    return err_set(e, ERR_INVALID, "say new, join or show");
}

static int pair_main(int argc, char **argv)
{
    struct pair_options o = {0};
    struct err e = {0};
    bool done = false;
    buf_init(&o.words, INPUT_BYTES);
    int rc = options_parse(argc, argv, &o, &done, &e);
    if (rc == 0 && !done)
        rc = pair_run(&o, &e);
    buf_fini(&o.words);
    return rc ? cli_fail("pair", &e) : 0;
}

const struct cli_command cli_pair = {
    .name = "pair",
    .summary = "make and exchange the cluster key",
    .run = pair_main,
};
