"""Number formats: codes against the casts of ml_dtypes, products and their gradients against numpy, the grammar of widths."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import qwix
from flax import nnx

from models.config import ConfigError
from models.formats import BF16, E4M3, E5M2, FP16, TF32, Float, Integer, decode, encode, quantise
from models.parametrization import Weight
from models.precision import check_native, native_units, policy, quantised_params

REFEREES = [
    (E4M3, ml_dtypes.float8_e4m3fn),
    (E5M2, ml_dtypes.float8_e5m2),
    (FP16, np.float16),
    (BF16, ml_dtypes.bfloat16),
    (Float(2, 1), ml_dtypes.float4_e2m1fn),
    (Float(2, 3), ml_dtypes.float6_e2m3fn),
    (Float(3, 2), ml_dtypes.float6_e3m2fn),
]
slow = pytest.mark.slow
NAMES = [
    "bf16",
    "fp16",
    "fp8",
    "int8",
    "int4",
    "w4a8c8",
    *(pytest.param(name, marks=slow) for name in ("fp32", "tf32", "w8a8g8", "we3m2-ae4m3")),
]


def floats(seed: int = 0, count: int = 60_000) -> np.ndarray:
    """Finite float32 of every exponent and sign, and as many of the usual size."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, count, np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([bits[np.isfinite(bits)], rng.normal(0, 3, count).astype(np.float32), np.array([0.0, -0.0], np.float32)])


def codes_of(dtype) -> np.ndarray:
    """Every finite value of a dtype of at most 16 bits, ascending, as float32."""
    info = ml_dtypes.finfo(dtype)
    codes = np.arange(2 ** min(info.bits, 16)).astype(f"uint{8 * np.dtype(dtype).itemsize}").view(dtype).astype(np.float32)
    return np.unique(codes[np.isfinite(codes)])


@pytest.mark.parametrize(("fmt", "dtype"), REFEREES, ids=[fmt.name for fmt, _ in REFEREES])
def test_rounding_is_that_of_the_standard_casts_bit_for_bit(fmt, dtype):
    """Random numbers, every code, every tie between two codes and its two neighbours; overflow gives the largest code."""
    codes = codes_of(dtype)
    assert fmt.largest == codes[-1]
    ties = ((codes[1:].astype(np.float64) + codes[:-1]) / 2).astype(np.float32)
    x = np.concatenate([floats(), codes, ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    expected = np.clip(x, -fmt.largest, fmt.largest).astype(dtype).astype(np.float32)
    got = np.asarray(jax.jit(fmt.round)(x))
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(fmt.round(jnp.array([jnp.inf, -jnp.inf, jnp.nan])), [fmt.largest, -fmt.largest, np.nan])


def test_tf32_keeps_ten_bits_of_mantissa():
    x = floats()
    bits = x.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.asarray(TF32.round(jnp.asarray(x)))[finite].view(np.uint32), expected[finite].view(np.uint32))


@pytest.mark.parametrize("bits", [3, 8, 16])
def test_integers_err_by_half_a_step_at_most_and_repeat_themselves(bits):
    x = np.random.default_rng(bits).normal(size=(7, 300)).astype(np.float32)
    fmt = Integer(bits)
    codes, scale = (np.asarray(part, np.float64) for part in encode(jnp.asarray(x), fmt, axis=1))
    assert scale.shape == (7, 1)
    requantise = jax.jit(lambda x: quantise(x, fmt, axis=1))
    once = np.asarray(requantise(x))
    steps = np.abs(once.astype(np.float64) - x) / scale
    assert 0.4 < steps.max() <= 0.5 * (1 + 2**-6)  # the quotient x / scale itself is rounded to float32
    assert len(np.unique(codes)) <= 2**bits - 1
    np.testing.assert_array_equal(np.abs(codes).max(axis=1), np.full(7, fmt.largest))
    np.testing.assert_allclose(requantise(once), once, rtol=3e-7)
    np.testing.assert_array_equal(requantise(-x), -once)


def test_carriers_hold_every_code():
    x = jnp.asarray(np.random.default_rng(0).normal(size=4000), jnp.float32)
    for fmt in (Integer(9), Integer(10), E4M3, Float(6, 7), Float(3, 9)):
        np.testing.assert_array_equal(decode(encode(x, fmt)), decode(encode(x, fmt, dtype=jnp.float32)), err_msg=fmt.name)


def test_a_tensor_of_zeros_and_one_of_extremes_stay_finite():
    sizes = np.outer([0, 3.4e38, 1e-30, 1e-44], [1, -0.25, 0]).astype(np.float32)
    for fmt in (Integer(8), E5M2, Float(6, 1), BF16):
        values = np.asarray(quantise(jnp.asarray(sizes), fmt, axis=1))
        assert np.isfinite(values).all()
        assert (values[0] == 0).all()
        diverged = quantise(jnp.asarray(np.full_like(sizes, np.nan)), fmt, axis=1)
        assert np.isnan(diverged).all()  # not hidden


def test_error_falls_with_every_bit():
    x, w = data()
    exact = np.einsum(SPEC, x, w)

    def error(name: str) -> float:
        return float(np.sqrt(np.mean(np.square(policy(name).product(SPEC, x, w) - exact))))

    for names in ([f"w{bits}a{bits}" for bits in range(3, 8)], [f"we4m{mantissa}" for mantissa in range(1, 5)]):
        errors = [error(name) for name in names]
        assert all(1.6 < more / less < 2.8 for more, less in itertools.pairwise(errors)), errors


SPEC = "BTD,DCNH->CBTNH"


def data(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, 8, 48)), jnp.float32), jnp.asarray(rng.normal(size=(48, 3, 2, 8)) / 7, jnp.float32)


def gradients(precision, spec, x, w, g):
    """`(y, dx, dw)` of a product whose result has the gradient g."""

    @jax.jit
    def run(x, w, g):
        y, pull = jax.vjp(lambda x, w: precision.product(spec, x, w, out=jnp.float32), x, w)
        return y, *pull(g)

    return run(x.astype(precision.compute), w, g)


def fp8_numpy(x: np.ndarray, dtype) -> np.ndarray:
    """A tensor after current scaling to an 8-bit float of ml_dtypes, as float64."""
    largest = float(ml_dtypes.finfo(dtype).max)
    scale = np.abs(x).max() * np.float32(1 / largest)
    return np.clip(x / scale, -largest, largest).astype(dtype).astype(np.float64) * np.float64(scale)


def test_fp8_product_and_gradient_are_those_of_a_plain_numpy_one():
    x, w = data()
    x = np.asarray(x.astype(jnp.bfloat16), np.float32)
    g = np.random.default_rng(1).normal(size=(3, 2, 8, 2, 8)).astype(np.float32) * 1e-6
    qx, qw = fp8_numpy(x, ml_dtypes.float8_e4m3fn), fp8_numpy(np.asarray(w), ml_dtypes.float8_e4m3fn)
    qg = fp8_numpy(g, ml_dtypes.float8_e5m2)
    for native in (False, True):
        y, dx, dw = gradients(dataclasses.replace(policy("fp8"), native=native), SPEC, jnp.asarray(x), w, g)
        np.testing.assert_allclose(y, np.einsum(SPEC, qx, qw), atol=2e-6)
        np.testing.assert_allclose(dw, np.einsum("CBTNH,BTD->DCNH", qg, qx), atol=2e-12)
        expected_dx = np.einsum("CBTNH,DCNH->BTD", qg, qw)
        np.testing.assert_allclose(dx.astype(np.float32), expected_dx, rtol=2**-8, atol=1e-12)  # returned in bfloat16
        assert dx.dtype == jnp.bfloat16
        assert dw.dtype == jnp.float32


@pytest.mark.parametrize("name", ["int4", pytest.param("int8", marks=slow), pytest.param("fp8", marks=slow)])
def test_hardware_and_emulated_products_agree_but_for_the_order_of_sums(name):
    x, w = data()
    g = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 8, 2, 8)), jnp.float32)
    results = [gradients(dataclasses.replace(policy(name), native=native), SPEC, x, w, g) for native in (True, False)]
    for native, emulated, rounding in zip(*results, (1e-6, 2**-8, 2e-6), strict=True):
        native, emulated = np.asarray(native, np.float64), np.asarray(emulated, np.float64)
        assert np.abs(native - emulated).max() <= rounding * np.abs(emulated).max()


@pytest.mark.filterwarnings("ignore:The 'm.iter_modules")  # Qwix walks a module in Flax's older way
def test_int8_product_is_near_the_exact_one_and_its_gradient_is_qwix_own():
    """The referee is Qwix's own quantised training, told to use symmetric codes as ours are."""
    x, w = data()
    x = x.astype(jnp.bfloat16).astype(jnp.float32).reshape(16, 48)
    w = w.reshape(48, 48)
    g = jnp.asarray(np.random.default_rng(3).normal(size=(16, 48)), jnp.float32)
    int8 = dataclasses.replace(policy("int8"), compute=jnp.float32)
    y, dx, dw = gradients(int8, "RD,DF->RF", x, w, g)
    exact = x @ w
    # Half a step on either side of each of 48 products; the largest code of rows and columns is 127.
    size_x, size_w = np.abs(x), np.abs(w)
    bound = (np.outer(size_x.max(1), size_w.sum(0)) + np.outer(size_x.sum(1), size_w.max(0))) * 0.5 / 127
    assert (np.abs(y - exact) <= bound * 1.01).all()

    class Layer(nnx.Module):
        def __call__(self, x, w):
            return jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())))

    method = f"absmax,{127.5 / 127}"
    rule = qwix.QtRule(
        module_path=".*",
        weight_qtype=jnp.int8,
        act_qtype=jnp.int8,
        bwd_qtype=jnp.int8,
        weight_calibration_method=method,
        act_calibration_method=method,
        bwd_calibration_method=method,
    )
    layer = qwix.quantize_model(Layer(), qwix.QtProvider([rule]), x, w)

    @jax.jit
    def referees(x, w, g):
        y, pull = jax.vjp(lambda x, w: layer(x, w), x, w)
        return y, *pull(g)

    for got, referee in zip((y, dx, dw), referees(x, w, g), strict=True):
        np.testing.assert_allclose(got, referee, atol=2e-6 * float(jnp.abs(referee).max()))


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_gives_finite_products_and_gradients_under_vmap_scan_and_remat(name):
    """Two members of very different size: each has scales of its own, so the large one costs the small one nothing."""
    precision = policy(name)
    x = np.random.default_rng(0).normal(size=(2, 6, 8, 16)) * np.array([1, 2e-3]).reshape(2, 1, 1, 1)  # members, experts, rows, width
    x[0, 0] = 0
    x = jnp.asarray(x, precision.compute)
    w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6, 16, 16)) / 4, jnp.float32)  # layers, experts

    def loss(w, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(precision.product("GRD,GDF->GRF", x, w)), None), prevent_cse=False)
        y = jax.lax.scan(body, x, w)[0]
        return jnp.sum(jnp.square(precision.head_product("GRD,GDV->GRV", y, w[0], out=jnp.float32)))

    step = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0)))
    losses, gradient = step(w, x)
    assert losses.dtype == gradient.dtype == jnp.float32
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=(3, 4))[:, :, 1:] > 0).all()
    np.testing.assert_array_equal(step(w, x[np.array([1, 1])])[0], np.repeat(losses[1:], 2))


@pytest.mark.parametrize("name", ["fp8", "int8", pytest.param("we3m2-ae4m3-g6", marks=slow)])
def test_overflow_never_becomes_nan(name):
    x, w = np.zeros((1, 4, 8), np.float32), np.zeros((8, 8), np.float32)
    x[0, 0], x[0, 1, 0], w[0, 0] = 1e30, -3e38, 1e30
    y, dx, dw = gradients(policy(name), "BTD,DF->BTF", jnp.asarray(x), jnp.asarray(w), np.full((1, 4, 8), 3e38, np.float32))
    assert not any(np.isnan(array.astype(np.float32)).any() for array in (y, dx, dw))
    assert np.isinf(y).any()  # the true product is 1e60: infinity, not a wrapped or hidden number


def test_sums_of_bf16_products_are_not_kept_in_bf16():
    """4,096 ones summed in bfloat16 stall at 256; the weight's gradient comes back unrounded."""
    precision = policy("bf16")
    x, w = jnp.ones((1, 4099, 1), jnp.bfloat16), jnp.ones((1, 1))
    y, _, dw = gradients(precision, "BTD,DF->BTF", x, w, jnp.ones((1, 4099, 1)))
    assert float(dw[0, 0]) == 4099
    assert float(precision.product("BTD,TF->BF", x[..., 0, None], jnp.ones((4099, 1))).squeeze()) == 4096  # rounded once, to 8 bits
    assert y.dtype == jnp.float32


def test_fp32_is_never_shortened_and_tf32_asks_for_its_own_unit():
    x, w = jnp.ones((1, 4, 8)), jnp.ones((8, 8))

    def program(name: str, **more) -> str:
        return str(jax.make_jaxpr(lambda x, w: dataclasses.replace(policy(name), **more).product("BTD,DF->BTF", x, w))(x, w))

    assert "Precision.HIGHEST" in program("fp32")
    assert "f8_e4m3fn" in program("fp8", native=True)
    assert "f8_e4m3fn" not in program("fp8")  # this is a CPU
    assert "TF32_TF32_F32" in program("tf32", native=True)


def test_the_cache_is_quantised_per_head_and_token_with_the_gradient_of_the_identity():
    k = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 16)), jnp.float32)
    cached, pull = jax.vjp(policy("c4").cache, k)
    np.testing.assert_array_equal(cached, quantise(k, Integer(4), axis=-1))
    assert len(np.unique(np.asarray(cached)[0, 0, 0])) <= 15
    np.testing.assert_array_equal(pull(k)[0], k)
    assert policy("bf16").cache(k) is k


def test_widths_spelled_by_name():
    mixed = policy("we3m2-ae4m3-c16")
    assert (mixed.weights, mixed.activations, mixed.keys_values, mixed.gradients) == (Float(3, 2), E4M3, Integer(16), None)
    assert (mixed.bits_weights, mixed.bits_activations, mixed.bits_cache) == (6, 8, 16)
    integers = policy("w4a8c8")
    assert (integers.bits_weights, integers.bits_activations, integers.bits_cache) == (4, 8, 8)
    assert policy("w4").bits_activations == 32
    assert policy("int4").bits_weights == policy("int4").bits_activations == 4
    assert policy("bf16").bits_cache == 16
    assert hash(policy("w4a8c8")) == hash(integers)
    assert policy("fp16").loss_scaling


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fp3", "one of fp32, bf16, tf32, fp16, fp8, int8, int4, or widths"),
        ("", "is not known"),
        ("a8w4", "in the order w, a, c, g"),
        ("w2", "part w2: widths are 3 to 16 bits, got 2"),
        ("w4a17", "part a17: widths are 3 to 16 bits, got 17"),
        ("we1m3", "2 to 8 exponent bits, got 1"),
        ("we8m8", "3 to 16 bits, got 17"),
        ("w4-a8", "is written w4a8"),
        ("we3m2a8", "is written we3m2-a8"),
        ("w08", "is written w8"),
        ("w4\n", "is not known"),
    ],
)
def test_names_that_spell_nothing_are_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        policy(name)


def test_devices_say_what_they_emulate():
    assert policy("fp8").emulated("cpu") == ("fp8 products",)
    assert policy("fp8").emulated("gpu", "NVIDIA A100-SXM4-80GB") == ("fp8 products",)
    assert policy("fp8").emulated("gpu", "Tesla V100-SXM2-16GB") == ("fp8 products", "bf16 products")
    for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA H20", "NVIDIA L40S", "NVIDIA GeForce RTX 4090", "NVIDIA GB200"):
        assert policy("fp8").emulated("gpu", kind) == ()
        assert policy("tf32").emulated("gpu", kind) == ()
    assert policy("tf32").emulated("gpu", "NVIDIA A100-SXM4-80GB") == ()
    assert policy("int4").emulated("gpu", "NVIDIA H100 80GB HBM3") == ("int4 products",)
    assert policy("w4c8").emulated("gpu", "NVIDIA H100 80GB HBM3") == ("int4 weights", "int8 cache")
    assert native_units("gpu", "an unheard-of card") == {"fp32", "fp16", "bf16"}
    for name in ("fp32", "bf16", "int8"):
        check_native(name, "cpu")
    check_native("fp8", "cpu", emulate=True)
    with pytest.raises(ConfigError, match="precision fp8: cpu has no unit for fp8 products; set emulate = true"):
        check_native("fp8", "cpu")
    with pytest.raises(ConfigError, match=r"precision w4: gpu \(NVIDIA H100\) has no unit for int4 weights"):
        check_native("w4", "gpu", "NVIDIA H100")


@pytest.fixture(scope="module")
def layers() -> nnx.State:
    """The kinds of weight that a model has, stacked over two layers where the name lacks their letter."""

    def weight(kind: str, fan_in: int, *shape: int) -> Weight:
        return Weight(jnp.asarray(np.random.default_rng(fan_in).normal(size=shape), jnp.float32), kind=kind, fan_in=fan_in)

    shapes = {
        "out_NHD": weight("hidden", 8, 2, 2, 4, 8),
        "up_EDCF": weight("hidden", 8, 2, 4, 8, 2, 16),
        "embedding_VD": weight("embedding", 1, 16, 8),
        "counter": nnx.Variable(jnp.ones(())),
    }
    return nnx.State(shapes)


@pytest.mark.parametrize("name", ["w3", "fp8", "bf16", *(pytest.param(name, marks=slow) for name in ("int4", "we2m1", "w8a8"))])
def test_quantised_parameters_are_those_that_the_policy_multiplies(layers, name):
    """Rows of the identity are themselves in every format, so the policy's own product reads the weights that it sees."""
    precision = policy(name)
    small = jax.jit(lambda params: quantised_params(params, precision))(layers)
    assert jax.tree.structure(small) == jax.tree.structure(layers)
    np.testing.assert_array_equal(small["embedding_VD"].get_value(), layers["embedding_VD"].get_value())
    rows_out = jnp.asarray(np.eye(8).reshape(1, 8, 2, 4), precision.compute)
    rows_up = jnp.asarray(np.broadcast_to(np.eye(8), (4, 8, 8)), precision.compute)

    @jax.jit
    def read(out_NHD, up_EDCF):
        as_float = {"out": jnp.float32}
        return precision.product("BTNH,NHD->BTD", rows_out, out_NHD, **as_float), precision.product(
            "ERD,EDCF->ERCF", rows_up, up_EDCF, **as_float
        )

    for layer in range(2):
        seen = read(*(layers[weight].get_value()[layer] for weight in ("out_NHD", "up_EDCF")))
        for weight, values in zip(("out_NHD", "up_EDCF"), seen, strict=True):
            got = np.asarray(small[weight].get_value()[layer])
            np.testing.assert_allclose(got, np.asarray(values).reshape(got.shape), rtol=3e-7)
            assert not np.array_equal(got, layers[weight].get_value()[layer])
    assert quantised_params(layers, policy("fp32")) is layers


def test_a_weight_whose_name_does_not_fit_its_shape_is_refused(layers):
    misnamed = nnx.State({"out_VD": layers["out_NHD"]})
    with pytest.raises(ValueError, match=r"weight out_VD of shape \(2, 2, 4, 8\)"):
        quantised_params(misnamed, policy("w4"))


@pytest.mark.parametrize("name", ["int8", pytest.param("fp8", marks=slow), pytest.param("bf16", marks=slow)])
def test_products_lie_as_told_on_an_explicit_mesh(name):
    """Batch and weight split over axes of one device: the weight's gradient sums over a split axis and must say how it lies."""
    from jax.sharding import PartitionSpec as P

    precision = policy(name)
    x, w = data()
    expected = gradients(precision, SPEC, x, w, jnp.ones((3, 2, 8, 2, 8)))
    mesh = jax.make_mesh((1, 1), ("data", "model"))
    with jax.set_mesh(mesh):
        x, w = jax.device_put(x, P("data")), jax.device_put(w, P("data", None, "model"))

        @jax.jit
        def run(x, w):
            out = P(None, "data", None, "model")
            y, pull = jax.vjp(lambda x, w: precision.product(SPEC, x, w, out=jnp.float32, sharding=out), x, w)
            return y, *pull(jnp.ones_like(y))

        y, dx, dw = run(x.astype(precision.compute), w)
        assert jax.typeof(dw).sharding.spec == P("data", None, "model", None)
    for got, referee in zip((y, dx, dw), expected, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(referee, np.float32), rtol=1e-6, atol=1e-6)
