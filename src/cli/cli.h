// The program: a table of commands, one file each. Flags beat environment (TANDEM_*) beat file
// (tandem.ini in the config folder). Every command has --help and --json; progress goes to stderr
// and only to a terminal; NO_COLOR is honoured.
//
// Exit codes: 0 done, 1 it failed (the reason is on stderr), 2 wrong usage, 3 checked and the answer
// is no (`check` finds no exact mode, `bench` misses a bound it was given).
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/err.h"
#include "node/node.h"

#include <stdbool.h>
#include <stddef.h>

struct cli_command {
    const char *name;
    const char *summary;               // one line for `tandem --help`
    int (*run)(int argc, char **argv); // argv[0] is the command's name; returns the exit code
};
extern const struct cli_command cli_serve, cli_node, cli_pair, cli_check, cli_bench, cli_demo,
    cli_ps, cli_chat, cli_config, cli_forget, cli_load, cli_unload, cli_pull, cli_ls, cli_show,
    cli_rm, cli_alias, cli_train, cli_plan, cli_convert, cli_image, cli_nodes, cli_explain;

enum cli_option_kind {
    CLI_FLAG,   // bool
    CLI_STRING, // const char *
    CLI_INT,    // int64_t
    CLI_DOUBLE, // double
    CLI_LIST,   // struct cli_list; given more than once, or with commas in environment and file
    CLI_UINT32, // uint32_t
    CLI_INT32,  // int
    CLI_TWIN,   // two const char * in a row, both set to the same text
};

// One option; `value` points at what its kind says. A table ends with an entry without a name.
// Texts live as long as the process.
struct cli_option {
    const char *name; // "--listen"
    char letter;      // 'm' for -m, 0: none
    enum cli_option_kind kind;
    void *value;
    const char *arg; // "ADDR:PORT", NULL for flags
    const char *help;
    double min, max; // for numbers; both 0: any
};

#define CLI_LIST_MAX 16
struct cli_list;
// How training jobs are run (docs/training.md): {"kind": kind, KEY: VALUE..} of the given "KEY=VALUE"; a new
// reference, also on ERR_INVALID, which names `option`.
int cli_executor_json(const char *kind, const struct cli_list *given, const char *option,
                      json_t **out, struct err *e);
struct cli_list {
    const char *items[CLI_LIST_MAX];
    size_t n;
};

// Parses argv[1..] against the table, after environment (TANDEM_LISTEN for --listen) and the ini
// file's section [command]. --help prints `usage`, `about` and the table, and sets *done;
// --log-level and --log-format are understood everywhere. An unknown option is answered with the nearest known one.
// Positional arguments land in `rest` (NULL: none allowed). 0 or ERR_INVALID with the way out.
int cli_parse(int argc, char **argv, const struct cli_option *options, const char *usage,
              const char *about, struct cli_list *rest, bool *done, struct err *e);

// A copy that lives as long as the process: option values point at such texts.
const char *cli_text_keep(const char *text);

// Prints "tandem COMMAND: message" to stderr and returns 1 (2 for ERR_INVALID).
int cli_fail(const char *command, const struct err *e);

// The options every command that starts a worker shares (-m, --name, --ctx, --parallel, --threads,
// --gpu-layers, --kv-type, --cpus, --no-tiles, --min-chunk, --pace-prefill, --pace-decode,
// --link-rate, --role, --price), to be appended to a command's own table, which still needs its end. Returns how
// many were written.
// `model`: with -m among them.
size_t cli_worker_options(struct node_worker_options *o, struct cli_option *out, size_t max,
                          bool model);

// Whether --role is a word that is known.
int cli_role_check(const struct node_worker_options *o, struct err *e);
// What can be said about --spread and --tensor-split before any machine is asked; `n_models` of the command.
int cli_spread_check(const struct node_worker_options *o, size_t n_models, struct err *e);
// Whether one of --spread is another machine; without --spread, or with a bad one, false.
bool cli_spread_leaves(const struct node_worker_options *o);

// The name in `names` (NULL-terminated) that is closest to a mistyped one, or NULL when none is within
// about a third of its letters.
const char *cli_nearest(const char *typed, const char *const *names);

// A progress bar on stderr when it is a terminal; nothing otherwise.
void cli_progress(const char *what, double share);
void cli_progress_end(void);

#endif
