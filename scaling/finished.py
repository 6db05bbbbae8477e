"""The model that a finished run leaves: its weights through Orbax, its configuration and record beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from models.config import ConfigError, ModelConfig
from models.fields import is_whole
from models.precision import policy, quantised_params
from models.sharding import Layout
from scaling import evaluation, step
from scaling.data.corpora import load_corpus
from scaling.data.corpus import Corpus
from scaling.errors import InputError
from scaling.paths import check_folder
from scaling.run import RunConfig, RunRecord


@dataclasses.dataclass(frozen=True)
class Finished:
    """A trained model: `params` and `router` are what `scaling.step` trains, `record` what the run left."""

    config: RunConfig
    params: step.Params
    router: nnx.State
    record: dict[str, Any]

    @property
    def model(self) -> ModelConfig:
        return self.config.model


def check_save(folder: str | Path, checkpoint: str | Path | None = None) -> None:
    """InputError unless a model may be written to `folder`: a new or empty one, or that of a finished run, whose place it takes.

    Whatever else is there would be deleted; so would `checkpoint`, the folder of a run's checkpoints, within it.
    """
    path = Path(folder).resolve()
    kept = None if checkpoint is None else Path(checkpoint).resolve()
    if kept is not None and (path == kept or path in kept.parents or kept in path.parents):
        raise InputError(f"save {folder}: overlaps with the folder of checkpoints {checkpoint}; choose two that lie apart")
    check_folder(folder, "save")
    if path.exists() and any(path.iterdir()):
        try:
            record_of(path)
        except InputError as error:
            raise InputError(
                f"save {folder}: has files and is not the folder of a finished run; they would be deleted, choose a new folder"
            ) from error


def save_model(folder: str | Path, state: step.TrainState, record: RunRecord) -> None:
    """Writes the model to `folder`, in place of whatever is there (`check_save`)."""
    metadata: Any = {"record": record.as_dict()}
    ocp.save(str(Path(folder).resolve()), jax.tree.leaves((state.params, state.router)), custom_metadata=metadata, overwrite=True)


def load_model(folder: str | Path) -> Finished:
    """The model of a finished run; InputError where `folder` holds none, or that of a run that diverged."""
    record = record_of(folder)
    if record["status"] != "done":
        raise InputError(f"model {folder}: run {record['run_id']} {record['status']} ({record['reason']}); it left no trained model")
    try:
        config = RunConfig.from_dict(record["config"])
    except (TypeError, InputError, ConfigError) as error:  # a field that this version does not have, does not have yet, or refuses
        raise InputError(f"model {folder}: made by another version of isoloss, {record['versions']['isoloss']} ({error})") from error
    plain = static_of(dataclasses.replace(config, kernels=False))  # weights are the same with kernels, which may not be had here
    start = jax.eval_shape(lambda: step.initialise(plain, jnp.int32(0)))
    leaves, tree = jax.tree.flatten((start.params, start.router))
    # The machine that saved them may have had other devices. Read to one of ours, they would be bound to it alone: hence the copy.
    here = SingleDeviceSharding(jax.local_devices()[0])
    found = ocp.load(str(Path(folder).resolve()), [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here) for leaf in leaves])
    return Finished(config, *jax.tree.unflatten(tree, [jnp.asarray(np.asarray(leaf)) for leaf in found]), record)


def record_of(folder: str | Path) -> dict[str, Any]:
    """What the run that left its model in `folder` recorded."""
    try:
        metadata: Any = ocp.metadata(str(Path(folder).resolve())).custom_metadata or {}
        return metadata["record"]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"model {folder}: not the folder of a finished run (train with save = FOLDER to make one)") from error


def static_of(config: RunConfig, layout: Layout | int = 1, teacher: RunConfig | None = None) -> step.Static:
    """What the compilation of a run depends on."""
    if isinstance(layout, int):  # so many devices that share the micro-batches
        layout = Layout(data=layout)
    return step.Static(
        model=config.model,
        precision=config.precision,
        micro_batch=config.micro_batch,
        schedule=config.schedule,
        optimizer=config.optimizer,
        remat=config.remat,
        layout=layout,
        teacher=teacher.model if teacher else None,
        kernels=config.kernels,
        teacher_precision=teacher.precision if teacher else "fp32",
        handicap_data=config.handicap_data,
        handicap_structure=config.handicap_structure,
    )


def _tokens_of(corpus: Corpus) -> tuple[str, str | None]:
    """What its tokens are: bytes are bytes, any other tokenizer is told by its hash."""
    name = corpus.manifest["tokenizer"]
    return name, None if name == "bytes" else corpus.manifest.get("tokenizer_sha256")


def evaluate(
    folder: str | Path,
    precision: str | None = None,
    *,
    weights_only: bool = False,
    tokens: int | None = None,
    corpus: str | None = None,
) -> dict[str, float]:
    """{loss, loss_se} of a finished run's model on its corpus or another, in its own number format or after post-training quantisation to another.

    Nats per token over about `tokens` validation tokens (default: as many as the run's own, and then the same). With `weights_only`
    the weights are rounded to the format and everything else runs in the run's own. InputError for an unknown format, fewer than one token,
    or a corpus whose tokens are not the model's.
    """
    if tokens is not None and (not is_whole(tokens) or tokens < 1):
        raise InputError(f"evaluate: tokens must be a positive whole number, got {tokens!r}")
    finished = load_model(folder)
    config, params = finished.config, finished.params
    if precision is not None:
        try:
            format_ = policy(precision)
        except ConfigError as error:
            raise InputError(str(error)) from error
        if weights_only:
            params = quantised_params(params, format_)
        else:
            config = dataclasses.replace(config, precision=precision, kernels=False)  # they do not know every format
    own = load_corpus(finished.record["corpus"])  # by its hash: the files it was built from may have changed
    judged = own if corpus is None else load_corpus(corpus)
    if _tokens_of(judged) != _tokens_of(own):
        raise InputError(
            f"evaluate: corpus {judged.id} has tokens of {judged.manifest['tokenizer']}, the model's are of {own.manifest['tokenizer']}"
        )
    found = evaluation.validation(static_of(config), params, finished.router, judged, tokens or config.validation_tokens)
    return {"loss": found.loss, "loss_se": found.loss_se}
