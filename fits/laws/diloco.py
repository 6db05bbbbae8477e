"""Training with rare communication (DiLoCo): loss, learning rate and batch by size and replicas, and a model of its wall-clock time."""

from __future__ import annotations

from typing import Any, NamedTuple

from fits.errors import InputError
from fits.laws.base import Constants, Inputs, Law, amplitude, exponent, free, irreducible
from fits.laws.powers import power_law

_SOURCE = "Charles et al. 2025, arXiv 2503.09799"


class Network(NamedTuple):
    """A link between chips: bits per second and seconds of latency."""

    bandwidth: float
    latency: float


class WallClock(NamedTuple):
    """Seconds of a training run."""

    compute: float
    communication: float

    @property
    def total(self) -> float:
        return self.compute + self.communication


HIGH, MEDIUM, LOW = Network(400e9, 1e-4), Network(100e9, 1e-3), Network(10e9, 1e-2)  # the paper's three archetypes


def wall_clock(
    flops: float,
    params: float,
    steps: float,
    chips: int,
    *,
    replicas: int = 1,
    sync_every: float = 30,
    within: Network = HIGH,
    across: Network = LOW,
    chip_flops: float = 3e14,
    bits_per_param: float = 16,
) -> WallClock:
    """Seconds of computing and of communicating, which are not overlapped.

    One replica is plain data parallelism: every step reduces all parameters over all chips `across` the slow link. Two or more reduce
    over their own chips `within` the fast link every step, and across only every `sync_every` steps. An all-reduce over R chips takes
    2 size (1 - 1/R) / bandwidth + latency. `bits_per_param` is what one of them sends per parameter, an assumption of this package.
    Raises InputError where there are fewer chips than replicas, or anything but a latency is not positive.
    """
    positive = {
        "flops": flops,
        "params": params,
        "steps": steps,
        "sync_every": sync_every,
        "chip_flops": chip_flops,
        "bits_per_param": bits_per_param,
        "bandwidth within": within.bandwidth,
        "bandwidth across": across.bandwidth,
    }
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"{name} must be positive, got {value}")
    if not 1 <= replicas <= chips:
        raise InputError(f"replicas must lie between 1 and the {chips} chips, got {replicas}")

    def reduce(share: float, network: Network) -> float:
        return 2 * params * bits_per_param * (1 - share) / network.bandwidth + network.latency

    outer = reduce(1 / chips, across)
    step = outer if replicas == 1 else reduce(replicas / chips, within) + outer / sync_every
    return WallClock(compute=flops / (chips * chip_flops), communication=steps * step)


def _bent(c: Constants, x: Inputs) -> Any:
    return c["E"] + c["A"] * x.power("params", -c["alpha"] + c["beta"] * x["replicas"])


DILOCO_EXPONENT = Law(
    name="diloco-exponent",
    formula="E + A * params^(-alpha + beta * replicas)",
    function=_bent,
    parameters=(irreducible("E"), amplitude("A"), exponent("alpha"), free("beta", (-0.01, 0.01), -1, 1)),
    inputs=("params", "replicas"),
    linear=("E", "A"),
    source=_SOURCE + ", the form with the least error on held-out sizes",
)

_OUTPUTS = {"loss": "A", "learning_rate": "k", "batch_tokens": "k"}


def _rules(output: str, factor: str) -> tuple[Law, Law]:
    """A power law of size alone, for one number of replicas, and one of size and replicas."""
    name = output.removesuffix("_tokens").replace("_", "-") + "-for-params"
    return (
        power_law(name, output, factor, {"params": "p"}, _SOURCE),
        power_law(name + "-and-replicas", output, factor, {"params": "p", "replicas": "q"}, _SOURCE),
    )


LAWS = (DILOCO_EXPONENT, *(law for output, factor in _OUTPUTS.items() for law in _rules(output, factor)))
