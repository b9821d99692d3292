/* Jobs cut into tasks: rows to quantise, panels of output channels to compute. */
#include <stdlib.h>
#include <string.h>

#include "heliodor.h"
#include "job.h"

#define FEW_ROWS 12   /* rows that share one reading of the weights */
#define LONGEST_RUN 8    /* blocks that one stream of memory holds */
#define LEAST_WORK 16384 /* values of rows: less is not worth waking a thread */
#define MOST_ROWS 768 /* rows of one task */

/* How many pieces of at most b cover a. */
static int64_t parts_of(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- rows ---- */

typedef struct {
  row_job job;
  int64_t rows, each, scratch_size;
  float *scratch;
} row_tasks;

static void row_task(void *context, int64_t task, int worker) {
  row_tasks *t = context;
  int64_t end = least(t->rows, (task + 1) * t->each);
  for (int64_t row = task * t->each; row < end; row++)
    processor_now()->row(&t->job, row, t->scratch + worker * t->scratch_size);
}

int heliodor_quantise(int kind, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                      const float *weight, const float *bias, float eps, int64_t rows,
                      int64_t width, int8_t *q, int64_t q_stride, float *scale, int32_t *sums,
                      int threads) {
  row_tasks t = {.job = {kind, x, y, weight, bias, x_stride, y_stride, eps, width, q, q_stride,
                         scale, sums},
                 .rows = rows,
                 .scratch_size = parts_of(width, 16) * 16 + 16};
  if (rows == 0) return 0;
  t.each = parts_of(rows, 4 * threads);
  if (t.each * width < LEAST_WORK) t.each = parts_of(LEAST_WORK, width ? width : 1);
  if (kind != ROW_PLAIN) {
    t.scratch = malloc((size_t)(threads * t.scratch_size) * sizeof(float));
    if (!t.scratch) return -1;
  }
  pool_run(threads, parts_of(rows, t.each), row_task, &t);
  free(t.scratch);
  return 0;
}

/* ---- products ---- */

typedef struct {
  product p;
  int64_t parts, each; /* row parts, rows in one */
  int64_t run;         /* blocks that each of a panel's four streams reads in a row */
  uint8_t *scratch;    /* int4: `unpacked` bytes for each worker */
} product_tasks;

/* Cut rows only as far as it takes to give every thread some panels: rows of one part. */
static int64_t cut(int64_t rows, int64_t panels, int threads) {
  int64_t parts = parts_of(rows, MOST_ROWS);
  int64_t wanted = threads > 1 ? parts_of(4 * threads, panels) : 1;
  if (rows <= FEW_ROWS) wanted = 1;
  if (wanted > rows / 48) wanted = rows / 48;
  if (parts < wanted) parts = wanted;
  return parts_of(parts_of(rows, parts), 6) * 6;
}

/* Few rows: so many blocks in a row that streams of memory are long, and tasks still enough. */
static int64_t run_of(int64_t rows, int64_t block_count, int threads) {
  int64_t run = parts_of(block_count, PANEL) / (8 * threads);
  return rows > FEW_ROWS || run < 1 ? 1 : least(run, LONGEST_RUN);
}

static void product_task(void *context, int64_t task, int worker) {
  const product_tasks *t = context;
  const processor *path = processor_now();
  int64_t begin = task % t->parts * t->each, end = least(t->p.rows, begin + t->each);
  int64_t slot = task / t->parts * PANEL * t->run;
  int64_t left = least(PANEL * t->run, t->p.block_count - slot), run = parts_of(left, PANEL);
  for (int64_t i = 0; i < run; i++) {
    int count = (int)parts_of(left - i, run); /* of the slots i, i + run, ... < left */
    if (t->p.group_scale)
      path->panel4(&t->p, begin, end, slot + i, run, count, t->scratch + worker * path->unpacked);
    else
      path->panel8(&t->p, begin, end, slot + i, run, count);
  }
}

static void run_product(product_tasks *t, int threads) {
  t->run = run_of(t->p.rows, t->p.block_count, threads);
  t->each = cut(t->p.rows, parts_of(t->p.block_count, PANEL), threads);
  t->parts = parts_of(t->p.rows, t->each);
  pool_run(threads, parts_of(t->p.block_count, PANEL * t->run) * t->parts, product_task, t);
}

int heliodor_product8(const int8_t *q, int64_t q_stride, const float *row_scale,
                      const int32_t *row_sum, const uint8_t *weight, const float *scale,
                      const float *bias, float *out, int64_t out_stride, int64_t rows,
                      int64_t columns, int64_t depth, int64_t first_block, const int32_t *blocks,
                      int64_t block_count, int threads) {
  product_tasks t = {.p = {.q = q,
                           .q_stride = q_stride,
                           .row_scale = row_scale,
                           .row_sum = row_sum,
                           .weight = weight,
                           .scale = scale,
                           .bias = bias,
                           .out = out,
                           .out_stride = out_stride,
                           .rows = rows,
                           .columns = columns,
                           .quads = parts_of(depth, 4),
                           .first_block = first_block,
                           .blocks = blocks,
                           .block_count = block_count}};
  if (rows == 0 || block_count == 0) return 0;
  run_product(&t, threads);
  return 0;
}

/* Rows as int4 products need them: whole groups, and the sum of each group's codes. */
typedef struct {
  const int8_t *from;
  int8_t *to; /* NULL where the rows hold whole groups already */
  int64_t from_stride, groups, used; /* used: codes of a row that may not be zero */
  int32_t *sums;
} regrouping;

static void regroup(void *context, int64_t row, int worker) {
  const regrouping *r = context;
  const int8_t *q = r->from + row * r->from_stride;
  (void)worker;
  if (r->to) {
    int8_t *to = r->to + row * r->groups * GROUP;
    memcpy(to, q, (size_t)r->used);
    memset(to + r->used, 0, (size_t)(r->groups * GROUP - r->used));
    q = to;
  }
  for (int64_t g = 0; g < r->groups; g++, q += GROUP) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) sum += q[i];
    r->sums[row * r->groups + g] = sum;
  }
}

int heliodor_product4(const int8_t *q, int64_t q_stride, const float *row_scale,
                      const uint8_t *weight, const uint16_t *scale, const float *bias, float *out,
                      int64_t out_stride, int64_t rows, int64_t columns, int64_t depth,
                      int64_t first_block, const int32_t *blocks, int64_t block_count,
                      int threads) {
  int64_t groups = parts_of(depth, GROUP), whole = groups * GROUP;
  if (rows == 0 || block_count == 0) return 0;
  int64_t copies = q_stride < whole ? rows * whole : 0, sums = rows * groups * 4;
  int64_t opened = rows > 1 ? threads * processor_now()->unpacked : 0;
  int64_t before = parts_of(copies + sums, 64) * 64;
  uint8_t *memory = aligned_alloc(64, (size_t)(before + parts_of(opened, 64) * 64));
  if (!memory) return -1;
  regrouping r = {q, copies ? (int8_t *)memory : NULL, q_stride, groups, least(q_stride, whole),
                  (int32_t *)(memory + copies)};
  pool_run(rows * whole < 262144 ? 1 : threads, rows, regroup, &r);
  product_tasks t = {.p = {.q = copies ? r.to : q,
                           .q_stride = copies ? whole : q_stride,
                           .row_scale = row_scale,
                           .group_sum = r.sums,
                           .weight = weight,
                           .group_scale = scale,
                           .bias = bias,
                           .out = out,
                           .out_stride = out_stride,
                           .rows = rows,
                           .columns = columns,
                           .groups = groups,
                           .first_block = first_block,
                           .blocks = blocks,
                           .block_count = block_count},
                     .scratch = memory + before};
  run_product(&t, threads);
  free(memory);
  return 0;
}

/* ---- weights of half width ---- */

typedef struct {
  float_job job;
  int64_t rows, channels, parts, each;
  float *scratch;
} float_tasks;

#define CHANNELS (BLOCK * PANEL)

static void float_task(void *context, int64_t task, int worker) {
  const float_tasks *t = context;
  int64_t begin = task % t->parts * t->each, n = task / t->parts * CHANNELS;
  processor_now()->floats(&t->job, begin, least(t->rows, begin + t->each), n,
                          (int)least(CHANNELS, t->channels - n),
                          t->scratch + (int64_t)worker * FLOAT_DEPTH * CHANNELS);
}

int heliodor_floats(int kind, const float *x, const uint16_t *weight, const int64_t *ids,
                    const float *bias, float *out, int64_t rows, int64_t channels, int64_t depth,
                    int threads) {
  if (rows == 0 || channels == 0) return 0;
  float_tasks t = {.job = {kind, x, weight, ids, bias, out, channels, depth},
                   .rows = rows,
                   .channels = channels};
  t.each = cut(rows, parts_of(channels, CHANNELS), threads);
  t.parts = parts_of(rows, t.each);
  t.scratch = aligned_alloc(64, (size_t)threads * FLOAT_DEPTH * CHANNELS * sizeof(float));
  if (!t.scratch) return -1;
  pool_run(threads, parts_of(channels, CHANNELS) * t.parts, float_task, &t);
  free(t.scratch);
  return 0;
}
