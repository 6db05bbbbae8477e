"""The shape of a model: one frozen dataclass, and the size ladder that turns one dial into a whole shape."""

from __future__ import annotations

import dataclasses

HEAD_WIDTH = 16  # of the ladder; small, so that narrow models keep several heads


class ConfigError(ValueError):
    """A model or run configuration that cannot be: the message says which field and what would be right."""


def _round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer's shape. Hashable: it is a static argument of every compiled function.

    `experts = 0` is a dense model. With experts, each feed-forward layer holds `experts` gated MLPs of hidden width
    `expert_ffn`, of which every token visits `experts_per_token`. The default `expert_ffn` is `ffn / experts_per_token`,
    so that an MoE model and the dense model of the same shape have equal active feed-forward parameters.
    """

    layers: int
    width: int
    heads: int
    vocab_size: int = 256
    context: int = 128
    ffn: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int | None = None
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "context"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(self.vocab_size >= 2, f"vocab_size must be at least 2, got {self.vocab_size}")
        _require(self.width % self.heads == 0, f"width {self.width} does not divide into {self.heads} heads")
        _require(self.head_width % 2 == 0, f"RoPE needs an even head width, got {self.width}/{self.heads} = {self.head_width}")
        _require(self.rope_base > 1, f"rope_base must be above 1, got {self.rope_base}")
        if self.ffn is None:
            # 8/3 of the width gives a gated MLP the parameters of a plain one of 4x; 16 keeps rows aligned.
            object.__setattr__(self, "ffn", _round_up(8 * self.width / 3, 16))
        _require(self.ffn_width >= 1, f"ffn must be at least 1, got {self.ffn}")
        if self.experts == 0:
            _require(self.experts_per_token == 0, f"experts_per_token = {self.experts_per_token} needs experts > 0")
            _require(self.expert_ffn is None, "expert_ffn needs experts > 0")
            return
        _require(self.experts >= 2, f"experts must be 0 (dense) or at least 2, got {self.experts}")
        _require(
            1 <= self.experts_per_token <= self.experts,
            f"experts_per_token must lie in 1..{self.experts}, got {self.experts_per_token}",
        )
        if self.expert_ffn is None:
            object.__setattr__(self, "expert_ffn", max(1, self.ffn_width // self.experts_per_token))
        _require(self.expert_width >= 1, f"expert_ffn must be at least 1, got {self.expert_ffn}")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def ffn_width(self) -> int:
        assert self.ffn is not None  # set in __post_init__
        return self.ffn

    @property
    def expert_width(self) -> int:
        assert self.expert_ffn is not None  # set in __post_init__ where there are experts
        return self.expert_ffn

    @property
    def is_moe(self) -> bool:
        return self.experts > 0


def ladder(width: int, **overrides: object) -> ModelConfig:
    """The `ModelConfig` that belongs to `width`: heads of 16, one layer per 32 of width and at least two.

    `overrides` are fields of `ModelConfig` (experts, context, layers, ...). The depth rule is a choice of this project, not a
    published optimum: at 16 to 128 of width it keeps width / layers between 8 and 32. RoPE's base is the context: the usual
    10,000 leaves most of a narrow head's few frequencies almost still within a short context.
    """
    _require(width % HEAD_WIDTH == 0 and width > 0, f"the ladder's widths are multiples of {HEAD_WIDTH}, got {width}")
    fields: dict = {"layers": max(2, round(width / 32)), "width": width, "heads": width // HEAD_WIDTH} | overrides
    fields.setdefault("rope_base", float(fields.get("context", ModelConfig.context)))
    return ModelConfig(**fields)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
