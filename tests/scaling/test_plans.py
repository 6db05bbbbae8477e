"""Plans as lists, as objects, over learning rates and every field; what they cost, and which runs come first."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

import models
from scaling import InputError, Plan, RunConfig, priorities, timings
from scaling.engines.queues import shape_of
from scaling.plan import Job, read_plan
from scaling.plan_tables import Budgets, Ladder
from scaling.sweep_command import duration
from scaling.sweeps import prepare

SHAPE: dict[str, Any] = {"ladder": {"widths": [32], "context": 32}, "budgets": {"flops": [4e10]}}


def test_a_list_of_configurations_is_a_plan_of_exactly_these():
    configs = [
        RunConfig(models.ladder(32, context=32, experts=4, experts_per_token=2), 10**6, seed=3, learning_rate=2e-3, optimizer="muon"),
        RunConfig(models.ModelConfig(layers=1, width=30, heads=3, context=16, norm="layer"), 10**5, arm="odd", warmup=0.0, epochs=2),
    ]
    assert [job.config for job in read_plan(configs).jobs()] == configs
    with pytest.raises(InputError, match="share one corpus"):
        read_plan([configs[0], dataclasses.replace(configs[1], corpus="other")])


def test_a_listed_run_has_its_own_fields_and_else_those_of_the_plan():
    plan = read_plan(
        {
            "runs": [
                {"width": 32, "flops": 4e10, "context": 64, "precision": "bf16", "kv_heads": 1, "holdout": True},
                {"width": 30, "layers": 1, "heads": 3, "tokens": 10**5, "seed": 7, "learning_rate": 0.5, "arm": "odd"},
            ],
            "train": {"seeds": [1, 2], "learning_rates": [1e-3, 3e-3], "weight_decay": 0.25, "precision": "fp16"},
        }
    )
    first, odd = ([job for job in plan.jobs() if job.config.arm == arm] for arm in ("dense", "odd"))
    assert sorted((job.config.seed, job.config.peak) for job in first) == [(1, 1e-3), (1, 3e-3), (2, 1e-3), (2, 3e-3)]
    assert {job.config.model for job in first} == {models.ladder(32, context=64, kv_heads=1)}
    assert {(job.config.precision, job.config.weight_decay, job.holdout, job.budget) for job in first} == {("bf16", 0.25, True, 4e10)}
    assert all(0.98 < job.flops / 4e10 <= 1 for job in first)
    (job,) = odd
    assert job.config == RunConfig(
        models.ModelConfig(layers=1, width=30, heads=3), 10**5, seed=7, learning_rate=0.5, arm="odd", weight_decay=0.25, precision="fp16"
    )


def test_an_arm_takes_any_field_and_its_own_seeds_and_rates():
    arms: list[Any] = [
        {"name": "base"},
        {"name": "deep", "layers": 5, "remat": "blocks", "warmup": 0.0, "batch": 4, "seeds": [9], "learning_rates": [1e-3, 1e-2]},
    ]
    base, *deep = read_plan(SHAPE | {"arms": arms, "train": {"seeds": [0], "batch": 2}}).jobs()
    assert (base.config.sequences, base.config.seed, base.config.peak) == (2, 0, RunConfig(base.config.model, base.config.tokens).peak)
    assert [(job.config.seed, job.config.peak) for job in deep] == [(9, 1e-3), (9, 1e-2)]
    assert {(job.config.model.layers, job.config.remat, job.config.warmup, job.config.sequences) for job in deep} == {(5, "blocks", 0.0, 4)}


def test_a_corpus_of_other_symbols_gives_models_of_so_many():
    assert {job.config.model.vocab_size for job in Plan(**SHAPE).jobs(vocab_size=1000)} == {1000}


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({}, r"give \[ladder\] and \[budgets\], or a list of \[\[runs\]\]"),
        ({"ladder": {"widths": [16]}}, "ladder and budgets go together"),
        ({"runs": [{"width": 32}]}, "runs.0: give tokens or flops"),
        ({"runs": [{"width": 32, "tokens": 10**6, "flops": 1e10}]}, "runs.0: give tokens or flops"),
        ({"runs": [{"tokens": 10**6}]}, "runs.0: width is missing"),
        ({"runs": [{"width": 32, "tokens": 10**6, "expert": 4}]}, "unknown key 'runs.0.expert'"),
        ({"runs": [{"width": 32, "tokens": 10**6, "corpus": "mine"}]}, "unknown key 'runs.0.corpus'"),
        ({"runs": [{"width": 32, "tokens": 10**6}, {"width": 32, "tokens": 10}]}, "runs.1: tokens = 10 is too few"),
        ({"runs": [{"width": 32, "tokens": 10**6, "softcap": math.inf}]}, "runs.0.softcap"),
        ({"runs": [{"width": 32, "tokens": 10**6}], "arms": [{"name": "dense"}]}, "a run of a list names its own arm"),
        (SHAPE | {"train": {"learning_rate": 1e-3, "learning_rates": [1e-3]}}, "learning_rate or learning_rates, not both"),
        (SHAPE | {"train": {"learning_rates": [1e-3, 1e-3]}}, "train.learning_rates: 0.001 is there twice"),
        (SHAPE | {"train": {"learning_rates": [0.0]}}, "train.learning_rates.0"),
        (SHAPE | {"arms": [{"name": "a", "seeds": [1, 1]}]}, "arms.a.seeds: 1 is there twice"),
        (SHAPE | {"arms": [{"name": "a", "width": 64}]}, "unknown key 'arms.0.width'"),
        (SHAPE | {"arms": [{"name": "a", "layers": 0}]}, "arm 'a' at 4e.10 FLOP: layers must be at least 1"),
    ],
)
def test_bad_plans_name_the_key(plan, says):
    with pytest.raises(InputError, match=says) as caught:
        read_plan(plan).jobs()
    assert "\n" not in str(caught.value)


def test_data_are_repeated_only_by_a_plan_that_says_so(text_folder):
    run = {"width": 16, "context": 32, "tokens": 3 * 10**6}
    with pytest.raises(InputError, match=r"arm 'dense', width 16.*set epochs = \d"):
        prepare({"corpus": str(text_folder), "runs": [run]})
    ((_, job),) = prepare({"corpus": str(text_folder), "runs": [run | {"epochs": 9}]}).jobs.items()
    assert job.config.epochs == 9


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5d", 129600), ("1h 5m", 3900)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-1h", "0s", "1h2"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError, match="--time"):
        duration(text)


def _jobs(budgets, widths=(16, 32, 64, 128)):
    return Plan(ladder=Ladder(widths=list(widths)), budgets=Budgets(flops=budgets)).jobs()


def test_information_comes_first_and_a_second_seed_of_a_run_last():
    """Of equal costs, runs far apart are chosen before one next to a run that was made already."""
    jobs = _jobs([1e10, 1e11, 1e12])
    made = [job for job in jobs if job.budget == 1e10]
    rest = [job for job in jobs if job.budget != 1e10]
    again = [Job(dataclasses.replace(job.config, seed=1), job.budget, False) for job in made]
    order = priorities.in_order([*again, *rest], dict.fromkeys([*again, *rest], 1.0), made)
    assert order[0].budget == 1e12
    assert {job.budget for job in order[: len(rest) // 2]} <= {1e11, 1e12}
    # With costs as they are, runs that cost a hundredth are worth making first.
    by_cost = priorities.in_order(jobs, {job: job.flops for job in jobs})
    assert by_cost[0].budget == 1e10
    assert sorted(by_cost, key=jobs.index) == jobs


def test_the_order_reduces_the_expected_error_faster_than_the_plan_s_own():
    """Against the variance itself, not the search's account of it: the first half by the order beats the first half of the plan."""
    import numpy as np

    jobs = _jobs([1e10, 3e10, 1e11, 3e11, 1e12])
    order = priorities.in_order(jobs, dict.fromkeys(jobs, 1.0))
    points = {job: np.log([priorities._size(job), priorities._tokens(job)]) for job in jobs}
    middle = np.mean(list(points.values()), axis=0)
    slope = priorities._gradients(priorities._goal(jobs, middle)[None])[0]

    def variance(chosen):
        rows = priorities._gradients(np.stack([points[job] - middle for job in chosen])) / priorities.NOISE
        return slope @ np.linalg.solve(rows.T @ rows + np.eye(5) / priorities.PRIOR_SD**2, slope)

    half = len(jobs) // 2
    assert variance(order[:half]) < variance(jobs[:half]) / 2
    assert variance(order[:half]) < variance(jobs[half:]) * 1.05


def test_what_fits_is_taken_in_order_and_nothing_more():
    jobs = _jobs([1e10, 1e11])
    seconds = {job: float(place + 1) for place, job in enumerate(jobs)}
    estimate = timings.Expected(seconds, {shape_of(job.config): 0.5 for job in jobs}, 2, "")
    taken = estimate.fitting(list(reversed(jobs)), limit=4.0)
    assert taken[0] is jobs[3]  # those before it take longer by themselves
    assert estimate.wall_seconds(taken) <= 4
    assert all(estimate.wall_seconds([*taken, job]) > 4 for job in jobs if job not in taken)
    # A shape's compilation is counted once, whatever the number of its runs.
    same = [job for job in jobs if job.config.model == jobs[0].config.model]
    assert estimate.wall_seconds(same) == max(sum(seconds[job] for job in same) + 0.5, 2 * max(seconds[job] for job in same)) / 2


def test_expected_times_follow_measured_shapes_and_their_neighbours(monkeypatch):
    jobs = _jobs([1e11], widths=(16, 32, 64))
    rates = {16: 1e9, 64: 4e9}

    def measured(configs, workers, deadline):
        return {config: timings.Timing(rates[config.model.width], 2.0) for config in configs if config.model.width in rates}

    monkeypatch.setattr(timings, "_measure", measured)
    found = timings.expected(jobs, workers=2)
    assert found.reading.startswith("2 of 3 shapes measured (2 now")
    by_width = {job.config.model.width: (found.seconds[job], job) for job in jobs}
    for width, rate in rates.items():
        seconds, job = by_width[width]
        evaluation = models.training_flops(job.config.model).training / 3 * job.config.validation_tokens
        assert seconds == pytest.approx((job.flops + evaluation) / rate)
    between = by_width[32][1].flops / by_width[32][0]
    assert 0.5e9 < between < 4e9
    monkeypatch.setattr(timings, "_measure", lambda *_: pytest.fail("what was measured is kept"))
    assert timings.expected([by_width[16][1], by_width[64][1]], workers=2).reading.startswith("2 of 2 shapes measured (0 now")
