// Vectors of SS_WIDTH floats in the compiler's own extension: one source for AVX-512, AVX2, SSE2 and NEON.
// Everything here has internal linkage, because each instruction set compiles its own copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int W = SS_WIDTH;

typedef float VF __attribute__((vector_size(W * 4)));
typedef int32_t VI __attribute__((vector_size(W * 4)));
typedef uint32_t VU __attribute__((vector_size(W * 4)));

inline VF all(float x) { return x + VF{}; }
inline VI all(int32_t x) { return x + VI{}; }

// Unaligned on purpose: rows are only aligned to their own length, and images to nothing.
inline VF load(const float* p) {
  VF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, VF v) { std::memcpy(p, &v, sizeof v); }

// b where either is NaN. The compiler does not make one instruction of the comparison.
#if SS_WIDTH == 16
inline VF vmin(VF a, VF b) { return (VF)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
inline VF vmax(VF a, VF b) { return (VF)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
#elif SS_WIDTH == 8
inline VF vmin(VF a, VF b) { return (VF)_mm256_min_ps((__m256)a, (__m256)b); }
inline VF vmax(VF a, VF b) { return (VF)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
inline VF vmin(VF a, VF b) { return (VF)_mm_min_ps((__m128)a, (__m128)b); }
inline VF vmax(VF a, VF b) { return (VF)_mm_max_ps((__m128)a, (__m128)b); }
#else
inline VF vmin(VF a, VF b) { return a < b ? a : b; }
inline VF vmax(VF a, VF b) { return a > b ? a : b; }
#endif

// The value as it would be in memory: what is computed next does not become one operation with how it came about.
inline VF rounded(VF v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// Nearest integer, for |x| < 2^22.
inline VF vround(VF x) {
  const VF magic = all(12582912.0f);
  return (x + magic) - magic;
}

// e^x to 2e-7 for x <= 88, and e^-60 below -60, so that no product of a probability becomes denormal.
inline VF vexp(VF x) {
  const VF magic = all(12582912.0f);  // the sum's low bits are then the nearest integer
  const VF t = vmax(x, all(-60.0f));
  const VF n = t * 1.44269504f + magic;
  const VF f = t * 1.44269504f - (n - magic);
  VF p = f * 0.0013266970f + 0.0096754597f;
  p = p * f + 0.0555074262f;
  p = p * f + 0.2402212175f;
  p = p * f + 0.6931469492f;
  p = p * f + 1.0000000710f;
  return (VF)((VI)p + ((VI)n << 23));
}

// Natural logarithm of x > 0 (normal numbers) to 1e-6.
inline VF vlog(VF x) {
  const VI bits = (VI)x - 0x3f3504f3;  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  const VF n = __builtin_convertvector(bits >> 23, VF);
  const VF m = (VF)((VI)x - ((bits >> 23) << 23));
  const VF s = (m - 1.0f) / (m + 1.0f);
  const VF z = s * s;
  VF p = z * 0.2222222f + 0.2857143f;
  p = p * z + 0.4f;
  p = p * z + 0.6666667f;
  p = p * z + 2.0f;
  return n * 0.69314718f + s * p;
}

#if SS_WIDTH == 16
inline VF zip_low(VF a, VF b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline VF zip_high(VF a, VF b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline VF fold(VF v) {
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return v;
}
inline VF fold_max(VF v) {
  v = vmax(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = vmax(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = vmax(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return vmax(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}
#elif SS_WIDTH == 8
inline VF zip_low(VF a, VF b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline VF zip_high(VF a, VF b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline VF fold(VF v) {
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  return v;
}
inline VF fold_max(VF v) {
  v = vmax(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = vmax(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  return vmax(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
}
#else
inline VF zip_low(VF a, VF b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline VF zip_high(VF a, VF b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
inline VF fold(VF v) {
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2);
  return v;
}
inline VF fold_max(VF v) {
  v = vmax(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  return vmax(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
}
#endif

// W vectors of W become their columns: as many perfect shuffles as W has bits.
inline void transpose(VF* v) {
  for (int round = 1; round < W; round *= 2) {
    VF next[W];
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = zip_low(v[i], v[i + W / 2]);
      next[2 * i + 1] = zip_high(v[i], v[i + W / 2]);
    }
    for (int i = 0; i < W; ++i) v[i] = next[i];
  }
}

}  // namespace
