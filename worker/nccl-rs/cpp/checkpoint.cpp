// Activation checkpointing without a nested backward, as PyTorch's
// `checkpoint(use_reentrant=False)`: the graph is recorded as ever, but in place
// of each tensor that it would save there is a ticket. The first ticket that
// backward redeems has the closure run again; what that saves, in the same
// order, is what the tickets stand for. Hooks of parameters, DDP's among them,
// see one ordinary backward.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Generator.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>

#include "status.hpp"

using hearth::guarded;

// Named, because the handle that goes out holds some of it.
namespace checkpointing {

using Hooks = std::unique_ptr<torch::autograd::SavedVariableHooks>;

// Gives hooks to every tensor that this thread's graph saves.
struct Recorder {
  virtual ~Recorder() = default;
  virtual Hooks hooks() = 0;
};

thread_local Recorder* recorder = nullptr;

// libtorch asks its engine for the default hooks; its own knows Python's only.
struct RecordingEngine : torch::autograd::Engine {
  Hooks get_default_saved_variable_hooks() override {
    return recorder == nullptr ? nullptr : recorder->hooks();
  }

  static torch::autograd::Engine& get() {
    // Never destroyed: its threads may outlive main.
    static auto* const engine = new RecordingEngine();
    return *engine;
  }

  static void install() {
    static std::once_flag once;
    std::call_once(once, [] { torch::autograd::set_default_engine_stub(get); });
  }
};

class Recording {
 public:
  explicit Recording(Recorder* now) : before_(std::exchange(recorder, now)) {}
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() {
    recorder = before_;
  }

 private:
  Recorder* before_;
};

// The random generators of the CPU and of the inputs' devices.
class Generators {
 public:
  explicit Generators(const std::vector<at::Device>& devices) {
    for (const at::Device device : devices) {
      at::Generator generator = at::globalContext().defaultGenerator(device);
      const std::lock_guard<std::mutex> lock(generator.mutex());
      states_.emplace_back(generator, generator.get_state());
    }
  }

  void restore() {
    for (auto& [generator, state] : states_) {
      const std::lock_guard<std::mutex> lock(generator.mutex());
      generator.set_state(state);
    }
  }

 private:
  std::vector<std::pair<at::Generator, at::Tensor>> states_;
};

// Autocast's state, which backward does not carry.
class Autocast {
 public:
  Autocast() {
    for (size_t i = 0; i < kDevices.size(); ++i) {
      states_[i] = {at::autocast::is_autocast_enabled(kDevices[i]),
                    at::autocast::get_autocast_dtype(kDevices[i])};
    }
  }

  void restore() const {
    for (size_t i = 0; i < kDevices.size(); ++i) {
      at::autocast::set_autocast_enabled(kDevices[i], states_[i].first);
      at::autocast::set_autocast_dtype(kDevices[i], states_[i].second);
    }
  }

 private:
  static constexpr std::array<at::DeviceType, 2> kDevices{at::kCPU, at::kCUDA};
  std::array<std::pair<bool, at::ScalarType>, 2> states_;
};

// Puts the state of the forward pass in force, and on leaving what was before.
class AsInForward {
 public:
  AsInForward(Generators& generators, const Autocast& autocast,
              const std::vector<at::Device>& devices)
      : before_(devices) {
    generators.restore();
    autocast.restore();
    at::autocast::increment_nesting();
  }
  AsInForward(const AsInForward&) = delete;
  AsInForward& operator=(const AsInForward&) = delete;
  ~AsInForward() {
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    autocast_before_.restore();
    before_.restore();
  }

 private:
  Generators before_;
  Autocast autocast_before_;
  at::AutoGradMode gradients_{true};
};

// What has to be the same when a tensor is made anew.
struct Signature {
  std::vector<int64_t> sizes;
  at::ScalarType type;
  at::Device device;

  explicit Signature(const at::Tensor& tensor)
      : sizes(tensor.sizes().vec()), type(tensor.scalar_type()), device(tensor.device()) {}
  bool operator==(const Signature&) const = default;

  std::string text() const {
    return c10::str(at::IntArrayRef(sizes), " ", type, " on ", device);
  }
};

struct Input {
  // Off the graph: a frame that held it would hold what came before.
  at::Tensor tensor;
  bool requires_grad;
  int64_t version;
};

// Ends the closure when all that is wanted has been made.
struct Enough : std::runtime_error {
  Enough() : std::runtime_error("the checkpoint has all that it needs") {}
};

// One run of a closure: what its graph would have saved, and how to make it.
class Frame {
 public:
  Frame(hearth_recompute callback, hearth_drop drop, const void* user,
        const std::vector<at::Tensor>& inputs)
      : callback_(callback), user_(user), drop_(drop) {
    devices_.emplace_back(at::kCPU);
    for (const at::Tensor& input : inputs) {
      inputs_.push_back({input.detach(), input.requires_grad(), input._version()});
      if (std::find(devices_.begin(), devices_.end(), input.device()) == devices_.end()) {
        devices_.push_back(input.device());
      }
    }
    generators_.emplace(devices_);
  }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  ~Frame() {
    if (drop_ != nullptr) {
      drop_(user_);
    }
  }

  // Leaves `user` to the caller.
  void disown() {
    drop_ = nullptr;
  }

  // The ticket for a tensor that is saved.
  size_t note(const at::Tensor& tensor) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    saved_.emplace_back(tensor);
    wanted_.push_back(true);
    return saved_.size() - 1;
  }

  at::Tensor redeem(size_t ticket) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    if (made_.empty()) {
      recompute();
    }
    return made_.at(ticket);
  }

  // Nobody will redeem this one again.
  void forget(size_t ticket) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    wanted_.at(ticket) = false;
    if (!made_.empty()) {
      made_[ticket].reset();
    }
  }

  // Of the recomputation: the next tensor that is saved.
  void keep(const at::Tensor& tensor) {
    if (making_.size() < saved_.size()) {
      const Signature& before = saved_[making_.size()];
      const Signature now(tensor);
      if (!(now == before)) {
        differs_ = c10::str("saved tensor ", making_.size(), " was ", before.text(), ", now it is ",
                            now.text());
        throw std::runtime_error(differs_);
      }
      making_.push_back(wanted_[making_.size()] ? tensor.detach() : at::Tensor());
    }
    if (making_.size() == saved_.size()) {
      throw Enough();
    }
  }

 private:
  void recompute();

  hearth_recompute callback_;
  const void* user_;
  hearth_drop drop_;
  std::vector<Input> inputs_;
  std::vector<at::Device> devices_;
  std::optional<Generators> generators_;
  Autocast autocast_;

  // Recursive, because the closure may let go of tickets.
  std::recursive_mutex mutex_;
  std::vector<Signature> saved_;
  std::vector<bool> wanted_;
  // Empty until recomputed.
  std::vector<at::Tensor> made_;
  std::vector<at::Tensor> making_;
  std::string differs_;
};

struct Ticket : torch::autograd::SavedVariableHooks {
  std::shared_ptr<Frame> frame;
  std::optional<size_t> number;

  explicit Ticket(std::shared_ptr<Frame> frame) : frame(std::move(frame)) {}
  ~Ticket() override {
    if (number) {
      frame->forget(*number);
    }
  }

  void call_pack_hook(const at::Tensor& tensor) override {
    number = frame->note(tensor);
  }
  at::Tensor call_unpack_hook() override {
    return frame->redeem(number.value());
  }
};

struct Maker : torch::autograd::SavedVariableHooks {
  Frame* frame;

  explicit Maker(Frame* frame) : frame(frame) {}

  void call_pack_hook(const at::Tensor& tensor) override {
    frame->keep(tensor);
  }
  at::Tensor call_unpack_hook() override {
    throw std::runtime_error("a checkpointed closure cannot run backward");
  }
};

struct ForwardRecorder : Recorder {
  std::shared_ptr<Frame> frame;

  explicit ForwardRecorder(std::shared_ptr<Frame> frame) : frame(std::move(frame)) {}
  Hooks hooks() override {
    return std::make_unique<Ticket>(frame);
  }
};

struct RecomputeRecorder : Recorder {
  Frame* frame;

  explicit RecomputeRecorder(Frame* frame) : frame(frame) {}
  Hooks hooks() override {
    return std::make_unique<Maker>(frame);
  }
};

void Frame::recompute() {
  std::vector<at::Tensor> inputs;
  std::vector<const at::Tensor*> pointers;
  inputs.reserve(inputs_.size());
  for (const Input& input : inputs_) {
    if (input.tensor._version() != input.version) {
      throw std::runtime_error("an input of the checkpoint was changed in place since forward");
    }
    inputs.push_back(input.tensor.detach().set_requires_grad(input.requires_grad));
    pointers.push_back(&inputs.back());
  }

  making_.clear();
  differs_.clear();
  RecomputeRecorder maker(this);
  char* message = nullptr;
  int32_t status = HEARTH_OK;
  {
    const AsInForward as_in_forward(*generators_, autocast_, devices_);
    const Recording recording(&maker);
    status = callback_(user_, pointers.data(), pointers.size(), &message);
  }
  std::vector<at::Tensor> made = std::move(making_);
  making_.clear();
  if (made.size() == saved_.size()) {
    // An error, if any, is that of `Enough`.
    std::free(message);
    made_ = std::move(made);
    return;
  }
  if (!differs_.empty()) {
    std::free(message);
    throw std::runtime_error("the checkpointed closure is not the same again: " + differs_);
  }
  hearth::heed(status, message);
  throw std::runtime_error(c10::str("the checkpointed closure is not the same again: it saved ",
                                    saved_.size(), " tensors, now ", made.size()));
}

} // namespace checkpointing

struct hearth_checkpoint {
  checkpointing::ForwardRecorder recorder;
  checkpointing::Recording recording;

  explicit hearth_checkpoint(std::shared_ptr<checkpointing::Frame> frame)
      : recorder(std::move(frame)), recording(&recorder) {}
};

extern "C" {

int32_t hearth_checkpoint_begin(hearth_recompute callback, hearth_drop drop, const void* user,
                                const at::Tensor* const* inputs, size_t count,
                                hearth_checkpoint** out, char** message) {
  return guarded(message, [&] {
    *out = nullptr;
    // In a checkpoint, this one's share is recorded by the outer one.
    if (checkpointing::recorder != nullptr || !at::GradMode::is_enabled()) {
      return;
    }
    checkpointing::RecordingEngine::install();
    auto frame = std::make_shared<checkpointing::Frame>(callback, drop, user,
                                                        hearth::tensor_list(inputs, count));
    try {
      *out = new hearth_checkpoint(frame);
    } catch (...) {
      frame->disown();
      throw;
    }
  });
}

void hearth_checkpoint_end(hearth_checkpoint* checkpoint) {
  char* message = nullptr;
  guarded(&message, [&] { delete checkpoint; });
  std::free(message);
}
}
