"""A language model of a few thousand weights, and conversations for it: for smoke tests.
Standard library only."""

import json
import random
import shutil
import struct

WIDTH, INNER, LAYERS = 32, 48, 2
TEMPLATE = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '[SEP]' }}{% endfor %}"
ROWS = 32


def shapes(vocabulary):
    """Of a Llama whose output layer is its embeddings."""
    found = {"model.embed_tokens.weight": [vocabulary, WIDTH], "model.norm.weight": [WIDTH]}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            found[f"{name}.self_attn.{part}_proj.weight"] = [WIDTH, WIDTH]
        for part in ("gate", "up"):
            found[f"{name}.mlp.{part}_proj.weight"] = [INNER, WIDTH]
        found[f"{name}.mlp.down_proj.weight"] = [WIDTH, INNER]
        for part in ("input", "post_attention"):
            found[f"{name}.{part}_layernorm.weight"] = [WIDTH]
    return found


def write_weights(path, shapes_by_name):
    """A safetensors file of small random numbers; norms are 1."""
    dice, header, content = random.Random(7), {}, b""
    for name, shape in sorted(shapes_by_name.items()):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0 if len(shape) == 1 else dice.gauss(0, 0.05) for _ in range(count)]
        start = len(content)
        content += struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(content)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def language_model(tiny_bert, folder):
    """A directory with a Llama that has the tokenizer of tests/parity/fixtures/tiny-bert."""
    folder.mkdir()
    shutil.copy(tiny_bert / "tokenizer.json", folder)
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    settings = {"chat_template": TEMPLATE, "eos_token": "[SEP]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(words),
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", shapes(len(words)))
    return folder


def conversations(path):
    """Rows of two messages each."""
    dice = random.Random(7)
    words = ["win", "free", "money", "meet", "lunch", "report"]

    def said(role):
        return {"role": role, "content": " ".join(dice.choices(words, k=dice.randint(2, 9)))}

    rows = [{"messages": [said("user"), said("assistant")]} for _ in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
