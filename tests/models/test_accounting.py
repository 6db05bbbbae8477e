"""Counts against referees: the arrays of a real model, the products of its program, XLA's own count, and printed numbers."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models import ConfigError, ModelConfig, Transformer, count_params, ladder, training_flops
from models import accounting as count
from models.expert_rows import expert_rows

SMALL: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "vocab_size": 48, "context": 16}
DENSE = {
    "leader": ModelConfig(**SMALL),
    "ladder": ladder(32, context=24),
    "own-ffn": ModelConfig(layers=3, width=48, heads=4, vocab_size=100, context=16, ffn=80),
    "grouped-query": ModelConfig(**SMALL, kv_heads=2),
    "multi-query": ModelConfig(**SMALL, kv_heads=1, qk_norm=False),
    "tied": ModelConfig(**SMALL, tied=True),
    "gpt": ModelConfig(**SMALL, positions="learned", norm="layer", qk_norm=False, activation="gelu", tied=True),
    "plain": ModelConfig(**SMALL, positions="none", activation="relu2", softcap=30.0, attention_softcap=50.0),
    "geglu": ModelConfig(**SMALL, norm="layer", activation="geglu", kv_heads=2),
}
MOE = {
    "moe": ModelConfig(**SMALL, experts=4, experts_per_token=2),
    "fine": ModelConfig(**SMALL, experts=8, experts_per_token=3, expert_ffn=20),
    "shared": ModelConfig(**SMALL, experts=4, experts_per_token=1, shared_experts=2, activation="gelu"),
    "sigmoid": ModelConfig(**SMALL, experts=4, experts_per_token=2, router="sigmoid", balance="bias", tied=True),
    "one": ModelConfig(**SMALL, experts=1, experts_per_token=1),
}


def sized(shape: tuple[int, ...], **fields: Any) -> ModelConfig:
    """A shape from the literature: (layers, width, heads)."""
    own: dict[str, Any] = {"layers": shape[0], "width": shape[1], "heads": shape[2], "qk_norm": False}
    return ModelConfig(**(own | fields))


def gpt(*shape: int, **fields: Any) -> ModelConfig:
    """GPT-2, GPT-3, MPT, Megatron: no gate, tied head, learned positions."""
    own: dict[str, Any] = {
        "norm": "layer",
        "positions": "learned",
        "activation": "gelu",
        "tied": True,
        "vocab_size": 50257,
        "context": 2048,
    }
    return sized(shape, **(own | fields))


@pytest.mark.parametrize("name", [*DENSE, *MOE])
def test_groups_are_the_parameters_of_a_real_model(name):
    config = (DENSE | MOE)[name]
    params = nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    kinds: Counter[str] = Counter()
    for leaf in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Variable)):
        kinds[leaf.get_metadata("kind")] += math.prod(leaf.get_value().shape)
    counted = count_params(config)
    groups = counted.groups
    assert groups["norms"] == kinds["gain"] + kinds["bias"]
    assert groups["attention"] + groups["ffn"] + groups["experts"] + groups["shared_experts"] == kinds["hidden"]
    for kind in ("embedding", "position", "router", "head"):
        assert groups[kind] == kinds[kind]
    assert counted.total == sum(groups.values()) == kinds.total()
    assert (counted.active < counted.total) == (config.experts > config.experts_per_token)
    assert counted.total - counted.non_embedding == counted.active - counted.active_non_embedding


# Printed by the models' own cards and loaders. GPT-2's products have biases (9 per layer and width), which ours have not.
PUBLISHED = {
    "Llama 2 7B": (sized((32, 4096, 32), ffn=11008, vocab_size=32000), 6_738_415_616),
    "Llama 3 8B": (sized((32, 4096, 32), kv_heads=8, ffn=14336, vocab_size=128256), 8_030_261_248),
    "Llama 3 70B": (sized((80, 8192, 64), kv_heads=8, ffn=28672, vocab_size=128256), 70_553_706_496),
    "GPT-2": (gpt(12, 768, 12, context=1024), 124_439_808 - 12 * 9 * 768),
    "Mixtral 8x7B": (
        sized((32, 4096, 32), kv_heads=8, vocab_size=32000, experts=8, experts_per_token=2, expert_ffn=14336),
        46_702_792_704,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name):
    config, printed = PUBLISHED[name]
    assert count_params(config).total == printed


def test_mixtral_visits_13_billion_of_its_parameters():
    assert count_params(PUBLISHED["Mixtral 8x7B"][0]).active == pytest.approx(12.9e9, rel=0.003)


def _program(config: ModelConfig, batch: int, **options: Any):
    """The gradient of a loss of a model of `config`, and its parameters."""
    graph, params, rest = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), **options)), nnx.Param, ...)
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest)
    tokens = jnp.zeros((batch, config.context), jnp.int32)
    return jax.grad(lambda params: jnp.sum(jax.nn.logsumexp(nnx.merge(graph, params, rest)(tokens), axis=-1))), params


def _dot_flops(jaxpr) -> int:
    """2 * output size * contracted size of every dot_general, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += repeats * _dot_flops(inner)
    return total


def _traced(config: ModelConfig, batch: int = 4, **options: Any) -> float:
    """FLOP per token of every product of the gradient program."""
    gradient, params = _program(config, batch, **options)
    return _dot_flops(jax.make_jaxpr(gradient)(params).jaxpr) / (batch * config.context)


def _combining(config: ModelConfig) -> int:
    """FLOP per token of the products that may weigh and add the experts' answers, which the counts leave out."""
    E, k = config.experts, config.experts_per_token
    if config.dispatch == "dense":
        return config.layers * (6 * E * config.width + 4 * k * E)  # over all experts; and the table of weights
    return config.layers * 6 * k * config.width if config.is_moe else 0


@pytest.mark.parametrize("name", ["leader", "grouped-query", "gpt", "plain", "geglu"])
def test_training_flops_are_every_product_of_the_gradient_program(name):
    assert training_flops(DENSE[name]).training == _traced(DENSE[name])


@pytest.mark.parametrize(("name", "dispatch"), [("moe", "dense"), ("shared", "capacity")])
def test_realised_moe_flops_are_those_of_the_program(name, dispatch):
    config = dataclasses.replace(MOE[name], dispatch=dispatch)
    rows = 4 * config.context
    realised = training_flops(config, expert_rows_per_token=expert_rows(config, rows) / rows).training
    assert realised > training_flops(config).training  # idle experts of the one, padding of the other
    assert 0 <= _traced(config) - realised <= _combining(config)


@pytest.mark.parametrize("name", ["leader", "shared"])
def test_recomputed_flops_are_those_of_the_program(name):
    config = DENSE[name] if name in DENSE else dataclasses.replace(MOE[name], dispatch="capacity")
    rows = 4 * config.context
    padded = expert_rows(config, rows) / rows if config.is_moe else None
    work = training_flops(config, expert_rows_per_token=padded).training
    again = count.recompute_flops(config, "blocks", expert_rows_per_token=padded)
    assert 0 <= _traced(config, remat="blocks") - work - again <= _combining(config)


def test_training_flops_against_xla_on_an_unrolled_model():
    """XLA also counts element-wise work: at this width a few per cent, never less than ours."""
    config = ModelConfig(layers=2, width=256, heads=4, context=32)
    gradient, params = _program(config, batch=2, unroll=True)
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # of machine code, which the count does not see
    analysis = jax.jit(gradient).lower(params).compile(compiler_options=options).cost_analysis()
    assert analysis is not None
    counted = analysis["flops"]
    assert 1.0 <= counted / (training_flops(config).training * 2 * config.context) < 1.04


def test_causal_count_lies_below_the_full_one_by_half_the_square():
    config = ladder(32, context=128)
    flops = training_flops(config)
    square = 3 * 4 * 128 * 32 * config.layers
    assert flops.training - flops.training_causal == pytest.approx(square * 127 / 256)
    assert flops.forward + flops.backward == flops.training


def test_context_counts_in_the_attention_square_alone():
    config = DENSE["leader"]
    short, long = training_flops(config, 8), training_flops(config)
    assert long.groups["attention_square"] == 2 * short.groups["attention_square"]
    assert {**long.groups, "attention_square": 0} == {**short.groups, "attention_square": 0}


@pytest.mark.parametrize("gated", [False, True])
def test_training_flops_are_the_closed_forms_of_the_literature(gated):
    """72 L d^2 (1 + s/6d + V/12Ld) of Narayanan et al. 2021, and the gated, grouped form of NVIDIA's recipes."""
    L, d, h, g, f, s, V = 3, 64, 8, 2, 160, 24, 300
    if gated:
        config = sized((L, d, h), kv_heads=g, ffn=f, vocab_size=V, context=s)
        assert training_flops(config).training == pytest.approx(12 * L * d**2 * (1 + g / h + s / d) + 18 * L * d * f + 6 * V * d)
    else:
        config = gpt(L, d, h, vocab_size=V, context=s)
        assert training_flops(config).training == pytest.approx(72 * L * d**2 * (1 + s / (6 * d) + V / (12 * L * d)))


def test_recomputed_flops_by_hand():
    """All of a block but its last product."""
    config = DENSE["leader"]
    D, F, T = config.width, config.ffn_width, config.context
    assert count.recompute_flops(config, "none") == 0
    assert count.recompute_flops(config, "blocks") == config.layers * (2 * 4 * D * D + 4 * T * D + 2 * 2 * D * F)
    with pytest.raises(ConfigError, match="remat must be one of none, blocks"):
        count.recompute_flops(config, "all")


# GPT-3's table D.1 (Brown et al. 2020): parameters in millions and training FLOP of 300 billion tokens. The 2,650 and 12,850 million
# models; 1.3B is left out (its heads do not divide its width) and 13B has its width's misprint mended to 5120.
GPT3 = [(12, 768, 125, 2.25e20), (24, 1024, 356, 6.41e20), (24, 1536, 760, 1.37e21), (32, 2560, 2650, 4.77e21),
        (32, 4096, 6660, 1.20e22), (40, 5120, 12850, 2.31e22), (96, 12288, 174600, 3.14e23)]  # fmt: skip


@pytest.mark.parametrize(("layers", "width", "millions", "printed"), GPT3)
def test_six_nd_of_gpt3(layers, width, millions, printed):
    config = gpt(layers, width, width // 64)
    assert count_params(config).total == pytest.approx(millions * 1e6, rel=0.0015)
    assert count.six_nd(config, 300e9) == pytest.approx(printed, rel=0.003)


# Table A4 of Hoffmann et al. 2022: parameters, shape, and their count over 6 N D. Relative positions cost them D x D a layer.
CHINCHILLA = [("73M", 10, 640, 10, 1.03), ("305M", 20, 1024, 16, 1.10), ("552M", 24, 1280, 10, 1.08), ("1.1B", 26, 1792, 14, 1.04),
              ("1.6B", 28, 2048, 16, 1.03), ("6.8B", 40, 3584, 28, 0.99)]  # fmt: skip


@pytest.mark.parametrize(("name", "layers", "width", "heads", "printed"), CHINCHILLA)
def test_hoffmann_count_over_six_nd(name, layers, width, heads, printed):
    """The printed ratios follow without embedding and logits, although the text of the appendix counts both."""
    config = gpt(layers, width, heads, vocab_size=32000, positions="none")
    params = count_params(config).total + layers * width**2
    assert f"{params / 1e9:.1f}B" == name or f"{params / 1e6:.0f}M" in (name, "74M")
    ratio = count.hoffmann_flops(config, 1.0, embeddings=False) / (6 * params)
    assert ratio == pytest.approx(printed, abs=0.005)
    both = count.hoffmann_flops(config, 1.0) - count.hoffmann_flops(config, 1.0, embeddings=False)
    assert both == pytest.approx(12 * 32000 * width)


# Table 3 of DeepSeek LLM: n_layer, d_model, N1 (non-embedding), N2 (with embedding), M, 6 N1 / M, 6 N2 / M; V = 102400, l = 4096.
DEEPSEEK = [(8, 512, 25.2e6, 77.6e6, 352e6, 0.43, 1.32), (12, 768, 84.9e6, 164e6, 963e6, 0.53, 1.02),
            (24, 1024, 302e6, 407e6, 3.02e9, 0.60, 0.81), (24, 2048, 1.21e9, 1.42e9, 9.66e9, 0.75, 0.88),
            (32, 4096, 6.44e9, 6.86e9, 45.1e9, 0.86, 0.91), (40, 5120, 12.6e9, 13.1e9, 85.6e9, 0.88, 0.92),
            (80, 8192, 64.4e9, 65.3e9, 419e9, 0.92, 0.94)]  # fmt: skip


@pytest.mark.parametrize(("layers", "width", "without", "with_", "flops", "low", "high"), DEEPSEEK)
def test_deepseek_table_of_model_scales(layers, width, without, with_, flops, low, high):
    config = sized((layers, width, width // 64), activation="gelu", vocab_size=102400, context=4096, tied=True)
    assert count.deepseek_flops(config) == 72 * layers * width**2 + 12 * layers * width * 4096
    assert count.deepseek_flops(config) == pytest.approx(flops, rel=0.002)
    small, large = (count.six_nd(config, 1.0, embeddings=embeddings) for embeddings in (False, True))
    assert small / 6 == pytest.approx(without, rel=0.003)
    assert large / 6 == pytest.approx(with_, rel=0.003)
    assert small / count.deepseek_flops(config) == pytest.approx(low, abs=0.006)
    assert large / count.deepseek_flops(config) == pytest.approx(high, abs=0.006)


@pytest.mark.parametrize("tied", [False, True])
def test_six_nd_counts_each_weight_once(tied):
    config = dataclasses.replace(DENSE["leader"], tied=tied)
    params, head = count_params(config), config.width * config.vocab_size
    assert count.six_nd(config, 2.0) == 12 * params.total
    assert count.six_nd(config, 2.0, embeddings=False) == 12 * params.non_embedding
    assert count.six_nd(config, 2.0, embeddings=False, head=True) == 12 * (params.non_embedding + head)
    assert count.six_nd(config, 2.0, head=False) == 12 * (params.non_embedding + head)
    matrices = training_flops(config).training - 3 * training_flops(config).groups["attention_square"]
    assert count.six_nd(config, 1.0, embeddings=False, head=True) - 6 * params.groups["norms"] == matrices


def test_an_moe_model_counts_what_a_token_visits():
    config = MOE["fine"]
    assert count.six_nd(config, 1.0) == 6 * count_params(config).active < 6 * count_params(config).total
    assert training_flops(config).training < training_flops(dataclasses.replace(config, experts_per_token=8)).training


# Table 5 of Korthikanti et al. 2022 (arXiv 2205.05198): 2048 tokens a row, A100 (312 TFLOP/s), seconds per iteration, printed MFU.
MEGATRON = [(48, 6144, 4, 8, 1.10, 0.415), (96, 12288, 64, 64, 13.75, 0.514), (105, 20480, 280, 280, 37.83, 0.560),
            (128, 25600, 512, 512, 71.49, 0.563)]  # fmt: skip


@pytest.mark.parametrize(("layers", "width", "batch", "chips", "seconds", "printed"), MEGATRON)
def test_mfu_of_megatron(layers, width, batch, chips, seconds, printed):
    config = gpt(layers, width, width // 128, vocab_size=51200)
    assert count.mfu(batch * 2048 / seconds, config, chips * 312e12) == pytest.approx(printed, rel=0.005)


def test_mfu_of_megatron_turing_by_the_formula_of_palm():
    """65.43 thousand tokens per second on 2240 A100: 30.2% with attention, 29.7% without (Chowdhery et al. 2022, appendix B)."""
    config = gpt(105, 20480, 128, vocab_size=51200)
    assert 65.43e3 * count.palm_flops(config) / (2240 * 312e12) == pytest.approx(0.302, abs=0.0005)
    assert 65.43e3 * count.six_nd(config, 1.0) / (2240 * 312e12) == pytest.approx(0.297, abs=0.0005)


# llm-foundry's benchmark table, H100 (989.5 TFLOP/s in bf16): layers, width, heads, context, tokens/s on 8 chips, printed MFU.
MPT = [(32, 4096, 32, 65536, 15654, 0.2859), (32, 4096, 32, 2048, 85144, 0.4644), (24, 2048, 16, 32768, 96203, 0.3354),
       (24, 1536, 16, 512, 669998, 0.4042)]  # fmt: skip


@pytest.mark.parametrize(("layers", "width", "heads", "context", "rate", "printed"), MPT)
def test_mfu_of_mpt_by_the_formula_of_palm(layers, width, heads, context, rate, printed):
    config = gpt(layers, width, heads, vocab_size=50368, context=context)
    assert rate * count.palm_flops(config) / (8 * 989.5e12) == pytest.approx(printed, rel=0.002)


def test_hfu_adds_recomputation_and_padding():
    config = MOE["moe"]
    rate, peak = 1e4, 1e9
    plain = count.mfu(rate, config, peak)
    assert count.hfu(rate, config, peak) == plain
    assert count.mfu(rate, config, peak, causal=True) < plain
    again = count.recompute_flops(config, "blocks")
    assert count.hfu(rate, config, peak, remat="blocks") == pytest.approx(plain + rate * again / peak)
    assert count.hfu(rate, config, peak, kernels=True) < plain  # only the causal half
    padded = count.hfu(rate, config, peak, expert_rows_per_token=2.5)
    assert padded == pytest.approx(plain * (1 + 0.25 * training_flops(config).groups["experts"] / training_flops(config).forward))


def test_hfu_of_a_kernel_counts_seven_causal_products():
    """Forward: scores and mixing; backward: scores again and four gradients. `training_flops` has six, of the whole square."""
    config = dataclasses.replace(DENSE["leader"], context=256)
    flops = training_flops(config)
    square = flops.groups["attention_square"]
    causal, rest = square * 257 / 512, flops.training - 3 * square
    assert count.hfu(1.0, config, 1.0, kernels=True) == pytest.approx(rest + 3.5 * causal)
    again = count.recompute_flops(config, "blocks") - square
    assert count.hfu(1.0, config, 1.0, kernels=True, remat="blocks") == pytest.approx(rest + again + 4.5 * causal)
