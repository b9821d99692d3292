/* Portable C: the reference that every other path equals bit for bit, and what runs elsewhere. */
#include <string.h>

#include "job.h"

static void one8(const product *p, int64_t row, int64_t slot) {
  int64_t block = block_at(p, slot);
  int channels = channels_in(p, block);
  const int8_t *q = p->q + row * p->q_stride;
  const uint8_t *w = p->weight + block * p->quads * 64;
  float *out = p->out + row * p->out_stride + slot * BLOCK;
  int32_t sum[BLOCK] = {0};
  for (int64_t k = 0; k < p->quads; k++, w += 64, q += 4)
    for (int n = 0; n < BLOCK; n++)
      for (int i = 0; i < 4; i++) sum[n] += (w[n * 4 + i] - 128) * q[i];
  for (int n = 0; n < channels; n++) {
    float value = (float)sum[n] * (p->row_scale[row] * p->scale[block * BLOCK + n]);
    out[n] = p->bias ? value + p->bias[block * BLOCK + n] : value;
  }
}

static void one4(const product *p, int64_t row, int64_t slot) {
  int64_t block = block_at(p, slot);
  int channels = channels_in(p, block);
  const int8_t *q = p->q + row * p->q_stride;
  const uint8_t *w = p->weight + block * p->groups * GROUP * BLOCK / 2;
  const uint16_t *scale = p->group_scale + block * p->groups * BLOCK;
  float *out = p->out + row * p->out_stride + slot * BLOCK;
  float total[BLOCK] = {0};
  for (int64_t g = 0; g < p->groups; g++, scale += BLOCK) {
    int32_t sum[BLOCK] = {0};
    for (int line = 0; line < 8; line++, w += 64, q += 8)
      for (int n = 0; n < BLOCK; n++)
        for (int i = 0; i < 4; i++) {
          int both = w[n * 4 + i];
          sum[n] += ((both & 15) - 8) * q[i] + ((both >> 4) - 8) * q[i + 4];
        }
    for (int n = 0; n < BLOCK; n++) total[n] += (float)sum[n] * widen(scale[n]);
  }
  for (int n = 0; n < channels; n++) {
    float value = total[n] * p->row_scale[row];
    out[n] = p->bias ? value + p->bias[block * BLOCK + n] : value;
  }
}

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count) {
  for (int c = 0; c < count; c++)
    for (int64_t row = begin; row < end; row++) one8(p, row, slot + c * step);
}

static void panel4(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count, uint8_t *scratch) {
  (void)scratch;
  for (int c = 0; c < count; c++)
    for (int64_t row = begin; row < end; row++) one4(p, row, slot + c * step);
}

const processor processor_plain = {"plain", panel8, panel4, 0, row_plain, floats_plain, lesson_plain};
