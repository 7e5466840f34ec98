// A language model's output layer with its loss, by blocks of rows: memory holds the
// logits of one block, forward and backward. The idea is that of Liger-Kernel's
// FusedLinearCrossEntropy (Hsu et al. 2024, arXiv:2410.10989): the loss is a sum, so
// that its gradients are known, up to one factor, as soon as the logits are.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "status.hpp"

using hearth::guarded;

namespace output_head {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// What matrix products are computed in: autocast's kind where it is on.
at::ScalarType compute_kind(const at::Tensor& input) {
  const auto device = input.device().type();
  return at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device)
                                                   : input.scalar_type();
}

// No graph, and no casts that autocast would keep: they would have none either.
struct Plain {
  at::NoGradGuard no_grad;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

bool wanted(const at::Tensor& tensor) {
  return at::GradMode::is_enabled() && tensor.requires_grad();
}

// hidden [N, D] and weight [V, D] in what products are computed in; their logits
// [block, V], in f32, in memory that is used again.
class Logits {
 public:
  Logits(const at::Tensor& hidden, const at::Tensor& weight, at::ScalarType kind, int64_t block)
      : hidden(hidden.to(kind)), weight(weight.to(kind)) {
    const int64_t rows = std::min(block, hidden.size(0));
    product_ = at::empty({rows, weight.size(0)}, this->hidden.options());
    logits_ = kind == at::kFloat ? product_ : at::empty_like(product_, at::kFloat);
  }

  at::Tensor of(int64_t begin, int64_t count) {
    at::Tensor product = product_.narrow(0, 0, count);
    at::mm_out(product, rows(begin, count), weight.t());
    at::Tensor logits = logits_.narrow(0, 0, count);
    if (logits.scalar_type() != product.scalar_type()) {
      logits.copy_(product);
    }
    return logits;
  }

  // The gradient by the logits, in the kind of products.
  at::Tensor rounded(const at::Tensor& gradient) {
    if (gradient.scalar_type() == product_.scalar_type()) {
      return gradient;
    }
    at::Tensor product = product_.narrow(0, 0, gradient.size(0));
    product.copy_(gradient);
    return product;
  }

  at::Tensor rows(int64_t begin, int64_t count) const { return hidden.narrow(0, begin, count); }

  const at::Tensor hidden, weight;

 private:
  at::Tensor product_, logits_;
};

// Gradients by hidden and weight, block by block.
class Gradients {
 public:
  Gradients(const at::Tensor& hidden, const at::Tensor& weight, bool by_hidden, bool by_weight) {
    if (by_hidden) {
      d_hidden = at::empty(hidden.sizes(), hidden.options());
    }
    if (by_weight) {
      d_weight = at::zeros(weight.sizes(), weight.options().dtype(at::kFloat));
    }
  }

  bool any() const { return d_hidden.defined() || d_weight.defined(); }

  void add(const Logits& of, const at::Tensor& d_logits, int64_t begin) {
    const int64_t count = d_logits.size(0);
    if (d_hidden.defined()) {
      at::Tensor to = d_hidden.narrow(0, begin, count);
      if (to.scalar_type() == d_logits.scalar_type()) {
        at::mm_out(to, d_logits, of.weight);
      } else {
        to.copy_(at::mm(d_logits, of.weight));
      }
    }
    if (d_weight.defined()) {
      const at::Tensor rows = of.rows(begin, count);
      if (d_logits.scalar_type() == at::kFloat) {
        d_weight.addmm_(d_logits.t(), rows);
      } else {
        d_weight.add_(at::mm(d_logits.t(), rows));
      }
    }
  }

  at::Tensor d_hidden, d_weight;
};

// Sum of the cross-entropies of a block against targets [B], of which `smoothing` is
// spread over all classes. Leaves the gradient in place of the logits if it is wanted.
at::Tensor cross_entropy(at::Tensor& logits, const at::Tensor& targets, double smoothing,
                         bool with_gradient) {
  const at::Tensor at_target = targets.unsqueeze(1);
  at::Tensor sum = logits.gather(1, at_target).sum(at::kDouble).mul_(smoothing - 1);
  if (smoothing > 0) {
    sum.sub_(logits.mean(1).sum(at::kDouble), smoothing);
  }
  const at::Tensor largest = logits.amax(1, true);
  logits.sub_(largest).exp_();
  const at::Tensor total = logits.sum(1, true);
  sum.add_((total.log() + largest).sum(at::kDouble));
  if (with_gradient) {
    logits.div_(total);
    if (smoothing > 0) {
      logits.sub_(smoothing / static_cast<double>(logits.size(1)));
    }
    logits.scatter_add_(1, at_target, at::full_like(at_target, smoothing - 1, logits.options()));
  }
  return sum;
}

// alpha T^2 KL(teacher || student) at temperature T, plus 1 - alpha times the
// cross-entropy, summed over a block. Leaves the gradient in place of the logits.
at::Tensor distillation(at::Tensor& logits, const at::Tensor& teacher, const at::Tensor& targets,
                        const hearth_linear_loss_options& options, bool with_gradient) {
  const double t = options.temperature, alpha = options.alpha;
  const at::Tensor log_q = at::log_softmax(teacher / t, 1);
  at::Tensor log_p = at::log_softmax(logits / t, 1);
  const at::Tensor q = log_q.exp();
  // Where q is 0, its logarithm counts as nothing.
  const at::Tensor divergence =
      at::where(q > 0, q * (log_q - log_p), at::zeros({}, q.options())).sum(at::kDouble);
  at::Tensor soft = log_p.exp_().sub_(q).mul_(alpha * t);
  at::Tensor hard = cross_entropy(logits, targets, options.smoothing, with_gradient);
  if (with_gradient) {
    logits.mul_(1 - alpha).add_(soft);
  }
  return hard.mul_(1 - alpha).add_(divergence, alpha * t * t);
}

// Known gradients, waiting for their factor.
struct LinearLossBackward : torch::autograd::Node {
  SavedVariable d_hidden, d_weight;
  at::ScalarType weight_kind = at::kFloat;

  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const at::Tensor& factor = gradients[0];
    if (!factor.defined()) {
      return {at::Tensor(), at::Tensor()};
    }
    // Nobody asks for them again unless the graph is kept: they are scaled where they
    // are, and become a parameter's gradient without a copy.
    const bool kept = torch::autograd::get_current_graph_task_keep_graph();
    const at::NoGradGuard no_grad;
    const auto scaled = [&](SavedVariable& saved) {
      at::Tensor known = saved.unpack();
      if (!known.defined()) {
        return known;
      }
      const at::Tensor own = factor.to(known.scalar_type());
      if (kept) {
        return known * own;
      }
      saved.reset_data();
      return known.mul_(own);
    };
    at::Tensor by_hidden = scaled(d_hidden), by_weight = scaled(d_weight);
    if (by_weight.defined()) {
      by_weight = by_weight.to(weight_kind);
    }
    return {by_hidden, by_weight};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    d_hidden.reset_data();
    d_weight.reset_data();
  }
};

// The logits are made anew, since the factors of the rows are known only here.
struct LogProbsBackward : torch::autograd::Node {
  SavedVariable hidden, weight, targets, log_total;
  at::ScalarType kind = at::kFloat;
  int64_t block = 0;

  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gradients[0].defined()) {
      return {at::Tensor(), at::Tensor()};
    }
    const Plain plain;
    const at::Tensor h = hidden.unpack(), w = weight.unpack(), y = targets.unpack();
    const at::Tensor total = log_total.unpack();
    const at::Tensor factors = gradients[0].to(at::kFloat).unsqueeze(1);
    Logits logits(h, w, kind, block);
    Gradients found(h, w, task_should_compute_output(0), task_should_compute_output(1));
    for (int64_t begin = 0; begin < h.size(0); begin += block) {
      const int64_t count = std::min(block, h.size(0) - begin);
      at::Tensor d = logits.of(begin, count);
      const at::Tensor factor = factors.narrow(0, begin, count);
      d.sub_(total.narrow(0, begin, count).unsqueeze(1)).exp_().mul_(-factor);
      d.scatter_add_(1, y.narrow(0, begin, count).unsqueeze(1), factor.contiguous());
      found.add(logits, logits.rounded(d), begin);
    }
    if (found.d_weight.defined()) {
      found.d_weight = found.d_weight.to(w.scalar_type());
    }
    return {found.d_hidden, found.d_weight};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    hidden.reset_data();
    weight.reset_data();
    targets.reset_data();
    log_total.reset_data();
  }
};

// Hangs a node of two inputs on `output`.
template <typename Back, typename Save>
void record(at::Tensor& output, const at::Tensor& hidden, const at::Tensor& weight, Save&& save) {
  const std::shared_ptr<Back> node(new Back(), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(hidden, weight));
  save(*node);
  torch::autograd::set_history(output, node);
}

} // namespace output_head

extern "C" {

int32_t hearth_linear_loss(const hearth_linear_loss_options* options, const at::Tensor* hidden,
                           const at::Tensor* weight, const at::Tensor* targets,
                           const at::Tensor* teacher_hidden, const at::Tensor* teacher_weight,
                           at::Tensor** loss, at::Tensor** hits, char** message) {
  using namespace output_head;
  return guarded(message, [&] {
    const auto kind = compute_kind(*hidden);
    Gradients gradients(*hidden, *weight, wanted(*hidden), wanted(*weight));
    at::Tensor sum = at::zeros({}, hidden->options().dtype(at::kDouble).requires_grad(false));
    at::Tensor right = at::zeros({}, targets->options());
    {
      const Plain plain;
      Logits logits(*hidden, *weight, kind, options->block);
      std::optional<Logits> teacher;
      if (teacher_hidden != nullptr) {
        teacher.emplace(*teacher_hidden, *teacher_weight, kind, options->block);
      }
      for (int64_t begin = 0; begin < hidden->size(0); begin += options->block) {
        const int64_t count = std::min(options->block, hidden->size(0) - begin);
        at::Tensor block = logits.of(begin, count);
        const at::Tensor y = targets->narrow(0, begin, count);
        if (hits != nullptr) {
          right.add_(block.argmax(1).eq(y).sum());
        }
        sum.add_(teacher.has_value()
                     ? distillation(block, teacher->of(begin, count), y, *options, gradients.any())
                     : cross_entropy(block, y, options->smoothing, gradients.any()));
        if (gradients.any()) {
          gradients.add(logits, logits.rounded(block), begin);
        }
      }
      sum = sum.to(at::kFloat);
    }
    if (gradients.any()) {
      record<LinearLossBackward>(sum, *hidden, *weight, [&](LinearLossBackward& node) {
        node.d_hidden = SavedVariable(gradients.d_hidden, false);
        node.d_weight = SavedVariable(gradients.d_weight, false);
        node.weight_kind = weight->scalar_type();
      });
    }
    auto owned = std::make_unique<at::Tensor>(std::move(sum));
    if (hits != nullptr) {
      *hits = new at::Tensor(std::move(right));
    }
    *loss = owned.release();
  });
}

int32_t hearth_linear_log_probs(int64_t block, const at::Tensor* hidden, const at::Tensor* weight,
                                const at::Tensor* targets, at::Tensor** out, char** message) {
  using namespace output_head;
  return guarded(message, [&] {
    const auto kind = compute_kind(*hidden);
    const bool recorded = wanted(*hidden) || wanted(*weight);
    const int64_t rows = hidden->size(0);
    const auto options = hidden->options().dtype(at::kFloat).requires_grad(false);
    at::Tensor result = at::empty({rows}, options), total = at::empty({rows}, options);
    {
      const Plain plain;
      Logits logits(*hidden, *weight, kind, block);
      for (int64_t begin = 0; begin < rows; begin += block) {
        const int64_t count = std::min(block, rows - begin);
        at::Tensor values = logits.of(begin, count);
        const at::Tensor y = targets->narrow(0, begin, count).unsqueeze(1);
        at::Tensor chosen = result.narrow(0, begin, count);
        chosen.copy_(values.gather(1, y).squeeze(1));
        const at::Tensor largest = values.amax(1, true);
        const at::Tensor log_total =
            values.sub_(largest).exp_().sum(1, true).log_().add_(largest).squeeze(1);
        chosen.sub_(log_total);
        total.narrow(0, begin, count).copy_(log_total);
      }
    }
    if (recorded) {
      record<LogProbsBackward>(result, *hidden, *weight, [&](LogProbsBackward& node) {
        node.hidden = SavedVariable(*hidden, false);
        node.weight = SavedVariable(*weight, false);
        node.targets = SavedVariable(*targets, false);
        node.log_total = SavedVariable(total, false);
        node.kind = kind;
        node.block = block;
      });
    }
    *out = new at::Tensor(std::move(result));
  });
}
}
