"""The shape of a model: one frozen dataclass, and the size ladder that turns one dial into a whole shape."""

from __future__ import annotations

import dataclasses

from models.fields import check_fields, is_whole

HEAD_WIDTH = 16  # of the ladder; small, so that narrow models keep several heads

POSITIONS = ("rope", "learned", "none")
NORMS = ("rms", "layer")
GATED = ("swiglu", "geglu")
ACTIVATIONS = (*GATED, "gelu", "relu2", "relu")
PARAMETRIZATIONS = ("completep", "mup", "standard")
ROUTERS = ("softmax", "sigmoid")
BALANCES = ("switch", "bias", "none")
DISPATCHES = ("dropless", "capacity", "dense")


class ConfigError(ValueError):
    """A model or run configuration that cannot be: the message says which field and what would be right."""


def _round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer's shape. Hashable: it is a static argument of every compiled function.

    The defaults are the project's leader: RoPE, RMSNorm, QK-norm, SwiGLU, untied head. A laggard is the same with, say,
    `positions="learned", norm="layer", qk_norm=False, activation="gelu"`.

    `kv_heads` below `heads` is grouped-query attention. `softcap` and `attention_softcap` bound logits and attention scores
    by c tanh(x / c); 0 is off. `tied` uses the embedding as the head.

    `experts = 0` is a dense model. With experts, each feed-forward layer holds `experts` MLPs of hidden width `expert_ffn`, of
    which every token visits `experts_per_token`, and `shared_experts` more that all tokens visit. The default `expert_ffn` is
    `ffn / (experts_per_token + shared_experts)`, so that an MoE model and the dense model of the same shape have equal active
    feed-forward parameters. What a model would not heed is refused. `balance` says what keeps the load even: the Switch loss, a selection bias that needs no loss
    (DeepSeek-V3), or nothing. `capacity_factor` is used by the capacity dispatch only.
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
    kv_heads: int | None = None
    positions: str = "rope"
    norm: str = "rms"
    qk_norm: bool = True
    activation: str = "swiglu"
    tied: bool = False
    softcap: float = 0.0
    attention_softcap: float = 0.0
    parametrization: str = "completep"
    shared_experts: int = 0
    router: str = "softmax"
    balance: str = "switch"
    dispatch: str = "dropless"
    capacity_factor: float = 1.25

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        for name in ("layers", "width", "heads", "context"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(self.vocab_size >= 2, f"vocab_size must be at least 2, got {self.vocab_size}")
        _require(self.width % self.heads == 0, f"width {self.width} does not divide into {self.heads} heads")
        for name, known in _CHOICES.items():
            _require(getattr(self, name) in known, f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.positions == "rope":
            _require(self.head_width % 2 == 0, f"RoPE needs an even head width, got {self.width}/{self.heads} = {self.head_width}")
        _require(self.rope_base > 1, f"rope_base must be above 1, got {self.rope_base}")
        for name in ("softcap", "attention_softcap"):
            _require(getattr(self, name) >= 0, f"{name} must be 0 (off) or more, got {getattr(self, name)}")
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        _require(
            self.key_heads >= 1 and self.heads % self.key_heads == 0,
            f"kv_heads must divide the {self.heads} heads, got {self.kv_heads}",
        )
        if self.ffn is None:
            # 8/3 of the width gives a gated MLP the parameters of a plain one of 4x; 16 keeps rows aligned.
            object.__setattr__(self, "ffn", _round_up(8 * self.width / 3, 16) if self.gated else 4 * self.width)
        _require(self.ffn_width >= 1, f"ffn must be at least 1, got {self.ffn}")
        self._check_experts()

    def _check_experts(self) -> None:
        if self.experts == 0:
            for name in ("experts_per_token", "shared_experts"):
                _require(getattr(self, name) == 0, f"{name} = {getattr(self, name)} needs experts > 0")
            for name, default in _MOE_ONLY.items():
                _require(getattr(self, name) == default, f"{name} = {getattr(self, name)!r} needs experts > 0")
            return
        _require(self.experts >= 1, f"experts must be 0 (dense) or at least 1, got {self.experts}")
        _require(
            1 <= self.experts_per_token <= self.experts,
            f"experts_per_token must lie in 1..{self.experts}, got {self.experts_per_token}",
        )
        _require(self.shared_experts >= 0, f"shared_experts must be 0 or more, got {self.shared_experts}")
        _require(self.capacity_factor > 0, f"capacity_factor must be positive, got {self.capacity_factor}")
        _require(
            self.dispatch == "capacity" or self.capacity_factor == _MOE_ONLY["capacity_factor"],
            f"capacity_factor = {self.capacity_factor} needs dispatch = 'capacity'",
        )
        if self.expert_ffn is None:
            object.__setattr__(self, "expert_ffn", max(1, self.ffn_width // (self.experts_per_token + self.shared_experts)))
        _require(self.expert_width >= 1, f"expert_ffn must be at least 1, got {self.expert_ffn}")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def key_heads(self) -> int:
        assert self.kv_heads is not None  # set in __post_init__
        return self.kv_heads

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

    @property
    def gated(self) -> bool:
        return self.activation in GATED

    @property
    def granularity(self) -> float:
        """How many experts make one dense feed-forward of `ffn`: ffn / expert_ffn (Ludziejewski et al. 2024, arXiv 2402.07871)."""
        return self.ffn_width / self.expert_width


_CHOICES = {
    "positions": POSITIONS,
    "norm": NORMS,
    "activation": ACTIVATIONS,
    "parametrization": PARAMETRIZATIONS,
    "router": ROUTERS,
    "balance": BALANCES,
    "dispatch": DISPATCHES,
}

# What only experts heed: a dense model is not given it, so that it is not another model in name only.
_MOE_ONLY = {name: getattr(ModelConfig, name) for name in ("expert_ffn", "router", "balance", "dispatch", "capacity_factor")}


def ladder(width: int, **overrides: object) -> ModelConfig:
    """The `ModelConfig` that belongs to `width`: heads of 16, one layer per 32 of width and at least two.

    `overrides` are fields of `ModelConfig` (experts, context, layers, ...). The depth rule is a choice of this project, not a
    published optimum: at 16 to 128 of width it keeps width / layers between 8 and 32. RoPE's base is the context: the usual
    10,000 leaves most of a narrow head's few frequencies almost still within a short context.
    """
    _require(is_whole(width) and width % HEAD_WIDTH == 0 and width > 0, f"the ladder's widths are multiples of {HEAD_WIDTH}, got {width!r}")
    unknown = overrides.keys() - {field.name for field in dataclasses.fields(ModelConfig)}
    _require(not unknown, f"a model has no {', '.join(sorted(unknown))}; its fields are those of ModelConfig")
    fields: dict = {"layers": max(2, round(width / 32)), "width": width, "heads": width // HEAD_WIDTH} | overrides
    context = fields.get("context", ModelConfig.context)
    if is_whole(context):  # else `ModelConfig` says what is wrong with it
        fields.setdefault("rope_base", float(context))
    return ModelConfig(**fields)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
