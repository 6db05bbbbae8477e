"""Every printed and derived check of every published curve holds, and every file says where its numbers come from."""

from __future__ import annotations

import json
from importlib import resources

import pytest

import fits
from fits.laws import LAWS

NAMES = [*fits.published(), *fits.refitted()]


def test_there_are_many():
    assert len(NAMES) >= 45


@pytest.mark.parametrize("name", NAMES)
def test_checks_hold(name):
    curve = fits.load(name)
    assert curve.about["checks"]
    for check in curve.about["checks"]:
        assert check["kind"].split(";")[0] in ("printed", "derived")
        rtol = check["rtol"]
        extras = check.get("inputs", {})
        if "optimal" in check:
            best = curve.optimal(check["flops"], **extras)
            for field, value in check["optimal"].items():
                assert getattr(best, field) == pytest.approx(value, rel=rtol, abs=0), (check, field)
        else:
            assert curve.evaluate(**extras) == pytest.approx(check["value"], rel=rtol, abs=0), check


@pytest.mark.parametrize("name", NAMES)
def test_source_grade_and_range_are_stated(name):
    about = fits.load(name).about
    assert len(about["source"]) > 20
    assert about["grade"].split()[0].rstrip(":;,") in ("primary", "secondary", "reproduced", "derived")
    assert about["units"]
    assert "memory" not in json.dumps(about).lower()


def test_contradictions_are_mutual():
    for name in NAMES:
        for other in fits.load(name).about.get("contradicts", []):
            assert name in fits.load(other).about["contradicts"], (name, other)


def test_every_law_is_described():
    for law in LAWS.values():
        assert law.formula, law.name
        assert law.source, law.name


def test_files_carry_their_checksum():
    folders = (resources.files("fits").joinpath(folder) for folder in ("published", "refitted"))
    for entry in (entry for folder in folders for entry in folder.iterdir() if entry.name.endswith(".json")):
        assert "checksum" in json.loads(entry.read_text()), entry.name
