"""What the time model needs of a chip: rates in FLOP/s and byte/s, the reach of its links, and how its matrix units divide work."""

from __future__ import annotations

import dataclasses
import re

from scaling.errors import InputError
from scaling.hardware.chips import Chip

PCIE_GBPS = {4: 31.0, 5: 63.0}  # one way, x16
PCIE_5 = ("hopper", "blackwell", "5090", "PRO 6000", "amd")  # generations and names
# Best matrix product over peak where nobody measured it: medians of the measured chips of a kind (hardware.md, 3); consumer cards run near their
# halved rate; the fit then corrects by generation.
MATMUL_SHARE = {"volta": 0.82, "ampere": 0.87, "consumer": 0.95, "hopper": 0.80, "blackwell": 0.74, "tpu": 0.90, "amd": 0.56, "other": 0.80}
MATMUL_SHARE_8 = {"hopper": 0.72, "blackwell": 0.735, "consumer": 0.90, "amd": 0.5, "tpu": 0.85, "other": 0.72}
# Streaming multiprocessors (vendors' data sheets): units among which the tiles of a product are dealt out.
UNITS = {
    "V100": 80, "A100": 108, "A800": 108, "H100-PCIE": 114, "H100-SXM": 132, "H100-NVL": 132, "H800": 132, "H200": 132, "H20": 78, "L20": 92, "L40S": 142,
    "RTX 3090": 82, "RTX 4090D": 114, "RTX 4090": 128, "RTX 5090": 170, "RTX PRO 6000": 188, "B200": 148, "B300": 148, "GB200": 148, "GB300": 148, "B100": 148,
    "MI250X": 208, "MI300X": 304, "MI308X": 80, "MI325X": 304, "MI355X": 256,
}  # fmt: skip


NODE = 8  # chips of a usual node


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip and its place in a node. Rates in FLOP/s, bandwidths in byte/s and one way, memory in bytes."""

    name: str
    generation: str
    peak16: float
    peak8: float | None
    peak4: float | None
    share16: float  # best matrix product over peak
    share8: float
    memory: float
    bandwidth: float
    link: float  # inside the scale-up domain; PCIe where there is no other
    domain: int  # chips that the links join
    direct: bool  # peer copies need no detour through the host's memory
    host: float  # to the host's memory
    nic: float  # to other nodes
    units: int
    released: float

    @property
    def node(self) -> int:
        """Chips of a usual node: 8, or as many as the links join where these are 4 to 8."""
        return min(NODE, self.domain) if self.domain >= 4 else NODE

    def peak(self, bits: int) -> float:
        """Dense FLOP/s of a format with so many bits. Raises InputError where the chip has none."""
        rate = {16: self.peak16, 8: self.peak8, 4: self.peak4}.get(bits)
        if not rate:
            has = [name for name, value in (("bf16", self.peak16), ("fp8", self.peak8), ("fp4", self.peak4)) if value]
            raise InputError(f"chip {self.name} multiplies no {bits}-bit floats; it has {', '.join(has) or 'no published rate'}")
        return rate


def generation(name: str) -> str:
    """The kind of matrix unit, by which kernels differ."""
    upper = name.upper()
    if upper.startswith("TPU"):
        return "tpu"
    if "RTX" in upper or upper in ("L40S", "L20", "L2", "L40", "A10"):
        return "consumer"
    for kind, pattern in (
        ("volta", "V100"),
        ("ampere", "A100|A800"),
        ("hopper", "H100|H200|H800|H20|GH200"),
        ("blackwell", "B100|B200|B300"),
        ("amd", "MI2|MI3"),
    ):
        if re.search(pattern, upper):
            return kind
    return "other"


def device(chip: Chip) -> Device:
    """A chip as the time model sees it. Raises InputError for one without a 16-bit rate, memory or memory bandwidth."""
    if chip.bf16 is None or chip.mem_gb is None or chip.mem_bw_gbps is None:
        lacks = next(field for field in ("bf16", "mem_gb", "mem_bw_gbps") if getattr(chip, field) is None)
        raise InputError(f"chip {chip.name}: no {lacks} is published, so no training time follows")
    kind = generation(chip.name)
    host = PCIE_GBPS[5 if kind in PCIE_5 or any(part in chip.name for part in PCIE_5) else 4] * 1e9
    linked = bool(chip.scaleup_unidir_gbps)
    network = chip.nic_gbps_per_chip or (400.0 if kind in PCIE_5 else 200.0 if chip.datacentre else 100.0)
    return Device(
        name=chip.name,
        generation=kind,
        peak16=chip.bf16 * 1e12,
        peak8=chip.fp8 * 1e12 if chip.fp8 else None,
        peak4=chip.fp4 * 1e12 if chip.fp4 else None,
        share16=chip.mamf_bf16 / chip.bf16 if chip.mamf_bf16 else MATMUL_SHARE[kind],
        share8=chip.mamf_fp8 / chip.fp8 if chip.mamf_fp8 and chip.fp8 else MATMUL_SHARE_8.get(kind, MATMUL_SHARE_8["other"]),
        memory=chip.mem_gb * 1e9,
        bandwidth=chip.mem_bw_gbps * 1e9,
        link=chip.scaleup_unidir_gbps * 1e9 if chip.scaleup_unidir_gbps else host,
        domain=(chip.scaleup_domain or NODE) if linked else 1,
        direct=chip.p2p not in ("patched", "no") if chip.p2p else linked,
        host=host,
        nic=network * 1e9 / 8,
        units=next((units for prefix, units in UNITS.items() if chip.name.upper().startswith(prefix.upper())), 1 if kind == "tpu" else 100),
        released=chip.release_date.year + (chip.release_date.month - 0.5) / 12 if chip.release_date else 2023.0,
    )
