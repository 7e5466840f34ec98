// Element-wise parts of a decoder in one pass over memory, with gradients, on the
// CPU. libtorch composes them of operators that each read and write everything.
// (SwiGLU written this way was slower than libtorch's own kernels.)
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>

#include "fused.hpp"

using hearth::guarded;

namespace {

using hearth::Bf16;
using hearth::in;
using hearth::kGrain;
using hearth::kLanes;
using hearth::load;
using hearth::out_of;
using hearth::recorded;
using hearth::store;
using hearth::sum_of_products;
using hearth::with_type;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

template <typename T>
HEARTH_INLINE void rms_loop(const T* x, const T* weight, T* out, float* scale, float eps,
                            int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, x += width, out += width) {
    const float mean = sum_of_products(x, x, width) / static_cast<float>(width);
    const float r = 1.0f / __builtin_sqrtf(mean + eps);
    scale[row] = r;
    for (int64_t i = 0; i < width; ++i) {
      store(out[i], load(x[i]) * r * load(weight[i]));
    }
  }
}

// dx = r * (dy * w - x * r^2 * mean(dy * w * x)); dw += dy * x * r.
template <typename T>
HEARTH_INLINE void rms_back_loop(const T* grad, const T* x, const T* weight, const float* scale,
                                 T* d_x, float* d_weight, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, x += width, grad += width, d_x += width) {
    const float r = scale[row];
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const float product = load(grad[i + lane]) * load(x[i + lane]);
        lanes[lane] += product * load(weight[i + lane]);
        d_weight[i + lane] += product * r;
      }
    }
    for (; i < width; ++i) {
      const float product = load(grad[i]) * load(x[i]);
      lanes[0] += product * load(weight[i]);
      d_weight[i] += product * r;
    }
    float sum = 0;
    for (const float lane : lanes) {
      sum += lane;
    }
    const float back = sum / static_cast<float>(width) * r * r;
    for (int64_t j = 0; j < width; ++j) {
      store(d_x[j], r * (load(grad[j]) * load(weight[j]) - load(x[j]) * back));
    }
  }
}

// Of one head: (a, b) -> (a * cos - b * sin, b * cos + a * sin); sign -1 turns back.
template <typename T>
HEARTH_INLINE void rope_loop(const T* x, const float* cos, const float* sin, float sign, T* out,
                             int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = load(x[i]);
    const float b = load(x[half + i]);
    store(out[i], a * cos[i] - sign * b * sin[i]);
    store(out[half + i], b * cos[i] + sign * a * sin[i]);
  }
}

#define HEARTH_KERNELS(T)                                                                          \
  HEARTH_FUSED void rms_rows(const T* x, const T* weight, T* out, float* scale, float eps,         \
                             int64_t rows, int64_t width) {                                        \
    rms_loop(x, weight, out, scale, eps, rows, width);                                             \
  }                                                                                                \
  HEARTH_FUSED void rms_back_rows(const T* grad, const T* x, const T* weight, const float* scale,  \
                                  T* d_x, float* d_weight, int64_t rows, int64_t width) {          \
    rms_back_loop(grad, x, weight, scale, d_x, d_weight, rows, width);                             \
  }                                                                                                \
  HEARTH_FUSED void rope_row(const T* x, const float* cos, const float* sin, float sign, T* out,   \
                             int64_t half) {                                                       \
    rope_loop(x, cos, sin, sign, out, half);                                                       \
  }
HEARTH_KERNELS(float)
HEARTH_KERNELS(Bf16)
#undef HEARTH_KERNELS

std::pair<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& weight,
                                           double eps) {
  const int64_t width = weight.numel(), rows = x.numel() / width;
  at::Tensor out = at::empty_like(x);
  at::Tensor scale = at::empty({rows}, x.options().dtype(at::kFloat));
  with_type(x, [&]<typename T>(T*) {
    const T *xp = in<T>(x), *w = in<T>(weight);
    T* y = out_of<T>(out);
    auto* s = out_of<float>(scale);
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
      rms_rows(xp + begin * width, w, y + begin * width, s + begin, static_cast<float>(eps),
               end - begin, width);
    });
  });
  return {out, scale};
}

struct RmsNormBackward : torch::autograd::Node {
  SavedVariable x, weight, scale;

  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gradients[0].defined()) {
      return {at::Tensor(), at::Tensor()};
    }
    const at::Tensor grad = gradients[0].contiguous(), xs = x.unpack(), ws = weight.unpack(),
                     ss = scale.unpack();
    const int64_t width = ws.numel(), rows = xs.numel() / width;
    at::Tensor d_x = at::empty_like(xs);
    // A fixed number of parts, so that sums do not depend on the threads.
    constexpr int64_t kParts = 8;
    const int64_t each = (rows + kParts - 1) / kParts;
    at::Tensor d_weight = at::zeros({kParts, width}, xs.options().dtype(at::kFloat));
    with_type(xs, [&]<typename T>(T*) {
      const T *dy = in<T>(grad), *xp = in<T>(xs), *w = in<T>(ws);
      const auto* s = in<float>(ss);
      T* dx = out_of<T>(d_x);
      auto* dw = out_of<float>(d_weight);
      at::parallel_for(0, kParts, std::max<int64_t>(1, kGrain / (each * width + 1)),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t part = begin; part < end; ++part) {
                           const int64_t first = std::min(part * each, rows);
                           const int64_t last = std::min(first + each, rows);
                           rms_back_rows(dy + first * width, xp + first * width, w, s + first,
                                         dx + first * width, dw + part * width, last - first,
                                         width);
                         }
                       });
    });
    return {d_x, d_weight.sum(0).to(ws.scalar_type())};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    x.reset_data();
    weight.reset_data();
    scale.reset_data();
  }
};

// x [B, H, T, 2 * half] of any strides but dense heads, cos and sin [T, half] f32.
at::Tensor rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, float sign) {
  const int64_t heads = x.size(1), tokens = x.size(2), half = x.size(3) / 2;
  at::Tensor out = at::empty_like(x);
  if (out.stride(3) != 1) {
    out = at::empty(x.sizes(), x.options());
  }
  with_type(x, [&]<typename T>(T*) {
    const T* from = in<T>(x);
    T* to = out_of<T>(out);
    const auto *c = in<float>(cos), *s = in<float>(sin);
    const auto si = x.strides(), so = out.strides();
    at::parallel_for(0, x.size(0) * tokens, std::max<int64_t>(1, kGrain / (heads * half * 2)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) {
                         const int64_t b = i / tokens, t = i % tokens;
                         for (int64_t h = 0; h < heads; ++h) {
                           rope_row(from + b * si[0] + h * si[1] + t * si[2], c + t * half,
                                    s + t * half, sign, to + b * so[0] + h * so[1] + t * so[2],
                                    half);
                         }
                       }
                     });
  });
  return out;
}

struct RopeBackward : torch::autograd::Node {
  SavedVariable cos, sin;

  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gradients[0].defined()) {
      return {at::Tensor()};
    }
    const at::Tensor& grad = gradients[0];
    const at::Tensor dense = grad.stride(3) == 1 ? grad : grad.contiguous();
    return {rope(dense, cos.unpack(), sin.unpack(), -1.0f)};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    cos.reset_data();
    sin.reset_data();
  }
};

} // namespace

extern "C" {

int32_t hearth_rms_norm(const at::Tensor* x, const at::Tensor* weight, double eps,
                        at::Tensor** out, char** message) {
  return guarded(message, [&] {
    at::Tensor scale;
    *out = new at::Tensor(recorded<RmsNormBackward>(
        [&] {
          auto [output, scales] = rms_norm(*x, *weight, eps);
          scale = scales;
          return output;
        },
        [&](RmsNormBackward& node) {
          node.x = SavedVariable(*x, false);
          node.weight = SavedVariable(*weight, false);
          node.scale = SavedVariable(scale, false);
        },
        *x, *weight));
  });
}

int32_t hearth_rope(const at::Tensor* x, const at::Tensor* cos, const at::Tensor* sin,
                    at::Tensor** out, char** message) {
  return guarded(message, [&] {
    *out = new at::Tensor(recorded<RopeBackward>(
        [&] { return rope(*x, *cos, *sin, 1.0f); },
        [&](RopeBackward& node) {
          node.cos = SavedVariable(*cos, false);
          node.sin = SavedVariable(*sin, false);
        },
        *x));
  });
}
}
