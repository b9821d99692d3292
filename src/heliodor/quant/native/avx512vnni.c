/* AVX-512 with VNNI: vpdpbusd multiplies 64 unsigned weights with 64 signed codes.
 *
 * A tile of R rows and C blocks keeps its R * C sums in registers: 6 x 4 for many rows, so that one
 * load of weights serves six products. Few rows take one tile over all of them, whose weights come
 * from memory, so the tile fetches ahead.
 */
#include <immintrin.h>
#include <string.h>

#include "job.h"

#define DEPTH 1024 /* quads of K in one pass: 64 channels of it fill a quarter of a 1 MiB cache */
#define AHEAD 1024 /* bytes that a thin tile fetches ahead */

typedef struct {
  const uint8_t *weight[PANEL];
  const float *scale[PANEL], *bias[PANEL];
  __mmask16 mask[PANEL];
  float *out; /* of row 0 */
} panel;

static panel open_panel(const product *p, int64_t slot, int count) {
  panel b = {.out = p->out + slot * BLOCK};
  for (int c = 0; c < count; c++) {
    int64_t block = block_at(p, slot + c);
    b.weight[c] = p->weight + block * p->quads * 64;
    b.scale[c] = p->scale + block * BLOCK;
    b.bias[c] = p->bias ? p->bias + block * BLOCK : NULL;
    b.mask[c] = (__mmask16)((1u << channels_in(p, block)) - 1);
  }
  return b;
}

/* sum += weights (unsigned) * codes (signed), four products a lane. As an instruction and not as
 * _mm512_dpbusd_epi32, for which gcc 12 copies the sum before and after. */
INLINE void dot(__m512i *sum, __m512i weights, __m512i codes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(codes));
}

INLINE __m512i four_codes(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, 4);
  return _mm512_set1_epi32(word);
}

/* The sums of earlier passes lie in `out` as integers until the last pass makes floats of them. */
INLINE void tile8(const product *p, const panel *b, int first, int64_t row, int64_t from,
                  int64_t to, const int R, const int C, const int thin) {
  __m512i sum[12][PANEL];
  const int8_t *q = p->q + row * p->q_stride;
  float *out = b->out + row * p->out_stride + first * BLOCK;
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++)
      sum[r][c] = from == 0 ? _mm512_set1_epi32(-128 * p->row_sum[row + r])
                            : _mm512_maskz_loadu_epi32(b->mask[first + c],
                                                       out + r * p->out_stride + c * BLOCK);
  for (int64_t k = from; k < to; k++) {
    __m512i w[PANEL];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      w[c] = _mm512_loadu_si512(b->weight[first + c] + k * 64);
      if (thin) _mm_prefetch((const char *)b->weight[first + c] + k * 64 + AHEAD, _MM_HINT_T0);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      __m512i codes = four_codes(q + r * p->q_stride + k * 4);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) dot(&sum[r][c], w[c], codes);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      __mmask16 mask = b->mask[first + c];
      float *to_here = out + r * p->out_stride + c * BLOCK;
      if (to < p->quads) {
        _mm512_mask_storeu_epi32(to_here, mask, sum[r][c]);
        continue;
      }
      __m512 scale = _mm512_mul_ps(_mm512_set1_ps(p->row_scale[row + r]),
                                   _mm512_maskz_loadu_ps(mask, b->scale[first + c]));
      __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]), scale);
      if (p->bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, b->bias[first + c]));
      _mm512_mask_storeu_ps(to_here, mask, value);
    }
}

#define TILE(R, C, THIN)                                  \
  case R * 8 + C:                                         \
    tile8(p, b, first, row, from, to, R, C, THIN);        \
    break;
#define TILES(R, THIN) TILE(R, 1, THIN) TILE(R, 2, THIN)
#define WIDE_TILES(R, THIN) TILES(R, THIN) TILE(R, 3, THIN) TILE(R, 4, THIN)

static void thick(const product *p, const panel *b, int first, int64_t row, int64_t from,
                  int64_t to, int R, int C) {
  switch (R * 8 + C) {
    WIDE_TILES(1, 0) WIDE_TILES(2, 0) WIDE_TILES(3, 0)
    WIDE_TILES(4, 0) WIDE_TILES(5, 0) WIDE_TILES(6, 0)
  }
}

static void thin(const product *p, const panel *b, int first, int64_t row, int64_t from, int64_t to,
                 int R, int C) {
  switch (R * 8 + C) {
    WIDE_TILES(1, 1) WIDE_TILES(2, 1) WIDE_TILES(3, 1)
    WIDE_TILES(4, 1) WIDE_TILES(5, 1) WIDE_TILES(6, 1)
    TILES(7, 1) TILES(8, 1) TILES(9, 1) TILES(10, 1) TILES(11, 1) TILES(12, 1)
  }
}

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int count) {
  panel b = open_panel(p, slot, count);
  int64_t rows = end - begin;
  if (rows <= 12) {
    int step = rows <= 6 ? PANEL : 2;
    for (int c = 0; c < count; c += step)
      thin(p, &b, c, begin, 0, p->quads, (int)rows, count - c < step ? count - c : step);
    return;
  }
  for (int64_t from = 0; from < p->quads; from += DEPTH) {
    int64_t to = from + DEPTH < p->quads ? from + DEPTH : p->quads;
    for (int64_t row = begin; row < end; row += 6)
      thick(p, &b, 0, row, from, to, end - row < 6 ? (int)(end - row) : 6, count);
  }
}

const processor processor_avx512 = {"avx512-vnni", panel8, row_avx512};
