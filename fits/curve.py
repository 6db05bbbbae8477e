"""A fitted or published law as an object: predict, optimum, compute for a loss, save."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from fits import curve_file
from fits.errors import InputError
from fits.laws import chinchilla, law
from fits.laws.base import Law

Number = float | np.ndarray


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A model size, its training tokens, the loss it reaches (nats/token) and the training FLOP it takes."""

    params: float
    tokens: float
    loss: float
    flops: float


class Prediction(NamedTuple):
    """A predicted loss and the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no one truth of equality
class Curve:
    """A law with constants. Losses in nats/token of the corpus and tokenizer it was fitted on.

    `draws` are bootstrap (or published) constants, (draws, constants), from which intervals follow; `flops_per_param_token` is the c of
    C = c N D (6, or what a fit's own runs took); `range` holds [low, high] of params, tokens, flops and loss of the rows behind the fit.
    """

    law: Law
    constants: dict[str, float]
    name: str = ""
    draws: np.ndarray | None = None
    residual_sd: float | None = None  # of log loss
    flops_per_param_token: float = 6.0
    range: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)  # source, grade, units, corpus, recipe, ...

    def __post_init__(self) -> None:
        if set(self.constants) != set(self.law.constants):
            raise InputError(
                f"curve {self.name!r}: law {self.law.name} has constants {', '.join(self.law.constants)}, got {', '.join(self.constants)}"
            )
        wrong = [name for name in self.law.positive if self.constants[name] <= 0]
        if wrong:
            raise InputError(f"curve {self.name!r}: constant {wrong[0]} = {self.constants[wrong[0]]} must be positive in {self.law.name}")
        if self.draws is not None and self.draws.shape[1:] != (len(self.law.constants),):
            raise InputError(f"curve {self.name!r}: draws must hold {len(self.law.constants)} constants each, got shape {self.draws.shape}")
        wrong = [name for name, value in self.constants.items() if not math.isfinite(value)]
        if wrong:
            raise InputError(f"curve {self.name!r}: constant {wrong[0]} = {self.constants[wrong[0]]} is not finite")

    @property
    def params(self) -> dict[str, float]:
        """The same as `constants`."""
        return self.constants

    @property
    def vector(self) -> np.ndarray:
        """The constants in the law's order."""
        return np.array([self.constants[name] for name in self.law.constants])

    @property
    def gamma(self) -> float:
        """Exponent of the reducible loss along the compute-optimal frontier, alpha beta / (alpha + beta)."""
        alpha, beta = self.constants["alpha"], self.constants["beta"]
        return alpha * beta / (alpha + beta)

    @overload
    def loss(self, params: float, tokens: float) -> float: ...
    @overload
    def loss(self, params: np.ndarray, tokens: np.ndarray) -> np.ndarray: ...
    def loss(self, params: Number, tokens: Number) -> Number:
        """Predicted loss, nats/token."""
        value = chinchilla.loss(self.vector, _positive("params", params), _positive("tokens", tokens))
        return float(value) if value.ndim == 0 else value

    def predict(self, params: float, tokens: float, level: float = 0.95) -> Prediction:
        """The loss and its prediction interval at `level`: spread of the draws, and of the residuals around the law."""
        draws = chinchilla.loss(self._draws(), float(_positive("params", params)), float(_positive("tokens", tokens)))
        if self.residual_sd:
            noise = np.random.Generator(np.random.Philox(key=draws.size)).standard_normal(draws.size)
            draws = draws * np.exp(self.residual_sd * noise)
        low, high = _quantiles(draws, level)
        return Prediction(self.loss(params, tokens), low, high)

    def optimal(self, flops: float) -> Allocation:
        """The size and tokens of least loss for `flops` of training."""
        product = float(_positive("flops", flops)) / self.flops_per_param_token
        params = float(chinchilla.optimal_params(self.vector, product))
        tokens = product / params
        return Allocation(params, tokens, self.loss(params, tokens), float(flops))

    def compute_for(self, loss: float) -> float:
        """Training FLOP on the optimal frontier for `loss`; infinite at or below the irreducible loss."""
        return self.flops_per_param_token * float(chinchilla.product_for(self.vector, float(_positive("loss", loss))))

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile interval of every constant."""
        columns = zip(self.law.constants, self._draws().T, strict=True)
        return {name: _quantiles(column, level) for name, column in columns}

    def frontier_draws(self, flops: np.ndarray) -> np.ndarray:
        """The optimal loss at each of `flops` for every draw, (draws, flops)."""
        constants = self._draws()[:, None, :]
        product = np.asarray(flops) / self.flops_per_param_token
        params = chinchilla.optimal_params(constants, product)
        return chinchilla.loss(constants, params, product / params)

    def decades_outside(self, **values: float) -> float:
        """By how many decades the farthest of `values` (params, tokens, flops, ...) lies beyond the range of the fit; 0 within it."""
        outside = [0.0]
        for name, value in values.items():
            low, high = self.range.get(name, (value, value))
            outside += [math.log10(value / high), math.log10(low / value)]
        return max(outside)

    def save(self, path: str | Path) -> None:
        """Writes the curve as JSON, with its draws and a checksum."""
        curve_file.write(Path(path), self)

    def _draws(self) -> np.ndarray:
        if self.draws is None:
            raise InputError(f"curve {self.name!r} has no draws, so no intervals; fit it with bootstrap = 1000 or more")
        return self.draws


def from_fields(fields: dict[str, Any]) -> Curve:
    """The curve of a curve file's fields (`fits.curve_file`)."""
    draws = fields.pop("draws", None)
    return Curve(law=law(fields.pop("law")), draws=None if draws is None else np.array(draws, float), **fields)


def _quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _positive(name: str, value: Number) -> np.ndarray:
    array = np.asarray(value, float)
    if not (np.isfinite(array) & (array > 0)).all():
        raise InputError(f"{name} must be positive and finite, got {value}")
    return array
