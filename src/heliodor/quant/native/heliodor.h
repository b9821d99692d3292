/* The functions that heliodor/quant/kernels.py calls. Layouts and bounds: docs/design/kernels.md.
 *
 * Names: M rows of activations, K channels in, N channels out, a block = 16 output channels.
 * Every pointer belongs to the caller; nothing is kept after a call. A function that returns int
 * returns 0, or -1 where memory ran out. Counts and shapes are checked in kernels.py.
 */
#ifndef HELIODOR_H
#define HELIODOR_H

#include <stdint.h>

#define HELIODOR_ABI 3 /* raise it whenever a signature or a layout changes */
#define API __attribute__((visibility("default")))

/* How a row becomes int8 codes. */
enum { ROW_PLAIN = 0, ROW_RMS = 1, ROW_LAYER = 2, ROW_GEGLU = 3 };

/* What half-width weights are. */
enum { FLOAT_BFLOAT16 = 0, FLOAT_FLOAT16 = 1 };

/* What training does between products. */
enum {
  LESSON_GELU = 0,
  LESSON_GELU_BACK = 1,
  LESSON_SOFTMAX = 2,
  LESSON_SOFTMAX_BACK = 3,
  LESSON_NORM = 4,
  LESSON_NORM_BACK = 5
};

API int heliodor_abi(void);

/* The processor path in use: "avx512-amx", "avx512-vnni", "avx2", "neon" or
 * "plain". */
API const char *heliodor_processor(void);

/* Choose a path by name; -1 where this processor lacks it. For tests; not thread-safe. */
API int heliodor_choose(const char *name);

/* Rows x [M][x_stride] -> codes q [M][q_stride], scale [M], sums [M]; `kind` says what is done to a
 * row first: nothing, RMS norm by `weight`, layer norm by `weight` and `bias`, or gelu(x) * y. */
API int heliodor_quantise(int kind, const float *x, int64_t x_stride, const float *y,
                          int64_t y_stride, const float *weight, const float *bias, float eps,
                          int64_t rows, int64_t width, int8_t *q, int64_t q_stride, float *scale,
                          int32_t *sums, int threads);

/* out [M][out_stride] = codes times int8 weights. Of the N output channels, those of blocks
 * first_block..first_block+block_count-1 are computed, or those that `blocks` lists. */
API int heliodor_product8(const int8_t *q, int64_t q_stride, const float *row_scale,
                          const int32_t *row_sum, const uint8_t *weight, const float *scale,
                          const float *bias, float *out, int64_t out_stride, int64_t rows,
                          int64_t columns, int64_t depth, int64_t first_block,
                          const int32_t *blocks, int64_t block_count, int threads);

/* The same with int4 weights in groups of 64, `scale` bfloat16 [blocks][groups][16]. */
API int heliodor_product4(const int8_t *q, int64_t q_stride, const float *row_scale,
                          const uint8_t *weight, const uint16_t *scale, const float *bias,
                          float *out, int64_t out_stride, int64_t rows, int64_t columns,
                          int64_t depth, int64_t first_block, const int32_t *blocks,
                          int64_t block_count, int threads);

/* out [M][N] = x [M][K] times weights of half width [..][K] plus bias, all sums in float32; channel
 * n is row n of the weights, or row ids[n]. */
API int heliodor_floats(int kind, const float *x, const uint16_t *weight, const int64_t *ids,
                        const float *bias, float *out, int64_t rows, int64_t channels,
                        int64_t depth, int threads);

/* y = gelu(a) of `count` numbers, or gelu(a) * b where b is. With g, the gradient of that: a's in y,
 * b's in z. `narrow` says that all are bfloat16. */
API int heliodor_gelu(int narrow, const void *a, const void *b, const void *g, void *y, void *z,
                      int64_t count, int threads);

/* y = softmax(scale * a) over rows [rows][width], 0 where the mask [..][mask_rows][width] is 0; a
 * row belongs to a head and a query. With g, y = the gradient of scores whose weights are a. */
API int heliodor_softmax(int narrow, const void *a, const void *g, void *y, const uint8_t *mask,
                         int64_t heads, int64_t queries, int64_t mask_rows, int64_t rows,
                         int64_t width, float scale, int threads);

/* y [rows][width] = layer norm of a float32, or without bias RMS norm; stats [rows][2] for later. */
API int heliodor_norm(int narrow, const float *a, const float *weight, const float *bias, float eps,
                      void *y, float *stats, int64_t rows, int64_t width, int threads);

/* The gradients of a norm: of a in y, of weight and bias in sums [2][width up to 16]. */
API int heliodor_norm_back(int narrow, const void *g, const float *a, const float *weight,
                           const float *bias, const float *stats, float *y, float *sums,
                           int64_t rows, int64_t width, int threads);

#endif
