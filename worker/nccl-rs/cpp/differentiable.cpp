// Collectives that autograd goes back through.
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <functional>

#include "handles.hpp"
#include "status.hpp"
#include "work.hpp"

using hearth::guarded;

namespace {

using Map = std::function<at::Tensor(const at::Tensor&)>;

struct CollectiveBackward : torch::autograd::Node {
  Map map;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(!at::GradMode::is_enabled(), "a collective has no second derivative");
    // Peers wait for this rank's share also where its loss does not depend on it.
    const at::Tensor& gradient = gradients[0];
    return {map(gradient.defined() ? gradient : input_metadata(0).zeros_like())};
  }
};

at::Tensor differentiable(const at::Tensor& input, const Map& forward, Map backward) {
  at::Tensor output;
  {
    const at::NoGradGuard no_grad;
    output = forward(input);
  }
  if (!torch::autograd::compute_requires_grad(input)) {
    return output;
  }
  const std::shared_ptr<CollectiveBackward> node(new CollectiveBackward(),
                                                 torch::autograd::deleteNode);
  node->map = std::move(backward);
  node->set_next_edges(torch::autograd::collect_next_edges(input));
  torch::autograd::set_history(output, node);
  return output;
}

// Each of these takes any strides, and gives a dense tensor.
struct Peers {
  // A reference of its own: the graph may outlive Rust's.
  hearth_group group;

  int64_t size() const {
    return group.backend->getSize();
  }

  at::Tensor sum(const at::Tensor& tensor) const {
    const at::Tensor total = tensor.clone(at::MemoryFormat::Contiguous);
    hearth::all_reduce(group, total, HEARTH_SUM).wait();
    return total;
  }

  at::Tensor gather(const at::Tensor& part, int64_t dim) const {
    std::vector<int64_t> shape = part.sizes().vec();
    shape.insert(shape.begin(), size());
    const at::Tensor stacked = at::empty(shape, part.options());
    hearth::all_gather(group, stacked, part.contiguous()).wait();
    return stacked.movedim(0, dim).flatten(dim, dim + 1).contiguous();
  }

  // [.., size * n, ..] as [size, .., n, ..].
  at::Tensor by_rank(const at::Tensor& whole, int64_t dim) const {
    return whole.unflatten(dim, {size(), whole.size(dim) / size()}).movedim(dim, 0);
  }

  at::Tensor part(const at::Tensor& whole, int64_t dim) const {
    return by_rank(whole, dim)
        .select(0, group.backend->getRank())
        .clone(at::MemoryFormat::Contiguous);
  }

  at::Tensor scatter_sum(const at::Tensor& whole, int64_t dim) const {
    const at::Tensor parts = by_rank(whole, dim).contiguous();
    if (parts.is_cpu()) {
      // Gloo's would be an all-reduce, of which one part is kept.
      const std::vector<int64_t> one(size(), 1);
      return exchange(parts, one, one).sum(0);
    }
    const at::Tensor own = at::empty(parts.sizes().slice(1), parts.options());
    hearth::reduce_scatter(group, own, parts, HEARTH_SUM).wait();
    return own;
  }

  at::Tensor exchange(const at::Tensor& rows, const std::vector<int64_t>& received,
                      const std::vector<int64_t>& sent) const {
    std::vector<int64_t> shape = rows.sizes().vec();
    shape[0] = std::accumulate(received.begin(), received.end(), int64_t{0});
    const at::Tensor output = at::empty(shape, rows.options());
    hearth::all_to_all(group, output, rows.contiguous(), received, sent).wait();
    return output;
  }
};

} // namespace

extern "C" {

int32_t hearth_group_differentiable(const hearth_group* group, int32_t pair,
                                    const at::Tensor* input, int64_t dim, at::Tensor** out,
                                    char** message) {
  return guarded(message, [&] {
    const Peers peers{*group};
    const Map same = [](const at::Tensor& x) { return x.detach(); };
    const Map sum = [=](const at::Tensor& x) { return peers.sum(x); };
    const Map gather = [=](const at::Tensor& x) { return peers.gather(x, dim); };
    const Map scatter_sum = [=](const at::Tensor& x) { return peers.scatter_sum(x, dim); };
    const Map part = [=](const at::Tensor& x) { return peers.part(x, dim); };
    const auto made = [&](const Map& forward, const Map& backward) {
      return new at::Tensor(differentiable(*input, forward, backward));
    };
    switch (pair) {
      case HEARTH_COPY:
        *out = made(same, sum);
        break;
      case HEARTH_REDUCE:
        *out = made(sum, same);
        break;
      case HEARTH_GATHER_SUM:
        *out = made(gather, scatter_sum);
        break;
      case HEARTH_SCATTER_SUM:
        *out = made(scatter_sum, gather);
        break;
      case HEARTH_SPLIT:
        *out = made(part, gather);
        break;
      case HEARTH_JOIN:
        *out = made(gather, part);
        break;
      default:
        throw std::runtime_error("there is no such pair of collectives");
    }
  });
}

int32_t hearth_group_exchange(const hearth_group* group, const at::Tensor* input,
                              const int64_t* received, const int64_t* sent, at::Tensor** out,
                              char** message) {
  return guarded(message, [&] {
    const Peers peers{*group};
    const std::vector<int64_t> in(received, received + peers.size());
    const std::vector<int64_t> gone(sent, sent + peers.size());
    *out = new at::Tensor(differentiable(
        *input, [&](const at::Tensor& x) { return peers.exchange(x, in, gone); },
        [=](const at::Tensor& x) { return peers.exchange(x, gone, in); }));
  });
}
}
