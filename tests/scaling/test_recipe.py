"""The recipe's rules: powers of two that leave enough steps, and published rules that say what their papers print."""

from __future__ import annotations

import math

import pytest

import fits
from scaling import recipe
from scaling.errors import InputError


@pytest.mark.parametrize("tokens", [40_000, 300_000, 1_200_000, 10**8])
def test_a_batch_is_a_power_of_two_that_leaves_enough_steps(tokens):
    batch = recipe.batch_sequences(tokens, 64)
    assert batch.bit_count() == 1
    assert tokens // (batch * 64) >= recipe.MIN_STEPS


def test_too_few_tokens_are_refused():
    with pytest.raises(InputError, match="tokens = 1000 is too few: 300 steps of one sequence of 64 need 19200"):
        recipe.batch_sequences(1000, 64)


def test_published_rules_say_what_their_papers_print():
    """Step Law at 1e9 parameters and 1e11 tokens: 1.632e-3 and 1.108e6; DeepSeek LLM at 3e20 FLOP: 8.59e-4 and 1.457e6."""
    found = {rule.curve: rule for rule in recipe.published_rules(non_embedding_params=1e9, tokens=1e11, flops=3e20)}
    assert found["steplaw2025-learning-rate"].value == pytest.approx(1.632e-3, rel=1e-3)
    assert found["steplaw2025-batch"].value == pytest.approx(1.108e6, rel=1e-3)
    assert found["deepseek2024-learning-rate"].value == pytest.approx(8.59e-4, rel=1e-3)
    assert found["deepseek2024-batch"].value == pytest.approx(1.457e6, rel=1e-3)
    assert {rule.quantity for rule in found.values()} == {"learning_rate", "batch_tokens"}
    # Their fits end at 2e19 FLOP, and Step Law prints no range.
    assert found["deepseek2024-batch"].decades_outside == pytest.approx(math.log10(15))
    assert found["steplaw2025-batch"].decades_outside is None


def test_rules_without_their_inputs_are_left_out_and_all_can_be_had():
    assert {rule.curve for rule in recipe.published_rules(tokens=1e9)} == {"steplaw2025-batch", "schaipp2026-critical-batch"}
    everything = recipe.published_rules(params=1e9, non_embedding_params=1e9, active_params=1e9, tokens=1e10, flops=1e19, experts=8)
    assert [rule.curve for rule in everything] == list(recipe.PUBLISHED)


def test_the_table_of_the_docs_is_that_of_the_curves():
    """Every exponent that the module's table prints is the curve's own."""
    rows = [
        line.split("|")[1:-1] for line in str(recipe.__doc__).splitlines() if (line.startswith("| ") and "2025" in line) or "2024" in line
    ]
    table = {row[0].strip(): row[1] for row in rows if len(row) == 4}
    assert set(recipe.PUBLISHED) - set(table) == {"schaipp2026-critical-batch"}
    for name, given in table.items():
        for exponent in (value for key, value in fits.load(name).constants.items() if key != "k"):
            assert f"^{exponent:.3g}" in given, name
