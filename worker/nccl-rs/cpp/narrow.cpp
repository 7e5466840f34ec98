// Products of f32 rows with a weight that is held in bf16 or int8 and read as it is: few rows'
// products take as long as reading the weight does, so half or a quarter of the bytes is half or a
// quarter of the time. Sums are in f32.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "fused.hpp"

namespace hearth {

HEARTH_INLINE float load(int8_t x) {
  return static_cast<float>(x);
}

} // namespace hearth

namespace narrow {

using hearth::Bf16;

template <typename W>
struct Product {
  const float* x;
  const W* weight;
  const float* scale;
  const float* bias;
  float* out;
  int64_t rows, columns, k;
};

} // namespace narrow

#pragma GCC push_options
// The loops over a tile have to be unrolled for it to stay in registers.
#pragma GCC optimize("O3")

namespace narrow::portable {

constexpr int64_t kWide = 1;
using Floats = float;
HEARTH_INLINE Floats zero() {
  return 0;
}
HEARTH_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return a * b + c;
}
template <typename T>
HEARTH_INLINE Floats read(const T* at) {
  return hearth::load(*at);
}
HEARTH_INLINE void write(float* to, Floats from) {
  *to = from;
}
#include "narrow_loops.hpp"

} // namespace narrow::portable

#ifdef __x86_64__
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace narrow::avx2 {

constexpr int64_t kWide = 8;
using Floats = __m256;
HEARTH_INLINE Floats zero() {
  return _mm256_setzero_ps();
}
HEARTH_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
HEARTH_INLINE Floats read(const float* at) {
  return _mm256_loadu_ps(at);
}
HEARTH_INLINE Floats read(const Bf16* at) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
HEARTH_INLINE Floats read(const int8_t* at) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
HEARTH_INLINE void write(float* to, Floats from) {
  _mm256_storeu_ps(to, from);
}
#include "narrow_loops.hpp"

} // namespace narrow::avx2
#endif
#pragma GCC pop_options

namespace narrow {

template <typename W>
using Part = void (*)(const Product<W>&, int64_t, int64_t);

template <typename W>
Part<W> best(bool is_portable) {
#ifdef __x86_64__
  if (!is_portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2::part<W>;
  }
#endif
  return portable::part<W>;
}

// Columns of the weight that stay in a near cache while all rows are multiplied with them.
constexpr int64_t kColumns = 32;
// Products that are worth a thread of their own.
constexpr int64_t kProducts = 1 << 17;

template <typename W>
void multiply(const Product<W>& product, Part<W> part) {
  const int64_t blocks = (product.columns + kColumns - 1) / kColumns;
  const int64_t work = std::max<int64_t>(1, kColumns * product.k * product.rows);
  at::parallel_for(0, blocks, std::max<int64_t>(1, kProducts / work),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t block = begin; block < end; ++block) {
                       const int64_t first = block * kColumns;
                       part(product, first, std::min(first + kColumns, product.columns));
                     }
                   });
}

} // namespace narrow

extern "C" {

int32_t hearth_narrow_linear(const at::Tensor* x, const at::Tensor* weight,
                             const at::Tensor* scale, const at::Tensor* bias, int32_t is_portable,
                             at::Tensor** out, char** message) {
  return hearth::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    at::Tensor result = at::empty({x->size(0), weight->size(0)}, x->options());
    const auto floats = [](const at::Tensor* of) {
      return of == nullptr ? nullptr : of->const_data_ptr<float>();
    };
    const auto multiply = [&]<typename W>(const W* values) {
      const narrow::Product<W> product{floats(x),      values,     floats(scale),
                                       floats(bias),   result.mutable_data_ptr<float>(),
                                       x->size(0),     weight->size(0), x->size(1)};
      narrow::multiply(product, narrow::best<W>(is_portable != 0));
    };
    if (weight->scalar_type() == at::kChar) {
      multiply(hearth::in<int8_t>(*weight));
    } else {
      multiply(hearth::in<hearth::Bf16>(*weight));
    }
    *out = new at::Tensor(std::move(result));
  });
}
}
