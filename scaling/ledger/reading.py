"""What a ledger says, in words made from its numbers."""

from __future__ import annotations

import math

from scaling.ledger.ledger import Ledger
from scaling.ledger.needed import Band, Needed
from scaling.ledger.scenario import Scenario

FAR = 1.0  # decades beyond what stands behind a multiplier from which it is said


def notes(found: Ledger, scenario: Scenario) -> tuple[str, ...]:
    """What a reader must know of the numbers: the scenario's own notes, extrapolations, single sources, what cannot be run."""
    said = list(scenario.notes)
    for line, step in zip(found.lines, scenario.steps, strict=True):
        effect = line.effect
        if line.note:
            said.append(f"{line.name}: {line.note}")
        if effect and effect["evidence"] == "published":
            laws = ", ".join(
                f"{each['curve']} {each['multiplier']:.3g} ({each['decades_outside']:.1f} decades beyond its data)"
                for each in effect["laws"]
            )
            spread = "a draw takes one of them" if len(effect["laws"]) > 1 else "one law, so no spread of it is in the band"
            said.append(f"{line.name}: multiplier {effect['multiplier']:.3g} by {laws}; {spread}")
        if effect and effect["evidence"] == "measured here":
            record = effect["measured"]
            said.append(
                f"{line.name}: {record['value']:.3g} ({record['low']:.3g} to {record['high']:.3g}, 95%) measured here on {record['flops'][0]:.1g} to {record['flops'][1]:.2g} FLOP;"
                f" used at {effect['use_flops']:.2g}, {effect['decades_outside']:.1f} decades beyond, which no interval covers"
            )
        if effect and effect["evidence"] == "assumed":
            ends = effect["assumed"]
            kind = f"{ends[0]:g} to {ends[-1]:g} assumed" if len(ends) > 1 else f"{ends[0]:g} assumed, without a band"
            said.append(
                f"{line.name}: multiplier at equal loss {kind}"
                + ("" if getattr(step, "assumed", None) else "; the scenario names no source")
            )
        if line.beside:
            beside = line.beside
            end = (
                f"; with it in place of the published one the total is {beside['total_time']:.2f}x time and {beside['total_usd']:.2f}x dollars"
                if "total_time" in beside
                else ""
            )
            said.append(
                f"{line.name}: measured here {beside['value']:.3g} ({beside['low']:.3g} to {beside['high']:.3g}): {beside['what']}, at most {beside['flops'][1]:.2g} FLOP,"
                f" {beside['decades_to_use']:.1f} decades below its use{end}"
            )
    if scenario.baseline.format in ("fp32", "tf32"):
        said.append(
            f"{scenario.baseline.format}: no such run is among those the hardware model was fitted to; bytes count twice, and its band is doubled"
        )
    if found.impossible:
        said.append(
            f"{len(found.impossible)} of {found.combinations} combinations cannot be run and are in no order, such as {found.impossible[0]}"
        )
    if found.needed.get("time") is not None:
        said.append("with as many chips as the same dollars buy the factor of time is that of dollars, if speed grows with their number")
        said.append("the multiplier and the utilisation needed leave all else as it is: a larger dense model is taken to run as fast")
    said.append("effects on the loss of several steps are taken to multiply; goodput is the same for all and cancels")
    return tuple(said)


def reading(found: Ledger) -> str:
    """One paragraph."""
    if found.time is None or found.usd is None or found.baseline is None or found.end is None:
        return f"No factor follows: {found.reason}."
    base, end = found.baseline, found.end
    text = [
        f"At equal loss {end.chips:,} {end.chip} with all steps take {_times(found.time)} the time and {_times(found.usd)} the dollars of {base.chips:,} {base.chip} with"
        f" {base.model} in {base.format} ({base.hours:,.0f} to {end.hours:,.0f} hours, {base.usd / 1e6:.2f}M to {end.usd / 1e6:.2f}M USD)."
    ]
    largest = sorted((line for line in found.lines if line.time), key=lambda line: -abs(math.log(line.time.value) if line.time else 0.0))[
        :3
    ]
    if largest:
        text.append(
            "Largest steps, free of order: "
            + ", ".join(f"{line.name} {line.time.value:.2f}x ({line.evidence})" for line in largest if line.time)
            + "."
        )
    for name, words in (("time", "in time"), ("usd", "in dollars")):
        need = found.needed[name]
        if need is not None:
            text.append(_needed(need, words, end.chip, base.chip))
    if found.not_measured:
        share = found.not_measured["time"]
        text.append(
            f"Of the log factors of time {share['log_factors']:.1%} are not measured here, and {share['variance']:.1%} of the variance; the largest kind is {_largest(found)}."
        )
    return " ".join(text)


def _times(value: Band) -> str:
    return f"{value.value:.2f}x ({value.low:.2f} to {value.high:.2f})"


def _needed(need: Needed, words: str, chip: str, base: str) -> str:
    verdict = "holds" if need.chance > 0.9 else "fails" if need.chance < 0.1 else "is open"
    both = ""
    if need.both_sides is not None:
        both = f". The same software is open to who owns {base}: with it on both sides {chip} takes {_times(need.both_sides)}"
    if need.gain_needed.high < 1:
        return f"Nothing need be overcome {words}: {chip} without software takes {_times(need.gain_needed)}, and software gains {_times(need.gain)} more{both}."
    text = (
        f"Software overcomes the chip {words} if it gains {need.gain_needed.value:.2f}x on {chip} ({need.gain_needed.low:.2f} to {need.gain_needed.high:.2f});"
        f" the ledger's gains {_times(need.gain)}, so that it {verdict} (true in {need.chance:.0%} of the draws)"
    )
    if need.multiplier_needed is not None and need.multiplier is not None:
        text += f"; it would take a multiplier of the mixture of {need.multiplier_needed:.2f} where {need.multiplier:.2f} is taken"
    text += f", or a utilisation of {need.mfu_needed:.0%} where {need.mfu:.0%} is estimated" + (
        ", which cannot be had" if need.mfu_needed > 1 else ""
    )
    return text + both + "."


def _largest(found: Ledger) -> str:
    sizes = found.shares["time"]["log_factors"]
    kind = max(sizes, key=lambda name: sizes[name])
    return f"{kind} ({sizes[kind]:.0%})"
