"""Compressed models that Hearth writes, read by transformers.

    python compressed.py --worker BINARY --out FOLDER

Compresses a small Llama to every format, and checks that transformers (with compressed-tensors, or
with gguf) finds in what was written the loss that Hearth finds, and that it is not the original's.
"""

import argparse
import json
import pathlib
import shutil
import sys

import hearth
import safetensors.torch
import tokenizers
import torch
import torch.nn.utils.prune
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz. "
# Most by which losses may differ: means of about 100 tokens, here with activations of 16 bits.
SAME = 1e-4
# INT8's activations are rounded, too, in compressed-tensors to 8 bits, here to 7 on CPUs without
# VNNI: 1 % of the loss.
ROUNDED = 0.06
HALF = {"type": "Unstructured", "sparsity": 0.5}
SMALLER = {"type": "Structured", "heads": 0.5, "neurons": 0.25}
CASES = [
    ("INT8", 128, None, ROUNDED),
    ("INT8WeightOnly", 128, None, SAME),
    ("INT4", 32, None, SAME),
    ("INT4", 128, None, SAME),
    ("FP8", 128, None, SAME),
    ("FP16", 128, None, SAME),
    ("BF16", 128, None, SAME),
    ("Q8_0", 128, None, SAME),
    ("Q4_0", 128, None, SAME),
    ("Q4_K_M", 128, None, SAME),
    ("FP32", 128, HALF, SAME),
    ("FP32", 128, {"type": "SemiStructured"}, SAME),
    ("FP32", 128, SMALLER, SAME),
    ("INT8WeightOnly", 128, HALF, SAME),
    ("INT4", 32, SMALLER, SAME),
    ("Q4_0", 128, SMALLER, SAME),
]


def tokenizer():
    """Byte-level BPE without merges: a token a letter."""
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>"] + [*LETTERS.replace(" ", "Ġ")])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.add_special_tokens(["<s>", "</s>"])
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def model(folder):
    """A Llama that is sure of its answers, so that rounding shows."""
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.15, bos_token_id=0, eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def compress(worker, base, text, case, folder):
    """The worker's losses before and after."""
    quantization, group, pruning, _ = case
    rows = folder.parent / "texts.jsonl"
    rows.write_text(json.dumps({"text": text}) + "\n")
    output = folder / "model"
    config = {
        "version": hearth.VERSION,
        "job": {"namespace": "local", "name": "parity", "uid": ""},
        "model": str(base),
        "quantization": quantization,
        "groupSize": group,
        "output": str(output),
        "outputUri": f"file://{output}",
        "calibration": None,
        "pruning": pruning,
        "gate": {"data": hearth.data_file(rows), "metric": "loss", "maxDrop": 1.0},
    }
    report = worker.run("quantize", config, folder)["compression"]
    return report["metricBefore"], report["metricAfter"]


def loss(folder, ids, quantization=None):
    """transformers' loss of a directory."""
    kind = {"gguf_file": "model.gguf"} if (folder / "model.gguf").exists() else {}
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kind).eval()
    if quantization == "FP8":
        # Hearth's servers on CPUs round no activations to e4m3.
        for part in made.modules():
            if hasattr(part, "quantization_scheme"):
                part.quantization_scheme.input_activations = None
    with torch.no_grad():
        return float(made(input_ids=ids, labels=ids).loss)


def masks(base, folder, pruning):
    """Whether weights are those that PyTorch leaves."""
    original = safetensors.torch.load_file(base / "model.safetensors")
    pruned = safetensors.torch.load_file(folder / "model.safetensors")
    for name, weight in original.items():
        if ".layers." not in name or weight.dim() != 2:
            continue
        if pruning["type"] == "Unstructured":
            kept = torch.nn.utils.prune.L1Unstructured(pruning["sparsity"]).compute_mask(weight, torch.ones_like(weight))
        else:
            fours = weight.abs().view(-1, 4)
            kept = torch.ones_like(fours).scatter(1, fours.argsort(1)[:, :2], 0.0).view_as(weight)
        if not torch.equal(weight * kept, pruned[name]):
            return False
    return True


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    base = given.out / "llama"
    base.mkdir(parents=True)
    transformers.utils.logging.disable_progress_bar()
    worker, failed = hearth.Worker(given.worker), []
    model(base)
    text = "the quick brown fox jumps over the lazy dog. a model that is rounded answers a little otherwise."
    ids = torch.tensor([tokenizer().encode(text + "</s>").ids])
    dense = loss(base, ids)
    for case in CASES:
        quantization, group, pruning, most = case
        name = f"{quantization}-{group}" if quantization == "INT4" else quantization
        name += f"-{pruning['type']}" if pruning else ""
        before, after = compress(worker, base, text, case, given.out / name)
        theirs = loss(given.out / name / "model", ids, quantization)
        apart, moved = abs(after - theirs), abs(after - before)
        fine = abs(before - dense) <= SAME and apart <= most and moved > SAME
        if quantization == "FP32" and pruning != SMALLER:
            fine = fine and masks(base, given.out / name / "model", pruning)
        print(f"{'ok    ' if fine else 'FAILED'}  {name}: loss {before:.5f} before; after {after:.5f} here, {theirs:.5f} in transformers")
        failed += [] if fine else [name]
    if failed:
        sys.exit(f"parity: not as the reference: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
