// Backward from given gradients, random generators, and automatic mixed precision.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Generator.h>
#include <torch/csrc/autograd/autograd.h>

#include <mutex>

#include "status.hpp"

using hearth::guarded;
using hearth::tensor_list;

namespace {

at::Generator default_generator(int32_t device_type, int32_t index) {
  const at::Device device(static_cast<at::DeviceType>(device_type),
                          static_cast<at::DeviceIndex>(index));
  return at::globalContext().defaultGenerator(device);
}

} // namespace

extern "C" {

int32_t hearth_backward(const at::Tensor* const* outputs, const at::Tensor* const* gradients,
                        size_t count, bool keep_graph, char** message) {
  return guarded(message, [&] {
    torch::autograd::backward(tensor_list(outputs, count), tensor_list(gradients, count),
                              keep_graph);
  });
}

bool hearth_grad_enabled(void) {
  return at::GradMode::is_enabled();
}

int32_t hearth_set_grad(const at::Tensor* tensor, const at::Tensor* gradient, char** message) {
  return guarded(message, [&] {
    tensor->mutable_grad() = gradient == nullptr ? at::Tensor() : *gradient;
  });
}

int32_t hearth_generator_state(int32_t device_type, int32_t index, at::Tensor** out,
                               char** message) {
  return guarded(message, [&] {
    at::Generator generator = default_generator(device_type, index);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    *out = new at::Tensor(generator.get_state());
  });
}

int32_t hearth_generator_restore(int32_t device_type, int32_t index, const at::Tensor* state,
                                 char** message) {
  return guarded(message, [&] {
    at::Generator generator = default_generator(device_type, index);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

int32_t hearth_autocast_enter(hearth_autocast* state, char** message) {
  return guarded(message, [&] {
    const auto device = static_cast<at::DeviceType>(state->device_type);
    const hearth_autocast before{state->device_type, at::autocast::is_autocast_enabled(device),
                                 static_cast<int8_t>(at::autocast::get_autocast_dtype(device))};
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(state->kind));
    at::autocast::set_autocast_enabled(device, state->enabled);
    at::autocast::increment_nesting();
    *state = before;
  });
}

int32_t hearth_autocast_exit(const hearth_autocast* before, char** message) {
  return guarded(message, [&] {
    const auto device = static_cast<at::DeviceType>(before->device_type);
    // The casts of weights, which an optimizer's step would make stale.
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_enabled(device, before->enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(before->kind));
  });
}
}
