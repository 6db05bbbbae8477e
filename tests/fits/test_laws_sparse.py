"""Laws of mixtures of experts, number formats, sparsity, distillation, vocabulary and rare communication: printed numbers, and planted truth."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, minimize_scalar

import fits
from fits import curve_file
from fits.errors import InputError
from fits.laws import diloco, distillation, routed
from fits.laws.base import Inputs, Law

FAMILIES = (
    *("routed", "fine_grained", "joint_moe", "moe_sparsity", "leverage", "five_factor"),
    *("precision", "floating_point", "quantization_error", "effective_factors"),
    *("weight_sparsity", "distillation", "vocabulary", "diloco"),
)
LAWS: dict[str, Law] = {law.name: law for family in FAMILIES for law in importlib.import_module(f"fits.laws.{family}").LAWS}
PUBLISHED = Path(fits.__file__).parent / "published"
CURVES = [path.stem for path in sorted(PUBLISHED.glob("*.json")) if curve_file.read(path)["law"] in LAWS]
ROUTERS = ("clark2022-sbase", "clark2022-rlr", "clark2022-hash")


def constants(curve: str) -> dict[str, float]:
    return curve_file.read(PUBLISHED / f"{curve}.json")["constants"]


def value(curve: str, **inputs: Any) -> Any:
    """What a published curve says at these inputs; those that may be left out are typical."""
    fields = curve_file.read(PUBLISHED / f"{curve}.json")
    law = LAWS[fields["law"]]
    vector = np.array([fields["constants"][name] for name in law.constants])
    found = law.evaluate(vector, dict(law.typical) | inputs)
    return float(found) if found.ndim == 0 else found


def optimum(curve: str, size: str, flops: float, **inputs: float) -> tuple[float, float]:
    """The size of least loss for `flops` = 6 size tokens, and that loss, by search."""
    search = minimize_scalar(
        lambda log_size: value(curve, **{size: np.exp(log_size), "tokens": flops / 6 / np.exp(log_size)}, **inputs),
        bounds=(np.log(1e5), np.log(1e15)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(np.exp(search.x)), float(search.fun)


def test_every_curve_holds_constants_within_bounds_and_a_check():
    assert len(CURVES) >= 48
    for name in CURVES:
        fields = curve_file.read(PUBLISHED / f"{name}.json")
        law = LAWS[fields["law"]]
        assert set(fields["constants"]) == set(law.constants), name
        assert all(law.parameter(key).low <= number <= law.parameter(key).high for key, number in fields["constants"].items()), name
        assert fields["about"]["checks"], name
        assert {"source", "grade", "units"} <= set(fields["about"]), name
        assert all((PUBLISHED / f"{other}.json").exists() for other in fields["about"].get("contradicts", ())), name


# Mixtures of experts


@pytest.mark.parametrize("curve", ROUTERS)
def test_one_expert_counts_as_its_start_and_infinitely_many_as_the_end(curve):
    c = constants(curve)
    counted = routed.saturated_experts(c, Inputs({"experts": np.array([1.0, 1e12])}))
    np.testing.assert_allclose(counted, [c["E_start"], c["E_max"]], rtol=1e-9)


@pytest.mark.parametrize("curve", ROUTERS)
def test_more_experts_are_never_worse_in_the_range_of_the_fit(curve):
    losses = value(curve, active_params=np.geomspace(1.5e7, 1.3e9, 9)[:, None], experts=np.arange(1, 513)[None, :])
    assert (np.diff(losses, axis=1) < 0).all()


def test_routed_models_against_the_papers_dense_numbers():
    c = constants("clark2022-sbase")
    equal = float(routed.dense_equivalent(c, 5e6, 128))
    assert equal == pytest.approx(55e6, rel=0.07)  # as the paper says; its digits are rounded
    assert value("clark2022-sbase", active_params=equal, experts=1) == pytest.approx(
        value("clark2022-sbase", active_params=5e6, experts=128), rel=1e-12
    )
    dense = (3.568e13 / 1.3e9) ** 0.078
    assert value("clark2022-sbase", active_params=1.3e9, experts=1) == pytest.approx(dense, rel=0.01)
    assert 10 ** (-c["b"] / c["c"]) == pytest.approx(937e9, rel=0.1)


def test_experts_shift_the_optimum_as_the_joint_law_prints():
    size, tokens = {}, {}
    for experts in (1, 16):
        size[experts], _ = optimum("ludziejewski2025", "active_params", 1e20, experts=experts)
        tokens[experts] = 1e20 / 6 / size[experts]
    assert size[16] / size[1] - 1 == pytest.approx(-0.52, abs=0.012)
    assert tokens[16] / tokens[1] - 1 == pytest.approx(1.13, abs=0.012)


@pytest.mark.parametrize(("experts", "flops", "multiplier"), [(8, 1e20, 1.71), (16, 1e22, 2.65), (32, 1e20, 2.90), (32, 1e26, 5.00)])
def test_compute_multiplier_of_the_joint_law(experts, flops, multiplier):
    _, target = optimum("ludziejewski2025", "active_params", flops, experts=experts)
    dense = brentq(
        lambda log_flops: optimum("ludziejewski2025", "active_params", np.exp(log_flops), experts=1)[1] - target,
        np.log(flops),
        np.log(flops) + 3,
    )
    assert np.exp(dense) / flops == pytest.approx(multiplier, abs=0.006)


@pytest.mark.parametrize(
    ("curve", "extras"),
    [
        ("ludziejewski2025", {"experts": 16.0}),
        ("kumar2024", {"bits_weights": 4.0, "bits_activations": 8.0, "bits_cache": 16.0}),
        ("castro2025-quartet", {}),
    ],
)
def test_the_closed_form_of_the_optimum_is_where_a_search_finds_it(curve, extras):
    fields = curve_file.read(PUBLISHED / f"{curve}.json")
    law = LAWS[fields["law"]]
    assert law.terms is not None
    t = law.terms(fields["constants"], Inputs({name: np.asarray(number) for name, number in extras.items()}))
    closed = (t.alpha * t.a / (t.beta * t.b) * (1e20 / 6) ** t.beta) ** (1 / (t.alpha + t.beta))
    assert law.size is not None
    assert closed == pytest.approx(optimum(curve, law.size, 1e20, **extras)[0], rel=1e-5)


@pytest.mark.parametrize(("flops", "multiplier"), [(1e20, 6.8), (1e22, 19), (1e24, 296)])
def test_the_sparsity_law_diverges_as_its_notes_say(flops, multiplier):
    def best(flops: float, sparsity: float) -> float:
        return minimize_scalar(
            lambda n: value("abnar2025", params=np.exp(n), tokens=flops / 6 / np.exp(n) / (1 - sparsity), sparsity=sparsity),
            bounds=(np.log(1e7), np.log(1e15)),
            method="bounded",
            options={"xatol": 1e-8},
        ).fun

    target = best(flops, 0.95)
    dense = brentq(lambda log_flops: best(np.exp(log_flops), 0) - target, np.log(flops), np.log(flops) + 8)
    assert np.exp(dense) / flops == pytest.approx(multiplier, rel=0.015)


def test_sparsity_beyond_what_was_tested_counts_as_that():
    at = {"params": 1e10, "tokens": 1e11}
    assert value("abnar2025", **at, sparsity=0.999) == value("abnar2025", **at, sparsity=0.98)
    # Of one total size the sparser model is the worse: a token meets less of it.
    assert value("abnar2025", **at, sparsity=0.98) > value("abnar2025", **at, sparsity=0.97)


def test_both_anchors_of_the_efficiency_leverage():
    granularity = np.linspace(1, 64, 6301)
    leverage = value("ling2025-leverage", activation_ratio=0.034, granularity=granularity, flops=1e22)
    assert 8 <= granularity[leverage.argmax()] <= 12
    assert value("ling2025-leverage", activation_ratio=0.034, granularity=12, flops=1e22) == pytest.approx(7, rel=0.03)


def test_best_granularity_and_shared_experts_of_the_five_factor_law():
    at = {"params": 1e10, "active_params": 1e9, "tokens": 1e11}
    granularity, shared = np.linspace(1, 20, 19001), np.linspace(0, 1, 10001)
    assert granularity[value("zhao2025-moe", **at, granularity=granularity, shared_ratio=0.3).argmin()] == pytest.approx(7, rel=0.04)
    assert shared[value("zhao2025-moe", **at, granularity=7, shared_ratio=shared).argmin()] == pytest.approx(0.31, abs=0.006)


# Number formats


@pytest.mark.parametrize(("bits", "kept"), [(16, 0.9975), (12, 0.9887), (8, 0.9498), (6, 0.8939), (4, 0.7759), (3, 0.6743)])
def test_parameters_kept_at_few_bits(bits, kept):
    many = {"bits_activations": 1e3, "bits_cache": 1e3, "tokens": 1e10}
    few = value("kumar2024", non_embedding_params=1e8, bits_weights=bits, **many)
    assert few == pytest.approx(value("kumar2024", non_embedding_params=1e8 * kept, bits_weights=1e3, **many), abs=2e-5)


def test_sixteen_bits_are_nearly_the_plain_law_and_the_default():
    c, size, tokens = constants("kumar2024"), 1e8, 1e10
    plain = c["E"] + c["A"] * size ** -c["alpha"] + c["B"] * tokens ** -c["beta"]
    sixteen = value("kumar2024", non_embedding_params=size, tokens=tokens)
    assert plain < sixteen < plain + 2e-3
    assert sixteen == value("kumar2024", non_embedding_params=size, tokens=tokens, bits_weights=16, bits_activations=16, bits_cache=16)


def test_rounding_after_training_costs_more_the_more_was_learnt():
    at = {"non_embedding_params": 1e8, "bits": 3}
    tokens = np.array([1e9, 1e10])
    assert np.log10(value("kumar2024-post-training", **at, tokens=tokens)) @ [-1, 1] == pytest.approx(
        constants("kumar2024-post-training")["gamma_D"]
    )


@pytest.mark.parametrize(("exponent", "mantissa"), [(2, 1), (4, 3), (8, 7)])
def test_training_on_beyond_the_critical_tokens_does_harm(exponent, mantissa):
    number_format = {"params": 1e9, "exponent_bits": exponent, "mantissa_bits": mantissa, "block": 128}
    critical = value("sun2025-critical-tokens", **number_format)
    before, at, after = value("sun2025", **number_format, tokens=critical * np.array([0.99, 1, 1.01]))
    assert at < min(before, after)


@pytest.mark.parametrize(("exponent", "mantissa", "penalty"), [(2, 1, 0.035), (4, 3, 0.0004)])
def test_penalty_of_a_floating_point_format(exponent, mantissa, penalty):
    at = {"params": 1e9, "tokens": 1e11, "block": 128}
    few, many = (value("sun2025", **at, exponent_bits=e, mantissa_bits=m) for e, m in ((exponent, mantissa), (60, 60)))
    assert few - many == pytest.approx(penalty, rel=0.2)


def test_the_factors_of_a_format_multiply_compute_on_the_frontier():
    _, quartet = optimum("castro2025-quartet", "non_embedding_params", 1e22)
    _, base = optimum("castro2025-base", "non_embedding_params", 0.65 * 0.95 * 1e22)
    assert quartet == pytest.approx(base, rel=1e-12)


def test_share_of_quantised_training_lies_between_none_and_all():
    share = value("dremov2025-qat-fraction", params=1e9, tokens=np.geomspace(1e8, 1e15, 50), bits=4)
    assert ((share >= 0) & (share < 1)).all()
    assert (np.diff(share) >= 0).all()


# Sparse weights, distillation, vocabulary, communication


def test_a_sparse_model_equals_a_dense_one_of_the_printed_size():
    worth = value("frantar2023-t5-dense-equivalent", sparsity=0.75)
    assert worth == pytest.approx(2.16, abs=0.005)
    dense = value("frantar2023-t5", nonzero_params=worth * 1e7, tokens=1e10, sparsity=0.0)
    assert dense == pytest.approx(value("frantar2023-t5", nonzero_params=1e7, tokens=1e10, sparsity=0.75), rel=1e-12)


@pytest.mark.parametrize(
    ("tokens", "teacher", "student", "alone"),
    [(2e10, 2.0188095, 2.2795, 2.3747), (1e11, 2.0188095, 2.2052, 2.2397), (1e12, 1.8936, 2.1450, 2.1424)],
)
def test_a_student_is_better_than_alone_until_it_has_tokens_enough(tokens, teacher, student, alone):
    c = constants("busbridge2025-distillation")
    supervised = c["E"] + (c["A"] * 1e9 ** -c["alpha"] + c["B"] * tokens ** -c["beta"]) ** c["gamma"]
    found = value("busbridge2025-distillation", non_embedding_params=1e9, tokens=tokens, teacher_loss=teacher)
    assert (found, supervised) == pytest.approx((student, alone), abs=6e-5)


def test_what_distillation_costs():
    assert distillation.training_flops(1e9, 2e10, logits=False) == 6e9 * 2e10
    full = distillation.training_flops(1e9, 2e10, 7e9, 1.4e11, pretraining=True)
    assert full == pytest.approx(6e9 * 2e10 + 2 * 7e9 * 2e10 + 6 * 7e9 * 1.4e11)


@pytest.mark.parametrize(("size", "width"), [(3.3e7, 512), (1e9, 2048), (3e9, 3200)])
def test_two_approaches_agree_on_the_best_vocabulary(size, width):
    """Approach 3 minimised at fixed compute against the rule of approach 1: two fits, so the scales inside the law are right."""
    flops, vocab = 120 * size**2, np.geomspace(1e3, 1e6, 3000)
    tokens = flops / 6 / (size + vocab * width)
    loss = value(
        "tao2024",
        non_vocab_params=size,
        vocab_params=vocab * width,
        vocab=vocab,
        characters=tokens / value("tao2024-tokens-per-character", vocab=vocab),
    )
    assert vocab[loss.argmin()] * width == pytest.approx(value("tao2024-vocab-params", flops=flops), rel=0.2)


@pytest.mark.parametrize(("replicas", "size"), [(2, 2.5e9), (4, 4.0e9), (8, 9.6e9)])
def test_size_at_which_replicas_overtake_data_parallelism(replicas, size):
    crossing = brentq(
        lambda log_size: np.subtract(*(value(f"charles2025-{arm}", params=np.exp(log_size)) for arm in ("dp", f"m{replicas}"))),
        np.log(1e8),
        np.log(1e12),
    )
    assert np.exp(crossing) == pytest.approx(size, rel=0.02)


def test_rare_synchronisation_hides_the_slow_link():
    run: dict[str, Any] = {"flops": 1e21, "params": 1e9, "steps": 1e4, "chips": 4096}
    fast, slow = diloco.Network(400e9, 0.0), diloco.Network(10e9, 0.0)
    parallel = diloco.wall_clock(**run, within=fast, across=slow)
    often, rare, inner_only = (diloco.wall_clock(**run, replicas=2, sync_every=every, within=fast, across=slow) for every in (1, 40, 1e12))
    assert parallel.compute == rare.compute == pytest.approx(1e21 / (4096 * 3e14))
    assert parallel.communication == pytest.approx(1e4 * 2 * 16e9 * (1 - 1 / 4096) / 10e9)
    assert often.total > parallel.total > rare.total
    # At a synchronisation every W0/W1 steps, the outer one takes half of the time.
    assert inner_only.communication / rare.communication == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(InputError, match="replicas"):
        diloco.wall_clock(**run, replicas=5000)


# Every law on NumPy and under JAX


AWKWARD = {
    "sparsity": [0.0, 0.98, 1.0],
    "experts": [1, 2, 512],
    "group": [1, 32, 256],
    "shared_ratio": [0.0, 0.3, 1.0],
    "activation_ratio": [1e-4, 0.03, 1.0],
    "granularity": [1, 8, 64],
    "replicas": [1, 4, 64],
    "block": [1, 32, 512],
    "exponent_bits": [0, 4, 8],
    "mantissa_bits": [0, 3, 23],
    "bits": [1, 4, 16],
    "bits_weights": [1, 4, 64],
    "bits_activations": [1, 4, 64],
    "bits_cache": [1, 4, 64],
    "teacher_loss": [0.5, 2.0, 6.0],
    "vocab": [256, 32000, 1e6],
    "flops": [1e15, 1e20, 1e28],
}


# A block of one has no penalty, and so no number of tokens at which it begins to harm.
AWKWARD_FOR = {"floating-point-critical-tokens": {"block": [2, 32, 512]}}
ONE_OF_EACH = sorted({curve_file.read(PUBLISHED / f"{name}.json")["law"]: name for name in CURVES}.values())


@pytest.mark.parametrize("curve", ONE_OF_EACH)
def test_numpy_and_jax_agree_and_gradients_are_finite(curve):
    fields = curve_file.read(PUBLISHED / f"{curve}.json")
    law = LAWS[fields["law"]]
    awkward = AWKWARD | AWKWARD_FOR.get(law.name, {})
    inputs = {name: np.array(awkward.get(name, [1e6, 1e9, 1e13]), float) for name in law.inputs}
    plain = value(curve, **inputs)
    with jax.enable_x64(True):
        columns = {name: jax.numpy.asarray(column) for name, column in inputs.items()}
        vector = jax.numpy.asarray([fields["constants"][name] for name in law.constants])

        def function(vector: jax.Array) -> jax.Array:
            return law.function({name: vector[i] for i, name in enumerate(law.constants)}, Inputs(columns))

        traced, gradient = jax.jit(lambda vector: (function(vector), jax.jacfwd(function)(vector)))(vector)
    np.testing.assert_allclose(traced, plain, rtol=1e-12)
    assert np.isfinite(plain).all()
    assert np.isfinite(gradient).all()


# Planted truth


def planted(curve: str, rows: int, **columns: tuple[float, float] | list[float]) -> tuple[Law, pd.DataFrame]:
    """A noise-free table of a published curve: inputs over a range by factors, or of listed values."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            name: np.exp(random.uniform(*np.log(kind), rows)) if isinstance(kind, tuple) else random.choice(kind, rows)
            for name, kind in columns.items()
        }
    )
    law = LAWS[curve_file.read(PUBLISHED / f"{curve}.json")["law"]]
    return law, table.assign(**{law.output: value(curve, **{str(name): table[name].to_numpy() for name in table})})


BITS = [3, 4, 6, 8, 16]
EXPERTS = [1, 2, 4, 8, 16, 32]
PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "clark2022-sbase": ({"rows": 100, "active_params": (1.5e7, 1.3e9), "experts": [*EXPERTS, 64, 128, 256, 512]}, ""),
    "krajewski2024-moe": (
        {"rows": 100, "non_embedding_params": (1e8, 4e9), "tokens": (1e10, 2e11), "granularity": [1, 2, 4, 8, 16]},
        "",
    ),
    "kumar2024": (
        {
            "rows": 150,
            "non_embedding_params": (3e7, 3e8),
            "tokens": (1e9, 3e10),
            "bits_weights": BITS,
            "bits_activations": BITS,
            "bits_cache": BITS,
        },
        "",
    ),
    "ludziejewski2025": ({"rows": 200, "active_params": (1e7, 3e9), "tokens": (5e8, 8e10), "experts": EXPERTS}, ""),
    "abnar2025": ({"rows": 150, "params": (1e8, 3e10), "tokens": (1e9, 1e11), "sparsity": [0, 0.25, 0.5, 0.75, 0.9, 0.95]}, ""),
    "ling2025-leverage": ({"rows": 100, "activation_ratio": (0.01, 1.0), "granularity": [1, 2, 4, 8, 16], "flops": (1e18, 6e20)}, ""),
    "sun2025": (
        {
            "rows": 150,
            "params": (4e7, 7e8),
            "tokens": (1e10, 1e11),
            "exponent_bits": [1, 2, 3, 4, 5],
            "mantissa_bits": [1, 2, 3, 4],
            "block": [32, 64, 128, 256, 512],
        },
        "",
    ),
    "frantar2023-t5": ({"rows": 100, "nonzero_params": (1e6, 1e8), "tokens": (1e9, 1e11), "sparsity": [0, 0.5, 0.75, 0.875]}, ""),
    "castro2025-quartet": ({"rows": 60, "non_embedding_params": (3e7, 2e8), "tokens": (1e9, 1e11)}, "E A B alpha beta gamma"),
    "busbridge2025-distillation": (
        {"rows": 100, "non_embedding_params": (1.4e8, 1.2e10), "tokens": (1e9, 5e11), "teacher_loss": (1.85, 3.2)},
        "E A B alpha beta gamma",
    ),
    "tao2024": (
        {
            "rows": 150,
            "non_vocab_params": (3.3e7, 3e9),
            "vocab_params": (1e6, 3e8),
            "vocab": [4096, 8192, 16384, 32768, 65536],
            "characters": (1e9, 5e11),
        },
        "f0 f1 f2",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("curve", PLANS)
def test_a_planted_law_is_recovered(curve):
    plan, fixed = PLANS[curve]
    law, table = planted(curve, **plan)
    truth = table[law.output]
    found = fits.fit(
        law,
        table,
        objective="huber" if (truth < 0).any() else "log-huber",
        fixed={name: constants(curve)[name] for name in fixed.split()},
    )
    predicted = law.evaluate(found.vector, {name: table[name] for name in law.inputs})
    np.testing.assert_allclose(predicted, truth, rtol=1e-6)
