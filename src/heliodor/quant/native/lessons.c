/* What training does between its products, forwards and backwards: norms, gated GELU, softmax.
 * Compiled once for each instruction set, as the function that LESSON names. Arithmetic is float32;
 * activations rest in float32 or bfloat16, which is rounded to nearest even.
 */
#include <math.h>

#include "heliodor.h"
#include "job.h"
#include "lanes.h"

#ifndef LESSON
#define LESSON lesson_plain
#endif

#define FLAT 100.0f /* |x| from which on the share is 0 or 1 in float32 */

typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef uint32_t u16 __attribute__((vector_size(64)));

/* 16 numbers, or the first `left` and zeros, from place i. Sizes are constants wherever the loop
 * spends its time: a copy of unknown size is a call. */
INLINE f16 take(int narrow, const void *x, int64_t i, int64_t left) {
  if (!narrow) return left >= 16 ? load((const float *)x + i) : load_some((const float *)x + i, left);
  h16 half = {0};
  const uint16_t *from = (const uint16_t *)x + i;
  if (left >= 16)
    memcpy(&half, from, sizeof half);
  else
    memcpy(&half, from, (size_t)left * sizeof *from);
  return (f16)(__builtin_convertvector(half, u16) << 16);
}

INLINE void put(int narrow, void *y, int64_t i, int64_t left, f16 v) {
  if (!narrow) {
    if (left >= 16)
      store((float *)y + i, v);
    else
      memcpy((float *)y + i, &v, (size_t)left * sizeof(float));
    return;
  }
  u16 wide = (u16)v;
  u16 round = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  u16 nan = (u16)(v != v);
  h16 half = __builtin_convertvector((nan & 0x7fc0) | (~nan & round), h16);
  uint16_t *to = (uint16_t *)y + i;
  if (left >= 16)
    memcpy(to, &half, sizeof half);
  else
    memcpy(to, &half, (size_t)left * sizeof *to);
}

INLINE f16 clamp(f16 x, float low, float high) {
  f16 y = choose(x < low, all(low), x);
  return choose(x > high, all(high), y);
}

/* sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): gelu(x) = x times that. Far out it is 0 or 1,
 * so that no infinity is multiplied by a small number. `rest` is 1 less it, without cancellation. */
INLINE f16 share(f16 x, f16 *rest) {
  f16 z = (x + x * x * x * 0.044715f) * -1.5957691216f;
  f16 e = exponential(clamp(z, -87.0f, 87.0f)), s = 1.0f / (e + 1.0f);
  *rest = e * s;
  return choose(z > 87.0f, all(0.0f), s);
}

/* The derivative of x * share(x), given the share and its rest; beyond FLAT it is the share. */
INLINE f16 slope(f16 x, f16 s, f16 rest) {
  f16 near = clamp(x, -FLAT, FLAT);
  return s + near * s * rest * (near * near * 0.2140668f + 1.5957691216f);
}

/* y = gelu(a), or gelu(a) * b */
INLINE void gelu_on(int narrow, const lesson *l, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    int64_t left = end - i;
    f16 rest, a = take(narrow, l->a, i, left), y = a * share(a, &rest);
    if (l->b) y *= take(narrow, l->b, i, left);
    put(narrow, l->y, i, left, y);
  }
}

/* da (in y), and db (in z) where b is */
INLINE void gelu_back(int narrow, const lesson *l, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    int64_t left = end - i;
    f16 rest, a = take(narrow, l->a, i, left), s = share(a, &rest);
    f16 g = take(narrow, l->g, i, left);
    if (l->b) {
      put(narrow, l->z, i, left, g * a * s);
      g *= take(narrow, l->b, i, left);
    }
    put(narrow, l->y, i, left, g * slope(a, s, rest));
  }
}

/* A row of scores to weights: softmax(scale * a), and 0 where the mask is 0. */
INLINE void softmax_on(int narrow, const lesson *l, int64_t row, float *scratch) {
  int64_t width = l->width, start = row * width;
  const uint8_t *mask = NULL;
  if (l->mask) {
    int64_t query = l->mask_rows == 1 ? 0 : row % l->queries;
    mask = l->mask + (row / (l->heads * l->queries) * l->mask_rows + query) * width;
  }
  f16 most = all(-INFINITY);
  for (int64_t i = 0; i < width; i += 16) {
    int64_t left = width - i;
    f16 x = take(narrow, l->a, start + i, left) * l->scale;
    if (left < 16)
      for (int64_t j = left; j < 16; j++) x[j] = -INFINITY;
    if (mask) {
      b16 seen = {0};
      if (left >= 16)
        memcpy(&seen, mask + i, sizeof seen);
      else
        memcpy(&seen, mask + i, (size_t)left);
      x = choose(__builtin_convertvector(seen, i16) != 0, x, all(-INFINITY));
    }
    store(scratch + i, x);
    most = choose(x > most, x, most);
  }
  float top = most[0];
  for (int i = 1; i < 16; i++) top = most[i] > top ? most[i] : top;
  if (top == -INFINITY) top = 0.0f; /* nothing may be seen: all weights are 0 */
  f16 sum = {0};
  for (int64_t i = 0; i < width; i += 16) {
    f16 x = load(scratch + i) - top;
    f16 e = choose(x < -87.0f, all(0.0f), exponential(choose(x < -87.0f, all(-87.0f), x)));
    store(scratch + i, e);
    sum += e;
  }
  float whole = total(sum), inverse = whole == 0.0f ? 0.0f : 1.0f / whole;
  for (int64_t i = 0; i < width; i += 16)
    put(narrow, l->y, start + i, width - i, load(scratch + i) * inverse);
}

/* scale * weights * (gradient - sum(weights * gradient)) */
INLINE void softmax_back(int narrow, const lesson *l, int64_t row) {
  int64_t width = l->width, start = row * width;
  f16 sum = {0};
  for (int64_t i = 0; i < width; i += 16)
    sum += take(narrow, l->a, start + i, width - i) * take(narrow, l->g, start + i, width - i);
  float mean = total(sum);
  for (int64_t i = 0; i < width; i += 16) {
    int64_t left = width - i;
    f16 p = take(narrow, l->a, start + i, left), g = take(narrow, l->g, start + i, left);
    put(narrow, l->y, start + i, left, p * (g - mean) * l->scale);
  }
}

/* (a - mean) * r * weight + bias; without bias, mean is 0 and r that of the mean square */
INLINE void norm_on(int narrow, const lesson *l, int64_t row) {
  int64_t width = l->width, start = row * width;
  float mean = 0.0f;
  f16 sum = {0};
  if (l->bias) {
    for (int64_t i = 0; i < width; i += 16) sum += take(0, l->a, start + i, width - i);
    mean = total(sum) / (float)width;
    sum = all(0.0f);
  }
  for (int64_t i = 0; i < width; i += 16) {
    f16 d = take(0, l->a, start + i, width - i) - mean;
    if (width - i < 16)
      for (int64_t j = width - i; j < 16; j++) d[j] = 0.0f;
    sum += d * d;
  }
  float r = 1.0f / sqrtf(total(sum) / (float)width + l->scale);
  l->stats[2 * row] = mean;
  l->stats[2 * row + 1] = r;
  for (int64_t i = 0; i < width; i += 16) {
    int64_t left = width - i;
    f16 y = (take(0, l->a, start + i, left) - mean) * r * take(0, l->weight, i, left);
    if (l->bias) y += take(0, l->bias, i, left);
    put(narrow, l->y, start + i, left, y);
  }
}

/* The gradient of a in y, those of weight and bias added to `sums` [2][width]. */
INLINE void norm_back(int narrow, const lesson *l, int64_t row, float *sums) {
  int64_t width = l->width, start = row * width;
  float mean = l->stats[2 * row], r = l->stats[2 * row + 1];
  f16 along = {0}, whole = {0};
  for (int64_t i = 0; i < width; i += 16) {
    int64_t left = width - i;
    f16 g = take(narrow, l->g, start + i, left), x = (take(0, l->a, start + i, left) - mean) * r;
    f16 w = g * take(0, l->weight, i, left);
    along += w * x;
    whole += w;
    store(sums + i, load(sums + i) + g * x);
    if (l->bias) store(sums + l->padded + i, load(sums + l->padded + i) + g);
  }
  float a = total(along) / (float)width, b = l->bias ? total(whole) / (float)width : 0.0f;
  for (int64_t i = 0; i < width; i += 16) {
    int64_t left = width - i;
    f16 g = take(narrow, l->g, start + i, left), x = (take(0, l->a, start + i, left) - mean) * r;
    put(0, l->y, start + i, left, (g * take(0, l->weight, i, left) - x * a - b) * r);
  }
}

INLINE void lesson_of(int narrow, const lesson *l, int64_t begin, int64_t end, float *scratch) {
  if (l->kind == LESSON_GELU) gelu_on(narrow, l, begin, end);
  if (l->kind == LESSON_GELU_BACK) gelu_back(narrow, l, begin, end);
  for (int64_t row = begin; row < end; row++) {
    if (l->kind == LESSON_SOFTMAX) softmax_on(narrow, l, row, scratch);
    if (l->kind == LESSON_SOFTMAX_BACK) softmax_back(narrow, l, row);
    if (l->kind == LESSON_NORM) norm_on(narrow, l, row);
    if (l->kind == LESSON_NORM_BACK) norm_back(narrow, l, row, scratch);
    if (l->kind < LESSON_SOFTMAX) break;
  }
}

void LESSON(const lesson *l, int64_t begin, int64_t end, float *scratch) {
  if (l->narrow)
    lesson_of(1, l, begin, end, scratch);
  else
    lesson_of(0, l, begin, end, scratch);
}
