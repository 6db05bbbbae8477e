"""What the hardware estimates answer, each question by one command: a table on stdout, its numbers as CSV, a figure as PNG.

    python benchmarks/hardware_answers.py --out FOLDER [--only NAME ...]

Names: deepseek, hunyuan, llama, roofline, serving, loss, firm. The same command writes the same files.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fits
import scaling
from scaling import plots
from scaling.errors import InputError
from scaling.hardware import figures, roofline
from scaling.hardware.architecture import Architecture, divisible, preset
from scaling.hardware.cost import cost
from scaling.hardware.workload import Layout
from scaling.output import plain, say
from scaling.output import table as show

Answer = tuple[pd.DataFrame, Figure | None, list[str]]
HAI = "HAI-LLM (DualPipe)"

# The firm's question: what is assumed. Software: ten engineers for half a year. The gain of MoE at equal loss is 2 to 7 in the literature.
BUDGET_USD, DAYS, SOFTWARE_USD, MOE_GAIN = 10e6, 100, 1.5e6, 3.0
OLD_STACK, NEW_STACK = "PyTorch FSDP 2023", "Megatron-Core 2025"


def deepseek() -> Answer:
    """DeepSeek-V3's 14.8 trillion tokens on 2,048 chips of several kinds."""
    published = {"chip": "H800", "how": "published", "format": "fp8", "tok_per_s_per_chip": 1e12 / (180e3 * 3600), "hours": 2.664e6 / 2048}
    rows: list[dict[str, Any]] = [published | {"layout": "pipeline 16, expert 64, data 128", "usd_rent": 2.664e6 * 2}]
    layout = Layout(pipeline=16, expert=64, data=128, recompute="selective")
    rows.append(_run("H800", "estimated, their layout", "deepseek-v3", "fp8", framework=HAI, layout=layout, allow_overflow=True))
    for chip, format, direct in (
        ("H800", "fp8", None),
        ("H20", "fp8", None),
        ("A100", "bf16", None),
        ("RTX 4090", "fp8", False),
        ("RTX 4090", "fp8", True),
        ("Ascend 910B", "bf16", None),
    ):
        name = chip + {None: "", False: ", stock driver", True: ", P2P driver"}[direct]
        rows.append(
            _run(chip, "estimated", "deepseek-v3", format, name=name, framework=HAI if chip == "H800" else None, peer_to_peer=direct)
        )
    table = pd.DataFrame(rows)
    notes = [
        "published: arXiv 2412.19437 (hours of pre-training, 2 USD an hour assumed there); its throughput is among the rows that the constants were fitted to",
        "hours of the estimates have a goodput of 0.875 (0.85 to 0.90), the published ones have none beside the throughput",
        "their layout: recomputation is taken as selective; by the memory model it needs more than the H800 has, so the fit is not enforced",
        "RTX 4090: bf16 rates of the halved accumulation; one-node stack extrapolated to 256 nodes with 100 Gb/s a chip assumed, no RDMA: the least sure rows",
        "Ascend 910B: no FP8; its rate (320 TFLOP/s) depends on the bin",
    ]
    return table, figures.hours_figure(table, "DeepSeek-V3: 14.8T tokens on 2,048 chips, best layout found"), notes


def _run(
    chip: str, how: str, model: str | Architecture, format: str, *, name: str = "", tokens: float = 14.8e12, **options: Any
) -> dict[str, Any]:
    """A row of a training run, or of the reason why it has none."""
    row: dict[str, Any] = {"chip": name or chip, "how": how, "format": format}
    given: dict[str, Any] = {"chips": 2048, "batch": 15360} | options
    try:
        found = scaling.estimate_training(model, chip=chip, tokens=tokens, format=format, **given)
    except InputError as error:
        return row | {"layout": f"none: {error}"}
    if found.cost is None:
        raise InputError("an answer needs tokens")
    lay, paid = found.layout, found.cost
    words = {"tensor": lay.tensor, "pipeline": lay.pipeline, "expert": lay.expert, "data": lay.data, "chunks": lay.pipeline_chunks}
    bought, rented = paid.usd_buy_band or (None, None), paid.usd_rent_band or (None, None)
    return row | {
        "chips": found.chips,
        "tok_per_s_per_chip": found.tok_per_s_per_chip,
        "low": found.low,
        "high": found.high,
        "mfu": found.mfu,
        "hours": paid.hours,
        "hours_low": paid.hours_band[0],
        "hours_high": paid.hours_band[1],
        "chip_hours": paid.chip_hours,
        "usd_buy": paid.usd_buy,
        "usd_buy_low": bought[0],
        "usd_buy_high": bought[1],
        "usd_rent": paid.usd_rent,
        "usd_rent_low": rented[0],
        "usd_rent_high": rented[1],
        "gwh": paid.energy_kwh / 1e6 if paid.energy_kwh else None,
        "memory_gb": found.memory_gb,
        "layout": ", ".join(f"{name} {value}" for name, value in words.items() if value > 1) + f", recompute {lay.recompute}",
    }


def hunyuan() -> Answer:
    """Hunyuan-Large (389B, 52B active; 7 trillion tokens published) on 2,048 H20 against 2,048 H100."""
    options: dict[str, Any] = {"tokens": 7e12, "batch": 4096}
    table = pd.DataFrame(
        [_run(chip, "estimated", "hunyuan-large", format, **options) for chip in ("H20", "H100") for format in ("bf16", "fp8")]
    )
    h20, h100 = (table[(table["chip"] == chip) & (table["format"] == "bf16")].iloc[0] for chip in ("H20", "H100"))
    notes = [
        "published: shape and 7T tokens (arXiv 2411.02265); that H20 trained it is a claim of others, no throughput is published",
        "assumed: 2,048 chips, sequences of 4,096 tokens, 4,096 of them a step; H20's speed follows from its rates (no run on it was fitted to)",
        f"in bf16 an H20 trains at {h20['tok_per_s_per_chip'] / h100['tok_per_s_per_chip']:.2f} of an H100's speed (rates: 0.15)"
        f" and at {h20['usd_buy'] / h100['usd_buy']:.2f} of its bought dollars a run",
    ]
    return table, None, notes


def llama() -> Answer:
    """Llama 3.1 405B: 15.6 trillion tokens on 16,384 H100 against 30.84 million reported GPU hours."""
    options: dict[str, Any] = {"tokens": 15.6e12, "batch": 2048, "chips": 16384}
    theirs = Layout(tensor=8, pipeline=16, pipeline_chunks=8, data=128, zero=2)
    published = {"chip": "H100", "how": "published", "format": "bf16", "chips": 16384, "chip_hours": 30.84e6, "hours": 30.84e6 / 16384}
    rows = [
        published | {"layout": "tensor 8, pipeline 16, data 128", "mfu": 0.41},
        _run("H100", "estimated, their layout", "llama-3.1-405b", "bf16", layout=theirs, allow_overflow=True, **options),
        _run("H100", "estimated", "llama-3.1-405b", "bf16", **options),
        _run("H20", "estimated", "llama-3.1-405b", "bf16", **options),
    ]
    notes = [
        "published: 30.84M GPU hours (model card), layout and 41% MFU on 16,384 (arXiv 2407.21783, table 4: causal attention counted)",
        "the hours of the model card include long-context stages and what failed; the estimate has a goodput of 0.85 to 0.9",
    ]
    return pd.DataFrame(rows), None, notes


def rooflines() -> Answer:
    """FLOP a byte of training and decoding, and what H20 and H100 make of them."""
    dense, latent = preset("llama-3.1-70b"), preset("deepseek-v3")
    width, wide = dense.width, dense.ffn_width
    product = 8192 * width * wide / (8192 * (width + wide) + width * wide)
    points: list[tuple[str, str, float]] = [("training: FFN product, 8,192 tokens", "bf16", product)]
    for batch, context in ((1, 4096), (16, 4096), (64, 4096), (256, 4096), (64, 32768)):
        points.append((f"decode Llama 3.1 70B, batch {batch}, {context // 1024}k", "bf16", _decode_intensity(dense, batch, context)))
    absorbed = 2 * latent.heads * (2 * latent.kv_rank + latent.rope) / (2 * (latent.kv_rank + latent.rope))
    points += [
        ("decode attention, GQA of 8 (70B)", "bf16", 2 * dense.heads / dense.kv_heads / 2),
        ("decode attention, MLA (DeepSeek-V3)", "bf16", absorbed),
    ]
    chips = {name: scaling.chip(name) for name in ("H20", "H100")}
    rows = []
    for what, format, intensity in points:
        reach = {name: min(chip.peak(format) or 0.0, intensity * (chip.mem_bw_gbps or 0.0) * 1e9) / 1e12 for name, chip in chips.items()}
        rows.append(
            {
                "part": what,
                "flop_per_byte": intensity,
                "h20_tflops": reach["H20"],
                "h100_tflops": reach["H100"],
                "h20_over_h100": reach["H20"] / reach["H100"],
            }
        )
    table = pd.DataFrame(rows)
    notes = ["nominal rates of the table of chips (bf16, dense) and counted bytes: no efficiency is in these numbers"]
    return (
        table,
        figures.roofline_figure(table, {name: (chip.peak("bf16") or 0.0, chip.mem_bw_gbps or 0.0) for name, chip in chips.items()}),
        notes,
    )


def _decode_intensity(arch: Architecture, batch: int, context: int) -> float:
    """FLOP a byte of a decoding step in bf16: weights once, every cache once."""
    flops = batch * (2 * arch.active_matmul_params + 4 * arch.layers * arch.heads * arch.head_dim * context)
    return flops / (2 * arch.active_matmul_params + batch * roofline.cache_bytes(arch, context))


def serving() -> Answer:
    """Published deployments of DeepSeek-V3/R1 beside the roofline, and dollars a million tokens by chip."""
    rows = []
    for chip, format, chips, context, prefill, decode, batch, source in PUBLISHED_SERVING:
        for phase, count, value in (("prefill", chips[0], prefill), ("decode", chips[1], decode)):
            found = scaling.estimate_inference(
                "deepseek-v3", chip=chip, chips=count, context=context, format="fp8", cache_format=format, batch=batch, tensor=8 if count == 8 else 1,
                allow_overflow=True,
            )  # fmt: skip
            rows.append({"model": "deepseek-v3", "published": value, "source": source} | _served(found, phase))
    for model, chip, format, chips in (
        ("llama-3.1-70b", "H100", "fp8", 8),
        ("llama-3.1-70b", "H20", "fp8", 8),
        ("llama-3.1-70b", "RTX 4090", "fp8", 8),
        ("llama-3.1-70b", "Ascend 910B", "int8", 8),
        ("deepseek-v3", "H100", "fp8", 64),
        ("deepseek-v3", "H20", "fp8", 64),
    ):
        found = scaling.estimate_inference(model, chip=chip, chips=chips, format=format, batch=8 * chips)
        rows += [{"model": model} | _served(found, phase) for phase in ("prefill", "decode")]
    notes = [
        "published: input or output tokens a second and chip of a node; batches of the decoders are assumed (256 a chip; H20: 32)",
        "assumed: every share of a rate; dollars at full load, 8 sequences a chip below the published rows",
    ]
    return pd.DataFrame(rows), None, notes


# chip, cache format, chips of (prefill, decode), context, tokens a second and chip of (prefill, decode), batch, source
PUBLISHED_SERVING = (
    ("H100", "bf16", (32, 72), 2000, 52.3e3 / 8, 22.3e3 / 8, 256 * 72, "lmsys.org 2025-05-05"),
    ("H20", "fp8", (8, 16), 4096, 16.5e3 / 8, 5.7e3 / 8, 32 * 16, "lmsys.org 2025-09-26"),
    ("GB200", "bf16", (8, 48), 2000, 18471, 9087, 256 * 48, "lmsys.org 2025-09-25"),
)


def _served(found: scaling.Inference, phase: str) -> dict[str, Any]:
    part = found.prefill if phase == "prefill" else found.decode
    return {
        "chip": found.chip,
        "chips": found.chips,
        "format": found.format,
        "context": found.context,
        "batch": found.batch if phase == "decode" else None,
        "phase": phase,
        "tok_per_s_per_chip": part.tok_per_s_per_chip,
        "low": part.low,
        "high": part.high,
        "bound": part.bound,
        "latency_s": found.time_to_first_token_s if phase == "prefill" else found.time_per_output_token_s,
        "usd_buy_per_million": part.cost.usd_buy,
        "usd_rent_per_million": part.cost.usd_rent,
        "kwh_per_million": part.cost.energy_kwh,
    }


def to_a_loss() -> Answer:
    """Hours and dollars to a loss of besiroglu2024: compute, size and tokens by the curve, time by the estimate."""
    curve = fits.load("besiroglu2024")
    rows = []
    for loss, chips in ((2.2, 64), (2.1, 256), (2.0, 1024), (1.95, 4096), (1.9, 16384)):
        flops = curve.compute_for(loss=loss)
        best = curve.optimal(flops=flops)
        needed = _compute_band(curve, loss)
        for chip in ("H100", "H20"):
            arch = divisible(best.params)
            row = _run(chip, "estimated", arch, "bf16", tokens=best.tokens, chips=chips, batch=max(1024, chips // 4))
            # The band of the hours is that of the speed; the curve's own band comes on top of it.
            rows.append(
                {
                    "loss": loss,
                    "flops": flops,
                    "flops_low": needed[0],
                    "flops_high": needed[1],
                    "params": best.params,
                    "tokens": best.tokens,
                }
                | row
            )
    table = pd.DataFrame(rows)
    notes = [
        "fitted: besiroglu2024 (losses of Chinchilla's corpus, nats a token; data end at 1.3e22 FLOP, lower losses are extrapolated); 95% band of compute from its draws",
        "assumed: dense models of width 128 x depth, 4,096-token sequences, chips growing with the run, 4 to 16 million tokens a step; estimated: speed, hours, dollars (80% bands)",
    ]
    return table, figures.loss_figure(table), notes


def _compute_band(curve: fits.Curve, loss: float) -> tuple[float, float]:
    """95% band of the compute to a loss, from the curve's draws of its frontier."""
    grid = np.geomspace(1e20, 1e28, 400)
    reached = np.asarray(curve.frontier_draws(grid))
    needed = [float(np.interp(-loss, -each, np.log(grid), right=np.inf)) for each in reached]
    low, high = np.quantile(needed, [0.025, 0.975])
    return math.exp(low), math.exp(high) if np.isfinite(high) else math.inf


def firm() -> Answer:
    """Software first, or buy chips? Ten million dollars and a hundred days."""
    curve = fits.load("besiroglu2024")
    rows = []
    steps: tuple[tuple[str, str, str, str, float, float], ...] = (
        ("as is: bf16, FSDP of 2023", "llama-3.1-70b", "bf16", OLD_STACK, 1.0, 0.0),
        ("+ newer stack", "llama-3.1-70b", "bf16", NEW_STACK, 1.0, SOFTWARE_USD / 3),
        ("+ fp8", "llama-3.1-70b", "fp8", NEW_STACK, 1.0, 2 * SOFTWARE_USD / 3),
        (f"+ MoE, {MOE_GAIN:g}x at equal loss", "hunyuan-large", "fp8", NEW_STACK, MOE_GAIN, SOFTWARE_USD),
    )
    for chip, way in (("H20", "buy"), ("H20", "own 4 years"), ("H100", "buy"), ("H100", "own 4 years"), ("H100", "rent")):
        for step, model, format, stack, gain, spent in steps:
            chips = _chips_for(BUDGET_USD - spent, chip, way)
            size = 2 ** int(math.log2(chips))
            found = scaling.estimate_training(
                model, chip=chip, chips=size, format=format, framework=stack, tokens=1e12, batch=max(1024, size)
            )
            flops = [speed * found.flops_per_token * chips * DAYS * 86400 * share for speed, share in _speeds(found)]
            low, middle, high = (each * gain for each in flops)
            rows.append(
                {
                    "chip": chip,
                    "way": way,
                    "software": step,
                    "spent_on_software": spent,
                    "chips": chips,
                    "tflops_per_chip": found.tok_per_s_per_chip * found.flops_per_token / 1e12,
                    "mfu": found.mfu,
                    "flops": flops[1],
                    "effective_flops": middle,
                    "effective_low": low,
                    "effective_high": high,
                    "effective_per_usd": middle / BUDGET_USD,
                    "loss": curve.optimal(flops=middle).loss,
                }
            )
    table = pd.DataFrame(rows)
    return table, figures.firm_figure(table, BUDGET_USD, DAYS), _verdicts(table)


def _speeds(found: scaling.Estimate) -> list[tuple[float, float]]:
    """(speed, goodput) at the low end, the middle and the high end."""
    return [(found.low, 0.85), (found.tok_per_s_per_chip, 0.875), (found.high, 0.90)]


def _chips_for(usd: float, name: str, way: str) -> int:
    """Chips, in nodes of 8, that the dollars pay for: bought outright with servers and power, the share of four years, or rented."""
    chip = scaling.chip(name)
    hours = DAYS * 24
    # A speed at which one chip trains for exactly the whole time.
    pace = 1 / hours / 3600
    paid = cost(chip, 1, 1.0, (pace, pace, pace), 1.0)
    if way == "rent":
        each = paid.usd_rent
    elif way == "buy":
        power = (paid.energy_kwh or 0.0) * paid.assumed["electricity USD/kWh"]
        each = (chip.price_usd or math.nan) * (1 + paid.assumed["servers and network over chips' price"]) + power
    else:
        each = paid.usd_buy
    if each is None:
        raise InputError(f"firm: {name} has no price or rent")
    return int(usd / each) // 8 * 8


def _verdicts(table: pd.DataFrame) -> list[str]:
    """Who wins, and the multiplier of software at which they tie."""
    best = {key: part["effective_flops"].to_numpy() for key, part in table.groupby(["chip", "way"])}
    cheap, paid = best["H20", "buy"], best["H100", "rent"]
    left = (BUDGET_USD - SOFTWARE_USD) / BUDGET_USD
    without = cheap / MOE_GAIN
    return [
        f"assumed: {BUDGET_USD / 1e6:g}M USD, {DAYS} days, software {SOFTWARE_USD / 1e6:g}M USD, MoE {MOE_GAIN:g}x at equal loss (literature: 2 to 7);"
        " estimated: speeds; table: prices and rents; fitted: the loss",
        f"software against more of the same chips: it must gain {1 / left:.2f}x to tie; all steps gain {cheap[3] / cheap[0]:.1f}x on bought H20"
        f" and {best['H100', 'buy'][3] / best['H100', 'buy'][0]:.1f}x on bought H100 (without MoE {cheap[2] / cheap[0]:.2f}x and"
        f" {best['H100', 'buy'][2] / best['H100', 'buy'][0]:.2f}x), net of their cost",
        f"bought H20 with software against rented H100 without: ties at {paid[0] / (cheap[0] * left):.1f}x; against bought H100 without: at"
        f" {best['H100', 'buy'][0] / (cheap[0] * left):.2f}x; against H100 owned for 4 years, H20 owned too:"
        f" {best['H100', 'own 4 years'][0] / (best['H20', 'own 4 years'][0] * left):.2f}x",
        f"MoE pays for itself (its cost, and the slower speed of grouped products) from {MOE_GAIN * cheap[2] / cheap[3]:.2f}x at equal loss on bought H20"
        f" and {MOE_GAIN * best['H100', 'buy'][2] / best['H100', 'buy'][3]:.2f}x on bought H100; the newer stack alone gains"
        f" {cheap[1] / cheap[0]:.2f}x and {best['H100', 'buy'][1] / best['H100', 'buy'][0]:.2f}x net of its cost",
        f"the multiplier of MoE alone at which bought H20 with all software equals rented H100 as is: {paid[0] / without[3]:.2f}x",
        f"bought H20 and H100 with all the software would tie at about {(scaling.chip('H20').price_usd or 0) * cheap[3] / best['H100', 'buy'][3]:,.0f} USD an H20"
        " (12,000 in the table; 9,000 to 15,000 quoted)",
        f"with the same software on both: rented H100 has {paid[3] / cheap[3]:.1f}x of bought H20, bought H100 {best['H100', 'buy'][3] / cheap[3]:.2f}x",
    ]


ANSWERS: dict[str, Callable[[], Answer]] = {
    "deepseek": deepseek,
    "hunyuan": hunyuan,
    "llama": llama,
    "roofline": rooflines,
    "serving": serving,
    "loss": to_a_loss,
    "firm": firm,
}


def _short(row: dict[str, Any]) -> dict[str, str]:
    """A row for the eye: four digits, bands beside their number, without the layout, which the CSV has."""
    named = {"low": "tok_per_s_per_chip_low", "high": "tok_per_s_per_chip_high"}
    values = {named.get(name, name): value for name, value in row.items() if name != "layout"}

    def text(value: Any) -> str:
        return "" if value is None else f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else _large(value)

    shown = {}
    for name, value in values.items():
        low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
        if not name.endswith(("_low", "_high")):
            shown[name] = text(value) + (f" ({text(low)}-{text(high)})" if low is not None else "")
    return shown


def _large(value: Any) -> str:
    """Numbers beyond ten thousand: whole up to a million, in powers of ten beyond."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) < 1e6 else f"{value / 1e6:,.4g}M" if abs(value) < 1e9 else f"{value:.3g}"


def main() -> None:
    """Writes and prints the answers asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hardware-answers"), help="folder for CSV and PNG files")
    parser.add_argument("--only", nargs="+", choices=list(ANSWERS), default=list(ANSWERS), metavar="NAME", help="some of them")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        found, figure, notes = ANSWERS[name]()
        found.to_csv(arguments.out / f"hardware-{name}.csv", index=False, float_format="%.6g")
        if figure is not None:
            plots.save(figure, arguments.out / f"hardware-{name}.png")
        show([_short(row) for row in plain(found)], name)
        if "layout" in found:
            notes = [f"{row['chip']}, {row['format']}, {row['how']}: {row['layout']}" for row in plain(found)] + notes
        for line in notes:
            say(f"  {line}")


if __name__ == "__main__":
    main()
