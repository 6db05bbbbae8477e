"""What the time model needs of a chip: rates in FLOP/s and byte/s, the reach of its links, and how its matrix units divide work."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from scaling.errors import InputError

FORMATS = {"fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "mxfp8": 8, "int8": 8, "fp4": 4, "nvfp4": 4, "mxfp4": 4}
PCIE_GBPS = {4: 31.0, 5: 63.0}  # one way, x16
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
    power_w: float
    released: float

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
    for kind, pattern in (("volta", "V100"), ("ampere", "A100|A800"), ("hopper", "H100|H200|H800|H20|GH200"), ("blackwell", "B100|B200|B300"), ("amd", "MI2|MI3")):
        if re.search(pattern, upper):
            return kind
    return "other"


def device(chip: Any) -> Device:
    """A `Chip` as the time model sees it. Raises InputError for one without a 16-bit rate or memory bandwidth."""
    for field in ("bf16_tflops", "mem_gb", "mem_bw_gbps"):
        if not getattr(chip, field):
            raise InputError(f"chip {chip.name}: no {field} is published, so no training time follows")
    kind = generation(chip.name)
    gen5 = kind in ("hopper", "blackwell") or "5090" in chip.name or "PRO 6000" in chip.name or "MI3" in chip.name
    host = PCIE_GBPS[5 if gen5 else 4] * 1e9
    linked = bool(chip.scaleup_unidir_gbps)
    domain = re.search(r"\d+", str(chip.scaleup_domain or ""))
    nic = re.findall(r"[\d.]+", str(chip.nic_gbps_per_chip or ""))
    mesh = re.search(r"(\d[\d.]*) GB/s per pair", str(chip.scaleup_domain or ""))
    share16, share8 = MATMUL_SHARE[kind], MATMUL_SHARE_8.get(kind, 0.72)
    if chip.mamf_bf16_tflops:
        share16 = chip.mamf_bf16_tflops / chip.bf16_tflops
    if chip.mamf_fp8_tflops and chip.fp8_tflops:
        share8 = chip.mamf_fp8_tflops / chip.fp8_tflops
    return Device(
        name=chip.name,
        generation=kind,
        peak16=chip.bf16_tflops * 1e12,
        peak8=chip.fp8_tflops * 1e12 if chip.fp8_tflops else None,
        peak4=chip.fp4_tflops * 1e12 if chip.fp4_tflops else None,
        share16=share16,
        share8=share8,
        memory=chip.mem_gb * 1e9,
        bandwidth=chip.mem_bw_gbps * 1e9,
        link=chip.scaleup_unidir_gbps * 1e9 if linked else host,
        domain=int(domain[0]) if linked and domain else 1,
        direct=linked or "disabled" not in str(chip.p2p) and "As RTX 4090" != str(chip.p2p).capitalize(),
        host=host,
        nic=(float(nic[0]) if nic else (100.0 if not linked else 200.0)) * 1e9 / 8,
        units=next((units for prefix, units in UNITS.items() if chip.name.upper().startswith(prefix.upper())), 1 if kind == "tpu" else 100),
        power_w=chip.tdp_w or 0.0,
        released=_year(chip.release_date) - (0.0 if not mesh else 0.0),
    )


def _year(date: Any) -> float:
    match = re.match(r"(\d{4})(?:-(\d{2}))?", str(date or ""))
    return int(match[1]) + (int(match[2] or 6) - 0.5) / 12 if match else 2022.0
