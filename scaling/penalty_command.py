"""`isoloss penalty`: how much more compute a follower needs for the leader's loss."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import curves_command, output
from scaling.output import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fits.curve import Curve

Numbers = list[float] | None


def penalty(
    curve: Annotated[str, typer.Argument(metavar="CURVE", help="A published curve or a curve file.")],
    flops: Annotated[Numbers, typer.Option(help="The leader's training compute. May be repeated.")] = None,
    loss: Annotated[Numbers, typer.Option(help="... or the loss that the leader reaches on its frontier. May be repeated.")] = None,
    structure: Annotated[float, typer.Option(help="The follower's structure gap: its parameters count 1/structure.")] = 1.0,
    data_gap: Annotated[float, typer.Option("--data", help="The follower's data gap: its effective tokens count 1/data.")] = 1.0,
    follower: Annotated[str | None, typer.Option(help="The follower's own curve, of the same corpus and tokenizer.")] = None,
    differs: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A constant of the follower's law: alpha=0.33, A=x2, E=+0.02.")
    ] = None,
    unique_tokens: Annotated[float | None, typer.Option(help="Unique tokens there are, repetition beyond.")] = None,
    follower_unique_tokens: Annotated[float | None, typer.Option(help="... and for the follower, where they differ.")] = None,
    fixed: Annotated[str | None, typer.Option(help="What the follower cannot change: tokens, params or tokens_per_param.")] = None,
    overtraining: Annotated[float, typer.Option(help="The leader's tokens per parameter over the optimum.")] = 1.0,
    tokens_per_param: Annotated[float | None, typer.Option(help="... or as a number, in place of --overtraining.")] = None,
    allocation_error: Annotated[float, typer.Option(help="The follower's size over its optimum.")] = 1.0,
    served_tokens: Annotated[float, typer.Option(help="Tokens that each lab serves with its model.")] = 0.0,
    throughput: Annotated[
        float, typer.Option(help="The leader's FLOP per chip and hour over the follower's: costs hours, not FLOP.")
    ] = 1.0,
    at: Annotated[list[str] | None, typer.Option(metavar="INPUT=NUMBER", help="A further input of the law, such as experts=8.")] = None,
    level: Annotated[float, typer.Option(help="Level of the interval, from the draws of the curves.")] = 0.95,
    force: Annotated[bool, typer.Option("--force", help="Compare curves of different corpora or tokenizers all the same.")] = False,
    as_json: Json = False,
) -> None:
    """How much more compute a follower needs for the leader's loss."""
    import fits
    from scaling.followers import differing
    from scaling.penalty import overtraining_for

    leader, own = fits.load(curve), fits.load(follower) if follower else None
    if differs:
        own = differing(own or leader, differs)
    inputs = curves_command.further_inputs(at or [])
    settings: dict[str, Any] = {
        "structure": structure,
        "data": data_gap,
        "follower": own,
        "unique_tokens": unique_tokens,
        "follower_unique_tokens": follower_unique_tokens,
        "fixed": fixed,
        "overtraining": overtraining,
        "allocation_error": allocation_error,
        "served_tokens": served_tokens,
        "inputs": inputs,
    }
    computes = _computes(leader, flops or [], loss or [], settings)
    if tokens_per_param is not None:
        known = {"unique_tokens": unique_tokens, "inputs": inputs}
        settings["overtraining"] = [overtraining_for(leader, tokens_per_param, overtraining, flops=each, **known) for each in computes]
    answers = _answers(leader, computes, settings, throughput, level, force)
    for note in dict.fromkeys(note for answer in answers for note in answer["notes"]):
        output.note(f"note: {note}")
    outside = max(answer["decades_outside"] for answer in answers)
    if outside:
        output.note(f"warning: {outside:.1f} decades of compute beyond the range of the fit")
    if as_json:
        return output.emit(answers[0] if len(answers) == 1 else {"penalties": answers})
    if len(answers) == 1:
        told = {name: value for name, value in answers[0].items() if name not in ("notes", "hours")}
        return output.listing(told | ({} if throughput == 1 else {"hours, follower / leader": answers[0]["hours"]}))
    output.table([_row(answer) for answer in answers], f"compute penalty on {leader.name or curve}, {level:.0%} interval")


def _computes(leader: Curve, flops: Sequence[float], losses: Sequence[float], settings: dict[str, Any]) -> list[float]:
    """The leader's computes that were asked for, by themselves or by their loss."""
    from scaling.errors import InputError

    if bool(flops) == bool(losses):
        raise InputError("penalty: give --flops, the leader's training compute, or --loss, what it reaches on its frontier, and not both")
    if losses and (settings["overtraining"] != 1 or settings["unique_tokens"] is not None):
        raise InputError(
            "penalty: --loss is that of the compute-optimal frontier on fresh data; with --overtraining or --unique-tokens give --flops"
        )
    found = list(flops)
    for loss in losses:
        compute = leader.compute_for(loss, **settings["inputs"])
        if not math.isfinite(compute):
            floor = leader.constants.get("E")
            least = f"above its irreducible loss {floor:.6g}" if floor is not None else "within its reach"
            raise InputError(f"penalty: a loss of {loss:g} is not {least}: no compute brings the leader of curve {leader.name!r} there")
        found.append(compute)
    return found


def _answers(
    leader: Curve, computes: Sequence[float], settings: dict[str, Any], throughput: float, level: float, force: bool
) -> list[dict[str, Any]]:
    """The promised keys for every compute, with the interval beside them. The over-training is one number, or one for each compute."""
    import numpy as np

    from scaling.comparability import check_same_text
    from scaling.penalty import compute_penalty

    notes = check_same_text(leader, settings["follower"] or leader, force=force)
    overtraining = np.broadcast_to(settings["overtraining"], len(computes))
    settings = settings | {"overtraining": overtraining}
    each: list[dict[str, Any]] = [settings | {"overtraining": float(long)} for long in overtraining]
    found = [
        dataclasses.asdict(compute_penalty(leader, flops=flops, force=force, throughput=throughput, **one))
        for flops, one in zip(computes, each, strict=True)
    ]
    bands = _bands(leader, computes, settings, level, notes)
    return [
        {"value": answer.pop("value"), "low": low, "high": high, "level": level} | answer | {"notes": notes}
        for answer, (low, high) in zip(found, bands, strict=True)
    ]


def _bands(
    leader: Curve, computes: Sequence[float], settings: dict[str, Any], level: float, notes: list[str]
) -> list[tuple[float | None, float | None]]:
    """The middle `level` of the penalties over the curves' draws, infinite ones counted; nothing where the leader has no draws."""
    import numpy as np

    from scaling.errors import InputError
    from scaling.paths import use_compilation_cache

    if not 0 < level < 1:
        raise InputError(f"penalty: level must lie between 0 and 1, got {level}")
    if leader.draws is None:
        notes.append(f"curve {leader.name!r} has no draws of its constants, so the penalty has no interval")
        return [(None, None)] * len(computes)
    if settings["follower"] is not None and settings["follower"].draws is None:
        notes.append(f"curve {settings['follower'].name!r} has no draws: the interval holds the leader's uncertainty only")
    from scaling.penalty_batch import penalties

    use_compilation_cache()
    values = penalties(leader, flops=np.array(computes), draws=True, **settings).value
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return list(zip(map(float, low), map(float, high), strict=True))


def _row(answer: dict[str, Any]) -> dict[str, Any]:
    row = {"flops": answer["leader"]["flops"], "loss": answer["leader"]["loss"], "penalty": answer["value"]}
    row |= {"low": answer["low"], "high": answer["high"], "follower_flops": answer["follower"]["flops"]}
    return row | {"decades_outside": answer["decades_outside"], "reason": answer["reason"]}
