"""The tables of a plan file. Arms, [train] and [[runs]] take every field of a run and of a model by its own name."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any

import pydantic

from models.config import ModelConfig
from scaling.run import RunConfig
from scaling.toml_files import PositiveFloat, PositiveInt, Strict

Seed = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
Seeds = Annotated[list[Seed], pydantic.Field(min_length=1)]
Rates = Annotated[list[PositiveFloat], pydantic.Field(min_length=1)]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]

PLACES = ("model", "tokens", "corpus", "arm", "seed")  # of a run, which its place in a plan decides
SHAPE_KEYS = tuple(field.name for field in dataclasses.fields(ModelConfig))
TRAIN_KEYS = tuple(field.name for field in dataclasses.fields(RunConfig) if field.name not in PLACES)


def _optional(source: type, keys: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a dataclass as optional keys of a table."""
    hints = typing.get_type_hints(source)
    return {key: (_finite(hints[key]) | None, None) for key in keys}


def _finite(hint: Any) -> Any:
    return Finite if hint in (float, float | None) else hint


if typing.TYPE_CHECKING:  # the keys are known when the module runs

    class _TrainKeys(Strict): ...

    class _AllKeys(Strict): ...

    class _ArmKeys(Strict): ...
else:
    _TrainKeys = pydantic.create_model("_TrainKeys", __base__=Strict, **_optional(RunConfig, TRAIN_KEYS))
    _AllKeys = pydantic.create_model("_AllKeys", __base__=_TrainKeys, **_optional(ModelConfig, SHAPE_KEYS))
    _ArmKeys = pydantic.create_model(
        "_ArmKeys", __base__=_TrainKeys, **_optional(ModelConfig, tuple(key for key in SHAPE_KEYS if key != "width"))
    )


class Ladder(Strict):
    """Model sizes: widths of `models.ladder`, at one context length."""

    widths: list[PositiveInt] = pydantic.Field(min_length=1)
    context: PositiveInt = 64


class Budgets(Strict):
    """Training FLOP of each isoFLOP profile. `holdout` budgets are trained like the others and kept out of fits.

    Of the ladder's widths the `sizes` (`holdout_sizes`) nearest to `tokens_per_param` are trained at each budget, and all
    where the key is absent. A width is left out where the budget gives it fewer than the recipe's least number of steps. A handicapped
    arm's budget pays for its dead compute and zero-weight tokens too, and its tokens per parameter count them on both sides.
    """

    flops: list[PositiveFloat] = pydantic.Field(min_length=1)
    holdout: list[PositiveFloat] = pydantic.Field(default=[])
    sizes: PositiveInt | None = None
    holdout_sizes: PositiveInt | None = None
    tokens_per_param: PositiveFloat = 20.0


class _Rated(Strict):
    """`learning_rates` is a sweep over rates: every run is made at each of them."""

    learning_rates: Rates | None = None

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> _Rated:
        if self.learning_rates and getattr(self, "learning_rate", None) is not None:
            raise ValueError("give learning_rate or learning_rates, not both")
        return self


class Arm(_Rated, _ArmKeys):
    """A way of working: what differs from the plan's [train] and from a dense model of the ladder, any field of a run or a model.

    `budgets` and `widths` are those that it is made at (default: all of the plan), `sizes`, `tokens_per_param` and `seeds` its own.
    """

    name: str = pydantic.Field(min_length=1)
    budgets: list[PositiveFloat] | None = None
    widths: list[PositiveInt] | None = None
    sizes: PositiveInt | None = None
    tokens_per_param: PositiveFloat | None = None
    seeds: Seeds | None = None


class Train(_Rated, _TrainKeys):
    """Fields of `scaling.RunConfig` that all runs share, and the seeds."""

    seeds: Seeds = pydantic.Field(default=[0])


class Run(_Rated, _AllKeys):
    """One run of an explicit list: any field of a run or a model, and `tokens` or `flops`, its training compute.

    The shape is that of `models.ladder` at `width` with the fields that are given, or `models.ModelConfig` where layers and heads are.
    What is not given is the plan's [train], its seeds and rates too. `holdout` keeps the run out of fits, `budget` (default: its
    training FLOP) is its isoFLOP profile.
    """

    arm: str = pydantic.Field(default="dense", min_length=1)
    tokens: PositiveInt | None = None
    flops: PositiveFloat | None = None
    seed: Seed | None = None
    budget: PositiveFloat | None = None
    holdout: bool = False

    @pydantic.model_validator(mode="after")
    def _sized(self) -> Run:
        if (self.tokens is None) == (self.flops is None):
            raise ValueError("give tokens or flops, one of them")
        if getattr(self, "width", None) is None:
            raise ValueError("width is missing")
        return self


def given(table: Strict, keys: tuple[str, ...]) -> dict[str, Any]:
    """Those of the keys that a table gives."""
    return {key: value for key in keys if (value := getattr(table, key, None)) is not None}
