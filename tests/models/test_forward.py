"""The whole forward pass against the formulas of its sources, written again in NumPy and float64, over shapes that take every option."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import ModelConfig, Transformer
from models.parametrization import named_weights

BASE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "vocab_size": 40, "context": 12}
MOE: dict[str, Any] = BASE | {"experts": 4, "experts_per_token": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "leader": BASE | {"layers": 3, "rope_base": 50.0},
    "grouped-query, softcaps": BASE | {"kv_heads": 2, "softcap": 5.0, "attention_softcap": 3.0},
    "gpt": BASE | {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu", "tied": True},
    "no positions, mup": BASE | {"positions": "none", "activation": "relu", "parametrization": "mup"},
    "geglu, multi-query, standard": BASE | {"activation": "geglu", "parametrization": "standard", "tied": True, "kv_heads": 1},
    "softmax router, shared experts": MOE | {"shared_experts": 2},
    "one expert of sigmoid scores": MOE | {"experts_per_token": 1, "router": "sigmoid", "activation": "relu2"},
    "selection bias, every row to every expert": MOE | {"router": "sigmoid", "balance": "bias", "dispatch": "dense"},
    "ample capacity, a loop over blocks": MOE | {"layers": 9, "dispatch": "capacity", "capacity_factor": 2.0},
}

FAST: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # compiles in half the time
Weights = dict[str, np.ndarray]


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2)."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def activated(config: ModelConfig, gate: np.ndarray, value: np.ndarray | None) -> np.ndarray:
    if config.activation in ("swiglu", "geglu"):
        assert value is not None
        return (gate * sigmoid(gate) if config.activation == "swiglu" else gelu(gate)) * value
    return {"gelu": gelu, "relu": lambda x: np.maximum(x, 0), "relu2": lambda x: np.maximum(x, 0) ** 2}[config.activation](gate)


def mlp(config: ModelConfig, x: np.ndarray, up_DCF: np.ndarray, down_FD: np.ndarray) -> np.ndarray:
    return activated(config, x @ up_DCF[:, 0], x @ up_DCF[:, 1] if config.gated else None) @ down_FD


def root_mean_square_norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return gain * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def norm(config: ModelConfig, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    if config.norm == "rms":
        return root_mean_square_norm(x, weights[f"{name}/gain"])
    centred = x - x.mean(axis=-1, keepdims=True)
    return root_mean_square_norm(centred, weights[f"{name}/gain"]) + weights[f"{name}/bias"]


def turned(config: ModelConfig, x_TH: np.ndarray) -> np.ndarray:
    """Su et al. 2021, arXiv 2104.09864, eq. 13: pair i, here features i and i + H/2, turns by t base^(-2i/H) at position t."""
    T, H = x_TH.shape
    angles = np.arange(T)[:, None] * config.rope_base ** (-2 * np.arange(H // 2) / H)
    pairs = (x_TH[:, : H // 2] + 1j * x_TH[:, H // 2 :]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def attention(config: ModelConfig, weights: Weights, x_TD: np.ndarray) -> np.ndarray:
    """Vaswani et al. 2017, arXiv 1706.03762, eq. 1, one head after another; Ainslie et al. 2023, arXiv 2305.13245, for fewer key heads."""
    N, K, H, T = config.heads, config.key_heads, config.head_width, x_TD.shape[0]
    total = np.zeros_like(x_TD)
    for n in range(N):
        key = n * K // N
        query_TH, key_TH, value_TH = (x_TD @ weights["attention/qkv_DGH"][:, place] for place in (n, N + key, N + K + key))
        if config.qk_norm:
            query_TH = root_mean_square_norm(query_TH, weights["attention/query_norm/gain"])
            key_TH = root_mean_square_norm(key_TH, weights["attention/key_norm/gain"])
        if config.positions == "rope":
            query_TH, key_TH = turned(config, query_TH), turned(config, key_TH)
        scores = query_TH @ key_TH.T / np.sqrt(H)
        if config.attention_softcap:
            scores = config.attention_softcap * np.tanh(scores / config.attention_softcap)
        scores[np.triu_indices(T, 1)] = -np.inf
        total += softmax(scores) @ value_TH @ weights["attention/out_NHD"][n]
    return total


def experts(config: ModelConfig, weights: Weights, x_TD: np.ndarray) -> np.ndarray:
    """Each token's best experts by score and bias, their scores divided by their sum unless there is one; shared experts on top."""
    out = np.zeros_like(x_TD)
    for row, x in enumerate(x_TD):
        logits = x @ weights["ffn/router_DE"]
        scores = softmax(logits) if config.router == "softmax" else sigmoid(logits)
        chosen = np.argsort(-(scores + weights.get("ffn/bias_E", 0)), kind="stable")[: config.experts_per_token]
        shares = scores[chosen] / (scores[chosen].sum() if config.experts_per_token > 1 else 1)
        for expert, share in zip(chosen, shares, strict=True):
            out[row] += share * mlp(config, x, weights["ffn/up_EDCF"][expert], weights["ffn/down_EFD"][expert])
    for place in range(config.shared_experts):
        own = slice(place * config.expert_width, (place + 1) * config.expert_width)
        out += mlp(config, x_TD, weights["ffn/shared_up_DCF"][..., own], weights["ffn/shared_down_FD"][own])
    return out


def referee(config: ModelConfig, weights: Weights, tokens_T: np.ndarray) -> np.ndarray:
    """Logits, with the multipliers of the parametrisation: 2 / layers on residual branches (CompleteP, base of 2), 1/4 of 64 / width on a tied head."""
    x_TD = weights["embedding_VD"][tokens_T]
    if config.positions == "learned":
        x_TD = x_TD + weights["position_TD"][: tokens_T.size]
    residual = 2 / config.layers if config.parametrization == "completep" else 1.0
    for layer in range(config.layers):
        own = {name.removeprefix("blocks_L/"): value[layer] for name, value in weights.items() if name.startswith("blocks_L/")}
        x_TD = x_TD + residual * attention(config, own, norm(config, own, "attention_norm", x_TD))
        normed_TD = norm(config, own, "ffn_norm", x_TD)
        ffn = experts(config, own, normed_TD) if config.is_moe else mlp(config, normed_TD, own["ffn/up_DCF"], own["ffn/down_FD"])
        x_TD = x_TD + residual * ffn
    x_TD = norm(config, weights, "final_norm", x_TD)
    tied_multiplier = 1.0 if config.parametrization == "standard" else 0.25 * 64 / config.width
    logits_TV = tied_multiplier * x_TD @ weights["embedding_VD"].T if config.tied else x_TD @ weights["head_DV"]
    return config.softcap * np.tanh(logits_TV / config.softcap) if config.softcap else logits_TV


@pytest.mark.parametrize("name", SHAPES)
def test_the_forward_pass_is_that_of_its_sources(name):
    config, random = ModelConfig(**SHAPES[name]), np.random.default_rng(0)
    graph, params, rest = nnx.split(jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param, ...)
    # No weight is at a start (gains of one, a head of zeros) that would hide it.
    params, rest = (jax.tree.map(lambda x: jnp.asarray(0.3 * random.standard_normal(x.shape), x.dtype), part) for part in (params, rest))
    tokens_BT = jnp.asarray(random.integers(0, config.vocab_size, (2, config.context)), jnp.int32)
    forward = jax.jit(lambda params, rest: nnx.merge(graph, params, rest)(tokens_BT)).lower(params, rest)
    found = forward.compile(compiler_options=FAST)(params, rest)

    weights = {path: np.asarray(weight.get_value(), np.float64) for path, weight in named_weights(params).items()}
    biases = jax.tree.leaves(rest)
    if biases:
        weights["blocks_L/ffn/bias_E"] = np.asarray(biases[0], np.float64)
    wanted = np.stack([referee(config, weights, tokens_T) for tokens_T in np.asarray(tokens_BT)])
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_rematerialised_blocks_keep_less_for_the_backward_pass():
    """By the arrays that the gradient program holds on to, of which nothing is compiled."""
    shape: dict[str, Any] = BASE | {"layers": 4}
    config = ModelConfig(**shape)

    def kept(remat: str) -> int:
        graph, params = nnx.split(jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), remat=remat)))
        tokens_BT = jnp.zeros((2, 12), jnp.int32)
        backward = jax.eval_shape(lambda weights: jax.vjp(lambda w: nnx.merge(graph, w)(tokens_BT), weights)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward)) - sum(leaf.size for leaf in jax.tree.leaves(params))

    assert 0 < kept("blocks") < 0.4 * kept("none")
