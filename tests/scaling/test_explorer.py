"""The explorer: state in text and back, and the page in a real headless Chromium (skipped where there is none)."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fits
from scaling import compute_penalty, estimate_training, export_control
from scaling.diffusion import simulate
from scaling.diffusion.controls import standing
from scaling.diffusion.scenario import read_scenario
from scaling.errors import InputError
from scaling.explore_command import explore
from scaling.explorer.diffusion import asked
from scaling.explorer.state import CHOICES, FIELDS, RANGES, State, read_field, read_query, write_field, write_query
from tests.scaling.browser import ARGUMENTS, chromium

START = "curves=hoffmann2022&scenario=none"  # a curve without draws, no scenario: fewer programs to compile
COMMAND = [sys.executable, "-c", "from scaling.cli import main; main()", "explore", "--no-browser", "--port"]


def numbers(name: str) -> st.SearchStrategy[float]:
    limits = RANGES[name]
    if name.endswith("_chips"):
        return st.integers(int(limits.low), int(limits.high)).map(float)
    return st.floats(limits.low, min(limits.high, 1e300)) | (st.just(math.inf) if math.isinf(limits.high) else st.nothing())


STATES = st.builds(
    State,
    curves=st.lists(st.sampled_from(["besiroglu2024", "hoffmann2022", "kumar2024"]), min_size=1, unique=True).map(tuple),
    on=st.dates().map(lambda day: day.isoformat()),
    controls_from=st.just("as in the scenario") | st.dates().map(lambda day: day.isoformat()),
    **{name: numbers(name) for name in RANGES},
    **{name: st.sampled_from(choices()) for name, choices in CHOICES.items()},
)


@settings(max_examples=100, deadline=None)
@given(STATES)
def test_an_address_gives_its_state_back(state):
    assert read_query("?" + write_query(state)) == (state, [])
    for name in FIELDS:
        assert read_field(name, write_field(name, getattr(state, name))) == getattr(state, name)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), st.text(max_size=20), max_size=6))
def test_any_address_gives_a_state_and_says_what_it_left_out(query):
    state, problems = read_query(urlencode(query))
    refused = 0
    for name, text in query.items():
        try:
            assert name not in FIELDS or read_field(name, text) == getattr(state, name)
            refused += name not in FIELDS
        except InputError as error:
            said = str(error)
            refused += any(problem.startswith(said) for problem in problems) and getattr(state, name) == getattr(State(), name)
    assert len(problems) == refused


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("structure", "lots", "a number from 0.01 to 100, such as 2; got 'lots'"),
        ("structure", "nan", "must be from 0.01 to 100"),
        ("flops", "1e30", "must be from 1e21 to 1e29, got 1e30"),
        ("unique_tokens", "0", "or unlimited"),
        ("leader_chips", "2.5", "whole number"),
        ("on", "last week", "2023-11-17"),
        ("curves", "", "at least one"),
        ("curves", "gone2020", "there is no 'gone2020'"),
        ("follower_chip", "H9000", "H9000"),
        ("fixed", "luck", "nothing, tokens, size"),
    ],
)
def test_a_bad_field_says_what_would_be_right(name, text, words):
    with pytest.raises(InputError, match=re.escape(words)):
        read_field(name, text)


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} cannot be used .*--port"):
            explore(port=port, no_browser=True)


def controlled(**changes: Any) -> list[float]:
    scenario = asked(State(scenario="export-controls-2022", **changes))
    assert scenario is not None
    return [each.begins for each in standing(scenario)]


def test_the_page_changes_a_scenario_as_it_says():
    first, second = controlled()
    assert controlled(controls="none") == []
    moved = controlled(controls_from="2025-10-07")
    assert moved == pytest.approx([2025 + 279 / 365, 2025 + 279 / 365 + second - first], abs=0.01)
    before, after = (asked(State(structure=3.0, data=1.5, laggard=each)) for each in ("as in the scenario", "the gaps above"))
    assert before is not None
    assert after is not None
    assert before == read_scenario("export-controls-2022")
    assert (after.actors[0], after.controls, after.capabilities) == (before.actors[0], before.controls, before.capabilities)
    assert after.actors[1] == before.actors[1].model_copy(update={"structure": 3.0, "data": 1.5})
    with pytest.raises(InputError, match="baseline has no controls"):
        asked(State(scenario="baseline", controls_from="2025-10-07"))


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("dash", reason="the extra isoloss[explore] is not installed")
    with subprocess.Popen([*COMMAND, "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+/", server.stdout.readline())
        assert found
        yield found[0]
        server.terminate()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if chromium() is None:
        pytest.skip("there is no Chromium on this machine (CHROMIUM names one)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        context = started.new_context(accept_downloads=True)  # one, so that scripts are read once
        context.set_default_timeout(120_000)  # for machines that have much else to do
        yield context
        started.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page with a query; no console error, failed request or outside address may come of it."""
    pages, wrong = [], []

    def opened(query: str = START, width: int = 1280):
        page = browser.new_page()
        page.set_viewport_size({"width": width, "height": 800})
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url) if "/numbers." not in request.url else None)  # a download
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None)
        page.goto(f"{address}?{query}")
        page.wait_for_selector("#headline .value")
        return page

    yield opened
    for page in pages:
        page.close()
    assert not wrong


def control(page, kind: str, name: str):
    return page.locator(f'[id=\'{{"name":"{name}","type":"{kind}"}}\']')


def shown(page, curve: str = "hoffmann2022") -> float:
    return float(page.locator(f'.value[data-curve="{curve}"]').get_attribute("data-value"))


def expected(name: str = "hoffmann2022", **changes: Any) -> float:
    given: dict[str, Any] = {"flops": 1e26, "structure": 2.0, "data": 2.0, "unique_tokens": 15e12}
    return compute_penalty(fits.load(name), **given | changes).value


def test_a_slider_changes_the_number_to_that_of_the_python_call(visit):
    page = visit()
    assert shown(page) == expected()
    slider = control(page, "slider", "structure")
    page.keyboard.press("Tab")
    for _ in range(60):  # by keys alone: tab to the slider, then arrows
        if slider.evaluate("(input) => input === document.activeElement"):
            break
        page.keyboard.press("Tab")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => window.location.search.includes('structure=')")
    structure = float(control(page, "field", "structure").input_value())
    assert structure > 2
    page.wait_for_function(f"() => window.location.search.includes('structure={structure:g}')")
    assert shown(page) == expected(structure=structure)
    drawn = page.evaluate("document.querySelector('#figure-penalty .js-plotly-plot').data.at(-1)")
    assert (drawn["x"], drawn["y"]) == ([1e26], [expected(structure=structure)])

    again = visit(page.url.partition("?")[2])  # the state is in the address
    assert shown(again) == expected(structure=structure)
    assert float(control(again, "field", "structure").input_value()) == structure
    assert abs(float(control(again, "slider", "structure").input_value()) - math.log10(structure)) < 0.01


def test_bad_values_are_refused_and_the_answer_kept(visit):
    page = visit()
    message = page.locator("#message")
    box = control(page, "field", "data")
    for text in ("-3", "much"):
        box.fill(text)
        page.wait_for_function(f"() => document.getElementById('message').textContent.includes('{text}')")
        assert "data: " in message.inner_text()
        assert shown(page) == expected()
    box.fill("3")
    page.wait_for_function("() => document.getElementById('message').textContent === ''")
    assert shown(page) == expected(data=3.0)
    control(page, "field", "overtraining").fill("4")
    page.wait_for_function("() => window.location.search.includes('overtraining=4')")
    control(page, "field", "served_tokens").fill("1e13")
    page.wait_for_function("() => document.getElementById('message').textContent.includes('leave overtraining at 1')")
    assert shown(page) == expected(data=3.0, overtraining=4.0)


def test_an_address_that_no_longer_fits_says_so(visit):
    page = visit("curves=gone2020&structure=3&data=lots&colour=blue&scenario=none")
    said = page.locator("#stale").inner_text()
    assert all(words in said for words in ("gone2020", "'lots'", "'colour'"))
    page.wait_for_selector('.value[data-curve="besiroglu2024"]')
    assert shown(page) == expected(structure=3.0)
    contradiction = visit(f"{START}&overtraining=4&served_tokens=1e13")
    assert "leave overtraining at 1" in contradiction.locator("#stale").inner_text()


def test_a_small_screen_has_everything_within_its_width(visit):
    page = visit(width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    hidden = control(page, "field", "overtraining")
    assert not hidden.is_visible()
    page.locator("summary", has_text="How they train").focus()
    page.keyboard.press("Enter")
    assert hidden.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("penalty", "waterfall", "cost"):
        box = page.locator(f"#figure-{name} svg").first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_numbers_and_figures_can_be_downloaded(visit):
    page = visit(f"{START}&flops=1e27&fixed=tokens&on=2023-09-01")
    with page.expect_download() as download:
        page.click("#json")
    found = json.loads(Path(download.value.path()).read_text())
    penalty = compute_penalty(fits.load("hoffmann2022"), flops=1e27, structure=2, data=2, unique_tokens=15e12, fixed="tokens")
    assert found["penalty"]["hoffmann2022"]["value"] == (penalty.value if penalty.feasible else None)
    assert found["penalty"]["hoffmann2022"]["leader"] == dataclasses.asdict(penalty.leader)
    state = State()
    speed = estimate_training(state.model, chip=state.leader_chip, chips=16384)
    lab = estimate_training(state.model, chip=state.leader_chip, chips=16384, tokens=1e27 / speed.flops_per_token)
    assert found["labs"][0]["hours"] == pytest.approx(lab.hours, rel=1e-12)
    assert found["labs"][0]["usd_buy"] == pytest.approx(lab.usd["buy"], rel=1e-12)
    assert [each["export_status"] for each in found["labs"]] == [export_control(chip, on="2023-09-01").status for chip in ("H100", "H20")]
    with page.expect_download() as download:
        page.click("#csv")
    table = pd.read_csv(io.StringIO(Path(download.value.path()).read_text()))
    at = table[table["flops"] == 1e21].iloc[0]
    assert at["value"] == pytest.approx(expected(flops=1e21, fixed="tokens"), rel=1e-9)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<svg")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Compute penalty at equal loss: save as {kind.upper()}").click()
        assert download.value.suggested_filename == f"isoloss-penalty.{kind}"
        assert Path(download.value.path()).read_bytes().startswith(start)


@pytest.mark.slow
def test_who_reaches_what_when_is_what_the_simulation_says(visit):
    page = visit("curves=hoffmann2022&scenario=export-controls-2022")
    page.wait_for_function("() => document.querySelector('#dates td')")
    outcome = simulate("export-controls-2022", draws=64)
    assert page.locator("#reading").inner_text() == outcome.reading
    drawn = page.evaluate("document.querySelector('#figure-diffusion .js-plotly-plot').data")
    for trace, capability in zip(drawn, outcome.as_dict()["capabilities"], strict=True):
        first = capability["first_access"]
        assert dict(zip(trace["y"], trace["x"], strict=True))[first["actor"]] == pytest.approx(first["date"], abs=1e-9)
    control(page, "field", "controls_from").fill("last year")
    page.wait_for_function("() => document.getElementById('message').textContent.includes('controls from: write a date')")
