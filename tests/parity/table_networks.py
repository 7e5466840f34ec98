"""What PyTorch says of small networks of tables: tests/parity/fixtures/table_networks.json, which the tests
of worker/src/tabular/neural compare with.

    python table_networks.py             compare with the fixture
    python table_networks.py --write     write the fixture anew

The networks are written by PyTorch's own modules after Gorishniy et al. 2021 (arXiv:2106.11959), with the names
of rtdl_revisiting_models 0.0.2. With --rtdl FILE, that package's file, FT-Transformer is compared with its own.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import sys

import torch
from torch import nn

FIXTURE = pathlib.Path(__file__).parent / "fixtures/table_networks.json"
ROWS, STEPS = 5, 1000


class Categories(nn.Module):
    """One embedding a category, with two rows more: of other values, and of missing ones."""

    def __init__(self, values, width, bias):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(count + 2, width) for count in values])
        self.bias = nn.Parameter(torch.empty(len(values), width)) if bias else None

    def forward(self, codes):
        tokens = torch.stack([table(codes[:, at]) for at, table in enumerate(self.embeddings)], 1)
        return tokens if self.bias is None else tokens + self.bias


class Mlp(nn.Module):
    def __init__(self, shape, numbers, values, classes):
        super().__init__()
        self.cat_embeddings = Categories(values, shape["dEmbedding"], bias=False)
        widths = [2 * numbers + len(values) * shape["dEmbedding"]] + shape["layers"] * [shape["width"]]
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"linear": nn.Linear(a, b)}) for a, b in zip(widths, widths[1:])])
        self.output = nn.Linear(shape["width"], classes)
        self.numbers, self.values = numbers, len(values)

    def embed(self, numbers, missing, codes):
        return torch.cat([numbers, missing, self.cat_embeddings(codes).flatten(1)], 1)

    def score(self, x):
        for block in self.blocks:
            x = torch.relu(block["linear"](x))
        return self.output(x)

    def by_feature(self, x):
        n = self.numbers
        rest = x[:, 2 * n:].reshape(len(x), self.values, -1).sum(-1)
        return torch.cat([x[:, :n] + x[:, n:2 * n], rest], 1)


class Numbers(nn.Module):
    def __init__(self, count, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        self.bias = nn.Parameter(torch.empty(count, width))
        self.missing = nn.Parameter(torch.empty(count, width))

    def forward(self, numbers, missing):
        return numbers[..., None] * self.weight + missing[..., None] * self.missing + self.bias


class Transformer(nn.Module):
    def __init__(self, shape, numbers, values, classes):
        super().__init__()
        d, hidden = shape["dToken"], shape["ffnHidden"]
        self.heads = shape["attentionHeads"]
        self.cls_embedding = nn.ParameterDict({"weight": nn.Parameter(torch.empty(d))})
        self.cont_embeddings = Numbers(numbers, d)
        self.cat_embeddings = Categories(values, d, bias=True)
        blocks = []
        for number in range(shape["blocks"]):
            attention = {name: nn.Linear(d, d) for name in ["W_q", "W_k", "W_v", "W_out"]}
            block = {
                "attention": nn.ModuleDict(attention),
                "ffn_normalization": nn.LayerNorm(d),
                "ffn": nn.ModuleDict({"linear1": nn.Linear(d, 2 * hidden), "linear2": nn.Linear(hidden, d)}),
            }
            if number:
                block["attention_normalization"] = nn.LayerNorm(d)
            blocks.append(nn.ModuleDict(block))
        head = nn.ModuleDict({"normalization": nn.LayerNorm(d), "linear": nn.Linear(d, classes)})
        self.backbone = nn.ModuleDict({"blocks": nn.ModuleList(blocks), "output": head})

    def embed(self, numbers, missing, codes):
        return torch.cat([self.cont_embeddings(numbers, missing), self.cat_embeddings(codes)], 1)

    def score(self, tokens):
        x = torch.cat([self.cls_embedding["weight"].expand(len(tokens), 1, -1), tokens], 1)
        for block in self.backbone["blocks"]:
            of = block["attention"]
            y = block["attention_normalization"](x) if "attention_normalization" in block else x
            query, key, value = (
                of[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ["W_q", "W_k", "W_v"])
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            x = x + of["W_out"](mixed.transpose(1, 2).flatten(2))
            value, gate = block["ffn"]["linear1"](block["ffn_normalization"](x)).chunk(2, -1)
            x = x + block["ffn"]["linear2"](value * torch.relu(gate))
        head = self.backbone["output"]
        return head["linear"](torch.relu(head["normalization"](x[:, 0])))

    def by_feature(self, x):
        return x.sum(-1)


def gradients(network, rows, base, target):
    """Integrated gradients of each row's raw score `target`, by many steps."""
    row, start = network.embed(*rows).detach(), network.embed(*base).detach()
    way, total = row - start, torch.zeros_like(row)
    for step in range(STEPS):
        point = (start + (step + 0.5) / STEPS * way).requires_grad_()
        total += torch.autograd.grad(network.score(point)[:, target].sum(), point)[0]
    return network.by_feature(way * total / STEPS)


def compare_with_rtdl(path, network, shape, numbers, values, classes, rows):
    spec = importlib.util.spec_from_file_location("rtdl", path)
    rtdl = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rtdl)
    other = rtdl.FTTransformer(
        n_cont_features=numbers, cat_cardinalities=[count + 2 for count in values], d_out=classes,
        n_blocks=shape["blocks"], d_block=shape["dToken"], attention_n_heads=shape["attentionHeads"],
        attention_dropout=0.0, ffn_d_hidden=shape["ffnHidden"], ffn_d_hidden_multiplier=None, ffn_dropout=0.0,
        residual_dropout=0.0).double().eval()
    state = {name: of for name, of in network.state_dict().items() if name != "cont_embeddings.missing"}
    other.load_state_dict(state)
    given, missing, codes = rows
    known = missing.sum(1) == 0
    own = network.score(network.embed(*rows))[known]
    off = (other(given[known], codes[known]) - own).abs().max().item()
    print(f"rtdl_revisiting_models: {int(known.sum())} rows within {off:.1e}")
    assert off < 1e-9


def example(kind, shape, classes, rtdl):
    numbers, values = 2, [3, 2]
    network = kind(shape, numbers, values, classes).double()
    torch.manual_seed(11)
    with torch.no_grad():
        for of in network.parameters():
            of.copy_(torch.randn_like(of).float() / math.sqrt(of.shape[-1]))
    missing = (torch.rand(ROWS, numbers) < 0.3).double()
    missing[0] = 0
    given = torch.randn(ROWS, numbers).float().double() * (1 - missing)
    codes = torch.stack([torch.randint(0, count + 2, (ROWS,)) for count in values], 1)
    rows = (given, missing, codes)
    base = (torch.zeros(1, numbers).double(), torch.zeros(1, numbers).double(),
            torch.tensor([[0] * len(values)]))
    if kind is Transformer and rtdl:
        compare_with_rtdl(rtdl, network, shape, numbers, values, classes, rows)
    return {
        "shape": shape, "values": values, "classes": classes,
        "tensors": {name: {"shape": list(of.shape), "values": of.flatten().tolist()}
                    for name, of in network.state_dict().items()},
        "numbers": given.flatten().tolist(), "missing": missing.flatten().tolist(),
        "categories": codes.flatten().tolist(),
        "scores": network.score(network.embed(*rows)).flatten().tolist(),
        "base": network.score(network.embed(*base)).flatten().tolist(),
        "gradients": gradients(network, rows, base, classes - 1).flatten().tolist(),
    }


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--write", action="store_true")
    arguments.add_argument("--rtdl", type=pathlib.Path)
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    transformer = {
        "architecture": "FTTransformer", "blocks": 3, "dToken": 8, "attentionHeads": 2, "ffnHidden": 5,
        "attentionDropout": 0.1, "ffnDropout": 0.1, "residualDropout": 0.1,
    }
    mlp = {"architecture": "MLP", "layers": 2, "width": 6, "dropout": 0.1, "dEmbedding": 3}
    found = [example(Transformer, transformer, 3, asked.rtdl), example(Mlp, mlp, 1, asked.rtdl)]
    if asked.write:
        FIXTURE.write_text(json.dumps(found) + "\n")
        return
    for one, other in zip(json.loads(FIXTURE.read_text()), found, strict=True):
        for name in ["scores", "base", "gradients"]:
            both = zip(one[name], other[name], strict=True)
            if not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) for a, b in both):
                sys.exit(f"{name} of {one['shape']['architecture']} are other than what the reference gives now")


if __name__ == "__main__":
    main()
