// Collectives under way. Internal to the shim.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>
#include <thread>

#include "handles.hpp"
#include "status.hpp"

namespace hearth {

using Tensors = std::vector<at::Tensor>;

// A wait in Rust goes on this long after Gloo's own timeout should have fired,
// so that Gloo's message, which names the operation, is the one that is told.
constexpr std::chrono::milliseconds kBackstop{2000};

// Nanoseconds that this thread has waited for other ranks.
inline thread_local int64_t waited_nanoseconds = 0;

// A wait for other ranks, from its making to its end.
class Waiting {
 public:
  Waiting() = default;
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() {
    const std::chrono::nanoseconds passed = std::chrono::steady_clock::now() - began_;
    waited_nanoseconds += passed.count();
  }

 private:
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

} // namespace hearth

struct hearth_work {
  c10::intrusive_ptr<c10d::Work> work;
  std::shared_ptr<std::atomic<bool>> aborted;
  // Kept until the work is done, whoever else lets go of them.
  hearth::Tensors tensors;
  // Gloo has no average: the sum in tensors[0] is divided by this on completion.
  int64_t divisor;
  bool on_gpu;
  std::chrono::milliseconds timeout;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();

  // Blocks until the result may be read by this thread (and its CUDA stream).
  void wait() {
    const hearth::Waiting waiting;
    hearth::unless_aborted(*aborted, [&] {
      if (on_gpu) {
        wait_on_gpu();
      } else {
        work->wait(timeout + hearth::kBackstop);
      }
    });
    if (divisor > 1) {
      tensors.front().div_(divisor);
      divisor = 1;
    }
  }

 private:
  // WorkNCCL::wait only orders streams, and would return before a lost peer is
  // noticed; so completion is polled, with a deadline, first.
  void wait_on_gpu() {
    while (!work->isCompleted()) {
      if (std::chrono::steady_clock::now() - started > timeout) {
        throw std::runtime_error("timed out after " + std::to_string(timeout.count()) + " ms");
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (work->exception() != nullptr) {
      std::rethrow_exception(work->exception());
    }
    work->synchronize();
  }
};

namespace hearth {

inline hearth_work started(const hearth_group& group, c10::intrusive_ptr<c10d::Work> work,
                           Tensors tensors, int64_t divisor = 1) {
  return {std::move(work), group.aborted, std::move(tensors), divisor, !group.is_gloo(),
          group.timeout};
}

// What `op` becomes on this backend, and by what the result is to be divided.
inline std::pair<c10d::ReduceOp, int64_t> supported(const hearth_group& group, int32_t op) {
  if (op == HEARTH_AVG && group.is_gloo()) {
    return {c10d::ReduceOp::SUM, group.backend->getSize()};
  }
  return {{static_cast<c10d::ReduceOp::RedOpType>(op)}, 1};
}

inline hearth_work all_reduce(const hearth_group& group, const at::Tensor& tensor, int32_t op) {
  const auto [reduce, divisor] = supported(group, op);
  c10d::AllreduceOptions options;
  options.reduceOp = reduce;
  options.timeout = group.timeout;
  Tensors tensors{tensor};
  return started(group, group.backend->allreduce(tensors, options), tensors, divisor);
}

inline hearth_work all_gather(const hearth_group& group, const at::Tensor& output,
                              const at::Tensor& input) {
  c10d::AllgatherOptions options;
  options.timeout = group.timeout;
  // Flat, because Gloo wants the parts' shape to be the input's.
  at::Tensor whole = output.flatten();
  at::Tensor part = input.flatten();
  return started(group, group.backend->_allgather_base(whole, part, options), {whole, part});
}

inline hearth_work reduce_scatter(const hearth_group& group, const at::Tensor& output,
                                  const at::Tensor& input, int32_t op) {
  const auto [reduce, divisor] = supported(group, op);
  c10d::ReduceScatterOptions options;
  options.reduceOp = reduce;
  options.timeout = group.timeout;
  at::Tensor part = output.flatten();
  at::Tensor whole = input.flatten();
  return started(group, group.backend->_reduce_scatter_base(part, whole, options), {part, whole},
                 divisor);
}

inline hearth_work all_to_all(const hearth_group& group, const at::Tensor& output,
                              const at::Tensor& input, std::vector<int64_t> received,
                              std::vector<int64_t> sent) {
  c10d::AllToAllOptions options;
  options.timeout = group.timeout;
  at::Tensor to = output;
  at::Tensor from = input;
  return started(group, group.backend->alltoall_base(to, from, received, sent, options),
                 {to, from});
}

} // namespace hearth
