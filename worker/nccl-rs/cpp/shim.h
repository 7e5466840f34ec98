// The C face of the shim: what src/sys.rs declares.
//
// Every function that can fail returns a status and, unless it is HEARTH_OK,
// stores a malloc'ed message in `*message` (free it with hearth_message_free).
// No C++ exception leaves any of them. Tensors are `at::Tensor*`, as in
// torch-sys; the shim takes its own reference and never owns the pointer passed
// in, while a tensor handed out (`at::Tensor** out`) belongs to the caller.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace at {
class Tensor;
}

enum {
  HEARTH_OK = 0,
  HEARTH_TIMEOUT = 1,     // a peer did not come in time
  HEARTH_PEER_LOST = 2,   // a connection was closed, or the group was aborted
  HEARTH_UNAVAILABLE = 3, // a library that is loaded at run time is absent
  HEARTH_FAILED = 4,      // anything else
};

// The values of c10d::ReduceOp that this crate offers.
enum { HEARTH_SUM = 0, HEARTH_AVG = 1, HEARTH_MIN = 3, HEARTH_MAX = 4 };

struct hearth_store;
struct hearth_group;
struct hearth_abort;
struct hearth_work;
struct hearth_reducer;

extern "C" {
void hearth_message_free(char* message);

// --- store.cpp -------------------------------------------------------------
// `listen_fd` is a bound socket that the store's server takes over, or -1 for
// a client. `world_size` of 0 waits for nobody.
int32_t hearth_store_open(const char* host, uint16_t port, int32_t listen_fd, size_t world_size,
                          int64_t timeout_ms, hearth_store** out, char** message);
int32_t hearth_store_set(hearth_store* store, const char* key, const uint8_t* value, size_t length,
                         char** message);
// `*value` is malloc'ed; free it with hearth_message_free.
int32_t hearth_store_get(hearth_store* store, const char* key, uint8_t** value, size_t* length,
                         char** message);
int32_t hearth_store_add(hearth_store* store, const char* key, int64_t amount, int64_t* sum,
                         char** message);
int32_t hearth_store_wait(hearth_store* store, const char* const* keys, size_t count,
                          int64_t timeout_ms, char** message);
int32_t hearth_store_contains(hearth_store* store, const char* key, bool* found, char** message);
int32_t hearth_store_delete(hearth_store* store, const char* key, bool* deleted, char** message);
uint16_t hearth_store_port(const hearth_store* store);
void hearth_store_free(hearth_store* store);

// --- group.cpp -------------------------------------------------------------
// One of `address` and `interface` is null.
int32_t hearth_group_gloo(hearth_store* store, int32_t rank, int32_t size, const char* address,
                          const char* interface, const char* name, int64_t timeout_ms,
                          hearth_group** out, char** message);
int32_t hearth_group_nccl(hearth_store* store, int32_t rank, int32_t size, int32_t device,
                          const char* library, const char* name, int64_t timeout_ms,
                          hearth_group** out, char** message);
int32_t hearth_group_all_reduce(hearth_group* group, const at::Tensor* tensor, int32_t op,
                                hearth_work** out, char** message);
int32_t hearth_group_all_gather(hearth_group* group, const at::Tensor* output,
                                const at::Tensor* input, hearth_work** out, char** message);
int32_t hearth_group_reduce_scatter(hearth_group* group, const at::Tensor* output,
                                    const at::Tensor* input, int32_t op, hearth_work** out,
                                    char** message);
int32_t hearth_group_broadcast(hearth_group* group, const at::Tensor* tensor, int32_t root,
                               hearth_work** out, char** message);
int32_t hearth_group_broadcast_coalesced(hearth_group* group, const at::Tensor* const* tensors,
                                         size_t count, size_t buffer_bytes, int32_t root,
                                         char** message);
int32_t hearth_group_barrier(hearth_group* group, hearth_work** out, char** message);
// Rows of dimension 0: `sent[r]` go to rank r, `received[r]` come from it. Both
// null: as many to and from each.
int32_t hearth_group_all_to_all(hearth_group* group, const at::Tensor* output,
                                const at::Tensor* input, const int64_t* received,
                                const int64_t* sent, hearth_work** out, char** message);
int32_t hearth_group_reduce(hearth_group* group, const at::Tensor* tensor, int32_t op,
                            int32_t root, hearth_work** out, char** message);
// `output` [size, ..] on the root, null elsewhere.
int32_t hearth_group_gather(hearth_group* group, const at::Tensor* output, const at::Tensor* input,
                            int32_t root, hearth_work** out, char** message);
// `input` [size, ..] on the root, null elsewhere.
int32_t hearth_group_scatter(hearth_group* group, const at::Tensor* output, const at::Tensor* input,
                             int32_t root, hearth_work** out, char** message);
int32_t hearth_group_send(hearth_group* group, const at::Tensor* tensor, int32_t to, int32_t tag,
                          hearth_work** out, char** message);
int32_t hearth_group_recv(hearth_group* group, const at::Tensor* tensor, int32_t from, int32_t tag,
                          hearth_work** out, char** message);
int32_t hearth_group_shutdown(hearth_group* group, char** message);
void hearth_group_free(hearth_group* group);

// Ends the process when memory is out, as Rust's own allocations do.
hearth_abort* hearth_abort_new(const hearth_group* group) noexcept;
int32_t hearth_abort_trigger(const hearth_abort* handle, char** message);
void hearth_abort_free(hearth_abort* handle);

int32_t hearth_work_wait(hearth_work* work, char** message);
bool hearth_work_done(const hearth_work* work);
// What the calling thread has waited for other ranks since it began: in
// hearth_work_wait, in the collectives of differentiable.cpp, and for the last
// buckets of hearth_reducer_backward. On GPUs it is no measure: the host waits
// for kernels, too.
int64_t hearth_waited_nanoseconds(void);
void hearth_work_free(hearth_work* work);

// --- differentiable.cpp ----------------------------------------------------
// Forward / backward, along dimension `dim` where parts are cut or joined.
enum {
  HEARTH_COPY = 0,        // identity / sum over ranks
  HEARTH_REDUCE = 1,      // sum over ranks / identity
  HEARTH_GATHER_SUM = 2,  // all ranks' parts / this rank's part of the sum
  HEARTH_SCATTER_SUM = 3, // this rank's part of the sum / all ranks' parts
  HEARTH_SPLIT = 4,       // this rank's part / all ranks' parts
  HEARTH_JOIN = 5,        // all ranks' parts / this rank's part
};
int32_t hearth_group_differentiable(const hearth_group* group, int32_t pair,
                                    const at::Tensor* input, int64_t dim, at::Tensor** out,
                                    char** message);
// All-to-all both ways, with rows as for hearth_group_all_to_all, neither null.
int32_t hearth_group_exchange(const hearth_group* group, const at::Tensor* input,
                              const int64_t* received, const int64_t* sent, at::Tensor** out,
                              char** message);

// --- reducer.cpp -----------------------------------------------------------
struct hearth_reducer_options {
  size_t bucket_bytes;
  size_t first_bucket_bytes;
  bool gradient_as_bucket_view;
  bool find_unused_parameters;
};
int32_t hearth_reducer_new(const at::Tensor* const* parameters, const char* const* names,
                           size_t count, hearth_group* group, const hearth_reducer_options* options,
                           hearth_reducer** out, char** message);
size_t hearth_reducer_buckets(const hearth_reducer* reducer);
int32_t hearth_reducer_prepare(hearth_reducer* reducer, const at::Tensor* const* outputs,
                               size_t count, char** message);
// After hearth_reducer_prepare: fails if a gradient was left unreduced.
// The lists are those of hearth_backward.
int32_t hearth_reducer_backward(hearth_reducer* reducer, const at::Tensor* const* outputs,
                                const at::Tensor* const* gradients, size_t count, char** message);
void hearth_reducer_free(hearth_reducer* reducer);

// --- autograd.cpp ----------------------------------------------------------
// Both lists hold `count` entries; a null gradient stands for 1 of a scalar.
int32_t hearth_backward(const at::Tensor* const* outputs, const at::Tensor* const* gradients,
                        size_t count, bool keep_graph, char** message);
struct hearth_autocast {
  int32_t device_type; // c10::DeviceType: 0 CPU, 1 CUDA
  bool enabled;
  int8_t kind; // c10::ScalarType
};
// Puts `state` in force and what was before in its place.
int32_t hearth_autocast_enter(hearth_autocast* state, char** message);
int32_t hearth_autocast_exit(const hearth_autocast* before, char** message);

bool hearth_grad_enabled(void);
// Null takes the gradient away.
int32_t hearth_set_grad(const at::Tensor* tensor, const at::Tensor* gradient, char** message);
// The state of a device's default random generator, a u8 tensor.
int32_t hearth_generator_state(int32_t device_type, int32_t index, at::Tensor** out,
                               char** message);
int32_t hearth_generator_restore(int32_t device_type, int32_t index, const at::Tensor* state,
                                 char** message);

// --- storage.cpp -----------------------------------------------------------
int32_t hearth_storage_release(const at::Tensor* tensor, char** message);
int32_t hearth_storage_restore(const at::Tensor* tensor, char** message);
// Bytes in memory: 0 of a released storage.
int32_t hearth_storage_bytes(const at::Tensor* tensor, size_t* bytes, char** message);
// Everything that refers to `tensor` then refers to the values of `with`.
int32_t hearth_storage_replace(const at::Tensor* tensor, const at::Tensor* with, char** message);
// to[i].copy_(from[i]), which autograd does not notice.
int32_t hearth_refill(const at::Tensor* const* to, const at::Tensor* const* from, size_t count,
                      char** message);

// --- ops.cpp ---------------------------------------------------------------
struct hearth_adamw {
  double learning_rate, beta1, beta2, eps, weight_decay;
};
// The lists hold `count` tensors each.
int32_t hearth_fused_adamw(const hearth_adamw* hyper, const at::Tensor* const* parameters,
                           const at::Tensor* const* gradients, const at::Tensor* const* exp_avgs,
                           const at::Tensor* const* exp_avg_sqs, const at::Tensor* const* steps,
                           size_t count, char** message);
struct hearth_sgd {
  double learning_rate, momentum, dampening, weight_decay;
  bool nesterov, first_step;
};
int32_t hearth_fused_sgd(const hearth_sgd* hyper, const at::Tensor* const* parameters,
                         const at::Tensor* const* gradients, size_t count,
                         const at::Tensor* const* velocities, size_t velocity_count,
                         char** message);
int32_t hearth_zero(const at::Tensor* const* tensors, size_t count, char** message);
int32_t hearth_total_norm(const at::Tensor* const* tensors, size_t count, double* norm,
                          char** message);
int32_t hearth_scale(const at::Tensor* const* tensors, size_t count, double factor,
                     char** message);
int32_t hearth_cpu_capability(char** name, char** message);

// From now on an operation without a deterministic kernel fails.
int32_t hearth_use_deterministic_algorithms(char** message);

// --- fused.cpp -------------------------------------------------------------
// f32 or bf16 tensors on the CPU, with gradients.
// Dense x [.., D] and weight [D] of one kind.
int32_t hearth_rms_norm(const at::Tensor* x, const at::Tensor* weight, double eps,
                        at::Tensor** out, char** message);
// x [B, H, T, D] with the last stride 1, dense cos and sin [T, D / 2] f32 without
// gradients: halves of each head are turned.
int32_t hearth_rope(const at::Tensor* x, const at::Tensor* cos, const at::Tensor* sin,
                    at::Tensor** out, char** message);

// --- dropout.cpp -----------------------------------------------------------
// x f32 or bf16 on the CPU; the probability is below 1. Draws one number from the
// CPU's default generator.
int32_t hearth_dropout(const at::Tensor* x, double probability, at::Tensor** out, char** message);
// The four numbers of a counter.
void hearth_philox(uint64_t counter, uint64_t key, uint32_t* numbers);

// --- head.cpp --------------------------------------------------------------
struct hearth_linear_loss_options {
  int64_t block;     // rows whose logits are in memory at a time
  double smoothing;  // share of each target that is spread over all classes
  double temperature, alpha; // of a teacher
};
// Sum of the cross-entropies of hidden [N, D] times weight [V, D] against targets
// [N] i64, a scalar in f32. With a teacher, hidden [N, E] and weight [V, E], alpha
// T^2 KL(teacher || student) at temperature T plus 1 - alpha times that; without one
// both are null. `*hits`, unless it is null, counts the rows with the largest logit at
// the target. In autocast's kind where autocast is on.
int32_t hearth_linear_loss(const hearth_linear_loss_options* options, const at::Tensor* hidden,
                           const at::Tensor* weight, const at::Tensor* targets,
                           const at::Tensor* teacher_hidden, const at::Tensor* teacher_weight,
                           at::Tensor** loss, at::Tensor** hits, char** message);
// Logarithms of the targets' probabilities, [N] of f32.
int32_t hearth_linear_log_probs(int64_t block, const at::Tensor* hidden, const at::Tensor* weight,
                                const at::Tensor* targets, at::Tensor** out, char** message);

// --- frozen.cpp ------------------------------------------------------------
// A weight [N, columns] held as values i8 [N, columns] with scales f32 [N, 1], or as
// values u8 [N, G, g / 2] with scales f32 [N, G, 1]: G groups of g columns, the last
// ones beyond `columns` if they do not fill it; two values less 8 in a byte, the first
// in the low half.
int32_t hearth_dequantize(const at::Tensor* values, const at::Tensor* scales, int64_t columns,
                          at::Tensor** out, char** message);
// input [.., columns] -> [.., N]; `bias` may be null. Neither weight nor bias gets a
// gradient.
int32_t hearth_frozen_linear(const at::Tensor* input, const at::Tensor* values,
                             const at::Tensor* scales, const at::Tensor* bias, int64_t columns,
                             at::Tensor** out, char** message);

// --- narrow.cpp ------------------------------------------------------------
// A linear layer as narrow.rs packs it. The weight is bf16 [N / 16, K, 16], i8 [N / 16, K / 2, 16, 2],
// or u8 of two 4-bit numbers [N / 16, K / 8, 16, 4]; K of the latter two is filled up to whole groups
// of `group` columns. scale is null for bf16, else f32 [N] or f16 or f32 [N / 16, K / group, 16]; bias
// [outputs] f32 or null.
struct hearth_narrow {
  const at::Tensor *weight, *scale, *bias;
  int64_t outputs, group;
};
// Dense x [M, K] f32 -> out [M, outputs] f32, which is x weight^T * scale + bias; no gradients. `level`
// is that of the CPU's instructions that may be used (0 none, 1 AVX2, 2 AVX-512).
int32_t hearth_narrow_linear(const at::Tensor* x, const hearth_narrow* layer, int32_t level,
                             at::Tensor** out, char** message);

// --- paged.cpp -------------------------------------------------------------
// query [1, H, N, d] f32 of any strides but dense heads, keys [S, G, d] and values [S, G, v] dense
// f32, slots i64 [T], seen i64 [N, 2]: where in `slots` a token's own begin, and how many they are, at
// least one -> out [1, N, H * v]. No gradients.
int32_t hearth_paged_attention(const at::Tensor* query, const at::Tensor* keys,
                               const at::Tensor* values, const at::Tensor* slots,
                               const at::Tensor* seen, double scale, at::Tensor** out,
                               char** message);

// --- decoder.cpp -----------------------------------------------------------
// A layer of a Llama: norms [D] f32, attention of heads of `head_size`, a feed-forward part gated by
// SiLU. Norms of query and key heads, [head_size], may be null.
struct hearth_decoder_layer {
  const at::Tensor *input_norm, *post_norm, *query_norm, *key_norm;
  double input_eps, post_eps, query_eps, key_eps;
  hearth_narrow query, key, value, output, gate, up, down;
  int64_t head_size;
};
// Dense hidden [N, D] f32 of new tokens -> out [N, D]. Their keys [G, d] and values go to `places` i64
// [N] of the pool, [S, G, d] each, and they see what hearth_paged_attention's do. cos and sin
// [N, d / 2] f32. No gradients.
int32_t hearth_decoder_layer_forward(const hearth_decoder_layer* layer, const at::Tensor* hidden,
                                     const at::Tensor* cos, const at::Tensor* sin,
                                     const at::Tensor* keys, const at::Tensor* values,
                                     const at::Tensor* places, const at::Tensor* slots,
                                     const at::Tensor* seen, at::Tensor** out, char** message);

// --- qlinear.cpp -----------------------------------------------------------
int32_t hearth_qlinear_prepack(const at::Tensor* weight, at::Tensor** out, char** message);
// values [M, K] u8, packed from a weight [N, K] i8 -> out [M, N] f32, which is
// weight_scale[n] * sum_k (values[m,k] - zero_point) * weight[n,k].
int32_t hearth_qlinear(const at::Tensor* values, int64_t zero_point, const at::Tensor* packed,
                       const at::Tensor* weight_scale, const at::Tensor* weight_zero_point,
                       at::Tensor** out, char** message);
// rows [M, K] f32 -> values [M, K] u8 and scales [M] f32, with
// rows ~ scales[m] * (values - (limit + 1)) and |values - (limit + 1)| <= limit.
int32_t hearth_quantize_rows(const at::Tensor* rows, int32_t limit, const at::Tensor* values,
                             const at::Tensor* scales, char** message);
// In place on out [M, N]: out = out * scales[m] + bias[n]; `bias` may be null.
int32_t hearth_scale_rows(const at::Tensor* out, const at::Tensor* scales, const at::Tensor* bias,
                          char** message);

// --- backend.cpp -----------------------------------------------------------
int32_t hearth_cuda_load(char** message);
bool hearth_cuda_present(void);
}
