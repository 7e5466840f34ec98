"""Tiny models of each family: what transformers computes with them.

No weights are committed. Each tensor is filled by `values`, from its place in the sorted list of
the directory's tensors; the Rust test (worker/tests/it/parity_families.rs) fills the same. For
each model: the configuration, names and shapes, every third row of logits, the loss of one step, and of each tensor's
gradient its norm and its product with a fixed vector.
"""

import json
import math
import pathlib
import tempfile

import safetensors.torch
import torch
import transformers
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

BATCH, TOKENS, VOCABULARY = 2, 12, 48


def values(index, shape, name):
    """Values of the tensor at `index`: like noise of deviation 0.07; norms are near 1."""
    count = math.prod(shape)
    steps = torch.arange(count, dtype=torch.float64)
    noise = torch.sin((steps + 1) * 12.9898 + index * 78.233) * 43758.5453
    noise = (noise - torch.floor(noise)) - 0.5
    near_one = name.endswith("norm.weight")
    flat = 1 + 0.2 * noise if near_one else 0.25 * noise
    return flat.to(torch.float32).reshape(shape)


def probe(count):
    """The vector that gradients are multiplied with."""
    return torch.cos(torch.arange(count, dtype=torch.float64) * 0.7 + 0.3)


def ids():
    """Token ids `[BATCH, TOKENS]`."""
    return (torch.arange(BATCH * TOKENS).reshape(BATCH, TOKENS) * 7 + 3) % VOCABULARY


COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=64, rms_norm_eps=1e-5,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)
EXPERTS = dict(
    moe_intermediate_size=16, n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3,
    first_k_dense_replace=1,
)
LATENT = dict(
    num_key_value_heads=4, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6,
)
YARN = dict(
    rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=32, beta_slow=1, mscale=0.707,
    mscale_all_dim=0.707, original_max_position_embeddings=16,
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
LINEAR = dict(rope_type="linear", rope_theta=100000.0, factor=4.0)


class DeepseekForCausalLM(transformers.LlamaForCausalLM):
    """DeepSeekMoE: remote code on the hub, here a Llama with transformers' own experts of V2."""

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            if index >= config.first_k_dense_replace:
                layer.mlp = DeepseekV2Moe(config)


def deepseek():
    config = transformers.LlamaConfig(**COMMON, **EXPERTS)
    config.update({"num_experts": 8, "routed_scaling_factor": 1.0, "topk_method": "greedy",
                   "n_group": None, "topk_group": None, "mlp_bias": False})
    return DeepseekForCausalLM(config)


def models():
    """Name and model of each case."""
    causal = transformers.AutoModelForCausalLM.from_config
    t = transformers
    llama = dict(COMMON, num_key_value_heads=2)
    return {
        "llama": lambda: causal(t.LlamaConfig(**llama)),
        "llama-tied-biased": lambda: causal(
            t.LlamaConfig(**llama, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
        ),
        "llama-linear": lambda: causal(t.LlamaConfig(**llama, rope_parameters=LINEAR)),
        "llama3": lambda: causal(t.LlamaConfig(**llama, head_dim=16, rope_parameters=LLAMA3)),
        "qwen2": lambda: causal(t.Qwen2Config(**llama)),
        "qwen3": lambda: causal(t.Qwen3Config(**llama, head_dim=16)),
        "deepseek": deepseek,
        "deepseek-v2": lambda: causal(
            t.DeepseekV2Config(
                **COMMON, **EXPERTS, **LATENT, q_lora_rank=12, topk_method="group_limited_greedy",
                n_group=4, topk_group=2, routed_scaling_factor=16.0, rope_parameters=YARN,
            )
        ),
        "deepseek-v2-lite": lambda: causal(
            t.DeepseekV2Config(**COMMON, **EXPERTS, **LATENT, q_lora_rank=None)
        ),
        "deepseek-v3": lambda: causal(
            t.DeepseekV3Config(
                **COMMON, **EXPERTS, **LATENT, q_lora_rank=12, n_group=4, topk_group=2,
                norm_topk_prob=True, routed_scaling_factor=2.5, rope_parameters=YARN,
                num_nextn_predict_layers=1,
            )
        ),
        "llama-classifier": lambda: t.AutoModelForSequenceClassification.from_config(
            t.LlamaConfig(**dict(llama, pad_token_id=0), num_labels=3)
        ),
    }


def on_disk(model, folder):
    """Names and shapes as the directory has them, and the model filled by `values`."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    if isinstance(model, DeepseekForCausalLM):
        tensors = split_experts(tensors)
    shapes = {name: list(tensors[name].shape) for name in sorted(tensors)}
    filled = {
        name: values(index, shape, name) for index, (name, shape) in enumerate(shapes.items())
    }
    return shapes, filled


def split_experts(tensors):
    """`experts.gate_up_proj` and `experts.down_proj` as one tensor an expert and projection."""
    apart = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for number, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                stem = name.replace("gate_up_proj", str(number))
                apart[f"{stem}.gate_proj.weight"] = gate
                apart[f"{stem}.up_proj.weight"] = up
        elif name.endswith("experts.down_proj"):
            for number, expert in enumerate(tensor):
                apart[f"{name.replace('down_proj', str(number))}.down_proj.weight"] = expert
        else:
            apart[name] = tensor
    return apart


def join_experts(filled, state):
    """The other way round, for a model whose tensors are `state`."""
    joined = {}
    for name, tensor in state.items():
        stem = name.rsplit(".", 1)[0]
        part = lambda number, kind: filled[f"{stem}.{number}.{kind}_proj.weight"]  # noqa: E731
        if name.endswith("experts.gate_up_proj"):
            joined[name] = torch.stack(
                [torch.cat([part(e, "gate"), part(e, "up")]) for e in range(len(tensor))]
            )
        elif name.endswith("experts.down_proj"):
            joined[name] = torch.stack([part(e, "down") for e in range(len(tensor))])
        elif name in filled:
            joined[name] = filled[name]
    return joined


def gradients(model):
    """Norm and product with `probe` of each gradient, by the directory's names."""
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {}
    for name, gradient in sorted(split_experts(named).items()):
        flat = gradient.flatten().double()
        found[name] = [float(flat.norm()), float(flat @ probe(flat.numel()))]
    return found


def case(make):
    model = make().eval()
    with tempfile.TemporaryDirectory() as folder:
        shapes, filled = on_disk(model, pathlib.Path(folder))
    state = model.state_dict()
    missing, unexpected = model.load_state_dict(join_experts(filled, state), strict=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(missing) <= tied and not unexpected, (missing, unexpected)
    config = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    if isinstance(model, DeepseekForCausalLM):
        config["model_type"] = "deepseek"
        del config["num_experts"]
    made = {"config": config, "tensors": shapes}
    if "Classification" in type(model).__name__:
        mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
        mask[1, -3:] = 0
        inputs = ids().masked_fill(mask == 0, 0)
        out = model(input_ids=inputs, attention_mask=mask, labels=torch.tensor([2, 0]))
    else:
        out = model(input_ids=ids(), labels=ids())
    out.loss.backward()
    made["loss"] = float(out.loss.detach())
    rows = out.logits.flatten(0, -2)[::3]
    made["logits"] = [[round(value, 7) for value in row] for row in rows.tolist()]
    made["gradients"] = gradients(model)
    return made


def families():
    """All cases."""
    return {name: case(make) for name, make in models().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(families(), indent=1))
