/* The functions that heliodor/quant/kernels.py calls. Layouts and bounds: docs/design/kernels.md.
 *
 * Names: M rows of activations, K channels in, N channels out, a block = 16 output channels.
 * Every pointer belongs to the caller; nothing is kept after a call. A function that returns int
 * returns 0, or -1 where memory ran out. Counts and shapes are checked in kernels.py.
 */
#ifndef HELIODOR_H
#define HELIODOR_H

#include <stdint.h>

#define HELIODOR_ABI 2 /* raise it whenever a signature or a layout changes */
#define API __attribute__((visibility("default")))

/* How a row becomes int8 codes. */
enum { ROW_PLAIN = 0, ROW_RMS = 1, ROW_LAYER = 2, ROW_GEGLU = 3 };

/* What half-width weights are. */
enum { FLOAT_BFLOAT16 = 0, FLOAT_FLOAT16 = 1 };

API int heliodor_abi(void);

/* The processor path in use: "avx512-vnni", "avx2", "neon" or "plain". */
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

#endif
