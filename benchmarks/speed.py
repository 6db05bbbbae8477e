"""Timings: `python benchmarks/speed.py [fit] [train] [workers]`. Compilation apart; medians; ratios within one run.

The machines that run this are noisy: compare numbers of one run, not of two.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

REPEATS = 5


def machine() -> str:
    """The machine in one line."""
    import jax
    import jaxlib

    from scaling.training import processor

    return f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, jax {jax.__version__}, jaxlib {jaxlib.__version__}"


def timed(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and best seconds of `work`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), min(seconds)


def planted() -> pd.DataFrame:
    """240 runs of a known law with 1% noise."""
    generator = np.random.default_rng(0)
    params, tokens = 10 ** generator.uniform(7.5, 10.5, 240), 10 ** generator.uniform(9, 12, 240)
    loss = 1.8 + 450 * params**-0.35 + 2000 * tokens**-0.37
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * np.exp(generator.normal(0, 0.01, 240))})


def fit() -> None:
    """The fit of 240 rows, and its 4,000 bootstraps, against scipy's L-BFGS-B from single starts as the usual recipe uses it."""
    import scipy.optimize

    import fits

    data = os.environ.get("ISOLOSS_DATA")
    if data:
        columns = {"params": "Model Size", "flops": "Training FLOP"}
        runs, name = fits.read_runs(Path(data) / "chinchilla-epoch.csv", columns=columns, where="loss < 3.43"), "chinchilla-epoch, 240 rows"
    else:
        runs, name = planted(), "planted law, 240 rows"
    started = time.perf_counter()
    curve = fits.fit("chinchilla", runs)
    cold = time.perf_counter() - started
    warm, best = timed(lambda: fits.fit("chinchilla", runs))
    started = time.perf_counter()
    fits.fit("chinchilla", runs, bootstrap=4000)
    bootstrap_cold = time.perf_counter() - started
    bootstrap, _ = timed(lambda: fits.fit("chinchilla", runs, bootstrap=4000), repeats=1)
    assert curve.certificate is not None
    print(f"fit, {name}: {curve.certificate['starts_at_optimum']} of {curve.certificate['starts_total']} starts at the optimum")
    print(f"  fit                        cold {cold:.2f} s   warm {warm:.3f} s (best {best:.3f})")
    print(f"  fit + 4,000 bootstraps     cold {bootstrap_cold:.2f} s   warm {bootstrap:.2f} s")

    frame = fits.complete(runs)
    log_n, log_d, log_l = (np.log(frame[column].to_numpy()) for column in ("params", "tokens", "loss"))

    def objective(theta: np.ndarray) -> float:
        e, a, b, alpha, beta = theta
        residual = np.abs(log_l - np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e))
        return float(np.sum(np.where(residual < 1e-3, residual**2 / 2, 1e-3 * (residual - 5e-4))))

    starts = np.random.default_rng(0).uniform([-1, 0, 0, 0, 0], [1, 25, 25, 2, 2], (40, 5))
    started = time.perf_counter()
    ends = [scipy.optimize.minimize(objective, start, method="L-BFGS-B") for start in starts]
    per_start = (time.perf_counter() - started) / len(starts)
    reached = np.mean([end.fun <= curve.certificate["objective"] * (1 + 1e-4) for end in ends])
    claimed = np.mean([end.success for end in ends])
    print(
        f"  usual recipe (L-BFGS-B, numeric gradient): {per_start * 1e3:.0f} ms a start, {reached:.0%} of {len(starts)} starts within 1e-4 of the"
    )
    print(
        f"    optimum while {claimed:.0%} report success; its 4,500 starts would take {per_start * 4500:.0f} s = {per_start * 4500 / warm:.0f}x the warm fit, {per_start * 4500 / cold:.0f}x the cold one"
    )


def train() -> None:
    """Training speed of single runs in this process: tokens/s and FLOP/s by the exact count, compilation and Python's share."""
    import jax
    import jax.numpy as jnp

    import models
    from scaling import step
    from scaling.data.corpora import load_corpus
    from scaling.training import sequence_order

    corpus = load_corpus("python-source")
    print(f"train step, context 64, micro-batches of 2 sequences, 8 sequences a step, {os.environ.get('NPROC', 'all')} threads")
    print(f"  {'shape':28} {'compile s':>9} {'tokens/s':>10} {'GFLOP/s':>8} {'ms/step':>8} {'between ms':>10}")
    moe = {"experts": 8, "experts_per_token": 2}
    for label, width, more, precision in [(f"dense width {w}", w, {}, "fp32") for w in (16, 32, 64, 96, 128)] + [
        ("dense width 64 bf16", 64, {}, "bf16"),
        ("MoE 8, top 2, width 64", 64, moe, "fp32"),
    ]:
        shape = models.ladder(width, context=64, **more)
        static = step.Static(shape, precision, 2, "wsd")
        data = step.Data(jnp.asarray(corpus.train()), jnp.asarray(sequence_order(corpus, 64, 0)))
        numbers = (jnp.float32(x) for x in (0.1, 0.3, 0.1, 0.01))
        hyper = step.Hyper(jnp.float32(5e-3), jnp.int32(10_000), *numbers, jnp.int32(4))
        state = step.initialise(static, jnp.int32(0))
        count = step.STEPS_PER_CALL
        started = time.perf_counter()
        compiled = step.train_steps.lower(static, state, data, hyper, jnp.int32(1)).compile()
        compile_seconds = time.perf_counter() - started
        inside = []
        state, _ = compiled(state, data, hyper, jnp.int32(count))
        started = time.perf_counter()
        for _ in range(REPEATS):
            began = time.perf_counter()
            state, metrics = compiled(state, data, hyper, jnp.int32(count))
            jax.block_until_ready(metrics)
            inside.append(time.perf_counter() - began)
        outside = (time.perf_counter() - started - sum(inside)) / REPEATS / count
        seconds = float(np.median(inside)) / count
        tokens = 8 * 64
        rate = tokens / seconds
        flops = models.training_flops(shape).training * rate
        print(f"  {label:28} {compile_seconds:9.1f} {rate:10.0f} {flops / 1e9:8.1f} {seconds * 1e3:8.2f} {outside * 1e3:10.4f}")


def workers() -> None:
    """One process of all threads against one single-threaded process a core, on the same shape at the same time."""
    print("one process with all threads, then one single-threaded process a core (sum of their rates)")
    from scaling.engines import cores

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


def main() -> None:
    parts = {"fit": fit, "train": train, "workers": workers}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; all by default")
    parser.add_argument("--rate-of-width", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rate_of_width:
        return _rate(arguments.rate_of_width)
    unknown = [name for name in arguments.parts if name not in parts]
    if unknown:
        sys.exit(f"speed.py: no part {unknown[0]!r}; there are {', '.join(parts)}")
    print(machine())
    for name in arguments.parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
