"""Estimates of training runs: published runs, the search against brute force, cost, and bad input."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

import scaling
from scaling.errors import InputError
from scaling.hardware import memory
from scaling.hardware.architecture import Architecture
from scaling.hardware.constants import load, speed
from scaling.hardware.devices import device
from scaling.hardware.search import FULLEST, MICRO_BATCHES, best_layout
from scaling.hardware.software import software
from scaling.hardware.workload import Layout, Workload, check

SMALL = Architecture(8, 2048, 16, 4, 128, 8192, 32000, experts=8, experts_per_token=2, expert_width=2048, moe_layers=8)


def test_deepseek_v3_on_h800():
    """180 thousand H800 hours a trillion tokens, 2048 chips (arXiv 2412.19437, table 1)."""
    layout = Layout(pipeline=16, expert=64, data=128, micro_batch=1, recompute="selective")
    found = scaling.estimate_training(
        "deepseek-v3",
        chip="H800",
        chips=2048,
        tokens=1e12,
        batch=15360,
        format="fp8",
        layout=layout,
        framework="HAI-LLM (DualPipe)",
        allow_overflow=True,
    )
    assert found.low < 1e12 / (180e3 * 3600) < found.high


def test_llama_405b_hours():
    """30.84 million H100 hours (model card), 15.6 trillion tokens (arXiv 2407.21783)."""
    found = scaling.estimate_training("llama-3.1-405b", chip="H100", chips=16384, tokens=15.6e12, batch=2048)
    assert found.fits
    assert found.layouts_timed > 50
    assert found.cost is not None
    low, high = found.cost.hours_band
    assert low * 16384 < 30.84e6 < high * 16384


def test_utilisation_counts_what_is_recomputed():
    """Full recomputation: HFU is 4/3 of MFU, a little less as the head is computed once (arXiv 2205.05198, section 5)."""
    layout = Layout(tensor=8, pipeline=8, data=1, micro_batch=1, recompute="full")
    found = scaling.estimate_training("gpt-3-175b", chip="A100", chips=64, batch=64, layout=layout, allow_overflow=True)
    assert found.hfu / found.mfu == pytest.approx(4 / 3, rel=0.01)
    plain = scaling.estimate_training(
        "gpt-3-175b", chip="A100", chips=64, batch=64, layout=dataclasses.replace(layout, recompute="none"), allow_overflow=True
    )
    assert plain.hfu == plain.mfu


def test_figures_hang_together():
    found = scaling.estimate_training("llama-3.1-8b", chip="H100", chips=64, tokens=1e12)
    assert found.tok_per_s_per_chip == pytest.approx(found.batch * found.sequence / (64 * found.step_s))
    assert found.mfu == pytest.approx(found.tok_per_s_per_chip * found.flops_per_token / 989.4e12)
    assert found.low < found.tok_per_s_per_chip < found.high
    assert found.chip_hours == pytest.approx(1e12 / found.tok_per_s_per_chip / 3600 / 0.875)
    assert found.cost is not None
    assert found.cost.usd_rent == pytest.approx(found.cost.chip_hours * 3.95)
    assert found.memory_gb < 80
    assert sum(found.breakdown.values()) > 0.9 * found.step_s


def test_goodput_divides_hours():
    def ask(goodput: float) -> float:
        return scaling.estimate_training("llama-3.1-8b", chip="H100", chips=8, tokens=1e10, goodput=goodput).hours or 0.0

    assert ask(0.5) == pytest.approx(2 * ask(1.0))


def brute_force(base: Workload, chips: int) -> float:
    """The best speed over all layouts of small whole numbers."""
    best = 0.0
    powers = [1, 2, 4, 8]
    for tensor, pipeline, expert, zero, micro, chunks in itertools.product(powers, powers, powers, (0, 1, 3), MICRO_BATCHES, (1, 2, 4, 8)):
        if chips % (tensor * pipeline) or (zero == 3 and pipeline > 1):
            continue
        data = chips // (tensor * pipeline)
        if (zero == 0) != (data == 1) or base.batch % (data * micro) or base.batch // (data * micro) < pipeline:
            continue
        even = base.batch // (data * micro) % pipeline == 0 and base.architecture.layers % (pipeline * chunks) == 0
        if chunks > 1 and (pipeline == 1 or not even):
            continue
        for recompute in ("none", "selective", "full"):
            layout = Layout(tensor, pipeline, chunks, 1, expert, data, zero, micro, recompute)
            work = dataclasses.replace(base, layout=layout)
            try:
                check(work)
            except InputError:
                continue
            if memory.memory(work).total <= FULLEST * work.device.memory:
                best = max(best, speed(load(), work)[0])
    return best


@pytest.mark.parametrize(("chip", "chips"), [("RTX 4090", 8), ("A100-SXM-40GB", 8), ("H20", 4)])
def test_search_finds_what_brute_force_finds(chip, chips):
    base = Workload(SMALL, device(scaling.chip(chip)), Layout(), 2048, 64, software=software("Megatron-Core 2024"))
    work, timed = best_layout(base, chips, load())
    assert timed > 5
    assert speed(load(), work)[0] == pytest.approx(brute_force(base, chips), rel=1e-12)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(tensor=3, data=8), r"heads = 32 do not divide by tensor = 3; 2 or 4 would"),
        (Layout(data=24), r"batch = 64 do not divide by data x micro_batch = 24"),
        (Layout(pipeline=64), r"32 layers are too few for pipeline x pipeline_chunks = 64"),
        (Layout(data=8, expert=8), r"expert = 8, but the model has no experts"),
        (Layout(data=8, recompute="most"), r"recompute one of none, selective, some, full"),
        (Layout(data=8, zero=4), r"zero is 0 to 3"),
    ],
)
def test_layouts_that_do_not_divide(layout, words):
    with pytest.raises(InputError, match=words):
        scaling.estimate_training("llama-3.1-8b", chip="H100", chips=layout.chips, batch=64, layout=layout)


def test_fewer_experts_than_ranks():
    with pytest.raises(InputError, match=r"8 experts do not divide by expert = 16; 4 or 8 would"):
        scaling.estimate_training("mixtral-8x7b", chip="H100", chips=16, batch=64, layout=Layout(data=16, expert=16))


def test_a_format_that_the_chip_lacks():
    with pytest.raises(InputError, match=r"A100-SXM-80GB has no fp8.*it has fp32, tf32, bf16, int8"):
        scaling.estimate_training("llama-3.1-8b", chip="A100", chips=8, format="fp8")
    with pytest.raises(InputError, match="format must be one of bf16"):
        scaling.estimate_training("llama-3.1-8b", chip="A100", chips=8, format="fp12")


def test_memory_that_does_not_fit():
    """By how much, and the smallest change that would; which does, and the change before it does not."""
    layout = Layout(data=8, zero=1, micro_batch=1)
    with pytest.raises(InputError, match=r"GB a chip are needed and A100-SXM-80GB has 80 GB, [\d.]+ GB too little; .* would fit") as caught:
        scaling.estimate_training("llama-3.1-8b", chip="A100", chips=8, batch=64, layout=layout)
    assert "recompute full would fit" in str(caught.value)
    full = dataclasses.replace(layout, recompute="full")
    assert scaling.estimate_training("llama-3.1-8b", chip="A100", chips=8, batch=64, layout=full).fits
    with pytest.raises(
        InputError,
        match=r"no layout of 8 x RTX 4090 holds this model: the leanest needs [\d.]+ GB a chip of 24 GB .*; about \d+ chips would",
    ):
        scaling.estimate_training("llama-3.1-70b", chip="RTX 4090", chips=8, batch=64)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"chips": 0}, "chips must be positive"),
        ({"tokens": float("nan")}, "tokens must be positive and finite"),
        ({"goodput": 1.5}, "goodput is a share"),
    ],
)
def test_odd_numbers(more, words):
    with pytest.raises(InputError, match=words):
        scaling.estimate_training("llama-3.1-8b", **({"chip": "H100", "chips": 8} | more))


def test_a_layout_of_other_chips():
    with pytest.raises(InputError, match=r"= 8 chips, not 16"):
        scaling.estimate_training("llama-3.1-8b", chip="H100", chips=16, layout=Layout(data=8))
