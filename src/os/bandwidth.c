// How fast this machine reads its memory: what bounds the writing of an answer, one pass over all weights for
// each token. Every core sums a block of its own, all at the same time, for a fixed while.
#include "os/facts.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "os/os.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUN_NS (200 * NS_PER_MS)
#define ALL_BYTES (1ull << 30) // of all blocks at most; caches hold less
#define BLOCK_LEAST (8u << 20)
#define BLOCK_MOST (128u << 20)
#define PART_WORDS ((size_t)1 << 16) // between two looks at the clock
#define READERS_MAX 512
#define CALM_SHARE 0.9 // of its time each reader must have had a core
#define PATH_BYTES 4096
#define FILE_NAME "bandwidth.json"

// All begin together, when the last block is written.
struct start {
    atomic_size_t ready; // released by a reader, acquired by who waits for all
    atomic_bool go;      // the other way round
};

struct reader {
    pthread_t thread;
    size_t words;
    struct start *start;
    double bytes_per_s; // 0: there was no memory
    double share;       // of the time that it had its core for itself
};

// Eight sums side by side, so that no addition waits for the one before.
static uint64_t words_sum(const uint64_t *w, size_t n)
{
    uint64_t s[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++)
            s[k] += w[i + k];
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static int64_t core_ns(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void block_read(struct reader *r, const uint64_t *block)
{
    size_t parts = r->words / PART_WORDS;
    int64_t core0 = core_ns();
    uint64_t sum = 0, read = 0;
    int64_t t0 = clock_now_ns(), now = t0;
    for (size_t i = 0; now - t0 < RUN_NS; i = (i + 1) % parts) {
        sum += words_sum(block + i * PART_WORDS, PART_WORDS);
        read += PART_WORDS * sizeof *block;
        now = clock_now_ns();
    }
    // A sum that nobody looks at would not be computed.
    volatile uint64_t seen = sum;
    (void)seen;
    r->bytes_per_s = (double)read / ns_to_s(now - t0);
    r->share = (double)(core_ns() - core0) / (double)(now - t0);
}

static void *reader_run(void *arg)
{
    struct reader *r = arg;
    uint64_t *block = malloc(r->words * sizeof *block);
    // Written, not zeroed by the system: untouched pages would all be one page of zeros.
    if (block)
        memset(block, 1, r->words * sizeof *block);
    atomic_fetch_add_explicit(&r->start->ready, 1, memory_order_release);
    while (!atomic_load_explicit(&r->start->go, memory_order_acquire))
        clock_sleep_until(clock_now_ns() + NS_PER_MS / 4);
    if (block)
        block_read(r, block);
    free(block);
    return NULL;
}

static size_t block_bytes(size_t n)
{
    uint64_t free_bytes = os_memory_available(), all = ALL_BYTES;
    if (free_bytes > 0 && free_bytes / 8 < all)
        all = free_bytes / 8;
    uint64_t each = all / n;
    return each > BLOCK_MOST ? BLOCK_MOST : (size_t)each;
}

static double readers_run(struct reader *readers, size_t n, bool *calm)
{
    struct start start = {0};
    size_t started = 0;
    double sum = 0;
    for (; started < n; started++) {
        readers[started].start = &start;
        if (pthread_create(&readers[started].thread, NULL, reader_run, &readers[started]) != 0)
            break;
    }
    while (atomic_load_explicit(&start.ready, memory_order_acquire) < started)
        clock_sleep_until(clock_now_ns() + NS_PER_MS / 4);
    atomic_store_explicit(&start.go, true, memory_order_release);
    for (size_t i = 0; i < started; i++) {
        pthread_join(readers[i].thread, NULL);
        sum += readers[i].bytes_per_s;
        *calm = *calm && readers[i].share >= CALM_SHARE;
    }
    return sum;
}

double os_bandwidth_measure(bool *calm)
{
    int cores = os_cpu_count();
    size_t n = cores > READERS_MAX ? READERS_MAX : (size_t)cores, bytes = block_bytes(n);
    *calm = true;
    if (bytes < BLOCK_LEAST)
        return 0;
    struct reader *readers = mem_alloc(n * sizeof *readers);
    for (size_t i = 0; i < n; i++)
        readers[i].words = bytes / sizeof(uint64_t);
    double sum = readers_run(readers, n, calm);
    free(readers);
    return sum;
}

// ---- kept ----------------------------------------------------------------------------------------

static bool path_get(char out[PATH_BYTES], struct err *e)
{
    char folder[PATH_BYTES - 32];
    if (os_state_dir(folder, sizeof folder, e) != 0 || os_mkdirs(folder, e) != 0)
        return false;
    snprintf(out, PATH_BYTES, "%s/%s", folder, FILE_NAME);
    return true;
}

// What was measured, if it was for such a machine; else 0.
static double kept_get(const char *path, const struct os_facts *f)
{
    struct err e = {0};
    struct os_facts then;
    char *text = NULL;
    size_t len = 0;
    if (os_file_read(path, 65536, &text, &len, &e) != 0)
        return 0;
    json_t *o = json_parse(text, len, &e);
    bool same = os_facts_parse(o, &then, &e) == 0 && strcmp(then.cpu, f->cpu) == 0 &&
                then.cores == f->cores && then.memory_bytes == f->memory_bytes;
    json_decref(o);
    free(text);
    return same ? then.memory_bytes_per_s : 0;
}

static void kept_put(const char *path, const struct os_facts *f, double bytes_per_s)
{
    struct err e = {0};
    struct os_facts now = *f;
    now.memory_bytes_per_s = bytes_per_s;
    json_t *o = os_facts_json(&now);
    char *text = json_text(o);
    // A folder that cannot be written to means that the next process measures again.
    os_file_write(path, text, strlen(text), 0600, &e);
    free(text);
    json_decref(o);
}

double os_bandwidth_get(const struct os_facts *f)
{
    struct err e = {0};
    char path[PATH_BYTES];
    bool keeps = path_get(path, &e), calm = false;
    double v = keeps ? kept_get(path, f) : 0;
    if (v > 0)
        return v;
    v = os_bandwidth_measure(&calm);
    if (keeps && calm && v > 0)
        kept_put(path, f, v);
    return v;
}
