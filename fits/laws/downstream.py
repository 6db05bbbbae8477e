"""From loss to a benchmark: error = epsilon - k exp(-gamma loss), and accuracy as a sigmoid of loss.

The first is Gadre et al. 2024 (2403.08540) for an average top-1 error; the second serves a single task between its chance level and a ceiling,
as in the second step of Bhagia et al. 2024 (2412.04403).
"""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent
from fits.laws.maths import exp, logaddexp


def _error(c: Constants, x: Inputs) -> Any:
    return c["epsilon"] - c["k"] * exp(-c["gamma"] * x["loss"])


def _share(name: str, starts: tuple[float, float]) -> Parameter:
    return Parameter(name, low=1e-6, high=1e3, log=True, starts=starts)


ERROR = Law(
    name="error-from-loss",
    formula="epsilon - k * exp(-gamma * loss)",
    function=_error,
    parameters=(_share("epsilon", (0.5, 1.0)), amplitude("k", starts=(0.3, 10.0)), exponent("gamma", starts=(0.2, 2.0))),
    inputs=("loss",),
    output="error",
    linear=("epsilon", "k"),
    source="Gadre et al. 2024, arXiv 2403.08540",
)


def _accuracy(c: Constants, x: Inputs) -> Any:
    return c["chance"] + c["rise"] * exp(-logaddexp(0.0, c["steepness"] * (x["loss"] - c["midpoint"])))


ACCURACY = Law(
    name="accuracy-from-loss",
    formula="chance + rise / (1 + exp(steepness * (loss - midpoint)))",
    function=_accuracy,
    parameters=(
        _share("chance", (0.02, 0.5)),
        _share("rise", (0.2, 1.0)),
        exponent("steepness", starts=(0.5, 15.0), high=1e3),
        Parameter("midpoint", low=1e-3, high=1e2, starts=(0.5, 4.0)),
    ),
    inputs=("loss",),
    output="accuracy",
    linear=("chance", "rise"),
    source="a sigmoid from loss to accuracy, as in Bhagia et al. 2024, arXiv 2412.04403",
)

LAWS = (ERROR, ACCURACY)
