// Starting children. fork and exec rather than posix_spawn: the parent-death signal, the exact
// descriptor table and the error of exec all need code that runs in the child. That code calls
// only async-signal-safe functions, because other threads of this process exist.
#include "base/buf.h"
#include "os/os.h"

#include "os/system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define SPAWN_FDS_MAX 16
// glibc asks for huge pages then wherever it maps memory; other C libraries ignore it. Set by hand, it stays.
#define HUGE_PAGES "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
#define FIRST_FD 3

static void signals_default(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &action, NULL); // fails for KILL and STOP, and for numbers that libc keeps
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

// Puts copies of the sources above everything that is about to be overwritten, then in their places.
static int fds_place(const struct os_spawn *s, int *report_fd)
{
    int above = FIRST_FD + (int)s->n_fds + 1;
    int null_fd = open("/dev/null", O_RDONLY);
    int sources[SPAWN_FDS_MAX + 4];
    int targets[SPAWN_FDS_MAX + 4];
    size_t n = 0;
    sources[n] = null_fd;
    targets[n++] = STDIN_FILENO;
    sources[n] = s->stdout_fd;
    targets[n++] = STDOUT_FILENO;
    sources[n] = s->stderr_fd;
    targets[n++] = STDERR_FILENO;
    for (size_t i = 0; i < s->n_fds; i++) {
        sources[n] = s->fds[i];
        targets[n++] = FIRST_FD + (int)i;
    }
    sources[n] = *report_fd;
    targets[n++] = above - 1;
    for (size_t i = 0; i < n; i++) {
        if (sources[i] >= 0 && (sources[i] = fcntl(sources[i], F_DUPFD, above)) < 0)
            return errno;
    }
    for (size_t i = 0; i < n; i++) {
        if (sources[i] >= 0 && dup2(sources[i], targets[i]) < 0)
            return errno;
    }
    *report_fd = above - 1;
    fcntl(*report_fd, F_SETFD, FD_CLOEXEC);
    system_close_from(above);
    return 0;
}

// The child's environment: ours, and what it is to have besides. The caller frees the list, not the texts.
static char **environment_make(const struct os_spawn *s)
{
    static char huge_pages[] = HUGE_PAGES;
    size_t n = 0, name = strcspn(huge_pages, "=") + 1;
    bool adds = s->huge_pages;

    for (; environ[n]; n++)
        adds = adds && strncmp(environ[n], huge_pages, name) != 0;
    char **env = mem_alloc((n + 2) * sizeof *env);
    memcpy(env, environ, n * sizeof *env);
    env[n] = adds ? huge_pages : NULL;
    env[n + adds] = NULL;
    return env;
}

static void child_run(const struct os_spawn *s, char **env, pid_t parent, int report_fd)
{
    int rc = 0;
    if (s->new_session)
        setsid();
    else if (s->new_group)
        setpgid(0, 0);
    if (s->die_with_parent && !system_child_bind(parent))
        _exit(127);
    rc = fds_place(s, &report_fd);
    if (rc == 0) {
        signals_default();
        execve(s->argv[0], (char *const *)(uintptr_t)s->argv, env);
        rc = errno;
    }
    ssize_t n = write(report_fd, &rc, sizeof rc);
    (void)n;
    _exit(127);
}

// The report pipe closes on a successful exec; otherwise the errno comes through it.
static int report_read(int fd)
{
    int rc = 0;
    ssize_t n;
    do {
        n = read(fd, &rc, sizeof rc);
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof rc ? rc : 0;
}

int os_pipe(int fds[2], struct err *e)
{
    // Not atomic, which would take a call that macOS lacks; a child started in between by os_spawn
    // closes what it was not given.
    if (pipe(fds))
        return err_set(e, ERR_IO, "cannot make a pipe: %s", strerror(errno));
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    return 0;
}

// Signals are blocked around fork: no handler of the parent may run in the child.
static pid_t fork_quietly(const struct os_spawn *s, char **env, const int report[2])
{
    sigset_t all, old;
    sigfillset(&all);
    pid_t parent = getpid();
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t child = fork();
    if (child == 0) {
        close(report[0]);
        child_run(s, env, parent, report[1]);
    }
    int saved = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = saved;
    return child;
}

int os_spawn(const struct os_spawn *s, pid_t *pid, struct err *e)
{
    if (!s->argv || !s->argv[0] || s->n_fds > SPAWN_FDS_MAX)
        return err_set(e, ERR_INVALID, "a child needs a program and at most %d descriptors",
                       SPAWN_FDS_MAX);
    int report[2];
    int rc = os_pipe(report, e);
    if (rc)
        return rc;
    char **env = environment_make(s);
    pid_t child = fork_quietly(s, env, report);
    int saved = errno;
    free(env);
    close(report[1]);
    rc = child < 0 ? saved : report_read(report[0]);
    close(report[0]);
    if (rc && child > 0)
        waitpid(child, NULL, 0);
    if (rc)
        return err_set(e, rc == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot start %s: %s", s->argv[0],
                       strerror(rc));
    *pid = child;
    return 0;
}

void os_exit_text(int wait_status, char *out, size_t out_bytes)
{
    if (WIFEXITED(wait_status))
        snprintf(out, out_bytes, "exit code %d", WEXITSTATUS(wait_status));
    else if (WIFSIGNALED(wait_status))
        snprintf(out, out_bytes, "signal %d (%s)", WTERMSIG(wait_status),
                 strsignal(WTERMSIG(wait_status)));
    else
        snprintf(out, out_bytes, "wait status 0x%x", (unsigned)wait_status);
}
