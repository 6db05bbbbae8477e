"""Not a test: trains small models on given layouts and writes what came of it. `test_devices` runs it as processes of their own.

`python -m tests.scaling.layouts JOB.json OUT.npz`, where the job holds `devices` (of this process), `runs` (the arguments of `steps`, or
those of `whole_run`) and, for one of several processes, `join` (the arguments of `scaling.processes.join`).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import models
from models.sharding import Layout, check_layout, placed
from scaling import step
from scaling.processes import is_first, join
from scaling.run import RunConfig
from scaling.training import train

SEQUENCES, STEPS = 64, 3


def main(job_file: str, out_file: str) -> None:
    with open(job_file) as file:
        job = json.load(file)
    jax.config.update("jax_num_cpu_devices", job["devices"])
    if "join" in job:
        join(*job["join"])
    found = [(whole_run if "tokens" in run else steps)(**run) for run in job["runs"]]
    if is_first():
        arrays: dict[str, Any] = {f"{place} {name}": value for place, result in enumerate(found) for name, value in result.items()}
        np.savez(out_file, **arrays)


def steps(model: dict[str, Any], layout: dict[str, int], validate: bool = True, **static: Any) -> dict[str, Any]:
    """Metrics of STEPS steps and validation losses; of every weight and moment the share that a device holds, and its value at the end."""
    config, across = models.ModelConfig(**model), Layout(**layout)
    check_layout(config, across)
    fields: dict[str, Any] = {"precision": "fp32", "micro_batch": 1, "schedule": "wsd"} | static
    run = step.Static(config, **fields, layout=across)
    text, index = _data(config.context), np.arange(10, dtype=np.int32).reshape(5, 2)
    inputs = placed((text, _hyper(), np.int32(STEPS)), across)
    state, metrics = step.train_steps(run, step.initialise(run, np.int32(0)), *inputs)
    result: dict[str, Any] = {
        name: np.asarray(getattr(metrics, name))[:STEPS] for name in ("loss", "gradient_norm", "load_LE", "dropped_L")
    }
    if validate:
        result["validation"] = np.asarray(step.validation_losses(run, state.params, state.router, *placed((text.stream, index), across)))
    for path, weight in jax.tree_util.tree_leaves_with_path((state.params, state.moments)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        result[f"share {name}"] = weight.addressable_shards[0].data.size / weight.size
        if weight.is_fully_addressable:
            result[f"value {name}"] = np.asarray(weight)
    return result


def whole_run(model: dict[str, Any], layout: dict[str, int], folder: str, **fields: Any) -> dict[str, Any]:
    """Loss, its error and the training curve of a run; its checkpoints and its model are left in `folder`."""
    config = RunConfig(models.ModelConfig(**model), **fields)
    record = train(config, layout=Layout(**layout), checkpoint=f"{folder}/state", checkpoint_every=150, save=f"{folder}/model")
    return {"loss": record.loss, "loss_se": record.loss_se, "curve": record.train_loss, "run_id": record.run_id}


def _data(context: int) -> step.Data:
    generator = np.random.default_rng(0)
    # Half of it is one symbol, whose expert then has more rows than its capacity.
    stream = np.minimum(generator.geometric(0.5, SEQUENCES * context + 1), 63).astype(np.uint8)
    return step.Data(jnp.asarray(stream), jnp.asarray(generator.permutation(SEQUENCES).astype(np.int32)))


def _hyper() -> step.Hyper:
    real, whole = jnp.float32, jnp.int32
    return step.Hyper(
        peak=real(1e-2),
        steps=whole(10),
        warmup_steps=whole(1),
        decay_steps=whole(5),
        weight_decay=real(0.1),
        balance_loss=real(0.1),
        z_loss=real(0.01),
        bias_rate=real(1e-3),
        distill_weight=real(0.5),
        temperature=real(1.0),
        micro_batches=whole(8),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
