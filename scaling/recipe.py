"""The training recipe's rules: how batch and learning rate follow from the horizon. All heuristics of a run live here.

Batch: tokens per step grow as the square root of the training tokens, rounded to a power of two of sequences, as long as
MIN_STEPS steps remain. (An assumption in the spirit of batch-size laws; the exponent published for large models is 0.57,
Li et al. 2025, arXiv 2503.04715.)

Learning rate: LR_PEAK * (tokens / LR_TOKENS) ** LR_EXPONENT at every width, since the parametrisation transfers over widths. It
rises with the horizon because the batch does.
The constants come from the search of `benchmarks/learning_rate.py` (2 widths x 2 horizons); its table is in
`benchmarks/README.md`.
"""

from __future__ import annotations

import math

from scaling.errors import InputError

MIN_STEPS = 300
BATCH_TOKENS_AT_1M = 450.0  # tokens per step for a million training tokens

LR_PEAK = 0.0055
LR_TOKENS = 1e6
LR_EXPONENT = 0.19


def batch_sequences(tokens: int, context: int) -> int:
    """Sequences per step for a run of `tokens`: a power of two that leaves at least MIN_STEPS steps."""
    most = tokens // (MIN_STEPS * context)
    if most < 1:
        raise InputError(f"tokens = {tokens} is too few: {MIN_STEPS} steps of one sequence of {context} need {MIN_STEPS * context}")
    wanted = max(1.0, BATCH_TOKENS_AT_1M * math.sqrt(tokens / 1e6) / context)
    return min(2 ** round(math.log2(wanted)), 2 ** math.floor(math.log2(most)))


def learning_rate(tokens: int) -> float:
    """Peak learning rate for a run of `tokens`, the same at every width."""
    return LR_PEAK * (tokens / LR_TOKENS) ** LR_EXPONENT
