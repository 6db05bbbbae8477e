"""Serving: the roofline's two ends, cache sizes by hand, ratios of H20 to H100, monotonicity, and bad input."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import scaling
from scaling.cli import main
from scaling.errors import InputError
from scaling.hardware.architecture import preset
from scaling.hardware.roofline import USUAL, cache_bytes


@pytest.mark.parametrize(
    ("model", "elements"),
    [
        ("llama-2-7b", 32 * 2 * 32 * 128),  # MHA
        ("llama-3.1-70b", 80 * 2 * 8 * 128),  # GQA: 327,680 bytes a token in 16 bits (arXiv 2505.09343, table 1, gives 516 kB for 405B)
        ("llama-3.1-405b", 126 * 2 * 8 * 128),
        ("deepseek-v3", 61 * (512 + 64)),  # MLA: 70.272 kB a token in 16 bits, as printed there
    ],
)
def test_cache_by_hand(model: str, elements: int):
    assert cache_bytes(preset(model), 1000) == 1000 * 2 * elements
    assert cache_bytes(preset(model), 1000, bits=8) == 1000 * elements


def test_printed_cache_sizes():
    """arXiv 2505.09343, table 1: kB a token in bf16 of DeepSeek-V3 and Llama 3.1 405B."""
    assert cache_bytes(preset("deepseek-v3"), 1) / 1000 == pytest.approx(70.272)
    assert cache_bytes(preset("llama-3.1-405b"), 1) / 1000 == pytest.approx(516.096)


def test_windowed_layers_hold_their_window():
    full = dataclasses.replace(preset("llama-3.1-8b"), windowed=0.0)
    windowed = dataclasses.replace(full, windowed=0.75, window=1024)
    assert cache_bytes(windowed, 512) == cache_bytes(full, 512)
    assert cache_bytes(windowed, 8192) == pytest.approx(cache_bytes(full, 8192) * (0.25 + 0.75 / 8))


def test_decode_bound_by_bandwidth_is_bytes_over_bandwidth():
    """One sequence on one chip: every weight but the input embedding and the whole cache are read for a token."""
    arch = preset("llama-3.1-8b")
    found = scaling.estimate_inference(arch, chip="H100", batch=1, context=8192)
    read = 2 * (arch.params - arch.head_params) + 8192 * 2 * 32 * 2 * 8 * 128
    assert found.decode.bound == "bandwidth"
    assert found.time_per_output_token_s == pytest.approx(read / (3350e9 * USUAL.bandwidth), rel=1e-6)
    assert found.decode.tok_per_s_per_chip == pytest.approx(1 / found.time_per_output_token_s)
    assert found.weights_gb == pytest.approx(2 * arch.params / 1e9)


def test_prefill_bound_by_compute_is_flops_over_rate():
    """A long dense prompt: 2 FLOPs a parameter and token, attention beside it; no utilisation above the best product's share."""
    arch = preset("llama-3.1-8b")
    found = scaling.estimate_inference(arch, chip="H100", prompt=8192, context=8192)
    assert found.prefill.bound == "compute"
    flops = 2 * (arch.params - 2 * arch.head_params) + arch.attention_flops(8192)
    used = found.prefill.tok_per_s_per_chip * flops / 989.4e12
    assert 0.35 < used <= USUAL.compute * 794.5 / 989.4


def test_h20_against_h100():
    """119% of the bandwidth decodes as much faster; 15% of the rate prefills as much slower."""
    h20, h100 = (scaling.estimate_inference("llama-3.1-8b", chip=name, batch=1, context=2048) for name in ("H20", "H100"))
    assert h20.decode.tok_per_s_per_chip / h100.decode.tok_per_s_per_chip == pytest.approx(4000 / 3350, rel=1e-6)
    assert h20.prefill.tok_per_s_per_chip / h100.prefill.tok_per_s_per_chip == pytest.approx(0.15, abs=0.003)


def test_the_latent_turns_the_h20_around():
    """MLA multiplies 242 times for a byte of 16-bit cache: far above the H20's ridge of 37 FLOP/byte, and near the H100's of 295."""

    def ratio(model: str) -> float:
        h20, h100 = (
            scaling.estimate_inference(model, chip=name, chips=64, batch=64, context=100_000, format="fp8") for name in ("H20", "H100")
        )
        return h20.decode.tok_per_s_per_chip / h100.decode.tok_per_s_per_chip

    assert ratio("deepseek-v3") < 0.5
    assert ratio("llama-3.1-405b") > 0.95


def test_monotone():
    def ask(**changes: Any) -> scaling.Inference:
        given: dict[str, Any] = {"model": "llama-3.1-70b", "chip": "H100", "chips": 8, "batch": 32}
        return scaling.estimate_inference(**(given | changes))

    base = ask()
    assert ask(batch=64).decode.tok_per_s_per_chip > base.decode.tok_per_s_per_chip
    assert ask(batch=64).time_per_output_token_s > base.time_per_output_token_s
    assert ask(context=8192).time_per_output_token_s > base.time_per_output_token_s
    assert ask(context=8192).largest_batch < base.largest_batch
    assert ask(prompt=8192).time_to_first_token_s > 2 * base.time_to_first_token_s * 0.99
    assert ask(format="fp8").decode.tok_per_s_per_chip > base.decode.tok_per_s_per_chip
    assert ask(cache_format="fp8").largest_batch > 1.9 * base.largest_batch
    assert ask(chips=4).decode.tok_per_s_per_chip > base.decode.tok_per_s_per_chip * 0.5
    assert ask(chip="H200").decode.tok_per_s_per_chip > base.decode.tok_per_s_per_chip
    assert base.decode.low < base.decode.tok_per_s_per_chip < base.decode.high
    assert base.time_per_output_token_band[0] < base.time_per_output_token_s < base.time_per_output_token_band[1]


def test_largest_batch_is_the_largest():
    found = scaling.estimate_inference("llama-3.1-8b", chip="RTX 4090", format="fp8")
    assert found.batch == found.largest_batch
    assert found.fits
    assert found.weights_gb + found.cache_gb <= found.memory_available_gb
    with pytest.raises(InputError, match=f"a batch of {found.largest_batch} would fit"):
        scaling.estimate_inference("llama-3.1-8b", chip="RTX 4090", format="fp8", batch=found.largest_batch + 1)
    beyond = scaling.estimate_inference("llama-3.1-8b", chip="RTX 4090", format="fp8", batch=found.largest_batch + 1, allow_overflow=True)
    assert not beyond.fits


def test_dollars_and_energy_of_a_million_tokens():
    found = scaling.estimate_inference("llama-3.1-70b", chip="H100", chips=8, batch=64)
    hours = 1e6 / (8 * found.decode.tok_per_s_per_chip) / 3600
    assert found.decode.cost.usd_rent == pytest.approx(8 * 3.95 * hours)
    assert found.decode.cost.energy_kwh == pytest.approx(8 * 0.7 * 0.8 * 1.4 * 1.2 * hours)
    idle = scaling.estimate_inference("llama-3.1-70b", chip="H100", chips=8, batch=64, busy=0.25)
    busy, seldom = found.decode.cost.usd_buy, idle.decode.cost.usd_buy
    assert busy
    assert seldom == pytest.approx(4 * busy)


@pytest.mark.parametrize(
    ("chip", "chips", "context", "prefill", "decode"),
    [
        # Tokens a second and chip, SGLang on DeepSeek-V3/R1. H100: 52.3k in, 22.3k out a node at 2,000 tokens, 32 chips prefill and 72 decode
        # (lmsys.org, 2025-05-05). GB200: 18,471 in, 9,087 out a chip, 16-bit attention (lmsys.org, 2025-09-25).
        ("H100", (32, 72), 2000, 52.3e3 / 8, 22.3e3 / 8),
        ("GB200", (8, 48), 2000, 18471, 9087),
    ],
)
def test_published_deployments_lie_in_the_band(chip: str, chips: tuple[int, int], context: int, prefill: float, decode: float):
    filled, served = (
        scaling.estimate_inference("deepseek-v3", chip=chip, chips=each, context=context, format="fp8", tensor=1) for each in chips
    )
    assert filled.prefill.low < prefill < filled.prefill.high
    assert served.decode.low < decode < served.decode.high


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chip": "H21"}, "did you mean"),
        ({"model": "llama-9"}, "nearest"),
        ({"batch": 0}, "batch must be positive"),
        ({"batch": 1.5}, "batch must be a whole number"),
        ({"context": float("nan")}, "context must be positive"),
        ({"prompt": -1}, "prompt must be positive"),
        ({"chips": 0}, "chips must be positive"),
        ({"format": "fp4"}, "has no fp4"),
        ({"format": "fp32"}, "format must be one of"),
        ({"cache_format": "int3"}, "cache_format must be one of"),
        ({"busy": 0}, "busy is a share"),
        ({"tensor": 3}, "tensor must divide"),
        ({"chips": 1}, "about 2 chips"),
    ],
)
def test_bad_input(changes: dict[str, Any], words: str):
    given: dict[str, Any] = {"model": "llama-3.1-70b", "chip": "H100", "chips": 8}
    with pytest.raises(InputError, match=words):
        scaling.estimate_inference(**(given | changes))


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["isoloss", "estimate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr()


def test_command(monkeypatch, capsys):
    asked = ["llama-3.1-8b", "--chip", "H20", "--chips", "1", "--inference", "--batch", "8", "--sequence", "2048"]
    status, said = run(monkeypatch, capsys, *asked, "--json")
    answer = json.loads(said.out)
    found = scaling.estimate_inference("llama-3.1-8b", chip="H20", batch=8, context=2048)
    assert status == 0
    assert answer["decode"]["tok_per_s_per_chip"] == found.decode.tok_per_s_per_chip
    assert answer["prefill"]["usd_per_million"]["rent"] is None  # no rent is known
    assert answer["assumed"]["shares"]["middle"]["bandwidth"] == USUAL.bandwidth
    status, said = run(monkeypatch, capsys, *asked)
    assert status == 0
    assert "latency:" in said.out
    assert "assumed shares" in said.err


@pytest.mark.parametrize(
    ("options", "words"), [(["--prompt", "9"], "--prompt needs --inference"), (["--inference", "--zero", "3"], "--zero is of training")]
)
def test_options_of_the_other_question(monkeypatch, capsys, options, words):
    status, said = run(monkeypatch, capsys, "llama-3.1-8b", "--chip", "H20", "--chips", "1", *options)
    assert status == 2
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
