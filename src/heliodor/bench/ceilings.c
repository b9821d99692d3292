/* What the machine can do at most: float32 multiply-adds and int8 products in registers, and reading
 * memory. Compiled for the processor at hand by heliodor/bench/ceilings.py when the benchmark runs.
 *
 * The compiler of the day copies registers around an intrinsic for vpdpbusd: it is written out.
 * Twelve independent accumulators hide the latency of one instruction; nothing touches memory in
 * the first two kinds. Every thread starts when all have come.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

#if defined(__x86_64__) && (defined(__AVX512VNNI__) || defined(__AVX2__))
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

typedef float floats __attribute__((vector_size(WIDTH)));
typedef uint64_t words __attribute__((vector_size(WIDTH), aligned(WIDTH), may_alias));

enum { FLOAT = 0, INT8 = 1, READ = 2 };
enum { ACCUMULATORS = 12, MOST = 256 };

#if defined(__x86_64__) && defined(__AVX512VNNI__)
typedef __m512i ints;
#define DOT(sum, a, b) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
#define FILL(value) _mm512_set1_epi8(value)
#define PRODUCTS 64
#elif defined(__x86_64__) && defined(__AVXVNNI__)
typedef __m256i ints;
#define DOT(sum, a, b) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#define FILL(value) _mm256_set1_epi8(value)
#define PRODUCTS 32
#elif defined(__x86_64__) && defined(__AVX2__)
typedef __m256i ints;
#define DOT(sum, a, b) \
    (sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, sum), b)))
#define FILL(value) _mm256_set1_epi8(value)
#define PRODUCTS 32
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t ints;
#define DOT(sum, a, b) \
    (sum = vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)))
#define FILL(value) vreinterpretq_s32_s8(vdupq_n_s8(value))
#define PRODUCTS 16
#else
#define PRODUCTS 0
#endif

typedef struct {
    int kind;
    long rounds;
    const unsigned char *data;
    size_t bytes;
    atomic_int *waiting;
    double start, end;
    volatile uint64_t sink;
} Job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t multiply_add(long rounds) {
    volatile float one = 0.999f, small = 0.001f;
    floats factor = one - (floats){0}, term = small - (floats){0}, sum[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++) sum[i] = term * (float)i;
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) sum[i] = sum[i] * factor + term;
    }
    for (int i = 1; i < ACCUMULATORS; i++) sum[0] += sum[i];
    return (uint64_t)sum[0][0];
}

/* Where the processor multiplies whole tiles and lets this process do so, that is the limit. */
#if defined(__AMX_INT8__) && defined(__linux__)
#define TILE_PRODUCTS (4 * 16 * 16 * 64)
static int has_tiles(void) {
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0;
}
static uint64_t tile_products(long rounds) {
    struct {
        uint8_t palette, rest[15];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 6; i++) { shape.bytes[i] = 64; shape.rows[i] = 16; }
    int32_t sums[16][16];
    __asm__ volatile("ldtilecfg %0" ::"m"(shape)); /* the intrinsic names 8 of the 64 bytes */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (long r = 0; r < rounds; r++) {
        _tile_dpbusd(0, 4, 5);
        _tile_dpbusd(1, 4, 5);
        _tile_dpbusd(2, 4, 5);
        _tile_dpbusd(3, 4, 5);
    }
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" ::"r"(sums), "r"(64L) : "memory");
    _tile_release();
    return (uint64_t)sums[0][0];
}
#else
#define TILE_PRODUCTS 0
static int has_tiles(void) { return 0; }
static uint64_t tile_products(long rounds) { return (uint64_t)rounds; }
#endif

#if PRODUCTS
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define OPEN(i) ints sum##i = FILL((signed char)i);
#define ONE(i) DOT(sum##i, a, b);
#define KEEP(i) { ints last = sum##i; memcpy(lanes, &last, sizeof(last)); total += lanes[0]; }

static uint64_t products(long rounds) {
    volatile signed char one = 1, two = 2;
    ints a = FILL(one), b = FILL(two);
    EACH(OPEN) /* names, not an array: an array would lie in memory */
    for (long r = 0; r < rounds; r++) { EACH(ONE) }
    uint64_t total = 0, lanes[sizeof(ints) / 8];
    EACH(KEEP)
    return total;
}
#else
static uint64_t products(long rounds) { return (uint64_t)rounds; }
#endif

static uint64_t read_all(const unsigned char *data, size_t bytes) {
    words sum[8] = {0};
    size_t step = 8 * WIDTH;
    for (size_t at = 0; at + step <= bytes; at += step) {
        const words *line = (const words *)(data + at);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __builtin_prefetch(data + at + (size_t)i * WIDTH + 2048);
            sum[i] ^= line[i];
        }
    }
    for (int i = 1; i < 8; i++) sum[0] ^= sum[i];
    return sum[0][0];
}

static void *run(void *argument) {
    Job *job = argument;
    atomic_fetch_sub(job->waiting, 1);
    while (atomic_load(job->waiting) > 0) sched_yield();
    job->start = now();
    if (job->kind == FLOAT) job->sink = multiply_add(job->rounds);
    if (job->kind == INT8)
        job->sink = has_tiles() ? tile_products(job->rounds) : products(job->rounds);
    if (job->kind == READ) job->sink = read_all(job->data, job->bytes);
    job->end = now();
    return NULL;
}

/* Multiplications and additions of one round of a thread; 0 where there is no such instruction. */
long heliodor_operations(int kind) {
    if (kind == FLOAT) return 2L * ACCUMULATORS * (WIDTH / 4);
    if (kind == INT8) return has_tiles() ? 2L * TILE_PRODUCTS : 2L * ACCUMULATORS * PRODUCTS;
    return 0;
}

/* Seconds from the first thread's start to the last one's end, negative on failure. For READ the
 * bytes, from an address that WIDTH divides, are divided among the threads. */
double heliodor_ceiling(int kind, int threads, long rounds, const unsigned char *data,
                        size_t bytes) {
    if (threads < 1 || threads > MOST) return -1.0;
    pthread_t ids[MOST];
    Job jobs[MOST];
    atomic_int waiting = threads;
    size_t share = bytes / (size_t)threads / 4096 * 4096;
    for (int i = 0; i < threads; i++) {
        jobs[i] = (Job){.kind = kind, .rounds = rounds, .waiting = &waiting,
                        .data = data ? data + share * (size_t)i : NULL, .bytes = share};
        if (pthread_create(&ids[i], NULL, run, &jobs[i])) {
            atomic_store(&waiting, 0);
            for (int j = 0; j < i; j++) pthread_join(ids[j], NULL);
            return -1.0;
        }
    }
    double start = 0.0, end = 0.0;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        if (i == 0 || jobs[i].start < start) start = jobs[i].start;
        if (i == 0 || jobs[i].end > end) end = jobs[i].end;
    }
    return end - start;
}
