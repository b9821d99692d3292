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
#define GROUPS 32 /* groups of int4 that are unpacked at a time: 128 KiB for a panel */
#define AHEAD 1024 /* bytes that a thin tile fetches ahead */

typedef struct {
  const uint8_t *weight[PANEL];
  const float *scale[PANEL], *bias[PANEL];
  const uint16_t *group_scale[PANEL];
  __mmask16 mask[PANEL];
  float *out[PANEL]; /* of row 0 */
} panel;

static panel open_panel(const product *p, int64_t slot, int64_t step, int count) {
  panel b;
  for (int c = 0; c < count; c++) {
    int64_t block = block_at(p, slot + c * step);
    b.out[c] = p->out + (slot + c * step) * BLOCK;
    if (p->group_scale) {
      b.weight[c] = p->weight + block * p->groups * GROUP * BLOCK / 2;
      b.group_scale[c] = p->group_scale + block * p->groups * BLOCK;
    } else {
      b.weight[c] = p->weight + block * p->quads * 64;
      b.scale[c] = p->scale + block * BLOCK;
    }
    b.bias[c] = p->bias ? p->bias + block * BLOCK : NULL;
    b.mask[c] = (__mmask16)((1u << channels_in(p, block)) - 1);
  }
  return b;
}

INLINE float *out_at(const product *p, const panel *b, int c, int64_t row) {
  return b->out[c] + row * p->out_stride;
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
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++)
      sum[r][c] = from == 0 ? _mm512_set1_epi32(-128 * p->row_sum[row + r])
                            : _mm512_maskz_loadu_epi32(b->mask[first + c],
                                                       out_at(p, b, first + c, row + r));
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
      float *to_here = out_at(p, b, first + c, row + r);
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

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count) {
  panel b = open_panel(p, slot, step, count);
  int64_t rows = end - begin;
  if (rows <= 12) {
    int wide = rows <= 6 ? PANEL : 2;
    for (int c = 0; c < count; c += wide)
      thin(p, &b, c, begin, 0, p->quads, (int)rows, count - c < wide ? count - c : wide);
    return;
  }
  for (int64_t from = 0; from < p->quads; from += DEPTH) {
    int64_t to = from + DEPTH < p->quads ? from + DEPTH : p->quads;
    for (int64_t row = begin; row < end; row += 6)
      thick(p, &b, 0, row, from, to, end - row < 6 ? (int)(end - row) : 6, count);
  }
}

/* ---- int4 ---- */

INLINE __m512 sixteen_scales(const uint16_t *bf16) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bf16));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void finish4(const product *p, const panel *b, int c, int64_t row, float *out,
                    __m512 total) {
  __m512 value = _mm512_mul_ps(total, _mm512_set1_ps(p->row_scale[row]));
  if (p->bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(b->mask[c], b->bias[c]));
  _mm512_mask_storeu_ps(out, b->mask[c], value);
}

/* Few rows: packed weights are read once and opened in registers. */
INLINE void thin_tile4(const product *p, const panel *b, int first, int64_t row, const int R,
                       const int C) {
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[8][PANEL];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) total[r][c] = _mm512_setzero_ps();
  for (int64_t g = 0; g < p->groups; g++) {
    const int8_t *q = p->q + row * p->q_stride + g * GROUP;
    __m512i sum[8][PANEL];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++)
        sum[r][c] = _mm512_set1_epi32(-8 * p->group_sum[(row + r) * p->groups + g]);
    for (int64_t line = 0; line < 8; line++) {
      __m512i even[PANEL], odd[PANEL];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        const uint8_t *w = b->weight[first + c] + (g * 8 + line) * 64;
        __m512i both = _mm512_loadu_si512(w);
        _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
        even[c] = _mm512_and_si512(both, low);
        odd[c] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        __m512i one = four_codes(q + r * p->q_stride + line * 8);
        __m512i two = four_codes(q + r * p->q_stride + line * 8 + 4);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
          dot(&sum[r][c], even[c], one);
          dot(&sum[r][c], odd[c], two);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      __m512 scale = sixteen_scales(b->group_scale[first + c] + g * BLOCK);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
        total[r][c] = _mm512_add_ps(total[r][c],
                                    _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]), scale));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++)
      finish4(p, b, first + c, row + r,
              out_at(p, b, first + c, row + r), total[r][c]);
}

/* Many rows: weights lie opened in `open` [C][GROUPS][16 quads][64]; sums of earlier groups lie in
 * `out` until the last pass scales them. */
INLINE void thick_tile4(const product *p, const panel *b, const uint8_t *open, int64_t row,
                        int64_t from, int64_t to, const int R, const int C) {
  __m512 total[6][PANEL];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++)
      total[r][c] = from == 0 ? _mm512_setzero_ps()
                              : _mm512_maskz_loadu_ps(b->mask[c], out_at(p, b, c, row + r));
  for (int64_t g = from; g < to; g++) {
    const int8_t *q = p->q + row * p->q_stride + g * GROUP;
    __m512i sum[6][PANEL];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++)
        sum[r][c] = _mm512_set1_epi32(-8 * p->group_sum[(row + r) * p->groups + g]);
    for (int64_t k = 0; k < 16; k++) {
      __m512i w[PANEL];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++)
        w[c] = _mm512_loadu_si512(open + ((c * GROUPS + g - from) * 16 + k) * 64);
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        __m512i codes = four_codes(q + r * p->q_stride + k * 4);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) dot(&sum[r][c], w[c], codes);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      __m512 scale = sixteen_scales(b->group_scale[c] + g * BLOCK);
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
        total[r][c] = _mm512_add_ps(total[r][c],
                                    _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]), scale));
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      float *to_here = out_at(p, b, c, row + r);
      if (to < p->groups)
        _mm512_mask_storeu_ps(to_here, b->mask[c], total[r][c]);
      else
        finish4(p, b, c, row + r, to_here, total[r][c]);
    }
}

#define THIN4(R, C)                        \
  case R * 8 + C:                          \
    thin_tile4(p, b, first, row, R, C);    \
    break;
#define THICK4(R, C)                                  \
  case R * 8 + C:                                     \
    thick_tile4(p, b, open, row, from, to, R, C);     \
    break;

static void thin4(const product *p, const panel *b, int first, int64_t row, int R, int C) {
  switch (R * 8 + C) {
    THIN4(1, 1) THIN4(1, 2) THIN4(1, 3) THIN4(1, 4) THIN4(2, 1) THIN4(2, 2) THIN4(3, 1) THIN4(3, 2)
    THIN4(4, 1) THIN4(4, 2) THIN4(5, 1) THIN4(6, 1) THIN4(7, 1) THIN4(8, 1)
  }
}

static void thick4(const product *p, const panel *b, const uint8_t *open, int64_t row, int64_t from,
                   int64_t to, int R, int C) {
  switch (R * 8 + C) {
    THICK4(1, 1) THICK4(1, 2) THICK4(1, 3) THICK4(1, 4) THICK4(2, 1) THICK4(2, 2) THICK4(2, 3)
    THICK4(2, 4) THICK4(3, 1) THICK4(3, 2) THICK4(3, 3) THICK4(3, 4) THICK4(4, 1) THICK4(4, 2)
    THICK4(4, 3) THICK4(4, 4) THICK4(5, 1) THICK4(5, 2) THICK4(5, 3) THICK4(5, 4) THICK4(6, 1)
    THICK4(6, 2) THICK4(6, 3) THICK4(6, 4)
  }
}

static void unpack(const uint8_t *packed, uint8_t *open, int64_t lines) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t i = 0; i < lines; i++) {
    __m512i both = _mm512_loadu_si512(packed + i * 64);
    _mm_prefetch((const char *)packed + i * 64 + AHEAD, _MM_HINT_T0);
    _mm512_storeu_si512(open + i * 128, _mm512_and_si512(both, low));
    _mm512_storeu_si512(open + i * 128 + 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
  }
}

static void panel4(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count, uint8_t *open) {
  panel b = open_panel(p, slot, step, count);
  int64_t rows = end - begin;
  if (rows <= 8) {
    int wide = rows == 1 ? PANEL : rows <= 4 ? 2 : 1;
    for (int c = 0; c < count; c += wide)
      thin4(p, &b, c, begin, (int)rows, count - c < wide ? count - c : wide);
    return;
  }
  for (int64_t from = 0; from < p->groups; from += GROUPS) {
    int64_t to = from + GROUPS < p->groups ? from + GROUPS : p->groups;
    for (int c = 0; c < count; c++)
      unpack(b.weight[c] + from * 512, open + c * GROUPS * 1024, (to - from) * 8);
    for (int64_t row = begin; row < end; row += 6)
      thick4(p, &b, open, row, from, to, end - row < 6 ? (int)(end - row) : 6, count);
  }
}

const processor processor_avx512 = {"avx512-vnni", panel8, panel4, PANEL * GROUPS * 1024,
                                    row_avx512, floats_avx512, lesson_avx512};
