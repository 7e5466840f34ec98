// Process groups, their collectives and the works these give.
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include <dlfcn.h>

#include <chrono>
#include <memory>
#include <thread>

#include "handles.hpp"
#include "nccl.hpp"
#include "status.hpp"

using hearth::guarded;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// A wait in Rust goes on this long after Gloo's own timeout should have fired,
// so that Gloo's message, which names the operation, is the one that is told.
constexpr milliseconds kBackstop{2000};

// No user's tag: those are 16 bits wide, doubled (see src/group.rs).
constexpr int kAbortTag = 1 << 30;

using Backend = c10::intrusive_ptr<c10d::Backend>;
using Tensors = std::vector<at::Tensor>;

hearth_group* make_group(const c10::intrusive_ptr<c10d::Store>& store, Backend backend,
                         at::Device device, milliseconds timeout) {
  const auto type = device.is_cpu() ? c10d::ProcessGroup::BackendType::GLOO
                                    : c10d::ProcessGroup::BackendType::NCCL;
  auto process_group =
      c10::make_intrusive<c10d::ProcessGroup>(store, backend->getRank(), backend->getSize());
  process_group->setBackend(device.type(), type, backend);
  process_group->setDefaultBackend(type);
  return new hearth_group{std::move(backend), std::move(process_group),
                          std::make_shared<std::atomic<bool>>(false), device, timeout};
}

c10d::ReduceOp reduce_op(int32_t op) {
  return {static_cast<c10d::ReduceOp::RedOpType>(op)};
}

// Opens the NCCL library once a process; its symbols stay for good.
decltype(&hearth_nccl_create) nccl_entry(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    throw hearth::Unavailable(dlerror());
  }
  void* entry = dlsym(handle, "hearth_nccl_create");
  if (entry == nullptr) {
    throw hearth::Unavailable(std::string(library) + " lacks hearth_nccl_create");
  }
  return reinterpret_cast<decltype(&hearth_nccl_create)>(entry);
}

} // namespace

struct hearth_work {
  c10::intrusive_ptr<c10d::Work> work;
  std::shared_ptr<std::atomic<bool>> aborted;
  // Kept until the work is done, whoever else lets go of them.
  Tensors tensors;
  // Gloo has no average: the sum in tensors[0] is divided by this on completion.
  int64_t divisor;
  bool on_gpu;
  milliseconds timeout;
  steady_clock::time_point started = steady_clock::now();

  // Blocks until the result may be read by this thread (and its CUDA stream).
  void wait() {
    hearth::unless_aborted(*aborted, [&] {
      if (on_gpu) {
        wait_on_gpu();
      } else {
        work->wait(timeout + kBackstop);
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
      if (steady_clock::now() - started > timeout) {
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

namespace {

hearth_work* started(const hearth_group& group, c10::intrusive_ptr<c10d::Work> work,
                     Tensors tensors, int64_t divisor = 1) {
  return new hearth_work{std::move(work), group.aborted, std::move(tensors), divisor,
                         !group.is_gloo(), group.timeout};
}

// What `op` becomes on this backend, and by what the result is to be divided.
std::pair<c10d::ReduceOp, int64_t> supported(const hearth_group& group, int32_t op) {
  if (op == HEARTH_AVG && group.is_gloo()) {
    return {c10d::ReduceOp::SUM, group.backend->getSize()};
  }
  return {reduce_op(op), 1};
}

} // namespace

extern "C" {

int32_t hearth_group_gloo(hearth_store* store, int32_t rank, int32_t size, const char* address,
                          const char* interface, const char* name, int64_t timeout_ms,
                          hearth_group** out, char** message) {
  return guarded(message, [&] {
    const milliseconds timeout(timeout_ms);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(
        address != nullptr ? c10d::ProcessGroupGloo::createDeviceForHostname(address)
                           : c10d::ProcessGroupGloo::createDeviceForInterface(interface));
    // A store of its own, because a client is used by one thread at a time and
    // the group's may come to it at any time.
    c10::intrusive_ptr<c10d::Store> own = store->inner->clone();
    own->setTimeout(timeout);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(name, std::move(own));
    auto backend =
        c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, rank, size, std::move(options));
    *out = make_group(prefixed, std::move(backend), at::Device(at::kCPU), timeout);
  });
}

int32_t hearth_group_nccl(hearth_store* store, int32_t rank, int32_t size, int32_t device,
                          const char* library, const char* name, int64_t timeout_ms,
                          hearth_group** out, char** message) {
  return guarded(message, [&] {
    const auto create = nccl_entry(library);
    c10::intrusive_ptr<c10d::Store> own = store->inner->clone();
    own->setTimeout(milliseconds(timeout_ms));
    c10::intrusive_ptr<c10d::Store> prefixed =
        c10::make_intrusive<c10d::PrefixStore>(name, std::move(own));
    Backend backend;
    char* trouble = nullptr;
    if (create(&prefixed, rank, size, device, timeout_ms, &backend, &trouble) != HEARTH_OK) {
      const std::string text(trouble);
      std::free(trouble);
      throw std::runtime_error(text);
    }
    *out = make_group(prefixed, std::move(backend),
                      at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)),
                      milliseconds(timeout_ms));
  });
}

int32_t hearth_group_all_reduce(hearth_group* group, const at::Tensor* tensor, int32_t op,
                                hearth_work** out, char** message) {
  return guarded(message, [&] {
    const auto [reduce, divisor] = supported(*group, op);
    c10d::AllreduceOptions options;
    options.reduceOp = reduce;
    options.timeout = group->timeout;
    Tensors tensors{*tensor};
    *out = started(*group, group->backend->allreduce(tensors, options), tensors, divisor);
  });
}

int32_t hearth_group_all_gather(hearth_group* group, const at::Tensor* output,
                                const at::Tensor* input, hearth_work** out, char** message) {
  return guarded(message, [&] {
    c10d::AllgatherOptions options;
    options.timeout = group->timeout;
    // Flat, because Gloo wants the parts' shape to be the input's.
    at::Tensor whole = output->flatten();
    at::Tensor part = input->flatten();
    *out = started(*group, group->backend->_allgather_base(whole, part, options), {whole, part});
  });
}

int32_t hearth_group_reduce_scatter(hearth_group* group, const at::Tensor* output,
                                    const at::Tensor* input, int32_t op, hearth_work** out,
                                    char** message) {
  return guarded(message, [&] {
    const auto [reduce, divisor] = supported(*group, op);
    c10d::ReduceScatterOptions options;
    options.reduceOp = reduce;
    options.timeout = group->timeout;
    at::Tensor part = output->flatten();
    at::Tensor whole = input->flatten();
    *out = started(*group, group->backend->_reduce_scatter_base(part, whole, options),
                   {part, whole}, divisor);
  });
}

int32_t hearth_group_broadcast(hearth_group* group, const at::Tensor* tensor, int32_t root,
                               hearth_work** out, char** message) {
  return guarded(message, [&] {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.timeout = group->timeout;
    Tensors tensors{*tensor};
    *out = started(*group, group->backend->broadcast(tensors, options), tensors);
  });
}

int32_t hearth_group_broadcast_coalesced(hearth_group* group, const at::Tensor* const* tensors,
                                         size_t count, size_t buffer_bytes, int32_t root,
                                         char** message) {
  return guarded(message, [&] {
    hearth::unless_aborted(*group->aborted, [&] {
      const at::NoGradGuard no_grad;
      c10d::broadcast_coalesced(group->process_group, hearth::tensor_list(tensors, count),
                                buffer_bytes, root);
    });
  });
}

int32_t hearth_group_barrier(hearth_group* group, hearth_work** out, char** message) {
  return guarded(message, [&] {
    c10d::BarrierOptions options;
    options.timeout = group->timeout;
    if (!group->is_gloo()) {
      options.device = group->device;
    }
    *out = started(*group, group->backend->barrier(options), {});
  });
}

int32_t hearth_group_send(hearth_group* group, const at::Tensor* tensor, int32_t to, int32_t tag,
                          hearth_work** out, char** message) {
  return guarded(message, [&] {
    Tensors tensors{*tensor};
    *out = started(*group, group->backend->send(tensors, to, tag), tensors);
  });
}

int32_t hearth_group_recv(hearth_group* group, const at::Tensor* tensor, int32_t from, int32_t tag,
                          hearth_work** out, char** message) {
  return guarded(message, [&] {
    Tensors tensors{*tensor};
    *out = started(*group, group->backend->recv(tensors, from, tag), tensors);
  });
}

int32_t hearth_group_shutdown(hearth_group* group, char** message) {
  return guarded(message, [&] { group->backend->shutdown(); });
}

void hearth_group_free(hearth_group* group) {
  char* message = nullptr;
  guarded(&message, [&] { delete group; });
  std::free(message);
}

struct hearth_abort {
  c10::weak_intrusive_ptr<c10d::Backend> backend;
  std::shared_ptr<std::atomic<bool>> aborted;
  bool is_gloo;
};

hearth_abort* hearth_abort_new(const hearth_group* group) noexcept {
  return new hearth_abort{c10::weak_intrusive_ptr<c10d::Backend>(group->backend), group->aborted,
                          group->is_gloo()};
}

int32_t hearth_abort_trigger(const hearth_abort* handle, char** message) {
  return guarded(message, [&] {
    const Backend backend = handle->backend.lock();
    if (!backend || handle->aborted->exchange(true)) {
      return;
    }
    if (!handle->is_gloo) {
      backend->abort();
      return;
    }
    if (backend->getSize() == 1) {
      return;
    }
    // Gloo has no abort. But a receive that times out closes every connection
    // of its context, which fails all that is under way here and at the peers.
    Tensors nothing{at::zeros({1})};
    const int peer = backend->getRank() == 0 ? 1 : 0;
    try {
      backend->recv(nothing, peer, kAbortTag)->wait(milliseconds(1));
    } catch (const std::exception&) {
      // The timeout that was asked for.
    }
  });
}

void hearth_abort_free(hearth_abort* handle) {
  char* message = nullptr;
  guarded(&message, [&] { delete handle; });
  std::free(message);
}

int32_t hearth_work_wait(hearth_work* work, char** message) {
  return guarded(message, [&] { work->wait(); });
}

bool hearth_work_done(const hearth_work* work) {
  char* message = nullptr;
  bool done = false;
  // One that cannot tell is done: waiting for it then gives the error.
  if (guarded(&message, [&] { done = work->work->isCompleted(); }) != HEARTH_OK) {
    done = true;
    std::free(message);
  }
  return done;
}

void hearth_work_free(hearth_work* work) {
  char* message = nullptr;
  guarded(&message, [&] { delete work; });
  std::free(message);
}
}
