"""`isoloss chips`: list chips, show one with its export control, compare two, list the rules, measure this machine."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    from scaling.hardware.chips import Chip
    from scaling.hardware.export_rules import Rule, Verdict


def chips(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A chip or an alias such as H100 or 4090; all are listed without it.")
    ] = None,
    compare: Annotated[tuple[str, str] | None, typer.Option(metavar="A B", help="Two chips side by side.")] = None,
    on: Annotated[str | None, typer.Option(help="Export control on this date, or under this rule; today by default.")] = None,
    destination: Annotated[str, typer.Option(help="Where to: China, D:5, D:1, D:4 or elsewhere.")] = "China",
    rules: Annotated[bool, typer.Option("--rules", help="List the export rules, and the chips around each.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine and keep it as the chip this-machine.")] = False,
    extra: Annotated[Path | None, typer.Option("--file", help="A file of more chips, [[chips]] in TOML.")] = None,
    as_json: Json = False,
) -> None:
    """List chips, show one, compare two, list export rules, or measure this machine."""
    from scaling.errors import InputError

    asked = [
        text for text, given in ((f"NAME {name!r}", name), ("--compare", compare), ("--rules", rules), ("--measure", measure)) if given
    ]
    if len(asked) > 1:
        raise InputError(f"chips: {asked[0]} and {asked[1]} are different questions; ask one")
    if on is not None and (compare or rules or measure):
        raise InputError(f"chips: --on goes with the list or with a chip's name, not with {asked[0]}")
    if measure:
        return _measure(as_json)
    if rules:
        return _list_rules(extra, as_json)
    if compare:
        return _compare(*compare, extra, as_json)
    if name is not None:
        return _show(name, on, destination, extra, as_json)
    return _list(on, destination, extra, as_json)


def _list(on: str | None, destination: str, extra: Path | None, as_json: bool) -> None:
    from scaling.hardware.export_rules import export_control
    from scaling.hardware.library import chips as all_chips

    found = [(chip, export_control(chip, on, destination=destination)) for chip in all_chips(extra)]
    if as_json:
        return output.emit({"chips": [about(chip) | {"export_control": plain(verdict)} for chip, verdict in found]})
    rows = [
        {
            "chip": chip.name,
            "released": "" if chip.release_date is None else chip.release_date.isoformat()[:7],
            "bf16 TFLOP/s": chip.bf16,
            "fp8": chip.fp8,
            "GB": chip.mem_gb,
            "GB/s": chip.mem_bw_gbps,
            "links GB/s": chip.scaleup_unidir_gbps,
            "W": chip.tdp_w,
            "USD": chip.price_usd,
            "USD/h": chip.rent_usd_per_h,
            "TPP": None if chip.tpp is None else round(chip.tpp),
            "density": None if chip.performance_density is None else round(chip.performance_density, 2),
            f"to {destination}": verdict.status,
        }
        for chip, verdict in found
    ]
    output.table(rows, f"{len(rows)} chips; export control {_when(on)}")


def _show(name: str, on: str | None, destination: str, extra: Path | None, as_json: bool) -> None:
    from scaling.hardware.comparison import FIGURES, figures
    from scaling.hardware.export_rules import export_control, rules, verdicts
    from scaling.hardware.library import chip as find_chip

    chip = find_chip(name, extra)
    now = export_control(chip, on, destination=destination)
    every = verdicts(chip, destination=destination)
    if as_json:
        return output.emit(about(chip) | {"export_control": plain(now), "verdicts": [plain(each) for each in every]})
    words = ("vendor", "form", "release_date", "mem_type", "scaleup_name", "p2p", "note")
    output.say(chip.name + (f" ({', '.join(chip.aliases)})" if chip.aliases else ""))
    output.listing({key: str(getattr(chip, key) or "") for key in words})
    rows = [
        {"figure": FIGURES[key], "value": _number(value), "known from": _grade(chip, key), "remark": chip.listed.get(key, "")}
        for key, value in figures(chip).items()
        if value is not None
    ]
    output.table(rows, "figures")
    output.listing({"sources": list(chip.sources)})
    by_name = {each.name: each for each in rules()}
    output.table(
        [{"rule": each.on, "in force": _period(by_name[each.on]), "status": each.status, "why": _why(each)} for each in every],
        f"export to {destination}, under each rule and those it builds on",
    )
    output.say(f"{_when(on)}: {now.status}" + (f", by {now.rule}" if now.rule else "") + f" ({now.reason})")


def _compare(first: str, second: str, extra: Path | None, as_json: bool) -> None:
    from scaling.hardware.comparison import FIGURES, compare
    from scaling.hardware.library import chip as find_chip

    ours, theirs = find_chip(first, extra), find_chip(second, extra)
    found = compare(ours, theirs)
    if as_json:
        rows = {key: {"first": one, "second": other, "ratio": ratio} for key, (one, other, ratio) in found.items()}
        return output.emit({"first": ours.name, "second": theirs.name, "figures": rows})
    rows = [
        {
            "figure": FIGURES[key],
            ours.name: _number(one),
            theirs.name: _number(other),
            f"{ours.name} / {theirs.name}": "" if ratio is None else f"{100 * ratio:.0f}%",
            f"{theirs.name} / {ours.name}": "" if not ratio else f"{100 / ratio:.0f}%",
        }
        for key, (one, other, ratio) in found.items()
    ]
    output.table(rows, f"{ours.name} and {theirs.name}")


def _list_rules(extra: Path | None, as_json: bool) -> None:
    from scaling.hardware.answers import built_around
    from scaling.hardware.export_rules import rules
    from scaling.hardware.library import chips as all_chips

    pool = all_chips(extra)
    found = [(each, built_around(each, pool)) for each in rules()]
    if as_json:
        return output.emit(
            {"rules": [plain(each) | {key: value for key, value in plain(around).items() if key != "rule"} for each, around in found]}
        )
    rows = [
        {
            "rule": each.name,
            "in force": _period(each),
            "what it does": each.summary,
            "drawn at": ", ".join(near.chip for near in around.drawn_at),
            "answered by": ", ".join(near.chip for near in around.answers),
            "text": each.citation,
        }
        for each, around in found
    ]
    output.table(rows, f"{len(rows)} rules")
    output.say("They limit sale, not ownership or rent, and changed often: read the current text before relying on this.")


def _measure(as_json: bool) -> None:
    from scaling.hardware import library, measurement

    found = measurement.measure(say=output.note)
    measurement.save(found)
    output.note(f"kept in {library.measured_file()}: scaling.chip({measurement.NAME!r}), isoloss chips {measurement.NAME}")
    if as_json:
        return output.emit(about(found.chip) | {"shapes": found.shapes, "traffic_gbps": found.traffic_gbps, "seconds": found.seconds})
    rows = [
        {
            "figure": f"{name} product, T{'OP' if name == 'int8' else 'FLOP'}/s",
            "value": _number(getattr(found.chip, "bf16" if name == "fp16" else name)),
            "at": "x".join(map(str, shape)),
        }
        for name, shape in found.shapes.items()
    ]
    rows += [{"figure": f"memory, {kind}, GB/s", "value": _number(rate), "at": ""} for kind, rate in found.traffic_gbps.items()]
    output.table(rows, f"{found.chip.sources[0].removeprefix('isoloss chips --measure on ')}, {found.seconds:.0f} s")


def about(chip: Chip) -> dict[str, Any]:
    """A chip as JSON: its fields, what is computed from them, and by field how it is known and where from."""
    from scaling.hardware.chips import FIELDS

    computed = {
        "tpp": chip.tpp,
        "performance_density": chip.performance_density,
        "ridge": {name: chip.ridge(name) for name in chip.formats},
    }
    known = [field for field in FIELDS if chip.grade(field) != "unknown"]
    hidden = ("memory", "estimated", "figure_sources")
    fields = {key: value for key, value in plain(chip).items() if key not in hidden}
    return (
        fields
        | computed
        | {"grades": {key: chip.grade(key) for key in known}, "figure_sources": {key: list(chip.sources_of(key)) for key in known}}
    )


def plain(value: Any) -> Any:
    """Dataclasses and dates as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date) else value


def _grade(chip: Chip, key: str) -> str:
    from scaling.hardware.chips import FIELDS

    return chip.grade(key).replace("memory", "not seen in a source") if key in FIELDS else "computed"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _period(rule: Rule) -> str:
    if not rule.enforced:
        return "never"
    return f"{rule.in_force} to {rule.ended}" if rule.ended else f"from {rule.in_force}"


def _why(verdict: Verdict) -> str:
    return verdict.reason if verdict.rule == verdict.on else f"by {verdict.rule}: {verdict.reason}"


def _when(on: str | None) -> str:
    return f"{datetime.date.today()}" if on is None else f"under {on}" if not on[:1].isdigit() else on
