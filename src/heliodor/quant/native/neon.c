/* Arm with the dot-product extension: sdot multiplies 16 signed weights with 16 signed codes. */
#include <arm_neon.h>
#include <string.h>

#include "job.h"

/* Sixteen values of one row, scaled, as many as the block has channels. */
INLINE void finish(const product *p, int64_t block, int64_t row, float *out,
                   const float32x4_t *values) {
  float value[BLOCK];
  int channels = channels_in(p, block);
  for (int i = 0; i < 4; i++) vst1q_f32(value + 4 * i, values[i]);
  for (int n = 0; n < channels; n++) {
    float scale = p->scale ? p->row_scale[row] * p->scale[block * BLOCK + n] : p->row_scale[row];
    float scaled = value[n] * scale;
    out[n] = p->bias ? scaled + p->bias[block * BLOCK + n] : scaled;
  }
}

INLINE int8x16_t four_codes(const int8_t *q) {
  int32_t word;
  memcpy(&word, q, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

INLINE void tile8(const product *p, int64_t block, int64_t slot, int64_t row, const int R) {
  const uint8_t *w = p->weight + block * p->quads * 64;
  const int8_t *q = p->q + row * p->q_stride;
  const uint8x16_t sign = vdupq_n_u8(128); /* w + 128 with its top bit turned is w */
  int32x4_t sum[4][4];
  for (int r = 0; r < R; r++)
    for (int i = 0; i < 4; i++) sum[r][i] = vdupq_n_s32(0);
  for (int64_t k = 0; k < p->quads; k++) {
    int8x16_t wide[4];
    __builtin_prefetch(w + k * 64 + 1024);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
      wide[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + k * 64 + i * 16), sign));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      int8x16_t codes = four_codes(q + r * p->q_stride + k * 4);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) sum[r][i] = vdotq_s32(sum[r][i], wide[i], codes);
    }
  }
  for (int r = 0; r < R; r++) {
    float32x4_t values[4];
    for (int i = 0; i < 4; i++) values[i] = vcvtq_f32_s32(sum[r][i]);
    finish(p, block, row + r, p->out + (row + r) * p->out_stride + slot * BLOCK, values);
  }
}

INLINE void tile4(const product *p, int64_t block, int64_t slot, int64_t row, const int R) {
  const uint8_t *w = p->weight + block * p->groups * GROUP * BLOCK / 2;
  const uint16_t *scale = p->group_scale + block * p->groups * BLOCK;
  const uint8x16_t low = vdupq_n_u8(15);
  const int8x16_t eight = vdupq_n_s8(8);
  float32x4_t total[2][4];
  for (int r = 0; r < R; r++)
    for (int i = 0; i < 4; i++) total[r][i] = vdupq_n_f32(0.0f);
  for (int64_t g = 0; g < p->groups; g++) {
    const int8_t *q = p->q + row * p->q_stride + g * GROUP;
    int32x4_t sum[2][4];
    for (int r = 0; r < R; r++)
      for (int i = 0; i < 4; i++) sum[r][i] = vdupq_n_s32(0);
    for (int line = 0; line < 8; line++, w += 64, q += 8) {
      __builtin_prefetch(w + 1024);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        uint8x16_t both = vld1q_u8(w + i * 16);
        int8x16_t even = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, low)), eight);
        int8x16_t odd = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), eight);
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) {
          sum[r][i] = vdotq_s32(sum[r][i], even, four_codes(q + r * p->q_stride));
          sum[r][i] = vdotq_s32(sum[r][i], odd, four_codes(q + r * p->q_stride + 4));
        }
      }
    }
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        uint32x4_t bits = vshll_n_u16(vld1_u16(scale + g * BLOCK + i * 4), 16);
        float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sum[r][i]), vreinterpretq_f32_u32(bits));
        total[r][i] = vaddq_f32(total[r][i], scaled);
      }
  }
  for (int r = 0; r < R; r++)
    finish(p, block, row + r, p->out + (row + r) * p->out_stride + slot * BLOCK, total[r]);
}

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count) {
  for (; count > 0; count--, slot += step) {
    int64_t block = block_at(p, slot), row = begin;
    for (; row + 4 <= end; row += 4) tile8(p, block, slot, row, 4);
    if (end - row == 3) tile8(p, block, slot, row, 3);
    if (end - row == 2) tile8(p, block, slot, row, 2);
    if (end - row == 1) tile8(p, block, slot, row, 1);
  }
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

const processor processor_neon = {"neon", panel8, panel4, 0, row_plain, floats_plain, lesson_plain};
