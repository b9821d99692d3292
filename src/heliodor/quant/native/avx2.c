/* AVX2, exact: vpmaddubsw saturates on full bytes, so int8 weights are widened to 16 bits first.
 * int4 weights are small enough for it: eight products of a nibble and a code fit 16 bits.
 */
#include <immintrin.h>
#include <string.h>

#include "job.h"

#define AHEAD 1024

/* Sixteen finished values to `out`, as many as the block has channels. */
INLINE void finish(const product *p, int64_t block, int64_t row, float *out, __m256 low,
                   __m256 high) {
  float value[BLOCK];
  int channels = channels_in(p, block);
  _mm256_storeu_ps(value, low);
  _mm256_storeu_ps(value + 8, high);
  for (int n = 0; n < channels; n++) {
    float scale = p->scale ? p->row_scale[row] * p->scale[block * BLOCK + n] : p->row_scale[row];
    float scaled = value[n] * scale;
    out[n] = p->bias ? scaled + p->bias[block * BLOCK + n] : scaled;
  }
}

/* ---- int8: a tile of R rows and one block; each sum is two lanes, of even and odd pairs ---- */

INLINE __m256i four_wide(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, 4);
  return _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(word)));
}

INLINE __m256i pairs(__m256i a, __m256i b) { /* lanes 2i + (2i+1) of a, then of b */
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}

INLINE void tile8(const product *p, int64_t block, int64_t slot, int64_t row, const int R) {
  const uint8_t *w = p->weight + block * p->quads * 64;
  const int8_t *q = p->q + row * p->q_stride;
  __m256i sum[3][4];
#pragma GCC unroll 3
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) sum[r][i] = _mm256_setzero_si256();
  for (int64_t k = 0; k < p->quads; k++) {
    __m256i codes[3];
    _mm_prefetch((const char *)w + k * 64 + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 3
    for (int r = 0; r < R; r++) codes[r] = four_wide(q + r * p->q_stride + k * 4);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      __m128i bytes = _mm_loadu_si128((const __m128i *)(w + k * 64 + i * 16));
      __m256i wide = _mm256_cvtepu8_epi16(bytes);
#pragma GCC unroll 3
      for (int r = 0; r < R; r++)
        sum[r][i] = _mm256_add_epi32(sum[r][i], _mm256_madd_epi16(wide, codes[r]));
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < R; r++) {
    __m256i zero = _mm256_set1_epi32(-128 * p->row_sum[row + r]);
    __m256i low = _mm256_add_epi32(pairs(sum[r][0], sum[r][1]), zero);
    __m256i high = _mm256_add_epi32(pairs(sum[r][2], sum[r][3]), zero);
    finish(p, block, row + r, p->out + (row + r) * p->out_stride + slot * BLOCK,
           _mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high));
  }
}

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count) {
  for (; count > 0; count--, slot += step) {
    int64_t block = block_at(p, slot), row = begin;
    for (; row + 3 <= end; row += 3) tile8(p, block, slot, row, 3);
    if (end - row == 2) tile8(p, block, slot, row, 2);
    if (end - row == 1) tile8(p, block, slot, row, 1);
  }
}

/* ---- int4 ---- */

INLINE __m256i four_codes(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, 4);
  return _mm256_set1_epi32(word);
}

INLINE __m256 eight_scales(const uint16_t *bf16) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bf16));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE void tile4(const product *p, int64_t block, int64_t slot, int64_t row, const int R) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const uint8_t *w = p->weight + block * p->groups * GROUP * BLOCK / 2;
  const uint16_t *scale = p->group_scale + block * p->groups * BLOCK;
  __m256 total[2][2];
#pragma GCC unroll 2
  for (int r = 0; r < R; r++) total[r][0] = total[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < p->groups; g++) {
    const int8_t *q = p->q + row * p->q_stride + g * GROUP;
    __m256i sum[2][2];
#pragma GCC unroll 2
    for (int r = 0; r < R; r++)
      sum[r][0] = sum[r][1] = _mm256_set1_epi32(-8 * p->group_sum[(row + r) * p->groups + g]);
    for (int half = 0; half < 2; half++) { /* four lines: 8 * 2 * 15 * 127 fits 16 bits */
      __m256i few[2][2];
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) few[r][0] = few[r][1] = _mm256_setzero_si256();
      for (int line = 0; line < 4; line++, w += 64, q += 8) {
        _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
          __m256i both = _mm256_loadu_si256((const __m256i *)(w + i * 32));
          __m256i even = _mm256_and_si256(both, low);
          __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 2
          for (int r = 0; r < R; r++) {
            const int8_t *codes = q + r * p->q_stride;
            __m256i one = _mm256_maddubs_epi16(even, four_codes(codes));
            __m256i two = _mm256_maddubs_epi16(odd, four_codes(codes + 4));
            few[r][i] = _mm256_add_epi16(few[r][i], _mm256_add_epi16(one, two));
          }
        }
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
          sum[r][i] = _mm256_add_epi32(sum[r][i], _mm256_madd_epi16(few[r][i], ones));
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int i = 0; i < 2; i++)
        total[r][i] = _mm256_add_ps(total[r][i],
                                    _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][i]),
                                                  eight_scales(scale + g * BLOCK + i * 8)));
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; r++)
    finish(p, block, row + r, p->out + (row + r) * p->out_stride + slot * BLOCK, total[r][0],
           total[r][1]);
}

static void panel4(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count, uint8_t *scratch) {
  (void)scratch;
  for (; count > 0; count--, slot += step) {
    int64_t block = block_at(p, slot), row = begin;
    for (; row + 2 <= end; row += 2) tile4(p, block, slot, row, 2);
    if (row < end) tile4(p, block, slot, row, 1);
  }
}

const processor processor_avx2 = {"avx2", panel8, panel4, 0, row_avx2, floats_avx2, lesson_avx2};
