// os/: children and their descriptors, cores, memory, folders, whole files.
//
// This program is its own child: with an argument it does what child_main says and exits.
#include "base/buf.h"
#include "os/facts.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char self[4096];
static char folder[64];

// ---- the child -------------------------------------------------------------------------------

static bool fd_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

// Reports on the first descriptor it was given what it found in its process.
static int child_report(void)
{
    int open_fds = 0;
    for (int fd = 3; fd < 1024; fd++)
        open_fds += fd_open(fd);
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    struct sigaction pipe_action;
    sigaction(SIGPIPE, NULL, &pipe_action);
    char byte = '?';
    dprintf(3, "fds=%d blocked=%d pipe_default=%d stdin=%zd own_group=%d", open_fds,
            sigismember(&blocked, SIGUSR1), pipe_action.sa_handler == SIG_DFL,
            read(STDIN_FILENO, &byte, 1), getpgrp() == getpid());
    return 0;
}

// Copies what comes on its second descriptor to its first, then ends.
static int child_copy(void)
{
    char text[64];
    ssize_t n = read(4, text, sizeof text);
    return n > 0 && write(3, text, (size_t)n) == n ? 0 : 9;
}

static int child_main(const char *what)
{
    if (strcmp(what, "report") == 0)
        return child_report();
    if (strcmp(what, "copy") == 0)
        return child_copy();
    if (strcmp(what, "exit") == 0)
        return 3;
    if (strcmp(what, "print") == 0) {
        fputs("out", stdout);
        fputs("err", stderr);
        return 0;
    }
    if (strcmp(what, "abort") == 0) {
        signal(SIGABRT, SIG_DFL);
        abort();
    }
    pause();
    return 0;
}

// ---- spawn -------------------------------------------------------------------------------------

// A child is another program of the emulated machine, which an emulator of one process cannot start.
static void need_children(void)
{
    if (getenv("TANDEM_EMULATED")) {
        print_message("skipped: no children under emulation\n");
        skip();
    }
}

static struct os_spawn spawn_of(const char *const *argv)
{
    return (struct os_spawn){.argv = argv, .stderr_fd = -1, .stdout_fd = -1};
}

static size_t read_all(int fd, char *out, size_t bytes)
{
    size_t n = 0;
    ssize_t got;
    while (n < bytes - 1 && (got = read(fd, out + n, bytes - 1 - n)) > 0)
        n += (size_t)got;
    out[n] = '\0';
    return n;
}

static void child_sees_a_clean_process(void **state)
{
    (void)state;
    need_children();
    int out[2], leaked[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(leaked), 0); // without close-on-exec: must not reach the child
    signal(SIGPIPE, SIG_IGN);
    sigset_t usr1, old;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, &old);
    const char *const argv[] = {self, "report", NULL};
    struct os_spawn s = spawn_of(argv);
    s.fds = &out[1];
    s.n_fds = 1;
    s.new_group = true;
    s.die_with_parent = true;
    struct err e = {0};
    pid_t pid = -1;
    assert_int_equal(os_spawn(&s, &pid, &e), 0);
    sigprocmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, SIG_DFL);
    close(out[1]);
    char text[256];
    read_all(out[0], text, sizeof text);
    assert_string_equal(text, "fds=1 blocked=0 pipe_default=1 stdin=0 own_group=1");
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(out[0]);
    close(leaked[0]);
    close(leaked[1]);
}

// Descriptors keep their order whatever their numbers are: here they are crossed on purpose, so
// that placing one naively would overwrite the other.
static void child_gets_descriptors_in_order(void **state)
{
    (void)state;
    need_children();
    int to_child[2], from_child[2];
    assert_int_equal(pipe(to_child), 0);
    assert_int_equal(pipe(from_child), 0);
    int saved3 = dup(3), saved4 = dup(4);
    int low3 = fcntl(to_child[0], F_DUPFD, 10), low4 = fcntl(from_child[1], F_DUPFD, 10);
    int back = fcntl(from_child[0], F_DUPFD, 20), feed = fcntl(to_child[1], F_DUPFD, 20);
    dup2(low3, 3);
    dup2(low4, 4);
    const char *const argv[] = {self, "copy", NULL};
    struct os_spawn s = spawn_of(argv);
    const int fds[] = {4, 3};
    s.fds = fds;
    s.n_fds = 2;
    struct err e = {0};
    pid_t pid = -1;
    int rc = os_spawn(&s, &pid, &e);
    if (saved3 >= 0)
        dup2(saved3, 3);
    if (saved4 >= 0)
        dup2(saved4, 4);
    assert_int_equal(rc, 0);
    assert_int_equal(write(feed, "through", 7), 7);
    char text[32] = "";
    assert_int_equal(read(back, text, sizeof text - 1), 7);
    assert_string_equal(text, "through");
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    for (int fd = 5; fd < 32; fd++)
        close(fd);
}

// What a child prints of its environment.
static void tunables_of(bool huge_pages, char *text, size_t bytes)
{
    int out[2];
    assert_int_equal(pipe(out), 0);
    const char *const argv[] = {"/bin/sh", "-c", "echo \"$GLIBC_TUNABLES\"", NULL};
    struct os_spawn s = spawn_of(argv);
    s.stdout_fd = out[1];
    s.huge_pages = huge_pages;
    pid_t pid = -1;
    struct err e = {0};
    assert_int_equal(os_spawn(&s, &pid, &e), 0);
    close(out[1]);
    read_all(out[0], text, bytes);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(out[0]);
}

static void huge_pages_are_asked_for(void **state)
{
    char text[128];
    (void)state;
    need_children();
    unsetenv("GLIBC_TUNABLES");
    tunables_of(false, text, sizeof text);
    assert_string_equal(text, "\n");
    tunables_of(true, text, sizeof text);
    assert_string_equal(text, "glibc.malloc.hugetlb=1\n");
    setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0", 1); // somebody knows better
    tunables_of(true, text, sizeof text);
    assert_string_equal(text, "glibc.malloc.hugetlb=0\n");
    unsetenv("GLIBC_TUNABLES");
}

static void output_is_redirected(void **state)
{
    (void)state;
    need_children();
    int out[2], errors[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(errors), 0);
    const char *const argv[] = {self, "print", NULL};
    struct os_spawn s = spawn_of(argv);
    s.stdout_fd = out[1];
    s.stderr_fd = errors[1];
    pid_t pid = -1;
    struct err e = {0};
    assert_int_equal(os_spawn(&s, &pid, &e), 0);
    close(out[1]);
    close(errors[1]);
    char text[64];
    read_all(out[0], text, sizeof text);
    assert_string_equal(text, "out");
    read_all(errors[0], text, sizeof text);
    assert_string_equal(text, "err");
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(out[0]);
    close(errors[0]);
}

static void ends_in_words(void **state)
{
    (void)state;
    need_children();
    static const struct {
        const char *what;
        int kill_with;
        const char *text;
    } cases[] = {
        {"exit", 0, "exit code 3"},
        {"print", 0, "exit code 0"},
        {"abort", 0, "signal 6 (Aborted)"},
        {"wait", SIGKILL, "signal 9 (Killed)"},
    };
    int null_fd = open("/dev/null", O_WRONLY);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *const argv[] = {self, cases[i].what, NULL};
        struct os_spawn s = spawn_of(argv);
        s.stdout_fd = s.stderr_fd = null_fd;
        pid_t pid = -1;
        struct err e = {0};
        assert_int_equal(os_spawn(&s, &pid, &e), 0);
        if (cases[i].kill_with)
            kill(pid, cases[i].kill_with);
        int status = -1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        char text[64];
        os_exit_text(status, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
    close(null_fd);
}

static void spawn_errors(void **state)
{
    (void)state;
    struct err e = {0};
    pid_t pid = -1;
    const char *const absent[] = {"/no/such/program", NULL};
    struct os_spawn s = spawn_of(absent);
    assert_int_equal(os_spawn(&s, &pid, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "/no/such/program"));
    const char *const not_a_program[] = {"/etc/passwd", NULL};
    s.argv = not_a_program;
    assert_int_equal(os_spawn(&s, &pid, &e), ERR_IO);
    const char *const none[] = {NULL};
    s.argv = none;
    assert_int_equal(os_spawn(&s, &pid, &e), ERR_INVALID);
    s.argv = absent;
    s.n_fds = 1000;
    assert_int_equal(os_spawn(&s, &pid, &e), ERR_INVALID);
    assert_int_equal(pid, -1);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // no child of a failed start is left
    assert_int_equal(errno, ECHILD);
}

static void group_is_reachable(void **state)
{
    (void)state;
    need_children();
    const char *const argv[] = {self, "wait", NULL};
    struct os_spawn s = spawn_of(argv);
    s.new_group = true;
    pid_t pid = -1;
    struct err e = {0};
    assert_int_equal(os_spawn(&s, &pid, &e), 0);
    assert_int_equal(kill(-pid, SIGTERM), 0);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

// ---- cores and memory --------------------------------------------------------------------------

static void pin_table(void **state)
{
    (void)state;
#define BAD(list)                                                                                  \
    {                                                                                              \
        list, ERR_INVALID                                                                          \
    }
    static const struct {
        const char *list;
        int rc;
    } cases[] = {
        BAD(""),   BAD(","),  BAD("a"),    BAD("1-"),       BAD("-1"),      BAD("3-2"),
        BAD("0,"), BAD("0 "), BAD("0,,1"), BAD("99999999"), BAD("0-99999"), BAD("1023"),
    };
    int before = os_cpu_count();
    assert_true(before >= 1);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err e = {0};
        if (os_cpu_pin(cases[i].list, &e) != cases[i].rc)
            fail_msg("core list '%s' was taken", cases[i].list);
        assert_true(e.message[0]);
    }
    assert_int_equal(os_cpu_count(), before);
}

static void facts_are_there(void **state)
{
    (void)state;
    struct os_facts f;
    os_facts_get(&f);
    assert_true(f.system[0] && f.cpu[0]);
    assert_true(f.cores >= 1 && f.cores <= 65536);
    assert_true(f.memory_bytes > 64u << 20);
}

static void memory_of_a_process(void **state)
{
    (void)state;
    struct os_memory before, after;
    assert_int_equal(os_memory_get(getpid(), &before), 0);
    size_t n = 64u << 20;
    uint8_t *block = malloc(n);
    assert_non_null(block);
    memset(block, 1, n);
    assert_int_equal(os_memory_get(getpid(), &after), 0);
    assert_true(after.resident_bytes >= before.resident_bytes + n / 2);
    assert_true(after.peak_bytes >= after.resident_bytes / 2);
    if (before.anonymous_bytes)
        assert_true(after.anonymous_bytes >= before.anonymous_bytes + n / 2);
    assert_int_equal(block[n - 1], 1);
    free(block);
    assert_int_equal(os_memory_get(0x3fffffff, &after), ERR_NOT_FOUND);
}

static void random_differs(void **state)
{
    (void)state;
    uint8_t a[600] = {0}, b[600] = {0};
    os_random(a, sizeof a);
    os_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a + 568, b + 568, 32); // the last part of a long request as well
    os_thread_name("a name that is longer than fifteen bytes");
}

// ---- paths and files -----------------------------------------------------------------------------

static void folders_table(void **state)
{
    (void)state;
    static const struct {
        const char *whole, *xdg, *home, *want;
    } cases[] = {
        {"/w", "/x", "/h", "/w"},
        {"relative", NULL, "/h", "relative"},
        {NULL, "/x", "/h", "/x/tandem"},
        {"", "/x", "/h", "/x/tandem"},
        {NULL, "x", "/h", "/h/.cache/tandem"},
        {NULL, NULL, "/h", "/h/.cache/tandem"},
    };
    struct err e = {0};
    char out[256];
    for (size_t i = 0; i < COUNT(cases); i++) {
        cases[i].whole ? setenv("TANDEM_CACHE", cases[i].whole, 1) : unsetenv("TANDEM_CACHE");
        cases[i].xdg ? setenv("XDG_CACHE_HOME", cases[i].xdg, 1) : unsetenv("XDG_CACHE_HOME");
        setenv("HOME", cases[i].home, 1);
        assert_int_equal(os_cache_dir(out, sizeof out, &e), 0);
        assert_string_equal(out, cases[i].want);
    }
    unsetenv("TANDEM_CONFIG");
    unsetenv("XDG_CONFIG_HOME");
    assert_int_equal(os_config_dir(out, sizeof out, &e), 0);
    assert_string_equal(out, "/h/.config/tandem");
    setenv("TANDEM_STATE", "/s", 1);
    assert_int_equal(os_state_dir(out, sizeof out, &e), 0);
    assert_string_equal(out, "/s");
    assert_int_equal(os_state_dir(out, 2, &e), ERR_RANGE);
}

static void self_dir_holds_this_program(void **state)
{
    (void)state;
    char dir[4096];
    struct err e = {0};
    assert_int_equal(os_self_dir(dir, sizeof dir, &e), 0);
    char *path = mem_format("%s/%s", dir, strrchr(self, '/') + 1);
    assert_int_equal(access(path, X_OK), 0);
    free(path);
    assert_int_equal(os_self_dir(dir, 3, &e), ERR_IO);
}

static void mkdirs_makes_the_way(void **state)
{
    (void)state;
    struct err e = {0};
    char *path = mem_format("%s/a/b//c/", folder);
    assert_int_equal(os_mkdirs(path, &e), 0);
    assert_int_equal(os_mkdirs(path, &e), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    free(path);
    path = mem_format("%s/file/x", folder);
    char *file = mem_format("%s/file", folder);
    assert_int_equal(os_file_write(file, "", 0, 0600, &e), 0);
    assert_int_equal(os_mkdirs(path, &e), ERR_IO);
    assert_non_null(strstr(e.message, file));
    assert_int_equal(os_mkdirs("", &e), ERR_INVALID);
    free(file);
    free(path);
}

static void files_are_whole(void **state)
{
    (void)state;
    struct err e = {0};
    char *path = mem_format("%s/whole", folder);
    char *data = NULL;
    size_t len = 0;
    assert_int_equal(os_file_read(path, 100, &data, &len, &e), ERR_NOT_FOUND);
    assert_int_equal(os_file_write(path, "old\0old", 7, 0644, &e), 0);
    assert_int_equal(os_file_write(path, "new", 3, 0600, &e), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(os_file_read(path, 3, &data, &len, &e), 0);
    assert_int_equal(len, 3);
    assert_string_equal(data, "new");
    free(data);
    data = NULL;
    assert_int_equal(os_file_read(path, 2, &data, &len, &e), ERR_RANGE);
    assert_null(data);
    assert_int_equal(os_file_read(folder, 100, &data, &len, &e), ERR_INVALID);
    char *fifo = mem_format("%s/fifo", folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(os_file_read(fifo, 100, &data, &len, &e), ERR_INVALID);
    free(fifo);
    free(path);
    path = mem_format("%s/no/such/folder", folder);
    assert_int_equal(os_file_write(path, "x", 1, 0600, &e), ERR_IO);
    free(path);
}

static void files_of_keys_are_for_their_owner_alone(void **state)
{
    static const mode_t open_modes[] = {0640, 0620, 0610, 0604, 0602, 0601, 0666};
    (void)state;
    struct err e = {0};
    char *path = mem_format("%s/private", folder), *data = NULL;
    size_t len = 0;
    assert_int_equal(os_file_read_private(path, 100, &data, &len, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, path));
    assert_int_equal(os_file_write(path, "key", 3, 0600, &e), 0);
    for (size_t i = 0; i < sizeof open_modes / sizeof *open_modes; i++) {
        assert_int_equal(chmod(path, open_modes[i]), 0);
        assert_int_equal(os_file_read_private(path, 100, &data, &len, &e), ERR_AUTH);
        assert_null(data);
        assert_non_null(strstr(e.message, "chmod 600 "));
        assert_non_null(strstr(e.message, path));
        assert_int_equal(os_file_read(path, 100, &data, &len, &e), 0);
        free(data);
        data = NULL;
    }
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(os_file_read_private(path, 3, &data, &len, &e), 0);
    assert_string_equal(data, "key");
    free(data);
    data = NULL;
    assert_int_equal(os_file_read_private(path, 2, &data, &len, &e), ERR_RANGE);
    assert_int_equal(os_file_read_private(folder, 100, &data, &len, &e), ERR_INVALID);
    assert_null(data);
    char *below = mem_format("%s/below", path);
    assert_int_equal(os_file_read_private(below, 3, &data, &len, &e), ERR_NOT_FOUND);
    free(below);
    free(path);
}

static void long_files(void **state)
{
    (void)state;
    struct err e = {0};
    enum { N = 300000 };
    char *path = mem_format("%s/long", folder);
    char *data = malloc(N), *back = NULL;
    size_t len = 0;
    assert_non_null(data);
    for (size_t i = 0; i < N; i++)
        data[i] = (char)(i * 7);
    assert_int_equal(os_file_write(path, data, N, 0600, &e), 0);
    assert_int_equal(os_file_read(path, N, &back, &len, &e), 0);
    assert_int_equal(len, N);
    assert_memory_equal(back, data, N);
    free(back);
    assert_int_equal(os_file_read(path, N - 1, &back, &len, &e), ERR_RANGE);
    free(data);
    free(path);
}

static void time_of_change_below_a_second(void **state)
{
    (void)state;
    struct err e = {0};
    char *path = mem_format("%s/whole", folder);
    assert_int_equal(os_file_write(path, "x", 1, 0600, &e), 0);
    const struct timespec times[2] = {{.tv_sec = 5, .tv_nsec = 1},
                                      {.tv_sec = 7, .tv_nsec = 123456000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mtime, 7);
    assert_int_equal(os_mtime_ns(&st), 123456000);
    free(path);
}

static int folder_remove(void **state)
{
    (void)state;
    static const char *const names[] = {"a/b/c", "a/b", "a", "file", "whole", "long", "fifo", ""};
    for (size_t i = 0; i < COUNT(names); i++) {
        char *path = mem_format("%s/%s", folder, names[i]);
        remove(path);
        free(path);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return child_main(argv[1]);
    if (!realpath(argv[0], self))
        return 1;
    snprintf(folder, sizeof folder, "/tmp/tandem-os-test-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(child_sees_a_clean_process),
        cmocka_unit_test(child_gets_descriptors_in_order),
        cmocka_unit_test(output_is_redirected),
        cmocka_unit_test(huge_pages_are_asked_for),
        cmocka_unit_test(ends_in_words),
        cmocka_unit_test(spawn_errors),
        cmocka_unit_test(group_is_reachable),
        cmocka_unit_test(pin_table),
        cmocka_unit_test(facts_are_there),
        cmocka_unit_test(memory_of_a_process),
        cmocka_unit_test(random_differs),
        cmocka_unit_test(self_dir_holds_this_program),
        cmocka_unit_test(folders_table),
        cmocka_unit_test(mkdirs_makes_the_way),
        cmocka_unit_test(files_are_whole),
        cmocka_unit_test(files_of_keys_are_for_their_owner_alone),
        cmocka_unit_test(long_files),
        cmocka_unit_test(time_of_change_below_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
