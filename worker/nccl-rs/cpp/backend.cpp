// CUDA, which is opened at run time where it is installed.
#include <ATen/Context.h>

#include <dlfcn.h>

#include "status.hpp"

extern "C" {

int32_t hearth_cuda_load(char** message) {
  return hearth::guarded(message, [] {
    // Its static initializers register the CUDA kernels with the dispatcher.
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      throw hearth::Unavailable(dlerror());
    }
  });
}

bool hearth_cuda_present(void) {
  char* message = nullptr;
  bool present = false;
  hearth::guarded(&message, [&] { present = at::hasCUDA(); });
  std::free(message);
  return present;
}
}
