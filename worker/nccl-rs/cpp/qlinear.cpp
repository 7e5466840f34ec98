// oneDNN's int8 linear, and the row quantization round it.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/stack.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "status.hpp"

using hearth::guarded;

// Built for a plain x86-64; the loops below are memory-bound only when they use
// the vectors that the machine has.
#define HEARTH_VECTORIZED __attribute__((target_clones("avx512f", "avx2", "default")))

namespace {

// Rows a thread takes at a time: below this a second thread costs more than it
// saves.
constexpr int64_t kRowElements = 16384;

// The row's largest |x|. Compared as bit patterns, whose order is that of the
// values without their signs and puts NaN above infinity: a row that holds one
// gets it as its scale, and so as its results.
HEARTH_VECTORIZED float largest_magnitude(const float* row, int64_t length) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < length; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(row[i]) & 0x7fffffffU;
    largest = magnitude > largest ? magnitude : largest;
  }
  return std::bit_cast<float>(largest);
}

// values[i] = round(row[i] * inverse_scale) + zero_point, ties to even. The sum
// with 1.5 * 2^23 leaves the rounded integer in the float's low bits, which
// vectorizes where lrintf does not. |row[i] * inverse_scale| <= 127 here.
HEARTH_VECTORIZED void quantize_row(const float* row, int64_t length, float inverse_scale,
                                    int32_t zero_point, uint8_t* values) {
  constexpr float kRounder = 12582912.0F;
  const int32_t bias = std::bit_cast<int32_t>(kRounder) - zero_point;
  for (int64_t i = 0; i < length; ++i) {
    const float shifted = row[i] * inverse_scale + kRounder;
    values[i] = static_cast<uint8_t>(std::bit_cast<int32_t>(shifted) - bias);
  }
}

HEARTH_VECTORIZED void scale_row(float* row, int64_t length, float scale, const float* bias) {
  if (bias == nullptr) {
    for (int64_t i = 0; i < length; ++i) {
      row[i] *= scale;
    }
    return;
  }
  for (int64_t i = 0; i < length; ++i) {
    row[i] = row[i] * scale + bias[i];
  }
}

int64_t rows_a_thread(int64_t columns) {
  return std::max<int64_t>(1, kRowElements / std::max<int64_t>(1, columns));
}

} // namespace

extern "C" {

int32_t hearth_qlinear_prepack(const at::Tensor* weight, at::Tensor** out, char** message) {
  return guarded(message, [&] {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qlinear_prepack", "");
    torch::jit::Stack stack{*weight, c10::IValue()};
    op.callBoxed(stack);
    *out = new at::Tensor(stack.at(0).toTensor());
  });
}

int32_t hearth_qlinear(const at::Tensor* values, int64_t zero_point, const at::Tensor* packed,
                       const at::Tensor* weight_scale, const at::Tensor* weight_zero_point,
                       at::Tensor** out, char** message) {
  return guarded(message, [&] {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qlinear_pointwise", "");
    const at::NoGradGuard no_grad;
    torch::jit::Stack stack;
    // The operator takes one activation scale a tensor; rows have their own,
    // which hearth_scale_rows multiplies in afterwards, and the bias with it.
    torch::jit::push(stack, *values, /*x_scale=*/1.0, zero_point, *packed, *weight_scale,
                     *weight_zero_point, /*bias=*/c10::IValue(), /*output_scale=*/1.0,
                     /*output_zero_point=*/int64_t{0},
                     /*output_dtype=*/static_cast<int64_t>(at::kFloat),
                     /*post_op_name=*/std::string("none"),
                     /*post_op_args=*/c10::List<std::optional<at::Scalar>>(),
                     /*post_op_algorithm=*/std::string());
    op.callBoxed(stack);
    *out = new at::Tensor(stack.at(0).toTensor());
  });
}

int32_t hearth_quantize_rows(const at::Tensor* rows, int32_t limit, const at::Tensor* values,
                             const at::Tensor* scales, char** message) {
  return guarded(message, [&] {
    const int64_t columns = rows->size(1);
    const float* source = rows->const_data_ptr<float>();
    uint8_t* sink = values->mutable_data_ptr<uint8_t>();
    float* scale = scales->mutable_data_ptr<float>();
    at::parallel_for(0, rows->size(0), rows_a_thread(columns), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        const float* row = source + m * columns;
        const float largest = largest_magnitude(row, columns);
        scale[m] = largest / static_cast<float>(limit);
        // A row of zeros (or of numbers too small to divide by) becomes zeros.
        const float inverse = static_cast<float>(limit) / largest;
        quantize_row(row, columns, std::isfinite(inverse) ? inverse : 0.0F, limit + 1, sink + m * columns);
      }
    });
  });
}

int32_t hearth_scale_rows(const at::Tensor* out, const at::Tensor* scales, const at::Tensor* bias,
                          char** message) {
  return guarded(message, [&] {
    const int64_t columns = out->size(1);
    float* sink = out->mutable_data_ptr<float>();
    const float* scale = scales->const_data_ptr<float>();
    const float* offset = bias == nullptr ? nullptr : bias->const_data_ptr<float>();
    at::parallel_for(0, out->size(0), rows_a_thread(columns), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        scale_row(sink + m * columns, columns, scale[m], offset);
      }
    });
  });
}
}
