"""One paragraph that says what an outcome's numbers say, written from them."""

from __future__ import annotations

import math
from typing import Any


def date_words(year: float | None) -> str:
    """2024.37 as May 2024."""
    if year is None or not math.isfinite(year):
        return "never within the horizon"
    months = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
    whole = math.floor(year + 1e-9)
    return f"{months[min(int((year - whole) * 12 + 1e-6), 11)]} {whole}"


def paragraph(answer: dict[str, Any]) -> str:
    """The reading."""
    sentences = [sentence for each in answer["capabilities"] for sentence in _capability(each, answer)]
    sentences += _ends(answer)
    sentences += _channels(answer)
    sentences += _controls(answer)
    return " ".join(sentences)


def _capability(found: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    first, name = found["first_access"], found["name"]
    if first["actor"] is None:
        chance = f" (in {first['probability']:.0%} of the draws someone does)" if first["probability"] > 0 else ""
        return [f"No actor reaches {name} by {answer['end']:g}{chance}."]
    if first["at_start"]:
        opening = f"{name} is within reach of {first['actor']} at the start"
    else:
        interval = _between(date_words(first["low"]), date_words(first["high"]), answer["level"])
        opening = f"{first['actor']} is the first to reach {name}, in {date_words(first['date'])}{interval}"
    ends = found["with_access"][-1]
    crowd = f"; by {answer['end']:g} {_count(ends, answer['parties'])}" if answer["parties"] > 2 else ""
    windows = [each for each in found["windows"] if "of all" not in each["actor"]]
    followers = "; ".join(_window(each) for each in windows[:3])
    return [f"{opening}{': ' + followers if followers else ''}{crowd}."]


def _window(each: dict[str, Any]) -> str:
    if not math.isfinite(each["years"]):
        return f"{each['actor']} does not get there in time"
    if each["years"] == 0:
        return f"so it is for {each['actor']}"
    spread = f" ({_months(each['low'])} to {_months(each['high'])})" if each["low"] != each["high"] else ""
    return f"{each['actor']} follows {_months(each['years'])} later{spread}"


def _ends(answer: dict[str, Any]) -> list[str]:
    sentences = []
    for actor in [each for each in answer["actors"] if not each["leader"]][:3]:
        end = actor["path"][-1]
        lag, ratio, loss, score = (end[name]["median"] for name in ("lag_months", "effective_ratio", "loss_gap", "score_gap"))
        if ratio < 1:
            sentences.append(f"At the end {actor['name']} leads with {_factor(1 / ratio)} the effective compute of {answer['leader']}.")
            continue
        behind = f"{lag:.0f} months behind" if math.isfinite(lag) else f"below where {answer['leader']} started"
        sentences.append(
            f"At the end {actor['name']} is {behind}, with {_factor(ratio)} less effective compute, a loss {loss:.3f} nats higher and a score {100 * score:.1f} points lower."
        )
    return sentences


def _channels(answer: dict[str, Any]) -> list[str]:
    sentences = []
    for each in answer["channels"][:3]:
        listed = each["shares"][:4]
        if abs(each["gap_decades"]) < 0.005 or not listed:
            continue
        remark = ", a negative share narrowing it" if any(share["decades"] < 0 for share in listed) else ""
        shares = _listed([f"{share['channel']} {share['part']:.0%}" for share in listed])
        sentences.append(f"Of the gap of {each['actor']}, {each['gap_decades']:.2f} decades, {shares}{remark}.")
    return sentences


def _controls(answer: dict[str, Any]) -> list[str]:
    sentences = []
    for each in answer["controls"]:
        last = each["events"][-1]
        if each["felt"] is None and abs(each["run_left"] - 1) < 0.1:
            text = f"The controls leave {each['actor']} its runs"
        else:
            text = f"The controls leave {each['actor']} {each['run_left']:.0%} of the run it could otherwise make, felt from {date_words(each['felt'])}"
        chip = (
            f"; it buys the {last['after']} instead of the {each['events'][0]['before']}"
            if last["after"] not in (None, each["events"][0]["before"])
            else ""
        )
        joined = "but" if each["run_left"] < 0.9 and each["serving_left"] > 1 else "and"
        sentences.append(f"{text}, {joined} {each['serving_left']:.0%} of the users it could otherwise serve{chip}.")
    return sentences


def _count(ends: dict[str, Any], parties: int) -> str:
    low, high = ends["low"], ends["high"]
    spread = f" ({low:.0f} to {high:.0f})" if low != high else ""
    return f"{ends['median']:.0f}{spread} of {parties} have it"


def _months(years: float) -> str:
    if not math.isfinite(years):
        return "never"
    return f"{12 * years:.0f} months" if abs(years) < 4 else f"{years:.1f} years"


def _between(low: str, high: str, level: float) -> str:
    return "" if low == high else f" ({level:.0%}: {low} to {high})"


def _factor(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio < 100 else f"{ratio:,.0f} times" if ratio < 1e6 else f"{ratio:.1e} times"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" and {items[-1]}"
