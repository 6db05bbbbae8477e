"""Scenarios of the ledger: a baseline, and steps that each change one thing; TOML files with strict keys, some of them built in."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from scaling.errors import InputError
from scaling.ledger.by_law import FORMAT_LAWS, MOE_LAWS
from scaling.ledger.measured import measured
from scaling.toml_files import PositiveFloat, PositiveInt, Strict, read_toml, validated

FormatName = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "fp4", "mxfp4", "nvfp4"]
Zero = Annotated[int, pydantic.Field(ge=0, le=3)]


def _range(given: Any) -> tuple[float, ...]:
    """A number or [low, high] or [low, middle, high] as a tuple."""
    values = given if isinstance(given, list | tuple) else [given]
    if len(values) > 3 or (isinstance(given, list | tuple) and len(values) < 2):
        raise ValueError("a range is [low, high] or [low, middle, high]")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e300:
            raise ValueError(f"a number must be positive and finite, got {str(value)[:40]!r}")
    if sorted(values) != list(values):
        raise ValueError("a range rises from low to high")
    return tuple(map(float, values))


# A number, or an assumed range of it: two ends, or three with the likeliest in the middle. Kept as a tuple.
Range = Annotated[tuple[float, ...], pydantic.BeforeValidator(_range)]


class Baseline(Strict):
    """Where the ledger starts. `model` and `tokens` are left out where a step changes the architecture: then it is the dense model of equal loss.

    network_gbps: Gb/s a chip to other nodes, a number or a range; the chip's own by default. zero: what data-parallel ranks share out at most;
    0 nothing, 1 optimizer, 2 gradients, 3 weights; any by default. dollars: of the share of bought chips, or of rent.
    """

    chip: str
    chips: PositiveInt
    model: str | None = None
    tokens: PositiveFloat | None = None
    format: FormatName = "bf16"
    sequence: PositiveInt | None = None
    batch: PositiveInt | None = None
    network_gbps: Range | None = None
    zero: Zero | None = None
    peer_to_peer: bool | None = None
    framework: str | None = None
    dollars: Literal["buy", "rent"] = "buy"


class Loss(Strict):
    """Where the compute multiplier of a step at equal loss is from: published curves, this project's own runs, or an assumed range; one of them.

    beside: a measured multiplier to be shown beside it, and put in its place for comparison.
    """

    name: str = ""
    laws: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    measured: str | None = None
    assumed: Range | None = None
    beside: str | None = None
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _check_sources(self) -> Loss:
        given = [key for key in ("laws", "measured", "assumed") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other: the multiplier has one source")
        for name in (self.measured, self.beside):
            if name is not None:
                _checked(measured, name)
        return self


class ChipStep(Strict):
    """Another chip; `chips` of it, as many as before by default."""

    change: Literal["chip"]
    to: str
    chips: PositiveInt | None = None
    name: str = ""
    note: str = ""


class ArchitectureStep(Loss):
    """From the dense model of equal loss to a mixture of experts, a preset's name, trained on so many tokens."""

    change: Literal["architecture"]
    model: str
    tokens: PositiveFloat

    @pydantic.model_validator(mode="after")
    def _check(self) -> ArchitectureStep:
        if not (self.laws or self.measured or self.assumed):
            raise ValueError("laws, measured or assumed must say what it gains at equal loss")
        _known_laws(self.laws, MOE_LAWS, "mixtures of experts")
        return self


class FormatStep(Loss):
    """Another number format of the linear layers."""

    change: Literal["format"]
    to: FormatName

    @pydantic.model_validator(mode="after")
    def _check(self) -> FormatStep:
        _known_laws(self.laws, FORMAT_LAWS, "number formats")
        return self


class QuantisationStep(Loss):
    """Quantised optimizer states: so many bytes a parameter (Adam in fp32 with a master copy: 12; two 8-bit moments beside it: 6)."""

    change: Literal["quantisation"]
    optimizer_bytes: Annotated[PositiveFloat, pydantic.Field(le=12)]

    @pydantic.model_validator(mode="after")
    def _check(self) -> QuantisationStep:
        if self.laws:
            raise ValueError("laws: there is none of quantised optimizer states; give measured or assumed")
        return self


class MemoryStep(Strict):
    """All of the new chip's memory: without this step layouts may plan with as much as the baseline's chip has."""

    change: Literal["memory"]
    name: str = ""
    note: str = ""


class RdmaStep(Strict):
    """A network with RDMA: so many Gb/s a chip, where the baseline's network_gbps are what is reached without."""

    change: Literal["rdma"]
    gbps: PositiveFloat
    name: str = ""
    note: str = ""


class ZeroStep(Strict):
    """States shared out among data-parallel ranks up to a ZeRO stage."""

    change: Literal["zero"]
    stage: Zero
    name: str = ""
    note: str = ""


class PeerStep(Strict):
    """Copies between the chips of a node without the host's memory, by a patched driver."""

    change: Literal["peer-to-peer"]
    name: str = ""
    note: str = ""


class FrameworkStep(Strict):
    """Another training stack, named with its age."""

    change: Literal["framework"]
    to: str
    name: str = ""
    note: str = ""


Step = ChipStep | ArchitectureStep | FormatStep | QuantisationStep | MemoryStep | RdmaStep | ZeroStep | PeerStep | FrameworkStep
MOST_STEPS = 9  # 512 combinations


class Scenario(Strict):
    """A ledger's question. `prices`: dollars of a chip, or of its rent an hour, by chip; the table's by default."""

    name: str
    question: str = ""
    baseline: Baseline
    steps: Annotated[list[Annotated[Step, pydantic.Field(discriminator="change")]], pydantic.Field(min_length=1, max_length=MOST_STEPS)]
    prices: dict[str, Range] = pydantic.Field(default={})
    notes: list[str] = pydantic.Field(default=[])

    @pydantic.model_validator(mode="after")
    def _check(self) -> Scenario:
        changes = [step.change for step in self.steps]
        for change in changes:
            if changes.count(change) > 1:
                raise ValueError(f"steps: {change} is changed twice; each step changes one thing, once")
        base = self.baseline
        if "architecture" in changes and (base.model or base.tokens):
            raise ValueError(
                "baseline.model and tokens contradict the step architecture, which makes the baseline the dense model of equal loss"
            )
        if "architecture" not in changes and not (base.model and base.tokens):
            raise ValueError("baseline: model and tokens are needed where no step changes the architecture")
        if "memory" in changes and "chip" not in changes:
            raise ValueError("steps: memory opens the memory of another chip, and no step changes the chip")
        if "rdma" in changes and base.network_gbps is None:
            raise ValueError("baseline.network_gbps is needed with the step rdma: Gb/s a chip without it")
        if "zero" in changes and base.zero is None:
            raise ValueError("baseline.zero is needed with the step zero: the stage before it")
        if "peer-to-peer" in changes and base.peer_to_peer:
            raise ValueError("baseline.peer_to_peer is true, which contradicts the step peer-to-peer")
        self._check_names()
        return self

    def _check_names(self) -> None:
        from scaling.hardware.architecture import preset
        from scaling.hardware.library import chip

        for model in (self.baseline.model, *(step.model for step in self.steps if isinstance(step, ArchitectureStep))):
            if model is not None:
                _checked(preset, model)
        chips = {
            _checked(chip, name).name for name in (self.baseline.chip, *(step.to for step in self.steps if isinstance(step, ChipStep)))
        }
        for name in self.prices:
            if _checked(chip, name).name not in chips:
                raise ValueError(f"prices: {name!r} is neither the baseline's chip nor the step's")


def _checked(find: Any, name: str) -> Any:
    """`find(name)`, its error as one that pydantic reports with the key."""
    try:
        return find(name)
    except InputError as error:
        raise ValueError(str(error)) from None


def _known_laws(names: list[str] | None, laws: tuple[str, ...], what: str) -> None:
    import fits

    for name in names or ():
        if name not in fits.published():
            near = difflib.get_close_matches(name, fits.published(), 3, 0.5)
            raise ValueError(f"laws: no published curve {name!r}{'; nearest: ' + ', '.join(near) if near else ''}")
        if (found := fits.load(name).law.name) not in laws:
            raise ValueError(f"laws: {name} is of law {found}, which says nothing of {what}; laws that do: {', '.join(laws)}")


def scenarios() -> list[str]:
    """Names of the built-in scenarios."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def _folder() -> Any:
    return resources.files("scaling.ledger").joinpath("scenarios")


def read_scenario(source: str | Path | dict[str, Any]) -> Scenario:
    """The scenario of a built-in name, a TOML file, or a dict of the same keys. Raises InputError in one line."""
    if isinstance(source, dict):
        return validated(Scenario, source, "scenario")
    if str(source) in scenarios():
        with resources.as_file(_folder().joinpath(f"{source}.toml")) as path:
            return validated(Scenario, read_toml(path), path.name)
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        near = difflib.get_close_matches(str(source), scenarios(), 2, 0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"ledger: no scenario {str(source)!r}{hint} There are {', '.join(scenarios())}, or give a TOML file")
    return validated(Scenario, read_toml(path), str(path))
