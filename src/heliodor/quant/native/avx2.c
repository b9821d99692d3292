/* AVX2: bytes widened to 16 bits, because the 8-bit product of this set saturates. */
#include "job.h"

static void panel8(const product *p, int64_t begin, int64_t end, int64_t slot, int count) {
  processor_plain.panel8(p, begin, end, slot, count);
}

const processor processor_avx2 = {"avx2", panel8, row_avx2};
