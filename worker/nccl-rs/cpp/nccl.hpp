// The one function of libhearth_nccl.so, which links libtorch_cuda and is opened
// at run time, so that the worker itself starts without CUDA.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

extern "C" int32_t hearth_nccl_create(const c10::intrusive_ptr<c10d::Store>* store, int32_t rank,
                                      int32_t size, int32_t device, int64_t timeout_ms,
                                      c10::intrusive_ptr<c10d::Backend>* out, char** message);
