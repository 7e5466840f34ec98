"""SmolLM2-135M-Instruct, read by transformers from llama.cpp's file: greedy continuations."""

import torch
import transformers

TEXTS = [
    "The capital of France is a city that has been",
    "In the year 1969, two men walked on the",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "Water boils at 100 degrees because the molecules in it",
    "Once upon a time there was a little girl who lived",
    "To make a good cup of tea you should first",
    "The three laws of motion were written down by Isaac",
    "My favourite animal is the elephant, since it can",
]
PROMPT, CONTINUATION = 8, 64
SUMS = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.norm.weight",
]


def smollm2(folder):
    """Prompts of one length, what follows them, and sums over some weights."""
    read = dict(gguf_file="model.gguf", dtype=torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **read).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    rows = []
    for text in TEXTS:
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"][:PROMPT]
        assert len(prompt) == PROMPT, text
        rows.append({"text": text, "prompt": prompt})
    prompts = torch.tensor([row["prompt"] for row in rows])
    with torch.no_grad():
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=CONTINUATION,
            min_new_tokens=CONTINUATION, do_sample=False, eos_token_id=None, pad_token_id=0,
        )
    for row, ids in zip(rows, out.tolist()):
        row["continuation"] = ids[PROMPT:]
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    sums = {
        name: [float(weights[name].sum()), float(weights[name].square().sum())]
        for name in SUMS
    }
    return {"rows": rows, "sums": sums}
