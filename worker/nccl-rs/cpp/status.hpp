// Turns exceptions into the status codes of shim.h. Internal to the shim.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

#include "shim.h"

namespace hearth {

// A library that is opened at run time is not there.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// This process aborted the group while the operation was under way.
struct Aborted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// c10d and Gloo tell a late peer from a lost one by the exception's type in some
// places and by its words only in others, so both are looked at. The words are
// those of libtorch 2.11; tests/faults.rs fails when they change.
inline int32_t classify(const std::type_info& type, std::string_view what) {
  const std::string_view name = type.name();
  const auto says = [what](std::string_view words) {
    return what.find(words) != std::string_view::npos;
  };
  if (name.find("Timeout") != std::string_view::npos || says("imed out") || says("timeout")) {
    return HEARTH_TIMEOUT;
  }
  for (const char* words :
       {"closed by peer", "reset by peer", "Connection closed", "Connection reset",
        "Connection was likely closed", "Connection refused", "Broken pipe", "Socket closed",
        "failed to recv", "NCCL communicator was aborted", "remote process exited"}) {
    if (says(words)) {
      return HEARTH_PEER_LOST;
    }
  }
  return HEARTH_FAILED;
}

inline char* copy_text(const char* text) noexcept {
  return strdup(text);
}

// Runs `body` and returns its status. The only door out of the shim.
template <typename Body>
int32_t guarded(char** message, Body&& body) noexcept {
  try {
    body();
    return HEARTH_OK;
  } catch (const Unavailable& error) {
    *message = copy_text(error.what());
    return HEARTH_UNAVAILABLE;
  } catch (const Aborted& error) {
    *message = copy_text(error.what());
    return HEARTH_PEER_LOST;
  } catch (const c10::Error& error) {
    // The backtrace names addresses in libtorch: of no use to who reads a log.
    *message = copy_text(error.what_without_backtrace());
    return classify(typeid(error), error.what_without_backtrace());
  } catch (const std::exception& error) {
    *message = copy_text(error.what());
    return classify(typeid(error), error.what());
  } catch (...) {
    *message = copy_text("an exception that is no std::exception");
    return HEARTH_FAILED;
  }
}

// Runs `body`; what it throws after an abort is told as the abort, since Gloo
// gives an aborted operation the words of one that timed out.
template <typename Body>
void unless_aborted(const std::atomic<bool>& aborted, Body&& body) {
  try {
    body();
  } catch (...) {
    if (aborted.load()) {
      throw Aborted("the process group was aborted by this process");
    }
    throw;
  }
}

// A null pointer in the list is an undefined tensor.
inline std::vector<at::Tensor> tensor_list(const at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    list.push_back(tensors[i] == nullptr ? at::Tensor() : *tensors[i]);
  }
  return list;
}

} // namespace hearth
