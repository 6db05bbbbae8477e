"""Plans: a TOML file (or the same as objects) that says which runs a sweep makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic

import models
from models.config import ConfigError, ModelConfig
from scaling import recipe
from scaling.errors import InputError
from scaling.plan_tables import SHAPE_KEYS, TRAIN_KEYS, Arm, Budgets, Ladder, Run, Train, given
from scaling.run import HANDICAPS, RunConfig, applicable, without_effect
from scaling.toml_files import Strict, read_toml, validated

BYTES = 256  # symbols of a corpus of bytes


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a plan and its place in it."""

    config: RunConfig
    budget: float
    holdout: bool

    @property
    def flops(self) -> float:
        return self.config.flops_per_token * self.config.tokens_trained


class Plan(Strict):
    """A sweep: every arm at every budget, seed and learning rate, over the ladder's sizes; and the runs of an explicit list."""

    corpus: str = "python-source"
    ladder: Ladder | None = None
    budgets: Budgets | None = None
    arms: list[Arm] = pydantic.Field(default=[Arm(name="dense")], min_length=1)
    runs: list[Run] = pydantic.Field(default=[])
    train: Train = Train()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Plan:
        if (self.ladder is None) != (self.budgets is None):
            raise ValueError("ladder and budgets go together")
        if self.ladder is None and not self.runs:
            raise ValueError("nothing to run: give [ladder] and [budgets], or a list of [[runs]]")
        if self.ladder is None and "arms" in self.model_fields_set:
            raise ValueError("arms are made over a [ladder] and [budgets]; a run of a list names its own arm")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms: every name must be there once, got {', '.join(names)}")
        for key, values in self._lists():
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"{key}: {twice[0]:g} is there twice")
        for arm in self.arms:
            unknown = set(arm.budgets or ()) - set(self._all_budgets())
            if unknown:
                raise ValueError(f"arms.{arm.name}.budgets: {min(unknown):g} is not among the plan's budgets")
        return self

    def _lists(self) -> Iterator[tuple[str, Sequence[float]]]:
        """Lists in which every value must be there once."""
        yield "budgets", self._all_budgets()
        yield "ladder.widths", self.ladder.widths if self.ladder else ()
        for where, table in (("train", self.train), *((f"arms.{arm.name}", arm) for arm in self.arms)):
            for key in ("seeds", "learning_rates", "widths", "budgets"):
                yield f"{where}.{key}", getattr(table, key, None) or ()

    def _all_budgets(self) -> list[float]:
        return [*self.budgets.flops, *self.budgets.holdout] if self.budgets else []

    def jobs(self, vocab_size: int = BYTES) -> list[Job]:
        """All runs of the plan on a corpus of `vocab_size` symbols: arms in their order, small budgets first, then the list."""
        jobs: list[Job] = []
        for arm in self.arms if self.ladder else ():
            for budget in sorted(self._all_budgets()):
                if arm.budgets is None or budget in arm.budgets:
                    with _place(f"arm {arm.name!r} at {budget:g} FLOP"):
                        jobs.extend(self._cell(arm, budget, vocab_size))
        for place, run in enumerate(self.runs):
            with _place(f"runs.{place}"):
                jobs.extend(self._listed(run, vocab_size))
        self._check_heeded([job.config for job in jobs])
        return jobs

    def _check_heeded(self, configs: list[RunConfig]) -> None:
        """An arm may not heed a key of [train]; InputError where no arm does."""
        idle = [without_effect(config.model, config.schedule, config.teacher) for config in configs]
        for key, value in given(self.train, TRAIN_KEYS).items():
            if value != getattr(RunConfig, key) and all(key in names for names in idle):
                raise InputError(f"train.{key} = {value!r}: changes nothing in any arm without {idle[0][key]}")

    def _cell(self, arm: Arm, budget: float, vocab_size: int) -> list[Job]:
        assert self.budgets is not None
        holdout = budget in self.budgets.holdout
        return [
            Job(RunConfig(shape, tokens, self.corpus, seed=seed, arm=arm.name, **fields), budget, holdout)
            for shape, tokens in self._shapes(arm, budget, holdout, vocab_size)
            for fields in self._fields(arm, shape)
            for seed in arm.seeds or self.train.seeds
        ]

    def _fields(self, table: Arm | Run, shape: ModelConfig) -> list[dict[str, Any]]:
        """What runs of an arm or of the list are trained with: the table's own before what it heeds of the plan's; one for each learning rate."""
        own = given(table, TRAIN_KEYS)
        fields = applicable(shape, given(self.train, TRAIN_KEYS), own)
        rates = table.learning_rates or (None if "learning_rate" in own else self.train.learning_rates)
        return [fields | {"learning_rate": rate} for rate in rates] if rates else [fields]

    def _handicaps(self, table: Arm | Run) -> tuple[int, int]:
        """Of data and of structure."""
        fields = given(self.train, HANDICAPS) | given(table, HANDICAPS)
        data, structure = (fields.get(name, 1) for name in HANDICAPS)
        return data, structure

    def _shapes(self, arm: Arm, budget: float, holdout: bool, vocab_size: int) -> list[tuple[ModelConfig, int]]:
        assert self.ladder is not None
        assert self.budgets is not None
        own: dict[str, Any] = {"context": self.ladder.context, "vocab_size": vocab_size} | given(arm, SHAPE_KEYS)
        data, structure = self._handicaps(arm)
        shapes = []
        for width in arm.widths or self.ladder.widths:
            shape = models.ladder(width, **own)
            tokens = int(budget / (models.training_flops(shape).training * structure))
            if tokens >= recipe.MIN_STEPS * shape.context * data:
                shapes.append((shape, tokens))
        if not shapes:
            raise InputError(
                f"no width leaves {recipe.MIN_STEPS} steps; raise the budget or add a smaller width than {min(arm.widths or self.ladder.widths)}"
            )
        wanted = arm.sizes or (self.budgets.holdout_sizes if holdout else self.budgets.sizes) or len(shapes)
        aim = math.log(structure * (arm.tokens_per_param or self.budgets.tokens_per_param))
        kept = sorted(shapes, key=lambda shape: abs(math.log(shape[1] / models.count_params(shape[0]).active) - aim))[:wanted]
        return sorted(kept, key=lambda shape: shape[0].width)

    def _listed(self, run: Run, vocab_size: int) -> list[Job]:
        own: dict[str, Any] = {"vocab_size": vocab_size} | given(run, SHAPE_KEYS)
        shape = ModelConfig(**own) if {"layers", "heads"} <= own.keys() else models.ladder(own.pop("width"), **own)
        _, structure = self._handicaps(run)
        tokens = run.tokens or int((run.flops or 0.0) / (models.training_flops(shape).training * structure))
        seeds = self.train.seeds if run.seed is None else [run.seed]
        configs = [
            RunConfig(shape, tokens, self.corpus, seed=s, arm=run.arm, **fields) for fields in self._fields(run, shape) for s in seeds
        ]
        return [Job(config, run.budget or run.flops or config.flops_per_token * config.tokens_trained, run.holdout) for config in configs]


@dataclasses.dataclass(frozen=True)
class _place:  # noqa: N801 - a context manager
    """Says where in the plan an impossible configuration stands."""

    name: str

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigError | InputError):
            raise InputError(f"{self.name}: {error}") from error


Source = str | Path | dict[str, Any] | Plan | Sequence[RunConfig]


def read_plan(source: Source) -> Plan:
    """The plan of a TOML file, a dict of the same keys, a Plan, or a list of RunConfig; InputError names the file and the key."""
    if isinstance(source, Plan):
        return source
    if isinstance(source, str | Path):
        return validated(Plan, read_toml(source), str(source))
    return validated(Plan, source if isinstance(source, dict) else _plan_of(source), "plan")


def _plan_of(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """A plan that lists the given configurations."""
    corpora = {config.corpus for config in configs}
    if len(corpora) > 1:
        raise InputError(f"plan: the runs of a sweep share one corpus, got {', '.join(sorted(corpora))}")
    runs = []
    for config in configs:
        fields = config.as_dict()
        del fields["corpus"]
        runs.append(fields.pop("model") | fields)
    return {"runs": runs} | ({"corpus": corpora.pop()} if corpora else {})
