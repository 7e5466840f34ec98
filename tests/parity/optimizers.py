"""Four steps of each optimizer: what PyTorch and transformers make of two parameters.

The Rust test (worker/src/train/optimizer/mod.rs) makes the same steps.
"""

import torch
from transformers.optimization import Adafactor

RATE, DECAY, STEPS = 0.05, 0.1, 4


def parameters():
    """A matrix with weight decay, and a vector without."""
    matrix = torch.tensor([[0.5, -1.0, 2.0], [0.25, -0.75, 1.5]], requires_grad=True)
    vector = torch.tensor([0.1, -0.2], requires_grad=True)
    return matrix, vector


def run(make):
    matrix, vector = parameters()
    groups = [{"params": [matrix], "weight_decay": DECAY}, {"params": [vector], "weight_decay": 0}]
    optimizer = make(groups)
    for step in range(STEPS):
        x = torch.tensor([1.0, -0.5, 0.25 + step])
        optimizer.zero_grad()
        ((matrix @ x + vector).square() * 0.5).sum().backward()
        optimizer.step()
    return torch.cat([matrix.detach().flatten(), vector.detach()]).tolist()


def fixture():
    """Parameters after the last step, of AdamW, SGD and Adafactor."""
    adafactor = {"scale_parameter": False, "relative_step": False}
    return [
        run(lambda groups: torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), eps=1e-8)),
        run(lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9)),
        run(lambda groups: Adafactor(groups, lr=RATE, **adafactor)),
    ]
