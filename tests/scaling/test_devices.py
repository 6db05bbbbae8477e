"""Many devices are one device to rounding, and two processes are one. Devices are virtual and belong to processes started here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.errors import InputError
from scaling.processes import join
from tests.scaling.layouts import steps

ROOT = Path(__file__).parents[2]
ONE, MIXED = {}, {"fsdp": 2, "tensor": 2, "expert": 2}
DENSE = {"layers": 1, "width": 16, "heads": 4, "vocab_size": 64, "context": 8}
MOE = DENSE | {"experts": 8, "experts_per_token": 1, "balance": "bias"}

Result = dict[str, Any]


def start(folder: Path, name: str, **job: Any) -> tuple[subprocess.Popen, Path]:
    """A process that does `job` (`tests.scaling.layouts`), and the file that it will write."""
    file, out = folder / f"{name}.json", folder / f"{name}.npz"
    file.write_text(json.dumps(job))
    # Compiled without optimisation: that is most of the time here, and what is compared does not depend on it.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    command = [sys.executable, "-m", "tests.scaling.layouts", str(file), str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), out


def finish(process: subprocess.Popen, out: Path) -> list[Result]:
    """What each run of the job found; the process's own words where it failed."""
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said[-4000:]
    results: list[Result] = []
    if out.exists():  # the first process writes
        for key, value in np.load(out).items():
            place, _, name = key.partition(" ")
            results.extend({} for _ in range(int(place) + 1 - len(results)))
            results[int(place)][name] = value
    return results


def start_pair(folder: Path, devices: int, /, **run: Any) -> list[tuple[subprocess.Popen, Path]]:
    """Two processes of `devices` devices each that do `run` together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [start(folder, f"process{index}", devices=devices, runs=[run], join=[address, 2, index]) for index in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("layouts")
    pair = start_pair(folder, 1, model=DENSE, layout={"fsdp": 2}, validate=False)
    runs = [{"model": MOE, "layout": layout, "validate": False} for layout in (ONE, MIXED)]
    alone = start(folder, "alone", devices=8, runs=runs)
    dense = steps(DENSE, ONE, validate=False)  # here, meanwhile
    (pairs, nothing), (moe, mixed) = (finish(*process) for process in pair), finish(*alone)
    assert nothing == []
    return {"dense": dense, "two processes": pairs[0], "moe": moe, "moe mixed": mixed}


def assert_same(one: Result, many: Result, rounding: float = 2e-6) -> None:
    """The same metrics, routing and validation losses, and the same weights but for what Adam makes of the rounding of tiny gradients."""
    for name in {"loss", "gradient_norm", "validation"} & many.keys():
        np.testing.assert_allclose(many[name], one[name], rtol=rounding * 10, atol=rounding * 10, err_msg=name)
    for name in ("load_LE", "dropped_L"):
        np.testing.assert_allclose(many[name], one[name], atol=rounding, err_msg=name)
    for name, value in many.items():
        if name.startswith("value 0/"):
            assert np.abs(value - one[name]).mean() < rounding * 10, name


def shares(result: Result) -> dict[str, set[float]]:
    """Of each weight, by its name, the share of it and of its moments that the first device holds."""
    found: dict[str, set[float]] = {}
    for name, share in result.items():
        if name.startswith("share "):
            parts = name.removeprefix("share ").removesuffix("/value").split("/")
            found.setdefault(parts[-1], set()).add(float(share))
    return found


def test_fsdp_tensor_and_expert_parallel_together_are_one_device(found):
    """Dropless: rows beyond the capacity, of which there are some, reach experts on other devices too."""
    assert_same(found["moe"], found["moe mixed"])
    assert found["moe"]["load_LE"].max() > 3 / 8  # the capacity of each expert: 3 of 8 rows


def test_weights_and_moments_are_split_at_rest(found):
    split = shares(found["moe mixed"])
    assert split["up_EDCF"] == split["down_EFD"] == {1 / 8}
    for name in ("qkv_DGH", "out_NHD", "embedding_VD", "head_DV"):
        assert split[name] == {1 / 4}, name
    assert split["router_DE"] == {1.0}


def test_two_processes_are_one(found):
    """Each holds half of every weight, and the first alone wrote."""
    assert_same(found["dense"], found["two processes"])
    assert shares(found["two processes"])["up_DCF"] == {1 / 2}


@pytest.mark.parametrize(
    ("address", "count", "index", "says"),
    [("localhost", 2, 0, "'localhost' is not HOST:PORT"), ("localhost:1", 2, 2, r"index = 2 does not lie in 0\.\.1")],
)
def test_processes_that_cannot_join_are_refused(address, count, index, says):
    with pytest.raises(InputError, match=says):
        join(address, count, index)


MORE_DENSE = DENSE | {"layers": 2, "activation": "gelu", "norm": "layer", "positions": "learned", "tied": True, "qk_norm": False}
GROUPED = DENSE | {"layers": 9, "kv_heads": 2}  # blocks in a loop
SWITCH = MOE | {"layers": 2, "experts_per_token": 2, "shared_experts": 1, "balance": "switch", "router": "sigmoid"}
MORE: list[tuple[dict, list[dict], dict]] = [
    (MORE_DENSE, [{"data": 8}, {"fsdp": 8}, {"data": 2, "tensor": 2, "expert": 2}, {"tensor": 4}, MIXED], {}),
    (MORE_DENSE, [{"fsdp": 2, "tensor": 4}], {"optimizer": "muon", "remat": "blocks"}),
    (GROUPED, [{"fsdp": 4, "tensor": 2}], {}),
    (SWITCH, [{"data": 8}, {"fsdp": 8}, {"data": 2, "tensor": 2, "expert": 2}, {"tensor": 4}, {"expert": 8}], {}),
    (SWITCH | {"dispatch": "capacity", "capacity_factor": 1.0}, [MIXED, {"fsdp": 2, "expert": 4}], {}),
    (SWITCH | {"dispatch": "dense"}, [{"tensor": 2, "expert": 4}], {"optimizer": "muon"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layouts", "options"), MORE, ids=range(len(MORE)))
def test_every_layout_is_one_device(tmp_path, model, layouts, options):
    runs = [{"model": model, "layout": layout} | options for layout in (ONE, *layouts)]
    one, *rest = finish(*start(tmp_path, "many", devices=8, runs=runs))
    for many in rest:
        assert_same(one, many)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rounding"), [("w4a4c8g4", 2e-6), ("we3m2-ae4m3-ge5m2", 2e-6), ("fp8", 2e-3), ("bf16", 2e-3)])
def test_scales_do_not_depend_on_the_layout(tmp_path, precision, rounding):
    """A scale is that of the whole row, channel or tensor, wherever its parts lie. What is bfloat16 between products rounds there."""
    runs = [{"model": DENSE, "layout": layout, "precision": precision} for layout in (ONE, {"fsdp": 2, "tensor": 4})]
    one, many = finish(*start(tmp_path, "formats", devices=8, runs=runs))
    for name in ("loss", "gradient_norm", "validation"):
        np.testing.assert_allclose(many[name], one[name], rtol=rounding * 10, err_msg=name)


@pytest.mark.slow
def test_a_run_of_two_processes_is_the_run_of_one(tmp_path, text_folder):
    """With its checkpoints, whose parts both processes write, and its model, which a process alone reads."""
    run: dict[str, Any] = {"model": DENSE | {"vocab_size": 256, "context": 32}, "layout": {"data": 2, "fsdp": 2}}
    run |= {"corpus": str(text_folder), "tokens": 32 * 8 * 300, "batch": 8, "micro_batch": 2, "validation_tokens": 2048}
    pair = start_pair(tmp_path, 2, **run, folder=str(tmp_path / "pair"))
    (two,), nothing = (finish(*process) for process in pair)
    (one,) = finish(*start(tmp_path, "alone", devices=4, runs=[run | {"folder": str(tmp_path / "alone")}]))
    assert nothing == []
    assert str(two["run_id"]) == str(one["run_id"])
    np.testing.assert_allclose(two["curve"], one["curve"], rtol=1e-5)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    again = finish(*start(tmp_path, "again", devices=4, runs=[run | {"folder": str(tmp_path / "pair")}]))
    assert again[0]["loss"] == pytest.approx(float(two["loss"]), rel=1e-6)  # carried on from the pair's last checkpoint


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_a_run_on_one_core_has_the_bits_of_a_sweeps_worker():
    """One identity, one result: a process that has one core, and a worker that is told to use one thread of many."""
    train = "import models\nfrom scaling import RunConfig, train\nrun = RunConfig(models.ladder(32, context=64), 60_000, 'python-source', precision='bf16')\n"
    train += "record = train(run)\nprint(record.run_id, record.loss)\n"
    bound = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    plain = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
    worker = plain | {"NPROC": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    told = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        for code, env in ((bound + train, plain), (train, worker))
    ]
    assert told[0] == told[1]
