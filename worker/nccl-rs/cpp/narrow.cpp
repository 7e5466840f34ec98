// Products of f32 rows with a weight that is held in bf16, int8 or int4 and read as it is: few rows'
// products take as long as reading the weight does, so half or a quarter of the bytes is half or a
// quarter of the time.
//
// Sixteen rows of the weight lie side by side (narrow.rs packs them), so that each lane of a vector
// has a sum of its own. Weights of whole numbers meet activations of whole numbers: 16 bits of them,
// with a scale for each group of columns, which is as good as f32 to five digits and takes half of
// the instructions. Sums within a group are exact, the rest is f32.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "fused.hpp"

namespace narrow {

using hearth::Bf16;

// Rows of the weight that lie side by side.
constexpr int64_t kRows = 16;
// Most columns of a group, all of which are multiples of 32: 127 * 32767 * 256 is below 2^31.
constexpr int64_t kMostColumns = 256;
constexpr float kLimit = 32767;

// How a weight is held: bytes of 16 rows' next columns, so many.
struct Eight {
  static constexpr int64_t kStep = 2;
  static constexpr int64_t kBytes = 32;
};
struct Four {
  static constexpr int64_t kStep = 8;
  static constexpr int64_t kBytes = 64;
};

// Rows of the input that are multiplied together, column by column side by side in memory; the last
// ones may be fewer.
constexpr int64_t kTogether = 4;
// Bytes ahead of those that are read that memory is asked for.
constexpr int64_t kAhead = 1024;

struct Product {
  // Of whole numbers: values, pairs of columns side by side, and rows of scales, one a group.
  const int16_t* values;
  const float* value_scales;
  // Of bf16: floats.
  const float* x;
  const uint8_t* weight;
  // One for each row of the weight (f32), or for each group and row (f16 or f32).
  const void* scale;
  const float* bias;
  float* out;
  // Of the input, of the weight, of a group and of all groups.
  int64_t rows, outputs, group, depth;
};

// Tiles `begin` to `end` of 16 rows of the weight.
using Part = void (*)(const Product&, int64_t, int64_t);

// Rows of the weight of one tile, at `first`; f32 sums `[M][16]` -> the result.
inline void put(const Product& of, int64_t m, int64_t count, int64_t first, const float* sums) {
  const int64_t width = std::min(kRows, of.outputs - first);
  for (int64_t i = 0; i < count; ++i) {
    float* out = of.out + (m + i) * of.outputs + first;
    for (int64_t n = 0; n < width; ++n) {
      out[n] = sums[i * kRows + n] + (of.bias == nullptr ? 0 : of.bias[first + n]);
    }
  }
}

} // namespace narrow

#pragma GCC push_options
// The loops over a tile have to be unrolled for it to stay in registers.
#pragma GCC optimize("O3")

namespace narrow::portable {

constexpr int64_t kWide = 4;
struct Floats {
  float lane[kWide];
};
struct Ints {
  int32_t lane[kWide];
};
// Pairs of 16-bit numbers.
struct Pairs {
  int16_t lane[2 * kWide];
};
HEARTH_INLINE Floats no_floats() {
  return {};
}
HEARTH_INLINE Ints no_ints() {
  return {};
}
HEARTH_INLINE Pairs eight(const uint8_t* at) {
  Pairs pairs;
  for (int64_t i = 0; i < 2 * kWide; ++i) {
    pairs.lane[i] = static_cast<int8_t>(at[i]);
  }
  return pairs;
}
HEARTH_INLINE Pairs bits(const uint8_t* at) {
  Pairs pairs;
  std::memcpy(pairs.lane, at, sizeof pairs.lane);
  return pairs;
}
template <int Nth>
HEARTH_INLINE Pairs four(Pairs of) {
  for (int16_t& lane : of.lane) {
    lane = static_cast<int16_t>(static_cast<int16_t>(static_cast<uint16_t>(lane) << (12 - 4 * Nth)) >> 12);
  }
  return of;
}
HEARTH_INLINE Pairs pair(const int16_t* at) {
  Pairs pairs;
  for (int64_t i = 0; i < 2 * kWide; ++i) {
    pairs.lane[i] = at[i % 2];
  }
  return pairs;
}
HEARTH_INLINE Ints add(Ints sum, Pairs a, Pairs b) {
  for (int64_t i = 0; i < kWide; ++i) {
    sum.lane[i] += a.lane[2 * i] * b.lane[2 * i] + a.lane[2 * i + 1] * b.lane[2 * i + 1];
  }
  return sum;
}
HEARTH_INLINE Floats floats(Ints of) {
  Floats to;
  for (int64_t i = 0; i < kWide; ++i) {
    to.lane[i] = static_cast<float>(of.lane[i]);
  }
  return to;
}
HEARTH_INLINE Floats all(float of) {
  Floats to;
  for (float& lane : to.lane) {
    lane = of;
  }
  return to;
}
HEARTH_INLINE Floats read(const float* at) {
  Floats to;
  std::memcpy(to.lane, at, sizeof to.lane);
  return to;
}
HEARTH_INLINE Floats read(const at::Half* at) {
  Floats to;
  for (int64_t i = 0; i < kWide; ++i) {
    to.lane[i] = static_cast<float>(at[i]);
  }
  return to;
}
HEARTH_INLINE Floats read(const Bf16* at) {
  Floats to;
  for (int64_t i = 0; i < kWide; ++i) {
    to.lane[i] = hearth::load(at[i]);
  }
  return to;
}
HEARTH_INLINE Floats fma(Floats a, Floats b, Floats c) {
  for (int64_t i = 0; i < kWide; ++i) {
    c.lane[i] += a.lane[i] * b.lane[i];
  }
  return c;
}
HEARTH_INLINE Floats times(Floats a, Floats b) {
  for (int64_t i = 0; i < kWide; ++i) {
    a.lane[i] *= b.lane[i];
  }
  return a;
}
HEARTH_INLINE void write(float* to, Floats from) {
  std::memcpy(to, from.lane, sizeof from.lane);
}
#include "narrow_loops.hpp"

} // namespace narrow::portable

#ifdef __x86_64__
#include <immintrin.h>
// GCC 12 warns of its own header for AVX-512.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace narrow::avx2 {

constexpr int64_t kWide = 8;
using Floats = __m256;
using Ints = __m256i;
using Pairs = __m256i;
HEARTH_INLINE Floats no_floats() {
  return _mm256_setzero_ps();
}
HEARTH_INLINE Ints no_ints() {
  return _mm256_setzero_si256();
}
HEARTH_INLINE Pairs eight(const uint8_t* at) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
HEARTH_INLINE Pairs bits(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
template <int Nth>
HEARTH_INLINE Pairs four(Pairs of) {
  return _mm256_srai_epi16(_mm256_slli_epi16(of, 12 - 4 * Nth), 12);
}
HEARTH_INLINE Pairs pair(const int16_t* at) {
  int32_t both;
  std::memcpy(&both, at, sizeof both);
  return _mm256_set1_epi32(both);
}
HEARTH_INLINE Ints add(Ints sum, Pairs a, Pairs b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
HEARTH_INLINE Floats floats(Ints of) {
  return _mm256_cvtepi32_ps(of);
}
HEARTH_INLINE Floats all(float of) {
  return _mm256_set1_ps(of);
}
HEARTH_INLINE Floats read(const float* at) {
  return _mm256_loadu_ps(at);
}
HEARTH_INLINE Floats read(const at::Half* at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
HEARTH_INLINE Floats read(const Bf16* at) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
HEARTH_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
HEARTH_INLINE Floats times(Floats a, Floats b) {
  return _mm256_mul_ps(a, b);
}
HEARTH_INLINE void write(float* to, Floats from) {
  _mm256_storeu_ps(to, from);
}
#include "narrow_loops.hpp"

} // namespace narrow::avx2

#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")

namespace narrow::avx512 {

constexpr int64_t kWide = 16;
using Floats = __m512;
using Ints = __m512i;
using Pairs = __m512i;
HEARTH_INLINE Floats no_floats() {
  return _mm512_setzero_ps();
}
HEARTH_INLINE Ints no_ints() {
  return _mm512_setzero_si512();
}
HEARTH_INLINE Pairs eight(const uint8_t* at) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
HEARTH_INLINE Pairs bits(const uint8_t* at) {
  return _mm512_loadu_si512(at);
}
template <int Nth>
HEARTH_INLINE Pairs four(Pairs of) {
  return _mm512_srai_epi16(_mm512_slli_epi16(of, 12 - 4 * Nth), 12);
}
HEARTH_INLINE Pairs pair(const int16_t* at) {
  int32_t both;
  std::memcpy(&both, at, sizeof both);
  return _mm512_set1_epi32(both);
}
HEARTH_INLINE Ints add(Ints sum, Pairs a, Pairs b) {
  return _mm512_dpwssd_epi32(sum, a, b);
}
HEARTH_INLINE Floats floats(Ints of) {
  return _mm512_cvtepi32_ps(of);
}
HEARTH_INLINE Floats all(float of) {
  return _mm512_set1_ps(of);
}
HEARTH_INLINE Floats read(const float* at) {
  return _mm512_loadu_ps(at);
}
HEARTH_INLINE Floats read(const at::Half* at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
HEARTH_INLINE Floats read(const Bf16* at) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
HEARTH_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
HEARTH_INLINE Floats times(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
HEARTH_INLINE void write(float* to, Floats from) {
  _mm512_storeu_ps(to, from);
}
#include "narrow_loops.hpp"

} // namespace narrow::avx512

#pragma GCC pop_options
#endif
#pragma GCC pop_options

namespace narrow {

// Row `m` of `rows`, of `depth` columns: where its first column is among those that lie side by side,
// and how many these are.
struct Place {
  int64_t first, step;
  Place(int64_t m, int64_t rows, int64_t depth)
      : first(m / kTogether * kTogether * depth),
        step(std::min(kTogether, rows - m / kTogether * kTogether)) {}
};

// Whole numbers `[group]` of one group, and their scale.
HEARTH_FUSED float round_group(const float* x, int16_t* values, int64_t columns) {
  float most = 0;
  for (int64_t i = 0; i < columns; ++i) {
    most = std::max(most, __builtin_fabsf(x[i]));
  }
  const float by = most > 0 ? kLimit / most : 0;
  for (int64_t i = 0; i < columns; ++i) {
    const float scaled = x[i] * by;
    values[i] =
        static_cast<int16_t>(static_cast<int32_t>(scaled + __builtin_copysignf(0.5f, scaled)));
  }
  return most / kLimit;
}

// A row's whole numbers and scales, filled up with zeros to whole groups.
inline void round_row(const float* x, int64_t columns, int64_t group, int64_t groups,
                      int16_t* values, int64_t step, float* scales) {
  alignas(64) int16_t rounded[kMostColumns];
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t count = std::min(group, columns - g * group);
    std::fill(rounded + count, rounded + group, 0);
    scales[g] = round_group(x + g * group, rounded, count);
    int16_t* to = values + g * group * step;
    for (int64_t i = 0; i < group; i += 2, to += 2 * step) {
      std::memcpy(to, rounded + i, 2 * sizeof(int16_t));
    }
  }
}

// Whole numbers of x [rows, columns], and their scales; kept as long as the product is made.
inline std::pair<at::Tensor, at::Tensor> rounded(const at::Tensor& x, int64_t group) {
  const int64_t rows = x.size(0), columns = x.size(1);
  const int64_t groups = (columns + group - 1) / group, depth = groups * group;
  at::Tensor values = at::empty({rows, depth}, x.options().dtype(at::kShort));
  at::Tensor scales = at::empty({rows, groups}, x.options());
  const auto* from = x.const_data_ptr<float>();
  auto* to = values.mutable_data_ptr<int16_t>();
  auto* by = scales.mutable_data_ptr<float>();
  at::parallel_for(0, rows, std::max<int64_t>(1, hearth::kGrain / depth),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t m = begin; m < end; ++m) {
                       const Place at(m, rows, depth);
                       round_row(from + m * columns, columns, group, groups,
                                 to + at.first + m % kTogether * 2, at.step, by + m * groups);
                     }
                   });
  return {values, scales};
}

// x [rows, columns] with rows side by side.
inline at::Tensor side_by_side(const at::Tensor& x) {
  const int64_t rows = x.size(0), depth = x.size(1);
  if (rows == 1) {
    return x;
  }
  at::Tensor out = at::empty_like(x);
  const auto* from = x.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  for (int64_t m = 0; m < rows; ++m) {
    const Place at(m, rows, depth);
    for (int64_t k = 0; k < depth; ++k) {
      to[at.first + k * at.step + m % kTogether] = from[m * depth + k];
    }
  }
  return out;
}

// The loops of a level: 0 needs nothing, 1 AVX2, 2 AVX-512 with VNNI; what the CPU lacks is not taken.
inline auto loops(int64_t level) -> Part (*)(const at::Tensor&, const at::Tensor*) {
#ifdef __x86_64__
  if (level >= 2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return avx512::part_of;
  }
  if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return avx2::part_of;
  }
#endif
  return portable::part_of;
}

// Tiles whose weights stay in a near cache while all rows are multiplied with them.
constexpr int64_t kTiles = 4;
// Products that are worth a thread of their own.
constexpr int64_t kProducts = 1 << 17;

inline void multiply(const Product& product, Part part) {
  const int64_t tiles = (product.outputs + kRows - 1) / kRows;
  const int64_t blocks = (tiles + kTiles - 1) / kTiles;
  const int64_t work = std::max<int64_t>(1, kTiles * kRows * product.depth * product.rows);
  at::parallel_for(0, blocks, std::max<int64_t>(1, kProducts / work),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t block = begin; block < end; ++block) {
                       const int64_t first = block * kTiles;
                       part(product, first, std::min(first + kTiles, tiles));
                     }
                   });
}

// Rows of an input, as weights of one kind and group want them.
struct Input {
  Input(const at::Tensor& x, const hearth_narrow& layer)
      : whole(layer.weight->scalar_type() != at::kBFloat16), group(layer.group) {
    if (whole) {
      std::tie(values, scales) = rounded(x, group);
    } else {
      values = side_by_side(x);
    }
  }

  bool fits(const hearth_narrow& layer) const {
    return whole == (layer.weight->scalar_type() != at::kBFloat16) && group == layer.group;
  }

  at::Tensor values, scales;
  bool whole;
  int64_t group;
};

// f32 [rows, outputs].
inline at::Tensor linear(const Input& input, const hearth_narrow& layer, int64_t level) {
  const int64_t rows = input.values.size(0);
  at::Tensor result = at::empty({rows, layer.outputs}, input.values.options().dtype(at::kFloat));
  Product product{};
  product.weight = static_cast<const uint8_t*>(layer.weight->const_data_ptr());
  product.bias = layer.bias == nullptr ? nullptr : layer.bias->const_data_ptr<float>();
  product.out = result.mutable_data_ptr<float>();
  product.rows = rows;
  product.outputs = layer.outputs;
  product.group = layer.group;
  product.depth = input.values.size(1);
  if (input.whole) {
    product.values = input.values.const_data_ptr<int16_t>();
    product.value_scales = input.scales.const_data_ptr<float>();
    product.scale = layer.scale->const_data_ptr();
  } else {
    product.x = input.values.const_data_ptr<float>();
  }
  multiply(product, loops(level)(*layer.weight, layer.scale));
  return result;
}

} // namespace narrow

extern "C" {

int32_t hearth_narrow_linear(const at::Tensor* x, const hearth_narrow* layer, int32_t level,
                             at::Tensor** out, char** message) {
  return hearth::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    *out = new at::Tensor(narrow::linear(narrow::Input(*x, *layer), *layer, level));
  });
}
}
