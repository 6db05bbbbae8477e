"""What the worlds say: dates and windows of access, numbers with access, and at each date how far each actor is behind the leader, four ways.

Convergence depends on the metric: loss and bounded scores draw together while the ratio of compute diverges (Gundlach et al. 2025), so all are
reported. The first world is the stated one; the others are draws, of which quantiles are taken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fits import frontier
from fits.curve import Curve
from scaling.diffusion.actors import Cast
from scaling.diffusion.monte_carlo import Model
from scaling.diffusion.scenario import Scenario
from scaling.diffusion.worlds import Runs

MONTHS = 12.0
DAY = 86_400.0


def band(values: np.ndarray, level: float) -> dict[str, float]:
    """Median and interval over the last axis (one number); infinite stays infinite."""
    ends = np.quantile(values, [0.5, (1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return dict(zip(("median", "low", "high"), map(float, ends), strict=True))


def access(scenario: Scenario, cast: Cast, runs: Runs, draws: slice) -> list[dict[str, Any]]:
    """By capability: who is first and when, windows of the others, and how many have it at each date."""
    return [_access(scenario, cast, runs, place, draws) for place in range(len(scenario.capabilities))]


def _access(scenario: Scenario, cast: Cast, runs: Runs, place: int, draws: slice) -> dict[str, Any]:
    level = scenario.uncertainty.level
    reached = runs.reached[place]  # (actors, worlds)
    first = reached.min(axis=0)
    capability = scenario.capabilities[place]
    counts = runs.counts[:, place][:, draws]
    with_access = [{"date": float(date)} | band(row, level) for date, row in zip(cast.dates, counts, strict=True)]
    return {
        "name": capability.name,
        "effective_flops": capability.effective_flops,
        "first_access": _first(scenario, cast, reached, draws),
        "with_access": with_access,
        "windows": _windows(scenario, cast, reached, first, draws),
    }


def _first(scenario: Scenario, cast: Cast, reached: np.ndarray, draws: slice) -> dict[str, Any]:
    """The stated world's first actor and date; over the draws, the date's interval and how often that actor is first."""
    who, when = int(reached[:, 0].argmin()), float(reached[:, 0].min())
    drawn = reached[:, draws]
    dates = cast.dates[0] + drawn.min(axis=0)
    found: dict[str, Any] = {"actor": None, "date": None, "at_start": False, "reason": ""}
    if math.isfinite(when):
        found |= {"actor": cast.names[who], "date": cast.dates[0] + when, "at_start": when == 0}
        found["probability_actor"] = float((drawn.argmin(axis=0)[np.isfinite(dates)] == who).sum() / drawn.shape[1])
    if found["at_start"]:
        found["reason"] = f"within reach of {cast.names[who]} at the start already"
    elif found["actor"] is None:
        found["reason"] = f"no actor reaches it by {cast.dates[-1]:g}"
    return found | {"probability": float(np.isfinite(dates).mean())} | band(dates, scenario.uncertainty.level)


def _windows(scenario: Scenario, cast: Cast, reached: np.ndarray, first: np.ndarray, draws: slice) -> list[dict[str, Any]]:
    """Years from the first access to each other named actor's, and to that of half and of nine tenths of all."""
    rows = []
    later = {cast.names[row]: reached[row] for row in cast.named if row != int(reached[:, 0].argmin())}
    if len(cast.names) > 2:
        ordered = np.sort(reached, axis=0)
        later |= {f"{100 * part:.0f}% of all": ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.9)}
    for name, times in later.items():
        with np.errstate(invalid="ignore"):
            window = np.where(np.isfinite(times), times - first, np.inf)
        years = float(window[0])
        reason = "" if math.isfinite(years) else f"not by {cast.dates[-1]:g}"
        rows.append({"actor": name, "years": years, "reason": reason} | band(window[draws], scenario.uncertainty.level))
    return rows


def losses(curve: Curve, x: np.ndarray) -> np.ndarray:
    """The loss of the curve at ln X."""
    return np.asarray(frontier.loss_on_frontier(curve.law, curve.vector, np.exp(x) / curve.flops_per_param_token))


def score(scenario: Scenario, curve: Curve, levels: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The bounded benchmark of a loss; `levels` are the capabilities' ln X."""
    s = scenario.score
    midpoint = float(losses(curve, levels[0, 0])) if s.midpoint is None else s.midpoint
    return s.base + s.span / (1 + np.exp(np.clip(s.slope * (loss - midpoint), -500, 500)))


def behind(own: np.ndarray, leader: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Years since the leader was where the follower is now, (dates, worlds): negative where the follower leads, infinite where it is below the leader's start.

    Paths never fall: they are what has been reached by each date. Where the follower is ahead, its lead is the leader's time to get there.
    """
    found = np.empty(own.shape)
    for world in range(own.shape[1]):
        mine, theirs = own[:, world], leader[:, world]
        when = _when(mine, theirs, dates)
        back = dates - _when(theirs, mine, dates)
        ahead = mine > theirs
        found[:, world] = np.where(ahead, back, dates - when)
        found[mine < theirs[0], world] = np.inf
        found[ahead & (theirs < mine[0]), world] = -np.inf
    return found


def until(own: np.ndarray, leader: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Years until the follower gets to where the leader is now; zero where it is there, infinite where not by the end."""
    found = np.empty(own.shape)
    for world in range(own.shape[1]):
        when = _when(leader[:, world], own[:, world], dates)
        found[:, world] = np.where(leader[:, world] > own[-1, world], np.inf, np.maximum(when - dates, 0.0))
    return found


def _when(levels: np.ndarray, path: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """First date at which a path that never falls has each level; the first or last date beyond its ends."""
    rising = np.concatenate([[True], np.diff(path) > 0])
    return np.interp(levels, path[rising], dates[rising])


def actors(scenario: Scenario, cast: Cast, model: Model, runs: Runs, draws: slice) -> list[dict[str, Any]]:
    """Named actors over time: what they reach, and how far they are behind the leader in months, compute, loss and score."""
    level = scenario.uncertainty.level
    lead = cast.named.index(cast.leader)
    loss = losses(model.curve, runs.accessible)
    scores = score(scenario, model.curve, model.levels, loss)
    users = _users(scenario, cast, runs)
    whole = [row for row, date in enumerate(cast.dates) if abs(date - round(date)) < 1e-6 or row == len(cast.dates) - 1]
    found = []
    for place, row in enumerate(cast.named):
        lag = behind(runs.accessible[:, place], runs.accessible[:, lead], cast.dates)
        lead_time = until(runs.accessible[:, place], runs.accessible[:, lead], cast.dates)
        with np.errstate(over="ignore"):
            gaps = {
                "lag_months": MONTHS * lag,
                "lead_months": MONTHS * lead_time,
                "compute_ratio": np.exp(runs.run[:, lead] - runs.run[:, place]),
                "effective_ratio": np.exp(runs.accessible[:, lead] - runs.accessible[:, place]),
                "loss_gap": loss[:, place] - loss[:, lead],
                "score_gap": scores[:, lead] - scores[:, place],
            }
            paths = {
                "run_flops": np.exp(runs.run[:, place]),
                "effective_flops": np.exp(runs.accessible[:, place]),
                "loss": loss[:, place],
                "score": scores[:, place],
                "users_millions": users[:, place] / 1e6,
            }
        path = [
            {"date": float(cast.dates[at])} | {name: band(values[at, draws], level) for name, values in (paths | gaps).items()}
            for at in whole
        ]
        limited = _limited_by(cast, runs, place)
        found.append({"name": cast.names[row], "leader": row == cast.leader, "path": path, "limited_by": limited})
    return found


def _limited_by(cast: Cast, runs: Runs, place: int) -> list[dict[str, Any]]:
    """What bounds the stated world's runs, from when: budget, chips or physical limits."""
    run, afforded, supplied = (values[:, place, 0] for values in (runs.run, runs.afforded, runs.supplied))
    words = np.where(run < np.minimum(afforded, supplied) - 1e-9, "physical limits", np.where(supplied < afforded, "chips", "budget"))
    changes = [0, *(row for row in range(1, len(words)) if words[row] != words[row - 1])]
    return [{"from": float(cast.dates[row]), "by": str(words[row])} for row in changes]


def _users(scenario: Scenario, cast: Cast, runs: Runs) -> np.ndarray:
    """Users that each named actor's deployment can serve, (dates, actors, worlds): 2 N FLOP a token, times what it spends more on inference."""
    serving = scenario.serving
    found = np.empty(runs.serving.shape)
    for place, row in enumerate(cast.named):
        party = cast.parties[row]
        trained_at = party.stock.utilisation if party.stock else 0.4  # flops_per_usd of the trends counts 40%
        rate = np.exp(runs.serving[:, place] - runs.log_params[:, place]) / 2 * serving.utilisation / trained_at
        effort = np.where(cast.paths["inference"][:, row, None] > 0, party.inference_factor, 1.0)
        capacity = rate * DAY / serving.tokens_per_user_day / effort
        found[:, place] = capacity if serving.users is None else np.minimum(capacity, _demand(scenario, cast)[:, None])
    return found


def _demand(scenario: Scenario, cast: Cast) -> np.ndarray:
    """Users who would come: of the start's, times the fall of the price of a given capability to the elasticity."""
    assert scenario.serving.users is not None
    fall = float(cast.fields["rate_h"][0, 0] + cast.fields["rate_a"][0, 0]) * (cast.dates - cast.dates[0])
    return scenario.serving.users * np.exp(scenario.serving.elasticity * fall)
