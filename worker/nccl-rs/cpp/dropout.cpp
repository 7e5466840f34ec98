// Dropout on the CPU: numbers drawn by all threads, and again in backward instead of
// being kept. libtorch draws them one by one, and keeps a mask and a product.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <cmath>
#include <mutex>

#include "fused.hpp"

using hearth::guarded;

namespace {

using hearth::Bf16;
using hearth::load;
using hearth::store;

// Counters that are worked on together: each gives four numbers.
constexpr int64_t kCounters = 16;
constexpr int64_t kNumbers = 4 * kCounters;
// An element takes 16 bits: shares are told apart by 1 / 65536.
constexpr int64_t kElements = 2 * kNumbers;

// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
// word w of counter first + i is numbers[w * kCounters + i].
HEARTH_INLINE void philox(uint64_t first, uint64_t key, uint32_t* numbers) {
  constexpr uint32_t kM0 = 0xD2511F53, kM1 = 0xCD9E8D57, kW0 = 0x9E3779B9, kW1 = 0xBB67AE85;
  uint32_t *a = numbers, *b = a + kCounters, *c = b + kCounters, *d = c + kCounters;
  for (int64_t i = 0; i < kCounters; ++i) {
    const uint64_t counter = first + static_cast<uint64_t>(i);
    a[i] = static_cast<uint32_t>(counter);
    b[i] = static_cast<uint32_t>(counter >> 32);
    c[i] = 0;
    d[i] = 0;
  }
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += kW0, k1 += kW1) {
    for (int64_t i = 0; i < kCounters; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(kM0) * a[i], p1 = static_cast<uint64_t>(kM1) * c[i];
      a[i] = static_cast<uint32_t>(p1 >> 32) ^ b[i] ^ k0;
      c[i] = static_cast<uint32_t>(p0 >> 32) ^ d[i] ^ k1;
      b[i] = static_cast<uint32_t>(p1);
      d[i] = static_cast<uint32_t>(p0);
    }
  }
}

// What is dropped: 16 bits below the threshold. What stays is scaled up.
struct Drop {
  uint64_t key;
  uint32_t threshold;
  float scale;
};

template <typename T>
HEARTH_INLINE void drop_half(const T* x, T* out, const uint32_t* numbers, int shift, int64_t count,
                             const Drop& drop) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t number = (numbers[i] >> shift) & 0xffff;
    store(out[i], load(x[i]) * (number < drop.threshold ? 0.0f : drop.scale));
  }
}

// Elements from `first`, a multiple of kElements, up to `last`.
template <typename T>
HEARTH_INLINE void drop_loop(const T* x, T* out, int64_t first, int64_t last, const Drop& drop) {
  uint32_t numbers[kNumbers];
  for (int64_t start = first; start < last; start += kElements) {
    philox(static_cast<uint64_t>(start / kElements * kCounters), drop.key, numbers);
    if (last - start >= kElements) {
      drop_half(x + start, out + start, numbers, 0, kNumbers, drop);
      drop_half(x + start + kNumbers, out + start + kNumbers, numbers, 16, kNumbers, drop);
      continue;
    }
    const int64_t low = std::min(kNumbers, last - start), high = last - start - low;
    drop_half(x + start, out + start, numbers, 0, low, drop);
    drop_half(x + start + low, out + start + low, numbers, 16, high, drop);
  }
}

// Not for x86-64-v4, for which GCC 12 makes 64-bit products of the 32-bit ones.
#define HEARTH_DROP __attribute__((optimize("O3"), target_clones("arch=x86-64-v3", "default")))
HEARTH_DROP void drop_run(const float* x, float* out, int64_t first, int64_t last,
                           const Drop& drop) {
  drop_loop(x, out, first, last, drop);
}
HEARTH_DROP void drop_run(const Bf16* x, Bf16* out, int64_t first, int64_t last,
                           const Drop& drop) {
  drop_loop(x, out, first, last, drop);
}
#undef HEARTH_DROP

at::Tensor dropped(const at::Tensor& x, const Drop& drop) {
  const at::Tensor dense = x.contiguous();
  at::Tensor out = at::empty_like(dense);
  const int64_t count = dense.numel(), runs = (count + kElements - 1) / kElements;
  hearth::with_type(dense, [&]<typename T>(T*) {
    const T* from = hearth::in<T>(dense);
    T* to = hearth::out_of<T>(out);
    at::parallel_for(0, runs, hearth::kGrain / kElements, [&](int64_t begin, int64_t end) {
      drop_run(from, to, begin * kElements, std::min(end * kElements, count), drop);
    });
  });
  return out;
}

struct DropoutBackward : torch::autograd::Node {
  Drop drop{};

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    if (!gradients[0].defined()) {
      return {at::Tensor()};
    }
    return {dropped(gradients[0], drop)};
  }
};

} // namespace

extern "C" {

int32_t hearth_dropout(const at::Tensor* x, double probability, at::Tensor** out, char** message) {
  return guarded(message, [&] {
    Drop drop{};
    {
      at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
      const std::lock_guard<std::mutex> lock(generator.mutex());
      drop.key = generator.get<at::CPUGeneratorImpl>()->random64();
    }
    drop.threshold = std::min(65535u, static_cast<uint32_t>(std::lround(probability * 65536)));
    drop.scale = 65536.0f / static_cast<float>(65536 - drop.threshold);
    *out = new at::Tensor(hearth::recorded<DropoutBackward>(
        [&] { return dropped(*x, drop); }, [&](DropoutBackward& node) { node.drop = drop; }, *x));
  });
}

void hearth_philox(uint64_t counter, uint64_t key, uint32_t* numbers) {
  uint32_t all[kNumbers];
  philox(counter, key, all);
  for (int64_t word = 0; word < 4; ++word) {
    numbers[word] = all[word * kCounters];
  }
}
}
