/* Which path this processor can take: the best it has, asked once. */
#include <string.h>

#include "heliodor.h"
#include "job.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define ASK_FOR_STATE 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18
#endif
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__x86_64__)
static int has_avx512(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
/* The processor has the registers, the kernel saves them, and lets this process use them. */
static int has_amx(void) {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!&processor_amx || !has_avx512()) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return 0;
  __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  if ((a >> 17 & 3) != 3) return 0;
  return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
#else
  return 0;
#endif
}
static int has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#elif defined(__aarch64__)
static int has_dot(void) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, NULL, 0) == 0 && value;
#else
  return 0;
#endif
}
#endif
static int always(void) { return 1; }

static const struct {
  const processor *path;
  int (*here)(void);
} paths[] = {
#if defined(__x86_64__)
    {&processor_amx, has_amx},
    {&processor_avx512, has_avx512},
    {&processor_avx2, has_avx2},
#elif defined(__aarch64__)
    {&processor_neon, has_dot},
#endif
    {&processor_plain, always},
};
enum { PATHS = sizeof paths / sizeof *paths };

static const processor *_Atomic chosen;

const processor *processor_now(void) {
  const processor *now = chosen;
  for (int i = 0; !now; i++)
    if (paths[i].here()) chosen = now = paths[i].path;
  return now;
}

int heliodor_choose(const char *name) {
  for (int i = 0; i < PATHS; i++)
    if (paths[i].here() && strcmp(paths[i].path->name, name) == 0) {
      chosen = paths[i].path;
      return 0;
    }
  return -1;
}

const char *heliodor_processor(void) { return processor_now()->name; }

int heliodor_abi(void) { return HELIODOR_ABI; }
