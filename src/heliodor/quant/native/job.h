/* What the files of this folder tell each other: jobs, the pool, and one table a processor. */
#ifndef HELIODOR_JOB_H
#define HELIODOR_JOB_H

#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define BLOCK 16   /* output channels that lie together */
#define PANEL 4    /* blocks that one task computes */
#define GROUP 64   /* channels in that share a scale in int4 */

/* A product of quantised rows with packed weights, int8 or int4. */
typedef struct {
  const int8_t *q; /* codes [rows][q_stride], zero beyond K */
  int64_t q_stride;
  const float *row_scale;
  const int32_t *row_sum;   /* int8: the sum of a row's codes */
  const int32_t *group_sum; /* int4: the same for each group, [rows][groups] */
  const uint8_t *weight;
  const float *scale;          /* int8: [columns] */
  const uint16_t *group_scale; /* int4: bfloat16 [blocks][groups][16] */
  const float *bias;           /* [columns], or NULL */
  float *out;
  int64_t out_stride;
  int64_t rows, columns;
  int64_t quads;  /* int8: K / 4, rounded up */
  int64_t groups; /* int4: K / 64, rounded up */
  int64_t first_block;
  const int32_t *blocks; /* the blocks to compute, or NULL for a range from first_block */
  int64_t block_count;
} product;

/* Rows on their way to int8. */
typedef struct {
  int kind;
  const float *x, *y, *weight, *bias;
  int64_t x_stride, y_stride;
  float eps;
  int64_t width;
  int8_t *q;
  int64_t q_stride;
  float *scale;
  int32_t *sums;
} row_job;

/* float32 rows times weights of half width. */
typedef struct {
  int kind;
  const float *x;         /* [rows][depth] */
  const uint16_t *weight; /* [..][depth] */
  const int64_t *ids;     /* the weight rows that stand for the channels, or NULL: in order */
  const float *bias;      /* by weight row, or NULL */
  float *out;
  int64_t out_stride, depth;
} float_job;

/* Something that training does to rows or single numbers, see lessons.c. */
typedef struct {
  int kind;
  int narrow;          /* whether activations are bfloat16; norms read and norms' y is float32 */
  const void *a, *b;   /* what is read */
  const void *g;       /* the gradient of the result */
  void *y, *z;         /* what is written */
  const float *weight, *bias;
  float *stats;        /* [rows][2]: mean and 1 / deviation */
  const uint8_t *mask; /* [rows of batch][mask_rows][width], or NULL */
  int64_t heads, queries, mask_rows;
  int64_t width, padded; /* of a row, and up to sixteens */
  float scale;
} lesson;

#define FLOAT_DEPTH 256 /* channels in that are widened at a time: 64 KiB for a panel */

/* One row to codes; `scratch` holds `width` floats, rounded up to 16. */
typedef void row_work(const row_job *job, int64_t row, float *scratch);

/* `count` <= 64 channels from n of rows begin..end-1; `open` holds [FLOAT_DEPTH][64] floats. */
typedef void float_work(const float_job *job, int64_t begin, int64_t end, int64_t n, int count,
                        float *open);

/* Numbers or rows begin..end-1; `scratch` holds two rows, which norms' backward pass adds up in. */
typedef void lesson_work(const lesson *l, int64_t begin, int64_t end, float *scratch);

/* What a processor path must offer. */
typedef struct {
  const char *name;
  /* rows begin..end-1 of the output channels of `count` <= PANEL blocks, those of the job's slots
   * slot, slot + step, ... */
  void (*panel8)(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                 int count);
  /* the same with int4 weights; `scratch` holds `unpacked` bytes */
  void (*panel4)(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                 int count, uint8_t *scratch);
  int64_t unpacked; /* what panel4 needs for more rows than it reads packed weights for */
  row_work *row;
  float_work *floats;
  lesson_work *lesson;
} processor;

extern const processor processor_plain;
extern const processor processor_avx2;
extern const processor processor_avx512;
extern const processor processor_neon;
/* Absent where the compiler does not know the instructions. */
extern const processor processor_amx __attribute__((weak));

/* rows.c, floats.c and lessons.c are compiled once for each instruction set. */
row_work row_plain, row_avx2, row_avx512;
float_work floats_plain, floats_avx2, floats_avx512;
lesson_work lesson_plain, lesson_avx2, lesson_avx512;

const processor *processor_now(void);

/* Call work(context, task, worker) for every task, on at most `threads` threads, this one among
 * them; workers are numbered from 0. Returns when all are done. */
typedef void (*pool_work)(void *context, int64_t task, int worker);
void pool_run(int threads, int64_t tasks, pool_work work, void *context);

/* The block that a job's slot stands for, and how many of its 16 channels exist. */
INLINE int64_t block_at(const product *p, int64_t slot) {
  return p->blocks ? p->blocks[slot] : p->first_block + slot;
}
INLINE int channels_in(const product *p, int64_t block) {
  int64_t left = p->columns - block * BLOCK;
  return left < BLOCK ? (int)left : BLOCK;
}

/* A bfloat16 is the upper half of a float32. */
INLINE float widen(uint16_t bf16) {
  union {
    uint32_t bits;
    float value;
  } u = {(uint32_t)bf16 << 16};
  return u.value;
}

#endif
