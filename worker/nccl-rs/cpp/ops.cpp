// Operators over lists of tensors, which tch leaves out.
#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>

#include "status.hpp"

using hearth::guarded;
using hearth::tensor_list;

namespace {

// Elements whose gradients are cast at once: 64 MB of f32.
constexpr int64_t kCastElements = 16 << 20;

// The end of the run of tensors from `start` with about kCastElements elements.
size_t run_end(const std::vector<at::Tensor>& tensors, size_t start) {
  int64_t elements = 0;
  size_t end = start;
  while (end < tensors.size() && (end == start || elements < kCastElements)) {
    elements += tensors[end++].numel();
  }
  return end;
}

} // namespace

extern "C" {

int32_t hearth_fused_adamw(const hearth_adamw* hyper, const at::Tensor* const* parameters,
                           const at::Tensor* const* gradients, const at::Tensor* const* exp_avgs,
                           const at::Tensor* const* exp_avg_sqs, const at::Tensor* const* steps,
                           const at::Tensor* const* copies, size_t count, char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> all = tensor_list(parameters, count);
    at::_foreach_add_(tensor_list(steps, count), 1);
    for (size_t start = 0, end = 0; start < count; start = end) {
      end = copies == nullptr ? count : run_end(all, start);
      const size_t length = end - start;
      const at::TensorList run(all.data() + start, length);
      std::vector<at::Tensor> cast = tensor_list(gradients + start, length);
      for (size_t i = 0; i < length; ++i) {
        cast[i] = cast[i].to(run[i].scalar_type());
      }
      at::_fused_adamw_(run, cast, tensor_list(exp_avgs + start, length),
                        tensor_list(exp_avg_sqs + start, length),
                        /*max_exp_avg_sqs=*/{}, tensor_list(steps + start, length),
                        hyper->learning_rate, hyper->beta1, hyper->beta2, hyper->weight_decay,
                        hyper->eps, /*amsgrad=*/false, /*maximize=*/false);
      if (copies != nullptr) {
        at::_foreach_copy_(tensor_list(copies + start, length), run);
      }
    }
  });
}

int32_t hearth_fused_sgd(const hearth_sgd* hyper, const at::Tensor* const* parameters,
                         const at::Tensor* const* gradients, size_t count,
                         const at::Tensor* const* velocities, size_t velocity_count,
                         char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    at::_fused_sgd_(tensor_list(parameters, count), tensor_list(gradients, count),
                    tensor_list(velocities, velocity_count), hyper->weight_decay, hyper->momentum,
                    hyper->learning_rate, hyper->dampening, hyper->nesterov, /*maximize=*/false,
                    hyper->first_step);
  });
}

int32_t hearth_zero(const at::Tensor* const* tensors, size_t count, char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    at::_foreach_zero_(tensor_list(tensors, count));
  });
}

int32_t hearth_total_norm(const at::Tensor* const* tensors, size_t count, double* norm,
                          char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> norms = at::_foreach_norm(tensor_list(tensors, count), 2);
    *norm = at::linalg_vector_norm(at::stack(norms), 2).item<double>();
  });
}

int32_t hearth_scale(const at::Tensor* const* tensors, size_t count, double factor,
                     char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    at::_foreach_mul_(tensor_list(tensors, count), factor);
  });
}

int32_t hearth_cpu_capability(char** name, char** message) {
  return guarded(message, [&] { *name = hearth::copy_text(at::get_cpu_capability().c_str()); });
}

int32_t hearth_use_deterministic_algorithms(char** message) {
  return guarded(message, [] {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setBenchmarkCuDNN(false);
  });
}
}
