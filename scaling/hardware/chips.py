"""A chip: its figures, each with source and grade, and what follows from them.

Rates are dense TFLOP/s (int8: TOP/s), with fp32 accumulation unless the field says otherwise; memory in GB and GB/s; links in GB/s a chip, all
links together; network in Gb/s (bits) a chip. None is not known. A rate that a chip lacks is None too: the two look alike in the sources.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Any

from scaling.errors import InputError

# Bits of an operand, by the field of its rate. TF32 is left out of total processing performance: no source counts it.
RATES = {"fp32": 32, "tf32": 32, "bf16": 16, "fp16_fp16acc": 16, "fp8": 8, "int8": 8, "fp4": 4}
# Other names of formats: fp16 with fp32 accumulation runs at the rate of bf16, and the block-scaled ones at that of their elements.
FORMATS = {name: name for name in RATES} | {"fp16": "bf16", "mxfp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4"}
P2P = {
    "yes": "over the links between the chips",
    "bridge": "over the bridge of a pair; copies over PCIe need a patched driver",
    "pcie": "over PCIe",
    "patched": "only with a patched driver",
    "no": "no",
}
NUMBERS = (
    *RATES,
    "mamf_bf16",
    "mamf_fp8",
    "mem_gb",
    "mem_bw_gbps",
    "scaleup_unidir_gbps",
    "scaleup_bidir_gbps",
    "scaleup_domain",
    "nic_gbps_per_chip",
    "tdp_w",
    "die_area_mm2",
    "price_usd",
    "rent_usd_per_h",
    "listed_tpp",
    "listed_perf_density",
    "cores",
)
CONTROLS = ("us_control_oct2022", "us_control_oct2023", "us_control_2025_on")
ZERO_ALLOWED = ("scaleup_unidir_gbps", "scaleup_bidir_gbps", "nic_gbps_per_chip")  # 0: none beyond PCIe, no network


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, or a whole machine that counts as one.

    `mamf_*` is the best rate that a search over shapes of matrix products reached. `scaleup_domain` is how many chips the links join.
    `p2p` says how chips of a node copy to each other (`P2P`). `datacentre`: marketed for data centres. `cloud_only`: rented, never sold.
    `us_item`: subject to the US export rules. `listed_tpp` and `listed_perf_density` are a source's; `tpp` and `performance_density` are
    computed. `us_control_*` are notes of a source on US export control. `listed` holds, by field, what the source prints where a number
    does not say all. `memory` names the fields whose figure was not seen in a source, `estimated` those that are estimates; see `grade`.
    `origin` is table, given or measured. `cores`: threads of a CPU that the rates were measured with.
    """

    name: str
    aliases: tuple[str, ...] = ()
    vendor: str = ""
    form: str = ""
    release_date: datetime.date | None = None
    fp32: float | None = None
    tf32: float | None = None
    bf16: float | None = None
    fp16_fp16acc: float | None = None
    fp8: float | None = None
    int8: float | None = None
    fp4: float | None = None
    mamf_bf16: float | None = None
    mamf_fp8: float | None = None
    mem_gb: float | None = None
    mem_type: str = ""
    mem_bw_gbps: float | None = None
    scaleup_name: str = ""
    scaleup_unidir_gbps: float | None = None
    scaleup_bidir_gbps: float | None = None
    scaleup_domain: int | None = None
    p2p: str | None = None
    nic_gbps_per_chip: float | None = None
    tdp_w: float | None = None
    die_area_mm2: float | None = None
    price_usd: float | None = None
    rent_usd_per_h: float | None = None
    datacentre: bool = True
    cloud_only: bool = False
    us_item: bool = True
    listed_tpp: float | None = None
    listed_perf_density: float | None = None
    us_control_oct2022: str = ""
    us_control_oct2023: str = ""
    us_control_2025_on: str = ""
    note: str = ""
    verified: str = ""
    cores: int | None = None
    origin: str = "given"
    memory: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    figure_sources: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    listed: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InputError(f"a chip's name must be text, got {self.name!r}")
        for field in NUMBERS:
            self._check_number(field, getattr(self, field))
        for fields, right, kind in _KINDS:
            for field in fields:
                if not right(value := getattr(self, field)):
                    raise InputError(f"chip {self.name}: {field} must be {kind}, got {value!r}")
        if self.p2p is not None and self.p2p not in P2P:
            raise InputError(f"chip {self.name}: p2p must be one of {', '.join(P2P)}, got {self.p2p!r}")
        if self.release_date is not None and not isinstance(self.release_date, datetime.date):
            raise InputError(f"chip {self.name}: release_date must be a date such as 2023-11-09, got {self.release_date!r}")

    def _check_number(self, field: str, value: Any) -> None:
        if value is None:
            return
        whole = field in ("scaleup_domain", "cores")
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and field not in ZERO_ALLOWED):
            kind = "a whole number of 1 or more" if whole else f"a {'non-negative' if field in ZERO_ALLOWED else 'positive'} finite number"
            raise InputError(f"chip {self.name}: {field} must be {kind}, got {value!r}")

    def peak(self, format: str) -> float | None:
        """Dense FLOP/s (OP/s for int8) of a number format; None where it is not known or the chip has none. Raises InputError."""
        if format not in FORMATS:
            raise InputError(f"chip {self.name}: number format {format!r} is not known; there are {', '.join(FORMATS)}")
        rate = getattr(self, FORMATS[format])
        return None if rate is None else rate * 1e12

    @property
    def formats(self) -> list[str]:
        """The formats whose rate is known."""
        return [name for name in RATES if getattr(self, name) is not None]

    @property
    def tpp(self) -> float | None:
        """Total processing performance: the largest of TOP/s times bits over formats (ECCN 3A090, technical note 2), TF32 left out."""
        products = [getattr(self, name) * bits for name, bits in RATES.items() if name != "tf32" and getattr(self, name) is not None]
        return max(products, default=None)

    @property
    def performance_density(self) -> float | None:
        """TPP per mm2 of die area (ECCN 3A090, technical note 3)."""
        return None if self.tpp is None or self.die_area_mm2 is None else self.tpp / self.die_area_mm2

    def ridge(self, format: str = "bf16") -> float | None:
        """FLOP per byte of memory traffic at which the product of this format is as slow as the memory: peak / bandwidth."""
        peak = self.peak(format)
        return None if peak is None or self.mem_bw_gbps is None else peak / (self.mem_bw_gbps * 1e9)

    def grade(self, field: str) -> str:
        """How a figure is known.

        source (seen in a public text), memory (not seen in one), estimated, computed (from the other figures), given (by the user),
        measured, or unknown. Raises InputError for a field that a chip does not have.
        """
        if field in ("tpp", "performance_density"):
            return "unknown" if getattr(self, field) is None else "computed"
        if field not in FIELDS:
            raise InputError(f"chip {self.name}: no figure {field!r}; there are {', '.join(FIELDS)}")
        if getattr(self, field) in (None, ""):
            return "unknown"
        if field in self.memory:
            return "memory"
        if field in self.estimated:
            return "estimated"
        return {"table": "source"}.get(self.origin, self.origin)

    def sources_of(self, field: str) -> tuple[str, ...]:
        """Where a figure is from: its own source where one is noted, else the chip's."""
        own = self.figure_sources.get(field)
        return self.sources if own is None else (own,)


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


# Fields that are no numbers: which they are, what is right, and how that is called.
_KINDS = (
    (
        ("vendor", "form", "mem_type", "scaleup_name", *CONTROLS, "note", "verified", "origin"),
        lambda value: isinstance(value, str),
        "text",
    ),
    (("datacentre", "cloud_only", "us_item"), lambda value: isinstance(value, bool), "true or false"),
    (("aliases", "memory", "estimated", "sources"), lambda value: isinstance(value, tuple) and _texts(value), "a list of texts"),
    (("figure_sources", "listed"), lambda value: isinstance(value, Mapping) and _texts(value.values()), "a table of texts"),
)
FIELDS = [
    field.name
    for field in dataclasses.fields(Chip)
    if field.name not in ("name", "aliases", "origin", "memory", "estimated", "sources", "figure_sources", "listed")
]
