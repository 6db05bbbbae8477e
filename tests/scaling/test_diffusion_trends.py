"""The trends file is complete and its draws meet its intervals; back-tests use nothing that was not known on their day."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from scaling import InputError
from scaling.diffusion import figures, figures_backtests, figures_meek
from scaling.diffusion.backtests import Knowledge, coverage, lag_conflict, load_backtests, published_counts, run_backtests
from scaling.diffusion.trends import FASTER_COST, KINDS, known_on, load_trends, trend

TRENDS, TESTS = load_trends(), load_backtests()
DAY = datetime.timedelta(days=1)


def test_the_file_has_every_kind_with_sources_and_dates():
    assert {each.kind for each in TRENDS.values()} == set(KINDS)
    for each in TRENDS.values():
        assert each.source
        assert datetime.date(2010, 1, 1) < each.known_from < datetime.date(2026, 12, 31)


@pytest.mark.parametrize("name", [name for name, each in TRENDS.items() if each.low is not None])
def test_quantiles_meet_the_published_interval(name):
    each = TRENDS[name]
    assert each.level is not None
    tail = (1 - each.level) / 2
    np.testing.assert_allclose(each.quantile([tail, 0.5, 1 - tail]), [each.low, each.value, each.high], rtol=1e-9)
    probabilities = np.linspace(0.01, 0.99, 99)
    assert np.all(np.diff(each.quantile(probabilities)) >= 0)
    if each.unit == "share":
        assert each.quantile(0.999999) < 1
    try:
        growth = each.growth_quantile(probabilities)
    except InputError:
        return
    # A short doubling time is a fast growth: still increasing, and the median is that of the value.
    assert np.all(np.diff(growth) >= 0)
    assert growth[49] == pytest.approx(each.growth, rel=1e-9)


def test_kinds_of_faster_cost_are_not_interchangeable():
    found = {kind: [name for name, each in TRENDS.items() if each.kind == kind] for kind in FASTER_COST}
    for kind, names in found.items():
        assert names
        for other in set(FASTER_COST) - {kind}:
            with pytest.raises(InputError, match=f"of kind {kind}"):
                trend(names[0], other)
    with pytest.raises(InputError, match="did you mean 'algorithms-ho2024'"):
        trend("algorithm-ho2024", "frontier_algorithms")
    with pytest.raises(InputError, match="no growth"):
        _ = TRENDS["lag-china-index"].growth


BROKEN = [
    ("low = 1.0", "low = 3.0", "needs 0 < low <= value"),
    ("level = 0.9", "", "go together"),
    ("level = 0.9", "level = 1.5", "level"),
    ('kind = "lag"', 'kind = "lags"', "kind 'lags' is none of"),
    ('source = "s"', 'source = "t"', "no source 't'"),
    ("value = 2.0", "value = nan", "value must be positive"),
    ("value = 2.0", "values = 2.0", "unknown key 'trends.one.values'"),
    ("known_from = 2020-01-31", 'known_from = "soon"', "known_from"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path, old, new, message):
    text = """format = "isoloss-trends-1"
[sources]
s = {text = "somebody", known_from = 2020-01-31}
[trends.one]
value = 2.0
low = 1.0
high = 3.0
level = 0.9
unit = "months"
kind = "lag"
status = "observed"
source = "s"
"""
    path = tmp_path / "trends.toml"
    path.write_text(text)
    assert load_trends(path)["one"].known_from == datetime.date(2020, 1, 31)
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        load_trends(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_a_forecast_sees_only_what_was_known(test):
    # The band is the same where everything later is gone, so nothing later was read ...
    bands = test.band(TRENDS), test.band(known_on(TRENDS, test.forecast_on))
    assert bands[0] == bands[1]
    low, median, high = bands[0]
    assert 0 < low < median < high < math.inf
    # ... and a day before the newest of its sources the same forecast is refused.
    used = [TRENDS[name].known_from for name in _names(test.method.model_dump()) if name in TRENDS]
    method = test.method
    used += [claim.known_from for claim in (getattr(method, "base", None), method) if hasattr(claim, "known_from")]
    with pytest.raises(InputError, match="after the forecast of"):
        test.model_copy(update={"forecast_on": max(used) - DAY}).band(TRENDS)


def _names(values: dict) -> list[str]:
    flat = [each for value in values.values() for each in (value if isinstance(value, list) else [value])]
    return [each for each in flat if isinstance(each, str)]


def test_the_table_scores_what_it_shows():
    table = run_backtests()
    assert set(table["group"]) == {"ImageNet, 93%", "GPT-3 level", "GPT-2, 1.5B", "models above a threshold", "lags"}
    exact = table[table["bound"] == "exact"]
    inside = (exact["low"] <= exact["observed"]) & (exact["observed"] <= exact["high"])
    assert (inside == (exact["verdict"] == "hit")).all()
    assert table["miss_means"].str.len().min() > 20
    assert (table["forecast_on"] < table["observed_on"])[~table["hindcast"]].all()
    shares = coverage(table).set_index("kind")
    assert shares.loc["forecasts", "hits"] == inside[~exact["hindcast"]].sum()
    assert shares["scored"].sum() == len(exact)


def test_the_conflict_of_penalty_and_lag_is_shown():
    table = lag_conflict().set_index("compute_ratio")
    np.testing.assert_allclose(table["implied_penalty"], [0.92, 0.46], atol=0.005)
    assert (table["lag_months_P4"] > 1.8 * 7).all()
    verdicts = run_backtests([test for test in TESTS if test.name.startswith("china-lag")]).set_index("name")["verdict"]
    assert verdicts["china-lag-4x"] == "miss"
    assert verdicts["china-lag-no-penalty"] == "hit"


def test_closed_form_lies_within_the_published_counts():
    table = published_counts()
    assert np.all(np.abs(table["closed_form"] / table["published"] - 1) < 0.08)


def test_knowledge_and_files_refuse_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="known from 2024-03-31 only, after the forecast of 2024-01-01"):
        Knowledge(TRENDS, datetime.date(2024, 1, 1)).trend("algorithms-ho2024", "frontier_algorithms")
    row = """format = "isoloss-backtests-1"
[[backtests]]
name = "one"
group = "g"
quantity = "q"
unit = "months"
forecast_on = 2025-12-31
observed = {value = 7, date = 2026-01-08, source = "s"}
miss_means = "nothing"
[backtests.carried]
trend = "lag-consumer"
"""
    path = tmp_path / "backtests.toml"
    path.write_text(row)
    assert run_backtests(load_backtests(path))["verdict"].tolist() == ["hit"]
    for old, new, message in (
        ("2025-12-31", "2026-02-01", "not after the forecast"),
        ("[backtests.carried]", "[backtests.carry]", "unknown key"),
        ('unit = "months"', 'unit = "months"\nhindcast = true', "looks back"),
    ):
        path.write_text(row.replace(old, new))
        with pytest.raises(InputError, match=message):
            load_backtests(path)
    for lines in (
        "",
        '[backtests.cost]\nbase = {value = 1, date = 2020-01-01, known_from = 2020-01-01, source = "s"}\nprice_performance = "x"\nalgorithms = "y"',
    ):
        path.write_text(row.split("[backtests.carried]")[0] + ("" if not lines else '[backtests.carried]\ntrend = "x"\n' + lines))
        with pytest.raises(InputError, match="give one of"):
            load_backtests(path)


ALL = {
    "effects": figures.effects_figure,
    "ceiling": lambda: figures.investors_figure(28.0),
    "counts": figures.access_counts_figure,
    "meek": figures_meek.meek_figure,
    "gpt2": lambda: figures_backtests.cost_figure("GPT-2, 1.5B"),
    "conflict": figures_backtests.lag_conflict_figure,
    "conversion": figures.conversion_figure,
    "investors": figures.investors_figure,
    "windows": figures.windows_figure,
    "sensitivity": figures_meek.meek_sensitivity_figure,
    "models": figures_backtests.models_figure,
    "backtests": figures_backtests.backtests_figure,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_figure_comes_with_its_numbers_and_their_bands(name):
    figure, table = ALL[name]()
    assert isinstance(figure, Figure)
    assert all(axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes)
    assert len(table) > 1
    numbers = table.select_dtypes("number")
    assert np.isfinite(numbers.fillna(0).to_numpy()).all()
    for low in [str(column) for column in table if str(column).endswith("_low")]:
        middle, high = table.get(low[:-4]), table[low[:-4] + "_high"]
        assert (table[low] <= high + 1e-12).all()
        # The meek gap peaks over the growth that is drawn, and there its middle lies at the edge of what is drawn.
        if middle is not None and name != "meek":
            assert ((table[low] <= middle + 1e-9) & (middle <= high + 1e-9)).all()


def test_investors_meet_at_the_ceiling_in_the_order_of_their_budgets():
    _, table = figures.investors_figure(28.0)
    arrivals = [int((table[who] >= 28.0 - 1e-9).to_numpy().argmax()) for who in ("large", "medium", "small")]
    assert 0 < arrivals[0] < arrivals[1] < arrivals[2]
    assert (table[["large", "medium", "small"]].iloc[-1] == 28.0).all()
