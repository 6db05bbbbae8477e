"""`isoloss estimate`: what a training run takes on so many chips, or serving (--inference), or estimates for a whole table of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    from scaling.hardware.architecture import Architecture
    from scaling.hardware.estimate import Estimate
    from scaling.hardware.inference import Inference
    from scaling.hardware.workload import Layout

Number = int | None
SHAPE = (
    "layers",
    "width",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn_width",
    "vocab",
    "experts",
    "experts_per_token",
    "shared_experts",
    "expert_width",
    "moe_layers",
)


def estimate(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A published shape such as llama-3.1-405b; or give the shape.")
    ] = None,
    chip: Annotated[str | None, typer.Option(help="The chip; `isoloss chips` lists them.")] = None,
    chips: Annotated[Number, typer.Option(help="How many.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens of the run, for hours and dollars.")] = None,
    sequence: Annotated[Number, typer.Option(help="Tokens of a sequence; with --inference, those that its cache holds.")] = None,
    batch: Annotated[
        Number, typer.Option(help="Sequences of a step; about 4 million tokens by default. With --inference, as many as fit.")
    ] = None,
    precision: Annotated[str, typer.Option("--format", help="Of the linear layers: bf16, fp16, fp8, mxfp8, nvfp4.")] = "bf16",
    framework: Annotated[
        str | None, typer.Option(help="Training stack and age: 'Megatron-Core 2024', MaxText, torchtitan; usual for the chip by default.")
    ] = None,
    tensor: Annotated[
        Number, typer.Option(help="Tensor-parallel ranks. Any of these options fixes the layout; without them it is searched.")
    ] = None,
    pipeline: Annotated[Number, typer.Option(help="Pipeline stages.")] = None,
    chunks: Annotated[Number, typer.Option(help="Interleaved chunks a stage.")] = None,
    context: Annotated[Number, typer.Option(help="Context-parallel ranks.")] = None,
    expert: Annotated[Number, typer.Option(help="Expert-parallel ranks.")] = None,
    zero: Annotated[
        Number, typer.Option(help="What data-parallel ranks share: 0 nothing, 1 optimizer, 2 gradients too, 3 weights too.")
    ] = None,
    micro_batch: Annotated[Number, typer.Option(help="Sequences of a micro-batch.")] = None,
    recompute: Annotated[str | None, typer.Option(help="none, selective, some or full.")] = None,
    offload: Annotated[bool, typer.Option("--offload", help="Keep the optimizer's states in the host's memory.")] = False,
    search: Annotated[bool, typer.Option("--search", help="Find the fastest layout (the default when none is given).")] = False,
    network: Annotated[float | None, typer.Option(help="Gb/s a chip to other nodes.")] = None,
    node: Annotated[Number, typer.Option(help="Chips of a node.")] = None,
    p2p: Annotated[bool | None, typer.Option("--p2p/--no-p2p", help="Whether chips of a node copy to each other directly.")] = None,
    goodput: Annotated[float | None, typer.Option(help="Share of the wall-clock time that trains; 0.85 to 0.9 by default.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help=f"A shape, or changes to the model's: NAME=NUMBER of {', '.join(SHAPE)}. Repeat it.")
    ] = None,
    inference: Annotated[bool, typer.Option("--inference", help="Serve the model instead: prefill, decode, latency, dollars.")] = False,
    prompt: Annotated[Number, typer.Option(help="With --inference: tokens of a prompt; as --sequence by default.")] = None,
    cache_format: Annotated[str | None, typer.Option(help="With --inference: format of keys and values; bf16 by default.")] = None,
    busy: Annotated[float | None, typer.Option(help="With --inference: share of the time at this load, for cost; 1 by default.")] = None,
    runs: Annotated[Path | None, typer.Option(help="A CSV table of runs to estimate row by row, with --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the estimates of --runs go.")] = None,
    as_json: Json = False,
) -> None:
    """What a training run takes, or with --inference serving: speed, memory, hours, energy, dollars; each with a band."""
    from scaling.errors import InputError
    from scaling.hardware.estimate import estimate_training
    from scaling.hardware.inference import estimate_inference

    if runs is not None:
        return _table(runs, out, as_json)
    if chip is None or chips is None or (model is None and not shape):
        raise InputError("estimate: a model (or --shape), --chip and --chips are needed; or --runs IN.csv --out OUT.csv")
    serving = {"prompt": prompt, "cache_format": cache_format, "busy": busy}
    given = {
        "tensor": tensor,
        "pipeline": pipeline,
        "pipeline_chunks": chunks,
        "context": context,
        "expert": expert,
        "zero": zero,
        "micro_batch": micro_batch,
        "recompute": recompute,
        "offload_optimizer": offload or None,
    }
    fixed = {name: value for name, value in given.items() if value is not None}
    if inference:
        training = {"tokens": tokens, "framework": framework, "goodput": goodput, "search": search or None}
        _refuse({name: value for name, value in (fixed | training).items() if name != "tensor"}, "is of training, not of --inference")
        served = estimate_inference(
            _architecture(model, shape or []),
            chip=chip,
            chips=chips,
            batch=batch,
            context=sequence,
            prompt=prompt,
            format=precision,
            cache_format=cache_format or "bf16",
            tensor=tensor,
            node=node,
            network_gbps=network,
            peer_to_peer=p2p,
            busy=1.0 if busy is None else busy,
        )
        return output.emit(served.as_dict()) if as_json else _show_served(served)
    _refuse(serving, "needs --inference")
    if search and fixed:
        raise InputError(f"estimate: --search finds the layout, so {', '.join(fixed)} cannot be given with it")
    found = estimate_training(
        _architecture(model, shape or []),
        chip=chip,
        chips=chips,
        tokens=tokens,
        sequence=sequence,
        batch=batch,
        format=precision,
        layout=_layout(fixed, chips) if fixed else None,
        framework=framework,
        node=node,
        network_gbps=network,
        peer_to_peer=p2p,
        goodput=goodput,
    )
    output.emit(found.as_dict()) if as_json else _show(found)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Raises InputError for an option that is given and has no meaning here."""
    from scaling.errors import InputError

    for name, value in options.items():
        if value is not None:
            raise InputError(f"estimate: --{name.replace('_', '-')} {why}")


def _layout(fixed: dict[str, Any], chips: int) -> Layout:
    """The layout of the given parts; the rest of the chips are data-parallel."""
    from scaling.errors import InputError
    from scaling.hardware.workload import Layout

    for name, value in fixed.items():
        if name not in ("recompute", "zero", "offload_optimizer") and value < 1:
            raise InputError(f"layout: {name} must be 1 or more, got {value}")
    model = fixed.get("tensor", 1) * fixed.get("pipeline", 1) * fixed.get("context", 1)
    if chips % model:
        raise InputError(f"layout: {chips} chips do not divide by tensor x pipeline x context = {model}")
    return Layout(**fixed, data=chips // model)


def _architecture(model: str | None, shape: list[str]) -> Architecture:
    """A preset, a preset with changes, or a shape of one's own."""
    import dataclasses

    from scaling.errors import InputError
    from scaling.hardware.architecture import Architecture, preset

    values: dict[str, Any] = {}
    names = {field.name: field for field in dataclasses.fields(Architecture)}
    for item in shape:
        name, _, text = item.partition("=")
        if name not in names or not text:
            raise InputError(f"estimate: --shape takes NAME=NUMBER, got {item!r}; names are {', '.join(SHAPE)}")
        try:
            values[name] = text if name == "attention" else float(text) if name in ("windowed", "shared_experts") else int(float(text))
        except ValueError:
            raise InputError(f"estimate: --shape {name} needs a number, got {text!r}") from None
    if model is not None:
        return dataclasses.replace(preset(model), **values)
    missing = [name for name in ("layers", "width", "heads", "vocab") if name not in values]
    if missing:
        raise InputError(f"estimate: a shape needs layers, width, heads and vocab; {', '.join(missing)} missing")
    values.setdefault("kv_heads", values["heads"])
    values.setdefault("head_dim", max(1, values["width"] // values["heads"]))
    values.setdefault("ffn_width", 4 * values["width"])
    if values.get("experts"):
        values.setdefault("moe_layers", values["layers"])
        values.setdefault("expert_width", values["ffn_width"])
    return Architecture(**values)


def _table(runs: Path, out: Path | None, as_json: bool) -> None:
    from scaling.errors import InputError
    from scaling.hardware.bulk import estimate_file

    if out is None:
        raise InputError("estimate: --runs needs --out, the file for the estimates")
    found = estimate_file(runs, out)
    done = sum(each.tok_per_s_per_chip is not None for each in found)
    if as_json:
        return output.emit({"rows": len(found), "estimates": done, "out": str(out)})
    output.note(f"wrote {out}: {done} of {len(found)} rows have an estimate")


def _show(found: Estimate) -> None:
    answer = found.as_dict()
    cost = answer.pop("cost")
    for name in ("notes", "layouts_timed", "usd", "hours", "chip_hours", "breakdown", "memory"):
        answer.pop(name)
    output.listing({key: value for key, value in answer.items() if key != "layout"})
    output.listing({"layout": {key: value for key, value in answer["layout"].items() if value not in (False, 1, 1.0)}})
    if found.layouts_timed > 1:
        output.say(f"  the fastest of {found.layouts_timed} that fit")
    output.listing(
        {"step, seconds by purpose before overlap": {key: value for key, value in found.breakdown.items() if value > 1e-3 * found.step_s}}
    )
    parts = {name: value / 1e9 for name, value in vars(found.memory).items() if value}
    output.listing({f"memory, GB of {found.memory_available_gb:.0f}": parts})
    if cost:
        output.listing({"run": {"tokens": found.tokens, **cost}})
    for line in found.notes:
        output.note(f"note: {line}")


def _show_served(found: Inference) -> None:
    answer = found.as_dict()
    shown = ("model", "chip", "chips", "tensor", "pipeline", "data", "format", "cache_format", "batch", "context", "prompt")
    output.listing({name: answer[name] for name in shown})
    for name in ("prefill", "decode"):
        output.listing({name: {key: value for key, value in answer[name].items() if key != "seconds"}})
    seconds = ("time_to_first_token_s", "time_to_first_token_band", "time_per_output_token_s", "time_per_output_token_band")
    output.listing({"latency": {name: answer[name] for name in seconds}})
    parts = ("weights_gb", "cache_gb", "cache_bytes_per_token", "fits", "largest_batch")
    output.listing({f"memory, GB of {found.memory_available_gb:.0f}": {name: answer[name] for name in parts}})
    for line in found.notes:
        output.note(f"note: {line}")
