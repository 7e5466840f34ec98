// Backward from given gradients, hooks, and automatic mixed precision.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Generator.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <mutex>

#include "status.hpp"

using hearth::guarded;
using hearth::tensor_list;

namespace {

// Owns a `user` and calls back with it.
class OnGradient {
 public:
  OnGradient(hearth_on_gradient callback, hearth_drop drop, const void* user)
      : callback_(callback), user_(user, drop) {}

  // What replaces the gradient; undefined where nothing does.
  at::Tensor operator()(const at::Tensor& tensor) const {
    char* message = nullptr;
    at::Tensor* replacement = nullptr;
    // A copy, because the hook may be removed while it runs.
    const std::shared_ptr<const void> user = user_;
    const int32_t status = callback_(user.get(), &tensor, &replacement, &message);
    const std::unique_ptr<at::Tensor> owned(replacement);
    hearth::heed(status, message);
    return owned == nullptr ? at::Tensor() : *owned;
  }

 private:
  hearth_on_gradient callback_;
  std::shared_ptr<const void> user_;
};

class AfterAccumulation : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit AfterAccumulation(OnGradient callback) : callback_(std::move(callback)) {}

  void operator()(const at::Tensor& tensor) override {
    const OnGradient callback = callback_;
    callback(tensor);
  }

 private:
  OnGradient callback_;
};

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

int32_t hearth_grad(const at::Tensor* const* outputs, const at::Tensor* const* gradients,
                    size_t count, const at::Tensor* const* inputs, size_t input_count,
                    const hearth_grad_options* options, at::Tensor** results, char** message) {
  return guarded(message, [&] {
    std::vector<at::Tensor> found = torch::autograd::grad(
        tensor_list(outputs, count), tensor_list(inputs, input_count),
        tensor_list(gradients, count), options->keep_graph || options->create_graph,
        options->create_graph, options->allow_unused);
    std::vector<std::unique_ptr<at::Tensor>> owned(input_count);
    for (size_t i = 0; i < input_count; ++i) {
      if (found.at(i).defined()) {
        owned[i] = std::make_unique<at::Tensor>(std::move(found[i]));
      }
    }
    for (size_t i = 0; i < input_count; ++i) {
      results[i] = owned[i].release();
    }
  });
}

int32_t hearth_hook_gradient(const at::Tensor* tensor, hearth_on_gradient callback,
                             hearth_drop drop, const void* user, uint32_t* position,
                             char** message) {
  return guarded(message, [&] {
    const OnGradient hook(callback, drop, user);
    *position = tensor->register_hook([hook](const at::Tensor& gradient) {
      const OnGradient own = hook;
      return own(gradient);
    });
  });
}

int32_t hearth_hook_gradient_remove(const at::Tensor* tensor, uint32_t position, char** message) {
  return guarded(message, [&] { tensor->remove_hook(position); });
}

int32_t hearth_hook_accumulated(const at::Tensor* tensor, hearth_on_gradient callback,
                                hearth_drop drop, const void* user, char** message) {
  return guarded(message, [&] {
    OnGradient hook(callback, drop, user);
    if (torch::autograd::impl::post_acc_grad_hooks(*tensor) != nullptr) {
      throw std::runtime_error("the tensor has such a hook already; remove it first");
    }
    torch::autograd::impl::set_post_acc_grad_hooks(
        *tensor, std::make_unique<AfterAccumulation>(std::move(hook)));
  });
}

int32_t hearth_hook_accumulated_remove(const at::Tensor* tensor, char** message) {
  return guarded(message,
                 [&] { torch::autograd::impl::set_post_acc_grad_hooks(*tensor, nullptr); });
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
