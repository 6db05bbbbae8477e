"""Two sets of runs under one law: a baseline, and a variant that may differ from it in every constant.

Each side follows E + (A N^-alpha + B D^-beta)^kappa (kappa = 1: Hoffmann et al. 2022, arXiv 2203.15556, equation 2). What is asked of
the two is how much more compute the variant needs at one loss, so that this very number is a constant here, and others follow as ratios: both laws
are written around their compute-optimal runs at one loss, the anchor,

    L / l = 1 - r + r u^kappa,   u = (beta (N / N0)^-alpha + alpha (D / D0)^-beta) / (alpha + beta),

of which N0 and D0 are the optimum: there u = 1, and both terms fall alike. With one irreducible loss and one pair of exponents this is L(N / m, D / k), and
the penalty is m k at every loss. All nested models are this law with some constants held at one, so that one compiled program fits them all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fits.curve import Curve
from fits.laws import law, maths
from fits.laws.base import Constants, Inputs, Law, Parameter, exponent


def _loss(c: Constants, x: Inputs) -> Any:
    side, split = x["variant"], x["split"]
    penalty, tilt = maths.log(c["penalty"]), maths.log(c["tilt"])
    log_n = x.log("size") - maths.log(c["size"]) - side * (split * penalty + tilt)
    log_d = x.log("tokens") - maths.log(c["product"]) + maths.log(c["size"]) - side * ((1 - split) * penalty - tilt)
    reducible = 1 - c["irreducible"] * maths.exp(side * maths.log(c["irreducible_ratio"]))
    shape = c["alpha"] / c["beta"] * maths.exp(side * maths.log(c["shape"]))
    # gamma, by which u falls on the frontier; growth = gamma r / (gamma' r') is d ln(variant's compute) / d ln(baseline's) at equal loss.
    slower = side * maths.log(c["growth"]) + maths.log(reducible / (1 - c["irreducible"]))
    gamma = c["alpha"] * c["beta"] / (c["alpha"] + c["beta"]) * maths.exp(-slower)
    alpha, beta = gamma * (1 + shape), gamma * (1 + shape) / shape
    inner = (maths.exp(-alpha * log_n) + shape * maths.exp(-beta * log_d)) / (1 + shape)
    return 1 - reducible + reducible * maths.exp(c["outer"] * maths.log(inner))


def _ratio(name: str) -> Parameter:
    return Parameter(name, low=1e-6, high=1e6, log=True)


TWO_SIDES = Law(
    name="two-sides",
    formula="1 - r + r * ((beta * (size / size0)^-alpha + alpha * (tokens / tokens0)^-beta) / (alpha + beta))^outer, all but outer by side",
    function=_loss,
    parameters=(
        Parameter("irreducible", low=1e-6, high=1 - 1e-6, log=True),  # of the baseline, over the anchor
        Parameter("size", low=1e-10, high=1e40, log=True),  # N0 of the baseline
        Parameter("product", low=1e-10, high=1e80, log=True),  # N0 D0 of the baseline
        exponent("alpha"),
        exponent("beta"),
        Parameter("outer", low=0.05, high=20.0, log=True),
        Parameter("penalty", low=1e-9, high=1e9, log=True),  # N0' D0' / (N0 D0) = m k
        _ratio("tilt"),  # m = penalty^split tilt, k = penalty^(1 - split) / tilt
        _ratio("growth"),
        _ratio("shape"),  # (alpha' / beta') / (alpha / beta)
        _ratio("irreducible_ratio"),  # E' / E
    ),
    # variant: 0 or 1. split: which share of the log penalty lies on the size by itself, the same in every row.
    inputs=("size", "tokens", "variant", "split"),
)
PLACE = {name: i for i, name in enumerate(TWO_SIDES.constants)}


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """E + (A N^-alpha + B D^-beta)^outer of one side, around its optimum (size, tokens) at the loss of the anchor. Numbers, or arrays over draws."""

    loss: Any
    irreducible: Any  # E, nats/token
    size: Any
    tokens: Any
    alpha: Any
    beta: Any
    outer: Any = 1.0

    @property
    def product(self) -> Any:
        """size * tokens at the anchor."""
        return self.size * self.tokens

    @property
    def gamma(self) -> Any:
        """The exponent of the reducible loss on the compute-optimal frontier."""
        return self.outer * self.alpha * self.beta / (self.alpha + self.beta)

    def at(self, loss: Any) -> Side:
        """The same law around another loss; its sizes are infinite where that is not above E."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            fall = np.log(np.maximum(loss - self.irreducible, 0.0) / (self.loss - self.irreducible)) / self.outer
            size, tokens = (start * np.exp(-fall / power) for start, power in ((self.size, self.alpha), (self.tokens, self.beta)))
        return dataclasses.replace(self, loss=loss, size=size, tokens=tokens)

    def loss_for(self, product: Any) -> Any:
        """The least loss where size * tokens = product."""
        fall = self.gamma * np.log(self.product / product)
        return self.irreducible + (self.loss - self.irreducible) * np.exp(fall)

    def curve(self, name: str, flops_per_param_token: float, about: dict[str, Any]) -> Curve:
        """The side as a curve of `fits`, whose params are the size."""
        scale = float(self.loss - self.irreducible) ** (1 / float(self.outer)) / (self.alpha + self.beta)
        values = {
            "E": self.irreducible,
            "A": self.beta * scale * self.size**self.alpha,
            "B": self.alpha * scale * self.tokens**self.beta,
            "alpha": self.alpha,
            "beta": self.beta,
        }
        own = "chinchilla" if self.outer == 1 else "outer-exponent"
        values |= {} if self.outer == 1 else {"k": self.outer}
        known = {key: float(value) for key, value in values.items()}
        return Curve(law=law(own), constants=known, name=name, flops_per_param_token=flops_per_param_token, about=about)


def sides(constants: np.ndarray, loss: Any, split: float) -> tuple[Side, Side]:
    """Baseline and variant of constants (..., constants), around the loss of the anchor."""
    c = dict(zip(TWO_SIDES.constants, np.moveaxis(np.asarray(constants, float), -1, 0), strict=True))
    baseline = Side(loss, loss * c["irreducible"], c["size"], c["product"] / c["size"], c["alpha"], c["beta"], c["outer"])
    irreducible = c["irreducible"] * c["irreducible_ratio"]
    slower = c["growth"] * (1 - irreducible) / (1 - c["irreducible"])
    gamma = c["alpha"] * c["beta"] / (c["alpha"] + c["beta"]) / slower
    shape = c["alpha"] / c["beta"] * c["shape"]
    m, k = c["penalty"] ** split * c["tilt"], c["penalty"] ** (1 - split) / c["tilt"]
    alpha, beta = gamma * (1 + shape), gamma * (1 + shape) / shape
    return baseline, Side(loss, loss * irreducible, m * baseline.size, k * baseline.tokens, alpha, beta, c["outer"])


def constants_of(baseline: Side, variant: Side, split: float) -> np.ndarray:
    """The inverse of `sides`, for two sides around one loss; penalty infinite, zero or NaN where the variant, the baseline or neither reaches it."""
    with np.errstate(divide="ignore", invalid="ignore"):  # of sides that cannot reach the loss
        m, k = variant.size / baseline.size, variant.tokens / baseline.tokens
        ratio = (variant.loss - variant.irreducible) / (baseline.loss - baseline.irreducible)
        growth, tilt = baseline.gamma / variant.gamma / ratio, m / (m * k) ** split
    values = {
        "irreducible": baseline.irreducible / baseline.loss,
        "size": baseline.size,
        "product": baseline.product,
        "alpha": baseline.alpha,
        "beta": baseline.beta,
        "outer": baseline.outer,
        "penalty": m * k,
        "tilt": tilt,
        "growth": growth,
        "shape": variant.alpha / variant.beta * baseline.beta / baseline.alpha,
        "irreducible_ratio": variant.irreducible / baseline.irreducible,
    }
    return np.stack(np.broadcast_arrays(*(values[name] for name in TWO_SIDES.constants)), axis=-1)
