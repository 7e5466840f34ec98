// DDP's Reducer: averages gradients over ranks, bucket by bucket, from hooks
// that run as backward makes each gradient.
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <memory>
#include <numeric>
#include <optional>

#include "handles.hpp"
#include "status.hpp"
#include "work.hpp"

using hearth::guarded;
using hearth::tensor_list;

struct hearth_reducer {
  std::unique_ptr<c10d::Reducer> inner;
  size_t buckets;
  std::shared_ptr<std::atomic<bool>> aborted;
};

extern "C" {

int32_t hearth_reducer_new(const at::Tensor* const* parameters, const char* const* names,
                           size_t count, hearth_group* group, const hearth_reducer_options* options,
                           hearth_reducer** out, char** message) {
  return guarded(message, [&] {
    std::vector<at::Tensor> params = tensor_list(parameters, count);
    std::unordered_map<size_t, std::string> param_names;
    for (size_t i = 0; i < count; ++i) {
      param_names.emplace(i, names[i]);
    }
    const std::vector<bool> sparse(count, false);

    // Backward makes the last parameters' gradients first, so buckets are filled
    // from the end, and the first of them is small, to start talking early.
    const std::vector<at::Tensor> reversed(params.rbegin(), params.rend());
    std::vector<int64_t> order(count);
    std::iota(order.rbegin(), order.rend(), 0);
    auto assignment = c10d::compute_bucket_assignment_by_size(
        reversed, {options->first_bucket_bytes, options->bucket_bytes}, sparse, order);
    auto& buckets = std::get<0>(assignment);
    const size_t bucket_count = buckets.size();

    auto reducer = std::make_unique<c10d::Reducer>(
        std::move(params), std::move(buckets), group->process_group, sparse,
        static_cast<int64_t>(options->bucket_bytes), options->find_unused_parameters,
        options->gradient_as_bucket_view, std::move(param_names),
        static_cast<int64_t>(options->first_bucket_bytes),
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
        /*bucket_bytes_cap_list=*/std::vector<int64_t>{});
    *out = new hearth_reducer{std::move(reducer), bucket_count, group->aborted};
  });
}

size_t hearth_reducer_buckets(const hearth_reducer* reducer) {
  return reducer->buckets;
}

int32_t hearth_reducer_prepare(hearth_reducer* reducer, const at::Tensor* const* outputs,
                               size_t count, char** message) {
  return guarded(message,
                 [&] { reducer->inner->prepare_for_backward(tensor_list(outputs, count)); });
}

int32_t hearth_reducer_backward(hearth_reducer* reducer, const at::Tensor* const* outputs,
                                const at::Tensor* const* gradients, size_t count, char** message) {
  return guarded(message, [&] {
    hearth::unless_aborted(*reducer->aborted, [&] {
      const auto roots = tensor_list(outputs, count);
      // The engine runs callbacks after the last gradient, in the order in which
      // they came: this one before the reducer's, which waits for the buckets.
      const auto waiting = std::make_shared<std::optional<hearth::Waiting>>();
      const unsigned hook = roots.front().register_hook([waiting](const at::Tensor&) {
        torch::autograd::Engine::get_default_engine().queue_callback(
            [waiting] { waiting->emplace(); });
      });
      torch::autograd::backward(roots, tensor_list(gradients, count));
      waiting->reset();
      roots.front().remove_hook(hook);
      // A parameter that took no part leaves its bucket, and thus the average,
      // unfinished; c10d would tell only at the next step.
      reducer->inner->check_finalized();
    });
  });
}

void hearth_reducer_free(hearth_reducer* reducer) {
  char* message = nullptr;
  guarded(&message, [&] { delete reducer; });
  std::free(message);
}
}
