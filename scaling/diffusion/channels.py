"""What a follower's gap is made of: Shapley shares of its channels, each of which can be switched to the leader's state.

The gap is ln of the ratio of effective computes at the end, the leader's over the follower's. For every set S of channels one world is run in which the
channels of S are as stated and the others as the leader's; a channel's share is its mean difference over all orders in which channels may join
(Shapley 1953). Shares sum to the whole gap, less what is left with every channel switched off, which is reported apart.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling.diffusion.actors import NONE, Cast
from scaling.diffusion.monte_carlo import Model, run
from scaling.diffusion.worlds import Runs

MOST_CHANNELS = 12
DECADE = math.log(10.0)
# A channel's fields take the leader's value when it is off; in `SWITCHED` the value is 0 or 1 (or nothing) whatever the leader has.
CHANNELS: dict[str, tuple[str, ...]] = {
    "budget": ("on_budget",),
    "chips owned and bought": ("has_stock", "stock", "purchases", "purchases_rate", "domestic", "domestic_rate", "decay"),
    "shares of compute": ("log_run", "log_whole", "deployment", "run_seconds"),
    "chip quality": ("on_chips",),
    "export controls": ("on_controls",),
    "structure": ("log_m",),
    "data efficiency": ("log_k",),
    "unique data": ("log_unique",),
    "synthetic data": ("log_synthetic",),
    "algorithms": ("delay", "gap", "learns", "dissemination", "own_rate"),
    "distillation": ("distillation",),
    "inference compute": ("log_inference",),
    "open weights": ("on_open",),
    "stockpile": ("stockpile",),
    "illicit purchase": ("smuggled", "smuggling_price"),
    "cloud": ("cloud", "cloud_price"),
    "software": ("log_software",),
}
SWITCHED = {
    "on_budget": 0.0,
    "on_chips": 0.0,
    "on_controls": 0.0,
    "on_open": 0.0,
    "distillation": 0.0,
    "stockpile": 0.0,
    "smuggled": 0.0,
    "smuggling_price": -NONE,
    "cloud": 0.0,
    "cloud_price": -NONE,
    "log_software": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Coalitions:
    """The worlds of every set of channels: `runs` of named actors, and in which worlds a channel is on, (channels, worlds)."""

    names: list[str]
    on: np.ndarray
    runs: Runs


def named_only(model: Model) -> Model:
    """The model of the actors alone, without populations."""
    rows = list(model.spec.named)
    fields = {name: value[rows] if value.shape[0] > 1 else value for name, value in model.fields.items()}
    paths = {name: path[:, rows] if path.ndim > 1 and path.shape[1] > 1 else path for name, path in model.paths.items()}
    spec = dataclasses.replace(model.spec, pupils=tuple(place for row, place in enumerate(model.spec.pupils) if row in rows))
    parameters = tuple(each for each in model.parameters if each.rows is None or each.field == "levels" or set(each.rows) <= set(rows))
    return dataclasses.replace(model, spec=spec, fields=fields, paths=paths, parameters=parameters)


def coalitions(model: Model, cast: Cast) -> Coalitions | None:
    """Runs every set of the channels that matter to any follower; None where there is no follower."""
    if len(cast.named) < 2:
        return None
    alone = named_only(model)
    names = [name for name in CHANNELS if _matters(name, alone, cast)][:MOST_CHANNELS]
    worlds = np.arange(2 ** len(names))
    on = (worlds[None, :] >> np.arange(len(names))[:, None]) & 1
    fields = {name: np.array(value) for name, value in alone.fields.items()}
    followers = np.arange(len(cast.named)) != cast.leader
    for name, switch in zip(names, on, strict=True):
        for field in CHANNELS[name]:
            stated = np.broadcast_to(fields[field], (len(cast.named), fields[field].shape[1]))
            other = SWITCHED.get(field, stated[cast.leader : cast.leader + 1])
            mask = followers[:, None] & (switch[None, :] == 0)
            fields[field] = np.where(mask, other, stated)
    return Coalitions(names, on, run(alone, np.zeros((len(alone.parameters), 1)), fields=fields))


def _matters(name: str, model: Model, cast: Cast) -> bool:
    """Whether a follower differs from the leader, or uses the channel at all."""
    f, p, lead = model.fields, model.paths, cast.leader
    followers = [row for row in range(len(cast.named)) if row != lead]
    if name == "budget":
        money = f["log_budget"] + p["budget"].T + f["rate_budget"] * p["years"][None]
        return bool(any(not np.allclose(money[row], money[lead]) for row in followers))
    if name == "chip quality":
        return any(bool((p[path][:, followers] != value).any()) for path, value in (("price_free", 0.0), ("training_free", 1.0)))
    if name == "export controls":
        return _held(p, followers)
    if name == "open weights":
        return bool(model.spec.releases)
    if name == "unique data" and not model.spec.limited_data:
        return False
    if name == "shares of compute" and not model.spec.stock:
        return False
    if name in ("illicit purchase", "cloud", "software") and not model.spec.controlled:
        return False

    def differs(field: str) -> bool:
        value = np.broadcast_to(f[field], (len(cast.named), 1))
        return bool((value[followers] != value[lead]).any())

    return any(differs(field) for field in CHANNELS[name])


def _held(p: dict[str, np.ndarray], rows: list[int]) -> bool:
    pairs = [("price_held", "price_free"), ("training_held", "training_free"), ("serving_held", "serving_free")]
    caps = (p["allowed"][:, rows] < 1).any() or (p["flow_cap"][:, rows] < 1e29).any() or (p["stock_cap"][:, rows] < 1e29).any()
    return bool(caps or any((p[one][:, rows] != p[other][:, rows]).any() for one, other in pairs))


def shapley(values: np.ndarray, on: np.ndarray) -> np.ndarray:
    """Shares of each channel from the values of all 2^n sets, the set's bits in `on`; they sum to the value of the full set less that of none."""
    count = len(on)
    size = on.sum(axis=0)
    shares = np.zeros(count)
    for channel in range(count):
        without = np.flatnonzero(on[channel] == 0)
        weight = np.array([math.factorial(k) * math.factorial(count - k - 1) / math.factorial(count) for k in range(count)])
        gains = values[without | (1 << channel)] - values[without]
        shares[channel] = float(np.sum(weight[size[without]] * gains))
    return shares


def attribute(found: Coalitions, cast: Cast) -> list[dict[str, Any]]:
    """By follower: the gap at the end in decades of effective compute, and each channel's share of it, largest first."""
    rows = []
    best = found.runs.accessible[-1]
    for place, row in enumerate(cast.named):
        if row == cast.leader:
            continue
        gap = (best[cast.named.index(cast.leader)] - best[place]) / DECADE
        shares = shapley(gap, found.on)
        whole = float(gap[-1])
        listed: list[dict[str, Any]] = [
            {"channel": name, "decades": float(value), "part": float(value) / whole if abs(whole) > 1e-9 else None}
            for name, value in zip(found.names, shares, strict=True)
            if abs(value) > 1e-12
        ]
        listed.sort(key=lambda each: -abs(each["decades"]))
        rows.append(
            {"actor": cast.names[row], "date": float(cast.dates[-1]), "gap_decades": whole, "left_over": float(gap[0]), "shares": listed}
        )
    return rows


def control_effects(found: Coalitions, cast: Cast) -> list[dict[str, Any]]:
    """By actor under control: chips before and after, and what is left of a run, of users served and of effective compute at the end, against no controls.

    A run's level and the ecosystem's differ: one run needs a part of the chips, users need the rest. `felt` is when a run first falls a tenth short.
    """
    if "export controls" not in found.names:
        return []
    full = found.on.shape[1] - 1
    free = full - (1 << found.names.index("export controls"))
    rows = []
    for place, row in enumerate(cast.named):
        events = [each for each in cast.events if each.actor == cast.names[row]]
        if not events:
            continue
        with np.errstate(over="ignore"):
            ratios = {
                name: np.exp(values[:, place, full] - values[:, place, free])
                for name, values in (("run", found.runs.run), ("serving", found.runs.serving), ("effective", found.runs.accessible))
            }
        short = np.flatnonzero(ratios["run"] < 0.9)
        rows.append(
            {
                "actor": cast.names[row],
                "events": [dataclasses.asdict(each) for each in events],
                "felt": float(cast.dates[short[0]]) if short.size else None,
                "run_left": float(ratios["run"][-1]),
                "serving_left": float(ratios["serving"][-1]),
                "effective_left": float(ratios["effective"][-1]),
            }
        )
    return rows
