"""What a law is: a function of named constants and named inputs, and what the solver must know of its constants.

A law of one's own is one object:

    def _saturating(c, x):
        return c["E"] + c["A"] * x.power("tokens", -c["beta"])

    MINE = Law(
        name="mine",
        formula="E + A * tokens^-beta",
        function=_saturating,
        parameters=(irreducible("E"), amplitude("A"), exponent("beta")),
        inputs=("tokens",),
        linear=("E", "A"),
    )

    fits.fit(MINE, runs)

The function is written with operators, `x.power` and `fits.laws.maths` (or `jax.numpy`): it is traced and differentiated by JAX in a
fit, and called on plain arrays by a curve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fits.errors import InputError
from fits.laws import maths

Constants = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A constant of a law.

    `low` and `high` bound it; what ends at a bound is reported. A `log` constant is positive and solved for as its logarithm.
    `starts` spans the values from which a search begins (on a log scale for a log constant).
    """

    name: str
    low: float = -math.inf
    high: float = math.inf
    log: bool = False
    starts: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.starts[0] <= self.starts[1]:
            raise InputError(f"parameter {self.name}: low must be below high, and starts must be (least, most)")
        if self.log and not (self.low > 0 and self.starts[0] > 0):
            raise InputError(f"parameter {self.name}: a log constant is positive, and so are its low and its starts")


def amplitude(name: str, starts: tuple[float, float] = (1e-2, 1e6)) -> Parameter:
    """A positive factor of unknown size."""
    return Parameter(name, low=1e-30, high=1e60, log=True, starts=starts)


def irreducible(name: str = "E") -> Parameter:
    """The loss that no compute removes; a millionth of a nat stands for zero."""
    return Parameter(name, low=1e-6, high=1e3, log=True, starts=(0.1, 3.0))


def exponent(name: str, starts: tuple[float, float] = (0.08, 1.3), low: float = 1e-3, high: float = 20.0) -> Parameter:
    """A positive exponent; below a thousandth it stands for no dependence at all."""
    return Parameter(name, low=low, high=high, starts=starts)


def free(name: str, starts: tuple[float, float] = (-1.0, 1.0), low: float = -math.inf, high: float = math.inf) -> Parameter:
    """A constant of either sign."""
    return Parameter(name, low=low, high=high, starts=starts)


class Inputs(Mapping[str, Any]):
    """The inputs of a law by name, with powers formed from logarithms taken once."""

    def __init__(self, values: Mapping[str, Any], logs: Mapping[str, Any] | None = None) -> None:
        self._values, self._logs = dict(values), dict(logs or {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def log(self, name: str) -> Any:
        """The natural logarithm of an input."""
        if name not in self._logs:
            self._logs[name] = maths.log(self._values[name])
        return self._logs[name]

    def power(self, name: str, exponent: Any) -> Any:
        """An input to a power: exp(exponent log x), which is faster in a fit than `**`."""
        return maths.exp(exponent * self.log(name))


class PowerTerms(NamedTuple):
    """The two terms a x^-alpha + b tokens^-beta on which a law depends monotonically, x being its size input."""

    a: Any
    alpha: Any
    b: Any
    beta: Any


@dataclasses.dataclass(frozen=True)
class Power:
    """A term amplitude * input^-exponent of a sum, by the names of its constants (all log constants but the exponent); a constant without input."""

    amplitude: str
    exponent: str | None = None
    input: str | None = None


@dataclasses.dataclass(frozen=True)
class Law:
    """A family of laws, by its function and its constants.

    `function(constants, inputs)` returns the `output` (nats/token for "loss"). `linear` names constants in which it is linear with
    non-negative coefficients when the others are given: a search then needs starts for the others only. `start_constants(inputs, output)`, if
    given, returns starts of its own as a list of dicts. `size` is the input that plays the part of N in an allocation of compute, with `tokens`
    beside it; `terms(constants, inputs)` gives the closed form of that allocation where the law has one. `typical` holds values for
    inputs that a call may leave out. `powers` declares a law that is just a sum of power terms, which the solver then differentiates in closed form.
    """

    name: str
    formula: str
    function: Callable[[Constants, Inputs], Any]
    parameters: tuple[Parameter, ...]
    inputs: tuple[str, ...]
    output: str = "loss"
    linear: tuple[str, ...] = ()
    start_constants: Callable[[Inputs, np.ndarray], list[dict[str, float]]] | None = None
    size: str | None = None
    terms: Callable[[Constants, Inputs], PowerTerms] | None = None
    typical: tuple[tuple[str, float], ...] = ()
    powers: tuple[Power, ...] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) != len(names) or not names:
            raise InputError(f"law {self.name}: constants must have names of their own, got {', '.join(names) or 'none'}")
        unknown = set(self.linear) - set(names)
        if unknown:
            raise InputError(f"law {self.name}: linear names {min(unknown)!r}, which is no constant of it")
        if self.size and (self.size not in self.inputs or "tokens" not in self.inputs):
            raise InputError(f"law {self.name}: an allocation needs {self.size!r} and 'tokens' among the inputs")

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the constants, in their order."""
        return tuple(parameter.name for parameter in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """The constant called `name`."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise InputError(f"law {self.name} has no constant {name!r}; it has {', '.join(self.constants)}")

    def evaluate(self, constants: np.ndarray, inputs: Mapping[str, Any]) -> np.ndarray:
        """The output in float64 for constants (..., constants) and inputs that broadcast against the leading axes."""
        import jax

        values = {name: np.asarray(inputs[name], float) for name in self.inputs}
        named = dict(zip(self.constants, np.moveaxis(np.asarray(constants, float), -1, 0), strict=True))
        # A law written with jax.numpy computes in the precision of the context that it is called in.
        with jax.enable_x64(True), np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return np.asarray(self.function(named, Inputs(values)), float)


def to_theta(law: Law, constants: np.ndarray) -> np.ndarray:
    """What the solver moves: logarithms of the log constants, the others as they are; last axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(_log_mask(law), np.log(np.asarray(constants, float)), constants)


def to_constants(law: Law, theta: np.ndarray) -> np.ndarray:
    """The inverse of `to_theta`."""
    mask = _log_mask(law)
    with np.errstate(over="ignore"):
        return np.where(mask, np.exp(np.where(mask, theta, 0.0)), theta)


def _log_mask(law: Law) -> np.ndarray:
    return np.array([parameter.log for parameter in law.parameters])
