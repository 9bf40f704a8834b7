#include "tests/bench/machine_limits.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <atomic>
#include <new>

namespace omni::bench {
namespace {

std::atomic<uint64_t> sink;

constexpr int64_t kDotSteps = 4'000'000;
constexpr int kDotChains = 12;  // enough independent sums to hide the latency

// Twelve dot products, each into its own register.
#define OMNI_DOT12(INSTRUCTION, CONSTRAINT)                                                              \
  asm volatile(INSTRUCTION                                                                               \
               " %13, %12, %0\n" INSTRUCTION " %13, %12, %1\n" INSTRUCTION " %13, %12, %2\n" INSTRUCTION \
               " %13, %12, %3\n" INSTRUCTION " %13, %12, %4\n" INSTRUCTION " %13, %12, %5\n" INSTRUCTION \
               " %13, %12, %6\n" INSTRUCTION " %13, %12, %7\n" INSTRUCTION " %13, %12, %8\n" INSTRUCTION \
               " %13, %12, %9\n" INSTRUCTION " %13, %12, %10\n" INSTRUCTION " %13, %12, %11\n"           \
               : "+" CONSTRAINT(s0), "+" CONSTRAINT(s1), "+" CONSTRAINT(s2), "+" CONSTRAINT(s3),         \
                 "+" CONSTRAINT(s4), "+" CONSTRAINT(s5), "+" CONSTRAINT(s6), "+" CONSTRAINT(s7),         \
                 "+" CONSTRAINT(s8), "+" CONSTRAINT(s9), "+" CONSTRAINT(s10), "+" CONSTRAINT(s11)        \
               : CONSTRAINT(u), CONSTRAINT(x))

__attribute__((target("avx512f,avx512vnni"))) void DotLoop512() {
  const __m512i zero = _mm512_setzero_si512();
  __m512i s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero, s8 = zero,
          s9 = zero, s10 = zero, s11 = zero;
  const __m512i u = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-5);
  for (int64_t i = 0; i < kDotSteps; ++i) OMNI_DOT12("vpdpbusd", "v");
}

__attribute__((target("avx2"))) void DotLoop256() {
  const __m256i zero = _mm256_setzero_si256();
  __m256i s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero, s8 = zero,
          s9 = zero, s10 = zero, s11 = zero;
  const __m256i u = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
  for (int64_t i = 0; i < kDotSteps; ++i) OMNI_DOT12("%{vex%} vpdpbusd", "x");
}

#undef OMNI_DOT12

__attribute__((target("avx2"))) void PairLoop256() {
  __m256i sum[kDotChains];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  __m256i u = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
  for (int64_t i = 0; i < kDotSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kDotChains; ++j) {
      asm volatile("" : "+x"(u), "+x"(x));  // or the products would be taken out of the loop
      sum[j] = _mm256_add_epi16(sum[j], _mm256_maddubs_epi16(u, x));
    }
  }
  for (const __m256i& s : sum) sink += static_cast<uint64_t>(_mm256_extract_epi16(s, 0));
}

}  // namespace

HugeBuffer::HugeBuffer(size_t bytes) : bytes_(bytes) {
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  madvise(map, bytes, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(map);
}

HugeBuffer::~HugeBuffer() { munmap(data_, bytes_); }

double DotPeak(kernels::Isa isa, int threads) {
  using kernels::Isa;
  const bool wide = isa >= Isa::kAvx512Vnni, vnni = wide || isa == Isa::kAvxVnni;
  const absl::StatusOr<double> seconds = TimeThreads(threads, [&](int) {
    if (wide) {
      DotLoop512();
    } else if (vnni) {
      DotLoop256();
    } else {
      PairLoop256();
    }
  });
  const double bytes = wide ? 64 : 32;
  return static_cast<double>(threads) * static_cast<double>(kDotSteps) * kDotChains * bytes / seconds.value();
}

}  // namespace omni::bench
