// The loops of narrow.cpp, once for each instruction set: what includes this has opened a namespace
// in which `kWide` floats are `Floats`, made by `zero`, `read` and `fma` and taken apart by `write`.

// Products of M rows of the input with N rows of the weight: as many sums as registers hold.
template <int M, int N, typename W>
HEARTH_INLINE void tile(const float* x, const W* weight, int64_t k, float* sums) {
  Floats lanes[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      lanes[m][n] = zero();
    }
  }
  int64_t i = 0;
  for (; i + kWide <= k; i += kWide) {
    Floats w[N];
    for (int n = 0; n < N; ++n) {
      w[n] = read(weight + n * k + i);
    }
    for (int m = 0; m < M; ++m) {
      const Floats row = read(x + m * k + i);
      for (int n = 0; n < N; ++n) {
        lanes[m][n] = fma(row, w[n], lanes[m][n]);
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      float all[kWide];
      write(all, lanes[m][n]);
      float sum = 0;
      for (int64_t lane = 0; lane < kWide; ++lane) {
        sum += all[lane];
      }
      for (int64_t j = i; j < k; ++j) {
        sum += x[m * k + j] * hearth::load(weight[n * k + j]);
      }
      sums[m * N + n] = sum;
    }
  }
}

template <int M, int N, typename W>
HEARTH_INLINE void put(const Product<W>& of, int64_t m, int64_t n) {
  float sums[M * N];
  tile<M, N>(of.x + m * of.k, of.weight + n * of.k, of.k, sums);
  for (int i = 0; i < M * N; ++i) {
    const int64_t column = n + i % N;
    const float scaled = of.scale == nullptr ? sums[i] : sums[i] * of.scale[column];
    of.out[(m + i / N) * of.columns + column] =
        of.bias == nullptr ? scaled : scaled + of.bias[column];
  }
}

// Columns `begin` to `end`. Four rows of the input stay in the nearest cache for all of them.
template <typename W>
void part(const Product<W>& of, int64_t begin, int64_t end) {
  int64_t m = 0;
  for (; m + 4 <= of.rows; m += 4) {
    int64_t n = begin;
    for (; n + 2 <= end; n += 2) {
      put<4, 2>(of, m, n);
    }
    for (; n < end; ++n) {
      put<4, 1>(of, m, n);
    }
  }
  for (; m < of.rows; ++m) {
    int64_t n = begin;
    for (; n + 4 <= end; n += 4) {
      put<1, 4>(of, m, n);
    }
    for (; n < end; ++n) {
      put<1, 1>(of, m, n);
    }
  }
}
