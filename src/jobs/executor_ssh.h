// What the two files of the ssh executor share: its options, the words of ssh and scp, files there and back.
// Private to jobs/executor_ssh*.c.
#ifndef JOBS_EXECUTOR_SSH_H
#define JOBS_EXECUTOR_SSH_H

#include "jobs/executor.h"

#include <stddef.h>

#define SSH_HOSTS_MAX 16
#define SSH_HOST_BYTES 128
#define SSH_WORDS_MAX 32
#define SSH_COMMAND_MAX (64u << 10)
#define SSH_ASK_S 60.0
#define SSH_COPY_S 1800.0

struct ssh_options {
    char hosts[SSH_HOSTS_MAX][SSH_HOST_BYTES]; // [user@]name, as ssh takes it
    size_t n_hosts;
    const char *config, *identity; // of ssh: -F, -i; NULL: its own
    char port[16];                 // "": ssh's own
    char folder[512];              // on the other machines; "": the job's folder is the same there
    const char *trainer;           // path of the program there; NULL: the same as here
    const char *model;             // path of the base there; NULL: the same as here
    char master[SSH_HOST_BYTES];   // where ranks meet; the first host without its user
    unsigned rendezvous_port;
};
// Texts are borrowed from the JSON.
int ssh_options_read(const json_t *options, struct ssh_options *out, struct err *e);

// ssh and its options, the host, the command; argv has room for SSH_WORDS_MAX.
void ssh_words(const struct ssh_options *o, size_t host, const char *command, const char **argv);
// The job's folder there; caller frees.
char *ssh_folder(const struct ssh_options *o, const struct jobs_task *t);
// Job and data to a machine; nothing where the folder is shared.
int ssh_push(const struct jobs_task *t, const struct ssh_options *o, size_t host, struct err *e);
// Result, adapter and log from the first machine; those that are not there are passed over.
int ssh_fetch(const struct jobs_task *t, const struct ssh_options *o, struct err *e);

#endif
