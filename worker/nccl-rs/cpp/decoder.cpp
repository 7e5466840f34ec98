// A layer of a decoder over few new tokens in one call: what its parts (fused.cpp, narrow.cpp,
// paged.cpp) compute one by one, to the bit, without the views and small tensors in between, which
// take as long as a third of the products of a small model.
#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace decoder {

// The instructions that narrow.cpp may use: all.
constexpr int64_t kLevel = 2;

struct Tables {
  const float *cos, *sin;
};

// Heads [N, heads * d] of new tokens turned by their positions, into rows `to(n)`.
template <typename To>
void turned(const at::Tensor& flat, int64_t size, const Tables& tables, To&& to) {
  const int64_t tokens = flat.size(0), heads = flat.size(1) / size, half = size / 2;
  const auto* from = flat.const_data_ptr<float>();
  for (int64_t n = 0; n < tokens; ++n) {
    float* row = to(n);
    for (int64_t head = 0; head < heads; ++head) {
      rope_row(from + (n * heads + head) * size, tables.cos + n * half, tables.sin + n * half, 1.0f,
               row + head * size, half);
    }
  }
}

// Heads [N, heads * d], each normed where there is a norm.
at::Tensor normed(const at::Tensor& flat, const at::Tensor* norm, double eps, int64_t size) {
  return norm == nullptr ? flat
                         : rms_norm(flat.view({-1, size}), *norm, eps).first.view(flat.sizes());
}

// A product of `x` and of what `known` holds of it, if that fits.
at::Tensor again(const at::Tensor& x, const narrow::Input& known, const hearth_narrow& layer) {
  return known.fits(layer) ? narrow::linear(known, layer, kLevel)
                           : narrow::linear(narrow::Input(x, layer), layer, kLevel);
}

at::Tensor once(const at::Tensor& x, const hearth_narrow& layer) {
  return narrow::linear(narrow::Input(x, layer), layer, kLevel);
}

struct Pool {
  at::Tensor keys, values;
  const at::Tensor &places, &slots, &seen;
};

at::Tensor attention(const hearth_decoder_layer& layer, const at::Tensor& x, const Tables& tables,
                     Pool& pool) {
  const narrow::Input input(x, layer.query);
  const int64_t tokens = x.size(0), size = layer.head_size, row = layer.key.outputs;
  const at::Tensor query = normed(narrow::linear(input, layer.query, kLevel), layer.query_norm,
                                  layer.query_eps, size);
  const at::Tensor key =
      normed(again(x, input, layer.key), layer.key_norm, layer.key_eps, size);
  const at::Tensor value = again(x, input, layer.value);
  auto* keys = pool.keys.mutable_data_ptr<float>();
  auto* values = pool.values.mutable_data_ptr<float>();
  const auto* places = pool.places.const_data_ptr<int64_t>();
  turned(key, size, tables, [&](int64_t n) { return keys + places[n] * row; });
  for (int64_t n = 0; n < tokens; ++n) {
    std::memcpy(values + places[n] * row, value.const_data_ptr<float>() + n * row,
                static_cast<size_t>(row) * sizeof(float));
  }
  at::Tensor asked = at::empty_like(query);
  auto* to = asked.mutable_data_ptr<float>();
  turned(query, size, tables, [&](int64_t n) { return to + n * layer.query.outputs; });
  at::Tensor mixed = at::empty_like(query);
  const paged::Pool known{keys, values, row / size, size, size};
  const paged::Queries queries{to, tokens, layer.query.outputs / size, size, layer.query.outputs};
  paged::attend(known, queries, pool.slots, pool.seen,
                std::pow(static_cast<double>(size), -0.5), mixed.mutable_data_ptr<float>());
  return once(mixed, layer.output);
}

at::Tensor feed_forward(const hearth_decoder_layer& layer, const at::Tensor& x) {
  const narrow::Input input(x, layer.gate);
  at::Tensor gate = narrow::linear(input, layer.gate, kLevel);
  at::silu_(gate).mul_(again(x, input, layer.up));
  return once(gate, layer.down);
}

} // namespace decoder

extern "C" {

int32_t hearth_decoder_layer_forward(const hearth_decoder_layer* layer, const at::Tensor* hidden,
                                     const at::Tensor* cos, const at::Tensor* sin,
                                     const at::Tensor* keys, const at::Tensor* values,
                                     const at::Tensor* places, const at::Tensor* slots,
                                     const at::Tensor* seen, at::Tensor** out, char** message) {
  return hearth::guarded(message, [&] {
    const at::NoGradGuard no_grad;
    const decoder::Tables tables{cos->const_data_ptr<float>(), sin->const_data_ptr<float>()};
    decoder::Pool pool{*keys, *values, *places, *slots, *seen};
    const at::Tensor normed = rms_norm(*hidden, *layer->input_norm, layer->input_eps).first;
    at::Tensor attended = decoder::attention(*layer, normed, tables, pool);
    attended.add_(*hidden);
    const at::Tensor again = rms_norm(attended, *layer->post_norm, layer->post_eps).first;
    at::Tensor result = decoder::feed_forward(*layer, again);
    result.add_(attended);
    *out = new at::Tensor(std::move(result));
  });
}
}
