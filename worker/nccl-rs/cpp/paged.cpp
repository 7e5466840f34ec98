// Attention of few new tokens of many texts over keys and values in a pool (Kwon et al. 2023,
// PagedAttention): each token goes through the slots of its text, so nothing is gathered.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "fused.hpp"

namespace paged {

// Keys whose scores are known before any of their values is read.
constexpr int64_t kKeys = 64;

struct Pool {
  // [slots, groups, width] and [slots, groups, value_width].
  const float* keys;
  const float* values;
  int64_t groups, width, value_width;
};

// e^x of x <= 0 to some 1e-7, without a call: 2^n * e^r with |r| <= ln(2) / 2 (Cephes' expf).
HEARTH_INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const auto n = static_cast<int32_t>(x * 1.44269504f - 0.5f);
  const auto whole = static_cast<float>(n);
  const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * std::bit_cast<float>((n + 127) << 23);
}

// One query head `[width]` over `count` slots, into `out` `[value_width]`. The softmax goes along
// (Milakov and Gimelshein 2018).
HEARTH_INLINE void head_loop(const Pool& pool, const float* query, const int64_t* slots,
                             int64_t count, int64_t group, float scale, float* out) {
  const int64_t key_step = pool.groups * pool.width;
  const int64_t value_step = pool.groups * pool.value_width;
  const float* keys = pool.keys + group * pool.width;
  const float* values = pool.values + group * pool.value_width;
  float most = -std::numeric_limits<float>::infinity();
  float total = 0;
  std::fill(out, out + pool.value_width, 0.0f);
  for (int64_t begin = 0; begin < count; begin += kKeys) {
    const int64_t here = std::min(kKeys, count - begin);
    float weights[kKeys];
    float most_here = most;
    for (int64_t i = 0; i < here; ++i) {
      weights[i] =
          hearth::sum_of_products(query, keys + slots[begin + i] * key_step, pool.width) * scale;
      most_here = std::max(most_here, weights[i]);
    }
    for (int64_t i = here; i < kKeys; ++i) {
      weights[i] = -std::numeric_limits<float>::infinity();
    }
    // NaN goes on into the output.
    if (most_here > most) {
      const float kept = total == 0 ? 0 : exponential(most - most_here);
      total *= kept;
      for (int64_t i = 0; i < pool.value_width; ++i) {
        out[i] *= kept;
      }
      most = most_here;
    }
    for (int64_t i = 0; i < kKeys; ++i) {
      weights[i] = exponential(weights[i] - most);
    }
    for (int64_t i = 0; i < here; ++i) {
      const float weight = weights[i];
      const float* value = values + slots[begin + i] * value_step;
      total += weight;
      for (int64_t j = 0; j < pool.value_width; ++j) {
        out[j] += weight * value[j];
      }
    }
  }
  for (int64_t i = 0; i < pool.value_width; ++i) {
    out[i] /= total;
  }
}

HEARTH_FUSED void head(const Pool& pool, const float* query, const int64_t* slots, int64_t count,
                       int64_t group, float scale, float* out) {
  head_loop(pool, query, slots, count, group, scale, out);
}

// Queries of `tokens` tokens with so many heads, a head's and a token's so far apart, into `out`
// [tokens, heads * value_width].
struct Queries {
  const float* at;
  int64_t tokens, heads, head_step, token_step;
};

inline void attend(const Pool& pool, const Queries& of, const at::Tensor& slots,
                   const at::Tensor& seen, double scale, float* out) {
  const auto* places = slots.const_data_ptr<int64_t>();
  const auto* ranges = seen.const_data_ptr<int64_t>();
  int64_t most = 1;
  for (int64_t token = 0; token < of.tokens; ++token) {
    most = std::max(most, ranges[2 * token + 1]);
  }
  const int64_t work = most * (pool.width + pool.value_width);
  at::parallel_for(0, of.tokens * of.heads, std::max<int64_t>(1, hearth::kGrain / work),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const int64_t token = i / of.heads, head = i % of.heads;
                       paged::head(pool, of.at + head * of.head_step + token * of.token_step,
                                   places + ranges[2 * token], ranges[2 * token + 1],
                                   head / (of.heads / pool.groups), static_cast<float>(scale),
                                   out + i * pool.value_width);
                     }
                   });
}

} // namespace paged

extern "C" {

int32_t hearth_paged_attention(const at::Tensor* query, const at::Tensor* keys,
                               const at::Tensor* values, const at::Tensor* slots,
                               const at::Tensor* seen, double scale, at::Tensor** out,
                               char** message) {
  return hearth::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    const int64_t heads = query->size(1), tokens = query->size(2);
    const paged::Pool pool{keys->const_data_ptr<float>(), values->const_data_ptr<float>(),
                           keys->size(1), keys->size(2), values->size(2)};
    at::Tensor result = at::empty({1, tokens, heads * pool.value_width}, query->options());
    const paged::Queries queries{query->const_data_ptr<float>(), tokens, heads, query->stride(1),
                                 query->stride(2)};
    paged::attend(pool, queries, *slots, *seen, scale, result.mutable_data_ptr<float>());
    *out = new at::Tensor(std::move(result));
  });
}
}
