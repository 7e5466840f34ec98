// Process groups, their collectives and the works these give.
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include <dlfcn.h>

#include <chrono>
#include <memory>

#include "handles.hpp"
#include "nccl.hpp"
#include "status.hpp"
#include "work.hpp"

using hearth::guarded;
using hearth::started;
using hearth::Tensors;
using std::chrono::milliseconds;

namespace {

// No user's tag: those are 16 bits wide, doubled (see src/group.rs).
constexpr int kAbortTag = 1 << 30;

using Backend = c10::intrusive_ptr<c10d::Backend>;

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
    *out = new hearth_work(hearth::all_reduce(*group, *tensor, op));
  });
}

int32_t hearth_group_all_gather(hearth_group* group, const at::Tensor* output,
                                const at::Tensor* input, hearth_work** out, char** message) {
  return guarded(message, [&] {
    *out = new hearth_work(hearth::all_gather(*group, *output, *input));
  });
}

int32_t hearth_group_reduce_scatter(hearth_group* group, const at::Tensor* output,
                                    const at::Tensor* input, int32_t op, hearth_work** out,
                                    char** message) {
  return guarded(message, [&] {
    *out = new hearth_work(hearth::reduce_scatter(*group, *output, *input, op));
  });
}

int32_t hearth_group_broadcast(hearth_group* group, const at::Tensor* tensor, int32_t root,
                               hearth_work** out, char** message) {
  return guarded(message, [&] {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.timeout = group->timeout;
    Tensors tensors{*tensor};
    *out = new hearth_work(started(*group, group->backend->broadcast(tensors, options), tensors));
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
    *out = new hearth_work(started(*group, group->backend->barrier(options), {}));
  });
}

int32_t hearth_group_all_to_all(hearth_group* group, const at::Tensor* output,
                                const at::Tensor* input, const int64_t* received,
                                const int64_t* sent, hearth_work** out, char** message) {
  return guarded(message, [&] {
    const auto counts = [&](const int64_t* rows) {
      return rows == nullptr ? std::vector<int64_t>()
                             : std::vector<int64_t>(rows, rows + group->backend->getSize());
    };
    *out = new hearth_work(
        hearth::all_to_all(*group, *output, *input, counts(received), counts(sent)));
  });
}

int32_t hearth_group_reduce(hearth_group* group, const at::Tensor* tensor, int32_t op,
                            int32_t root, hearth_work** out, char** message) {
  return guarded(message, [&] {
    const auto [reduce, divisor] = hearth::supported(*group, op);
    c10d::ReduceOptions options;
    options.reduceOp = reduce;
    options.rootRank = root;
    options.timeout = group->timeout;
    Tensors tensors{*tensor};
    *out = new hearth_work(
        started(*group, group->backend->reduce(tensors, options), tensors, divisor));
  });
}

int32_t hearth_group_gather(hearth_group* group, const at::Tensor* output, const at::Tensor* input,
                            int32_t root, hearth_work** out, char** message) {
  return guarded(message, [&] {
    c10d::GatherOptions options;
    options.rootRank = root;
    options.timeout = group->timeout;
    Tensors inputs{*input};
    std::vector<Tensors> outputs;
    Tensors held{*input};
    if (output != nullptr) {
      outputs.push_back(output->unbind(0));
      held.push_back(*output);
    }
    *out = new hearth_work(
        started(*group, group->backend->gather(outputs, inputs, options), std::move(held)));
  });
}

int32_t hearth_group_scatter(hearth_group* group, const at::Tensor* output, const at::Tensor* input,
                             int32_t root, hearth_work** out, char** message) {
  return guarded(message, [&] {
    c10d::ScatterOptions options;
    options.rootRank = root;
    options.timeout = group->timeout;
    Tensors outputs{*output};
    std::vector<Tensors> inputs;
    Tensors held{*output};
    if (input != nullptr) {
      inputs.push_back(input->unbind(0));
      held.push_back(*input);
    }
    *out = new hearth_work(
        started(*group, group->backend->scatter(outputs, inputs, options), std::move(held)));
  });
}

int32_t hearth_group_send(hearth_group* group, const at::Tensor* tensor, int32_t to, int32_t tag,
                          hearth_work** out, char** message) {
  return guarded(message, [&] {
    Tensors tensors{*tensor};
    *out = new hearth_work(started(*group, group->backend->send(tensors, to, tag), tensors));
  });
}

int32_t hearth_group_recv(hearth_group* group, const at::Tensor* tensor, int32_t from, int32_t tag,
                          hearth_work** out, char** message) {
  return guarded(message, [&] {
    Tensors tensors{*tensor};
    *out = new hearth_work(started(*group, group->backend->recv(tensors, from, tag), tensors));
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

int64_t hearth_waited_nanoseconds() {
  return hearth::waited_nanoseconds;
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
