/* float32 rows times weights that rest in bfloat16 or float16, added up in float32. Compiled once
 * for each instruction set, as the function that FLOATS names, with a * b + c contracted where the
 * set has it.
 *
 * Weights lie as torch keeps them, [N][K]. Few rows take them as they come, channel by channel;
 * many rows take them widened and turned to [k][64 channels], a cache's worth at a time.
 */
#include <string.h>

#include "heliodor.h"
#include "job.h"

#ifndef FLOATS
#define FLOATS floats_plain
#endif

typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));

#define CHANNELS (BLOCK * PANEL)
#define AHEAD 1024 /* bytes that few rows fetch ahead */

#define FEW_ROWS 12
/* A tile of rows and vectors of 16 channels that the registers hold. */
#if defined(__AVX512F__)
enum { TILE_ROWS = 6, TILE_VECTORS = 4 };
#else
enum { TILE_ROWS = 6, TILE_VECTORS = 1 };
#endif

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (i16){__VA_ARGS__})
#endif

INLINE f16 load(const float *x) {
  f16 v;
  memcpy(&v, x, sizeof v);
  return v;
}

/* Sixteen float16, each in the low half of a lane, without a step that a processor told to flush
 * denormals could spoil. */
INLINE f16 halves(i16 h) {
  i16 sign = (h & 0x8000) << 16, size = h & 0x7fff;
  i16 small = (i16)(__builtin_convertvector(size, f16) * 5.9604644775390625e-8f); /* 2^-24 */
  i16 usual = (size << 13) + (112 << 23), last = (size << 13) | 0x7f800000;
  i16 is_small = size < 0x400, is_last = size >= 0x7c00;
  return (f16)(sign | (is_small & small) | (is_last & last) | (~is_small & ~is_last & usual));
}

INLINE f16 widen_low(i16 pair, const int kind) {
  return kind == FLOAT_BFLOAT16 ? (f16)(pair << 16) : halves(pair & 0xffff);
}
INLINE f16 widen_high(i16 pair, const int kind) {
  return kind == FLOAT_BFLOAT16 ? (f16)(pair & -65536) : halves((pair >> 16) & 0xffff);
}

INLINE const uint16_t *channel(const float_job *job, int64_t n) {
  return job->weight + (job->ids ? job->ids[n] : n) * job->depth;
}

/* ---- few rows ---- */

INLINE f16 sixteen(const uint16_t *w, const int kind) {
  h16 v;
  memcpy(&v, w, sizeof v);
  return widen_low(__builtin_convertvector(v, i16), kind);
}

static float total(f16 v) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}

/* R rows and the C channels n, n + step, ... */
INLINE void dots(const float_job *job, int64_t row, int64_t n, int64_t step, const int kind,
                 const int R, const int C) {
  const float *x = job->x + row * job->depth;
  const uint16_t *w[4];
  f16 sum[4][4];
  int64_t k = 0, left = job->depth % 16;
#pragma GCC unroll 4
  for (int c = 0; c < C; c++) {
    w[c] = channel(job, n + c * step);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[r][c] = (f16){0};
  }
  for (; k + 16 <= job->depth; k += 16) {
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      f16 wide = sixteen(w[c] + k, kind);
      __builtin_prefetch((const char *)(w[c] + k) + AHEAD);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[r][c] += load(x + r * job->depth + k) * wide;
    }
  }
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) {
      f16 x_last = {0};
      h16 w_last = {0};
      memcpy(&x_last, x + r * job->depth + k, (size_t)left * sizeof(float));
      memcpy(&w_last, w[c] + k, (size_t)left * sizeof(uint16_t));
      f16 all = sum[r][c];
      if (left) all += x_last * sixteen((const uint16_t *)&w_last, kind);
      float value = total(all);
      int64_t at = n + c * step, id = job->ids ? job->ids[at] : at;
      job->out[(row + r) * job->out_stride + at] = job->bias ? value + job->bias[id] : value;
    }
}

INLINE void few_left(const float_job *job, int64_t begin, int64_t end, int64_t from, int64_t to,
                     const int kind) {
  for (int64_t n = from; n < to; n++)
    for (int64_t row = begin; row < end; row++) dots(job, row, n, 1, kind, 1, 1);
}

/* Channels in two or four streams, each of which reads on into its next channel; four rows at a
 * time, and the second four find the weights in the cache. */
INLINE void few(const float_job *job, int64_t begin, int64_t end, int64_t n, int count,
                const int kind) {
  int width = end - begin == 1 && count >= 4 ? 4 : count >= 2 ? 2 : 1;
  int run = count / width;
  for (int c = 0; c < run; c++)
    for (int64_t row = begin; row < end; row += 4) {
      int64_t rows = end - row < 4 ? end - row : 4;
      switch (rows * 8 + width) {
        case 9: dots(job, row, n + c, run, kind, 1, 1); break;
        case 10: dots(job, row, n + c, run, kind, 1, 2); break;
        case 12: dots(job, row, n + c, run, kind, 1, 4); break;
        case 17: dots(job, row, n + c, run, kind, 2, 1); break;
        case 18: dots(job, row, n + c, run, kind, 2, 2); break;
        case 25: dots(job, row, n + c, run, kind, 3, 1); break;
        case 26: dots(job, row, n + c, run, kind, 3, 2); break;
        case 33: dots(job, row, n + c, run, kind, 4, 1); break;
        case 34: dots(job, row, n + c, run, kind, 4, 2); break;
      }
    }
  if (run * width < count) few_left(job, begin, end, n + run * width, n + count, kind);
}

/* ---- many rows ---- */

#define EXCHANGE(a, b, TO_A, TO_B)     \
  do {                                 \
    i16 old = a;                       \
    a = SHUFFLE(old, b, TO_A);         \
    b = SHUFFLE(old, b, TO_B);         \
  } while (0)
#define A8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define B8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define A4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define B4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define A2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define B2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define A1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define B1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31

/* v[i][j] becomes v[j][i]: quarters of the square change places, then quarters of each quarter. */
INLINE void turn(i16 *v) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) EXCHANGE(v[i], v[i + 8], A8, B8);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) EXCHANGE(v[i / 4 * 8 + i % 4], v[i / 4 * 8 + i % 4 + 4], A4, B4);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) EXCHANGE(v[i / 2 * 4 + i % 2], v[i / 2 * 4 + i % 2 + 2], A2, B2);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) EXCHANGE(v[i * 2], v[i * 2 + 1], A1, B1);
}

/* Channels n..n+15, k from..from+31 (`deep` of them exist) to open[k][CHANNELS]. */
INLINE void open_square(const float_job *job, int64_t n, int64_t count, int64_t from, int64_t deep,
                        float *open, const int kind) {
  i16 v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    v[i] = (i16){0};
    if (i >= count) continue;
    const uint16_t *w = channel(job, n + i) + from;
    if (deep >= 32)
      memcpy(&v[i], w, sizeof v[i]);
    else
      memcpy(&v[i], w, (size_t)deep * sizeof *w);
    __builtin_prefetch((const char *)w + 256);
  }
  turn(v);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    f16 low = widen_low(v[i], kind), high = widen_high(v[i], kind);
    memcpy(open + (2 * i) * CHANNELS, &low, sizeof low);
    memcpy(open + (2 * i + 1) * CHANNELS, &high, sizeof high);
  }
}

/* `first` and `last`: this is the first or the last part of K; between them sums lie in out. */
INLINE void tile(const float_job *job, const float *open, int64_t row, int64_t n, int64_t from,
                 int64_t depth, int64_t count, const int R, const int C) {
  f16 sum[TILE_ROWS][TILE_VECTORS];
  float *out = job->out + row * job->out_stride + n;
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) sum[r][c] = (f16){0};
  const float *x = job->x + row * job->depth + from;
  for (int64_t k = 0; k < depth; k++) {
    f16 w[TILE_VECTORS];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) w[c] = load(open + k * CHANNELS + c * BLOCK);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      float one = x[r * job->depth + k];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) sum[r][c] += w[c] * one;
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      float *to = out + r * job->out_stride + c * BLOCK;
      int64_t left = count - c * BLOCK;
      size_t bytes = left >= BLOCK ? sizeof(f16) : left > 0 ? (size_t)left * sizeof(float) : 0;
      f16 before = {0};
      if (from) {
        memcpy(&before, to, bytes);
        sum[r][c] += before;
      }
      memcpy(to, &sum[r][c], bytes);
    }
}

INLINE void rows_of_tiles(const float_job *job, const float *open, int64_t begin, int64_t end,
                          int64_t n, int64_t from, int64_t depth, int64_t count) {
  for (int64_t row = begin; row < end;) {
    int64_t left = end - row;
    int step = left >= TILE_ROWS ? TILE_ROWS : left >= 3 ? 3 : 1;
    for (int64_t c = 0; c < count; c += TILE_VECTORS * BLOCK) {
      if (step == TILE_ROWS)
        tile(job, open + c, row, n + c, from, depth, count - c, TILE_ROWS, TILE_VECTORS);
      else if (step == 3)
        tile(job, open + c, row, n + c, from, depth, count - c, 3, TILE_VECTORS);
      else
        tile(job, open + c, row, n + c, from, depth, count - c, 1, TILE_VECTORS);
    }
    row += step;
  }
}

INLINE void many(const float_job *job, int64_t begin, int64_t end, int64_t n, int64_t count,
                 float *open, const int kind) {
  for (int64_t from = 0; from < job->depth; from += FLOAT_DEPTH) {
    int64_t depth = job->depth - from < FLOAT_DEPTH ? job->depth - from : FLOAT_DEPTH;
    for (int64_t c = 0; c < count; c += BLOCK)
      for (int64_t k = 0; k < depth; k += 32)
        open_square(job, n + c, count - c, from + k, depth - k, open + k * CHANNELS + c, kind);
    rows_of_tiles(job, open, begin, end, n, from, depth, count);
  }
  if (!job->bias) return;
  for (int64_t row = begin; row < end; row++)
    for (int64_t c = n; c < n + count; c++)
      job->out[row * job->out_stride + c] += job->bias[job->ids ? job->ids[c] : c];
}

static void any(const float_job *job, int64_t begin, int64_t end, int64_t n, int count, float *open,
                const int kind) {
  if (end - begin <= FEW_ROWS)
    few(job, begin, end, n, count, kind);
  else
    many(job, begin, end, n, count, open, kind);
}

void FLOATS(const float_job *job, int64_t begin, int64_t end, int64_t n, int count, float *open) {
  if (job->kind == FLOAT_BFLOAT16)
    any(job, begin, end, n, count, open, FLOAT_BFLOAT16);
  else
    any(job, begin, end, n, count, open, FLOAT_FLOAT16);
}
