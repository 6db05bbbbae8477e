"""A fitted or published law as an object: predict, optimum, compute for a loss, intervals, save."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from fits import curve_file, frontier
from fits.errors import InputError
from fits.laws import law
from fits.laws.base import Law
from fits.runs import ZERO_ALLOWED

if TYPE_CHECKING:
    from fits.sample import Sample

Number = float | np.ndarray
INTERVALS = ("profile", "bootstrap", "published")
BOOTSTRAP_ROWS = 100


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A model size (in the law's count), its training tokens, the loss it reaches (nats/token) and the training FLOP it takes."""

    params: float
    tokens: float
    loss: float
    flops: float


class Prediction(NamedTuple):
    """A predicted value and the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no one truth of equality
class Curve:
    """A law with constants. Losses in nats/token of the corpus and tokenizer it was fitted on.

    `draws` are bootstrap (or published) constants, (draws, constants), from which intervals follow; `flops_per_param_token` is the c of
    C = c N D (6, or what a fit's own runs took); `range` holds [low, high] of the inputs, flops and loss of the rows behind the
    fit, null where an end is not known. `sample` is what a fit was made from; it is not saved.
    """

    law: Law
    constants: dict[str, float]
    name: str = ""
    draws: np.ndarray | None = None
    residual_sd: float | None = None  # of log loss, or of loss where the objective is raw
    flops_per_param_token: float = 6.0
    range: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)  # source, grade, units, corpus, recipe, ...
    sample: Sample | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if set(self.constants) != set(self.law.constants):
            raise InputError(
                f"curve {self.name!r}: law {self.law.name} has constants {', '.join(self.law.constants)}, got {', '.join(self.constants)}"
            )
        for parameter in self.law.parameters:
            value = self.constants[parameter.name]
            if not math.isfinite(value):
                raise InputError(f"curve {self.name!r}: constant {parameter.name} = {value} is not finite")
            if parameter.low >= 0 and not value > 0:
                raise InputError(f"curve {self.name!r}: constant {parameter.name} = {value} must be positive in {self.law.name}")
        if self.draws is not None and self.draws.shape[1:] != (len(self.law.constants),):
            raise InputError(f"curve {self.name!r}: draws must hold {len(self.law.constants)} constants each, got shape {self.draws.shape}")

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
        """Exponent of the reducible loss along the compute-optimal frontier of a law of two power terms, alpha beta / (alpha + beta)."""
        if not {"alpha", "beta"} <= set(self.constants):
            raise InputError(f"curve {self.name!r}: law {self.law.name} has no alpha and beta, so no one exponent of its frontier")
        alpha, beta = self.constants["alpha"], self.constants["beta"]
        return self.constants.get("k", 1.0) * alpha * beta / (alpha + beta)

    def evaluate(self, **inputs: Number) -> Number:
        """The law's output (`law.output`, "loss" for most) at inputs by their names; those with a typical value may be left out."""
        value = self.law.evaluate(self.vector, self._inputs(inputs))
        return float(value) if value.ndim == 0 else value

    @overload
    def loss(self, params: float | None = None, tokens: float | None = None, **inputs: float) -> float: ...
    @overload
    def loss(self, params: np.ndarray, tokens: np.ndarray, **inputs: Number) -> np.ndarray: ...
    def loss(self, params: Number | None = None, tokens: Number | None = None, **inputs: Number) -> Number:
        """Predicted loss, nats/token. A law fitted on another count of parameters takes it by its name."""
        if self.law.output != "loss":
            raise InputError(f"curve {self.name!r}: law {self.law.name} gives {self.law.output}, not loss; call evaluate")
        return self.evaluate(**_named(params, tokens, inputs))

    def predict(self, params: float | None = None, tokens: float | None = None, level: float = 0.95, **inputs: float) -> Prediction:
        """The value and its prediction interval at `level`: spread of the draws, and of the residuals around the law."""
        named = _named(params, tokens, inputs)
        draws = self.law.evaluate(self.draws_or_error(), self._inputs(named))
        if self.residual_sd:
            noise = self.residual_sd * np.random.Generator(np.random.Philox(key=draws.size)).standard_normal(draws.size)
            draws = draws * np.exp(noise) if str(self.about.get("objective", "log")).startswith("log") else draws + noise
        low, high = quantiles(draws, level)
        return Prediction(float(self.evaluate(**named)), low, high)

    def optimal(self, flops: float, **extras: float) -> Allocation:
        """The size and tokens of least loss for `flops` of training, other inputs as given."""
        frontier.needs_size(self.law)
        product = float(positive("flops", flops)) / self.flops_per_param_token
        others = self._inputs(extras, without=(str(self.law.size), "tokens"))
        params = float(frontier.optimal_size(self.law, self.vector, product, others))
        if not 0 < params < math.inf:
            raise InputError(
                f"curve {self.name!r}: its constants put the optimum for {flops:.3g} FLOP at a size of {params}; they make no sense"
            )
        tokens = product / params
        return Allocation(params, tokens, float(self.evaluate(**{str(self.law.size): params, "tokens": tokens, **others})), float(flops))

    def compute_for(self, loss: float, **extras: float) -> float:
        """Training FLOP on the optimal frontier for `loss`; infinite where none suffices."""
        frontier.needs_size(self.law)
        others = self._inputs(extras, without=(str(self.law.size), "tokens"))
        return self.flops_per_param_token * float(frontier.product_for(self.law, self.vector, float(positive("loss", loss)), others))

    def interval(self, level: float = 0.95, method: str | None = None) -> dict[str, tuple[float, float]]:
        """An interval of every constant that was fitted, open (0 or infinite) where the runs do not bound it.

        method "profile" (`fits.profile`) holds the truth as often as it says from nine rows on, if the noise is of one size; "bootstrap" gives
        percentiles of the draws, which allow for noise that differs between rows but need many of them; "published" is what the source
        prints, or a saved fit kept. See `interval_method` for which is chosen.
        """
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, got {level}")
        chosen = method or self.interval_method(level)
        if chosen == "profile":
            from fits.profile import constant_intervals

            return self._opened(constant_intervals(self.sample_or_error(), level))
        if chosen == "bootstrap":
            columns = zip(self.law.constants, self.draws_or_error().T, strict=True)
            return self._opened({name: quantiles(column, level) for name, column in columns if name not in self.about.get("fixed", {})})
        if chosen != "published":
            raise InputError(f"interval: method {chosen!r} is not known; it is one of {', '.join(INTERVALS)}")
        stored = self.about.get("intervals")
        if stored is None:
            raise InputError(f"curve {self.name!r}: its source prints no intervals; fit it to runs")
        if not math.isclose(stored["level"], level):
            raise InputError(f"curve {self.name!r}: its intervals are known at level {stored['level']} only, not {level}")
        pairs = {name: pair for name, pair in stored.items() if isinstance(pair, list)}
        return {name: (-math.inf if low is None else low, math.inf if high is None else high) for name, (low, high) in pairs.items()}

    def derived(self, what: str, level: float = 0.95, method: str | None = None, **at: float) -> Prediction:
        """A quantity that follows from the constants, with its interval.

        what: "optimal_params", "optimal_tokens" or "optimal_loss" with flops=..., "compute_for" with loss=..., "allocation_exponent" (a of
        N* ~ C^a); other inputs of the law beside them. method: "profile" for a fresh fit of a law with a closed-form optimum, otherwise "bootstrap".
        """
        from fits import derived

        return derived.derived(self, what, level, method, dict(at))

    def interval_method(self, level: float = 0.95) -> str:
        """Where an interval comes from unless one says otherwise.

        A bootstrap of clusters or signs was asked for with a reason, and an asymmetric objective has no other. Else: a table of a hundred rows and more speaks for its own noise through the bootstrap, if draws were made; a smaller one by its profile.
        """
        asked = self.about.get("resample") in ("clusters", "wild") or self.about.get("over") is not None
        if self.draws is not None and asked:
            return "bootstrap"
        if self.sample is not None and (self.draws is None or len(self.sample.frame) < BOOTSTRAP_ROWS):
            return "profile"
        stored = self.about.get("intervals")
        if stored and self.draws is None:
            return "published"
        return "published" if stored and stored.get("method") == "profile" and stored["level"] == level else "bootstrap"

    def _opened(self, found: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        """Constants that the runs leave open have open intervals, whatever a method says of them."""
        found = {name: (max(low, 0.0) if self.law.parameter(name).low >= 0 else low, high) for name, (low, high) in found.items()}
        unknown = {
            name: (0.0 if self.law.parameter(name).low >= 0 else -math.inf, math.inf) for name in (self.certificate or {}).get("open", [])
        }
        return found | {name: pair for name, pair in unknown.items() if name in found}

    def sample_or_error(self) -> Sample:
        """What the fit was made from; InputError for a loaded curve."""
        if self.sample is None:
            raise InputError(
                f"curve {self.name!r}: a profile needs the runs behind the fit, which a saved curve does not hold; fit it again"
            )
        return self.sample

    def frontier_draws(self, flops: np.ndarray, **extras: float) -> np.ndarray:
        """The optimal loss at each of `flops` for every draw, (draws, flops)."""
        product = np.asarray(flops) / self.flops_per_param_token
        return frontier.loss_on_frontier(
            self.law, self.draws_or_error()[:, None, :], product, self._inputs(extras, without=(str(self.law.size), "tokens"))
        )

    def decades_outside(self, **values: float) -> float:
        """By how many decades the farthest of `values` (params, tokens, flops, ...) lies beyond the range of the fit; 0 within it."""
        outside = [0.0]
        for name, value in values.items():
            low, high = self.range.get(name, (None, None))
            if high is not None and value > high > 0:
                outside.append(math.log10(value / high))
            if low is not None and 0 < value < low:
                outside.append(math.log10(low / value))
        return max(outside)

    def save(self, path: str | Path) -> None:
        """Writes the curve as JSON, with its draws, its interval if that is a profile's, and a checksum."""
        kept = self
        if (
            self.sample is not None
            and "intervals" not in self.about
            and self.interval_method() == "profile"
            and self.about.get("over") is None
        ):
            kept = dataclasses.replace(self, about=self.about | {"intervals": self.interval_record()})
        curve_file.write(Path(path), kept)

    def interval_record(self, level: float = 0.95, method: str | None = None) -> dict[str, Any]:
        """The interval as files and answers hold it: level, method, and [low, high] of every constant, null where it is open."""
        pairs = {name: [end if math.isfinite(end) else None for end in pair] for name, pair in self.interval(level, method).items()}
        return {"level": level, "method": method or self.interval_method(level)} | pairs

    def _inputs(self, given: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        values = dict(self.law.typical) | given
        wanted = [name for name in self.law.inputs if name not in without]
        missing = [name for name in wanted if name not in values]
        unknown = sorted(set(given) - set(wanted))
        if missing or unknown:
            wrong = f"{missing[0]} is missing" if missing else f"{unknown[0]!r} is not among them"
            raise InputError(f"curve {self.name!r}: law {self.law.name} takes {', '.join(wanted) or 'nothing'}; {wrong}")
        return {name: positive(name, values[name]) for name in wanted}

    def draws_or_error(self) -> np.ndarray:
        """The draws; InputError if there are none."""
        if self.draws is None:
            raise InputError(f"curve {self.name!r} has no draws, so no intervals; fit it with bootstrap = 1000 or more")
        return self.draws


def from_fields(fields: dict[str, Any], own: Law | None = None) -> Curve:
    """The curve of a curve file's fields (`fits.curve_file`), of the law it names or, if the names agree, of one's `own`."""
    draws, name = fields.pop("draws", None), fields.pop("law")
    return Curve(
        law=own if own is not None and own.name == name else law(name), draws=None if draws is None else np.array(draws, float), **fields
    )


def quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """The bounds between which the middle `level` of `values` lies."""
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def positive(name: str, value: Number) -> np.ndarray:
    """`value` as an array; InputError unless it is finite and above zero (or zero where that has a meaning)."""
    array = np.asarray(value, float)
    if not (np.isfinite(array) & ((array > 0) | ((array == 0) & (name in ZERO_ALLOWED)))).all():
        raise InputError(f"{name} must be positive and finite, got {value}")
    return array


def _named(params: Number | None, tokens: Number | None, inputs: dict[str, Any]) -> dict[str, Any]:
    given = {"params": params, "tokens": tokens}
    return {name: value for name, value in given.items() if value is not None} | inputs
