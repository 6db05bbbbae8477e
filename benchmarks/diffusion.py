"""The figures of access, performance and diffusion, and the back-tests: `python benchmarks/diffusion.py [--list] [--only NAME ...] [--out DIR]`.

Each figure is written as PNG and PDF with the numbers behind it as CSV; the back-test table is printed too.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from scaling import plots
from scaling.diffusion import figures, figures_backtests, figures_meek
from scaling.diffusion.backtests import coverage, lag_conflict, published_counts, run_backtests
from scaling.errors import InputError

FIGURES: dict[str, tuple[str, Callable[[], tuple[Figure, pd.DataFrame]]]] = {
    "imagenet-cost": ("cost of 93% on ImageNet: reported and forecast", functools.partial(figures_backtests.cost_figure, "ImageNet, 93%")),
    "gpt3-cost": ("cost of the level of GPT-3: reported and forecast", functools.partial(figures_backtests.cost_figure, "GPT-3 level")),
    "gpt2-cost": ("cost of reproducing GPT-2: reported and forecast", functools.partial(figures_backtests.cost_figure, "GPT-2, 1.5B")),
    "conversion": ("dollars to FLOP, FLOP to performance, and both", figures.conversion_figure),
    "access-and-performance": ("investment and performance at two dates, both effects marked", figures.effects_figure),
    "investors": ("performance over time of a large, a medium and a small investor", figures.investors_figure),
    "investors-ceiling": ("the same with a ceiling", functools.partial(figures.investors_figure, 28.0)),
    "access-counts": ("actors with access over time", figures.access_counts_figure),
    "windows": ("the diffusion window against the date of discovery", figures.windows_figure),
    "models-above": ("models above a threshold of training compute", figures_backtests.models_figure),
    "meek": ("loss gap, score gap, compute ratio and lag of a constant budget", figures_meek.meek_figure),
    "meek-sensitivity": ("the meek gap against the growth of investment", figures_meek.meek_sensitivity_figure),
    "backtests": ("every back-test: band over observation", figures_backtests.backtests_figure),
    "lag-conflict": ("a persistent penalty against the observed lag", figures_backtests.lag_conflict_figure),
}


def write(name: str, out: Path) -> list[Path]:
    """One figure as PNG and PDF, and its numbers."""
    figure, table = FIGURES[name][1]()
    paths = [plots.save(figure, out / f"{name}.png"), out / f"{name}.pdf", out / f"{name}.csv"]
    figure.savefig(paths[1], metadata={"Creator": None, "Producer": None, "CreationDate": None})
    table.to_csv(paths[2], index=False, float_format="%.8g")
    return paths


def report() -> str:
    """The back-tests as text: every row, the share inside the bands, the conflict of penalty and lag, and the published counts."""
    table = run_backtests()
    columns = ["name", "forecast_on", "observed_on", "low", "median", "high", "observed", "unit", "bound", "verdict", "hindcast"]
    lines = [_text(table[columns].to_dict("records")), "\nWhat a miss means:"]
    lines += [f"- {row['name']}: {row['miss_means']}" for _, row in table[table["verdict"] == "miss"].iterrows()]
    titles = {
        "Inside their 80% bands:": coverage(table),
        "Penalty against lag:": lag_conflict(),
        "Counts to the end of 2028 (90%):": published_counts(),
    }
    lines += [f"\n{title}\n{_text(part.to_dict('records'))}" for title, part in titles.items()]
    return "\n".join(lines)


def _text(rows: list[dict]) -> str:
    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]), *("| " + " | ".join(each) + " |" for each in cells)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the figures and leave")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these figures only")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="where figures and their numbers go")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:24} {what}" for name, (what, _) in FIGURES.items()))
        return
    chosen = arguments.only or list(FIGURES)
    unknown = [name for name in chosen if name not in FIGURES]
    if unknown:
        sys.exit(f"diffusion.py: no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        print(f"{name}: {', '.join(str(path) for path in write(name, arguments.out))}", file=sys.stderr)
    if "backtests" in chosen:
        text = report()
        (arguments.out / "backtests.md").write_text(text + "\n", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"diffusion.py: {error}")
