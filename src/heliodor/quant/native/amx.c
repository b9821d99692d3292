/* AMX: one instruction multiplies 16 rows of 64 codes with 64 x 16 weights, in registers of 1 KiB.
 *
 * The packed weights of 64 channels of a block are such a register as they lie there. Sums of 32 rows
 * and two blocks stay in four registers; few rows, and what is not whole, go the way of AVX-512.
 * The configuration found at the start is put back: torch's own products keep theirs per thread.
 */
#include <immintrin.h>
#include <string.h>

#include "job.h"

#define TILE 16      /* rows and channels out of a register */
#define DEEP 64      /* channels in of a register */
#define LEAST 16     /* rows from which on this path is the faster one */
#define STEPS 16     /* registers along K in one pass: two blocks of them fill 32 KiB */
#define GROUPS 32    /* groups of int4 that are unpacked at a time */
#define PACKED 512   /* bytes of a group of a block */
#define OPEN 1024    /* the same unpacked */

typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} configuration;

/* As instructions and not as the compiler's intrinsics, which tell it of 8 of a configuration's 64
 * bytes and of nothing that a tile reads or writes: it might move what prepares them. */
INLINE void load_configuration(const configuration *c) {
  __asm__ volatile("ldtilecfg %0" ::"m"(*c));
}
INLINE void store_configuration(configuration *c) { __asm__ volatile("sttilecfg %0" : "=m"(*c)); }
#define TILE_LOAD(t, base, stride)                                      \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(base),         \
                   "r"((int64_t)(stride))                               \
                   : "memory")
#define TILE_STORE(t, base, stride)                                     \
  __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(base),     \
                   "r"((int64_t)(stride))                               \
                   : "memory")

/* Sums in registers 0..3, codes of the upper and the lower rows in 4 and 5, weights in 6 and 7. */
static void configure(int upper, int lower) {
  configuration c = {.palette = 1};
  const int rows[8] = {upper, upper, lower, lower, upper, lower, TILE, TILE};
  for (int i = 0; i < 8; i++) {
    c.bytes[i] = rows[i] ? 64 : 0;
    c.rows[i] = (uint8_t)rows[i];
  }
  load_configuration(&c);
}

static int whole(const product *p, int64_t slot, int64_t step, int count) {
  for (int c = 0; c < count; c++)
    if (channels_in(p, block_at(p, slot + c * step)) < BLOCK) return 0;
  return 1;
}

/* One or two blocks. */
typedef struct {
  const uint8_t *weight[2];
  const float *scale[2], *bias[2];
  float *out[2]; /* of row 0 */
} pair;

#define MULTIPLY(L, C)                              \
  _tile_dpbsud(0, 4, 6);                            \
  if (C == 2) _tile_dpbsud(1, 4, 7);                \
  if (L) {                                          \
    _tile_dpbsud(2, 5, 6);                          \
    if (C == 2) _tile_dpbsud(3, 5, 7);              \
  }

#define EACH_SUM(L, C, DO)                          \
  DO(0, 0, 0);                                      \
  if (C == 2) DO(1, 0, 1);                          \
  if (L) {                                          \
    DO(2, 1, 0);                                    \
    if (C == 2) DO(3, 1, 1);                        \
  }

/* The sums of earlier passes lie in `out` as integers until the last pass makes floats of them. */
INLINE void sums8(const product *p, const pair *b, int64_t row, int rows, int64_t from, int64_t to,
                  const int L, const int C) {
  const int8_t *q = p->q + row * p->q_stride;
  int64_t stride = p->out_stride * (int64_t)sizeof(float);
  int64_t steps = p->quads / TILE, tail = p->quads % TILE;
#define PLACE(r, c) (b->out[c] + (row + r * TILE) * p->out_stride)
#define CLEAR(t, r, c) _tile_zero(t)
#define TAKE(t, r, c) TILE_LOAD(t, PLACE(r, c), stride)
#define GIVE(t, r, c) TILE_STORE(t, PLACE(r, c), stride)
  if (from == 0) {
    EACH_SUM(L, C, CLEAR)
  } else {
    EACH_SUM(L, C, TAKE)
  }
  for (int64_t k = from; k < to && k < steps; k++) {
    TILE_LOAD(4, q + k * DEEP, p->q_stride);
    if (L) TILE_LOAD(5, q + TILE * p->q_stride + k * DEEP, p->q_stride);
    TILE_LOAD(6, b->weight[0] + k * OPEN, 64);
    if (C == 2) TILE_LOAD(7, b->weight[1] + k * OPEN, 64);
    MULTIPLY(L, C)
  }
  if (to > steps) {
    int8_t codes[2 * TILE][DEEP] = {{0}};
    uint8_t weights[2][OPEN] = {{0}};
    for (int r = 0; r < rows; r++)
      memcpy(codes[r], q + r * p->q_stride + steps * DEEP, (size_t)tail * 4);
    for (int c = 0; c < C; c++)
      memcpy(weights[c], b->weight[c] + steps * OPEN, (size_t)tail * 64);
    TILE_LOAD(4, codes, DEEP);
    if (L) TILE_LOAD(5, codes[TILE], DEEP);
    TILE_LOAD(6, weights[0], 64);
    if (C == 2) TILE_LOAD(7, weights[1], 64);
    MULTIPLY(L, C)
  }
  EACH_SUM(L, C, GIVE)
}

static void finish8(const product *p, const pair *b, int64_t row, int rows, int count) {
  for (int c = 0; c < count; c++)
    for (int r = 0; r < rows; r++) {
      float *out = b->out[c] + (row + r) * p->out_stride;
      __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(out),
                                     _mm512_set1_epi32(128 * p->row_sum[row + r]));
      __m512 scale = _mm512_mul_ps(_mm512_set1_ps(p->row_scale[row + r]),
                                   _mm512_loadu_ps(b->scale[c]));
      __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
      if (p->bias) value = _mm512_add_ps(value, _mm512_loadu_ps(b->bias[c]));
      _mm512_storeu_ps(out, value);
    }
}

static void pair8(const product *p, const pair *b, int64_t begin, int64_t end, int count) {
  int64_t steps = (p->quads + TILE - 1) / TILE;
  for (int64_t from = 0; from < steps; from += STEPS) {
    int64_t to = from + STEPS < steps ? from + STEPS : steps;
    int now = 0;
    for (int64_t row = begin; row < end; row += 2 * TILE) {
      int rows = end - row < 2 * TILE ? (int)(end - row) : 2 * TILE;
      int lower = rows > TILE ? rows - TILE : 0;
      if (rows != now) configure(rows - lower, lower);
      now = rows;
      if (lower && count == 2) sums8(p, b, row, rows, from, to, 1, 2);
      if (lower && count == 1) sums8(p, b, row, rows, from, to, 1, 1);
      if (!lower && count == 2) sums8(p, b, row, rows, from, to, 0, 2);
      if (!lower && count == 1) sums8(p, b, row, rows, from, to, 0, 1);
      if (to == steps) finish8(p, b, row, rows, count);
    }
  }
}

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count) {
  if (end - begin < LEAST || !whole(p, slot, step, count)) {
    processor_avx512.panel8(p, begin, end, slot, step, count);
    return;
  }
  configuration before;
  store_configuration(&before);
  for (int first = 0; first < count; first += 2) {
    int here = count - first < 2 ? 1 : 2;
    pair b;
    for (int c = 0; c < here; c++) {
      int64_t at = slot + (first + c) * step, block = block_at(p, at);
      b.weight[c] = p->weight + block * p->quads * 64;
      b.scale[c] = p->scale + block * BLOCK;
      b.bias[c] = p->bias ? p->bias + block * BLOCK : NULL;
      b.out[c] = p->out + at * BLOCK;
    }
    pair8(p, &b, begin, end, here);
  }
  load_configuration(&before);
}

/* ---- int4 ---- */

/* Codes -8..7 of groups of a block. */
static void unpack(const uint8_t *packed, int8_t *open, int64_t lines) {
  const __m512i low = _mm512_set1_epi8(15), middle = _mm512_set1_epi8(8);
  for (int64_t i = 0; i < lines; i++) {
    __m512i both = _mm512_loadu_si512(packed + i * 64);
    __m512i even = _mm512_and_si512(both, low);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    _mm512_storeu_si512(open + i * 128, _mm512_sub_epi8(even, middle));
    _mm512_storeu_si512(open + i * 128 + 64, _mm512_sub_epi8(odd, middle));
  }
}

INLINE __m512 sixteen_scales(const uint16_t *bf16) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)bf16));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void add_group(__m512 *total, const int32_t *sums, const uint16_t *group_scale) {
  __m512 scale = sixteen_scales(group_scale);
#pragma GCC unroll 16
  for (int r = 0; r < TILE; r++) {
    __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * TILE));
    total[r] = _mm512_add_ps(total[r], _mm512_mul_ps(sum, scale));
  }
}

/* Up to 16 rows of a block over some groups; a group's sums leave the register to be scaled, while
 * the next group's are made. The floats of earlier groups lie in `out`. */
static void sums4(const product *p, int64_t slot, int64_t row, int rows, const int8_t *open,
                  int64_t from, int64_t to) {
  _Alignas(64) int32_t sums[2][TILE * TILE] = {{0}};
  int64_t block = block_at(p, slot);
  const int8_t *q = p->q + row * p->q_stride;
  const uint16_t *scale = p->group_scale + block * p->groups * BLOCK;
  float *out = p->out + row * p->out_stride + slot * BLOCK;
  __m512 total[TILE];
#pragma GCC unroll 16
  for (int r = 0; r < TILE; r++)
    total[r] = from && r < rows ? _mm512_loadu_ps(out + r * p->out_stride) : _mm512_setzero_ps();
  for (int64_t g = from; g < to; g += 2) {
    TILE_LOAD(4, q + g * GROUP, p->q_stride);
    TILE_LOAD(6, open + (g - from) * OPEN, 64);
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
    TILE_STORE(0, sums[0], 64);
    if (g + 1 < to) {
      TILE_LOAD(5, q + (g + 1) * GROUP, p->q_stride);
      TILE_LOAD(7, open + (g + 1 - from) * OPEN, 64);
      _tile_zero(1);
      _tile_dpbssd(1, 5, 7);
      TILE_STORE(1, sums[1], 64);
    }
    add_group(total, sums[0], scale + g * BLOCK);
    if (g + 1 < to) add_group(total, sums[1], scale + (g + 1) * BLOCK);
  }
  for (int r = 0; r < rows; r++) {
    __m512 value = total[r];
    if (to == p->groups) {
      value = _mm512_mul_ps(value, _mm512_set1_ps(p->row_scale[row + r]));
      if (p->bias) value = _mm512_add_ps(value, _mm512_loadu_ps(p->bias + block * BLOCK));
    }
    _mm512_storeu_ps(out + r * p->out_stride, value);
  }
}

static void panel4(const product *p, int64_t begin, int64_t end, int64_t slot, int64_t step,
                   int count, uint8_t *scratch) {
  if (end - begin < LEAST || !whole(p, slot, step, count)) {
    processor_avx512.panel4(p, begin, end, slot, step, count, scratch);
    return;
  }
  configuration before;
  store_configuration(&before);
  for (int64_t from = 0; from < p->groups; from += GROUPS) {
    int64_t to = from + GROUPS < p->groups ? from + GROUPS : p->groups;
    for (int c = 0; c < count; c++) {
      int64_t block = block_at(p, slot + c * step);
      unpack(p->weight + (block * p->groups + from) * PACKED,
             (int8_t *)scratch + c * GROUPS * OPEN, (to - from) * 8);
    }
    int now = 0;
    for (int64_t row = begin; row < end; row += TILE) {
      int rows = end - row < TILE ? (int)(end - row) : TILE;
      if (rows != now) configure(rows, rows);
      now = rows;
      for (int c = 0; c < count; c++)
        sums4(p, slot + c * step, row, rows, (int8_t *)scratch + c * GROUPS * OPEN, from, to);
    }
  }
  load_configuration(&before);
}

const processor processor_amx = {"avx512-amx", panel8, panel4, PANEL * GROUPS * OPEN,
                                 row_avx512, floats_avx512, lesson_avx512};
