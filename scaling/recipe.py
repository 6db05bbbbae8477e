"""The training recipe's rules: how batch and learning rate follow from the horizon, and what published rules say.

**This project's rules**, used by every run that does not choose for itself. Batch: tokens per step grow as the square root of the
training tokens, rounded to a power of two of sequences, as long as MIN_STEPS steps remain. Learning rate:
LR_PEAK * (tokens / LR_TOKENS) ** LR_EXPONENT at every width, since the parametrisation transfers over widths. It rises with the
horizon because the batch does. The constants come from the search of `benchmarks/learning_rate.py` (2 widths, 3e5 and 1.2e6 tokens, Adam);
its table is in `benchmarks/README.md`.

**Published rules** are curves of `fits`, each with its source, range and printed check; `published_rules` evaluates them for a run.

| curve                             | gives                   | from                             | range that the source states   |
|-----------------------------------|-------------------------|----------------------------------|--------------------------------|
| steplaw2025-learning-rate         | N^-0.713 D^0.307        | non-embedding params, tokens     | none (3,700 runs)              |
| deepseek2024-learning-rate        | C^-0.125                | FLOP                             | 1e17 to 2e19 FLOP              |
| ling2025-learning-rate            | C^-0.153, MoE           | FLOP                             | 1e18 to 6e20 FLOP              |
| charles2025-learning-rate-dp      | N^-0.819, D = 20 N      | params                           | 3.5e7 to 2.4e9 params          |
| ludziejewski2025-learning-rate    | N^-0.81 E^-0.25, MoE    | active params, experts           | to 2.7e9 params, 1 to 32 experts |
| steplaw2025-batch                 | D^0.571                 | tokens                           | none                           |
| deepseek2024-batch                | C^0.327                 | FLOP                             | 1e17 to 2e19 FLOP              |
| ling2025-batch                    | C^0.364, MoE            | FLOP                             | 1e18 to 6e20 FLOP              |
| charles2025-batch-dp              | N^0.281, D = 20 N       | params                           | 3.5e7 to 2.4e9 params          |
| schaipp2026-critical-batch        | D^0.566, critical batch | tokens                           | none                           |

They disagree: the best rate grows with D in Step Law, and falls as D^-0.32 at a fixed batch in Bjorck et al. 2024. All were made with Adam in a
standard parametrisation, where the rate carries the width; under muP it does not, so their N does not apply to `learning_rate`.

**Assumptions** that no source read here tests: the square root in the batch rule (published: 0.571 for D, at far larger runs) and its use with
muP, with Muon and with MoE; that LR_EXPONENT holds outside the two horizons searched; that Muon and MoE share the dense
Adam models' rate, which was searched for these alone. (At widths 32 to 128 and 2.6e5 tokens Muon's best rate was about twice Adam's, one seed;
`benchmarks/transfer.py` measures both.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import fits
from scaling.errors import InputError

MIN_STEPS = 300
BATCH_TOKENS_AT_1M = 450.0  # tokens per step for a million training tokens

LR_PEAK = 0.0055
LR_TOKENS = 1e6
LR_EXPONENT = 0.19

PUBLISHED = (
    "steplaw2025-learning-rate",
    "deepseek2024-learning-rate",
    "ling2025-learning-rate",
    "charles2025-learning-rate-dp",
    "ludziejewski2025-learning-rate",
    "steplaw2025-batch",
    "deepseek2024-batch",
    "ling2025-batch",
    "charles2025-batch-dp",
    "schaipp2026-critical-batch",
)


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


class PublishedRule(NamedTuple):
    """What one published rule says for a run. `decades_outside` its stated range is None where the source states none."""

    curve: str
    quantity: str  # learning_rate (peak) or batch_tokens
    value: float
    decades_outside: float | None
    source: str


def published_rules(**run: float) -> list[PublishedRule]:
    """The published rules whose inputs are among `run`: params, non_embedding_params, active_params, tokens, flops, experts.

    Every number is in the convention of its source, which the curve states (`fits.load(name).about["units"]`).
    """
    found = []
    for name in PUBLISHED:
        curve = fits.load(name)
        inputs = {key: run[key] for key in curve.law.inputs if key in run}
        if len(inputs) == len(curve.law.inputs):
            outside = curve.decades_outside(**inputs) if curve.range else None
            found.append(PublishedRule(name, curve.law.output, float(curve.evaluate(**inputs)), outside, curve.law.source))
    return found
