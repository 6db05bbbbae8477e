"""Each way in which a penalty can depart from structure x data, asked of the command, alone and together, against closed forms and printed values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fits
from scaling import InputError, compute_penalty
from scaling.followers import differing, higher, slower
from tests.scaling.test_cli import answer, called

BES, HOF = fits.load("besiroglu2024"), fits.load("hoffmann2022")
BOTH = ["--structure", 2, "--data", 2]
SIZE_RULE = ["--structure", 4, "--fixed", "tokens_per_param"]
DATA_RULE = ["--data", 4, "--fixed", "tokens_per_param"]

# letter, options, besiroglu2024, hoffmann2022 (None: not printed)
ROWS = [
    ("A", ["--differs", "A=x2"], 7.34, 7.72),
    ("A", ["--differs", "B=x2"], 6.65, 11.4),
    ("A", ["--differs", "A=x2", "--differs", "B=x2"], 48.8, 87.9),
    ("B", [*BOTH, "--fixed", "tokens"], 5.0299, 4.8578),
    ("C", [*BOTH, "--fixed", "params"], 5.0374, 4.8408),
    ("D", [*BOTH, "--fixed", "params", "--overtraining", 3], 9.05, 7.50),
    ("D", [*BOTH, "--fixed", "tokens", "--overtraining", 0.1], 33.3, 18.9),
    ("D", [*BOTH, "--fixed", "tokens", "--overtraining", 10], 2.90, 2.98),
    ("D", [*BOTH, "--fixed", "tokens_per_param", "--overtraining", 10], 4.0, 4.0),
    ("E", [*SIZE_RULE, "--tokens-per-param", 20, "--flops", 1e21], 4.7, 4.1),
    ("E", [*SIZE_RULE, "--tokens-per-param", 20, "--flops", 1e27], 5.1, 3.2),
    ("E", [*SIZE_RULE, "--tokens-per-param", 200, "--flops", 1e21], 7.8, 6.6),
    ("E", [*SIZE_RULE, "--tokens-per-param", 200, "--flops", 1e27], 8.3, 5.2),
    ("E", [*DATA_RULE, "--tokens-per-param", 200, "--flops", 1e21], 2.8, 3.2),
    ("E", [*DATA_RULE, "--tokens-per-param", 200, "--flops", 1e27], 2.6, 4.1),
    ("E", [*BOTH, "--fixed", "tokens_per_param", "--tokens-per-param", 20], 4.0, 4.0),
    ("F", [*BOTH, "--unique-tokens", 15e12, "--flops", 1e28], 5.462, None),
    ("F", [*BOTH, "--unique-tokens", 15e12, "--follower-unique-tokens", 7.5e12, "--flops", 1e27], 5.467, None),
    ("G", ["--differs", "E=+0.02", "--flops", 1e21], 1.26, 1.24),
    ("G", ["--differs", "E=+0.02"], 2.34, 1.93),
    ("G", ["--differs", "E=+0.02", "--flops", 1e27], 39.7, 8.5),
    ("K", [*BOTH, "--served-tokens", 1e13, "--flops", 2e25], 3.51, None),
    ("K", [*BOTH, "--served-tokens", 1e15, "--flops", 2e25], 2.40, None),
]


@pytest.mark.parametrize(
    ("letter", "options", "bes", "hof"), ROWS, ids=lambda each: " ".join(map(str, each)) if isinstance(each, list) else None
)
def test_each_departure_has_its_printed_value(letter, options, bes, hof):
    options = options if "--flops" in options else [*options, "--flops", 1e24]
    for curve, value in (("besiroglu2024", bes), ("hoffmann2022", hof)):
        if value is not None:
            assert answer("penalty", curve, *options)["value"] == pytest.approx(value, rel=0.02 if letter == "E" else 5e-3)  # as printed


def test_row_h_exponents_make_a_power_law_in_compute():
    def asked(flops):
        return answer("penalty", "besiroglu2024", "--flops", flops, "--differs", "alpha=x0.9", "--differs", "beta=x0.9")["value"]

    assert math.log(asked(1e27) / asked(1e21)) / math.log(1e6) == pytest.approx(1 / 0.9 - 1, rel=1e-6)
    value = compute_penalty(BES, flops=1e25, follower=slower(BES, 0.9, 1e22), structure=2, data=2).value
    assert value == pytest.approx(4 * 1000 ** (1 / 0.9 - 1), rel=1e-6)


def test_row_i_misallocation_multiplies():
    for size, flops, overhead in ((175e9, 3.15e23, 1.6427), (280e9, 5.76e23, 1.8859)):
        off = size / BES.optimal(flops).params
        assert compute_penalty(BES, flops=flops, allocation_error=off, structure=2, data=2).value == pytest.approx(4 * overhead, rel=1e-3)


def test_row_j_throughput_costs_hours_and_no_flop():
    slow = answer("penalty", "besiroglu2024", "--flops", 1e24, *BOTH, "--throughput", 989 / 148)
    assert slow["value"] == pytest.approx(4)
    assert slow["hours"] == pytest.approx(4 * 989 / 148)
    far = compute_penalty(BES, flops=1e24, data=8, fixed="tokens", throughput=2.0)
    assert (far.value, far.hours) == (math.inf, math.inf)


def test_departures_together():
    """Coefficients, serving, repetition, throughput: what is exact alone stays exact in company."""
    shape: dict[str, Any] = {"unique_tokens": 15e12, "served_tokens": 1e14, "flops": 1e27}
    one, two = (compute_penalty(BES, structure=m, data=2, **shape).value for m in (1, 2))
    assert two == pytest.approx(2 * one, rel=1e-6)  # structure divides out of the sum of training and serving
    worse = differing(BES, [f"A=x{2 ** BES.constants['alpha']}", f"B=x{3 ** BES.constants['beta']}"])  # the same as structure 2 and data 3
    several: list[dict[str, Any]] = [
        {"fixed": "tokens"},
        {"fixed": "params", "overtraining": 2.0},
        {"served_tokens": 1e14},
        {"overtraining": 0.3},
    ]
    for departure in several:
        ours = compute_penalty(BES, flops=1e25, structure=2, data=1.5, **departure).value
        same = differing(BES, [f"A=x{2 ** BES.constants['alpha']}", f"B=x{1.5 ** BES.constants['beta']}"])
        assert compute_penalty(BES, flops=1e25, follower=same, **departure).value == pytest.approx(ours, rel=1e-8)
    assert compute_penalty(BES, flops=1e25, follower=worse).value == pytest.approx(6, rel=1e-8)


def test_a_follower_s_law_is_changed_with_its_draws():
    assert BES.draws is not None
    changed = differing(BES, ["E=+0.02", "A=x2", "alpha=0.3"])
    assert changed.draws is not None
    np.testing.assert_allclose(changed.vector - BES.vector, [0.02, BES.constants["A"], 0, 0.3 - BES.constants["alpha"], 0], atol=1e-12)
    np.testing.assert_allclose(changed.draws[:, 0], BES.draws[:, 0] + 0.02)
    np.testing.assert_allclose(changed.draws[:, 3], 0.3)
    raised = higher(BES, 0.02).draws
    assert raised is not None
    np.testing.assert_allclose(raised[:, 0], BES.draws[:, 0] + 0.02)
    assert differing(BES, []) is BES


def test_bad_changes_and_rules_are_refused():
    for options, says in (
        (["--differs", "gamma=2"], "no constant 'gamma'; it has E, A, B, alpha, beta"),
        (["--differs", "A=twice"], "write NAME=NUMBER"),
        (["--differs", "A=x-2"], "must be positive"),
        (["--tokens-per-param", 0], "tokens_per_param must be positive"),
        (["--tokens-per-param", 20, "--overtraining", 2], "give one"),
        (["--throughput", 0], "throughput must be positive"),
    ):
        refused = called("penalty", "besiroglu2024", "--flops", 1e24, *options)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert says in refused.stderr
    with pytest.raises(InputError, match="no exponents"):
        slower(fits.load("ludziejewski2025"), 0.9, 1e22)
