"""Rules for the learning rate, the batch and the timescale of weight decay.

Learning rates are peaks of a schedule, batches are in tokens. The timescale of AdamW, batch / (learning rate * weight decay * tokens), is a fraction
of the run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fits.laws.base import Constants, Inputs, Law, amplitude, exponent
from fits.laws.maths import exp, log
from fits.laws.powers import power_law


def _critical_batch(c: Constants, x: Inputs) -> Any:
    return exp(log(c["B_star"]) - x.log("loss") / c["alpha_B"])


def _critical_batch_starts(x: Inputs, batch: np.ndarray) -> list[dict[str, float]]:
    slope, level = np.polyfit(x.log("loss"), np.log(batch), 1)
    return [{"B_star": float(np.exp(np.clip(level, -60, 120))), "alpha_B": float(1 / max(-slope, 0.06))}]


CRITICAL_BATCH = Law(
    name="critical-batch-for-loss",
    formula="B_star / loss^(1 / alpha_B)",
    function=_critical_batch,
    parameters=(amplitude("B_star", starts=(1e6, 1e10)), exponent("alpha_B", starts=(0.1, 0.5), low=1e-2)),
    inputs=("loss",),
    output="batch_tokens",
    start_constants=_critical_batch_starts,
    source="Kaplan et al. 2020, arXiv 2001.08361, equation 1.4",
)

LAWS = (
    CRITICAL_BATCH,
    power_law("learning-rate-for-flops", "learning_rate", "k", {"flops": "p"}, "DeepSeek LLM, arXiv 2401.02954"),
    power_law("batch-for-flops", "batch_tokens", "k", {"flops": "p"}, "DeepSeek LLM, arXiv 2401.02954"),
    power_law("batch-for-tokens", "batch_tokens", "k", {"tokens": "p"}, "Li et al. 2025 (Step Law), arXiv 2503.04715"),
    power_law(
        "learning-rate-for-size-and-tokens",
        "learning_rate",
        "k",
        {"non_embedding_params": "p", "tokens": "q"},
        "Li et al. 2025 (Step Law), arXiv 2503.04715",
    ),
    power_law(
        "learning-rate-for-active-params-and-experts",
        "learning_rate",
        "k",
        {"active_params": "p", "experts": "q"},
        "Ludziejewski et al. 2025, arXiv 2502.05172",
    ),
    power_law("timescale-for-tokens-per-param", "timescale", "k", {"tokens_per_param": "p"}, "Bergsma et al. 2025, arXiv 2505.13738"),
)
