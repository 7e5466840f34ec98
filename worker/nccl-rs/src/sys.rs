//! Declarations of `cpp/shim.h`, which says what each function does.
//! Nothing here is safe to call without the checks of the owning module.

use std::ffi::{c_char, c_int};

use torch_sys::C_tensor;

pub(crate) const OK: i32 = 0;
pub(crate) const TIMEOUT: i32 = 1;
pub(crate) const PEER_LOST: i32 = 2;
pub(crate) const UNAVAILABLE: i32 = 3;

/// Declares types that only C++ sees into.
macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
        }
    )*};
}

opaque!(Store Group Abort Work Reducer);

/// A list of tensors: `count` pointers.
pub(crate) type Tensors = *const *const C_tensor;

/// Where a failed call leaves its message.
pub(crate) type Message = *mut *mut c_char;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Autocast {
    pub(crate) device_type: i32,
    pub(crate) enabled: bool,
    pub(crate) kind: i8,
}

#[repr(C)]
pub(crate) struct ReducerOptions {
    pub(crate) bucket_bytes: usize,
    pub(crate) first_bucket_bytes: usize,
    pub(crate) gradient_as_bucket_view: bool,
    pub(crate) find_unused_parameters: bool,
}

#[repr(C)]
pub(crate) struct AdamW {
    pub(crate) learning_rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

#[repr(C)]
pub(crate) struct Sgd {
    pub(crate) learning_rate: f64,
    pub(crate) momentum: f64,
    pub(crate) dampening: f64,
    pub(crate) weight_decay: f64,
    pub(crate) nesterov: bool,
    pub(crate) first_step: bool,
}

#[repr(C)]
pub(crate) struct LinearLoss {
    pub(crate) block: i64,
    pub(crate) smoothing: f64,
    pub(crate) temperature: f64,
    pub(crate) alpha: f64,
}

/// `hearth_narrow` of cpp/shim.h.
#[repr(C)]
pub(crate) struct NarrowLayer {
    pub(crate) weight: *const C_tensor,
    pub(crate) scale: *const C_tensor,
    pub(crate) bias: *const C_tensor,
    pub(crate) outputs: i64,
    pub(crate) group: i64,
}

/// `hearth_decoder_layer` of cpp/shim.h.
#[repr(C)]
pub(crate) struct DecoderLayer {
    pub(crate) input_norm: *const C_tensor,
    pub(crate) post_norm: *const C_tensor,
    pub(crate) query_norm: *const C_tensor,
    pub(crate) key_norm: *const C_tensor,
    pub(crate) input_eps: f64,
    pub(crate) post_eps: f64,
    pub(crate) query_eps: f64,
    pub(crate) key_eps: f64,
    pub(crate) query: NarrowLayer,
    pub(crate) key: NarrowLayer,
    pub(crate) value: NarrowLayer,
    pub(crate) output: NarrowLayer,
    pub(crate) gate: NarrowLayer,
    pub(crate) up: NarrowLayer,
    pub(crate) down: NarrowLayer,
    pub(crate) head_size: i64,
}

unsafe extern "C" {
    pub(crate) fn hearth_message_free(message: *mut c_char);

    pub(crate) fn hearth_store_open(
        host: *const c_char,
        port: u16,
        listen_fd: c_int,
        world_size: usize,
        timeout_ms: i64,
        out: *mut *mut Store,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_set(
        store: *mut Store,
        key: *const c_char,
        value: *const u8,
        length: usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_get(
        store: *mut Store,
        key: *const c_char,
        value: *mut *mut u8,
        length: *mut usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_add(
        store: *mut Store,
        key: *const c_char,
        amount: i64,
        sum: *mut i64,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_wait(
        store: *mut Store,
        keys: *const *const c_char,
        count: usize,
        timeout_ms: i64,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_contains(
        store: *mut Store,
        key: *const c_char,
        found: *mut bool,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_delete(
        store: *mut Store,
        key: *const c_char,
        deleted: *mut bool,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_store_port(store: *const Store) -> u16;
    pub(crate) fn hearth_store_free(store: *mut Store);

    pub(crate) fn hearth_group_gloo(
        store: *mut Store,
        rank: i32,
        size: i32,
        address: *const c_char,
        interface: *const c_char,
        name: *const c_char,
        timeout_ms: i64,
        out: *mut *mut Group,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_nccl(
        store: *mut Store,
        rank: i32,
        size: i32,
        device: i32,
        library: *const c_char,
        name: *const c_char,
        timeout_ms: i64,
        out: *mut *mut Group,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_all_reduce(
        group: *mut Group,
        tensor: *const C_tensor,
        op: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_all_gather(
        group: *mut Group,
        output: *const C_tensor,
        input: *const C_tensor,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_reduce_scatter(
        group: *mut Group,
        output: *const C_tensor,
        input: *const C_tensor,
        op: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_broadcast(
        group: *mut Group,
        tensor: *const C_tensor,
        root: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_broadcast_coalesced(
        group: *mut Group,
        tensors: Tensors,
        count: usize,
        buffer_bytes: usize,
        root: i32,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_barrier(
        group: *mut Group,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_all_to_all(
        group: *mut Group,
        output: *const C_tensor,
        input: *const C_tensor,
        received: *const i64,
        sent: *const i64,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_reduce(
        group: *mut Group,
        tensor: *const C_tensor,
        op: i32,
        root: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_gather(
        group: *mut Group,
        output: *const C_tensor,
        input: *const C_tensor,
        root: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_scatter(
        group: *mut Group,
        output: *const C_tensor,
        input: *const C_tensor,
        root: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_send(
        group: *mut Group,
        tensor: *const C_tensor,
        to: i32,
        tag: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_recv(
        group: *mut Group,
        tensor: *const C_tensor,
        from: i32,
        tag: i32,
        out: *mut *mut Work,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_shutdown(group: *mut Group, message: Message) -> i32;
    pub(crate) fn hearth_group_free(group: *mut Group);

    pub(crate) fn hearth_abort_new(group: *const Group) -> *mut Abort;
    pub(crate) fn hearth_abort_trigger(handle: *const Abort, message: Message) -> i32;
    pub(crate) fn hearth_abort_free(handle: *mut Abort);

    pub(crate) fn hearth_work_wait(work: *mut Work, message: Message) -> i32;
    pub(crate) fn hearth_work_done(work: *const Work) -> bool;
    pub(crate) fn hearth_waited_nanoseconds() -> i64;
    pub(crate) fn hearth_work_free(work: *mut Work);

    pub(crate) fn hearth_group_differentiable(
        group: *const Group,
        pair: i32,
        input: *const C_tensor,
        dim: i64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_group_exchange(
        group: *const Group,
        input: *const C_tensor,
        received: *const i64,
        sent: *const i64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;

    pub(crate) fn hearth_reducer_new(
        parameters: Tensors,
        names: *const *const c_char,
        count: usize,
        group: *mut Group,
        options: *const ReducerOptions,
        out: *mut *mut Reducer,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_reducer_buckets(reducer: *const Reducer) -> usize;
    pub(crate) fn hearth_reducer_prepare(
        reducer: *mut Reducer,
        outputs: Tensors,
        count: usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_reducer_backward(
        reducer: *mut Reducer,
        outputs: Tensors,
        gradients: Tensors,
        count: usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_reducer_free(reducer: *mut Reducer);

    pub(crate) fn hearth_backward(
        outputs: Tensors,
        gradients: Tensors,
        count: usize,
        keep_graph: bool,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_grad_enabled() -> bool;
    pub(crate) fn hearth_set_grad(
        tensor: *const C_tensor,
        gradient: *const C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_generator_state(
        device_type: i32,
        index: i32,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_generator_restore(
        device_type: i32,
        index: i32,
        state: *const C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_autocast_enter(state: *mut Autocast, message: Message) -> i32;
    pub(crate) fn hearth_autocast_exit(before: *const Autocast, message: Message) -> i32;

    pub(crate) fn hearth_storage_release(tensor: *const C_tensor, message: Message) -> i32;
    pub(crate) fn hearth_storage_restore(tensor: *const C_tensor, message: Message) -> i32;
    pub(crate) fn hearth_storage_bytes(
        tensor: *const C_tensor,
        bytes: *mut usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_storage_replace(
        tensor: *const C_tensor,
        with: *const C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_refill(to: Tensors, from: Tensors, count: usize, message: Message) -> i32;

    pub(crate) fn hearth_fused_adamw(
        hyper: *const AdamW,
        parameters: Tensors,
        gradients: Tensors,
        exp_avgs: Tensors,
        exp_avg_sqs: Tensors,
        steps: Tensors,
        count: usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_fused_sgd(
        hyper: *const Sgd,
        parameters: Tensors,
        gradients: Tensors,
        count: usize,
        velocities: Tensors,
        velocity_count: usize,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_zero(tensors: Tensors, count: usize, message: Message) -> i32;
    pub(crate) fn hearth_total_norm(
        tensors: Tensors,
        count: usize,
        norm: *mut f64,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_scale(
        tensors: Tensors,
        count: usize,
        factor: f64,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_cpu_capability(name: *mut *mut c_char, message: Message) -> i32;
    pub(crate) fn hearth_use_deterministic_algorithms(message: Message) -> i32;

    pub(crate) fn hearth_rms_norm(
        x: *const C_tensor,
        weight: *const C_tensor,
        eps: f64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_rope(
        x: *const C_tensor,
        cos: *const C_tensor,
        sin: *const C_tensor,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;

    pub(crate) fn hearth_dropout(
        x: *const C_tensor,
        probability: f64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_philox(counter: u64, key: u64, numbers: *mut u32);

    pub(crate) fn hearth_linear_loss(
        options: *const LinearLoss,
        hidden: *const C_tensor,
        weight: *const C_tensor,
        targets: *const C_tensor,
        teacher_hidden: *const C_tensor,
        teacher_weight: *const C_tensor,
        loss: *mut *mut C_tensor,
        hits: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_linear_log_probs(
        block: i64,
        hidden: *const C_tensor,
        weight: *const C_tensor,
        targets: *const C_tensor,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;

    pub(crate) fn hearth_dequantize(
        values: *const C_tensor,
        scales: *const C_tensor,
        columns: i64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_frozen_linear(
        input: *const C_tensor,
        values: *const C_tensor,
        scales: *const C_tensor,
        bias: *const C_tensor,
        columns: i64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;

    pub(crate) fn hearth_qlinear_prepack(
        weight: *const C_tensor,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_narrow_linear(
        x: *const C_tensor,
        layer: *const NarrowLayer,
        level: i32,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_paged_attention(
        query: *const C_tensor,
        keys: *const C_tensor,
        values: *const C_tensor,
        slots: *const C_tensor,
        seen: *const C_tensor,
        scale: f64,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_decoder_layer_forward(
        layer: *const DecoderLayer,
        hidden: *const C_tensor,
        cos: *const C_tensor,
        sin: *const C_tensor,
        keys: *const C_tensor,
        values: *const C_tensor,
        places: *const C_tensor,
        slots: *const C_tensor,
        seen: *const C_tensor,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_qlinear(
        values: *const C_tensor,
        zero_point: i64,
        packed: *const C_tensor,
        weight_scale: *const C_tensor,
        weight_zero_point: *const C_tensor,
        out: *mut *mut C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_quantize_rows(
        rows: *const C_tensor,
        limit: i32,
        values: *const C_tensor,
        scales: *const C_tensor,
        message: Message,
    ) -> i32;
    pub(crate) fn hearth_scale_rows(
        out: *const C_tensor,
        scales: *const C_tensor,
        bias: *const C_tensor,
        message: Message,
    ) -> i32;

    pub(crate) fn hearth_cuda_load(message: Message) -> i32;
    pub(crate) fn hearth_cuda_present() -> bool;
}
