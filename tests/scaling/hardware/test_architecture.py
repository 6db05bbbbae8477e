"""Parameters and FLOPs of published shapes against what their authors print."""

from __future__ import annotations

import pytest

from scaling.errors import InputError
from scaling.hardware.architecture import Architecture, from_params, preset, presets, windows


@pytest.mark.parametrize(
    ("name", "params", "active"),
    [
        ("llama-3.1-405b", 405.85e9, None),
        ("llama-3.1-8b", 8.03e9, None),
        ("deepseek-v3", 671e9 + 14e9, 37e9),  # 671B and the prediction layer, 14B with its share of experts (arXiv 2412.19437, section 4.2)
        ("mixtral-8x7b", 46.7e9, 12.9e9),
        ("hunyuan-large", 389e9, 52e9),
        ("qwen3-30b-a3b", 30.5e9, 3.3e9),
        ("kimi-k2", 1026e9, 32e9),
        ("dbrx", 132e9, 36e9),
    ],
)
def test_parameters_as_published(name, params, active):
    arch = preset(name)
    assert arch.params == pytest.approx(params, rel=0.025)
    if active:
        # Embedding look-ups count in what authors call active.
        assert arch.active_matmul_params + arch.head_params == pytest.approx(active, rel=0.09)


def test_flops_of_gpt3_by_megatrons_formula():
    """72 B s L d^2 (1 + s / 6d + V / 12 L d) of a step (arXiv 2104.04473, without the recomputation that the paper adds)."""
    arch, s = preset("gpt-3-175b"), 2048
    layers, d = arch.layers, arch.width
    assert arch.flops_per_token(s) == pytest.approx(72 * layers * d**2 * (1 + s / (6 * d) + arch.vocab / (12 * layers * d)), rel=1e-12)


def test_flops_of_llama_by_nvidias_formula():
    """12 L d^2 (1 + g / h + s / d) + 18 L d f + 6 V d for a gated block (dgxc-benchmarking recipes)."""
    arch, s = preset("llama-3.1-405b"), 8192
    layers, d, f = arch.layers, arch.width, arch.ffn_width
    printed = 12 * layers * d**2 * (1 + arch.kv_heads / arch.heads + s / d) + 18 * layers * d * f + 6 * arch.vocab * d
    assert arch.flops_per_token(s) == pytest.approx(printed, rel=1e-12)


def test_causal_counts_half_the_scores_and_windows_less():
    arch = preset("llama-3.1-8b")
    full, causal = arch.flops_per_token(8192), arch.flops_per_token(8192, causal=True)
    assert full - causal == pytest.approx(3 * arch.attention_flops(8192))
    local = Architecture(32, 4096, 32, 8, 128, 14336, 128256, windowed=0.5, window=128)
    # A query of a window of w meets w - w^2 / 2s keys on average: the first w positions see fewer.
    assert local.context(8192) == pytest.approx(0.5 * 4096 + 0.5 * (128 - 128**2 / (2 * 8192)))


def test_deepseek_projections_by_hand():
    """d q + q h 192 + d (512 + 64) + 512 h 256 + 128 h d with q = 1536 (arXiv 2405.04434, section 2.1)."""
    arch = preset("deepseek-v3")
    d, h, q = 7168, 128, 1536
    assert arch.attention_params == d * q + q * h * 192 + d * (512 + 64) + 512 * h * 256 + 128 * h * d


@pytest.mark.parametrize(
    ("text", "share", "window"),
    [("gqa, alternate layers sliding window 128", 0.5, 128), ("gqa, 3 of 4 layers chunked 8192", 0.75, 8192), ("mha", 0.0, 0)],
)
def test_windows_from_words(text, share, window):
    found = windows(text)
    assert (found.get("windowed", 0.0), found.get("window", 0)) == (share, window)


@pytest.mark.parametrize("params", [1.3e8, 7e9, 6.5e10, 5.3e11])
def test_a_shape_from_parameters_has_about_as_many(params):
    assert from_params(params).params == pytest.approx(params, rel=0.35)


def test_presets_are_sound_and_sourced():
    for name, body in presets().items():
        assert preset(name).params > 0
        assert body["source"]
    with pytest.raises(InputError, match=r"no model 'llama-405'; nearest: .*llama-3.1-405b"):
        preset("llama-405")


def test_experts_need_a_shape():
    with pytest.raises(InputError, match="a token uses 1 to 8 experts, got experts_per_token = 9"):
        Architecture(2, 64, 2, 2, 32, 256, 100, experts=8, experts_per_token=9, expert_width=64, moe_layers=2)
