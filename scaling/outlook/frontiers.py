"""`frontier`: when a penalty is structure x data, and when not, from 1e21 to 1e29 FLOP under several forms of law.

All tables have the columns median, low, high (the middle 90% of forms, draws and assumptions), infinite (the weight of the cases where no compute
suffices), parameters, form, assumption (shares of the variance among the finite cases, of the logarithm but for nats; see `scaling.outlook.variance`; NaN
where there is none), and `curves`: each curve's own value at its own constants, and at the stock's middle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fits.curve import Curve
from scaling.errors import InputError
from scaling.outlook import trends, variance
from scaling.outlook.departures import Departure, departures
from scaling.outlook.forms import Ensemble, ensemble
from scaling.penalty_batch import Penalties

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 33  # scales from end to end
STOCK, STOCK_RANGE = 300e12, (100e12, 1000e12)  # tokens of public text, 90% interval: Villalobos et al. 2024
LEAVES = 1.1  # over structure x data: where a penalty is said to leave it
FAR = np.geomspace(1e17, 1e37, POINTS)  # where walls are looked for
CLIP = math.log(1e9)  # of a penalty, so that a curve through infinite ones can be drawn


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """The answers. `curves`: name, form, corpus, weight and decades beyond its runs of each. Tables: see the module.

    penalties: departure, label, flops. optima: supply (endless, or uncertain), side, quantity (params, tokens, tokens_per_param), flops. walls: what, stock
    (NaN: uncertain); in FLOP of the leader. losses: supply, quantity (loss; value: nats/token that structure x data of compute are worth; share: the same over
    the reducible loss), flops. months: trend, kind, growth, source, flops; the penalty is that of the uncertain stock, which is structure x data before the wall.
    """

    structure: float
    data: float
    stock: float
    stock_range: tuple[float, float]
    flops: np.ndarray
    curves: pd.DataFrame
    departures: tuple[Departure, ...]
    penalties: pd.DataFrame
    optima: pd.DataFrame
    walls: pd.DataFrame
    losses: pd.DataFrame
    months: pd.DataFrame

    @property
    def reading(self) -> str:
        """A paragraph made from the tables."""
        from scaling.outlook.reading import reading

        return reading(self)

    def figure(self) -> tuple[Figure, pd.DataFrame]:
        """The page `when is it structure x data, and when not`, and the table of what it draws."""
        from scaling.outlook.figure import frontier_figure

        return frontier_figure(self), self.penalties


def frontier(
    curves: Sequence[str | Curve] | None = None,
    *,
    structure: float = 2.0,
    data: float = 2.0,
    stock: float = STOCK,
    stock_range: tuple[float, float] | None = None,
    flops: tuple[float, float] = (1e21, 1e29),
) -> Frontier:
    """Penalties under each departure, optima, data walls, losses and months over a range of the leader's training compute.

    curves: names or curves of laws with a size and tokens, `scaling.outlook.forms.DEFAULT` without any. structure, data: the follower's gaps. stock:
    unique tokens there are, within stock_range with 90% (by default as uncertain as the stock of public text, a factor 3.2 to either side). Raises InputError.
    """
    low, high = stock_range or _around(stock)
    _check(structure, data, stock, (low, high), flops)
    forms = ensemble(curves)
    grid = np.geomspace(*flops, POINTS)
    every, supplies = departures(stock, low, high), variance.likely(stock, low, high)
    gaps = {"structure": structure, "data": data}
    solved = {each.name: _solved(forms, each, grid, supplies, gaps) for each in every}
    return Frontier(
        structure=structure,
        data=data,
        stock=stock,
        stock_range=(low, high),
        flops=grid,
        curves=_curves(forms, grid),
        departures=every,
        penalties=_penalty_table(forms, every, solved, grid),
        optima=_optima(forms, solved, grid),
        walls=_walls(forms, (low, stock, high), supplies, gaps),
        losses=_losses(forms, grid, supplies, structure * data),
        months=_months(forms, solved["stock"], grid),
    )


def _around(stock: float) -> tuple[float, float]:
    if stock == STOCK:
        return STOCK_RANGE
    spread = math.sqrt(STOCK_RANGE[1] / STOCK_RANGE[0])
    return stock / spread, stock * spread


def _check(structure: float, data: float, stock: float, around: tuple[float, float], flops: tuple[float, float]) -> None:
    numbers = {"structure": structure, "data": data, "stock": stock, "stock_range's low": around[0], "stock_range's high": around[1]}
    for name, value in (numbers | {"flops's low": flops[0], "flops's high": flops[1]}).items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"frontier: {name} must be positive and finite, got {value}")
    if not flops[0] < flops[1]:
        raise InputError(f"frontier: flops must run from less to more compute, got {flops[0]:.4g} to {flops[1]:.4g}")
    if not around[0] < stock < around[1]:
        raise InputError(f"frontier: the stock {stock:.4g} must lie within its range, got {around[0]:.4g} to {around[1]:.4g}")


def _solved(forms: Ensemble, departure: Departure, grid: np.ndarray, supplies: np.ndarray, gaps: dict[str, float]) -> Penalties:
    """Penalties with the axes (members, draws, supplies, flops). One supply at a time: then every call is of one compiled shape."""
    settings = [{"unique_tokens": each} for each in supplies] if departure.supply else [departure.settings]
    found = [forms.penalties(departure.follower, flops=grid, **gaps, **each) for each in settings]
    names = [field.name for field in dataclasses.fields(Penalties) if field.name != "elasticities"]
    return Penalties(**{name: np.stack([getattr(each, name) for each in found], axis=2) for name in names}, elasticities={})


def _summary(forms: Ensemble, values: np.ndarray, nats_of: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """The columns that all tables share, a row for each place on the last axis of values (members, 1 + draws, assumptions, places).

    `nats_of` names the members whose values are nats that may be compared; otherwise the values are positive numbers, of which logarithms vary.
    """
    chosen = list(range(len(forms.members)) if nats_of is None else nats_of)
    weights = forms.weights[chosen] / forms.weights[chosen].sum()
    some = values[chosen]
    middle = some.shape[2] // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        varying = np.log(some[:, 1:]) if nats_of is None else some[:, 1:]
        band, parts = variance.band(some[:, 1:], weights), variance.parts(varying, weights)
    columns = band._asdict() | {name: share for name, share in parts._asdict().items() if name != "variance"}
    names = [forms.names[place] for place in chosen]
    own = [dict(zip(names, map(float, each), strict=True)) for each in some[:, 0, middle].T]
    return [{name: float(column[place]) for name, column in columns.items()} | {"curves": own[place]} for place in range(values.shape[3])]


def _table(
    forms: Ensemble, flops: np.ndarray, said: dict[str, Any], values: np.ndarray, nats_of: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    rows = _summary(forms, values, nats_of)
    return [said | {"flops": float(each)} | row for each, row in zip(flops, rows, strict=True)]


def _curves(forms: Ensemble, grid: np.ndarray) -> pd.DataFrame:
    rows = [
        {
            "name": member.curve.name,
            "law": member.curve.law.name,
            "form": member.form,
            "corpus": member.corpus or None,
            "weight": member.weight,
            "draws": 0 if member.curve.draws is None else len(member.curve.draws),
            "decades_outside": member.curve.decades_outside(flops=float(grid[-1])) if "flops" in member.curve.range else None,
        }
        for member in forms.members
    ]
    return pd.DataFrame(rows)


def _penalty_table(forms: Ensemble, every: Sequence[Departure], solved: dict[str, Penalties], grid: np.ndarray) -> pd.DataFrame:
    rows = [_table(forms, grid, {"departure": each.name, "label": each.label}, solved[each.name].value) for each in every]
    return pd.DataFrame([row for some in rows for row in some])


def _optima(forms: Ensemble, solved: dict[str, Penalties], grid: np.ndarray) -> pd.DataFrame:
    rows = []
    for supply, name in (("endless", "free"), ("uncertain", "stock")):
        for side in ("leader", "follower"):
            params, tokens = (getattr(solved[name], f"{side}_{what}") for what in ("params", "tokens"))
            with np.errstate(invalid="ignore"):
                quantities = {"params": params, "tokens": tokens, "tokens_per_param": tokens / params}
            for quantity, values in quantities.items():
                rows += _table(forms, grid, {"supply": supply, "side": side, "quantity": quantity}, values)
    return pd.DataFrame(rows)


def _walls(forms: Ensemble, stocks: Sequence[float], supplies: np.ndarray, gaps: dict[str, float]) -> pd.DataFrame:
    """The leader's compute at which its optimum takes the stock, at which the follower's does, and at which the penalty leaves structure x data."""
    product = gaps["structure"] * gaps["data"]
    tokens = np.log(forms.optimum(FAR).tokens)
    said, values = [], []
    for stock, supply in [*((each, np.array([each])) for each in stocks), (None, supplies)]:
        for what, gap in (("wall", 1.0), ("wall of the follower", gaps["data"])):
            said.append({"what": what, "stock": stock})
            values.append([_crossing(tokens, math.log(each / gap)) for each in supply])
    for stock in stocks:
        with np.errstate(divide="ignore"):
            excess = np.log(forms.penalties(None, flops=FAR, unique_tokens=stock, **gaps).value / product)
            excess = np.log(np.clip(excess, 1e-12, CLIP))
        said.append({"what": f"penalty over {LEAVES} x structure x data", "stock": stock})
        values.append([_crossing(excess, math.log(math.log(LEAVES)))])
    rows = [each | _summary(forms, np.stack(found, axis=-1)[..., None])[0] for each, found in zip(said, values, strict=True)]
    return pd.DataFrame(rows)


def _crossing(rising: np.ndarray, level: float) -> np.ndarray:
    """FLOP at which a quantity on the grid FAR first passes `level`, by a straight line in logarithms; infinite where it does not."""
    above = rising > level
    place = np.clip(np.argmax(above, axis=-1), 1, None)[..., None]
    before, after = (np.take_along_axis(rising, place - step, axis=-1)[..., 0] for step in (1, 0))
    log_flops = np.log(FAR)
    left, right = log_flops[place[..., 0] - 1], log_flops[place[..., 0]]
    return np.where(above.any(axis=-1), np.exp(left + (right - left) * (level - before) / (after - before)), np.inf)


def _losses(forms: Ensemble, grid: np.ndarray, supplies: np.ndarray, factor: float) -> pd.DataFrame:
    """Losses and what a factor of compute is worth. Nats are compared on the first curve's corpus only, shares of the reducible loss on all."""
    same = forms.on_one_corpus()
    rows = []
    for supply, unique in (("endless", np.array([[np.inf]])), ("uncertain", supplies[:, None])):
        here, there = forms.optimum(grid, unique), forms.optimum(grid / factor, unique)
        worth = there.reducible - here.reducible
        quantities = {"loss": (here.reducible + here.irreducible, same), "value": (worth, same), "share": (worth / here.reducible, None)}
        for quantity, (values, nats_of) in quantities.items():
            rows += _table(forms, grid, {"supply": supply, "quantity": quantity}, values, nats_of)
    return pd.DataFrame(rows)


def _months(forms: Ensemble, stock: Penalties, grid: np.ndarray) -> pd.DataFrame:
    """Months that the penalty under the uncertain stock equals, the growth uncertain too, at nine scales."""
    steps = slice(0, None, (POINTS - 1) // 8)
    logs = np.log(stock.value[..., None, steps])  # with an axis for the growth behind that of the stock
    rows = []
    for trend in trends.TRENDS:
        values = trends.months(logs, trend.likely()[:, None])
        joint = values.reshape(*values.shape[:2], -1, values.shape[-1])
        said = {"trend": trend.name, "kind": trend.kind, "growth": trend.growth, "source": trend.source}
        rows += _table(forms, grid[steps], said, joint)
    return pd.DataFrame(rows)
