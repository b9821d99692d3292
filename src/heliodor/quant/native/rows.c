/* Rows of float32 to int8 codes, after a norm or a gated GELU. Compiled once for each instruction
 * set, as the function that ROW names; sixteen lanes everywhere and no contraction of a * b + c, so
 * that every path computes the same bits.
 *
 * A row's codes are rint(x * (127 / max|x|)), its scale is max|x| / 127. A row whose largest
 * magnitude is below TINY counts as zeros. A row that holds NaN or infinity gets the scale NaN and
 * codes of zero: what is computed from it is NaN, and says so.
 */
#include <math.h>
#include <string.h>

#include "heliodor.h"
#include "job.h"
#include "lanes.h"

#ifndef ROW
#define ROW row_plain
#endif

typedef int8_t b16 __attribute__((vector_size(16)));

#define TINY 1.5e-36f     /* 127 / TINY is finite, TINY / 127 a normal number */
#define NOT_FINITE 0x7f800000

/* gelu(x) = x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): the form with tanh, exactly. */
INLINE f16 gelu(f16 x) {
  f16 z = (x + x * x * x * 0.044715f) * -1.5957691216f;
  i16 gone = z > 87.0f;
  z = choose(z < -87.0f, all(-87.0f), choose(gone, all(87.0f), z));
  return choose(gone, x * 0.0f, x / (exponential(z) + 1.0f));
}

static void rms(const row_job *job, const float *x, float *y) {
  f16 squares = {0};
  int64_t i = 0;
  for (; i + 16 <= job->width; i += 16) squares += load(x + i) * load(x + i);
  f16 last = load_some(x + i, job->width - i);
  squares += last * last;
  float r = 1.0f / sqrtf(total(squares) / (float)job->width + job->eps);
  for (i = 0; i + 16 <= job->width; i += 16) store(y + i, load(x + i) * r * load(job->weight + i));
  store(y + i, last * r * load_some(job->weight + i, job->width - i));
}

static void layer(const row_job *job, const float *x, float *y) {
  f16 sum = {0}, squares = {0};
  int64_t i = 0, left = job->width % 16;
  for (; i + 16 <= job->width; i += 16) sum += load(x + i);
  float mean = total(sum + load_some(x + i, left)) / (float)job->width;
  for (i = 0; i + 16 <= job->width; i += 16) {
    f16 d = load(x + i) - mean;
    squares += d * d;
  }
  f16 last = load_some(x + i, left) - mean;
  for (int64_t j = left; j < 16; j++) last[j] = 0.0f;
  squares += last * last;
  float r = 1.0f / sqrtf(total(squares) / (float)job->width + job->eps);
  for (i = 0; i + 16 <= job->width; i += 16)
    store(y + i, (load(x + i) - mean) * r * load(job->weight + i) + load(job->bias + i));
  store(y + i, last * r * load_some(job->weight + i, left) + load_some(job->bias + i, left));
}

static void geglu(const row_job *job, const float *gate, const float *up, float *y) {
  int64_t i = 0, left = job->width % 16;
  for (; i + 16 <= job->width; i += 16) store(y + i, gelu(load(gate + i)) * load(up + i));
  store(y + i, gelu(load_some(gate + i, left)) * load_some(up + i, left));
}

/* max|x| as bits: non-negative floats are ordered as their bits are, NaN above infinity. */
static int32_t largest(const float *x, int64_t width) {
  i16 most = {0};
  int64_t i = 0;
  for (; i < width; i += 16) {
    f16 v = i + 16 <= width ? load(x + i) : load_some(x + i, width - i);
    i16 b = bits(v) & 0x7fffffff;
    i16 more = b > most;
    most = (more & b) | (~more & most);
  }
  int32_t best = 0;
  for (i = 0; i < 16; i++) best = most[i] > best ? most[i] : best;
  return best;
}

static void codes(const row_job *job, int64_t row, const float *x) {
  int8_t *q = job->q + row * job->q_stride;
  int32_t most = largest(x, job->width);
  float max;
  memcpy(&max, &most, sizeof max);
  job->sums[row] = 0;
  job->scale[row] = most >= NOT_FINITE ? NAN : max < TINY ? 0.0f : max / 127.0f;
  memset(q + job->width, 0, (size_t)(job->q_stride - job->width));
  if (most >= NOT_FINITE || max < TINY) {
    memset(q, 0, (size_t)job->width);
    return;
  }
  float inverse = 127.0f / max;
  i16 sum = {0};
  for (int64_t i = 0; i < job->width; i += 16) {
    int64_t left = job->width - i;
    f16 v = left >= 16 ? load(x + i) : load_some(x + i, left);
    i16 code = bits(v * inverse + ROUND) - 0x4b400000;
    b16 narrow = __builtin_convertvector(code, b16);
    sum += code;
    memcpy(q + i, &narrow, left >= 16 ? 16 : (size_t)left);
  }
  int32_t result = 0;
  for (int i = 0; i < 16; i++) result += sum[i];
  job->sums[row] = result;
}

void ROW(const row_job *job, int64_t row, float *scratch) {
  const float *x = job->x + row * job->x_stride;
  if (job->kind == ROW_RMS) rms(job, x, scratch);
  if (job->kind == ROW_LAYER) layer(job, x, scratch);
  if (job->kind == ROW_GEGLU) geglu(job, x, job->y + row * job->y_stride, scratch);
  codes(job, row, job->kind == ROW_PLAIN ? x : scratch);
}
