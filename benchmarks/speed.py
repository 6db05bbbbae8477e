"""Timings: `python benchmarks/speed.py [fit] [train] [profile] [moe] [workers] [penalty]`. Compilation apart; medians; ratios within one run.

The machines that run this are noisy: compare numbers of one run, not of two.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import step_profile
import training_speed

REPEATS = training_speed.REPEATS


def machine() -> str:
    """The machine in one line."""
    import jax
    import jaxlib

    from scaling.devices import processor

    return f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, jax {jax.__version__}, jaxlib {jaxlib.__version__}"


def planted() -> pd.DataFrame:
    """240 runs of a known law with 1% noise."""
    generator = np.random.default_rng(0)
    params, tokens = 10 ** generator.uniform(7.5, 10.5, 240), 10 ** generator.uniform(9, 12, 240)
    loss = 1.8 + 450 * params**-0.35 + 2000 * tokens**-0.37
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * np.exp(generator.normal(0, 0.01, 240))})


def fit() -> None:
    """The fit of 240 rows and its 4,000 bootstraps against the usual recipe, both on one core: this process is started anew on it."""
    subprocess.run([sys.executable, __file__, "--fit-on-one-core"], check=True)


RECIPE_STARTS, RECIPE_RESAMPLES = 60, 30  # how many of the recipe's 4,500 starts and 4,000 resamples are timed


def _fit_on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import fits

    runs, name = _table()
    fit_law = fits.fit  # imports are no part of the timing, on either side
    print(f"fit, one core: {name}, log-Huber with delta 1e-3")
    started = time.perf_counter()
    curve = fit_law("chinchilla", runs, bootstrap=4000)
    cold = time.perf_counter() - started
    alone, _ = training_speed.timed(lambda: fits.fit("chinchilla", runs))
    warm, best = training_speed.timed(lambda: fits.fit("chinchilla", runs, bootstrap=4000))
    assert curve.certificate is not None
    print(
        f"  {curve.certificate['starts_at_optimum']} of {curve.certificate['starts_total']} starts at the optimum; {curve.about['bootstrap_converged']} of 4,000 resamples converged"
    )
    print(f"  fit alone                        warm {alone:.3f} s")
    print(f"  fit + 4,000 bootstraps           cold {cold:.2f} s (compilation in)   warm {warm:.3f} s (best {best:.3f})")
    _grid(runs, curve.certificate["objective"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory of the process {peak:.2f} GiB")
    recipe = _recipe(runs, curve.certificate["objective"])
    print(f"  ratio to the usual recipe: {recipe / warm:.0f}x warm, {recipe / cold:.0f}x with compilation")


def _table() -> tuple[pd.DataFrame, str]:
    import fits

    if os.environ.get("ISOLOSS_DATA"):
        return fits.complete(fits.dataset("chinchilla-epoch", recipe=True)), "chinchilla-epoch, 240 rows"
    return fits.complete(planted()), "planted law, 240 rows"


def _recipe_starts() -> np.ndarray:
    """The 4,500 starts of the published recipe: log E, log A, log B, alpha, beta."""
    exponents, amplitudes = [0.0, 0.5, 1.0, 1.5, 2.0], np.arange(0.0, 26.0, 5.0)
    return np.array(list(itertools.product([-1.0, -0.5, 0.0, 0.5, 1.0], amplitudes, amplitudes, exponents, exponents)))


def _grid(runs: pd.DataFrame, optimum: float) -> None:
    """The recipe's own grid of starts through this solver."""
    from fits import objectives, sample, solve
    from fits.laws.chinchilla import CHINCHILLA

    ready = sample.prepare(CHINCHILLA, runs, objectives.objective("log-huber"))
    started = time.perf_counter()
    minima = solve.minimise(ready.problem, _recipe_starts(), ready.weights[None])
    seconds = time.perf_counter() - started
    reached = (minima.objective <= optimum * (1 + 1e-6)) & solve.certified(minima, len(runs))
    print(
        f"  the recipe's 4,500 starts through this solver: {reached.mean():.1%} end at the certified optimum ({seconds:.1f} s, compilation in)"
    )


def _recipe(runs: pd.DataFrame, optimum: float) -> float:
    """Seconds that the usual recipe takes, from a part of its starts (L-BFGS-B) and resamples (BFGS from published constants), gradients numeric."""
    import scipy.optimize

    log_n, log_d, log_l = (np.log(runs[column].to_numpy()) for column in ("params", "tokens", "loss"))

    def objective(theta: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
        e, a, b, alpha, beta = theta
        residual = np.abs(log_l - np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e))
        return float(np.sum(weights * np.where(residual < 1e-3, residual**2 / 2, 1e-3 * (residual - 5e-4))))

    generator = np.random.default_rng(0)
    chosen = generator.choice(_recipe_starts(), RECIPE_STARTS, replace=False)
    started = time.perf_counter()
    ends = [scipy.optimize.minimize(objective, start, method="L-BFGS-B") for start in chosen]
    a_start = (time.perf_counter() - started) / RECIPE_STARTS
    published = np.array([0.5267228, 6.0073404, 6.0179186, 0.33917084, 0.2849083])
    weights = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=RECIPE_RESAMPLES)
    started = time.perf_counter()
    for weight in weights:
        scipy.optimize.minimize(objective, published, args=(weight,), method="BFGS")
    a_resample = (time.perf_counter() - started) / RECIPE_RESAMPLES
    reached = np.mean([end.fun <= optimum * (1 + 1e-4) for end in ends])
    doubled = np.mean([end.fun > 2 * optimum for end in ends])
    claimed = np.mean([end.success for end in ends])
    total = 4500 * a_start + 4000 * a_resample
    print(
        f"  usual recipe: {a_start * 1e3:.1f} ms a start ({RECIPE_STARTS} of 4,500 timed), {a_resample * 1e3:.1f} ms a resample ({RECIPE_RESAMPLES} of 4,000 timed)"
    )
    print(f"    {reached:.0%} of its starts within 1e-4 of the optimum, {doubled:.0%} above twice it, while {claimed:.0%} report success")
    print(f"    fit + 4,000 bootstraps would take {total:.0f} s ({4500 * a_start:.0f} + {4000 * a_resample:.0f})")
    return total


def workers() -> None:
    """One process of all threads against one single-threaded process a core, on the same shape at the same time."""
    print("one process with all threads, then one single-threaded process a core (sum of their rates)")
    from scaling.devices import cores

    for width in (16, 32, 64, 96):
        alone = _rates(width, 1, {})
        beside = _rates(width, cores(), {"NPROC": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"})
        print(f"  width {width:3}: {sum(alone):9.0f} tokens/s   {sum(beside):9.0f} tokens/s   ratio {sum(beside) / sum(alone):.2f}")


def _rates(width: int, processes: int, environment: dict[str, str]) -> list[float]:
    command = [sys.executable, __file__, "--rate-of-width", str(width)]
    running = [subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return [float(process.communicate()[0].split()[-1]) for process in running]


def _rate(width: int) -> None:
    """tokens/s of one run of about eight seconds, printed last."""
    import models
    from scaling.paths import use_compilation_cache
    from scaling.run import RunConfig
    from scaling.training import train as train_run

    use_compilation_cache()
    shape = models.ladder(width, context=64)
    tokens = int(2.5e11 / models.training_flops(shape).training)
    print(train_run(RunConfig(shape, tokens, validation_tokens=1024)).tokens_per_second)


def penalty() -> None:
    """A hundred thousand penalties: 400 draws of constants x 50 scales x 5 supplies of unique data, and with elasticities."""
    import fits
    from scaling.penalty_batch import penalties

    curve = fits.load("besiroglu2024")
    settings: dict[str, Any] = {
        "flops": np.geomspace(1e21, 1e29, 50)[:, None],
        "unique_tokens": np.array([15e12, 300e12, 1e15, 1e16, np.inf]),
    }
    for elasticities in (False, True):

        def work(elasticities: bool = elasticities) -> None:
            penalties(curve, structure=2, data=2, draws=True, elasticities=elasticities, **settings)

        cold, _ = training_speed.timed(work, 1)
        warm, best = training_speed.timed(work)
        print(f"100,000 penalties{', with elasticities' if elasticities else ''}: cold {cold:.2f} s, warm {warm:.2f} s (best {best:.2f})")


PARTS = ("fit", "train", "profile", "moe", "workers", "penalty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--torch", metavar="PYTHON", help="train: an interpreter that has PyTorch, to be timed beside")
    parser.add_argument("--fit-on-one-core", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rate-of-width", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit_on_one_core:
        return _fit_on_one_core()
    if arguments.rate_of_width:
        return _rate(arguments.rate_of_width)
    parts = {"fit": fit, "train": lambda: training_speed.train(arguments.torch), "profile": step_profile.profile}
    parts |= {"moe": training_speed.moe, "workers": workers, "penalty": penalty}
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        sys.exit(f"speed.py: no part {unknown[0]!r}; there are {', '.join(parts)}")
    print(machine())
    for name in arguments.parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
