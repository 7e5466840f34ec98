// What the opaque handles of shim.h hold. Internal to the shim.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <atomic>
#include <memory>

struct hearth_store {
  c10::intrusive_ptr<c10d::TCPStore> inner;
};

struct hearth_group {
  c10::intrusive_ptr<c10d::Backend> backend;
  // What c10d's own code (the Reducer) takes: dispatches to `backend`.
  c10::intrusive_ptr<c10d::ProcessGroup> process_group;
  // Shared with works, reducers and abort handles, which may outlive the group.
  std::shared_ptr<std::atomic<bool>> aborted;
  at::Device device;
  std::chrono::milliseconds timeout;

  bool is_gloo() const {
    return device.is_cpu();
  }
};
