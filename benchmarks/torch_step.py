"""The training step of `benchmarks/speed.py train` in PyTorch: the same shapes, initial scale, data and AdamW, as a referee for speed.

    python benchmarks/torch_step.py SHAPE [eager|compiled] [fp32|bf16]      prints one JSON object

PyTorch is no dependency of the package: `benchmarks/speed.py train --torch PYTHON` names an interpreter that has it.
SHAPE is LAYERS,WIDTH,HEADS,BATCH,CONTEXT.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch  # ty: ignore[import-not-found]
from torch import nn  # ty: ignore[import-not-found]
from torch.nn import functional as F  # noqa: N812  # ty: ignore[import-not-found]

VOCAB, WARM_UP, SECONDS = 256, 3, 6.0


def rope(x_BNTH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
    first, second = x_BNTH.chunk(2, dim=-1)
    return torch.cat([first * cos_TH - second * sin_TH, second * cos_TH + first * sin_TH], dim=-1)


class Block(nn.Module):
    """Pre-norm attention through `scaled_dot_product_attention`, then a squared-ReLU feed-forward of 4x."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ffn_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.attention_norm(x_BTD)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q_BNTH, k_BNTH = rope(qkv[0], cos_TH, sin_TH).to(qkv.dtype), rope(qkv[1], cos_TH, sin_TH).to(qkv.dtype)
        mixed = F.scaled_dot_product_attention(q_BNTH, k_BNTH, qkv[2], is_causal=True)
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(B, T, D))
        return x_BTD + self.down(F.relu(self.up(self.ffn_norm(x_BTD))).square())


class Model(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, context: int):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, VOCAB, bias=False)
        half = width // heads // 2
        angle_TH = torch.arange(context)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos_TH", angle_TH.cos())
        self.register_buffer("sin_TH", angle_TH.sin())

    def forward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos_TH, self.sin_TH)
        logits_BTV = self.head(self.norm(x_BTD))
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten())


def main() -> None:
    layers, width, heads, batch, context = (int(part) for part in sys.argv[1].split(","))
    way, precision = sys.argv[2:4]
    torch.manual_seed(0)
    model = Model(layers, width, heads, context)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(0, VOCAB, (64, batch, context + 1))

    def step(tokens_BT: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = run(tokens_BT[:, :-1], tokens_BT[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss

    run = torch.compile(model) if way == "compiled" else model
    began = time.perf_counter()
    step(tokens[0])
    compile_seconds = time.perf_counter() - began
    for i in range(WARM_UP):
        step(tokens[i])
    seconds, stop = [], time.perf_counter() + SECONDS
    while len(seconds) < 5 or time.perf_counter() < stop:
        began = time.perf_counter()
        loss = step(tokens[len(seconds) % 64])
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    rate = batch * context
    print(
        json.dumps(
            {
                "median": rate / seconds[len(seconds) // 2],
                "best": rate / seconds[0],
                "compile": compile_seconds,
                "loss": loss.item(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    )


if __name__ == "__main__":
    main()
