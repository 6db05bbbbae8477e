"""Which training stack, and of when: kernels, overlap and schedules got better by tens of per cent a year on the same chips."""

from __future__ import annotations

import re
from typing import NamedTuple

# (pattern, stack, family, year where the text gives none)
STACKS = (
    (r"llm-?foundry|composer", "llm-foundry", "pytorch", 2023.5),
    (r"llm\.q", "llm.q", "cuda", 2025.7),
    (r"llm\.c", "llm.c", "cuda", 2024.4),
    (r"megatron-bridge", "megatron-bridge", "megatron", 2025.9),
    (r"nemo", "nemo", "megatron", 2024.7),
    (r"megatron-core", "megatron-core", "megatron", 2024.5),
    (r"megatron-deepspeed", "megatron-deepspeed", "megatron", 2022.2),
    (r"mindspeed|cann", "mindspeed", "ascend", 2024.7),
    (r"megatron", "megatron-lm", "megatron", 2022.0),
    (r"hai-llm|dualpipe", "hai-llm", "megatron", 2024.9),
    (r"maxtext", "maxtext", "jax", 2024.5),
    (r"paxml|praxis", "paxml", "jax", 2024.5),
    (r"levanter|mesh-transformer|jax|t5x|easylm", "jax", "jax", 2023.0),
    (r"torchtitan", "torchtitan", "pytorch", 2024.9),
    (r"fms-fsdp", "fms-fsdp", "pytorch", 2024.2),
    (r"llama-factory", "llama-factory", "eager", 2025.0),
    (r"kempner", "kempner", "pytorch", 2026.0),
    (r"deepspeed", "deepspeed", "eager", 2023.0),
    (r"neuron", "neuron", "neuron", 2024.0),
    (r"fsdp|pytorch|torch|lit-gpt|nanogpt|nanochat|gpt-neox|accelerate|hugging|transformers", "pytorch", "pytorch", 2024.0),
)


class Software(NamedTuple):
    """`stack` and its `family` are empty where unknown."""

    stack: str
    family: str
    year: float


UNKNOWN = Software("", "", 2024.0)


def software(text: str, source: str = "", released: float = 2022.0) -> Software:
    """What a free text such as "Megatron-Bridge 25.09" says; `source` may add a release tag, `released` is the chip's year."""
    text = (text or "").lower()
    for pattern, stack, family, year in STACKS:
        if re.search(pattern, text):
            return Software(stack, family, max(_year(text) or _year(source, tag=True) or year, released))
    return Software("", "", _year(text) or released + 1.0)


def _year(text: str, tag: bool = False) -> float | None:
    """The year that a text names: 2024-01, 24.12, v25.05 or 2021; in a source only its release tag counts."""
    pattern = r"@v(2\d)\.(\d\d)" if tag else r"\b20(\d\d)-(\d\d)\b|\bv?(2\d)\.(\d\d)\b"
    if match := re.search(pattern, text or ""):
        year, month = [group for group in match.groups() if group][:2]
        return 2000 + int(year) + (int(month) - 0.5) / 12
    if not tag and (match := re.search(r"\b(20[12]\d)\b", text or "")):
        return int(match[1]) + 0.5
    return None
