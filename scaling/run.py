"""What a run is: its configuration (from which its identity follows) and the record it leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

from models.accounting import REMAT, training_flops
from models.config import ModelConfig
from models.fields import check_fields
from models.precision import policy
from scaling import recipe
from scaling.data.corpus import Corpus
from scaling.errors import InputError
from scaling.optimizers import OPTIMIZERS
from scaling.schedules import SCHEDULES

# Raised when the training code changes what a configuration computes: records of older code are then never taken for new ones.
# 3: routers' means are over exactly the last tenth of the steps; teachers keep their own format; `emulate` is no part of a run.
NUMERICS_VERSION = 3

HANDICAPS = ("handicap_data", "handicap_structure")
# Fields that came after runs were kept, whose default is what was done before.
ADDED_LATER = ("unique_tokens", *HANDICAPS)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run. What is None follows from `scaling.recipe`.

    `tokens` is rounded down to whole steps of `batch` sequences. Peak learning rate, warm-up and decay are fractions of the run's own
    horizon. `epochs` is how often a token may be seen at most: more tokens than the corpus has are refused without it. `unique_tokens`
    leaves a run that many tokens of the corpus, rounded down to whole sequences, the first in the order of its seed, which it then repeats as often as its horizon asks
    (and is None again in a run that is too short to repeat any).
    `micro_batch` sequences go through the model at once; the gradient of a step is the mean over its micro-batches. `remat = "blocks"`
    computes every block again in the backward pass, which costs time and saves memory.

    `teacher` is the folder of a finished run (`scaling.train(..., save=FOLDER)`): the loss is then `distill_weight` parts of its
    distribution, in its own number format, at `temperature`, the rest the data's; both learn from one corpus. `balance_loss`, `z_loss` and `bias_rate` are the routers'. `emulate` lets a
    number format run on an accelerator without units for it (on a CPU that needs no asking). `kernels` uses the compiled CPU kernels
    (`models.kernels`), which need a C++ compiler and round differently from plain JAX.

    `handicap_data` = k and `handicap_structure` = m make of a run one that reaches the same loss with k times the tokens and m times the
    parameters, exactly: see `scaling.step`. What learns is `model` on `tokens` / k, the live run, from which steps, batch and rates
    follow; `tokens`, and the record's parameters and FLOP, count all that is computed. InputError for a value other than the default of
    what changes nothing beside the rest (`without_effect`).
    """

    model: ModelConfig
    tokens: int
    corpus: str = "python-source"
    precision: str = "fp32"
    seed: int = 0
    arm: str = "dense"
    batch: int | None = None
    micro_batch: int = 2
    learning_rate: float | None = None
    schedule: str = "wsd"
    warmup: float = 0.1
    decay: float = 0.3
    weight_decay: float = 0.1
    balance_loss: float = 0.01
    epochs: int = 1
    validation_tokens: int = 131_072
    optimizer: str = "adam"
    remat: str = "none"
    z_loss: float = 0.0
    bias_rate: float = 1e-3
    teacher: str | None = None
    distill_weight: float = 0.5
    temperature: float = 1.0
    emulate: bool = False
    kernels: bool = False
    unique_tokens: int | None = None
    handicap_data: int = 1
    handicap_structure: int = 1

    def __post_init__(self) -> None:
        check_fields(self, InputError, "run: ")
        _require(0 <= self.seed < 2**31, "seed must be a whole number from 0 to 2^31 - 1", self, "seed")
        for name in ("tokens", "micro_batch", "epochs", "validation_tokens", *HANDICAPS):
            _require(getattr(self, name) >= 1, f"{name} must be a positive whole number", self, name)
        policy(self.precision)
        for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS), ("remat", REMAT)):
            _require(getattr(self, name) in known, f"{name} must be one of {', '.join(known)}", self, name)
        for name in ("warmup", "decay"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is a fraction of the run, 0 to 1", self, name)
        for name, needs in without_effect(self.model, self.schedule, self.teacher).items():
            _require(getattr(self, name) == getattr(RunConfig, name), f"{name} changes nothing without {needs}", self, name)
        fall = self.decay if self.schedule == "wsd" else 0
        _require(self.warmup + fall <= 1, f"warmup + decay must not exceed 1; decay = {self.decay}", self, "warmup")
        for name in ("weight_decay", "balance_loss", "z_loss", "bias_rate"):
            _require(getattr(self, name) >= 0, f"{name} must be 0 or more", self, name)
        _require(0 <= self.distill_weight <= 1, "distill_weight is a share of the loss, 0 to 1", self, "distill_weight")
        _require(self.temperature > 0, "temperature must be positive", self, "temperature")
        for name in HANDICAPS:
            _require(getattr(self, name) == 1 or self.teacher is None, f"{name} is for runs without a teacher", self, name)
        live_tokens = self.tokens // self.handicap_data
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", recipe.learning_rate(live_tokens))
        _require(self.peak > 0, "learning_rate must be positive", self, "learning_rate")
        if self.batch is None:
            object.__setattr__(self, "batch", recipe.batch_sequences(live_tokens, self.model.context))
        _require(self.sequences >= 1, "batch must be at least 1", self, "batch")
        if self.micro_batch > self.sequences:
            object.__setattr__(self, "micro_batch", self.sequences)
        _require(self.sequences % self.micro_batch == 0, f"batch = {self.batch} is not a multiple of micro_batch", self, "micro_batch")
        times = f" times handicap_data = {self.handicap_data}" if self.handicap_data > 1 else ""
        _require(
            self.steps >= recipe.MIN_STEPS,
            f"tokens give {self.steps} steps of {self.sequences} x {self.model.context} tokens{times}; at least {recipe.MIN_STEPS} are needed",
            self,
            "tokens",
        )
        if self.unique_tokens is not None:
            _require(self.unique_tokens >= self.model.context, "unique_tokens must hold a sequence of the context", self, "unique_tokens")
            if self.unique_tokens >= self.tokens_trained:
                object.__setattr__(self, "unique_tokens", None)

    @property
    def sequences(self) -> int:
        assert self.batch is not None  # set in __post_init__
        return self.batch

    @property
    def peak(self) -> float:
        assert self.learning_rate is not None  # set in __post_init__
        return self.learning_rate

    @property
    def step_tokens(self) -> int:
        """Of one step, those of zero weight included."""
        return self.sequences * self.model.context * self.handicap_data

    @property
    def steps(self) -> int:
        return self.tokens // self.step_tokens

    @property
    def tokens_trained(self) -> int:
        return self.steps * self.step_tokens

    @property
    def flops_per_token(self) -> float:
        """Of training: the exact count, dead compute included."""
        return training_flops(self.model).training * self.handicap_structure

    @property
    def micro_batches(self) -> int:
        """Of one step, those that count."""
        return self.sequences // self.micro_batch

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.steps)

    @property
    def decay_steps(self) -> int:
        return round(self.decay * self.steps)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> RunConfig:
        fields = dict(fields)
        return cls(model=ModelConfig(**fields.pop("model")), **fields)


def without_effect(model: ModelConfig, schedule: str, teacher: str | None) -> dict[str, str]:
    """Fields of a run that change nothing beside these, and what each would need."""
    found = {}
    if not model.is_moe:
        found = dict.fromkeys(("balance_loss", "z_loss", "bias_rate"), "experts")
    elif model.balance != "switch":
        found["balance_loss"] = 'balance = "switch"'
    if model.is_moe and model.balance != "bias":
        found["bias_rate"] = 'balance = "bias"'
    if schedule != "wsd":
        found["decay"] = 'schedule = "wsd"'
    return found | (dict.fromkeys(("distill_weight", "temperature"), "a teacher") if teacher is None else {})


def applicable(model: ModelConfig, shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Fields of a run of `model`: its `own`, and of those that the runs of a plan share what is not own and has an effect there."""
    fields = shared | own
    idle = without_effect(model, fields.get("schedule", RunConfig.schedule), fields.get("teacher"))
    return {name: value for name, value in fields.items() if name in own or name not in idle}


def unique_tokens(config: RunConfig, corpus: Corpus) -> int:
    """Distinct training tokens that the run sees; InputError where the corpus cannot serve it."""
    context = config.model.context
    available = (corpus.train_tokens - 1) // context * context
    if available < context or corpus.validation_tokens <= 2 * context:
        raise InputError(
            f"context = {context} is too long for corpus {corpus.id}: its validation split has {corpus.validation_tokens} tokens"
        )
    if config.unique_tokens is not None:
        if config.unique_tokens > available:
            raise InputError(f"unique_tokens = {config.unique_tokens}, but the training split of corpus {corpus.id} has {available}")
        return config.unique_tokens // context * context
    if config.tokens_trained > available * config.epochs:
        raise InputError(
            f"{config.tokens_trained} tokens asked for, but the training split of corpus {corpus.id} has {available}"
            f" (epochs = {config.epochs}); set epochs = {math.ceil(config.tokens_trained / available)} to repeat them"
        )
    if config.model.vocab_size < corpus.manifest["vocab_size"]:
        raise InputError(
            f"vocab_size = {config.model.vocab_size} is smaller than the {corpus.manifest['vocab_size']} symbols of corpus {corpus.id}"
        )
    return min(config.tokens_trained, available)


def run_id(config: RunConfig, corpus_id: str, threads: int, layout: str = "one device", teacher_id: str | None = None) -> str:
    """The identity of a run: 16 hex digits of the hash of its configuration, corpus, teacher, threads, layout of devices and NUMERICS_VERSION.

    On one kind of device and one set of library versions that decides the result bit for bit; the record names device and versions. The
    name of the arm is a label and left out, so that two plans that call the same run differently train it once; and so is `emulate`,
    which lets a run be made and changes nothing in it.
    """
    return identify(config.as_dict(), corpus=corpus_id, threads=threads, layout=layout, numerics=NUMERICS_VERSION, teacher=teacher_id)


def identify(config: dict[str, Any], **circumstances: Any) -> str:
    """`run_id` from the configuration as a dict, which may be another version's, and from what else decides the result."""
    fields = config | circumstances
    del fields["arm"]
    for name in ADDED_LATER:  # a run that does without keeps the identity it had before they could be chosen
        if fields.get(name, None) == getattr(RunConfig, name):
            fields.pop(name, None)
    if fields["numerics"] >= 3:  # before, it was part of the identity
        fields.pop("emulate", None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run leaves. Losses are nats per token on the corpus' validation set; `status` is done or diverged.

    `tokens` and `flops` are those of the configuration, also where the run diverged. Up to `diverged_at` it was trained: of those steps are
    `train_loss`, `flops_realised`, `flops_shared` and the rates, whose seconds go on to the end of the call in which the run was lost.

    `flops` is the exact training count (`models.accounting`); `loss_se` the standard error of the loss by bootstrap over blocks of the text.
    `flops_realised` adds what the count leaves out: padding of experts' rows and recomputed blocks. `flops_shared` is what a run cost that
    set out from another run's trunk (`scaling.train_horizons`). A distilled run's teacher cost `teacher_training_flops` once and
    `teacher_forward_flops` for the tokens of this run. `routers` holds per layer the experts' load (shares), the router's entropy
    (nats) and the share of dropped choices, means over the steps from nine tenths of the run on.
    """

    run_id: str
    corpus: str
    arm: str
    precision: str
    seed: int
    params: int
    active_params: int
    non_embedding_params: int
    tokens: int
    unique_tokens: int
    flops: float
    loss: float | None
    loss_se: float | None
    status: str
    reason: str
    width: int
    layers: int
    experts: int
    batch: int
    steps: int
    learning_rate: float
    flops_causal: float
    train_seconds: float
    compile_seconds: float
    evaluation_seconds: float
    tokens_per_second: float
    flops_per_second: float  # by the exact count; over a chip's peak it is the utilisation
    threads: int
    device: str
    versions: dict[str, str]
    config: dict[str, Any]
    train_loss: list[float]  # nats per token, mean over equal parts of the run
    expert_load_max: float | None  # largest share of the load over experts and layers, times the number of experts; 1 is balanced
    budget: float | None = None  # labels that a sweep's plan gives: its isoFLOP profile, and whether it is kept out of fits
    holdout: bool | None = None
    devices: int = 1
    layout: str = "one device"
    optimizer: str = "adam"
    flops_realised: float | None = None
    flops_shared: float | None = None
    teacher: str | None = None
    teacher_training_flops: float | None = None
    teacher_forward_flops: float | None = None
    diverged_at: int | None = None  # the first step whose loss or gradient was not finite
    skipped_steps: int = 0  # by the float16 loss scale
    routers: list[dict[str, Any]] | None = None
    emulated: list[str] = dataclasses.field(default_factory=list)  # what the device has no units for
    bits: dict[str, float] = dataclasses.field(default_factory=dict)  # of weights, activations and cache
    memory_predicted: int | None = None  # bytes
    memory_peak: int | None = None  # of the process since the run began; None where earlier runs in it cannot be told apart
    bits_per_byte: float | None = None  # where the bytes that a token stands for are known
    bits_per_byte_se: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _require(condition: bool, message: str, config: RunConfig, name: str) -> None:
    if not condition:
        raise InputError(f"run: {message}, got {name} = {getattr(config, name)!r}")
