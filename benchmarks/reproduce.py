"""Every figure and table, by name, as PNG and as the numbers behind it (CSV).

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py [--quick] [--only NAME ...] [--out DIR] [--demo DIR]

What a figure was drawn from, with the sha256 of its files, is kept in DIR/sources.json. The same command on the same data writes the same bytes.
A figure whose data are not here is left out with the reason, which is no error. Public tables are read from the folder ISOLOSS_DATA, or fetched where they have
an address. --quick: fewer bootstrap draws, nothing that takes minutes, no training; without it the demo's runs are made where --demo has none (minutes).
Exit: 0 drawn or left out, 1 if a figure could not be drawn from data that are here, 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from reproduced import (
    broken,
    chinchilla,
    data_limits,
    demo,
    distillation,
    elsewhere,
    experts,
    formats,
    isoflop_stages,
    own_arms,
    own_dense,
    rolling,
)
from reproduced.entry import Absent, Entry

import fits
from scaling import plots
from scaling.errors import InputError
from scaling.paths import use_compilation_cache

FAMILIES = (chinchilla, data_limits, experts, formats, distillation, isoflop_stages, broken, rolling, elsewhere, own_dense, own_arms)
QUICK, FULL = 200, 1000  # bootstrap draws
PRINT_DPI = 300


def entries(folder: Path, train: bool = True) -> dict[str, Entry]:
    """Every figure by its name; the demo's are drawn from the runs in `folder`."""
    return {each.name: each for each in (*(entry for family in FAMILIES for entry in family.FIGURES), *demo.entries(folder, train))}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parsed(argv)
    known = entries(arguments.demo, train=not arguments.quick)
    if arguments.list:
        for entry in known.values():
            print(f"{entry.name:24} {entry.about}{' (minutes)' if entry.slow else ''} [{entry.words()}]")
        return 0
    unknown = [name for name in arguments.only or () if name not in known]
    if unknown:
        print(f"reproduce.py: no figure {unknown[0]!r}; --list names them", file=sys.stderr)
        return 2
    use_compilation_cache()
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = [_make(known[name], arguments.out, arguments.quick, named=bool(arguments.only)) for name in arguments.only or known]
    print(f"{outcomes.count('drawn')} drawn, {outcomes.count('left out')} left out, {outcomes.count('failed')} failed", file=sys.stderr)
    return 1 if "failed" in outcomes else 0


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the figures with what they need, and leave")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these figures only")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} bootstrap draws in place of {FULL}, nothing slow, no training")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR", help="where figures and their numbers go")
    parser.add_argument(
        "--demo", type=Path, default=Path("isoloss-demo"), metavar="DIR", help="the demo's runs, as `isoloss demo --out` leaves them"
    )
    return parser.parse_args(argv)


def _make(entry: Entry, out: Path, quick: bool, named: bool) -> str:
    """Draws and writes one figure, or says why not: "drawn", "left out" or "failed"."""
    reason = "takes minutes: leave out --quick, or name it by --only" if quick and entry.slow and not named else entry.lacks()
    if reason:
        print(f"{entry.name}: left out: {reason}", flush=True)
        return "left out"
    started = time.perf_counter()
    try:
        figure, table = entry.draw(QUICK if quick else FULL)
    except Absent as error:
        print(f"{entry.name}: left out: {error}", flush=True)
        return "left out"
    except (InputError, fits.InputError) as error:
        print(f"{entry.name}: failed: {error}", file=sys.stderr, flush=True)
        return "failed"
    plots.save(figure, out / f"{entry.name}.png", PRINT_DPI)
    table.to_csv(out / f"{entry.name}.csv", index=False, float_format="%.8g")
    _note(entry, out, quick)
    print(f"{entry.name}: {out / entry.name}.png and .csv, from {entry.words()} ({time.perf_counter() - started:.0f} s)", flush=True)
    return "drawn"


def _note(entry: Entry, out: Path, quick: bool) -> None:
    """Adds to sources.json what the figure was drawn from."""
    path = out / "sources.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept[entry.name] = {"about": entry.about, "draws": QUICK if quick else FULL, "from": entry.used()}
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
