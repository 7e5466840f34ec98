// Memory of parameters that comes and goes while autograd holds them.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include "status.hpp"

using hearth::guarded;
using hearth::tensor_list;

namespace {

// libtorch can have a storage refuse access (for its fake tensors), but not take
// that back. An explicit instantiation may name private members.
using Flag = bool c10::StorageImpl::*;
Flag refuses_access();
template <Flag flag>
struct Reveal {
  friend Flag refuses_access() {
    return flag;
  }
};
template struct Reveal<&c10::StorageImpl::throw_on_immutable_data_ptr_>;

c10::StorageImpl& storage_of(const at::Tensor& tensor) {
  return *tensor.storage().unsafeGetStorageImpl();
}

bool is_released(c10::StorageImpl& storage) {
  return storage.*refuses_access();
}

} // namespace

extern "C" {

int32_t hearth_storage_release(const at::Tensor* tensor, char** message) {
  return guarded(message, [&] {
    c10::StorageImpl& storage = storage_of(*tensor);
    if (is_released(storage)) {
      return;
    }
    if (storage.allocator() == nullptr || !storage.resizable()) {
      throw std::runtime_error("its memory is not libtorch's own; copy the tensor first");
    }
    // An access without memory would end the process; so it is an exception.
    storage.release_data_and_set_meta_custom_data_ptr_error_msg_(
        "the tensor's storage is released; restore it before it is used");
    storage.set_data_ptr_noswap(storage.allocator()->allocate(0));
  });
}

int32_t hearth_storage_restore(const at::Tensor* tensor, char** message) {
  return guarded(message, [&] {
    c10::StorageImpl& storage = storage_of(*tensor);
    if (!is_released(storage)) {
      return;
    }
    // The size was kept.
    at::DataPtr memory = storage.allocator()->allocate(storage.nbytes());
    storage.*refuses_access() = false;
    storage.set_data_ptr_noswap(std::move(memory));
  });
}

int32_t hearth_storage_bytes(const at::Tensor* tensor, size_t* bytes, char** message) {
  return guarded(message, [&] {
    c10::StorageImpl& storage = storage_of(*tensor);
    *bytes = is_released(storage) ? 0 : storage.nbytes();
  });
}

int32_t hearth_storage_replace(const at::Tensor* tensor, const at::Tensor* with, char** message) {
  return guarded(message, [&] { tensor->set_data(*with); });
}

int32_t hearth_refill(const at::Tensor* const* to, const at::Tensor* const* from, size_t count,
                      char** message) {
  return guarded(message, [&] {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> unversioned;
    for (const at::Tensor& tensor : tensor_list(to, count)) {
      // As `tensor.data`: the same memory with a version counter of its own.
      unversioned.push_back(tensor.variable_data());
    }
    at::_foreach_copy_(unversioned, tensor_list(from, count));
  });
}
}
