// The loops of narrow.cpp, once for each instruction set: what includes this has opened a namespace
// with vectors of `kWide` floats or whole numbers, and what is done with them.

constexpr int kVectors = kRows / kWide;

// Adds a pair of columns' products with 16 rows of the weight to the sums of M rows of the input.
template <int M>
HEARTH_INLINE void add_pair(const int16_t* values, const Pairs (&weight)[kVectors],
                            Ints (&sums)[M][kVectors]) {
  for (int m = 0; m < M; ++m) {
    const Pairs row = pair(values + 2 * m);
    for (int v = 0; v < kVectors; ++v) {
      sums[m][v] = add(sums[m][v], weight[v], row);
    }
  }
}

template <int M>
HEARTH_INLINE void add_eight(const int16_t* values, const uint8_t* weight,
                             Ints (&sums)[M][kVectors]) {
  Pairs all[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    all[v] = eight(weight + v * (Eight::kBytes / kVectors));
  }
  add_pair<M>(values, all, sums);
}

template <int M, int Nth>
HEARTH_INLINE void add_four(const int16_t* values, const uint8_t* weight,
                            Ints (&sums)[M][kVectors]) {
  Pairs quarter[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    quarter[v] = four<Nth>(bits(weight + v * (Four::kBytes / kVectors)));
  }
  add_pair<M>(values + 2 * Nth * M, quarter, sums);
}

// A group's whole-number products with 16 rows of the weight. Two steps at a time: with one, GCC
// moves every sum from register to register.
template <int M, typename Held>
HEARTH_INLINE void whole(const int16_t* values, const uint8_t* weight, int64_t group,
                         Ints (&sums)[M][kVectors]) {
  const uint8_t* end = weight + group / Held::kStep * Held::kBytes;
  for (; weight < end; weight += 2 * Held::kBytes) {
    __builtin_prefetch(weight + kAhead);
    if constexpr (std::is_same_v<Held, Eight>) {
      add_eight<M>(values, weight, sums);
      add_eight<M>(values + 2 * M, weight + Held::kBytes, sums);
      values += 4 * M;
    } else {
      __builtin_prefetch(weight + kAhead + Held::kBytes);
      for (int step = 0; step < 2; ++step, values += 8 * M) {
        add_four<M, 0>(values, weight + step * Held::kBytes, sums);
        add_four<M, 1>(values, weight + step * Held::kBytes, sums);
        add_four<M, 2>(values, weight + step * Held::kBytes, sums);
        add_four<M, 3>(values, weight + step * Held::kBytes, sums);
      }
    }
  }
}

// Rows `m` to `m + M` with tile `tile` of a weight of whole numbers. `Scale` is the type of the
// scales by group, or void, where each row of the weight has one.
template <int M, typename Held, typename Scale>
HEARTH_INLINE void tile_of(const Product& of, int64_t m, int64_t tile) {
  const int64_t groups = of.depth / of.group;
  const uint8_t* weight = of.weight + tile * of.depth / Held::kStep * Held::kBytes;
  // In memory: registers are for the sums of whole numbers.
  alignas(64) float sums[M * kRows] = {};
  for (int64_t g = 0; g < groups; ++g) {
    Ints within[M][kVectors];
    for (int i = 0; i < M; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        within[i][v] = no_ints();
      }
    }
    whole<M, Held>(of.values + m * of.depth + g * of.group * M,
                   weight + g * of.group / Held::kStep * Held::kBytes, of.group, within);
    for (int v = 0; v < kVectors; ++v) {
      for (int i = 0; i < M; ++i) {
        Floats by = all(of.value_scales[(m + i) * groups + g]);
        if constexpr (!std::is_void_v<Scale>) {
          const auto* scales = static_cast<const Scale*>(of.scale);
          by = times(by, read(scales + (tile * groups + g) * kRows + v * kWide));
        }
        float* sum = sums + i * kRows + v * kWide;
        write(sum, fma(floats(within[i][v]), by, read(sum)));
      }
    }
    asm volatile("" ::: "memory");
  }
  if constexpr (std::is_void_v<Scale>) {
    const auto* scales = static_cast<const float*>(of.scale) + tile * kRows;
    for (int i = 0; i < M; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        float* sum = sums + i * kRows + v * kWide;
        write(sum, times(read(sum), read(scales + v * kWide)));
      }
    }
  }
  put(of, m, M, tile * kRows, sums);
}

// One column's products with 16 rows of a weight of bf16.
template <int M>
HEARTH_INLINE void add_column(const float* x, const Bf16* weight, Floats (&sums)[M][kVectors]) {
  Floats w[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    w[v] = read(weight + v * kWide);
  }
  for (int m = 0; m < M; ++m) {
    const Floats row = all(x[m]);
    for (int v = 0; v < kVectors; ++v) {
      sums[m][v] = fma(row, w[v], sums[m][v]);
    }
  }
}

// The same with a weight of bf16.
template <int M>
HEARTH_INLINE void tile_of_floats(const Product& of, int64_t m, int64_t tile) {
  const auto* weight = reinterpret_cast<const Bf16*>(of.weight) + tile * of.depth * kRows;
  const float* x = of.x + m * of.depth;
  Floats lanes[M][kVectors];
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      lanes[i][v] = no_floats();
    }
  }
  int64_t k = 0;
  for (; k + 2 <= of.depth; k += 2, x += 2 * M, weight += 2 * kRows) {
    __builtin_prefetch(reinterpret_cast<const uint8_t*>(weight) + kAhead);
    add_column<M>(x, weight, lanes);
    add_column<M>(x + M, weight + kRows, lanes);
  }
  if (k < of.depth) {
    add_column<M>(x, weight, lanes);
  }
  alignas(64) float sums[M * kRows];
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      write(sums + i * kRows + v * kWide, lanes[i][v]);
    }
  }
  put(of, m, M, tile * kRows, sums);
}

template <typename Held, typename Scale>
struct OfInts {
  template <int M>
  static HEARTH_INLINE void tile(const Product& of, int64_t m, int64_t tile) {
    tile_of<M, Held, Scale>(of, m, tile);
  }
};

struct OfFloats {
  template <int M>
  static HEARTH_INLINE void tile(const Product& of, int64_t m, int64_t tile) {
    tile_of_floats<M>(of, m, tile);
  }
};

// Tiles from `begin` to `end`. Four rows of the input stay in the nearest cache for all of them.
template <typename Of>
void part(const Product& of, int64_t begin, int64_t end) {
  int64_t m = 0;
  for (; m + kTogether <= of.rows; m += kTogether) {
    for (int64_t tile = begin; tile < end; ++tile) {
      Of::template tile<kTogether>(of, m, tile);
    }
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    switch (of.rows - m) {
      case 3:
        Of::template tile<3>(of, m, tile);
        break;
      case 2:
        Of::template tile<2>(of, m, tile);
        break;
      case 1:
        Of::template tile<1>(of, m, tile);
        break;
      default:
        break;
    }
  }
}

template <typename Held>
Part part_by_scale(const at::Tensor& scale) {
  if (scale.dim() == 1) {
    return part<OfInts<Held, void>>;
  }
  return scale.scalar_type() == at::kHalf ? part<OfInts<Held, at::Half>> : part<OfInts<Held, float>>;
}

inline Part part_of(const at::Tensor& weight, const at::Tensor* scale) {
  switch (weight.scalar_type()) {
    case at::kChar:
      return part_by_scale<Eight>(*scale);
    case at::kByte:
      return part_by_scale<Four>(*scale);
    default:
      return part<OfFloats>;
  }
}
