"""Figures that the package or another benchmark draws: access and performance, scenarios, the frontier's departures, the ledger, hardware, planted penalties."""

from __future__ import annotations

import functools
from collections.abc import Callable

import diffusion
import pandas as pd

from reproduced.entry import ROOT, Drawn, Entry
from scaling.outlook.forms import DEFAULT

FEW = 500  # draws of a scenario or a ledger where bootstraps have fewer than ALL
ALL = 1000
PLANTED = ROOT / "benchmarks" / "results" / "planted.csv"
SCALING = ROOT / "scaling"
TRENDS = (SCALING / "diffusion" / "trends.toml", SCALING / "diffusion" / "backtests.toml")
HARDWARE_FILES = (SCALING / "hardware" / "chips.toml", SCALING / "hardware" / "constants.json")
SCENARIOS = {
    "baseline": "the baseline",
    "deepseek-4x": "a laggard four times less efficient",
    "export-controls-2022": "export controls from October 2022",
    "h20-licence": "the H20 under licence",
    "meek-models": "meek models",
    "open-weights": "open weights",
}
LEDGERS = {"hunyuan-h20": "Hunyuan-Large on H20", "a100": "A100", "ascend-910b": "Ascend 910B", "rtx4090": "RTX 4090"}
HARDWARE = {
    "deepseek": "DeepSeek-V3's run on seven kinds of chip",
    "roofline": "roofline of H20 and H100: training and decoding",
    "loss": "chip-hours and dollars to a loss",
    "firm": "software first, or buy chips? one firm's question",
}


def scenario(name: str, draws: int) -> Drawn:
    """Capability of the actors over time, and how many have access."""
    from scaling.diffusion.scenario_figure import scenario_figure, scenario_table
    from scaling.diffusion.simulation import simulate

    found = simulate(name, draws=None if draws >= ALL else FEW)
    return scenario_figure(found), scenario_table(found)


def departures(draws: int) -> Drawn:
    """When a penalty is structure x data, and when not, to 1e29 FLOP."""
    from scaling.frontier_command import wide
    from scaling.outlook.frontiers import frontier

    found = frontier()
    figure, table = found.figure()
    return figure, wide(table)


def ledger(name: str, draws: int) -> Drawn:
    """The waterfall of a ledger."""
    from scaling.ledger.figure import waterfall
    from scaling.ledger.ledger import ledger as ask

    return waterfall(ask(name) if draws >= ALL else ask(name, draws=FEW))


def hardware(name: str, draws: int) -> Drawn:
    """One of the hardware answers."""
    import hardware_answers

    table, figure, _ = hardware_answers.ANSWERS[name]()
    assert figure is not None
    return figure, table


def planted(draws: int) -> Drawn:
    """Loss against compute of a leader and of followers whose handicap is known."""
    from planted import figure

    return figure(pd.read_csv(PLANTED))


def _plain(draw: Callable[[], Drawn]) -> Callable[[int], Drawn]:
    return lambda draws: draw()


FIGURES = (
    *(Entry(name, about, _plain(draw), curves=("besiroglu2024",), files=TRENDS) for name, (about, draw) in diffusion.FIGURES.items()),
    *(
        Entry(
            f"scenario-{name}",
            f"who reaches what, when: {about}",
            functools.partial(scenario, name),
            files=(SCALING / "diffusion" / "scenarios" / f"{name}.toml", *TRENDS[:1]),
        )
        for name, about in SCENARIOS.items()
    ),
    Entry(
        "departures",
        "when a 2x gap in structure and in data is 4x in compute, and when not, to 1e29 FLOP",
        departures,
        curves=tuple(DEFAULT),
        files=TRENDS[:1],
    ),
    *(
        Entry(
            f"ledger-{name}",
            f"time and dollars at equal loss, step by step: {about}",
            functools.partial(ledger, name),
            files=(SCALING / "ledger" / "scenarios" / f"{name}.toml", SCALING / "ledger" / "measured.toml", *HARDWARE_FILES),
        )
        for name, about in LEDGERS.items()
    ),
    *(Entry(f"hardware-{name}", about, functools.partial(hardware, name), files=HARDWARE_FILES) for name, about in HARDWARE.items()),
    Entry("planted", "runs with a handicap that is exact by construction, and the penalty they show", planted, files=(PLANTED,)),
)
