"""Two chips side by side: what each is relative to the other."""

from __future__ import annotations

from scaling.hardware.chips import RATES, Chip

FIGURES = {
    **{name: f"{name}, T{'OP' if name == 'int8' else 'FLOP'}/s" for name in RATES},
    "mamf_bf16": "best bf16 product, TFLOP/s",
    "mamf_fp8": "best fp8 product, TFLOP/s",
    "mem_gb": "memory, GB",
    "mem_bw_gbps": "memory bandwidth, GB/s",
    "scaleup_unidir_gbps": "links, one way, GB/s",
    "scaleup_domain": "chips that the links join",
    "nic_gbps_per_chip": "network, Gb/s",
    "tdp_w": "power, W",
    "price_usd": "price, USD",
    "rent_usd_per_h": "rent, USD/h",
    "tpp": "total processing performance",
    "performance_density": "performance density",
    "ridge_bf16": "ridge in bf16, FLOP/byte",
    "ridge_fp8": "ridge in fp8, FLOP/byte",
    "bf16_per_watt": "bf16, TFLOP/s a W",
    "bf16_per_kusd": "bf16, TFLOP/s a 1000 USD",
    "bandwidth_per_kusd": "memory bandwidth, GB/s a 1000 USD",
}


def figures(chip: Chip) -> dict[str, float | None]:
    """The figures that chips are compared by (`FIGURES`), those of the roofline and per watt and dollar computed."""
    found = {name: getattr(chip, name) for name in FIGURES if hasattr(chip, name)}
    price = None if chip.price_usd is None else chip.price_usd / 1000
    return found | {
        "ridge_bf16": chip.ridge("bf16"),
        "ridge_fp8": chip.ridge("fp8"),
        "bf16_per_watt": _over(chip.bf16, chip.tdp_w),
        "bf16_per_kusd": _over(chip.bf16, price),
        "bandwidth_per_kusd": _over(chip.mem_bw_gbps, price),
    }


def compare(first: Chip, second: Chip) -> dict[str, tuple[float | None, float | None, float | None]]:
    """By figure: the first chip's, the second's, and first / second; what neither has is left out."""
    ours, theirs = figures(first), figures(second)
    return {
        name: (ours[name], theirs[name], _over(ours[name], theirs[name])) for name in FIGURES if (ours[name], theirs[name]) != (None, None)
    }


def _over(value: float | None, other: float | None) -> float | None:
    return None if value is None or not other else value / other
