"""How a run is set up after some of the steps, and what the hardware model makes of it: speed, hours and dollars, or why it is impossible."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from scaling.errors import InputError
from scaling.hardware.architecture import Architecture
from scaling.hardware.chips import Chip
from scaling.hardware.constants import load
from scaling.hardware.cost import cost
from scaling.hardware.estimate import Estimate, estimate_training, job
from scaling.hardware.memory import state_bytes
from scaling.hardware.search import Search
from scaling.hardware.workload import Workload

WIDE = ("fp32", "tf32")  # formats that the hardware model has no rows of
WIDER = 2.0  # by which their band of log speed is widened
# Stages tried, of those allowed: up to 2 more sharing takes less memory and no more time (`communication.data`), so the highest will do.
ZERO_STAGES = {None: (1, 3), 0: (0,), 1: (1,), 2: (1, 2), 3: (1, 3)}


@dataclasses.dataclass(frozen=True)
class Setup:
    """One way to make the run. `memory_gb` caps what layouts may plan with; what is None is the hardware model's usual."""

    chip: Chip
    chips: int
    model: Architecture
    tokens: float
    format: str
    sequence: int | None
    batch: int | None
    network_gbps: float | None
    zero: int | None
    peer_to_peer: bool | None
    framework: str | None
    memory_gb: float | None = None
    optimizer_bytes: float | None = None

    def level(self, field: str) -> Any:
        """What counts as this field's value: two setups whose values are equal do not differ in it."""
        if field == "memory_gb":
            return min(self.memory_gb or self.chip.mem_gb or 0.0, self.chip.mem_gb or 0.0)
        if field == "chip":
            return f"{self.chips} {self.chip.name}"
        if field == "peer_to_peer" and self.chip.p2p != "patched":
            return None  # the driver decides nothing there
        return getattr(self, field)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a setup takes. `low` and `high`: ends of the 80% band of the log speed around the estimate. `reason` says why there is none."""

    estimate: Estimate | None
    low: float = 0.0
    high: float = 0.0
    reason: str = ""

    @property
    def speed(self) -> Estimate:
        """The estimate; InputError with the reason where there is none."""
        if self.estimate is None:
            raise InputError(f"ledger: {self.reason}")
        return self.estimate

    @property
    def hours(self) -> float:
        """Wall-clock hours."""
        return self.speed.hours or 0.0


class Timer:
    """Outcomes of setups. Layouts are searched once for those that differ in what may be used of them only."""

    def __init__(self, allowed: Iterable[int | None]) -> None:
        self.stages = tuple(sorted({stage for most in allowed for stage in ZERO_STAGES[most]}))
        self._searches: dict[Setup, Search | str] = {}
        self._anywhere: dict[Setup, Search] = {}  # whatever the network
        self._outcomes: dict[Setup, Outcome] = {}

    def outcome(self, setup: Setup) -> Outcome:
        """What the setup takes, with its fastest layout."""
        key = dataclasses.replace(setup, memory_gb=setup.level("memory_gb"), peer_to_peer=setup.level("peer_to_peer"))
        if key not in self._outcomes:
            try:
                self._outcomes[key] = self._estimate(key)
            except InputError as error:
                self._outcomes[key] = Outcome(None, reason=str(error))
        return self._outcomes[key]

    def _estimate(self, setup: Setup) -> Outcome:
        chip, format = _as_sixteen_bits(setup)
        options: dict[str, Any] = {
            "chip": chip,
            "chips": setup.chips,
            "sequence": setup.sequence,
            "batch": setup.batch,
            "format": format,
            "framework": setup.framework,
            "network_gbps": setup.network_gbps / (2 if setup.format in WIDE else 1) if setup.network_gbps else None,
            "peer_to_peer": setup.peer_to_peer,
        }
        search = self._search(setup, options)
        usual = state_bytes(search.base)[2]
        best, timed = search.best(
            room=setup.level("memory_gb") * 1e9,
            optimizer=min(1.0, setup.optimizer_bytes / usual) if setup.optimizer_bytes else 1.0,
            activations=2.0 if setup.format in WIDE else 1.0,
            zero=ZERO_STAGES[setup.zero],
        )
        options["batch"] = search.base.batch
        found = estimate_training(setup.model, tokens=setup.tokens, layout=best.layout, allow_overflow=True, **options)
        found = dataclasses.replace(found, layouts_timed=timed, format=setup.format)
        low, high = load().band.around(1.0, best)
        wider = WIDER if setup.format in WIDE else 1.0
        return Outcome(found, wider * math.log(low), wider * math.log(high))

    def _search(self, setup: Setup, options: dict[str, Any]) -> Search:
        key = dataclasses.replace(setup, memory_gb=None, optimizer_bytes=None, zero=None, tokens=1.0)
        if key not in self._searches:
            try:
                self._searches[key] = self._new_search(key, job(setup.model, **options))
            except InputError as error:
                self._searches[key] = str(error)
        found = self._searches[key]
        if isinstance(found, str):
            raise InputError(found)
        return found

    def _new_search(self, key: Setup, base: Workload) -> Search:
        elsewhere = dataclasses.replace(key, network_gbps=None)
        if elsewhere not in self._anywhere:
            self._anywhere[elsewhere] = Search(base, key.chips, load(), self.stages)
        return self._anywhere[elsewhere].on_network(base.nic)


def _as_sixteen_bits(setup: Setup) -> tuple[Chip, str]:
    """The chip and format that the hardware model is asked about: fp32 and tf32 as 16 bits on a chip of their rate that moves every byte twice."""
    if setup.format not in WIDE:
        return setup.chip, setup.format
    rate = setup.chip.peak(setup.format)
    if rate is None:
        raise InputError(f"chip {setup.chip.name} has no {setup.format} (no rate is known); it has {', '.join(setup.chip.formats)}")
    chip = setup.chip
    halves = {name: getattr(chip, name) / 2 for name in ("mem_bw_gbps", "scaleup_unidir_gbps", "nic_gbps_per_chip") if getattr(chip, name)}
    return dataclasses.replace(chip, bf16=rate / 1e12, mamf_bf16=None, **halves), "bf16"


def usd_per_chip_hour(chip: Chip, dollars: str, price: float | None = None) -> float:
    """Dollars of a chip's hour by `cost`: the share of its purchase with servers, network and electricity, or its rent. Raises InputError."""
    if price is not None:
        chip = dataclasses.replace(chip, **{"price_usd" if dollars == "buy" else "rent_usd_per_h": price})
    hour = cost(chip, 1, 3600.0, (1.0, 1.0, 1.0), goodput=1.0)
    found = hour.usd_buy if dollars == "buy" else hour.usd_rent
    if found is None:
        what = "price" if dollars == "buy" else "rent"
        raise InputError(f"ledger: no {what} of {chip.name} is known; give it in [prices], or choose the other of dollars = buy and rent")
    return found
