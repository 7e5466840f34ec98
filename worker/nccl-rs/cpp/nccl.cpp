// libhearth_nccl.so: makes c10d's NCCL process group (see build-nccl.sh).
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>

#include "nccl.hpp"
#include "status.hpp"

extern "C" __attribute__((visibility("default"))) int32_t hearth_nccl_create(
    const c10::intrusive_ptr<c10d::Store>* store, int32_t rank, int32_t size, int32_t device,
    int64_t timeout_ms, c10::intrusive_ptr<c10d::Backend>* out, char** message) {
  return hearth::guarded(message, [&] {
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    // c10d's watchdog would end the process on a timeout or a lost peer. Here
    // they are errors of the operation that was waited for (group.cpp), so it
    // only watches, unless whoever runs this asked otherwise.
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto backend =
        c10::make_intrusive<c10d::ProcessGroupNCCL>(*store, rank, size, std::move(options));
    backend->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    *out = std::move(backend);
  });
}
