"""The time of a step as an explicit function of fitted constants and of a job's columns (`features`), for NumPy and for JAX.

Shape of it: hardware.md, section 12. Compute and communication that overlap are joined by a smooth maximum (a^p + b^p)^(1/p).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fits.laws import maths
from scaling.hardware.features import GENERATIONS


def smooth_max(left: Any, right: Any, power: Any) -> Any:
    """Between the larger of two times (power infinite) and their sum (power 1)."""
    small = 1e-12
    left, right = left + small, right + small
    high = maths.maximum(left, right)
    return high * ((left / high) ** power + (right / high) ** power) ** (1 / power)


def parts(c: Mapping[str, Any], x: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of a step by purpose, before overlap."""
    attention = sum(c[f"attention_{name}"] * x[f"on_{name}"] for name in GENERATIONS)
    staged = 1 + c["staged"] * (1 - x["direct"])  # copies between chips that go through the host's memory
    return {
        "products": c["gemm16"] * x["gemm16"]
        + c["gemm8"] * x["gemm8"]
        + c["gemm4"] * x["gemm4"]
        + c["waste"] * (x["waste16"] + x["waste8"] + x["waste4"])
        + c["operands"] * x["operands"],
        "experts": c["expert16"] * x["expert16"]
        + c["expert8"] * (x["expert8"] + x["expert4"])
        + c["expert_waste"] * x["expert_waste"]
        + c["permutation"] * x["permutation"],
        "attention": attention * (x["attention"] + c["attention_small"] * x["attention_small"]) + c["scores"] * x["scores"],
        "elementwise": c["elementwise"] * (1 + c["eager_elementwise"] * x["eager"]) * x["elementwise"]
        + c["casts"] * x["casts"]
        + c["fine_casts"] * x["fine_casts"]
        + c["logits"] * x["logits"],
        "tensor": staged * c["tensor"] / (1 + c["async"] * x["async"]) * x["tensor"]
        + c["tensor_network"] * x["tensor_network"]
        + c["call"] * x["tensor_calls"],
        "all_to_all": staged * c["all_to_all"] / (1 + c["hidden"] * x["hidden"]) * x["expert"]
        + c["all_to_all_network"] / (1 + c["hidden"] * x["hidden"]) * x["expert_network"]
        + c["expert_call"] * x["expert_calls"],
        "context": staged * c["context"] * x["context"],
        "host_launches": (c["launch"] + c["launch_eager"] * x["eager"]) * x["layers"] + c["launch_expert"] * x["expert_layers"],
        "shards": staged * c["shards"] * x["shards"] + c["shards_network"] * x["shards_network"] + c["shards_call"] * x["shards_calls"],
        "gradients": staged * c["gradients"] * x["gradients"] + c["gradients_network"] * x["gradients_network"],
        "stages": c["stages"] * x["stages"],
        "optimizer": c["optimizer"] * x["optimizer"] + c["step"] * x["steps"],
        "offload": c["offload"] * x["offload"],
    }


def step_seconds(c: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Seconds of a step, without the effects of stack and chip."""
    p = parts(c, x)
    busy = p["products"] + p["experts"] + p["attention"] + p["elementwise"] + p["tensor"] + p["all_to_all"] + p["context"]
    busy = smooth_max(busy, p["host_launches"], 4.0)
    busy = smooth_max(busy, p["shards"], c["overlap"])
    stage = busy * (1 + c["bubble"] * x["bubble"]) + p["stages"]
    stage = smooth_max(stage, p["gradients"], c["overlap_step"] + c["overlap_async"] * x["async"])
    total = smooth_max(stage, p["offload"], 2.0) + p["optimizer"]
    return total * (1 + c["doubling"] * x["doublings"])


def tokens_per_second(c: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Tokens per second and chip."""
    return x["tokens"] / step_seconds(c, x)


# name: (prior, spread of its logarithm)
PRIORS: dict[str, tuple[float, float]] = {
    "gemm16": (1.05, 0.1), "gemm8": (1.05, 0.15), "gemm4": (1.3, 0.3), "waste": (0.5, 0.7), "operands": (0.3, 0.7),
    "expert16": (1.4, 0.4), "expert8": (1.6, 0.4), "expert_waste": (0.3, 0.8), "permutation": (3.0, 0.7),
    "attention_volta": (2.0, 0.4), "attention_ampere": (2.0, 0.3), "attention_consumer": (1.3, 0.3), "attention_hopper": (3.0, 0.3), "attention_hopper_new": (1.7, 0.3), "attention_blackwell": (2.0, 0.3),
    "attention_tpu": (2.0, 0.4), "attention_other": (2.0, 0.4), "attention_small": (1.25, 0.2), "scores": (2.0, 0.7),
    "elementwise": (1.2, 0.4), "eager_elementwise": (0.8, 0.6), "casts": (0.7, 0.6), "fine_casts": (0.3, 0.8), "logits": (1.0, 0.6),
    "tensor": (1.25, 0.3), "async": (0.4, 0.5), "hidden": (1.0, 0.7), "tensor_network": (1.3, 0.4), "call": (2e-5, 0.7), "all_to_all": (1.5, 0.5), "all_to_all_network": (1.5, 0.5), "expert_call": (4e-4, 0.8),
    "context": (0.5, 0.7), "launch": (5e-4, 0.7), "launch_eager": (3e-3, 0.5), "launch_expert": (1e-3, 0.8), "shards": (1.25, 0.4), "staged": (2.0, 0.5), "shards_network": (0.7, 0.5),
    "shards_call": (2e-5, 0.8), "gradients": (0.5, 0.7), "gradients_network": (0.7, 0.6), "stages": (0.5, 0.7), "optimizer": (2.0, 0.4), "step": (5e-3, 0.8), "offload": (1.3, 0.4),
    "overlap": (2.0, 0.4), "overlap_step": (1.5, 0.3), "overlap_async": (1.0, 0.5), "bubble": (1.0, 0.15), "doubling": (0.011, 0.4),
}  # fmt: skip
