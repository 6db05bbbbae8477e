"""The shape of a model to be trained: dense or mixture of experts, MHA, GQA or MLA, and its parameters and FLOPs per token."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache, cached_property
from importlib import resources
from typing import Any

from scaling.errors import InputError

# Widths of DeepSeek's multi-head latent attention (arXiv 2405.04434, section 2.1; 2412.19437, 4.2), where a row or preset names none.
MLA_QUERY_RANK, MLA_KV_RANK, MLA_ROPE = 1536, 512, 64


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer. Widths are in elements; `vocab` rows of the head; the input embedding is not multiplied.

    `ffn_matrices` is 3 for a gated feed-forward block and 2 for a plain one. `moe_layers` of the `layers` have `experts` of `expert_width`,
    of which a token uses `experts_per_token`, beside `shared_experts`. `windowed` is the share of layers whose attention sees at most `window`
    tokens. For MLA `head_dim` is the value's width; queries and keys have `rope` more. `mtp_layers` predict further tokens (DeepSeek-V3).
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocab: int
    ffn_matrices: int = 3
    experts: int = 0
    experts_per_token: int = 0
    shared_experts: float = 0
    expert_width: int = 0
    moe_layers: int = 0
    attention: str = "mha"
    windowed: float = 0.0
    window: int = 0
    flash: bool = True
    query_rank: int = MLA_QUERY_RANK
    kv_rank: int = MLA_KV_RANK
    rope: int = MLA_ROPE
    mtp_layers: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("layers", "width", "heads", "kv_heads", "head_dim", "vocab"):
            if not getattr(self, field) >= 1:
                raise InputError(f"architecture: {field} must be 1 or more, got {getattr(self, field)}")
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise InputError(f"architecture: a token uses 1 to {self.experts} experts, got experts_per_token = {self.experts_per_token}")
        if not 0 <= self.moe_layers <= self.layers:
            raise InputError(f"architecture: moe_layers must be 0 to {self.layers}, got {self.moe_layers}")
        if self.moe_layers and not (self.experts and self.expert_width):
            raise InputError("architecture: moe_layers need experts and expert_width")
        if self.moe_layers < self.layers and not self.ffn_width:
            raise InputError("architecture: dense layers need ffn_width")

    @property
    def query_width(self) -> int:
        """Width of one head's queries and keys."""
        return self.head_dim + self.rope if self.attention == "mla" else self.head_dim

    def attention_matrices(self) -> list[tuple[int, int, str]]:
        """(inputs, outputs, split) of the projections; split says which side tensor parallelism divides: in, out or none."""
        d, h, hd = self.width, self.heads, self.head_dim
        if self.attention != "mla":
            return [(d, (h + 2 * self.kv_heads) * hd, "out"), (h * hd, d, "in")]
        q, kv = self.query_rank, self.kv_rank
        return [
            (d, q + kv + self.rope, "none"),
            (q, h * self.query_width, "out"),
            (kv, h * 2 * hd, "out"),
            (h * hd, d, "in"),
        ]

    def ffn_params(self, width: float) -> float:
        """Parameters of one feed-forward block of this width."""
        return self.ffn_matrices * self.width * width

    @cached_property
    def attention_params(self) -> int:
        """Parameters of the projections of one layer."""
        return sum(inputs * outputs for inputs, outputs, _ in self.attention_matrices())

    @cached_property
    def expert_params(self) -> float:
        """Parameters of all routed experts of all layers."""
        return self.moe_layers * self.experts * self.ffn_params(self.expert_width)

    @cached_property
    def dense_params(self) -> float:
        """Parameters of the layers that every token uses: projections, dense and shared blocks, routers."""
        dense = (self.layers - self.moe_layers) * self.ffn_params(self.ffn_width)
        shared = self.moe_layers * (self.ffn_params(self.shared_experts * self.expert_width) + self.width * self.experts)
        extra = self.mtp_layers * (2 * self.width**2 + self.attention_params + self._mtp_ffn())
        return self.layers * self.attention_params + dense + shared + extra

    def _mtp_ffn(self) -> float:
        if not self.moe_layers:
            return self.ffn_params(self.ffn_width)
        return self.ffn_params((self.experts_per_token + self.shared_experts) * self.expert_width)

    @property
    def head_params(self) -> int:
        """Parameters of the output head."""
        return self.vocab * self.width

    @property
    def params(self) -> float:
        """All parameters, with input and output embeddings apart."""
        return self.dense_params + self.expert_params + 2 * self.head_params

    @property
    def active_matmul_params(self) -> float:
        """Parameters that multiply each token: the head is in, the input embedding is out."""
        routed = self.moe_layers * self.experts_per_token * self.ffn_params(self.expert_width)
        return self.dense_params + routed + self.head_params * (1 + self.mtp_layers)

    def context(self, sequence: float, causal: bool = True) -> float:
        """Keys that a query meets, averaged over layers and positions; the full score matrix without `causal`."""
        full = sequence / 2 if causal else sequence
        if not self.windowed:
            return full
        window = min(self.window, sequence)
        seen = window - window**2 / (2 * sequence) if causal else sequence
        return (1 - self.windowed) * full + self.windowed * seen

    def attention_flops(self, sequence: float, causal: bool = True) -> float:
        """Forward FLOPs of scores and values per token, all layers."""
        width = self.heads * (self.query_width + self.head_dim)
        return 2 * (self.layers + self.mtp_layers) * width * self.context(sequence, causal)

    def flops_per_token(self, sequence: float, causal: bool = False) -> float:
        """Model FLOPs of training, forward and backward, without recomputation: 6 x active matmul parameters + attention.

        By default the full score matrix is counted, windows included, as most sources do (Megatron-LM, llm-foundry); `causal` counts what is needed.
        """
        return 6 * self.active_matmul_params + 3 * self.attention_flops(sequence, causal)


def windows(text: str) -> dict[str, Any]:
    """Fields of an Architecture that a description of attention tells, such as "gqa, 3 of 4 layers chunked 8192"."""
    text = text.lower()
    found: dict[str, Any] = {"attention": "mla" if "mla" in text else "gqa" if "gqa" in text else "mha"}
    if "no flash" in text:
        found["flash"] = False
    share = re.search(r"(\d+) of (\d+) layers", text)
    if any(word in text for word in ("window", "chunk", "banded", "local")):
        found["windowed"] = int(share[1]) / int(share[2]) if share else 0.5 if "altern" in text else 0.75
        number = re.search(r"(?:window|chunked|banded|local)\s+(\d+)", text)
        found["window"] = int(number[1]) if number else 1024
    return found


def from_params(params: float, vocab: int = 50304) -> Architecture:
    """A plain dense transformer of about so many parameters: width 128 times the depth, heads of 128, four-fold feed-forward width.

    The aspect ratio is that of published models of 1 to 500 billion parameters (GPT-3, arXiv 2005.14165, table 2.1).
    """
    if not params > 0:
        raise InputError(f"architecture: params must be positive, got {params}")
    width = 64
    while 12 * (width + 64) ** 3 / 128 + 2 * vocab * (width + 64) <= params:
        width += 64
    layers = max(1, round((params - 2 * vocab * width) / (12 * width**2)))
    heads = max(1, width // 128)
    return Architecture(layers, width, heads, heads, width // heads, 4 * width, vocab, ffn_matrices=2)


def divisible(params: float, vocab: int = 50304) -> Architecture:
    """As `from_params`, with a width that is a multiple of 1,024, so that heads divide among many chips."""
    rough = from_params(params, vocab)
    width = max(1024, 1024 * round(rough.width / 1024))
    layers = max(1, round((params - 2 * vocab * width) / (12 * width**2)))
    heads = width // 128
    return Architecture(layers, width, heads, heads, 128, 4 * width, vocab, ffn_matrices=2, name=f"dense {params / 1e9:.3g}B")


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Published shapes by name, each with its source."""
    return json.loads(resources.files("scaling.hardware").joinpath("architectures.json").read_text())


def preset(name: str) -> Architecture:
    """The published shape called `name`. Raises InputError that offers the nearest names."""
    import difflib

    key = name.lower().replace("_", "-")
    if key not in presets():
        near = difflib.get_close_matches(key, presets(), 3, 0.4) or list(presets())
        raise InputError(f"no model {name!r}; nearest: {', '.join(near)}; or give the shape: layers, width, heads, ...")
    known = {field.name for field in dataclasses.fields(Architecture)}
    fields: dict[str, Any] = {name: value for name, value in presets()[key].items() if name in known}
    fields["name"] = key
    return Architecture(**fields)
