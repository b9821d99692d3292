/* The ceilings that benchmarks/kernels.py holds the kernels to, measured one thread a call: what
 * the dot-product and the multiply-add unit can do from registers, and how fast memory reads. */
#include <immintrin.h>
#include <stdint.h>

#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define DOT(i) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(d##i) : "v"(x));
#define FMA(i) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(f##i) : "v"(y));

/* 12 products of 64 pairs a round. */
void peak_dot(int64_t rounds) {
#define ZERO(i) __m512i d##i = _mm512_setzero_si512();
  TWELVE(ZERO)
  __m512i x = _mm512_set1_epi8(1);
  for (int64_t k = 0; k < rounds; k++) { TWELVE(DOT) }
}

/* 12 multiply-adds of 16 floats a round. */
void peak_fma(int64_t rounds) {
#define ONE(i) __m512 f##i = _mm512_set1_ps(1.0f);
  TWELVE(ONE)
  __m512 y = _mm512_set1_ps(0.5f);
  for (int64_t k = 0; k < rounds; k++) { TWELVE(FMA) }
}

/* Read `bytes`, a multiple of 4096, as four streams that lie a quarter apart, fetching ahead. */
int64_t read_memory(const char *from, int64_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  int64_t quarter = bytes / 4;
  for (int64_t i = 0; i < quarter; i += 64) {
    const char *p = from + i;
    for (int s = 0; s < 4; s++) _mm_prefetch(p + s * quarter + 1024, _MM_HINT_T0);
    a = _mm512_xor_si512(a, _mm512_loadu_si512(p));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(p + quarter));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(p + 2 * quarter));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(p + 3 * quarter));
  }
  a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  return _mm512_reduce_add_epi64(a);
}
