"""What serve.py measures with, made by torch, transformers and tokenizers (tests/parity/setup.sh).

    python inputs.py prompts DIRECTORY MAILS.jsonl FILE   {"ids": [...]}: mails as tokens of the directory's model
    python inputs.py classifier DIRECTORY FOLDER          a classifier of an encoder, with a fixed head
    python inputs.py large DIRECTORY FOLDER               a Llama of 1.07 B random weights in bfloat16, with the
                                                          directory's tokenizer
"""

import json
import pathlib
import shutil
import sys

import safetensors.torch
import tokenizers
import torch
import transformers

# Far more than is asked for: see serve.py.
PROMPT_TOKENS = 40_000
# Most tokens of a classified text.
MAX_LENGTH = 128
LARGE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "attention_bias": False, "mlp_bias": False, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}


def prompts(model, mails, out):
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = []
    for line in mails.read_text().splitlines():
        ids += tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
        if len(ids) >= PROMPT_TOKENS:
            break
    out.write_text(json.dumps({"ids": ids[:PROMPT_TOKENS]}))


def classifier(encoder, out):
    """Two classes whose weights are a sine, so that scores differ from text to text."""
    made = transformers.AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=2, id2label={0: "ham", 1: "spam"}, label2id={"ham": 0, "spam": 1}, dtype=torch.float32
    )
    index = torch.arange(2 * made.config.hidden_size, dtype=torch.float64)
    with torch.no_grad():
        made.classifier.weight.copy_((torch.sin(index + 1) * 0.05).reshape(2, -1))
        made.classifier.bias.zero_()
    made.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(encoder / name, out)
    (out / "hearth.json").write_text(json.dumps({"clean": [], "maxLength": MAX_LENGTH}))


def shapes(config):
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", [config["vocab_size"], width]
    yield "model.norm.weight", [width]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, rows in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield f"{name}.self_attn.{part}_proj.weight", [rows, width]
        for part, shape in (("gate", [inner, width]), ("up", [inner, width]), ("down", [width, inner])):
            yield f"{name}.mlp.{part}_proj.weight", shape
        for part in ("input", "post_attention"):
            yield f"{name}.{part}_layernorm.weight", [width]


def large(tokenizer, out):
    out.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, out)
    config = LARGE | {"vocab_size": json.loads((tokenizer / "config.json").read_text())["vocab_size"]}
    (out / "config.json").write_text(json.dumps(config))
    dice = torch.Generator().manual_seed(7)
    weights = {}
    for name, shape in shapes(config):
        if len(shape) == 1:
            weights[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            weights[name] = (torch.randn(shape, generator=dice) * 0.02).to(torch.bfloat16)
    safetensors.torch.save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def main():
    kind, *paths = sys.argv[1:]
    {"prompts": prompts, "classifier": classifier, "large": large}[kind](*map(pathlib.Path, paths))


if __name__ == "__main__":
    main()
