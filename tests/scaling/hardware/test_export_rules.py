"""Export rules: verdicts derived from figures against the statuses that sources list, edges of the thresholds, dates, own chips."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

import scaling
from scaling import Chip, InputError, export_control
from scaling.hardware.answers import built_around
from scaling.hardware.export_rules import STATUSES, in_force, memory_control, rule, rules, verdicts

TABLE = [chip for chip in scaling.chips() if chip.origin == "table"]
# What the sources' notes on a chip say, by how the note begins (longest first). A note on 2025 and after also names the rule it is about.
LISTED_3A090 = {
    "below 3A090": "not_controlled",
    "exempt": "not_controlled",
    "made to stay below 3A090": "not_controlled",
    "3A090": "controlled",
    "not a US item": "not_applicable",
    "sold only as a cloud service": "not_applicable",
}
LISTED_SINCE_2025 = {
    "within the limits for case-by-case review": ("jan2026", "case_by_case"),
    "the limits for case-by-case review of January 2026 were set around it": ("jan2026", "case_by_case"),
    "case-by-case review since January 2026": ("jan2026", "case_by_case"),
    "above the limits for case-by-case review": ("jan2026", "controlled"),
    "licence by the letter of April 2025": ("apr2025", "licence"),
    "licence from April 2025": ("apr2025", "licence"),
    "guidance of May 2025": ("may2025", "licence"),
    "sold only as a cloud service": ("jan2026", "not_applicable"),
}


def listed(note, meanings):
    return next(meaning for start, meaning in sorted(meanings.items(), key=lambda item: -len(item[0])) if note.startswith(start))


def own(tpp, die_area_mm2=None, **more):
    """A chip of that TPP, all of it in bf16."""
    plain = Chip("mine", bf16=tpp / 16, die_area_mm2=die_area_mm2, mem_bw_gbps=1000, scaleup_bidir_gbps=100)
    return dataclasses.replace(plain, **more)


def test_every_status_that_the_sources_list_follows_from_the_figures():
    compared = 0
    for chip in TABLE:
        notes = [("oct2022", chip.us_control_oct2022), ("oct2023", chip.us_control_oct2023)]
        wanted = [(name, listed(note, LISTED_3A090)) for name, note in notes if note]
        wanted += [listed(chip.us_control_2025_on, LISTED_SINCE_2025)] if chip.us_control_2025_on else []
        for name, status in wanted:
            verdict = export_control(chip, name)
            assert verdict.status == status, (chip.name, name, verdict)
            assert verdict.reason
            compared += 1
    assert compared == 116  # cells of the table that are not empty


def test_only_what_letters_name_or_sources_state_is_not_decided_by_figures():
    found = {(v.on, v.chip): v.basis for chip in TABLE for v in verdicts(chip) if v.rule == v.on and v.basis != "figures"}
    assert found.pop(("oct2023", "MI308X")) == "stated"  # its rates are not published
    assert {on for on, _ in found} == {"aug2022", "apr2025", "may2025", "jul2025"}
    assert set(found.values()) == {"named"}
    unnamed = scaling.chip("MI308X")
    assert export_control(Chip("mine", mem_bw_gbps=5300, scaleup_bidir_gbps=896), "oct2023").status == "unknown"
    assert export_control(unnamed, "oct2022").status == "unknown"


@pytest.mark.parametrize(
    ("on", "chip", "status", "tier"),
    [
        ("oct2022", own(4800, scaleup_bidir_gbps=600.0), "controlled", "3A090"),
        ("oct2022", own(4799, scaleup_bidir_gbps=600.0), "not_controlled", ""),
        ("oct2022", own(99999, scaleup_bidir_gbps=599.0), "not_controlled", ""),
        ("oct2023", own(4800), "controlled", "3A090.a"),
        ("oct2023", own(4799, 4799 / 1.59), "not_controlled", ""),
        ("oct2023", own(4799, 4799 / 1.6), "controlled", "3A090.b"),
        ("oct2023", own(2400, 2400 / 1.6), "controlled", "3A090.b"),
        ("oct2023", own(2399, 2399 / 3.19), "not_controlled", ""),
        ("oct2023", own(1600, 1600 / 3.2), "controlled", "3A090.b"),
        ("oct2023", own(1600, 1600 / 5.92), "controlled", "3A090.a"),
        ("oct2023", own(1600, 1600 / 5.91), "controlled", "3A090.b"),
        ("oct2023", own(1599, 10.0), "not_controlled", ""),
        ("oct2023", own(4799, 10.0, datacentre=False), "not_controlled", ""),
        ("oct2023", own(4800, 10.0, datacentre=False), "controlled", "3A090.a"),
        ("oct2023", own(2000), "unknown", ""),
        ("oct2023", own(1500), "not_controlled", ""),  # no density can matter below 1600
        ("oct2023", own(9000, us_item=False), "not_applicable", ""),
        ("apr2025", own(1000, mem_bw_gbps=4000.0), "licence", "memory of the H20"),
        ("apr2025", own(1000, scaleup_bidir_gbps=900.0), "licence", "links of the H20"),
        ("apr2025", own(1000, mem_bw_gbps=1399.0, scaleup_bidir_gbps=301.0), "licence", "Intel's letter"),
        ("apr2025", own(1000, mem_bw_gbps=1399.0, scaleup_bidir_gbps=300.0), "not_controlled", ""),
        ("apr2025", own(9000, mem_bw_gbps=4000.0), "controlled", "3A090.a"),
        ("jan2026", own(20999, mem_bw_gbps=6499.0), "case_by_case", "3A090.a"),
        ("jan2026", own(21000, mem_bw_gbps=6499.0), "controlled", "3A090.a"),
        ("jan2026", own(20999, mem_bw_gbps=6500.0), "controlled", "3A090.a"),
        ("jan2026", own(1000), "not_controlled", ""),
        ("dec2024", own(9000), "not_applicable", ""),
    ],
)
def test_own_chips_at_the_edges(on, chip, status, tier):
    verdict = export_control(chip, on)
    assert (verdict.status, verdict.tier) == (status, tier), verdict
    assert verdict.status in STATUSES
    assert verdict.tpp == chip.tpp


def test_tpp_is_the_largest_over_formats_without_tf32():
    assert Chip("mine", fp32=10, tf32=1000, bf16=20, int8=50, fp4=101).tpp == 404
    assert Chip("mine", tf32=1000).tpp is None


def test_notified_advanced_computing_is_open_to_all_but_datacentre_parts_of_the_first_tier():
    exceptions = {name: export_control(name, "oct2023").exception for name in ("RTX 4090", "RTX 5090", "H100", "L40S")}
    assert exceptions == {"RTX 4090": "NAC", "RTX 5090": "NAC", "H100": "", "L40S": ""}
    assert export_control(own(3000, 1000.0), "oct2023").exception == "NAC"


def test_the_h20_over_time():
    wanted = {
        "2022-01-01": ("not_controlled", ""),
        "2023-11-16": ("not_controlled", "oct2022"),
        "2023-11-17": ("not_controlled", "oct2023"),
        "2025-04-08": ("not_controlled", "oct2023"),
        "2025-04-09": ("licence", "apr2025"),
        "2025-08-01": ("licence", "jul2025"),
        "2026-02-01": ("licence", "jul2025"),
    }
    found = {day: export_control("H20", day) for day in wanted}
    assert {day: (each.status, each.rule) for day, each in found.items()} == wanted
    assert found["2023-11-17"].reason == "below every line: TPP 2368 < 2400 and performance density 2.909 < 3.2"
    assert found["2023-11-17"].on == "2023-11-17"


@pytest.mark.parametrize(
    ("day", "status", "by"),
    [
        ("2022-10-20", "not_controlled", "aug2022"),
        ("2022-10-21", "not_controlled", "oct2022"),
        ("2023-10-22", "not_controlled", "oct2022"),
        ("2023-10-23", "licence", "oct2023-letter"),
        ("2023-11-17", "controlled", "oct2023"),
        ("2025-05-15", "controlled", "oct2023"),  # the framework of January 2025 was withdrawn two days before
        ("2026-01-14", "controlled", "oct2023"),
        ("2026-01-15", "case_by_case", "jan2026"),
        ("2026-06-01", "case_by_case", "jan2026"),
    ],
)
def test_the_a800_changes_status_on_the_day_that_a_rule_comes_into_force(day, status, by):
    verdict = export_control("A800", datetime.date.fromisoformat(day))
    assert (verdict.status, verdict.rule) == (status, by)


def test_destinations():
    status = {where: export_control("H100", "oct2023", destination=where).status for where in ("China", "D:5", "D:1", "elsewhere")}
    assert status == {"China": "controlled", "D:5": "controlled", "D:1": "licence", "elsewhere": "not_controlled"}
    assert export_control("H100", "oct2022", destination="D:5").status == "not_controlled"
    assert export_control("H100", "ai-diffusion", destination="elsewhere").status == "licence"
    assert export_control("H200", "jan2026", destination="D:5").status == "controlled"  # the review is for China and Macau
    assert export_control("910B", "may2025", destination="elsewhere").status == "licence"


def test_memory_sold_by_itself():
    stacks = {density: memory_control(100 * density, 100) for density in (2.0, 2.01, 3.29, 3.3)}
    assert [(each.status, each.exception) for each in stacks.values()] == [
        ("not_controlled", ""),
        ("controlled", "HBM"),
        ("controlled", "HBM"),
        ("controlled", ""),
    ]
    with pytest.raises(InputError, match="package_mm2 must be a positive"):
        memory_control(800, 0)
    with pytest.raises(InputError, match="is not about memory"):
        memory_control(800, 100, on="oct2023")


def test_chips_that_rules_were_built_around():
    def names(each):
        around = built_around(each)
        return {near.chip for near in around.drawn_at}, {near.chip for near in around.answers}

    a100 = {"A100-SXM-40GB", "A100-SXM-80GB", "A100-PCIe-80GB"}
    assert names("oct2022") == (a100, {"A800-SXM-80GB", "H800-SXM"})
    assert names("oct2023") == (a100 | {"A800-SXM-80GB"}, {"H20", "L20", "L2", "RTX 4090D", "MI308X"})
    assert names("apr2025") == ({"H20", "MI308X"}, set())
    assert names("jan2026") == ({"MI325X"}, set())
    short = {near.chip: near.figures for near in built_around("oct2023").answers}
    assert short["H20"]["tpp"][:2] == (2368, 2400)
    assert short["L20"]["density"] == pytest.approx((3.14, 3.2, 0.981), abs=1e-3)
    mine = own(4790, scaleup_bidir_gbps=700.0, release_date=datetime.date(2023, 1, 1))
    assert [near.chip for near in built_around("oct2022", [mine]).answers] == ["mine"]


def test_rules_by_name_alias_citation_and_day_of_announcement():
    for asked in ("oct2023", "October 2023", "88 FR 73458", "2023-10-17"):
        assert rule(asked).name == "oct2023"
    assert export_control("H100", "88 FR 73458").rule == "oct2023"
    assert in_force(datetime.date(2022, 8, 25)) is None
    for each in rules():
        assert each.announced <= each.in_force, each.name
        assert each.builds_on is None or rule(each.builds_on).announced <= each.announced, each.name
        assert set(each.destinations.values()) <= {*STATUSES}, each.name
        assert all(scaling.chip(name).name == name for name in (*each.named, *each.stated)), each.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"chip": "H20", "on": "oct2032"}, "neither a date (2023-11-17) nor a rule; did you mean oct2023"),
        ({"chip": "H20", "on": "2023-02-30"}, "not a day of the calendar"),
        ({"chip": "H21"}, "did you mean"),
        ({"chip": "H20", "destination": "Mars"}, "destination 'Mars' is not known; there are China, D:5"),
    ],
)
def test_bad_questions(arguments, says):
    with pytest.raises(InputError) as caught:
        export_control(**arguments)
    assert says in str(caught.value)
