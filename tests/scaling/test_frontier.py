"""The frontier: closed forms and printed figures, a decomposition that adds up, and a paragraph that says what the tables hold."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

import fits
from scaling import InputError, compute_penalty, frontier
from scaling.frontier_command import answer, wide
from scaling.outlook import forms, trends, variance
from scaling.outlook.departures import ANCHOR, SLOWER, amount, higher, slower
from scaling.outlook.reading import flop, made_of, number
from tests.scaling.test_cli import answer as command
from tests.scaling.test_cli import called

BES, HOF = fits.load("besiroglu2024"), fits.load("hoffmann2022")


@pytest.fixture(scope="module")
def found():
    return frontier(["besiroglu2024", "hoffmann2022", "beck2025-transformer"])


def own(table, curve, **where):
    """One curve's own values, in the order of the scales."""
    for name, value in where.items():
        table = table[table[name] == value]
    return np.array([row[curve] for row in table["curves"]])


def test_free_allocation_is_exact_and_the_figures_of_the_theory_are_met(found):
    free = found.penalties[found.penalties["departure"] == "free"]
    np.testing.assert_allclose(free[["median", "low", "high"]].to_numpy(float), 4, rtol=1e-9)
    assert free[["parameters", "form", "assumption"]].isna().all(axis=None)
    flat = {
        "tokens-fixed": (5.0299, 4.8578),
        "size-fixed": (5.0374, 4.8408),
        "overtrained-10-size-fixed": (35.87, 17.02),
        "overtrained-10-tokens-fixed": (2.8950, 2.9820),
        "overtrained-100-size-fixed": (math.inf, 3.244e4),
    }
    for departure, values in flat.items():
        for curve, value in zip(("besiroglu2024", "hoffmann2022"), values, strict=True):
            np.testing.assert_allclose(own(found.penalties, curve, departure=departure), value, rtol=1e-3)
    a, b, s = BES.constants["alpha"], BES.constants["beta"], 10**-0.5  # row I: the free follower is spared what over-training wastes
    overhead = ((b * s**-a + a * s**b) / (a + b)) ** (1 / BES.gamma)
    np.testing.assert_allclose(own(found.penalties, "besiroglu2024", departure="overtrained-10"), 4 / overhead, rtol=1e-9)
    np.testing.assert_allclose(own(found.penalties, "besiroglu2024", departure="stock-middle")[[28, 32]], [4.000, 4.159], rtol=1e-3)


def test_every_penalty_is_the_single_solver_s(found):
    picked = {"stock-low": {"unique_tokens": 100e12}, "served-1e15": {"served_tokens": 1e15}, "irreducible": {"follower": higher(BES)}}
    picked |= {"stock-served": {"unique_tokens": 300e12, "served_tokens": 1e14}, "exponents": {"follower": slower(BES)}}
    picked |= {"stock-halved": {"unique_tokens": 300e12, "follower_unique_tokens": 150e12}}
    for departure, settings in picked.items():
        values = own(found.penalties, "besiroglu2024", departure=departure)
        for place in (0, 18, 31):
            alone = compute_penalty(BES, flops=float(found.flops[place]), structure=2, data=2, **settings).value
            assert values[place] == pytest.approx(alone, rel=1e-6), departure


def test_a_lower_exponent_is_a_power_law_in_compute_under_every_law(found):
    expected = 4 * (found.flops / ANCHOR) ** (1 / SLOWER - 1)
    for curve in found.curves["name"]:
        np.testing.assert_allclose(own(found.penalties, curve, departure="exponents"), expected, rtol=1e-8)
    changed = slower(BES)
    assert changed.optimal(ANCHOR).loss == pytest.approx(BES.optimal(ANCHOR).loss, rel=1e-12)
    assert changed.optimal(ANCHOR).params == pytest.approx(BES.optimal(ANCHOR).params, rel=1e-9)


def test_data_walls_are_those_of_the_closed_form(found):
    def wall(curve, unique):  # the compute at which D* = U
        a, b = curve.constants["alpha"], curve.constants["beta"]
        g = (a * curve.constants["A"] / (b * curve.constants["B"])) ** (1 / (a + b))
        return 6 * (unique * g) ** ((a + b) / a)

    for curve in (BES, HOF):
        for stock in (100e12, 300e12, 1000e12):
            assert own(found.walls, curve.name, what="wall", stock=stock)[0] == pytest.approx(wall(curve, stock), rel=1e-9)
            assert own(found.walls, curve.name, what="wall of the follower", stock=stock)[0] == pytest.approx(
                wall(curve, stock / 2), rel=1e-9
            )
    np.testing.assert_allclose(
        [own(found.walls, c, what="wall", stock=300e12)[0] for c in (BES.name, HOF.name)], [3.9e28, 4.2e27], rtol=0.02
    )
    leaves = own(found.walls, BES.name, what="penalty over 1.1 x structure x data", stock=300e12)[0]
    assert compute_penalty(BES, flops=leaves, structure=2, data=2, unique_tokens=300e12).value == pytest.approx(4.4, rel=5e-3)


def test_the_direction_of_every_effect(found):
    for name in ("low", "median", "high"):
        table = found.penalties.pivot(index="flops", columns="departure", values=name)
        for departure in ("stock", "stock-low", "stock-middle", "stock-high", "exponents", "irreducible", "served-1e14", "served-1e15"):
            assert (np.diff(table[departure]) > -1e-9).all(), departure
        assert (table["stock-low"] >= table["stock-middle"] - 1e-9).all()
        assert (table["stock-middle"] >= table["stock-high"] - 1e-9).all()
        assert (table["served-1e15"] < table["served-1e14"]).all()
        assert (table["served-1e15"] > 2).all()
    loss = found.losses[(found.losses["quantity"] == "loss")].pivot(index="flops", columns="supply", values="median")
    assert (np.diff(loss["endless"]) < 0).all()
    assert (loss["uncertain"] >= loss["endless"] - 1e-12).all()


def test_optima_and_losses_are_the_curve_s_own(found):
    for flops in found.flops[[0, 16, 32]]:
        best = BES.optimal(float(flops))
        for quantity, expected in (("params", best.params), ("tokens", best.tokens)):
            for side, factor in (("leader", 1), ("follower", 2)):
                value = own(found.optima, BES.name, supply="endless", side=side, quantity=quantity, flops=flops)[0]
                assert value == pytest.approx(factor * expected, rel=1e-6)
        assert own(found.losses, BES.name, supply="endless", quantity="loss", flops=flops)[0] == pytest.approx(best.loss, rel=1e-9)
    worth = own(found.losses, BES.name, supply="endless", quantity="value")
    np.testing.assert_allclose(worth[[0, 12, 24]], [0.137, 0.040, 0.012], atol=5e-4)
    np.testing.assert_allclose(own(found.losses, BES.name, supply="endless", quantity="share"), 4**BES.gamma - 1, rtol=1e-7)
    assert all(set(row) == {BES.name, HOF.name} for row in found.losses[found.losses["quantity"] == "loss"]["curves"])  # nats of one corpus


def test_months_are_those_of_the_stated_trends(found):
    first = found.months[found.months["flops"] == found.flops[0]].set_index("trend")
    for trend, months in (("frontier algorithms", 15.1), ("effective compute of the frontier", 6.3)):
        assert first.loc[trend, "median"] == pytest.approx(months, abs=0.05)
        assert first.loc[trend, "assumption"] == pytest.approx(1)
    assert trends.months(np.log(4), 2 ** (12 / 8.4)) == pytest.approx(16.8)
    kinds = {trend.kind for trend in trends.TRENDS}
    assert {"frontier algorithms", "catch-up", "price at a fixed score", "training dollars"} <= kinds


def test_shares_add_up_and_find_planted_variances():
    generator = np.random.default_rng(0)
    form, assumption = generator.normal(size=4), generator.normal(size=6)
    drawn = generator.normal(size=(4, 400, 6))
    drawn = (drawn - drawn.mean(axis=1, keepdims=True)) / drawn.std(axis=1, keepdims=True)
    form, assumption = ((x - x.mean()) / x.std() for x in (form, assumption))
    values = (3 * form[:, None, None] + 2 * assumption + drawn)[..., None]
    equal = np.full(4, 0.25)
    parts = variance.parts(values, equal)
    assert parts.variance[0] == pytest.approx(14)
    np.testing.assert_allclose([parts.form[0], parts.assumption[0], parts.parameters[0]], np.array([9, 4, 1]) / 14, rtol=1e-9)
    tangled = np.where(generator.uniform(size=values.shape) < 0.1, np.inf, values * form[:, None, None, None])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    parts, kept = variance.parts(tangled, weights), np.isfinite(tangled)
    mass = (kept * weights[:, None, None, None])[kept]
    assert parts.variance[0] == pytest.approx(np.cov(tangled[kept], aweights=mass, ddof=0))
    assert parts.parameters + parts.form + parts.assumption == pytest.approx(1)
    band = variance.band(tangled, weights)
    assert band.infinite[0] == pytest.approx(1 - mass.sum() / (weights.sum() * 400 * 6))
    assert band.low[0] < band.median[0] < band.high[0]
    assert not np.isfinite(variance.parts(np.full((2, 3, 1, 1), 4.0), np.full(2, 0.5)).form[0])


def test_a_band_of_one_curve_without_draws_is_the_stock_s_alone():
    alone = frontier(["hoffmann2022"], stock=15e12)
    stock = alone.penalties[(alone.penalties["departure"] == "stock")].iloc[-8]
    assert (stock["parameters"], stock["form"]) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert stock["assumption"] == pytest.approx(1)
    assert stock["low"] < stock["high"]
    assert alone.stock_range == pytest.approx((15e12 / math.sqrt(10), 15e12 * math.sqrt(10)))
    likely = variance.likely(15e12, *alone.stock_range)
    assert likely[4] == pytest.approx(15e12)
    assert np.exp(np.log(likely).mean()) == pytest.approx(15e12)


def test_forms_of_two_terms_are_one_law():
    names = ["besiroglu2024", "muennighoff2023-single-epoch", "busbridge2025-supervised", "kaplan2020-joint"]
    several = forms.ensemble(names)
    assert [member.form for member in several.members] == ["additive", "additive", "outer exponent", "no irreducible loss"]
    assert several.weights == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])
    assert len(several.groups) == 1
    optimum = several.optimum(np.array([1e20, 1e26]))
    for place, name in enumerate(names):
        best = [fits.load(name).optimal(flops) for flops in (1e20, 1e26)]
        np.testing.assert_allclose(optimum.params[place, 0], [each.params for each in best], rtol=1e-9)
        np.testing.assert_allclose((optimum.reducible + optimum.irreducible)[place, 0], [each.loss for each in best], rtol=1e-9)
    drawn = several.optimum(np.array(1e26)).params[0]
    assert drawn.std() > 0
    assert several.optimum(np.array(1e26)).params[1].std() == pytest.approx(0)


def test_the_reading_holds_the_numbers_it_was_made_from(found):
    text = found.reading
    penalties = found.penalties[found.penalties["flops"] == found.flops[-1]].set_index("departure")
    for departure in ("tokens-fixed", "size-fixed", "overtrained-10", "exponents", "irreducible", "served-1e14", "stock"):
        assert number(penalties.loc[departure, "median"]) in text
    walls = found.walls[(found.walls["what"] == "wall") & found.walls["stock"].isna()].iloc[0]
    assert flop(walls["median"]) in text
    assert made_of(walls) in text
    assert made_of(penalties.loc["stock"]) in text
    assert number(found.losses[found.losses["quantity"] == "value"]["median"].iloc[0]) in text
    other = dataclasses.replace(found, penalties=found.penalties.assign(median=found.penalties["median"] * 1.5))
    assert other.reading != text
    assert [amount(x) for x in (300e12, 1e15, 7.5e9)] == ["300T", "1000T", "7.5B"]


def test_the_page_draws_what_the_table_holds(found):
    figure, table = found.figure()
    assert table is found.penalties
    kept = figure.axes[0]
    drawn = {round(float(line.get_ydata()[0]), 3) for line in kept.lines if len(line.get_ydata()) == len(found.flops)}
    assert drawn == {35.865, 5.037, 5.03, 2.895, 2.532}
    texts = " ".join(text.get_text() for axis in figure.axes for text in axis.texts)
    for words in ("free: exactly 4", "size kept: 5.04", "300T", "1e15 tokens served", "form of law", "frontier algorithms, 3x a year"):
        assert words in texts


def test_the_answer_is_strict_and_the_csv_whole(found):
    said = answer(found)
    assert {row["departure"] for row in said["penalties"]} == set(found.penalties["departure"])
    assert len({row["flops"] for row in said["penalties"]}) == 9
    assert len(wide(found.penalties)) == len(found.penalties)
    assert {"besiroglu2024", "hoffmann2022"} <= set(wide(found.penalties))


def test_the_command(tmp_path):
    arguments = ["--curve", "hoffmann2022", "--plot", tmp_path / "page.pdf", "--csv", tmp_path / "penalties.csv", "--flops", 1e22, 1e28]
    said = command("frontier", *arguments)
    assert said["flops"] == [1e22, pytest.approx(1e28)]
    assert all(value is None or math.isfinite(value) for row in said["penalties"] for value in row["curves"].values())
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert len((tmp_path / "penalties.csv").read_text().splitlines()) == 1 + 33 * 17
    human = called("frontier", "--curve", "hoffmann2022")
    assert re.match(r"A follower 2x behind in structure and 2x in data.* needs 4 times", human.stdout)
    assert "Data walls" in human.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"flops": (1e29, 1e21)}, "from less to more"),
        ({"flops": (0.0, 1e21)}, "flops's low must be positive"),
        ({"stock": 0.0}, "stock must be positive"),
        ({"stock": 1e12, "stock_range": (2e12, 3e12)}, "must lie within its range"),
        ({"structure": -1.0}, "structure must be positive"),
        ({"curves": ["besiroglu"]}, "did you mean 'besiroglu2024'"),
        ({"curves": []}, "at least one curve"),
        ({"curves": ["besiroglu2024", "besiroglu2024"]}, "named twice"),
        ({"curves": ["kaplan2020-size"]}, "does not divide compute"),
        ({"curves": ["ludziejewski2025"]}, "also takes experts"),
    ],
)
def test_bad_input_is_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        frontier(**arguments)


def test_the_command_refuses_in_one_line(tmp_path):
    for arguments, says in (
        (("--flops", "1e29", "1e21"), "from less to more"),
        (("--plot", tmp_path), "is a folder"),
        (("--plot", "page.doc"), "must end in .png"),
    ):
        refused = called("frontier", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert says in refused.stderr
        assert refused.stderr.count("\n") == 1
