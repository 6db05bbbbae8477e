"""The main job, end to end: corpus, runs, fit, held-out prediction, multipliers, penalties, diffusion, report."""

from __future__ import annotations

import dataclasses
import math
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fits
from fits.curve import Curve
from fits.runs import COLUMNS
from scaling import output, sweeps
from scaling.diffusion import Actor, Trends, access_cost, diffusion_window, performance
from scaling.errors import InputError
from scaling.measured import Measurement
from scaling.measurement import measure_multiplier
from scaling.multipliers import count_pairs
from scaling.penalty import compute_penalty
from scaling.plan import Plan, read_plan
from scaling.run import NUMERICS_VERSION
from scaling.stopping import signals

PUBLISHED = ("besiroglu2024", "hoffmann2022")
PENALTY_FLOPS = np.geomspace(1e21, 1e29, 33)
# A large filtered corpus, and the stock of public human text (Villalobos et al. 2024: 300T tokens, 90% interval 100T-1000T). A token
# is taken as 4 bytes where the law counts bytes.
UNIQUE_TOKENS = {"15T unique tokens": 15e12, "300T unique tokens": 300e12}
BYTES_PER_TOKEN = 4
BOOTSTRAP = 1000
LEAST_POINTS = 6  # one more than the law has constants
_RUN_COLUMNS = ("budget", "holdout", "width", "steps", "batch", "learning_rate", "train_seconds")


@dataclasses.dataclass(frozen=True)
class Demo:
    """Everything that the main job found; `results()` is what results.json holds."""

    runs: pd.DataFrame
    curve: Curve
    holdout: dict[str, float | None]
    multipliers: dict[str, Measurement]
    penalties: pd.DataFrame
    diffusion: dict[str, Any]
    seconds: float

    def results(self) -> dict[str, Any]:
        results = {
            "runs": self.runs[[*COLUMNS, *_RUN_COLUMNS]].to_dict(orient="records"),
            "fit": {
                "law": self.curve.law.name,
                "constants": self.curve.constants,
                "interval": {"level": 0.95} | {name: list(bounds) for name, bounds in self.curve.interval(0.95).items()},
                "certificate": self.curve.certificate,
                "rows": self.curve.about["rows"],
                "range": self.curve.range,
                "flops_per_param_token": self.curve.flops_per_param_token,
            },
            "holdout": self.holdout,
            "multipliers": {arm: {**found.multiplier._asdict(), "pairs": len(found.pairs)} for arm, found in self.multipliers.items()},
            "penalty": self.penalties.to_dict(orient="records"),
            "diffusion": self.diffusion,
            "seconds": self.seconds,
        }
        return output.strict(results)


def run_demo(
    out: str | Path, plan: str | Path | Plan | None = None, *, workers: int | None = None, progress: sweeps.Progress | None = None
) -> Demo:
    """Does the main job in the folder `out` and leaves runs.sqlite, curve.json, figures, results.json and index.html there.

    Finished runs in `out` are used again, so a killed job carries on. `plan` is the built-in one by default; its first arm is
    the baseline that the law is fitted to.
    """
    started = time.perf_counter()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    chosen = read_plan(plan) if plan is not None else read_plan(builtin_plan())
    if chosen.budgets is None or len(chosen.budgets.flops) < 2 or not chosen.budgets.holdout:
        raise InputError("demo: the plan needs at least two budgets and a holdout")
    prepared = sweeps.prepare(chosen)
    _check(prepared)
    out.mkdir(parents=True, exist_ok=True)
    with signals() as stop:
        runs = sweeps.sweep(prepared, out / "runs.sqlite", workers=workers, progress=progress, stop=stop)
    finished = runs[runs["status"] == "done"].reset_index(drop=True)
    baseline = finished[finished["arm"] == chosen.arms[0].name]
    seen, held = baseline[~baseline["holdout"]], baseline[baseline["holdout"]]
    curve = fits.fit("chinchilla", seen, bootstrap=BOOTSTRAP, seed=0)
    # The curve says how its runs were made: the whole plan, and the recipe's version with it.
    about = curve.about | {"recipe": chosen.model_dump(mode="json", exclude_none=True) | {"numerics": NUMERICS_VERSION}}
    curve = dataclasses.replace(curve, name="demo", about=about)
    multipliers = {
        arm.name: measure_multiplier(baseline, finished[finished["arm"] == arm.name], pairs=True, curve=curve)
        for arm in chosen.arms[1:]
        if count_pairs(baseline, finished[finished["arm"] == arm.name])
    }
    curves = {"demo": curve} | {name: fits.load(name) for name in PUBLISHED}
    demo = Demo(
        runs=runs,
        curve=curve,
        holdout=holdout_error(curve, seen, held),
        multipliers=multipliers,
        penalties=penalty_table(curves),
        diffusion=diffusion_summary(curves["besiroglu2024"]),
        seconds=time.perf_counter() - started,
    )
    from scaling.report.demo import write_demo  # draws with matplotlib, which is slow to import: last

    write_demo(demo, chosen.arms[0].name, curves, out)
    return demo


def _check(prepared: sweeps.Sweep) -> None:
    """Refuses, before anything is made, a plan whose runs could not be fitted or compared."""
    assert prepared.plan.budgets is not None
    lowest, highest = min(prepared.plan.budgets.holdout), max(prepared.plan.budgets.flops)
    if lowest <= highest:
        raise InputError(f"demo: the holdout {lowest:g} must lie above the fitted budgets, which go to {highest:g}")
    baseline, *variants = (arm.name for arm in prepared.plan.arms)
    jobs = list(prepared.jobs.values())
    points = {(job.config.model, job.config.tokens) for job in jobs if job.config.arm == baseline and not job.holdout}
    if len(points) < LEAST_POINTS:
        raise InputError(f"demo: arm {baseline!r} has {len(points)} runs below the holdout, the law needs at least {LEAST_POINTS}")
    cells = {
        arm: {(job.config.model.width, job.budget, job.config.seed) for job in jobs if job.config.arm == arm}
        for arm in (baseline, *variants)
    }
    alone = [arm for arm in variants if not cells[arm] & cells[baseline]]
    if alone:
        raise InputError(f"demo: arm {alone[0]!r} has no run at a width and budget of {baseline!r} to be compared with")


def builtin_plan() -> dict[str, Any]:
    """The built-in plan as a dict."""
    import tomllib

    return tomllib.loads(resources.files("scaling").joinpath("demo_plan.toml").read_text())


def holdout_error(curve: Curve, seen: pd.DataFrame, held: pd.DataFrame) -> dict[str, float | None]:
    """How well the law predicts the held-out runs: median |predicted / measured - 1|.

    The baseline predicts no change: every held-out run at the best loss of the largest budget that was seen.
    """
    if held.empty:
        return {"budget": None, "error": None, "baseline_error": None, "beyond": None, "runs": 0}
    measured = held["loss"].to_numpy(float)
    predicted = np.asarray(curve.loss(params=held["params"].to_numpy(float), tokens=held["tokens"].to_numpy(float)))
    no_change = seen.loc[seen["budget"] == seen["budget"].max(), "loss"].min()
    return {
        "budget": float(held["budget"].max()),
        "error": float(np.median(np.abs(predicted / measured - 1))),
        "baseline_error": float(np.median(np.abs(no_change / measured - 1))),
        "beyond": float(held["flops"].median() / seen["flops"].max()),
        "runs": len(held),
    }


def penalty_table(curves: dict[str, Curve], structure: float = 2.0, data: float = 2.0) -> pd.DataFrame:
    """Penalty of a follower with both gaps at 1e21-1e29 FLOP: free, tokens fixed, size fixed, unique data limited; infinite where out of reach."""
    rows = []
    for name, curve in curves.items():
        unit = BYTES_PER_TOKEN if name == "demo" else 1
        settings: dict[str, dict[str, Any]] = {"free": {}, "tokens fixed": {"fixed": "tokens"}, "size fixed": {"fixed": "params"}}
        settings |= {setting: {"unique_tokens": unit * tokens} for setting, tokens in UNIQUE_TOKENS.items()}
        for setting, arguments in settings.items():
            for flops in PENALTY_FLOPS:
                penalty = compute_penalty(curve, flops=float(flops), structure=structure, data=data, **arguments)
                rows.append(
                    {
                        "curve": name,
                        "setting": setting,
                        "flops": float(flops),
                        "value": penalty.value,
                        "feasible": penalty.feasible,
                        "reason": penalty.reason,
                        "decades_outside": penalty.decades_outside,
                    }
                )
    return pd.DataFrame(rows)


def diffusion_summary(curve: Curve, years: float = 3.0) -> dict[str, Any]:
    """The access and performance effects over `years` for a leader and a follower with a tenth of its budget and a 4x penalty.

    Budgets are illustrations and held constant; the trends are the defaults of `scaling.diffusion.Trends`.
    """
    trends = Trends()
    leader = Actor("leader", budget_usd=1e8)
    follower = Actor("follower", budget_usd=1e7, penalty=4.0)
    loss_before = performance(curve, leader.budget_usd, trends, 0.0)
    later = {actor.name: [curve.optimal(actor.effective_flops(trends, t)).loss for t in (0.0, years)] for actor in (leader, follower)}
    grid = np.geomspace(1e5, 1e10, 60)
    return {
        "curve": curve.name,
        "years": years,
        "shared_growth_per_year": trends.shared,
        "leader": {"budget_usd": leader.budget_usd, "loss": later["leader"]},
        "follower": {"budget_usd": follower.budget_usd, "penalty": follower.penalty, "loss": later["follower"]},
        "access": {"loss": loss_before, "usd_before": leader.budget_usd, "usd_after": access_cost(curve, loss_before, trends, years)},
        "performance": {"usd": leader.budget_usd, "loss_before": later["leader"][0], "loss_after": later["leader"][1]},
        "window_years": diffusion_window(leader, follower, trends, discovery=0.0),
        "lines": [{"years": t, "usd": float(usd), "loss": performance(curve, float(usd), trends, t)} for t in (0.0, years) for usd in grid],
    }


def summary_rows(demo: Demo) -> list[tuple[str, str]]:
    """The main numbers as (label, text)."""
    done = demo.runs[demo.runs["status"] == "done"]
    interval, constants, certificate = demo.curve.interval(0.95), demo.curve.constants, demo.curve.certificate or {}
    rows = [
        (
            "runs",
            f"{len(done)} on {done['corpus'].iloc[0]}, {done['params'].nunique()} shapes, {done['flops'].min():.1e} to {done['flops'].max():.1e} FLOP",
        ),
        (
            "law",
            f"L = E + A N^-alpha + B D^-beta on {demo.curve.about['rows']} runs, {'certified' if certificate.get('certified') else 'NOT certified: ' + certificate.get('reason', '')}",
        ),
        *((name, f"{constants[name]:.3f}  [{interval[name][0]:.3f}, {interval[name][1]:.3f}]") for name in ("E", "alpha", "beta")),
    ]
    if demo.holdout["error"] is not None:
        rows.append(
            (
                "held-out error",
                f"{demo.holdout['error']:.2%} at {demo.holdout['budget']:.1e} FLOP, {demo.holdout['beyond']:.1f}x beyond the fit (no-change baseline {demo.holdout['baseline_error']:.1%})",
            )
        )
    rows += [
        (f"{arm} against dense", "{:.2f}x compute at equal loss  [{:.2f}, {:.2f}], {} pairs".format(*found.multiplier, len(found.pairs)))
        for arm, found in demo.multipliers.items()
    ]
    at = PENALTY_FLOPS[np.argmin(np.abs(np.log(PENALTY_FLOPS / 1e26)))]
    part = demo.penalties[(demo.penalties["curve"] == PUBLISHED[0]) & np.isclose(demo.penalties["flops"], at)]
    values = zip(part["setting"], part["value"].astype(float), strict=True)
    text = ", ".join(f"{setting} {value:.2f}" if math.isfinite(value) else f"{setting} out of reach" for setting, value in values)
    rows.append((f"penalty on {PUBLISHED[0]}, 2x structure 2x data, {at:.0e} FLOP", text))
    rows.append(("follower's lag (a tenth of the budget, 4x penalty)", f"{demo.diffusion['window_years']:.1f} years"))
    rows.append(("time of this call", f"{demo.seconds:.0f} s, {demo.runs['train_seconds'].sum():.0f} s of training in all runs"))
    return rows


def print_summary(demo: Demo, out: Path) -> None:
    """Ends the terminal output."""
    output.table([{"what": label, "found": text} for label, text in summary_rows(demo)], "Isoloss: the main numbers")
    output.say(f"report: {out / 'index.html'}")
