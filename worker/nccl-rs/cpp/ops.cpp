// Operators over lists of tensors, which tch leaves out.
#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>

#include "status.hpp"

using hearth::guarded;
using hearth::tensor_list;

extern "C" {

int32_t hearth_fused_adamw(const hearth_adamw* hyper, const at::Tensor* const* parameters,
                           const at::Tensor* const* gradients, const at::Tensor* const* exp_avgs,
                           const at::Tensor* const* exp_avg_sqs, const at::Tensor* const* steps,
                           size_t count, char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> taken = tensor_list(steps, count);
    at::_foreach_add_(taken, 1);
    at::_fused_adamw_(tensor_list(parameters, count), tensor_list(gradients, count),
                      tensor_list(exp_avgs, count), tensor_list(exp_avg_sqs, count),
                      /*max_exp_avg_sqs=*/{}, taken, hyper->learning_rate, hyper->beta1,
                      hyper->beta2, hyper->weight_decay, hyper->eps, /*amsgrad=*/false,
                      /*maximize=*/false);
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
