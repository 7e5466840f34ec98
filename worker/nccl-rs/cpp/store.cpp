// c10d's TCPStore.
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "handles.hpp"
#include "status.hpp"

using hearth::guarded;
using std::chrono::milliseconds;

extern "C" {

void hearth_message_free(char* message) {
  std::free(message);
}

int32_t hearth_store_open(const char* host, uint16_t port, int32_t listen_fd, size_t world_size,
                          int64_t timeout_ms, hearth_store** out, char** message) {
  return guarded(message, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listen_fd >= 0;
    options.timeout = milliseconds(timeout_ms);
    options.waitWorkers = world_size > 0;
    if (world_size > 0) {
      options.numWorkers = world_size;
    }
    if (listen_fd >= 0) {
      options.masterListenFd = listen_fd;
    }
    *out = new hearth_store{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

int32_t hearth_store_set(hearth_store* store, const char* key, const uint8_t* value, size_t length,
                         char** message) {
  return guarded(message,
                 [&] { store->inner->set(key, std::vector<uint8_t>(value, value + length)); });
}

int32_t hearth_store_get(hearth_store* store, const char* key, uint8_t** value, size_t* length,
                         char** message) {
  return guarded(message, [&] {
    const std::vector<uint8_t> bytes = store->inner->get(key);
    // malloc(0) may be null, which the caller would take for a failure.
    auto* copy = static_cast<uint8_t*>(std::malloc(bytes.size() + 1));
    if (copy == nullptr) {
      throw std::bad_alloc();
    }
    std::memcpy(copy, bytes.data(), bytes.size());
    *value = copy;
    *length = bytes.size();
  });
}

int32_t hearth_store_add(hearth_store* store, const char* key, int64_t amount, int64_t* sum,
                         char** message) {
  return guarded(message, [&] { *sum = store->inner->add(key, amount); });
}

int32_t hearth_store_wait(hearth_store* store, const char* const* keys, size_t count,
                          int64_t timeout_ms, char** message) {
  return guarded(message, [&] {
    store->inner->wait(std::vector<std::string>(keys, keys + count), milliseconds(timeout_ms));
  });
}

int32_t hearth_store_contains(hearth_store* store, const char* key, bool* found, char** message) {
  return guarded(message, [&] { *found = store->inner->check({key}); });
}

int32_t hearth_store_delete(hearth_store* store, const char* key, bool* deleted, char** message) {
  return guarded(message, [&] { *deleted = store->inner->deleteKey(key); });
}

uint16_t hearth_store_port(const hearth_store* store) {
  return store->inner->getPort();
}

void hearth_store_free(hearth_store* store) {
  char* message = nullptr;
  guarded(&message, [&] { delete store; });
  std::free(message);
}
}
