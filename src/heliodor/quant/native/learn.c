/* The calls of training: lessons cut into tasks. */
#include <stdlib.h>
#include <string.h>

#include "heliodor.h"
#include "job.h"

#define LEAST 16384 /* numbers that a task is worth waking a thread for */

typedef struct {
  lesson l;
  int64_t count, each;  /* numbers or rows, and those of a task */
  int64_t scratch_size; /* floats a worker */
  float *scratch;
} lesson_tasks;

static int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

static void task_of(void *context, int64_t task, int worker) {
  lesson_tasks *t = context;
  int64_t begin = task * t->each, end = begin + t->each < t->count ? begin + t->each : t->count;
  processor_now()->lesson(&t->l, begin, end, t->scratch + worker * t->scratch_size);
}

/* `width` numbers stand behind each of `count`. */
static void share_out(lesson_tasks *t, int64_t width, int threads) {
  t->each = parts_of(t->count, 4 * threads);
  if (t->each * width < LEAST) t->each = parts_of(LEAST, width);
  t->each = width == 1 ? parts_of(t->each, 16) * 16 : t->each;
  pool_run(threads, parts_of(t->count, t->each), task_of, t);
}

int heliodor_gelu(int narrow, const void *a, const void *b, const void *g, void *y, void *z,
                  int64_t count, int threads) {
  lesson_tasks t = {.l = {.kind = g ? LESSON_GELU_BACK : LESSON_GELU,
                          .narrow = narrow,
                          .a = a,
                          .b = b,
                          .g = g,
                          .y = y,
                          .z = z},
                    .count = count};
  if (count) share_out(&t, 1, threads);
  return 0;
}

/* Scratch for every worker, zeroed; -1 where memory ran out. */
static int scratch_for(lesson_tasks *t, int64_t size, int threads) {
  t->scratch_size = parts_of(size, 16) * 16;
  t->scratch = calloc((size_t)(threads * t->scratch_size), sizeof(float));
  return t->scratch ? 0 : -1;
}

int heliodor_softmax(int narrow, const void *a, const void *g, void *y, const uint8_t *mask,
                     int64_t heads, int64_t queries, int64_t mask_rows, int64_t rows,
                     int64_t width, float scale, int threads) {
  lesson_tasks t = {.l = {.kind = g ? LESSON_SOFTMAX_BACK : LESSON_SOFTMAX,
                          .narrow = narrow,
                          .a = a,
                          .g = g,
                          .y = y,
                          .mask = mask,
                          .heads = heads,
                          .queries = queries,
                          .mask_rows = mask_rows,
                          .width = width,
                          .scale = scale},
                    .count = rows};
  if (rows == 0 || width == 0) return 0;
  if (scratch_for(&t, width, threads)) return -1;
  share_out(&t, width, threads);
  free(t.scratch);
  return 0;
}

int heliodor_norm(int narrow, const float *a, const float *weight, const float *bias, float eps,
                  void *y, float *stats, int64_t rows, int64_t width, int threads) {
  lesson_tasks t = {.l = {.kind = LESSON_NORM,
                          .narrow = narrow,
                          .a = a,
                          .y = y,
                          .weight = weight,
                          .bias = bias,
                          .stats = stats,
                          .width = width,
                          .scale = eps},
                    .count = rows};
  if (rows && width) share_out(&t, width, threads);
  return 0;
}

int heliodor_norm_back(int narrow, const void *g, const float *a, const float *weight,
                       const float *bias, const float *stats, float *y, float *sums, int64_t rows,
                       int64_t width, int threads) {
  int64_t padded = parts_of(width, 16) * 16;
  lesson_tasks t = {.l = {.kind = LESSON_NORM_BACK,
                          .narrow = narrow,
                          .a = a,
                          .g = g,
                          .y = y,
                          .weight = weight,
                          .bias = bias,
                          .stats = (float *)stats,
                          .width = width,
                          .padded = padded},
                    .count = rows};
  memset(sums, 0, (size_t)(2 * padded) * sizeof(float));
  if (rows == 0 || width == 0) return 0;
  if (scratch_for(&t, 2 * padded, threads)) return -1;
  share_out(&t, width, threads);
  for (int worker = 0; worker < threads; worker++)
    for (int64_t i = 0; i < 2 * padded; i++) sums[i] += t.scratch[worker * t.scratch_size + i];
  free(t.scratch);
  return 0;
}
