// What the files of options share. Private to cli/.
//
// options.c reads the command line and prints the help, options_value.c turns text into values and back,
// options_outside.c reads the ini file and the environment, options_worker.c has the table that several
// commands share.
#ifndef CLI_OPTIONS_IMPL_H
#define CLI_OPTIONS_IMPL_H

#include "cli/cli.h"

#define OPTION_NAME_BYTES 48
#define OPTION_TEXT_BYTES 1024
#define OPTIONS_MAX 96 // of one command

// ---- options_value.c ----
// `text` must live on.
int option_set(const struct cli_option *o, const char *text, struct err *e);
// From the environment or the file, where a list is one text with commas and replaces what was there.
int option_set_outside(const struct cli_option *o, const char *text, struct err *e);
// The value as it would be written in the file; secrets are hidden.
void option_text(const struct cli_option *o, char *out, size_t out_bytes);
// What may be given, in words: "true or false", "a whole number from 1 to 4096".
void option_allowed(const struct cli_option *o, char *out, size_t out_bytes);

// ---- options_outside.c ----
// Where a value was set, as it is told: "environment TANDEM_LISTEN".
typedef void option_told(void *ctx, const struct cli_option *o, const char *where);

struct option_reader {
    const char *command; // the file's section
    const struct cli_option *options;
    option_told *told; // NULL: nobody asks
    void *ctx;
};
int option_file_read(const struct option_reader *r, struct err *e);
int option_environment_read(const struct option_reader *r, struct err *e);

// One "name = value" of the file.
struct option_entry {
    char *section, *name, *value; // owned
    int line;
};
struct option_file {
    struct option_entry *entries; // owned
    size_t n;
    int bad_line; // the first that is neither a section nor "name = value"; 0: none
};
// ERR_NOT_FOUND when there is no file. option_file_free in every case.
int option_file_load(const char *path, struct option_file *out, struct err *e);
void option_file_free(struct option_file *f);
// The path of the file that commands read; false: there is no home folder.
bool option_file_path(char *out, size_t out_bytes);

// ---- options.c ----
// The two options that every command has; ends without a name.
const struct cli_option *option_common(void);
const struct cli_option *option_find(const struct cli_option *options, const char *name, size_t n);
int option_unknown(const char *typed, const struct cli_option *options, struct err *e);
// Sees a command's own table instead of the command's being run: defaults are in place, and values may
// be set and read until it returns.
typedef void option_inspector(void *ctx, const struct cli_option *options);
void option_inspect(const struct cli_command *c, option_inspector *f, void *ctx);

#endif
