// What the fused operators of the CPU share. Internal to the shim.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <bit>

#include "status.hpp"

// As qlinear.cpp's HEARTH_VECTORIZED, at the level at which GCC vectorizes loops of
// any length. What these functions call has to be inlined into each clone.
#define HEARTH_FUSED \
  __attribute__((optimize("O3"), target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define HEARTH_INLINE inline __attribute__((always_inline))

namespace hearth {

// The bits of a bf16: a struct would not be vectorized.
using Bf16 = uint16_t;

HEARTH_INLINE float load(float x) {
  return x;
}
HEARTH_INLINE float load(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
}
HEARTH_INLINE void store(float& to, float x) {
  to = x;
}
// To the nearest, ties to even; NaN stays one.
HEARTH_INLINE void store(Bf16& to, float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// Lanes of a sum, so that it is vectorized, and the same with every instruction set.
constexpr int64_t kLanes = 16;

template <typename T>
HEARTH_INLINE float sum_of_products(const T* a, const T* b, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += load(a[i + lane]) * load(b[i + lane]);
    }
  }
  for (; i < n; ++i) {
    lanes[0] += load(a[i]) * load(b[i]);
  }
  float sum = 0;
  for (const float lane : lanes) {
    sum += lane;
  }
  return sum;
}

// Elements that are worth a thread of their own.
constexpr int64_t kGrain = 1 << 15;

// Calls `body` with a pointer type for the tensor's elements.
template <typename Body>
void with_type(const at::Tensor& tensor, Body&& body) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      body(static_cast<float*>(nullptr));
      break;
    case at::kBFloat16:
      body(static_cast<Bf16*>(nullptr));
      break;
    default:
      throw std::runtime_error("only f32 and bf16 are fused");
  }
}

template <typename T>
const T* in(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* out_of(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Runs `forward` without recording, and where a gradient is wanted hangs `Back` on
// what it gives, prepared by `save`.
template <typename Back, typename Forward, typename Save, typename... Inputs>
at::Tensor recorded(Forward&& forward, Save&& save, const Inputs&... inputs) {
  at::Tensor output;
  {
    const at::NoGradGuard no_grad;
    output = forward();
  }
  if (torch::autograd::compute_requires_grad(inputs...)) {
    const std::shared_ptr<Back> node(new Back(), torch::autograd::deleteNode);
    node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
    save(*node);
    torch::autograd::set_history(output, node);
  }
  return output;
}

} // namespace hearth
