// Products with a frozen weight that is held in 8 or 4 bits (Dettmers et al. 2023,
// QLoRA): dequantized for the product and let go, in forward and again in backward.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <mutex>

#include "status.hpp"

namespace frozen {

using output_head::compute_kind;
using output_head::Plain;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// values i8 [N, K] with scales f32 [N, 1], or u8 [N, G, g / 2] with scales f32
// [N, G, 1], two values less 8 in a byte, the first in the low half; [N, K] of f32.
at::Tensor dequantize(const at::Tensor& values, const at::Tensor& scales, int64_t columns) {
  if (values.scalar_type() == at::kChar) {
    return values.to(at::kFloat).mul_(scales);
  }
  const at::Tensor halves = at::stack({values.bitwise_and(15), values.bitwise_right_shift(4)}, -1);
  const at::Tensor grouped = halves.view({values.size(0), values.size(1), -1});
  const at::Tensor real = grouped.to(at::kFloat).sub_(8).mul_(scales).view({values.size(0), -1});
  return real.size(1) == columns ? real : real.narrow(1, 0, columns);
}

struct FrozenLinearBackward : torch::autograd::Node {
  SavedVariable values, scales;
  int64_t columns = 0;
  at::ScalarType kind = at::kFloat, input_kind = at::kFloat;

  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gradients[0].defined()) {
      return {at::Tensor()};
    }
    const Plain plain;
    const at::Tensor weight = dequantize(values.unpack(), scales.unpack(), columns).to(kind);
    return {gradients[0].to(kind).matmul(weight).to(input_kind)};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    values.reset_data();
    scales.reset_data();
  }
};

} // namespace frozen

extern "C" {

int32_t hearth_dequantize(const at::Tensor* values, const at::Tensor* scales, int64_t columns,
                          at::Tensor** out, char** message) {
  return hearth::guarded(message, [&] {
    const frozen::Plain plain;
    *out = new at::Tensor(frozen::dequantize(*values, *scales, columns).contiguous());
  });
}

int32_t hearth_frozen_linear(const at::Tensor* input, const at::Tensor* values,
                             const at::Tensor* scales, const at::Tensor* bias, int64_t columns,
                             at::Tensor** out, char** message) {
  using namespace frozen;
  return hearth::guarded(message, [&] {
    const auto kind = compute_kind(*input);
    const bool recorded = output_head::wanted(*input);
    at::Tensor output;
    {
      const Plain plain;
      const at::Tensor weight = dequantize(*values, *scales, columns).to(kind);
      output = at::linear(input->to(kind), weight,
                          bias == nullptr ? at::Tensor() : bias->to(kind));
    }
    if (recorded) {
      const std::shared_ptr<FrozenLinearBackward> node(new FrozenLinearBackward(),
                                                       torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(*input));
      node->values = SavedVariable(*values, false);
      node->scales = SavedVariable(*scales, false);
      node->columns = columns;
      node->kind = kind;
      node->input_kind = input->scalar_type();
      torch::autograd::set_history(output, node);
    }
    *out = new at::Tensor(std::move(output));
  });
}
}
