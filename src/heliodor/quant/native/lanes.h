/* Sixteen floats at a time, by the compiler's vectors: what the files of rows share. */
#ifndef HELIODOR_LANES_H
#define HELIODOR_LANES_H

#include <stdint.h>
#include <string.h>

#include "job.h"

typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

#define ROUND 12582912.0f /* 1.5 * 2^23: adding and taking it away rounds to an integer */

INLINE f16 load(const float *x) {
  f16 v;
  memcpy(&v, x, sizeof v);
  return v;
}
INLINE void store(float *x, f16 v) { memcpy(x, &v, sizeof v); }
INLINE f16 all(float x) { return (f16){0} + x; }
INLINE i16 bits(f16 v) { return (i16)v; }
INLINE f16 choose(i16 mask, f16 yes, f16 no) {
  return (f16)((mask & bits(yes)) | (~mask & bits(no)));
}

/* The first `count` < 16 floats, then zeros. */
INLINE f16 load_some(const float *x, int64_t count) {
  f16 v = {0};
  memcpy(&v, x, (size_t)count * sizeof *x);
  return v;
}

static float total(f16 v) { /* in one order everywhere */
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}

/* exp(x) for -87 <= x <= 88 to 2e-7: 2^n times a polynomial on half a binade. NaN stays NaN. */
INLINE f16 exponential(f16 x) {
  f16 n = (x * 1.44269504f + ROUND) - ROUND;
  f16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f16 p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i16 power = (bits(n + ROUND) - 0x4b400000 + 127) << 23;
  return p * (f16)power;
}

#endif
