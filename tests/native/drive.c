/* Every kernel on every path over awkward shapes, each array exactly as long as it must be, for the
 * sanitizers of scripts/sanitize. The results are held to sums written plainly here.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/heliodor/quant/native/heliodor.h"

static uint32_t state = 1;
static int failures, checks;

static uint32_t random_bits(void) { return (state = state * 1664525u + 1013904223u) >> 8; }
static float random_float(void) { return (float)random_bits() / 8388608.0f - 1.0f; }
static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

static void *space(int64_t bytes) {
  void *p = malloc((size_t)(bytes ? bytes : 1));
  if (!p) abort();
  return p;
}

static void check(int right, const char *what, int64_t m, int64_t n, int64_t k, int threads) {
  checks++;
  if (right) return;
  failures++;
  printf("WRONG %s %s rows %lld channels %lld depth %lld threads %d\n", heliodor_processor(), what,
         (long long)m, (long long)n, (long long)k, threads);
}

typedef struct {
  int64_t m, n, k, stride;
  float *x, *row_scale, *scale, *bias, *out;
  int8_t *q, *weight; /* weight [n][k], codes of 8 or 4 bits */
  int32_t *sums;
} shape;

static shape make(int64_t m, int64_t n, int64_t k, int low, int high) {
  shape s = {.m = m, .n = n, .k = k, .stride = up(k, 4)};
  s.x = space(m * k * 4), s.row_scale = space(m * 4), s.scale = space(n * 4);
  s.bias = space(n * 4), s.out = space(m * n * 4), s.sums = space(m * 4);
  s.q = space(m * s.stride), s.weight = space(n * k);
  for (int64_t i = 0; i < m * k; i++) s.x[i] = random_float();
  for (int64_t i = 0; i < n; i++) s.scale[i] = random_float(), s.bias[i] = random_float();
  for (int64_t i = 0; i < n * k; i++)
    s.weight[i] = (int8_t)(low + (int)(random_bits() % (uint32_t)(high - low + 1)));
  if (m > 2) s.x[2 * k - 1] = NAN;
  if (m > 3) memset(s.x + 3 * k, 0, (size_t)k * 4);
  return s;
}

static void drop(shape *s) {
  free(s->x), free(s->row_scale), free(s->scale), free(s->bias), free(s->out), free(s->sums);
  free(s->q), free(s->weight);
}

static int same(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static int right8(const shape *s) {
  for (int64_t r = 0; r < s->m; r++)
    for (int64_t c = 0; c < s->n; c++) {
      int64_t sum = 0;
      for (int64_t k = 0; k < s->k; k++) sum += s->q[r * s->stride + k] * s->weight[c * s->k + k];
      float value = (float)sum * (s->row_scale[r] * s->scale[c]);
      if (!same(s->out[r * s->n + c], value + s->bias[c])) return 0;
    }
  return 1;
}

static void drive8(int64_t m, int64_t n, int64_t k, int threads) {
  shape s = make(m, n, k, -128, 127);
  int64_t quads = up(k, 4) / 4, bytes = up(n, 16) * quads * 4;
  uint8_t *packed = space(bytes);
  memset(packed, 128, (size_t)bytes);
  for (int64_t c = 0; c < n; c++)
    for (int64_t i = 0; i < k; i++)
      packed[((c / 16 * quads + i / 4) * 16 + c % 16) * 4 + i % 4] =
          (uint8_t)(s.weight[c * k + i] + 128);
  heliodor_quantise(ROW_PLAIN, s.x, k, NULL, 0, NULL, NULL, 0, m, k, s.q, s.stride, s.row_scale,
                    s.sums, threads);
  heliodor_product8(s.q, s.stride, s.row_scale, s.sums, packed, s.scale, s.bias, s.out, n, m, n, k,
                    0, NULL, up(n, 16) / 16, threads);
  check(right8(&s), "int8", m, n, k, threads);
  int32_t last = (int32_t)(up(n, 16) / 16 - 1);
  float *some = space(m * 16 * 4);
  heliodor_product8(s.q, s.stride, s.row_scale, s.sums, packed, s.scale, s.bias, some, 16, m, n, k,
                    0, &last, 1, threads);
  check(same(some[0], s.out[16 * last]), "int8 of one block", m, n, k, threads);
  free(some), free(packed), drop(&s);
}

static int right4(const shape *s, const uint16_t *scale, int64_t groups) {
  for (int64_t r = 0; r < s->m; r++)
    for (int64_t c = 0; c < s->n; c++) {
      float total = 0.0f;
      for (int64_t g = 0; g < groups; g++) {
        int32_t sum = 0;
        for (int64_t k = g * 64; k < (g + 1) * 64 && k < s->k; k++)
          sum += s->q[r * s->stride + k] * s->weight[c * s->k + k];
        uint32_t bits = (uint32_t)scale[(c / 16 * groups + g) * 16 + c % 16] << 16;
        float wide;
        memcpy(&wide, &bits, 4);
        total += (float)sum * wide;
      }
      if (!same(s->out[r * s->n + c], total * s->row_scale[r] + s->bias[c])) return 0;
    }
  return 1;
}

static void drive4(int64_t m, int64_t n, int64_t k, int threads) {
  shape s = make(m, n, k, -8, 7);
  int64_t groups = up(k, 64) / 64, blocks = up(n, 16) / 16;
  uint8_t *packed = space(blocks * groups * 512);
  uint16_t *scale = space(blocks * groups * 32);
  memset(packed, 0x88, (size_t)(blocks * groups * 512));
  for (int64_t i = 0; i < blocks * groups * 16; i++) scale[i] = (uint16_t)(16000 + random_bits() % 256);
  for (int64_t c = 0; c < n; c++)
    for (int64_t i = 0; i < k; i++) {
      uint8_t *byte = packed + c / 16 * groups * 512 + (i / 8 * 16 + c % 16) * 4 + i % 4;
      int high = i % 8 / 4, code = s.weight[c * k + i] + 8;
      *byte = (uint8_t)(high ? (*byte & 15) | code << 4 : (*byte & 240) | code);
    }
  heliodor_quantise(ROW_PLAIN, s.x, k, NULL, 0, NULL, NULL, 0, m, k, s.q, s.stride, s.row_scale,
                    s.sums, threads);
  heliodor_product4(s.q, s.stride, s.row_scale, packed, scale, s.bias, s.out, n, m, n, k, 0, NULL,
                    blocks, threads);
  check(right4(&s, scale, groups), "int4", m, n, k, threads);
  free(packed), free(scale), drop(&s);
}

static void drive_rows(int64_t m, int64_t k, int threads) {
  shape s = make(m, k, k, -1, 1); /* scale and bias are [k] here */
  for (int kind = ROW_PLAIN; kind <= ROW_GEGLU; kind++) {
    float *other = space(m * k * 4);
    for (int64_t i = 0; i < m * k; i++) other[i] = random_float();
    heliodor_quantise(kind, s.x, k, other, k, s.scale, s.bias, 1e-6f, m, k, s.q, s.stride,
                      s.row_scale, s.sums, threads);
    for (int64_t r = 0; r < m; r++) {
      int32_t sum = 0;
      for (int64_t i = 0; i < s.stride; i++) sum += s.q[r * s.stride + i];
      check(sum == s.sums[r] && isnan(s.row_scale[r]) == (m > 2 && r == 1), "rows", m, kind, k,
            threads);
    }
    free(other);
  }
  drop(&s);
}

static void drive_floats(int64_t m, int64_t n, int64_t k, int threads) {
  shape s = make(m, n, k, -1, 1);
  uint16_t *half = space(n * k * 2);
  int64_t *ids = space(n * 8);
  for (int64_t i = 0; i < n; i++) ids[i] = n - 1 - i;
  if (m > 2) s.x[2 * k - 1] = 0.5f; /* no NaN here */
  for (int kind = FLOAT_BFLOAT16; kind <= FLOAT_FLOAT16; kind++) {
    float one = kind == FLOAT_BFLOAT16 ? 1.0f : 5.9604644775390625e-8f; /* codes 0x3f80, 1 */
    for (int64_t i = 0; i < n * k; i++)
      half[i] = (uint16_t)(s.weight[i] == 0 ? 0 : (kind == FLOAT_BFLOAT16 ? 0x3f80 : 1) |
                                                      (s.weight[i] < 0 ? 0x8000 : 0));
    heliodor_floats(kind, s.x, half, ids, s.bias, s.out, m, n, k, threads);
    int right = 1;
    for (int64_t r = 0; r < m; r++)
      for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t i = 0; i < k; i++) sum += (double)s.x[r * k + i] * s.weight[ids[c] * k + i];
        right &= fabs(sum * one + s.bias[ids[c]] - s.out[r * n + c]) < 1e-5 * (double)k;
      }
    check(right, kind ? "float16" : "bfloat16", m, n, k, threads);
  }
  free(half), free(ids), drop(&s);
}

/* Numbers in float32, or their upper halves: what training works on. */
static void *numbers(int narrow, int64_t count) {
  float *x = space(count * 4);
  uint16_t *half = space(count * 2);
  for (int64_t i = 0; i < count; i++) {
    x[i] = random_float() * 3;
    uint32_t bits;
    memcpy(&bits, &x[i], 4);
    half[i] = (uint16_t)(bits >> 16);
  }
  free(narrow ? (void *)x : (void *)half);
  return narrow ? (void *)half : (void *)x;
}

static float number(int narrow, const void *x, int64_t i) {
  if (!narrow) return ((const float *)x)[i];
  uint32_t bits = (uint32_t)((const uint16_t *)x)[i] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static float gelu_of(float x) {
  return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* Rows of `k` numbers through every lesson: values of the forward passes, and that the backward
 * ones stay inside what they are given. */
static void drive_lessons(int narrow, int64_t m, int64_t k, int threads) {
  int64_t count = 6 * m * k, size = narrow ? 2 : 4, padded = up(k, 16);
  float bound = narrow ? 0.05f : 1e-4f;
  void *a = numbers(narrow, count), *b = numbers(narrow, count), *g = numbers(narrow, count);
  void *y = space(count * size), *z = space(count * size);
  uint8_t *mask = space(2 * m * k);
  for (int64_t i = 0; i < 2 * m * k; i++) mask[i] = i % k == 0 || random_bits() % 3 > 0;
  heliodor_gelu(narrow, a, b, NULL, y, NULL, count, threads);
  int right = 1;
  for (int64_t i = 0; i < count; i++)
    right &= fabsf(number(narrow, y, i) - gelu_of(number(narrow, a, i)) * number(narrow, b, i)) <
             bound * 9;
  heliodor_gelu(narrow, a, b, g, y, z, count, threads);
  heliodor_softmax(narrow, a, NULL, y, mask, 3, m, m, 6 * m, k, 0.5f, threads);
  for (int64_t row = 0; row < 6 * m; row++) {
    float sum = 0;
    for (int64_t i = 0; i < k; i++) sum += number(narrow, y, row * k + i);
    right &= fabsf(sum - 1) < bound;
  }
  heliodor_softmax(narrow, y, g, z, NULL, 3, m, 1, 6 * m, k, 0.5f, threads);
  float *x = numbers(0, m * k), *weight = numbers(0, k), *stats = space(m * 8);
  float *slope = space(m * k * 4), *sums = space(2 * padded * 4);
  heliodor_norm(narrow, x, weight, weight, 1e-6f, y, stats, m, k, threads);
  right &= heliodor_norm_back(narrow, g, x, weight, weight, stats, slope, sums, m, k, threads) == 0;
  check(right, "lessons", m, k, narrow, threads);
  free(a), free(b), free(g), free(y), free(z), free(mask), free(x), free(weight), free(stats);
  free(slope), free(sums);
}

static void drive(int threads) {
  static const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 31};
  static const int64_t ns[] = {1, 16, 17, 70, 130}, ks[] = {1, 4, 5, 63, 64, 67, 200};
  for (unsigned i = 0; i < sizeof ms / sizeof *ms; i++)
    for (unsigned j = 0; j < sizeof ks / sizeof *ks; j++) {
      for (unsigned l = 0; l < sizeof ns / sizeof *ns; l++) {
        drive8(ms[i], ns[l], ks[j], threads);
        drive4(ms[i], ns[l], ks[j], threads);
        drive_floats(ms[i], ns[l], ks[j], threads);
      }
      drive_rows(ms[i], ks[j], threads);
      for (int narrow = 0; narrow < 2; narrow++) drive_lessons(narrow, ms[i], ks[j], threads);
    }
  drive_lessons(1, 300, 90, threads), drive_lessons(0, 300, 90, threads); /* several tasks */
  drive8(14, 65, 4099, threads), drive4(14, 65, 4099, threads);
  drive8(1, 65, 9001, threads), drive4(7, 65, 9001, threads);
  drive_floats(14, 65, 700, threads), drive_floats(2, 65, 700, threads);
  drive8(1, 2101, 70, threads), drive4(1, 2101, 70, threads); /* long runs of blocks */
  drive8(8, 1101, 9, threads), drive4(3, 1101, 9, threads);
  drive8(800, 17, 9, threads), drive4(200, 33, 70, threads);
}

int main(void) {
  static const char *paths[] = {"avx512-amx", "avx512-vnni", "avx2", "neon", "plain"};
  for (int i = 0; i < (int)(sizeof paths / sizeof *paths); i++) {
    if (heliodor_choose(paths[i])) continue;
    for (int threads = 1; threads <= 3; threads++) drive(threads);
    printf("%s: %d checks, %d wrong\n", heliodor_processor(), checks, failures);
  }
  fflush(stdout);
  pid_t child = fork(); /* its pool is a new one */
  if (child == 0) {
    failures = 0;
    drive8(40, 200, 200, 3);
    _exit(failures);
  }
  int status = 1;
  waitpid(child, &status, 0);
  drive8(40, 200, 200, 3);
  printf("after a fork: child %d, parent %d wrong\n", WEXITSTATUS(status), failures);
  return failures || status;
}
