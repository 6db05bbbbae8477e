"""Plans: a TOML file (or the same as objects) that says which runs a sweep makes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import pydantic

import models
from models.config import ConfigError, ModelConfig
from scaling import recipe
from scaling.errors import InputError
from scaling.run import RunConfig, applicable, without_effect
from scaling.toml_files import PositiveFloat, PositiveInt, Strict, read_toml, validated

Seed = Annotated[int, pydantic.Field(ge=0, lt=2**31)]


class Ladder(Strict):
    """Model sizes: widths of `models.ladder`, at one context length."""

    widths: list[PositiveInt] = pydantic.Field(min_length=1)
    context: PositiveInt = 64


class Budgets(Strict):
    """Training FLOP of each isoFLOP profile. `holdout` budgets are trained like the others and kept out of fits.

    Of the ladder's widths the `sizes` (`holdout_sizes`) nearest to `tokens_per_param` are trained at each budget, and all
    where the key is absent. A width is left out where the budget gives it fewer than the recipe's least number of steps.
    """

    flops: list[PositiveFloat] = pydantic.Field(min_length=1)
    holdout: list[PositiveFloat] = pydantic.Field(default=[])
    sizes: PositiveInt | None = None
    holdout_sizes: PositiveInt | None = None
    tokens_per_param: PositiveFloat = 20.0


class Arm(Strict):
    """A way of working that differs from the plan's [train] and from a dense model in what it names."""

    name: str = pydantic.Field(min_length=1)
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: PositiveInt | None = None
    shared_experts: int | None = None
    router: str | None = None
    balance: str | None = None
    dispatch: str | None = None
    capacity_factor: PositiveFloat | None = None
    kv_heads: PositiveInt | None = None
    positions: str | None = None
    norm: str | None = None
    qk_norm: bool | None = None
    activation: str | None = None
    tied: bool | None = None
    softcap: float | None = None
    attention_softcap: float | None = None
    parametrization: str | None = None
    precision: str | None = None
    schedule: str | None = None
    optimizer: str | None = None
    teacher: str | None = None
    learning_rate: PositiveFloat | None = None
    weight_decay: float | None = None
    budgets: list[PositiveFloat] | None = None
    widths: list[PositiveInt] | None = None
    sizes: PositiveInt | None = None


# The fields of an arm that say how its runs differ: in their shape, and in how they train.
SHAPE_KEYS = (
    "experts", "experts_per_token", "expert_ffn", "shared_experts", "router", "balance", "dispatch", "capacity_factor", "kv_heads",
    "positions", "norm", "qk_norm", "activation", "tied", "softcap", "attention_softcap", "parametrization",
)  # fmt: skip
TRAIN_KEYS = ("precision", "schedule", "optimizer", "teacher", "learning_rate", "weight_decay")


class Train(Strict):
    """Fields of `scaling.RunConfig` that all runs share, and the seeds. An arm is not given those that would change nothing in it."""

    precision: str = "fp32"
    schedule: str = "wsd"
    seeds: list[Seed] = pydantic.Field(default=[0], min_length=1)
    learning_rate: PositiveFloat | None = None
    batch: PositiveInt | None = None
    micro_batch: PositiveInt | None = None
    warmup: float | None = None
    decay: float | None = None
    weight_decay: float | None = None
    balance_loss: float | None = None
    epochs: PositiveInt | None = None
    validation_tokens: PositiveInt | None = None
    optimizer: str | None = None
    remat: str | None = None
    kernels: bool | None = None
    emulate: bool | None = None
    z_loss: float | None = None
    bias_rate: float | None = None
    distill_weight: float | None = None
    temperature: PositiveFloat | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a plan and its place in it."""

    config: RunConfig
    budget: float
    holdout: bool

    @property
    def flops(self) -> float:
        return models.training_flops(self.config.model).training * self.config.tokens_trained


class Plan(Strict):
    """A sweep: every arm at every budget and seed, over the ladder's sizes."""

    corpus: str = "python-source"
    ladder: Ladder
    budgets: Budgets
    arms: list[Arm] = pydantic.Field(default=[Arm(name="dense")], min_length=1)
    train: Train = Train()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Plan:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms: every name must be there once, got {', '.join(names)}")
        known = {*self.budgets.flops, *self.budgets.holdout}
        once: dict[str, list[Any]] = {
            "budgets": [*self.budgets.flops, *self.budgets.holdout],
            "ladder.widths": self.ladder.widths,
            "train.seeds": self.train.seeds,
        }
        for key, values in once.items():
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"{key}: {twice[0]:g} is there twice")
        for arm in self.arms:
            unknown = set(arm.budgets or ()) - known
            if unknown:
                raise ValueError(f"arms.{arm.name}.budgets: {min(unknown):g} is not among the plan's budgets")
        return self

    def jobs(self) -> list[Job]:
        """All runs of the plan, arms in their order, small budgets first."""
        jobs: list[Job] = []
        for arm in self.arms:
            for budget in sorted({*self.budgets.flops, *self.budgets.holdout}):
                if arm.budgets is None or budget in arm.budgets:
                    jobs.extend(self._cell(arm, budget))
        self._check_heeded([job.config for job in jobs])
        return jobs

    def _check_heeded(self, configs: list[RunConfig]) -> None:
        """An arm may not heed a key of [train]; InputError where no arm does."""
        idle = [without_effect(config.model, config.schedule, config.teacher) for config in configs]
        for key, value in self.train.model_dump(exclude={"seeds"}, exclude_none=True).items():
            if value != getattr(RunConfig, key) and all(key in names for names in idle):
                raise InputError(f"train.{key} = {value!r}: changes nothing in any arm without {idle[0][key]}")

    def _cell(self, arm: Arm, budget: float) -> list[Job]:
        holdout = budget in self.budgets.holdout
        shared = self.train.model_dump(exclude={"seeds"}, exclude_none=True)
        own = {key: value for key in TRAIN_KEYS if (value := getattr(arm, key)) is not None}
        try:
            shapes = self._shapes(arm, budget, holdout)
            return [
                Job(RunConfig(shape, tokens, self.corpus, seed=seed, arm=arm.name, **applicable(shape, shared, own)), budget, holdout)
                for shape, tokens in shapes
                for seed in self.train.seeds
            ]
        except (ConfigError, InputError) as error:
            raise InputError(f"arm {arm.name!r} at {budget:g} FLOP: {error}") from error

    def _shapes(self, arm: Arm, budget: float, holdout: bool) -> list[tuple[ModelConfig, int]]:
        own = {key: value for key in SHAPE_KEYS if (value := getattr(arm, key)) is not None}
        shapes = []
        for width in arm.widths or self.ladder.widths:
            shape = models.ladder(width, context=self.ladder.context, **own)
            tokens = int(budget / models.training_flops(shape).training)
            if tokens >= recipe.MIN_STEPS * shape.context:
                shapes.append((shape, tokens))
        if not shapes:
            raise InputError(
                f"no width leaves {recipe.MIN_STEPS} steps; raise the budget or add a smaller width than {min(arm.widths or self.ladder.widths)}"
            )
        wanted = arm.sizes or (self.budgets.holdout_sizes if holdout else self.budgets.sizes) or len(shapes)

        def distance(shape: tuple[ModelConfig, int]) -> float:
            ratio = shape[1] / models.count_params(shape[0]).active
            return abs(math.log(ratio / self.budgets.tokens_per_param))

        kept = sorted(shapes, key=distance)[:wanted]
        return sorted(kept, key=lambda shape: shape[0].width)


def read_plan(source: str | Path | dict[str, Any] | Plan) -> Plan:
    """The plan of a TOML file, a dict of the same keys, or a Plan; InputError names the file and the key."""
    if isinstance(source, Plan):
        return source
    where = "plan" if isinstance(source, dict) else str(source)
    fields = source if isinstance(source, dict) else read_toml(source)
    return validated(Plan, fields, where)
