"""How large a vocabulary: losses made comparable across vocabularies, and the sizes that are best for a compute budget.

The loss law works in normalised units: parameters in millions and tokens in billions. Inputs are raw counts and are scaled inside.
Its loss is normalised by unigram frequencies and negative: fit it with an objective of raw residuals.
"""

from __future__ import annotations

import math
from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent, free, irreducible
from fits.laws.powers import power_law

_MILLION, _BILLION = math.log(1e6), math.log(1e9)


def _tokenizer_parameters() -> tuple[Parameter, ...]:
    return (free("f0", (0.5, 2.0), -10, 10), free("f1", (-0.3, 0.0), -10, 10), free("f2", (0.0, 0.02), -10, 10))


def _tokens_per_character(c: Constants, x: Inputs) -> Any:
    log_vocab = x.log("vocab")
    return c["f2"] * log_vocab**2 + c["f1"] * log_vocab + c["f0"]


def _loss(c: Constants, x: Inputs) -> Any:
    log_tokens = x.log("characters") - _BILLION + maths.log(maths.maximum(_tokens_per_character(c, x), 1e-9))
    body = c["A1"] * maths.exp(-c["alpha1"] * (x.log("non_vocab_params") - _MILLION))
    vocabulary = c["A2"] * maths.exp(-c["alpha2"] * (x.log("vocab_params") - _MILLION))
    return body + vocabulary + c["B"] * maths.exp(-c["beta"] * log_tokens) - c["E"]


_SOURCE = "Tao et al. 2024, Scaling Laws with Vocabulary, arXiv 2407.13623"

VOCABULARY = Law(
    name="vocabulary",
    formula=(
        "-E + A1 / (non_vocab_params / 1e6)^alpha1 + A2 / (vocab_params / 1e6)^alpha2 + B / (characters / 1e9 * f)^beta,"
        " f = f2 * ln(vocab)^2 + f1 * ln(vocab) + f0 tokens per character"
    ),
    function=_loss,
    parameters=(
        irreducible("E"),
        amplitude("A1", (1e-2, 1e2)),
        amplitude("A2", (1e-2, 1e2)),
        amplitude("B", (1e-2, 1e2)),
        exponent("alpha1"),
        exponent("alpha2"),
        exponent("beta"),
        *_tokenizer_parameters(),
    ),
    inputs=("non_vocab_params", "vocab_params", "vocab", "characters"),
    output="loss_unigram_normalised",
    linear=("E", "A1", "A2", "B"),
    source=_SOURCE + ", approach 3",
)

TOKENS_PER_CHARACTER = Law(
    name="tokens-per-character",
    formula="f2 * ln(vocab)^2 + f1 * ln(vocab) + f0",
    function=_tokens_per_character,
    parameters=_tokenizer_parameters(),
    inputs=("vocab",),
    output="tokens_per_character",
    source=_SOURCE,
)

LAWS = (
    VOCABULARY,
    TOKENS_PER_CHARACTER,
    power_law("non-vocab-params-for-flops", "non_vocab_params", "k", {"flops": "p"}, _SOURCE + ", approach 1"),
    power_law("vocab-params-for-flops", "vocab_params", "k", {"flops": "p"}, _SOURCE + ", approach 1"),
    power_law("vocab-params-for-non-vocab-params", "vocab_params", "k", {"non_vocab_params": "p"}, _SOURCE + ", approach 2"),
)
