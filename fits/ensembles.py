"""Several laws at once, weighted by how well each foretold runs larger than those it was fitted to.

The weight of a law is (mean square error)^(-n/2) times a constant: the marginal likelihood of n independent normal errors of unknown scale under
Jeffreys' prior. The errors are those of forecasts of larger runs from smaller ones, as in Dawid's prequential method (1984), so a constant too many costs a
law what it costs its forecasts. n is the number of budgets foretold and not of runs, because the runs of a budget
share the error of the law. The error at a budget is the median of |log L - log Lhat|: where noise is all of it, weights are nearly equal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtr

from fits.comparison import MIN_ROWS, Roll, attempt, ready, roll_forward
from fits.curve import Allocation, Curve, Prediction
from fits.errors import InputError
from fits.laws import law as find_law
from fits.laws.base import Law

EXACT = 1e-12  # log error below which forecasts are equally good
SHARE = 0.5  # of the cuts at which a law must have a forecast, to be weighted at all
_SIZES, _PRODUCTS = (1.0, 1e15), (0.0, 140.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Curves with weights that sum to one; losses are pooled as the weighted geometric mean.

    `growth` is every member's error per decade of compute beyond the runs, as measured in the rolling extrapolation; intervals widen by it.
    `rolls` is the table of forecasts behind the weights, and `left_out` gives the reason of every law that is not a member.
    """

    members: tuple[Curve, ...]
    weights: np.ndarray
    growth: np.ndarray
    by: str = "flops"
    rolls: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame, repr=False)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def weight(self) -> dict[str, float]:
        """The weight of every member by the name of its law."""
        return {curve.law.name: float(weight) for curve, weight in zip(self.members, self.weights, strict=True)}

    def loss(self, params: Any = None, tokens: Any = None, **inputs: Any) -> Any:
        """The pooled loss, nats/token, of numbers or arrays; every member takes those inputs that its law has."""
        logs = [np.log(curve.evaluate(**named)) for curve, named in self._asked(params, tokens, inputs)]
        pooled = np.exp(np.tensordot(self.weights, np.stack(logs), axes=1))
        return float(pooled) if pooled.ndim == 0 else pooled

    def predict(self, params: float | None = None, tokens: float | None = None, level: float = 0.95, **inputs: float) -> Prediction:
        """The pooled loss and the interval of the mixture of the members' predictions, form uncertainty included.

        A member's prediction is that of its draws (its value where it has none), with normal errors of log loss: the residual scatter of its fit, and
        `growth` times the decades beyond the runs. Weights, and so the interval, know only of the laws that are members.
        """
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, got {level}")
        centres, scales, shares = [], [], []
        for (curve, named), weight, growth in zip(self._asked(params, tokens, inputs), self.weights, self.growth, strict=True):
            value = curve.evaluate(**named)
            if curve.draws is None:
                values = np.array([value], float)
            else:
                values = curve.law.evaluate(curve.draws, {**dict(curve.law.typical), **named})
            centres.append(np.log(values))
            scales.append(np.full(len(values), self._noise(curve, named, growth, float(value))))
            shares.append(np.full(len(values), weight / len(values)))
        mixture = Mixture(*(np.concatenate(parts) for parts in (centres, scales, shares)))
        low, high = (mixture.quantile((1 + side * level) / 2) for side in (-1, 1))
        return Prediction(float(self.loss(params, tokens, **inputs)), math.exp(low), math.exp(high))

    def optimal(self, flops: float, **extras: float) -> Allocation:
        """The size and tokens of least pooled loss for `flops` of training, other inputs as given."""
        size, cost = self._division()
        product = _positive("flops", flops) / cost

        def at(log_size: float) -> float:
            params = math.exp(log_size)
            return math.log(self.loss(**{size: params, "tokens": product / params, **extras}))

        params = math.exp(_least(at, *np.log(_SIZES)))
        tokens = product / params
        return Allocation(params, tokens, float(self.loss(**{size: params, "tokens": tokens, **extras})), float(flops))

    def optima(self, flops: float, **extras: float) -> pd.DataFrame:
        """The optimum of every member and of the pooled loss: law ("ensemble" last), weight, params, tokens, loss, flops."""
        self._division()
        found = [curve.optimal(flops, **self._extras(curve, extras)) for curve in self.members]
        rows = [
            {"law": curve.law.name, "weight": weight} | dataclasses.asdict(each)
            for curve, weight, each in zip(self.members, self.weights, found, strict=True)
        ]
        return pd.DataFrame([*rows, {"law": "ensemble", "weight": 1.0} | dataclasses.asdict(self.optimal(flops, **extras))])

    def compute_for(self, loss: float, **extras: float) -> float:
        """Training FLOP at which the least pooled loss is `loss`; infinite where none suffices."""
        _, cost = self._division()
        target = math.log(_positive("loss", loss))

        def above(log_product: float) -> float:
            return math.log(self.optimal(cost * math.exp(log_product), **extras).loss) - target

        low, high = _PRODUCTS[0] + 2.0, _PRODUCTS[1]
        if above(high) >= 0:
            return math.inf
        return cost * math.exp(low if above(low) <= 0 else brentq(above, low, high, xtol=1e-10))

    def computes_for(self, loss: float, **extras: float) -> dict[str, float]:
        """`compute_for` of every member by its law, and of the ensemble."""
        own = {curve.law.name: curve.compute_for(loss, **self._extras(curve, extras)) for curve in self.members}
        return own | {"ensemble": self.compute_for(loss, **extras)}

    def _asked(self, params: Any, tokens: Any, inputs: dict[str, Any]) -> list[tuple[Curve, dict[str, Any]]]:
        given = {name: value for name, value in {"params": params, "tokens": tokens, **inputs}.items() if value is not None}
        known = {name for curve in self.members for name in curve.law.inputs}
        unknown = sorted(set(given) - known)
        if unknown:
            raise InputError(f"ensemble: {unknown[0]!r} is no input of a member; there are {', '.join(sorted(known))}")
        return [(curve, {name: given[name] for name in curve.law.inputs if name in given}) for curve in self.members]

    def _noise(self, curve: Curve, named: dict[str, Any], growth: float, value: float) -> float:
        """Standard deviation of a log loss that the member has not seen."""
        scatter = curve.residual_sd or 0.0
        if not str(curve.about.get("objective", "log")).startswith("log"):
            scatter /= value
        return max(math.hypot(scatter, growth * self._ahead(curve, named)), EXACT)

    def _ahead(self, curve: Curve, named: dict[str, Any]) -> float:
        """Decades beyond the largest run of the fit, in what the extrapolation was ordered by."""
        at = named.get(self.by)
        if at is None and self.by == "flops" and curve.law.size:
            at = curve.flops_per_param_token * named[curve.law.size] * named["tokens"]
        most = curve.range.get(self.by, (None, None))[1]
        return 0.0 if at is None or not most else max(0.0, math.log10(at / most))

    def _division(self) -> tuple[str, float]:
        """The count of parameters between which and tokens all members divide compute, and c of C = c N D."""
        sizes = {curve.law.size for curve in self.members}
        if len(sizes) > 1 or None in sizes:
            named = ", ".join(f"{curve.law.name}: {curve.law.size}" for curve in self.members)
            raise InputError(f"ensemble: an optimum needs members that divide compute between one count of parameters and tokens ({named})")
        return str(self.members[0].law.size), self.members[0].flops_per_param_token

    def _extras(self, curve: Curve, extras: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in extras.items() if name in curve.law.inputs}


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Normal distributions with weights that sum to one."""

    means: np.ndarray
    scales: np.ndarray
    weights: np.ndarray

    def share_below(self, at: float) -> float:
        """The probability of a value below `at`."""
        return float(np.sum(self.weights * ndtr((at - self.means) / self.scales)))

    def quantile(self, share: float) -> float:
        """The value below which `share` lies."""
        reach = 40 * self.scales
        ends = float((self.means - reach).min()), float((self.means + reach).max())
        return float(brentq(lambda at: self.share_below(at) - share, *ends, xtol=1e-13))


def ensemble(
    runs: pd.DataFrame,
    laws: Sequence[str | Law] | None = None,
    *,
    cuts: Sequence[float] | None = None,
    min_rows: int = MIN_ROWS,
    by: str = "flops",
    budgets: str | None = None,
    objective: str = "log-huber",
    delta: float = 1e-3,
    bootstrap: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Ensemble:
    """The laws fitted to all runs, weighted by their errors in `fits.compare.rolling_extrapolation`, whose arguments these are.

    Without `laws`: `default_laws`. With one law or one cut only, weights are equal among the laws that
    have a forecast. `bootstrap` draws widen the members' own intervals. Raises InputError if no law can be fitted, or there is no cut.
    """
    found = [find_law(each) for each in (default_laws(runs) if laws is None else laws)]
    if not found:
        raise InputError("laws: give at least one law for an ensemble")
    frame = ready(runs, found[0].output)
    forecasts = list(roll_forward(frame, found, cuts, min_rows, by, budgets, objective=objective, delta=delta, progress=progress))
    weights, growth = weigh(forecasts)
    everything, left_out, members = np.ones(len(frame), bool), {}, []
    for each in found:
        trial = attempt(each, frame, everything, ~everything, objective=objective, delta=delta, quick=False, bootstrap=bootstrap, seed=seed)
        if trial.curve is None or each.name not in weights:
            no_forecast = next((roll.trial.reason for roll in forecasts if roll.trial.law.name == each.name), "")
            left_out[each.name] = trial.reason if trial.curve is None else f"too few forecasts: {no_forecast}"
            continue
        most = {by: [float(frame[by].min()), float(frame[by].max())]}
        members.append(dataclasses.replace(trial.curve, range=trial.curve.range | most))
    if not members:
        raise InputError(f"ensemble: no law could be fitted: {'; '.join(f'{name}: {reason}' for name, reason in left_out.items())}")
    shares = np.array([weights[curve.law.name] for curve in members])
    return Ensemble(
        members=tuple(members),
        weights=shares / shares.sum(),
        growth=np.array([growth[curve.law.name] for curve in members]),
        by=by,
        rolls=_table(forecasts),
        left_out=left_out,
    )


def default_laws(runs: pd.DataFrame) -> tuple[str, ...]:
    """The laws of an ensemble where none are named, by the columns of the table, all on one count of parameters.

    `benchmarks/extrapolation.py` chooses them: of the laws whose constants the runs determine at most cuts, the best one and each further one that
    lowers the ensemble's own error in rolling extrapolation of public tables. Repeated tokens add the law of repetition.
    """
    if "params" not in runs and "non_embedding_params" in runs:
        return ("outer-exponent-non-embedding", "kaplan-joint", "chinchilla-tied-non-embedding")
    laws = ("outer-exponent", "kaplan-joint-on-params", "chinchilla-tied")
    if {"tokens", "unique_tokens"} <= set(runs.columns):
        tokens, unique = (pd.to_numeric(runs[name], errors="coerce") for name in ("tokens", "unique_tokens"))
        if (tokens > 1.01 * unique).any():
            return (*laws, "data-constrained")
    return laws


def weigh(forecasts: Sequence[Roll], known: int | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Weight of every law, and its error per decade ahead, from its forecasts; laws with forecasts at less than half of the cuts have none.

    `known` leaves out budgets above that number, as if they had not been run yet.
    """
    by_law: dict[str, dict[tuple[float, int], tuple[float, float, float]]] = {}
    for roll in forecasts:
        groups = roll.groups[roll.held]
        for group in np.unique(groups[groups <= (groups.max() if known is None else known)]):
            errors = roll.trial.errors[groups == group]
            if np.isfinite(errors).all():
                ahead = max(float(roll.ahead[groups == group].max()), 1e-3)
                facts = float(np.median(np.abs(errors))), float(np.median(errors)), ahead
                by_law.setdefault(roll.trial.law.name, {})[roll.cut, int(group)] = facts
    most = max((len(each) for each in by_law.values()), default=0)
    able = {name: each for name, each in by_law.items() if len(each) >= SHARE * most}
    common = sorted(set.intersection(*(set(each) for each in able.values()))) if able else []
    if not common:
        names = dict.fromkeys(roll.trial.law.name for roll in forecasts if roll.trial.curve is not None)
        return dict.fromkeys(names, 1 / max(1, len(names))), dict.fromkeys(names, 0.0)
    budgets = len({group for _, group in common})
    squares = {name: _mean_square(each, common) for name, each in able.items()}
    logs = {name: -0.5 * budgets * math.log(square) for name, square in squares.items()}
    scale = max(logs.values())
    parts = {name: math.exp(value - scale) for name, value in logs.items()}
    growth = {name: math.sqrt(float(np.mean([(each[at][1] / each[at][2]) ** 2 for at in common]))) for name, each in able.items()}
    return {name: part / sum(parts.values()) for name, part in parts.items()}, growth


def _mean_square(facts: dict[tuple[float, int], tuple[float, float, float]], common: list[tuple[float, int]]) -> float:
    """Over budgets, of each budget's mean over the cuts that it was foretold from."""
    by_budget: dict[int, list[float]] = {}
    for at in common:
        by_budget.setdefault(at[1], []).append(facts[at][0] ** 2)
    return float(np.mean([np.mean(each) for each in by_budget.values()])) + EXACT**2


def _table(forecasts: Sequence[Roll]) -> pd.DataFrame:
    rows = []
    for roll in forecasts:
        error = float(np.median(np.abs(roll.trial.errors)))
        rows.append(
            {
                "law": roll.trial.law.name,
                "cut": roll.cut,
                "decades_ahead": float(roll.ahead.max()),
                "error": error,
                "reason": roll.trial.reason,
            }
        )
    return pd.DataFrame(rows)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """The place of the least value, found on a grid first: a pooled law may bend twice."""
    grid = np.linspace(low, high, 70)
    middle = int(np.clip(np.argmin([function(float(at)) for at in grid]), 1, len(grid) - 2))
    return float(minimize_scalar(function, bounds=(grid[middle - 1], grid[middle + 1]), method="bounded", options={"xatol": 1e-9}).x)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be positive and finite, got {value}")
    return float(value)
