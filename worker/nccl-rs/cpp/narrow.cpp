// Products of f32 rows with a weight that is held in bf16 or int8 and read as it is: few rows'
// products take as long as reading the weight does, so half or a quarter of the bytes is half or a
// quarter of the time. Sums are in f32.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "fused.hpp"

namespace narrow {

using hearth::Bf16;
using hearth::in;

// Vectors of GCC's: one register of AVX-512, two of AVX2. (`auto` would forget how they are aligned.)
constexpr int64_t kWide = 16;
typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1)));

// By reference: how a function gives such a vector back depends on the instruction set.
HEARTH_INLINE void read(const float* at, Floats& to) {
  to = *reinterpret_cast<const Floats*>(at);
}
HEARTH_INLINE void read(const Bf16* at, Floats& to) {
  const Halves& halves = *reinterpret_cast<const Halves*>(at);
  to = reinterpret_cast<Floats>(__builtin_convertvector(halves, Ints) << 16);
}
HEARTH_INLINE void read(const int8_t* at, Floats& to) {
  const Bytes& bytes = *reinterpret_cast<const Bytes*>(at);
  to = __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
}
HEARTH_INLINE float read_one(Bf16 x) {
  return hearth::load(x);
}
HEARTH_INLINE float read_one(int8_t x) {
  return static_cast<float>(x);
}

HEARTH_INLINE float sum_of(const Floats& lanes) {
  float sum = 0;
  for (int64_t lane = 0; lane < kWide; ++lane) {
    sum += lanes[lane];
  }
  return sum;
}

// Rows of the input and rows of the weight whose products are summed at once: as many sums as
// registers hold.
template <int M, int N, typename W>
HEARTH_INLINE void tile(const float* x, const W* weight, int64_t k, float* sums) {
  Floats lanes[M][N] = {};
  int64_t i = 0;
  for (; i + kWide <= k; i += kWide) {
    for (int n = 0; n < N; ++n) {
      Floats w;
      read(weight + n * k + i, w);
      for (int m = 0; m < M; ++m) {
        Floats row;
        read(x + m * k + i, row);
        lanes[m][n] += row * w;
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      float sum = sum_of(lanes[m][n]);
      for (int64_t j = i; j < k; ++j) {
        sum += x[m * k + j] * read_one(weight[n * k + j]);
      }
      sums[m * N + n] = sum;
    }
  }
}

template <typename W>
struct Product {
  const float* x;
  const W* weight;
  const float* scale;
  const float* bias;
  float* out;
  int64_t rows, columns, k;

  HEARTH_INLINE void put(int64_t m, int64_t n, float sum) const {
    const float scaled = scale == nullptr ? sum : sum * scale[n];
    out[m * columns + n] = bias == nullptr ? scaled : scaled + bias[n];
  }

  template <int M, int N>
  HEARTH_INLINE void at(int64_t m, int64_t n) const {
    float sums[M * N];
    tile<M, N>(x + m * k, weight + n * k, k, sums);
    for (int i = 0; i < M * N; ++i) {
      put(m + i / N, n + i % N, sums[i]);
    }
  }

  // Columns `begin` to `end`. A few rows of the input stay in the nearest cache for all of them.
  HEARTH_INLINE void part(int64_t begin, int64_t end) const {
    int64_t m = 0;
    for (; m + 4 <= rows; m += 4) {
      for (int64_t n = begin; n < end; ++n) {
        at<4, 1>(m, n);
      }
    }
    for (; m < rows; ++m) {
      int64_t n = begin;
      for (; n + 4 <= end; n += 4) {
        at<1, 4>(m, n);
      }
      for (; n < end; ++n) {
        at<1, 1>(m, n);
      }
    }
  }
};

HEARTH_FUSED void part_of_bf16(const Product<Bf16>& product, int64_t begin, int64_t end) {
  product.part(begin, end);
}
HEARTH_FUSED void part_of_int8(const Product<int8_t>& product, int64_t begin, int64_t end) {
  product.part(begin, end);
}

// Columns of the weight that stay in a near cache while all rows are multiplied with them.
constexpr int64_t kColumns = 32;

template <typename W, typename Part>
void multiply(const at::Tensor& x, const at::Tensor& weight, const at::Tensor* scale,
              const at::Tensor* bias, const at::Tensor& out, Part part) {
  const auto floats = [](const at::Tensor* of) {
    return of == nullptr ? nullptr : of->const_data_ptr<float>();
  };
  const Product<W> product{x.const_data_ptr<float>(), in<W>(weight), floats(scale), floats(bias),
                           out.mutable_data_ptr<float>(), x.size(0), weight.size(0), x.size(1)};
  const int64_t blocks = (product.columns + kColumns - 1) / kColumns;
  const int64_t work = kColumns * product.k * std::max<int64_t>(1, product.rows / 4);
  const int64_t grain = std::max<int64_t>(1, hearth::kGrain * 4 / std::max<int64_t>(1, work));
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kColumns;
      part(product, first, std::min(first + kColumns, product.columns));
    }
  });
}

} // namespace narrow

extern "C" {

int32_t hearth_narrow_linear(const at::Tensor* x, const at::Tensor* weight,
                             const at::Tensor* scale, const at::Tensor* bias, at::Tensor** out,
                             char** message) {
  return hearth::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    at::Tensor product = at::empty({x->size(0), weight->size(0)}, x->options());
    if (weight->scalar_type() == at::kChar) {
      narrow::multiply<int8_t>(*x, *weight, scale, bias, product, narrow::part_of_int8);
    } else {
      narrow::multiply<hearth::Bf16>(*x, *weight, scale, bias, product, narrow::part_of_bf16);
    }
    *out = new at::Tensor(std::move(product));
  });
}
}
